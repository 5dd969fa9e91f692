"""Settings, names and hashes of runs, and run folders that are never half-written."""

import os
import subprocess
import sys

import pandas as pd
import pytest

from mixkit import MLE, MixCE, SequenceMatch, TaiLr
from mixkit._common import InputError, write_atomically
from mixkit.losses import Power, TokenWeighted
from mixkit.losses.definitions import COEFFICIENTS, OBJECTIVES
from mixkit.models.on_policy import Backtracking
from mixkit.studies.config import RunConfig, SweepConfig
from mixkit.studies.plan import load_study
from mixkit.studies.records import results_frame
from mixkit.studies.store import Metric, RunStore, Sample, run_hash, run_name, with_paths
from tests.support import record

CHECK = RunConfig.check
DEFAULTS = CHECK({})


def test_defaults_are_in_their_own_ranges():
    assert CHECK(DEFAULTS.model_dump()) == DEFAULTS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"etta": 0.5}, r"unknown parameter 'etta' \(did you mean 'eta'\?\)"),
        ({"eta": 1.5}, r"eta is 1.5; it must be in \[0, 1\]"),
        ({"gamma": -0.1}, r"gamma is -0.1; it must be in \[0, 1\]"),
        ({"eta": "0.5"}, "eta is '0.5'; it must be a valid number, not a str; in YAML write a number without quotes"),
        ({"learning_rate": "1e-5"}, "1.0e-5 rather than 1e-5"),
        ({"eta": True}, "eta is True; it must be a valid number, not a bool"),
        ({"eta": float("nan")}, r"eta is nan; it must be in \[0, 1\]"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": 8.0}, "batch_size is 8.0; it must be a valid integer, not a float"),
        ({"objective": "mixec"}, r"unknown objective 'mixec' \(did you mean 'mixce'\?\); allowed: mle, mixce, tailr"),
        ({"keep_model": 1}, "keep_model is 1; it must be a valid boolean, not a int"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be a finite number above 0"),
        ({"alpha": float("inf")}, "alpha is inf; it must be a finite number above 0"),
        ({"discount": 1.0}, r"discount is 1.0; it must be in \(0, 1\)"),
        ({"discount": 0}, r"discount is 0; it must be in \(0, 1\)"),
        (
            {"divergence": "chi"},
            r"unknown divergence 'chi' \(did you mean 'chi2'\?\); allowed: chi2-mixture, chi2, js, rkl",
        ),
        ({"noise_rate": 0.6}, r"noise_rate is 0.6; it must be in \[0, 0.5\]"),
        ({"noise_rate": -0.1}, r"noise_rate is -0.1; it must be in \[0, 0.5\]"),
        ({"mle_minimum": 2.0}, r"mle_minimum is 2.0; it must be in \[0, 1\]"),
        ({"refill_every": 0}, "refill_every is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        CHECK(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eta": 0.1}, "eta is 0.1; it must be a valid list, not a float"),
        ({"eta": [0.1, 2.0]}, "eta contains 2.0; every element must be less than or equal to 1"),
        ({"eta": ["0.1"]}, "eta contains '0.1'; every element must be a valid number, not a str; in YAML"),
        ({"objectives": ["mlee"]}, r"unknown objectives 'mlee' \(did you mean 'mle'\?\); allowed: mle, mixce"),
        ({"objectives": []}, "objectives is an empty list; give at least one value"),
        ({"seed": 1}, r"unknown parameter 'seed' \(did you mean 'seeds'\?\)"),
    ],
)
def test_wrong_elements_of_lists_are_refused(values, message):
    with pytest.raises(InputError, match=message) as error:
        SweepConfig.check(values)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_numbers():
    assert isinstance(CHECK({"eta": 1}).eta, float)


def test_a_notebook_and_its_injected_parameters_are_checked():
    values = DEFAULTS.model_dump()
    namespace = {**values, "eta": 0.25, "In": ["", "import x\nother = 3", "# Parameters\neta = 0.25\n"], "other": 3}
    assert RunConfig.from_notebook(namespace) == DEFAULTS.model_copy(update={"eta": 0.25})
    with pytest.raises(InputError, match=r"unknown parameter 'etta' \(did you mean 'eta'\?\)"):
        RunConfig.from_notebook({**values, "etta": 0.5, "In": ["", "# Parameters\netta = 0.5\n"]})
    del values["eta"]
    with pytest.raises(InputError, match="the parameters cell has no eta"):
        RunConfig.from_notebook(values)


