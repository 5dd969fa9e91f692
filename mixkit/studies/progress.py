"""How a study stands and how long it will take: read from run folders, of this study and of others.
Nothing is run or changed here, and nothing that takes long to import is needed."""

import heapq
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from mixkit._common import plain
from mixkit.studies.config import COEFFICIENTS, FINETUNE
from mixkit.studies.plan import PlannedRun, Study, lineage
from mixkit.studies.run import lock_owner
from mixkit.studies.store import RunStore

COST = (  # the parameters that say how long a run takes, beside its model and its objective
    *("corpus", "train_texts", "validation_texts", "test_texts", "epochs", "max_steps", "batch_size", "accumulation"),
    *("max_tokens", "evaluations", "prompts", "prompt_tokens", "max_new_tokens", "sample_sets"),
)


@dataclass(frozen=True)
class RunState:
    """How a run stands. status: done, running, failed or waiting. detail: the error's line, or "host, process 123".

    share: of the training steps, 0 to 1. seconds: that it took, or since it was claimed.
    """

    run: PlannedRun
    status: str
    detail: str
    share: float
    seconds: float


def states(study: Study, store: RunStore | None = None) -> list[RunState]:
    """How each of the study's runs stands, in the study's order."""
    store = store or RunStore()
    return [_state(run, store) for run in study.runs]


def _state(run: PlannedRun, store: RunStore) -> RunState:
    folder, record = store.folder(run.parameters["study"], run.name), read(store, run)
    if record is not None:
        share = 1.0 if record["status"] == "done" else _share(run, folder)
        return RunState(run, record["status"], record.get("error", ""), share, record["seconds"])
    if (who := lock_owner(folder)) is not None:
        return RunState(run, "running", name_of(who), _share(run, folder), max(0.0, time.time() - who["began"]))
    return RunState(run, "waiting", "", _share(run, folder), 0.0)


def read(store: RunStore, run: PlannedRun) -> dict[str, object] | None:
    """The record of a run that has ended, done or failed; None of one that has not."""
    return store.read(run.parameters["study"], run.name)


def name_of(who: Mapping[str, object]) -> str:
    return f"{who['host']}, process {who['process']}"


