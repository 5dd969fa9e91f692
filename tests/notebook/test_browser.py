"""The notebooks in JupyterLab and the report from a file, in a real browser: what is pressed and turned is seen to act.
Everything is served on loopback from a temporary folder; no request leaves the machine."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing, suppress

import nbformat
import psutil
import pytest
import yaml

from mixkit._common import CLONE
from mixkit.notebook.report import report_html
from mixkit.studies.plan import PlannedRun, Study, write_study
from mixkit.studies.store import RunStore
from tests.notebook.builders import DONE, SAMPLES, STUDY
from tests.notebook.test_sweep_panel import TINY

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
sync_api.expect.set_options(timeout=120_000)  # milliseconds until an event, however slow the machine
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium is on the path")]
PLOT = ".jupyter-widgets .js-plotly-plot"  # one that controls draw
SETTINGS = {  # every cell is in the page, seen or not; nobody is asked for a kernel or about news
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs/ folder with the finished study `own`, by made-up numbers, and a study file of two tiny runs."""
    root = tmp_path_factory.mktemp("browser")
    store = RunStore(root / "runs")
    planned = []
    for made in DONE:
        run = store.begin(made.config)
        run.finish(made.metrics, human=made.human)
        run.write_samples(SAMPLES[made.name])
        planned.append(PlannedRun(run.name, made.role, run.config, None))
    write_study(Study("own", "For the browser.", planned), store)
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return root


def answers(address):
    with suppress(OSError), urllib.request.urlopen(address, timeout=10) as response:
        return response.status == 200
    return False


@pytest.fixture(scope="module")
def lab(runs):
    """The address of a JupyterLab with copies of the notebooks, its own settings and token; ended hard."""
    (runs / "notebooks").mkdir()
    for path in (CLONE / "notebooks").glob("*.ipynb"):
        text = path.read_text(encoding="utf-8").replace(
            'base_study = \\"quick\\"', f'base_study = \\"{runs}/tiny.yaml\\"'
        )
        text = text.replace('"study = \\"quick\\"', '"study = \\"own\\"')
        (runs / "notebooks" / path.name).write_text(text, encoding="utf-8")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import sys"), nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(book, runs / "notebooks" / "broken.ipynb")
    for name, settings in SETTINGS.items():
        path = runs / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(runs / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    environment = {**os.environ, **own, "MIXKIT_RUNS": str(runs / "runs"), "PYTHONPATH": str(CLONE)}
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(runs / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(runs / "spaces"),
    }
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": runs / "notebooks",
        "IdentityProvider.token": "here",
        "LabApp.news_url": "",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with open(runs / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=runs, start_new_session=True)
    address = f"http://127.0.0.1:{port}/lab"
    try:
        while not answers(f"{address}?token=here"):
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"JupyterLab ended with {server.wait(0.1)}: {(runs / 'lab.log').read_text()}")
        yield address
    finally:
        for process in (*psutil.Process(server.pid).children(recursive=True), server):
            process.kill()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page_of(lab, browser):
    """Opens a notebook in JupyterLab, runs all its cells and gives the page; an error of page or notebook fails."""
    errors, context = [], browser.new_context(viewport={"width": 1300, "height": 1600})
    context.set_default_timeout(120_000)
    outside = lambda route: route.abort() if "127.0.0.1" not in route.request.url else route.continue_()  # noqa: E731
    context.route("http*://**", outside)

    def opened(name, tracebacks=0):
        view = context.new_page()
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.goto(f"{lab}/tree/{name}.ipynb?token=here&reset", wait_until="domcontentloaded")
        view.get_by_text("(ipykernel) | Idle").wait_for()
        view.get_by_role("menuitem", name="Run", exact=True).click()
        view.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        last = view.locator(".jp-CodeCell .jp-InputPrompt").last
        sync_api.expect(last).to_have_text(re.compile(r"\[\d+\]"))
        # JupyterLab shows an error as it shows stderr
        shown = view.locator(
            "[data-mime-type='application/vnd.jupyter.stderr']", has_text="Traceback (most recent call"
        )
        sync_api.expect(shown).to_have_count(tracebacks)
        return view

    yield opened
    context.close()
    assert errors == []


def drawn(plot):
    """The data of the figure that the browser has drawn."""
    plot.locator(".main-svg").first.wait_for()
    return plot.evaluate("plot => JSON.stringify(plot.data)")


def until_redrawn(view, before, number=0):
    view.wait_for_function(
        "([selector, number, before]) => { const plot = document.querySelectorAll(selector)[number];"
        " return plot && plot.data && plot.querySelector('.main-svg') && JSON.stringify(plot.data) !== before }",
        arg=[PLOT, number, before],
    )
    return drawn(view.locator(PLOT).nth(number))


def test_a_traceback_in_the_last_cell_is_seen(page_of):
    page_of("broken", tracebacks=1)


