"""Token-weighted objectives: MLE, MixCE, TaiLr. Each is a weight function of the target's probability."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixkit._common import Bool, Float, Int
from mixkit.losses.definitions import check_coefficients


@dataclass(frozen=True)
class TokenScores:
    """The two or three numbers per position that an objective is a function of, in nats.

    logit: z[y], where z are the logits of the position and y is its target token. log_partition: logsumexp(z).
    scaled_partition: logsumexp(k z), for the few objectives that have an `order` k.
    """

    logit: Float[Tensor, "*B"]
    log_partition: Float[Tensor, "*B"]
    scaled_partition: Float[Tensor, "*B"] | None = None

    def __post_init__(self):
        if self.logit.shape != self.log_partition.shape:
            shapes = f"logit {tuple(self.logit.shape)} and log_partition {tuple(self.log_partition.shape)}"
            raise ValueError(f"{shapes} differ in shape; pass one entry per position in each")

    @property
    def logprob(self) -> Float[Tensor, "*B"]:
        """log q = z[y] - logsumexp(z), at most 0."""
        return self.logit - self.log_partition

    @property
    def nll(self) -> Float[Tensor, "*B"]:
        """-log q = logsumexp(z) - z[y], at least 0."""
        return self.log_partition - self.logit

    @property
    def prob(self) -> Float[Tensor, "*B"]:
        """q = exp(z[y] - logsumexp(z)), in [0, 1]."""
        return self.logprob.exp()

    @classmethod
    def from_logits(
        cls, logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"], order: float | None = None
    ) -> "TokenScores":
        """equals: TokenScores(logits.gather(-1, targets[..., None])[..., 0], logits.logsumexp(-1))

        This is the slow reference for `token_scores`. Half precision is converted to float32. order: k of the
        scaled_partition, `objective.order`.
        Raises ValueError for a target outside [0, V). On a GPU targets are not checked, because that would wait for it.
        """
        check_targets(targets, logits.shape[-1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scaled = None if order is None else (order * logits).logsumexp(-1)
        return cls(logits.gather(-1, targets[..., None])[..., 0], logits.logsumexp(-1), scaled)


class TokenWeighted:
    """loss = mean_t stop_gradient(w(q_t)) * nll_t, where q_t is the model's probability of target token t.

    A subclass defines `weight`. Its entry in definitions.py gives it a name, a label and checked coefficients. It may
    define `inverse(ratio)`, the q in [0, 1] that solves q / w(q) = ratio in closed form; fixed_points.py uses it.
    An objective that needs logsumexp(k z) sets `order` to k and defines `losses`.
    """

    order: float | None = None

    def __post_init__(self):
        check_coefficients(self)

    def weight(self, prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """w(q) for every q in `prob`, each from its own q alone. The losses let no gradient flow through it."""
        raise NotImplementedError

    def losses(self, scores: TokenScores) -> Float[Tensor, "*B"]:
        """The loss of each position. Its gradient in the scores is the gradient of training."""
        return self.weight(scores.prob.detach()) * scores.nll

    def __call__(
        self, scores: TokenScores, mask: Bool[Tensor, "*B"] | Int[Tensor, "*B"] | None = None
    ) -> Float[Tensor, ""]:
        """equals: self.losses(scores)[mask].mean()

        mask: True for positions that count. Masked positions change neither the value nor the gradients, even where
        they hold inf or nan. Returns the loss in nats per token.
        Raises ValueError if every position is masked.
        """
        if mask is not None:
            scores = TokenScores(*(part[mask.bool()] for part in vars(scores).values() if part is not None))
        if scores.logit.numel() == 0:
            raise ValueError("every position is masked, so there is no mean; leave at least one position unmasked")
        return self.losses(scores).mean()


@dataclass(frozen=True)
class MLE(TokenWeighted):
    """w(q) = 1: maximum likelihood, the forward cross-entropy -E_P[log Q]."""

    def weight(self, prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return torch.ones_like(prob)

    def inverse(self, ratio: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return ratio.clamp(max=1)


@dataclass(frozen=True)
class MixCE(TokenWeighted):
    """w(q) = eta + (1 - eta) q: a mixture of the forward and the reverse cross-entropy.

    eta in [0, 1]: weight of the forward cross-entropy. 1 is MLE. 0 weights every token by its probability q.
    The reverse cross-entropy -E_Q[log P] needs the true distribution P, which is unknown; -E_P[Q log Q] replaces it.
    Raises InputError for a value out of range.
    Source: Zhang et al., "MixCE", ACL 2023, arXiv 2305.16958, equations 7 and 8.
    """

    eta: float

    def weight(self, prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        return self.eta + (1 - self.eta) * prob

    def inverse(self, ratio: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        solution = self.eta * ratio / (1 - (1 - self.eta) * ratio)
        return torch.where(ratio < 1, solution, 1)


@dataclass(frozen=True)
class TaiLr(TokenWeighted):
    """w(q) = clip(q / (gamma + (1 - gamma) q), w_min, 1): an estimate of the total variation distance.

    gamma in [0, 1]: weight of the one-hot target in the proxy distribution. 0 is MLE. The released scripts use 1e-7.
    w_min in [0, 1]: smallest weight. 1 is MLE. With gamma 1 and w_min 0 the weight is q, as in MixCE(0).
    Raises InputError for a value out of range.
    Source: Ji et al., "Tailoring language generation models under total variation distance", ICLR 2023,
    arXiv 2302.13344, equation 9.
    """

    gamma: float
    w_min: float = 0.0

    def weight(self, prob: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        if self.gamma == 0:  # q / q, which is nan where q is 0
            return torch.ones_like(prob)
        return (prob / (self.gamma + (1 - self.gamma) * prob)).clamp(self.w_min, 1)

    def inverse(self, ratio: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        unclipped = (ratio >= 1).to(ratio) if self.gamma == 1 else (ratio - self.gamma) / (1 - self.gamma)
        return torch.maximum(unclipped, self.w_min * ratio).clamp(0, 1)


def check_targets(targets: Tensor, vocabulary: int) -> None:
    """Raise ValueError for a target outside [0, vocabulary). On a GPU do nothing, because a check would wait for it."""
    if targets.device.type != "cpu" or targets.numel() == 0:
        return
    for target in (int(targets.min()), int(targets.max())):
        if not 0 <= target < vocabulary:
            allowed = f"token ids are in [0, {vocabulary})"
            raise ValueError(f"targets hold {target}; {allowed}: mask those positions out (targets != {target})")