def test_an_objective_gets_its_own_coefficients_only():
    config = CHECK({"objective": "mixce", "eta": 0.3, "gamma": 0.7})
    assert config.make_objective() == MixCE(0.3) and config.coefficients() == {"eta": 0.3}
    assert set(config.canonical()) & set(COEFFICIENTS) == {"eta"}


def test_who_learns_to_delete_tokens():
    shared = {"noise_rate": 0.1, "mle_minimum": 0.5}
    match = CHECK({**shared, "objective": "sequencematch", "alpha": 0.1})
    assert match.make_objective() == SequenceMatch(alpha=0.1)
    assert match.make_backtracking() == Backtracking(noise_rate=0.1, mle_minimum=0.5)
    noisy = CHECK({**shared, "objective": "mle-backspace"})
    assert noisy.make_objective() == MLE() and noisy.make_backtracking() == Backtracking(noise_rate=0.1)
    for objective in ("mle", "mixce", "tailr"):
        assert CHECK({**shared, "objective": objective}).make_backtracking() is None


def test_labels_name_what_is_special():
    assert [CHECK({"objective": name}).label() for name in OBJECTIVES] == [
        *("MLE", "MixCE η=0.5", "TaiLr γ=1e-07, w_min=0.2", "SequenceMatch α=0.01", "MLE with backspace noise=0.02")
    ]
    assert CHECK({"objective": "mle", "temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 2}).label() == (
        "MLE, temperature 0.7, top-p 0.9, top-k 5, seed 2"
    )
    assert CHECK({"objective": "mle"}).label("base") == "base (MLE)"
    match = CHECK({"objective": "sequencematch", "discount": 0.9, "divergence": "js", "noise_rate": 0.1})
    assert match.label() == "SequenceMatch α=0.01, g=0.9, js"
    assert match.slug() == "sequencematch-alpha0.01-discount0.9-divergencejs-noiserate0.1"


def test_objectives_as_calls_formulas_and_decoders():
    power = CHECK({"objective": "power(0.3)"})
    assert power.label() == "power a=0.3" and power.slug() == "power-0.3" and power.make_objective() == Power(0.3)
    formula = CHECK({"objective": "0.1 + 0.9 * q ** 0.5"})
    assert formula.label() == "w(q) = 0.1 + 0.9 * q ** 0.5" and formula.slug() == "0.1-0.9-q-0.5"
    assert CHECK({"objective": "mixce(0.1)"}).make_objective() == MixCE(0.1)
    decoded = CHECK({"objective": "mle", "decode_as": "tailr", "gamma": 0.1, "w_min": 0.0, "epochs": 0.0})
    assert decoded.label() == "MLE, decoded as TaiLr γ=0.1" and decoded.slug() == "mle-as-tailr-gamma0.1-wmin0"
    assert decoded.make_sampler().decode_as == TaiLr(0.1, 0.0) and decoded.make_objective() == MLE()
    assert run_hash(decoded) != run_hash(decoded.model_copy(update={"gamma": 0.2}))
    greedy = CHECK({"objective": "mle", "temperature": 0.0})
    assert greedy.label() == "MLE, greedy" and greedy.slug() == "mle-T0"


def test_an_objective_written_in_a_notebook_is_its_own_label():
    class Own(TokenWeighted):
        def __repr__(self):
            return "Own(2.0)"

    config = CHECK({"objective": "mixce"}).with_objective(Own())
    assert config.label() == "Own(2.0)" and CHECK(config.model_dump()) == config
    assert CHECK({"eta": 0.3}).with_objective(MixCE(0.3)) == CHECK({"eta": 0.3})
    assert CHECK({"eta": 0.3}).with_objective(MixCE(0.4)).label() == "MixCE(eta=0.4)"
    with pytest.raises(InputError, match="defined in a notebook cell"):
        config.make_objective()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "mixec"}, r"did you mean 'mixce'"),
        ({"objective": "q +"}, "character 4"),
        ({"objective": "0.1 - q"}, "is negative at q = 1"),
        ({"decode_as": "sequencematch"}, "decode_as is 'sequencematch'; it must be a token-weighted objective"),
        ({"decode_as": "own: Focal(2)"}, "it must be a token-weighted objective"),
        ({"decode_as": "mixec"}, r"did you mean 'mixce'"),
        ({"decode_as": "threshold(0.1)"}, "weight 0, so training may end at several points"),
        ({"decode_as": "error-norm"}, "not a function of q alone"),
        ({"decode_as": "q ** 2"}, "is not convex"),
        ({"temperature": -1.0}, r"temperature is -1.0; it must be in \[0, 100\]"),
    ],
)
def test_wrong_objectives_and_decoders_are_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        CHECK(values)
    assert "\n" not in str(error.value)


