"""Pieces of HTML about runs: tables, CSV, samples. The report and notebook 6 show the same ones.
Texts are escaped here; pages, figures and widgets are made elsewhere."""

import base64
import csv
import io
from collections.abc import Iterable, Sequence

from mixkit._common import as_html
from mixkit.notebook.charts import COLORS, label, number
from mixkit.studies.compare import LEVEL, MODEL_METRICS, TEXT_METRICS

COLUMNS = {
    "perplexity": "perplexity",
    "mauve": "MAUVE",
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity",
    "distinct_2": "distinct-2",
    "coherence": "coherence",
    "judge_perplexity": "judge perplexity",
    "valid_prefix_rate": "right words",
    "valid_text_rate": "right texts",
    "forward_kl": "forward KL",
}


def table(done: Sequence[dict], *, sortable: bool = False) -> str:
    """The runs as an HTML table: a row a run, and the human texts' own row at the foot.

    sortable: headings are buttons, for a page whose script sorts.
    """
    human = next((r["human"] for r in done if r.get("human")), {})
    columns = [m for m in COLUMNS if any((r["metrics"].get(m) or {}).get("value") is not None for r in done)]
    titles = ("run", *(COLUMNS[m] for m in columns))
    head = "".join(_heading(t) if sortable else f'<th scope="col">{as_html(t)}</th>' for t in titles)
    rows = [_row(label(r), r["parameters"]["objective"], r["metrics"], columns) for r in done]
    foot = f"<tfoot>{_row('human texts', 'human', human, columns)}</tfoot>" if human else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>{foot}</table></div>'


def table_csv(done: Sequence[dict]) -> str:
    """Every number of every run as CSV: value, low and high a metric, empty where absent; the human texts come last."""
    metrics = list(dict.fromkeys(m for r in done for m in r["metrics"]))
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["run", "role", *(f"{m}{end}" for m in metrics for end in ("", "_low", "_high"))])
    rows = [(r["name"], r.get("role", ""), r["metrics"]) for r in done]
    rows += [("human", "human", r["human"]) for r in [r for r in done if r.get("human")][:1]]
    for name, role, numbers in rows:
        estimates = (numbers.get(m) or {} for m in metrics)
        writer.writerow([name, role, *(e.get(key) for e in estimates for key in ("value", "low", "high"))])
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
    return f'<tr><td data-value="{as_html(name)}">{dot(color)}{as_html(name)}</td>{cells}</tr>'


def dot(color: str) -> str:
    return f'<span class="dot" style="background:{COLORS[color]}"></span>'


def data_uri(text: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def _number(estimate: dict | None) -> str:
    text, _, interval = number(estimate).partition(" ")
    why = (estimate or {}).get("why")
    title = f' title="{as_html(why)}"' if why else ""
    return f"<span{title}>{as_html(text)}</span>" + (
        f' <span class="interval">{as_html(interval)}</span>' if interval else ""
    )


def segments(sample: dict) -> str:
    """The continuation as HTML, with what the model took back struck through."""
    runs = sample.get("segments") or [(sample["generated"], True)]
    return "".join(as_html(text) if stands else f"<s>{as_html(text)}</s>" for text, stands in runs)


def cards(human: dict, by_run: Iterable[tuple[dict, dict]], *, hide_decoded: bool = False) -> str:
    """The sample `human`'s human continuation, then a card for each (run record, its sample) of `by_run`.

    Each stands after its own prompt: runs may differ in the corpus or in the length of prompts. hide_decoded: cards of
    runs that are only decoded otherwise are hidden.
    """
    made = [_card("human", "human", human["prompt"], as_html(human["human"]), "human", "human")]
    for r, sample in by_run:
        name, role = r["parameters"]["objective"], r.get("role", "grid")
        hidden = hide_decoded and role == "decoding"
        made.append(_card(label(r), name, sample["prompt"], segments(sample), r["name"], role, hidden=hidden))
    return "".join(made)


def _card(title: str, color: str, prompt: str, continuation: str, run: str, role: str, *, hidden: bool = False) -> str:
    """A box with a title, a prompt and what followed it. `continuation` is HTML already, the others are text."""
    return (
        f'<div class="sample" data-run="{as_html(run)}" data-part="{as_html(role)}"{" hidden" * hidden} '
        f'style="border-left:4px solid {COLORS[color]}"><b>{as_html(title)}</b>'
        f'<span class="prompt">{as_html(prompt)}</span>{continuation}</div>'
    )
