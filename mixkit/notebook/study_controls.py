"""Panels over a finished study, for notebook 6: its numbers sorted, its samples side by side.
They choose among records and samples; the HTML is fragments.py's, figures are charts.py's."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from mixkit._common import as_html, unknown
from mixkit.notebook.charts import label
from mixkit.notebook.tables import COLUMNS, cards, data_uri, table, table_csv

STYLE = (
    "<style>.mixkit td, .mixkit th {padding: 2px 10px; text-align: left; white-space: nowrap}"
    ".mixkit .interval, .mixkit .prompt {color: #777; font-size: .9em} .mixkit .sample b {display: block}"
    ".mixkit .dot {display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .5em}"
    ".mixkit .samples {display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 10px}"
    ".mixkit .sample {border: 1px solid #8884; padding: 6px 10px; line-height: 1.4; white-space: pre-wrap}"
    ".mixkit .sample s {color: #b00020} .mixkit [hidden] {display: none} .mixkit a {text-decoration: underline}</style>"
)


def check_metrics(done: Sequence[dict], *names: str) -> None:
    """Raises InputError unless each of the names is a metric of the runs, with a value or absent with its reason."""
    known = sorted({m for r in done for m in r["metrics"]})
    for name in names:
        if name not in known:
            raise unknown("metric", name, known)


def numbers(done: Sequence[dict], name: str) -> widgets.VBox:
    """The study's table, sorted by the metric that is chosen, down; and all numbers as CSV under `name`."""
    columns = [m for m in COLUMNS if any((r["metrics"].get(m) or {}).get("value") is not None for r in done)]
    menu = widgets.Dropdown(options=[("the study's order", ""), *((COLUMNS[m], m) for m in columns)], description="by")
    view = widgets.HTML()
    link = f'<a download="{as_html(name)}.csv" href="{data_uri(table_csv(done))}">All numbers as CSV</a>'

    def draw(change=None) -> None:
        values = [(r["metrics"].get(menu.value) or {}).get("value") for r in done]
        order = sorted(range(len(done)), key=lambda i: (values[i] is None, -(values[i] or 0)))
        view.value = f'{STYLE}<div class="mixkit">{table([done[i] for i in order])}{link}</div>'

    menu.observe(draw, "value")
    draw()
    return widgets.VBox([menu, view])


def samples(done: Sequence[dict], written_by: Mapping[str, Sequence[dict]]) -> widgets.VBox:
    """One prompt's continuations side by side: the human's, and the first of each trained run or of the one chosen;
    what a model took back is struck through. written_by: by run name, the lines of its samples.jsonl."""
    first = {r["name"]: [s for s in written_by.get(r["name"], ()) if s["set"] == 0] for r in done}
    shown = [r for r in done if r.get("role") != "base" and first[r["name"]]]
    if not shown:
        return widgets.VBox([widgets.HTML("<p>No run has samples.</p>")])
    count = min(len(first[r["name"]]) for r in shown)
    prompt = widgets.IntSlider(0, 0, count - 1, description="prompt", continuous_update=False)
    runs = [("every trained run", ""), *((label(r), r["name"]) for r in shown)]
    menu = widgets.Dropdown(options=runs, description="run")
    view = widgets.HTML()

    def draw(change=None) -> None:
        human = first[shown[0]["name"]][prompt.value]
        chosen = [r for r in shown if r["name"] == menu.value or (not menu.value and r.get("role") != "decoding")]
        made = cards(human, [(r, first[r["name"]][prompt.value]) for r in chosen])
        view.value = f'{STYLE}<div class="mixkit"><div class="samples">{made}</div></div>'

    for widget in (prompt, menu):
        widget.observe(draw, "value")
    draw()
    return widgets.VBox([widgets.HBox([prompt, menu]), view])
