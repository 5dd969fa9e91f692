"""A study carried out: every run once, each after the one that it needs, by one sweep or by several side by side.
What is done is read from the run folders, never from a scheduler: a study that was cut off goes on where it was."""

import time
from collections import Counter
from collections.abc import Sequence

from mixkit._common import plain
from mixkit.studies import executors as engines
from mixkit.studies.plan import STUDIES, PlannedRun, Study, load_study, read_study, write_study
from mixkit.studies.progress import RunState, duration, measured, name_of, read, states, time_left
from mixkit.studies.run import ELSEWHERE, ENDED, KILLED, lock, lock_owner, one_line, prepare
from mixkit.studies.store import Run, RunStore

__all__ = ["STUDIES", "PlannedRun", "RunState", "Study", "load_study", "read_study", "records", "run_study", "states"]

TRIES = 3  # of a run whose worker or kernel is killed
LOOKS, LATE = 20, 5.0  # a network file system may hide a new file for a minute: how often to look, seconds apart
TICK = 0.1  # seconds between two looks at what has ended
SAID_AFTER = 3.0  # seconds that a run is somebody else's before that is worth a line


def run_study(
    study: Study,
    *,
    max_workers: int = 0,
    store: RunStore | None = None,
    say=print,
    retry: bool = False,
    engine: str = "local",
    address: str | None = None,
) -> list[dict[str, object]]:
    """Executes every run that has not ended yet, up to `slots` at a time; returns the records of those that are done.

    slots: 0 means one for each GPU (each run sees its own), or two without a GPU, the cores shared between them.
    A run that needs another waits for it, and is skipped where that one failed. A run that another sweep executes, here
    or on another machine of the file system, is waited for. One whose worker or kernel was killed is tried again from
    its last checkpoint, three times in all. retry: what failed before is executed again; else it is named.
    engine: `local`, or `ray` with the address of a cluster to join, or with none on a cluster of this machine alone.
    `say` gets one line an event. When it is interrupted its workers end, and the same call goes on where they were.
    Raises InputError for what can be told before the first run: an unknown engine, a missing corpus, model or reader.
    """
    store = store or RunStore()
    ended = {run.name: read(store, run) for run in study.runs}
    failed = [run for run in study.runs if ended[run.name] and ended[run.name]["status"] == "failed"]
    open_runs = [run for run in study.runs if ended[run.name] is None or (retry and run in failed)]
    if open_runs:
        check_inputs(open_runs)
        pool = engines.engine(engine, max_workers=max_workers, address=address)
        try:
            write_study(study, store)
            for run in failed if retry else ():
                clear_failure(run, store)
            schedule(study, store, pool, lambda line: say(plain(line)))
        finally:
            pool.close()
    if not retry:
        for run in failed:
            say(plain(f"{run.name} failed before: {ended[run.name]['error']}; --retry runs it again"))
    return records(study, store)


