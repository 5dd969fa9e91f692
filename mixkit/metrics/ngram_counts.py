"""Numbered n-grams of a corpus and their counts, which all n-gram metrics share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any

import numpy as np

from mixkit._common import Bool, InputError, Int
from mixkit.texts.words import split_words


class Undefined(InputError):
    """The texts do not define the metric. `score_texts` reports it as absent with this reason."""


@dataclass(frozen=True, eq=False)
class Ngrams:
    """All n-grams of one order in T tokens: V distinct n-grams, and K pairs of text and n-gram that occur."""

    number: Int[np.ndarray, " T"]  # of the n-gram that begins at the token, 0 .. V - 1; -1 where none fits in the text
    constant: Bool[np.ndarray, " V"]  # whether the n-gram is one token n times
    text: Int[np.ndarray, " K"]
    ngram: Int[np.ndarray, " K"]  # ascending
    count: Int[np.ndarray, " K"]  # how often the text contains the n-gram, at least once; ascending for an n-gram


@dataclass(frozen=True, eq=False)
class NgramCounts:
    """N texts as token numbers, one after another. The n-grams of an order are counted at its first use."""

    texts: list[Any]
    tokens: Int[np.ndarray, " T"]  # 0 .. vocabulary - 1
    lengths: Int[np.ndarray, " N"]  # tokens of each text
    _orders: dict[int, Ngrams] = field(default_factory=dict[int, Ngrams], repr=False)
    _part_of: "tuple[NgramCounts, Bool[np.ndarray, ' M']] | None" = None  # a larger corpus, and which of its texts

    def ngrams(self, n: int) -> Ngrams:
        """The n-grams of order n. Raises InputError unless n is an integer from 1."""
        if n < 1:
            raise InputError(f"n is {n!r}; the order of an n-gram is an integer from 1")
        if n not in self._orders:
            self._orders[n] = self._select(n, *self._part_of) if self._part_of else self._count(n)
        return self._orders[n]

    def within(self, budget: int | None) -> "NgramCounts":
        """The texts up to the first `budget` tokens of the corpus, the last of them cut; all texts without a budget."""
        if budget is None:
            return self
        if budget < 1:
            raise InputError(f"budget is {budget}; allowed: a number of tokens from 1")
        if budget > len(self.tokens):
            raise Undefined(f"the texts have {len(self.tokens)} tokens, fewer than the budget of {budget}")
        ends = np.minimum(np.cumsum(self.lengths), budget)
        num_texts = int(np.searchsorted(ends, budget)) + 1
        return NgramCounts(self.texts[:num_texts], self.tokens[:budget], np.diff(ends[:num_texts], prepend=0))

    def without(self, group: slice) -> "NgramCounts":
        """The other texts. Their tokens and n-grams keep their numbers, some of which may not occur then."""
        kept = np.ones(len(self.texts), dtype=bool)
        kept[group] = False
        tokens = self.tokens[np.repeat(kept, self.lengths)]
        return NgramCounts(list(compress(self.texts, kept)), tokens, self.lengths[kept], {}, (self, kept))

    def _select(self, n: int, corpus: "NgramCounts", kept: np.ndarray) -> Ngrams:
        grams = corpus.ngrams(n)
        pair, new_place = kept[grams.text], np.cumsum(kept) - 1
        number, text = grams.number[np.repeat(kept, corpus.lengths)], new_place[grams.text[pair]]
        return Ngrams(number, grams.constant, text, grams.ngram[pair], grams.count[pair])

    def _count(self, n: int) -> Ngrams:
        text_at = np.repeat(np.arange(len(self.lengths)), self.lengths)  # (T,)
        vocabulary = int(self.tokens.max(initial=-1)) + 1
        if n == 1:
            number, constant = self.tokens, np.ones(vocabulary, dtype=bool)
        else:
            # An n-gram is the (n - 1)-gram at its position and one more token. The distinct pairs are numbered.
            shorter = self.ngrams(n - 1)
            start = np.flatnonzero(np.arange(n, len(text_at) + n) <= np.cumsum(self.lengths)[text_at])
            prefix, last = shorter.number[start], self.tokens[start + n - 1]
            distinct, codes = np.unique(prefix * vocabulary + last, return_inverse=True)
            number, constant = np.full(len(text_at), -1), np.zeros(len(distinct), dtype=bool)
            number[start] = codes
            constant[codes] = shorter.constant[prefix] & (self.tokens[start] == last)
        size, begins = max(1, len(constant)), number >= 0
        pairs, count = np.unique(text_at[begins] * size + number[begins], return_counts=True)
        text, ngram = np.divmod(pairs, size)
        order = np.lexsort((count, ngram))
        return Ngrams(number, constant, text[order], ngram[order], count[order])


Texts = NgramCounts | Sequence[Any]  # strings, or lists of tokens (int or str), or their counts


def count_ngrams(texts: Texts) -> NgramCounts:
    """Number the tokens of texts. Strings are split by `split_words`. NgramCounts are returned as they are.

    Raises InputError on an empty list, an item that is not a text, or a token that is not an int or a str.
    """
    if isinstance(texts, NgramCounts):
        return texts
    if isinstance(texts, str) or len(texts) == 0:
        raise InputError(f"texts is {'one string' if texts else 'empty'}; give a list of at least one text")
    for i, text in enumerate(texts):
        same_kind = isinstance(text, str) == isinstance(texts[0], str)
        if not same_kind or not isinstance(text, str | list | tuple | np.ndarray):
            raise InputError(f"text {i} is {text!r:.40}; texts are all str, or all lists of tokens")
    rows = [split_words(text) if isinstance(text, str) else list(text) for text in texts]
    tokens = list(chain.from_iterable(rows))
    for kind in {type(token) for token in tokens}:
        if not issubclass(kind, str | int | np.integer):
            raise InputError(f"a token has the type {kind.__name__}; a token is an int or a str")
    numbers = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    token_numbers = np.array([numbers[token] for token in tokens], dtype=np.int64)
    return NgramCounts(list(texts), token_numbers, np.array([len(row) for row in rows], dtype=np.int64))
