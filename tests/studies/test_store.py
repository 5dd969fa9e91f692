"""Parameters, run names and hashes, and run folders that are never half-written."""

from types import SimpleNamespace

import pytest

from mixkit import MLE, MixCE, SequenceMatch
from mixkit._common import write_atomically
from mixkit.losses import definitions
from mixkit.models.on_policy import Backtracking
from mixkit.studies.config import (
    COEFFICIENTS,
    DIVERGENCES,
    FINETUNE,
    NAMES,
    check,
    check_notebook,
    make_backtracking,
    make_objective,
)
from mixkit.studies.store import RunStore, run_hash, run_name

DEFAULTS = check({})


def test_defaults_lie_in_their_own_ranges():
    assert {name: p.default for name, p in FINETUNE.items()} == DEFAULTS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"etta": 0.5}, r"unknown parameter 'etta' \(did you mean 'eta'\?\)"),
        ({"eta": 1.5}, r"eta is 1.5; it must be in \[0, 1\]"),
        ({"gamma": -0.1}, r"gamma is -0.1; it must be in \[0, 1\]"),
        ({"eta": "0.5"}, "eta is '0.5', a str; it must be a float; in YAML write a number without quotes"),
        ({"learning_rate": "1e-5"}, "1.0e-5 rather than 1e-5"),
        ({"eta": True}, "eta is True, a bool; it must be a float"),
        ({"eta": float("nan")}, r"eta is nan; it must be in \[0, 1\]"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 8.0}, "batch_size is 8.0, a float; it must be a int"),
        ({"objective": "mixec"}, r"unknown objective 'mixec' \(did you mean 'mixce'\?\); allowed: mle, mixce, tailr"),
        ({"keep_model": 1}, "keep_model is 1, a int; it must be a bool"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be a finite number above 0"),
        ({"alpha": float("inf")}, "alpha is inf; it must be a finite number above 0"),
        ({"discount": 1.0}, r"discount is 1.0; it must be in \(0, 1\)"),
        ({"discount": 0}, r"discount is 0.0; it must be in \(0, 1\)"),
        (
            {"divergence": "chi"},
            r"unknown divergence 'chi' \(did you mean 'chi2'\?\); allowed: chi2-mixture, chi2, js, rkl",
        ),
        ({"noise_rate": 0.6}, r"noise_rate is 0.6; it must be in \[0, 0.5\]"),
        ({"noise_rate": -0.1}, r"noise_rate is -0.1; it must be in \[0, 0.5\]"),
        ({"mle_minimum": 2.0}, r"mle_floor is 2.0; it must be in \[0, 1\]"),
        ({"refill_every": 0}, "refill_every is 0; it must be at least 1"),
    ],
)
def test_parameters_that_are_refused(given, message):
    with pytest.raises(ValueError, match=message) as error:
        check(given)
    assert "\n" not in str(error.value)


def test_the_names_are_the_objectives_own():
    """They are written down twice, as a command that only looks at a study does not wait for torch."""
    assert tuple(definitions.OBJECTIVES) == NAMES and tuple(COEFFICIENTS) == NAMES
    assert tuple(definitions.DIVERGENCE_NAMES) == DIVERGENCES


def test_whole_numbers_pass_for_floats():
    assert check({"eta": 1})["eta"] == 1.0 and isinstance(check({"eta": 1})["eta"], float)


def test_a_notebook_is_read_and_what_papermill_injected_is_checked():
    cells = ["", "import x\nother = 3", "# Parameters\neta = 0.25\n"]
    namespace = {**DEFAULTS, "eta": 0.25, "In": cells, "other": 3}
    assert check_notebook(namespace) == SimpleNamespace(**{**DEFAULTS, "eta": 0.25})
    with pytest.raises(ValueError, match=r"unknown parameter 'etta' \(did you mean 'eta'\?\)"):
        check_notebook({**DEFAULTS, "etta": 0.5, "In": ["", "# Parameters\netta = 0.5\n"]})
    with pytest.raises(ValueError, match="the parameters cell has no eta"):
        check_notebook({k: v for k, v in DEFAULTS.items() if k != "eta"})


def test_make_objective_takes_its_own_coefficients_only():
    assert make_objective({**DEFAULTS, "objective": "mixce", "eta": 0.3}) == MixCE(0.3)


