"""Shipped results: they are read where runs/ has no such study, and a fresh clone opens notebooks 5 and 6 on them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mixkit import __main__ as command_line
from mixkit._common import CLONE, SHIPPED, InputError
from mixkit.notebook import report, sweep_panel
from mixkit.studies import config as settings
from mixkit.studies.config import SweepConfig, TradeoffConfig, or_shipped
from mixkit.studies.plan import PlannedRun, Study, read_study, write_study
from mixkit.studies.records import records, results
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import states
from tests.benchmarks.ship import LIMIT, ship, table
from tests.notebook.builders import DONE, SAMPLES

NOTICE = "Shipped results of 1970-01-01; `make study STUDY=prose` makes your own."


def finish(root: Path, name: str = "prose", about: str = "Made by hand.") -> Study:
    """A finished study with made-up numbers under `root`."""
    store, planned = RunStore(root), []
    for made in DONE:
        run = store.begin(made.config.model_copy(update={"study": name}))
        run.finish(made.metrics, human=made.human, training={"steps": 1}, resolved={"device": "CPU"})
        run.write_samples([s.model_copy(update={"set": k}) for k in (0, 1) for s in SAMPLES[made.name]])
        planned.append(PlannedRun(run.name, made.role, run.config, None))
    study = Study(name, about, planned)
    write_study(study, store)
    return study


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """runs/ without a study, and the study prose in data/results/."""
    monkeypatch.setattr("time.strftime", lambda *_: "1970-01-01")
    finish(tmp_path / "made")
    ship("prose", "a machine", "make study STUDY=prose", store=RunStore(tmp_path / "made"), root=tmp_path / "shipped")
    for place in ("mixkit.studies.store", "mixkit.studies.config"):
        monkeypatch.setattr(f"{place}.SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr(settings, "RUNS", tmp_path / "runs")
    for module in ("plan", "records"):
        monkeypatch.setattr(f"mixkit.studies.{module}.RunStore", lambda: RunStore(tmp_path / "runs"))
    return RunStore(tmp_path / "runs"), RunStore(tmp_path / "shipped")


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_study_not_in_runs_is_read_from_data_results(stores):
    own, shipped = stores
    before = files(shipped.root)
    study = read_study("prose")
    assert study.about == f"Made by hand. {NOTICE}"
    assert [record.label for record in records(study)] == [made.label for made in DONE]
    assert results("prose")["metric"].nunique() == 6
    mle = study.runs[1].name
    assert [s.generated for s in own.samples("prose", mle)] == [s.generated for s in SAMPLES["mle"]] * 2
    page = report.write_report(study, own)
    assert page == own.root / "prose" / "report.html" and NOTICE in page.read_text()
    assert {state.status for state in states(study, own)} == {"waiting"}  # a sweep of one's own begins at the beginning
    assert files(shipped.root) == before


def test_a_study_of_one_s_own_comes_first(stores):
    own, _ = stores
    study = finish(own.root, about="Mine.")
    (own.root / "prose" / study.runs[0].name / "run.json").unlink()
    (own.root / "prose" / study.runs[1].name / "samples.jsonl").unlink()
    assert read_study("prose").about == "Mine." and len(records(study)) == len(DONE) - 1
    assert own.samples("prose", study.runs[1].name) == []


def test_notebook_6_opens_on_what_there_is(stores):
    own, shipped = stores
    assert TradeoffConfig.check({"study": "quick"}).study == "prose" == or_shipped("anything")
    assert TradeoffConfig.check({"study": "quikc"}).study == "quikc"  # read_study names the known ones
    finish(own.root, "quick")
    assert TradeoffConfig.check({"study": "quick"}).study == "quick"
    shutil.rmtree(own.root / "quick")
    shutil.rmtree(shipped.root)
    assert TradeoffConfig.check({"study": "quick"}).study == "quick"


@pytest.mark.slow
def test_the_command_line_reports_what_is_shipped(stores, monkeypatch, capsys):
    own, shipped = stores
    monkeypatch.setattr(command_line, "RunStore", lambda: own)
    monkeypatch.setattr(report, "RunStore", lambda: own)
    before = files(shipped.root)
    assert command_line.main(["status", "prose"]) == 0 and "7 done" in capsys.readouterr().out
    assert command_line.main(["report", "prose"]) == 0
    assert "7 of 7 runs are done" in capsys.readouterr().out
    assert {path.name for path in (own.root / "prose").iterdir()} == {"report.html", "table.txt"}
    assert files(shipped.root) == before


def test_the_panel_of_notebook_5_shows_what_is_shipped(stores, monkeypatch):
    own, _ = stores
    monkeypatch.setattr(sweep_panel, "preflight", lambda *_: [])
    panel = sweep_panel.sweep(SweepConfig(study="prose"), own)
    assert "<b>prose</b>" in panel.progress.value and "7 done" in panel.progress.value and panel.picture.children
    assert "0 of them done" in panel.plan.value and not panel.run.disabled and panel.resume.disabled


def test_only_a_finished_study_of_limited_size_is_shipped(tmp_path, monkeypatch):
    store = RunStore(tmp_path / "runs")
    study = finish(store.root)
    folder = ship("prose", "a machine", "make study", 1, store=store, root=tmp_path / "shipped")
    card = (folder / "README.md").read_text()
    assert "a machine" in card and "torch" in card and "1 sample sets" in card
    lines = (folder / study.runs[1].name / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 40 and "segments" not in lines[0]
    monkeypatch.setattr("tests.benchmarks.ship.LIMIT", 1000)
    with pytest.raises(InputError, match="keep fewer sample sets"):
        ship("prose", "", "", 1, store=store, root=tmp_path / "shipped")
    (store.folder("prose", study.runs[0].name) / "run.json").unlink()
    with pytest.raises(InputError, match=r"6 of 7 runs of 'prose' in .* are done"):
        ship("prose", "", "", 1, store=store, root=tmp_path / "shipped")


def test_what_the_kit_ships_is_whole():
    for folder in SHIPPED.glob("*/"):
        study = read_study(folder.name, RunStore(SHIPPED))
        assert "Shipped results of 20" in study.about
        assert len(records(study, RunStore(SHIPPED))) == len(study.runs)
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT
        assert {path.name for path in folder.glob("*/*")} == {"run.json", "samples.jsonl"}


def intervals(text: str) -> set[str]:
    return set(re.findall(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]", text))


def test_what_the_kit_says_of_its_study_is_in_the_records():
    """Each value with an interval, in the README and in notebook 6, is one of the shipped study's."""
    card = (SHIPPED / "prose" / "README.md").read_text(encoding="utf-8")
    assert table(results("prose", RunStore(SHIPPED))) in card
    notebook = json.loads((CLONE / "notebooks" / "6_tradeoff.ipynb").read_text(encoding="utf-8"))
    prose = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for said in (intervals((CLONE / "README.md").read_text(encoding="utf-8")), intervals(prose)):
        assert said and said <= intervals(card), said - intervals(card)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what git has of the library, the notebooks and the data, with a shipped study; there is no runs/."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("mixkit", "notebooks", "data"):
        shutil.copytree(CLONE / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    if not (root / "data" / "results" / "prose").is_dir():
        finish(root / "made")
        made = {"store": RunStore(root / "made"), "root": root / "data" / "results"}
        ship("prose", "a machine", "make study STUDY=prose", **made)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["5_sweep", "6_tradeoff"])
def test_a_fresh_clone_opens_a_notebook_full(clone, name):
    inherited = {key: value for key, value in os.environ.items() if key not in ("MIXKIT_RUNS", "MIXKIT_CHECK_SHAPES")}
    environment = {**inherited, "PYTHONPATH": str(clone), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", str(clone / f"{name}.ipynb")]
    subprocess.run([*command, "-k", "python3", "--cwd", "notebooks"], cwd=clone, env=environment, check=True)
    cells = json.loads((clone / f"{name}.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    printed = "".join("".join(text) for text in texts)
    assert "prose: " in printed and "Shipped results of 20" in printed
    assert "nothing has been run" not in printed and not any(output["output_type"] == "error" for output in outputs)
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) >= 2
    assert {path.name for path in (clone / "runs").rglob("*.*")} <= {"report.html"}
