"""Tables of results and cards of samples: plain text, CSV, and HTML in which all texts are escaped."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixkit._common import visible
from mixkit.metrics.definitions import METRICS, TABLE_METRICS
from mixkit.notebook.charts import look
from mixkit.notebook.labels import frame_rows, metric_label, number
from mixkit.studies.compare import LEVEL, controls
from mixkit.studies.records import HUMAN
from mixkit.studies.store import RunRecord, Sample
from mixkit.studies.sweep import aligned, duration

# Autoescape makes markup harmless; `visible` does the same for control characters.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=lambda value: value if isinstance(value, Markup) else visible(value),
)
TEMPLATES.globals |= {"look": look, "number": number, "duration": duration}
TEMPLATES.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
MACROS: Any = TEMPLATES.get_template("macros.html.jinja").module


Samples = Mapping[str, Sequence[Sample]]  # by run name


class SampleCard(NamedTuple):
    """A continuation of a prompt."""

    title: str
    prompt: str
    segments: Sequence[tuple[str, bool]]  # all that was written, in order: (text, whether it is there at the end)
    objective: str = HUMAN  # gives the colour
    run: str = HUMAN  # run and role are for a page whose script chooses among cards
    role: str = HUMAN


class Text(str):
    """Plain text, such as a table. A notebook shows the content in its place."""

    html: str

    def __new__(cls, text: str, content: Markup) -> "Text":
        self = super().__new__(cls, text)
        self.html = MACROS.styled(content)
        return self

    __repr__ = str.__str__

    def _repr_html_(self) -> str:
        return self.html


def prose(text: str) -> Text:
    """Sentences. JupyterLab breaks lines of printed text inside words, but not lines of HTML."""
    return Text(text, MACROS.paragraph(text))


def report_link(report: Path) -> Text:
    """The path of a report; in a notebook a link that holds the page, so that it needs no server for it."""
    return Text(str(report), MACROS.page_link(report.name, report.read_text(encoding="utf-8")))


def results_table(frame: pd.DataFrame) -> Text:
    """The main metrics of every run of results(study), each with its interval. A notebook shows `results_html`."""
    metrics = ["perplexity", "mauve", "diversity", "distinct_2"]
    metrics += [name for name in columns(frame) if name == "valid_prefix_rate" or name not in METRICS]
    rows = [[run["label"], *(number(run["numbers"].get(name)) for name in metrics)] for run in _runs(frame).values()]
    return Text(aligned([["run", *metrics], *rows]), results_html(frame))


def results_csv(frame: pd.DataFrame) -> str:
    """Every number of results(study): one row per run, and per metric the columns value, low and high."""
    wide = frame.pivot(index=["run", "role"], columns="metric", values=["value", "low", "high"])
    order = [(end, metric) for metric in frame["metric"].unique() for end in ("value", "low", "high")]
    wide = wide.loc[frame["run"].unique(), order]
    wide.columns = [metric if end == "value" else f"{metric}_{end}" for end, metric in order]
    return wide.to_csv()


def results_html(frame: pd.DataFrame, *, sortable: bool = False) -> Markup:
    """results(study) as an HTML table, the human texts in its foot. sortable: by a script, so headings are buttons."""
    titles = {metric: metric_label(metric) for metric in columns(frame)}
    return MACROS.results(list(_runs(frame).values()), titles, sortable)


def columns(frame: pd.DataFrame) -> list[str]:
    """The metrics of the table that some run has a value of: TABLE_METRICS, then those that METRICS does not know."""
    measured = {row.metric for row in frame_rows(frame) if row.run != HUMAN and row.value is not None}
    return [name for name in (*TABLE_METRICS, *sorted(measured - METRICS.keys())) if name in measured]


def compared_html(compared: pd.DataFrame, labels: Mapping[str, str]) -> Markup:
    """The result of compare_with_mle as a sortable HTML table, bold if significant. labels: by run name."""
    metrics = compared["metric"].unique().tolist()
    cells = {(row.run, row.metric): row for row in frame_rows(compared)}
    runs = [run for run in compared["run"].unique() if run in labels]
    rows = [(labels[run], [cells.get((run, metric)) for metric in metrics]) for run in runs]
    return MACROS.compared(rows, [metric_label(metric) for metric in metrics], LEVEL)


def frame_html(frame: pd.DataFrame) -> Markup:
    """The frame as an HTML table that scrolls inside the page."""
    html = frame.rename_axis(columns=None).astype(object).where(frame.notna(), "–").to_html(index=False, border=0)
    return Markup(f'<div class="wide">{visible(html)}</div>')  # pandas escapes markup, not control characters


def frame_table(frame: pd.DataFrame) -> Text:
    """The frame as a table."""
    return Text(frame.to_string(index=False, na_rep="–"), frame_html(frame))


def controls_table(frame: pd.DataFrame, metrics: Sequence[str]) -> Text:
    """Each trained run, MLE decoded as its objective, and MLE at the T of equal distinct-2. See `controls`."""
    rows = controls(frame, metrics)
    rows["number"] = [number(row) for row in frame_rows(rows)]
    wide = rows.pivot_table("number", ["run", "texts"], "metric", aggfunc="first", sort=False).reindex(columns=metrics)
    return frame_table(wide.rename(columns=metric_label).reset_index())


def first_sets(done: Sequence[RunRecord], samples: Samples) -> list[tuple[RunRecord, list[Sample]]]:
    """The trained runs that have samples, each with its first sample set."""
    sets = [(run, [sample for sample in samples.get(run.name, ()) if sample.set == 0]) for run in done]
    return [(run, first) for run, first in sets if first and run.role != "base"]


def prompt_cards(sets: Sequence[tuple[RunRecord, Sequence[Sample]]], prompt: int) -> list[SampleCard]:
    """The human continuation and those of `first_sets`, with their own prompts: corpora and lengths may differ."""
    first = sets[0][1][prompt]
    cards = [SampleCard("human", first.prompt, [(first.human, True)])]
    for record, texts in sets:
        text = texts[prompt]
        segments = text.segments or [(text.generated, True)]
        cards.append(SampleCard(record.label, text.prompt, segments, record.config.objective, record.name, record.role))
    return cards


def _runs(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {}
    for row in frame_rows(frame):
        run = runs.setdefault(row.run, {"label": row.label, "objective": row.objective, "numbers": {}})
        run["numbers"][row.metric] = row
    return runs