def _share(run: PlannedRun, folder: Path) -> float:
    """Of the training steps, by the last line of training.jsonl."""
    try:
        last = json.loads((folder / "training.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return 0.0
    asked = run.parameters
    return min(1.0, last["step"] / asked["max_steps"] if asked["max_steps"] > 0 else last["epoch"] / asked["epochs"])


def measured(store: RunStore) -> list[tuple[dict[str, object], float]]:
    """(parameters, seconds) of every finished run of every study."""
    paths = store.root.glob("*/*/run.json")
    found = [store.read(path.parents[1].name, path.parent.name) for path in paths]
    done = [record for record in found if record is not None and record["status"] == "done"]
    return [(r["parameters"], r["seconds"]) for r in done if {*COST, "model", "study"} <= r["parameters"].keys()]


def time_left(
    runs: Sequence[PlannedRun],
    found: Sequence[tuple[dict[str, object], float]],
    max_workers: int,
    elapsed=None,
    store: RunStore | None = None,
) -> float | None:
    """Seconds until all of the runs have ended, `slots` at a time, each after the one that it needs.

    A run takes the mean of those in `found` of equal sizes, model and objective; else of equal sizes and model; else
    what the others take on average. None where nothing was measured. Models are equal that descend from the same one.
    elapsed: seconds, by name, of runs under way. store: where the records lie that tell what a model descends from.
    """
    costs, known_costs = _costs(runs, found, store)
    timed = [(cost, asked["objective"], seconds) for cost, (asked, seconds) in zip(known_costs, found, strict=True)]
    expected = {run.name: _expected(run, cost, timed) for run, cost in zip(runs, costs, strict=True)}
    known = [seconds for seconds in expected.values() if seconds is not None]
    if not known:
        return None
    free, ends = [0.0] * max_workers, {}
    for run in runs:
        seconds = fmean(known) if expected[run.name] is None else expected[run.name]
        start = max(free[0], ends.get(run.depends_on, 0.0))
        ends[run.name] = start + max(0.0, seconds - (elapsed or {}).get(run.name, 0.0))
        heapq.heapreplace(free, ends[run.name])
    return max(ends.values())


def _expected(run: PlannedRun, cost: tuple, timed: Sequence[tuple[tuple, str, float]]) -> float | None:
    alike = [(objective, seconds) for other, objective, seconds in timed if other == cost]
    same = [seconds for objective, seconds in alike if objective == run.parameters["objective"]]
    return fmean(same or [seconds for _, seconds in alike]) if alike else None


def _costs(
    runs: Sequence[PlannedRun], found: Sequence[tuple[dict[str, object], float]], store: RunStore | None
) -> tuple[list[tuple], list[tuple]]:
    """Of the runs and of `found`, what says how long they take: the model that theirs descends from, and COST."""

    @cache
    def origin(model: str, study: str) -> str:
        return lineage(model, study, store, runs)[-1]

    def cost(asked: Mapping[str, object]) -> tuple:
        return origin(asked["model"], asked["study"]), *(asked[name] for name in COST)

    return [cost(run.parameters) for run in runs], [cost(asked) for asked, _ in found]


def duration(seconds: float) -> str:
    """In the unit that suits: 40 s, 12 min, 3.2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status_lines(study: Study, store: RunStore | None = None) -> list[str]:
    """A table of the study's runs, and the time that is left."""
    store = store or RunStore()
    now = states(study, store)
    rows = [("run", "status", "steps", "time", "")]
    for state in now:
        steps = f"{100 * state.share:.0f} %" if state.run.parameters["epochs"] else "–"
        rows.append((state.run.name, state.status, steps, duration(state.seconds), plain(state.detail)))
    counts = Counter(state.status for state in now)
    left = [state.run for state in now if state.status in ("running", "waiting")]
    told = ", ".join(f"{counts[s]} {s}" for s in ("done", "running", "failed", "waiting") if counts[s])
    if left:
        elapsed = {state.run.name: state.seconds for state in now if state.status == "running"}
        told += f"; {_estimate(left, store, max(1, counts['running']), elapsed)}"
    return [*aligned(rows), "", told]


def plan_lines(study: Study, max_workers: int, store: RunStore | None = None) -> list[str]:
    """The study's runs, what is peculiar to each, and the time that they will take."""
    store = store or RunStore()
    varied = [name for name in FINETUNE if name not in ("study", "name", "model", "reader", "keep_model")]
    usual = {name: Counter(run.parameters[name] for run in study.runs).most_common(1)[0][0] for name in varied}
    rows = [("run", "role", "status", "")]
    for state in states(study, store):
        asked = state.run.parameters
        foreign = {c for names in COEFFICIENTS.values() for c in names} - set(COEFFICIENTS[asked["objective"]])
        told = [n for n in varied if n == "objective" or (asked[n] != usual[n] and n not in foreign)]
        rows.append((state.run.name, state.run.role, state.status, ", ".join(f"{n} {asked[n]}" for n in told)))
    left = [state.run for state in states(study, store) if state.status != "done"]
    estimate = _estimate(left, store, max_workers) if left else "nothing is left to do"
    return [*aligned(rows), "", f"{len(study.runs)} runs, {max_workers} at a time: {estimate}"]


def _estimate(runs: Sequence[PlannedRun], store: RunStore, max_workers: int, elapsed=None) -> str:
    found = measured(store)
    left = time_left(runs, found, max_workers, elapsed, store)
    if left is None:
        return "how long they take is not known: no run of these sizes has been measured yet"
    costs, known = _costs(runs, found, store)
    alike = sum(cost in costs for cost in known)
    return f"about {duration(left)} left, by {alike} finished run{'s' * (alike != 1)} of the same sizes and model"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines of plain text whose columns begin below each other; the first is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
