"""A study's folder as one self-contained HTML page: it opens without a network and holds no text that a browser runs.
Figures come from charts.py; nothing is computed here but the page."""

import html
import random
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mixkit.charts import COLORS, against_coefficient, frontier, label, number
from mixkit.runs import RunStore, write_atomically
from mixkit.sweeps import Study, records

COLUMNS = {"perplexity": "perplexity", "mauve": "MAUVE", "diversity": "diversity", "distinct_2": "distinct-2"}
SHOWN_PROMPTS = 6
INTERVALS = (
    "Brackets are 95 % intervals: of perplexity and the n-gram numbers over texts (bootstrap or jackknife), of MAUVE "
    "over sample sets (Student's t). They do not hold the spread over training seeds. The human row's MAUVE is human "
    "texts against other human texts: the ceiling at this number of texts. It has no interval."
)

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1a1a1a; max-width: 1060px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.about, .note { color: #555; } .note { font-size: .9rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
td.n { white-space: nowrap; } .interval { color: #777; font-size: .85em; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: .8rem; }
.sample { border: 1px solid #e3e3e3; border-radius: 6px; padding: .6rem .8rem; font-size: .92rem;
  overflow-wrap: anywhere; }
.sample b { display: block; font-size: .8rem; margin-bottom: .2rem; }
.prompt { color: #777; } .sample s { color: #b00020; }
code { font-size: .88em; background: #f4f4f4; padding: .1em .3em; border-radius: 3px; }
@media print { body { max-width: none; margin: 0; } .sample, table, .plotly-graph-div { break-inside: avoid; } }
"""


def write_report(study: Study, store: RunStore | None = None) -> Path:
    """Writes runs/<study>/report.html from the study's finished runs and returns its path."""
    store = store or RunStore()
    done = records(study, store)
    path = store.root / study.name / "report.html"
    write_atomically(path, page(study, done, {r["name"]: store.samples(study.name, r["name"]) for r in done}))
    return path


def page(study: Study, done: Sequence[dict], samples: dict[str, list[dict]]) -> str:
    """The page's HTML. done: run records; samples: the continuations of each run by its name."""
    body = [
        f"<h1>{_text(study.name)}: quality against diversity</h1>",
        f'<p class="about">{_text(study.about)}</p>',
        f'<p class="note">{len(done)} of {len(study.runs)} runs are done. {_facts(done)}</p>',
        "<h2>The trade-off</h2>",
        '<p class="note">Up is quality, right is diversity; more diversity is not better beyond the human texts\' own. '
        "Dotted: MLE when only its sampling temperature is turned. An objective is worth its training where its points "
        "lie beyond that curve, towards the star, by more than the intervals.</p>",
        _figure(frontier(done, "mauve", "distinct_2"), "MAUVE against distinct 2-grams across texts, as in the table."),
        _figure(frontier(done, "mauve", "diversity"), "MAUVE against diversity within a text, as in the table."),
        "<h2>Numbers</h2>",
        table(done),
        f'<p class="note">{INTERVALS}</p>',
        "<h2>What the coefficient does</h2>",
        _figure(against_coefficient(done, "perplexity"), "Perplexity against each objective's coefficient."),
        _figure(against_coefficient(done, "mauve"), "MAUVE against each objective's coefficient."),
        "<h2>The same beginnings, continued</h2>",
        _samples(done, samples),
        "<h2>How this was made</h2>",
        _provenance(study, done),
    ]
    title = f"{_text(study.name)} · mixkit"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def table(done: Sequence[dict]) -> str:
    """The runs as an HTML table: a row a run, and the human texts' own row."""
    head = "".join(f"<th>{title}</th>" for title in ("run", *COLUMNS.values()))
    rows = [_row(label(r), r["parameters"]["objective"], r["metrics"]) for r in done]
    human = next((r["human"] for r in done if r.get("human")), None)
    if human:
        rows.append(_row("human texts", "human", human))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(name: str, color: str, metrics: dict) -> str:
    cells = "".join(f'<td class="n">{_number(metrics.get(metric))}</td>' for metric in COLUMNS)
    return f'<tr><td><span class="dot" style="background:{COLORS[color]}"></span>{_text(name)}</td>{cells}</tr>'


def _number(estimate: dict | None) -> str:
    text, _, interval = number(estimate).partition(" ")
    why = (estimate or {}).get("why")
    title = f' title="{_text(why)}"' if why else ""
    return f"<span{title}>{_text(text)}</span>" + (
        f' <span class="interval">{_text(interval)}</span>' if interval else ""
    )


def _samples(done: Sequence[dict], samples: dict[str, list[dict]]) -> str:
    """A few prompts, drawn with a fixed seed: the human's continuation and the first one of each trained run."""
    shown = [r for r in done if r["part"] == "grid" and samples.get(r["name"])]
    if not shown:
        return "<p>No run has samples.</p>"
    first = {r["name"]: [s for s in samples[r["name"]] if s["set"] == 0] for r in shown}
    count = min(map(len, first.values()))
    blocks = []
    for i in sorted(random.Random(0).sample(range(count), min(SHOWN_PROMPTS, count))):
        human = first[shown[0]["name"]][i]
        cards = [_card("human", "human", human["prompt"], _text(human["human"]))]
        cards += [
            _card(label(r), r["parameters"]["objective"], human["prompt"], _written(first[r["name"]][i])) for r in shown
        ]
        blocks.append(f'<div class="samples">{"".join(cards)}</div><br>')
    return "".join(blocks)


def _written(sample: dict) -> str:
    """The continuation as HTML, with what the model took back struck through."""
    runs = sample.get("written") or [(sample["generated"], True)]
    return "".join(_text(text) if stands else f"<s>{_text(text)}</s>" for text, stands in runs)


def _card(title: str, color: str, prompt: str, continuation: str) -> str:
    return (
        f'<div class="sample" style="border-left:4px solid {COLORS[color]}"><b>{_text(title)}</b>'
        f'<span class="prompt">{_text(prompt)}</span>{continuation}</div>'
    )


def _facts(done: Sequence[dict]) -> str:
    if not done:
        return ""
    parameters, facts = done[-1]["parameters"], done[-1].get("resolved", {})
    return (
        f"Corpus <code>{_text(Path(parameters['corpus']).name)}</code>; MAUVE on features of "
        f"<code>{_text(facts.get('reader', '?'))}</code>, {_text(facts.get('prompts', '?'))} prompts, "
        f"{_text(parameters['sample_sets'])} sample sets."
    )


def _provenance(study: Study, done: Sequence[dict]) -> str:
    if not done:
        return "<p>Nothing has been run.</p>"
    versions = ", ".join(f"{k} {v}" for k, v in done[0]["versions"].items())
    minutes = sum(r["seconds"] for r in done) / 60
    device = done[0].get("resolved", {}).get("device", "?")
    return (
        f'<p class="note">Each run is <code>notebooks/3_finetune.ipynb</code> executed by papermill; its folder '
        f"<code>runs/{_text(study.name)}/&lt;name&gt;/</code> holds the executed notebook, every parameter, all "
        f"samples and the training log. {minutes:.1f} minutes of runs on {_text(device)}. {_text(versions)}.</p>"
    )


def _figure(figure: go.Figure, alternative: str) -> str:
    chart = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
    return f'<div role="img" aria-label="{_text(alternative)}">{chart}</div>'


def _text(value: object) -> str:
    """Whatever a model, a file or a user wrote, as text: control characters out, HTML's own characters escaped."""
    plain = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
    return html.escape(plain)
