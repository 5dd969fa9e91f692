"""Plotly figures of what happens in training: the search for a coefficient."""

import plotly.graph_objects as go

from mixkit.metrics.definitions import METRICS
from mixkit.notebook.charts import HUMAN_LINE
from mixkit.studies.tune import Tuning


def search(tuning: Tuning) -> go.Figure:
    """The search of `tune`: EntCE of each run with its interval against the coefficient, numbered in its order."""
    table, coefficient = tuning.table, tuning.table.columns[0]
    x = table[coefficient].replace(0, 1e-5)  # TaiLr's MLE has gamma 0, which a log axis cannot show
    error = {"symmetric": False, "array": table["high"] - table["value"], "arrayminus": table["value"] - table["low"]}
    marks = {"mode": "markers+text", "text": ["MLE", *map(str, range(1, len(table)))], "textposition": "top center"}
    figure = go.Figure(go.Scatter(x=x, y=table["value"], error_y=error, marker_size=10, **marks))
    figure.add_hline(0, line=HUMAN_LINE, annotation={"text": "as sharp as people"}, annotation_position="top left")
    titles = {"title": tuning.conclusion, "xaxis_title": coefficient}
    return figure.update_layout(height=420, xaxis_type="log", yaxis_title=METRICS["entropy_calibration"].axis, **titles)
