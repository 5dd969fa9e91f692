"""The runs before this one, their reader, and warnings in a notebook."""

import warnings

import pytest

from mixkit import notebook
from mixkit.__main__ import main
from mixkit.losses import Focal
from mixkit.notebook import runs
from mixkit.studies.plan import Study, read_study, write_study
from mixkit.studies.store import RunStore
from tests.notebook.builders import record


@pytest.fixture
def store(tmp_path, monkeypatch):
    assert notebook.write_report  # imports it before the stores are replaced
    modules = ("__main__", "notebook.report", "notebook.runs", "studies.plan", "studies.records", "studies.store")
    for module in modules:
        monkeypatch.setattr(f"mixkit.{module}.RunStore", lambda root=tmp_path: RunStore(root))
    return RunStore(tmp_path)


def finish(store, name, *, saved=True, **settings):
    run = store.begin(record(name, 0.5, 0.5, **settings).config)
    if saved:
        (run.folder / "model").mkdir()
    run.finish({})
    return run.name


def test_finished_runs_are_in_the_order_of_their_beginning(store):
    first, second = finish(store, "b"), finish(store, "a")
    store.begin(record("c", 0.5, 0.5).config).fail("broken")
    assert [run.name for run in notebook.finished_runs("own")] == [first, second]
    assert notebook.finished_runs("other") == []


def test_runs_without_a_plan_have_a_report(store, capsys):
    """Those of notebook 3: also of an objective that is defined there."""
    config = record("mle", 0.5, 0.5).config
    store.begin(config).finish(record("mle", 0.5, 0.5).metrics)
    mixce = config.model_copy(update={"objective": "mixce"})
    store.begin(mixce.with_objective(Focal(2.0))).finish(record("focal", 0.6, 0.4).metrics)
    assert [run.config.objective for run in read_study("own").runs] == ["mle", "own: Focal(focusing=2.0)"]
    assert main(["report", "own"]) == 0 and main(["status", "own"]) == 0
    printed = capsys.readouterr().out
    assert "Focal(focusing=2.0)" in printed and "2 of 2 runs are done" in printed and "\n2 done" in printed
    with pytest.raises(ValueError, match=r"unknown study under runs/ 'owm' \(did you mean 'own'\?\)"):
        read_study("owm")
    store.begin(config.model_copy(update={"epochs": 0.0, "temperature": 0.7})).fail("broken")
    assert [run.role for run in read_study("own").runs] == ["grid", "grid", "decoding"]
    assert main(["report", "own"]) == 1
    (store.root / "damaged" / "run").mkdir(parents=True)
    (store.root / "damaged" / "run" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"unknown study under runs/ 'damaged'; allowed: own$"):
        read_study("damaged")


def test_the_first_run_reads_all_that_start_at_random(store):
    config = record("new", 0.5, 0.5).config
    assert runs.with_first_reader(config, "new", notebook.finished_runs("own")) == config
    finish(store, "unsaved", saved=False)
    finish(store, "elsewhere", corpus="pydoc")
    finish(store, "pretrained", model="gpt2")
    first = finish(store, "first")
    finish(store, "second")
    done = notebook.finished_runs("own")
    assert runs.with_first_reader(config, "new", done).reader == f"gpt2-large|run:{first}"
    assert runs.with_first_reader(config, first, done) == config  # the first run, executed again
    pretrained = config.model_copy(update={"model": "gpt2"})
    assert runs.with_first_reader(pretrained, "new", done) == pretrained
    write_study(Study("own", "", []), store)
    assert runs.with_first_reader(config, "new", done) == config  # a plan names its reader


def test_each_kind_of_warning_is_printed_once(capsys, monkeypatch):
    with warnings.catch_warnings():
        runs.show_warnings_once()
        warnings.simplefilter("always")
        for message in ("few texts", "fewer texts"):
            warnings.warn(message, UserWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    printed = capsys.readouterr()
    assert printed.out == "Note: few texts\nNote: old\n" and printed.err == ""
