"""Figures of backtracking: the tree of an action sequence and its mask, occupancies side by side, accuracies.
Pure functions of plain values; widgets live elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixkit.losses.definitions import OBJECTIVES
from mixkit.metrics.statistics import Estimate
from mixkit.models.backspace import PrefixTree
from mixkit.notebook.charts import COLORS, number

KEPT, TAKEN_BACK, PALE = "#0072B2", "#D55E00", "#DDDDDD"


class TreePicture(NamedTuple):
    """One row of a prefix tree as plain lists, its nodes in the order of writing."""

    labels: list[str]
    parents: list[int]  # -1 at the first node
    depths: list[int]
    mask: list[list[bool]]  # mask[i][j]: node i attends to node j
    kept: list[bool]  # whether the node is part of the final text


def tree_picture(tree: PrefixTree, row: int, label: Callable[[int], str]) -> TreePicture:
    """The tree of one row. label: from a token id to the text beside its node."""
    real = tree.real[row]
    mask = tree.ancestors()[row][real][:, real]
    labels = [label(token) for token in tree.tokens[row][real].tolist()]
    parents = [max(ancestors.nonzero()[:, 0].tolist(), default=-1) for ancestors in mask.tril(-1)]
    depths = tree.depths[row][real].tolist()
    return TreePicture(labels, parents, depths, mask.tolist(), mask[tree.states[row, -1]].tolist())


def tree_and_mask(picture: TreePicture) -> go.Figure:
    """Left, the prefixes as a tree by position id; right, which node (a row) attends to which (a column)."""
    lanes = _lanes(picture)
    figure = make_subplots(
        1, 2, column_widths=[0.62, 0.38], subplot_titles=("the tree of prefixes", "its attention mask")
    )
    for node, parent in enumerate(picture.parents):
        if parent >= 0:
            color = KEPT if picture.kept[node] else TAKEN_BACK
            xs, ys = [picture.depths[i] for i in (parent, node)], [-lanes[i] for i in (parent, node)]
            line = {"color": color, "width": 2, "dash": "solid" if picture.kept[node] else "dot"}
            figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False), 1, 1)
    for kept, color, name in ((True, KEPT, "left standing"), (False, TAKEN_BACK, "taken back")):
        at = [i for i, k in enumerate(picture.kept) if k == kept]
        if at:
            dots = {"color": color if kept else "white", "size": 15, "line": {"color": color, "width": 2}}
            shown = go.Scatter(
                x=[picture.depths[i] for i in at],
                y=[-lanes[i] for i in at],
                mode="markers+text",
                text=[f"{picture.labels[i]}" if kept else f"<s>{picture.labels[i]}</s>" for i in at],
                textposition="top center",
                marker=dots | {"symbol": "circle" if kept else "x"},
                name=name,
                hovertext=[f"{picture.labels[i]}: node {i}, position id {picture.depths[i]}" for i in at],
                hoverinfo="text",
            )
            figure.add_trace(shown, 1, 1)
    ticks = [f"{i} {label}" for i, label in enumerate(picture.labels)]
    mask = go.Heatmap(
        z=[[int(x) for x in row] for row in picture.mask],
        x=ticks,
        y=ticks,
        colorscale=[[0, PALE], [1, KEPT]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=2,
        ygap=2,
        hovertemplate="%{y} attends to %{x}: %{z}<extra></extra>",
    )
    figure.add_trace(mask, 1, 2)
    figure.update_xaxes(title="position id", dtick=1, zeroline=False, row=1, col=1)
    figure.update_yaxes(visible=False, range=[-max(lanes) - 0.7, 0.9], row=1, col=1)
    figure.update_xaxes(side="bottom", tickangle=-60, row=1, col=2)
    figure.update_yaxes(autorange="reversed", row=1, col=2)
    return figure.update_layout(height=360, legend_y=1.08)  # above the subplots' titles


def _lanes(picture: TreePicture) -> list[int]:
    """A row for every node: the text that is left on row 0, what was taken back on rows below, none shared."""
    lanes, used = [], 0
    for node, parent in enumerate(picture.parents):
        first = parent < 0 or not any(p == parent for p in picture.parents[:node])
        if picture.kept[node]:
            lanes.append(0)
        elif parent >= 0 and not picture.kept[parent] and first:
            lanes.append(lanes[parent])
        else:
            used += 1
            lanes.append(used)
    return lanes


def occupancies(names: Sequence[str], data: Sequence[float], model: Sequence[float], shown: int = 14) -> go.Figure:
    """rho(s, a) of the data and of the model side by side, for the pairs that the data visit most."""
    order = sorted(range(len(names)), key=lambda i: -data[i])[:shown]
    figure = go.Figure()
    for values, name, color in ((data, "data", COLORS["human"]), (model, "model", COLORS["sequencematch"])):
        bars = {"x": [names[i] for i in order], "y": [values[i] for i in order]}
        figure.add_trace(go.Bar(**bars, name=name, marker_color=color, hovertemplate="%{x}: %{y:.4f}<extra></extra>"))
    figure.update_xaxes(title="text so far → action", tickangle=-45)
    figure.update_yaxes(title="occupancy")
    return figure.update_layout(height=380)


def accuracies(results: Mapping[str, Estimate]) -> go.Figure:
    """A bar with its interval for each objective, by its name in the parameters."""
    figure = go.Figure()
    for name, estimate in results.items():
        ends = {"array": [estimate.high - estimate.value], "arrayminus": [estimate.value - estimate.low]}
        bar = {"x": [OBJECTIVES[name].label], "y": [estimate.value], "marker_color": COLORS[name], "showlegend": False}
        figure.add_trace(go.Bar(**bar, error_y={"symmetric": False, **ends}, text=[number(estimate)]))
    figure.update_yaxes(title="right answers", range=[0, 1])
    return figure.update_layout(height=340)
