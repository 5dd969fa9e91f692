"""What happens around a run: claims, workers and kernels that are killed, several sweeps on one folder, the log."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from mixkit.__main__ import main
from mixkit._common import plain
from mixkit.studies import executors as engines
from mixkit.studies import progress
from mixkit.studies import run as execution
from mixkit.studies import sweep as sweeps
from mixkit.studies.config import check
from mixkit.studies.plan import outdated
from mixkit.studies.run import ELSEWHERE, ENDED, KILLED, PlainLog, execute, lock, lock_owner, prepare
from mixkit.studies.store import RunStore, run_name
from mixkit.studies.sweep import load_study, run_study, states
from tests import support as small
from tests.benchmarks.kills import kernel_of

GRID = {"parameters": small.TINY, "base": {"objective": "mle"}, "grid": [{"objective": "mixce", "eta": [0.0, 0.1]}]}


def until(condition, seconds=120):
    """Waits for an event; the limit only ends a test that hangs."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    path = small.write_notebook(tmp_path)
    monkeypatch.setattr(execution, "NOTEBOOK", path)
    monkeypatch.setattr(engines, "WORKER", small.worker(path))
    monkeypatch.setattr(engines, "_gpus", lambda: [])
    monkeypatch.setattr(sweeps, "check_inputs", lambda runs: None)
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(small.CLONE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return path


def prepared(tmp_path, **asked) -> Path:
    parameters = check({"study": "s", **asked})
    folder = RunStore(tmp_path / "runs").folder("s", run_name(parameters))
    prepare(folder, parameters)
    return folder


def start_worker(notebook, folder):
    return subprocess.Popen(
        [sys.executable, *small.worker(notebook), str(folder)],
        env=small.environment(folder.parents[1]),
        stderr=subprocess.DEVNULL,
        cwd=small.CLONE,
    )


def study_of(tmp_path, content=GRID, name="own"):
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file, load_study(file), RunStore(tmp_path / "runs")


def test_a_claim_is_one_process_s_and_ends_with_it(tmp_path):
    with lock(tmp_path / "run") as mine:
        assert mine is not None and lock_owner(tmp_path / "run")["process"] == os.getpid()
        with lock(tmp_path / "run") as second:  # another descriptor: as good as another process
            assert second is None
    assert lock_owner(tmp_path / "run") is None and lock_owner(tmp_path / "none") is None
    code = (
        "from mixkit.studies.run import claim; from pathlib import Path; import time\n"
        f"with claim(Path({str(tmp_path / 'run')!r})):\n time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=small.CLONE)
    until(lambda: (lock_owner(tmp_path / "run") or {}).get("process") == other.pid)
    other.kill()
    other.wait()
    with lock(tmp_path / "run") as mine:
        assert mine is not None
    assert lock_owner(tmp_path / "run") is None


def test_terminal_escapes_reach_neither_log_nor_terminal(tmp_path, notebook):
    assert plain("a\x1b[31mb\x1b[0m\tc\n\x1b]0;t\x07\x9b\x7f\x00é😀") == "ab\tc\n]0;té😀"
    folder = prepared(tmp_path, eta=0.25)
    assert execute(folder) == ENDED
    log = (folder / "log.txt").read_bytes().decode()
    assert "red ]0;title <script>\n30 %" in log and plain(log) == log
    assert "\n20 %" not in log
    record = RunStore(tmp_path / "runs").read("s", folder.name)
    assert record["status"] == "failed" and record["error"] == "ValueError: a quarter is not allowed"


def test_bars_leave_their_last_state_whatever_the_pieces(tmp_path):
    for i, pieces in enumerate((["a\r", "\n", "\rb", "\rc", "\n\rd"], list("a\r\n\rb\rc\n\rd"), ["a\r\n\rb\rc\n\rd"])):
        log = PlainLog(tmp_path / f"{i}.txt")
        for piece in pieces:
            log.write(piece)
        log.close()
        assert (tmp_path / f"{i}.txt").read_text() == "a\nc\nd"


def test_a_run_is_executed_once_and_by_one(tmp_path, notebook):
    folder = prepared(tmp_path)
    (folder / "wait").touch()
    first = start_worker(notebook, folder)
    until(lambda: small.began(folder))
    assert execute(folder) == ELSEWHERE
    assert lock_owner(folder)["process"] == first.pid
    (folder / "wait").unlink()
    assert first.wait() == ENDED
    assert execute(folder) == ENDED and len(small.began(folder)) == 1


def test_a_corpus_file_that_changes_after_the_plan_fails_the_run_and_is_said(tmp_path, notebook):
    corpus = tmp_path / "own.txt"
    corpus.write_text("as planned")
    changed, running = prepared(tmp_path, corpus=str(corpus)), prepared(tmp_path, corpus=str(corpus), seed=1)
    (running / "wait").touch()
    worker = start_worker(notebook, running)
    until(lambda: small.began(running))
    corpus.write_text("edited")
    (running / "wait").unlink()
    assert worker.wait() == execute(changed) == ENDED and not small.began(changed)
    store = RunStore(tmp_path / "runs")
    assert store.read("s", changed.name)["error"] == "the corpus file has changed since the study was planned"
    assert store.read("s", running.name)["status"] == "done"  # it had read the file


def test_a_kernel_that_outlives_its_worker_keeps_the_claim_and_ends(tmp_path, notebook):
    """So that no two kernels can write into one folder, and none is left behind."""
    folder = prepared(tmp_path)
    (folder / "wait").touch()
    worker = start_worker(notebook, folder)
    kernel = int(until(lambda: small.began(folder))[0][0])
    os.kill(kernel, signal.SIGSTOP)  # it cannot notice that its worker is gone
    worker.kill()
    worker.wait()
    time.sleep(1)
    assert lock_owner(folder) is not None and execute(folder) == ELSEWHERE
    os.kill(kernel, signal.SIGCONT)
    until(lambda: lock_owner(folder) is None)
    (folder / "wait").unlink()
    assert execute(folder) == ENDED and len(small.began(folder)) == 2


def test_a_dead_kernel_is_told_from_an_error(tmp_path, notebook):
    folder = prepared(tmp_path)
    (folder / "wait").touch()
    worker = start_worker(notebook, folder)
    os.kill(int(until(lambda: small.began(folder))[0][0]), signal.SIGKILL)
    assert worker.wait() == KILLED
    assert RunStore(tmp_path / "runs").read("s", folder.name) is None
    (folder / "wait").unlink()
    silent = prepared(tmp_path, eta=0.75)
    assert execute(silent) == ENDED
    assert RunStore(tmp_path / "runs").read("s", silent.name)["error"] == "the notebook ended without a result"


def test_threads_follow_from_the_plan_and_the_slots(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr(engines, "_cores", lambda: 12)
    _, study, store = study_of(tmp_path, {**GRID, "grid": [{"objective": "mixce", "eta": [0.0, 0.1, 0.2]}]})
    run_study(study, store=store, max_workers=2, say=lambda line: None)
    assert [small.began(store.folder("own", run.name))[0][2] for run in study.runs] == ["12", "6", "6", "6"]


def test_two_sweeps_on_one_folder_execute_each_run_once(tmp_path, notebook):
    file, study, store = study_of(tmp_path)
    command = small.sweep_command(file, "own", notebook, "--max-workers", "2")
    both = [
        subprocess.Popen(command, env=small.environment(store.root), stdout=subprocess.PIPE, text=True, cwd=tmp_path)
        for _ in range(2)
    ]
    assert [(process.communicate()[0] is not None, process.returncode) for process in both] == [(True, 0)] * 2
    assert [len(small.began(store.folder("own", run.name))) for run in study.runs] == [1, 1, 1]
    assert {state.status for state in states(study, store)} == {"done"}


def test_a_run_that_is_killed_three_times_has_failed_and_is_retried_on_request(tmp_path, notebook):
    _, study, store = study_of(tmp_path)
    base, said = store.folder("own", study.runs[0].name), []
    (tmp_path / "runs" / "own").mkdir(parents=True)
    (tmp_path / "runs" / "own" / "wait").touch()
    seen: list[str] = []

    def kill_the_kernel(seconds, sleep=time.sleep):
        new = [pid for pid, *_ in small.began(base) if pid not in seen]
        seen.extend(new)
        for pid in new:
            os.kill(int(pid), signal.SIGKILL)
        sleep(seconds)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweeps.time, "sleep", kill_the_kernel)
        assert run_study(study, store=store, say=said.append) == []
    assert len(seen) == 3
    failed, first, second = states(study, store)
    assert (failed.status, failed.detail) == ("failed", "killed 3 times; out of memory?")
    assert (first.status, second.status) == ("waiting", "waiting")
    assert sum("was killed; it goes on" in line for line in said) == 2 and any("FAILED" in line for line in said)
    said.clear()
    run_study(study, store=store, say=said.append)
    assert said[-1] == f"{study.runs[0].name} failed before: killed 3 times; out of memory?; --retry runs it again"
    (tmp_path / "runs" / "own" / "wait").unlink()
    assert len(run_study(study, store=store, retry=True, say=said.append)) == 3
    assert "\x1b" not in "".join(said)


def test_a_sweep_that_is_stopped_ends_its_workers_and_one_that_is_killed_does_not(tmp_path, notebook):
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
        assert error == "mixkit: study own was stopped; the same command goes on where it was\n"
        until(lambda: lock_owner(base) is None)
    killed = start()
    killed.kill()
    killed.communicate()
    state = states(study, store)[0]
    assert state.status == "running" and state.detail.endswith(f", process {lock_owner(base)['process']}")
    assert kernel_of(lock_owner(base)["process"]) == int(small.began(base)[-1][0])
    resumed = subprocess.Popen(command, env=small.environment(store.root), stdout=subprocess.PIPE, text=True)
    until(lambda: "waiting for base-" in resumed.stdout.readline())
    (base / "wait").unlink()
    resumed.communicate()
    assert resumed.returncode == 0 and len(small.began(base)) == 3


def test_a_finished_study_needs_nothing_and_its_report_is_not_made_again(tmp_path, notebook):
    file, study, store = study_of(tmp_path)
    run_study(study, store=store, say=lambda line: None)
    folder = store.root / "own"
    for made in ("report.html", "table.txt"):
        (folder / made).write_text("made before\n")
    code = (
        "import sys; from mixkit.__main__ import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'plotly', 'papermill', 'numpy'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "study", str(file)],
        env=small.environment(store.root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith("made before\n") and done.stdout.endswith("[]\n")
    assert (folder / "report.html").read_text() == "made before\n"
    os.utime(folder / "report.html", (0, 0))
    assert outdated(folder / "report.html", folder) and not outdated(folder / "table.txt", folder)


def test_the_plan_and_the_state_of_a_study_are_told(tmp_path, notebook, monkeypatch, capsys):
    file, study, store = study_of(tmp_path)
    monkeypatch.setattr("mixkit.__main__.RunStore", lambda: store)
    monkeypatch.setattr(progress, "RunStore", lambda: store)
    monkeypatch.setattr("mixkit.studies.plan.RunStore", lambda: store)
    assert main(["study", str(file), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "no run of these sizes has been measured yet" in told and "objective mixce, eta 0.1" in told
    assert not store.root.exists()
    run_study(study, store=store, say=lambda line: None)
    other = load_study(file, {"seed": 1}, name="other")
    assert "0 s left, by 3 finished runs of the same sizes and model" in progress.plan_lines(other, 2, store)[-1]
    folder = store.folder("own", study.runs[1].name)
    (folder / "run.json").unlink()
    (folder / "training.jsonl").write_text('{"step": 1, "epoch": 0.25, "loss": 1}\n')
    with lock(folder):
        assert main(["status", "own"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[1:4] == ["running", "25", "%"] and lines[3].endswith(f"process {os.getpid()}")
    assert lines[-1].startswith("2 done, 1 running; about ")
    assert states(study, store)[1].share == 0.25


def test_time_left_follows_the_slots_and_the_needs(tmp_path):
    _, study, _ = study_of(tmp_path, small.STUDY)
    found = [(run.parameters, 10.0) for run in study.runs]
    assert progress.time_left(study.runs, found, 1) == 60
    assert progress.time_left(study.runs, found, 4) == 30  # base, then the grid, then what starts from the grid's MLE
    assert progress.time_left(study.runs[1:5], found[1:2], 2, {study.runs[1].name: 4.0}) == 20
    assert progress.time_left(study.runs, [], 2) is None


def test_time_is_that_of_runs_from_the_same_model(tmp_path):
    file, study, store = study_of(tmp_path)
    for seconds, planned in zip((5.0, 7.0, 9.0), study.runs, strict=True):
        store.begin(planned.parameters).finish({})
        path = store.folder("own", planned.name) / "run.json"
        path.write_text(json.dumps({**small.read_json(path), "seconds": seconds}))
    again, other = (load_study(file, given, name="other") for given in ({"seed": 1}, {"model": "gpt2"}))
    assert progress.time_left(again.runs, progress.measured(store), 1, store=store) == 21
    assert progress.time_left(other.runs, progress.measured(store), 1, store=store) is None
    assert "no run of these sizes has been measured" in progress.plan_lines(other, 2, store)[-1]
    store.begin(other.runs[0].parameters).finish({})  # what comes of it does not count as tiny's either
    assert "by 1 finished run of the same sizes and model" in progress.plan_lines(other, 2, store)[-1]


def test_engines_that_cannot_be_had(tmp_path, monkeypatch):
    _, study, store = study_of(tmp_path)
    monkeypatch.setattr(sweeps, "check_inputs", lambda runs: None)
    for asked, message in (
        ({"engine": "rai"}, r"unknown engine 'rai' \(did you mean 'ray'\?\); allowed: local, ray"),
        ({"address": "auto"}, "it needs the engine ray"),
    ):
        with pytest.raises(ValueError, match=message):
            run_study(study, store=store, **asked)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"engine 'ray' is not installed; run: .*pip install .*\[ray\]"):
        run_study(study, store=store, engine="ray")
    assert not store.root.exists()


def test_a_gpu_is_one_runs_at_a_time_among_the_sweeps_of_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(execution.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv(execution.GPU, "3")
    monkeypatch.setattr(execution, "PATIENCE", 0.05)  # less than the other waits: it must ask again
    held, left = [], []

    def other():
        with execution._gpu():
            held.append(len(left))

    with execution._gpu():
        waiting = threading.Thread(target=other)
        waiting.start()
        waiting.join(0.3)
        left.append("first")
    waiting.join(30)
    assert held == [1]
    monkeypatch.delenv(execution.GPU)
    with execution._gpu(), execution._gpu():
        pass
