"""Finetuning: the loss is the mean over all tokens of the global batch, for any division into batches."""

import copy
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from mixkit import MLE, MixCE, SequenceMatch, TokenScores, objective
from mixkit._common import InputError
from mixkit.losses import Threshold, lm_head
from mixkit.models import on_policy
from mixkit.models import trainer as training
from mixkit.models.generation import sample_continuations
from mixkit.models.likelihood import encode, text_nll
from mixkit.models.loading import load_model
from mixkit.models.on_policy import Backtracking
from mixkit.models.trainer import finetune
from tests.support import padded
from tests.waits import CountWaits

CLONE = Path(__file__).parents[2]
SMALL = {"max_tokens": 24, "learning_rate": 1e-3, "evaluations": 1, "precision": "float32", "progress": False}


def train(toy, folder, objective=None, texts=16, dtype=torch.float64, **kwargs):
    """A copy of the toy model, trained. float64: Adam's first steps turn float32's rounding into whole steps."""
    model, tokenizer, all_texts = copy.deepcopy(toy)
    model = model.to(dtype)
    done = finetune(
        model, tokenizer, objective or MixCE(0.3), all_texts[:texts], all_texts[-8:], folder=folder, **(SMALL | kwargs)
    )
    return model, done


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_encode_begins_with_the_start_and_ends_uncut_texts(toy):
    _, tokenizer, texts = toy
    ids = tokenizer(texts[0])["input_ids"]
    whole, cut = encode(tokenizer, [texts[0]], len(ids)), encode(tokenizer, [texts[0]], len(ids) - 1)
    assert whole == [[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]]
    assert cut == [[tokenizer.bos_token_id, *ids[:-1]]]


