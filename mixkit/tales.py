"""Texts whose exact probability is known: weighted context-free grammars and the story grammar of data/tales.grammar.
Only the grammar as a distribution over texts lives here; what a model does with such texts is judged elsewhere."""

import itertools
import math
import random
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import splu

from mixkit.errors import InputError, unknown

Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]

STORIES = Path(__file__).parents[1] / "data" / "tales.grammar"
ENUMERABLE = 100_000  # derivations: an ambiguous language up to this size is enumerated for its entropy
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")


class Grammar:
    """P(text) = sum over derivations of the product of their choices' probabilities: a distribution over texts.

    rules: nonterminal -> list of (weight, expansion), the expansion a tuple of nonterminals and words; weights of one
    nonterminal are normalised, equal expansions count as one choice. A symbol that is no key of `rules` is a word: one
    word or one punctuation mark; words are joined by blanks, commas and stops cling to the word before them, pairs of
    straight quotes to what they enclose. Without arguments: the stories of data/tales.grammar.

    Raises InputError for an unknown nonterminal (the start, or a missing <name>), a weight that is not positive, an
    empty expansion, a nonterminal that derives itself alone (A -> B -> A), one without a finite derivation, and where
    the expected length of the texts diverges. Left recursion and ambiguity are welcome.
    """

    def __init__(self, rules: Rules | None = None, start: str | None = None):
        if rules is None:
            rules, start = read_rules(STORIES.read_text(encoding="utf-8"))
        if start not in rules:
            raise unknown("start", start, rules)
        self.start = start
        self.rules = {name: _choices(name, alternatives, rules) for name, alternatives in rules.items()}
        self._rank = self._unit_order()
        self._check_finite()
        self._visits = self._expected_visits()
        self._index()
        self.words = sorted(set().union(*self._words))

    def sample(self, n: int, seed: int) -> list[str]:
        """n independent texts; the same for the same seed everywhere."""
        if not isinstance(n, int) or n < 0:
            raise InputError(f"n is {n!r}: the number of texts is a whole number >= 0")
        draw = random.Random(seed).random
        table = {
            name: (list(itertools.accumulate(p for p, _ in choices))[:-1], [expansion[::-1] for _, expansion in choices])
            for name, choices in self.rules.items()
        }
        texts = []
        for _ in range(n):
            words, pending = [], [self.start]
            while pending:
                symbol = pending.pop()
                if symbol not in table:
                    words.append(symbol)
                    continue
                limits, expansions = table[symbol]
                pending += expansions[bisect(limits, draw())] if limits else expansions[0]
            texts.append(_join(words))
        return texts

    def log_prob(self, text: str) -> float:
        """log P(text) in nats; -inf for a text outside the language, the empty one included.

        Exact, ambiguity included (Earley's parser with inside probabilities, after Stolcke 1995, in log space). Time is
        linear in the words for the stories, at most cubic for any grammar. InputError if `text` is not a str.
        """
        if not isinstance(text, str):
            raise InputError(f"log_prob takes one text (str), not {type(text).__name__}")
        words = _split(text)
        return self._inside(words) if words else -math.inf

    def entropy(self) -> float:
        """H = -sum P(text) log P(text) in nats per text, exact: the floor of every model's expected nll of a text.

        Where the next word alone decides every choice (after common beginnings of a nonterminal's expansions are
        merged: LL(1)), each text has one derivation, and H is the sum over nonterminals of expected uses times the
        entropy of one choice. Else the texts are enumerated; InputError if they have more than 100,000 derivations.
        """
        conflict = self._conflict()
        if conflict is None:
            return sum(-visits * p * math.log(p) for name, visits in self._visits.items() for p, _ in self.rules[name])
        try:
            return -sum(p * math.log(p) for p in self._language().values())
        except OverflowError:
            raise InputError(f"no exact entropy: more than {ENUMERABLE} derivations, and {conflict}") from None

    def rule_usage(self, texts: Iterable[str]) -> dict[str, list[float]]:
        """nonterminal -> how often the texts used each of its choices, in the order of `rules`.

        Where a text has several derivations, the expected count given the text. Texts outside the language add nothing.
        """
        usage = {name: [0.0] * len(choices) for name, choices in self.rules.items()}
        for text in texts:
            if self.log_prob(text) == -math.inf:
                continue
            steps, total = [], {}
            self._inside(_split(text), steps)
            for result, value, _, _ in steps:
                total[result] = _log_add(total[result], value) if result in total else value
            # d log P / d log p(choice) is the expected count: the steps are followed backwards from the whole text.
            weight = defaultdict(float, {steps[-1][0]: 1.0})
            for result, value, parts, choice in reversed(steps):
                share = weight[result] * math.exp(value - total[result]) if weight[result] else 0.0
                if share and choice is not None:
                    usage[result[2]][choice] += share
                for part in parts if share else ():
                    weight[part] += share
        return usage

    def choice_total_variation(self, texts: Iterable[str]) -> float:
        """sum_A v(A) TV(used_A, p_A) / sum_A v(A): A the nonterminals with a choice, v their expected uses in a text.

        In [0, 1]: 0 where the texts inside the language use every choice as often as the grammar does; a nonterminal
        that they never reach counts 1. Finitely many texts of the grammar itself score above 0 (more where they are
        few): compare with such a sample of the same size. InputError if no text is inside the language.
        """
        usage = self.rule_usage(texts)
        if not any(usage[self.start]):
            raise InputError("choice_total_variation needs at least one text inside the language")
        above = below = 0.0
        for name, choices in self.rules.items():
            if len(choices) == 1:
                continue
            used, count = usage[name], sum(usage[name])
            distance = sum(abs(u / count - p) for u, (p, _) in zip(used, choices, strict=True)) / 2 if count else 1.0
            above += self._visits[name] * distance
            below += self._visits[name]
        return above / below if below else 0.0

    def corrupt(self, texts: Sequence[str], rate: float, seed: int) -> tuple[list[str], list[bool]]:
        """The texts with round(rate * len(texts)) of them damaged, and which: rate 0 damages none, 1 all.

        Damage is two neighbouring words swapped, one word replaced by any of the grammar's, or the sentences shuffled,
        drawn again until log_prob is -inf. InputError for a rate outside [0, 1] and for a text that no damage takes
        out of the language.
        """
        if not 0 <= rate <= 1:
            raise InputError(f"rate is {rate!r}: the share of damaged texts lies in [0, 1]")
        generator = random.Random(seed)
        hit = set(generator.sample(range(len(texts)), round(rate * len(texts))))
        damaged = [self._damage(text, generator) if i in hit else text for i, text in enumerate(texts)]
        return damaged, [i in hit for i in range(len(texts))]

    def _damage(self, text: str, generator: random.Random) -> str:
        for _ in range(1000):
            kind, words = generator.randrange(3), text.split(" ")
            i = generator.randrange(len(words))
            if kind == 0:
                words[i : i + 2] = reversed(words[i : i + 2])
            elif kind == 1:
                words[i] = generator.choice(self.words)
            else:
                words = _SENTENCE_END.split(text)
                generator.shuffle(words)
            damaged = " ".join(words)
            if damaged != text and self.log_prob(damaged) == -math.inf:
                return damaged
        raise InputError(f"no damage takes this text out of the language: {text[:60]!r}")

    # Construction: checks, expected uses, and one prefix tree of expansions for each nonterminal.

    def _unit_order(self) -> dict[str, int]:
        """Ranks such that B comes before A wherever A -> B is a choice: the order in which equal spans are completed."""
        units = {name: [e[0] for _, e in choices if len(e) == 1 and e[0] in self.rules] for name, choices in self.rules.items()}
        try:
            return {name: rank for rank, name in enumerate(TopologicalSorter(units).static_order())}
        except CycleError as error:
            raise InputError(f"a nonterminal derives itself alone: {' -> '.join(error.args[1][::-1])}") from None

    def _check_finite(self) -> None:
        finite, size = set(), -1
        while len(finite) > size:
            size = len(finite)
            finite |= {
                name
                for name, choices in self.rules.items()
                if any(all(symbol in finite or symbol not in self.rules for symbol in e) for _, e in choices)
            }
        if endless := [name for name in self.rules if name not in finite]:
            raise InputError(f"nonterminal {endless[0]!r} has no finite derivation")

    def _expected_visits(self) -> dict[str, float]:
        """v = e_start + M' v, M[A, B] the mean number of B in an expansion of A; v is the expected uses in a text."""
        number = {name: i for i, name in enumerate(self.rules)}
        means = Counter()
        for name, choices in self.rules.items():
            for p, expansion in choices:
                means.update({(number[name], number[s]): 0.0 for s in expansion if s in number})
                for symbol in expansion:
                    if symbol in number:
                        means[number[name], number[symbol]] += p
        rows, columns = np.array(list(means), dtype=int).reshape(-1, 2).T
        matrix = csc_array((np.array(list(means.values()), dtype=float), (rows, columns)), shape=(len(number),) * 2)
        try:
            solver = splu((eye_array(len(number)) - matrix).tocsc())
            sizes = solver.solve(np.ones(len(number)))
        except RuntimeError:  # exactly singular
            sizes = np.full(len(number), np.inf)
        # A positive solution of x = 1 + Mx exists if and only if the spectral radius of M is below one.
        wrong = ~((sizes > 0.999) & (sizes < 1e12))
        if wrong.any():
            raise InputError(f"the expected length of {list(number)[wrong.argmax()]!r} diverges: lower its recursion")
        start = np.zeros(len(number))
        start[number[self.start]] = 1.0
        return dict(zip(number, solver.solve(start, trans="T").tolist(), strict=True))

    def _index(self) -> None:
        self._words, self._calls, self._final, self._root, self._moves = [], [], [], {}, {}

        def node() -> int:
            self._words.append({})
            self._calls.append({})
            self._final.append(None)
            return len(self._final) - 1

        for name, choices in self.rules.items():
            self._root[name] = node()
            for choice, (p, expansion) in enumerate(choices):
                here = self._root[name]
                for symbol in expansion:
                    edges = self._calls[here] if symbol in self.rules else self._words[here]
                    here = edges[symbol] if symbol in edges else edges.setdefault(symbol, node())
                self._final[here] = (name, choice, math.log(p))
        self._first = {name: set(self._words[root]) for name, root in self._root.items()}
        _close(self._first, [(name, called) for name, root in self._root.items() for called in self._calls[root]])

    def _step(self, node: int, word: str) -> tuple[int | None, list[tuple[str, int]]]:
        """Where `word` leads from `node`: the node behind it, and the (nonterminal, node behind) that may begin with it."""
        calls = [(called, after) for called, after in self._calls[node].items() if word in self._first[called]]
        return self._moves.setdefault((node, word), (self._words[node].get(word), calls))

    def _inside(self, words: list[str], steps: list | None = None) -> float:
        """log of the summed probability of all derivations of `words`, left to right.

        An item (origin, node) is a beginning of an expansion that covers words[origin:position]. `steps` takes
        (result, log-probability, parts, choice) for everything found, results after their parts.
        """
        waiting, total = [], -math.inf
        items = {(0, self._root[self.start]): 0.0}
        for position, word in enumerate(words, 1):
            found, done, agenda, calls = {}, {}, [], {}

            def reach(origin, node, value, *parts, position=position, found=found, done=done, agenda=agenda):
                key = (origin, node)
                found[key] = _log_add(found[key], value) if key in found else value
                if steps is not None:
                    steps.append(((position, origin, node), value, parts, None))
                if self._final[node]:
                    name, choice, log_p = self._final[node]
                    key = (-origin, self._rank[name], name)
                    if key in done:
                        done[key] = _log_add(done[key], value + log_p)
                    else:
                        done[key] = value + log_p
                        heappush(agenda, key)
                    if steps is not None:
                        steps.append(((position, origin, name), value + log_p, parts, choice))

            open_items = list(items.items())
            for (origin, node), value in open_items:  # grows while it is read
                after_word, after_calls = self._moves.get((node, word)) or self._step(node, word)
                if after_word is not None:
                    reach(origin, after_word, value, (position - 1, origin, node))
                for called, after in after_calls:
                    if called not in calls:
                        calls[called] = []
                        open_items.append(((position - 1, self._root[called]), 0.0))
                    calls[called].append((origin, node, after, value))
            waiting.append(calls)
            total = -math.inf
            while agenda:  # shortest spans first, so that a constituent is complete before anything is built with it
                key = heappop(agenda)
                middle, name, value = -key[0], key[2], done[key]
                if middle == 0 and name == self.start:
                    total = value
                for origin, node, after, before in waiting[middle].get(name, ()):
                    reach(origin, after, before + value, (middle, origin, node), (position, middle, name))
            if not found:
                return -math.inf
            items = found
        return total

    def _conflict(self) -> str | None:
        """Why the next word alone does not decide every choice, or None: then every text has exactly one derivation."""
        heads = [set(words).union(*(self._first[c] for c in calls)) for words, calls in zip(self._words, self._calls, strict=True)]
        follow = {name: set() for name in self.rules}
        follow[self.start].add("")  # the end of the text
        owners, pairs = self._owners(), []
        for node, calls in enumerate(self._calls):
            for called, after in calls.items():
                follow[called] |= heads[after]
                if self._final[after]:
                    pairs.append((called, owners[node]))
        _close(follow, pairs)
        for node, words in enumerate(self._words):
            ways = [words, *(self._first[called] for called in self._calls[node])]
            if self._final[node]:
                ways.append(follow[owners[node]])
            for word, count in Counter(itertools.chain.from_iterable(ways)).items():
                if count > 1:
                    return f"{word!r} may go on in two ways within {owners[node]!r}"
        return None

    def _owners(self) -> list[str]:
        roots = sorted((root, name) for name, root in self._root.items())
        ends = [root for root, _ in roots[1:]] + [len(self._final)]
        return [name for (root, name), end in zip(roots, ends, strict=True) for _ in range(root, end)]

    def _language(self) -> dict[str, float]:
        language, pending, count = Counter(), [(1.0, (), (self.start,))], 0
        while pending:
            p, words, symbols = pending.pop()
            while symbols and symbols[0] not in self.rules:
                words, symbols = (*words, symbols[0]), symbols[1:]
            if symbols:
                pending += [(p * q, words, (*expansion, *symbols[1:])) for q, expansion in self.rules[symbols[0]]]
            else:
                count += 1
                language[_join(words)] += p
            if count + len(pending) > ENUMERABLE:
                raise OverflowError
        return language