def test_a_slider_turns_the_curves_of_the_objectives(page_of):
    view = page_of("1_objectives")
    before = drawn(view.locator(PLOT).first)
    view.locator(".widget-slider", has_text="η").locator(".noUi-handle").press("ArrowRight")
    after = json.loads(until_redrawn(view, before))
    assert after[2]["name"] == "MixCE η=0.11"
    plot = view.locator(PLOT).first
    assert plot.evaluate("plot => plot.offsetHeight") == 0  # so that plotly makes no picture of it to be saved
    figure, room = (x.bounding_box() for x in (plot.locator(".main-svg").first, view.locator(".mixkit-figure").first))
    assert figure["height"] == room["height"] == 400 and figure["y"] == room["y"]


def test_a_menu_changes_the_axes_of_the_tradeoff(page_of):
    view = page_of("6_tradeoff")
    before = drawn(view.locator(PLOT).first)
    view.get_by_label("up", exact=True).select_option("perplexity · quality")
    until_redrawn(view, before)


def answer_blind(view, answers, first):
    """Answer pairs, the human text wherever there is one: with the buttons, then the keys. first: answered so far."""
    panel = view.locator(".jp-OutputArea-output", has=view.get_by_label("your name", exact=True))
    for number in range(first, first + answers):
        sync_api.expect(panel).to_contain_text(f"{number} of 40 answered")
        texts = panel.locator(".sample").all_inner_texts()
        chosen = next((i for i, text in enumerate(texts, 1) if "upon a time" in text), 1)
        view.wait_for_timeout(400)  # a faster answer counts as a double click
        if number % 2:
            panel.get_by_role("button", name=str(chosen), exact=True).click()
        else:
            panel.get_by_label("keys", exact=True).press(str(chosen))
    sync_api.expect(panel).to_contain_text(f"{first + answers} of 40 answered")
    return panel


def test_a_blind_test_is_closed_and_goes_on(page_of, runs):
    view = page_of("6_tradeoff")
    answer_blind(view, 12, 0)
    view.close()
    panel = answer_blind(page_of("6_tradeoff"), 8, 12)
    lines = (runs / "runs" / "own" / "blind_test" / "rater-1.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert len(answers) == 20 == len({answer["prompt"] for answer in answers})
    assert all(answer["chosen"] == "human" for answer in answers if "human" in (answer["left"], answer["right"]))
    panel.get_by_role("button", name="Show the result").click()
    sync_api.expect(panel).to_contain_text("20 answers by 1 person")
    sources = panel.locator("tbody tr td:first-child").all_inner_texts()
    assert sources[0] == "human" and set(sources) == {"human", "MLE", "MixCE η=0.1", "TaiLr γ=0.1, w_min=0.2"}


def test_a_sweep_is_asked_for_run_and_seen(page_of):
    view = page_of("5_sweep")
    expect = sync_api.expect
    plan = view.locator(".widget-html", has_text="After Run, the same")
    expect(plan).to_contain_text("6 runs")
    view.get_by_label("TaiLr", exact=True).uncheck()
    view.locator(".widget-slider", has_text="eta").locator(".noUi-handle").first.press("ArrowRight")
    view.locator(".widget-text", has_text="values").locator("input").first.fill("1")
    view.keyboard.press("Tab")
    expect(plan).to_contain_text("2 runs, 0 of them done")
    expect(plan).to_contain_text("MLE, MixCE η=0.11")
    run, stop = (view.locator("button.widget-button", has_text=text) for text in ("Run", "Stop"))
    run.click()
    expect(stop).to_be_enabled()
    progress = view.locator(".widget-html", has_text="2 done; report:")
    progress.wait_for(timeout=600_000)  # two trainings
    curves, picture = (json.loads(until_redrawn(view, None, number)) for number in (0, 1))
    assert [trace["name"] for trace in curves] == ["MLE", "MixCE η=0.11"]
    points = {trace["name"]: trace for trace in picture}
    assert points["MLE"]["text"] == ["MLE"] and points["MixCE"]["text"] == ["η=0.11"] and "human texts" in points
    assert view.locator(PLOT).nth(1).locator(".points path.point").count() >= 3
    expect(stop).to_be_disabled()
    expect(plan).to_contain_text("2 runs, 2 of them done")


def test_the_report_asks_nothing_of_a_network(browser, tmp_path):
    (tmp_path / "report.html").write_text(report_html(STUDY, DONE, SAMPLES), encoding="utf-8")
    context, noise = browser.new_context(offline=True), []
    context.set_default_timeout(120_000)
    view = context.new_page()
    view.on("console", lambda message: noise.append(message.text) if message.type == "error" else None)
    view.on("pageerror", lambda error: noise.append(str(error)))
    view.on("request", lambda r: noise.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    view.goto((tmp_path / "report.html").as_uri())
    figures = view.locator(".plot").count()
    view.wait_for_function(f"document.querySelectorAll('.plot.js-plotly-plot').length === {figures}")
    context.close()
    assert figures and noise == []
