"""Metrics of diversity and repetition, computed from the texts alone.

Texts are strings, whose tokens are the words of `split_words`, or lists of tokens (int or str), or the NgramCounts of
either, which several metrics can share. Wrong input raises InputError. Undefined, a subclass of it, is raised where the
texts do not define the metric, as no text has n tokens.
"""

import itertools
import math
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from scipy import stats

from mixkit.metrics.ngram_counts import NgramCounts, Ngrams, Texts, Undefined, count_ngrams
from mixkit.metrics.statistics import Estimate, bootstrap, jackknife, wilson_interval

JACKKNIFE_GROUPS = 20
ZIPF_TOKENS = 5000  # the most frequent ones


def rep_n(texts: Texts, n: int) -> float:
    """1 - sum_i |distinct n-grams of text i| / sum_i |n-grams of text i|, in [0, 1]

    Source: SimCTG (Su et al. 2022), whose code omits each text's last n-gram. Welleck et al. 2020: see `text_values`.
    """
    distinct, total = _repeats(count_ngrams(texts), n)
    return float(1 - distinct.sum() / total.sum())


def diversity(texts: Texts) -> float:
    """prod_{n=2..4} (1 - rep_n), in [0, 1]. Source: Su et al. 2022."""
    corpus = count_ngrams(texts)
    return math.prod(1 - rep_n(corpus, n) for n in (2, 3, 4))


def pooled_diversity(texts: Texts) -> float:
    """mean over texts of |distinct| / |all| n-grams, n = 1..4 together, without those of one token 3 or 4 times

    In (0, 1]. Longer texts score lower: compare equal lengths. Source: the "diversity" of Zhang et al. 2023 (MixCE),
    whose code counts empty texts as 0; here they are left out.
    """
    return float(_pooled(count_ngrams(texts)).mean())


def distinct_n(texts: Texts, n: int, *, budget: int | None = None) -> float:
    """|distinct n-grams| / |n-grams| of the whole corpus, in (0, 1]

    It falls as any corpus grows, so compare models under one `budget`: only the first that many tokens are read.
    Undefined where there are fewer. Source: Li et al. 2016.
    """
    counts = _corpus_counts(texts, n, budget)
    return float(np.count_nonzero(counts) / counts.sum())


def ngram_entropy(texts: Texts, n: int, *, budget: int | None = None) -> float:
    """-sum_g p(g) log p(g) in nats, at least 0; p(g) is the share of n-gram g in the whole corpus

    It grows with the corpus: compare under one `budget`. Undefined as `distinct_n`. Source: Zhang et al. 2018, Ent-n.
    """
    return float(stats.entropy(_corpus_counts(texts, n, budget)))


def zipf_coefficient(texts: Texts) -> float:
    """s of frequency ~ rank^-s. equals: -scipy.stats.linregress(log(ranks), log(counts)).slope of the top 5,000 tokens

    Human English is near 1. Undefined with fewer than two different tokens. Source: Holtzman et al. 2020.
    """
    counts = _corpus_counts(texts, 1)
    counts = np.sort(counts[counts > 0])[::-1][:ZIPF_TOKENS]
    if len(counts) < 2:
        raise Undefined("the texts have fewer than two different tokens")
    fit: Any = stats.linregress(np.log(np.arange(1, len(counts) + 1)), np.log(counts))
    return -float(fit.slope)


def repetition_loops(texts: Texts) -> float:
    """share of texts whose last 3 m tokens are a phrase of m tokens three times, for some m >= 1, in [0, 1]

    Holtzman et al. 2020 require phrases of 3 to 90 tokens twice, or shorter ones 51 times.
    """
    return float(_loops(count_ngrams(texts)).mean())


