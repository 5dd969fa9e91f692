"""Where P is a Markov chain: bigram learners fitted to it under any objective, many at once, and judged by the truth.
The front door of markov.py (what is exact about chains) and bigrams.py (the learner); longer texts are tales.py's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from mixkit._common import InputError, check_unit_interval, unknown
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import MLE, MixCE, TaiLr, TokenWeighted
from mixkit.toys.bigrams import (
    Adam,
    Learner,
    Texts,
    forward_slope,
    forward_terms,
    gumbel_terms,
    log_with_padding,
    reverse_slope,
    reverse_terms,
)
from mixkit.toys.markov import (
    MarkovChain,
    forward_cross_entropy,
    forward_kl,
    jensen_shannon,
    mixed_cross_entropy,
    mixed_kl,
    reverse_cross_entropy,
    reverse_kl,
)
from mixkit.toys.matching import MatchingTerms
from mixkit.toys.mixture import JensenShannon, MixtureTerms, exact_jensen_shannon

__all__ = [
    "JensenShannon",
    "KLMix",
    "MarkovChain",
    "MixCEStar",
    "average_js",
    "average_zeros",
    "exact_jensen_shannon",
    "fit",
    "forward_cross_entropy",
    "forward_kl",
    "jensen_shannon",
    "mixed_cross_entropy",
    "mixed_kl",
    "reverse_cross_entropy",
    "reverse_kl",
    "study",
]

SEEDS = (7, 42, 777, 4222, 99999)  # this and the next three lines are the published study's
ETAS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
TRAIN, DEVELOPMENT, BATCH, EPOCHS, PATIENCE = 50_000, 5_000, 1_000, 50, 5
GAMMAS = (1e-7, 1e-5, 1e-3, 0.1, 0.5, 0.8, 1.0)
ALPHAS = (1e-3, 1e-2, 0.1)


@dataclass(frozen=True)
class MixCEStar:
    """eta * forward + (1 - eta) * reverse cross-entropy with the true P: what MixCE approximates.

    eta in [0, 1]; 1 is MLE. estimator of the reverse term's gradient:
      "exact"   of the value, by one linear solve
      "local"   what a token costs at once, weighted by exact visits that are held fixed: blind to where the token leads
                and to what ending the text spares
      "gumbel"  as published: straight-through Gumbel-softmax, temperature 1, as many sampled texts as a batch has.
                Biased: nearly parallel to "local" (its cosine is 0.99 at the start of training), not to "exact"
    The difference matters: texts cost what all their tokens cost, so at small eta "exact" learns to write short ones.
    Source: Zhang et al., "MixCE", ACL 2023, section 4.1.
    """

    eta: float
    estimator: Literal["exact", "local", "gumbel"] = "exact"
    of_entropy = 0.0  # of the reverse term, log P is all

    def __post_init__(self):
        check_unit_interval("eta", self.eta)
        if self.estimator not in ("exact", "local", "gumbel"):
            raise unknown("estimator", self.estimator, ["exact", "local", "gumbel"])

    def weight(self, prob: torch.Tensor) -> torch.Tensor:
        """The weight of a token's nll in the forward term: eta."""
        return torch.full_like(prob, self.eta)


@dataclass(frozen=True)
class KLMix(MixCEStar):
    """eta * forward + (1 - eta) * reverse KL with the true P; eta in [0, 1]; 1 has MLE's gradient."""

    of_entropy = 1.0  # the reverse term is E_Q log Q/P


