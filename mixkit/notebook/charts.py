"""Plotly figures of a study's results and of training curves."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from textwrap import wrap
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from mixkit.losses.definitions import OBJECTIVES
from mixkit.metrics.definitions import METRICS, PARALLEL_METRICS, metric_names
from mixkit.studies.compare import decoding_curves, pareto_front
from mixkit.studies.plan import PlannedRun
from mixkit.studies.records import HUMAN

# Only what our figures use of plotly_white: the whole would be most of a small figure, and is copied at each redraw.
WHITE: Any = pio.templates["plotly_white"].to_plotly_json()  # pyright: ignore[reportIndexIssue]
pio.templates["mixkit"] = go.layout.Template(
    layout={key: WHITE["layout"][key] for key in ("hovermode", "paper_bgcolor", "plot_bgcolor", "xaxis", "yaxis")}
    | {
        "margin": {"l": 70, "r": 20, "t": 70, "b": 60},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        "font": WHITE["layout"]["font"] | {"family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"align": "left"},
    },
    data={key: WHITE["data"][key] for key in ("bar", "heatmap")},
)
pio.templates.default = "mixkit"

# The palette of Okabe and Ito: colour-blind readers can tell the colours apart. Without colour the symbols do.
LOOKS = {
    "mle": ("#0072B2", "circle"),
    "mixce": ("#D55E00", "square"),
    "tailr": ("#009E73", "triangle-up"),
    "sequencematch": ("#CC79A7", "diamond"),
    "mle-backspace": ("#56B4E9", "circle-x"),
    "human": ("#000000", "star"),
}
COLORS = {objective: color for objective, (color, _) in LOOKS.items()}
SYMBOLS = {objective: symbol for objective, (_, symbol) in LOOKS.items()}
RING = {"size": 21, "symbol": "circle-open", "color": "#999999", "line": {"width": 1.5}}
DECODING_LINES = {"temperature": ("temperature", "dot"), "top_p": ("top-p", "dashdot")}  # label and dash of the curve
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MAX_POINTS = 60  # of a training curve; more points show only noise
LETTER, LINE, MARKER = 6.5, 14, 9  # pixels: width of a letter and height of a line of label text, half a marker
SIDES = {"top right": (1, 1), "top left": (-1, 1), "bottom right": (1, -1), "bottom left": (-1, -1)}


def number(estimate: Any, digits: int = 3) -> str:
    """An Estimate, a Metric or a row of the results frame as text: "0.912 [0.903, 0.921]"; "–" where it is absent."""
    if estimate is None or pd.isna(estimate.value):
        return "–"
    interval = "" if pd.isna(estimate.low) else f" [{estimate.low:.{digits}g}, {estimate.high:.{digits}g}]"
    return f"{estimate.value:.{digits}g}{interval}"


def frame_rows(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples, with None in place of NaN."""
    return list(frame.astype(object).where(frame.notna(), None).itertuples(index=False))


def axis_title(metric: str) -> str:
    """The metric's axis title; its name if METRICS does not have it."""
    return METRICS[metric].axis if metric in METRICS else metric


def measured_metrics(frame: pd.DataFrame, kind: Literal["quality", "diversity", ""] = "") -> list[str]:
    """The metrics that some trained run has a value of. kind: only those of that axis of the trade-off."""
    measured = frame.loc[frame["role"].isin(["grid", "decoding"]) & frame["value"].notna()]
    present = set(measured["metric"])
    names = metric_names(kind) if kind else sorted(present)
    return [name for name in names if name in present]


def default_axes(frame: pd.DataFrame) -> tuple[str, str]:
    """(quality, diversity): the first metric of each kind that some trained run has a value of."""
    quality, diversity = ([*measured_metrics(frame, kind), *metric_names(kind)][0] for kind in ("quality", "diversity"))
    return quality, diversity


