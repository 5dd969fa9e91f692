"""Figures of objectives' weights, Gaussian fits, bigram chains, prefix trees, occupancies and accuracies."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from scipy.stats import norm

from mixkit.losses.definitions import OBJECTIVES
from mixkit.losses.token_weighted import TokenWeighted
from mixkit.metrics.statistics import Estimate
from mixkit.models.backspace import PrefixTree
from mixkit.notebook.charts import COLORS, DASHES, error_bars
from mixkit.toys.bigram import NAMES, MarkovChain
from mixkit.toys.gaussian import Gaussian, target_log_density

LEARNERS = {
    "MixCE": ("#D55E00", "square"),
    "MixCE*": ("#8B5FBF", "star"),
    "mix of KLs": ("#E69F00", "hexagon"),
    "TaiLr, w_min=0.2": ("#009E73", "triangle-up"),
    "TaiLr, w_min=0": ("#56B4E9", "triangle-down"),
    "released script": ("#666666", "diamond-open"),
}
SMALLEST = 1e-6  # smaller probabilities get the same colour
FINAL, DELETED, PALE = "#0072B2", "#D55E00", "#DDDDDD"


def weight_curves(objectives: Mapping[str, TokenWeighted]) -> go.Figure:
    """The weight w(q), and as a thin line the pull on the token's logit, w(q) (1 - q), against log q."""
    q = torch.logspace(-9, 0, 181, dtype=torch.float64)
    figure = go.Figure()
    for (label, objective), dash in zip(objectives.items(), cycle(DASHES)):
        line = {"color": COLORS.get(NAMES.get(type(objective), ""), "#666666"), "dash": dash}
        weight = objective.weight(q)
        for quantity, y, width in (("w(q)", weight, 3), ("w(q) (1 − q)", weight * (1 - q), 1)):
            style = {"mode": "lines", "line": line | {"width": width}, "legendgroup": label, "showlegend": width > 1}
            hover = f"q = %{{x:.2g}}<br>{quantity} = %{{y:.3g}}"
            figure.add_scatter(x=q.numpy(), y=y.numpy(), name=label, hovertemplate=hover, **style)
    ticks = {"tickvals": [1e-9, 1e-6, 1e-3, 0.1, 1], "ticktext": ["10⁻⁹", "10⁻⁶", "0.001", "0.1", "1"]}
    figure.update_xaxes(**ticks, type="log", range=[-9.1, 0.1], title="q, the model's probability of the token")
    figure.update_yaxes(title="weight w(q)<br>thin: pull, w(q) (1 − q)", range=[-0.03, 1.05])
    return figure.update_layout(height=400)


def gaussian_fits(fits: Mapping[str, Gaussian]) -> go.Figure:
    """The target's density, filled, and the densities of Gaussians fitted to it, by the name of the divergence."""
    x = np.linspace(-4, 8, 241)
    target = {"fill": "tozeroy", "line": {"color": "#999999", "width": 1}}
    figure = go.Figure(go.Scatter(x=x, y=np.exp(target_log_density(x)), name="the truth", mode="lines", **target))
    colors = ("#0072B2", "#56B4E9", "#D55E00", "#009E73")
    for (name, fit), color, dash in zip(fits.items(), colors, DASHES, strict=False):
        density, label = norm.pdf(x, fit.mean, fit.deviation), f"{name}: N({fit.mean:.2f}, {fit.deviation:.2f}²)"
        line = {"color": color, "width": 2.5, "dash": dash}
        figure.add_scatter(x=x, y=density, name=label, mode="lines", line=line, hoverinfo="name")
    return figure.update_layout(height=420, xaxis_title="x", yaxis_title="density", hoverlabel_namelength=-1)


