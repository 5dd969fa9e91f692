"""Figures and the page from records alone: what they show, what they escape; the page in a browser, offline."""

import base64
import csv
import gzip
import io
import json
import re
import shutil

import pytest

from mixkit.notebook import charts, report
from mixkit.notebook.placing import text_positions
from mixkit.notebook.report import page
from mixkit.notebook.tables import compared_table, table, table_csv
from mixkit.studies.config import check
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import PlannedRun, Study, write_study

EVIL = "</script><script>alert(1)</script><!--\x1b[31m"


def estimate(value, half=0.02, **facts):
    return {"value": value, "low": value - half, "high": value + half, "why": None, **facts}


def record(name, x, y, *, role="grid", **parameters):
    metrics = {
        "perplexity": estimate(9.0, 0.5),
        "mauve": estimate(y),
        "diversity": estimate(x),
        "precision": estimate(y),
    }
    metrics["distinct_2"] = estimate(x)
    metrics["coherence"] = {"value": None, "low": None, "high": None, "why": "no model was asked for"}
    human = {"mauve": estimate(0.9, over="halvings"), "diversity": estimate(0.8), "distinct_2": estimate(0.7)}
    return {
        "name": name,
        "role": role,
        "parameters": check({"objective": "mle", **parameters}),
        "metrics": metrics,
        "human": human,
        "versions": {"torch": "2"},
        "seconds": 60.0,
        "resolved": {"reader": EVIL, "prompts": 40, "device": "CPU"},
    }


DONE = [
    record("base", 0.5, 0.5, role="base"),
    record("mle", 0.8, 0.5),
    record("mixce", 0.7, 0.8, objective="mixce", eta=0.1),
    record("tailr", 0.6, 0.6, objective="tailr", gamma=0.1),
    record("cold", 0.4, 0.85, role="decoding", temperature=0.5),
    record("cool", 0.6, 0.7, role="decoding", temperature=0.8),
    record("p9", 0.7, 0.6, role="decoding", top_p=0.9),
]
SAMPLES = {
    r["name"]: [
        {
            "set": 0,
            "prompt": f"Once {i}",
            "human": " upon a time",
            "generated": f" {r['name']} said so {EVIL} {i % 7} x y",
        }
        for i in range(40)
    ]
    for r in DONE
}
STUDY = Study("own", f"About {EVIL}", [None] * 7)


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_the_frontier_holds_a_curve_for_each_knob_rings_and_the_ceiling():
    figure = charts.frontier(DONE, "mauve", "diversity")
    found = traces(figure)
    assert found["MLE, only its temperature turned"].x == (0.4, 0.6, 0.8)
    assert found["MLE, only its top-p turned"].y == (0.6, 0.5)
    assert found["no run is better on both axes"].x == (0.8, 0.7, 0.4)
    assert found["MixCE"].customdata == ("mixce",) and found["MixCE"].error_y.array == pytest.approx((0.02,))
    assert set(found["MLE, decoded otherwise"].customdata) == {"cold", "cool", "p9"}
    band = [s for s in figure.layout.shapes if s.type == "rect"]
    assert [(s.y0, s.y1) for s in band] == [pytest.approx((0.88, 0.92))]
    assert "base" not in str(figure.to_json())


def test_two_seeds_have_two_curves_and_one_entry_in_the_legend():
    again = [{**r, "parameters": {**r["parameters"], "seed": 1}} for r in DONE]
    figure = charts.frontier([*DONE, *again], "mauve", "diversity")
    curves = [t for t in figure.data if t.name == "MLE, only its temperature turned"]
    assert [t.showlegend for t in curves] == [True, False] and curves[0].x == curves[1].x