def test_text_nll_equals_each_text_alone(toy):
    model, tokenizer, texts = toy
    nats, tokens = text_nll(model, tokenizer, texts[:7], max_tokens=40, batch_size=3)
    for i, row in enumerate(encode(tokenizer, texts[:7], 40)):
        logits = model(torch.tensor([row[:-1]])).logits[0].double()
        assert nats[i].item() == pytest.approx(F.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum").item())
        assert tokens[i] == len(row) - 1


def test_text_nll_of_continuations_given_prompts(toy):
    model, tokenizer, texts = toy
    prompts, continuations = ["Once upon", "The", "A fox"], [texts[0], " end", ""]
    nats, tokens = text_nll(model, tokenizer, continuations, prompts=prompts, max_tokens=20, batch_size=2)
    for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        context = [tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]
        row = torch.tensor((context + tokenizer(continuation)["input_ids"])[:21], dtype=torch.long)
        logits = model(row[None, :-1]).logits[0, len(context) - 1 :].double()
        expected = F.cross_entropy(logits, row[len(context) :], reduction="sum")
        assert nats[i].item() == pytest.approx(expected.item()) and tokens[i] == len(row) - len(context)
    assert tokens[2] == nats[2] == 0
    assert text_nll(model, tokenizer, [""], prompts=["A"], max_tokens=20)[1].tolist() == [0]


def test_text_nll_refuses_prompts_that_do_not_fit(toy):
    model, tokenizer, texts = toy
    with pytest.raises(InputError, match="1 prompts and 2 texts"):
        text_nll(model, tokenizer, ["a", "b"], prompts=["a"], max_tokens=20)
    with pytest.raises(InputError, match="1 of 2 prompts leave no room for a text in max_tokens=20"):
        text_nll(model, tokenizer, ["a", "b"], prompts=[texts[0], "a"], max_tokens=20)
    length = len(tokenizer("The fox")["input_ids"])
    assert text_nll(model, tokenizer, ["a"], prompts=["The fox"], max_tokens=length + 1)[1] == 1
    with pytest.raises(InputError, match=f"max_tokens={length}"):
        text_nll(model, tokenizer, ["a"], prompts=["The fox"], max_tokens=length)
    with pytest.raises(InputError, match="max_tokens is 256; beside 1 other tokens"):
        text_nll(model, tokenizer, ["a"], prompts=["a"], max_tokens=256)


def test_texts_longer_than_the_positions_are_refused(toy, tmp_path):
    model, tokenizer, texts = toy
    long = [" ".join(texts)]
    assert text_nll(model, tokenizer, long, max_tokens=254)[1] == 254
    message = "max_tokens is 255; beside 2 other tokens the model's 256 positions have room for 254"
    with pytest.raises(InputError, match=message):
        text_nll(model, tokenizer, long, max_tokens=255)
    with pytest.raises(InputError, match=message):
        train(toy, tmp_path, max_tokens=255)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_finetune_trains_tiny_as_it_stands(toy, tmp_path):
    texts = toy[2]
    long = [" ".join(texts)] * 2
    model, tokenizer = load_model("tiny", texts=texts)
    assert finetune(model, tokenizer, MLE(), long, long, folder=tmp_path, max_steps=1, progress=False).steps == 1


@pytest.mark.slow
def test_the_number_of_evaluations_and_the_last_step(toy, tmp_path):
    _, done = train(toy, tmp_path, max_steps=7, batch_size=4, evaluations=4)
    assert [line["step"] for line in done.history if "validation_nll" in line] == [2, 4, 6, 7]


@pytest.mark.slow
def test_one_step_equals_the_objective_on_full_logits(toy, tmp_path):
    """One AdamW step from our loss and from the plain formula lead to the same parameters."""
    model, tokenizer, texts = toy
    trained, done = train(toy, tmp_path, max_steps=1, batch_size=16)
    reference = copy.deepcopy(model).double().train()
    ids, mask = padded(encode(tokenizer, texts[:16], SMALL["max_tokens"]))
    logits = reference(input_ids=ids, attention_mask=mask.long()).logits[:, :-1]
    loss = MixCE(0.3)(TokenScores.from_logits(logits, ids[:, 1:]), mask[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    torch.optim.AdamW(reference.parameters(), lr=SMALL["learning_rate"], weight_decay=0.0).step()
    assert (parameters(trained) - parameters(model)).abs().max() > 5e-4
    torch.testing.assert_close(parameters(trained), parameters(reference), rtol=0, atol=1e-9)
    assert done.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert done.history[0]["nll"] > done.history[0]["loss"]


@pytest.mark.slow
def test_accumulation_does_not_change_the_training(toy, tmp_path):
    """Texts differ in length, so a mean of batch means would differ from the mean over all tokens."""
    one, _ = train(toy, tmp_path / "one", epochs=2, batch_size=8, max_tokens=200)
    eight, _ = train(toy, tmp_path / "eight", epochs=2, batch_size=1, accumulation=8, max_tokens=200)
    assert (parameters(one) - parameters(toy[0])).abs().max() > 1e-3
    assert (parameters(one) - parameters(eight)).abs().max() < 1e-5


@pytest.mark.slow
def test_two_processes_have_the_same_losses(toy, tmp_path):
    model, tokenizer, texts = toy
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys\n"
        "from mixkit import MixCE, SequenceMatch\n"
        "from mixkit.models.on_policy import Backtracking\n"
        "from mixkit.models.loading import load_model\n"
        "from mixkit.models.trainer import finetune\n"
        "folder, batch_size = sys.argv[1], int(sys.argv[2])\n"
        f"texts = json.load(open({str(tmp_path / 'texts.json')!r}))\n"
        "settings = Backtracking(0.2, 0.25, 0.5, 0.1, buffer_texts=6, refill_texts=4, refill_every=2)\n"
        "runs = ('/mixce', MixCE(0.3), None), ('/match', SequenceMatch(0.1, 0.95), settings)\n"
        "for name, objective, on_policy in runs:\n"
        f"    model, tokenizer = load_model({str(tmp_path / 'model')!r})\n"
        "    model = model.double() if on_policy else model\n"  # rounding may change a sampled text
        "    finetune(model, tokenizer, objective, texts[:32], texts[-9:], folder=folder + name, epochs=2.0,\n"
        "             batch_size=batch_size, max_tokens=60 if on_policy else 200, learning_rate=1e-3, evaluations=2,\n"
        "             precision='float32', progress=False, backtracking=on_policy)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CLONE), "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (
        [sys.executable, str(script), str(tmp_path / "one"), "8"],
        [*torchrun, str(script), str(tmp_path / "two"), "4"],
    ):
        out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert out.returncode == 0, out.stderr[-2000:]
    for name, tolerance in (("mixce", 1e-4), ("match", 2e-7)):  # float32, float64 with sums of the log in float32
        one, two = (
            [json.loads(line) for line in (tmp_path / which / name / "training.jsonl").read_text().splitlines()]
            for which in ("one", "two")
        )
        assert len(one) == len(two) == 10
        gaps = []
        for single, double in zip(one, two, strict=True):
            for key in {"loss", "nll", "validation_nll"} & single.keys():
                assert double[key] == pytest.approx(single[key], rel=tolerance)
                gaps.append(double[key] - single[key])
        if name == "mixce":
            assert any(g > 0 for g in gaps) and any(g < 0 for g in gaps)  # noise, not a drift to one side


class Killed(BaseException):
    pass


def kill_while_saving(monkeypatch, step):
    """The checkpoint has its weights only."""
    original = training.ObjectiveTrainer._save_optimizer_and_scheduler

    def killed(self, *args):
        if self.state.global_step == step:
            raise Killed
        original(self, *args)

    monkeypatch.setattr(training.ObjectiveTrainer, "_save_optimizer_and_scheduler", killed)


def kill_in_the_last_file(monkeypatch, step):
    from transformers import TrainerState

    original = TrainerState.save_to_json

    def killed(self, path):
        original(self, path)
        if self.global_step == step:
            Path(path).write_text(Path(path).read_text()[:-40])
            raise Killed

    monkeypatch.setattr(TrainerState, "save_to_json", killed)


def kill_before_the_best_is_loaded(monkeypatch, step):
    """The last checkpoint is complete, and the training had stopped there."""

    def killed(self):
        raise Killed

    monkeypatch.setattr(training.ObjectiveTrainer, "_load_best_model", killed)


def kill_after_training(monkeypatch, step):
    def killed(**fields):
        raise Killed

    monkeypatch.setattr(training, "TrainingResult", killed)


KILLS = [kill_while_saving, kill_in_the_last_file, kill_before_the_best_is_loaded, kill_after_training]


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 6])
@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("objective", ["mixce", "sequencematch"])
def test_a_killed_training_ends_with_the_same_bits(toy, tmp_path, monkeypatch, kill, step, objective):
    settings = {"objective": MixCE(0.3), "dtype": torch.float32, "epochs": 3, "batch_size": 6, "evaluations": 5}
    if objective == "sequencematch":
        settings |= {"objective": SequenceMatch(0.1, 0.95), "texts": 14}
        settings["backtracking"] = Backtracking(0.2, 0.25, 0.5, 0.1, buffer_texts=6, refill_texts=2, refill_every=3)
    else:  # at this rate the first evaluation stays the best, and patience ends the training
        settings |= {"learning_rate": 3.0, "patience": 2}
        monkeypatch.setattr(training.ObjectiveTrainer, "_stop_if_diverged", lambda *values: None)
    whole, done = train(toy, tmp_path / "whole", **settings)
    assert (done.steps < 9) == (objective == "mixce")
    with monkeypatch.context() as patched:
        kill(patched, step)
        with pytest.raises(Killed):
            train(toy, tmp_path / "cut", **settings)
    resumed, again = train(toy, tmp_path / "cut", **settings)
    assert torch.equal(parameters(resumed), parameters(whole))
    assert (again.steps, again.best_step, again.validation_nll) == (done.steps, done.best_step, done.validation_nll)
    written = [json.loads(line) for line in (tmp_path / "cut" / "training.jsonl").read_text().splitlines()]
    assert written == again.history
    for one, other in zip(again.history, done.history, strict=True):
        assert one | {"tokens_per_second": 0} == other | {"tokens_per_second": 0}


@pytest.mark.slow
def test_another_training_does_not_go_on_from_the_checkpoints(toy, tmp_path, monkeypatch):
    """An objective of the same name whose code was edited, and other texts. The same training goes on."""

    class Own(MLE):
        power = 0

        def weight(self, prob):
            return prob**self.power

    ways = [{}, {"power": 2}, {"texts": 12}, {"learning_rate": 2e-3}]
    for folder in (tmp_path / "one", None):
        trained = []
        for i, way in enumerate(ways):
            monkeypatch.setattr(Own, "power", way.get("power", 0))
            options = {name: value for name, value in way.items() if name != "power"}
            model, _ = train(toy, folder or tmp_path / str(i), Own(), epochs=1, **options)
            trained.append(parameters(model))
        if folder:
            shared = trained
    assert all(torch.equal(one, alone) for one, alone in zip(shared, trained, strict=True))
    assert not torch.equal(shared[0], shared[1])
    low, high = (train(toy, tmp_path / "low", Threshold(p), epochs=1)[0] for p in (0.001, 0.1))
    assert torch.equal(parameters(high), parameters(train(toy, tmp_path / "high", Threshold(0.1), epochs=1)[0]))
    assert not torch.equal(parameters(low), parameters(high))
    monkeypatch.setattr(Own, "power", 0)
    monkeypatch.setattr(training.ObjectiveTrainer, "training_step", None)  # nothing is left to train
    assert torch.equal(parameters(train(toy, tmp_path / "one", Own(), epochs=1)[0]), trained[0])


@pytest.mark.parametrize(
    "losses",
    [
        lambda self, scores: scores.nll.mean(),
        lambda self, scores: scores.prob.detach() / scores.prob.detach().mean() * scores.nll,
        lambda self, scores: scores.nll[:, None],
    ],
)
def test_a_loss_that_is_not_of_each_token_alone_is_refused(toy, tmp_path, monkeypatch, losses):
    monkeypatch.setattr(MixCE, "losses", losses)
    with pytest.raises(InputError, match="has no loss for each token that depends on this token alone"):
        train(toy, tmp_path, MixCE(0.3))


def test_half_precision_weights_and_a_subclass_with_backtracking_are_refused(toy, tmp_path):
    with pytest.raises(InputError, match="half precision, which loses small steps"):
        train(toy, tmp_path, dtype=torch.bfloat16)

    class Clipped(MLE):
        pass

    with pytest.raises(InputError, match="does not use <backspace>"):
        train(toy, tmp_path, Clipped(), backtracking=Backtracking())


def test_an_empty_file_makes_a_checkpoint_incomplete(toy, tmp_path):
    """As a power cut leaves it."""
    train(toy, tmp_path, epochs=1)
    (checkpoint,) = tmp_path.glob("checkpoints/*/checkpoint-*")
    assert training._last_checkpoint(checkpoint.parent)[0] == str(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"")
    assert training._last_checkpoint(checkpoint.parent) == (None, None)


def test_the_best_weights_remain_and_patience_stops(toy, tmp_path):
    """With a learning rate that destroys the model the first evaluation stays the best."""
    model, done = train(
        toy, tmp_path, MLE(), epochs=40, batch_size=16, learning_rate=0.3, evaluations=20, patience=3, texts=16
    )
    validated = [line for line in done.history if "validation_nll" in line]
    assert done.steps < 40
    assert done.validation_nll == min(line["validation_nll"] for line in validated)
    nats, tokens = text_nll(model, toy[1], toy[2][-8:], max_tokens=SMALL["max_tokens"])
    assert (nats.sum() / tokens.sum()).item() == pytest.approx(done.validation_nll, rel=1e-4)
    assert not model.training


@pytest.mark.slow
def test_the_evaluation_is_the_plain_nll(toy, tmp_path):
    model, done = train(toy, tmp_path, MixCE(0.0), max_steps=2, batch_size=5)
    nats, tokens = text_nll(model, toy[1], toy[2][-8:], max_tokens=SMALL["max_tokens"])
    assert done.validation_nll == pytest.approx((nats.sum() / tokens.sum()).item(), rel=1e-5)
    assert done.tokens_per_second > 0 and math.isfinite(done.seconds)


@pytest.mark.slow
def test_bf16_trains_to_nearly_the_same_loss(toy, tmp_path):
    _, full = train(toy, tmp_path / "full", dtype=torch.float32, max_steps=3, batch_size=8)
    _, half = train(toy, tmp_path / "half", dtype=torch.float32, max_steps=3, batch_size=8, precision="bf16")
    losses = [[line["loss"] for line in d.history if "loss" in line] for d in (full, half)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2) and losses[0] != losses[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("loss", [MixCE(0.3), SequenceMatch(0.1, 0.95)])
def test_a_compiled_model_trains_alike(toy, tmp_path, loss):
    own_texts = Backtracking(mle_warmup=1, mle_decay=1) if isinstance(loss, SequenceMatch) else None
    how = {"dtype": torch.float32, "max_steps": 4, "batch_size": 8, "backtracking": own_texts}
    torch._dynamo.utils.counters.clear()
    _, eager = train(toy, tmp_path / "eager", loss, **how)
    model, done = train(toy, tmp_path / "compiled", loss, **how, torch_compile=True)
    losses = [[line["nll"] for line in d.history if "nll" in line] for d in (eager, done)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] in (1, 2)  # sampling is not compiled
    assert type(model) is type(toy[0])


def test_compiling_needs_a_compiler(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"torch_compile needs a C\+\+ compiler"):
        train(toy, tmp_path, max_steps=1, torch_compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [MixCE(0.3), SequenceMatch(0.1, 0.95)])
@pytest.mark.parametrize("failure", ["nan", "explodes"])
def test_a_training_that_diverges_stops(toy, tmp_path, monkeypatch, loss, failure):
    """At step 6 a weight becomes nan, or the model becomes certain and wrong; the checkpoint of step 4 remains."""
    original = training.ObjectiveTrainer.training_step

    def damaged(self, model, *args, **kwargs):
        if self.state.global_step == 5:
            model.transformer.ln_f.weight.data *= math.nan if failure == "nan" else -1e3
        return original(self, model, *args, **kwargs)

    monkeypatch.setattr(training.ObjectiveTrainer, "training_step", damaged)
    backtracking = Backtracking(0.2, 0.25, 0.5, 0.1, 6, 2, 1) if isinstance(loss, SequenceMatch) else None
    settings = {"epochs": 3, "batch_size": 4, "evaluations": 3, "backtracking": backtracking}
    with pytest.raises(InputError) as caught:
        train(toy, tmp_path, loss, **settings)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"training on {loss} diverged after step ")
    assert re.search(rf"last good checkpoint: {tmp_path}/checkpoints/\w{{8}}/checkpoint-4$", message)
    lines = (tmp_path / "training.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["step"] for line in lines][-1] in (4, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_has_advice(toy, tmp_path, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(training.ObjectiveTrainer, "compute_loss", full)
    monkeypatch.setattr("mixkit.models.likelihood.batch_nll", full)
    monkeypatch.setattr("mixkit.models.generation.sample_actions", full)
    model, tokenizer, texts = toy
    with pytest.raises(
        InputError, match=r"^out of memory; lower batch_size and raise accumulation .* lower max_tokens"
    ):
        train(toy, tmp_path, max_steps=1)
    with pytest.raises(InputError, match=r"^out of memory; lower batch_size of text_nll, or max_tokens"):
        text_nll(model, tokenizer, texts[:2], max_tokens=9)
    with pytest.raises(InputError, match=r"^out of memory; lower batch_size of sample_continuations, or max_new"):
        sample_continuations(model, tokenizer, ["a"], max_new_tokens=3)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [MLE(), MixCE(0.3), SequenceMatch(0.1, 0.95)], ids=str)
def test_no_training_step_waits_for_the_device(toy, tmp_path, monkeypatch, loss):
    """From step to step, optimizer included: 0 waits, except where a log is written. The loader works on the host."""
    counts, waits = [], CountWaits()
    original = training.ObjectiveTrainer.training_step
    on_host = [(transformers.Trainer, "get_batch_samples"), (on_policy, "prefix_tree"), (lm_head, "check_targets")]
    for owner, name in on_host:
        monkeypatch.setattr(owner, name, waits.pausing(getattr(owner, name)))

    def counted(self, *args, **kwargs):
        counts.append(len(waits.found))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(training.ObjectiveTrainer, "training_step", counted)
    settings = {"max_steps": 100, "batch_size": 2, "dtype": torch.float32, "max_tokens": 9}
    if isinstance(loss, SequenceMatch):
        settings["backtracking"] = Backtracking(0.2, 0, 0, 0.1, buffer_texts=4, refill_texts=4, refill_every=1000)
    with waits:
        _, done = train(toy, tmp_path, loss, **settings)
    logged = [line["step"] for line in done.history if "loss" in line]
    assert logged == list(range(2, 101, 2))
    steps = [after - before for before, after in itertools.pairwise(counts)]
    assert set(steps[2::2]) == {0} and min(steps[1::2]) > 0


@pytest.mark.slow
def test_workers_of_the_loader_have_the_noise_of_the_epoch(toy, tmp_path, monkeypatch):
    settings = {"objective": SequenceMatch(0.1, 0.95), "epochs": 2, "batch_size": 8}
    settings["backtracking"] = Backtracking(0.3, 0.25, 0.5, 0.1, buffer_texts=6, refill_texts=2, refill_every=3)
    alone, _ = train(toy, tmp_path / "alone", **settings)
    original = training.TrainingArguments
    monkeypatch.setattr(
        training, "TrainingArguments", lambda *args, **kwargs: original(*args, **kwargs | {"dataloader_num_workers": 2})
    )
    workers, _ = train(toy, tmp_path / "workers", **settings)
    assert torch.equal(parameters(alone), parameters(workers))


@pytest.mark.slow
def test_other_runtime_errors_pass(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(
        training.ObjectiveTrainer, "compute_loss", lambda *args, **kwargs: torch.ones(2) @ torch.ones(3)
    )
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        train(toy, tmp_path, max_steps=1)


NAMES = (
    "mle",
    "tailr(0.01, 0.2)",
    "mle-backspace",
    "power(0.3)",
    "focal",
    "threshold",
    "gem",
    "error-norm",
    "q ** 0.3",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_each_objective_gives_the_same_bits_again(toy, tmp_path, monkeypatch, name):
    """The same seed, once in one go and once killed and resumed. MixCE and SequenceMatch are tested above."""
    backtracking = Backtracking(0.2) if name == "mle-backspace" else None
    settings = {"dtype": torch.float32, "max_steps": 4, "batch_size": 4, "evaluations": 4, "backtracking": backtracking}
    whole, done = train(toy, tmp_path / "whole", objective(name), **settings)
    with monkeypatch.context() as patched:
        kill_while_saving(patched, 3)
        with pytest.raises(Killed):
            train(toy, tmp_path / "cut", objective(name), **settings)
    resumed, again = train(toy, tmp_path / "cut", objective(name), **settings)
    assert torch.equal(parameters(resumed), parameters(whole)) and again.validation_nll == done.validation_nll
