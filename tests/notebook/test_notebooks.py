"""Notebooks have no outputs, their parameters cells agree with mixkit.studies.config, and they run."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.inspection import inspect_notebook

from mixkit.notebook.charts import frontier
from mixkit.notebook.report import report_html
from mixkit.studies.config import (
    BacktrackingConfig,
    KnownTruthConfig,
    RunConfig,
    SweepConfig,
    TradeoffConfig,
    WeightsConfig,
)
from mixkit.studies.plan import Study
from mixkit.studies.records import results_frame
from mixkit.studies.store import RunStore
from tests.notebook.builders import execute, printed
from tests.support import TINY

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CONFIGS = {
    "1_objectives": WeightsConfig,
    "2_known_truth": KnownTruthConfig,
    "3_finetune": RunConfig,
    "4_backtracking": BacktrackingConfig,
    "5_sweep": SweepConfig,
    "6_tradeoff": TradeoffConfig,
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_no_outputs_and_no_widget_state(path):
    content = json.loads(path.read_text())
    code = [c for c in content["cells"] if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    assert set(content["metadata"]) <= {"kernelspec", "language_info", "accelerator", "colab"}
    assert sum("parameters" in c["metadata"].get("tags", []) for c in code) == 1
    assert len(code) <= 16
    ids = [c["id"] for c in content["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parameters_cell_has_the_fields_of_the_config(name):
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    parameters = {name: (eval(p["default"]), p["help"]) for name, p in inspect_notebook(str(path)).items()}
    fields = CONFIGS[name].model_fields
    assert parameters == {name: (field.default, field.description) for name, field in fields.items()}


@pytest.fixture
def colab(monkeypatch):
    """A shell in which `google.colab` is there and mixkit is not; it lists what an install cell would do."""
    shell, done = InteractiveShell(), []
    drive = SimpleNamespace(mount=lambda path: done.append(f"mount {path}"))
    for name, module in (("google.colab", SimpleNamespace(drive=drive)), ("google", SimpleNamespace())):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "mixkit")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MIXKIT_RUNS", "elsewhere")
    shell.system = lambda command: done.append(shell.var_expand(command, depth=1))
    shell.register_magic_function(lambda line: done.append(f"cd {line}"), magic_name="cd")
    shell.done = done
    return shell


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.parametrize("on_drive", [False, True])
def test_the_install_cell_clones_and_installs_on_colab(path, on_drive, colab):
    (cell,) = (c for c in json.loads(path.read_text())["cells"] if c["id"] == "install")
    source = "".join(cell["source"]).replace("results_on_drive = False", f"results_on_drive = {on_drive}")
    without = colab.run_cell(source)
    assert isinstance(without.error_in_exec, SystemExit) and "no public address yet" in str(without.error_in_exec)
    assert colab.done == []
    address = "https://github.com/someone/mixkit"
    colab.run_cell(source.replace('repository = ""', f'repository = "{address}"')).raise_error()
    mount = ["mount /content/drive"] if on_drive else []
    assert colab.done[:-2] == [*mount, f"git clone --depth 1 {address} /content/mixkit", "cd /content/mixkit"]
    assert "jupyterlab" in colab.done[-2] and "pip install -q -r colab.txt" in colab.done[-1]
    assert sys.path[0] == "/content/mixkit" and cell["metadata"]["jupyter"]["source_hidden"]
    assert os.environ["MIXKIT_RUNS"] == ("/content/drive/MyDrive/mixkit-runs" if on_drive else "elsewhere")


def test_badges_and_install_cells_hold_the_address_of_pyproject(tmp_path):
    clone = Path(__file__).parents[2]
    set_address = runpy.run_path(str(clone / "notebooks" / "set_address.py"))["set_address"]
    for path in ("pyproject.toml", "README.md"):
        shutil.copy(clone / path, tmp_path)
    shutil.copytree(clone / "notebooks", tmp_path / "notebooks")
    assert set_address(tmp_path) == []  # the files of the clone agree with its pyproject.toml
    urls, address = "[project.urls]\n", "https://github.com/someone/mixkit"
    project = (tmp_path / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(project.replace(urls, f'{urls}Repository = "{address}"\n'))
    assert len(set_address(tmp_path)) == len(NOTEBOOKS) + 1
    for path in NOTEBOOKS:
        content = (tmp_path / "notebooks" / path.name).read_text()
        assert "github/someone/mixkit/blob/main/notebooks/" + path.name in content
        assert f'repository = \\"{address}\\"' in content
    assert (tmp_path / "README.md").read_text().count("github/someone/mixkit/blob/main") == len(NOTEBOOKS)
    (tmp_path / "pyproject.toml").write_text(project)
    set_address(tmp_path)
    assert all((tmp_path / "notebooks" / p.name).read_text() == p.read_text() for p in NOTEBOOKS)


SMALL = {
    "1_objectives": {"eta": 0.3, "gamma": 0.0, "w_min": 0.1, "mix": 0.2},
    "2_known_truth": {"vocab": 5, "seeds": 2, "epochs": 2, "eta": 0.4, "study": "no-such-study"},
    "4_backtracking": {"train_questions": 40, "test_questions": 12, "steps": 6, "base": 4},
}
EXPECTED = {  # in what it prints, and the number of figures in its widgets
    "1_objectives": ("differ by at most", 3),
    "2_known_truth": ("Skipped, as there is nothing to show yet", 1),
    "4_backtracking": ("of 12 answers", 2),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of jupyter_client and its platform directories
@pytest.mark.parametrize("name", SMALL)
def test_a_notebook_runs_from_its_parameters_alone(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    outputs, drawn = execute(name, tmp_path, **SMALL[name])
    assert name == "4_backtracking" or not [out for out in outputs if out.get("name") == "stderr"]  # progress bars
    text, num_figures = EXPECTED[name]
    assert text in printed(outputs) and printed(outputs).count("Write your answer") == 3
    assert sum("application/vnd.plotly.v1+json" in out.get("data", {}) for out in drawn) == num_figures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_parameter_out_of_range_stops_the_notebook(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"gamma is 2.0; it must be in \[0, 1\]"):
        execute("1_objectives", tmp_path, gamma=2.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_loss_a_metric_and_a_model_of_one_s_own(toy, tmp_path, monkeypatch):
    """From the cells of notebook 3 alone: each has its own name in run.json, table, chart and report."""
    monkeypatch.setenv("MIXKIT_RUNS", str(tmp_path / "runs"))
    for part in toy[:2]:
        part.save_pretrained(tmp_path / "mine")
    monkeypatch.delenv("MIXKIT_NOTEBOOK", raising=False)
    edit = ('"own_objective = None"', '"own_objective = Focal(2.0)"')
    settings = {**TINY, "study": "own", "model": str(tmp_path / "mine")}
    outputs, _ = execute("3_finetune", tmp_path, edit, **settings)
    store = RunStore(tmp_path / "runs")
    (path,) = store.root.glob("own/*/run.json")
    record = store.read("own", path.parent.name)
    assert record.config.objective == "own: Focal(gamma=2.0)" and record.resolved["objective"] == "Focal(gamma=2.0)"
    assert record.config.model == str(tmp_path / "mine") and 2 < record.metrics["word_length"].value < 9
    pages = ["".join(out["data"]["text/html"]) for out in outputs if "text/html" in out.get("data", {})]
    (table,) = (page for page in pages if "perplexity" in page and "<table" in page)
    figure = frontier(results_frame([record]), "precision", "distinct_2").to_json()
    page = report_html(Study("own", "", []), [record], {record.name: store.samples("own", record.name)})
    for shown in (table, figure, page):
        assert "Focal(gamma=2.0)" in shown and "MixCE" not in shown
    assert "word length" in table and "word length" in page
    monkeypatch.setenv("MIXKIT_NOTEBOOK", "12345678")  # a study that runs meanwhile has its own objectives
    execute("3_finetune", tmp_path, edit, **settings | {"study": "planned"})
    (path,) = store.root.glob("planned/*/run.json")
    assert store.read("planned", path.parent.name).resolved["objective"] == "MixCE(eta=0.5)"
