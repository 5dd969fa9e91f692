"""One Gaussian fitted to a mixture that it cannot match: what each divergence gives up, exactly, by quadrature.
TaiLr's illustration; knows no other room, fast enough to follow a slider."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mixkit._common import InputError, check_unit_interval, unknown

POINTS, STARTS, ROUNDS = 251, (31, 21), 25


@dataclass(frozen=True)
class Mixture:
    """sum_i weights[i] N(means[i], deviations[i]^2); the default is the target of TaiLr's figure 1.

    Raises InputError where the weights are no distribution or a deviation is not positive.
    Source: Ji et al., ICLR 2023, arXiv 2302.13344, section 3.
    """

    weights: tuple[float, ...] = (0.8, 0.2)
    means: tuple[float, ...] = (1.0, 5.0)
    deviations: tuple[float, ...] = (0.5, 0.4)

    def __post_init__(self):
        if not 0 < len(self.weights) == len(self.means) == len(self.deviations):
            raise InputError(f"{len(self.weights)} weights, {len(self.means)} means, {len(self.deviations)} deviations")
        if not np.isfinite([*self.weights, *self.means, *self.deviations]).all():
            raise InputError(f"{self} holds a number that is not finite")
        if min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-9:
            raise InputError(f"weights are {self.weights}; they must be positive and sum to 1")
        if min(self.deviations) <= 0:
            raise InputError(f"deviations are {self.deviations}; they must be positive")

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log of the density at x, any shape."""
        parts = zip(self.weights, self.means, self.deviations, strict=True)
        return np.logaddexp.reduce([np.log(w) + gaussian_log_density(x, m, s) for w, m, s in parts])

    def cumulative(self, x: np.ndarray) -> np.ndarray:
        """The distribution function at x, any shape."""
        parts = zip(self.weights, self.means, self.deviations, strict=True)
        return sum(w * _cumulative((x - m) / s) for w, m, s in parts)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        weights, means, deviations = map(np.array, (self.weights, self.means, self.deviations))
        mean = weights @ means
        return float(mean), float(np.sqrt(weights @ (deviations**2 + (means - mean) ** 2)))


class Gaussian(NamedTuple):
    """N(mean, deviation^2) and its divergence from the target, of the kind that was asked for."""

    mean: float
    deviation: float
    divergence: float


def gaussian_log_density(x, mean, deviation):
    """log N(x; mean, deviation^2), elementwise."""
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)


def divergence(kind: str, mean, deviation, *, eta: float = 0.5, target: Mixture = Mixture()) -> np.ndarray:
    """The divergence of N(mean, deviation^2) from the target P, by quadrature, elementwise; nats but for "tv".

    kind, with Q the Gaussian:
      "forward_kl"  KL(P, Q)
      "reverse_kl"  KL(Q, P)
      "kls"         eta KL(P, Q) + (1 - eta) KL(Q, P): eta 1 covers (diversity), 0 seeks a mode (quality)
      "js"          eta KL(P, M) + (1 - eta) KL(Q, M), M = eta P + (1 - eta) Q; both ends are 0 for every Q
      "tv"          total variation, 1/2 int |P - Q|, in [0, 1]
    """
    if not np.min(deviation) > 0:
        raise InputError(f"deviation is {np.min(deviation)}; it must be positive")
    return _quadrature(kind, eta, target, 16 * POINTS)(*np.broadcast_arrays(mean, deviation))


def fit_gaussian(kind: str, *, eta: float = 0.5, target: Mixture = Mixture()) -> Gaussian:
    """The Gaussian of least `divergence`: the best point of a grid, then a pattern search around it.

    Derivative-free, as total variation has creases; deterministic; global among minima wider than the first grid's
    steps. Means are sought between the smallest and the largest component's, deviations between half the smallest
    component's and the whole target's. Right to about 1e-5; for "tv", whose floor is flat, to 5e-3.
    Raises InputError where eta is outside [0, 1], or 0 or 1 for "js" (every Gaussian is as good).
    """
    if kind == "js" and eta in (0, 1):
        raise InputError(f"eta is {eta}; the generalised JS is 0 for every Gaussian there: choose 0 < eta < 1")
    value = _quadrature(kind, eta, target, POINTS)

    def best_of(means, logs):
        means, logs = np.meshgrid(means, logs)
        values = value(means, np.exp(logs))
        at = np.unravel_index(values.argmin(), values.shape)
        return values[at], means[at], logs[at]

    bounds = [(min(target.means), max(target.means)), np.log([min(target.deviations) / 2, target.moments()[1] * 1.1])]
    starts = [np.linspace(*bound, count) for bound, count in zip(bounds, STARTS, strict=True)]
    least, mean, log = best_of(*starts)
    value = _quadrature(kind, eta, target, (4 if kind == "tv" else 2) * POINTS)
    least, span = math.inf, max(np.diff(axis).max() for axis in starts)
    for _ in range(ROUNDS):
        pattern = span * np.arange(-2, 3) / 2
        found, *there = best_of(mean + pattern, log + pattern)
        if found < least and there != [mean, log]:
            mean, log = there
        else:
            span /= 3
        least = min(least, found)
    return Gaussian(float(mean), math.exp(log), float(divergence(kind, mean, math.exp(log), eta=eta, target=target)))


def _quadrature(kind, eta, target, points):
    """(means, deviations) -> divergences, with the target's share computed once."""
    if kind not in ("forward_kl", "reverse_kl", "kls", "js", "tv"):
        raise unknown("divergence", kind, ["forward_kl", "reverse_kl", "kls", "js", "tv"])
    check_unit_interval("eta", eta)
    eta = {"forward_kl": 1.0, "reverse_kl": 0.0}.get(kind, eta)
    reach = 9 * max(max(target.deviations), target.moments()[1])
    x = np.linspace(min(target.means) - reach, max(target.means) + reach, points)
    step = x[1] - x[0]
    log_p = target.log_density(x)
    p = np.exp(log_p)

    def values(mean, deviation):
        mean, deviation = (np.asarray(y, float)[..., None] for y in (mean, deviation))
        log_q = gaussian_log_density(x, mean, deviation)
        q = np.exp(log_q)
        if kind == "tv":
            return _total_variation(p - q, target.cumulative(x) - _cumulative((x - mean) / deviation), step)
        if kind == "js":
            log_m = np.log(np.maximum(eta * p + (1 - eta) * q, np.finfo(float).tiny))
            return (eta * p * (log_p - log_m) + (1 - eta) * q * (log_q - log_m)).sum(-1) * step
        return ((eta * p - (1 - eta) * q) * (log_p - log_q)).sum(-1) * step

    return values


def _total_variation(difference, integral, step):
    """1/2 int |difference|, from its values and those of its integral on a grid of that step.

    Exact in steps where it keeps its sign. Where it changes, the zero is taken from a line and the integral there from
    a cubic: the integral is stationary at the zero, which makes the error of fourth order in the step.
    """
    sizes = np.abs(np.diff(integral))
    at = np.nonzero(difference[..., :-1] * difference[..., 1:] < 0)
    after = (*at[:-1], at[-1] + 1)
    left, right, low, high = difference[at], difference[after], integral[at], integral[after]
    t = left / (left - right)
    zero = low + t * t * (3 - 2 * t) * (high - low) + step * t * (1 - t) * ((1 - t) * left - t * right)
    sizes[at] = np.abs(zero - low) + np.abs(high - zero)
    return sizes.sum(-1) / 2


def _cumulative(z):
    """The standard normal distribution function, elementwise; numpy has none."""
    return torch.special.ndtr(torch.from_numpy(z)).numpy()
