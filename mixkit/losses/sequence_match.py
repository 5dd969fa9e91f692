"""The SequenceMatch objective and its divergences."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mixkit._common import Bool, Float, Int
from mixkit.losses.definitions import check_coefficients
from mixkit.losses.token_weighted import TokenScores

MAX_SLOPE = 20.0  # js and rkl are continued by their tangent where they are steeper


def _chi2(x: Tensor) -> Tensor:
    return x - x.square() / 4


def _jensen_shannon(x: Tensor) -> Tensor:
    start = -math.log(2 * MAX_SLOPE / (1 + MAX_SLOPE))  # the slope is MAX_SLOPE here
    above = x.clamp(min=start)
    return torch.log1p(-torch.expm1(-above)) + MAX_SLOPE * (x - above)


def _reverse_kl(x: Tensor) -> Tensor:
    start = -1 - math.log(MAX_SLOPE)  # the slope is MAX_SLOPE here
    above = x.clamp(min=start)
    return -torch.exp(-(above + 1)) + MAX_SLOPE * (x - above)


DIVERGENCES = {"chi2-mixture": _chi2, "chi2": _chi2, "js": _jensen_shannon, "rkl": _reverse_kl}


@dataclass(frozen=True)
class SequenceMatch:
    """loss = -J_hat; J = (1/alpha) E_D[phi(alpha r)] - 1/2 E_D[V - g V'] - 1/2 E_M[V - g V'], r = l - g V'.

    J_hat is J with means over texts and sums over steps, of which step i has the weight g^i.
    Logits are Q-values of actions: append a token, delete the last token, end. l = Q(a|s), V = logsumexp Q(.|s), and
    V' is V of the next state. D: data texts. M: texts sampled from the model. Maximising J moves the model's
    discounted occupancy measure of (state, action) towards that of the data.

    alpha > 0: curvature of phi. Smaller brings the occupancies closer, but r may grow as 1/alpha.
    discount g in (0, 1): step i has the weight g^i, so about 1 / (1 - g) tokens matter.
    divergence, by its phi:
      "chi2-mixture"  x - x^2/4, and J has the term -(alpha/4) E_M[r^2]: chi^2 to the mixture of both occupancies
      "chi2"          x - x^2/4
      "js"            log(2 - exp(-x)): Jensen-Shannon
      "rkl"           -exp(-(x + 1)): reverse KL. Its slope is 1 at x = -1, so V settles near -1 / (alpha (1 - g))
    js is undefined for x <= -log 2 and rkl overflows, so where the slope exceeds MAX_SLOPE phi is its tangent.
    Raises InputError for a value out of range and for an unknown divergence.
    Source: Cundy & Ermon, "SequenceMatch", ICLR 2024, arXiv 2306.05426.
    """

    alpha: float = 0.01
    discount: float = 0.998
    divergence: str = "chi2-mixture"

    def __post_init__(self):
        check_coefficients(self)

    def phi(self, x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """The divergence's concave function, of x = alpha r."""
        return DIVERGENCES[self.divergence](x)

    def __call__(
        self,
        data_scores: TokenScores,
        data_next: Float[Tensor, "B T"],
        model_scores: TokenScores,
        model_next: Float[Tensor, "M U"],
        *,
        data_mask: Bool[Tensor, "B T"] | None = None,
        data_labels: Bool[Tensor, "B T"] | None = None,
        data_ended: Bool[Tensor, " B"] | None = None,
        model_mask: Bool[Tensor, "M U"] | None = None,
        model_ended: Bool[Tensor, " M"] | None = None,
        denominator: Tensor | float | None = None,
    ) -> Float[Tensor, ""]:
        """equals: -(sum of J_hat's data terms over the B data texts + B * mean of its model terms) / denominator

        data_scores (B, T), data_next: l and V of every action of the data texts, and V of the next state.
        model_scores (M, U), model_next: the same for texts sampled from the model. M may differ from B.
        data_mask, model_mask: True where an action was taken. Other positions may hold anything. Default: all True.
        data_labels: False for actions that are not learned, such as an inserted wrong token. Such a step is forced: it
        has l = V, as at the end of a text. (Without the step, V of the next state would rise to 1 / alpha.)
        data_ended, model_ended: True where the last action ended the text, so that its state is absorbing. False where
        the text was cut, so that its last state is an ordinary one. Default: all False.
        denominator: by default B; the loss is then in nats per text. With `steps(data_mask)` of the global batch it is
        in nats per discounted token, the unit of MLE.
        Raises ValueError for shapes that do not fit and for a side without texts.
        """
        if len(data_next) == 0 or len(model_next) == 0:
            raise ValueError("SequenceMatch needs at least one data text and one text sampled from the model")
        weight, reward, difference = self._trajectories(data_scores, data_next, data_mask, data_ended, data_labels)
        matched = self.phi(self.alpha * reward) / self.alpha
        data_terms = weight * (matched - difference / 2)  # (B, T + 1)
        weight, reward, difference = self._trajectories(model_scores, model_next, model_mask, model_ended, None)
        penalty = self.alpha / 4 * reward.square() if self.divergence == "chi2-mixture" else 0.0
        model_terms = -weight * (difference / 2 + penalty)  # (M, U + 1)
        texts = len(data_next)
        total = data_terms.sum() + texts * model_terms.sum(-1).mean()
        return -total / (texts if denominator is None else denominator)

    def steps(self, mask: Bool[Tensor, "B T"] | Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """equals: sum over rows of sum_{i < N} g^i, where N is the number of actions in the row: discounted tokens."""
        return -torch.expm1(mask.sum(-1) * math.log(self.discount)).sum() / (1 - self.discount)

    def _trajectories(
        self, scores: TokenScores, next_value: Tensor, mask: Tensor | None, ended: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(weight, r, V - g V') of every step, each (B, T + 1). The weight of step i is g^i, and 0 for no action.

        The last column stands for all steps in the absorbing state, where r = V - g V' = (1 - g) V: its weight is
        g^N + g^(N+1) + ... = g^N / (1 - g), and 0 for a text that was cut.
        """
        if scores.logit.shape != next_value.shape or next_value.ndim != 2:
            shapes = f"scores {tuple(scores.logit.shape)} and next {tuple(next_value.shape)}"
            raise ValueError(f"{shapes} do not fit; both must be (texts, steps)")
        g = self.discount
        taken = torch.ones_like(next_value, dtype=torch.bool) if mask is None else mask
        learned = taken if labels is None else taken & labels
        value = torch.where(taken, scores.log_partition, 0)
        next_value = torch.where(taken, next_value, 0)
        logit = torch.where(learned, scores.logit, value)
        step = taken.cumsum(-1)  # 1 .. N
        weight = torch.where(taken, g ** (step - 1).to(value.dtype), 0)
        last = (step * taken).argmax(-1, keepdim=True)
        absorbing = (1 - g) * next_value.gather(-1, last)  # (B, 1)
        absorbing_weight = g ** step[:, -1:].to(value.dtype) / (1 - g)
        ended = torch.zeros_like(taken[:, 0]) if ended is None else ended
        absorbing_weight = torch.where(ended[:, None], absorbing_weight, 0)
        return (
            torch.cat([weight, absorbing_weight], -1),
            torch.cat([logit - g * next_value, absorbing], -1),
            torch.cat([value - g * next_value, absorbing], -1),
        )
