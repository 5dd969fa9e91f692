"""The study where P is known: bigram learners fitted to Markov chains under any objective, many seeds at once, and judged
against the truth. What is exact about a pair of chains is in markov.py and comes from here too; texts are tales.py's."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from mixkit.errors import InputError, unknown
from mixkit.markov import (
    FLOOR,
    MarkovChain,
    check_unit_interval,
    forward_cross_entropy,
    forward_kl,
    jensen_shannon,
    mixed_cross_entropy,
    mixed_kl,
    reverse_cross_entropy,
    reverse_kl,
    visits_of,
)
from mixkit.objectives import MLE, MixCE, TaiLr, TokenWeighted

__all__ = [
    "KLMix",
    "MarkovChain",
    "MixCEStar",
    "average_js",
    "average_zeros",
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

SEEDS = (7, 42, 777, 4222, 99999)  # the published study's, as are the next three lines
ETAS = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
CAP, WIDTH, DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 500, 50, 0.1, 1e-3, 1e-4
TRAIN, DEVELOPMENT, BATCH, EPOCHS, PATIENCE = 50_000, 5_000, 1_000, 50, 5
GAMMAS = (1e-7, 1e-5, 1e-3, 0.1, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class MixCEStar:
    """eta * forward + (1 - eta) * reverse cross-entropy with the true P: what MixCE approximates.

    eta in [0, 1]; 1 is MLE. estimator of the reverse term: "exact" (one linear solve) or "gumbel", as published
    (straight-through Gumbel-softmax at temperature 1 over as many sampled texts as a batch has).
    Source: Zhang et al., "MixCE", ACL 2023, section 4.1.
    """

    eta: float
    estimator: Literal["exact", "gumbel"] = "exact"
    of_entropy = 0.0  # of the reverse term, log P is all

    def __post_init__(self):
        check_unit_interval("eta", self.eta)
        if self.estimator not in ("exact", "gumbel"):
            raise unknown("estimator", self.estimator, ["exact", "gumbel"])

    def weight(self, prob: torch.Tensor) -> torch.Tensor:
        """The weight of a token's nll in the forward term: eta."""
        return torch.full_like(prob, self.eta)


@dataclass(frozen=True)
class KLMix(MixCEStar):
    """eta * forward + (1 - eta) * reverse KL with the true P; eta in [0, 1]; 1 has MLE's gradient."""

    of_entropy = 1.0  # the reverse term is E_Q log Q/P