def test_who_learns_to_take_tokens_back():
    asked = {**DEFAULTS, "noise_rate": 0.1, "mle_minimum": 0.5}
    match = {**asked, "objective": "sequencematch", "alpha": 0.1}
    assert make_objective(match) == SequenceMatch(alpha=0.1)
    assert make_backtracking(match) == Backtracking(noise_rate=0.1, mle_minimum=0.5)
    noisy = {**asked, "objective": "mle-backspace"}
    assert make_objective(noisy) == MLE() and make_backtracking(noisy) == Backtracking(noise_rate=0.1)
    assert make_backtracking({**asked, "objective": "mle"}) is None
    for objective in ("mle", "mixce", "tailr"):
        assert run_hash({**asked, "objective": objective}) == run_hash({**DEFAULTS, "objective": objective})
    assert run_hash(noisy) == run_hash({**noisy, "mle_minimum": 0.1, "alpha": 0.5})
    assert run_hash(noisy) != run_hash({**noisy, "noise_rate": 0.2})
    assert (
        len({run_hash({**match, c: v}) for c, v in (("buffer_texts", 9), ("divergence", "js"), ("mle_decay", 0.0))})
        == 3
    )


def test_the_hash_follows_what_bears_on_the_outcome(tmp_path):
    mle = {**DEFAULTS, "objective": "mle"}
    same = [{"eta": 0.9}, {"gamma": 0.5}, {"study": "other"}, {"name": "n"}, {"keep_model": False}]
    assert {run_hash({**mle, **change}) for change in same} == {run_hash(mle)}
    different = [{"objective": "mixce"}, {"seed": 1}, {"learning_rate": 1e-3}, {"model": "gpt2"}, {"corpus": "pydoc"}]
    assert len({run_hash({**mle, **change}) for change in different} | {run_hash(mle)}) == 6
    mixce = {**DEFAULTS, "objective": "mixce"}
    assert run_hash({**mixce, "eta": 0.1}) != run_hash({**mixce, "eta": 0.2})
    own = tmp_path / "own.txt"
    own.write_text("a")
    before = run_hash({**mle, "corpus": str(own)})
    own.write_text("b")
    assert run_hash({**mle, "corpus": str(own)}) != before


def test_names_are_readable_and_end_in_the_hash():
    parameters = check({"objective": "mixce", "eta": 0.1, "temperature": 0.7, "seed": 3})
    assert run_name(parameters) == f"mixce-eta0.1-T0.7-seed3-{run_hash(parameters)}"
    match = check({"objective": "sequencematch", "alpha": 0.1, "divergence": "js", "mle_decay": 0.5})
    assert run_name(match) == f"sequencematch-alpha0.1-divergencejs-mlefall0.5-{run_hash(match)}"
    named = check({"objective": "mle", "name": "base"})
    assert run_name(named) == f"base-{run_hash(named)}"


def test_a_run_is_done_only_when_its_record_parses_and_matches(tmp_path):
    store = RunStore(tmp_path)
    run = store.begin(check({"study": "s"}))
    assert store.read("s", run.name) is None
    run.finish({"perplexity": {"value": 2.0, "low": 1.0, "high": 3.0}})
    record = store.read("s", run.name)
    assert record["status"] == "done" and record["metrics"]["perplexity"]["value"] == 2.0
    assert record["parameters"] == run.parameters and record["versions"]["torch"]
    path = run.folder / "run.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert store.read("s", run.name) is None
    path.write_text(whole.replace(record["hash"], "00000000"))
    assert store.read("s", run.name) is None
    assert run.fail("ValueError: no")["error"] == "ValueError: no"
    assert store.read("s", run.name)["status"] == "failed"


def test_nan_is_not_written(tmp_path):
    run = RunStore(tmp_path).begin(check({}))
    with pytest.raises(ValueError, match="JSON"):
        run.finish({"x": {"value": float("nan")}})
    assert not (run.folder / "run.json").exists()


def test_samples_come_back_as_written(tmp_path):
    store = RunStore(tmp_path)
    run = store.begin(check({}))
    samples = [{"prompt": "a\u2028b", "generated": '<script>\n"'}, {"prompt": "", "generated": "\x1b[31m"}]
    run.write_samples(samples)
    assert store.samples("scratch", run.name) == samples
    assert store.samples("scratch", "none") == []


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")
    import os

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
