"""Notebooks are kept clean, and their parameters cells say what mixkit.parameters says."""

import json
from pathlib import Path

import pytest
from papermill.inspection import inspect_notebook

from mixkit.parameters import FINETUNE, SWEEP, TRADEOFF

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SPECS = {"3_finetune": FINETUNE, "5_sweep": SWEEP, "6_tradeoff": TRADEOFF}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_kept_without_outputs_and_widget_state(path):
    content = json.loads(path.read_text())
    code = [c for c in content["cells"] if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    assert set(content["metadata"]) <= {"kernelspec", "language_info"}
    assert sum("parameters" in c["metadata"].get("tags", []) for c in code) == 1
    assert any("colab-badge.svg" in "".join(c["source"]) for c in content["cells"])
    assert len(code) <= 14
    ids = [c["id"] for c in content["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", SPECS)
def test_papermill_reads_the_parameters_as_they_are_declared(name):
    (path,) = (p for p in NOTEBOOKS if p.stem == name)
    found = inspect_notebook(str(path))
    assert {n: (eval(p["default"]), p["help"]) for n, p in found.items()} == {
        n: (p.default, p.help) for n, p in SPECS[name].items()
    }
