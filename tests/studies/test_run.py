"""Locks, workers and kernels that are killed, several sweeps on one folder, and the log."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml

from mixkit.__main__ import main
from mixkit._common import InputError, plain
from mixkit.studies.config import RunConfig
from mixkit.studies.executors import Executor, Worker, local_executor
from mixkit.studies.plan import load_study, read_study, write_study
from mixkit.studies.run import FINISHED, KILLED, LOCKED, OUT_OF_MEMORY, execute, lock, lock_owner, prepare
from mixkit.studies.store import RunStore, run_name
from mixkit.studies.sweep import run_study, schedule, states, status_table, time_left
from tests import support as small
from tests.benchmarks.kills import kernel_of, process_of

GRID = {"parameters": small.TINY, "base": {"objective": "mle"}, "grid": [{"objective": "mixce", "eta": [0.0, 0.1]}]}


def until(condition, seconds=120):
    """Wait for a condition. The limit only ends a test that hangs."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return result


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(small.CLONE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("mixkit.studies.sweep.preflight", lambda *_: [])
    return small.write_notebook(tmp_path)


def prepared(tmp_path, **settings) -> Path:
    config = RunConfig.check({"study": "s", **settings})
    folder = RunStore(tmp_path / "runs").folder("s", run_name(config))
    prepare(folder, config)
    return folder


def start_worker(notebook, folder, *gpu):
    return subprocess.Popen(
        [sys.executable, "-m", "mixkit.studies.run", str(folder), str(notebook), *gpu],
        env=small.environment(folder.parents[1]),
        stderr=subprocess.DEVNULL,
        cwd=small.CLONE,
    )


def study_of(tmp_path, content=GRID, name="own"):
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file, load_study(file), RunStore(tmp_path / "runs")


def run_small(study, store, notebook, **options):
    """run_study with the small notebook. Returns the records and the lines of the log."""
    lines = []
    done = run_study(study, store=store, notebook=notebook, log=lines.append, **options)
    return done, lines


@pytest.mark.slow
def test_a_lock_has_one_owner_and_ends_with_it(tmp_path):
    with lock(tmp_path / "run") as descriptor:
        assert descriptor is not None and process_of(lock_owner(tmp_path / "run")) == os.getpid()
        with lock(tmp_path / "run") as second:  # another descriptor: as good as another process
            assert second is None
    assert lock_owner(tmp_path / "run") is None and lock_owner(tmp_path / "none") is None
    code = (
        "from mixkit.studies.run import lock; from pathlib import Path; import time\n"
        f"with lock(Path({str(tmp_path / 'run')!r})):\n time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=small.CLONE)
    until(lambda: (lock_owner(tmp_path / "run") or "").endswith(f", process {other.pid}"))
    other.kill()
    other.wait()
    with lock(tmp_path / "run") as descriptor:
        assert descriptor is not None
    assert lock_owner(tmp_path / "run") is None


@pytest.mark.slow
def test_terminal_escapes_reach_neither_log_nor_terminal(tmp_path, notebook):
    assert plain("a\x1b[31mb\x1b[0m\tc\n\x1b]0;t\x07\x9b\x7f\x00é😀") == "ab\tc\n]0;té😀"
    folder = prepared(tmp_path, eta=0.25)
    assert execute(folder, notebook) == FINISHED
    log = (folder / "log.txt").read_bytes().decode()
    assert "red ]0;title <script>\n10 %" in log and plain(log) == log
    record = RunStore(tmp_path / "runs").read("s", folder.name)
    assert record.status == "failed" and record.error == "ValueError: a quarter is not allowed"


@pytest.mark.slow
def test_a_run_is_executed_once_and_by_one(tmp_path, notebook):
    folder = prepared(tmp_path)
    (folder / "wait").touch()
    first = start_worker(notebook, folder)
    until(lambda: small.began(folder))
    assert execute(folder, notebook) == LOCKED
    assert process_of(lock_owner(folder)) == first.pid
    (folder / "wait").unlink()
    assert first.wait() == FINISHED
    assert execute(folder, notebook) == FINISHED and len(small.began(folder)) == 1


@pytest.mark.slow
def test_a_corpus_file_that_changed_fails_the_run(tmp_path, notebook):
    corpus = tmp_path / "own.txt"
    corpus.write_text("as planned")
    changed, running = prepared(tmp_path, corpus=str(corpus)), prepared(tmp_path, corpus=str(corpus), seed=1)
    (running / "wait").touch()
    worker = start_worker(notebook, running)
    until(lambda: small.began(running))
    corpus.write_text("edited")
    (running / "wait").unlink()
    assert worker.wait() == execute(changed, notebook) == FINISHED and not small.began(changed)
    store = RunStore(tmp_path / "runs")
    assert "local file or folder (corpus, model ...) has changed" in store.read("s", changed.name).error
    assert store.read("s", running.name).status == "done"  # it had read the file


@pytest.mark.slow
def test_a_kernel_without_its_worker_keeps_the_lock_and_ends(tmp_path, notebook):
    """So that no two kernels can write into one folder, and none is left behind."""
    folder = prepared(tmp_path)
    (folder / "wait").touch()
    worker = start_worker(notebook, folder)
    kernel = int(until(lambda: small.began(folder))[0][0])
    os.kill(kernel, signal.SIGSTOP)  # it cannot notice that its worker is gone
    worker.kill()
    worker.wait()
    time.sleep(1)
    assert lock_owner(folder) is not None and execute(folder, notebook) == LOCKED
    os.kill(kernel, signal.SIGCONT)
    until(lambda: lock_owner(folder) is None)
    (folder / "wait").unlink()
    assert execute(folder, notebook) == FINISHED and len(small.began(folder)) == 2


@pytest.mark.slow
def test_a_dead_kernel_is_told_from_an_error(tmp_path, notebook):
    folder = prepared(tmp_path)
    (folder / "wait").touch()
    worker = start_worker(notebook, folder)
    os.kill(int(until(lambda: small.began(folder))[0][0]), signal.SIGKILL)
    assert worker.wait() == KILLED
    assert RunStore(tmp_path / "runs").read("s", folder.name) is None
    (folder / "wait").unlink()
    silent = prepared(tmp_path, eta=0.75)
    assert execute(silent, notebook) == FINISHED
    assert RunStore(tmp_path / "runs").read("s", silent.name).error == "the notebook ended without a result"


@pytest.mark.slow
def test_threads_follow_from_the_plan_and_the_workers(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr("mixkit.studies.executors._cores", lambda: 12)
    _, study, store = study_of(tmp_path, {**GRID, "grid": [{"objective": "mixce", "eta": [0.0, 0.1, 0.2]}]})
    schedule(study, store, local_executor(2, notebook), lambda line: None)
    assert [small.began(store.folder("own", run.name))[0][2] for run in study.runs] == ["12", "6", "6", "6"]


@pytest.mark.slow
def test_each_run_gets_a_gpu(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr("mixkit.studies.executors._gpus", lambda: ["3", "5"])
    _, study, store = study_of(tmp_path, {**GRID, "grid": [{"objective": "mixce", "eta": [0.0, 0.1, 0.2]}]})
    executor = local_executor(0, notebook)
    schedule(study, store, executor, lambda line: None)
    assert executor.max_workers == 2
    assert {small.began(store.folder("own", run.name))[0][1] for run in study.runs} == {"3", "5"}


@pytest.mark.slow
def test_two_sweeps_on_one_folder_execute_each_run_once(tmp_path, notebook):
    file, study, store = study_of(tmp_path)
    command = small.sweep_command(file, "own", notebook, ["--max-workers", "2"])
    both = [
        subprocess.Popen(command, env=small.environment(store.root), stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    assert [(process.communicate()[0] is not None, process.returncode) for process in both] == [(True, 0)] * 2
    assert [len(small.began(store.folder("own", run.name))) for run in study.runs] == [1, 1, 1]
    assert {state.status for state in states(study, store)} == {"done"}


def test_a_sweep_writes_the_parameters_under_the_lock(tmp_path, monkeypatch):
    """The worker of another sweep deletes what it takes for left behind, while it has the lock."""
    owners = []
    monkeypatch.setattr("mixkit.studies.run.write_atomically", lambda path, _: owners.append(lock_owner(path.parent)))
    folder = prepared(tmp_path)
    assert process_of(owners[0]) == os.getpid()
    with lock(folder):
        prepare(folder, RunConfig.check({"study": "s"}))
    assert len(owners) == 1


def test_a_record_of_another_version_ends_the_sweep(tmp_path, notebook):
    """After a git pull the workers are of another version than the sweep."""
    _, study, store = study_of(tmp_path)
    folder = store.folder("own", study.runs[0].name)
    starts = []

    def start(path, slot, num_siblings):
        starts.append(path)
        (folder / "run.json").write_text('{"name": "a", "new": 1}')
        return Worker(lambda: FINISHED, lambda: None)

    with pytest.raises(InputError, match=r"run.json is of another version of mixkit; start the study again"):
        schedule(study, store, Executor(1, start), lambda line: None)
    assert len(starts) == 3


def test_a_renamed_study_is_the_study_of_its_folder(tmp_path):
    _, study, store = study_of(tmp_path)
    write_study(study, store)
    os.rename(store.root / "own", store.root / "other")
    other = read_study("other", store)
    assert other.name == "other" and {run.config.study for run in other.runs} == {"other"}
    assert [run.name for run in other.runs] == [run.name for run in study.runs]


@pytest.mark.parametrize(
    ("value", "expected"), [("", "runs"), ("mine", "mine"), ("/abs", "/abs"), ("~/mine", "HOME/mine")]
)
def test_the_folder_of_studies_does_not_depend_on_where_a_command_runs(tmp_path, value, expected):
    """The kernels of JupyterLab run in notebooks/, papermill's where it was started."""
    environment = {**os.environ, "MIXKIT_RUNS": value, "PYTHONPATH": str(small.CLONE), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from mixkit._common import RUNS; print(RUNS)"]
    shown = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(small.CLONE / expected.replace("HOME", str(tmp_path)))


@pytest.mark.slow
def test_a_run_that_is_killed_three_times_has_failed(tmp_path, notebook):
    _, study, store = study_of(tmp_path)
    base, wait = store.folder("own", study.runs[0].name), store.root / "own" / "wait"
    wait.parent.mkdir(parents=True)
    wait.touch()
    killed: list[str] = []

    def kill_the_kernels():
        while len(killed) < 3:
            for pid, *_ in small.began(base)[len(killed) :]:
                os.kill(int(pid), signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.1)

    killer = threading.Thread(target=kill_the_kernels, daemon=True)
    killer.start()
    done, lines = run_small(study, store, notebook)
    killer.join()
    assert done == [] and len(small.began(base)) == 3
    failed, first, second = states(study, store)
    assert (failed.status, failed.detail) == ("failed", f"killed 3 times; perhaps {OUT_OF_MEMORY}")
    assert (first.status, second.status) == ("waiting", "waiting")
    assert sum("was killed; it goes on" in line for line in lines) == 2 and any("FAILED" in line for line in lines)
    _, lines = run_small(study, store, notebook)
    assert lines[-1] == f"{study.runs[0].name} failed before: {failed.detail}; --retry runs it again"
    wait.unlink()
    done, lines = run_small(study, store, notebook, retry=True)
    assert len(done) == 3 and "\x1b" not in "".join(lines)


@pytest.mark.slow
def test_a_stopped_sweep_ends_its_workers_a_killed_one_does_not(tmp_path, notebook):
    file, study, store = study_of(tmp_path)
    command = small.sweep_command(file, "own", notebook)
    base = store.folder("own", study.runs[0].name)
    base.mkdir(parents=True)
    (base / "wait").touch()

    def start():
        before = len(small.began(base))
        sweep = subprocess.Popen(
            command, env=small.environment(store.root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda: len(small.began(base)) > before)
        return sweep

    for stop in (signal.SIGINT, signal.SIGTERM):
        sweep = start()
        sweep.send_signal(stop)
        _, error = sweep.communicate()
        assert sweep.returncode == 130
        assert error == "mixkit: stopped; the same command continues it\n"
        until(lambda: lock_owner(base) is None)
    killed = start()
    killed.kill()
    killed.communicate()
    state = states(study, store)[0]
    assert (state.status, state.detail) == ("running", lock_owner(base))
    assert kernel_of(process_of(state.detail)) == int(small.began(base)[-1][0])
    resumed = subprocess.Popen(command, env=small.environment(store.root), stdout=subprocess.PIPE, text=True)
    until(lambda: "waiting for base-" in resumed.stdout.readline())
    (base / "wait").unlink()
    resumed.communicate()
    assert resumed.returncode == 0 and len(small.began(base)) == 3


@pytest.mark.slow
def test_the_tables_of_plan_and_status(tmp_path, notebook, monkeypatch, capsys):
    _, study, store = study_of(tmp_path)
    plan = status_table(study, store, 2).splitlines()
    assert plan[-1] == "3 waiting" and plan[4].endswith("MixCE η=0.1")
    run_small(study, store, notebook)
    assert status_table(study, store, 2).splitlines()[2].split()[1:4] == ["done", "100", "%"]
    folder = store.folder("own", study.runs[1].name)
    (folder / "run.json").unlink()
    (folder / "training.jsonl").write_text('{"step": 1, "epoch": 0.25, "loss": 1}\n')
    monkeypatch.setattr("mixkit.studies.plan.RunStore", lambda: store)
    monkeypatch.setattr("mixkit.__main__.RunStore", lambda: store)
    with lock(folder):
        assert main(["status", "own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[1:4] == ["running", "25", "%"] and lines[3].endswith(f"process {os.getpid()}")
    assert lines[-1].startswith("2 done, 1 running; about ") and lines[-1].endswith("left")
    assert states(study, store)[1].share == 0.25


def test_time_left_is_a_mean():
    assert time_left([10.0, 20.0], 4, 2) == "; about 30 s left"
    assert time_left([], 4, 2) == time_left([10.0], 0, 2) == ""


def test_executors_that_are_not_there(tmp_path, monkeypatch):
    _, study, store = study_of(tmp_path)
    for options, message in (
        ({"executor": "rai"}, r"unknown executor 'rai' \(did you mean 'ray'\?\); allowed: local, ray"),
        ({"address": "auto"}, "use it with the executor ray"),
    ):
        with pytest.raises(ValueError, match=message):
            run_study(study, store=store, **options)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"Ray is not installed; run: .*pip install .*\[ray\]"):
        run_study(study, store=store, executor="ray")
    assert not store.root.exists()


@pytest.mark.slow
def test_a_run_waits_for_its_gpu(tmp_path, notebook):
    folder, gpu = prepared(tmp_path), f"test-{os.getpid()}"
    with lock(Path(tempfile.gettempdir()) / f"mixkit-{os.getuid()}-gpu-{gpu}"):
        worker = start_worker(notebook, folder, gpu)
        until(lambda: (folder / "log.txt").exists() and "process" in (folder / "log.txt").read_text())
        time.sleep(1.5)  # longer than a lock's usual timeout
        assert not small.began(folder)
    assert worker.wait() == FINISHED and small.began(folder)
