"""Two chains against their mixture over whole texts: generalised Jensen-Shannon, exact and as a learner's objective.
The mixture is no Markov chain, but one integral of linear solves gives what is asked of it. Nothing is trained here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mixkit._common import InputError, check_unit_interval
from mixkit.toys.bigrams import Texts
from mixkit.toys.markov import MarkovChain

# Nodes s > 0 of the integral. Steps of h err by what the function is at log Q/P +- 2 pi / h, an end at S by exp(-pi S).
FINE = 0.1 * (torch.arange(60, dtype=torch.float64) + 0.5)  # 1e-8
COARSE = 0.2 * (torch.arange(20, dtype=torch.float64) + 0.5)  # 1e-5, for slopes
LARGEST = 20_000_000  # complex numbers held at a time


@dataclass(frozen=True)
class JensenShannon:
    """eta KL(P, M) + (1 - eta) KL(Q, M), M = eta P + (1 - eta) Q over whole texts, with the true P; nats.

    eta in (0, 1): near 0 it is eta times the forward KL, near 1 it is (1 - eta) times the reverse KL, wherever these
    are small; at both ends it is 0 whatever Q is, and they are refused. It saturates: texts that only one of the two
    would write have no slope.
    The published script samples both halves, the second by straight-through Gumbel-softmax. Here the first is taken on
    the data, as there, and the second is exact.
    Raises InputError (a ValueError) where eta is not a number in (0, 1).
    Source: Zhang et al., "MixCE", ACL 2023, section 4.1; Huszar, arXiv 1511.05101.
    """

    eta: float

    def __post_init__(self):
        check_unit_interval("eta", self.eta)
        if self.eta in (0, 1):
            raise InputError(f"eta is {self.eta!r}; of Jensen-Shannon it must be in (0, 1): at the ends it is always 0")


def exact_jensen_shannon(p: MarkovChain, q: MarkovChain, eta: float = 0.5) -> torch.Tensor:
    """eta KL(P, M) + (1 - eta) KL(Q, M), M = eta P + (1 - eta) Q over texts, nats: (...). Error below 1e-7.

    Not sampled, differentiable in both. With r = (1 - eta) Q / M, the chance that a text of M is Q's, it is
    H(eta) - E_M H(r), and M H(r) is sqrt(PQ) times a function of log Q/P that dies out on both sides. That function is
    an integral over s of (Q/P)^(is), and the sum over texts of P^(1/2 - is) Q^(1/2 + is) is one linear solve.
    eta in [0, 1]; 0 at both ends.
    """
    check_unit_interval("eta", eta)
    if eta in (0, 1):
        return torch.zeros(torch.broadcast_shapes(p.probs.shape, q.probs.shape)[:-2], dtype=p.probs.dtype)
    share = torch.tensor(eta, dtype=p.probs.dtype)
    overlap = _overlaps(p.probs, q.probs)
    entropy = -eta * math.log(eta) - (1 - eta) * math.log(1 - eta)
    weights = _turns(share, FINE) / _beside(FINE.square() + 0.25, share)  # 1 / (1/2 - is) + 1 / (1/2 + is), halves' sum
    return entropy - torch.tensordot(weights, overlap, 1).real


def _beside(s: torch.Tensor, what: torch.Tensor) -> torch.Tensor:
    """s (nodes,) in the precision of `what` (...), with as many dimensions of 1 after it: (nodes, 1, ...)."""
    precision = what.dtype.to_complex() if s.is_complex() else what.dtype
    return s.to(precision).view(-1, *[1] * what.ndim)


def _turns(share: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """sqrt(eta (1 - eta)) ((1 - eta) / eta)^(is) / cosh(pi s), times the step: (nodes, ...); share: eta (...).

    Divided by 1/2 - is they are the integral's weights of -(1 - eta) Q log r, by 1/2 + is those of -eta P log(1 - r):
    the first is sqrt(eta (1 - eta) P Q) e^(u/2) log(1 + e^-u), u = log((1 - eta) Q / (eta P)), whose Fourier transform
    is pi / ((1/2 - is) cosh(pi s)); the second mirrors it. The nodes below 0 add the conjugate of those above.
    """
    step, s = 2 * float(s[0]), _beside(s, share)
    return torch.polar((share * (1 - share)).sqrt() * step / torch.cosh(math.pi * s), s * ((1 - share) / share).log())


def _powers(p: torch.Tensor, q: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """P^(1/2 - is) Q^(1/2 + is) of every transition: (nodes, ..., rows, columns); 0 where one is 0, slope included."""
    both = (p > 0) & (q > 0)
    p, q = torch.where(both, p, 1), torch.where(both, q, 1)
    ratio = q.log() - p.log()
    return torch.polar((p * q).sqrt(), _beside(s, ratio) * ratio) * both


def _ways(powers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row: the sum over all ways from the start to it, and from it to the end (the start's: over all texts).

    Each (nodes, ..., V).
    """
    among = powers[..., 1:, :-1]
    factors = torch.linalg.lu_factor(torch.eye(among.shape[-1]) - among)
    before = torch.linalg.lu_solve(*factors, powers[..., :1, :-1], left=False)
    after = torch.linalg.lu_solve(*factors, powers[..., 1:, -1:])
    first = powers[..., :1, -1:] + powers[..., :1, :-1] @ after
    return F.pad(before[..., 0, :], (1, 0), value=1.0), torch.cat([first, after], -2)[..., 0]


