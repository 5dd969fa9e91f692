"""Figures of objectives' weights, Gaussian fits, bigram chains, prefix trees, occupancies and accuracies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from mixkit.losses.definitions import OBJECTIVES
from mixkit.losses.token_weighted import TokenWeighted
from mixkit.metrics.statistics import Estimate
from mixkit.models.backspace import PrefixTree
from mixkit.notebook.charts import COLORS, SYMBOLS
from mixkit.toys.bigram import NAMES, MarkovChain
from mixkit.toys.gaussian import Gaussian, target_log_density

DASHES = ("solid", "dash", "dot", "dashdot")
LABELS = {name: OBJECTIVES[name].label for name in OBJECTIVES} | {"mixce*": "MixCE*", "kls": "mix of KLs"}
BIGRAM_COLORS = COLORS | {"mixce*": "#8B5FBF", "kls": "#E69F00"}
BIGRAM_SYMBOLS = SYMBOLS | {"mixce*": "star", "kls": "hexagon"}
SMALLEST = 1e-6  # smaller probabilities get the same colour
FINAL, DELETED, PALE = "#0072B2", "#D55E00", "#DDDDDD"


def weight_curves(objectives: Mapping[str, TokenWeighted]) -> go.Figure:
    """The weight w(q), and as a thin line the gradient in the token's own logit, w(q) (1 - q), against log q."""
    q = torch.logspace(-9, 0, 181, dtype=torch.float64)
    figure = go.Figure()
    previous: list[str] = []
    for label, objective in objectives.items():
        name = NAMES[type(objective)]
        line = {"color": COLORS[name], "dash": DASHES[previous.count(name) % len(DASHES)]}
        previous.append(name)
        weight = objective.weight(q)
        for quantity, y, width in (("w(q)", weight, 3), ("w(q) (1 − q)", weight * (1 - q), 1)):
            figure.add_scatter(
                x=q.numpy(),
                y=y.numpy(),
                name=label,
                line=line | {"width": width},
                mode="lines",
                showlegend=width > 1,
                legendgroup=label,
                hovertemplate=f"q = %{{x:.2g}}<br>{quantity} = %{{y:.3g}}",
            )
    ticks = {"tickvals": [1e-9, 1e-6, 1e-3, 0.1, 1], "ticktext": ["10⁻⁹", "10⁻⁶", "0.001", "0.1", "1"]}
    figure.update_xaxes(**ticks, type="log", range=[-9.1, 0.1], title="q, the model's probability of the token")
    figure.update_yaxes(title="weight w(q)<br>thin: gradient in its logit, w(q) (1 − q)", range=[-0.03, 1.05])
    return figure.update_layout(height=400)


def gaussian_fits(fits: Mapping[str, Gaussian]) -> go.Figure:
    """The target's density, filled, and the densities of Gaussians fitted to it, by the name of the divergence."""
    x = np.linspace(-4, 8, 241)
    target = {"fill": "tozeroy", "line": {"color": "#999999", "width": 1}}
    figure = go.Figure(go.Scatter(x=x, y=np.exp(target_log_density(x)), name="the truth", mode="lines", **target))
    colors = ("#0072B2", "#56B4E9", "#D55E00", "#009E73")
    for (name, fit), color, dash in zip(fits.items(), colors, DASHES, strict=False):
        density = np.exp(-0.5 * ((x - fit.mean) / fit.deviation) ** 2) / fit.deviation / np.sqrt(2 * np.pi)
        line = {"color": color, "width": 2.5, "dash": dash}
        label = f"{name}: N({fit.mean:.2f}, {fit.deviation:.2f}²)"
        figure.add_scatter(x=x, y=density, name=label, mode="lines", line=line, hoverinfo="name")
    return figure.update_layout(height=420, xaxis_title="x", yaxis_title="density", hoverlabel_namelength=-1)


