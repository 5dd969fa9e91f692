"""The table of the bigram study from the command line: what is kept, what is printed, and the charts of known truth."""

import csv
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from statistics import mean, stdev

import pytest
import torch

from mixkit import MLE, MixCE, TaiLr
from mixkit.__main__ import main
from mixkit._common import CLONE, InputError
from mixkit.notebook import toy_charts as truth_charts
from mixkit.notebook import truth
from mixkit.studies.store import RunStore
from mixkit.texts.story_grammar import tales_grammar
from mixkit.toys import chains
from mixkit.toys.gaussian import fit_gaussian

ASKED = {"vocab": 5, "zeros": 0.3, "objectives": ["mle", "mixce*"], "seeds": [3, 1], "epochs": 2}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the command prints, twice in a row, and where it keeps its run."""
    runs = tmp_path_factory.mktemp("runs")
    words = [f"--{name}={value}" for name, value in ASKED.items() if not isinstance(value, list)]
    words += [str(x) for name in ("objectives", "seeds") for x in (f"--{name}", *ASKED[name])]
    command = [sys.executable, "-m", "mixkit", "truth", *words]
    environment = {**os.environ, "MIXKIT_RUNS": str(runs)}
    done = [subprocess.run(command, capture_output=True, text=True, env=environment, cwd=CLONE) for _ in range(2)]
    assert [(d.returncode, d.stderr) for d in done] == [(0, ""), (0, "")]
    return [d.stdout for d in done], RunStore(runs)


def test_the_command_keeps_the_table_as_a_run(printed):
    (first, second), store = printed
    (folder,) = (store.root / truth.STUDY).iterdir()
    record = store.read(truth.STUDY, folder.name)
    assert record["status"] == "done" and record["parameters"]["seeds"] == [3, 1]
    assert "is done already" in second and first.splitlines()[-1] == second.splitlines()[-1]
    objectives = [x for x in chains.objectives_of_study() if chains.NAMES[type(x)] in ASKED["objectives"]]
    rows = chains.study(5, 0.3, objectives, (3, 1), epochs=2)
    assert len(record["rows"]) == len(rows) == 15 * 2
    for found, expected in zip(record["rows"], rows, strict=True):
        for name in ("objective", "eta", "estimator", "seed"):
            assert found.get(name) == expected.get(name)
        assert found["avg_js"] == pytest.approx(expected["avg_js"], rel=1e-4)
    with open(folder / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["objective"] for line in lines] == ["mle", *["mixce*"] * 14]
    values = [row["avg_0s"] for row in rows[-2:]]
    assert float(lines[-1]["avg_0s"]) == pytest.approx(mean(values), rel=1e-4)
    assert float(lines[-1]["avg_0s_sd"]) == pytest.approx(stdev(values), rel=1e-3)
    assert "MixCE* η=0.99 (local)" in first and not (folder / "run.json").read_text().count("NaN")


def test_what_forbids_nothing_has_no_probability_of_the_impossible(tmp_path, monkeypatch):
    monkeypatch.setattr(truth, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    asked = {"vocab": 4, "objectives": ["mle"], "seeds": [3, 1], "epochs": 1, "store": RunStore(tmp_path)}
    record = truth.run_truth(zeros=0.0, say=lambda line: None, **asked)
    assert [row["avg_0s"] for row in record["rows"]] == [None, None]
    (line,) = truth.summary(record["rows"])
    assert line["avg_0s"] is line["avg_0s_sd"] is None and line["avg_js"] > 0
    assert re.search(r"MLE +\S+ ± \S+ +–", truth.table(record["rows"], 4, 0.0))
    assert not truth_charts.bigram_tradeoff([line]).data
    half = [{**record["rows"][0], "avg_0s": 0.25}, record["rows"][1]]
    (line,) = truth.summary(half)
    assert (line["avg_0s"], line["avg_0s_sd"]) == (0.25, None)
    assert list(truth_charts.bigram_tradeoff([line]).data[0].y) == [0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--objectives mixec", "did you mean 'mixce'"),
        ("--vocab 1", "vocab is 1"),
        ("--vocab 100000", "vocab is 100000; it must be in [2, 5000]"),
        ("--seeds -1", "seed is -1; it must be in [0, 2**32 - 1]"),
        ("--epochs 0", "mixkit: epochs is 0; it must be at least 1"),
        ("--patience -1", "mixkit: patience is -1; it must be at least 1"),
    ],
)
def test_what_the_command_refuses(capsys, arguments, message):
    assert main(["truth", *arguments.split()]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and told.out == ""


def test_released_figures_stand_beside_the_same_objective_only():
    line = {"objective": "mixce*", "eta": 0.99, "estimator": "local"}
    assert truth.published_row(line, 20, 0.5)["avg_0s"] == 7.76e-5
    assert truth.published_row(line, 50, 0.5) is None
    assert truth.published_row({**line, "estimator": "exact"}, 20, 0.5) is None
    assert truth.published_row({"objective": "mle"}, 20, 0.5)["seconds"] == 210
    for role in truth.published().values():
        assert role["source"] and all(p["trust"] for p in (role, *role.values()) if isinstance(p, dict) and "rows" in p)


def test_runs_on_tales_are_judged_by_the_grammar(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    with pytest.raises(InputError, match="no study under"):
        truth.judged("nothing", store)
    stories = tales_grammar().sample(3, seed=1)
    samples = [{"prompt": story[:20], "generated": story[20:]} for story in stories]
    folder = tmp_path / "mine" / "run"
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    kept = {"name": "run", "parameters": {"corpus": "tales-noisy"}, "metrics": {}}
    monkeypatch.setattr("mixkit.studies.sweep.read_study", lambda study, store: study)
    monkeypatch.setattr("mixkit.studies.sweep.records", lambda study, store: [kept])
    (record,) = truth.judged("mine", store)
    assert record["metrics"]["valid_prefix_rate"]["value"] == record["metrics"]["valid_text_rate"]["value"] == 1
    kept["parameters"]["corpus"] = "pydoc"
    with pytest.raises(InputError, match="no finished run on tales"):
        truth.judged("mine", store)


def test_curves_are_the_weights_and_the_pulls():
    figure = truth_charts.weight_curves({"MLE": MLE(), "a": MixCE(0.2), "b": TaiLr(0.1, 0.3), "c": MixCE(0.5)})
    assert [trace.name for trace in figure.data] == ["MLE", "MLE", "a", "a", "b", "b", "c", "c"]
    weight, pull = figure.data[2:4]
    q = torch.tensor(weight.x)
    torch.testing.assert_close(torch.tensor(weight.y), 0.2 + 0.8 * q)
    torch.testing.assert_close(torch.tensor(pull.y), (0.2 + 0.8 * q) * (1 - q))
    assert figure.data[2].line.dash != figure.data[6].line.dash


def test_heat_maps_mark_every_forbidden_transition():
    gold = chains.MarkovChain.random(6, 0.5, 4)
    figure = truth_charts.transitions(gold, chains.MarkovChain.random(6, 0.0, 5), "MLE")
    truth_map, learned, _ = figure.data
    assert truth_map.x[-1] == "end" and truth_map.y[0] == "start"
    for shape in figure.layout.shapes:
        ends = re.findall(r"M([-\d.]+),([-\d.]+)L([-\d.]+),([-\d.]+)", shape.path)
        middles = [((float(y0) + float(y1)) / 2, (float(x0) + float(x1)) / 2) for x0, y0, x1, y1 in ends]
        marked = {(round(row), round(column)) for row, column in middles}
        assert len(ends) == 2 * len(marked) and marked == {tuple(c) for c in (gold.probs == 0).nonzero().tolist()}
    assert [shape.xref for shape in figure.layout.shapes] == ["x", "x2"]
    assert learned.customdata.shape == (6, 6) and learned.z.min() >= -6


def test_gaussians_and_tradeoff_are_drawn():
    figure = truth_charts.gaussian_fits({"forward KL": fit_gaussian("forward_kl"), "tv": fit_gaussian("tv")})
    assert figure.data[1].name == "forward KL: N(1.80, 1.67²)" and max(figure.data[1].y) < max(figure.data[2].y)
    rows = [
        {
            "objective": "mixce",
            "eta": eta,
            "seed": seed,
            "avg_js": 0.1,
            "avg_0s": 0.1 + seed,
            "forward_kl": 1,
            "reverse_kl": 1,
        }
        for eta in (0.0, 0.5)
        for seed in (1, 2)
    ]
    lines = truth.summary([{**row, "seconds": 1.0} for row in rows])
    figure = truth_charts.bigram_tradeoff(lines, truth.published()["bigrams"]["random"]["rows"], chosen=0.5)
    assert list(figure.data[0].y) == pytest.approx([1.6, 1.6]) and list(figure.data[0].marker.size) == [8, 16]
    assert len(figure.data[1].x) == 6
