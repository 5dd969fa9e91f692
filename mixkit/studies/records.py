"""The finished runs of a study, as records and as one tidy DataFrame."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixkit.studies.plan import Study, read_study
from mixkit.studies.store import RunRecord, RunStore

if TYPE_CHECKING:
    import pandas as pd

HUMAN = "human"  # name, role and objective of the human texts' rows
COLUMNS = (
    *("run", "role", "label", "objective", "coefficient", "seed", "temperature", "top_p", "top_k"),
    *("decode_as", "decode_coefficient"),
    *("metric", "value", "low", "high", "why", "over"),
)


def records(study: Study, store: RunStore | None = None) -> list[RunRecord]:
    """The records of the study's finished runs, in the study's order, each with its role. See RunStore.for_reading."""
    store = (store or RunStore()).for_reading(study.name)
    read = [(store.read(study.name, run.name), run.role) for run in study.runs]
    return [record.model_copy(update={"role": role}) for record, role in read if record and record.status == "done"]


def results(study: str | Study, store: RunStore | None = None) -> "pd.DataFrame":
    """One row per run and metric of a study under runs/, the human texts included. See `results_frame`."""
    return results_frame(records(read_study(study, store) if isinstance(study, str) else study, store))


def results_frame(done: Sequence[RunRecord]) -> "pd.DataFrame":
    """One row per run and metric; the human texts' rows come last, with "human" as run, role and objective.

    COLUMNS: run (its name), role (base, grid, decoding), label, objective, coefficient (value of the objective's first
    coefficient, or NaN), seed, temperature, top_p, top_k, decode_as (an objective or ""), decode_coefficient (its first
    coefficient, or NaN), metric, value, low, high (NaN where absent), why (the reason why a number is absent), over
    (texts, sets or halvings).
    """
    import pandas as pd

    rows = []
    for record in done:
        facts = {"run": record.name, "role": record.role, "label": record.label, **record.config.model_dump()}
        facts["coefficient"] = next(iter(record.config.coefficients().values()), None)
        facts["decode_coefficient"] = next(iter(record.config.decode_coefficients().values()), None)
        rows += [{**facts, "metric": name, **dict(metric)} for name, metric in record.metrics.items()]
    facts = {"run": HUMAN, "role": HUMAN, "label": "human texts", "objective": HUMAN}
    human = next((record.human for record in done if record.human), {})
    rows += [{**facts, "metric": name, **dict(metric)} for name, metric in human.items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))