def self_bleu(texts: Texts, n: int = 4) -> float:
    """mean over i of nltk sentence_bleu(all texts but i, text i, weights=[1/n] * n, SmoothingFunction().method1)

    In [0, 1]; lower is more diverse. A text that shares no token with the others scores 0. More texts score higher:
    compare equal numbers of them. Undefined for one text. Source: Zhu et al. 2018 (Texygen).
    """
    corpus = count_ngrams(texts)
    corpus.ngrams(n)  # counts all orders up to n, and refuses a wrong n
    lengths, num_texts = corpus.lengths, len(corpus.texts)
    if num_texts < 2:
        raise Undefined("self-BLEU needs at least two texts")
    hits, log_precision = [], np.zeros(num_texts)
    for order in range(1, n + 1):
        grams = corpus.ngrams(order)
        hits.append(np.bincount(grams.text, np.minimum(grams.count, _most_elsewhere(grams)), minlength=num_texts))
        log_precision += np.log(np.where(hits[-1] == 0, 0.1, hits[-1]) / np.maximum(1, lengths - order + 1)) / n
    # The reference closest in length counts, the shorter of two equally close.
    ordered = np.concatenate([[-math.inf], np.sort(lengths), [math.inf]])
    place = np.searchsorted(ordered, lengths)
    below, above = ordered[place - 1], ordered[place + 1]
    closest = np.where(lengths - below <= above - lengths, below, above)
    brevity = np.minimum(0, 1 - closest / np.maximum(1, lengths))
    return float(np.where(hits[0] > 0, np.exp(log_precision + brevity), 0.0).mean())


def compression_ratio(texts: Texts) -> float:
    """equals: len(raw) / len(zlib.compress(raw)), raw = " ".join(texts).encode()

    Redundancy within and across neighbouring texts: zlib looks back 32 KB. Human English has 2 to 3; higher is more
    repetitive. Less than a few KB score lower. Undefined where all texts are empty. Source: Shaib et al. 2024.
    """
    parts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in count_ngrams(texts).texts]
    if not any(parts):
        raise Undefined("all texts are empty")
    raw = " ".join(parts).encode()
    return len(raw) / len(zlib.compress(raw))


