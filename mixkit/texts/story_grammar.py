"""The story grammar: a distribution over texts whose probabilities are exact."""

import itertools
import math
import random
import re
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from mixkit._common import InputError, did_you_mean
from mixkit.texts.grammar_rules import read_rules

Rules = Mapping[str, Sequence[tuple[float, Sequence[str]]]]  # nonterminal -> (weight, expansion) of its alternatives
Node = dict[str, Any]  # symbol -> the node after it; END -> log-probability of the expansion that ends here

RULES_FILE = Path(__file__).parent / "tales.grammar"
END = ""  # of an expansion or of a text
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")


@cache
def tales_grammar() -> "Grammar":
    """equals: Grammar(), built once"""
    return Grammar()


class Grammar:
    """A weighted context-free grammar as a distribution over texts. Without arguments: the grammar of `tales`.

    P(text) is the product of the probabilities of the expansions in its derivation. Each text has one derivation,
    because the grammar is LL(1): after a common beginning of two expansions, the next word decides between them.

    rules: nonterminal -> list of (weight, expansion). Weights are normalised. An expansion is a tuple of symbols. A
    symbol that is no key of `rules` is one word or one punctuation mark. Blanks separate words, except before a comma
    or stop and inside a pair of straight quotes.

    Raises InputError for an unknown symbol, a weight that is not positive, an empty expansion, a grammar that is not
    LL(1) (left recursion included), and if the expected length of the texts diverges.
    """

    def __init__(self, rules: Rules | None = None, start: str = "<story>"):
        if rules is None:
            rules, start = read_rules(RULES_FILE.read_text(encoding="utf-8"))
        if start not in rules:
            raise InputError(f"unknown start {start!r}{did_you_mean(start, rules)}; it must be a nonterminal")
        self.start = start
        self.rules = {name: _normalise(name, alternatives, rules) for name, alternatives in rules.items()}
        trees = {name: _prefix_tree(choices) for name, choices in self.rules.items()}
        self._roots = {name: tree[0] for name, tree in trees.items()}
        self._first = self._first_sets()
        self._check_ll1(trees)
        self._entropy = self._sum_entropy()
        symbols = {symbol for choices in self.rules.values() for _, expansion in choices for symbol in expansion}
        self.vocabulary = sorted(symbols - self.rules.keys())

    def sample(self, count: int, seed: int) -> list[str]:
        """Sample independent texts. The same seed gives the same texts on every machine."""
        uniform = random.Random(seed).random
        table = {}
        for name, choices in self.rules.items():
            limits = list(itertools.accumulate(probability for probability, _ in choices))[:-1]
            table[name] = limits, [expansion[::-1] for _, expansion in choices]
        texts = []
        for _ in range(count):
            words, pending = [], [self.start]
            while pending:
                symbol = pending.pop()
                if symbol in table:
                    limits, expansions = table[symbol]
                    pending += expansions[bisect(limits, uniform())] if limits else expansions[0]
                else:
                    words.append(symbol)
            texts.append("".join(itertools.chain.from_iterable(_spaced(words))))
        return texts

    def log_prob(self, text: str) -> float:
        """log P(text) in nats, at most 0. It is -inf for a text outside the language, also for the empty text.

        Every letter, blank and mark counts: a story without its last full stop is outside.
        """
        return self._parse(text)[0]

    def longest_prefix(self, text: str) -> str:
        """The longest prefix of `text`, in whole words and marks, with which some text of the language begins.

        It is `text` itself for a text of the language and for a text that only stops too early.
        """
        return text[: self._parse(text)[1]]

    def next_words(self, text: str) -> list[tuple[int, set[str]]]:
        """For every word and mark of a text of the language: the index where the text before it ends, and the words
        and marks that may follow there; "" stands for the end of the text.
        """
        choices: list[tuple[int, set[str]]] = []

        def visit(end: int, node: Node, callers: list[tuple[Node, float]]) -> None:
            nodes, words = [node, *(caller for caller, _ in reversed(callers))], set[str]()
            for open_node in nodes:
                words.update(*(self._first.get(symbol, {symbol}) for symbol in open_node if symbol != END))
                if END not in open_node:
                    break
            else:
                words.add(END)
            choices.append((end, words))

        self._parse(text, visit)
        return choices

    def entropy(self) -> float:
        """H = -sum P(text) log P(text) in nats per text, exact. It is the lowest expected nll that a model can have."""
        return self._entropy

    def corrupt(self, texts: Sequence[str], rate: float, seed: int) -> list[str]:
        """Damage round(rate * len(texts)) of the texts, so that each damaged text is outside the language.

        Two neighbouring words are swapped, a word is replaced by any word of the grammar or sentences are shuffled.
        Raises InputError for a rate outside [0, 1] and for a text that no damage takes out of the language.
        """
        if not 0 <= rate <= 1:
            raise InputError(f"rate is {rate!r}; the share of damaged texts must be in [0, 1]")
        generator = random.Random(seed)
        damaged = set(generator.sample(range(len(texts)), round(rate * len(texts))))
        return [self._damage(text, generator) if i in damaged else text for i, text in enumerate(texts)]

    def _damage(self, text: str, generator: random.Random) -> str:
        for _ in range(1000):
            kind, words = generator.randrange(3), text.split(" ")
            i = generator.randrange(len(words))
            if kind == 0:
                words[i : i + 2] = reversed(words[i : i + 2])
            elif kind == 1:
                words[i] = generator.choice(self.vocabulary)
            else:
                words = _SENTENCE_END.split(text)
                generator.shuffle(words)
            damaged = " ".join(words)
            if damaged != text and self.log_prob(damaged) == -math.inf:
                return damaged
        raise InputError(f"no damage takes this text out of the language: {text[:60]!r}")

    def _parse(self, text: str, visit: Callable[..., None] = lambda *state: None) -> tuple[float, int]:
        """(log P(text), length of the longest prefix with which some text of the language begins).

        visit: called with (end, node, callers) before each word.
        """
        tokens, end = _tokens(text), 0
        word, word_end = next(tokens, (END, end))
        node, log_prob = self._roots[self.start], 0.0
        callers: list[tuple[Node, float]] = []  # the unfinished expansions around the current one
        visit(end, node, callers)
        while True:
            symbol = word if word in node else next((s for s in node if word in self._first.get(s, ())), END)
            if symbol not in node:
                return -math.inf, end
            if symbol == END:
                log_prob += node[END]
                if not callers:
                    return log_prob if end == len(text) else -math.inf, end
                node, before = callers.pop()
                log_prob += before
            elif symbol == word:
                node, end = node[word], word_end
                word, word_end = next(tokens, (END, end))
                visit(end, node, callers)
            else:
                callers.append((node[symbol], log_prob))
                node, log_prob = self._roots[symbol], 0.0

    def _first_sets(self) -> dict[str, set[str]]:
        """The words that each nonterminal may begin with. Raises InputError for left recursion."""
        leftmost = {name: tree.keys() & self.rules.keys() for name, tree in self._roots.items()}
        try:
            order = list(TopologicalSorter(leftmost).static_order())
        except CycleError as error:
            raise InputError(f"the grammar is left-recursive: {' -> '.join(error.args[1][::-1])}") from None
        first: dict[str, set[str]] = {}
        for name in order:
            first[name] = set().union(*(first.get(symbol, {symbol}) for symbol in self._roots[name]))
        return first

    def _check_ll1(self, trees: dict[str, list[Node]]) -> None:
        """Raise InputError if the next word does not decide between the alternatives of a nonterminal."""
        nodes = [(name, node) for name, tree in trees.items() for node in tree]
        calls = [(name, symbol, node[symbol]) for name, node in nodes for symbol in self.rules.keys() & node]
        follow: dict[str, set[str]] = {name: set() for name in self.rules}

        def next_words(name: str, symbol: str) -> set[str]:
            """The words that `symbol` may begin with, or, at the end of an expansion of `name`, that may follow it."""
            return follow[name] if symbol == END else self._first.get(symbol, {symbol})

        changed = True
        while changed:
            size = sum(map(len, follow.values()))
            for name, called, after in calls:
                follow[called].update(*(next_words(name, symbol) for symbol in after))
            changed = sum(map(len, follow.values())) > size
        for name, node in nodes:
            seen: set[str] = set()
            for symbol in node:
                words = next_words(name, symbol)
                for word in sorted(seen & words):
                    raise InputError(f"not LL(1): {word!r} does not decide between two alternatives of {name!r}")
                seen |= words

    def _sum_entropy(self) -> float:
        """equals: sum over nonterminals of (expected uses in a text) * (entropy of one choice), depth by depth"""
        entropy, uses = 0.0, {self.start: 1.0}  # expected uses of the nonterminals at one depth
        for _ in range(10_000):
            deeper = defaultdict(float)
            for name, count in uses.items():
                for probability, expansion in self.rules[name]:
                    entropy -= count * probability * math.log(probability)
                    for symbol in filter(self.rules.get, expansion):
                        deeper[symbol] += count * probability
            uses = deeper
            if sum(uses.values()) < 1e-16:
                return entropy
        raise InputError("the expected length of the texts diverges; give recursive alternatives less weight")


