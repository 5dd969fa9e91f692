"""Figures of what is known exactly: weights of tokens, one Gaussian's fits, chains beside their learners.
Pure functions, as in charts.py; apart from it, as they show functions and matrices, not run records."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch

from mixkit.losses.token_weighted import TokenWeighted
from mixkit.notebook.charts import COLORS, SYMBOLS
from mixkit.notebook.truth import LABELS, title
from mixkit.toys.chains import NAMES
from mixkit.toys.gaussian import Gaussian, Mixture, gaussian_log_density
from mixkit.toys.markov import MarkovChain

DASHES = ("solid", "dash", "dot", "dashdot")
BIGRAM_COLORS = COLORS | {"mixce*": "#8B5FBF", "kls": "#E69F00", "js": "#56B4E9"}
BIGRAM_SYMBOLS = SYMBOLS | {"mixce*": "star", "kls": "hexagon", "js": "pentagon"}
TARGET = Mixture()
LEAST = 1e-6  # probabilities below are drawn as this
COLORBAR = ["≤ 10⁻⁶", "10⁻⁴", "0.01", "1"]


def weight_curves(objectives: Mapping[str, TokenWeighted]) -> go.Figure:
    """w(q), and, thin, the pull on the token's own logit, w(q) (1 - q), against q, a logarithmic axis, by name.

    One pair of axes: two would take a browser twice as long, and this figure follows sliders.
    """
    q = torch.logspace(-9, 0, 181, dtype=torch.float64)
    traces = []
    used: dict[str, int] = {}
    for name, objective in objectives.items():
        kind = NAMES[type(objective)]
        line = {"color": COLORS[kind], "dash": DASHES[used.get(kind, 0) % len(DASHES)]}
        used[kind] = used.get(kind, 0) + 1
        weight = objective.weight(q)
        for what, y, width in (("w(q)", weight, 3), ("w(q) (1 − q)", weight * (1 - q), 1)):
            traces.append(
                {
                    "x": q.numpy(),
                    "y": y.numpy(),
                    "name": name,
                    "line": line | {"width": width},
                    "mode": "lines",
                    "showlegend": width > 1,
                    "legendgroup": name,
                    "hovertemplate": f"q = %{{x:.2g}}<br>{what} = %{{y:.3g}}",
                }
            )
    ticks = {"tickvals": [1e-9, 1e-6, 1e-3, 0.1, 1], "ticktext": ["10⁻⁹", "10⁻⁶", "0.001", "0.1", "1"]}
    layout = {
        "height": 400,
        "xaxis": {**ticks, "type": "log", "range": [-9.1, 0.1], "title": "q, the model's probability of the token"},
        "yaxis": {"title": "weight of its nll, w(q)<br>thin: pull on its logit, w(q) (1 − q)", "range": [-0.03, 1.05]},
    }
    return go.Figure(data=traces, layout=layout)


def gaussian_fits(fits: Mapping[str, Gaussian], target: Mixture = TARGET) -> go.Figure:
    """The target's density, filled, and those of the Gaussians fitted to it, by the name of what each minimises."""
    x = np.linspace(-4, 8, 241)
    curve = {"x": x, "mode": "lines"}
    gray = {"color": "#999999", "width": 1}
    traces = [{**curve, "y": np.exp(target.log_density(x)), "name": "the truth", "fill": "tozeroy", "line": gray}]
    colors = ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
    for (name, fit), color, dash in zip(fits.items(), colors, (*DASHES, "longdash"), strict=False):
        traces.append(
            {
                **curve,
                "y": np.exp(gaussian_log_density(x, fit.mean, fit.deviation)),
                "name": f"{name}: N({fit.mean:.2f}, {fit.deviation:.2f}²)",
                "line": {"color": color, "width": 2.5, "dash": dash},
                "hoverinfo": "name",
            }
        )
    layout = {"height": 420, "xaxis": {"title": "x"}, "yaxis": {"title": "density"}, "hoverlabel": {"namelength": -1}}
    return go.Figure(data=traces, layout=layout)


