"""Markov chains with exact divergences, and bigram models trained on a chain under different objectives."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from mixkit._common import InputError, unknown
from mixkit.losses.definitions import ETA
from mixkit.losses.token_weighted import MLE, MixCE, TaiLr, TokenWeighted

FLOOR = 1e-30  # smallest probability in log P
SEEDS, MAX_LENGTH, WIDTH, DROPOUT = (7, 42, 777, 4222, 99999), 500, 50, 0.1  # the published study
MASKS = 4  # dropout masks per batch and row; with 1, avg. js of MLE rises by half; 8 and 16 give the same as 4
PASSAGES, PASSAGE_LENGTH = 32, 8  # Gumbel samples per batch


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """A bigram model over V tokens, or a batch of them. Token V - 1 is the end of a text.

    probs[..., i, j], shape (..., V, V): the probability of token j after row i. Row 0 is the start, row i + 1 token i.
    Raises InputError if a row is not a distribution, or if a text might never end.
    """

    probs: Tensor

    def __post_init__(self) -> None:
        probs, vocab = self.probs.detach(), self.vocab
        if probs.ndim < 2 or not 2 <= vocab == probs.shape[-2]:
            raise InputError(f"transitions are {tuple(probs.shape)}; they must be (..., V, V), V at least 2")
        wrong = (probs < 0).any(-1) | ~((probs.sum(-1) - 1).abs() < 1e-5)  # nan is wrong too
        if wrong.any():
            row, values = int(wrong.nonzero()[0, -1]), probs[wrong][0]
            raise InputError(f"row {row} sums to {values.sum():.6g}, least {values.min():.4g}; it is no distribution")
        reachable = F.pad(probs[..., :-1], (1, 0)) + torch.eye(vocab)
        for _ in range(vocab.bit_length()):  # each product doubles the number of steps
            reachable = ((reachable @ reachable) > 0).to(probs.dtype)
        trapped = (reachable[..., 0, :] > 0) & ((reachable @ probs[..., -1:])[..., 0] == 0)
        if trapped.any():
            token = int(trapped.nonzero()[0, -1]) - 1
            raise InputError(f"no way leads from token {token} to the end: expected visits diverge; give it a way out")

    @property
    def vocab(self) -> int:
        """V, the number of tokens with the end."""
        return self.probs.shape[-1]

    def __getitem__(self, index: Any) -> "MarkovChain":
        return MarkovChain(self.probs[index])

    @classmethod
    def random(cls, vocab: int = 20, zeros: float = 0.5, seed: int | Sequence[int] = 7) -> "MarkovChain":
        """The released script's random chain of that seed. Several seeds give a batch of chains.

        Rows ~ Dirichlet(0.5). Each probability but the end's is set to 0 with probability `zeros`, then rows are
        normalised. The first token is uniform.
        """
        if not isinstance(seed, int):
            return cls(torch.stack([cls.random(vocab, zeros, s).probs for s in seed]))
        replace(ETA, name="zeros").check(zeros)
        if not 2 <= vocab <= 5000 or not 0 <= seed < 2**32:
            raise InputError(f"vocab is {vocab}, seed is {seed}; they must be in [2, 5000] and [0, 2**32 - 1]")
        generator = np.random.RandomState(seed)
        matrix = generator.dirichlet(np.full(vocab, 0.5), size=vocab)[:-1]  # nothing follows the end
        matrix[:, :-1][generator.random_sample((vocab - 1, vocab - 1)) < zeros] = 0
        return cls.from_matrix([1 / vocab] * vocab, torch.from_numpy(matrix / matrix.sum(1, keepdims=True)))

    @classmethod
    def from_matrix(cls, initial: Any, matrix: Any) -> "MarkovChain":
        """The chain with the rows initial (..., V) and matrix (..., V - 1, V), which are lists or tensors."""
        initial, matrix = (torch.as_tensor(x, dtype=torch.float64) for x in (initial, matrix))
        return cls(torch.cat([initial[..., None, :], matrix], -2))

    def sample(self, n: int, seed: int, max_length: int | None = None) -> Tensor:
        """n texts, int64 (n, longest), of at most `max_length` tokens, then forced to end. The end token also pads."""
        if self.probs.ndim != 2:
            raise InputError(f"this is a batch of chains {tuple(self.probs.shape[:-2])}; pick one: chain[0]")
        end, generator = self.vocab - 1, torch.Generator().manual_seed(seed)
        cumulative = self.probs.detach().double().cumsum(-1)
        unfinished, row, columns = torch.arange(n), torch.zeros(n, dtype=torch.long), []
        while len(unfinished) and len(columns) + 1 != max_length:
            uniform = torch.rand(len(row), 1, generator=generator, dtype=torch.float64) * cumulative[row, -1:]
            token = torch.searchsorted(cumulative[row], uniform, right=True)[:, 0]
            columns.append(torch.full((n,), end).index_copy(0, unfinished, token))
            unfinished, row = unfinished[token != end], token[token != end] + 1
        if len(unfinished):
            columns.append(torch.full((n,), end))
        return torch.stack(columns, 1)

    def log_prob(self, texts: Tensor) -> Tensor:
        """log P of each text, (n,), in nats; -inf if the chain forbids it. texts: as `sample` returns them."""
        text, row, token = _transitions(texts, self.vocab)
        probs = self.probs.detach().double()
        return torch.zeros(len(texts), dtype=probs.dtype).index_add(0, text, probs[row, token].log())

    def expected_visits(self) -> Tensor:
        """Expected visits of each row in a text, (..., V), by one linear solve; differentiable. The start has 1."""
        system = torch.eye(self.vocab - 1, dtype=self.probs.dtype) - self.probs[..., 1:, :-1].mT
        return F.pad(torch.linalg.solve(system, self.probs[..., 0, :-1]), (1, 0), value=1.0)


def forward_cross_entropy(p: MarkovChain, q: MarkovChain) -> Tensor:
    """-E_P log Q of a text, in nats, (...). Exact, differentiable; inf if P allows a transition that Q forbids."""
    pairs = p.expected_visits()[..., None] * p.probs
    return -(pairs * torch.where(pairs > 0, q.probs, 1).log()).sum((-2, -1))


def reverse_cross_entropy(p: MarkovChain, q: MarkovChain) -> Tensor:
    """-E_Q log P of a text, in nats, (...). Exact, differentiable. A forbidden transition costs 69 nats."""
    pairs = q.expected_visits()[..., None] * q.probs
    return -(pairs * p.probs.clamp_min(FLOOR).log()).sum((-2, -1))


def forward_kl(p: MarkovChain, q: MarkovChain) -> Tensor:
    """E_P log P/Q of a text, in nats, (...). At least 0; inf if P allows a transition that Q forbids."""
    return forward_cross_entropy(p, q) - forward_cross_entropy(p, p)


def reverse_kl(p: MarkovChain, q: MarkovChain) -> Tensor:
    """E_Q log Q/P of a text, in nats, (...), with the floor of `reverse_cross_entropy`."""
    return reverse_cross_entropy(p, q) - forward_cross_entropy(q, q)


def avg_js(p: Tensor, q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of two rows, its mean over rows, in [0, log 2] nats. p, q: (..., rows, V)."""
    divergence = (torch.special.xlogy(p, p) + torch.special.xlogy(q, q) - torch.special.xlogy(p + q, (p + q) / 2)) / 2
    return divergence.sum(-1).mean(-1)