def _normalise(name: str, alternatives: Sequence, rules: Rules) -> list[tuple[float, tuple[str, ...]]]:
    """The alternatives of a nonterminal as (probability, expansion). Raises InputError for a malformed one."""
    weights = {}
    for weight, expansion in alternatives:
        if not 0 < weight < math.inf or not expansion or isinstance(expansion, str):
            raise InputError(f"{name!r} has ({weight}, {expansion!r}); allowed: (finite weight > 0, tuple of symbols)")
        for symbol in expansion:
            if symbol not in rules and not _TOKEN.fullmatch(symbol):
                near = did_you_mean(symbol, rules)
                raise InputError(f"{symbol!r} in {name!r} is no nonterminal{near}, word or punctuation mark")
        weights[tuple(expansion)] = weights.get(tuple(expansion), 0) + weight
    if not weights:
        raise InputError(f"nonterminal {name!r} has no expansions")
    total = sum(weights.values())
    return [(weight / total, expansion) for expansion, weight in weights.items()]


def _prefix_tree(choices: Sequence[tuple[float, Sequence[str]]]) -> list[Node]:
    """The nodes of the prefix tree of a nonterminal's expansions, the root first."""
    nodes: list[Node] = [{}]
    for probability, expansion in choices:
        node = nodes[0]
        for symbol in expansion:
            if symbol not in node:
                node[symbol] = {}
                nodes.append(node[symbol])
            node = node[symbol]
        node[END] = math.log(probability)
    return nodes


def _spaced(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each word with what stands before it: a blank, but nothing before a comma or stop and inside quotation marks."""
    previous, quoted = "", False
    for word in words:
        joined = not previous or word in ",.;:!?" or (quoted and '"' in (previous, word))
        yield "" if joined else " ", word
        previous, quoted = word, quoted ^ (word == '"')


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """(word or mark, index of its end) for each token of the text, up to the first wrong blank."""
    end = 0
    for separator, word in _spaced(_TOKEN.findall(text)):
        if not text.startswith(separator + word, end):
            return
        end += len(separator + word)
        yield word, end
