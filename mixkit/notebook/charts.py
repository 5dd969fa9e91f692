"""Run records in, plotly figures out: pure functions. One fixed colour an objective, everywhere.
Nothing here reads files, computes metrics or knows of widgets."""

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap

import plotly.graph_objects as go
import plotly.io as pio

from mixkit.notebook.placing import text_positions
from mixkit.studies.compare import decoding_curves, pareto_front
from mixkit.studies.config import COEFFICIENTS, FINETUNE

WHITE = pio.templates["plotly_white"].to_plotly_json()
# The kit's looks: of plotly_white what our figures use. The whole of it would be most of a small figure, and copied
# each time that one is drawn.
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

# Okabe and Ito's palette: told apart by colour-blind readers too; the symbols tell them apart without colour.
COLORS = {
    "mle": "#0072B2",
    "mixce": "#D55E00",
    "tailr": "#009E73",
    "sequencematch": "#CC79A7",
    "mle-backspace": "#56B4E9",
    "human": "#000000",
}
SYMBOLS = {
    "mle": "circle",
    "mixce": "square",
    "tailr": "triangle-up",
    "sequencematch": "diamond",
    "mle-backspace": "circle-x",
    "human": "star",
}
LABELS = {
    "mle": "MLE",
    "mixce": "MixCE",
    "tailr": "TaiLr",
    "sequencematch": "SequenceMatch",
    "mle-backspace": "MLE with backspace",
}
COEFFICIENT = {
    "mixce": ("eta", "η"),
    "tailr": ("gamma", "γ"),
    "sequencematch": ("alpha", "α"),
    "mle-backspace": ("noise_rate", "noise"),
}
UNSAID = {"w_min": 0.0, **{name: FINETUNE[name].default for name in ("discount", "divergence")}}  # by a label
AXES = {
    "perplexity": "perplexity on held-out texts (lower is better)",
    "mauve": "MAUVE (1 = as the human texts)",
    "diversity": "diversity within a text: ∏(1 − rep-n), n = 2..4",
    "distinct_2": "diversity across texts: distinct 2-grams in equally many words",
    "precision": "precision: generated texts among the human ones",
    "recall": "recall: human texts among the generated ones",
    "self_bleu_4": "self-BLEU-4 (lower is more diverse)",
    "ngram_entropy_2": "entropy of 2-grams",
    "coherence": "coherence: cosine of prompt and continuation",
    "judge_perplexity": "perplexity under the judge (lower is better)",
    "valid_prefix_rate": "words before a text's first mistake, share of all",
    "valid_text_rate": "texts without a mistake, share of all",
    "forward_kl": "forward KL from the true distribution, nats a text (lower is better)",
}
QUALITIES = (
    "mauve",
    "precision",
    "perplexity",
    "coherence",
    "judge_perplexity",
    "valid_prefix_rate",
    "valid_text_rate",
)
QUALITIES += ("forward_kl",)
DIVERSITIES = ("distinct_2", "diversity", "recall", "self_bleu_4", "ngram_entropy_2")
LOWER_IS_BETTER = (
    "perplexity",
    "judge_perplexity",
    "frontier_integral",
    "forward_kl",
    "forward_ce",
    "rule_usage_tv",
    "rep_2",
    "rep_3",
    "rep_4",
    "repetition_loops",
)
LOWER_IS_BETTER += ("self_bleu_2", "self_bleu_3", "self_bleu_4", "compression_ratio")
NO_DIRECTION = ("length", "zipf_coefficient", "grammar_nll")  # neither end is better
DECODING_PARAMETERS = {
    "temperature": ("temperature", "dot"),
    "top_p": ("top-p", "dashdot"),
}  # how MLE is decoded: name, its line
PARALLEL = ("perplexity", "mauve", "precision", "recall", "diversity", "distinct_2", "self_bleu_4", "coherence")
PARALLEL += ("judge_perplexity",)


