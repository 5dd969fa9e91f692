"""Metrics for which a model reads the texts: MAUVE, precision and recall, coherence and judge perplexity."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import torch

from mixkit._common import Float, InputError, Int
from mixkit.metrics.features import Reader, check_texts
from mixkit.models.likelihood import text_nll
from mixkit.models.loading import autocast

KMEANS_SEEDS = (25, 26, 27, 28, 29)  # the first is mauve-text's default
MIN_TEXTS, ADVISED_TEXTS = 100, 2000  # of MAUVE, on either side


class SmallSampleWarning(UserWarning):
    """MAUVE of few texts is biased upward. Compare only scores of equal numbers of texts."""


@dataclass(frozen=True)
class MauveResult:
    """Means over k-means seeds."""

    mauve: float  # in (0, 1]; 1 where the two sets of texts are alike
    mauve_star: float  # the same with cluster counts smoothed by 1/2 (Pillutla et al., JMLR 2023)
    frontier_integral: float  # in [0, 1]; 0 where the two sets are alike


def mauve(
    human: Sequence[str],
    generated: Sequence[str],
    reader: Reader,
    *,
    max_tokens: int | None = None,
    kmeans_seeds: Sequence[int] = KMEANS_SEEDS,
) -> MauveResult:
    """equals: mauve_of_features(reader.features(human, max_tokens), reader.features(generated, max_tokens))

    Both sides: prompt + continuation. Compare only scores with equal readers, max_tokens and numbers of texts.
    """
    human_features, generated_features = (reader.features(texts, max_tokens) for texts in (human, generated))
    return mauve_of_features(human_features, generated_features, kmeans_seeds=kmeans_seeds)


def mauve_of_features(
    human: Float[np.ndarray, "N D"], generated: Float[np.ndarray, "M D"], *, kmeans_seeds: Sequence[int] = KMEANS_SEEDS
) -> MauveResult:
    """equals: mauve.compute_mauve(p_features=human, q_features=generated, seed=s), averaged over the seeds s

    As published: scaling factor 5, and a tenth as many clusters as texts on the smaller side. The same few texts,
    repeated on both sides, score below 1 (0.75, say): k-means finds no more clusters than there are different texts.
    Fewer than 2,000 texts on a side bias MAUVE upward and give a SmallSampleWarning.
    Raises InputError for fewer than 100 texts on a side, or equal human features.
    Source: Pillutla et al., NeurIPS 2021. The code is mauve-text, which is licensed GPL-3.
    """
    texts = min(len(human), len(generated))
    if texts < MIN_TEXTS:
        sizes = f"{len(human)} human and {len(generated)} generated texts"
        raise InputError(f"MAUVE of {sizes}; allowed: at least {MIN_TEXTS} each")
    if texts < ADVISED_TEXTS:
        advice = f"compare only equal numbers of texts, {ADVISED_TEXTS} or more if possible"
        warnings.warn(f"MAUVE of {texts} texts is biased upward; {advice}", SmallSampleWarning, stacklevel=2)
    if (human == human[0]).all():
        raise InputError(f"all {len(human)} human texts have the same features; take another reader")
    import faiss
    from mauve import compute_mauve  # takes seconds to import
    from threadpoolctl import threadpool_limits

    # faiss wants 39 points a cluster and MAUVE's rule gives it 20. A bound of 1 only silences faiss's advice on stderr.
    quiet_kmeans = partial(faiss.Kmeans, min_points_per_centroid=1)
    with mock.patch.object(faiss, "Kmeans", quiet_kmeans), threadpool_limits(torch.get_num_threads()):
        results = [compute_mauve(p_features=human, q_features=generated, seed=seed) for seed in kmeans_seeds]
    names = ("mauve", "mauve_star", "frontier_integral")
    return MauveResult(**{name: float(np.mean([getattr(result, name) for result in results])) for name in names})


@dataclass(frozen=True)
class PrecisionRecall:
    """See `precision_recall_of_features`. In [0, 1], but density is from 0, and around 1 where the sets are alike."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    human: Sequence[str], generated: Sequence[str], reader: Reader, *, k: int = 5, max_tokens: int | None = None
) -> PrecisionRecall:
    """equals: precision_recall_of_features(reader.features(human, max_tokens), reader.features(generated, max_tokens))

    Compare only values with equal readers, k, max_tokens and numbers of texts.
    """
    return precision_recall_of_features(reader.features(human, max_tokens), reader.features(generated, max_tokens), k=k)


