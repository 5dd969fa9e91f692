"""Full disks, foreign kernels, edited notebooks, files left behind, clocks that jump, failures in a row."""

import errno
import io
import json
import os
import sys
import time

import nbformat
import pytest
import yaml

from mixkit.__main__ import main
from mixkit._common import InputError, write_atomically
from mixkit.studies.config import RunConfig
from mixkit.studies.executors import Executor, Worker
from mixkit.studies.plan import load_study, read_study
from mixkit.studies.run import FINISHED, OUT_OF_MEMORY, execute, notebook_hash, prepare
from mixkit.studies.store import Metric, Run, RunStore, run_name
from mixkit.studies.sweep import run_study, schedule
from tests import support as small

GRID = {"parameters": small.TINY, "grid": [{"objective": "mixce", "eta": [0.1, 0.2, 0.3, 0.4, 0.5]}]}
FOREIGN = {"argv": ["/bin/false"], "display_name": "another", "language": "python"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Five runs that depend on none, in tmp_path/runs, without a preflight."""
    store = RunStore(tmp_path / "runs")
    for module in ("sweep", "plan"):
        monkeypatch.setattr(f"mixkit.studies.{module}.RunStore", lambda: store)
    monkeypatch.setattr("mixkit.studies.sweep.preflight", lambda *_: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(GRID))
    return load_study(tmp_path / "own.yaml")


def executor_of(outcomes, max_workers=1):
    """An executor whose runs end at once: outcomes has an error for each run in order, or "" for success."""
    errors = iter(outcomes)

    def start(folder, slot, num_siblings):
        run = Run(folder, RunConfig.check(yaml.safe_load((folder / "parameters.yaml").read_text())))
        error = next(errors)
        run.fail(error) if error else run.finish({"eta": Metric(value=1.0)})
        return Worker(lambda: FINISHED, lambda: None)

    return Executor(max_workers, start)


def scheduled(study, tmp_path, outcomes):
    lines, store = [], RunStore(tmp_path / "runs")
    schedule(study, store, executor_of(outcomes), lines.append)
    return lines, [store.read("own", run.name) for run in study.runs]


def test_three_failures_for_one_reason_stop_the_sweep(study, tmp_path):
    lines, records = scheduled(study, tmp_path, ["step 7: nan", "step 12: nan", "step 130: nan"])
    assert [record and record.status for record in records] == ["failed"] * 3 + [None] * 2
    assert lines[-1] == (
        "stopped: the last 3 runs failed for the same reason; 2 runs were not started; "
        "fix this, then run the study again with --retry"
    )


@pytest.mark.slow
@pytest.mark.parametrize("outcomes", [["a", "a", "", "a", "a"], ["a", "a", "b", "a", "a"], ["", "", "a", "a", "a"]])
def test_other_failures_do_not_stop_it(study, tmp_path, outcomes):
    lines, records = scheduled(study, tmp_path, outcomes)
    assert [record.error for record in records] == outcomes
    assert not any(line.startswith("stopped") for line in lines)


def test_an_edited_notebook_is_announced(study, tmp_path):
    notebook, lines, store = small.write_notebook(tmp_path), [], RunStore(tmp_path / "runs")
    run = store.begin(study.runs[0].config)
    before = notebook_hash(notebook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXKIT_NOTEBOOK", before)
        assert run.finish({}).versions["notebook"] == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixkit.studies.sweep.schedule", lambda *_: None)
        run_study(study, store=store, notebook=notebook, log=lines.append)
        assert lines == []
        notebook.write_text(notebook.read_text().replace("a quarter", "a fourth"))
        run_study(study, store=store, notebook=notebook, log=lines.append)
    after = notebook_hash(notebook)
    assert lines == [f"note: the code of small.ipynb is {after}; 1 earlier runs of this study were made by {before}"]


def test_the_parameters_cell_is_no_code(tmp_path):
    path = small.write_notebook(tmp_path)
    before, book = notebook_hash(path), nbformat.read(path, 4)
    book.cells.insert(0, nbformat.v4.new_code_cell("eta = 0.9", metadata={"tags": ["parameters"]}, id="p"))
    book.cells.append(nbformat.v4.new_markdown_cell("text", id="m"))
    nbformat.write(book, path)
    assert notebook_hash(path) == before
    book.cells[1].source += "\npass"
    nbformat.write(book, path)
    assert notebook_hash(path) != before
    for content in ("", "{}", '{"cells": [1]}', "\x00"):
        path.write_text(content)
        with pytest.raises(InputError, match="is not a notebook"):
            notebook_hash(path)


@pytest.mark.slow
def test_a_foreign_kernel_braces_and_files_left_behind(tmp_path, monkeypatch):
    """Another "python3" comes first, the path has braces, a killed writer left a file, and JupyterLab a folder."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps(FOREIGN))
    (clone := tmp_path / "{my} clone {0}").mkdir()
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MIXKIT_RUNS", str(clone / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(small.CLONE))
    notebook, config = small.write_notebook(clone), RunConfig.check({"study": "s"})
    folder = clone / "runs" / "s" / run_name(config)
    prepare(folder, config)
    (folder / ".run.json.host.1").write_text("{")
    (folder / ".ipynb_checkpoints").mkdir()
    assert execute(folder, notebook) == FINISHED
    record = RunStore(clone / "runs").read("s", folder.name)
    assert (record.status, record.versions["notebook"]) == ("done", notebook_hash(notebook))
    assert [path.name for path in folder.glob(".*")] == [".ipynb_checkpoints"]


@pytest.mark.parametrize("error", ["OutOfMemoryError: CUDA out of memory.", "RuntimeError: can't allocate memory"])
def test_out_of_memory_gives_advice(tmp_path, monkeypatch, error):
    monkeypatch.setattr("mixkit.studies.run._run_notebook", lambda *_: error)
    config = RunConfig.check({"study": "s"})
    prepare(folder := tmp_path / "s" / run_name(config), config)
    assert execute(folder) == FINISHED
    assert RunStore(tmp_path).read("s", folder.name).error == f"{OUT_OF_MEMORY} ({error})"


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_leaves_no_file(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file.txt", "text")
    assert main(["study", str(tmp_path / "own.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mixkit: ") and "No space left on device" in error and error.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_folder_of_another_user_is_one_line(study, tmp_path, monkeypatch, capsys):
    def refused(path, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    assert main(["study", str(tmp_path / "own.yaml")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'runs' / 'own'}: Permission denied" in error and error.count("\n") == 1


def test_output_that_is_not_utf8(study, tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("mixkit.__main__.preflight", lambda *_: [])
    assert main(["study", str(tmp_path / "own.yaml"), "--dry-run"]) == 0
    terminal.flush()
    assert b"MixCE ?=0.1" in terminal.buffer.getvalue()


def test_a_clock_that_jumps_changes_no_duration(tmp_path, monkeypatch):
    run = RunStore(tmp_path).begin(RunConfig.check({}))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= run.finish({}).seconds < 60


def test_a_record_is_strict_json(tmp_path):
    run = RunStore(tmp_path).begin(RunConfig.check({}))
    nan = float("nan")
    run.finish({}, resolved={"a": nan, "b": [float("inf")]}, training={"validation_nll": nan})

    def refused(name):
        raise AssertionError(name)

    record = json.loads((run.folder / "run.json").read_text(), parse_constant=refused)
    assert record["training"] == {"validation_nll": None} and record["resolved"] == {"a": None, "b": [None]}
    assert RunStore(tmp_path).read("scratch", run.name).training == {"validation_nll": None}


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"name": "x"}', b"null", b"[" * 100_000])
def test_damaged_files_are_no_tracebacks(tmp_path, content):
    store = RunStore(tmp_path)
    run = store.begin(RunConfig.check({}))
    (run.folder / "run.json").write_bytes(content)
    assert store.read("scratch", run.name) is None
    (run.folder / "samples.jsonl").write_bytes(content)
    if content:
        with pytest.raises(InputError, match="is damaged; delete"):
            store.samples("scratch", run.name)
    (tmp_path / "scratch" / "study.yaml").write_bytes(content)
    with pytest.raises(InputError, match="was written by an earlier mixkit"):
        read_study("scratch", store)