def frontier(frame: pd.DataFrame, quality: str = "mauve", diversity: str = "diversity") -> go.Figure:
    """Quality against diversity: one point per trained run, with the intervals of both metrics.

    Lines: MLE with only its temperature (dotted) or its top-p (dash-dotted) changed. Rings: the Pareto front. Star and
    dashed lines: the human texts. Gray band: human texts against human texts. A point's customdata is its run's name.
    frame: results(study). quality, diversity: any two metrics.
    """
    used = frame.loc[frame["metric"].isin([quality, diversity, "perplexity"]) & frame["value"].notna()]
    rows = {(row.run, row.metric): row for row in frame_rows(used)}  # plain rows: pandas would be slow from here on
    points = {}
    for run in frame["run"].unique():
        if (run, diversity) in rows and (run, quality) in rows:
            points[run] = Point(rows[run, diversity], rows[run, quality], rows.get((run, "perplexity")))
    curves: list[dict[str, Any]] = []
    for parameter, _, names in decoding_curves(frame):
        label, dash = DECODING_LINES[parameter]
        line = {"color": COLORS["mle"], "width": 1.5, "dash": dash}
        is_first = all(curve["legendgroup"] != parameter for curve in curves)
        legend = {"name": f"MLE, only its {label} changed", "legendgroup": parameter, "showlegend": is_first}
        places = _xy([points[name] for name in names if name in points])
        curves.append({**places, "mode": "lines", "line": line, **legend, "hoverinfo": "skip"})
    best = _xy([points[name] for name in pareto_front(frame, quality, diversity)])
    legend = {"name": "no run is better on both axes", "hoverinfo": "skip"}
    rings = [{**best, "mode": "markers", "marker": RING, **legend}] if best["x"] else []
    star = [_markers([points[HUMAN]], "human texts", {HUMAN: "top right"})] if HUMAN in points else []
    trained = [point for point in points.values() if point.x.role in ("grid", "decoding")]
    sides = _label_sides(trained, [*curves, *star])
    groups = []
    for role, objective in [("decoding", "mle"), *(("grid", objective) for objective in OBJECTIVES)]:
        group = [point for point in trained if point.x.role == role and point.x.objective == objective]
        name = OBJECTIVES[objective].label if role == "grid" else "MLE, other decoding"
        if group:
            groups.append(_markers(group, name, sides, hollow=role == "decoding"))
    layout = _human_lines(rows.get((HUMAN, quality)), rows.get((HUMAN, diversity)))
    layout |= {"xaxis": {"title": axis_title(diversity)}, "yaxis": {"title": axis_title(quality)}}
    # The margin has room for three rows of legend. A legend that moves the margin covers the plot after a resize.
    layout |= {"height": 590, "margin": {"t": 100}}
    # All dicts in one call: add_trace and update_layout would take most of the time.
    return go.Figure(data=[*curves, *rings, *groups, *star], layout=layout)


def against_coefficient(frame: pd.DataFrame, metric: str) -> go.Figure:
    """A metric against the coefficient of each objective, such as MixCE's eta. Dotted lines: MLE.

    Each seed has its own curve. frame: results(study).
    """
    rows = frame.loc[(frame["metric"] == metric) & (frame["role"] == "grid") & frame["value"].notna()]
    curves = []
    for objective, definition in OBJECTIVES.items():
        runs = rows.loc[(rows["objective"] == objective) & rows["coefficient"].notna()].sort_values("coefficient")
        for i, (_, group) in enumerate(runs.groupby("seed")):
            curves.append(
                {
                    "x": [_coefficient_text(objective, value) for value in group["coefficient"]],
                    "y": group["value"].tolist(),
                    "error_y": _error_bars(frame_rows(group), COLORS[objective]),
                    "mode": "lines+markers",
                    "marker": {"symbol": SYMBOLS[objective], "size": 11},
                    "line": {"color": COLORS[objective], "width": 1},
                    "name": f"{definition.label} by {definition.coefficients[0].symbol}",
                    "legendgroup": objective,
                    "showlegend": i == 0,
                    "customdata": group["run"].tolist(),
                    "hovertext": [f"{row.label}<br>{number(row)}" for row in frame_rows(group)],
                    "hoverinfo": "text",
                }
            )
    mle = rows.loc[rows["objective"] == "mle"].sort_values("seed").drop_duplicates("seed")["value"].tolist()
    across = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "line": {"color": COLORS["mle"], "dash": "dot"}}
    note = {"text": "MLE", "x": 1, "xref": "x domain", "xanchor": "right", "yanchor": "bottom", "showarrow": False}
    layout = {
        "height": 380,
        "shapes": [{**across, "y0": value, "y1": value} for value in mle],
        "annotations": [{**note, "y": value} for value in mle[:1]],
        "yaxis": {"title": "<br>".join(wrap(axis_title(metric), 32))},
    }
    return go.Figure(data=curves, layout=layout)