def transitions(gold: MarkovChain, learned: MarkovChain, name: str) -> go.Figure:
    """Heat maps of P and of the learner's Q, two single chains: log-probabilities, and a cross where P is exactly 0."""
    vocab = gold.vocab
    columns = list(gold.words or map(str, range(vocab - 1)))
    rows, columns = ["start", *columns], [*columns, "end"]
    maps = [
        {
            "type": "heatmap",
            "z": np.log10(np.maximum(chain.probs.detach().numpy(), LEAST)),
            "x": columns,
            "y": rows,
            "customdata": chain.probs.detach().numpy(),
            "zmin": np.log10(LEAST),
            "zmax": 0,
            "colorscale": "Viridis",
            "showscale": bool(axis),
            "colorbar": {"title": "probability", "tickvals": [-6, -4, -2, 0], "ticktext": COLORBAR},
            "xaxis": f"x{axis}",
            "yaxis": f"y{axis}",
            "hovertemplate": "%{y} → %{x}: %{customdata:.2e}<extra></extra>",
        }
        for axis, chain in (("", gold), ("2", learned))
    ]
    # One path a map, in counts of rows and columns: a marker for each of hundreds takes a browser twice as long.
    crosses = "".join(
        f"M{x - 0.2:.1f},{y - 0.2:.1f}L{x + 0.2:.1f},{y + 0.2:.1f}"
        f"M{x - 0.2:.1f},{y + 0.2:.1f}L{x + 0.2:.1f},{y - 0.2:.1f}"
        for y, x in (gold.probs == 0).nonzero().tolist()
    )
    cross = {"symbol": "x-thin", "size": 6, "line": {"width": 1, "color": "#888888"}}
    legend = {"x": [None], "y": [None], "mode": "markers", "marker": cross, "name": "forbidden: P is 0"}
    shapes = [
        {"type": "path", "path": crosses, "xref": f"x{axis}", "yref": f"y{axis}", "line": {"width": 1, "color": color}}
        for axis, color in (("", "#888888"), ("2", "#ffffff"))
    ]
    kind = {"type": "category", "showgrid": False, "tickfont": {"size": 9}, "dtick": max(1, vocab // 20)}
    layout = {
        "height": 480,
        "xaxis": {**kind, "domain": [0, 0.46], "title": "P, the truth: next token"},
        "xaxis2": {**kind, "domain": [0.52, 0.98], "title": f"Q, learned by {name}: next token", "anchor": "y2"},
        "yaxis": {**kind, "autorange": "reversed", "title": "previous token"},
        "yaxis2": {**kind, "autorange": "reversed", "anchor": "x2", "showticklabels": False},
        "shapes": shapes if crosses else [],
        "showlegend": True,
    }
    return go.Figure(data=[*maps, legend], layout=layout)


def bigram_tradeoff(lines: Sequence[dict], published: Sequence[dict] = (), chosen: float | None = None) -> go.Figure:
    """Probability wasted on the impossible against distance from the truth, both logarithmic: towards the lower left is
    better. lines: truth.summary's, a curve an objective over its coefficient with its spread over seeds, those without
    avg_0s left out; published: rows of data/published.yaml, hollow; `chosen`: the eta to stress."""
    figure = go.Figure()
    groups: dict[tuple, list[dict]] = {}
    for line in (line for line in lines if line["avg_0s"] is not None):
        groups.setdefault((line["objective"], line.get("estimator")), []).append(line)
    for number, ((objective, estimator), group) in enumerate(groups.items()):
        values = [line.get("eta", line.get("gamma", line.get("alpha"))) for line in group]
        figure.add_scatter(
            x=[line["avg_js"] for line in group],
            y=[line["avg_0s"] for line in group],
            error_x={"type": "data", "array": [line["avg_js_sd"] or 0 for line in group], "thickness": 1, "width": 2},
            error_y={"type": "data", "array": [line["avg_0s_sd"] or 0 for line in group], "thickness": 1, "width": 2},
            mode="lines+markers+text" if len(group) > 1 else "markers",
            text=["" if value in (None, 0.99, 1) else f"{value:g}" for value in values],  # those lie beside MLE
            textposition="bottom center" if objective == "mixce*" else "top center",
            hovertext=[title(line) for line in group],
            hoverinfo="text",
            textfont={"size": 10},
            marker={
                "color": BIGRAM_COLORS[objective],
                "size": [16 if chosen is not None and line.get("eta") == chosen else 8 for line in group],
                "symbol": BIGRAM_SYMBOLS[objective],
            },
            line={"color": BIGRAM_COLORS[objective], "width": 1, "dash": DASHES[number % 4]},
            name=LABELS[objective] + (f" ({estimator})" if estimator else ""),
        )
    if published:
        figure.add_scatter(
            x=[row["avg_js"] for row in published],
            y=[row["avg_0s"] for row in published],
            mode="markers",
            marker={
                "symbol": "diamond-open",
                "size": 12,
                "color": [BIGRAM_COLORS[row["objective"]] for row in published],
                "line": {"width": 2},
            },
            name="the released script, seed 7",
            text=[f"{row['objective']} {row.get('eta', '')}" for row in published],
            hoverinfo="text",
        )
    axis = {"type": "log", "exponentformat": "power", "dtick": 1}
    figure.update_layout(
        xaxis={**axis, "title": "avg. js: distance of Q from P"},
        yaxis={**axis, "title": "avg. 0s: probability of the impossible"},
    )
    return figure.update_layout(height=460)
