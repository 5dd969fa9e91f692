"""Intervals and comparisons against plain loops and scipy."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from mixkit._common import InputError
from mixkit.metrics import statistics
from mixkit.metrics.statistics import Estimate, bradley_terry

EXACT = {"rel": 1e-9, "abs": 1e-12}


def test_an_estimate_is_plain_json():
    estimate = Estimate(np.float64(0.5), np.float64(0.25), 1.0)
    assert json.loads(json.dumps(asdict(estimate))) == {"value": 0.5, "low": 0.25, "high": 1.0, "why": None}
    assert asdict(Estimate.absent("no model")) == {"value": None, "low": None, "high": None, "why": "no model"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_estimate_is_finite(bad):
    with pytest.raises(InputError, match="finite"):
        Estimate(bad)
    with pytest.raises(InputError, match="finite"):
        Estimate(0.0, low=bad)
    with pytest.raises(InputError, match="reason"):
        Estimate(None)


@pytest.mark.parametrize("size", [2, 7, 33])
def test_bootstrap_equals_a_loop_over_resamples(size):
    values = np.random.default_rng(size).normal(size=size)
    picks = np.random.default_rng(0).integers(size, size=(400, size))
    expected = np.quantile([np.mean([values[i] for i in row]) for row in picks], [0.025, 0.975])
    result = statistics.bootstrap(values, replicates=400)
    assert result.value == pytest.approx(values.mean(), **EXACT)
    assert (result.low, result.high) == pytest.approx(expected, **EXACT)


def test_bootstrap_of_a_ratio_of_totals():
    rows = np.random.default_rng(1).integers(1, 9, size=(19, 2))
    picks = np.random.default_rng(0).integers(19, size=(300, 19))
    expected = np.quantile([rows[p, 0].sum() / rows[p, 1].sum() for p in picks], [0.025, 0.975])
    result = statistics.bootstrap(*rows.T, statistic=np.divide, replicates=300)
    assert result.value == pytest.approx(rows[:, 0].sum() / rows[:, 1].sum(), **EXACT)
    assert (result.low, result.high) == pytest.approx(expected, **EXACT)


def test_bootstrap_does_not_depend_on_its_chunks():
    values = np.random.default_rng(2).normal(size=50_001)  # 79 replicates a chunk
    picks = np.random.default_rng(0).integers(50_001, size=(100, 50_001))
    expected = np.quantile(values[picks].mean(1), [0.025, 0.975])
    result = statistics.bootstrap(values, replicates=100)
    assert (result.low, result.high) == pytest.approx(expected, **EXACT)


def test_a_missing_interval_has_a_reason():
    assert statistics.bootstrap([2.0]) == Estimate(2.0, why="one text has no interval")
    rare = statistics.bootstrap([1.0, 0.0], [1.0, 0.0], statistic=np.divide)
    assert rare.value == 1 and rare.low is None and "undefined" in rare.why
    assert statistics.jackknife(1.0, [2.0]).why == "one text has no interval"
    assert "undefined" in statistics.jackknife(1.0, [2.0, math.nan]).why


@pytest.mark.parametrize("size", [2, 3, 20])
def test_jackknife_of_a_mean_is_its_t_interval(size):
    values = np.random.default_rng(size).normal(size=size)
    left_out = [np.delete(values, i).mean() for i in range(size)]
    expected = stats.t.interval(0.95, size - 1, values.mean(), stats.sem(values))
    result = statistics.jackknife(values.mean(), left_out)
    assert (result.low, result.high) == pytest.approx(expected, **EXACT)
    assert statistics.jackknife(values.mean(), left_out, bounds=(values.mean(), 99.0)) == Estimate(
        result.value, result.value, result.high
    )
    assert statistics.jackknife(values.mean(), left_out, bounds=(-99.0, values.mean())).high == result.value


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 200), (3, 17), (17, 17)])
def test_wilson_interval_solves_its_equation(hits, trials):
    z2, share = stats.norm.ppf(0.975) ** 2, hits / trials
    expected = np.roots([1 + z2 / trials, -2 * share - z2 / trials, share**2])  # (share - p)^2 = z^2 p (1 - p) / trials
    result = statistics.wilson_interval(hits, trials)
    assert result.value == hits / trials
    assert (result.low, result.high) == pytest.approx(sorted(expected), **EXACT)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 10, 31])
def test_t_interval_is_scipys(size):
    values = np.random.default_rng(size).normal(5, 2, size=size)
    expected = stats.t.interval(0.95, size - 1, values.mean(), stats.sem(values))
    result = statistics.t_interval(values.tolist())
    assert (result.value, result.low, result.high) == pytest.approx((values.mean(), *expected), **EXACT)
    assert statistics.t_interval([0.3]) == Estimate(0.3, why="one sample set has no spread")


@pytest.mark.parametrize("pairs", [2, 5, 12])
def test_few_pairs_have_an_exact_p_value(pairs):
    rng = np.random.default_rng(pairs)
    a, b = rng.normal(0.05, 0.1, pairs), rng.normal(0, 0.1, pairs)
    means = [abs(np.mean((a - b) * signs)) for signs in itertools.product([1, -1], repeat=pairs)]
    result = statistics.compare(a.tolist(), b.tolist())
    assert result.p_value == pytest.approx(np.mean(np.array(means) >= means[0] - 1e-12), **EXACT)
    assert result.difference.value == pytest.approx((a - b).mean(), **EXACT)
    assert result.effect_size == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1), **EXACT)


def test_many_pairs_use_a_seeded_sample_of_signs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.15, 1, 201), rng.normal(0, 1, 201)
    result = statistics.compare(a.tolist(), b.tolist(), replicates=20_000)
    assert result == statistics.compare(a.tolist(), b.tolist(), replicates=20_000)
    assert result.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=0.1)
    assert statistics.compare((a + 9).tolist(), b.tolist()).p_value == 1 / 10_001
    means = (np.random.default_rng(0).choice([-1.0, 1.0], size=(1000, 201)) * (a - b)).mean(1)
    expected = (1 + np.sum(np.abs(means) >= abs(np.mean(a - b)))) / 1001
    assert statistics.compare(a.tolist(), b.tolist(), replicates=1000).p_value == pytest.approx(expected, **EXACT)


def test_pairs_with_an_absent_value_are_left_out():
    full = statistics.compare([1.0, 2.0, 4.0], [0.0, 3.0, 1.0])
    assert statistics.compare([1.0, None, 2.0, 4.0, 7.0], [0.0, 5.0, 3.0, 1.0, None]) == full
    assert full.pairs == 3


def test_all_patterns_are_used_up_to_the_replicates():
    a, b = [3.0, 2.0, 5.0], [1.0, 3.0, 1.0]  # at least as far from 0 as 2 - 1 + 4: 2 + 1 + 4 too
    assert [statistics.compare(a, b, replicates=n).p_value for n in (8, 9)] == [0.5, 0.5]
    assert statistics.compare(a, b, replicates=7).p_value in [k / 8 for k in range(1, 9)]  # 7 random ones


def test_equal_differences_have_no_standardised_size():
    same = statistics.compare([1.0, 2.0], [1.0, 2.0])
    assert (same.effect_size, same.p_value, same.difference.value) == (0, 1, 0)
    assert statistics.compare([2.0, 3.0], [1.0, 2.0]).effect_size is None


def test_holm():
    p_values = [0.04, 0.001, 0.2, 0.03, 0.012, 0.5]
    expected = [
        min(1, max(p_values[j] * sum(q >= p_values[j] for q in p_values) for j in range(6) if p_values[j] <= p))
        for p in p_values
    ]
    assert statistics.holm(p_values) == pytest.approx(expected, **EXACT)
    assert statistics.holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])  # Holm's steps by hand
    assert statistics.holm([0.4]) == [0.4]
    assert statistics.holm([0.6, 1, 0]) == [1, 1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.bootstrap([]), "^values is empty"),
        (lambda: statistics.bootstrap([1.0, math.nan]), "^values contains nan"),
        (lambda: statistics._finite(["bog", "owl"]), "^values must be numbers: .*'bog'"),
        (lambda: statistics.bootstrap(np.ones((1, 2))), r"shape \(1, 2\)"),
        (lambda: statistics.t_interval([]), "^values is empty"),
        (lambda: statistics.t_interval([1.0, math.inf]), "^values contains nan or inf"),
        (lambda: statistics.compare([1.0], [1.0, 2.0]), "1 values against 2"),
        (lambda: statistics.compare([1.0, None], [1.0, 2.0]), "at least 2"),
        (lambda: statistics.compare([1.0, math.nan], [1.0, 2.0]), "^values contains nan"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def with_pseudo_counts(wins):
    """Half a win and half a loss more for each source, spread over the others."""
    size = len(wins)
    return [[wins[i][j] + (i != j) * 0.5 / (size - 1) for j in range(size)] for i in range(size)]


def by_mm(wins, steps=5000):
    """Hunter 2004's MM algorithm."""
    counts = np.array(with_pseudo_counts(wins))
    games, worth = counts + counts.T, np.ones(len(counts))
    for _ in range(steps):
        for i in range(len(worth)):
            worth[i] = counts[i].sum() / (games[i] / (worth[i] + worth)).sum()
    return np.log(worth) - np.log(worth).mean()