def jensen_shannon(p: MarkovChain, q: MarkovChain, eta: float = 0.5, samples: int = 10_000) -> tuple[float, float]:
    """eta KL(P, M) + (1 - eta) KL(Q, M), M = eta P + (1 - eta) Q over texts: (estimate, standard error), in nats.

    M is not a Markov chain, so this is a mean over `samples` texts of P and as many of Q. eta in (0, 1).
    """
    if not 0 < eta < 1:
        raise InputError(f"eta is {eta}; it must be in (0, 1): at 0 and 1 the divergence is 0 for every Q")
    estimate = variance = 0.0
    for seed, (chain, share) in enumerate([(p, eta), (q, 1 - eta)]):
        texts = chain.sample(samples, seed)
        log_m = torch.logaddexp(p.log_prob(texts) + np.log(eta), q.log_prob(texts) + np.log(1 - eta))
        terms = share * (chain.log_prob(texts) - log_m)
        estimate, variance = estimate + terms.mean().item(), variance + terms.var().item() / samples
    return estimate, variance**0.5


@dataclass(frozen=True)
class MixCEStar:
    """eta * forward + (1 - eta) * reverse cross-entropy with the true P, which MixCE approximates. eta in [0, 1].

    estimator of the reverse term: "exact", which at small eta learns short texts, as a cost is a sum over a text; or
    "gumbel" as published: straight-through Gumbel-softmax samples of temperature 1, whose gradient hardly contains the
    effect of a token on the rest of the text.
    """

    eta: float
    estimator: Literal["exact", "gumbel"] = "exact"

    def __post_init__(self) -> None:
        ETA.check(self.eta)
        if self.estimator not in ("exact", "gumbel"):
            raise unknown("estimator", self.estimator, ["exact", "gumbel"])