def label(record: dict) -> str:
    """The run in a few words: `MixCE η=0.1`, `TaiLr γ=0.1, w_min=0.2`, `MLE, temperature 0.7`.

    It tells the objective's first coefficient, and the others of its loss where they are not what is UNSAID.
    """
    parameters = record["parameters"]
    text = "base (MLE)" if record.get("role") == "base" else LABELS[parameters["objective"]]
    if parameters["objective"] in COEFFICIENT:
        name, letter = COEFFICIENT[parameters["objective"]]
        text += f" {letter}={parameters[name]:g}"
    for name in COEFFICIENTS[parameters["objective"]][1:]:
        if name in UNSAID and parameters[name] != UNSAID[name]:
            text += f", {parameters[name]}" if name == "divergence" else f", {name}={parameters[name]:g}"
    if parameters["temperature"] != 1:
        text += f", temperature {parameters['temperature']:g}"
    if parameters["top_p"] != 1:
        text += f", top-p {parameters['top_p']:g}"
    if parameters["top_k"]:
        text += f", top-k {parameters['top_k']}"
    return text + (f", seed {parameters['seed']}" if parameters["seed"] else "")


def measured(records: Sequence[dict], metrics: Sequence[str] = ()) -> list[str]:
    """Those of `metrics`, or all, that some trained run has a value of."""
    trained = [r for r in records if r.get("role") != "base"]
    names = metrics or sorted({m for r in trained for m in r["metrics"]})
    return [m for m in names if any(_value(r, m) is not None for r in trained)]


def chosen_pair(records: Sequence[dict]) -> tuple[str, str]:
    """(quality, diversity) that are shown first: of each the first that some trained run has a value of."""
    return tuple((measured(records, metrics) or metrics)[0] for metrics in (QUALITIES, DIVERSITIES))


def number(estimate: dict | None, digits: int = 3) -> str:
    """An estimate as text: `0.912 [0.903, 0.921]`, or `–` where it is absent."""
    if not estimate or estimate["value"] is None:
        return "–"
    text = f"{estimate['value']:.{digits}g}"
    if estimate["low"] is None:
        return text
    return f"{text} [{estimate['low']:.{digits}g}, {estimate['high']:.{digits}g}]"


def frontier(records: Sequence[dict], quality: str = "mauve", diversity: str = "diversity") -> go.Figure:
    """Quality against diversity: a point a run with its intervals, the curves of MLE under other temperatures and
    top-p, and the human texts' own point with the human-against-human ceiling; a ring around each run that no other
    surpasses on both axes, by value, diversity counted up to the human texts' own; none where an axis has no better
    end. The honest question is what lies beyond those curves."""
    shown = [r for r in records if _value(r, quality) is not None and _value(r, diversity) is not None]
    trained = [r for r in shown if r.get("role") != "base"]
    curves = decoding_curves(shown)
    traces = [
        {
            "x": [_value(r, diversity) for r in curve],
            "y": [_value(r, quality) for r in curve],
            "mode": "lines",
            "line": {"color": COLORS["mle"], "width": 1.5, "dash": DECODING_PARAMETERS[knob][1]},
            "name": f"MLE, only its {DECODING_PARAMETERS[knob][0]} turned",
            "legendgroup": knob,
            "showlegend": knob not in [earlier for earlier, *_ in curves[:i]],
            "hoverinfo": "skip",
        }
        for i, (knob, _, curve) in enumerate(curves)
    ]
    cap = (_people(shown).get(diversity) or {}).get("value")
    best = pareto_front(trained, quality, diversity, LOWER_IS_BETTER, cap=cap)
    if best and not {quality, diversity} & {*NO_DIRECTION}:
        traces.append(
            {
                "x": [_value(r, diversity) for r in best],
                "y": [_value(r, quality) for r in best],
                "mode": "markers",
                "marker": {"size": 21, "symbol": "circle-open", "color": "#999999", "line": {"width": 1.5}},
                "name": "no run is better on both axes",
                "hoverinfo": "skip",
            }
        )
    for role, name in (("decoding", "mle"), *(("grid", name) for name in LABELS)):
        group = [r for r in trained if r.get("role", "grid") == role and r["parameters"]["objective"] == name]
        if group:
            traces.append(_points(group, quality, diversity, name, hollow=role == "decoding"))
    human, layout = _human(shown, quality, diversity)
    curved = [trace for trace in traces if trace["mode"] == "lines"]
    _place_texts([trace for trace in traces if "text" in trace], human, curved)
    layout |= {"xaxis": {"title": AXES.get(diversity, diversity)}, "yaxis": {"title": AXES.get(quality, quality)}}
    # Room for three rows of legend: where a legend moves the margin, plotly leaves it on the plot after a resize.
    layout |= {"height": 590, "margin": {"t": 100}}
    return go.Figure(data=[*traces, *human], layout=layout)  # at once: additions cost most of it