def log_likelihood(wins, strengths):
    total = 0.0
    for i, row in enumerate(with_pseudo_counts(wins)):
        for j, count in enumerate(row):
            total = total - count * np.log1p(np.exp(strengths[j] - strengths[i]))
    return total


@pytest.mark.parametrize("wins", [[[0, 9, 8], [1, 0, 5], [2, 5, 0]], [[0, 30, 30], [0, 0, 7], [0, 9, 0]]])
def test_the_strengths_are_those_of_the_mm_algorithm(wins):
    estimates = bradley_terry(np.array(wins))
    np.testing.assert_allclose([e.value for e in estimates], by_mm(wins), atol=1e-4)


def test_the_interval_ends_where_the_profile_has_fallen():
    wins = [[0, 14, 9], [4, 0, 6], [0, 7, 0]]
    estimates, grid = bradley_terry(np.array(wins)), np.linspace(-9, 9, 90_001)
    best = log_likelihood(wins, [e.value for e in estimates])
    for end in (estimates[0].low, estimates[0].high):
        profile = log_likelihood(wins, [np.full_like(grid, end), grid, -end - grid]).max()
        assert best - profile == pytest.approx(3.8414588 / 2, abs=2e-3)


@pytest.mark.parametrize(("won", "lost"), [(14, 4), (0, 9), (5, 5)])
def test_two_sources_have_a_closed_form(won, lost):
    first, second = bradley_terry(np.array([[0, won], [lost, 0]]))
    assert first.value == pytest.approx(math.log((won + 0.5) / (lost + 0.5)) / 2, abs=1e-5)
    for name in ("value", "low", "high"):
        mirrored = {"value": "value", "low": "high", "high": "low"}[name]
        assert getattr(first, name) == pytest.approx(-getattr(second, mirrored), abs=1e-3)
    best = log_likelihood([[0, won], [lost, 0]], [first.value, -first.value])
    for end in (first.low, first.high):
        fall = best - log_likelihood([[0, won], [lost, 0]], [end, -end])
        assert fall == pytest.approx(stats.chi2.ppf(0.95, 1) / 2, abs=2e-3)
