"""A study's report: one HTML page that needs no network."""

import base64
import gzip
import json
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from mixkit._common import write_atomically
from mixkit.metrics.definitions import METRICS, definition
from mixkit.notebook import charts, tables
from mixkit.notebook.blind_test import draw_pairs
from mixkit.studies.compare import compare_with_mle, conclusion, verdicts
from mixkit.studies.plan import Study
from mixkit.studies.records import records, results_frame
from mixkit.studies.store import RunRecord, RunStore

NUM_PROMPTS = 6  # with samples on the page
NUM_PAIRS = 40  # of its blind test
COEFFICIENT_METRICS = ("best_temperature", "perplexity", "mauve", "diversity")


def write_report(study: Study, store: RunStore | None = None, compared: pd.DataFrame | None = None) -> Path:
    """Write runs/<study>/report.html from the study's finished runs. compared: `compare_with_mle` of them, if known."""
    store = store or RunStore()
    done = records(study, store)
    samples = {record.name: store.samples(study.name, record.name) for record in done}
    path = store.root / study.name / "report.html"
    write_atomically(path, report_html(study, done, samples, compared))
    return path


def report_html(study: Study, done: Sequence[RunRecord], samples: tables.Samples, compared=None) -> str:
    """The page. done: the finished runs. compared: as in write_report."""
    frame = results_frame(done)
    compared = compare_with_mle(done, samples) if compared is None else compared
    verdict_table = verdicts(done, compared)
    blind = draw_pairs([record for record in done if record.role == "grid"], samples, "report")[:NUM_PAIRS]
    chosen = charts.default_axes(frame)
    sets = tables.first_sets(done, samples)
    count = min([len(texts) for _, texts in sets], default=0)
    prompts = sorted(random.Random(0).sample(range(count), min(NUM_PROMPTS, count)))
    quality, diversity, measured = (charts.measured_metrics(frame, kind) for kind in ("quality", "diversity", ""))
    own = [name for name in measured if name not in METRICS]
    by_coefficient = [name for name in (*COEFFICIENT_METRICS, *own) if name in measured]
    axes = {"up": quality + own, "right": diversity + own}
    pairs = {}
    for up, right in product(*axes.values()):
        figure = charts.frontier(frame, up, right)
        pairs[f"{up} {right}"] = figure.update_layout(template=None)  # all figures share the template
    return tables.TEMPLATES.get_template("report.html.jinja").render(
        study=study,
        done=done,
        axes={axis: [(name, definition(name).axis, name in chosen) for name in names] for axis, names in axes.items()},
        frontier=_figure(charts.frontier(frame, *chosen)),
        verdicts=tables.frame_html(verdict_table),
        conclusion=conclusion(verdict_table),
        results=tables.results_html(frame, sortable=True),
        csv=tables.results_csv(frame),
        compared="" if compared.empty else tables.compared_html(compared, {run.name: run.label for run in done}),
        parallel=_figure(charts.parallel_coordinates(frame)),
        coefficients=[(n, _figure(charts.against_coefficient(frame, n))) for n in by_coefficient],
        sets=[record for record, _ in sets],
        prompts=[(sets[0][1][i].prompt[:60], tables.prompt_cards(sets, i)) for i in prompts],
        blind=_packed(json.dumps([pair._asdict() for pair in blind])) if blind else "",
        pairs=_packed(json.dumps(pairs, cls=PlotlyJSONEncoder, separators=(",", ":"))),
        plotly=_packed(get_plotlyjs()),
    )


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _figure(figure: go.Figure) -> Markup:
    return Markup(pio.to_json(figure))  # plotly escapes "<" in it, so no text can end a script element
