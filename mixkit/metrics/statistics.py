"""Estimates with intervals, and paired comparisons of two runs."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from mixkit._common import Float, InputError, Int

Numbers = Sequence[float] | Float[np.ndarray, "N ..."] | Int[np.ndarray, "N ..."]
SEED = 0  # of all resamples
CONFIDENCE = 0.95  # of every interval
BATCH_NUMBERS = 4_000_000  # numbers in a batch of resamples


@dataclass(frozen=True)
class Estimate:
    """A number with its interval [low, high]. Each is None where it is absent; `why` gives the reason.

    nan and infinities raise InputError. `dataclasses.asdict` of an estimate is plain JSON.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise InputError(f"{name} is {number}; an estimate is finite, or absent with a reason")
            object.__setattr__(self, name, None if number is None else float(number))
        if self.value is None and not self.why:
            raise InputError("an estimate without a value needs its reason")

    @classmethod
    def absent(cls, reason: str) -> "Estimate":
        """equals: Estimate(None, why=reason)"""
        return cls(None, why=reason)


def bootstrap(*values: Numbers, statistic: Callable[..., Any] | None = None, replicates: int = 1000) -> Estimate:
    """equals: statistic(*(v.sum() for v in values)), with the percentiles of the same on resamples of the N texts

    values: each (N,), what each text adds to a total. statistic: of as many totals; of arrays of them too, element by
    element; by default total / N, the mean. No interval for one text, nor if the statistic is undefined on a resample.
    Not for counts of repetition, where copies of texts would count (see `jackknife`). Raises InputError on empty or
    non-finite values, and on shapes other than (N,). Source: Efron and Tibshirani 1993, chapter 13.
    """
    columns = _finite(values)
    if columns.ndim != 2:
        raise InputError(f"values has shape {columns.shape[1:]}; give one number a text")
    texts = columns.shape[1]
    of_totals = statistic or (lambda total: total / texts)

    def of_sample(*columns: np.ndarray, axis: int = -1) -> Any:
        return of_totals(*(column.sum(axis) for column in columns))

    value = float(of_sample(*columns))
    if texts == 1:
        return Estimate(value, why="one text has no interval")
    options: dict[str, Any] = {"n_resamples": replicates, "confidence_level": CONFIDENCE, "method": "percentile"}
    batch = max(1, BATCH_NUMBERS // texts)
    with warnings.catch_warnings(action="ignore"):  # 0 / 0 on a resample is reported below
        result = stats.bootstrap(columns, of_sample, paired=True, vectorized=True, batch=batch, rng=SEED, **options)
    if not np.isfinite(result.bootstrap_distribution).all():
        return Estimate(value, why="no interval: undefined on some resamples, too few texts have what is counted")
    return Estimate(value, *result.confidence_interval)


def jackknife(value: float, left_out: Numbers, *, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """value +- t sqrt((G - 1)/G sum_g (x_g - mean(x))^2), where x_g is the statistic without the g-th of G groups

    left_out: x (G,). t: Student's quantile of G - 1 degrees of freedom. The interval is clipped to `bounds`. The
    variance is conservative (Efron and Stein 1981). No interval for one group, nor if an x_g is nan.
    """
    statistics = np.asarray(left_out, dtype=float)
    degrees = len(statistics) - 1
    if degrees < 1:
        return Estimate(value, why="one text has no interval")
    if np.isnan(statistics).any():
        return Estimate(value, why="no interval: undefined without some of the texts")
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * math.sqrt(degrees * statistics.var())
    return Estimate(value, max(bounds[0], value - half), min(bounds[1], value + half))


def wilson_interval(hits: int, trials: int) -> Estimate:
    """equals: hits / trials, with scipy's binomtest(hits, trials).proportion_ci(method="wilson") (Wilson 1927)"""
    interval = stats.binomtest(hits, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(hits / trials, interval.low, interval.high)


def t_interval(values: Numbers, *, predict: bool = False) -> Estimate:
    """equals: mean(values), with mean +- t std(values, ddof=1) sqrt(predict + 1 / k), t of k - 1 degrees

    values: (k,), one number a sample set or seed. One value has no interval. InputError on empty or non-finite values.
    predict: cover one more value. For values that share their data, such as scores of random halves of one set of
    texts: more do not add knowledge.
    """
    values = _finite(values)
    size, mean = len(values), values.mean()
    if size == 1:
        return Estimate(mean, why="one sample set has no spread")
    half = stats.t.ppf((1 + CONFIDENCE) / 2, size - 1) * (values.std(ddof=1) * math.sqrt(predict + 1 / size))
    return Estimate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same prompts. effect_size: Cohen's d_z. pairs: the prompts with a value in both runs."""

    difference: Estimate
    effect_size: float | None
    p_value: float
    pairs: int


def compare(a: Sequence[float | None], b: Sequence[float | None], *, replicates: int = 10_000) -> Comparison:
    """mean(a - b) with its bootstrap interval, d_z = mean(a - b) / std(a - b, ddof=1), and a sign-flip p-value

    a[i], b[i]: the two runs' values on prompt i; pairs with a None are left out. The two-sided p-value is the share of
    sign patterns of the differences whose mean is at least as far from 0 as the observed one: exact up to `replicates`
    patterns, else of that many random ones, with 1 added to both counts (Phipson and Smyth 2010). Where all differences
    are equal, d_z is 0 or None. Raises InputError on different lengths, non-finite values or fewer than two pairs.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} values against {len(b)}; a paired comparison needs the same prompts in both")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} prompts have a value in both runs; a paired comparison needs at least 2")
    values = _finite(pairs)
    differences = values[:, 0] - values[:, 1]
    effect_size = None if differences.any() else 0.0
    if np.ptp(differences) > 0:
        effect_size = float(differences.mean() / differences.std(ddof=1))
    interval = bootstrap(differences, replicates=replicates)
    return Comparison(interval, effect_size, _sign_flip_p_value(differences, replicates), len(pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) corrected p-values, in the given order: max over the i smallest of min(1, (m - i + 1) p_(i))"""
    values = _finite(p_values)
    order = np.argsort(values, kind="stable")
    corrected = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(1, corrected)[np.argsort(order)].tolist()


def bradley_terry(wins: Int[np.ndarray, "k k"]) -> list[Estimate]:
    """The strengths s that maximize sum_ij wins[i, j] log P(i beats j), where P(i beats j) = 1 / (1 + exp(s_j - s_i))

    wins[i, j]: how often i was chosen before j, for k >= 2 sources. The strengths add up to 0. Each source gets half a
    win and half a loss more, spread over the others, so that strengths are finite. Intervals: profile likelihood, where
    twice the log likelihood falls by a quantile of chi-squared with one degree. Source: Bradley and Terry 1952.
    """
    size = len(wins)
    counts = wins + (1 - np.eye(size)) * 0.5 / (size - 1)
    sum_is_zero = optimize.LinearConstraint(np.ones(size), 0, 0)

    def loss(strengths: np.ndarray) -> tuple[float, np.ndarray]:
        behind = strengths - strengths[:, None]  # behind[i, j]: s_j - s_i
        slopes = counts * special.expit(behind)
        return float((counts * np.logaddexp(0, behind)).sum()), slopes.sum(0) - slopes.sum(1)

    options: dict[str, Any] = {"jac": True, "method": "SLSQP", "tol": 1e-10}
    best = optimize.minimize(loss, np.zeros(size), constraints=sum_is_zero, **options)
    limit = best.fun + stats.chi2.ppf(CONFIDENCE, 1) / 2

    def interval_end(i: int, direction: int) -> float:
        unit = np.eye(size)[i]

        def excess(distance: float) -> float:
            start = best.x + direction * distance * (unit - (1 - unit) / (size - 1))
            fixed = optimize.LinearConstraint(unit, start[i], start[i])
            return optimize.minimize(loss, start, constraints=[sum_is_zero, fixed], **options).fun - limit

        distance: Any = optimize.brentq(excess, 0, 50, xtol=1e-4)
        return float(best.x[i]) + direction * distance

    return [Estimate(value, interval_end(i, -1), interval_end(i, 1)) for i, value in enumerate(best.x)]


def _sign_flip_p_value(differences: np.ndarray, replicates: int) -> float:
    options: dict[str, Any] = {"vectorized": True, "n_resamples": replicates, "alternative": "greater"}
    options["statistic"] = lambda sample, axis: np.abs(sample.mean(axis))
    if 2 ** len(differences) <= replicates:
        return float(stats.permutation_test((differences,), permutation_type="samples", **options).pvalue)
    # permutation_test draws random signs too, but 8 times more slowly than the following.
    rng = np.random.default_rng(SEED)
    options["batch"] = max(1, BATCH_NUMBERS // len(differences))
    options["rvs"] = lambda size: rng.choice([-1.0, 1.0], size=size) * differences
    return float(stats.monte_carlo_test(differences, **options).pvalue)


def _finite(values: object) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:  # a metric of a notebook returns a word
        raise InputError(f"values must be numbers: {error}") from None
    if array.size == 0:
        raise InputError("values is empty; at least one number is needed")
    if not np.isfinite(array).all():
        raise InputError("values contains nan or inf; leave it out, or report it as absent")
    return array