Objective = TokenWeighted | MixCEStar


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` found, for every objective and seed: tensors (objectives, seeds) and chains in batches of that shape."""

    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    gold: MarkovChain  # (seeds, V, V)
    learned: MarkovChain  # (objectives, seeds, V, V): the padding's share taken out
    average_js: torch.Tensor
    average_zeros: torch.Tensor
    best_epoch: torch.Tensor
    seconds: float  # of the whole call

    def records(self) -> list[dict]:
        """One plain dict an (objective, seed): name, coefficients, figures; KLs in nats per text; seconds a cell's share."""
        kls = forward_kl(self.gold, self.learned), reverse_kl(self.gold, self.learned)
        return [
            {
                "objective": {MLE: "mle", MixCE: "mixce", TaiLr: "tailr", MixCEStar: "mixce*", KLMix: "kls"}[type(objective)],
                **asdict(objective),
                "seed": seed,
                "avg_js": self.average_js[i, j].item(),
                "avg_0s": self.average_zeros[i, j].item(),
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
    masks: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """The published study's learner, fitted to texts of `gold` under each objective and seed, all in one batched program.

    gold: one chain for all seeds, or a batch of one a seed. A seed sets texts, start, order and dropout; objectives
    share them. Learner: embedding 50, linear 50, ReLU, dropout 0.1, linear to V + 1 (a padding token that never
    occurs is also the start); Adam 1e-3, weight decay 1e-4; stops after `epochs` or 5 epochs without a better
    development loss, whose best epoch is kept.
    Losses are sums over a text, means over the batch. Since the learner is a bigram model they depend on the batch's
    transition counts alone, so counts are all that is kept of the texts: the same loss and gradient, except that
    dropout is drawn `masks` times for each previous token and batch, where the published one draws at each position.
    The exact reverse terms are of texts without the cap of 500 tokens (no difference at V = 20; at V = 1000 it cuts
    a third), and the development loss takes them exact too, where the published one samples.
    Source: Zhang et al., "MixCE", ACL 2023, section 4.1 and its released script.
    """
    began = time.perf_counter()
    objectives = tuple(objectives) if isinstance(objectives, Sequence) else (objectives,)
    seeds = tuple(seeds)
    if not objectives or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"{len(objectives)} objectives and seeds {seeds}; at least one of each, no seed twice")
    if gold.probs.ndim == 2:
        gold = MarkovChain(gold.probs.expand(len(seeds), -1, -1), gold.words)
    if gold.probs.shape[:-2] != (len(seeds),):
        raise InputError(f"gold is a batch {tuple(gold.probs.shape[:-2])} of chains; one, or one for each of {len(seeds)} seeds")
    if not 1 <= batch <= train or development < 1 or epochs < 1 or masks < 1:
        raise InputError(f"batch {batch} must be in 1 to train ({train}); development, epochs and masks at least 1")

    vocab, shape = gold.vocab, (len(objectives), len(seeds))
    data = [_Texts(chain, train, development, batch, seed) for chain, seed in zip(gold, seeds, strict=True)]
    held_out = torch.stack([x.held_out for x in data])
    log_p = _with_padding(gold.probs)
    learner = _Learner(vocab, len(objectives), seeds)
    optimizer = torch.optim.Adam(learner.parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    exact = [i for i, x in enumerate(objectives) if isinstance(x, MixCEStar) and x.eta < 1 and x.estimator == "exact"]
    gumbel = [i for i, x in enumerate(objectives) if isinstance(x, MixCEStar) and x.eta < 1 and x.estimator == "gumbel"]

    best_loss = torch.full(shape, torch.inf)
    best_epoch, best = torch.zeros(shape, dtype=torch.long), torch.zeros(*shape, vocab, vocab + 1)
    for epoch in range(1, epochs + 1):
        for frequency in torch.stack([x.shuffled() for x in data], 1):  # (seeds, V, V + 1) a step
            log_q = learner.log_probs(masks)
            loss = _forward_terms(objectives, log_q, frequency).sum()
            if exact:
                loss = loss + _reverse_terms(objectives, exact, log_q, log_p).sum()
            if gumbel:
                loss = loss + _gumbel_terms(objectives, gumbel, learner, log_p, batch).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            log_q = learner.log_probs()
            loss = _forward_terms(objectives, log_q, held_out)
            if exact or gumbel:
                loss[exact + gumbel] += _reverse_terms(objectives, exact + gumbel, log_q, log_p)
        waiting = epoch - best_epoch <= PATIENCE
        better = waiting & (loss < best_loss)
        best_loss, best_epoch = torch.where(better, loss, best_loss), torch.where(better, epoch, best_epoch)
        best = torch.where(better[..., None, None], log_q[:, :, 0].exp(), best)
        if progress:
            progress(epoch, epochs)
        if not (epoch - best_epoch < PATIENCE).any():
            break
    learned = torch.cat([best[..., :-2], best[..., -1:]], -1).double()
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


def study(
    vocab: int = 20, zeros: float = 0.5, objectives: Sequence[Objective] | None = None, seeds: Sequence[int] = SEEDS, **fitting
) -> list[dict]:
    """The published table: `fit` on a random chain a seed (MarkovChain.random), as records.

    objectives: by default MLE, and MixCE, MixCE* and the mix of KLs at seven eta, TaiLr at seven gamma (w_min 0.2).
    """
    if objectives is None:
        objectives = [MLE(), *(kind(eta) for kind in (MixCE, MixCEStar, KLMix) for eta in ETAS)]
        objectives += [TaiLr(gamma, 0.2) for gamma in GAMMAS]
    return fit(MarkovChain.random(vocab, zeros, seeds), objectives, seeds, **fitting).records()


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


class _Texts:
    """Training and development texts of one seed, kept as transitions."""

    def __init__(self, gold: MarkovChain, train: int, development: int, batch: int, seed: int):
        self.vocab, self.train, self.batch = gold.vocab, train, batch
        text, pair = gold.sample_transitions(development + train, seed, CAP)
        held_out = text < development
        self.held_out = self._frequencies(pair[held_out], 1)[0] / development
        self.text, self.pair = text[~held_out] - development, pair[~held_out]
        self.generator = torch.Generator().manual_seed(seed)

    def shuffled(self) -> torch.Tensor:
        """Transitions per text of an epoch's batches, in a new order: (batches, V, V + 1)."""
        batches = self.train // self.batch
        place = torch.empty(self.train, dtype=torch.int32)
        place[torch.randperm(self.train, generator=self.generator)] = torch.arange(self.train, dtype=torch.int32)
        bins = (place // self.batch * self.vocab**2).index_select(0, self.text).add_(self.pair)
        return self._frequencies(bins, batches) / self.batch

    def _frequencies(self, bins: torch.Tensor, batches: int) -> torch.Tensor:
        counts = torch.bincount(bins, minlength=batches * self.vocab**2)[: batches * self.vocab**2]
        counts = counts.view(batches, self.vocab, self.vocab).float()
        return torch.cat([counts[..., :-1], torch.zeros_like(counts[..., :1]), counts[..., -1:]], -1)


class _Learner:
    """The published learner, (objectives x seeds) times: rows start and V - 1 tokens; columns V - 1 tokens, padding, end."""

    def __init__(self, vocab: int, objectives: int, seeds: Sequence[int]):
        self.shape, self.vocab = (objectives, len(seeds)), vocab
        self.generator = torch.Generator().manual_seed(seeds[0])
        starts = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            embedding = torch.randn(vocab, WIDTH, generator=generator)
            sizes = (WIDTH, WIDTH), (1, WIDTH), (WIDTH, vocab + 1), (1, vocab + 1)
            uniform = [(2 * torch.rand(size, generator=generator) - 1) / WIDTH**0.5 for size in sizes]
            starts.append([embedding, *uniform])
        stacked = [torch.stack(parts).repeat(objectives, 1, 1) for parts in zip(*starts, strict=True)]
        self.parameters = [x.requires_grad_() for x in stacked]  # each (objectives * seeds, ...)

    def log_probs(self, masks: int | None = None) -> torch.Tensor:
        """log q of every transition, (objectives, seeds, masks, V, V + 1); without `masks` one, and no dropout."""
        embedding, inner, inner_bias, outer, outer_bias = self.parameters
        hidden = torch.baddbmm(inner_bias, embedding, inner).relu()  # (cells, V, WIDTH)
        if masks is not None:  # drawn for the seeds, shared by objectives
            hidden = hidden.view(*self.shape, 1, self.vocab, WIDTH) * self.dropout(self.shape[1], masks, self.vocab, WIDTH)
            hidden = hidden.view(-1, masks * self.vocab, WIDTH)
        logits = torch.baddbmm(outer_bias, hidden, outer)
        return logits.log_softmax(-1).view(*self.shape, -1, self.vocab, self.vocab + 1)

    def dropout(self, *size: int) -> torch.Tensor:
        """0 with probability 0.1, else 1 / 0.9."""
        return (torch.rand(size, generator=self.generator) > DROPOUT).float().div_(1 - DROPOUT)


def _forward_terms(objectives: Sequence[Objective], log_q: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """sum of sg(w(q)) * nll over a text, mean over texts and masks: (objectives, seeds)."""
    with torch.no_grad():
        q = log_q.exp()
        weight = torch.stack([objective.weight(x) for objective, x in zip(objectives, q, strict=True)])
        weight *= frequency[:, None] / -log_q.shape[2]
    return (weight * log_q).sum((-3, -2, -1))


def _reverse_terms(
    objectives: Sequence[Objective], which: list[int], log_q: torch.Tensor, log_p: torch.Tensor
) -> torch.Tensor:
    """(1 - eta) E_Q[-log P] or (1 - eta) E_Q[log Q/P], exact, for those objectives: (which, seeds).

    Dropout drawn anew at each position makes the mean over masks the chain that texts would be sampled from.
    """
    share, of_entropy = _coefficients(objectives, which)
    log_q = log_q if len(which) == len(objectives) else log_q[which]
    q = log_q.exp()
    chain = _padding_goes_on_as_the_start(q.mean(2))  # (which, seeds, V + 1, V + 1)
    costs = -(chain * log_p).sum(-1)
    if of_entropy.any():
        costs = costs + of_entropy * _padding_goes_on_as_the_start((q * log_q).mean(2)).sum(-1)
    return share[..., 0] * (visits_of(chain) * costs).sum(-1)


def _gumbel_terms(
    objectives: Sequence[Objective], which: list[int], learner: _Learner, log_p: torch.Tensor, samples: int
) -> torch.Tensor:
    """What _reverse_terms gives, estimated as published: (which, seeds).

    `samples` texts are drawn token by token, each token a one-hot vector whose gradient is that of the softmax of
    logits + Gumbel noise; the gradient also runs through the token's embedding into what is drawn after it.
    """
    share, of_entropy = _coefficients(objectives, which)
    cells = torch.arange(math.prod(learner.shape)).view(learner.shape)[which].flatten()
    embedding, inner, inner_bias, outer, outer_bias = (x[cells] for x in learner.parameters)
    follows = _padding_goes_on_as_the_start(embedding @ inner)  # (cells, V + 1, WIDTH); row 0 is the start
    log_p = log_p.repeat(len(which), 1, 1)
    of_entropy = of_entropy.expand(-1, learner.shape[1], 1).reshape(-1, 1)
    cell = torch.arange(len(cells))[:, None]
    entered = follows[:, :1].expand(-1, samples, -1)
    row, alive = torch.zeros(len(cells), samples, dtype=torch.long), torch.ones(len(cells), samples)
    total = torch.zeros(len(cells))
    for _ in range(CAP):
        hidden = (entered + inner_bias).relu()
        logits = torch.baddbmm(outer_bias, hidden * learner.dropout(*hidden.shape), outer)
        noise = -torch.empty_like(logits).exponential_(generator=learner.generator).log()
        soft = (logits + noise).softmax(-1)
        token = soft.argmax(-1)
        taken = F.one_hot(token, learner.vocab + 1) + soft - soft.detach()
        gain = log_p[cell, row]
        if of_entropy.any():
            gain = gain - of_entropy[..., None] * logits.log_softmax(-1)
        total = total - ((taken * gain).sum(-1) * alive).sum(-1)
        alive = alive * (token != learner.vocab)
        left = int(alive.sum(-1).max())
        if left == 0:
            break
        order = alive.argsort(-1, descending=True)[:, :left]  # texts that have ended make room
        alive, token = alive.gather(1, order), token.gather(1, order)
        entered = taken[cell, order][..., :-1] @ follows[:, 1:]
        row = (token + 1).clamp_max(learner.vocab)
    return share[..., 0] * total.view(len(which), -1) / samples


def _coefficients(objectives: Sequence[Objective], which: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the reverse term: its share 1 - eta, and that of log Q in it; each (which, 1, 1)."""
    pairs = [(1 - objectives[i].eta, objectives[i].of_entropy) for i in which]
    return torch.tensor(pairs)[:, None, None].unbind(-1)


def _padding_goes_on_as_the_start(rows: torch.Tensor) -> torch.Tensor:
    """The padding's row, which is the start's, put after the tokens': (..., V, n) -> (..., V + 1, n)."""
    return torch.cat([rows, rows[..., :1, :]], -2)


def _with_padding(probs: torch.Tensor) -> torch.Tensor:
    """log P (seeds, V + 1, V + 1), floored, with the padding as one more token that never occurs and never leads on."""
    padded = F.pad(probs, (0, 1, 0, 1))
    return torch.cat([padded[..., :-2], padded[..., -1:], padded[..., -2:-1]], -1).clamp_min(FLOOR).log().float()
