"""Names and numbers as text, for charts and tables."""

from typing import Any

import pandas as pd

from mixkit.losses.definitions import parse_objective
from mixkit.metrics.definitions import definition
from mixkit.studies.records import HUMAN


def objective_label(objective: str) -> str:
    """The objective's name in charts and tables: "MixCE" of "mixce(0.1)"."""
    return "human texts" if objective == HUMAN else parse_objective(objective)[0].label


def number(estimate: Any) -> str:
    """An Estimate, a Metric or a row of the results frame as text: "0.912 [0.903, 0.921]"; "–" where it is absent."""
    if estimate is None or pd.isna(estimate.value):
        return "–"
    interval = "" if pd.isna(estimate.low) else f" [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"{estimate.value:.3g}{interval}"


def frame_rows(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples, with None in place of NaN."""
    return list(frame.astype(object).where(frame.notna(), None).itertuples(index=False))


def metric_label(metric: str) -> str:
    """The metric's label; its name if METRICS does not have it."""
    return definition(metric).label
