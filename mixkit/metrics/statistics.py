"""Numbers with their uncertainty: the form in which the kit reports a metric, its intervals, comparisons of two runs.
No text, model or metric may live here."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from mixkit._common import InputError


@dataclass(frozen=True)
class Estimate:
    """A number with the interval [low, high], or the reason why there is none.

    value is None where the metric could not be computed, low and high where there is no interval; `why` then says why.
    nan and infinities are refused (InputError): what is no number is absent, with a reason. `dataclasses.asdict` of it
    is plain JSON.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str | None = None

    def __post_init__(self):
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None:
                if not math.isfinite(number):
                    raise InputError(f"{name} is {number}; an estimate is finite, or absent with a reason")
                object.__setattr__(self, name, float(number))
        if self.value is None and not self.why:
            raise InputError("an estimate without a value needs its reason")

    @classmethod
    def absent(cls, reason: str) -> "Estimate":
        """equals: Estimate(None, why=reason)"""
        return cls(None, why=reason)


def bootstrap(
    values,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """equals: statistic(values.sum(0)), with the percentiles of statistic(values[rng.integers(N, size=N)].sum(0))

    values is (N,) or (N, k): what each of N texts adds to k totals. `statistic` maps totals (..., k) to (...), so that
    all replicates are one matrix product; without it the estimate is the mean of values (N,). With one text, or where
    the statistic is undefined on a resample, the value has no interval and `why` says so.

    Only for statistics of totals. Numbers that ask whether an n-gram comes again elsewhere in the corpus (distinct-n,
    entropy, Zipf, compression) may not be bootstrapped over texts: a resample holds copies of texts, and every copy is
    a repetition that no model made. They take `jackknife`.

    Source: Efron and Tibshirani 1993, chapter 13. Raises InputError on empty or non-finite values.
    """
    values = _finite(values, "values")
    texts = len(values)
    if statistic is None:
        if values.ndim != 1:
            raise InputError(f"values has shape {values.shape}; a mean takes one value a text")
        values, statistic = values[:, None], lambda totals: totals[..., 0] / texts
    value = float(statistic(values.sum(0)))
    if texts == 1:
        return Estimate(value, why="one text has no interval")
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = [statistic(weights @ values) for weights in _chunks(_resamples, replicates, texts, seed)]
    drawn = np.concatenate(drawn)  # (replicates,)
    if not np.isfinite(drawn).all():
        return Estimate(value, why="no interval: undefined on some resamples, too few texts hold what is counted")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, low, high)


def jackknife(value: float, left_out, *, confidence: float = 0.95, bounds=(-math.inf, math.inf)) -> Estimate:
    """value +- t sqrt((G - 1)/G sum_g (x_g - mean(x))^2), x_g the statistic with the g-th of G groups of texts left out

    t is Student's quantile with G - 1 degrees of freedom; the ends are kept inside `bounds`. No text is ever counted
    twice, and the variance errs to the wide side (Efron and Stein 1981). With one group, or where an x_g is nan (not
    defined without that group), the value has no interval and `why` says so.
    """
    left_out = np.asarray(left_out, dtype=float)
    groups = len(left_out)
    if groups < 2:
        return Estimate(value, why="one text has no interval")
    if np.isnan(left_out).any():
        return Estimate(value, why="no interval: undefined without some of the texts")
    half = _student(confidence, groups - 1) * math.sqrt((groups - 1) * left_out.var())
    return Estimate(value, max(bounds[0], value - half), min(bounds[1], value + half))


def wilson_interval(hits: int, trials: int, confidence: float = 0.95) -> Estimate:
    """equals: hits / trials, with Wilson's interval, which does not shrink to nothing at 0 or at `trials` hits.

    Source: Wilson 1927. Raises InputError unless 0 <= hits <= trials and trials > 0.
    """
    if not 0 <= hits <= trials or trials == 0:
        raise InputError(f"{hits} hits of {trials}; hits are between 0 and the trials, of which there is at least one")
    z2, share = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / trials, hits / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """equals: mean(values), with mean +- t std(values, ddof=1) / sqrt(k), k sample sets or seeds, t of k - 1 degrees.

    The spread that a second training run or a second set of samples would show. It is not the interval of `bootstrap`,
    which is over the texts of one set; the two are never mixed. One value has no spread: low and high are None.
    Raises InputError on empty or non-finite values.
    """
    return _student_interval(values, confidence, lambda k: 1 / k)