def parallel_coordinates(frame: pd.DataFrame, metrics: Sequence[str] = PARALLEL_METRICS) -> go.Figure:
    """One line per trained run through its value on each axis, in its objective's colour.

    A metric that some run lacks has no axis. frame: results(study).
    """
    trained = frame.loc[frame["role"].isin(["grid", "decoding"])]
    runs = trained.drop_duplicates("run").set_index("run")
    values = trained.pivot(index="run", columns="metric", values="value").reindex(columns=list(metrics))
    values = values.dropna(axis="columns").loc[runs.index]
    names = list(OBJECTIVES)
    scale = [(i / (len(names) - 1), COLORS[name]) for i, name in enumerate(names)]
    colors = [names.index(objective) for objective in runs["objective"]]
    line = {"color": colors, "colorscale": scale, "cmin": 0, "cmax": len(names) - 1}
    axes = [{"label": METRICS[name].label, "values": values[name].tolist()} for name in values]
    lines = {"type": "parcoords", "line": line, "dimensions": axes, "labelfont": {"size": 13}}
    layout = {"height": 420, "margin": {"l": 60, "r": 60, "t": 60, "b": 40}}
    return go.Figure(data=[lines] if len(runs) else [], layout=layout)


def training_curve(history: Sequence[Mapping[str, float]]) -> go.Figure:
    """Training nll and objective by step, and the validation nll at each evaluation, in nats per token.

    history: the lines of training.jsonl.
    """
    curves = []
    for key, name, mode, color in (
        ("loss", "objective (training)", "lines", "#999999"),
        ("nll", "nll (training)", "lines", "#56B4E9"),
        ("validation_nll", "nll (validation)", "lines+markers", "#D55E00"),
    ):
        lines = [line for line in history if key in line]
        if lines:
            points = {"x": [line["step"] for line in lines], "y": [line[key] for line in lines]}
            curves.append({**points, "mode": mode, "name": name, "line": {"color": color}})
    axes = {"xaxis": {"title": "optimizer step"}, "yaxis": {"title": "nats per token"}}
    return go.Figure(data=curves, layout={"height": 380, **axes})