def score_texts(texts: Texts, *, budget: int | None = None) -> dict[str, Estimate]:
    """All metrics of this module for one sample set, with intervals over texts. Undefined metrics are absent.

    Intervals: bootstrap for sums over texts (rep_n, diversity, pooled_diversity, length), Wilson's for the loops, and
    for the others, of the whole corpus, a jackknife over 20 groups of neighbours. budget: of distinct_n, ngram_entropy.
    """
    corpus = count_ngrams(texts)
    within = cache(corpus.within)

    def of_totals(orders: tuple[int, ...], statistic: Callable[..., Any]) -> Estimate:
        return bootstrap(*(column for n in orders for column in _repeats(corpus, n)), statistic=statistic)

    def of_corpus(metric: Callable[..., float], *order: int, budget: int | None = None, high: float = math.inf):
        whole = within(budget)
        value, left_out = metric(whole, *order), []
        groups = min(JACKKNIFE_GROUPS, len(whole.texts))
        edges = [len(whole.texts) * group // groups for group in range(groups + 1)]
        for first, end in itertools.pairwise(edges):
            try:
                left_out.append(metric(whole.without(slice(first, end)), *order))
            except Undefined:
                left_out.append(math.nan)
        return jackknife(value, left_out, bounds=(0.0, high))

    metrics: dict[str, Callable[[], Estimate]] = {
        **{f"rep_{n}": partial(of_totals, (n,), lambda distinct, total: 1 - distinct / total) for n in (2, 3, 4)},
        "diversity": partial(of_totals, (2, 3, 4), lambda d2, t2, d3, t3, d4, t4: d2 / t2 * (d3 / t3) * (d4 / t4)),
        "pooled_diversity": lambda: bootstrap(_pooled(corpus)),
        **{f"distinct_{n}": partial(of_corpus, distinct_n, n, budget=budget, high=1.0) for n in (1, 2, 3, 4)},
        **{f"ngram_entropy_{n}": partial(of_corpus, ngram_entropy, n, budget=budget) for n in (1, 2, 3, 4)},
        "zipf_coefficient": partial(of_corpus, zipf_coefficient),
        "self_bleu_4": partial(of_corpus, self_bleu, high=1.0),
        "repetition_loops": lambda: wilson_interval(int(_loops(corpus).sum()), len(corpus.texts)),
        "compression_ratio": partial(of_corpus, compression_ratio),
        "length": lambda: bootstrap(corpus.lengths),
    }
    scores: dict[str, Estimate] = {}
    for name, metric in metrics.items():
        try:
            scores[name] = metric()
        except Undefined as reason:
            scores[name] = Estimate.absent(str(reason))
    return scores


def text_values(texts: Texts) -> dict[str, list[float | None]]:
    """rep_2 to rep_4 (Welleck et al. 2020), diversity and length of each text; None where the text is too short."""
    corpus = count_ngrams(texts)
    with np.errstate(invalid="ignore"):
        values = {f"rep_{n}": 1 - np.divide(*_counts_by_text(corpus, n)) for n in (2, 3, 4)}
    values["diversity"] = np.prod([1 - rep for rep in values.values()], axis=0)
    values["length"] = corpus.lengths
    return {name: [None if math.isnan(x) else float(x) for x in column] for name, column in values.items()}


def _counts_by_text(corpus: NgramCounts, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of distinct and of all n-grams of each text, both (N,)."""
    distinct = np.bincount(corpus.ngrams(n).text, minlength=len(corpus.texts))
    return distinct, np.maximum(corpus.lengths - n + 1, 0)


def _repeats(corpus: NgramCounts, n: int) -> tuple[np.ndarray, np.ndarray]:
    distinct, total = _counts_by_text(corpus, n)
    if not total.any():
        raise Undefined(f"no text has a {n}-gram")
    return distinct, total


def _pooled(corpus: NgramCounts) -> np.ndarray:
    """The distinct share of the pooled n-grams of each text that is not empty."""
    texts, not_empty = len(corpus.texts), corpus.lengths > 0
    if not not_empty.any():
        raise Undefined("all texts are empty")
    distinct, total = np.zeros(texts), np.zeros(texts)
    for n in (1, 2, 3, 4):
        grams = corpus.ngrams(n)
        counted = ~grams.constant[grams.ngram] | (n <= 2)
        distinct += np.bincount(grams.text[counted], minlength=texts)
        total += np.bincount(grams.text[counted], grams.count[counted], minlength=texts)
    return distinct[not_empty] / total[not_empty]


def _corpus_counts(texts: Texts, n: int, budget: int | None = None) -> np.ndarray:
    """How often each n-gram occurs in the corpus, or in its first `budget` tokens."""
    numbers = count_ngrams(texts).within(budget).ngrams(n).number
    counts = np.bincount(numbers[numbers >= 0])
    if not len(counts):
        raise Undefined(f"no text has a {n}-gram" + (f" within the first {budget} tokens" if budget else ""))
    return counts


def _loops(corpus: NgramCounts) -> np.ndarray:
    """Whether each text ends in a loop, (N,)."""
    tokens, ends = corpus.tokens, np.cumsum(corpus.lengths)
    loops = np.zeros(len(corpus.texts), dtype=bool)
    for m in range(1, int(corpus.lengths.max()) // 3 + 1):
        # First compare the last token of all texts with the one m before, then the whole end of the few texts left.
        candidates = np.flatnonzero((corpus.lengths >= 3 * m) & ~loops)
        for i in candidates[tokens[ends[candidates] - 1] == tokens[ends[candidates] - 1 - m]]:
            end = tokens[ends[i] - 3 * m : ends[i]]
            loops[i] = np.array_equal(end[m:], end[:-m])
    return loops


def _most_elsewhere(grams: Ngrams) -> np.ndarray:
    """The highest count of the n-gram in another text, for each pair of text and n-gram, (K,)."""
    first, last = np.diff(grams.ngram, prepend=-1) != 0, np.diff(grams.ngram, append=-1) != 0  # ascending by count
    most = np.zeros(len(grams.constant), np.int64)
    most[grams.ngram[last]] = grams.count[last]
    second = np.where(first, 0, np.append(0, grams.count[:-1]))
    return np.where(last, second, most[grams.ngram])
