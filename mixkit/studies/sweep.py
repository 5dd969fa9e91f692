"""Run a study: every run once, after the run that it depends on. And show how far the study is."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from mixkit._common import plain
from mixkit.studies.config import RunConfig
from mixkit.studies.executors import Executor, Worker, make_executor
from mixkit.studies.plan import PlannedRun, Study, write_study
from mixkit.studies.records import records
from mixkit.studies.run import FINISHED, KILLED, LOCKED, NOTEBOOK, lock, lock_owner, one_line, prepare
from mixkit.studies.store import Run, RunRecord, RunStore

MAX_KILLS = 3  # a run whose worker or kernel is killed this often has failed
MAX_LOOKS, LOOK_AGAIN_AFTER = 20, 5.0  # a network file system may hide a new run.json for a minute; seconds
TICK = 0.1  # seconds between two looks at the workers
LOG_FOREIGN_RUN_AFTER = 3.0  # seconds before we report that another process executes the run
Log = Callable[[str], None]


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
    log: Log = print,
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
    before = [(run, store.read(study.name, run.name)) for run in study.runs]
    failures = [record for _, record in before if record and record.status == "failed"]
    open_runs = [run for run, record in before if record is None or (retry and record.status == "failed")]
    if open_runs:
        if check:
            check_inputs(open_runs)
        workers = make_executor(executor, max_workers, address=address, notebook=notebook, gpus=gpus)
        try:
            write_study(study, store)
            for record in failures if retry else ():
                clear_failure(study.name, record.name, store)
            schedule(study, store, workers, lambda line: log(plain(line)))
        finally:
            workers.close()
    for record in failures if not retry else ():
        log(plain(f"{record.name} failed before: {record.error}; --retry runs it again"))
    return records(study, store)


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


def clear_failure(study: str, name: str, store: RunStore) -> None:
    """Delete the run.json of a failed run, unless another process executes the run."""
    folder = store.folder(study, name)
    with lock(folder) as descriptor:
        record = store.read(study, name)
        if descriptor is not None and record is not None and record.status == "failed":
            (folder / "run.json").unlink()


def schedule(study: Study, store: RunStore, executor: Executor, log: Log) -> None:
    """Start and watch workers until every run of the study is done, failed or skipped."""
    sweep = _Sweep(study, store, executor, log)
    done = sum(sweep.settled.values())
    log(f"study {study.name}: {len(study.runs)} runs, {done} done, {executor.max_workers} at a time")
    try:
        while sweep.waiting() or sweep.active:
            sweep.collect()
            sweep.settle()
            sweep.start()
            time.sleep(TICK)
    finally:
        for _, worker, _ in sweep.active.values():
            worker.stop()
        for _, worker, _ in sweep.active.values():
            worker.wait()


class _Sweep:
    """State of `schedule`.

    settled: by the names of runs that need no more work, whether they are done. active: by slot, (run, worker, time of
    the start). Not graphlib: a run depends on at most one other, and may fail, or be executed by another sweep.
    """

    def __init__(self, study: Study, store: RunStore, executor: Executor, log: Log):
        self.study, self.store, self.executor, self.log = study, store, executor, log
        records = [store.read(study.name, run.name) for run in study.runs]
        self.settled = {record.name: record.status == "done" for record in records if record}
        self.open_at_first = len(study.runs) - len(self.settled)
        self.num_siblings = Counter(run.depends_on for run in study.runs)
        self.active: dict[int, tuple[PlannedRun, Worker, float]] = {}
        self.seconds: dict[str, float] = {}  # of the workers of runs, by name
        self.kills, self.looks = Counter(), Counter()
        self.foreign_since: dict[str, float] = {}

    def waiting(self) -> list[PlannedRun]:
        """The runs that are neither settled nor active."""
        busy = {run.name for run, *_ in self.active.values()} | set(self.settled)
        return [run for run in self.study.runs if run.name not in busy]

    def collect(self) -> None:
        """Take the workers that have exited off the list."""
        for slot, (run, worker, began) in list(self.active.items()):
            code = worker.poll()
            if code is not None:
                del self.active[slot]
                self.seconds[run.name] = time.time() - began
                if code != LOCKED and self.store.read(self.study.name, run.name) is None:
                    self.handle_exit(run, code)

    def handle_exit(self, run: PlannedRun, code: int) -> None:
        """Handle a worker that exited and left no record: look again, let the run be started again, or let it fail."""
        folder = self.store.folder(self.study.name, run.name)
        error = _last_line(folder / "log.txt") or f"the worker ended with exit code {code} and no message"
        if code == FINISHED and self.looks[run.name] < MAX_LOOKS:
            self.looks[run.name] += 1
            time.sleep(LOOK_AGAIN_AFTER)
            return
        if code == KILLED or code < 0:
            self.kills[run.name] += 1
            error = f"killed {MAX_KILLS} times; out of memory?"
            if self.kills[run.name] < MAX_KILLS:
                self.log(f"{run.name} was killed; it goes on from its last checkpoint")
                return
        with lock(folder) as descriptor:
            if descriptor is not None and self.store.read(self.study.name, run.name) is None:
                Run(folder, run.name, run.config).fail(error)

    def settle(self) -> None:
        """Report runs that have a record now, by whichever sweep, and skip those that depend on a failed run."""
        for run in self.waiting():
            record = self.store.read(self.study.name, run.name)
            if record is not None:
                self.settled[run.name] = record.status == "done"
                self.report(record)
            elif self.settled.get(run.depends_on or "") is False:
                self.settled[run.name] = False
                self.log(f"skipped {run.name}: it starts from {run.depends_on}, which failed")

    def report(self, record: RunRecord) -> None:
        """Log how a run ended, and the time that is left."""
        seconds = self.seconds.setdefault(record.name, record.seconds)
        open_runs = len(self.study.runs) - len(self.settled)
        place = f"[{self.open_at_first - open_runs}/{self.open_at_first}] {record.name}"
        if record.status == "failed":
            file = self.store.folder(self.study.name, record.name) / "log.txt"
            self.log(f"{place}: FAILED after {seconds:.0f} s: {record.error}; see {file}")
            return
        done = [self.seconds[name] for name, is_done in self.settled.items() if is_done and name in self.seconds]
        left = time_left(done, open_runs, self.executor.max_workers)
        self.log(f"{place}: done in {seconds:.0f} s{f'; about {duration(left)} left' if left else ''}")

    def start(self) -> None:
        """Start the runs whose dependency is done, as many as there are workers."""
        for run in self.waiting():
            if run.depends_on is not None and not self.settled.get(run.depends_on):
                continue
            if len(self.active) == self.executor.max_workers:
                return
            folder = self.store.folder(self.study.name, run.name)
            owner = lock_owner(folder)
            if owner is not None:
                since = self.foreign_since.setdefault(run.name, time.time())
                if time.time() - since > LOG_FOREIGN_RUN_AFTER:
                    self.foreign_since[run.name] = float("inf")  # once
                    self.log(f"waiting for {run.name}: {owner} runs it")
                continue
            slot = min(set(range(self.executor.max_workers)) - set(self.active))
            prepare(folder, run.config)
            worker = self.executor.start(folder, slot, self.num_siblings[run.depends_on])
            self.active[slot] = (run, worker, time.time())


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() if file.exists() else []
    return one_line(lines[-1]) if lines else ""


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
    store, now = store or RunStore(), []
    for run in study.runs:
        folder = store.folder(study.name, run.name)
        record, owner, share = store.read(study.name, run.name), lock_owner(folder), _share(run.config, folder)
        if record is not None:
            share = 1.0 if record.status == "done" else share
            now.append(RunState(run, record.status, record.error, share, record.seconds))
        elif owner is not None:
            now.append(RunState(run, "running", str(owner), share, max(0.0, time.time() - owner.began)))
        else:
            now.append(RunState(run, "waiting", "", share, 0.0))
    return now


def _share(config: RunConfig, folder: Path) -> float:
    """Share of the training steps, by the last line of training.jsonl."""
    try:
        last = json.loads((folder / "training.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return min(1.0, last["step"] / config.max_steps if config.max_steps > 0 else last["epoch"] / config.epochs)


def time_left(seconds: Sequence[float], open_runs: int, max_workers: int) -> float | None:
    """equals: mean(seconds) * open_runs / max_workers, where finished runs took `seconds`; None without any."""
    return fmean(seconds) * open_runs / max_workers if seconds and open_runs else None


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
    summary = [f"{counts[name]} {name}" for name in ("done", "running", "failed", "waiting") if counts[name]]
    return f"{aligned(rows)}\n\n{', '.join(summary)}{_estimate(now, max(1, counts['running']))}"


def plan_table(study: Study, max_workers: int, store: RunStore | None = None) -> str:
    """The study's runs as a plain-text table, with the settings of each that are unusual, and the time left."""
    settings = [run.config.canonical() for run in study.runs]
    counts = Counter(item for values in settings for item in values.items())
    usual = {*RunConfig.check({}).model_dump().items(), *(item for item in counts if counts[item] > len(settings) / 2)}
    rows, now = [("run", "role", "status", "")], states(study, store)
    for state, values in zip(now, settings, strict=True):
        special = [f"{name} {value}" for name, value in values.items() if (name, value) not in usual]
        special = [text for text in special if not text.startswith(("model", "reader"))]
        rows.append((state.run.name, state.run.role, state.status, ", ".join(special)))
    return f"{aligned(rows)}\n\n{len(now)} runs, {max_workers} at a time{_estimate(now, max_workers)}"


def _estimate(now: Sequence[RunState], max_workers: int) -> str:
    seconds = [state.seconds for state in now if state.status == "done"]
    left = time_left(seconds, sum(state.status in ("running", "waiting") for state in now), max_workers)
    return "" if left is None else f"; about {duration(left)} left"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A plain-text table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in [rows[0], ["-" * width for width in widths], *rows[1:]]:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)