def against_coefficient(records: Sequence[dict], metric: str) -> go.Figure:
    """A metric against the coefficient of each objective, as MixCE's eta and TaiLr's gamma, with MLE as a line; of
    several seeds each has its own curves and line."""
    figure = go.Figure()
    trained = [r for r in records if r.get("role", "grid") == "grid" and _value(r, metric) is not None]
    for name, (coefficient, letter) in COEFFICIENT.items():
        for i, group in enumerate(_by_seed(trained, name)):
            group = sorted(group, key=lambda r: r["parameters"][coefficient])
            figure.add_trace(
                go.Scatter(
                    x=[f"{letter}={r['parameters'][coefficient]:g}" for r in group],
                    y=[_value(r, metric) for r in group],
                    error_y=_interval(group, metric, COLORS[name]),
                    mode="lines+markers",
                    marker={"color": COLORS[name], "symbol": SYMBOLS[name], "size": 11},
                    line={"color": COLORS[name], "width": 1},
                    name=f"{LABELS[name]} by {letter}",
                    legendgroup=name,
                    showlegend=i == 0,
                    customdata=[r["name"] for r in group],
                    hovertext=[f"{label(r)}<br>{number(r['metrics'][metric])}" for r in group],
                    hoverinfo="text",
                )
            )
    for i, (mle, *_) in enumerate(_by_seed(trained, "mle")):
        name = {} if i else {"annotation_text": "MLE"}
        figure.add_hline(y=_value(mle, metric), line={"color": COLORS["mle"], "dash": "dot"}, **name)
    figure.update_yaxes(title="<br>".join(wrap(AXES.get(metric, metric), 32)))
    return figure.update_layout(height=380)


def _by_seed(records: Sequence[dict], objective: str) -> list[list[dict]]:
    """The records of that objective, a list a seed."""
    groups: dict[int, list[dict]] = {}
    for r in (r for r in records if r["parameters"]["objective"] == objective):
        groups.setdefault(r["parameters"]["seed"], []).append(r)
    return [groups[seed] for seed in sorted(groups)]


def parallel(records: Sequence[dict], metrics: Sequence[str] = PARALLEL) -> go.Figure:
    """Parallel coordinates: a line a run through its value on each axis, in its objective's colour; drag along an axis
    to keep the runs that pass there. A metric that a run lacks has no axis."""
    shown = [r for r in records if r.get("role") != "base"]
    kept = [m for m in metrics if shown and all(_value(r, m) is not None for r in shown)]
    objectives = [o for o in LABELS if o in {r["parameters"]["objective"] for r in shown}]
    last = max(1, len(objectives) - 1)
    figure = go.Figure()
    if kept:
        scale = [(i / last, COLORS[o]) for i, o in enumerate(objectives)]
        scale += [(1.0, scale[0][1])] * (len(scale) == 1)
        figure.add_trace(
            go.Parcoords(
                line={
                    "color": [objectives.index(r["parameters"]["objective"]) for r in shown],
                    "colorscale": scale,
                    "cmin": 0,
                    "cmax": last,
                },
                dimensions=[{"label": m.replace("_", " "), "values": [_value(r, m) for r in shown]} for m in kept],
                labelfont={"size": 13},
            )
        )
    return figure.update_layout(height=420, margin={"l": 60, "r": 60, "t": 60, "b": 40})


def _points(group: list[dict], quality: str, diversity: str, name: str, *, hollow: bool) -> dict:
    coefficient = COEFFICIENT.get(name)
    if hollow:
        texts = [label(r).split(", ", 1)[-1].replace("temperature ", "T=") for r in group]
    else:
        texts = [f"{coefficient[1]}={r['parameters'][coefficient[0]]:g}" if coefficient else "MLE" for r in group]
    return {
        "x": [_value(r, diversity) for r in group],
        "y": [_value(r, quality) for r in group],
        "error_x": _interval(group, diversity, COLORS[name]),
        "error_y": _interval(group, quality, COLORS[name]),
        "mode": "markers+text",
        "text": texts,
        "textfont": {"size": 11, "color": COLORS[name]},
        "marker": {
            "color": "white" if hollow else COLORS[name],
            "symbol": SYMBOLS[name],
            "size": 9 if hollow else 12,
            "line": {"color": COLORS[name], "width": 1.5},
        },
        "name": f"{LABELS[name]}, decoded otherwise" if hollow else LABELS[name],
        "customdata": [r["name"] for r in group],
        "hovertext": [
            f"<b>{label(r)}</b><br>{quality} {number(r['metrics'][quality])}<br>"
            f"{diversity} {number(r['metrics'][diversity])}<br>perplexity {number(r['metrics'].get('perplexity'))}"
            for r in group
        ],
        "hoverinfo": "text",
    }


