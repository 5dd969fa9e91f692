"""The search against a known EntCE curve: its answers, its order, and what it cannot decide."""

import math

import pytest

from mixkit.studies import tune as module
from mixkit.studies.store import Metric
from tests.support import record


def tune(*arguments, run=None, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run_study", run)
        return module.tune(*arguments, **options)


def runner(entce, half=0.02, studies=None):
    """A stand-in for run_study: EntCE of a run is a function of its settings."""

    def run(study):
        if studies is not None:
            studies.append(study)
        done = []
        for planned in study.runs:
            value = entce(planned.config)
            ends = {} if half is None else {"low": value - half, "high": value + half}
            metric = Metric(value=value, **ends)
            settings = planned.config.model_dump(include={"eta", "gamma", "temperature"})
            done.append(
                record(planned.name, planned.config.objective, metrics={"entropy_calibration": metric}, **settings)
            )
        return done

    return run


def by_eta(config, zero=0.15):
    eta = 1.0 if config.objective == "mle" else config.eta
    return 0.2 * math.log(eta / zero)


def test_it_finds_the_zero_of_a_line_in_log_eta():
    studies = []
    tuning = tune("quick", "mixce", run=runner(by_eta, studies=studies))
    assert tuning.best == pytest.approx(0.15, rel=0.1)
    assert tuning.table["eta"].tolist()[:2] == [1.0, 0.0316] and len(tuning.table) <= 4
    assert str(tuning.best) in tuning.conclusion
    assert {study.name for study in studies} == {"quick-tune-mixce"}
    assert [run.config.objective for run in studies[-1].runs][:2] == ["mle", "mle"]  # the base and MLE


def test_the_same_call_finds_the_same_answer():
    first, again = (tune("quick", "mixce", run=runner(by_eta)) for _ in range(2))
    assert first.table.equals(again.table) and first.conclusion == again.conclusion


def test_gamma_and_temperature():
    def entce(config):
        if config.objective == "tailr":
            return -0.1 * math.log10(config.gamma / 0.01)
        return 0.3 * math.log(config.temperature / 0.8) if config.temperature != 1 else 0.4

    assert tune("quick", "tailr", run=runner(entce)).best == pytest.approx(0.01, rel=0.5)
    tuning = tune("quick", "mle", run=runner(lambda c: 0.3 * math.log(c.temperature / 0.8)))
    assert tuning.best == pytest.approx(0.8, rel=0.05)


@pytest.mark.parametrize(("value", "words"), [(-0.3, "already sharper than people"), (0.01, "as sharp as people")])
def test_mle_that_needs_no_tuning(value, words):
    tuning = tune("quick", "mixce", run=runner(lambda config: value))
    assert tuning.best == 1 and words in tuning.conclusion and len(tuning.table) == 1


def test_what_it_cannot_decide():
    def jump(config):
        return 0.3 if config.objective == "mle" or config.eta > 0.02 else -0.3

    tuning = tune("quick", "mixce", run=runner(jump), max_runs=3)
    assert tuning.best is None and len(tuning.table) == 4 and "between" in tuning.conclusion


def test_other_coefficients_come_from_the_grid():
    studies = []
    tune("quick", "tailr", run=runner(lambda c: 0.1 if c.objective == "mle" else -0.01, studies=studies))
    assert studies[-1].runs[-1].config.w_min == 0.0


def test_failures_are_one_line():
    with pytest.raises(ValueError, match="eta is searched or fixed by tune"):
        tune("quick", "mixce", overrides={"eta": 0.5})
    with pytest.raises(ValueError, match="has no interval of entropy calibration"):
        tune("quick", "mixce", run=runner(lambda config: 0.5, half=None))
    with pytest.raises(ValueError, match="unknown objective to tune 'mixec'"):
        tune("quick", "mixec")
    with pytest.raises(ValueError, match="has failed; see"):
        tune("quick", "mixce", run=lambda study: [])
