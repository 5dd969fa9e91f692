"""Run a study: every run once, after the run that it depends on. And show how far the study is."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from mixkit._common import plain
from mixkit.studies.config import NOT_IN_HASH, RunConfig
from mixkit.studies.executors import Executor, Worker, make_executor
from mixkit.studies.plan import PlannedRun, Study, write_study
from mixkit.studies.records import records
from mixkit.studies.run import FINISHED, KILLED, LOCKED, NOTEBOOK, lock, lock_owner, one_line, prepare
from mixkit.studies.store import Run, RunRecord, RunStore

MAX_KILLS = 3  # a run whose worker or kernel is killed this often has failed
RECORD_LOOKS, LOOK_AGAIN_AFTER = 20, 5.0  # a network file system may hide a new run.json for a minute; seconds
TICK = 0.1  # seconds between two looks at the workers
LOG_FOREIGN_RUN_AFTER = 3.0  # seconds before we report that another process executes the run


def run_study(
    study: Study,
    *,
    store: RunStore | None = None,
    max_workers: int = 0,
    retry: bool = False,
    executor: str = "local",
    address: str | None = None,
    notebook: Path = NOTEBOOK,
    gpus: Sequence[str] | None = None,
    check: bool = True,
    log: Callable[[str], None] = print,
) -> list[RunRecord]:
    """Execute every run that has no result yet. Returns the records of the finished runs.

    Runs that another sweep executes, here or on another machine with the same folder, are waited for. A run whose
    worker or kernel is killed goes on from its last checkpoint, and has failed after the third time. Runs that depend
    on a failed run are skipped. On an interruption the workers end; the same call then continues.

    max_workers: runs at a time; 0: one per GPU, or two without a GPU. retry: execute failed runs again. executor:
    "local" or "ray", with the address of a cluster to join. notebook: executed for each run. gpus: of this machine, as
    in CUDA_VISIBLE_DEVICES; None: all. check: look for all corpora, models and readers first. log: gets a line for
    each event.
    Raises InputError before the first run for an unknown executor and for inputs that are missing.
    """
    store = store or RunStore()
    before = {run.name: store.read(study.name, run.name) for run in study.runs}
    failures = {name: record for name, record in before.items() if record and record.status == "failed"}
    open_runs = [run for run in study.runs if before[run.name] is None or (retry and run.name in failures)]
    if open_runs:
        if check:
            check_inputs(open_runs)
        workers = make_executor(executor, max_workers, address=address, notebook=notebook, gpus=gpus)
        try:
            write_study(study, store)
            if retry:
                for name in failures:
                    clear_failure(study.name, name, store)
            schedule(study, store, workers, lambda line: log(plain(line)))
        finally:
            workers.close()
    if not retry:
        for name, record in failures.items():
            log(plain(f"{name} failed before: {record.error}; --retry runs it again"))
    return records(study, store)


def schedule(study: Study, store: RunStore, executor: Executor, log: Callable[[str], None]) -> None:
    """Start and watch workers until every run of the study is done, failed or skipped."""
    sweep = _Sweep(study, store, executor, log)
    done = sum(sweep.settled.values())
    log(f"study {study.name}: {len(study.runs)} runs, {done} done, {executor.max_workers} at a time")
    try:
        while len(sweep.settled) < len(study.runs):
            sweep.collect()
            sweep.settle()
            sweep.start()
            time.sleep(TICK)
    finally:
        for active in sweep.active.values():
            active.worker.stop()
        for active in sweep.active.values():
            active.worker.wait()


@dataclass(frozen=True)
class _Active:
    run: PlannedRun
    worker: Worker
    began: float = field(default_factory=time.time)


class _Sweep:
    """State of `schedule`.

    settled: by the names of runs that need no more work, whether they are done. active: by slot. seconds: by run, from
    start to end of its worker. Not graphlib: a run depends on at most one other, and may fail or run elsewhere.
    """

    def __init__(self, study: Study, store: RunStore, executor: Executor, log: Callable[[str], None]):
        self.study, self.store, self.executor, self.log = study, store, executor, log
        found = {run.name: store.read(study.name, run.name) for run in study.runs}
        self.settled = {name: record.status == "done" for name, record in found.items() if record}
        self.settled_before = len(self.settled)
        self.num_siblings = Counter(run.depends_on for run in study.runs)
        self.active: dict[int, _Active] = {}
        self.seconds: dict[str, float] = {}
        self.kills, self.looks = Counter(), Counter()
        self.foreign_since: dict[str, float] = {}

    def collect(self) -> None:
        """Take the workers that have exited off the list."""
        for slot, active in list(self.active.items()):
            code = active.worker.poll()
            if code is None:
                continue
            del self.active[slot]
            self.seconds[active.run.name] = time.time() - active.began
            if code != LOCKED and self._record(active.run) is None:
                self.handle_exit(active.run, code)

    def settle(self) -> None:
        """Report runs that have a record now, by whichever sweep, and skip those that depend on a failed run."""
        for run in self._waiting():
            record = self._record(run)
            if record is not None:
                self._report(record)
            elif self.settled.get(run.depends_on or "") is False:
                self.settled[run.name] = False
                self.log(f"skipped {run.name}: it starts from {run.depends_on}, which failed")

    def start(self) -> None:
        """Start the runs whose dependency is done, as many as there are workers."""
        for run in self._waiting():
            if run.depends_on is not None and not self.settled.get(run.depends_on):
                continue
            if len(self.active) == self.executor.max_workers:
                return
            folder = self.store.folder(self.study.name, run.name)
            owner = lock_owner(folder)
            if owner is not None:
                since = self.foreign_since.setdefault(run.name, time.time())
                if time.time() - since > LOG_FOREIGN_RUN_AFTER:
                    self.foreign_since[run.name] = float("inf")
                    self.log(f"waiting for {run.name}: {owner} runs it")
                continue
            slot = min(set(range(self.executor.max_workers)) - set(self.active))
            prepare(folder, run.config)
            self.active[slot] = _Active(run, self.executor.start(folder, slot, self.num_siblings[run.depends_on]))

    def handle_exit(self, run: PlannedRun, code: int) -> None:
        """Handle a worker that exited and left no record: look again, let the run be started again, or let it fail."""
        folder = self.store.folder(self.study.name, run.name)
        if code == FINISHED and self.looks[run.name] < RECORD_LOOKS:
            self.looks[run.name] += 1
            time.sleep(LOOK_AGAIN_AFTER)
            return
        if code == KILLED or code < 0:
            self.kills[run.name] += 1
            if self.kills[run.name] < MAX_KILLS:
                self.log(f"{run.name} was killed; it goes on from its last checkpoint")
                return
            error = f"killed {MAX_KILLS} times; out of memory?"
        else:
            error = _last_line(folder / "log.txt") or f"the worker ended with exit code {code} and no message"
        with lock(folder) as descriptor:
            if descriptor is not None and self._record(run) is None:
                Run(folder, run.name, run.config).fail(error)

    def _waiting(self) -> list[PlannedRun]:
        busy = {active.run.name for active in self.active.values()} | set(self.settled)
        return [run for run in self.study.runs if run.name not in busy]

    def _record(self, run: PlannedRun) -> RunRecord | None:
        return self.store.read(self.study.name, run.name)

    def _report(self, record: RunRecord) -> None:
        self.settled[record.name] = record.status == "done"
        seconds = self.seconds.setdefault(record.name, record.seconds)
        total = len(self.study.runs) - self.settled_before
        place = f"[{len(self.settled) - self.settled_before}/{total}] {record.name}"
        if record.status == "failed":
            file = self.store.folder(self.study.name, record.name) / "log.txt"
            self.log(f"{place}: FAILED after {seconds:.0f} s: {record.error}; see {file}")
            return
        done = [self.seconds[name] for name, is_done in self.settled.items() if is_done and name in self.seconds]
        left = time_left(done, len(self.study.runs) - len(self.settled), self.executor.max_workers)
        self.log(f"{place}: done in {seconds:.0f} s{f'; about {duration(left)} left' if left else ''}")


def _last_line(file: Path) -> str:
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else ""


def clear_failure(study: str, name: str, store: RunStore) -> None:
    """Delete the run.json of a failed run, unless another process executes the run."""
    folder = store.folder(study, name)
    with lock(folder) as descriptor:
        record = store.read(study, name)
        if descriptor is not None and record is not None and record.status == "failed":
            (folder / "run.json").unlink()


def check_inputs(runs: Sequence[PlannedRun]) -> None:
    """Raises InputError for a corpus, model or reader of these runs that is missing. Loads each corpus once."""
    from mixkit.metrics.features import check_reader  # seconds
    from mixkit.models.loading import check_model
    from mixkit.texts.corpora import load_corpus

    for config in {run.config.corpus: run.config for run in reversed(runs)}.values():
        load_corpus(config.corpus, train=config.train_texts, validation=config.validation_texts, test=config.test_texts)
    for model, study in {(run.config.model, run.config.study) for run in runs if run.depends_on is None}:
        check_model(model, study=study)
    for reader, start in {(run.config.reader, run.config.model) for run in runs}:
        check_reader(reader, start=start)


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    detail: the error's line, or "host, process 123" while it runs. share: of the training steps, in [0, 1]. seconds:
    that it took, or that it has been running.
    """

    run: PlannedRun
    status: Literal["done", "running", "failed", "waiting"]
    detail: str
    share: float
    seconds: float


