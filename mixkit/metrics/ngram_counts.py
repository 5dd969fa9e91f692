"""The counting pass under all n-gram metrics: texts or token lists in, numbered n-grams and their counts by text out.
No metric may live here."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np

from mixkit._common import InputError


@dataclass(frozen=True, eq=False)
class Ngrams:
    """All n-grams of one order, numbered over the corpus: P of them in order of place, K pairs of text and n-gram."""

    start: np.ndarray  # (P,) the place of the first token
    number: np.ndarray  # (P,) which n-gram it is, 0 .. size - 1
    constant: np.ndarray  # (size,) whether it is one token n times
    text: np.ndarray  # (K,) sorted
    ngram: np.ndarray  # (K,) sorted within a text
    count: np.ndarray  # (K,) how often the text holds the n-gram, at least once

    @cached_property
    def by_count(self) -> np.ndarray:
        """The K pairs in the order of n-gram, then count. equals: np.lexsort((count, ngram))"""
        return np.argsort(self.ngram * (self.count.max(initial=0) + 1) + self.count)


@dataclass(frozen=True, eq=False)
class NgramCounts:
    """N texts as token numbers, laid end to end; n-grams are counted at the first call that needs their order."""

    texts: list
    tokenize: Callable[[str], Sequence[Hashable]]
    tokens: np.ndarray  # (T,) 0 .. vocabulary - 1
    lengths: np.ndarray  # (N,) tokens
    _orders: dict = field(default_factory=dict, repr=False)

    def ngrams(self, n: int) -> Ngrams:
        if not isinstance(n, int | np.integer) or n < 1:
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
            # An n-gram is the (n - 1)-gram at its place and one more token; the pairs are numbered anew.
            shorter = self.ngrams(n - 1)
            inside = shorter.start + n <= np.cumsum(self.lengths)[text_at[shorter.start]]
            start, prefix = shorter.start[inside], shorter.number[inside]
            last = self.tokens[start + n - 1]
            distinct, number = np.unique(prefix * vocabulary + last, return_inverse=True)
            constant = np.zeros(len(distinct), dtype=bool)
            constant[number] = shorter.constant[prefix] & (self.tokens[start] == last)
        pairs, count = np.unique(text_at[start] * max(1, len(constant)) + number, return_counts=True)
        text, ngram = np.divmod(pairs, max(1, len(constant)))
        return Ngrams(start, number, constant, text, ngram, count)


def count_ngrams(texts, tokenize: Callable[[str], Sequence[Hashable]] = str.split) -> NgramCounts:
    """The counting pass that all metrics share. Raises InputError on an empty list or an item that is no text."""
    if isinstance(texts, NgramCounts):
        return texts
    if isinstance(texts, str):
        raise InputError("texts is one string; give a list of texts")
    texts = list(texts)
    if not texts:
        raise InputError("texts is empty; at least one text is needed")
    rows = []
    for i, text in enumerate(texts):
        if isinstance(text, str) == isinstance(texts[0], str) and isinstance(text, str | list | tuple | np.ndarray):
            row = tokenize(text) if isinstance(text, str) else text
            rows.append(row.tolist() if isinstance(row, np.ndarray) else list(row))
        else:
            raise InputError(f"text {i} is {text!r:.40}; texts are all str, or all lists of tokens")
    flat = list(chain.from_iterable(rows))
    if strange := {kind.__name__ for kind in set(map(type, flat)) if not issubclass(kind, str | int | np.integer)}:
        raise InputError(f"tokens of type {', '.join(sorted(strange))}; a token is an int or a str")
    numbers = {token: i for i, token in enumerate(dict.fromkeys(flat))}
    return NgramCounts(
        texts=texts,
        tokenize=tokenize,
        tokens=np.fromiter(map(numbers.__getitem__, flat), np.int64, len(flat)),
        lengths=np.fromiter(map(len, rows), np.int64, len(rows)),
    )
