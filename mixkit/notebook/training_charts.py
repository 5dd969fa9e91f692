"""Curves of a training, from the lines of training.jsonl: pure functions, as in charts.py.
Apart from it, as these show steps, not finished runs."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mixkit.notebook.charts import COEFFICIENT, COLORS, LABELS, label

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
POINTS = 60  # of a run's curve: what is averaged into one is noise to the eye


def training_curve(history: Sequence[dict]) -> go.Figure:
    """Training nll and objective by step, and the validation nll at each evaluation; all in nats per token."""
    figure = go.Figure()
    for key, name, mode, color in (
        ("loss", "objective (training)", "lines", "#999999"),
        ("nll", "nll (training)", "lines", "#56B4E9"),
        ("validation_nll", "nll (validation)", "lines+markers", "#D55E00"),
    ):
        points = [(line["step"], line[key]) for line in history if key in line]
        if points:
            x, y = zip(*points, strict=True)
            figure.add_trace(go.Scatter(x=x, y=y, mode=mode, name=name, line={"color": color}))
    figure.update_xaxes(title="optimizer step")
    figure.update_yaxes(title="nats per token")
    return figure.update_layout(height=380)


def training_curves(runs: Sequence[dict], histories: Mapping[str, Sequence[dict]], key: str = "nll") -> go.Figure:
    """`nll` or `loss` of several runs against the optimizer step, in their objectives' colours, by their coefficients.

    runs: {name, part, parameters}; histories: by run name, the lines of its training.jsonl so far. The base run is
    left out once a run that starts from it has a line. Neighbouring steps are averaged, so that a run has at most 60.
    """
    begun = [r for r in runs if any(key in line for line in histories.get(r["name"], ()))]
    shown = [r for r in begun if r["role"] != "base"] or begun
    figure = go.Figure()
    count = dict.fromkeys(COLORS, 0)
    for run in shown:
        name = run["parameters"]["objective"]
        x, y = _thinned([(line["step"], line[key]) for line in histories[run["name"]] if key in line])
        coefficient = COEFFICIENT.get(name)
        told = f"{coefficient[1]}={run['parameters'][coefficient[0]]:g}" if coefficient else LABELS[name]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+text",
                text=[*[""] * (len(x) - 1), f" {told}"],
                textposition="middle right",
                textfont={"size": 11, "color": COLORS[name]},
                cliponaxis=False,
                line={"color": COLORS[name], "width": 1.8, "dash": DASHES[count[name] % len(DASHES)]},
                name=LABELS[name],
                legendgroup=name,
                showlegend=not count[name],
                hovertemplate=f"{label(run)}<br>step %{{x:.0f}}: %{{y:.3f}}<extra></extra>",
            )
        )
        count[name] += 1
    figure.update_xaxes(title="optimizer step")
    figure.update_yaxes(title=f"{'objective' if key == 'loss' else key} in training, nats per token")
    return figure.update_layout(height=380, margin={"r": 70}, uirevision="training")


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    size = -(-len(points) // POINTS)
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    means = [[sum(values) / len(values) for values in zip(*b, strict=True)] for b in bins]
    return [x for x, _ in means], [y for _, y in means]
