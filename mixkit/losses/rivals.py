"""Published rivals of the four objectives, as token-weighted objectives."""

from dataclasses import dataclass, field

import torch

from mixkit._common import Float
from mixkit.losses.token_weighted import TokenScores, TokenWeighted

Probs = Float[torch.Tensor, "*B"]


@dataclass(frozen=True)
class Power(TokenWeighted):
    """w(q) = q^a, as for the loss (1 - q^a) / a. At infinite capacity it is the temperature 1 - a.

    exponent: a in [0, 100]. 0 is MLE, 1 is DFT. Source: "Beyond Log Likelihood", 2025, arXiv 2510.00526.
    """

    exponent: float = 0.5

    def weight(self, prob: Probs) -> Probs:
        return prob**self.exponent

    def inverse(self, ratio: Probs) -> Probs:  # fixed_points.py refuses an exponent above 1
        return (ratio >= 1).to(ratio) if self.exponent == 1 else ratio.clamp(max=1) ** (1 / (1 - self.exponent))


@dataclass(frozen=True)
class DFT(Power):
    """w(q) = q, the weight whose gradient is that of the loss -q: Power(1), which is MixCE(0) and TaiLr(1, 0).

    Source: Wu et al., "On the Generalization of SFT", 2025, arXiv 2508.05629, equation 9.
    """

    exponent: float = field(default=1.0, init=False, repr=False)


@dataclass(frozen=True)
class Focal(TokenWeighted):
    """w(q) = (1 - q)^(g - 1) (1 - q - g q log q), as for the focal loss -(1 - q)^g log q.

    focusing: g in [0, 100]. 0 is MLE. It gives probable tokens less weight, so its stationary distribution is flatter.
    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002, equation 4.
    """

    focusing: float = 2.0

    def weight(self, prob: Probs) -> Probs:
        rest = 1 - prob
        slope = self.focusing * torch.special.xlogy(prob, prob) / rest.clamp(min=torch.finfo(prob.dtype).eps)
        return rest**self.focusing * (1 - slope)


@dataclass(frozen=True)
class Threshold(TokenWeighted):
    """w(q) = 1 where q > tau, else 0; with side "below" the other way round.

    tau in [0, 1]. Above 0 is MLE, and so is below 1. The tokens of weight 0 are not learned, so training may end at
    several distributions. Source: "Beyond Log Likelihood", 2025, arXiv 2510.00526, section 5.
    """

    tau: float = 0.1
    side: str = "above"

    def weight(self, prob: Probs) -> Probs:
        above = (prob > self.tau) | (self.tau == 0)  # a probability of 0 is an underflow
        return (above if self.side == "above" else prob <= self.tau).to(prob)


@dataclass(frozen=True)
class GEM(TokenWeighted):
    """loss = beta (logsumexp(z / beta) - z_y / beta): beta times the cross-entropy of the logits z / beta.

    beta in [0.01, 100]; 1 is MLE. It is the linear form of GEM. At infinite capacity the model ends at Q ~ P^beta, the
    temperature 1 / beta. For beta < 1 the model is flatter than the truth. It is no function of q alone.
    Source: Li et al., "Preserving Diversity in Supervised Fine-Tuning", ICLR 2025, arXiv 2408.16673.
    """

    beta: float = 0.7

    @property
    def order(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 / self.beta

    def losses(self, scores: TokenScores) -> Probs:
        return self.beta * _scaled_partition(self, scores) - scores.logit

    def stationary(self, probs: Float[torch.Tensor, "*B V"]) -> Float[torch.Tensor, "*B V"]:
        """The stationary distribution Q ~ P^beta."""
        powers = probs**self.beta
        return powers / powers.sum(-1, keepdim=True)


@dataclass(frozen=True)
class ErrorNormTruncation(TokenWeighted):
    """w = 1 where sqrt(1 - 2 q + sum_v q_v^2) <= tau, else 0: tokens far from the model's prediction are dropped.

    max_norm: tau, in [0, sqrt(2)]; sqrt(2) is MLE. It is no function of q alone: it drops an improbable token only
    where the model is sure of another. sum_v q_v^2 = exp(logsumexp(2 z) - 2 logsumexp(z)).
    Source: Li et al., "Error Norm Truncation", ICLR 2024, arXiv 2310.00840, equation 3.
    """

    max_norm: float = 1.2
    order = 2.0

    def losses(self, scores: TokenScores) -> Probs:
        collision = (_scaled_partition(self, scores) - 2 * scores.log_partition).exp()
        norm = (1 - 2 * scores.prob + collision).clamp(min=0).sqrt()
        return (norm.detach() <= self.max_norm) * scores.nll


def _scaled_partition(objective: TokenWeighted, scores: TokenScores) -> Probs:
    if scores.scaled_partition is None:
        how = f"weighted_cross_entropy, or TokenScores.from_logits(..., order={objective.order:g})"
        raise ValueError(f"{objective} needs the scaled_partition of the scores; use {how}")
    return scores.scaled_partition