def schedule(study: Study, store: RunStore, pool: engines.Engine, say) -> None:
    """Until every run of the study is done, failed, or skipped."""
    settled = {run.name: record["status"] == "done" for run in study.runs if (record := read(store, run))}
    total, before = len(study.runs) - len(settled), len(settled)
    say(f"study {study.name}: {len(study.runs)} runs, {sum(settled.values())} done, {pool.max_workers} at a time")
    num_siblings = Counter(run.depends_on for run in study.runs)
    found, kills, took, theirs = measured(store), Counter(), {}, {}
    active: dict[int, tuple[PlannedRun, engines.Job, float]] = {}

    def settle(run: PlannedRun, record: dict[str, object]) -> None:
        settled[run.name] = record["status"] == "done"
        place, seconds = f"[{len(settled) - before}/{total}] {run.name}", took.get(run.name, record["seconds"])
        if settled[run.name]:
            found.append((run.parameters, seconds))
            elapsed = {r.name: time.time() - started for r, _, started in active.values()}
            left = time_left([r for r in study.runs if r.name not in settled], found, pool.max_workers, elapsed)
            say(f"{place}: done in {seconds:.0f} s{f'; about {duration(left)} left' if left else ''}")
        else:
            log = store.folder(study.name, run.name) / "log.txt"
            say(f"{place}: FAILED after {seconds:.0f} s: {record['error']}; see {log}")

    try:
        while len(settled) < len(study.runs):
            for slot, (run, job, started) in list(active.items()):
                if (code := job.ended()) is not None:
                    del active[slot]
                    took[run.name] = time.time() - started
                    if read(store, run) is None and code != ELSEWHERE:
                        handle_exit(run, code, store, kills, say)
            started_names = {run.name for run, *_ in active.values()}
            waiting = [run for run in study.runs if run.name not in settled and run.name not in started_names]
            for run in waiting:
                if (record := read(store, run)) is not None:
                    settle(run, record)
                elif settled.get(run.depends_on) is False:
                    settled[run.name] = False
                    say(f"skipped {run.name}: it starts from {run.depends_on}, which failed")
            ready = [
                run
                for run in waiting
                if run.name not in settled and settled.get(run.depends_on, run.depends_on is None)
            ]
            for run in ready:
                folder = store.folder(study.name, run.name)
                if len(active) == pool.max_workers:
                    break
                if (who := lock_owner(folder)) is not None:
                    first = theirs.setdefault(run.name, time.time())
                    if time.time() - first > SAID_AFTER:
                        theirs[run.name] = float("inf")
                        say(f"waiting for {run.name}: {name_of(who)} runs it")
                    continue
                slot = min(set(range(pool.max_workers)) - set(active))
                prepare(folder, run.parameters)
                active[slot] = (run, pool.start(folder, slot, num_siblings[run.depends_on]), time.time())
            time.sleep(TICK)
    finally:
        for end in (lambda job: job.stop(), lambda job: job.wait()):  # all are told first
            for _, job, _ in active.values():
                end(job)


def handle_exit(run: PlannedRun, code: int, store: RunStore, kills: Counter, say) -> None:
    """A run whose worker ended without a word: it is killed, to be tried again, or has failed."""
    folder = store.folder(run.parameters["study"], run.name)
    killed = code == KILLED or code < 0
    kills[run.name] += killed or code == ENDED
    if code == ENDED and kills[run.name] < LOOKS:  # its record is there, but this machine does not see it yet
        time.sleep(LATE)
        return
    if killed and kills[run.name] < TRIES:
        say(f"{run.name} was killed; it goes on from its last checkpoint")
        return
    error = f"killed {TRIES} times; out of memory?" if killed else _last_line(folder / "log.txt", code)
    with lock(folder) as descriptor:
        if descriptor is not None and read(store, run) is None:
            Run(folder, run.name, run.parameters).fail(error)


def _last_line(log, code: int) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else f"the worker ended with exit code {code} and no message"


def clear_failure(run: PlannedRun, store: RunStore) -> None:
    """Takes back that the run failed, unless somebody else is at it."""
    folder = store.folder(run.parameters["study"], run.name)
    with lock(folder) as descriptor:
        record = read(store, run)
        if descriptor is not None and record is not None and record["status"] == "failed":
            (folder / "run.json").unlink()


def check_inputs(runs: Sequence[PlannedRun]) -> None:
    """Reads each corpus and looks for each model and reader once, so that what is missing is said before the first
    run."""
    from mixkit.metrics.features import check_reader
    from mixkit.models.loading import check_model  # here, as it takes seconds to import
    from mixkit.texts.corpora import load_corpus

    for sizes in {run.parameters["corpus"]: run.parameters for run in reversed(runs)}.values():
        load_corpus(sizes["corpus"], **{split: sizes[f"{split}_texts"] for split in ("train", "validation", "test")})
    for model, study in {(run.parameters["model"], run.parameters["study"]) for run in runs if run.depends_on is None}:
        check_model(model, study=study)
    for reader, start in {(run.parameters["reader"], run.parameters["model"]) for run in runs}:
        check_reader(reader, start=start)


def records(study: Study, store: RunStore | None = None) -> list[dict[str, object]]:
    """The records of the study's finished runs in its own order, each with its `part` (base, grid, decoding)."""
    store = store or RunStore()
    found = [(read(store, run), run.role) for run in study.runs]
    return [{**record, "role": role} for record, role in found if record is not None and record["status"] == "done"]
