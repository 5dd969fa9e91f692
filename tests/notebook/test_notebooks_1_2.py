"""Notebooks 1 and 2 executed by papermill with small parameters; no exception may hide in a widget."""

import json

import papermill
import pytest

from mixkit._common import CLONE

SMALL = {
    "1_objectives": {"eta": 0.3, "gamma": 0.0, "w_min": 0.1, "mix": 0.2},
    "2_known_truth": {"vocab": 5, "seeds": 2, "epochs": 2, "eta": 0.4, "study": "no-such-study"},
}


def execute(name, tmp_path, monkeypatch, **parameters):
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    out = tmp_path / f"{name}.ipynb"
    papermill.execute_notebook(
        CLONE / "notebooks" / f"{name}.ipynb",
        out,
        parameters,
        kernel_name="python3",
        cwd=CLONE,
        progress_bar=False,
        execution_timeout=300,
    )
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of jupyter_client and its platform directories
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_from_its_parameters_alone(name, tmp_path, monkeypatch):
    notebook = execute(name, tmp_path, monkeypatch, **SMALL[name])
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    states = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    drawn = [out for state in states for out in state["state"].get("outputs", ())]
    assert not [out for out in [*outputs, *drawn] if out["output_type"] == "error"]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    figures = [out for out in drawn if "application/vnd.plotly.v1+json" in out.get("data", {})]
    assert len(figures) == {"1_objectives": 3, "2_known_truth": 1}[name]
    text = "".join(line for out in outputs if out["output_type"] == "stream" for line in out["text"])
    expected = {"1_objectives": "differ by at most", "2_known_truth": "Skipped, as there is nothing to show yet"}
    assert expected[name] in text and text.count("Write your answer") == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_parameter_out_of_range_stops_the_notebook(tmp_path, monkeypatch):
    with pytest.raises(papermill.PapermillExecutionError, match=r"gamma is 2.0; it must be in \[0, 1\]"):
        execute("1_objectives", tmp_path, monkeypatch, gamma=2.0)