def changed(settings: dict, **change) -> str:
    return run_hash(CHECK({**settings, **change}))


def test_the_hash_follows_from_what_can_change_the_outcome(tmp_path):
    mle = {"objective": "mle"}
    same = [{"eta": 0.9}, {"gamma": 0.5}, {"study": "other"}, {"name": "n"}, {"keep_model": False}, {"noise_rate": 0.1}]
    assert {changed(mle, **change) for change in same} == {changed(mle)}
    different = [{"objective": "mixce"}, {"seed": 1}, {"learning_rate": 2e-3}, {"model": "gpt2"}, {"corpus": "my.txt"}]
    assert len({changed(mle, **change) for change in different} | {changed(mle)}) == 6
    match = {"objective": "sequencematch"}
    different = [{"alpha": 0.2}, {"buffer_texts": 9}, {"divergence": "js"}, {"mle_decay": 0.0}, {"noise_rate": 0.1}]
    assert len({changed(match, **change) for change in different} | {changed(match)}) == 6
    noisy = {"objective": "mle-backspace"}
    assert changed(noisy) == changed(noisy, mle_minimum=0.1) != changed(noisy, noise_rate=0.1)
    corpus = tmp_path / "own.txt"
    corpus.write_text("a")
    before = changed(mle, corpus=str(corpus))
    corpus.write_text("b")
    assert changed(mle, corpus=str(corpus)) != before


def test_the_hashes_of_earlier_versions_stay():
    before = {"batch_size": 32, "learning_rate": 5e-4}  # the defaults then
    assert run_name(CHECK(before)) == "mixce-eta0.5-2da3a779"
    assert run_name(CHECK({"objective": "mle", **before})) == "mle-d1de65a6"
    hub = {"model": "gpt2", "corpus": "wikitext", **before}
    assert run_name(CHECK({"objective": "tailr", "gamma": 0.1, **hub})) == "tailr-gamma0.1-3b5e59c1"
    assert (
        run_name(CHECK({"objective": "sequencematch", "seed": 3, **before})) == "sequencematch-alpha0.01-seed3-0c90ec34"
    )
    assert [run.name for run in load_study("quick").runs[:2]] == ["base-d7d4505b", "mle-a54d0068"]


@pytest.mark.parametrize("setting", ["model", "reader", "coherence_reader", "judge", "corpus"])
def test_a_local_folder_counts_by_its_content(tmp_path, setting):
    start, end = {"corpus": ("hub:", ":en"), "reader": ("gpt2-large|", "")}.get(setting, ("", ""))
    for name in ("one", "two"):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "part" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "time").write_text("now")

    def hashed(name):
        return changed({}, **{setting: f"{start}{tmp_path / name}{end}"})

    assert hashed("one") == hashed("two") != changed({}, **{setting: f"{start}{tmp_path / 'none'}{end}"})
    before = hashed("one")
    (tmp_path / "one" / "part" / "model.safetensors").write_bytes(b"another")
    assert hashed("one") != before
    (tmp_path / "two" / "part" / "model.safetensors").rename(tmp_path / "two" / "model.safetensors")
    assert hashed("two") not in (before, hashed("one"))


def test_a_local_path_needs_no_torch(tmp_path):
    code = "import sys; from mixkit.studies.store import with_paths; "
    code += f"print(with_paths('corpus', {str(tmp_path)!r}, lambda path: 'X'), 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["X", "False"]