def test_labels_tell_the_coefficients_of_the_loss_that_differ():
    tailr = {"objective": "tailr", "gamma": 0.1}
    assert charts.label(record("a", 0, 0, **tailr, w_min=0.0)) == "TaiLr γ=0.1"
    assert charts.label(record("a", 0, 0, **tailr, w_min=0.2)) == "TaiLr γ=0.1, w_min=0.2"
    plain = {"objective": "sequencematch", "noise_rate": 0.03, "refill_every": 20}
    assert charts.label(record("a", 0, 0, **plain)) == "SequenceMatch α=0.01"
    found = charts.label(record("a", 0, 0, **plain, discount=0.9, divergence="js", temperature=0.5))
    assert found == "SequenceMatch α=0.01, discount=0.9, js, temperature 0.5"


def test_each_seed_has_its_own_curve_against_the_coefficient():
    done = [
        record(f"{objective}{eta}{seed}", 0.5, 0.5 + eta / 10 + seed / 5, objective=objective, eta=eta, seed=seed)
        for seed in (1, 0)
        for objective, eta in (("mle", 0.5), ("mixce", 0.9), ("mixce", 0.1))
    ]
    figure = charts.against_coefficient(done, "mauve")
    assert [(t.showlegend, t.y) for t in figure.data] == [(True, (0.51, 0.59)), (False, (0.71, 0.79))]
    assert [line.y0 for line in figure.layout.shapes] == [0.55, 0.75]
    assert [note.text for note in figure.layout.annotations] == ["MLE"]


def test_lower_perplexity_is_better_where_rings_are_drawn():
    done = [record("a", 0.5, 0.5), record("b", 0.6, 0.5)]
    done[1]["metrics"]["perplexity"] = estimate(12.0)
    ring = traces(charts.frontier(done, "perplexity", "diversity"))["no run is better on both axes"]
    assert ring.x == (0.5, 0.6)
    done[1]["metrics"]["perplexity"] = estimate(7.0)
    ring = traces(charts.frontier(done, "perplexity", "diversity"))["no run is better on both axes"]
    assert ring.x == (0.6,)


def test_no_ring_for_diversity_beyond_people_or_where_neither_end_is_better():
    ring = "no run is better on both axes"
    done = [record("wild", 0.95, 0.4), record("good", 0.85, 0.8)]  # people: 0.8
    assert traces(charts.frontier(done, "mauve", "diversity"))[ring].x == (0.85,)
    for metric, best in (("forward_ce", 9.0), ("rule_usage_tv", 9.0), ("grammar_nll", None)):
        for r, value in zip(done, (12.0, 9.0), strict=True):
            r["metrics"][metric] = estimate(value)
        found = traces(charts.frontier(done, metric, "diversity"))
        assert (found[ring].y == (best,)) if best else ring not in found
    found = charts.frontier(done, "mauve", "grammar_nll")
    assert ring not in traces(found) and len(found.data) == 1


def test_parallel_coordinates_have_an_axis_a_metric_that_all_runs_have():
    (trace,) = charts.parallel(DONE).data
    assert [d.label for d in trace.dimensions] == ["perplexity", "mauve", "precision", "diversity", "distinct 2"]
    assert list(trace.line.color) == [0, 1, 2, 0, 0, 0]
    assert [color for _, color in trace.line.colorscale] == [charts.COLORS[o] for o in ("mle", "mixce", "tailr")]
    (single,) = charts.parallel(DONE[:2]).data
    assert {color for _, color in single.line.colorscale} == {charts.COLORS["mle"]}
    assert not charts.parallel([]).data


