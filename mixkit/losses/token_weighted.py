"""The token-weighted objectives: MLE, MixCE, TaiLr."""

from dataclasses import dataclass

import torch

from mixkit._common import check_unit_interval
from mixkit.losses.lm_head import TokenScores


class TokenWeighted:
    """loss = mean_t stop_gradient(w(q_t)) * nll_t over the unmasked positions; a subclass gives w."""

    def weight(self, prob: torch.Tensor) -> torch.Tensor:
        """w(q): the weight of a token that the model gives probability q. Same shape as `prob`."""
        raise NotImplementedError

    def __call__(self, scores: TokenScores, mask: torch.Tensor | None = None) -> torch.Tensor:
        """equals: (self.weight(scores.prob).detach() * scores.nll)[mask].mean()

        scores: tensors of any one shape. mask: same shape, True where a position counts; what masked positions hold
        (inf and nan included) touches neither the value nor the gradients. Returns a scalar in nats per token.
        Raises ValueError where every position is masked.
        """
        if mask is not None:
            mask = mask.bool()
            scores = TokenScores(scores.logit[mask], scores.log_partition[mask])
        if scores.logit.numel() == 0:
            raise ValueError("every position is masked: the mean over no tokens is undefined")
        return (self.weight(scores.prob.detach()) * scores.nll).mean()


@dataclass(frozen=True)
class MLE(TokenWeighted):
    """w(q) = 1: maximum likelihood, the forward cross-entropy H(P, Q)."""

    def weight(self, prob: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(prob)


@dataclass(frozen=True)
class MixCE(TokenWeighted):
    """w(q) = eta + (1 - eta) q: forward and (self-reinforced) reverse cross-entropy mixed.

    eta in [0, 1]: 1 is MLE; 0 weights every token by the model's own probability of it. The reverse cross-entropy
    -E_Q log P asks for the unknown P; -E_P[Q log Q] stands in for it.
    Raises InputError (a ValueError) where eta is not a number in [0, 1].
    Source: Zhang et al., "MixCE", ACL 2023, arXiv 2305.16958, equations 7 and 8.
    """

    eta: float

    def __post_init__(self):
        check_unit_interval("eta", self.eta)

    def weight(self, prob: torch.Tensor) -> torch.Tensor:
        return self.eta + (1 - self.eta) * prob


@dataclass(frozen=True)
class TaiLr(TokenWeighted):
    """w(q) = clip(q / (gamma + (1 - gamma) q), w_min, 1): an estimate of the total variation distance.

    gamma in [0, 1]: the one-hot target's share in the proxy distribution; 0 is MLE; 1 with w_min 0 weights by q, as
    MixCE at eta 0 does. Small values matter (released scripts: 1e-7 to 0.8). w_min in [0, 1]: the smallest weight; 1
    is MLE. Raises InputError (a ValueError) where one of them is not a number in [0, 1].
    Source: Ji et al., "Tailoring language generation models under total variation distance", ICLR 2023,
    arXiv 2302.13344, equation 9.
    """

    gamma: float
    w_min: float = 0.0

    def __post_init__(self):
        check_unit_interval("gamma", self.gamma)
        check_unit_interval("w_min", self.w_min)

    def weight(self, prob: torch.Tensor) -> torch.Tensor:
        if self.gamma == 0:  # q / q, also where q has underflowed to 0
            return torch.ones_like(prob)
        return (prob / (self.gamma + (1 - self.gamma) * prob)).clamp(self.w_min, 1)
