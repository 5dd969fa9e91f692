"""Study files: what they expand to, what is refused, and a small study run from end to end by papermill."""

import itertools
import json

import papermill
import pytest
import yaml

from mixkit.__main__ import main
from mixkit._common import CLONE
from mixkit.studies.config import SweepConfig
from mixkit.studies.plan import STUDIES, load_study, load_sweep, read_study, write_study, write_sweep
from mixkit.studies.records import records, results
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import run_study
from tests.benchmarks import kills
from tests.support import STUDY, TINY


def write(tmp_path, content, name="own.yaml"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_study_is_base_grid_and_mle_decoded_otherwise(tmp_path):
    study = load_study(write(tmp_path, {**STUDY, "seeds": [0, 1]}))
    assert study.name == "own" and study.about == "A study for tests."
    assert [r.role for r in study.runs] == 2 * ["base", "grid", "grid", "grid", "grid", "decoding"]
    base, mle, first, second, match, decoded = study.runs[:6]
    assert base.depends_on is None and base.name.startswith("base-")
    assert {r.depends_on for r in (mle, first, second, match)} == {base.name}
    assert first.config.model == f"run:{base.name}"
    assert [r.config.eta for r in (first, second)] == [0.0, 0.5]
    assert decoded.depends_on == mle.name and decoded.config.epochs == 0 and decoded.config.temperature == 0.5
    assert {r.config.reader for r in study.runs[1:6]} == {f"gpt2-large|run:{base.name}"}
    assert len({r.name for r in study.runs}) == 12
    assert {r.config.seed for r in study.runs[6:]} == {1}


def test_an_entry_of_the_grid_has_its_own_seed(tmp_path):
    grid = [{"objective": "mle"}, {"objective": "mle", "seed": [0, 7]}]
    study = load_study(write(tmp_path, {**STUDY, "grid": grid}))
    seeds = [(r.role, r.config.seed, r.depends_on) for r in study.runs]
    base, mle = study.runs[0].name, study.runs[1].name
    assert seeds == [("base", 0, None), ("grid", 0, base), ("grid", 7, base), ("decoding", 0, mle)]


def test_the_base_runs_reader_is_the_studys(tmp_path):
    study = load_study(write(tmp_path, {**STUDY, "base": {"objective": "mle", "reader": "minilm"}}))
    assert {run.config.reader for run in study.runs} == {"minilm"}


def test_another_base_changes_the_names_of_its_descendants(tmp_path):
    one = load_study(write(tmp_path, STUDY))
    other = load_study(write(tmp_path, {**STUDY, "base": {"objective": "mle", "epochs": 2.0}}))
    assert not {r.name for r in one.runs} & {r.name for r in other.runs}


def test_overrides_replace_what_the_file_gives(tmp_path):
    corpus = tmp_path / "my.txt"
    corpus.write_text("x")
    study = load_study(write(tmp_path, STUDY), {"corpus": str(corpus), "model": "smollm2-135m", "eta": 0.25, "seed": 7})
    assert study.name == "own-my-smollm2-135m-0.25-7"
    assert {r.config.corpus for r in study.runs} == {str(corpus)}
    assert study.runs[0].config.model == "smollm2-135m"
    assert {r.config.model for r in study.runs if r.role == "grid"} == {f"run:{study.runs[0].name}"}
    assert [r.config.eta for r in study.runs if r.config.objective == "mixce"] == [0.25]
    assert {r.config.seed for r in study.runs} == {7}
    named = load_study(write(tmp_path, STUDY), {"objective": "tailr"}, name="n")
    assert [r.config.objective for r in named.runs] == ["mle", "tailr"] and named.name == "n"


@pytest.mark.parametrize("name", sorted(p.stem for p in STUDIES.glob("*.yaml")))
def test_every_study_file_of_the_kit_can_be_read(name):
    study = load_study(name)
    assert len(study.runs) >= 2 and study.about
    objectives = {r.config.objective for r in study.runs}
    assert {"mle", "mixce"} <= objectives


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**STUDY, "grd": []}, r"unknown key in a study file: 'grd' \(did you mean 'grid'\?\)"),
        ({**STUDY, "parameters": {"bach_size": 8}}, r"unknown parameter 'bach_size' \(did you mean 'batch_size'\?\)"),
        ({**STUDY, "grid": [{"objective": "mixce", "etta": 0.1}]}, r"'etta' \(did you mean 'eta'\?\)"),
        ({**STUDY, "grid": [{"objective": "mixce", "eta": [0.5, 2.0]}]}, r"eta is 2.0; it must be in \[0, 1\]"),
        ({**STUDY, "grid": [{"objective": "mixce", "eta": "0.5"}]}, "eta is '0.5'; it must be a valid number"),
        ({**STUDY, "grid": [{"objective": "mixce", "eta": []}]}, "eta is an empty list"),
        ({**STUDY, "grid": ["mle"]}, "grid contains 'mle'; every element must be a valid dictionary"),
        ({**STUDY, "grid": {"objective": "mle"}}, "grid is {.*}; it must be a valid list"),
        ({**STUDY, "seeds": []}, "seeds is an empty list; give at least one value"),
        ({**STUDY, "parameters": {"seed": 3}}, r"seed is in the parameters; write seeds: \[3\] beside them"),
        ({"parameters": TINY}, "has no runs"),
        ({**STUDY, "parameters": {**TINY, "learning_rate": "1e-5"}}, "1.0e-5 rather than 1e-5"),
        ("a: [", "is not YAML"),
        ("text", "must be a mapping"),
    ],
)
def test_study_files_that_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        load_study(write(tmp_path, content))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quik"], "unknown study 'quik' (did you mean 'quick'?)"),
        (["none.yaml"], "study file 'none.yaml' does not exist"),
        (["{tmp}/own.yaml", "--set", "corpus=tails"], "unknown corpus 'tails' (did you mean 'tales'?)"),
        (["{tmp}/own.yaml", "--set", "model=tinny"], "unknown model 'tinny' (did you mean 'tiny'?)"),
        (
            ["{tmp}/own.yaml", "--set", "reader=gpt2-larg"],
            "reader 'gpt2-larg': unknown model 'gpt2-larg' (did you mean 'gpt2-large'?)",
        ),
        (
            ["{tmp}/own.yaml", "--set", "reader=gpt2-large|gpt2 larg"],
            "unknown model 'gpt2 larg' (did you mean 'gpt2-large'?)",
        ),
        (["{tmp}/own.yaml", "--set", "reader="], "reader '': model '' is not available"),
        (["quick", "--set", "objective=mixec"], "unknown objective 'mixec' (did you mean 'mixce'?)"),
        (["quick", "--set", "eta=1.5"], "eta is 1.5; it must be in [0, 1]"),
        (["quick", "--set", "gamma=-1"], "gamma is -1; it must be in [0, 1]"),
        (["quick", "--set", "discount=1.0"], "discount is 1.0; it must be in (0, 1)"),
        (["quick", "--set", "alpha=0"], "alpha is 0; it must be a finite number above 0"),
        (["quick", "--set", "divergence=chi3"], "unknown divergence 'chi3' (did you mean 'chi2'?)"),
        (["quick", "--set", "noise_rate=0.7"], "noise_rate is 0.7; it must be in [0, 0.5]"),
        (["quick", "--set", "eta=half"], "eta is 'half'; it must be a valid number"),
        (["quick", "--set", "eta=0.1,0.3"], "eta is '0.1,0.3'; it must be a valid number"),
        (["quick", "--set", "epochs=inf"], "epochs is inf; it must be finite and at least 0"),
        (["quick", "--max-workers", "-3"], "max_workers is -3; it must be at least 0"),
        (["quick", "--max-workers", "-3", "--dry-run"], "max_workers is -3; it must be at least 0"),
        (["quick", "--set", "etta=0.5"], "unknown parameter 'etta' (did you mean 'eta'?)"),
        (["quick", "--set", "eta"], "write NAME=VALUE"),
        (["{tmp}/own.yaml", "--set", "corpus={tmp}/empty.txt"], "is too short: 0 texts"),
        (["{tmp}/own.yaml", "--set", "corpus={tmp}/binary.txt"], "is not UTF-8 text"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(tmp_path, monkeypatch, capsys, arguments, message):
    write(tmp_path, STUDY)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    root = tmp_path / "runs"
    monkeypatch.setattr("mixkit.studies.sweep.RunStore", lambda: RunStore(root))
    assert main(["study", *(a.format(tmp=tmp_path) for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mixkit: ") and message in captured.err and captured.err.count("\n") == 1
    assert captured.out == "" and not root.exists()


def test_a_dry_run_tells_the_plan_and_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mixkit.studies.sweep.RunStore", lambda: RunStore(tmp_path / "runs"))
    assert main(["study", "quick", "--dry-run", "--set", f"corpus={tmp_path}/missing.txt"]) == 2
    captured = capsys.readouterr()
    assert "MixCE η=0.1" in captured.out and "missing.txt' does not exist" in captured.err


def test_a_sweep_is_a_study_with_the_base_study_s_settings(tmp_path):
    base = write(tmp_path, {**STUDY, "grid": [{"objective": "tailr", "w_min": 0.05, "eta": 0.9}]}, "mine.yaml")
    config = SweepConfig.check(
        {
            "study": "swept",
            "base_study": str(base),
            "objectives": ["mle", "tailr", "mixce", "mle"],
            "eta": [0.0, 0.25],
            "gamma": [0.01],
            "train_texts": 20,
            "seeds": 2,
        }
    )
    study, store = load_sweep(config), RunStore(tmp_path / "runs")
    assert study.name == "swept" and study.about == "MLE, TaiLr, MixCE; other settings as in mine."
    assert [r.role for r in study.runs] == 2 * ["base", "grid", "grid", "grid", "grid", "decoding"]
    tailr = study.runs[2].config
    assert (tailr.gamma, tailr.w_min, tailr.train_texts, tailr.prompts) == (0.01, 0.05, 20, TINY["prompts"])
    assert [r.config.eta for r in study.runs if r.config.objective == "mixce"] == [0.0, 0.25, 0.0, 0.25]
    assert not store.root.exists()
    file = write_sweep(config, store)
    assert file == store.root / "swept" / "sweep.yaml" and load_study(file, name="swept") == study
    with pytest.raises(ValueError, match="eta is an empty list"):
        load_sweep(SweepConfig.check({"base_study": str(base), "objectives": ["mixce"], "eta": []}))


OLD = """name: own
about: ''
runs:
- {name: base-0, part: base, needs: null, parameters: {study: own, objective: mle, window_words: 0}}
"""


def test_the_folder_of_an_earlier_mixkit_is_refused(tmp_path):
    store, study = RunStore(tmp_path), load_study(write(tmp_path, STUDY))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "study.yaml").write_text(OLD)
    for call in (lambda: read_study("own", store), lambda: write_study(study, store), lambda: results("own", store)):
        with pytest.raises(
            ValueError, match="was written by an earlier mixkit; run the study again under another"
        ) as error:
            call()
        assert "\n" not in str(error.value)
    assert (tmp_path / "own" / "study.yaml").read_text() == OLD


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("study"), []
    study, store = load_study(write(folder, STUDY)), RunStore(folder / "runs")
    # as many workers as in the test of kills: the same threads
    done = run_study(study, store=store, max_workers=2, log=lines.append)
    return study, store, lines, done


@pytest.mark.slow
def test_a_study_runs_from_text_to_metrics(finished):
    study, store, lines, done = finished
    assert [r.name for r in done] == [r.name for r in study.runs], lines
    for record in done:
        for metric in ("perplexity", "mauve", "diversity"):
            estimate = record.metrics[metric]
            assert estimate.low <= estimate.value <= estimate.high
        assert record.human["mauve"].value > record.metrics["mauve"].value
        folder = store.folder(study.name, record.name)
        samples = store.samples(study.name, record.name)
        assert len(samples) == 2 * 100
        for sample in samples:
            kept = "".join(text for text, is_kept in sample.segments if is_kept)
            assert kept == sample.generated or "\ufffd" in kept
        assert not (folder / "checkpoints").exists()
        notebook = json.loads((folder / "notebook.ipynb").read_text())
        assert not any(o["output_type"] == "error" for c in notebook["cells"] for o in c.get("outputs", []))
    assert {r.resolved["reader"] for r in done[1:]} == {f"run:{study.runs[0].name}"}
    assert done[1].metrics["perplexity"].value < done[0].metrics["perplexity"].value
    frame = results(study, store)
    assert frame["run"].nunique() == 7 and frame["role"].unique().tolist() == ["base", "grid", "decoding", "human"]


@pytest.mark.slow
def test_a_finished_study_is_not_run_again_a_damaged_run_is(finished):
    study, store, _, done = finished
    lines = []
    assert run_study(study, store=store, log=lines.append) == done and lines == []
    last = study.runs[-1]
    path = store.folder(study.name, last.name) / "run.json"
    path.write_text(path.read_text()[:100])
    again = run_study(study, store=store, log=lines.append)
    assert len(lines) == 2 and last.name in lines[1]
    assert again[-1].metrics == done[-1].metrics  # the same seed gives the same numbers


@pytest.mark.slow
def test_a_killed_and_resumed_study_has_the_same_results(finished, tmp_path):
    """Three runs of the study above, bit for bit: tests/benchmarks/kills.py does it with twelve, twenty times."""
    study, store, *_ = finished
    file = write(
        tmp_path, {**STUDY, "grid": [{"objective": "mle"}, {"objective": "mixce", "eta": 0.0}], "decoding": []}
    )
    fewer, other = load_study(file), RunStore(tmp_path / "runs")
    pauses = itertools.chain([4.0, 6.0], itertools.repeat(8.0))
    watch = kills.kill_and_resume(file, other, "own", kills.VICTIMS, lambda: next(pauses), log=lambda line: None)
    assert watch.reads and not watch.broken and not watch.changed
    assert {r.name for r in fewer.runs} < {r.name for r in study.runs}
    calm, killed = kills.outcome(study, store), kills.outcome(fewer, other)
    assert killed == {name: calm[name] for name in killed}


@pytest.mark.slow
def test_a_study_is_read_from_its_folder(finished):
    study, store, *_ = finished
    assert read_study(study.name, store) == study
    assert len(records(study, store)) == 6
    with pytest.raises(ValueError, match=r"unknown study under runs/ 'owm' \(did you mean 'own'\?\)"):
        read_study("owm", store)


@pytest.mark.slow
def test_the_tradeoff_notebook_shows_a_finished_study(finished, tmp_path, monkeypatch):
    study, store, *_ = finished
    monkeypatch.setenv("MIXKIT_RUNS", str(store.root))
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        str(CLONE / "notebooks" / "6_tradeoff.ipynb"),
        str(out),
        {"study": study.name},
        progress_bar=False,
        execution_timeout=300,
        cwd=str(CLONE),
    )
    outputs = [o for c in json.loads(out.read_text())["cells"] for o in c.get("outputs", [])]
    figures = [
        o["data"]["application/vnd.plotly.v1+json"]
        for o in outputs
        if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    names = {trace.get("name") for figure in figures for trace in figure["data"]}
    assert {"MLE", "MixCE", "human texts"} <= names
    assert not any("error" in (o["output_type"], o.get("name")) for o in outputs)
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'studdy'"):
        papermill.execute_notebook(
            str(CLONE / "notebooks" / "6_tradeoff.ipynb"),
            str(out),
            {"studdy": "x"},
            progress_bar=False,
            execution_timeout=300,
            cwd=str(CLONE),
        )


@pytest.mark.slow
def test_a_failed_run_is_reported_its_dependants_skipped(tmp_path, monkeypatch):
    """A prompt longer than every text leaves nothing to continue."""
    monkeypatch.setattr("mixkit.studies.sweep.preflight", lambda *_: [])
    broken = {**STUDY, "parameters": {**TINY, "prompt_tokens": 450}}
    study, store, lines = load_study(write(tmp_path, broken)), RunStore(tmp_path / "runs"), []
    assert run_study(study, store=store, log=lines.append) == []
    base = study.runs[0]
    record = store.read(study.name, base.name)
    assert record.status == "failed" and "longer than prompt_tokens=450" in record.error
    assert any("FAILED" in line and base.name in line for line in lines)
    assert sum(line.startswith("skipped") for line in lines) == 5