def test_tables_hold_every_run_and_escape_what_they_show():
    shown = table(DONE)
    assert shown.count("<tr>") == 9 and 'data-value="0.8"' in shown and "coherence" not in shown
    assert shown.index("<tfoot>") < shown.index("human texts")
    rows = list(csv.DictReader(io.StringIO(table_csv(DONE))))
    assert [r["run"] for r in rows] == [*(r["name"] for r in DONE), "human"]
    assert rows[2]["mauve"] == "0.8" and float(rows[2]["mauve_low"]) == pytest.approx(0.78)
    assert rows[2]["coherence"] == "" and rows[-1]["diversity"] == "0.8" and rows[-1]["perplexity"] == ""
    compared = [
        {
            "run": "a",
            "metric": "rep_2",
            "difference": 0.5,
            "low": None,
            "high": None,
            "effect_size": None,
            "holm_p": 0.2,
        },
        {"run": "a", "metric": "length", "difference": -2, "low": -3, "high": -1, "effect_size": 1, "holm_p": 0.01},
        {"run": "b", "metric": "length", "difference": 1, "low": 0, "high": 2, "effect_size": 1, "holm_p": 0.07},
    ]
    shown = compared_table(compared, {"a": EVIL, "b": "B"})
    assert shown.count("<tr>") == 3 and shown.count("n held") == 1 and "[-3, -1]" in shown and "<script" not in shown
    assert "nothing is compared" in compared_table([], {})


def test_the_page_is_whole_small_and_runs_nothing_that_a_model_wrote():
    made = page(STUDY, DONE, SAMPLES)
    assert len(made.encode()) < 2_500_000
    assert "alert(1)</script>" not in made and "\x1b" not in made
    assert re.findall(r"<script[^>]*>", made).count("<script>") == 1
    assert not re.search(r'(src|href)="(?!data:)', made)
    figures = re.findall(r'<script type="application/json">(.*?)</script>', made, re.S)
    assert len(figures) == 5 and all(json.loads(f)["data"] for f in figures)
    assert made.count('role="img" aria-label="') == 5
    uri = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', made).group(1)
    assert base64.b64decode(uri).decode() == table_csv(DONE)
    assert made.count('data-run="cold" data-part="decoding" hidden') == report.SHOWN_PROMPTS
    assert "What the intervals support" in made and "trained once" in made
    empty = page(Study("own", "", []), [], {})
    assert "Nothing has been run" in empty and "No run has samples" in empty


def test_without_mauve_the_page_begins_with_the_first_pair_that_was_measured():
    absent = {"value": None, "low": None, "high": None, "why": "too few prompts"}
    done = [{**r, "metrics": {**r["metrics"], "mauve": absent, "distinct_2": absent}} for r in DONE]
    made = page(STUDY, done, SAMPLES)
    first = json.loads(re.search(r'<script type="application/json">(.*?)</script>', made, re.S).group(1))
    titles = [first["layout"][axis]["title"]["text"] for axis in ("yaxis", "xaxis")]
    assert titles == [charts.AXES["precision"], charts.AXES["diversity"]]
    assert {"MixCE", "TaiLr"} <= {trace["name"] for trace in first["data"]}
    assert re.findall(r'<option value="(\w+)" selected>', made) == ["precision", "diversity"]
    assert "MLE was not sampled" not in made and "No objective is shown" not in made


def test_every_quality_is_drawn_against_every_diversity_that_the_runs_have():
    packed = re.search(r'id="pairs">([^<]+)<', page(STUDY, DONE, SAMPLES)).group(1)
    pairs = json.loads(gzip.decompress(base64.b64decode(packed)))
    qualities, diversities = ("mauve", "precision", "perplexity"), ("distinct_2", "diversity")
    assert set(pairs) == {f"{q} {d}" for q in qualities for d in diversities}
    drawn = {trace["name"]: trace for trace in pairs["perplexity diversity"]["data"]}
    assert drawn["MixCE"]["y"] == [9.0] and drawn["MixCE"]["x"] == [0.7]


def test_a_report_is_written_again_only_where_something_changed(tmp_path, monkeypatch):
    store, segments = RunStore(tmp_path), []
    run = store.begin({**DONE[1]["parameters"], "study": "own"})
    study = Study("own", "", [PlannedRun(run.name, "grid", run.parameters, None)])
    write_study(study, store)
    monkeypatch.setattr(report, "page", lambda study, done, samples: segments.append(len(done)) or "page")
    path = report.write_report(study, store)
    assert report.write_report(study, store) == path == tmp_path / "own" / "report.html" and segments == [0]
    run.finish(DONE[1]["metrics"], human={})
    report.write_report(study, store)
    report.write_report(study, store)
    assert segments == [0, 1]


