"""The report of a study: what the page holds, what it escapes, and its script in a browser."""

import base64
import gzip
import json
import re
import shutil

import pytest

from mixkit.metrics.definitions import METRICS
from mixkit.notebook import report
from mixkit.notebook.blind_test import ranking, read_answers
from mixkit.notebook.report import report_html
from mixkit.notebook.tables import results_csv
from mixkit.studies.plan import PlannedRun, Study, write_study
from mixkit.studies.records import results_frame
from mixkit.studies.store import Metric, RunStore
from tests.notebook.builders import DONE, EVIL, SAMPLES, STUDY, record, samples_of

FIGURE = r'<script type="application/json">(.*?)</script>'


@pytest.mark.slow
def test_the_page_is_small_and_runs_nothing_that_a_model_wrote():
    named = record(EVIL, 0.5, 0.5, objective="mixce", eta=0.2)
    page = report_html(STUDY, [*DONE, named], {**SAMPLES, EVIL: samples_of(EVIL)})
    assert len(page.encode()) < 2_500_000
    assert "alert(1)</script>" not in page and "\x1b" not in page
    assert re.findall(r"<script[^>]*>", page).count("<script>") == 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    figures = re.findall(FIGURE, page, re.S)
    assert len(figures) == 5 and all(json.loads(figure)["data"] for figure in figures)
    assert page.count('role="img" aria-label="') == 5
    (link,) = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    assert base64.b64decode(link).decode() == results_csv(results_frame([*DONE, named]))
    assert page.count('data-run="cold" data-role="decoding" hidden') == report.NUM_PROMPTS
    hidden = json.loads(gzip.decompress(base64.b64decode(re.search(r'id="blind-pairs">([^<]+)<', page).group(1))))
    assert len(hidden) == report.NUM_PAIRS and set(hidden[0]) == {"prompt", "sources", "texts"}


@pytest.mark.slow
def test_the_page_has_the_verdicts_and_their_conclusion():
    page = report_html(STUDY, DONE, SAMPLES)
    assert "<th>verdict</th>" in page and "2 runs" in page and "trained once" in page


def test_a_study_without_runs_has_a_page():
    page = report_html(Study("own", "", []), [], {})
    assert "Nothing has been run" in page and "No run has samples" in page and "nothing is compared" in page


@pytest.mark.slow
def test_without_mauve_the_page_begins_with_a_measured_pair():
    absent = {name: Metric(why="too few prompts") for name in ("mauve", "distinct_2")}
    done = [run.model_copy(update={"metrics": {**run.metrics, **absent}}) for run in DONE]
    page = report_html(STUDY, done, SAMPLES)
    first = json.loads(re.search(FIGURE, page, re.S).group(1))
    titles = [first["layout"][axis]["title"]["text"] for axis in ("yaxis", "xaxis")]
    assert titles == [METRICS["precision"].axis, METRICS["diversity"].axis]
    assert {"MixCE", "TaiLr"} <= {trace["name"] for trace in first["data"]}
    assert re.findall(r'<option value="(\w+)" selected>', page) == ["precision", "diversity"]


@pytest.mark.slow
def test_every_quality_is_drawn_against_every_diversity():
    packed = re.search(r'id="pairs">([^<]+)<', report_html(STUDY, DONE, SAMPLES)).group(1)
    pairs = json.loads(gzip.decompress(base64.b64decode(packed)))
    qualities, diversities = ("mauve", "precision", "perplexity"), ("distinct_2", "diversity")
    assert set(pairs) == {f"{quality} {diversity}" for quality in qualities for diversity in diversities}
    traces = {trace["name"]: trace for trace in pairs["perplexity diversity"]["data"]}
    assert traces["MixCE"]["y"] == [9.0] and traces["MixCE"]["x"] == [0.7]


@pytest.mark.slow
def test_the_samples_have_their_own_prompts_and_deleted_text():
    segments = [("It <was> ", True), ("dark", False), ("light", True)]
    page = report_html(STUDY, DONE, {**SAMPLES, "tailr": samples_of("tailr", prompt="There was", segments=segments)})
    assert "It &lt;was&gt; <s>dark</s>light</div>" in page
    for name, beginning in (("human", "Once "), ("mixce", "Once "), ("tailr", "There was")):
        prompts = re.findall(rf'data-run="{name}".*?class="prompt">(.*?)</span>', page, re.S)
        assert len(prompts) == report.NUM_PROMPTS and all(prompt.startswith(beginning) for prompt in prompts)


