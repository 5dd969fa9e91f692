"""Plotly figures of a study's results and of training curves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import wrap
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from mixkit.losses.definitions import parse_objective
from mixkit.metrics.definitions import METRICS, PARALLEL_METRICS, definition, metric_names
from mixkit.notebook.labels import frame_rows, metric_label, number, objective_label
from mixkit.studies.compare import decoding_curves, pareto_front
from mixkit.studies.plan import PlannedRun
from mixkit.studies.records import HUMAN
from mixkit.studies.tune import Tuning

# Pages are light or dark: the background is transparent, and this gray has a contrast of 4.3 on white and on #111.
INK, FAINT, CLEAR = "#797979", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"
AXIS = {"automargin": True, "gridcolor": FAINT, "linecolor": FAINT, "zerolinecolor": FAINT}
# A small template: plotly_white would be most of a small figure, and is copied at each redraw.
LAYOUT = {
    "plot_bgcolor": CLEAR,
    "paper_bgcolor": CLEAR,
    "hovermode": "closest",
    "hoverlabel": {"align": "left"},
    "title": {"x": 0, "xref": "paper", "y": 0.99, "yref": "container", "yanchor": "top", "font": {"size": 15}},
    "xaxis": AXIS,
    "yaxis": AXIS,
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
    "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
    "margin": {"l": 70, "r": 20, "t": 80, "b": 60},
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
    HUMAN: ("#808080", "star"),
}
COLORS = {objective: color for objective, (color, _) in LOOKS.items()}
OTHER_COLORS = ("#E69F00", "#8B5FBF", "#A6761D", "#CC3311", "#33A6A6", "#999933", "#AA4499")
OTHER_SYMBOLS = ("pentagon", "hexagon", "cross", "x", "triangle-down", "hourglass", "bowtie")
RING = {"size": 21, "symbol": "circle-open", "color": "#999999", "line": {"width": 1.5}}
HUMAN_LINE = {"color": "#808080", "width": 1, "dash": "dash"}
SIZES = {"decoding": 9, "grid": 12, HUMAN: 16}  # of the markers of each role, in the order of drawing
DECODING_LINES = {"temperature": ("temperature", "dot"), "top_p": ("top-p", "dashdot")}  # label and dash of the curve
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# In pixels: the part of the plot with points, the width of a letter, the height of a line, half a marker.
PLOT, LETTER, LINE, MARKER = np.array([750, 320]), 6.5, 14, 9
SIDES = {
    **{"top right": (1, 1), "top left": (-1, 1), "bottom right": (1, -1), "bottom left": (-1, -1)},
    **{"middle right": (1, 0), "middle left": (-1, 0), "top center": (0, 1), "bottom center": (0, -1)},
}

_order: dict[str, int] = {}  # by label, of the objectives without an entry in LOOKS


def look(objective: str) -> tuple[str, str]:
    """Colour and symbol of an objective. Those without an entry in LOOKS get others as they appear."""
    name = objective.partition("(")[0]
    if name in LOOKS:
        return LOOKS[name]
    place = _order.setdefault(objective_label(objective), len(_order)) % len(OTHER_COLORS)
    return OTHER_COLORS[place], OTHER_SYMBOLS[place]


def measured_metrics(frame: pd.DataFrame, kind: Literal["quality", "diversity", ""] = "") -> list[str]:
    """The metrics of a kind that some trained run has a value of. Without a kind: quality, diversity, all others."""
    trained = frame["role"].isin(["grid", "decoding"]) & frame["value"].notna()
    measured = set(frame.loc[trained, "metric"])
    known = [*metric_names("quality"), *metric_names("diversity"), *METRICS, *sorted(measured)]
    return [name for name in (metric_names(kind) if kind else dict.fromkeys(known)) if name in measured]


def default_axes(frame: pd.DataFrame) -> tuple[str, str]:
    """(quality, diversity): the first metric of each kind that some trained run has a value of."""
    quality, diversity = ([*measured_metrics(frame, kind), *metric_names(kind)][0] for kind in ("quality", "diversity"))
    return quality, diversity


def frontier(frame: pd.DataFrame, quality: str = "mauve", diversity: str = "diversity") -> go.Figure:
    """Quality against diversity: one point per trained run, with the intervals of both metrics.

    Lines: MLE with only its temperature (dotted) or its top-p (dash-dotted) changed, or decoded as another objective
    (dashed, in that one's colour). Hollow: runs that only sample MLE's model. Rings: the Pareto front. Star and dashed
    lines: the human texts. Gray band: humans against humans. A point's customdata: its run. frame: results(study).
    """
    metrics = list(dict.fromkeys([quality, diversity, "perplexity"]))
    used = frame.loc[(frame["role"] != "base") & frame["metric"].isin(metrics) & frame["value"].notna()]
    rows = {(row.run, row.metric): row for row in frame_rows(used)}  # plain rows: pandas would be slow from here on
    runs = [run for run in used["run"].unique() if (run, quality) in rows and (run, diversity) in rows]
    points = {run: (rows[run, diversity], rows[run, quality]) for run in runs}
    titles = {"title": f"{metric_label(quality)} against {metric_label(diversity)}"}
    titles |= {"xaxis_title": definition(diversity).axis, "yaxis_title": definition(quality).axis}
    # The margin has room for four rows of legend. A legend that moves the margin covers the plot after a resize.
    figure = go.Figure(layout={"height": 640, "margin": {"t": 150}, **titles})

    def add(names: Sequence[str], **style: Any) -> None:
        if known := [points[name] for name in names if name in points]:
            figure.add_scatter(x=[x.value for x, _ in known], y=[y.value for _, y in known], **style)

    for parameter, _, names in decoding_curves(frame):
        if parameter in DECODING_LINES:
            (label, dash), color = DECODING_LINES[parameter], COLORS["mle"]
            name = f"MLE, only its {label} changed"
        else:
            objective = parameter.removeprefix("decode_as ")
            name, dash, color = f"MLE decoded as {objective_label(objective)}", "dash", look(objective)[0]
        add(names, name=name, line={"color": color, "dash": dash}, mode="lines", hoverinfo="skip")
    front = pareto_front(frame, quality, diversity) if quality != diversity else []
    add(front, name="no run is better on both axes", marker=RING, mode="markers", hoverinfo="skip")
    greedy = [x for x, _ in points.values() if x.temperature == 0]
    others = {run: point for run, point in points.items() if point[0].temperature != 0}
    sides = _label_sides(others)
    groups: dict[tuple[str, ...], list[str]] = {}
    for run, (x, _) in sorted(points.items(), key=lambda item: list(SIZES).index(item[1][0].role)):
        groups.setdefault((x.role, *_style(x)), []).append(run)
    for (role, name, color, symbol), names in groups.items():
        add(
            names,
            name=name,
            mode="markers+text",
            text=[_text(points[run][0]) if run in sides else "" for run in names],
            textposition=[sides.get(run, "top right") for run in names],
            textfont={"size": 11},
            marker={"symbol": symbol, "size": SIZES[role], "color": color, "line": {"width": 1.5, "color": color}},
            error_x=error_bars([points[run][0] for run in names], color),
            error_y=error_bars([points[run][1] for run in names], color),
            customdata=names,
            hovertext=[_hover([rows[run, metric] for metric in metrics if (run, metric) in rows]) for run in names],
            hoverinfo="text",
        )
    _join_legend(figure)
    if greedy and others:  # far away from the others, which would overprint: double-click to see it
        x = [x.value for x, _ in others.values()]
        note = f"greedy: {greedy[0].value:.2g}"
        figure.add_annotation(text=note, x=0, y=0, xref="paper", yref="paper", showarrow=False, xanchor="left")
        figure.update_xaxes(range=[1.1 * min(x) - 0.1 * max(x), 1.1 * max(x) - 0.1 * min(x)])
    if human := rows.get((HUMAN, diversity)):
        figure.add_vline(human.value, line=HUMAN_LINE, annotation={"text": "human"}, annotation_position="bottom right")
    if human := rows.get((HUMAN, quality)):
        text = "human against human" if human.over == "halvings" else "human texts"
        figure.add_hline(human.value, line=HUMAN_LINE, annotation={"text": text}, annotation_position="bottom left")
        if human.over == "halvings" and human.low is not None:
            figure.add_hrect(human.low, human.high, fillcolor="#808080", opacity=0.15, line_width=0)
    return figure


def against_coefficient(frame: pd.DataFrame, metric: str) -> go.Figure:
    """A metric against the coefficient of each objective, such as MixCE's eta. Dotted lines: MLE.

    Each seed has its own curve. An objective without coefficients is one point. frame: results(study).
    """
    rows = frame.loc[(frame["metric"] == metric) & (frame["role"] == "grid") & frame["value"].notna()]
    title = f"{metric_label(metric)} against the coefficient"
    axis = "<br>".join(wrap(definition(metric).axis, 32))
    figure = go.Figure(layout={"height": 400, "title": title, "yaxis_title": axis})
    others = rows.loc[rows["objective"] != "mle"].sort_values("coefficient", kind="stable")
    families = others["objective"].map(objective_label)
    for family in families.unique():
        for _, group in others.loc[families == family].groupby("seed"):
            points = frame_rows(group)
            color, symbol = look(points[0].objective)
            figure.add_scatter(
                x=[_text(point) for point in points],
                y=group["value"].tolist(),
                error_y=error_bars(points, color),
                marker={"symbol": symbol, "size": 11},
                line={"color": color, "width": 1.5},
                name=family,
                customdata=group["run"].tolist(),
                hovertext=[f"{point.label}<br>{number(point)}" for point in points],
                hoverinfo="text",
            )
    values = rows.loc[rows["objective"] == "mle"].drop_duplicates("seed")["value"].sort_values(ascending=False)
    note = {"text": f"MLE {', '.join(f'{value:.3g}' for value in values)}", "font": {"color": INK}}
    for i, value in enumerate(values):  # of each seed; the highest line has the label of all
        figure.add_hline(value, line={"color": COLORS["mle"], "dash": "dot"}, annotation=note if i == 0 else None)
    return _join_legend(figure)


def parallel_coordinates(frame: pd.DataFrame) -> go.Figure:
    """One line per trained run through those of PARALLEL_METRICS that every run has, the better end on top."""
    trained = frame.loc[frame["role"].isin(["grid", "decoding"])]
    values = trained.pivot(index="run", columns="metric", values="value").reindex(columns=list(PARALLEL_METRICS))
    values = values.dropna(axis="columns")
    signs = pd.Series({name: -1 if METRICS[name].direction == "lower" else 1 for name in values}, dtype=float)
    better = values * signs
    low, high = better.min(), better.max()
    heights = (better - low) / (high - low).replace(0, 1)
    axes = [f"<b>{high[m] * signs[m]:.3g}</b><br>{metric_label(m)}<br>{low[m] * signs[m]:.3g}" for m in values]
    figure = go.Figure(layout={"height": 460, "title": "Every run on every axis; the better end is on top"})
    figure.update_layout(yaxis={"visible": False, "range": [-0.05, 1.05]}, xaxis={"side": "bottom", "gridcolor": INK})
    for row in frame_rows(trained.drop_duplicates("run")) if axes else []:
        name, color, symbol = _style(row)
        figure.add_scatter(
            x=axes,
            y=heights.loc[row.run].tolist(),
            mode="lines+markers",
            line={"color": color, "width": 2.5, "dash": "dot" if row.role == "decoding" else "solid"},
            marker={"symbol": symbol, "size": 8},
            name=name,
            customdata=[row.run] * len(axes),
            hovertext=[f"{row.label}<br>{metric_label(m)} {values.loc[row.run, m]:.3g}" for m in values],
            hoverinfo="text",
        )
    return _join_legend(figure)


def training_curve(history: Sequence[Mapping[str, float]]) -> go.Figure:
    """Training nll, objective and validation nll by step, in nats per token. history: the lines of training.jsonl."""
    names = {"loss": "objective (training)", "nll": "nll (training)", "validation_nll": "nll (validation)"}
    titles = {"title": "Training", "xaxis_title": "optimizer step", "yaxis_title": "nats per token"}
    figure = go.Figure(layout={"height": 380, **titles})
    for (key, name), color in zip(names.items(), ("#999999", "#56B4E9", "#D55E00"), strict=True):
        if lines := [line for line in history if key in line]:
            points = {"x": [line["step"] for line in lines], "y": [line[key] for line in lines]}
            figure.add_scatter(**points, mode="lines+markers" if "val" in key else "lines", name=name, line_color=color)
    return figure


def training_curves(runs: Sequence[PlannedRun], histories: Mapping[str, Sequence[Mapping[str, float]]]) -> go.Figure:
    """The nll in training of several runs, without the base run as soon as another has a line. histories: by name."""
    titles = {"title": "Training", "xaxis_title": "optimizer step", "yaxis_title": "nll, nats per token"}
    figure = go.Figure(layout={"height": 400, "margin": {"t": 100}, "uirevision": "training", **titles})
    lines = {run.name: [line for line in histories.get(run.name, ()) if "nll" in line] for run in runs}
    started = [run for run in runs if lines[run.name]]
    dashes = defaultdict(lambda: cycle(DASHES))  # by colour
    for run in [run for run in started if run.role != "base"] or started:
        color, label = look(run.config.objective)[0], run.config.label(run.role)
        figure.add_scatter(
            x=[line["step"] for line in lines[run.name]],
            y=[line["nll"] for line in lines[run.name]],
            mode="lines",
            line={"color": color, "width": 1.8, "dash": next(dashes[color])},
            name=label,
            hovertemplate=f"{label}<br>step %{{x:.0f}}: %{{y:.3f}}<extra></extra>",
        )
    return figure


def search(tuning: Tuning) -> go.Figure:
    """The search of `tune`: EntCE of each run with its interval against the coefficient, numbered in its order."""
    table, coefficient = tuning.table, tuning.table.columns[0]
    x = table[coefficient].replace(0, 1e-5)  # TaiLr's MLE has gamma 0, which a log axis cannot show
    marks = {"mode": "markers+text", "text": ["MLE", *map(str, range(1, len(table)))], "textposition": "top center"}
    bars = error_bars(frame_rows(table))
    figure = go.Figure(go.Scatter(x=x, y=table["value"], error_y=bars, marker_size=10, **marks))
    figure.add_hline(0, line=HUMAN_LINE, annotation={"text": "as sharp as people"}, annotation_position="top left")
    titles = {"title": tuning.conclusion, "xaxis_title": coefficient}
    return figure.update_layout(height=420, xaxis_type="log", yaxis_title=METRICS["entropy_calibration"].axis, **titles)


def error_bars(estimates: Sequence[Any], color: str | None = None) -> dict[str, Any]:
    """The intervals of Estimates or of frame_rows. color: a hollow marker would give them its own."""
    value, low, high = np.array([(e.value, e.low, e.high) for e in estimates], dtype=float).T  # None is nan: no bar
    ends = {"symmetric": False, "array": high - value, "arrayminus": value - low}
    return {**ends, "color": color, "thickness": 1, "width": 3}


def _style(row: Any) -> tuple[str, str, str]:
    """Name in the legend, colour and symbol of a row's run. The symbol is hollow if it only samples MLE's model."""
    color, symbol = look(row.decode_as or row.objective)
    if row.role != "decoding":
        return objective_label(row.objective), color, symbol
    name = f"MLE decoded as {objective_label(row.decode_as)}" if row.decode_as else "MLE, other decoding"
    return name, color, f"{symbol}-open"


def _hover(rows: Sequence[Any]) -> str:
    return "<br>".join([f"<b>{rows[0].label}</b>", *(f"{metric_label(row.metric)} {number(row)}" for row in rows)])


def _text(row: Any) -> str:
    """The few letters beside a point: "η=0.1", "MLE", "T=0.7"; of a row of the results frame."""
    if row.role == HUMAN:
        return ""
    if row.role == "decoding" and not row.decode_as:
        return row.label.split(", ", 1)[-1].replace("temperature ", "T=")
    objective, value = (row.decode_as, row.decode_coefficient) if row.decode_as else (row.objective, row.coefficient)
    known, _ = parse_objective(objective)
    return known.label if value is None else f"{known.coefficients[0].symbol}={value:g}"


def _join_legend(figure: go.Figure) -> go.Figure:
    """The figure with one entry in its legend for all traces of a name, which hides and shows them together."""
    names: set[str] = set()
    traces: Any = figure.data
    for trace in traces:
        trace.update(legendgroup=trace.name, showlegend=trace.name not in names)
        names.add(trace.name)
    return figure


def _label_sides(points: Mapping[str, tuple[Any, Any]]) -> dict[str, str]:
    """By run, the textposition where its label covers no marker and no other label; without those that have no room."""
    if not points:
        return {}
    numbers = np.array([[(row.value, row.low, row.high) for row in point] for point in points.values()], dtype=float)
    low, high = np.nanmin(numbers, axis=(0, 2)), np.nanmax(numbers, axis=(0, 2))
    centers = dict(zip(points, (numbers[:, :, 0] - low) * PLOT / np.maximum(high - low, 1e-9), strict=True))
    boxes = [(center, np.full(2, MARKER - 1.0)) for center in centers.values()]  # centers and half sizes
    if HUMAN in points:  # below its line, the left 150 pixels are "human against human"
        boxes.append((centers[HUMAN] * (0, 1) - (0, LINE / 2), np.array([150, LINE / 2])))
    sides: dict[str, str] = {}
    for run, center in centers.items():
        half = np.array([LETTER * len(_text(points[run][0])), LINE]) / 2
        for side, direction in SIDES.items():
            label = center + np.array(direction) * (half + MARKER)
            if not any((abs(label - other) < half + other_half).all() for other, other_half in boxes):
                sides[run] = side
                boxes.append((label, half))
                break
    return sides