def test_what_a_model_took_back_is_struck_through():
    segments = [["It <was> ", True], ["dark", False], ["light", True]]
    samples = {"mle": [{**s, "segments": segments} for s in SAMPLES["mle"]]}
    assert "It &lt;was&gt; <s>dark</s>light</div>" in page(STUDY, DONE[:2], samples)


def test_a_sample_stands_after_its_own_prompt():
    samples = {**SAMPLES, "tailr": [{**s, "prompt": "There was"} for s in SAMPLES["tailr"]]}
    made = page(STUDY, DONE, samples)
    for name, beginning in (("human", "Once "), ("mixce", "Once "), ("tailr", "There was")):
        prompts = re.findall(rf'data-run="{name}".*?class="prompt">(.*?)</span>', made, re.S)
        assert len(prompts) == report.SHOWN_PROMPTS and all(p.startswith(beginning) for p in prompts)


def test_the_page_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium is on the path")
    path, noise = tmp_path / "report.html", []
    path.write_text(page(STUDY, DONE, SAMPLES), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 1200, "height": 900})
        view.on("console", lambda message: noise.append(message.text) if message.type == "error" else None)
        view.on("pageerror", lambda error: noise.append(str(error)))
        view.on("request", lambda r: noise.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        view.goto(path.as_uri())
        view.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 10")
        first = view.locator("table").first
        first.locator("th button", has_text="MAUVE").click()
        order = first.locator("tbody td:first-child").all_inner_texts()
        assert (order[0] == "MLE, temperature 0.5" and order[-1] == "base (MLE)") or order[-1] == "MLE"
        first.locator("th button", has_text="MAUVE").click()
        assert first.locator("tbody td:first-child").all_inner_texts()[-1] == "MLE, temperature 0.5"
        blocks = "[...document.querySelectorAll('.samples')].map(b => b.getClientRects().length > 0)"
        view.select_option("#prompt", index=2)
        assert view.evaluate(blocks) == [i == 2 for i in range(report.SHOWN_PROMPTS)]
        view.emulate_media(media="print")
        assert all(view.evaluate(blocks))
        view.emulate_media(media="screen")
        visible = "[...document.querySelectorAll('.sample')].filter(c => !c.hidden).map(c => c.dataset.run)"
        assert set(view.evaluate(visible)) == {"human", "mle", "mixce", "tailr"}
        view.evaluate("document.querySelector('.plot').emit('plotly_click', {points: [{customdata: 'cold'}]})")
        assert set(view.evaluate(visible)) == {"human", "cold"}
        view.select_option("#up", "precision")
        view.select_option("#right", "diversity")
        for axis, metric in (("x", "diversity"), ("y", "precision")):
            sync_api.expect(view.locator(f"#tradeoff .{axis}title")).to_have_text(charts.AXES[metric])
        view.select_option("#run", "")
        assert set(view.evaluate(visible)) == {"human", "mle", "mixce", "tailr"}
        browser.close()
    assert noise == []


def test_texts_stand_where_nothing_else_is():
    assert text_positions([], []) == []
    crowd = [(0, 0), (1, 0), (0.04, 0.02), (1, 1), (0, 1)]
    sides = text_positions(crowd, ["a=0.1", "", "b=0.2", "", ""], size=(1000, 430))
    assert sides[0] not in ("top right", "middle right") and sides[2] == "top right"  # one stands to the other's right
    num_siblings = text_positions([(0, 0), (1, 1), (0.5, 0.5)], ["", "", "text"], bars=[(0.5, 0.53, 0.6, 0.53)])
    assert num_siblings[2] == "top left"
    assert text_positions([(2, 3)], ["alone"]) == ["top right"]
