"""Quality and diversity numbers from texts alone; n-grams are counted once, and all n-gram metrics read those counts.
No model may be asked here: what needs one to read the texts is in embeddings.py.

Texts are a list of str, split by `tokenize` (at white space unless told), or a list of token lists (int or str),
taken as they are, or the NgramCounts that `count_ngrams` makes of either, for several metrics of one counting pass.
Values depend on the tokenization: compare only what was tokenized alike. An empty text is a text of 0 tokens. An
empty list, or an item that is no text, raises InputError; what the texts do not define (no text of n tokens,
self-BLEU of one text) raises its subclass Undefined.
"""

import math
import zlib
from functools import cache, partial

import numpy as np

from mixkit._common import InputError
from mixkit.metrics.ngram_counts import NgramCounts, Ngrams, count_ngrams
from mixkit.metrics.statistics import Comparison as Comparison
from mixkit.metrics.statistics import Estimate, bootstrap, jackknife, wilson_interval
from mixkit.metrics.statistics import compare as compare
from mixkit.metrics.statistics import holm as holm
from mixkit.metrics.statistics import t_interval as t_interval


class Undefined(InputError):
    """A number that these texts do not define; `score_texts` reports it as absent with this reason."""


def rep_n(texts, n: int, *, tokenize=str.split) -> float:
    """1 - sum_i |distinct n-grams of text i| / sum_i |n-grams of text i|

    Repetition within texts, in [0, 1]: 0 where no text repeats an n-gram. Texts shorter than n add nothing. This is
    SimCTG's aggregation (Su et al. 2022), as a share and not in percent, with the last n-gram of each text, which its
    code leaves out. Welleck et al. 2020 average 1 - distinct / all over texts instead (see `text_values`): the same
    number where all texts have one length.
    """
    distinct, total = _repeats(count_ngrams(texts, tokenize), n)
    return float(1 - distinct.sum() / total.sum())


def diversity(texts, *, tokenize=str.split) -> float:
    """prod_{n=2..4} (1 - rep_n)

    In [0, 1]: 1 where no text repeats a bigram. Says nothing of repetition between texts. Source: Su et al. 2022.
    """
    corpus = count_ngrams(texts, tokenize)
    return math.prod(1 - rep_n(corpus, n) for n in (2, 3, 4))


def pooled_diversity(texts, *, tokenize=str.split) -> float:
    """mean over texts of |distinct| / |all| n-grams, n = 1..4 in one pool, without one token repeated n > 2 times

    The "diversity" of Zhang et al. 2023 (MixCE), in (0, 1]. Longer texts score lower: compare equal lengths. Empty
    texts have no n-grams and are left out (that paper's code counts them as 0).
    """
    return float(_pooled(count_ngrams(texts, tokenize))[1].mean())


def distinct_n(texts, n: int, *, budget: int | None = None, tokenize=str.split) -> float:
    """|distinct n-grams| / |n-grams| of the whole corpus

    In (0, 1]; 1 where none comes twice. The ratio falls as a corpus grows, whoever wrote it: two models are comparable
    only under one `budget`, the number of tokens read, from the first text on, the last one cut. None reads all; a
    budget beyond the corpus is Undefined. Source: Li et al. 2016.
    """
    return _of_corpus(_distinct, count_ngrams(texts, tokenize), n, budget)


def ngram_entropy(texts, n: int, *, budget: int | None = None, tokenize=str.split) -> float:
    """-sum_g p(g) log p(g) in nats, p(g) the share of n-gram g in the whole corpus

    From 0 to log |n-grams|. The plug-in estimate, which grows with the corpus: compare under one `budget`, as in
    `distinct_n`. Source: Zhang et al. 2018, Ent-n.
    """
    return _of_corpus(_entropy, count_ngrams(texts, tokenize), n, budget)