def precision_recall_of_features(
    human: Float[np.ndarray, "N D"], generated: Float[np.ndarray, "M D"], *, k: int = 5
) -> PrecisionRecall:
    """equals: prdc.compute_prdc(human, generated, nearest_k=k)

    A text's ball reaches to its k-th nearest neighbour in its own set, in euclidean distance. precision: share of
    generated texts in some human ball (quality). recall: share of human texts in some generated ball (diversity).
    density: mean number of human balls around a generated text, over k. coverage: share of human balls with a generated
    text. Texts that occur more than k times have balls of radius 0, in which nothing lies.
    Raises InputError for k outside 1 to the smaller number of texts - 1.
    Source: Kynkäänniemi et al., NeurIPS 2019 (precision, recall); Naeem et al., ICML 2020 (density, coverage).
    """
    from sklearn.metrics import pairwise_distances_chunked  # comes with mauve-text

    smaller = min(len(human), len(generated))
    if not 1 <= k < smaller:
        raise InputError(f"k is {k!r}; allowed: 1 to {smaller - 1}, less than the texts on either side")

    def radii(points: np.ndarray) -> np.ndarray:
        chunks = pairwise_distances_chunked(points)  # place 0 of a sorted row is the text itself
        return np.concatenate([np.partition(distances, k, axis=1)[:, k] for distances in chunks])

    # The package prdc holds three N x N float64 matrices, 600 MB at 5,000 texts. This needs a few rows at a time.
    human_radii, generated_radii = radii(human), radii(generated)
    balls = np.zeros(len(generated), dtype=np.int64)  # human balls around each generated text
    recalled = covered = start = 0
    for distances in pairwise_distances_chunked(human, generated):  # (some human texts, all generated texts)
        inside = distances < human_radii[start : start + len(distances), None]
        balls += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((distances < generated_radii).any(1).sum())
        start += len(distances)
    precision, density = float((balls > 0).mean()), float(balls.mean() / k)
    return PrecisionRecall(precision, recalled / len(human), density, covered / len(human))


def coherence(
    prompts: Sequence[str], continuations: Sequence[str], reader: Reader, *, max_tokens: int | None = None
) -> Float[np.ndarray, " N"]:
    """equals: [cosine(reader.features([p]), reader.features([c])) for p, c in zip(prompts, continuations)]

    In [-1, 1]; nan where one is empty. To repeat the prompt scores highest: compare with the human value. Use an
    encoder, such as `minilm`; the MixCE paper uses SimCSE. Raises InputError for lists of different lengths, or where
    every pair has an empty side.
    """
    for texts, what in ((prompts, "prompts"), (continuations, "continuations")):
        check_texts(texts, what)
    prompts, continuations = list(prompts), list(continuations)  # a pandas column would be read by its index
    if len(prompts) != len(continuations):
        raise InputError(f"{len(prompts)} prompts and {len(continuations)} continuations; allowed: as many of each")
    pairs = [i for i in range(len(prompts)) if prompts[i].strip() and continuations[i].strip()]
    if not pairs:
        raise InputError(f"all {len(prompts)} pairs of prompt and continuation have an empty side: no coherence")
    # Two calls: the features of the prompts are cached for the continuations of other models.
    a, b = (reader.features([texts[i] for i in pairs], max_tokens).astype(float) for texts in (prompts, continuations))
    cosines = np.full(len(prompts), np.nan)
    cosines[pairs] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines


def judge_perplexity(
    texts: Sequence[str],
    judge: Reader,
    *,
    judged: str | None,
    prompts: Sequence[str] | None = None,
    max_tokens: int | None = None,
) -> tuple[Float[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """equals: text_nll(judge.model, judge.tokenizer, texts, prompts=prompts, max_tokens=judge.limit(max_tokens) - 1)

    Perplexity is exp(nll.sum() / tokens.sum()), from 1; compare only values of one judge. Low values mean plausible or
    repetitive texts. judged: the name of the model that wrote them, None for people. prompts: empty by default.
    `max_tokens` counts the start token, prompt and text; the end is not scored. Raises InputError for a judge that
    wrote the texts or has no LM head, for prompts that leave no room for the text, and where no token is scored.
    """
    check_texts(texts)
    if judged == judge.name:
        raise InputError(f"judge {judge.name!r} is the model that wrote the texts; allowed: any other causal LM")
    if judge.is_encoder or judge.model.get_output_embeddings() is None:
        raise InputError(f"judge {judge.name!r} gives no next-token probabilities; allowed: a causal LM with its head")
    contexts = [""] * len(texts) if prompts is None else list(prompts)
    limit = judge.limit(max_tokens) - 1  # without the start token
    with autocast(judge.model):
        nll, tokens = text_nll(judge.model, judge.tokenizer, list(texts), prompts=contexts, max_tokens=limit)
    if not tokens.any():
        raise InputError(f"none of {len(texts)} texts has a token that judge {judge.name!r} can score")
    return nll.numpy(), tokens.long().numpy()
