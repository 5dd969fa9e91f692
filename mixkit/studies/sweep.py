"""Run a study: every run once, after the run that it depends on. And show how far the study is."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from mixkit._common import InputError, plain
from mixkit.studies.config import RunConfig
from mixkit.studies.executors import Executor, Worker, make_executor
from mixkit.studies.plan import PlannedRun, Study, write_study
from mixkit.studies.preflight import preflight
from mixkit.studies.records import records
from mixkit.studies.run import FINISHED, KILLED, LOCKED, NOTEBOOK, OUT_OF_MEMORY, lock, lock_owner, prepare
from mixkit.studies.store import Run, RunRecord, RunStore, notebook_hash

MAX_KILLS = 3  # a run whose worker or kernel is killed this often has failed
MAX_FAILURES = 3  # after so many failures in a row for the same reason no further run is started
TICK = 0.1  # seconds between two looks at the workers


def run_study(
    study: Study,
    *,
    store: RunStore | None = None,
    max_workers: int = 0,
    retry: bool = False,
    executor: str = "local",
    address: str = "",
    notebook: Path = NOTEBOOK,
    log: Callable[[str], None] = print,
) -> list[RunRecord]:
    """Execute every run that has no result yet. Returns the records of the finished runs.

    Runs that another sweep executes, here or on another machine with the same folder, are waited for. A killed run goes
    on from its last checkpoint, and has failed after the third time. Runs that depend on a failed run are skipped.
    After three failures in a row for one reason no further run starts. The same call continues a stopped study.
    max_workers: runs at a time; 0: one per GPU, or two without a GPU. retry: execute failed runs again. executor:
    "local" or "ray". address: of a Ray cluster to join. notebook: executed for each run. log: gets a line per event.
    Raises InputError before the first run for an unknown executor and for what `preflight` finds.
    """
    store = store or RunStore()
    before = {run.name: store.read(study.name, run.name) for run in study.runs}
    failures = [record for record in before.values() if record and record.status == "failed"]
    again = failures if retry else []
    open_runs = [run for run in study.runs if before[run.name] in (None, *again)]
    if open_runs:
        workers = make_executor(executor, max_workers, notebook, address)
        for note in preflight(open_runs, store):
            log(plain(note))
        now = notebook_hash(notebook)
        others = Counter(record.versions.get("notebook", "") for record in before.values() if record)
        for other in others.keys() - {"", now}:
            made = f"{others[other]} earlier runs of this study were made by {other}"
            log(f"note: the code of {notebook.name} is {now}; {made}")
        write_study(study, store)
        for record in again:
            if store.read(study.name, record.name) == record:  # unless another sweep has begun it meanwhile
                (store.folder(study.name, record.name) / "run.json").unlink(missing_ok=True)
        schedule(study, store, workers, lambda line: log(plain(line)))
    for record in [] if retry else failures:
        log(plain(f"{record.name} failed before: {record.error}; --retry runs it again"))
    return records(study, store)


def schedule(study: Study, store: RunStore, executor: Executor, log: Callable[[str], None]) -> None:
    """Start and watch workers until every run of the study is done, failed or skipped."""
    # Not graphlib: a run depends on at most one other, and may fail, or be executed by another sweep.
    before = [store.read(study.name, run.name) for run in study.runs]
    is_done = {record.name: record.status == "done" for record in before if record}  # of runs that need no more work
    num_open = len(study.runs) - len(is_done)
    num_siblings = Counter(run.depends_on for run in study.runs)
    active: dict[str, tuple[int, Worker]] = {}  # slot and worker, by run
    kills, foreign, seconds = Counter(), set(), []  # by run; executed by another process; of the runs that are done
    reasons: list[str] = []  # of the last failures in a row
    log(f"study {study.name}: {len(study.runs)} runs, {sum(is_done.values())} done, {executor.max_workers} at a time")

    def hopeless() -> bool:
        return len(reasons) >= MAX_FAILURES and len(set(reasons[-MAX_FAILURES:])) == 1

    def collect(run: PlannedRun, folder: Path) -> None:
        """Take a worker that has exited off the list. Its run has failed if it left no record and was not killed."""
        _, worker = active[run.name]
        code = worker.poll()
        if code is None:
            return
        del active[run.name]
        if code == FINISHED and (folder / "run.json").is_file() and not store.read(study.name, run.name):
            kills[run.name] += 1
            if kills[run.name] == MAX_KILLS:
                raise InputError(f"{folder / 'run.json'} is of another version of mixkit; start the study again")
        # After FINISHED a network file system may hide the record for a minute. The run is started again, and ends.
        if code in (FINISHED, LOCKED) or store.read(study.name, run.name):
            return
        error = f"the worker ended with exit code {code}"
        if code == KILLED or code < 0:
            kills[run.name] += 1
            error = f"killed {MAX_KILLS} times; perhaps {OUT_OF_MEMORY}"
            if kills[run.name] < MAX_KILLS:
                log(f"{run.name} was killed; it goes on from its last checkpoint")
                return
        with lock(folder) as descriptor:
            if descriptor is not None and store.read(study.name, run.name) is None:
                Run(folder, run.config).fail(error)

    def settle(run: PlannedRun, folder: Path) -> None:
        """Report a run that has a record, by whichever sweep. Otherwise skip it, or start it if that is possible."""
        record, dependency = store.read(study.name, run.name), is_done.get(run.depends_on or "")
        if record is not None:
            is_done[run.name] = record.status == "done"
            left = len(study.runs) - len(is_done)
            end = f"FAILED: {record.error}; see {folder / 'log.txt'}"
            reasons.append(re.sub(r"\d+", "0", record.error))
            if record.status == "done":
                reasons.clear()
                seconds.append(record.seconds)
                end = f"done in {record.seconds:.0f} s{time_left(seconds, left, executor.max_workers)}"
            log(f"[{num_open - left}/{num_open}] {run.name}: {end}")
        elif dependency is False:
            is_done[run.name] = False
            log(f"skipped {run.name}: it starts from {run.depends_on}, which failed")
        elif len(active) < executor.max_workers and not hopeless() and (dependency or run.depends_on is None):
            owner = lock_owner(folder)
            if owner is None:
                prepare(folder, run.config)
                slot = min(set(range(executor.max_workers)) - {slot for slot, _ in active.values()})
                active[run.name] = slot, executor.start(folder.absolute(), slot, num_siblings[run.depends_on])
            elif run.name not in foreign and not kills[run.name]:  # a killed worker's kernel ends a moment later
                foreign.add(run.name)
                log(f"waiting for {run.name}: {owner} runs it")

    try:
        while active or (len(is_done) < len(study.runs) and not hopeless()):
            for run in [run for run in study.runs if run.name not in is_done]:
                folder = store.folder(study.name, run.name)
                if run.name in active:
                    collect(run, folder)
                if run.name not in active:
                    settle(run, folder)
            time.sleep(TICK)
        if hopeless() and (left := len(study.runs) - len(is_done)):
            why = f"the last {MAX_FAILURES} runs failed for the same reason"
            log(f"stopped: {why}; {left} runs were not started; fix this, then run the study again with --retry")
    finally:
        for _, worker in active.values():
            worker.stop()
        for _, worker in active.values():
            worker.wait()


class RunState(NamedTuple):
    """How far a run is."""

    run: PlannedRun
    status: Literal["done", "running", "failed", "waiting"]
    share: float  # of the training steps, in [0, 1]
    detail: str = ""  # the error's line, or "host, process 123" while it runs
    seconds: float = 0.0  # that it took, or has been running


def states(study: Study, store: RunStore | None = None) -> list[RunState]:
    """How far each run of the study is."""
    store, now = store or RunStore(), []
    for run in study.runs:
        folder = store.folder(study.name, run.name)
        record, owner, share = store.read(study.name, run.name), lock_owner(folder), _share(run.config, folder)
        if record is not None:
            share = 1.0 if record.status == "done" else share
            now.append(RunState(run, record.status, share, record.error, record.seconds))
        elif owner is not None:
            seconds = max(0.0, time.time() - (folder / "lock").stat().st_mtime)
            now.append(RunState(run, "running", share, owner, seconds))
        else:
            now.append(RunState(run, "waiting", share))
    return now


def _share(config: RunConfig, folder: Path) -> float:
    """Share of the training steps, by the last line of training.jsonl."""
    try:
        last = json.loads((folder / "training.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return min(1.0, last["step"] / config.max_steps if config.max_steps > 0 else last["epoch"] / config.epochs)


def time_left(seconds: Sequence[float], open_runs: int, max_workers: int) -> str:
    """For example "; about 12 min left", where finished runs took `seconds`; "" without any."""
    return f"; about {duration(fmean(seconds) * open_runs / max_workers)} left" if seconds and open_runs else ""


def duration(seconds: float) -> str:
    """For example "40 s", "12 min" or "3.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_table(study: Study, store: RunStore | None = None, max_workers: int = 0) -> str:
    """The study's runs as a plain-text table, with counts and the time left. max_workers: 0: as many as run now."""
    rows, now = [("run", "status", "steps", "time", "")], states(study, store)
    for state in now:
        steps = f"{100 * state.share:.0f} %" if state.run.config.epochs else "–"
        about = plain(state.detail) or state.run.config.label(state.run.role)
        rows.append((state.run.name, state.status, steps, duration(state.seconds), about))
    counts = Counter(state.status for state in now)
    summary = [f"{counts[status]} {status}" for status in ("done", "running", "failed", "waiting") if counts[status]]
    done = [state.seconds for state in now if state.status == "done"]
    left = time_left(done, counts["running"] + counts["waiting"], max_workers or max(1, counts["running"]))
    return f"{aligned(rows)}\n\n{', '.join(summary)}{left}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    row_format = "  ".join(f"{{:{width}}}" for width in widths)
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(row_format.format(*line).rstrip() for line in lines)
