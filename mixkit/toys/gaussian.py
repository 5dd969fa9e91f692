"""One Gaussian fitted to a mixture of two under several divergences."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brute, fmin
from scipy.stats import norm

from mixkit._common import unknown
from mixkit.losses.definitions import ETA

KINDS = ("forward_kl", "reverse_kl", "kls", "tv")
# The target P of TaiLr's figure 1 (Ji et al., ICLR 2023, arXiv 2302.13344, section 3).
WEIGHTS, MEANS, DEVIATIONS = np.array([0.8, 0.2]), np.array([1.0, 5.0]), np.array([0.5, 0.4])
FIT_GRID, FINE_GRID = np.linspace(-14, 20, 501), np.linspace(-14, 20, 16_001)  # there is no mass outside


class Gaussian(NamedTuple):
    """N(mean, deviation^2) and its divergence from the target."""

    mean: float
    deviation: float
    divergence: float


def target_log_density(x: np.ndarray) -> np.ndarray:
    """log of P's density at x, any shape."""
    return np.logaddexp.reduce(np.log(WEIGHTS) + norm.logpdf(x[..., None], MEANS, DEVIATIONS), axis=-1)


def divergence(kind: str, mean: float, deviation: float, *, eta: float = 0.5, grid: np.ndarray = FINE_GRID) -> float:
    """The divergence of Q = N(mean, deviation^2) from the target P, by the trapezoidal rule, in nats except "tv".

    "forward_kl"  KL(P, Q)
    "reverse_kl"  KL(Q, P)
    "kls"         eta KL(P, Q) + (1 - eta) KL(Q, P)
    "tv"          total variation, 1/2 int |P - Q|, in [0, 1], right to 1e-5
    """
    if kind not in KINDS:
        raise unknown("divergence", kind, KINDS)
    ETA.check(eta)
    log_p, log_q = target_log_density(grid), norm.logpdf(grid, mean, deviation)
    p, q = np.exp(log_p), np.exp(log_q)
    share = {"forward_kl": 1.0, "reverse_kl": 0.0}.get(kind, eta)
    integrand = abs(p - q) / 2 if kind == "tv" else (share * p - (1 - share) * q) * (log_p - log_q)
    return float(np.trapezoid(integrand, grid))


def fit_gaussian(kind: str, *, eta: float = 0.5) -> Gaussian:
    """The Gaussian of least `divergence`: the best point of a grid, then Nelder and Mead's search. Right to 1e-3."""

    def coarse(parameters: np.ndarray) -> float:
        return divergence(kind, parameters[0], np.exp(parameters[1]), eta=eta, grid=FIT_GRID)

    ranges = (min(MEANS), max(MEANS)), (np.log(0.2), np.log(2.0))
    best = np.asarray(brute(coarse, ranges, Ns=21, finish=fmin))
    mean, deviation = float(best[0]), float(np.exp(best[1]))
    return Gaussian(mean, deviation, divergence(kind, mean, deviation, eta=eta))
