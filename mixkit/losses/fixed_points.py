"""Where training ends: the stationary distribution of a token-weighted objective at infinite capacity."""

from collections.abc import Callable

import torch
from torch import Tensor

from mixkit._common import Float, InputError
from mixkit.losses.token_weighted import TokenWeighted

Inverse = Callable[[Tensor], Tensor]
_GRID = 20_001  # points at which q / w(q) is checked
_STEPS = 200  # evaluations of the sum of Q, at most
_CHUNK = 2**19  # probabilities in work at once: larger temporary tensors are slow to allocate on a CPU
_TINY = 1e-30


def stationary_distribution(objective: TokenWeighted, probs: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
    """Q with Q_v W = P_v w(Q_v) for every token v, and W = sum_v P_v w(Q_v).

    At Q the expected gradient of the objective is zero. So training ends at Q in a context whose true next-token
    distribution is P, if the model can represent every distribution. MLE ends at P itself.

    probs: P, nonnegative, summing to 1 over the last dimension. Q has the dtype of probs; it is computed in float64.
    Given W, each Q_v follows from P_v / W alone, in closed form where the objective has one. The sum of Q falls in W,
    so W is found by a safeguarded secant search. Where q / w(q) is constant, as for MixCE(0), Q is all on the most
    probable tokens. Raises InputError where there is no solution or several, and for probs that are no distribution.
    """
    inverse = inverse_of(objective)
    if not probs.is_floating_point() or probs.numel() == 0 or not bool(((probs >= 0) & probs.isfinite()).all()):
        raise InputError("probs must be finite and nonnegative, with at least one token")
    total = probs.double().sum(-1, keepdim=True)
    if not torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-3):
        raise InputError(f"probs sum to {total.flatten()[0].item():.4g}; they must sum to 1 over the last dimension")
    p = probs.double() / total
    q = solve(objective, inverse, p, tolerance=1e-15)
    weighted = p * objective.weight(q)
    if not torch.allclose(weighted, q * weighted.sum(-1, keepdim=True), rtol=0, atol=1e-9):
        raise InputError(f"{objective} has no stationary distribution for these probs, because its weight jumps")
    return q.to(probs.dtype)


def inverse_of(objective: TokenWeighted) -> Inverse:
    """The function r -> q in [0, 1] that solves q / w(q) = r: `objective.inverse`, or bisection where it has none.

    Raises InputError where q / w(q) falls in q, because a ratio then has several solutions.
    """
    if not isinstance(objective, TokenWeighted):
        raise InputError(f"{objective} is not a token-weighted objective, so it is no decoder")
    q = torch.cat(
        [torch.logspace(-12, -2, _GRID, dtype=torch.float64), torch.linspace(1e-2, 1, _GRID, dtype=torch.float64)]
    )
    weight = objective.weight(q)
    if bool((weight[:-1] <= 0).any()):
        raise InputError(f"{objective} gives some tokens the weight 0, so training may end at several points")
    ratio = q / weight
    falls = ratio[1:] < ratio[:-1] * (1 - 1e-9)
    if bool(falls.any()):
        where = q[1:][falls][0].item()
        raise InputError(
            f"{objective} is not convex: q / w(q) falls at q = {where:.2g}, so training may end at several points"
        )
    closed_form = getattr(objective, "inverse", None)
    if closed_form is not None:
        return closed_form
    q = torch.cat([q.new_zeros(1), q])
    return lambda r: _bisect(objective, r, q.to(r), torch.cat([ratio.new_zeros(1), ratio]).to(r))


def solve(
    objective: TokenWeighted, inverse: Inverse, p: Float[Tensor, "*B V"], tolerance: float
) -> Float[Tensor, "*B V"]:
    """Q = inverse(p / W), with W such that Q sums to 1 within `tolerance`. In the dtype of p."""
    rows = p.reshape(-1, p.shape[-1])
    ends = objective.weight(torch.linspace(0, 1, 1001, dtype=p.dtype, device=p.device))
    size = max(1, _CHUNK // p.shape[-1])
    chunks = [_solve_rows(inverse, chunk, ends[-1], ends.max(), tolerance) for chunk in rows.split(size)]
    return torch.cat(chunks).reshape(p.shape)


def _solve_rows(inverse: Inverse, p: Tensor, weight_at_1: Tensor, largest_weight: Tensor, tolerance: float) -> Tensor:
    """The Illinois method on log sum(Q) as a function of log W, with a bisection step every third time."""
    low = (p.amax(-1, keepdim=True) * weight_at_1).clamp(min=_TINY).log()  # here Q sums to at least 1
    high = torch.maximum(low, largest_weight.clamp(min=_TINY).log())  # here Q sums to at most 1
    log_sum_low, log_sum_high = _log_sum(inverse, p, low), _log_sum(inverse, p, high)
    last = torch.zeros_like(low)  # which end moved last: 1 the lower, -1 the upper
    middle, value = low, log_sum_low
    for step in range(_STEPS):
        share = (log_sum_low / (log_sum_low - log_sum_high)).nan_to_num(0.5) if step % 3 < 2 else 0.5
        middle = low + (high - low) * share
        value = _log_sum(inverse, p, middle)
        above = value >= 0
        log_sum_high = torch.where(above, torch.where(last > 0, log_sum_high / 2, log_sum_high), value)
        log_sum_low = torch.where(above, value, torch.where(last < 0, log_sum_low / 2, log_sum_low))
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        last = torch.where(above, 1.0, -1.0)
        if bool(((value.abs() <= tolerance) | (high - low <= tolerance)).all()):
            break
    # Where q / w(q) is constant the sum jumps past 1 between low and high: the tokens there share what is left.
    upper, lower = inverse(p / low.exp()), inverse(p / high.exp())
    missing, jump = 1 - lower.sum(-1, keepdim=True), (upper - lower).sum(-1, keepdim=True)
    mixed = lower + (upper - lower) * (missing / jump).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    q = torch.where(value.abs() <= max(tolerance, 1e-12), inverse(p / middle.exp()), mixed)
    return q / q.sum(-1, keepdim=True)


def _log_sum(inverse: Inverse, p: Tensor, log_w: Tensor) -> Tensor:
    return inverse(p * (-log_w).exp()).sum(-1, keepdim=True).log()


def _bisect(objective: TokenWeighted, ratio: Tensor, grid: Tensor, grid_ratio: Tensor) -> Tensor:
    """The largest q in [0, 1] with q / w(q) <= ratio, by bisection between two neighbours in the grid."""
    index = torch.searchsorted(grid_ratio, ratio.contiguous(), right=True) - 1
    low, high = grid[index], grid[(index + 1).clamp(max=len(grid) - 1)]
    for _ in range(45 if ratio.dtype == torch.float64 else 15):
        middle = (low + high) / 2
        fits = middle <= ratio * objective.weight(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low
