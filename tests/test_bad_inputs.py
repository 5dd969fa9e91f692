"""Wrong input of every kind: each is one line that names the value, and nothing is written."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from mixkit import objective
from mixkit.__main__ import main
from mixkit._common import InputError
from mixkit.losses import stationary_distribution
from mixkit.metrics import distinct_n, rep_n, self_bleu, zipf_coefficient
from mixkit.metrics.quality import mauve_of_features
from mixkit.models import Sampler, load_model
from mixkit.studies.config import RunConfig, SweepConfig, TradeoffConfig
from mixkit.studies.plan import load_study, read_study
from mixkit.studies.store import RunStore, run_name
from mixkit.texts import load_corpus
from tests.support import STUDY, TINY

COMMANDS = {  # {tmp}: a folder with the study file own.yaml
    "": "the following arguments are required: command",
    "stduy quick": "invalid choice: 'stduy'",
    "study": "the following arguments are required: file",
    "study quick --foo": "unrecognized arguments: --foo",
    "study quick --max-workers two": "argument --max-workers: invalid int value: 'two'",
    "study quick --max-workers 1.5": "argument --max-workers: invalid int value: '1.5'",
    "study quick --executor slurm": "argument --executor/--engine: invalid choice: 'slurm'",
    "study quick --set": "argument --set: expected at least one argument",
    "study quick --address 1.2.3.4": "address '1.2.3.4' is for Ray; use it with the executor ray",
    "study quick --name ../x": "study is '../x'; it names a folder",
    "study quick --name a/b": "study is 'a/b'; it names a folder",
    "study quick --name .hidden": "study is '.hidden'; it names a folder",
    "study quick --set study=other": "study is 'other'",
    "study quick --set name=a/b": "name is 'a/b'; it names a folder",
    "study quick --set name=..": "name is '..'; it names a folder",
    "study quick --set eta": "--set 'eta': write NAME=VALUE",
    "study quick --set =1": "unknown parameter ''",
    "study quick --set etta=1": "unknown parameter 'etta' (did you mean 'eta'?)",
    "study quick --set eta=nan": "eta is nan",
    "study quick --set seed=-1": "seed is -1; it must be in [0, 2147483648]",
    "study quick --set seed=1.5": "seed is 1.5; it must be a valid integer, not a float",
    "study quick --set keep_model=maybe": "keep_model is 'maybe'; it must be a valid boolean",
    "study quick --set epochs=-1": "epochs is -1",
    "study quick --set temperature=0.5.1": "temperature is '0.5.1'; it must be a valid number",
    "study quick --set top_p=2": "top_p is 2; it must be in [",
    "study quick --set learning_rate=2": "learning_rate is 2; it must be in [0, 1]",
    "study quick --set precision=fp8": "unknown precision 'fp8'; allowed: auto, bf16, float32",
    "study nothing": "unknown study 'nothing'",
    "study {tmp}": "unknown study",
    "study {tmp}/none.yaml": "none.yaml' does not exist",
    "study {tmp}/folder.yaml": "folder.yaml' does not exist",
    "study {tmp}/bytes.yaml": "is not YAML",
    "study {tmp}/deep.yaml": "is not YAML",
    "study {tmp}/python.yaml": "is not YAML: could not determine a constructor for the tag",
    "study {tmp}/own.yaml --set objective=mxice": "unknown objective 'mxice' (did you mean 'mixce'?)",
    "status": "the following arguments are required: name",
    "status none": "no study under",
    "status ../x": "study is '../x'; it names a folder",
    "report a/b": "study is 'a/b'; it names a folder",
}
PARAMETERS = [
    ({"eta": None}, "eta is None; it must be a valid number"),
    ({"eta": [0.1]}, "eta is [0.1]; it must be a valid number"),
    ({"eta": 1e999}, "eta is inf; it must be in [0, 1]"),
    ({"eta": math.nan}, "eta is nan; it must be in [0, 1]"),
    ({"eta": -1e-9}, "eta is -1e-09; it must be in [0, 1]"),
    ({"seed": 2**40}, "seed is 1099511627776; it must be in [0, 2147483648]"),
    ({"seed": True}, "seed is True; it must be a valid integer, not a bool"),
    ({"corpus": 3}, "corpus is 3; it must be a valid string, not a int"),
    ({"corpus": None}, "corpus is None; it must be a valid string"),
    ({"model": ["tiny"]}, "model is ['tiny']; it must be a valid string"),
    ({"objective": ""}, "objective"),
    ({"objective": 1}, "objective"),
    ({"objective": "q +"}, "character 4: invalid syntax"),
    ({"objective": "mixce(2)"}, "eta is 2"),
    ({"objective": "q.__class__"}, "q.__class__"),
    ({"decode_as": "mxice"}, "unknown"),
    ({"decode_as": "sequencematch"}, "decode_as is 'sequencematch'; it must be a token-weighted objective"),
    ({"decode_as": "own: Focal(2)"}, "decode_as is 'own: Focal(2)'; it must be a token-weighted objective"),
    ({"decode_as": "q *"}, "character 4: invalid syntax"),
    ({"decode_as": "q ** 2"}, ""),
    ({"decode_as": 1}, "decode_as is 1; it must be a valid string"),
    ({"max_steps": -2}, "max_steps is -2; it must be at least -1"),
    ({"train_texts": 0}, "train_texts is 0; it must be at least 1"),
    ({"max_tokens": 1}, "max_tokens is 1; it must be at least 2"),
    ({"prompts": 1.0}, "prompts is 1.0; it must be a valid integer, not a float"),
    ({"sample_sets": -3}, "sample_sets is -3; it must be at least 1"),
    ({"top_k": -1}, "top_k is -1; it must be at least 0"),
    ({"temperature": -1.0}, "temperature is -1.0"),
    ({"keep_model": "True"}, "keep_model is 'True'; it must be a valid boolean, not a str"),
    ({"Eta": 0.1}, "unknown parameter 'Eta' (did you mean 'eta'?)"),
    ({"\x1b[31m": 1}, "unknown parameter"),
]
STUDY_FILES = [
    ("", "must be a mapping with the keys"),
    ("- mle", "must be a mapping with the keys"),
    ("3", "must be a mapping"),
    ("a: b: c", "is not YAML"),
    ("\tgrid: []", "is not YAML"),
    ("grid: [{objective: mle}]\ngrid2: 1", "unknown key in a study file: 'grid2' (did you mean 'grid'?)"),
    ({"parameters": [1]}, "parameters is [1]; it must be a valid dictionary"),
    ({**STUDY, "seeds": 3}, "seeds is 3; it must be a valid list"),
    ({**STUDY, "seeds": ["a"]}, "seeds contains 'a'; every element must be a valid integer"),
    ({**STUDY, "seeds": [-1]}, "seed is -1; it must be in"),
    ({**STUDY, "about": 3}, "about is 3; it must be a valid string"),
    ({**STUDY, "base": "mle"}, "base is 'mle'; it must be a valid dictionary"),
    ({**STUDY, "grid": [{"objective": "mle", "eta": []}]}, "eta is an empty list; a grid needs at least one value"),
    ({**STUDY, "grid": [{"objective": "mle", "study": "../../x"}]}, "study is '../../x'"),
    ({**STUDY, "grid": [{"objective": "mle", "name": "../x"}]}, "name is '../x'; it names a folder"),
    ({**STUDY, "parameters": {**TINY, "study": "/etc"}}, "study is '/etc'"),
    ({**STUDY, "decoding": [{"temperature": ["hot"]}]}, "temperature is 'hot'; it must be a valid number"),
    ({**STUDY, "grid": [{"objective": "mle", 1: 2}]}, "grid contains 1; every element must be a valid string"),
]
CORPORA = [
    ("", "unknown corpus ''"),
    ("tale", "unknown corpus 'tale' (did you mean 'tales'?)"),
    ("tales-noisy:2", "tales-noisy:RATE, 0 to 1"),
    ("tales-noisy:much", "tales-noisy:RATE, 0 to 1"),
    ("tales-noisy:nan", "tales-noisy:RATE, 0 to 1"),
    ("hub:", "names no dataset"),
    ("{tmp}/none.txt", "does not exist"),
    ("{tmp}/folder.txt", "is a folder"),
    ("{tmp}/text.pdf", "unknown file type"),
    ("{tmp}/nul.txt", "binary file"),
    ("{tmp}/latin1.txt", "is not UTF-8 text"),
    ("{tmp}/short.txt", "is too short: 1 texts"),
    ("{tmp}/broken.jsonl", "line 1 is not JSON"),
    ("{tmp}/list.jsonl", "has no field 'text' with a string"),
    ("{tmp}/number.jsonl", "has no field 'text' with a string"),
    ("{tmp}/column.csv", "has no field 'text' with a string"),
]
MODELS = [
    ("", "model '' is not available"),
    ("gpt-2", "unknown model 'gpt-2' (did you mean 'gpt2'?)"),
    ("tinny", "unknown model 'tinny' (did you mean 'tiny'?)"),
    ("run:none", "no finished run of that name saved a model"),
    ("run:", "no finished run of that name saved a model"),
    ("nobody/nothing", "model 'nobody/nothing' is not available"),
    ("{tmp}", "is not available"),
    ("{tmp}/text.pdf", "is not available"),
    ("a b", "model 'a b' is not available"),
]
EXPRESSIONS = [
    *("q.__class__", "q +", "import os", "-q", "1e999", "q/0", "q()", "q[0]", "lambda q: q", "p", "q = 1"),
    *(
        "__import__('os')",
        "open('x')",
        "q if q else 1",
        "'q'",
        "True",
        "q @ q",
        "q; q",
        "q\nq",
        "",
        " ",
        "exp",
        "(" * 200,
    ),
    *(
        "+".join(["q"] * 2000),
        "log(q)",
        "sqrt(q - 1)",
        "1j",
        "max()",
        "nan",
        "inf",
        "mixce(0.1",
        "mixce()",
    ),
    *("mixce(2)", "mixce(a)", "mixce(0.1, 0.2, 0.3)", "mxice", "own: Focal(2)", "\ud800", "q\x00"),
]
CALLS = [
    (lambda: distinct_n(["a b"], 0), "n is 0"),
    (lambda: rep_n(["a b"], -1), "n is -1"),
    (lambda: rep_n([], 2), "texts is empty"),
    (lambda: distinct_n("a b", 1), "texts is one string"),
    (lambda: self_bleu([3]), "text 0 is 3"),
    (lambda: zipf_coefficient([]), "texts is empty"),
    (lambda: mauve_of_features(np.zeros((9, 2)), np.zeros((9, 2))), "allowed: at least 100 each"),
    (lambda: Sampler(temperature=-1), "temperature is -1"),
    (lambda: Sampler(top_p=0), "top_p is 0"),
    (lambda: Sampler(top_k=-1), "top_k is -1"),
    (lambda: stationary_distribution(objective("sequencematch", alpha=0.1), torch.tensor([0.5, 0.5])), None),
    (lambda: SweepConfig.check({"eta": "0.1"}), "eta is '0.1'; it must be a valid list"),
    (lambda: SweepConfig.check({"seeds": 0}), "seeds is 0; it must be in [1, 100]"),
    (lambda: SweepConfig.check({"run_now": "yes"}), "run_now is 'yes'; it must be a valid boolean"),
    (lambda: TradeoffConfig.check({"qualitty": "mauve"}), "unknown parameter 'qualitty' (did you mean 'quality'?)"),
    (lambda: run_name(RunConfig.check({"name": "a/b"})), "name is 'a/b'; it names a folder"),
    (lambda: read_study("..", RunStore()), "study is '..'; it names a folder"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("bad")
    (tmp / "own.yaml").write_text(yaml.safe_dump(STUDY))
    for name in ("folder.yaml", "folder.txt"):
        (tmp / name).mkdir()
    (tmp / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp / "deep.yaml").write_text("[" * 5000)
    (tmp / "python.yaml").write_text("about: !!python/object/apply:os.system ['touch /tmp/x']")
    (tmp / "text.pdf").write_text("words " * 5000)
    (tmp / "nul.txt").write_bytes(b"words\0" * 5000)
    (tmp / "latin1.txt").write_bytes("é ".encode("latin-1") * 5000)
    (tmp / "short.txt").write_text("word " * 60)
    (tmp / "broken.jsonl").write_text('{"text": \n' * 30)
    (tmp / "list.jsonl").write_text("[1]\n" * 30)
    (tmp / "number.jsonl").write_text(json.dumps({"text": 1}) + "\n")
    (tmp / "column.csv").write_text("title,body\n" + "a,b\n" * 30)
    return tmp


def refusal(call, *arguments):
    """The message of the InputError that the call raises: one line of printable characters."""
    with pytest.raises(InputError) as error:
        call(*arguments)
    text = str(error.value)
    assert text and "\n" not in text and len(text) < 1000
    return text


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(folder, tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr("mixkit.studies.sweep.preflight", lambda *_: [])
    monkeypatch.setattr("mixkit.studies.sweep.schedule", lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for module in ("sweep", "plan"):
        monkeypatch.setattr(f"mixkit.studies.{module}.RunStore", lambda root=tmp_path / "runs": RunStore(root))
    assert main(command.format(tmp=folder).split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mixkit: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert COMMANDS[command] in captured.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("values", "message"), PARAMETERS)
def test_parameters_of_a_notebook(values, message):
    assert message in refusal(RunConfig.check, values)


@pytest.mark.parametrize(("content", "message"), STUDY_FILES)
def test_study_files(tmp_path, content, message):
    path = tmp_path / "own.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    assert message in refusal(load_study, path)


@pytest.mark.parametrize(("name", "message"), CORPORA)
def test_corpora(folder, name, message):
    assert message in refusal(load_corpus, name.format(tmp=folder))


@pytest.mark.parametrize(("name", "message"), MODELS)
def test_models(folder, name, message):
    assert message in refusal(load_model, name.format(tmp=folder))


@pytest.mark.parametrize("text", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_objectives_as_text(text):
    assert refusal(objective, text)


@pytest.mark.parametrize(("call", "message"), CALLS)
def test_calls(call, message):
    assert (message or "") in refusal(call)


def test_there_are_at_least_a_hundred():
    tables = (COMMANDS, PARAMETERS, STUDY_FILES, CORPORA, MODELS, EXPRESSIONS, CALLS)
    assert sum(map(len, tables)) >= 150