def prediction_interval(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """equals: mean(values), with mean +- t std(values, ddof=1) sqrt(1 + 1 / k): where one more value would lie

    A prediction interval, for values that share their data, such as scores of random halvings of one set of texts:
    their mean is no better known for more halvings, so an interval that shrinks with k would say too much.
    Raises as `over_sets`.
    """
    return _student_interval(values, confidence, lambda k: 1 + 1 / k)


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same prompts: mean of a - b, Cohen's d_z, p-value, and how many prompts gave a value in both."""

    difference: Estimate
    effect_size: Estimate
    p_value: float
    pairs: int


def compare(
    a: Sequence[float | None],
    b: Sequence[float | None],
    *,
    replicates: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """mean(a - b) over prompts, its bootstrap interval, d_z = mean(a - b) / std(a - b, ddof=1), sign-flip p-value.

    a[i] and b[i] are the two runs' values on prompt i; a pair in which either is None is left out. The p-value is
    two-sided: the share of all 2^pairs sign patterns of the differences whose mean lies as far from 0 as the observed
    one; where there are more than `replicates` patterns, of a seeded draw, the observed one added to both counts
    (Phipson and Smyth 2010). Where all differences are equal, d_z is 0 or absent. `holm` corrects the p-values of a
    sweep.

    Raises InputError on different lengths, non-finite values or fewer than two pairs.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} values against {len(b)}; a paired comparison needs the same prompts in both")
    kept = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(kept) < 2:
        raise InputError(f"{len(kept)} prompts have a value in both runs; a paired comparison needs at least 2")
    kept = _finite(kept, "values")
    gaps = kept[:, 0] - kept[:, 1]  # (pairs,)
    if np.ptp(gaps) > 0:
        effect = Estimate(gaps.mean() / gaps.std(ddof=1))
    else:
        effect = Estimate.absent("all differences are equal") if gaps[0] else Estimate(0.0)
    return Comparison(
        difference=bootstrap(gaps, replicates=replicates, confidence=confidence, seed=seed),
        effect_size=effect,
        p_value=_sign_flip(gaps, replicates, seed),
        pairs=len(gaps),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: max over the i smallest of min(1, (m - i + 1) p_(i)), in the order given.

    Keeps the chance of any false discovery in a family of m comparisons under the level at which the results are read.
    Source: Holm 1979. Raises InputError on an empty list or a p-value outside [0, 1].
    """
    p_values = _finite(p_values, "p_values")
    if p_values.min() < 0 or p_values.max() > 1:
        raise InputError(f"p_values go from {p_values.min()} to {p_values.max()}; a p-value is in [0, 1]")
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1, stepped)
    return corrected.tolist()


def _sign_flip(gaps: np.ndarray, replicates: int, seed: int) -> float:
    pairs = len(gaps)
    reached = abs(gaps.sum()) - 1e-12 * np.abs(gaps).sum()  # the same sum in another order counts as equal
    if pairs < 63 and 2**pairs <= replicates:
        signs = (np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1) * 2 - 1
        return float((np.abs(signs @ gaps) >= reached).mean())
    hits = sum(int((np.abs(signs @ gaps) >= reached).sum()) for signs in _chunks(_signs, replicates, pairs, seed))
    return (hits + 1) / (replicates + 1)


def _resamples(rng: np.random.Generator, rows: int, texts: int) -> np.ndarray:
    """How often each text is drawn in each of `rows` bootstrap samples, (rows, texts)."""
    picks = rng.integers(texts, size=(rows, texts)) + texts * np.arange(rows)[:, None]
    return np.bincount(picks.ravel(), minlength=rows * texts).reshape(rows, texts).astype(float)


def _signs(rng: np.random.Generator, rows: int, pairs: int) -> np.ndarray:
    """Random signs, -1.0 or 1.0, (rows, pairs)."""
    return rng.integers(2, size=(rows, pairs), dtype=np.int8) * 2.0 - 1


def _chunks(draw: Callable, replicates: int, texts: int, seed: int) -> Iterator[np.ndarray]:
    """draw(rng, replicates, texts) in chunks of rows, each under 32 MB."""
    rows = max(1, 4_000_000 // texts)
    if replicates <= rows:
        yield _whole(draw, replicates, texts, seed)
        return
    rng = np.random.default_rng(seed)
    for first in range(0, replicates, rows):
        yield draw(rng, min(rows, replicates - first), texts)


@lru_cache(maxsize=2)  # all comparisons of a study draw alike
def _whole(draw: Callable, replicates: int, texts: int, seed: int) -> np.ndarray:
    return draw(np.random.default_rng(seed), replicates, texts)


def _student_interval(values, confidence: float, share: Callable[[int], float]) -> Estimate:
    values = _finite(values, "values")
    if values.ndim != 1:
        raise InputError(f"values has shape {values.shape}; one number a sample set")
    if len(values) == 1:
        return Estimate(values[0], why="one sample set has no spread")
    half = _student(confidence, len(values) - 1) * values.std(ddof=1) * math.sqrt(share(len(values)))
    return Estimate(values.mean(), values.mean() - half, values.mean() + half)


def _student(confidence: float, degrees: int) -> float:
    """t with P(|T| <= t) = confidence: Abramowitz and Stegun 26.7.3 and 26.7.4 in the angle atan(t / sqrt(degrees))."""
    odd = degrees % 2
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        term, total = math.cos(angle) if odd else 1.0, 0.0
        for k in range(odd, degrees - 1, 2):
            total += term
            term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
        inside = math.sin(angle) * total
        inside = (inside + angle) * 2 / math.pi if odd else inside
        low, high = (angle, high) if inside < confidence else (low, angle)
    return math.sqrt(degrees) * math.tan(angle)


def _finite(values, name: str) -> np.ndarray:
    try:
        values = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{name} holds something that is not a number; leave out or report as absent") from None
    if values.size == 0 or values.ndim == 0:
        raise InputError(f"{name} is empty; at least one number is needed")
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds nan or inf; what is no number is absent, with a reason")
    return values