def training_curves(
    runs: Sequence[PlannedRun], histories: Mapping[str, Sequence[Mapping[str, float]]], key: str = "nll"
) -> go.Figure:
    """The training curves of several runs, in the colours of their objectives.

    The base run is left out as soon as another run has a line. Neighbouring steps are averaged to MAX_POINTS points.
    histories: by run name, the lines of its training.jsonl so far. key: "nll", or "loss" for the objective itself.
    """
    started = [run for run in runs if any(key in line for line in histories.get(run.name, ()))]
    curves = []
    for run in [run for run in started if run.role != "base"] or started:
        objective = run.config.objective
        coefficients = OBJECTIVES[objective].coefficients
        value = getattr(run.config, coefficients[0].name) if coefficients else None
        lines = [line for line in histories[run.name] if key in line]
        size = -(-len(lines) // MAX_POINTS)
        bins = [lines[i : i + size] for i in range(0, len(lines), size)]
        count = sum(curve["legendgroup"] == objective for curve in curves)
        curves.append(
            {
                "x": [fmean(line["step"] for line in lines) for lines in bins],
                "y": [fmean(line[key] for line in lines) for lines in bins],
                "mode": "lines+text",
                "text": [*[""] * (len(bins) - 1), f" {_coefficient_text(objective, value)}"],
                "textposition": "middle right",
                "textfont": {"size": 11, "color": COLORS[objective]},
                "cliponaxis": False,
                "line": {"color": COLORS[objective], "width": 1.8, "dash": DASHES[count % len(DASHES)]},
                "name": OBJECTIVES[objective].label,
                "legendgroup": objective,
                "showlegend": not count,
                "hovertemplate": f"{run.config.label(run.role)}<br>step %{{x:.0f}}: %{{y:.3f}}<extra></extra>",
            }
        )
    title = "nll in training, nats per token" if key == "nll" else "objective in training, nats per token"
    axes = {"xaxis": {"title": "optimizer step"}, "yaxis": {"title": title}}
    return go.Figure(data=curves, layout={"height": 380, "margin": {"r": 70}, "uirevision": "training", **axes})


class Point(NamedTuple):
    """A run of the frontier chart: its rows of the results frame for both axes and for perplexity."""

    x: Any
    y: Any
    perplexity: Any

    @property
    def hover(self) -> str:
        """The run's label and numbers."""
        numbers = {row.metric: number(row) for row in (self.y, self.x, self.perplexity) if row is not None}
        return "<br>".join([f"<b>{self.x.label}</b>", *(f"{metric} {text}" for metric, text in numbers.items())])

    @property
    def text(self) -> str:
        """The few letters beside the point: "η=0.1", "MLE", "T=0.7"."""
        if self.x.role == "decoding":
            return self.x.label.split(", ", 1)[-1].replace("temperature ", "T=")
        return "" if self.x.role == HUMAN else _coefficient_text(self.x.objective, self.x.coefficient)


def _xy(points: Sequence[Point]) -> dict[str, list[float]]:
    return {"x": [point.x.value for point in points], "y": [point.y.value for point in points]}


def _markers(points: Sequence[Point], name: str, sides: Mapping[str, str], *, hollow: bool = False) -> dict[str, Any]:
    """The trace of runs with the same objective. sides: of `_label_sides`."""
    objective = points[0].x.objective
    color = COLORS[objective]
    marker = {"color": "white", "size": 9} if hollow else {"color": color, "size": 15 if objective == HUMAN else 12}
    return {
        **_xy(points),
        "error_x": _error_bars([point.x for point in points], color),
        "error_y": _error_bars([point.y for point in points], color),
        "mode": "markers+text",
        "text": [point.text for point in points],
        "textposition": [sides[point.x.run] for point in points],
        "textfont": {"size": 11, "color": color},
        "marker": {**marker, "symbol": SYMBOLS[objective], "line": {"color": color, "width": 1.5}},
        "name": name,
        "customdata": [point.x.run for point in points],
        "hovertext": [point.hover for point in points],
        "hoverinfo": "text",
    }


def _coefficient_text(objective: str, value: float | None) -> str:
    """The objective's first coefficient, such as "η=0.1"; the objective's label if it has none."""
    definition = OBJECTIVES[objective]
    return f"{definition.coefficients[0].symbol}={value:g}" if definition.coefficients else definition.label


def _interval(row: Any) -> tuple[float, float]:
    """(low, high) of a row of the results frame; the value itself where there is no interval."""
    return (row.value, row.value) if pd.isna(row.low) else (row.low, row.high)


def _error_bars(rows: Sequence[Any], color: str) -> dict[str, Any]:
    """The intervals. They state their colour, because a hollow marker's own colour is white."""
    above = [_interval(row)[1] - row.value for row in rows]
    below = [row.value - _interval(row)[0] for row in rows]
    ends = {"symmetric": False, "array": above, "arrayminus": below}
    return {"type": "data", **ends, "color": color, "thickness": 1, "width": 3}


def _label_sides(points: Sequence[Point], others: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By run, the textposition where its label covers the fewest obstacles.

    Obstacles are samples of the intervals, of the other traces and of the labels placed before.
    """
    segments = []
    for x, y, _ in points:
        segments += [(end, y.value) for end in _interval(x)], [(x.value, end) for end in _interval(y)]
    for trace in others:
        places = list(zip(trace["x"], trace["y"], strict=True))
        segments += pairwise([*places[:1], *places])
    ends = np.reshape(segments or [[(0.0, 0.0), (0.0, 0.0)]], (-1, 2, 2))
    scale = (1000, 430) / np.maximum(np.ptp(ends, axis=(0, 1)), 1e-9)  # about the size of the plot in pixels
    obstacles = np.linspace(ends[:, 0], ends[:, 1], 21).reshape(-1, 2) * scale
    sides: dict[str, str] = {}
    for point in points:
        half = np.array([LETTER * len(point.text) / 2, LINE / 2])
        center = np.array([point.x.value, point.y.value]) * scale
        boxes = {side: center + (half + MARKER) * where for side, where in SIDES.items()}
        covered = {side: (np.abs(obstacles - box) < half).all(1).sum() for side, box in boxes.items()}
        side = sides[point.x.run] = min(SIDES, key=covered.__getitem__)
        letters = boxes[side] + np.linspace(-half, half, 21) * (1, 0)
        obstacles = np.concatenate([obstacles, letters])
    return sides


def _human_lines(quality: Any, diversity: Any) -> dict[str, Any]:
    """A layout with the human texts' lines and the human-against-human band. quality, diversity: rows, or None."""
    shapes, notes = [], []
    across = {"xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    dashed = {"type": "line", "line": {"color": "#666666", "width": 1, "dash": "dash"}}
    note = {"xanchor": "left", "showarrow": False}
    if quality is not None:
        against_humans = quality.over == "halvings"
        if against_humans and not pd.isna(quality.low):
            band = {"type": "rect", "fillcolor": "#666666", "opacity": 0.1, "line": {"width": 0}}
            shapes.append({**band, **across, "y0": quality.low, "y1": quality.high})
        shapes.append({**dashed, **across, "y0": quality.value, "y1": quality.value})
        text = "human against human" if against_humans else "human texts"
        notes.append({**note, "text": text, "x": 0, "xref": "x domain", "y": quality.value, "yanchor": "top"})
    if diversity is not None:
        up = {"yref": "y domain", "y0": 0, "y1": 1, "xref": "x"}
        shapes.append({**dashed, **up, "x0": diversity.value, "x1": diversity.value})
        notes.append({**note, "text": "human", "x": diversity.value, "y": 0, "yref": "y domain", "yanchor": "bottom"})
    return {"shapes": shapes, "annotations": notes}
