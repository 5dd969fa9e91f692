"""SequenceMatch, its divergences, and the schedule that mixes it with MLE."""

import math
from dataclasses import dataclass
from numbers import Real

import torch

from mixkit._common import InputError, check_unit_interval, unknown
from mixkit.losses.lm_head import TokenScores


@dataclass(frozen=True)
class SequenceMatch:
    """loss = -J_hat; J = (1/alpha) E_D[phi(alpha r)] - 1/2 E_D[V - g V'] - 1/2 E_M[V - g V'], r = l - g V'.

    Logits are Q-values of the actions "append a token", "take one back", "end": l = Q(a|s), V = logsumexp Q(.|s) and
    V' the next state's V. D are the data's texts, M texts sampled from the model. Maximising J draws the model's
    discounted occupancy of (state, action) to the data's.

    alpha > 0: how strongly phi bends; the smaller, the closer the occupancies get, and the larger r may grow (1/alpha).
    discount g in (0, 1): step i counts g^i, so about 1 / (1 - g) tokens matter.
    divergence, by its phi:
      "chi2-mixture"  x - x^2/4, with -(alpha/4) E_M[r^2] added to J: chi^2 to the mixture of both occupancies
      "chi2"          x - x^2/4
      "js"            log(2 - exp(-x)): Jensen-Shannon
      "rkl"           -exp(-(x + 1)): reverse KL; it has slope 1 at x = -1, so V settles near -1 / (alpha (1 - g))
    js is undefined at x <= -log 2 and rkl overflows far below 0: where the slope would pass `STEEPEST`, phi goes on as
    its tangent, finite and still concave.
    Raises InputError (a ValueError) for alpha <= 0, a discount outside (0, 1), an unknown divergence.
    Source: Cundy & Ermon, "SequenceMatch", ICLR 2024, arXiv 2306.05426.
    """

    alpha: float = 0.01
    discount: float = 0.998
    divergence: str = "chi2-mixture"

    def __post_init__(self):
        _check_number("alpha", self.alpha, lambda x: 0 < x < math.inf, "a finite number above 0")
        _check_number("discount", self.discount, lambda x: 0 < x < 1, "a number in (0, 1), the ends left out")
        if self.divergence not in DIVERGENCES:
            raise unknown("divergence", self.divergence, DIVERGENCES)

    def phi(self, x: torch.Tensor) -> torch.Tensor:
        """The divergence's concave function of x = alpha r. Same shape as `x`."""
        return DIVERGENCES[self.divergence](x)

    def __call__(
        self,
        data_scores: TokenScores,
        data_next: torch.Tensor,
        model_scores: TokenScores,
        model_next: torch.Tensor,
        *,
        data_mask: torch.Tensor | None = None,
        data_labels: torch.Tensor | None = None,
        data_ended: torch.Tensor | None = None,
        model_mask: torch.Tensor | None = None,
        model_ended: torch.Tensor | None = None,
        denominator: torch.Tensor | float | None = None,
    ) -> torch.Tensor:
        """equals: -(sum of J_hat's data terms over the B rows + B * mean of its model terms) / denominator

        data_scores (B, T): l and V of every action of B data texts; data_next (B, T): V of the state that it leads to.
        model_scores, model_next (M, U): the same for M texts sampled from the model; M need not be B.
        data_mask, model_mask: True where an action was taken; what the others hold touches nothing. Default: all.
        data_labels (B, T): False where an action is not to be learned (a spliced-in wrong token). Its logit is left out
        and the step is one that the world forced, l = V: as at the end of a text, where there is no choice either.
        (Were the step dropped, nothing would balance the V of the state after it, which then climbs to 1 / alpha.)
        data_ended (B,), model_ended (M,): True where the last action ended the text, so its state absorbs and counts
        for ever; False where the text was cut: its last state is an ordinary one. Default: all are cut.
        denominator: by default B, so the value is nats per text, -J_hat. With `steps(data_mask)` it is nats per
        (discounted) token, the unit of MLE, to be mixed with it; on several devices or under gradient accumulation
        pass the whole global batch's.
        Raises ValueError where shapes differ or there is no text on one of the sides.
        """
        if 0 in (len(data_next), len(model_next)):
            raise ValueError("SequenceMatch needs at least one data text and one text sampled from the model")
        data = _Trajectories(self.discount, data_scores, data_next, data_mask, data_ended, data_labels)
        model = _Trajectories(self.discount, model_scores, model_next, model_mask, model_ended)
        matched = data.expect(lambda r: self.phi(self.alpha * r) / self.alpha) - data.initial_value() / 2
        played = -model.initial_value() / 2
        if self.divergence == "chi2-mixture":
            played = played - self.alpha / 4 * model.expect(torch.square)
        total = matched.sum() + played.mean() * len(matched)
        return -total / (len(matched) if denominator is None else denominator)

    def steps(self, mask: torch.Tensor) -> torch.Tensor:
        """equals: sum_rows sum_{i < N} g^i, N a row's number of actions: the discounted tokens of mask (B, T)."""
        return -torch.expm1(mask.sum(-1) * math.log(self.discount)).sum() / (1 - self.discount)