def zipf_coefficient(texts, *, top: int = 5000, tokenize=str.split) -> float:
    """s of frequency ~ rank^-s. equals: -scipy.stats.linregress(log(ranks), log(counts)).slope of the top tokens

    Unweighted least squares over the `top` most frequent tokens of the corpus. Human English is near 1; 0 where all
    tokens are equally frequent. Undefined with fewer than two different tokens. Source: Holtzman et al. 2020.
    """
    return _of_corpus(partial(_zipf, top=top), count_ngrams(texts, tokenize), 1)


def repetition_loops(texts, *, tokenize=str.split) -> float:
    """share of texts whose last 3 m tokens are one phrase of m tokens three times over, for some m >= 1

    In [0, 1]. Where in the phrase the text is cut does not matter: "a b c a b c a b c a" ends in "b c a" three times.
    Holtzman et al. 2020 ask for phrases of 3 to 90 tokens twice, or shorter ones 51 times.
    """
    return float(_loops(count_ngrams(texts, tokenize)).mean())


def self_bleu(texts, n: int = 4, *, tokenize=str.split) -> float:
    """mean over i of nltk sentence_bleu(all texts but i, text i, weights=[1/n] * n, SmoothingFunction().method1)

    In [0, 1]: 1 where all texts are equal (and have n tokens); lower is more diverse. Smoothing: a count of 0 is
    taken as 0.1, and a text that shares no token with the others, or is empty, scores 0. More texts score higher:
    compare equal numbers of them. Undefined for one text. Source: Zhu et al. 2018 (Texygen).
    """
    return float(_self_bleu(count_ngrams(texts, tokenize), n)[-1].mean())


def bleu(texts, references, n: int = 4, *, tokenize=str.split) -> float:
    """mean over texts of nltk sentence_bleu(references, text, weights=[1/n] * n, SmoothingFunction().method1)

    Every text against all references (a set of human texts), in [0, 1], smoothed as `self_bleu` is. Highest for
    copies of references: it cannot tell writing well from reciting. Source: Papineni et al. 2002.
    """
    return float(_bleu(count_ngrams(texts, tokenize), references, n).mean())


def compression_ratio(texts) -> float:
    """equals: len(raw) / len(zlib.compress(raw)), raw = " ".join(texts).encode()

    How redundant the corpus is, within and across neighbouring texts, so that their order counts (zlib looks 32 KB
    back): 2 to 3 for human English, higher is more repetitive. Token lists are joined by spaces too. Undefined where
    all texts are empty. Source: Shaib et al. 2024.
    """
    raw = _raw(count_ngrams(texts))
    if not any(raw):
        raise Undefined("all texts are empty")
    return float(np.divide(*_sizes(raw)))


def length_statistics(texts, *, tokenize=str.split) -> dict[str, float]:
    """Tokens a text: mean, std (ddof=0), min, median and max, and the share of empty texts."""
    lengths = count_ngrams(texts, tokenize).lengths
    numbers = {name: float(getattr(np, name)(lengths)) for name in ("mean", "std", "min", "median", "max")}
    return numbers | {"empty": float((lengths == 0).mean())}


