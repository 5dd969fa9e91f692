"""A study's folder as one self-contained HTML page: it opens without a network and holds no text that a browser runs.
Figures come from charts.py, numbers and sentences from comparisons.py; nothing is computed here but the page."""

import base64
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mixkit._common import as_html, write_atomically
from mixkit.notebook.charts import (
    AXES,
    DIVERSITIES,
    LABELS,
    QUALITIES,
    against_coefficient,
    chosen_pair,
    frontier,
    label,
    measured,
    parallel,
)
from mixkit.notebook.tables import cards, compared_table, data_uri, dot, table, table_csv
from mixkit.studies.compare import compare_with_mle, findings
from mixkit.studies.plan import Study, outdated
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import records

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
    """Writes runs/<study>/report.html from the study's finished runs and returns its path; what is up to date stays."""
    store = store or RunStore()
    folder = store.root / study.name
    path = folder / "report.html"
    if not outdated(path, folder):
        return path
    done = records(study, store)
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
        _axes_menus(done),
        '<div id="tradeoff">',
        _figure(frontier(done, *chosen_pair(done)), "Quality against diversity, as in the table."),
        "</div>",
        "<h2>What the intervals support, and what not</h2>",
        f'<ul class="findings">{"".join(f"<li>{as_html(line)}</li>" for line in findings(done, compared, names))}</ul>',
        "<h2>Numbers</h2>",
        table(done, sortable=True),
        f'<p class="note">{INTERVALS} Click on a heading to sort. '
        f'<a class="controls" download="{as_html(study.name)}.csv" href="{data_uri(table_csv(done))}">'
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
        _pairs(done),
    ]
    here = Path(__file__).parent
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{as_html(study.name)} · mixkit'
        '</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{(here / 'report.css').read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n{_packed('plotly', get_plotlyjs())}\n"
        f"<script>\n{(here / 'report.js').read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def _key(done: Sequence[dict]) -> str:
    present = {r["parameters"]["objective"] for r in done}
    return "".join(f"<span>{dot(o)}{as_html(name)}</span>" for o, name in LABELS.items() if o in present)


def _samples(done: Sequence[dict], samples: dict[str, list[dict]]) -> str:
    """A few prompts, drawn with a fixed seed: the human's continuation and the first one of each run.

    One prompt is seen at a time, all in print. Runs that are only decoded otherwise are hidden until one is chosen.
    """
    shown = [r for r in done if r.get("role") != "base" and samples.get(r["name"])]
    if not shown:
        return "<p>No run has samples.</p>"
    first = {r["name"]: [s for s in samples[r["name"]] if s["set"] == 0] for r in shown}
    count = min(map(len, first.values()))
    options = "".join(f'<option value="{as_html(r["name"])}">{as_html(label(r))}</option>' for r in shown)
    drawn = sorted(random.Random(0).sample(range(count), min(SHOWN_PROMPTS, count)))
    beginnings = (f"<option>{as_html(first[shown[0]['name']][i]['prompt'][:60])} …</option>" for i in drawn)
    blocks = [
        f'<p class="note controls"><label>Continue <select id="prompt">{"".join(beginnings)}</select></label> '
        f'<label>by <select id="run"><option value="">every trained run</option>{options}</select></label></p>'
    ]
    for i in drawn:
        by_run = [(r, first[r["name"]][i]) for r in shown]
        made = cards(by_run[0][1], by_run, hide_decoded=True)
        blocks.append(f'<div class="samples"{" hidden" * (i != drawn[0])}>{made}</div>')
    return "".join(blocks)


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


def _axes_menus(done: Sequence[dict]) -> str:
    """Two menus over the metrics that the runs have; report.js draws the pair that is chosen."""
    menus = []
    for axis, metrics, chosen in zip(("up", "right"), (QUALITIES, DIVERSITIES), chosen_pair(done), strict=True):
        options = (
            f'<option value="{m}"{" selected" * (m == chosen)}>{as_html(AXES[m])}</option>'
            for m in measured(done, metrics)
        )
        menus.append(f'<label>{axis} <select id="{axis}">{"".join(options)}</select></label>')
    return f'<p class="note controls">{" ".join(menus)}</p>'


def _pairs(done: Sequence[dict]) -> str:
    """The frontier of every quality against every diversity, packed, without the template that all figures share."""
    drawn = {}
    for quality in measured(done, QUALITIES):
        for diversity in measured(done, DIVERSITIES):
            figure = frontier(done, quality, diversity).update_layout(template=None)
            drawn[f"{quality} {diversity}"] = json.loads(figure.to_json())
    return _packed("pairs", json.dumps(drawn, separators=(",", ":")))


def _packed(name: str, text: str) -> str:
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    return f'<script type="text/plain" id="{name}">{packed}</script>'


def _figure(figure: go.Figure, alternative: str) -> str:
    content = figure.to_json().replace("<", "\\u003c")  # no name of a run can end the script
    return (
        f'<figure><div class="plot" role="img" aria-label="{as_html(alternative)}"></div>'
        f'<script type="application/json">{content}</script></figure>'
    )
