"""Where training ends: the stationary distribution of a token-weighted objective at infinite capacity."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixkit._common import Float, InputError
from mixkit.losses.token_weighted import TokenWeighted

Inverse = Callable[[Tensor], Tensor]
_GRID = 20_001  # points at which q / w(q) is checked
_TABLE = 2**14  # points of the tabulated inverse
_TINY = 1e-30
_IN_CACHE = 2**16  # probabilities that stay in a core's cache
_TOP, _STRIDE = 128, 32  # W is first found for the most probable tokens and every 32nd of the others


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
    if inverse is None:
        return objective.stationary(p).to(probs.dtype)  # pyright: ignore[reportAttributeAccessIssue]
    q = _solve(objective, inverse, p, tolerance=1e-15)
    weighted = p * objective.weight(q)
    if not torch.allclose(weighted, q * weighted.sum(-1, keepdim=True), rtol=0, atol=1e-9):
        raise InputError(f"{objective} has no stationary distribution for these probs, because its weight jumps")
    return q.to(probs.dtype)


def inverse_of(objective: TokenWeighted) -> Inverse | None:
    """The function r -> q in [0, 1] that solves q / w(q) = r; None where the objective has `stationary` in its place.

    It is `objective.inverse`, or else bisection in float64 and a table in float32.
    Raises InputError where q / w(q) falls in q, because a ratio then has several solutions, and for an objective that
    is not a function of q alone.
    """
    if not isinstance(objective, TokenWeighted):
        raise InputError(f"{objective} is not a token-weighted objective, so it is no decoder")
    if hasattr(objective, "stationary"):
        return None
    if objective.order is not None:
        raise InputError(f"{objective} is not a function of q alone, so it has no stationary distribution")
    q = torch.cat(
        [torch.logspace(-12, -2, _GRID, dtype=torch.float64), torch.linspace(1e-2, 1, _GRID, dtype=torch.float64)]
    )
    weight, several = objective.weight(q), "so training may end at several points"
    if bool((weight[:-1] <= 0).any()):
        raise InputError(f"{objective} gives some tokens the weight 0, {several}")
    ratio = q / weight.clamp(min=_TINY)
    falls = ratio[1:] < ratio[:-1] * (1 - 1e-9)
    if bool(falls.any()):
        where = q[1:][falls][0].item()
        raise InputError(f"{objective} is not convex: q / w(q) falls at q = {where:.2g}, {several}")
    owner: Any = {name: cls for cls in reversed(type(objective).__mro__) for name in vars(cls)}
    if "inverse" in owner and issubclass(owner["inverse"], owner["weight"]):  # not of a class with another weight
        return objective.inverse  # pyright: ignore[reportAttributeAccessIssue]
    grid, grid_ratio = torch.cat([q.new_zeros(1), q]), torch.cat([ratio.new_zeros(1), ratio])
    start, stop = math.log(ratio[0].item()), math.log(min(ratio[-1].item(), 1e6))
    if stop - start < 1e-6:  # q / w(q) is constant
        return lambda r: (r >= ratio[0].item() * (1 - 1e-6)).to(r)
    log_q = _bisect(objective, torch.linspace(start, stop, _TABLE).double().exp(), grid, grid_ratio).log().float()

    def inverse(r: Tensor) -> Tensor:
        if r.dtype == torch.float64:
            return _bisect(objective, r, grid.to(r), grid_ratio.to(r))
        place = (r.clamp(min=_TINY).log_().sub_(start)).mul_((_TABLE - 1) / (stop - start))
        index = place.long().clamp_(0, _TABLE - 2)
        table = log_q.to(r.device)
        below, slope = table[index], table[index + 1] - table[index]
        return torch.where(r > 0, (below + slope * (place - index)).exp_().clamp_(max=1), 0)

    return inverse


def decode(objective: TokenWeighted, inverse: Inverse | None, probs: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """The stationary distributions of rows of float32 probabilities, right to about 1e-4 (1e-3 where w(q) has a kink).

    W is found for a part of the tokens, and corrected by one secant step for all. Where that is not enough, as for
    MixCE(0), the row's W is searched with all tokens.
    """
    if inverse is None:
        return objective.stationary(probs)  # pyright: ignore[reportAttributeAccessIssue]
    top = probs.topk(min(_TOP, probs.shape[-1])).values
    others = probs[:, ::_STRIDE]
    others = others.where(others < top[:, -1:], 0)
    scale = (1 - top.sum(-1, keepdim=True)).clamp(min=0) / others.sum(-1, keepdim=True).clamp(min=_TINY)

    def log_sum(log_w: Tensor) -> Tensor:
        w = log_w.exp()
        return (inverse(top / w).sum(-1, keepdim=True) + scale * inverse(others / w).sum(-1, keepdim=True)).log()

    _, _, log_w, _ = _search(log_sum, *_bracket(objective, top), tolerance=1e-4)
    step = 0.02
    slope = (log_sum(log_w + step) - log_sum(log_w - step)) / (2 * step)
    rows: list[Tensor] = []
    size = len(probs) if probs.is_cuda else max(1, _IN_CACHE // probs.shape[-1])  # a GPU is waited for in each part
    for p, start, rate in zip(probs.split(size), log_w.split(size), slope.split(size), strict=True):
        correction = inverse(p / start.exp()).sum(-1, keepdim=True).log() / rate
        q = inverse(p / (start - correction).exp())
        total = q.sum(-1, keepdim=True)
        near = (total - 1).abs() < 1e-2
        rows.append(q / total if near.all() else (q / total).where(near, _solve(objective, inverse, p, tolerance=1e-5)))
    return torch.cat(rows)


def _solve(objective: TokenWeighted, inverse: Inverse, p: Tensor, tolerance: float) -> Tensor:
    """Q = inverse(p / W), with W such that Q sums to 1 within `tolerance`. In the dtype of p."""

    def log_sum(log_w: Tensor) -> Tensor:
        return inverse(p / log_w.exp()).sum(-1, keepdim=True).log()

    low, high, middle, value = _search(log_sum, *_bracket(objective, p), tolerance)
    # Where q / w(q) is constant the sum jumps past 1 between low and high: the tokens there share what is left.
    upper, lower = inverse(p / low.exp()), inverse(p / high.exp())
    missing, jump = 1 - lower.sum(-1, keepdim=True), (upper - lower).sum(-1, keepdim=True)
    mixed = lower + (upper - lower) * (missing / jump).nan_to_num(0.0, 0.0, 0.0).clamp(0, 1)
    q = torch.where(value.abs() <= max(tolerance, 1e-12), inverse(p / middle.exp()), mixed)
    return q / q.sum(-1, keepdim=True)


def _bracket(objective: TokenWeighted, p: Tensor) -> tuple[Tensor, Tensor]:
    """log W at which Q sums to at least 1, and log W at which it sums to at most 1. p: with its largest entries."""
    weights = objective.weight(torch.linspace(0, 1, 1001, dtype=p.dtype, device=p.device))
    low = (p.amax(-1, keepdim=True) * weights[-1]).clamp(min=_TINY).log() - 1e-5  # exp(log(p)) may be above p
    return low, torch.maximum(low, weights.max().clamp(min=_TINY).log())


def _search(
    log_sum: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The root of log_sum, which falls: its bracket, the last point and the value there.

    The Illinois method, with a bisection step every third time.
    """
    log_sum_low, log_sum_high = log_sum(low), log_sum(high)
    last = torch.zeros_like(low)  # which end moved last: 1 the lower, -1 the upper
    middle, value = low, log_sum_low
    for step in range(200):  # at most
        share = (log_sum_low / (log_sum_low - log_sum_high)).nan_to_num(0.5) if step % 3 < 2 else 0.5
        middle = low + (high - low) * share
        value = log_sum(middle)
        above = value >= 0
        log_sum_high = torch.where(above, torch.where(last > 0, log_sum_high / 2, log_sum_high), value)
        log_sum_low = torch.where(above, value, torch.where(last < 0, log_sum_low / 2, log_sum_low))
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        last = torch.where(above, 1.0, -1.0)
        if bool(((value.abs() <= tolerance) | (high - low <= tolerance)).all()):
            break
    return low, high, middle, value


def _bisect(objective: TokenWeighted, ratio: Tensor, grid: Tensor, grid_ratio: Tensor) -> Tensor:
    """The largest q in [0, 1] with q / w(q) <= ratio, by bisection between two neighbours in the grid."""
    index = torch.searchsorted(grid_ratio, ratio.contiguous(), right=True) - 1
    low, high = grid[index], grid[(index + 1).clamp(max=len(grid) - 1)]
    for _ in range(45 if ratio.dtype == torch.float64 else 15):
        middle = (low + high) / 2
        fits = middle <= ratio * objective.weight(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low
