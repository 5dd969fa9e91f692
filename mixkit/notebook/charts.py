"""Plotly figures of a study's results and of training curves."""

from collections.abc import Mapping, Sequence
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

# A small template: plotly_white would be most of a small figure, and is copied at each redraw.
AXIS = {"automargin": True, "gridcolor": "#EBF0F8", "linecolor": "#EBF0F8", "zerolinecolor": "#EBF0F8"}
LAYOUT = {
    "plot_bgcolor": "white",
    "hovermode": "closest",
    "hoverlabel": {"align": "left"},
    "xaxis": AXIS,
    "yaxis": AXIS,
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#2a3f5f"},
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
    "margin": {"l": 70, "r": 20, "t": 70, "b": 60},
}
pio.templates["mixkit"] = go.layout.Template(layout=LAYOUT)
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
HUMAN_LINE = {"color": "#666666", "width": 1, "dash": "dash"}
ROLES = {"decoding": ("MLE, other decoding", 9), "grid": ("", 12), HUMAN: ("human texts", 15)}  # name, marker size
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
    metrics = [quality, diversity, "perplexity"]
    used = frame.loc[(frame["role"] != "base") & frame["metric"].isin(metrics) & frame["value"].notna()]
    rows = {(row.run, row.metric): row for row in frame_rows(used)}  # plain rows: pandas would be slow from here on
    points = {}
    for run in used["run"].unique():
        y, x, perplexity = (rows.get((run, metric)) for metric in metrics)
        if x and y:
            points[run] = Point(x, y, perplexity)
    traces: list[dict[str, Any]] = []
    for parameter, _, names in decoding_curves(frame):
        label, dash = DECODING_LINES[parameter]
        is_first = all(trace["legendgroup"] != parameter for trace in traces)
        legend = {"name": f"MLE, only its {label} changed", "legendgroup": parameter, "showlegend": is_first}
        line = {"color": COLORS["mle"], "width": 1.5, "dash": dash}
        curve = _xy([points[name] for name in names if name in points])
        traces.append({**curve, "mode": "lines", "line": line, **legend, "hoverinfo": "skip"})
    sides = _label_sides(list(points.values()))
    best = _xy([points[name] for name in pareto_front(frame, quality, diversity)])
    legend = {"name": "no run is better on both axes", "hoverinfo": "skip"}
    traces.append({**best, "mode": "markers", "marker": RING, **legend})
    for role, objective in [("decoding", "mle"), *(("grid", name) for name in OBJECTIVES), (HUMAN, HUMAN)]:
        group = [point for point in points.values() if (point.x.role, point.x.objective) == (role, objective)]
        traces.append(_markers(group, role, objective, sides))
    axes = {"xaxis": {"title": axis_title(diversity)}, "yaxis": {"title": axis_title(quality)}}
    # The margin has room for three rows of legend. A legend that moves the margin covers the plot after a resize.
    layout = {"height": 590, "margin": {"t": 100}, **axes}
    figure = go.Figure(data=[trace for trace in traces if trace["x"]], layout=layout)
    if human := rows.get((HUMAN, diversity)):
        figure.add_vline(human.value, line=HUMAN_LINE, annotation={"text": "human"}, annotation_position="bottom right")
    if human := rows.get((HUMAN, quality)):
        text = "human against human" if human.over == "halvings" else "human texts"
        figure.add_hline(human.value, line=HUMAN_LINE, annotation={"text": text}, annotation_position="bottom left")
        if human.over == "halvings" and human.low is not None:
            figure.add_hrect(human.low, human.high, fillcolor="#666666", opacity=0.1, line_width=0)
    return figure