def score_texts(
    texts,
    *,
    references=None,
    budget: int | None = None,
    tokenize=str.split,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """All numbers above for one sample set, each with its interval over texts; what is undefined is absent, with why.

    Intervals: bootstrap where texts add up (rep_n, diversity, pooled_diversity, length; bleu, whose references are
    held); Wilson's for the share of loops; for numbers of the corpus as a whole (distinct_n, ngram_entropy,
    zipf_coefficient, self_bleu, compression_ratio) a jackknife over 20 groups of neighbouring texts, because copies
    of texts in a bootstrap sample would count as repetition. `budget` is that of distinct_n and ngram_entropy.
    bleu_4 is there when `references` are given.
    """
    corpus = count_ngrams(texts, tokenize)
    resample = partial(bootstrap, replicates=replicates, confidence=confidence, seed=seed)
    leave_out = partial(jackknife, confidence=confidence)

    def repeats(orders: tuple[int, ...], statistic) -> Estimate:
        return resample(np.column_stack([column for n in orders for column in _repeats(corpus, n)]), statistic)

    def whole(statistic, n: int, budget: int | None = None, bounds=(-math.inf, math.inf)) -> Estimate:
        value = _of_corpus(statistic, corpus, n, budget)
        return leave_out(value, [statistic(rest) for rest in _rests(corpus, n, budget)], bounds=bounds)

    @cache
    def self_bleus_left_out() -> np.ndarray:
        return np.array([_self_bleu_without(corpus, 4, group) for group in _groups(len(corpus.texts))])

    def self_bleus(n: int) -> Estimate:
        return leave_out(self_bleu(corpus, n), self_bleus_left_out()[:, n - 1], bounds=(0, 1))

    def compression() -> Estimate:
        raw = _raw(corpus)
        sizes = np.array([_sizes(raw[group]) for group in _groups(len(raw))])
        with np.errstate(invalid="ignore"):
            return leave_out(compression_ratio(corpus), np.divide(*(sizes.sum(0) - sizes).T), bounds=(0, math.inf))

    metrics = {f"rep_{n}": partial(repeats, (n,), lambda s: 1 - s[..., 0] / s[..., 1]) for n in (2, 3, 4)}
    metrics["diversity"] = partial(repeats, (2, 3, 4), lambda s: (s[..., ::2] / s[..., 1::2]).prod(-1))
    metrics["pooled_diversity"] = lambda: resample(_pooled(corpus)[1])
    metrics |= {f"distinct_{n}": partial(whole, _distinct, n, budget, bounds=(0, 1)) for n in (1, 2, 3, 4)}
    metrics |= {f"ngram_entropy_{n}": partial(whole, _entropy, n, budget, bounds=(0, math.inf)) for n in (1, 2, 3, 4)}
    metrics["zipf_coefficient"] = partial(whole, _zipf, 1)
    metrics |= {f"self_bleu_{n}": partial(self_bleus, n) for n in (2, 3, 4)}
    if references is not None:
        metrics["bleu_4"] = lambda: resample(_bleu(corpus, references, 4))
    metrics["repetition_loops"] = lambda: wilson_interval(int(_loops(corpus).sum()), len(corpus.texts), confidence)
    metrics["compression_ratio"] = compression
    metrics["length"] = lambda: resample(corpus.lengths)
    return {name: _or_absent(metric) for name, metric in metrics.items()}


def text_values(texts, *, tokenize=str.split) -> dict[str, list[float | None]]:
    """For `compare`, one value a text, None where the text is too short for one.

    rep_n = 1 - |distinct| / |all| n-grams of the text, n = 2..4 (Welleck et al. 2020) and diversity, their product of
    1 - rep_n; pooled_diversity; self_bleu_4 (from two texts on); repetition_loops (0 or 1); length.
    """
    corpus = count_ngrams(texts, tokenize)
    held, pooled = _pooled(corpus) if corpus.lengths.any() else (np.empty(0, int), np.empty(0))
    values = {}
    with np.errstate(invalid="ignore"):
        for n in (2, 3, 4):
            values[f"rep_{n}"] = 1 - np.divide(*_counts_by_text(corpus, n))
    values["diversity"] = np.prod([1 - values[f"rep_{n}"] for n in (2, 3, 4)], axis=0)
    values["pooled_diversity"] = np.full(len(corpus.texts), math.nan)
    values["pooled_diversity"][held] = pooled
    if len(corpus.texts) > 1:
        values["self_bleu_4"] = _self_bleu(corpus, 4)[-1]
    values |= {"repetition_loops": _loops(corpus), "length": corpus.lengths}
    return {name: [None if math.isnan(x) else float(x) for x in column] for name, column in values.items()}


def _or_absent(metric) -> Estimate:
    try:
        return metric()
    except Undefined as reason:
        return Estimate.absent(str(reason))


def _counts_by_text(corpus: NgramCounts, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct and all n-grams of each text, (N,) both."""
    texts = len(corpus.texts)
    return np.bincount(corpus.ngrams(n).text, minlength=texts), np.maximum(corpus.lengths - n + 1, 0)


def _repeats(corpus: NgramCounts, n: int) -> tuple[np.ndarray, np.ndarray]:
    distinct, total = _counts_by_text(corpus, n)
    if not total.any():
        raise Undefined(f"no text holds a {n}-gram")
    return distinct, total


def _pooled(corpus: NgramCounts) -> tuple[np.ndarray, np.ndarray]:
    """Which texts hold tokens, and the distinct share of the pooled n-grams of each of them."""
    held = np.flatnonzero(corpus.lengths)
    if not len(held):
        raise Undefined("all texts are empty")
    distinct = total = 0
    for n in (1, 2, 3, 4):
        grams = corpus.ngrams(n)
        kept = ~grams.constant[grams.ngram] if n > 2 else slice(None)
        distinct = distinct + np.bincount(grams.text[kept], minlength=len(corpus.texts))
        total = total + np.bincount(grams.text[kept], grams.count[kept], minlength=len(corpus.texts))
    return held, distinct[held] / total[held]


def _groups(texts: int) -> list[slice]:
    """The (at most 20) groups of neighbouring texts that the jackknife leaves out in turn."""
    groups = min(20, texts)
    return [slice(texts * g // groups, texts * (g + 1) // groups) for g in range(groups)]


def _read(corpus: NgramCounts, n: int, budget: int | None) -> np.ndarray:
    """The numbers of the n-grams that lie within the first `budget` tokens, in order."""
    grams, tokens = corpus.ngrams(n), len(corpus.tokens)
    if budget is not None and budget < 1:
        raise InputError(f"budget is {budget}; it is a number of tokens from 1")
    if budget is not None and budget > tokens:
        raise Undefined(f"the texts have {tokens} tokens, fewer than the budget of {budget}")
    number = grams.number[: np.searchsorted(grams.start, (tokens if budget is None else budget) - n, side="right")]
    if not len(number):
        raise Undefined(f"no text holds a {n}-gram" + ("" if budget is None else f" within the budget of {budget}"))
    return number


def _of_corpus(statistic, corpus: NgramCounts, n: int, budget: int | None = None) -> float:
    """The statistic of the n-gram counts of the whole corpus."""
    value = statistic(np.bincount(_read(corpus, n, budget)))
    if math.isnan(value):
        raise Undefined("the texts hold fewer than two different tokens")
    return value


def _rests(corpus: NgramCounts, n: int, budget: int | None):
    """The n-gram counts without the first group of texts, without the second, and so on."""
    number, grams, ends = _read(corpus, n, budget), corpus.ngrams(n), np.cumsum(corpus.lengths)
    texts = len(ends) if budget is None else int(np.searchsorted(ends, budget)) + 1
    edges = np.searchsorted(grams.start[: len(number)], [ends[group.stop - 1] for group in _groups(texts)[:-1]])
    counts = np.bincount(number)
    for group in np.split(number, edges):
        yield counts - np.bincount(group, minlength=len(counts))


def _distinct(counts: np.ndarray) -> float:
    return np.count_nonzero(counts) / total if (total := int(counts.sum())) else math.nan


def _entropy(counts: np.ndarray) -> float:
    counts = counts[counts > 0]
    total = counts.sum()
    return max(0.0, float(np.log(total) - (counts * np.log(counts)).sum() / total)) if total else math.nan


def _zipf(counts: np.ndarray, top: int = 5000) -> float:
    counts = np.sort(counts[counts > 0])[::-1][:top]
    if len(counts) < 2:
        return math.nan
    x, y = np.log(np.arange(1, len(counts) + 1)), np.log(counts)
    return float(((x.mean() - x) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _loops(corpus: NgramCounts) -> np.ndarray:
    """Whether each text ends in a loop, (N,)."""
    tokens, ends, found = corpus.tokens, np.cumsum(corpus.lengths), np.zeros(len(corpus.texts), dtype=bool)
    for m in range(1, int(corpus.lengths.max()) // 3 + 1):
        # Period m is asked of the last token of all texts at once, then of the whole end of the few texts left.
        likely = np.flatnonzero((corpus.lengths >= 3 * m) & ~found)
        for i in likely[tokens[ends[likely] - 1] == tokens[ends[likely] - 1 - m]]:
            end = tokens[ends[i] - 3 * m : ends[i]]
            found[i] = np.array_equal(end[m:], end[:-m])
    return found


def _self_bleu(corpus: NgramCounts, n: int) -> np.ndarray:
    if len(corpus.texts) < 2:
        raise Undefined("self-BLEU needs at least two texts")
    return _bleu_scores(corpus, n, np.ones(len(corpus.texts), dtype=bool))


def _self_bleu_without(corpus: NgramCounts, n: int, group: slice) -> np.ndarray:
    """Self-BLEU-1 to n of the corpus without a group of texts, (n,)."""
    rest = np.ones(len(corpus.texts), dtype=bool)
    rest[group] = False
    return _bleu_scores(corpus, n, rest)[:, rest].mean(1) if rest.sum() > 1 else np.full(n, math.nan)


def _bleu(corpus: NgramCounts, references, n: int) -> np.ndarray:
    references, texts = count_ngrams(references, corpus.tokenize), len(corpus.texts)
    both = count_ngrams(corpus.texts + references.texts, corpus.tokenize)
    return _bleu_scores(both, n, np.arange(len(both.texts)) >= texts)[-1, :texts]


def _bleu_scores(corpus: NgramCounts, n: int, references: np.ndarray) -> np.ndarray:
    """BLEU-1 to n of every text against all `references` (N, bool) but itself, (n, N).

    A text may use an n-gram as often as the reference that holds it most often; where that reference is the text
    itself, as often as the runner-up.
    """
    corpus.ngrams(n)  # counts all orders up to n, refuses an n that is none
    lengths, texts = corpus.lengths, len(corpus.texts)
    hits = np.empty((n, texts))
    for k in range(n):
        grams = corpus.ngrams(k + 1)
        most, holder, second = _two_most(grams, references)
        limit = np.where(holder[grams.ngram] == grams.text, second[grams.ngram], most[grams.ngram])
        hits[k] = np.bincount(grams.text, np.minimum(grams.count, limit), minlength=texts)
    orders = np.arange(1, n + 1)[:, None]
    precision = np.where(hits == 0, 0.1, hits) / np.maximum(1, lengths - orders + 1)
    # The closest reference in length counts, the shorter of two equally close.
    ordered = np.concatenate([[-math.inf], np.sort(lengths[references]), [math.inf]])
    place = np.searchsorted(ordered, lengths)
    below, above = ordered[place - 1], ordered[place + references]  # a reference skips itself
    closest = np.where(lengths - below <= above - lengths, below, above)
    brevity = np.minimum(0, 1 - closest / np.maximum(1, lengths))
    return np.where(hits[0] == 0, 0.0, np.exp(np.cumsum(np.log(precision), axis=0) / orders + brevity))


def _two_most(grams: Ngrams, references: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each n-gram its highest count in a reference, which one that is (or -1), and the next reference's count."""
    order, size = grams.by_count[references[grams.text[grams.by_count]]], len(grams.constant)
    ngram, text, count = grams.ngram[order], grams.text[order], grams.count[order]
    last = np.flatnonzero(np.diff(ngram, append=size))  # each n-gram's references lie together, by count
    most, holder, second = np.zeros(size, np.int64), np.full(size, -1), np.zeros(size, np.int64)
    most[ngram[last]], holder[ngram[last]] = count[last], text[last]
    shared = last[(last > 0) & (ngram[last - 1] == ngram[last])]
    second[ngram[shared]] = count[shared - 1]
    return most, holder, second


def _raw(corpus: NgramCounts) -> list[bytes]:
    return [(text if isinstance(text, str) else " ".join(map(str, text))).encode() for text in corpus.texts]


def _sizes(raw: list[bytes]) -> tuple[int, int]:
    joined = b" ".join(raw)
    return len(joined), len(zlib.compress(joined))