class _Trajectories:
    """Texts as SequenceMatch sees them: r and V - g V' of every step, weighted by g^i, and the last state."""

    def __init__(self, discount, scores, following, mask=None, ended=None, labels=None):
        if scores.logit.shape != following.shape or following.ndim != 2:
            raise ValueError(
                f"scores {tuple(scores.logit.shape)}, next {tuple(following.shape)}: not one (texts, steps)"
            )
        taken = torch.ones_like(following, dtype=torch.bool) if mask is None else mask.bool()
        learned = taken if labels is None else taken & labels.bool()
        value = torch.where(taken, scores.log_partition, 0)
        following = torch.where(taken, following, 0)
        logit = torch.where(learned, scores.logit, value)  # (B, T)
        step = taken.cumsum(-1)  # 1 .. N
        self.discount = discount
        self.weight = torch.where(taken, discount ** (step - 1).to(value.dtype), 0)
        self.reward, self.difference = logit - discount * following, value - discount * following
        last = (step * taken).argmax(-1, keepdim=True)
        self.last_value = following.gather(-1, last)[..., 0]  # (B,)
        self.last_weight = discount ** step[..., -1].to(value.dtype)
        if ended is None:
            ended = torch.zeros_like(taken[..., 0])
        self.last_weight = torch.where(ended.bool(), self.last_weight, 0)

    def expect(self, function):
        """sum_i g^i function(r_i), the absorbing state's r = (1 - g) V for ever included. (B,)"""
        forever = function((1 - self.discount) * self.last_value) / (1 - self.discount)
        return (self.weight * function(self.reward)).sum(-1) + self.last_weight * forever

    def initial_value(self):
        """sum_i g^i (V_i - g V_{i+1}), the absorbing state's (1 - g) V for ever included. (B,)"""
        return (self.weight * self.difference).sum(-1) + self.last_weight * self.last_value


STEEPEST = 20.0  # the slope at which js and rkl turn into their tangent


def _chi2(x: torch.Tensor) -> torch.Tensor:
    return x - x.square() / 4


def _jensen_shannon(x: torch.Tensor) -> torch.Tensor:
    knee = -math.log(2 * STEEPEST / (1 + STEEPEST))
    above = x.clamp(min=knee)
    return torch.log1p(-torch.expm1(-above)) + STEEPEST * (x - above)


def _reverse_kl(x: torch.Tensor) -> torch.Tensor:
    above = x.clamp(min=-1 - math.log(STEEPEST))
    return -torch.exp(-(above + 1)) + STEEPEST * (x - above)


DIVERGENCES = {"chi2-mixture": _chi2, "chi2": _chi2, "js": _jensen_shannon, "rkl": _reverse_kl}


@dataclass(frozen=True)
class MLEWeightSchedule:
    """share(step) = 1 before step `alone`, then a straight line that reaches `floor` at step `alone + fall`.

    The trainer's loss is share * MLE + (1 - share) * SequenceMatch, both in nats per token. floor in [0, 1]: 1 is MLE
    throughout, 0 ends in SequenceMatch alone. Raises InputError (a ValueError) for a floor outside [0, 1] and for
    negative or fractional numbers of steps.
    """

    warmup: int
    decay: int
    minimum: float = 0.0

    def __post_init__(self):
        for name in ("warmup", "decay"):
            _check_number(name, getattr(self, name), lambda x: x >= 0 and float(x).is_integer(), "a number of steps")
        check_unit_interval("minimum", self.minimum)

    def __call__(self, step: int) -> float:
        """MLE's share of the loss at optimisation step `step`, counted from 0. In [floor, 1]."""
        if step < self.warmup:
            return 1.0
        fallen = min(1.0, (step - self.warmup) / self.decay) if self.decay else 1.0
        return 1 - fallen * (1 - self.minimum)


def _check_number(name: str, value: float, fits, allowed: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value) or not fits(value):
        raise InputError(f"{name} is {value!r}; it must be {allowed}")
