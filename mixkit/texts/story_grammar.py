"""Texts whose exact probability is known: weighted context-free grammars and the story grammar of data/tales.grammar.
Only the grammar as a distribution over texts lives here; what a model does with such texts is judged elsewhere."""

import itertools
import math
import random
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import splu

from mixkit._common import InputError
from mixkit.texts.notation import read_rules

Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]

STORIES = Path(__file__).parent / "tales.grammar"
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
            raise _unknown("start", start, rules)
        self.start = start
        self.rules = {name: _choices(name, alternatives, rules) for name, alternatives in rules.items()}
        self._rank = self._unit_order()
        self._check_finite()
        self._visits = self._expected_visits()
        self._index()
        self._known = set().union(*self._edges) - self.rules.keys()

    def sample(self, n: int, seed: int) -> list[str]:
        """n independent texts; the same for the same seed everywhere."""
        if not isinstance(n, Integral) or n < 0:
            raise InputError(f"n is {n!r}: the number of texts is a whole number >= 0")
        draw = random.Random(seed).random
        table = {
            name: (
                list(itertools.accumulate(p for p, _ in choices))[:-1],
                [expansion[::-1] for _, expansion in choices],
            )
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
        """log P(text) in nats, at most 0; -inf for a text outside the language, the empty one included.

        Every letter, blank and mark counts: a story that lost its full stop is outside. Exact, ambiguity included
        (Earley's parser with inside probabilities, after Stolcke 1995, in log space); time is linear in the words for
        the stories and at most cubic for any grammar. InputError if `text` is not a str.
        """
        words = _split(text)
        return self._inside(words)[0] if self._known.issuperset(words) else -math.inf

    def longest_prefix(self, text: str) -> str:
        """The longest beginning of `text`, in whole words and marks, with which some text of the language begins.

        All of a text inside the language, and of one that merely stops too early; what follows the first mistake is not
        looked at. Spaces count as in log_prob. InputError if `text` is not a str.
        """
        _check_text(text)
        words, ends, open_quote = [], [0], False
        for match in _TOKEN.finditer(text):
            word = match[0]
            closes = word == '"' and open_quote
            clings = not words or word in ",.;:!?" or closes or (open_quote and words[-1] == '"')
            if text[ends[-1] : match.start()] != " " * (not clings) or word not in self._known:
                break
            open_quote ^= word == '"'
            words.append(word)
            ends.append(match.end())
        return text[: ends[self._inside(words)[1]]]

    def entropy(self) -> float:
        """H = -sum P(text) log P(text) in nats per text, exact: the floor of every model's expected nll of a text.

        Where the next word alone decides every choice (after common beginnings of a nonterminal's expansions are
        merged: LL(1)), each text has one derivation, and H is the sum over nonterminals of expected uses times the
        entropy of one choice. Else the texts are enumerated: InputError where they are too many (recursive rules, or
        more than 100,000 derivations).
        """
        conflict = self._conflict()
        if conflict is None:
            return sum(-visits * p * math.log(p) for name, visits in self._visits.items() for p, _ in self.rules[name])
        return -sum(p * math.log(p) for p in self._enumerate(conflict).values())

    def rule_usage(self, texts: Iterable[str]) -> dict[str, list[float]]:
        """nonterminal -> how often the texts used each of its choices, in the order of `rules`.

        Where a text has several derivations, the expected count given the text. Texts outside the language add nothing.
        """
        usage = {name: [0.0] * len(choices) for name, choices in self.rules.items()}
        for text in texts:
            words, steps, total = _split(text), [], {}
            if not self._known.issuperset(words) or self._inside(words, steps)[0] == -math.inf:
                continue
            for result, value, _, _ in steps:
                total[result] = _log_add(total.get(result, -math.inf), value)
            # d log P / d log p(choice) is the expected count: the steps are followed backwards from the whole text.
            weight = defaultdict(float, {(len(words), 0, self.start): 1.0})
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
        generator, vocabulary = random.Random(seed), sorted(self._known)
        hit = set(generator.sample(range(len(texts)), round(rate * len(texts))))
        damaged = [self._damage(text, vocabulary, generator) if i in hit else text for i, text in enumerate(texts)]
        return damaged, [i in hit for i in range(len(texts))]

    def _damage(self, text: str, vocabulary: list[str], generator: random.Random) -> str:
        for _ in range(1000):
            kind, words = generator.randrange(3), text.split(" ")
            i = generator.randrange(len(words))
            if kind == 0:
                words[i : i + 2] = reversed(words[i : i + 2])
            elif kind == 1:
                words[i] = generator.choice(vocabulary)
            else:
                words = _SENTENCE_END.split(text)
                generator.shuffle(words)
            damaged = " ".join(words)
            if damaged != text and self.log_prob(damaged) == -math.inf:
                return damaged
        raise InputError(f"no damage takes this text out of the language: {text[:60]!r}")

    # Construction: checks, expected uses, and one prefix tree of expansions for each nonterminal.

    def _unit_order(self) -> dict[str, int]:
        """Ranks such that B comes before A wherever A -> B is a choice: equal spans are completed in this order."""
        units = {
            a: [e[0] for _, e in choices if len(e) == 1 and e[0] in self.rules] for a, choices in self.rules.items()
        }
        try:
            return {name: rank for rank, name in enumerate(TopologicalSorter(units).static_order())}
        except CycleError as error:
            raise InputError(f"a nonterminal derives itself alone: {' -> '.join(error.args[1][::-1])}") from None

    def _check_finite(self) -> None:
        endless, size = set(self.rules), math.inf
        while len(endless) < size:
            size = len(endless)
            endless = {name for name in endless if all(endless.intersection(e) for _, e in self.rules[name])}
        if endless:
            raise InputError(f"nonterminal {min(endless)!r} has no finite derivation")

    def _expected_visits(self) -> dict[str, float]:
        """v = e_start + M' v, M[A, B] the mean number of B in an expansion of A; v is the expected uses in a text."""
        number = {name: i for i, name in enumerate(self.rules)}
        means = Counter()
        for name, choices in self.rules.items():
            for p, expansion in choices:
                for symbol in filter(self.rules.get, expansion):
                    means[number[name], number[symbol]] += p
        indices = np.array(list(means), dtype=int).reshape(-1, 2).T
        matrix = csc_array((np.array(list(means.values()), dtype=float), indices), shape=(len(number), len(number)))
        try:
            solver = splu((eye_array(len(number)) - matrix).tocsc())
            sizes = solver.solve(np.ones(len(number)))
        except RuntimeError:  # exactly singular
            sizes = np.full(len(number), np.inf)
        # x = 1 + Mx has a positive solution if and only if the spectral radius of M is below one.
        diverges = ~((sizes > 0) & (sizes < 1e12))
        if diverges.any():
            raise InputError(
                f"the expected length of {list(number)[diverges.argmax()]!r} diverges: lower its recursion"
            )
        start = np.zeros(len(number))
        start[number[self.start]] = 1.0
        return dict(zip(number, solver.solve(start, trans="T").tolist(), strict=True))

    def _index(self) -> None:
        self._edges, self._owner, self._final, self._root, self._moves = [], [], {}, {}, {}
        for name, choices in self.rules.items():
            self._root[name] = self._node(name)
            for choice, (p, expansion) in enumerate(choices):
                here = self._root[name]
                for symbol in expansion:
                    edges = self._edges[here]
                    here = edges[symbol] if symbol in edges else edges.setdefault(symbol, self._node(name))
                self._final[here] = (name, choice, math.log(p))
        self._first = {name: {s for s in self._edges[root] if s not in self.rules} for name, root in self._root.items()}
        _close(
            self._first, [(name, s) for name, root in self._root.items() for s in self._edges[root] if s in self.rules]
        )

    def _node(self, owner: str) -> int:
        self._edges.append({})
        self._owner.append(owner)
        return len(self._edges) - 1

    def _step(self, node: int, word: str) -> tuple[int | None, list[tuple[str, int]]]:
        """Where `word` leads from `node`: the node behind it, and (nonterminal, node behind) that may begin with it."""
        edges = self._edges[node]
        after_word = None if word in self.rules else edges.get(word)
        calls = [(s, after) for s, after in edges.items() if s in self.rules and word in self._first[s]]
        return self._moves.setdefault((node, word), (after_word, calls))

    def _inside(self, words: list[str], steps: list | None = None) -> tuple[float, int]:
        """log of the summed probability of all derivations of `words`, left to right; how many words may begin a text.

        An item (origin, node) is a beginning of an expansion that covers words[origin:position]. `steps` takes
        (result, log-probability, parts, choice) for everything found, parts before results: an item as (position,
        origin, node), a whole nonterminal as (position, origin, name).
        """

        def reach(origin: int, node: int, value: float, *parts: tuple) -> None:
            found[origin, node] = _log_add(found.get((origin, node), -math.inf), value)
            if steps is not None:
                steps.append(((position, origin, node), value, parts, None))
            if node not in self._final:
                return
            name, choice, log_p = self._final[node]
            key = (-origin, self._rank[name], name)
            if key not in whole:
                heappush(agenda, key)
            whole[key] = _log_add(whole.get(key, -math.inf), value + log_p)
            if steps is not None:
                steps.append(((position, origin, name), value + log_p, parts, choice))

        callers = []  # by position: nonterminal -> the items that wait for it there
        items, total = {(0, self._root[self.start]): 0.0}, -math.inf
        for position, word in enumerate(words, 1):
            found, whole, agenda, waiting = {}, {}, [], {}
            open_items = list(items.items())
            for (origin, node), value in open_items:  # grows while it is read
                after_word, calls = self._moves.get((node, word)) or self._step(node, word)
                if after_word is not None:
                    reach(origin, after_word, value, (position - 1, origin, node))
                for called, after in calls:
                    if called not in waiting:
                        waiting[called] = []
                        begun = (position - 1, self._root[called])
                        open_items += [(begun, 0.0)] * (begun not in items)  # the start has begun already
                    waiting[called].append((origin, node, after, value))
            callers.append(waiting)
            while agenda:  # shortest spans first, so that a nonterminal is complete before anything is built with it
                key = heappop(agenda)
                middle, name, value = -key[0], key[2], whole[key]
                for origin, node, after, before in callers[middle].get(name, ()):
                    reach(origin, after, before + value, (middle, origin, node), (position, middle, name))
            if not found:
                return -math.inf, position - 1
            items, total = found, whole.get((0, self._rank[self.start], self.start), -math.inf)
        return total, len(words)

    def _conflict(self) -> str | None:
        """Why the next word alone does not decide every choice, or None: then every text has exactly one derivation."""
        heads = [set().union(*(self._first.get(s, {s}) for s in edges)) for edges in self._edges]
        follow = {name: set() for name in self.rules}
        pairs = []
        for node, edges in enumerate(self._edges):
            for symbol, after in edges.items():
                if symbol in self.rules:
                    follow[symbol] |= heads[after]
                    if after in self._final:
                        pairs.append((symbol, self._owner[node]))
        _close(follow, pairs)
        for node, (owner, edges) in enumerate(zip(self._owner, self._edges, strict=True)):
            ways = [self._first.get(s, {s}) for s in edges] + ([follow[owner]] if node in self._final else [])
            if len(ways) > 1 and sum(map(len, ways)) > len(union := set().union(*ways)):
                word = next(word for word in sorted(union) if sum(word in way for way in ways) > 1)
                return f"{word!r} may go on in two ways within {owner!r}"
        return None

    def _enumerate(self, conflict: str) -> dict[tuple[str, ...], float]:
        """The words of every text and their probability."""
        parts = {a: set().union(*(e for _, e in choices)) & self.rules.keys() for a, choices in self.rules.items()}
        try:
            order = list(TopologicalSorter(parts).static_order())
        except CycleError:
            raise InputError(f"no exact entropy: the rules are recursive, and {conflict}") from None
        count, language = {}, {}
        for name in order:
            count[name] = sum(math.prod(count.get(s, 1) for s in e) for _, e in self.rules[name])
            if count[name] > ENUMERABLE:
                raise InputError(f"no exact entropy: more than {ENUMERABLE} derivations, and {conflict}")
            language[name] = Counter()
            for p, expansion in self.rules[name]:
                for pieces in itertools.product(*(language.get(s, {(s,): 1.0}).items() for s in expansion)):
                    words = tuple(itertools.chain.from_iterable(piece for piece, _ in pieces))
                    language[name][words] += p * math.prod(q for _, q in pieces)
        return language[self.start]


def _choices(name: str, alternatives: Sequence, rules: Rules) -> list[tuple[float, tuple[str, ...]]]:
    """The checked alternatives of one nonterminal as (probability, expansion), equal expansions merged."""
    weights = {}
    for weight, expansion in alternatives:
        if isinstance(expansion, str) or not expansion:
            raise InputError(f"an expansion of {name!r} is {expansion!r}: give a tuple of one or more symbols")
        if not (isinstance(weight, Real) and 0 < weight < math.inf):
            raise InputError(f"a weight of {name!r} is {weight!r}: weights are finite numbers > 0")
        for symbol in expansion:
            if symbol not in rules and not _TOKEN.fullmatch(symbol):
                if re.fullmatch(r"\^?<.+>", symbol):
                    raise _unknown(f"nonterminal in {name!r}:", symbol, rules)
                raise InputError(f"{symbol!r} in {name!r} is neither one word nor one punctuation mark")
        weights[tuple(expansion)] = weights.get(tuple(expansion), 0) + weight
    if not weights:
        raise InputError(f"nonterminal {name!r} has no expansions")
    total = sum(weights.values())
    return [(weight / total, expansion) for expansion, weight in weights.items()]


def _unknown(kind: str, value: str | None, rules: Rules) -> InputError:
    near = get_close_matches(str(value), rules, n=1)
    return InputError(f"unknown {kind} {value!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))


def _join(words: Iterable[str]) -> str:
    return re.sub(r'" (.*?) "', r'"\1"', re.sub(r" ([,.;:!?])", r"\1", " ".join(words)))


def _split(text: str) -> list[str]:
    """The one list of words that joins to `text`, or [] if there is none."""
    _check_text(text)
    words = _TOKEN.findall(text)
    return words if _join(words) == text else []


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text is a str, not {type(text).__name__}")


def _log_add(a: float, b: float) -> float:
    return b if a == -math.inf else max(a, b) + math.log1p(math.exp(-abs(a - b)))


def _close(sets: dict[str, set[str]], pairs: list[tuple[str, str]]) -> None:
    """Grow the sets until sets[a] holds sets[b] for every pair (a, b)."""
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            if not sets[b] <= sets[a]:
                sets[a] |= sets[b]
                changed = True
