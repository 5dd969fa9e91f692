"""One Gaussian fitted to a mixture of two under several divergences."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brute, fmin
from scipy.stats import norm

from mixkit._common import InputError, check_unit_interval, unknown

KINDS = ("forward_kl", "reverse_kl", "kls", "js", "tv")
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


def divergence(kind: str, mean: float, deviation: float, *, eta: float = 0.5) -> float:
    """The divergence of Q = N(mean, deviation^2) from the target P, by the trapezoidal rule, in nats except "tv".

    "forward_kl"  KL(P, Q)
    "reverse_kl"  KL(Q, P)
    "kls"         eta KL(P, Q) + (1 - eta) KL(Q, P)
    "js"          eta KL(P, M) + (1 - eta) KL(Q, M), M = eta P + (1 - eta) Q
    "tv"          total variation, 1/2 int |P - Q|, in [0, 1], right to 1e-5
    """
    return _divergence_function(kind, eta, FINE_GRID)(np.array([mean, np.log(deviation)]))


def fit_gaussian(kind: str, *, eta: float = 0.5) -> Gaussian:
    """The Gaussian of least `divergence`: the best point of a grid, then Nelder and Mead's search. Right to 1e-3.

    Raises InputError for eta outside [0, 1], and for "js" at 0 and 1, where every Gaussian has divergence 0.
    """
    if kind == "js" and eta in (0, 1):
        raise InputError(f"eta is {eta}; the generalised JS is 0 for every Gaussian there: choose 0 < eta < 1")
    ranges = (min(MEANS), max(MEANS)), (np.log(0.2), np.log(2.0))
    best = np.asarray(brute(_divergence_function(kind, eta, FIT_GRID), ranges, Ns=21, finish=fmin))
    mean, deviation = float(best[0]), float(np.exp(best[1]))
    return Gaussian(mean, deviation, divergence(kind, mean, deviation, eta=eta))


def _divergence_function(kind: str, eta: float, x: np.ndarray) -> Callable[[np.ndarray], float]:
    """The divergence of N(mean, deviation^2) as a function of (mean, log deviation). x: the grid of the integral."""
    if kind not in KINDS:
        raise unknown("divergence", kind, KINDS)
    check_unit_interval("eta", eta)
    eta = {"forward_kl": 1.0, "reverse_kl": 0.0}.get(kind, eta)
    p, log_p = np.exp(target_log_density(x)), target_log_density(x)

    def value(parameters: np.ndarray) -> float:
        log_q = norm.logpdf(x, parameters[0], np.exp(parameters[1]))
        q = np.exp(log_q)
        if kind == "tv":
            integrand = abs(p - q) / 2
        elif kind == "js":
            log_m = np.log(np.maximum(eta * p + (1 - eta) * q, np.finfo(float).tiny))
            integrand = eta * p * (log_p - log_m) + (1 - eta) * q * (log_q - log_m)
        else:
            integrand = (eta * p - (1 - eta) * q) * (log_p - log_q)
        return float(np.trapezoid(integrand, x))

    return value
