"""Numbers that need a model to read the texts: MAUVE, k-NN precision and recall, coherence, judge perplexity.
Every number names its reader. Numbers from the texts alone belong in metrics; nothing here generates or trains."""

import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

from mixkit._common import InputError
from mixkit.losses.lm_head import token_scores
from mixkit.metrics.features import Reader, check_texts, load_reader

__all__ = [
    "PRDC",
    "JudgePerplexity",
    "MauveResult",
    "Reader",
    "SmallSampleWarning",
    "coherence",
    "human_ceiling",
    "judge_perplexity",
    "load_reader",
    "mauve",
    "mauve_by_sets",
    "prdc",
    "windows",
]

MIN_TEXTS, FEW_TEXTS = 100, 2000  # MAUVE of fewer is refused; of fewer gives a warning
KMEANS_SEEDS = (25, 26, 27, 28, 29)  # the first is mauve-text's default


class SmallSampleWarning(UserWarning):
    """MAUVE of few texts is biased upward: compare only scores of equal numbers of texts."""


@dataclass(frozen=True)
class MauveResult:
    """MAUVE and its kin between human and generated texts, means over k-means seeds.

    mauve, mauve_star: in (0, 1], 1 where the two sets fill the same clusters alike. frontier_integral,
    frontier_integral_star: in [0, 1], 0 there. The starred ones smooth the cluster counts by 1/2 (Pillutla et al.,
    JMLR 2023). per_seed: the four by name, one value a k-means seed. divergence_curve: points (exp(-5 KL(Q, R)),
    exp(-5 KL(P, R))) for mixtures R of human P and generated Q. Comparable only at equal reader, max_tokens and
    numbers of texts.
    """

    mauve: float
    mauve_star: float
    frontier_integral: float
    frontier_integral_star: float
    per_seed: dict[str, tuple[float, ...]]
    kmeans_seeds: tuple[int, ...]
    divergence_curve: tuple[tuple[float, float], ...]
    n_human: int
    n_generated: int
    n_clusters: int
    max_tokens: int
    reader: str


def mauve(
    human: Sequence[str],
    generated: Sequence[str],
    reader: Reader,
    *,
    max_tokens: int | None = None,
    kmeans_seeds: Sequence[int] = KMEANS_SEEDS,
    human_features: np.ndarray | None = None,
) -> MauveResult:
    """equals: mauve.compute_mauve(p_features=reader.features(human), q_features=reader.features(generated), seed=s)

    averaged over the seeds s of k-means, with the published settings: scaling factor 5 and a tenth of the smaller
    number of texts as the number of clusters. Pass prompt + continuation as the texts of both sides.
    human_features: reader.features(human, max_tokens), if at hand and the reader keeps no cache.

    Raises InputError for fewer than 100 texts on a side, empty texts, features that are not finite, and human texts
    that are all read alike. Generated texts that are all alike are a collapsed model and score near 0. Under 2,000
    texts a SmallSampleWarning is given: few texts bias MAUVE upward.
    Source: Pillutla et al., NeurIPS 2021; the measure's code is mauve-text, which is licensed GPL-3.
    """
    _check_counts(len(human), len(generated))
    return _mauve_of_sets(human, [generated], reader, max_tokens, kmeans_seeds, human_features)[0]


def mauve_by_sets(
    human: Sequence[str],
    sets: Sequence[Sequence[str]],
    reader: Reader,
    *,
    max_tokens: int | None = None,
    kmeans_seeds: Sequence[int] = KMEANS_SEEDS,
) -> list[MauveResult]:
    """equals: [mauve(human, generated, reader) for generated in sets]

    One score a set of samples: their spread is the sampling's, `per_seed` inside each is the clustering's.
    """
    if len(sets) == 0:
        raise InputError("sets is empty; allowed: at least one list of texts")
    _check_counts(len(human), min(map(len, sets)))
    return _mauve_of_sets(human, sets, reader, max_tokens, kmeans_seeds)


def human_ceiling(
    human: Sequence[str],
    reader: Reader,
    *,
    splits: int = 5,
    seed: int = 0,
    max_tokens: int | None = None,
    kmeans_seeds: Sequence[int] = KMEANS_SEEDS,
) -> list[MauveResult]:
    """equals: [mauve(half, other_half, reader) for each of `splits` random halvings of the human texts]

    The score of a model that could not be told from people. Hold it against scores of half as many texts: each side
    has len(human) // 2 here, so at least 200 texts are needed.
    """
    if not isinstance(splits, int) or splits < 1:
        raise InputError(f"splits is {splits!r}; allowed: a whole number from 1")
    half = len(human) // 2
    _check_counts(half, half)
    features, random = reader.features(human, max_tokens), np.random.default_rng(seed)
    halvings = [random.permutation(len(human)) for _ in range(splits)]
    return [
        _mauve_of_features(features[p[:half]], features[p[half : 2 * half]], reader, max_tokens, kmeans_seeds)
        for p in halvings
    ]


