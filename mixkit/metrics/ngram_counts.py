"""Numbered n-grams of a corpus and their counts, which all n-gram metrics share."""
# numpy is typed in part only
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from mixkit._common import Bool, InputError, Int

Tokenize = Callable[[str], Sequence[Hashable]]


@dataclass(frozen=True, eq=False)
class Ngrams:
    """All n-grams of one order: P positions, V distinct n-grams, and K pairs of text and n-gram that occur."""

    start: Int[np.ndarray, " P"]  # position of the first token, ascending
    number: Int[np.ndarray, " P"]  # the n-gram's number, 0 .. V - 1
    constant: Bool[np.ndarray, " V"]  # whether the n-gram is one token n times
    text: Int[np.ndarray, " K"]  # sorted
    ngram: Int[np.ndarray, " K"]  # sorted within a text
    count: Int[np.ndarray, " K"]  # how often the text contains the n-gram, at least once

    @cached_property
    def by_count(self) -> Int[np.ndarray, " K"]:
        """The K pairs ordered by n-gram, then count. equals: np.lexsort((count, ngram))"""
        return np.argsort(self.ngram * (self.count.max(initial=0) + 1) + self.count)


@dataclass(frozen=True, eq=False)
class NgramCounts:
    """N texts as token numbers, one after another. The n-grams of an order are counted at its first use."""

    texts: list[Any]
    tokenize: Tokenize
    tokens: Int[np.ndarray, " T"]  # 0 .. vocabulary - 1
    lengths: Int[np.ndarray, " N"]  # tokens of each text
    _orders: dict[int, Ngrams] = field(default_factory=dict[int, Ngrams], repr=False)

    def ngrams(self, n: int) -> Ngrams:
        """The n-grams of order n. Raises InputError unless n is an integer from 1."""
        if n < 1:
            raise InputError(f"n is {n!r}; the order of an n-gram is an integer from 1")
        if n not in self._orders:
            self._orders[n] = self._count(n)
        return self._orders[n]

    def _count(self, n: int) -> Ngrams:
        text_at = np.repeat(np.arange(len(self.lengths)), self.lengths)  # (T,)
        vocabulary = int(self.tokens.max(initial=-1)) + 1
        if n == 1:
            start, number, constant = np.arange(len(self.tokens)), self.tokens, np.ones(vocabulary, dtype=bool)
        else:
            # An n-gram is the (n - 1)-gram at its position and one more token. The distinct pairs are numbered.
            shorter = self.ngrams(n - 1)
            fits = shorter.start + n <= np.cumsum(self.lengths)[text_at[shorter.start]]
            start, prefix = shorter.start[fits], shorter.number[fits]
            last = self.tokens[start + n - 1]
            distinct, number = np.unique(prefix * vocabulary + last, return_inverse=True)
            constant = np.zeros(len(distinct), dtype=bool)
            constant[number] = shorter.constant[prefix] & (self.tokens[start] == last)
        size = max(1, len(constant))
        pairs, count = np.unique(text_at[start] * size + number, return_counts=True)
        text, ngram = np.divmod(pairs, size)
        return Ngrams(start, number, constant, text, ngram, count)


Texts = NgramCounts | Sequence[Any]  # strings, or lists of tokens (int or str), or their counts


def count_ngrams(texts: Texts, tokenize: Tokenize = str.split) -> NgramCounts:
    """Number the tokens of texts; NgramCounts are returned as they are.

    Raises InputError on an empty list, an item that is not a text, or a token that is not an int or a str.
    """
    if isinstance(texts, NgramCounts):
        return texts
    if isinstance(texts, str):
        raise InputError("texts is one string; give a list of texts")
    texts = list(texts)
    if not texts:
        raise InputError("texts is empty; at least one text is needed")
    rows: list[list[Any]] = []
    for i, text in enumerate(texts):
        same_kind = isinstance(text, str) == isinstance(texts[0], str)
        if not same_kind or not isinstance(text, str | list | tuple | np.ndarray):
            raise InputError(f"text {i} is {text!r:.40}; texts are all str, or all lists of tokens")
        row = tokenize(text) if isinstance(text, str) else text
        rows.append(row.tolist() if isinstance(row, np.ndarray) else list(row))
    tokens = list(chain.from_iterable(rows))
    kinds = {type(token) for token in tokens}
    if wrong := sorted(kind.__name__ for kind in kinds if not issubclass(kind, str | int | np.integer)):
        raise InputError(f"tokens of type {', '.join(wrong)}; a token is an int or a str")
    numbers = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return NgramCounts(
        texts=texts,
        tokenize=tokenize,
        tokens=np.array([numbers[token] for token in tokens], dtype=np.int64),
        lengths=np.array([len(row) for row in rows], dtype=np.int64),
    )
