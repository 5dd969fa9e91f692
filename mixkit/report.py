"""A study's folder as one self-contained HTML page: it opens without a network and holds no text that a browser runs.
Figures come from charts.py, numbers and sentences from comparisons.py; nothing is computed here but the page."""

import base64
import csv
import gzip
import io
import random
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mixkit.charts import COLORS, LABELS, against_coefficient, frontier, label, number, parallel
from mixkit.comparisons import LEVEL, MODEL_METRICS, TEXT_METRICS, compare_with_mle, findings
from mixkit.escaping import as_html
from mixkit.runs import RunStore, write_atomically
from mixkit.sweeps import Study, records

COLUMNS = {
    "perplexity": "perplexity",
    "mauve": "MAUVE",
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity",
    "distinct_2": "distinct-2",
    "coherence": "coherence",
    "judge_perplexity": "judge perplexity",
    "tales_valid_prefix": "right words",
    "tales_inside": "right texts",
    "tales_forward_kl": "forward KL",
}
SHOWN_PROMPTS = 6
INTERVALS = (
    "Brackets are 95 % intervals: of perplexity, coherence and the n-gram numbers over texts (bootstrap or jackknife), "
    "of MAUVE, precision and recall over sample sets (Student's t). They do not hold the spread over training seeds. "
    "In the human row those three are human texts against other human texts, as many on each side as a run has "
    "prompts: the ceiling at this number of texts, with the range where 95 % of random halvings lie."
)
PAIRED = (
    "Run minus MLE, the mean over prompts of each prompt's difference, with its 95 % bootstrap interval; d is Cohen's "
    "d_z, p the sign-flip p-value after Holm's correction over the runs of a column. Bold: p under 0.05. Here "
    "diversity and rep-n are means over texts; in the table above they are counted over all texts together."
)


def write_report(study: Study, store: RunStore | None = None) -> Path:
    """Writes runs/<study>/report.html from the study's finished runs and returns its path."""
    store = store or RunStore()
    done = records(study, store)
    path = store.root / study.name / "report.html"
    write_atomically(path, page(study, done, {r["name"]: store.samples(study.name, r["name"]) for r in done}))
    return path


def page(study: Study, done: Sequence[dict], samples: dict[str, list[dict]]) -> str:
    """The page's HTML. done: run records; samples: the continuations of each run by its name."""
    names = {r["name"]: label(r) for r in done}
    compared = compare_with_mle(done, samples)
    body = [
        f"<h1>{as_html(study.name)}: quality against diversity</h1>",
        f'<p class="about">{as_html(study.about)}</p>',
        f'<p class="note">{len(done)} of {len(study.runs)} runs are done. {_facts(done)}</p>',
        "<h2>The trade-off</h2>",
        '<p class="note">Up is quality, right is diversity; more diversity is not better beyond the human texts\' own. '
        "Dotted and dash-dotted: MLE when only its sampling temperature or its top-p is turned. An objective is worth "
        "its training where its points lie beyond those curves, towards the star, by more than the intervals. The gray "
        "band is human against human. Click on a point to read what that run writes.</p>",
        _figure(frontier(done, "mauve", "distinct_2"), "MAUVE against distinct 2-grams across texts, as in the table."),
        _figure(frontier(done, "mauve", "diversity"), "MAUVE against diversity within a text, as in the table."),
        "<h2>What the intervals support, and what not</h2>",
        f'<ul class="findings">{"".join(f"<li>{as_html(line)}</li>" for line in findings(done, compared, names))}</ul>',
        "<h2>Numbers</h2>",
        table(done),
        f'<p class="note">{INTERVALS} Click on a heading to sort. '
        f'<a class="controls" download="{as_html(study.name)}.csv" href="{_data_uri(table_csv(done))}">'
        "All numbers as CSV</a></p>",
        "<h2>Beside MLE on the same prompts</h2>",
        compared_table(compared, names),
        f'<p class="note">{PAIRED}</p>',
        "<h2>All axes at once</h2>",
        f'<p class="note key">{_key(done)}Drag along an axis to keep the runs that pass there.</p>',
        _figure(parallel(done), "Parallel coordinates: each run's numbers of the table, an axis a metric."),
        "<h2>What the coefficient does</h2>",
        *(
            _figure(
                against_coefficient(done, metric), f"{metric} against each objective's coefficient, as in the table."
            )
            for metric in ("perplexity", "mauve", "diversity")
        ),
        '<h2 id="samples">The same beginnings, continued</h2>',
        _samples(done, samples),
        "<h2>How this was made</h2>",
        _provenance(study, done),
    ]
    here = Path(__file__).parent
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{as_html(study.name)} · mixkit'
        '</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{(here / 'report.css').read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f'\n<script type="text/plain" id="plotly">{packed}</script>\n'
        f"<script>\n{(here / 'report.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def table(done: Sequence[dict]) -> str:
    """The runs as an HTML table to sort: a row a run, and the human texts' own row at the foot."""
    human = next((r["human"] for r in done if r.get("human")), {})
    columns = [m for m in COLUMNS if any((r["metrics"].get(m) or {}).get("value") is not None for r in done)]
    head = "".join(_heading(title) for title in ("run", *(COLUMNS[m] for m in columns)))
    rows = [_row(label(r), r["parameters"]["objective"], r["metrics"], columns) for r in done]
    foot = f"<tfoot>{_row('human texts', 'human', human, columns)}</tfoot>" if human else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>{foot}</table></div>'