def against_coefficient(frame: pd.DataFrame, metric: str) -> go.Figure:
    """A metric against the coefficient of each objective, such as MixCE's eta. Dotted lines: MLE.

    Each seed has its own curve. frame: results(study).
    """
    rows = frame.loc[(frame["metric"] == metric) & (frame["role"] == "grid") & frame["value"].notna()]
    figure = go.Figure(layout={"height": 380, "yaxis": {"title": "<br>".join(wrap(axis_title(metric), 32))}})
    for objective, definition in OBJECTIVES.items():
        runs = rows.loc[(rows["objective"] == objective) & rows["coefficient"].notna()].sort_values("coefficient")
        for i, (_, group) in enumerate(runs.groupby("seed")):
            points = frame_rows(group)
            figure.add_scatter(
                x=[_coefficient_text(objective, point.coefficient) for point in points],
                y=group["value"].tolist(),
                error_y=_error_bars(points, COLORS[objective]),
                marker={"symbol": SYMBOLS[objective], "size": 11},
                line={"color": COLORS[objective], "width": 1},
                name=f"{definition.label} by {definition.coefficients[0].symbol}",
                legendgroup=objective,
                showlegend=i == 0,
                customdata=group["run"].tolist(),
                hovertext=[f"{point.label}<br>{number(point)}" for point in points],
                hoverinfo="text",
            )
    for value in rows.loc[rows["objective"] == "mle"].sort_values("seed").drop_duplicates("seed")["value"]:
        figure.add_hline(value, line={"color": COLORS["mle"], "dash": "dot"}, annotation={"text": "MLE"})
    return figure


def parallel_coordinates(frame: pd.DataFrame) -> go.Figure:
    """One line per trained run through its value of each of PARALLEL_METRICS, in its objective's colour.

    A metric that some run lacks has no axis. frame: results(study).
    """
    trained = frame.loc[frame["role"].isin(["grid", "decoding"])]
    runs = trained.drop_duplicates("run").set_index("run")
    values = trained.pivot(index="run", columns="metric", values="value").reindex(columns=list(PARALLEL_METRICS))
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
    names = {"loss": "objective (training)", "nll": "nll (training)", "validation_nll": "nll (validation)"}
    figure = go.Figure(layout={"height": 380, "xaxis_title": "optimizer step", "yaxis_title": "nats per token"})
    for (key, name), color in zip(names.items(), ("#999999", "#56B4E9", "#D55E00"), strict=True):
        lines = [line for line in history if key in line]
        if lines:
            points = {"x": [line["step"] for line in lines], "y": [line[key] for line in lines]}
            figure.add_scatter(**points, mode="lines+markers" if "val" in key else "lines", name=name, line_color=color)
    return figure


def training_curves(runs: Sequence[PlannedRun], histories: Mapping[str, Sequence[Mapping[str, float]]]) -> go.Figure:
    """The nll in training of several runs, in the colours of their objectives.

    The base run is left out as soon as another run has a line. Neighbouring steps are averaged to MAX_POINTS points.
    histories: by run name, the lines of its training.jsonl so far.
    """
    titles = {"xaxis_title": "optimizer step", "yaxis_title": "nll in training, nats per token"}
    figure = go.Figure(layout={"height": 380, "margin": {"r": 70}, "uirevision": "training", **titles})
    started = [run for run in runs if any("nll" in line for line in histories.get(run.name, ()))]
    before: list[str] = []
    for run in [run for run in started if run.role != "base"] or started:
        objective = run.config.objective
        count = before.count(objective)
        before.append(objective)
        lines = [(line["step"], line["nll"]) for line in histories[run.name] if "nll" in line]
        bins = np.array_split(lines, min(len(lines), MAX_POINTS))
        x, y = np.transpose([part.mean(axis=0) for part in bins]).tolist()
        label = _coefficient_text(objective, *[*run.config.coefficients().values()][:1])
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+text",
            text=[*[""] * (len(x) - 1), f" {label}"],
            textposition="middle right",
            textfont={"size": 11, "color": COLORS[objective]},
            cliponaxis=False,
            line={"color": COLORS[objective], "width": 1.8, "dash": DASHES[count % len(DASHES)]},
            name=OBJECTIVES[objective].label,
            legendgroup=objective,
            showlegend=count == 0,
            hovertemplate=f"{run.config.label(run.role)}<br>step %{{x:.0f}}: %{{y:.3f}}<extra></extra>",
        )
    return figure


