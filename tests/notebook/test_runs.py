"""The runs before this one, their reader, and warnings in a notebook."""

import warnings

import pytest

from mixkit.notebook import runs
from mixkit.studies.plan import Study, write_study
from mixkit.studies.store import RunStore
from tests.notebook.builders import record


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = RunStore(tmp_path)
    monkeypatch.setattr(runs, "RunStore", lambda: made)
    return made


def finish(store, name, *, saved=True, **settings):
    run = store.begin(record(name, 0.5, 0.5, **settings).config)
    if saved:
        (run.folder / "model").mkdir()
    run.finish({})
    return run.name


def test_finished_runs_are_in_the_order_of_their_beginning(store):
    first, second = finish(store, "b"), finish(store, "a")
    store.begin(record("c", 0.5, 0.5).config).fail("broken")
    assert [run.name for run in runs.finished_runs("own")] == [first, second]
    assert runs.finished_runs("other") == []


def test_the_first_run_reads_all_that_start_at_random(store):
    config = record("new", 0.5, 0.5).config
    assert runs.with_first_reader(config, "new", runs.finished_runs("own")) == config
    finish(store, "unsaved", saved=False)
    finish(store, "elsewhere", corpus="pydoc")
    finish(store, "pretrained", model="gpt2")
    first = finish(store, "first")
    finish(store, "second")
    done = runs.finished_runs("own")
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