def table_csv(done: Sequence[dict]) -> str:
    """Every number of every run as CSV: value, low and high a metric, empty where absent; the human texts come last."""
    metrics = list(dict.fromkeys(m for r in done for m in r["metrics"]))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["run", "part", *(f"{m}{end}" for m in metrics for end in ("", "_low", "_high"))])
    rows = [(r["name"], r.get("part", ""), r["metrics"]) for r in done]
    rows += [("human", "human", r["human"]) for r in [r for r in done if r.get("human")][:1]]
    for name, part, numbers in rows:
        estimates = (numbers.get(m) or {} for m in metrics)
        writer.writerow([name, part, *(e.get(key) for e in estimates for key in ("value", "low", "high"))])
    return out.getvalue()


def compared_table(compared: Sequence[dict], names: dict[str, str]) -> str:
    """The paired comparisons as an HTML table to sort: a row a run, a column a metric."""
    if not compared:
        return "<p>There is no trained MLE run with samples of the same prompts, so nothing is compared.</p>"
    cells = {(c["run"], c["metric"]): c for c in compared}
    metrics = [m for m in (*TEXT_METRICS, *MODEL_METRICS) if any(c["metric"] == m for c in compared)]
    head = "".join(_heading(title) for title in ("run", *(m.replace("_", "-") for m in metrics)))
    rows = []
    for run in dict.fromkeys(c["run"] for c in compared):
        row = "".join(_difference(cells.get((run, m))) for m in metrics)
        rows.append(f'<tr><td data-value="{as_html(names[run])}">{as_html(names[run])}</td>{row}</tr>')
    return (
        f'<div class="wide"><table class="compared"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heading(title: str) -> str:
    return f'<th scope="col"><button type="button">{as_html(title)}</button></th>'


def _difference(c: dict | None) -> str:
    if c is None:
        return '<td class="n">–</td>'
    held = " held" if c["holm_p"] < LEVEL else ""
    interval = "" if c["low"] is None else f"[{c['low']:+.2g}, {c['high']:+.2g}]"
    effect = "–" if c["effect_size"] is None else f"{c['effect_size']:.2g}"
    return (
        f'<td class="n{held}" data-value="{c["difference"]}">{c["difference"]:+.2g} <span class="interval">{interval}'
        f"<br>d {effect}, p {c['holm_p']:.2g}</span></td>"
    )


def _row(name: str, color: str, metrics: dict, columns: Sequence[str]) -> str:
    estimates = [metrics.get(metric) or {"value": None} for metric in columns]
    values = ("" if e["value"] is None else e["value"] for e in estimates)
    cells = "".join(f'<td class="n" data-value="{v}">{_number(e)}</td>' for v, e in zip(values, estimates, strict=True))
    return f'<tr><td data-value="{as_html(name)}">{_dot(color)}{as_html(name)}</td>{cells}</tr>'


def _dot(color: str) -> str:
    return f'<span class="dot" style="background:{COLORS[color]}"></span>'


def _key(done: Sequence[dict]) -> str:
    present = {r["parameters"]["objective"] for r in done}
    return "".join(f"<span>{_dot(o)}{as_html(name)}</span>" for o, name in LABELS.items() if o in present)


def _data_uri(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def _number(estimate: dict | None) -> str:
    text, _, interval = number(estimate).partition(" ")
    why = (estimate or {}).get("why")
    title = f' title="{as_html(why)}"' if why else ""
    return f"<span{title}>{as_html(text)}</span>" + (
        f' <span class="interval">{as_html(interval)}</span>' if interval else ""
    )


def _samples(done: Sequence[dict], samples: dict[str, list[dict]]) -> str:
    """A few prompts, drawn with a fixed seed: the human's continuation and the first one of each run.

    Runs that are only decoded otherwise are hidden until one is chosen.
    """
    shown = [r for r in done if r.get("part") != "base" and samples.get(r["name"])]
    if not shown:
        return "<p>No run has samples.</p>"
    first = {r["name"]: [s for s in samples[r["name"]] if s["set"] == 0] for r in shown}
    count = min(map(len, first.values()))
    options = "".join(f'<option value="{as_html(r["name"])}">{as_html(label(r))}</option>' for r in shown)
    blocks = [
        f'<p class="note controls"><label>Show <select id="run"><option value="">every trained run</option>{options}'
        "</select> beside the human text</label></p>"
    ]
    for i in sorted(random.Random(0).sample(range(count), min(SHOWN_PROMPTS, count))):
        human = first[shown[0]["name"]][i]
        cards = [_card("human", "human", human["prompt"], as_html(human["human"]), "human", "human")]
        cards += [
            _card(
                label(r),
                r["parameters"]["objective"],
                human["prompt"],
                _written(first[r["name"]][i]),
                r["name"],
                r["part"],
            )
            for r in shown
        ]
        blocks.append(f'<div class="samples">{"".join(cards)}</div>')
    return "".join(blocks)


def _written(sample: dict) -> str:
    """The continuation as HTML, with what the model took back struck through."""
    runs = sample.get("written") or [(sample["generated"], True)]
    return "".join(as_html(text) if stands else f"<s>{as_html(text)}</s>" for text, stands in runs)


def _card(title: str, color: str, prompt: str, continuation: str, run: str, part: str) -> str:
    hidden = " hidden" if part == "decoding" else ""
    return (
        f'<div class="sample" data-run="{as_html(run)}" data-part="{as_html(part)}"{hidden} '
        f'style="border-left:4px solid {COLORS[color]}"><b>{as_html(title)}</b>'
        f'<span class="prompt">{as_html(prompt)}</span>{continuation}</div>'
    )


def _facts(done: Sequence[dict]) -> str:
    if not done:
        return ""
    parameters, facts = done[-1]["parameters"], done[-1].get("resolved", {})
    return (
        f"Corpus <code>{as_html(Path(parameters['corpus']).name)}</code>; MAUVE on features of "
        f"<code>{as_html(facts.get('reader', '?'))}</code>, {as_html(facts.get('prompts', '?'))} prompts, "
        f"{as_html(parameters['sample_sets'])} sample sets."
    )


def _provenance(study: Study, done: Sequence[dict]) -> str:
    if not done:
        return "<p>Nothing has been run.</p>"
    versions = ", ".join(f"{k} {v}" for k, v in done[0]["versions"].items())
    minutes = sum(r["seconds"] for r in done) / 60
    device = done[0].get("resolved", {}).get("device", "?")
    return (
        f'<p class="note">Each run is <code>notebooks/3_finetune.ipynb</code> executed by papermill; its folder '
        f"<code>runs/{as_html(study.name)}/&lt;name&gt;/</code> holds the executed notebook, every parameter, all "
        f"samples and the training log. {minutes:.1f} minutes of runs on {as_html(device)}. {as_html(versions)}.</p>"
    )


def _figure(figure: go.Figure, alternative: str) -> str:
    content = figure.to_json().replace("<", "\\u003c")  # no name of a run can end the script
    return (
        f'<figure><div class="plot" role="img" aria-label="{as_html(alternative)}"></div>'
        f'<script type="application/json">{content}</script></figure>'
    )
