"""What is found before a study's first run: each problem in one line, all of them at once."""

import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from mixkit._common import InputError
from mixkit.models.loading import load_model
from mixkit.studies import preflight as module
from mixkit.studies.plan import load_study
from mixkit.studies.preflight import check_run, preflight
from mixkit.studies.store import RunStore
from mixkit.texts.corpora import load_corpus
from tests.support import TINY


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A folder with a random model of 256 positions."""
    model, tokenizer, _ = toy
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def runs_of(tmp_path, folder, objective="mixce", base=True, **settings):
    parameters = {**TINY, "model": str(folder), "reader": "start", **settings}
    content = {"parameters": parameters, "grid": [{"objective": objective, "eta": [0.1, 0.2]}]}
    if base:
        content["base"] = {"objective": "mle"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    return load_study(tmp_path / "own.yaml").runs


def write_short_texts(folder):
    path = folder / "short.jsonl"
    path.write_text("".join(json.dumps({"text": f"Fox {i} sleeps."}) + "\n" for i in range(30)))
    return path


def problems(runs, store):
    with pytest.raises(InputError) as error:
        preflight(runs, store)
    return str(error.value).splitlines()


def test_a_study_without_problems(tmp_path, folder):
    assert preflight(runs_of(tmp_path, folder), RunStore(tmp_path / "runs")) == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corpus": "tails"}, "unknown corpus 'tails' (did you mean 'tales'?)"),
        ({"corpus": "{tmp}/none.txt"}, "none.txt' does not exist"),
        ({"model": "gpt3"}, "unknown model 'gpt3' (did you mean 'gpt2'?)"),
        ({"model": "{tmp}"}, "is not available"),
        ({"max_tokens": 255}, "max_tokens is 255; beside 2 other tokens the model's 256 positions have room for 254"),
        ({"max_new_tokens": 252}, "prompt_tokens + max_new_tokens is 256; beside 1 other tokens"),
        ({"corpus": "{tmp}/short.jsonl", "prompt_tokens": 60}, "human texts are longer than prompt_tokens=60; lower"),
        ({"reader": "gpt2-larg"}, "reader 'gpt2-larg': unknown model 'gpt2-larg' (did you mean 'gpt2-large'?)"),
        ({"reader": "{short}"}, "prompt_tokens + max_new_tokens is 12; the reader '{short}' reads 8; lower"),
        ({"coherence_reader": "minilmm"}, "coherence_reader 'minilmm': model 'minilmm' is not available"),
        ({"judge": "{model}"}, "judge is '{model}', the model that the run starts from; choose another"),
        ({"judge": "smollm3-135m"}, "judge 'smollm3-135m': unknown model 'smollm3-135m'"),
        ({"judge": "{short}", "prompt_tokens": 7}, "judge '{short}' reads 8 tokens; lower prompt_tokens"),
        ({"keep_model": False}, "keep_model is False for base-"),
    ],
)
def test_one_problem_is_one_line(tmp_path, folder, settings, message):
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text()) | {"model_max_length": 8}
    (short / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    write_short_texts(tmp_path)
    paths = {"tmp": tmp_path, "short": short, "model": folder}
    settings = {name: value.format(**paths) if isinstance(value, str) else value for name, value in settings.items()}
    lines = problems(runs_of(tmp_path, folder, **settings), RunStore(tmp_path / "runs"))
    assert any(message.format(**paths) in line for line in lines), lines
    assert len(lines) == (2 if settings.get("keep_model") is False else 1), lines


def test_all_problems_are_told_at_once(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    settings = {
        "corpus": str(write_short_texts(tmp_path)),
        "max_tokens": 300,
        "max_new_tokens": 300,
        "prompt_tokens": 250,
        "judge": "gpt4",
        "base": False,
    }
    lines = problems(runs_of(tmp_path, folder, **settings), RunStore(tmp_path / "runs"))
    starts = ["papermill is not", "ipykernel is not", "max_tokens is", "none of", "judge 'gpt4'"]
    starts += [f"{tmp_path} cannot be written", f"{tmp_path} has 0.0 GB free, and the runs need about"]
    assert [line for line, start in zip(lines, starts, strict=True) if not line.startswith(start)] == []


@pytest.mark.slow
def test_an_objective_with_backspace_needs_the_tree_mask(tmp_path, folder, monkeypatch):
    def refused(model, max_tokens):
        raise InputError("no tree mask")

    monkeypatch.setattr("mixkit.models.support.check_tree_attention", refused)
    runs = runs_of(tmp_path, folder)
    assert preflight(runs, RunStore(tmp_path / "runs")) == []
    assert problems(runs_of(tmp_path, folder, objective="mle-backspace"), RunStore(tmp_path / "runs")) == [
        "no tree mask"
    ]


def test_fewer_prompts_are_a_note(tmp_path, folder):
    notes = preflight(runs_of(tmp_path, folder, prompts=250), RunStore(tmp_path / "runs"))
    assert notes == ["note: prompts is 250, but only 214 of 214 human texts are longer than prompt_tokens=4"]


@pytest.mark.slow
def test_runs_that_start_from_a_finished_run(tmp_path, folder):
    runs, store = runs_of(tmp_path, folder), RunStore(tmp_path / "runs")
    base = store.begin(runs[0].config)
    base.fail("no")
    assert preflight(runs[1:], store) == []  # they will be skipped
    (base.folder / "run.json").unlink()
    base.finish({})
    assert "no finished run of that name saved a model" in problems(runs[1:], store)[0]
    shutil.copytree(folder, base.folder / "model")
    assert preflight(runs[1:], store) == []
    for judge in (str(folder), f"run:{base.name}", f"run:own/{base.name}"):
        judged = [replace(run, config=run.config.model_copy(update={"judge": judge})) for run in runs[1:]]
        assert problems(judged, store) == [
            f"judge is {judge!r}, the model that the run starts from; choose another one"
        ]


def test_the_check_of_one_run(tmp_path, folder):
    config = runs_of(tmp_path, folder, max_tokens=300)[0].config
    texts = load_corpus("tales", train=24, validation=4, test=210)
    with pytest.raises(InputError, match="max_tokens is 300"):
        check_run(config, texts, *load_model(str(folder)))
    assert check_run(config.model_copy(update={"max_tokens": 32}), texts, *load_model(str(folder))) == []