class Point(NamedTuple):
    """A run of the frontier chart: its rows of the results frame for both axes and for perplexity."""

    x: Any
    y: Any
    perplexity: Any

    @property
    def hover(self) -> str:
        """The run's label and numbers."""
        rows = dict.fromkeys(row for row in (self.y, self.x, self.perplexity) if row)
        return "<br>".join([f"<b>{self.x.label}</b>", *(f"{row.metric} {number(row)}" for row in rows)])

    @property
    def text(self) -> str:
        """The few letters beside the point: "η=0.1", "MLE", "T=0.7"."""
        if self.x.role == "decoding":
            return self.x.label.split(", ", 1)[-1].replace("temperature ", "T=")
        return "" if self.x.role == HUMAN else _coefficient_text(self.x.objective, self.x.coefficient)


def _xy(points: Sequence[Point]) -> dict[str, list[float]]:
    return {"x": [point.x.value for point in points], "y": [point.y.value for point in points]}


def _markers(points: Sequence[Point], role: str, objective: str, sides: Mapping[str, str]) -> dict[str, Any]:
    """The trace of the runs with this role and objective. sides: of `_label_sides`."""
    name, size = ROLES[role]
    color = COLORS[objective]
    fill = "white" if role == "decoding" else color
    return {
        **_xy(points),
        "error_x": _error_bars([point.x for point in points], color),
        "error_y": _error_bars([point.y for point in points], color),
        "mode": "markers+text",
        "text": [point.text for point in points],
        "textposition": [sides[point.x.run] for point in points],
        "textfont": {"size": 11, "color": color},
        "marker": {"symbol": SYMBOLS[objective], "size": size, "color": fill, "line": {"color": color, "width": 1.5}},
        "name": name or OBJECTIVES[objective].label,
        "customdata": [point.x.run for point in points],
        "hovertext": [point.hover for point in points],
        "hoverinfo": "text",
    }


def _coefficient_text(objective: str, value: float | None = None) -> str:
    """The objective's first coefficient, such as "η=0.1"; the objective's label if it has none."""
    definition = OBJECTIVES[objective]
    return f"{definition.coefficients[0].symbol}={value:g}" if definition.coefficients else definition.label


def _interval(row: Any) -> tuple[float, float]:
    """(low, high) of a row of frame_rows; the value itself where there is no interval."""
    return (row.value, row.value) if row.low is None else (row.low, row.high)


def _error_bars(rows: Sequence[Any], color: str) -> dict[str, Any]:
    """The intervals. They state their colour, because a hollow marker's own colour is white."""
    above = [_interval(row)[1] - row.value for row in rows]
    below = [row.value - _interval(row)[0] for row in rows]
    return {"symmetric": False, "array": above, "arrayminus": below, "color": color, "thickness": 1, "width": 3}


def _label_sides(points: Sequence[Point]) -> dict[str, str]:
    """By run, the textposition where its label covers the fewest markers and labels placed before."""
    places = np.array([(point.x.value, point.y.value) for point in points]).reshape(-1, 2)
    if len(points):
        places *= (1000, 430) / np.maximum(np.ptp(places, axis=0), 1e-9)  # about the size of the plot in pixels
    obstacles = places
    sides: dict[str, str] = {}
    for point, place in zip(points, places, strict=True):
        half = np.array([LETTER * len(point.text) / 2, LINE / 2])
        boxes = {side: place + (half + MARKER) * where for side, where in SIDES.items()}
        covered = {side: (np.abs(obstacles - box) < half).all(1).sum() for side, box in boxes.items()}
        side = sides[point.x.run] = min(SIDES, key=covered.__getitem__)
        obstacles = np.concatenate([obstacles, boxes[side] + np.linspace(-half, half, 21) * (1, 0)])
    return sides