def _choices(name: str, alternatives: Sequence, rules: Rules) -> list[tuple[float, tuple[str, ...]]]:
    """The checked alternatives of one nonterminal as (probability, expansion), equal expansions merged."""
    weights = {}
    for weight, expansion in alternatives:
        if isinstance(expansion, str) or not expansion:
            raise InputError(f"an expansion of {name!r} is {expansion!r}: give a tuple of one or more symbols")
        if not (isinstance(weight, (int, float)) and 0 < weight < math.inf):
            raise InputError(f"a weight of {name!r} is {weight!r}: weights are finite numbers > 0")
        for symbol in expansion:
            if symbol not in rules and not _TOKEN.fullmatch(symbol):
                if re.fullmatch(r"\^?<.*>", symbol):
                    raise unknown("nonterminal", symbol, rules)
                raise InputError(f"{symbol!r} in {name!r} is neither one word nor one punctuation mark")
        weights[tuple(expansion)] = weights.get(tuple(expansion), 0) + weight
    if not weights:
        raise InputError(f"nonterminal {name!r} has no expansions")
    return [(weight / sum(weights.values()), expansion) for expansion, weight in weights.items()]


def _join(words: Iterable[str]) -> str:
    return re.sub(r'" (.*?) "', r'"\1"', re.sub(r" ([,.;:!?])", r"\1", " ".join(words)))