def transitions(chain: MarkovChain, learned: MarkovChain, name: str) -> go.Figure:
    """Heat maps of the transitions of P and of the learned Q, two single chains. A cross: P is exactly 0."""
    tokens = [str(token) for token in range(chain.vocab - 1)]
    probs = np.stack([chain.probs.detach().numpy(), learned.probs.detach().numpy()])
    logs, lowest = np.log10(np.maximum(probs, SMALLEST)), np.log10(SMALLEST)
    axes = {"x": [*tokens, "end"], "y": ["start", *tokens], "aspect": "auto"}
    figure = px.imshow(logs, facet_col=0, **axes, zmin=lowest, zmax=0, color_continuous_scale="Viridis")
    traces: Any = figure.data
    for trace, values in zip(traces, probs, strict=True):
        trace.update(customdata=values, hovertemplate="%{y} → %{x}: %{customdata:.2e}<extra></extra>")
    # One path per map: a marker per forbidden transition takes a browser twice as long.
    crosses = ""
    for y, x in (chain.probs == 0).nonzero().tolist():
        left, right, top, bottom = x - 0.2, x + 0.2, y - 0.2, y + 0.2
        crosses += f"M{left:.1f},{top:.1f}L{right:.1f},{bottom:.1f}M{left:.1f},{bottom:.1f}L{right:.1f},{top:.1f}"
    if crosses:
        figure.add_shape(type="path", path=crosses, xref="x", yref="y", line_color="#888888")
        figure.add_shape(type="path", path=crosses, xref="x2", yref="y2", line_color="#ffffff")
    ticks = {"type": "category", "tickfont_size": 9, "dtick": max(1, chain.vocab // 20)}
    figure.update_xaxes(**ticks, title="next token")
    figure.update_yaxes(**ticks).update_yaxes(title="previous token", col=1)
    for annotation, text in zip(figure.layout.annotations, ("P, the truth", f"Q, learned by {name}"), strict=True):
        annotation.text = f"{text}; × forbidden" if crosses else text
    bar = {"title": "probability", "tickvals": [-6, -4, -2, 0], "ticktext": ["≤ 10⁻⁶", "10⁻⁴", "0.01", "1"]}
    return figure.update_layout(height=480, coloraxis_colorbar=bar)


def learners(table: pd.DataFrame, x: str, y: str, **options: Any) -> go.Figure:
    """Trained chains by column x (of coefficients or numbers) and column y, with the deviation over seeds. Log y axis.

    table: columns learner, coefficient, deviation, x and y. options: of plotly.express.scatter, such as facet_col.
    """
    colors, symbols = ({name: look[i] for name, look in LEARNERS.items()} for i in range(2))
    style = {"color": "learner", "color_discrete_map": colors, "symbol": "learner", "symbol_map": symbols}
    style |= {"hover_name": "coefficient", "facet_col_spacing": 0.09}
    figure = px.scatter(table, x=x, y=y, error_y="deviation", log_y=True, **style | options)
    figure.for_each_annotation(lambda title: title.update(text=title.text.partition("=")[2]))
    figure.update_traces(marker_size=10, error_y_width=3, error_y_thickness=1)
    figure.update_yaxes(matches=None, showticklabels=True, exponentformat="power", dtick=1)
    return figure.update_layout(height=480, legend={"y": 1.1, "title": None})


def tree_and_mask(tree: PrefixTree, label: Callable[[int], str]) -> go.Figure:
    """Left: the first row's tree of prefixes by position id. Right: its attention mask, one row per attending node.

    label: from a token id to the text beside its node.
    """
    real = tree.real[0]
    mask = tree.ancestors()[0][real][:, real]
    labels = [label(token) for token in tree.tokens[0][real].tolist()]
    parents = [max(ancestors.nonzero()[:, 0].tolist(), default=-1) for ancestors in mask.tril(-1)]
    depths = tree.depths[0][real].tolist()
    is_final = mask[tree.states[0, -1]].tolist()  # whether the node is part of the final text
    heights = _heights(parents, is_final)
    figure = make_subplots(1, 2, column_widths=[0.62, 0.38], subplot_titles=("tree of prefixes", "attention mask"))
    for node, parent in enumerate(parents[1:], 1):
        line = {"color": FINAL, "width": 2} if is_final[node] else {"color": DELETED, "width": 2, "dash": "dot"}
        x, y = [depths[parent], depths[node]], [heights[parent], heights[node]]
        figure.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for final, color, symbol, name in ((True, FINAL, "circle", "final text"), (False, DELETED, "x", "deleted")):
        nodes = [node for node in range(len(labels)) if is_final[node] == final]
        if nodes:
            figure.add_scatter(
                x=[depths[node] for node in nodes],
                y=[heights[node] for node in nodes],
                mode="markers+text",
                text=[labels[node] if final else f"<s>{labels[node]}</s>" for node in nodes],
                textposition="top center",
                marker={"color": color, "size": 15, "symbol": symbol},
                name=name,
                hovertext=[f"{labels[node]}: node {node}, position id {depths[node]}" for node in nodes],
                hoverinfo="text",
            )
    ticks = [f"{node} {label}" for node, label in enumerate(labels)]
    cells = {"z": mask.int().tolist(), "x": ticks, "y": ticks, "zmin": 0, "zmax": 1, "xgap": 2, "ygap": 2}
    style = {"colorscale": [PALE, FINAL], "showscale": False}
    figure.add_heatmap(**cells, **style, hovertemplate="%{y} attends to %{x}: %{z}<extra></extra>", row=1, col=2)
    depth = {"title": "position id", "dtick": 1, "zeroline": False}
    height = {"visible": False, "range": [min(heights) - 0.7, 0.9]}
    figure.update_layout(xaxis=depth, yaxis=height, xaxis2_tickangle=-60, yaxis2_autorange="reversed")
    return figure.update_layout(height=360, legend_y=1.08)  # above the titles of the subplots


def _heights(parents: Sequence[int], is_final: Sequence[bool]) -> list[int]:
    """The height of every node: 0 for the final text. Each deleted branch has its own height below 0."""
    heights: list[int] = []
    for node, parent in enumerate(parents):
        if is_final[node]:
            heights.append(0)
        elif is_final[parent] or parent in parents[:node]:
            heights.append(min(heights) - 1)
        else:
            heights.append(heights[parent])
    return heights


def occupancies(names: Sequence[str], data: Sequence[float], model: Sequence[float]) -> go.Figure:
    """rho(s, a) of the data and of the model side by side, for the 14 pairs that the data visit most."""
    table = pd.DataFrame({"data": data, "model": model}, index=list(names)).nlargest(14, "data")
    colors = {"data": COLORS["human"], "model": COLORS["sequencematch"]}
    titles = {"index": "text → action", "value": "occupancy", "variable": ""}
    figure = px.bar(table, barmode="group", color_discrete_map=colors, labels=titles, height=380)
    return figure.update_xaxes(tickangle=-45)


def accuracies(estimates: Mapping[str, Estimate]) -> go.Figure:
    """One bar with its interval per objective name."""
    values, labels = [e.value for e in estimates.values()], [OBJECTIVES[name].label for name in estimates]
    text = {"texttemplate": "%{y:.2f}", "textposition": "inside", "insidetextanchor": "start"}
    style = {"error_y": error_bars([*estimates.values()]), "marker_color": [COLORS[name] for name in estimates]}
    figure = go.Figure(go.Bar(x=labels, y=values, **text, **style))
    return figure.update_layout(height=340, yaxis={"title": "right answers", "range": [0, 1]})
