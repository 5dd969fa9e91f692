"""Find the coefficient at which a model writes as sharply as people do: entropy calibration (EntCE) is 0 there."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mixkit._common import InputError, unknown
from mixkit.studies.plan import StudyFile, expand
from mixkit.studies.sweep import run_study

# Of each objective: the coefficient, its value for MLE, and the two ends of the search, the flat one first.
SEARCHED = {"mixce": ("eta", 1.0, 1.0, 1e-3), "tailr": ("gamma", 0.0, 1e-5, 1.0), "mle": ("temperature", 1.0, 1.0, 0.3)}


class Tuning(NamedTuple):
    """The search for one coefficient.

    table: one row per run in the order of the search, MLE first, with the columns <coefficient>, value, low and high
    (of EntCE, nats per token).
    """

    study: str  # its name
    best: float | None  # None if the search did not decide
    table: pd.DataFrame
    conclusion: str  # one sentence


def tune(
    file: str,
    objective: str = "mixce",
    *,
    overrides: Mapping[str, Any] | None = None,
    max_runs: int = 4,
    **options: Any,
) -> Tuning:
    """Search for the coefficient whose interval of EntCE contains 0, by at most `max_runs` runs after MLE's.

    file: a study file, whose parameters, base and first seed are used. objective: mixce (search by log eta), tailr (by
    log gamma), or mle (by log T of its model, which is not trained). Other coefficients are those of the file's grid.
    The first value is the geometric middle of the range. As soon as one run is flatter and one is sharper than people,
    the line through both gives the next value, between 10 and 90 % of the way. The runs are those of the study
    <file>-tune-<objective>: after an interruption the same call goes on, and finds the same answer. overrides: settings
    that replace the file's. options: of `run_study`. Raises InputError for an objective that cannot be searched, and if
    a run fails or its EntCE is absent.
    """
    if objective not in SEARCHED:
        raise unknown("objective to tune", objective, SEARCHED)
    coefficient, at_mle, flat_end, sharp_end = SEARCHED[objective]
    if fixed := {coefficient, "objective", "seed"} & set(overrides or {}):
        raise InputError(f"{min(fixed)} is searched or fixed by tune; leave it out of the settings that replace others")
    study_file, name = StudyFile.read(file), f"{Path(file).stem}-tune-{objective}"
    grid: list[dict[str, Any]] = [{"objective": "mle"}]
    decoding: list[dict[str, Any]] = []
    rows: list[tuple[float, float, float, float]] = []

    def measure(value: float) -> tuple[float, float, float, str]:
        """EntCE of the study's last run, whose coefficient is `value`, its interval, and all three as text."""
        entries = {"grid": grid, "decoding": decoding, "seeds": study_file.seeds[:1]}
        study = expand(study_file.model_copy(update=entries), overrides or {}, name)
        done = {record.name: record for record in run_study(study, **options)}
        if (record := done.get(study.runs[-1].name)) is None:
            raise InputError(f"run {study.runs[-1].name} has failed; see `python -m mixkit status {name}`")
        metric = record.metrics["entropy_calibration"]
        if metric.value is None or metric.low is None or metric.high is None:
            raise InputError(f"run {record.name} has no interval of entropy calibration: {metric.why}")
        entce = (metric.value, metric.low, metric.high)
        rows.append((value, *entce))
        return *entce, "{:+.3f} [{:+.3f}, {:+.3f}]".format(*entce)

    def result(best: float | None, conclusion: str) -> Tuning:
        table = pd.DataFrame(rows, columns=[coefficient, "value", "low", "high"])
        return Tuning(name, best, table, conclusion)

    mle, low, high, interval = measure(at_mle)
    if low <= 0:
        state = "already sharper than people" if high < 0 else "as sharp as people"
        return result(at_mle, f"MLE is {state}: EntCE {interval}. So {coefficient} is {at_mle:g}.")
    flat, sharp = (math.log(flat_end), mle), (math.log(sharp_end), None)
    for _ in range(max_runs):
        share = 0.5 if sharp[1] is None else min(0.9, max(0.1, flat[1] / (flat[1] - sharp[1])))
        value = float(f"{math.exp(flat[0] + share * (sharp[0] - flat[0])):.3g}")
        if objective == "mle":
            decoding.append({coefficient: value})
        else:
            entry = next((entry for entry in study_file.grid if entry.get("objective") == objective), {})
            grid.append({**entry, "objective": objective, coefficient: value})
        entce, low, high, interval = measure(value)
        if low <= 0 <= high:
            return result(value, f"{coefficient} = {value:g}: EntCE is {interval}, so 0 is in its interval.")
        if entce > 0:
            flat = (math.log(value), entce)
        else:
            sharp = (math.log(value), entce)
    ends = sorted(math.exp(end) for end, _ in (flat, sharp))
    between = f"the best {coefficient} is between {ends[0]:.3g} and {ends[1]:.3g}"
    return result(None, f"After {max_runs} runs no interval of EntCE contains 0: {between}.")
