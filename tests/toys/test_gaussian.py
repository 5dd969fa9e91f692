"""The Gaussian toy against closed forms, scipy's integrals and scipy's optimiser."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

from mixkit.toys.gaussian import divergence, fit_gaussian


def target_density(x):
    return 0.8 * norm.pdf(x, 1, 0.5) + 0.2 * norm.pdf(x, 5, 0.4)


def integral(kind, mean, deviation, eta=0.5):
    def integrand(x):
        p, q = target_density(x), norm.pdf(x, mean, deviation)
        log_p = np.logaddexp(math.log(0.8) + norm.logpdf(x, 1, 0.5), math.log(0.2) + norm.logpdf(x, 5, 0.4))
        log_q = norm.logpdf(x, mean, deviation)
        forward, reverse = p * (log_p - log_q), q * (log_q - log_p)
        if kind == "tv":
            return abs(p - q) / 2
        return {"forward_kl": forward, "reverse_kl": reverse, "kls": eta * forward + (1 - eta) * reverse}[kind]

    return quad(integrand, -14, 18, limit=2000, points=[0, 1, 2, 3, 4, 5, 6], epsabs=1e-8)[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "kls", "tv"])
@pytest.mark.parametrize(("mean", "deviation"), [(1.0, 0.5), (1.8, 1.6), (5.2, 0.3), (0.3, 0.9)])
def test_quadrature_equals_scipy(kind, mean, deviation):
    tolerance = 1e-5 if kind == "tv" else 1e-7
    expected = integral(kind, mean, deviation, 0.3)
    assert divergence(kind, mean, deviation, eta=0.3) == pytest.approx(expected, rel=tolerance, abs=1e-8)


def test_forward_kl_is_the_moment_match():
    best = fit_gaussian("forward_kl")
    mean = 0.8 * 1 + 0.2 * 5
    deviation = math.sqrt(0.8 * (0.5**2 + (1 - mean) ** 2) + 0.2 * (0.4**2 + (5 - mean) ** 2))
    assert best[:2] == pytest.approx((mean, deviation), abs=1e-3)
    assert best[:2] == pytest.approx((1.80, 1.67), abs=0.005)
    assert divergence("tv", *best[:2]) == pytest.approx(0.517, abs=5e-4)


def test_total_variation_prefers_the_heavier_mode():
    best = fit_gaussian("tv")
    assert best[:2] == pytest.approx((1.05, 0.62), abs=0.005)
    assert best.divergence == pytest.approx(0.200, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "eta"), [("reverse_kl", 0), ("kls", 0.1), ("kls", 0.6), ("tv", 0.5)])
def test_no_better_gaussian_is_found_from_many_starts(kind, eta):
    best = fit_gaussian(kind, eta=eta)
    starts = [(m, math.log(s)) for m in (0.5, 5.0) for s in (0.4, 1.5)]
    results = [
        minimize(lambda z: divergence(kind, z[0], math.exp(z[1]), eta=eta), start, method="Nelder-Mead")
        for start in starts
    ]
    found = min(results, key=lambda result: result.fun)
    assert best.divergence <= found.fun + 1e-5
    assert best[:2] == pytest.approx((found.x[0], math.exp(found.x[1])), abs=5e-3 if kind == "tv" else 1e-3)


def test_ends_of_the_mix_are_the_kls():
    assert fit_gaussian("kls", eta=1) == fit_gaussian("forward_kl")
    assert fit_gaussian("kls", eta=0) == fit_gaussian("reverse_kl")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit_gaussian("forwardkl"), r"unknown divergence 'forwardkl' \(did you mean 'forward_kl'\?\)"),
        (lambda: fit_gaussian("kls", eta=1.2), r"eta is 1\.2; it must be a number in \[0, 1\]"),
    ],
)
def test_invalid_input_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert type(caught.value).__name__ == "InputError" and "\n" not in str(caught.value)