def states(study: Study, store: RunStore | None = None) -> list[RunState]:
    """How far each run of the study is, in the study's order."""
    return [_state(run, store or RunStore()) for run in study.runs]


def _state(run: PlannedRun, store: RunStore) -> RunState:
    folder = store.folder(run.config.study, run.name)
    record, owner = store.read(run.config.study, run.name), lock_owner(folder)
    if record is not None:
        share = 1.0 if record.status == "done" else _share(run.config, folder)
        return RunState(run, record.status, record.error, share, record.seconds)
    if owner is not None:
        return RunState(run, "running", str(owner), _share(run.config, folder), max(0.0, time.time() - owner.began))
    return RunState(run, "waiting", "", _share(run.config, folder), 0.0)


def _share(config: RunConfig, folder: Path) -> float:
    """Share of the training steps, by the last line of training.jsonl."""
    try:
        last = json.loads((folder / "training.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return 0.0
    share = last["step"] / config.max_steps if config.max_steps > 0 else last["epoch"] / config.epochs
    return min(1.0, share)


def time_left(seconds: Sequence[float], left: int, max_workers: int) -> float | None:
    """equals: mean(seconds) * left / max_workers, for `left` runs after runs that took `seconds`; None without any."""
    return fmean(seconds) * left / max_workers if seconds and left else None


def duration(seconds: float) -> str:
    """
    >>> [duration(seconds) for seconds in (40, 720, 11520)]
    ['40 s', '12 min', '3.2 h']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_table(study: Study, store: RunStore | None = None) -> str:
    """The study's runs as a plain-text table, with counts and the time that is left."""
    rows, now = [("run", "status", "steps", "time", "")], states(study, store)
    for state in now:
        steps = f"{100 * state.share:.0f} %" if state.run.config.epochs else "–"
        rows.append((state.run.name, state.status, steps, duration(state.seconds), plain(state.detail)))
    counts = Counter(state.status for state in now)
    summary = ", ".join(
        f"{counts[status]} {status}" for status in ("done", "running", "failed", "waiting") if counts[status]
    )
    return f"{aligned(rows)}\n\n{summary}{_estimate(now, max(1, counts['running']))}"


def plan_table(study: Study, max_workers: int, store: RunStore | None = None) -> str:
    """The study's runs as a plain-text table, with the settings that differ from most runs, and the time left."""
    varied = [name for name in RunConfig.model_fields if name not in (*NOT_IN_HASH, "model", "reader")]
    usual = {name: Counter(getattr(run.config, name) for run in study.runs).most_common(1)[0][0] for name in varied}
    rows, now = [("run", "role", "status", "")], states(study, store)
    for state in now:
        settings = state.run.config.canonical()
        special = [
            name for name in varied if name in settings and (name == "objective" or settings[name] != usual[name])
        ]
        text = ", ".join(f"{name} {settings[name]}" for name in special)
        rows.append((state.run.name, state.run.role, state.status, text))
    return f"{aligned(rows)}\n\n{len(now)} runs, {max_workers} at a time{_estimate(now, max_workers)}"


def _estimate(now: Sequence[RunState], max_workers: int) -> str:
    seconds = [state.seconds for state in now if state.status == "done"]
    left = sum(state.status in ("running", "waiting") for state in now)
    estimate = time_left(seconds, left, max_workers)
    return "" if estimate is None else f"; about {duration(estimate)} left"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
