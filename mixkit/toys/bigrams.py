"""The published bigram learner, many at once: its texts as transition counts, its layers, the terms of its losses.
Knows markov.py; which objective asks for which term, the training loop and the verdict are chains.py's."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array

from mixkit.toys.markov import FLOOR, MarkovChain, visits_of

CAP, WIDTH, DROPOUT = 500, 50, 0.1  # the published study's


class Texts:
    """Training and development texts of one seed, kept as transitions."""

    def __init__(self, gold: MarkovChain, train: int, development: int, batch: int, seed: int):
        self.vocab, self.train, self.development, self.batch = gold.vocab, train, development, batch
        text, pair = gold.sample_transitions(development + train, seed, CAP)
        held_out = text < development
        self.held_out = self._frequencies(pair[held_out], 1)[0] / development
        self.text, self.pair = text, pair
        self.generator = torch.Generator().manual_seed(seed)

    def matrix(self, discount: float = 1.0, *, held_out: bool = False) -> csr_array:
        """Transitions of each text, the i-th of a text counting discount^i: (texts, V * V), float32."""
        step = F.pad((self.text.diff() <= 0).cumsum(0), (1, 0))  # the texts' first transitions come first, in order
        kept = (self.text < self.development) == held_out
        row, weight = self.text[kept] - (0 if held_out else self.development), discount ** step[kept].double()
        shape = self.development if held_out else self.train, self.vocab**2
        return csr_array((weight.float().numpy(), (row.numpy(), self.pair[kept].numpy())), shape=shape)

    def shuffled(self) -> torch.Tensor:
        """Transitions per text of an epoch's batches, in a new order, `order` (batches, batch): (batches, V, V + 1)."""
        batches = self.train // self.batch
        order = torch.randperm(self.train, generator=self.generator)
        place = torch.full((self.development + self.train,), self.train, dtype=torch.int32)  # held-out texts fall off
        place[self.development + order] = torch.arange(self.train, dtype=torch.int32)
        self.order = order[: batches * self.batch].view(batches, self.batch).numpy()
        bins = (place // self.batch * self.vocab**2).index_select(0, self.text).add_(self.pair)
        return self._frequencies(bins, batches) / self.batch

    def _frequencies(self, bins: torch.Tensor, batches: int) -> torch.Tensor:
        counts = torch.bincount(bins, minlength=batches * self.vocab**2)[: batches * self.vocab**2]
        counts = counts.view(batches, self.vocab, self.vocab).float()
        return torch.cat([counts[..., :-1], torch.zeros_like(counts[..., :1]), counts[..., -1:]], -1)


class Learner:
    """objectives x seeds learners. Rows: the start and V - 1 tokens; columns: V - 1 tokens, the padding, the end."""

    def __init__(self, vocab: int, objectives: int, seeds: Sequence[int]):
        self.shape, self.vocab = (objectives, len(seeds)), vocab
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        starts = []
        for generator in self.generators:
            embedding = torch.randn(vocab, WIDTH, generator=generator)
            sizes = (WIDTH, WIDTH), (1, WIDTH), (WIDTH, vocab + 1), (1, vocab + 1)
            uniform = [(2 * torch.rand(size, generator=generator) - 1) / WIDTH**0.5 for size in sizes]
            starts.append([embedding, *uniform])
        stacked = [torch.stack(parts).repeat(objectives, 1, 1) for parts in zip(*starts, strict=True)]
        self.parameters = [x.requires_grad_() for x in stacked]  # each (objectives * seeds, ...)

    def logits(self, masks: int | None = None) -> torch.Tensor:
        """Of every transition, (objectives, seeds, masks, V, V + 1); without `masks` one, and no dropout."""
        embedding, inner, inner_bias, outer, outer_bias = self.parameters
        active = torch.baddbmm(inner_bias, embedding, inner).relu()  # (cells, V, WIDTH)
        hidden = active
        if masks is not None:  # drawn for each seed, shared by objectives: what runs beside changes no result
            kept = torch.stack([_dropout((masks, self.vocab, WIDTH), generator) for generator in self.generators])
            hidden = (active.view(*self.shape, 1, self.vocab, WIDTH) * kept).view(-1, masks * self.vocab, WIDTH)
            self._pass = active, kept, hidden
        return torch.baddbmm(outer_bias, hidden, outer).view(*self.shape, -1, self.vocab, self.vocab + 1)

    @torch.no_grad()
    def backward(self, slope: torch.Tensor) -> None:
        """equals: self.logits(masks).backward(slope), for the masks drawn last, into fresh .grad of the parameters.

        By hand: autograd's bookkeeping costs more than products as small as these.
        """
        embedding, inner, _, outer, _ = self.parameters
        active, kept, hidden = self._pass
        slope = slope.view(*hidden.shape[:2], -1)  # (cells, masks * V, V + 1)
        back = ((slope @ outer.mT).view(*self.shape, -1, self.vocab, WIDTH) * kept).sum(2).view_as(active)
        back = back * (active > 0)
        sums = back.sum(1, keepdim=True), slope.sum(1, keepdim=True)
        gradients = back @ inner.mT, embedding.mT @ back, sums[0], hidden.mT @ slope, sums[1]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient


class Adam:
    """equals: torch.optim.Adam(parameters, rate, weight_decay=decay), for leaves that all have a gradient at each step.

    The leaves become parts of one vector. By hand: a third of a small fit was spent in torch's step, which imports its
    compiler at the first.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], rate: float, decay: float):
        self.parameters, self.rate, self.decay, self.steps = list(parameters), rate, decay, 0
        self.values = torch.cat([x.detach().flatten() for x in self.parameters])
        for parameter, part in zip(self.parameters, self._parts(self.values), strict=True):
            parameter.data = part
        self.mean, self.square = torch.zeros_like(self.values), torch.zeros_like(self.values)

    def step(self, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> None:
        self.steps += 1
        gradient = torch.cat([x.grad.flatten() for x in self.parameters]).add_(self.values, alpha=self.decay)
        self.mean.lerp_(gradient, 1 - betas[0])
        self.square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        unbiased = [1 - beta**self.steps for beta in betas]
        scale = self.square.sqrt().div_(unbiased[1] ** 0.5).add_(epsilon)
        self.values.addcdiv_(self.mean, scale, value=-self.rate / unbiased[0])

    def _parts(self, vector: torch.Tensor) -> list[torch.Tensor]:
        sizes = [x.numel() for x in self.parameters]
        return [part.view_as(x) for part, x in zip(vector.split(sizes), self.parameters, strict=True)]


def _dropout(size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """0 with probability 0.1, else 1 / 0.9."""
    return (torch.rand(size, generator=generator) > DROPOUT) * (1 / (1 - DROPOUT))


def token_weights(objectives: Sequence, q: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """w(q) times how often the transition occurs in a text, shared among masks: the weight of each nll, q's shape."""
    weights = torch.stack([objective.weight(x) for objective, x in zip(objectives, q, strict=True)])
    return weights.mul_(frequency[:, None] / q.shape[2])


def forward_terms(objectives: Sequence, log_q: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """sum sg(w(q)) * nll over the texts' transitions: (objectives, seeds), nats a text."""
    return -(token_weights(objectives, log_q.exp(), frequency) * log_q).sum((-3, -2, -1))


def forward_slope(objectives: Sequence, logits: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """The gradient of forward_terms(...).sum() in the logits: sum over targets of w(q) (softmax - one-hot)."""
    q = logits.softmax(-1)
    weights = token_weights(objectives, q, frequency)
    return torch.addcmul(-weights, q, weights.sum(-1, keepdim=True))


def reverse_terms(objectives: Sequence, log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """(1 - eta) E_Q[-log P] or (1 - eta) E_Q[log Q/P], exact: (objectives, seeds).

    Dropout drawn anew at each position makes the mean over masks the chain that texts would be sampled from.
    """
    share, of_entropy = _coefficients(objectives)
    q = log_q.exp()
    chain = _padding_goes_on_as_the_start(q.mean(2))  # (objectives, seeds, V + 1, V + 1)
    costs = -(chain * log_p).sum(-1)
    if of_entropy.any():
        costs = costs + of_entropy * _padding_goes_on_as_the_start((q * log_q).mean(2)).sum(-1)
    visits = visits_of(chain)
    held = torch.tensor([objective.estimator == "local" for objective in objectives])[:, None, None]
    return share[..., 0] * (torch.where(held, visits.detach(), visits) * costs).sum(-1)


def reverse_slope(objectives: Sequence, logits: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """The gradient of reverse_terms(...).sum() in the logits, by hand: logits' shape.

    A transition costs -log P (and log Q, of the KL) at once; "exact" adds what the text then costs until it ends: the
    linear system of the visits, transposed.
    """
    share, of_entropy = _coefficients(objectives)
    log_q = logits.log_softmax(-1)
    q = log_q.exp()
    chain = _padding_goes_on_as_the_start(q.mean(2))  # (objectives, seeds, V + 1, V + 1)
    among = chain[..., 1:, :-1]
    inverse = torch.linalg.inv(torch.eye(among.shape[-1]) - among)
    visits = F.pad((chain[..., :1, :-1] @ inverse)[..., 0, :], (1, 0), value=1.0)
    costs = -(chain * log_p).sum(-1)
    if of_entropy.any():
        costs = costs + of_entropy * _padding_goes_on_as_the_start((q * log_q).mean(2)).sum(-1)
    later = F.pad((inverse @ costs[..., 1:, None])[..., 0], (0, 1))  # nothing comes after the end
    later = later * torch.tensor([float(x.estimator == "exact") for x in objectives])[:, None, None]
    price = visits[..., None] * (later[..., None, :] - log_p)
    price = torch.cat([price[..., :1, :] + price[..., -1:, :], price[..., 1:-1, :]], -2)[:, :, None]
    if of_entropy.any():
        visits = torch.cat([visits[..., :1] + visits[..., -1:], visits[..., 1:-1]], -1)
        price = price + (of_entropy * visits)[:, :, None, :, None] * log_q
    slope = q * (price - (q * price).sum(-1, keepdim=True))
    return slope.mul_(share[..., None, None] / q.shape[2])


def gumbel_terms(
    objectives: Sequence,
    learner: Learner,
    which: list[int],
    log_p: torch.Tensor,
    samples: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """What reverse_terms gives, estimated as published, for `which` of the learner's objectives: (which, seeds).

    `samples` texts are drawn token by token, each token a one-hot vector whose gradient is that of the softmax of
    logits + Gumbel noise; the gradient also runs through the token's embedding into what is drawn after it.
    """
    share, of_entropy = _coefficients(objectives)
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
        logits = torch.baddbmm(outer_bias, hidden * _dropout(hidden.shape, generator), outer)
        soft = (logits - torch.empty_like(logits).exponential_(generator=generator).log()).softmax(-1)
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


def _coefficients(objectives: Sequence) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the reverse term: its share 1 - eta, and that of log Q in it; each (objectives, 1, 1)."""
    pairs = [(1 - objective.eta, objective.of_entropy) for objective in objectives]
    return torch.tensor(pairs)[:, None, None].unbind(-1)


def _padding_goes_on_as_the_start(rows: torch.Tensor) -> torch.Tensor:
    """The padding's row, which is the start's, put after the tokens': (..., V, n) -> (..., V + 1, n)."""
    return torch.cat([rows, rows[..., :1, :]], -2)


def log_with_padding(probs: torch.Tensor) -> torch.Tensor:
    """log P (seeds, V + 1, V + 1), floored, with the padding as one more token that never occurs and never leads on."""
    padded = F.pad(probs, (0, 1, 0, 1))
    return torch.cat([padded[..., :-2], padded[..., -1:], padded[..., -2:-1]], -1).clamp_min(FLOOR).log().float()
