"""Plotly figures of a study's results and of training curves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from mixkit.losses.definitions import OBJECTIVES, parse_objective
from mixkit.metrics.definitions import METRICS, PARALLEL_METRICS, metric_names
from mixkit.notebook.labels import axis_title, frame_rows, metric_label, number, objective_label
from mixkit.studies.compare import decoding_curves, pareto_front
from mixkit.studies.plan import PlannedRun
from mixkit.studies.records import HUMAN

# Pages are light or dark: the background is transparent, and this gray has a contrast of 4.3 on white and on #111.
INK, FAINT, CLEAR = "#797979", "rgba(128,128,128,0.25)", "rgba(0,0,0,0)"
AXIS = {"automargin": True, "gridcolor": FAINT, "linecolor": FAINT, "zerolinecolor": FAINT}
TITLE = {"x": 0, "xref": "paper", "y": 0.99, "yref": "container", "yanchor": "top", "font": {"size": 15}}
# A small template: plotly_white would be most of a small figure, and is copied at each redraw.
LAYOUT = {
    "plot_bgcolor": CLEAR,
    "paper_bgcolor": CLEAR,
    "hovermode": "closest",
    "hoverlabel": {"align": "left"},
    "title": TITLE,
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
SYMBOLS = {objective: symbol for objective, (_, symbol) in LOOKS.items()}
OTHER_LOOKS = tuple(
    zip(
        ("#E69F00", "#8B5FBF", "#A6761D", "#CC3311", "#33A6A6", "#999933", "#AA4499"),
        ("pentagon", "hexagon", "cross", "x", "triangle-down", "hourglass", "bowtie"),
        strict=True,
    )
)
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
    """Colour and symbol of an objective. Those without an entry in LOOKS get OTHER_LOOKS as they appear."""
    label = objective_label(objective)
    name = next((name for name, definition in OBJECTIVES.items() if definition.label == label), objective)
    if name in LOOKS:
        return LOOKS[name]
    return OTHER_LOOKS[_order.setdefault(label, len(_order)) % len(OTHER_LOOKS)]


def measured_metrics(frame: pd.DataFrame, kind: Literal["quality", "diversity", ""] = "") -> list[str]:
    """The metrics that some trained run has a value of: quality, then diversity, then all others.

    kind: only those of that axis of the trade-off.
    """
    measured = frame.loc[frame["role"].isin(["grid", "decoding"]) & frame["value"].notna()]
    known = [*metric_names("quality"), *metric_names("diversity"), *METRICS]
    present = dict.fromkeys([*known, *sorted(set(measured["metric"]))])
    return [name for name in (metric_names(kind) if kind else present) if name in set(measured["metric"])]


def default_axes(frame: pd.DataFrame) -> tuple[str, str]:
    """(quality, diversity): the first metric of each kind that some trained run has a value of."""
    quality, diversity = ([*measured_metrics(frame, kind), *metric_names(kind)][0] for kind in ("quality", "diversity"))
    return quality, diversity


def frontier(frame: pd.DataFrame, quality: str = "mauve", diversity: str = "diversity") -> go.Figure:
    """Quality against diversity: one point per trained run, with the intervals of both metrics.

    Lines: MLE with only its temperature (dotted) or its top-p (dash-dotted) changed, or decoded as another objective
    (dashed, in that one's colour). Hollow: runs that only sample MLE's model. Rings: the Pareto front. Star and dashed
    lines: the human texts. Gray band: human texts against human texts. A point's customdata is its run's name.
    frame: results(study). quality, diversity: any two metrics.
    """
    metrics = [quality, diversity, "perplexity"]
    used = frame.loc[(frame["role"] != "base") & frame["metric"].isin(metrics) & frame["value"].notna()]
    rows = {(row.run, row.metric): row for row in frame_rows(used)}  # plain rows: pandas would be slow from here on
    runs = [run for run in used["run"].unique() if (run, quality) in rows and (run, diversity) in rows]

    def xy(names: Sequence[str]) -> dict[str, Any]:
        x, y = ([rows[name, metric].value for name in names] for metric in (diversity, quality))
        return {"x": x, "y": y}

    traces: list[dict[str, Any]] = []
    for parameter, _, names in decoding_curves(frame):
        if parameter in DECODING_LINES:
            label, dash = DECODING_LINES[parameter]
            style = {"name": f"MLE, only its {label} changed", "line": {"color": COLORS["mle"], "dash": dash}}
        else:
            objective = parameter.removeprefix("decode_as ")
            name = f"MLE decoded as {objective_label(objective)}"
            style = {"name": name, "line": {"color": look(objective)[0], "dash": "dash"}}
        traces.append({**xy([name for name in names if name in runs]), **style, "mode": "lines", "hoverinfo": "skip"})
    front = pareto_front(frame, quality, diversity) if quality != diversity else []
    best = xy([name for name in front if name in runs])
    legend = {"name": "no run is better on both axes", "hoverinfo": "skip"}
    traces.append({**best, "mode": "markers", "marker": RING, **legend})
    texts = {run: _text(rows[run, diversity]) for run in runs}
    sides = _label_sides({run: (rows[run, diversity].value, rows[run, quality].value) for run in runs}, texts)
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        groups.setdefault((rows[run, diversity].role, *_style(rows[run, diversity])), []).append(run)
    for role, name, color, symbol in sorted(groups, key=lambda group: list(SIZES).index(group[0])):
        names = groups[role, name, color, symbol]
        trace = {
            "mode": "markers+text",
            "text": [texts[run] if sides[run] else "" for run in names],
            "textposition": [sides[run] or "top right" for run in names],
            "textfont": {"size": 11},
            "marker": {"symbol": symbol, "size": SIZES[role], "color": color, "line": {"width": 1.5, "color": color}},
            "error_x": _error_bars([rows[run, diversity] for run in names], color),
            "error_y": _error_bars([rows[run, quality] for run in names], color),
            "customdata": names,
            "hovertext": [_hover([rows.get((run, metric)) for metric in metrics]) for run in names],
            "hoverinfo": "text",
        }
        traces.append({**xy(names), **trace, "name": name})
    traces = [trace for trace in traces if trace["x"]]
    seen = Counter()
    for trace in traces:  # curves of several seeds, and points on a curve, have one entry in the legend
        trace |= {"legendgroup": trace["name"], "showlegend": not seen[trace["name"]]}
        seen[trace["name"]] += 1
    axes = {"xaxis": {"title": axis_title(diversity)}, "yaxis": {"title": axis_title(quality)}}
    title = {"title": {"text": f"{metric_label(quality)} against {metric_label(diversity)}"}}
    # The margin has room for three rows of legend. A legend that moves the margin covers the plot after a resize.
    figure = go.Figure(data=traces, layout={"height": 610, "margin": {"t": 120}, **axes, **title})
    if human := rows.get((HUMAN, diversity)):
        figure.add_vline(human.value, line=HUMAN_LINE, annotation={"text": "human"}, annotation_position="bottom right")
    if human := rows.get((HUMAN, quality)):
        text = "human against human" if human.over == "halvings" else "human texts"
        figure.add_hline(human.value, line=HUMAN_LINE, annotation={"text": text}, annotation_position="bottom left")
        if human.over == "halvings" and human.low is not None:
            figure.add_hrect(human.low, human.high, fillcolor="#808080", opacity=0.15, line_width=0)
    return figure


def against_coefficient(frame: pd.DataFrame, metric: str, title: str = "") -> go.Figure:
    """A metric against the coefficient of each objective, such as MixCE's eta. Dotted lines: MLE.

    Each seed has its own curve. An objective without coefficients is one point. frame: results(study).
    """
    rows = frame.loc[(frame["metric"] == metric) & (frame["role"] == "grid") & frame["value"].notna()]
    titles = {"title": {"text": title or f"{metric_label(metric)} against the coefficient"}}
    figure = go.Figure(layout={"height": 400, "yaxis": {"title": "<br>".join(wrap(axis_title(metric), 32))}, **titles})
    others = rows.loc[rows["objective"] != "mle"].sort_values("coefficient", kind="stable")
    families = others["objective"].map(objective_label)
    for family in families.unique():
        for i, (_, group) in enumerate(others.loc[families == family].groupby("seed")):
            points = frame_rows(group)
            color, symbol = look(points[0].objective)
            figure.add_scatter(
                x=[_text(point) for point in points],
                y=group["value"].tolist(),
                error_y=_error_bars(points, color),
                marker={"symbol": symbol, "size": 11},
                line={"color": color, "width": 1.5},
                name=family,
                legendgroup=family,
                showlegend=i == 0,
                customdata=group["run"].tolist(),
                hovertext=[f"{point.label}<br>{number(point)}" for point in points],
                hoverinfo="text",
            )
    for value in rows.loc[rows["objective"] == "mle"].sort_values("seed").drop_duplicates("seed")["value"]:
        note = {"text": f"MLE {value:.3g}", "font": {"color": INK}}
        figure.add_hline(value, line={"color": COLORS["mle"], "dash": "dot"}, annotation=note)
    return figure


def worth(frame: pd.DataFrame) -> go.Figure:
    """equals: against_coefficient(frame, "best_temperature"): which temperature fits each run's texts best"""
    return against_coefficient(frame, "best_temperature", "What a coefficient is worth as a temperature, T*")


def parallel_coordinates(frame: pd.DataFrame) -> go.Figure:
    """One line per trained run through its value of each of PARALLEL_METRICS, the better end on top.

    A metric that some run lacks has no axis. frame: results(study).
    """
    trained = frame.loc[frame["role"].isin(["grid", "decoding"])]
    values = trained.pivot(index="run", columns="metric", values="value").reindex(columns=list(PARALLEL_METRICS))
    values = values.dropna(axis="columns")
    signs = pd.Series({name: -1 if METRICS[name].direction == "lower" else 1 for name in values}, dtype=float)
    low, high = (values * signs).min(), (values * signs).max()
    heights = (values * signs - low) / (high - low).replace(0, 1)
    axes = [f"<b>{high[m] * signs[m]:.3g}</b><br>{metric_label(m)}<br>{low[m] * signs[m]:.3g}" for m in values]
    figure = go.Figure(layout={"height": 460, "title": {"text": "Every run on every axis; the better end is on top"}})
    figure.update_layout(yaxis={"visible": False, "range": [-0.05, 1.05]}, xaxis={"side": "bottom", "gridcolor": INK})
    seen = Counter()
    for row in frame_rows(trained.drop_duplicates("run")) if len(axes) else []:
        name, color, symbol = _style(row)
        numbers = [f"{row.label}<br>{metric_label(m)} {values.loc[row.run, m]:.3g}" for m in values]
        figure.add_scatter(
            x=axes,
            y=heights.loc[row.run].tolist(),
            mode="lines+markers",
            line={"color": color, "width": 2.5, "dash": "dot" if row.role == "decoding" else "solid"},
            marker={"symbol": symbol, "size": 8},
            name=name,
            legendgroup=name,
            showlegend=not seen[name],
            customdata=[row.run] * len(axes),
            hovertext=numbers,
            hoverinfo="text",
        )
        seen[name] += 1
    return figure


def training_curve(history: Sequence[Mapping[str, float]]) -> go.Figure:
    """Training nll and objective by step, and the validation nll at each evaluation, in nats per token.

    history: the lines of training.jsonl.
    """
    names = {"loss": "objective (training)", "nll": "nll (training)", "validation_nll": "nll (validation)"}
    titles = {"title": {"text": "Training"}, "xaxis_title": "optimizer step", "yaxis_title": "nats per token"}
    figure = go.Figure(layout={"height": 380, **titles})
    for (key, name), color in zip(names.items(), ("#999999", "#56B4E9", "#D55E00"), strict=True):
        lines = [line for line in history if key in line]
        if lines:
            points = {"x": [line["step"] for line in lines], "y": [line[key] for line in lines]}
            figure.add_scatter(**points, mode="lines+markers" if "val" in key else "lines", name=name, line_color=color)
    return figure


def training_curves(runs: Sequence[PlannedRun], histories: Mapping[str, Sequence[Mapping[str, float]]]) -> go.Figure:
    """The nll in training of several runs, in the colours of their objectives.

    The base run is left out as soon as another run has a line.
    histories: by run name, the lines of its training.jsonl so far.
    """
    titles = {"title": {"text": "Training"}, "xaxis_title": "optimizer step", "yaxis_title": "nll, nats per token"}
    figure = go.Figure(layout={"height": 400, "margin": {"t": 100}, "uirevision": "training", **titles})
    lines = {run.name: [line for line in histories.get(run.name, ()) if "nll" in line] for run in runs}
    started = [run for run in runs if lines[run.name]]
    before = Counter()
    for run in [run for run in started if run.role != "base"] or started:
        color, _ = look(run.config.objective)
        label = run.config.label(run.role)
        figure.add_scatter(
            x=[line["step"] for line in lines[run.name]],
            y=[line["nll"] for line in lines[run.name]],
            mode="lines",
            line={"color": color, "width": 1.8, "dash": DASHES[before[color] % len(DASHES)]},
            name=label,
            hovertemplate=f"{label}<br>step %{{x:.0f}}: %{{y:.3f}}<extra></extra>",
        )
        before[color] += 1
    return figure


def _style(row: Any) -> tuple[str, str, str]:
    """Name in the legend, colour and symbol of a row's run. The symbol is hollow if it only samples MLE's model."""
    color, symbol = look(row.decode_as or row.objective)
    if row.role != "decoding":
        return objective_label(row.objective), color, symbol
    name = f"MLE decoded as {objective_label(row.decode_as)}" if row.decode_as else "MLE, other decoding"
    return name, color, f"{symbol}-open"


def _hover(rows: Sequence[Any]) -> str:
    """The label of a run and its numbers. rows: of the results frame, or None."""
    present = [row for row in dict.fromkeys(rows) if row]
    numbers = [f"{metric_label(row.metric)} {number(row)}" for row in present]
    return "<br>".join([f"<b>{present[0].label}</b>", *numbers])


def _text(row: Any) -> str:
    """The few letters beside a point: "η=0.1", "MLE", "T=0.7"; of a row of the results frame."""
    if row.role == HUMAN:
        return ""
    if row.role == "decoding" and not row.decode_as:
        return row.label.split(", ", 1)[-1].replace("temperature ", "T=")
    objective, value = (row.decode_as, row.decode_coefficient) if row.decode_as else (row.objective, row.coefficient)
    definition = parse_objective(objective)[0]
    return definition.label if value is None else f"{definition.coefficients[0].symbol}={value:g}"


def _interval(row: Any) -> tuple[float, float]:
    """(low, high) of a row of frame_rows; the value itself where there is no interval."""
    return (row.value, row.value) if row.low is None else (row.low, row.high)


def _error_bars(rows: Sequence[Any], color: str) -> dict[str, Any]:
    """The intervals. They state their colour, because a hollow marker would give them its own."""
    above = [_interval(row)[1] - row.value for row in rows]
    below = [row.value - _interval(row)[0] for row in rows]
    return {"symmetric": False, "array": above, "arrayminus": below, "color": color, "thickness": 1, "width": 3}


def _label_sides(points: Mapping[str, tuple[float, float]], texts: Mapping[str, str]) -> dict[str, str]:
    """By run, the textposition where its label covers no marker and no earlier label; "" if there is none."""
    values = np.array(list(points.values())).reshape(-1, 2)
    scale = PLOT / np.maximum(np.ptp(values, axis=0), 1e-9) if points else PLOT
    boxes = [(x, y, MARKER - 1.0, MARKER - 1.0) for x, y in values * scale]  # center and half sizes
    sides = dict.fromkeys(points, "")
    for run, (x, y, *_) in zip(points, list(boxes), strict=True):
        width, height = LETTER * len(texts[run]) / 2, LINE / 2
        for side, (right, up) in SIDES.items():
            box = (x + right * (width + MARKER), y + up * (height + MARKER), width, height)
            if not any(_overlap(box, other) for other in boxes):
                sides[run] = side
                boxes.append(box)
                break
    return sides


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (center x, center y, half width, half height) overlap."""
    return all(abs(one[i] - other[i]) < one[i + 2] + other[i + 2] for i in (0, 1))