def _split(text: str) -> list[str]:
    """The one list of words that joins to `text`, or [] if there is none."""
    words = _TOKEN.findall(text)
    return words if _join(words) == text else []


def _log_add(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _close(sets: dict[str, set[str]], pairs: list[tuple[str, str]]) -> None:
    """Grow the sets until sets[a] holds sets[b] for every pair (a, b)."""
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            if not sets[b] <= sets[a]:
                sets[a] |= sets[b]
                changed = True


# The notation of data/tales.grammar, which explains it.


@lru_cache(maxsize=2)
def read_rules(text: str) -> tuple[dict[str, list[tuple[float, tuple[str, ...]]]], str]:
    """(rules, start) for Grammar from the notation of data/tales.grammar; the first rule is the start.

    InputError, with the number of the line, for a line that the notation does not have and for unknown columns.
    """
    tables, templates, block = {}, {}, None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#")[0].rstrip()
        if not line:
            continue
        if line[0] == " " and block is not None:
            block.append((number, line.strip()))
        elif table := re.fullmatch(r"table (\w+):(.*)", line):
            block = tables.setdefault(table[1], [])
            block.append((number, table[2]))
        elif rule := re.fullmatch(r"(<[^<>]+>) =(.*)", line):
            block = templates.setdefault(rule[1], [])
            words = [word.strip() for word in rule[2].split("|") if word.strip()]
            block += [(number, f"{1 / rank!r} {word}") for rank, word in enumerate(words, 1)]
        else:
            raise InputError(f"line {number}: {line.strip()!r} is neither a table, a rule nor an indented alternative")
    rows = {name: _rows(lines) for name, lines in tables.items()}
    rules = {}
    for head, lines in templates.items():
        name, *parameters = head[1:-1].split()
        for env, _ in _environments([p for p in parameters if p in rows], rows):
            instance = f"<{' '.join([name, *(env.get(p, p) for p in parameters)])}>"
            rules.setdefault(instance, []).extend(a for line in lines for a in _alternatives(*line, env, rows))
    pending = [s for alternatives in list(rules.values()) for _, expansion in alternatives for s in expansion]
    while pending:  # ^<x> is a copy of <x> whose first word has a capital
        symbol = pending.pop()
        if symbol.startswith("^<") and symbol not in rules and symbol[1:] in rules:
            rules[symbol] = [(weight, (_capital(e[0]), *e[1:])) for weight, e in rules[symbol[1:]]]
            pending += [expansion[0] for _, expansion in rules[symbol]]
    if not rules:
        raise InputError("the grammar has no rules")
    return rules, next(iter(rules))


def _rows(lines: list[tuple[int, str]]) -> dict[str, dict[str, str]]:
    """row key (its first column) -> column -> words."""
    columns = [column.strip() for column in lines[0][1].split("|")]
    rows = {}
    for number, line in lines[1:]:
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(columns):
            raise InputError(f"line {number}: {len(cells)} columns where the table has {len(columns)}")
        rows[cells[0]] = dict(zip(columns, cells, strict=True))
    return rows


def _environments(names: Sequence[str], tables: dict) -> Iterable[tuple[dict[str, str], float]]:
    """Every choice of one row from each named table, with its probability: rank r weighs 1/r."""
    scale = math.prod(sum(1 / rank for rank in range(1, len(tables[name]) + 1)) for name in names)
    for ranked in itertools.product(*(enumerate(tables[name], 1) for name in names)):
        rows = [row for _, row in ranked]
        yield dict(zip(names, rows, strict=True)), 1 / math.prod(rank for rank, _ in ranked) / scale


def _alternatives(number: int, line: str, env: dict[str, str], tables: dict) -> Iterable[tuple[float, tuple[str, ...]]]:
    weight, _, body = line.partition(" ")
    try:
        weight = float(weight)
    except ValueError:
        raise InputError(f"line {number}: {weight!r} is no weight; an alternative is a weight and then words") from None
    symbols = re.findall(r"\^?<[^<>]*>|\S+", body)
    mentioned = [name for name in tables if name not in env and re.search(rf"(?<![\w.]){name}\.\w|<[^>]* {name}\b", body)]
    for chosen, share in _environments(mentioned, tables):
        known = {**env, **chosen}
        yield weight * share, tuple(word for symbol in symbols for word in _fill(number, symbol, known, tables))


def _fill(number: int, symbol: str, env: dict[str, str], tables: dict) -> list[str]:
    """The symbols that one symbol of the notation stands for."""
    if symbol[0] == "^" and len(symbol) > 1:
        first, *rest = _fill(number, symbol[1:], env, tables)
        return [_capital(first), *rest]
    if symbol[0] == "<":
        name, *arguments = symbol[1:-1].split()
        return [f"<{' '.join([name, *(' '.join(_fill(number, a, env, tables)) for a in arguments)])}>"]
    table, *columns = symbol.split(".") if re.search(r"\w\.\w", symbol) else [symbol]
    if not columns and symbol not in env:
        return [symbol]
    if table not in env:
        raise unknown(f"table on line {number}:", table, tables)
    value = env[table]
    for column in columns:
        if column not in tables[table][value]:
            raise unknown(f"column on line {number}:", column, tables[table][value])
        table, value = column, tables[table][value][column]
    return value.split()


def _capital(symbol: str) -> str:
    return f"^{symbol}" if symbol[0] == "<" else symbol[0].upper() + symbol[1:]
