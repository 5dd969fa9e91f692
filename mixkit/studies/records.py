"""The finished runs of a study, as records and as one tidy DataFrame."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixkit.losses.definitions import OBJECTIVES
from mixkit.studies.plan import Study, read_study
from mixkit.studies.store import RunRecord, RunStore

if TYPE_CHECKING:
    import pandas as pd

HUMAN = "human"  # name, role and objective of the human texts' rows


def records(study: Study, store: RunStore | None = None) -> list[RunRecord]:
    """The records of the study's finished runs, in the study's order, each with its role."""
    store = store or RunStore()
    done = []
    for run in study.runs:
        record = store.read(study.name, run.name)
        if record is not None and record.status == "done":
            done.append(record.model_copy(update={"role": run.role}))
    return done


def results(study: str | Study, store: RunStore | None = None) -> "pd.DataFrame":
    """One row per run and metric of a study under runs/, the human texts included. See `results_frame`."""
    store = store or RunStore()
    return results_frame(records(read_study(study, store) if isinstance(study, str) else study, store))


def results_frame(done: Sequence[RunRecord]) -> "pd.DataFrame":
    """One row per run and metric; the human texts' rows come last, with "human" as run, role and objective.

    Columns: run (its name), role (base, grid, decoding), label, objective, coefficient (value of the objective's first
    coefficient, or NaN), seed, temperature, top_p, top_k, metric, value, low, high (NaN where absent), why (the reason
    why a number is absent), over (texts, sets or halvings).
    """
    import pandas as pd

    rows = []
    for record in done:
        config = record.config
        coefficients = OBJECTIVES[config.objective].coefficients
        facts = {
            "run": record.name,
            "role": record.role,
            "label": record.label,
            "objective": config.objective,
            "coefficient": getattr(config, coefficients[0].name) if coefficients else None,
            "seed": config.seed,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
        }
        rows += [facts | _numbers(name, metric) for name, metric in record.metrics.items()]
    facts = {"run": HUMAN, "role": HUMAN, "label": "human texts", "objective": HUMAN}
    human = next((record.human for record in done if record.human), {})
    rows += [facts | _numbers(name, metric) for name, metric in human.items()]
    columns = ["run", "role", "label", "objective", "coefficient", "seed", "temperature", "top_p", "top_k"]
    return pd.DataFrame(rows, columns=[*columns, "metric", "value", "low", "high", "why", "over"])


def _numbers(name: str, metric) -> dict[str, object]:
    return {"metric": name, **metric.model_dump(include={"value", "low", "high", "why", "over"})}
