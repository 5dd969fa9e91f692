"""One Gaussian fitted to a mixture that it cannot match: what each divergence gives up, exactly, by quadrature.
Knows numpy only; TaiLr's illustration, fast enough to follow a slider."""

from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np

from mixkit.errors import InputError, unknown

POINTS, STARTS, ROUNDS = 1001, (31, 21), 16


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
    return _quadrature(kind, eta, target)(*np.broadcast_arrays(mean, deviation))


def fit_gaussian(kind: str, *, eta: float = 0.5, target: Mixture = Mixture()) -> Gaussian:
    """The Gaussian of least `divergence`: the best of a grid of starts, then grids that shrink around the best.

    Derivative-free (total variation has kinks), deterministic, global among modes wider than the first grid's steps;
    the deviation is sought between half the smallest component's and the whole target's. The parameters are right to
    about 1e-4. Raises InputError where eta is outside [0, 1], or 0 or 1 for "js" (every Gaussian is as good).
    """
    if kind == "js" and eta in (0, 1):
        raise InputError(f"eta is {eta}; the generalised JS is 0 for every Gaussian there: choose 0 < eta < 1")
    value = _quadrature(kind, eta, target)
    bounds = [(min(target.means), max(target.means)), np.log([min(target.deviations) / 2, target.moments()[1] * 1.1])]
    axes = [np.linspace(*bound, count) for bound, count in zip(bounds, STARTS, strict=True)]
    steps = [axis[1] - axis[0] if len(axis) > 1 else 0.0 for axis in axes]
    best = None
    for _ in range(1 + ROUNDS):
        means, logs = (x.ravel() for x in np.meshgrid(*axes))
        values = value(means, np.exp(logs))
        at = int(values.argmin())
        if best is None or values[at] <= best[2]:
            best = means[at], logs[at], values[at]
        axes = [centre + step * np.linspace(-1, 1, 7) for centre, step in zip(best[:2], steps, strict=True)]
        steps = [step * 0.5 for step in steps]
    return Gaussian(float(best[0]), float(np.exp(best[1])), float(best[2]))


def _quadrature(kind, eta, target):
    """(means, deviations) -> divergences, with the target's share computed once."""
    if kind not in ("forward_kl", "reverse_kl", "kls", "js", "tv"):
        raise unknown("divergence", kind, ["forward_kl", "reverse_kl", "kls", "js", "tv"])
    if isinstance(eta, bool) or not isinstance(eta, Real) or not 0 <= eta <= 1:
        raise InputError(f"eta is {eta!r}; it must be a number in [0, 1]")
    eta = {"forward_kl": 1.0, "reverse_kl": 0.0}.get(kind, eta)
    reach = 9 * max(max(target.deviations), target.moments()[1])
    x = np.linspace(min(target.means) - reach, max(target.means) + reach, POINTS)
    step = x[1] - x[0]
    log_p = target.log_density(x)
    p = np.exp(log_p)

    def values(mean, deviation):
        log_q = gaussian_log_density(x, np.asarray(mean, float)[..., None], np.asarray(deviation, float)[..., None])
        q = np.exp(log_q)
        if kind == "tv":
            left, right = (p - q)[..., :-1], (p - q)[..., 1:]
            sizes = np.abs(left) + np.abs(right)
            # Where the difference changes sign within a step, two triangles instead of a trapezium.
            crossed = (left**2 + right**2) / np.maximum(sizes, np.finfo(float).tiny)
            return np.where(left * right < 0, crossed, sizes).sum(-1) * step / 4
        if kind == "js":
            log_m = np.log(np.maximum(eta * p + (1 - eta) * q, np.finfo(float).tiny))
            return (eta * p * (log_p - log_m) + (1 - eta) * q * (log_q - log_m)).sum(-1) * step
        return ((eta * p - (1 - eta) * q) * (log_p - log_q)).sum(-1) * step

    return values