def _place_texts(traces: list[dict], others: list[dict], curved: list[dict]) -> None:
    """Each text of the traces to the side of its point where it covers least of these, other points and curves."""
    places, bars = [], []
    for points in (list(zip(trace["x"], trace["y"], strict=True)) for trace in curved):
        for start, end in pairwise(points):  # a slanting line as dots
            dots = [[a + (b - a) * t / 20 for a, b in zip(start, end, strict=True)] for t in range(21)]
            bars += [(*dot, *dot) for dot in dots]
    for trace in traces:
        for i, (x, y) in enumerate(zip(trace["x"], trace["y"], strict=True)):
            places.append(((x, y), trace["text"][i]))
            ends = [(t["arrayminus"][i] or 0, t["array"][i] or 0) for t in (trace["error_x"], trace["error_y"])]
            bars += [(x - ends[0][0], y, x + ends[0][1], y), (x, y - ends[1][0], x, y + ends[1][1])]
    places += [(point, "") for trace in others for point in zip(trace["x"], trace["y"], strict=True)]
    sides = iter(text_positions(*zip(*places, strict=True), bars) if places else ())
    for trace in traces:
        trace["textposition"] = [next(sides) for _ in trace["x"]]


def _human(records: list[dict], quality: str, diversity: str) -> tuple[list[dict], dict]:
    """The human texts' point, and the layout's lines through it, with the band of human against human."""
    human = _people(records)
    x, y = ((human.get(metric) or {}).get("value") for metric in (diversity, quality))
    shapes, notes = [], []
    across = {"xref": "x domain", "x0": 0, "x1": 1, "yref": "y"}
    gray = {"type": "line", "line": {"color": "#666666", "width": 1, "dash": "dash"}}
    if y is not None:
        against = human[quality].get("over") == "halvings"
        low, high = (human[quality].get(end) for end in ("low", "high"))
        if against and low is not None:
            band = {"type": "rect", "fillcolor": "#666666", "opacity": 0.1, "line": {"width": 0}}
            shapes.append({**band, **across, "y0": low, "y1": high})
        shapes.append({**gray, **across, "y0": y, "y1": y})
        ceiling = {"text": "human against human" if against else "human texts", "x": 0, "xref": "x domain", "y": y}
        notes.append({**ceiling, "xanchor": "left", "yanchor": "top", "showarrow": False})
    if x is not None:
        shapes.append({**gray, "yref": "y domain", "y0": 0, "y1": 1, "xref": "x", "x0": x, "x1": x})
        own = {"text": "human", "x": x, "y": 0, "yref": "y domain"}
        notes.append({**own, "xanchor": "left", "yanchor": "bottom", "showarrow": False})
    layout = {"shapes": shapes, "annotations": notes}
    if x is None or y is None:
        return [], layout
    point = {
        "x": [x],
        "y": [y],
        "mode": "markers",
        "name": "human texts",
        "marker": {"color": COLORS["human"], "symbol": SYMBOLS["human"], "size": 15},
        "hovertext": f"<b>human texts</b><br>{quality} {number(human[quality])}<br>"
        f"{diversity} {number(human[diversity])}",
        "hoverinfo": "text",
    }
    return [point], layout


def _people(records: Sequence[dict]) -> dict[str, dict]:
    """The human texts' numbers; empty where no record has them."""
    return next((r["human"] for r in records if r.get("human")), {})


def _value(record: dict, metric: str) -> float | None:
    return (record["metrics"].get(metric) or {}).get("value")


def _interval(group: list[dict], metric: str, color: str) -> dict:
    estimates = [r["metrics"][metric] for r in group]
    ends = [(e["value"], e["low"], e["high"]) for e in estimates]
    return {
        "type": "data",
        "symmetric": False,
        "array": [0 if high is None else high - value for value, _, high in ends],
        "arrayminus": [0 if low is None else value - low for value, low, _ in ends],
        "color": color,  # of its own: a hollow marker's would be white
        "thickness": 1,
        "width": 3,
    }