def test_a_folder_does_not_shadow_a_built_in_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = run_hash(DEFAULTS)
    for name in ("tales", "tiny", "start", "gpt2-large", "wikitext", "own"):
        (tmp_path / name).mkdir()
    assert run_hash(DEFAULTS) == before
    assert with_paths("model", "tiny", os.path.abspath) == "tiny"
    assert with_paths("reader", "gpt2-large|own", os.path.abspath) == f"gpt2-large|{tmp_path / 'own'}"


@pytest.mark.parametrize("name", ["a/b", "..", "../a", ".a", "a b", "a\n", "-a", "é" * 51, "a" * 101, "\ud800"])
def test_names_that_are_no_folders_are_refused(name, tmp_path):
    with pytest.raises(InputError, match="it names a folder and must have"):
        run_name(CHECK({"name": name}))
    with pytest.raises(InputError, match="study is"):
        RunStore(tmp_path).begin(CHECK({"study": name}))


def test_names_are_readable_and_end_in_the_hash():
    config = CHECK({"objective": "mixce", "eta": 0.1, "temperature": 0.7, "seed": 3})
    assert run_name(config) == f"mixce-eta0.1-T0.7-seed3-{run_hash(config)}"
    match = CHECK({"objective": "sequencematch", "alpha": 0.1, "divergence": "js", "mle_decay": 0.5})
    assert run_name(match) == f"sequencematch-alpha0.1-divergencejs-mledecay0.5-{run_hash(match)}"
    named = CHECK({"objective": "mle", "name": "base"})
    assert run_name(named) == f"base-{run_hash(named)}"


def test_a_run_is_done_if_its_record_is_whole_and_its_own(tmp_path):
    store = RunStore(tmp_path)
    run = store.begin(CHECK({"study": "s"}))
    assert store.read("s", run.name) is None
    run.finish({"perplexity": Metric(value=2.0, low=1.0, high=3.0)})
    record = store.read("s", run.name)
    assert record.status == "done" and record.metrics["perplexity"].value == 2.0
    assert record.config == run.config and record.versions["torch"]
    path = run.folder / "run.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert store.read("s", run.name) is None
    path.write_text(whole.replace(run.name, "another"))
    assert store.read("s", run.name) is None
    assert run.fail("ValueError: no").error == "ValueError: no"
    assert store.read("s", run.name).status == "failed"


def test_nan_is_not_written(tmp_path):
    run = RunStore(tmp_path).begin(CHECK({}))
    with pytest.raises(ValueError, match="finite"):
        run.finish({"x": Metric(value=float("nan"))})
    assert not (run.folder / "run.json").exists()


def test_samples_are_read_as_they_were_written(tmp_path):
    store = RunStore(tmp_path)
    run = store.begin(CHECK({}))
    samples = [
        Sample(set=0, prompt="a\u2028b", human="", generated='<script>\n"', segments=[("x", False), ("y", True)]),
        Sample(set=1, prompt="", human="h", generated="\x1b[31m"),
    ]
    run.write_samples(samples)
    assert store.samples("scratch", run.name) == samples
    assert store.samples("scratch", "none") == []


def test_the_results_frame_has_a_row_per_run_and_metric():
    human = {"mauve": (0.9, 0.8, 1.0)}
    absent = Metric(why="no judge", over="texts")
    frame = results_frame(
        [
            record("m", "mle", metrics={"mauve": (0.5, 0.4, 0.6), "judge_perplexity": absent}, human=human),
            record("x", eta=0.1, temperature=0.5, role="decoding", metrics={"mauve": (0.7, None, None)}, human=human),
        ]
    )
    assert frame[["run", "metric"]].values.tolist() == [
        *(["m", "mauve"], ["m", "judge_perplexity"], ["x", "mauve"], ["human", "mauve"])
    ]
    first, second, third, last = frame.to_dict("records")
    assert (first["value"], first["low"], first["high"]) == (0.5, 0.4, 0.6) and pd.isna(first["coefficient"])
    assert pd.isna(second["value"]) and second["why"] == "no judge" and second["over"] == "texts"
    assert (third["coefficient"], third["temperature"], third["role"]) == (0.1, 0.5, "decoding") and pd.isna(
        third["low"]
    )
    assert (last["role"], last["objective"], last["value"]) == ("human", "human", 0.9)
    assert results_frame([]).empty


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
