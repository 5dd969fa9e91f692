"""The panel of notebook 5: its form, its plan, its process; and the notebook itself."""

import asyncio
import json
import os
import signal
import time

import pytest
import yaml

from mixkit.notebook import sweep_panel
from mixkit.studies.config import SweepConfig
from mixkit.studies.plan import load_sweep, write_study, write_sweep
from mixkit.studies.store import RunStore
from tests import support
from tests.notebook.builders import execute, metric, printed

TINY = {
    "parameters": support.TINY,
    "grid": [{"objective": "mle"}, {"objective": "tailr", "gamma": 0.5, "w_min": 0.125}],
}


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    settings = {"study": "own", "base_study": str(path), "objectives": ["mle", "mixce"], "eta": [0.25]}
    return SweepConfig.check(settings)


@pytest.fixture
def finished(tiny, tmp_path):
    """A store in which the two runs of `tiny` are done, with made-up numbers."""
    store = RunStore(tmp_path / "runs")
    write_sweep(tiny, store)
    study = load_sweep(tiny)
    write_study(study, store)
    for value, planned in zip((0.5, 0.7), study.runs, strict=True):
        run = store.begin(planned.config)
        lines = [{"step": step, "loss": 5.0 - step, "nll": 5 - value * step, "epoch": step / 3} for step in (1, 2, 3)]
        (run.folder / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        metrics = {"mauve": metric(value), "distinct_2": metric(1 - value), "perplexity": metric(9.0)}
        run.finish(metrics, human={"mauve": metric(0.9), "distinct_2": metric(0.6)})
    return store


def shown_panel(config, store):
    panel = sweep_panel.SweepPanel(config, store)
    panel.show(panel.snapshot())
    return panel


def widgets_of(form, name):
    return form.inputs[name].widgets


def with_settings(config, **settings):
    return SweepConfig.check({**config.model_dump(), **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1e-8, "eta": [0.1, 0.2, 0.9]},
        {"alpha": 500.0, "gamma": [0.0, 1e-12, 1.0], "discount": 0.9999},
        {"objectives": ["mle-backspace"], "divergence": "js", "noise_rate": 0.5, "seeds": 3, "epochs": 0.5},
    ],
)
def test_a_new_form_has_the_settings_it_was_made_from(tiny, settings):
    config = with_settings(tiny, **settings)
    assert sweep_panel.SweepForm(config).config() == config


def test_the_form_has_a_row_with_help_for_every_setting(tiny):
    form = sweep_panel.SweepForm(tiny)
    assert set(form.rows) == set(SweepConfig.model_fields) - {"run_now"}
    for name, row in form.rows.items():
        assert SweepConfig.model_fields[name].description.split()[0] in row.children[-1].value
    (noise,) = widgets_of(form, "noise_rate")
    assert (noise.min, noise.max) == (0.0, 0.5)
    assert "js" in widgets_of(form, "divergence")[0].options


def test_sliders_give_evenly_spaced_values_or_equal_factors(tiny):
    form = sweep_panel.SweepForm(tiny)
    (eta, eta_count), (gamma, gamma_count) = widgets_of(form, "eta"), widgets_of(form, "gamma")
    eta.value, eta_count.value = (0.1, 0.9), 3
    gamma.value, gamma_count.value = (1e-7, 0.1), 4
    assert form.config().eta == [0.1, 0.5, 0.9] and form.config().gamma == [1e-7, 1e-5, 1e-3, 0.1]
    eta.value, eta_count.value = (0.2, 0.2), 5
    assert form.config().eta == [0.2]
    eta.value, eta_count.value = (0.0, 1.0), 4
    assert form.config().eta == [0.0, 0.33, 0.67, 1.0]
    assert gamma.options[0] == ("0.0000001", 1e-7) and gamma.options[-1] == ("1", 1.0)


def test_other_objectives_are_written(tiny):
    form = sweep_panel.SweepForm(with_settings(tiny, other_objectives=["power(0.3)"]))
    (line,) = widgets_of(form, "other_objectives")
    assert line.value == "power(0.3)" and form.config().other_objectives == ["power(0.3)"]
    line.value = " focal(2.0);0.1 + 0.9 * q; "
    assert form.config().other_objectives == ["focal(2.0)", "0.1 + 0.9 * q"]


def test_a_coefficient_has_a_row_while_its_objective_is_chosen(tiny):
    form = sweep_panel.SweepForm(tiny)
    assert form.rows["eta"].layout.display is None and form.rows["noise_rate"].layout.display == "none"
    boxes = {box.description: box for box in widgets_of(form, "objectives")}
    boxes["MLE with backspace"].value = True
    boxes["MixCE"].value = False
    assert form.rows["eta"].layout.display == "none" and form.rows["noise_rate"].layout.display is None
    assert form.rows["alpha"].layout.display == "none" and form.rows["corpus"].layout.display is None


def test_the_form_makes_the_plan_and_an_error_is_red(tiny, tmp_path):
    panel = shown_panel(tiny, RunStore(tmp_path / "runs"))
    assert "<b>2 runs</b>" in panel.plan.value and "MLE, MixCE η=0.25" in panel.plan.value
    assert "sweep.yaml --name own" in panel.plan.value
    assert not panel.run.disabled and panel.stop.disabled and panel.resume.disabled
    eta, eta_count = widgets_of(panel.form, "eta")
    eta.value = (0.5, 1.0)
    eta_count.value = 2
    next(box for box in widgets_of(panel.form, "objectives") if box.description == "TaiLr").value = True
    widgets_of(panel.form, "gamma")[0].value = (1e-7, 0.1)
    assert "MLE, MixCE η=0.5, MixCE η=1, TaiLr γ=1e-07, w_min=0.125, TaiLr γ=0.1, w_min=0.125<" in panel.plan.value
    widgets_of(panel.form, "base_study")[0].value = "<script>alert(1)</script>\x1b"
    assert "unknown study" in panel.plan.value and 'role="alert"' in panel.plan.value and panel.run.disabled
    assert "<script" not in panel.plan.value and "\x1b" not in panel.plan.value
    assert not (tmp_path / "runs").exists()