Objective = TokenWeighted | MixCEStar | JensenShannon | SequenceMatch
NAMES = {
    MLE: "mle",
    MixCE: "mixce",
    TaiLr: "tailr",
    MixCEStar: "mixce*",
    KLMix: "kls",
    JensenShannon: "js",
    SequenceMatch: "sequencematch",
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` found: tensors (objectives, seeds), and the chains learned, in a batch of that shape."""

    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    gold: MarkovChain  # (seeds, V, V)
    learned: MarkovChain  # (objectives, seeds, V, V): the padding's share taken out
    average_js: torch.Tensor
    average_zeros: torch.Tensor
    best_epoch: torch.Tensor
    seconds: float  # of the whole call

    def records(self) -> list[dict]:
        """One plain dict an (objective, seed): names and coefficients, figures (KLs in nats a text), share of time.

        avg_0s is None where nothing is forbidden.
        """
        forbids = (self.gold.probs == 0).any(-1).any(-1).tolist()
        kls = forward_kl(self.gold, self.learned), reverse_kl(self.gold, self.learned)
        return [
            {
                "objective": NAMES[type(objective)],
                **asdict(objective),
                "seed": seed,
                "avg_js": self.average_js[i, j].item(),
                "avg_0s": self.average_zeros[i, j].item() if forbids[j] else None,
                "forward_kl": kls[0][i, j].item(),
                "reverse_kl": kls[1][i, j].item(),
                "epoch": int(self.best_epoch[i, j]),
                "seconds": self.seconds / len(self.objectives) / len(self.seeds),
            }
            for i, objective in enumerate(self.objectives)
            for j, seed in enumerate(self.seeds)
        ]


def fit(
    gold: MarkovChain,
    objectives: Objective | Sequence[Objective],
    seeds: Sequence[int] = SEEDS,
    *,
    epochs: int = EPOCHS,
    train: int = TRAIN,
    development: int = DEVELOPMENT,
    batch: int = BATCH,
    patience: int = PATIENCE,
    masks: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """The published study's learner, fitted to texts of `gold` under each objective and seed, in one batched program.

    gold: one chain for all seeds, or a batch of one a seed. A seed sets texts, start, order and dropout; objectives
    share them. Learner: embedding 50, linear 50, ReLU, dropout 0.1, linear to V + 1 (a padding token that never
    occurs is also the start); Adam 1e-3, weight decay 1e-4; stops after `epochs`, or `patience` of them without a
    better development loss, whose best epoch is kept. What is fitted beside changes no result, but for "gumbel", whose
    noise is drawn for all at once.
    Losses are sums over a text, means over the batch. Since the learner is a bigram model they depend on the batch's
    transition counts alone, so counts are all that is kept of the texts: the same loss and gradient, except that
    dropout is drawn `masks` times for each previous token and batch, where the published one draws at each position
    (at V = 20, one is too noisy: avg. js of MLE rises by half; 4, 8 and 16 give the same). Of Jensen-Shannon, which no
    counts suffice for, each text's own counts are kept; of SequenceMatch, counts discounted by the place in the text.
    The exact reverse terms are of texts without the cap of 500 tokens (no difference at V = 20; at V = 1000 it cuts
    a third), and the development loss takes them exact too, where the published one samples.
    Source: Zhang et al., "MixCE", ACL 2023, section 4.1 and its released script.
    """
    began = time.perf_counter()
    objectives = tuple(objectives) if isinstance(objectives, list | tuple) else (objectives,)
    seeds = tuple(seeds)
    for objective in objectives:
        if type(objective) not in NAMES:
            raise InputError(
                f"{objective!r} cannot be fitted; allowed: {', '.join(x.__name__ for x in NAMES)} instances"
            )
    if not objectives or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"{len(objectives)} objectives and seeds {seeds}; at least one of each, no seed twice")
    if gold.probs.ndim == 2:
        gold = MarkovChain(gold.probs.expand(len(seeds), -1, -1), gold.words)
    if gold.probs.shape[:-2] != (len(seeds),):
        batched = tuple(gold.probs.shape[:-2])
        raise InputError(f"gold is a batch {batched} of chains; give one, or one for each of {len(seeds)} seeds")
    check_counts(batch=batch, development=development, epochs=epochs, patience=patience, masks=masks)
    if batch > train:
        raise InputError(f"batch is {batch}; it must be in [1, {train}], train")

    vocab, shape = gold.vocab, (len(objectives), len(seeds))
    data = [Texts(gold[i], train, development, batch, seed) for i, seed in enumerate(seeds)]
    held_out = torch.stack([x.held_out for x in data])
    log_p = log_with_padding(gold.probs)
    learner, noise = Learner(vocab, len(objectives), seeds), torch.Generator().manual_seed(seeds[0])
    mixed, matched = ([i for i, x in enumerate(objectives) if isinstance(x, y)] for y in (JensenShannon, SequenceMatch))
    counted = [i for i in range(len(objectives)) if i not in mixed + matched]
    reverse = [i for i in counted if isinstance(objectives[i], MixCEStar) and objectives[i].eta < 1]
    gumbel = [i for i in reverse if objectives[i].estimator == "gumbel"]
    exact = [i for i in reverse if i not in gumbel]
    by_counts, by_reverse, by_exact, by_gumbel, by_mixture, by_matching = (
        [objectives[i] for i in which] for which in (counted, reverse, exact, gumbel, mixed, matched)
    )
    slopes = [
        (counted, lambda logits, step: forward_slope(by_counts, logits, frequency[step])),
        (exact, lambda logits, step: reverse_slope(by_exact, logits, log_p)),
    ]
    values = [
        (counted, lambda logits: forward_terms(by_counts, logits.log_softmax(-1), held_out)),
        (reverse, lambda logits: reverse_terms(by_reverse, logits.log_softmax(-1), log_p.double())),
    ]
    parameters = [*learner.parameters]
    if mixed:
        mixture = MixtureTerms(by_mixture, gold, data)
        slopes, values = [*slopes, (mixed, mixture.slope)], [*values, (mixed, mixture.value)]
    if matched:
        matching = MatchingTerms(by_matching, data)
        slopes, values = [*slopes, (matched, matching.slope)], [*values, (matched, matching.value)]
        parameters.append(matching.ended)
    optimizer = Adam(parameters, LEARNING_RATE, WEIGHT_DECAY)

    best_loss, best_epoch = torch.full(shape, torch.inf).double(), torch.zeros(shape, dtype=torch.long)
    best = torch.zeros(*shape, vocab, vocab + 1).double()
    for epoch in range(1, epochs + 1):
        frequency = torch.stack([x.shuffled() for x in data], 1)  # (steps, seeds, V, V + 1)
        for step in range(len(frequency)):
            with torch.no_grad():
                logits = learner.logits(masks)
            slope = torch.zeros_like(logits)
            for which, slope_of in slopes:
                if which:
                    slope[which] += slope_of(logits[which], step)
            learner.backward(slope)
            if gumbel:
                gumbel_terms(by_gumbel, learner, gumbel, log_p, batch, noise).sum().backward()
            optimizer.step()
        with torch.no_grad():
            logits = learner.logits().double()  # late epochs differ in the fifth digit
        loss = torch.zeros(shape).double()
        for which, value_of in values:
            if which:
                loss[which] += value_of(logits[which])
        waiting = epoch - best_epoch <= patience
        better = waiting & (loss < best_loss)
        best_loss, best_epoch = torch.where(better, loss, best_loss), torch.where(better, epoch, best_epoch)
        best = torch.where(better[..., None, None], logits[:, :, 0].softmax(-1), best)
        if progress:
            progress(epoch, epochs)
        if not (epoch - best_epoch < patience).any():
            break
    learned = torch.cat([best[..., :-2], best[..., -1:]], -1)
    return Fitted(
        objectives,
        seeds,
        gold,
        MarkovChain(learned / learned.sum(-1, keepdim=True), gold.words),
        average_js(gold.probs, learned),
        average_zeros(gold.probs, learned),
        best_epoch,
        time.perf_counter() - began,
    )


def check_counts(**counts: int) -> None:
    """Raises InputError unless each is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count!r}; it must be at least 1")


def study(
    vocab: int = 20,
    zeros: float = 0.5,
    objectives: Sequence[Objective] | None = None,
    seeds: Sequence[int] = SEEDS,
    **fitting,
) -> list[dict]:
    """The published table: `fit` on a random chain a seed (MarkovChain.random), as records.

    objectives: by default those of `objectives_of_study`. `fitting` is passed on to `fit`.
    """
    objectives = objectives_of_study() if objectives is None else objectives
    return fit(MarkovChain.random(vocab, zeros, seeds), objectives, seeds, **fitting).records()


def objectives_of_study() -> list[Objective]:
    """MLE; MixCE, and MixCE* and the mix of KLs with exact and with local gradients, at seven eta; Jensen-Shannon at
    the five between 0 and 1; TaiLr at seven gamma (w_min 0.2); SequenceMatch at three alpha."""
    objectives = [MLE(), *(MixCE(eta) for eta in ETAS)]
    objectives += [kind(eta, x) for kind in (MixCEStar, KLMix) for x in ("exact", "local") for eta in ETAS]
    objectives += [JensenShannon(eta) for eta in ETAS if 0 < eta < 1]
    return objectives + [TaiLr(gamma, 0.2) for gamma in GAMMAS] + [SequenceMatch(alpha) for alpha in ALPHAS]


def average_js(gold: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """equals: (scipy.spatial.distance.jensenshannon(learned, gold, axis=-1) ** 2).mean(-1)

    Transitions (..., V, V) -> (...): the mean over rows of the Jensen-Shannon divergence, in [0, log 2] nats.
    Rows of `learned` need not sum to 1; they are rescaled.
    """
    learned = learned / learned.sum(-1, keepdim=True)
    middle = (gold + learned) / 2
    halves = [torch.xlogy(x, x / middle.clamp_min(torch.finfo(x.dtype).tiny)).sum(-1) for x in (gold, learned)]
    return ((halves[0] + halves[1]) / 2).mean(-1)


def average_zeros(gold: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """equals: learned[gold == 0].mean()

    Transitions (..., V, V) -> (...): the mean learned probability of what the truth forbids, in [0, 1]; nan where
    nothing is forbidden.
    """
    forbidden = gold == 0
    return (learned * forbidden).sum((-2, -1)) / forbidden.sum((-2, -1))