@dataclass(frozen=True)
class KLMix:
    """eta * forward + (1 - eta) * reverse KL with the true P, exact. eta in [0, 1]; 1 has the gradient of MLE."""

    eta: float

    def __post_init__(self) -> None:
        ETA.check(self.eta)


Objective = MLE | MixCE | TaiLr | MixCEStar | KLMix
NAMES = {MLE: "mle", MixCE: "mixce", TaiLr: "tailr", MixCEStar: "mixce*", KLMix: "kls"}


@dataclass(frozen=True, eq=False)
class Fitted:
    """The result of `fit`."""

    objectives: tuple[Objective, ...]
    seeds: tuple[int, ...]
    chain: MarkovChain  # the true ones, (seeds,)
    learned: MarkovChain  # after the best epoch, (objectives, seeds)
    last: MarkovChain  # after the last epoch
    best_epoch: Tensor
    seconds: float

    def records(self) -> list[dict[str, Any]]:
        """One record per objective and seed: its name, coefficients and measures of the best epoch.

        avg_0s: mean learned probability of forbidden transitions, in [0, 1]; nan without any. KLs: nats per text.
        """
        p, q = self.chain.probs, self.learned.probs
        measures = {
            "avg_js": avg_js(p, q),
            "avg_0s": q.where(p == 0, torch.nan).nanmean((-2, -1)),
            "forward_kl": forward_kl(self.chain, self.learned),
            "reverse_kl": reverse_kl(self.chain, self.learned),
        }
        records = []
        for i, objective in enumerate(self.objectives):
            for j, seed in enumerate(self.seeds):
                record = {"objective": NAMES[type(objective)], **asdict(objective), "seed": seed}
                records.append(record | {name: values[i, j].item() for name, values in measures.items()})
        return records