def _mauve_of_sets(human, sets, reader, max_tokens, kmeans_seeds, human_features=None) -> list[MauveResult]:
    """Two calls of the reader: the human texts, which other sets are held against too, and all sets together."""
    if human_features is None:
        human_features = reader.features(human, max_tokens)
    features = reader.features([text for texts in sets for text in texts], max_tokens)
    if np.shape(human_features) != (len(human), features.shape[1]):
        raise InputError(
            f"human_features has the shape {np.shape(human_features)}; allowed: {(len(human), features.shape[1])}"
        )
    parts = np.split(features, np.cumsum([len(texts) for texts in sets])[:-1])
    return [_mauve_of_features(human_features, part, reader, max_tokens, kmeans_seeds) for part in parts]


def _check_counts(n_human: int, n_generated: int) -> None:
    n = min(n_human, n_generated)
    if n < MIN_TEXTS:
        raise InputError(
            f"MAUVE of {n_human} human and {n_generated} generated texts; allowed: at least {MIN_TEXTS} each"
        )
    if n < FEW_TEXTS:
        warnings.warn(
            f"MAUVE of {n} texts is biased upward; compare only equal numbers of texts, {FEW_TEXTS} or more at best",
            SmallSampleWarning,
            stacklevel=3,
        )


def _mauve_of_features(human, generated, reader, max_tokens, kmeans_seeds) -> MauveResult:
    from mauve import compute_mauve  # seconds to import

    human, generated = np.asarray(human), np.asarray(generated)
    for side, features in (("human", human), ("generated", generated)):
        if not np.isfinite(features).all():
            raise InputError(f"the {side} features of reader {reader.name!r} hold nan or inf")
    if (human == human[0]).all():
        raise InputError(f"all {len(human)} human texts have the same features under reader {reader.name!r}")
    if len(kmeans_seeds) == 0:
        raise InputError("kmeans_seeds is empty; allowed: at least one seed")
    n_clusters = max(2, round(min(len(human), len(generated)) / 10))
    with _quiet_kmeans():
        outs = [
            compute_mauve(
                p_features=human, q_features=generated, num_buckets=n_clusters, mauve_scaling_factor=5, seed=int(s)
            )
            for s in kmeans_seeds
        ]
    names = ("mauve", "mauve_star", "frontier_integral", "frontier_integral_star")
    per_seed = {name: tuple(float(getattr(out, name)) for out in outs) for name in names}
    curve = np.mean([out.divergence_curve for out in outs], axis=0)
    return MauveResult(
        **{name: float(np.mean(values)) for name, values in per_seed.items()},
        per_seed=per_seed,
        kmeans_seeds=tuple(int(s) for s in kmeans_seeds),
        divergence_curve=tuple(map(tuple, curve.tolist())),
        n_human=len(human),
        n_generated=len(generated),
        n_clusters=n_clusters,
        max_tokens=reader.limit(max_tokens),
        reader=reader.name,
    )


@contextmanager
def _quiet_kmeans():
    """mauve-text's k-means on torch's number of threads, without the advice on stderr to take fewer clusters.

    faiss asks for 39 points a cluster and MAUVE's rule gives it 20: only the advice depends on that bound.
    """
    import faiss
    from threadpoolctl import threadpool_limits

    quiet = SimpleNamespace(Kmeans=partial(faiss.Kmeans, min_points_per_centroid=1))
    # `mauve.compute_mauve` is the function; its module is found under that name in sys.modules only.
    with (
        mock.patch.object(sys.modules["mauve.compute_mauve"], "faiss", quiet),
        threadpool_limits(torch.get_num_threads()),
    ):
        yield