def transitions(chain: MarkovChain, learned: MarkovChain, name: str) -> go.Figure:
    """Heat maps of the transitions of P and of the learned Q, two single chains. A cross: P is exactly 0."""
    tokens = [str(token) for token in range(chain.vocab - 1)]
    probs = np.stack([chain.probs.detach().numpy(), learned.probs.detach().numpy()])
    figure = px.imshow(
        np.log10(np.maximum(probs, SMALLEST)),
        facet_col=0,
        x=[*tokens, "end"],
        y=["start", *tokens],
        zmin=np.log10(SMALLEST),
        zmax=0,
        color_continuous_scale="Viridis",
        aspect="auto",
    )
    traces: Any = figure.data
    for trace, values in zip(traces, probs, strict=True):
        trace.update(customdata=values, hovertemplate="%{y} → %{x}: %{customdata:.2e}<extra></extra>")
    # One path per map: a marker per forbidden transition takes a browser twice as long.
    crosses = ""
    for y, x in (chain.probs == 0).nonzero().tolist():
        left, right, top, bottom = x - 0.2, x + 0.2, y - 0.2, y + 0.2
        crosses += f"M{left:.1f},{top:.1f}L{right:.1f},{bottom:.1f}M{left:.1f},{bottom:.1f}L{right:.1f},{top:.1f}"
    if crosses:
        for axis, color in (("", "#888888"), ("2", "#ffffff")):
            figure.add_shape(type="path", path=crosses, xref=f"x{axis}", yref=f"y{axis}", line_color=color)
    figure.update_xaxes(type="category", tickfont_size=9, dtick=max(1, chain.vocab // 20), title="next token")
    figure.update_yaxes(type="category", tickfont_size=9, dtick=max(1, chain.vocab // 20))
    figure.update_yaxes(title="previous token", col=1)
    for annotation, text in zip(figure.layout.annotations, ("P, the truth", f"Q, learned by {name}"), strict=True):
        annotation.text = f"{text}; × forbidden" if crosses else text
    bar = {"title": "probability", "tickvals": [-6, -4, -2, 0], "ticktext": ["≤ 10⁻⁶", "10⁻⁴", "0.01", "1"]}
    return figure.update_layout(height=480, coloraxis_colorbar=bar)


def bigram_tradeoff(table: pd.DataFrame, published: pd.DataFrame, chosen: float | None = None) -> go.Figure:
    """Probability of forbidden transitions against distance from the truth, both on log axes; lower left is better.

    table: one row per objective and coefficient, columns objective, estimator, eta, gamma, avg_js, avg_js_std, avg_0s
    and avg_0s_std. published: rows with objective, eta, avg_js and avg_0s. chosen: the eta drawn large.
    """
    groups: Any = table.dropna(subset=["avg_0s"]).groupby(["objective", "estimator"], sort=False)
    figure = go.Figure()
    for (name, estimator), group in groups:
        values = group["eta"].fillna(group["gamma"])
        labels = [f"{value:g}" if value < 0.99 else "" for value in values]  # the others lie beside MLE
        figure.add_scatter(
            x=group["avg_js"],
            y=group["avg_0s"],
            error_x={"array": group["avg_js_std"].fillna(0), "thickness": 1, "width": 2},
            error_y={"array": group["avg_0s_std"].fillna(0), "thickness": 1, "width": 2},
            mode="lines+markers+text",
            line={"color": BIGRAM_COLORS[name], "width": 1, "dash": "dot" if estimator == "gumbel" else "solid"},
            marker={"symbol": BIGRAM_SYMBOLS[name], "size": [16 if value == chosen else 8 for value in values]},
            text=labels,
            textposition="top center",
            name=f"{LABELS[name]} ({estimator})" if estimator else LABELS[name],
        )
    if len(published):
        color = [BIGRAM_COLORS[name] for name in published["objective"]]
        marker = {"symbol": "diamond-open", "size": 12, "color": color, "line": {"width": 2}}
        etas = [f" {eta:g}" if eta == eta else "" for eta in published["eta"]]  # nan for MLE
        text = [LABELS[name] + eta for name, eta in zip(published["objective"], etas, strict=True)]
        label = "released script, seed 7"
        values = {"x": published["avg_js"], "y": published["avg_0s"], "hovertext": text}
        figure.add_scatter(**values, mode="markers", marker=marker, name=label)
    figure.update_xaxes(type="log", exponentformat="power", dtick=1, title="avg. js: distance of Q from P")
    figure.update_yaxes(type="log", exponentformat="power", dtick=1, title="avg. 0s: probability of the forbidden")
    return figure.update_layout(height=460)


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
    """Left: the tree of prefixes by position id. Right: the attention mask, one row per attending node."""
    labels, parents, depths, mask, kept = picture
    heights = _heights(picture)
    figure = make_subplots(1, 2, column_widths=[0.62, 0.38], subplot_titles=("tree of prefixes", "attention mask"))
    for node, parent in enumerate(parents):
        if parent >= 0:
            line = {"color": FINAL, "width": 2} if kept[node] else {"color": DELETED, "width": 2, "dash": "dot"}
            x, y = [depths[parent], depths[node]], [heights[parent], heights[node]]
            figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, row=1, col=1)
    for is_kept, color, name in ((True, FINAL, "final text"), (False, DELETED, "deleted")):
        nodes = [node for node in range(len(labels)) if kept[node] == is_kept]
        if nodes:
            figure.add_scatter(
                x=[depths[node] for node in nodes],
                y=[heights[node] for node in nodes],
                mode="markers+text",
                text=[labels[node] if is_kept else f"<s>{labels[node]}</s>" for node in nodes],
                textposition="top center",
                marker={"color": color, "size": 15, "symbol": "circle" if is_kept else "x"},
                name=name,
                hovertext=[f"{labels[node]}: node {node}, position id {depths[node]}" for node in nodes],
                hoverinfo="text",
                row=1,
                col=1,
            )
    ticks = [f"{node} {label}" for node, label in enumerate(labels)]
    cells = {"z": np.array(mask, int).tolist(), "x": ticks, "y": ticks, "zmin": 0, "zmax": 1, "xgap": 2, "ygap": 2}
    hover = "%{y} attends to %{x}: %{z}<extra></extra>"
    colors = [[0, PALE], [1, FINAL]]
    figure.add_heatmap(**cells, colorscale=colors, showscale=False, hovertemplate=hover, row=1, col=2)
    figure.update_xaxes(title="position id", dtick=1, zeroline=False, row=1, col=1)
    figure.update_yaxes(visible=False, range=[min(heights) - 0.7, 0.9], row=1, col=1)
    figure.update_xaxes(tickangle=-60, row=1, col=2)
    figure.update_yaxes(autorange="reversed", row=1, col=2)
    return figure.update_layout(height=360, legend_y=1.08)  # above the titles of the subplots


def _heights(picture: TreePicture) -> list[int]:
    """The height of every node: 0 for the final text. Each deleted branch has its own height below 0."""
    heights: list[int] = []
    for node, parent in enumerate(picture.parents):
        continues = parent >= 0 and not picture.kept[parent] and parent not in picture.parents[:node]
        if picture.kept[node]:
            heights.append(0)
        else:
            heights.append(heights[parent] if continues else min(heights) - 1)
    return heights


def occupancies(names: Sequence[str], data: Sequence[float], model: Sequence[float], bars: int = 14) -> go.Figure:
    """rho(s, a) of the data and of the model side by side, for the `bars` pairs that the data visit most."""
    order = sorted(range(len(names)), key=lambda i: -data[i])[:bars]
    figure = go.Figure()
    for label, values, color in (("data", data, COLORS["human"]), ("model", model, COLORS["sequencematch"])):
        figure.add_bar(x=[names[i] for i in order], y=[values[i] for i in order], name=label, marker_color=color)
    figure.update_traces(hovertemplate="%{x}: %{y:.4f}<extra></extra>")
    return figure.update_layout(height=380, xaxis={"title": "text → action", "tickangle": -45}, yaxis_title="occupancy")


def accuracies(estimates: Mapping[str, Estimate]) -> go.Figure:
    """One bar with its interval per objective name."""
    figure = go.Figure()
    for name, estimate in estimates.items():
        value, low, high = estimate.value or 0.0, estimate.low or 0.0, estimate.high or 0.0
        error = {"symmetric": False, "array": [high - value], "arrayminus": [value - low]}
        bar = {"x": [LABELS[name]], "y": [value], "text": [f"{value:.2f}"], "marker_color": COLORS[name]}
        figure.add_bar(**bar, error_y=error, showlegend=False)
    return figure.update_layout(height=340, yaxis={"title": "right answers", "range": [0, 1]})