@pytest.mark.slow
def test_a_report_follows_the_runs(tmp_path):
    store = RunStore(tmp_path)
    run = store.begin(DONE[1].config)
    study = Study("own", "", [PlannedRun(run.name, "grid", run.config, None)])
    write_study(study, store)
    path = report.write_report(study, store)
    assert path == tmp_path / "own" / "report.html" and "0 of 1 runs are done" in path.read_text()
    run.finish(DONE[1].metrics, human={})
    assert "1 of 1 runs are done" in report.write_report(study, store).read_text()


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium is on the path")
    path, noise = tmp_path / "report.html", []
    path.write_text(report_html(STUDY, DONE, SAMPLES), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 1200, "height": 900})
        view.on("console", lambda message: noise.append(message.text) if message.type == "error" else None)
        view.on("pageerror", lambda error: noise.append(str(error)))
        view.on("request", lambda r: noise.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
        view.goto(path.as_uri())
        view.wait_for_function("document.querySelectorAll('.plot .main-svg').length >= 10")
        first = view.locator("table", has_text="MAUVE").first
        first.locator("th button", has_text="MAUVE").click()
        order = first.locator("tbody td:first-child").all_inner_texts()
        assert (order[0] == "MLE, temperature 0.5" and order[-1] == "base (MLE)") or order[-1] == "MLE"
        first.locator("th button", has_text="MAUVE").click()
        assert first.locator("tbody td:first-child").all_inner_texts()[-1] == "MLE, temperature 0.5"
        blocks = "[...document.querySelectorAll('.prompt-block')].map(b => b.getClientRects().length > 0)"
        view.select_option("#prompt", index=2)
        assert view.evaluate(blocks) == [i == 2 for i in range(report.NUM_PROMPTS)]
        view.emulate_media(media="print")
        assert all(view.evaluate(blocks))
        view.emulate_media(media="screen")
        visible = "[...document.querySelectorAll('.sample[data-run]')].filter(c => !c.hidden).map(c => c.dataset.run)"
        assert set(view.evaluate(visible)) == {"human", "mle", "mixce", "tailr"}
        view.evaluate("document.querySelector('.plot').emit('plotly_click', {points: [{customdata: 'cold'}]})")
        assert set(view.evaluate(visible)) == {"human", "cold"}
        view.evaluate("document.querySelector('.plot').emit('plotly_click', {points: [{customdata: 'human'}]})")
        assert set(view.evaluate(visible)) == {"human", "cold"}
        view.select_option("#up", "precision")
        view.select_option("#right", "diversity")
        for axis, metric in (("x", "diversity"), ("y", "precision")):
            sync_api.expect(view.locator(f"#tradeoff .{axis}title")).to_have_text(METRICS[metric].axis)
        view.select_option("#run", "")
        assert set(view.evaluate(visible)) == {"human", "mle", "mixce", "tailr"}
        blind, given = view.locator("#blind"), view.locator("#blind-count")
        for number in range(20):
            if number == 10:
                view.reload()
            sync_api.expect(given).to_have_text(f"{number} answers; 40 pairs")
            texts = blind.locator(".sample").all_inner_texts()
            chosen = next((i for i, text in enumerate(texts, 1) if "upon a time" in text), 1)
            if number in (0, 10):
                blind.get_by_role("button", name=str(chosen)).click()
            else:
                view.keyboard.press(str(chosen))
        sync_api.expect(given).to_have_text("20 answers; 40 pairs")
        with view.expect_download() as saved:
            blind.get_by_role("link").click()
        saved.value.save_as(tmp_path / "someone.jsonl")
        browser.close()
    answers = read_answers(tmp_path, "person")["someone"]
    assert len(answers) == 20 == len({answer.prompt for answer in answers})
    assert ranking(answers, {})["source"][0] == "human"
    assert noise == []