@dataclass(frozen=True)
class PRDC:
    """k-NN precision, recall, density and coverage of generated texts against human ones.

    precision, recall, coverage in [0, 1]; density from 0, around 1 where the sets are alike. Comparable only at equal
    reader, k, max_tokens and numbers of texts.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    n_human: int
    n_generated: int
    max_tokens: int
    reader: str


def prdc(
    human: Sequence[str], generated: Sequence[str], reader: Reader, *, k: int = 5, max_tokens: int | None = None
) -> PRDC:
    """equals: prdc.compute_prdc(reader.features(human), reader.features(generated), nearest_k=k)

    A ball around each text reaches to its k-th nearest neighbour in its own set. precision: generated texts that lie in
    some human ball (quality); recall: human texts that lie in some generated ball (diversity); density: human balls
    that a generated text lies in, over k; coverage: human balls that hold a generated text. Distances are euclidean.
    Raises InputError for k outside 1 to the smaller number of texts - 1.
    Source: Kynkäänniemi et al., NeurIPS 2019 (precision, recall); Naeem et al., ICML 2020 (density, coverage).
    """
    from sklearn.metrics import pairwise_distances_chunked  # comes with mauve-text

    smaller = min(len(human), len(generated))
    if not isinstance(k, int) or not 1 <= k < smaller:
        raise InputError(f"k is {k!r}; allowed: 1 to {smaller - 1}, less than the texts on either side")
    features = reader.features([*human, *generated], max_tokens)
    human, generated = features[: len(human)], features[len(human) :]

    def radii(points):  # the nearest "neighbour" of a text is itself
        return np.concatenate(
            list(pairwise_distances_chunked(points, reduce_func=lambda rows, _: np.partition(rows, k, axis=1)[:, k]))
        )

    human_radii, generated_radii = radii(human), radii(generated)
    balls = np.zeros(len(generated), dtype=np.int64)  # human balls that each generated text lies in
    recalled, covered, start = 0, 0, 0
    for distances in pairwise_distances_chunked(human, generated):  # (some human texts, all generated texts)
        inside = distances < human_radii[start : start + len(distances), None]
        balls += inside.sum(0)
        covered += inside.any(1).sum()
        recalled += (distances < generated_radii).any(1).sum()
        start += len(distances)
    return PRDC(
        precision=float((balls > 0).mean()),
        recall=float(recalled / len(human)),
        density=float(balls.mean() / k),
        coverage=float(covered / len(human)),
        k=k,
        n_human=len(human),
        n_generated=len(generated),
        max_tokens=reader.limit(max_tokens),
        reader=reader.name,
    )


def windows(texts: Sequence[str], words: int, n: int = 10_000, seed: int = 0) -> list[str]:
    """equals: random.sample([w[i : i + words] for w in map(str.split, texts) for i in range(len(w) - words + 1)], n)

    Fragments of exactly `words` words (split at white space), drawn without replacement from those of all texts: a
    long text gives more. `mauve` and the others then compare sets of texts of different lengths at one length.
    Raises InputError where the texts hold fewer than n windows.
    Source: the length-controlled metrics of Zhang et al., ACL 2023 (MixCE), which takes max_tokens / 1.35 words.
    """
    check_texts(texts)
    if words < 1 or n < 1:
        raise InputError(f"words is {words!r} and n is {n!r}; allowed: both from 1")
    split = [text.split() for text in texts]
    ends = np.cumsum([max(0, len(w) - words + 1) for w in split])
    if ends[-1] < n:
        raise InputError(f"{n} windows of {words} words asked of texts that hold {ends[-1]}; ask for fewer or shorter")
    drawn = np.random.default_rng(seed).choice(ends[-1], size=n, replace=False)
    owners = np.searchsorted(ends, drawn, side="right")
    fragments = []
    for owner, at in zip(owners, drawn, strict=True):
        stop = len(split[owner]) - (ends[owner] - 1 - at)
        fragments.append(" ".join(split[owner][stop - words : stop]))
    return fragments


def coherence(
    prompts: Sequence[str], continuations: Sequence[str], reader: Reader, *, max_tokens: int | None = None
) -> np.ndarray:
    """equals: [cosine(reader.features([p]), reader.features([c])) for p, c in zip(prompts, continuations)]

    Float64 [texts], in [-1, 1]; 1 where the continuation is read like its prompt, so a model that repeats the prompt
    scores highest: hold it against the human continuations' value. nan where prompt or continuation is empty.
    Meant for an encoder: the MixCE paper takes SimCSE; `minilm` is of the same kind.
    Raises InputError for lists of different lengths and where every pair has an empty side.
    """
    check_texts(prompts, "prompts")
    if len(prompts) != len(continuations):
        raise InputError(f"{len(prompts)} prompts and {len(continuations)} continuations; allowed: as many of each")
    full = [i for i in range(len(prompts)) if prompts[i].strip() and continuations[i].strip()]
    if not full:
        raise InputError(f"all {len(prompts)} pairs of prompt and continuation have an empty side: no coherence")
    sides = []
    for texts in (prompts, continuations):  # two calls: the prompts are those of other continuations too
        features = reader.features([texts[i] for i in full], max_tokens).astype(np.float64)
        sides.append(features / np.linalg.norm(features, axis=1, keepdims=True))
    cosines = np.full(len(prompts), np.nan)
    cosines[full] = (sides[0] * sides[1]).sum(1)
    return cosines


@dataclass(frozen=True, eq=False)
class JudgePerplexity:
    """Per text: nll, the sum of -log probability over its scored tokens, in nats [texts]; tokens, how many [texts].

    Tokens and probabilities are the judge's: no comparison between judges.
    """

    nll: np.ndarray
    tokens: np.ndarray
    judge: str

    @property
    def perplexity(self) -> float:
        """exp(sum of nll / sum of tokens), from 1: of the corpus, so that every token counts the same."""
        return float(np.exp(self.nll.sum() / self.tokens.sum()))


@torch.no_grad()
def judge_perplexity(
    texts: Sequence[str],
    judge: Reader,
    *,
    judged: str | None,
    prompts: Sequence[str] | None = None,
    max_tokens: int | None = None,
) -> JudgePerplexity:
    """equals: cross_entropy(model(bos + prompt + text).logits, ..., reduction="sum") over the tokens of `text`

    for each text: how plausible a causal LM that did not write the texts finds them; low where they are plausible, or
    merely repetitive. judged: the name of the model that wrote the texts, None for people. Text and prompt are
    tokenized apart and joined; at most `max_tokens` tokens of the whole are read, and tokens beyond are not counted.
    The first token of all (bos, if the tokenizer has one) is context only. A text without tokens counts 0 of them; a
    special token that a text spells out counts as letters.

    Raises InputError for a judge that judges itself or is no causal LM, for prompts that leave no room for the text,
    and where no token at all is scored.
    """
    head = judge.model.get_output_embeddings()
    if judged == judge.name:
        raise InputError(f"judge {judge.name!r} is the model that wrote the texts; allowed: any other causal LM")
    if judge.is_encoder or head is None:
        raise InputError(f"judge {judge.name!r} gives no next-token probabilities; allowed: a causal LM with its head")
    check_texts(texts)
    if prompts is not None and len(prompts) != len(texts):
        raise InputError(f"{len(prompts)} prompts and {len(texts)} texts; allowed: as many of each")
    limit = judge.limit(max_tokens)
    tokenize = partial(judge.tokenizer, add_special_tokens=False, split_special_tokens=True, verbose=False)
    start = [] if judge.tokenizer.bos_token_id is None else [judge.tokenizer.bos_token_id]
    contexts = [start] * len(texts) if prompts is None else [start + p for p in tokenize(list(prompts))["input_ids"]]
    if full := sum(len(context) >= limit for context in contexts):
        raise InputError(f"{full} of {len(texts)} prompts fill all {limit} tokens that judge {judge.name!r} reads")
    texts_ids = tokenize(list(texts))["input_ids"]
    ids = [(context + text)[:limit] for context, text in zip(contexts, texts_ids, strict=True)]
    context_lengths = torch.tensor([max(1, len(context)) for context in contexts])
    scored = [i for i, row in enumerate(ids) if len(row) > context_lengths[i]]
    if not scored:
        raise InputError(f"none of {len(texts)} texts has a token that judge {judge.name!r} can score")
    nll, tokens, checked = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64), False
    for at, hidden, mask, inputs in judge.hidden_states([ids[i] for i in scored]):
        rows = [scored[i] for i in at]
        if not checked:
            _check_head(judge, head, hidden[0, 0], inputs[:1, :1])
            checked = True
        positions = torch.arange(1, inputs.shape[1], device=inputs.device)
        targets = mask[:, 1:].bool() & (positions >= context_lengths[rows].to(inputs.device)[:, None])  # (B, T-1)
        with judge.autocast():
            scores = token_scores(
                hidden[:, :-1][targets], head.weight, inputs[:, 1:][targets], bias=getattr(head, "bias", None)
            )
        per_token = torch.zeros(targets.shape, dtype=torch.float64, device="cpu")
        targets = targets.cpu()
        per_token[targets] = scores.nll.double().cpu()
        nll[rows], tokens[rows] = per_token.sum(1).numpy(), targets.sum(1).numpy()
    if not np.isfinite(nll).all():
        raise InputError(f"the probabilities of judge {judge.name!r} are not finite: its model has diverged")
    return JudgePerplexity(nll, tokens, judge.name)


def _check_head(judge: Reader, head: torch.nn.Module, hidden: torch.Tensor, first: torch.Tensor) -> None:
    """Refuses models that scale or cap their logits after the output embedding: hidden @ weight is not their logit."""
    with judge.autocast():
        own, ours = judge.model(input_ids=first).logits[0, 0].float(), head(hidden).float()
    if not torch.linalg.vector_norm(own - ours) <= 0.02 * torch.linalg.vector_norm(own):
        raise InputError(f"judge {judge.name!r} changes its logits after the output embedding; take another judge")