def _overlaps(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """The sum over texts of P^(1/2 - is) Q^(1/2 + is), for each node of FINE: (nodes, ...)."""
    return torch.cat([_ways(_powers(p, q, s))[1][..., 0] for s in FINE.split(_at_once(q))])


def _at_once(q: torch.Tensor) -> int:
    return max(1, LARGEST // q.numel())


class MixtureTerms:
    """Of the learners under JensenShannon objectives: value and slope, with one half's texts from the data.

    logits: (objectives, seeds, masks, V, V + 1); dropout drawn anew at each position makes the mean over masks
    the chain Q. A text with the padding in it is one that P cannot write.
    """

    def __init__(self, objectives: Sequence[JensenShannon], gold: MarkovChain, data: Sequence[Texts]):
        self.data, self.p = data, gold.probs
        self.share = torch.tensor([objective.eta for objective in objectives], dtype=torch.float64)[:, None]
        self.train, self.held_out = [x.matrix() for x in data], [x.matrix(held_out=True) for x in data]

    def value(self, logits: torch.Tensor) -> torch.Tensor:
        """The divergence: (objectives, seeds), nats; the first half over the held-out texts, the second exact."""
        q = logits.softmax(-1).mean(2)
        odds = self._log_odds(q, self.held_out)
        of_data = torch.stack([F.logsigmoid(-x).mean(-1) for x in odds], 1) - self.share.log()
        overlap = _overlaps(self.p, _without_padding(q).double())
        exact = (_turns(self.share, FINE) / _beside(0.5 - 1j * FINE, self.share) * overlap).sum(0).real
        return self.share * of_data - (1 - self.share) * (1 - self.share).log() - exact

    def slope(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The gradient of value(...).sum() in the logits, by hand, over the texts of batch `step`."""
        by_mask = logits.softmax(-1)
        q = by_mask.mean(2)
        batches = [x[source.order[step]] for x, source in zip(self.train, self.data, strict=True)]
        odds = self._log_odds(q, batches)
        visited = torch.stack(
            [
                torch.from_numpy((counts.T @ x.sigmoid().T.numpy()).T) / x.shape[-1]
                for counts, x in zip(batches, odds, strict=True)
            ],
            1,
        ).view(*q.shape[:2], *self.p.shape[-2:])
        share, p = self.share.to(q.dtype), self.p.to(q.dtype)
        price = -share[..., None, None] * visited  # of log Q of each transition
        exponent = 0.5 + 1j * COARSE  # of Q in the powers, which differentiation brings down
        factors, at_once = _turns(share, COARSE) * _beside(exponent / exponent.conj(), share), _at_once(q)
        for s, factor in zip(COARSE.split(at_once), factors.split(at_once), strict=True):
            powers = _powers(p, _without_padding(q), s)
            before, after = _ways(powers)
            onwards = torch.cat([after[..., 1:], torch.ones_like(after[..., :1])], -1)  # nothing comes after the end
            price -= ((factor[..., None] * before)[..., None] * powers * onwards[..., None, :]).sum(0).real
        price = torch.cat([price[..., :-1], torch.zeros_like(price[..., :1]), price[..., -1:]], -1)
        price = (price / q.clamp_min(torch.finfo(q.dtype).tiny))[:, :, None]
        slope = by_mask * (price - (by_mask * price).sum(-1, keepdim=True))
        return slope.div_(by_mask.shape[2])

    def _log_odds(self, q: torch.Tensor, texts: Sequence) -> list[torch.Tensor]:
        """log((1 - eta) Q / (eta P)) of P's own texts, for each seed: (objectives, texts)."""
        p = self.p.to(q.dtype)
        ratio = torch.where(p > 0, _without_padding(q).log() - torch.where(p > 0, p, 1).log(), 0).flatten(2)
        offset = ((1 - self.share) / self.share).log()
        return [
            torch.from_numpy(np.ascontiguousarray((counts @ ratio[:, i].T.numpy()).T)) + offset.to(q.dtype)
            for i, counts in enumerate(texts)
        ]


def _without_padding(q: torch.Tensor) -> torch.Tensor:
    return torch.cat([q[..., :-2], q[..., -1:]], -1)
