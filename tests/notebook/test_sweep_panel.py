"""A sweep asked for by sliders: the study file that comes of it, the panel around it, its process; and notebook 5."""

import asyncio
import json
import os
import signal
import time

import papermill
import psutil
import pytest
import yaml

from mixkit._common import CLONE
from mixkit.notebook import sweep_inputs, sweep_process
from mixkit.notebook import sweep_panel as sweep_controls
from mixkit.notebook.training_charts import training_curves
from mixkit.studies import sweep_files
from mixkit.studies.config import SWEEP, check
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import load_study, write_study
from tests import support as small

TINY = {
    "parameters": small.TINY,
    "grid": [{"objective": "mle"}, {"objective": "tailr", "gamma": 0.5, "w_min": 0.125}],
}


def asked(**given):
    return check(given, SWEEP)


def estimate(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "why": None}


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return asked(study="own", base_study=str(path), objectives="mle mixce", eta_low=0.25, eta_points=1)


@pytest.fixture
def finished(tiny, tmp_path):
    """A store in which the two runs of `tiny` are done, by made-up numbers."""
    store = RunStore(tmp_path / "runs")
    sweep_files.write_sweep(tiny, store)
    study = sweep_files.load_sweep(tiny)
    write_study(study, store)
    for value, planned in zip((0.5, 0.7), study.runs, strict=True):
        run = store.begin(planned.parameters)
        lines = [{"step": step, "loss": 5.0 - step, "nll": 5 - value * step, "epoch": step / 3} for step in (1, 2, 3)]
        (run.folder / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        metrics = {"mauve": estimate(value), "distinct_2": estimate(1 - value), "perplexity": estimate(9.0)}
        run.finish(metrics, human={"mauve": estimate(0.9), "distinct_2": estimate(0.6)})
    return store


def test_ranges_become_values():
    assert sweep_files.evenly(0.1, 0.9, 3) == [0.1, 0.5, 0.9] and sweep_files.evenly(0, 1, 4)[1] == 0.3333
    assert sweep_files.evenly(0.2, 0.8, 1) == [0.2] and sweep_files.evenly(0.2, 0.2, 5) == [0.2]
    assert sweep_files.by_factors(1e-7, 0.1, 4) == [1e-7, 1e-5, 1e-3, 0.1]
    assert sweep_files.by_factors(1e-9, 1, 2) == [1e-9, 1.0]


def test_a_sweep_takes_from_its_base_study_what_is_not_asked_for():
    content = sweep_files.sweep_content(asked(objectives="mle, tailr sequencematch", seeds=2, prompts=50, max_steps=5))
    quick = yaml.safe_load((CLONE / "data" / "studies" / "quick.yaml").read_text())
    assert content["base"] == quick["base"] and content["decoding"] == quick["decoding"]
    assert content["parameters"] == {**quick["parameters"], "prompts": 50, "max_steps": 5}
    assert content["seeds"] == [0, 1]
    mle, tailr, match = content["grid"]
    assert mle == {"objective": "mle"}
    assert tailr == {"objective": "tailr", "gamma": [0.001, 0.1], "w_min": 0.0}
    assert match["refill_every"] == 20 and match["alpha"] == 0.01 and match["noise_rate"] == 0.03
    assert len(sweep_files.load_sweep(asked()).runs) == 1 + 1 + 3 + 2 + 3


def test_the_file_that_is_kept_is_the_study_that_was_shown(tiny, tmp_path):
    path = sweep_files.write_sweep(tiny, RunStore(tmp_path))
    assert path == tmp_path / "own" / "asked.yaml"
    assert load_study(path, name="own") == sweep_files.load_sweep(tiny)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objectives": "mle mixec"}, r"unknown objective 'mixec' \(did you mean 'mixce'\?\)"),
        ({"objectives": " "}, "objectives is empty"),
        ({"eta_low": 0.8, "eta_high": 0.2}, "eta_low is 0.8, above eta_high, 0.2"),
        ({"base_study": "quik"}, r"unknown study 'quik' \(did you mean 'quick'\?\)"),
        ({"study": "../x"}, "study is '../x'; a folder's name has letters"),
        ({"eta_points": 0}, r"eta_points is 0; it must be in \[1, 50\]"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        sweep_files.load_sweep(asked(**given))
    assert "\n" not in str(error.value)


def test_curves_have_a_color_an_objective_and_leave_the_base_out():
    run = {"role": "grid", "parameters": check({"objective": "mixce", "eta": 0.1})}
    runs = [{**run, "name": "base", "role": "base"}, {**run, "name": "a"}, {**run, "name": "b"}]
    lines = [{"step": i, "nll": float(i), "loss": 0.0} for i in range(1, 121)]
    (base,) = training_curves(runs, {"base": lines}).data
    assert len(base.x) == 60 and base.y[:2] == (1.5, 3.5)
    figure = training_curves(runs, {"base": lines, "a": lines[:2], "b": [{"step": 3, "validation_nll": 1.0}]})
    assert [trace.y for trace in figure.data] == [(1.0, 2.0)] and figure.data[0].text[-1] == " η=0.1"
    both = training_curves(runs, {"a": lines, "b": lines}, "loss").data
    assert both[0].line.color == both[1].line.color and both[0].line.dash != both[1].line.dash
    assert [trace.showlegend for trace in both] == [True, False] and set(both[0].y) == {0.0}


def panel(settings, store):
    made = sweep_controls.SweepPanel(settings, store)
    made.show(made.look())
    return made


def test_sliders_make_the_plan_and_a_wrong_value_a_red_line(tiny, tmp_path):
    made = panel(tiny, RunStore(tmp_path / "runs"))
    assert "<b>2 runs</b>" in made.plan.value and "no run of these sizes was timed yet" in made.plan.value
    assert "MLE, MixCE η=0.25" in made.plan.value and "asked.yaml --name own" in made.plan.value
    assert not made.run.disabled and made.stop.disabled and made.resume.disabled
    made.inputs["eta"].value = (0.5, 1.0)
    made.inputs["eta_points"].value = 2
    made.inputs["with tailr"].value = True
    made.inputs["gamma"].value = (-7, -1)
    assert "MLE, MixCE η=0.5, MixCE η=1, TaiLr γ=1e-07, w_min=0.125, TaiLr γ=0.1, w_min=0.125<" in made.plan.value
    made.inputs["base_study"].value = "<script>alert(1)</script>\x1b"
    assert "unknown study" in made.plan.value and "color:#b00020" in made.plan.value and made.run.disabled
    assert "<script" not in made.plan.value and "\x1b" not in made.plan.value
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("alpha", [1e-8, 0.01, 500.0])
def test_an_alpha_beyond_the_slider_is_the_one_that_was_given(tiny, alpha):
    assert sweep_inputs.settings(sweep_inputs.build({**tiny, "alpha": alpha}))["alpha"] == alpha


def test_a_row_of_an_objective_is_there_while_the_objective_is_chosen(tiny):
    inputs = sweep_inputs.build(tiny)
    rows = {row.children[0].description: row for row in sweep_inputs.layout(inputs).children}
    assert rows["MixCE η"].layout.display is None and rows["noise rate"].layout.display == "none"
    inputs["with mle-backspace"].value = True
    inputs["with mixce"].value = False
    assert rows["MixCE η"].layout.display == "none" and rows["noise rate"].layout.display is None


def test_a_finished_study_is_shown_as_it_stands(finished, tiny):
    made = panel(tiny, finished)
    assert "2 done" in made.progress.value and made.progress.value.count("aria-valuenow='100'") == 2
    assert "report.html" not in made.progress.value  # nobody wrote it yet
    assert made.resume.disabled and made.error.value == ""
    assert [menu.value for menu in made.axes] == ["mauve", "distinct_2"]
    for output, names in ((made.curves, {"MLE", "MixCE"}), (made.picture, {"MLE", "MixCE", "human texts"})):
        (figure,) = (o["data"]["application/vnd.plotly.v1+json"] for o in output.outputs)
        assert names <= {trace["name"] for trace in figure["data"]}
    before = made.picture.outputs
    made.show(made.look())
    assert made.picture.outputs is before  # what did not change is not drawn again
    made.axes[0].value = "perplexity"
    made.show(made.look())
    assert made.picture.outputs != before and "0.7" in made.numbers.value


def test_an_error_while_following_is_shown_and_the_panel_goes_on(finished, tiny):
    made = panel(tiny, finished)
    look, seen = made.look, []

    def failing():
        seen.append(made.error.value)
        if len(seen) == 1:
            raise OSError("<b>the disk is gone")
        return look()

    made.look = failing

    async def follow():
        task = asyncio.create_task(made.follow())
        while len(seen) < 2:
            await asyncio.sleep(0.01)
            made.look_again()
        while made.error.value:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert "OSError: &lt;b&gt;the disk is gone" in seen[1] and "color:#b00020" in seen[1]


@pytest.fixture
def store(tmp_path):
    """An empty store; a sweep that a failed test left behind is killed."""
    made = RunStore(tmp_path / "runs")
    yield made
    if process := sweep_process.find("own", made):
        process.kill()


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_sweep_is_stopped_though_its_parent_ignores_interrupts(tiny, store):
    """As a Jupyter kernel does between cells."""
    made = panel(tiny, store)
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        made.begin()
    finally:
        signal.signal(signal.SIGINT, ignored)
    process = sweep_process.find("own", store)
    assert process.pid != os.getpid() and made.run.disabled and not made.stop.disabled
    wait_until(lambda: (store.root / "own" / "study.yaml").is_file())
    again = panel(tiny, store)  # as after a restart of the kernel: it finds the sweep and can stop it
    assert again.run.disabled and not again.stop.disabled
    again.stop.click()
    wait_until(lambda: sweep_process.find("own", store) is None)
    made.show(made.look())
    assert not made.resume.disabled and not list(store.root.glob("own/*/run.json"))


def test_what_the_sweep_refuses_is_shown_in_red(tiny, store):
    made = panel({**tiny, "corpus": "tails"}, store)
    made.begin()
    wait_until(lambda: sweep_process.find("own", store) is None)
    made.show(made.look())
    assert "unknown corpus &#x27;tails&#x27;" in made.error.value and not made.run.disabled


def test_a_process_number_that_was_given_again_is_not_the_sweep(tiny, tmp_path):
    store = RunStore(tmp_path)
    sweep_files.write_sweep(tiny, store)
    own = psutil.Process()
    (tmp_path / "own" / "sweep.pid").write_text(f"{own.pid} {own.create_time() - 60!r}\n")
    assert sweep_process.find("own", store) is None
    (tmp_path / "own" / "sweep.pid").write_text(f"{own.pid} {own.create_time()!r}\n")
    assert sweep_process.find("own", store) == own


@pytest.mark.filterwarnings("ignore")  # of jupyter_client and its platform directories
def test_the_notebook_runs_a_sweep_from_its_parameters(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    out = tmp_path / "out.ipynb"
    given = {name: value for name, value in tiny.items() if value != SWEEP[name].default}
    papermill.execute_notebook(
        CLONE / "notebooks" / "5_sweep.ipynb",
        out,
        {**given, "run_now": True},
        kernel_name="python3",
        cwd=CLONE,
        progress_bar=False,
        execution_timeout=300,
    )
    notebook = json.loads(out.read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    states = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    drawn = [o for state in states for o in state["state"].get("outputs", ())]
    assert not [o for o in [*outputs, *drawn] if o["output_type"] == "error"]
    live = [o["data"]["application/vnd.plotly.v1+json"] for o in drawn if "data" in o]
    printed = [
        o["data"]["application/vnd.plotly.v1+json"] for o in outputs if "plotly" in str(o.get("data", {}).keys())
    ]
    assert len(live) == 2 and len(printed) == 2
    names = [{trace.get("name") for trace in figure["data"]} for figure in (*live, *printed)]
    frontiers = [found for found in names if {"MLE", "MixCE", "human texts"} <= found]
    assert len(frontiers) == 2 and any(found == {"MLE", "MixCE"} for found in names[:2])  # the live one, the last one
    text = "".join(line for o in outputs if o["output_type"] == "stream" for line in o["text"])
    assert "2 of 2 runs are done" in text and "MixCE η=0.25" in text and "Set `answer`" in text
    assert (tmp_path / "runs" / "own" / "report.html").is_file()