@torch.random.fork_rng(devices=[])
def fit(
    chain: MarkovChain,
    objectives: Sequence[Objective],
    seeds: Sequence[int] = SEEDS,
    *,
    epochs: int = 50,
    train: int = 50_000,
    development: int = 5_000,
    batch: int = 1_000,
    patience: int = 5,
    progress: bool = False,
) -> Fitted:
    """Train the published study's learner on texts of `chain` for each objective and seed, all in one batched model.

    chain: one for all seeds, or a batch with one per seed. A seed fixes the texts, the initial weights, the order of
    the texts and the dropout. Other objectives and seeds change no result, except that Gumbel samples are joint.
    Learner: embedding 50, linear 50, ReLU, dropout 0.1, linear V + 1; token 0 is the padding and the start. Adam 1e-3,
    weight decay 1e-4. A loss is a sum over a text and a mean over texts. Training ends with an objective's best epoch
    after `patience` epochs without a better development loss; the last epoch is the one in which all have ended.

    Differences from the released script: a batch is its transition counts, with the same loss and gradient; dropout is
    drawn MASKS times per row and batch, not at each position; reverse terms leave out the padding; exact ones, and all
    in the development loss, have no limit of 500 tokens; Gumbel samples are passages, not whole texts.
    """
    began, objectives = time.perf_counter(), tuple(objectives)
    if unsupported := [x for x in objectives if not isinstance(x, Objective)]:
        raise InputError(f"{unsupported[0]!r} cannot be fitted; allowed: {', '.join(x.__name__ for x in NAMES)}")
    if min(epochs, development, batch, patience) < 1 or batch > train:
        raise InputError(f"{epochs=}, {train=}, {development=}, {batch=}, {patience=}; at least 1, batch at most train")
    torch.manual_seed(seeds[0])  # of the Gumbel samples
    chain, vocab = MarkovChain(chain.probs.expand(len(seeds), -1, -1)), chain.vocab
    texts = [chain[i].sample(development + train, seed, MAX_LENGTH) for i, seed in enumerate(seeds)]
    transitions = [_transitions(x, vocab) for x in texts]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    embedding = _draw(torch.randn, generators, vocab, WIDTH)  # torch's initial weights of the network's layers
    sizes = (WIDTH, WIDTH), (1, WIDTH), (WIDTH, vocab + 1), (1, vocab + 1)
    linear = [(2 * _draw(torch.rand, generators, *size) - 1) / WIDTH**0.5 for size in sizes]
    parameters = [x.repeat(len(objectives), 1, 1, 1).requires_grad_() for x in (embedding, *linear)]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-4, fused=True)
    reverse = [i for i, x in enumerate(objectives) if isinstance(x, MixCEStar | KLMix)]
    gumbel = {i: x for i, x in enumerate(objectives) if isinstance(x, MixCEStar) and x.estimator == "gumbel"}
    gumbel_share = torch.tensor([[1 - objective.eta] for objective in gumbel.values()])
    exact = [i for i in reverse if i not in gumbel]
    best_loss = torch.full((len(objectives), len(seeds)), torch.inf, dtype=torch.float64)
    best_epoch, best_probs = torch.zeros_like(best_loss), torch.zeros(*best_loss.shape, vocab, vocab).double()
    for epoch in tqdm(range(1, epochs + 1), desc="epochs", disable=not progress):
        frequencies = []
        for generator, (text, row, token) in zip(generators, transitions, strict=True):
            batch_of_text = torch.randperm(train, generator=generator) // batch + 1
            batch_of_text = torch.cat([torch.zeros(development, dtype=torch.long), batch_of_text])  # 0: development
            pairs = (batch_of_text[text] * vocab + row) * vocab + token
            frequencies.append(pairs.bincount(minlength=(train // batch + 2) * vocab**2).view(-1, vocab, vocab))
        held_out, *batches = torch.stack(frequencies, 1)[: train // batch + 1]  # an incomplete batch is left out
        for counts in batches:
            masks = (_draw(torch.rand, generators, MASKS * vocab, WIDTH) >= DROPOUT) / (1 - DROPOUT)
            loss = _losses(objectives, exact, _logits(parameters, masks), counts / batch, chain).sum()
            if gumbel:
                loss = loss + (gumbel_share * _gumbel_cross_entropy([x[list(gumbel)] for x in parameters], chain)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = _logits(parameters).double()  # in float32, late epochs have equal losses
            loss = _losses(objectives, reverse, logits, held_out / development, chain)
        better = (loss < best_loss) & (epoch - best_epoch <= patience)  # the others have stopped
        best_loss, best_epoch = torch.where(better, loss, best_loss), torch.where(better, epoch, best_epoch)
        best_probs = torch.where(better[..., None, None], logits[..., 1:].softmax(-1), best_probs)
        if (epoch - best_epoch >= patience).all():
            break
    learned, last = MarkovChain(best_probs), MarkovChain(_logits(parameters).detach().double()[..., 1:].softmax(-1))
    return Fitted(objectives, tuple(seeds), chain, learned, last, best_epoch, time.perf_counter() - began)


def _draw(distribution: Callable[..., Tensor], generators: Sequence[torch.Generator], *size: int) -> Tensor:
    """A sample of this size from each generator, stacked."""
    return torch.stack([distribution(size, generator=generator) for generator in generators])


def _logits(parameters: Sequence[Tensor], masks: Tensor | None = None) -> Tensor:
    """Logits (objectives, seeds, rows, V + 1): V rows, or with dropout MASKS * V; columns: padding, tokens, end."""
    embedding, inner, inner_bias, outer, outer_bias = parameters
    hidden = (embedding @ inner + inner_bias).relu()
    dropped = hidden if masks is None else hidden.repeat(1, 1, MASKS, 1) * masks
    return dropped @ outer + outer_bias


def _losses(objectives: Sequence, reverse: list[int], logits: Tensor, frequency: Tensor, chain: MarkovChain) -> Tensor:
    """Losses (objectives, seeds) in nats per text, with exact reverse terms at `reverse`. frequency: pairs per text."""
    masks = logits.shape[2] // chain.vocab
    log_q = logits.log_softmax(-1)[..., 1:]  # the padding is never a target
    q = log_q.detach().exp()
    weights = [x.weight(q[i]) if isinstance(x, TokenWeighted) else q[i] * 0 + x.eta for i, x in enumerate(objectives)]
    losses = -(torch.stack(weights) * frequency.repeat(1, masks, 1) / masks * log_q).sum((-2, -1))
    if reverse:
        learned = MarkovChain(logits[reverse][..., 1:].softmax(-1).unflatten(2, (masks, -1)).mean(2))
        is_kl = torch.tensor([[isinstance(objectives[i], KLMix)] for i in reverse])
        terms = reverse_cross_entropy(chain, learned) - is_kl * forward_cross_entropy(learned, learned)
        share = torch.tensor([[1 - objectives[i].eta] for i in reverse])
        losses = losses.double().index_add(0, torch.tensor(reverse), share * terms)
    return losses


def _gumbel_cross_entropy(parameters: Sequence[Tensor], chain: MarkovChain) -> Tensor:
    """Reverse cross-entropies (objectives, seeds), in nats per text, from straight-through samples of the learners.

    Gradients flow through the softmax, and through a sampled token's embedding into the tokens after it. A passage
    begins at a row of the exact visits, and goes on after an end: a text costs mean token cost x mean length.
    """
    embedding, inner, inner_bias, outer, outer_bias = (x.flatten(0, 1) for x in parameters)  # (cells, ...)
    outer, outer_bias = outer[..., 1:], outer_bias[..., 1:]  # without the padding
    after = torch.baddbmm(inner_bias, embedding, inner)  # the first layer after each row, (cells, V, WIDTH)
    learned = MarkovChain(torch.baddbmm(outer_bias, after.relu(), outer).softmax(-1).detach().double())
    visits = learned.expected_visits()
    row = visits.multinomial(PASSAGES, replacement=True)[..., None]
    log_p = chain.probs.clamp_min(FLOOR).log().float().repeat(len(visits) // len(chain.probs), 1, 1)
    hidden, following, cost = after.take_along_dim(row, 1), after.roll(-1, 1), torch.zeros(len(visits))
    for _ in range(PASSAGE_LENGTH):
        logits = torch.baddbmm(outer_bias, F.dropout(hidden.relu(), DROPOUT), outer)
        sample = F.gumbel_softmax(logits, hard=True)  # one-hot, with the gradient of softmax(logits + noise)
        cost = cost - (sample * log_p.take_along_dim(row, 1)).sum((1, 2))
        row = (sample.argmax(-1, keepdim=True) + 1) % chain.vocab  # the start follows the end
        hidden = torch.cat([sample[..., :-1], sample[..., -1:].detach()], -1) @ following
    cost = cost / (PASSAGES * PASSAGE_LENGTH) * visits.sum(-1).clamp_max(MAX_LENGTH)
    return cost.unflatten(0, parameters[0].shape[:2])


def _transitions(texts: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Number of the text, row and token of every transition of padded texts (n, length), each (transitions,)."""
    row = F.pad(texts[:, :-1] + 1, (1, 0))
    inside = row < vocab  # row V is after the end
    return inside.nonzero()[:, 0], row[inside], texts[inside]