def test_a_finished_study_is_shown(finished, tiny):
    panel = shown_panel(tiny, finished)
    assert "2 done" in panel.progress.value and panel.progress.value.count('aria-valuenow="100"') == 2
    assert "report.html" not in panel.progress.value  # it does not exist yet
    assert panel.resume.disabled and panel.error.value == ""
    menus, _, picture = panel.picture.children[0].children
    assert [menu.value for menu in menus.children] == ["mauve", "distinct_2"]
    for output, names in ((panel.curves, {"MLE", "MixCE η=0.25"}), (picture, {"MLE", "MixCE", "human texts"})):
        (figure,) = (o["data"]["application/vnd.plotly.v1+json"] for o in output.outputs)
        assert names <= {trace["name"] for trace in figure["data"]}
    before = picture.outputs
    panel.show(panel.snapshot())
    assert panel.picture.children[0].children[2].outputs is before  # what has not changed is not drawn again
    menus.children[0].value = "perplexity"
    assert picture.outputs != before and "0.7" in panel.numbers.value
    now = panel.snapshot()
    panel.show(now._replace(done=now.done[:1]))
    assert panel.picture.children[0].children[0].children[0].value == "perplexity"  # the choice stays


def test_another_name_clears_the_curves(finished, tiny):
    panel = shown_panel(tiny, finished)
    widgets_of(panel.form, "study")[0].value = "other"
    panel.show(panel.snapshot())
    assert not panel.curves.outputs and not panel.picture.children and "Nothing was run" in panel.progress.value


def test_an_error_while_following_is_shown_and_it_goes_on(finished, tiny):
    panel = shown_panel(tiny, finished)
    snapshot, seen = panel.snapshot, []

    def failing():
        seen.append(panel.error.value)
        if len(seen) == 1:
            raise OSError("<b>the disk is gone")
        return snapshot()

    panel.snapshot = failing

    async def follow():
        task = asyncio.create_task(panel.follow())
        while len(seen) < 2:
            await asyncio.sleep(0.01)
            panel.wake()
        while panel.error.value:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert "OSError: &lt;b&gt;the disk is gone" in seen[1] and 'role="alert"' in seen[1]


@pytest.fixture
def store(tmp_path):
    """An empty store. A sweep that a failed test leaves running is killed."""
    empty = RunStore(tmp_path / "runs")
    yield empty
    if process := sweep_panel.find("own", empty):
        process.kill()


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_stops_though_its_parent_ignores_interrupts(tiny, store):
    """As a Jupyter kernel does between cells."""
    panel = shown_panel(tiny, store)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        panel.begin()
    finally:
        signal.signal(signal.SIGINT, handler)
    process = sweep_panel.find("own", store)
    assert process.pid != os.getpid() and panel.run.disabled and not panel.stop.disabled
    wait_until(lambda: (store.root / "own" / "study.yaml").is_file())
    again = shown_panel(tiny, store)  # as after a restart of the kernel: it finds the sweep and can stop it
    assert again.run.disabled and not again.stop.disabled
    again.stop.click()
    wait_until(lambda: sweep_panel.find("own", store) is None)
    panel.show(panel.snapshot())
    assert panel.error.value == "" and not panel.resume.disabled and not list(store.root.glob("own/*/run.json"))


@pytest.mark.slow
def test_an_error_of_the_sweep_is_shown_in_red(tiny, store):
    panel = shown_panel(with_settings(tiny, corpus="tails"), store)
    assert "unknown corpus &#39;tails&#39;" in panel.plan.value and panel.run.disabled  # before anything runs
    panel.begin()
    wait_until(lambda: sweep_panel.find("own", store) is None)
    panel.show(panel.snapshot())
    assert "unknown corpus &#39;tails&#39;" in panel.error.value


def test_bars_of_runs_that_do_not_train_move_without_a_number(finished, tiny):
    panel = shown_panel(tiny, finished)
    now = panel.snapshot()
    first, second = now.states
    cases = [(0.0, "starting", True), (0.5, "training, 50 %", False), (1.0, "sampling and evaluating", True)]
    for share, stage, busy in cases:
        state = first._replace(status="running", share=share)
        panel.show(now._replace(states=[state, second]))
        assert stage in panel.progress.value and ('class="busy"' in panel.progress.value) == busy


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of jupyter_client and its platform directories
def test_the_notebook_runs_a_sweep_from_its_parameters(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    outputs, drawn = execute("5_sweep", tmp_path, **tiny.model_dump(exclude_defaults=True), run_now=True)
    live = [o["data"]["application/vnd.plotly.v1+json"] for o in drawn if "data" in o]
    shown = [o["data"]["application/vnd.plotly.v1+json"] for o in outputs if "plotly" in str(o.get("data", {}).keys())]
    assert len(live) == 2 and len(shown) == 1  # training and frontier in the panel, then one against the coefficient
    names = [{trace.get("name") for trace in figure["data"]} for figure in (*live, *shown)]
    assert {"MLE", "MixCE η=0.25"} in names[:2] and names[2] == {"MixCE"}
    assert any({"MLE", "MixCE", "human texts"} <= found for found in names[:2])
    displayed = "".join(str(out["data"].get("text/plain", "")) for out in outputs if "data" in out)
    assert "own: 2 of 2 runs are done" in displayed and "Write your answer" in printed(outputs)
    assert (tmp_path / "runs" / "own" / "report.html").is_file()
