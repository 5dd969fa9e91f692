"""Training on action sequences: correction noise, the replay buffer, and the loss, for any division into batches."""

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixkit import MLE, MixCE, SequenceMatch, TokenScores
from mixkit.models.backspace import (
    BACKSPACE,
    PrefixTree,
    add_backspace,
    apply_backspaces,
    prefix_tree,
    score_actions,
)
from mixkit.models.likelihood import encode, text_nll
from mixkit.models.on_policy import Backtracking, BacktrackingLoss, CorrectionNoiseDataset, ReplayBuffer
from mixkit.models.trainer import finetune
from tests.support import padded

SMALL = {"max_tokens": 24, "learning_rate": 1e-3, "evaluations": 1, "precision": "float32", "progress": False}
SETTINGS = Backtracking(
    0.2, mle_warmup=0.25, mle_decay=0.5, mle_minimum=0.1, buffer_texts=6, refill_texts=4, refill_every=2
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((0.1, 0.2, 0.25), {0: 1, 9: 1, 10: 1, 20: 0.625, 30: 0.25, 99: 0.25}),
        ((0.03, 0.0, 0.0), {2: 1, 3: 0}),
        ((0.0, 0.0, 1.0), {0: 1, 50: 1}),
    ],
)
def test_the_weight_of_mle_falls_in_a_straight_line(settings, expected):
    replay: Any = SimpleNamespace(settings=Backtracking(0.1, *settings))
    loss = BacktrackingLoss(SequenceMatch(), replay, steps=100)
    assert {step: loss.share(step) for step in expected} == expected


def train(toy, folder, objective=None, settings=SETTINGS, dtype=torch.float64, texts=16, **kwargs):
    model, tokenizer, all_texts = copy.deepcopy(toy)
    model = model.to(dtype)
    objective = objective or SequenceMatch(alpha=0.1, discount=0.95)
    done = finetune(
        model,
        tokenizer,
        objective,
        all_texts[:texts],
        all_texts[-8:],
        folder=folder,
        backtracking=settings,
        **(SMALL | kwargs),
    )
    return model, tokenizer, done


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def noisy_dataset(toy, rate=0.3):
    model, tokenizer, texts = copy.deepcopy(toy)
    backspace_id = add_backspace(model, tokenizer)
    rows = encode(tokenizer, texts[:8], 30)
    return rows, CorrectionNoiseDataset(rows, rate, tokenizer), backspace_id


def test_noise_is_new_in_every_epoch_and_leaves_the_text(toy):
    rows, data, backspace_id = noisy_dataset(toy)
    first, again = [data[i][1].tolist() for i in range(8)], [data[i][1].tolist() for i in range(8)]
    data.epoch = 1
    assert first == again and all(data[i][1].tolist() != first[i] for i in range(8))
    for actions, row in zip(first, rows, strict=True):
        assert apply_backspaces(actions, backspace_id)[0] == row
        assert backspace_id in actions and actions[0] == row[0]


def test_wrong_tokens_are_drawn_from_all_ordinary_tokens(toy):
    _, data, backspace_id = noisy_dataset(toy)
    assert data.candidates.tolist() == [i for i in range(len(toy[1])) if i != toy[1].eos_token_id]
    assert backspace_id == len(toy[1])


def test_a_batch_has_labels_except_at_wrong_tokens(toy):
    rows, data, backspace_id = noisy_dataset(toy)
    batch = data.collate([data[i] for i in (3, 5)])
    for at, i in enumerate((3, 5)):
        length = 1 + int(batch["tree"]["actions"][at].sum())
        actions = batch["tree"]["ids"][at, :length].tolist()
        assert apply_backspaces(actions, backspace_id)[0] == rows[i] and batch["rows"][at] == i
        learned = batch["learned"][at].tolist()
        wrong = [t - 1 for t in range(length) if actions[t] == backspace_id]
        assert [t for t in range(length) if not learned[t]] == [0, *wrong]
        assert not any(learned[length:])
    assert batch["num_targets"] == batch["learned"].sum()
    _, clean, _ = noisy_dataset(toy, 0)
    plain = clean.collate([clean[i] for i in range(8)])
    ids, mask = padded(rows)
    assert torch.equal(plain["tree"]["ids"], ids) and torch.equal(plain["learned"][:, 1:], mask[:, 1:])


@pytest.mark.slow
def test_one_step_is_the_gradient_of_the_mix(toy, tmp_path):
    """One AdamW step at share 0.1 against MLE and SequenceMatch computed apart, each over its own tree."""
    settings = Backtracking(0.2, mle_warmup=0, mle_decay=0, mle_minimum=0.1, buffer_texts=8, refill_texts=8)
    trained, _, done = train(toy, tmp_path, settings=settings, max_steps=1, batch_size=16, max_tokens=160)
    reference, tokens, texts = copy.deepcopy(toy)
    reference, backspace_id = reference.double(), add_backspace(reference, tokens)
    data = CorrectionNoiseDataset(encode(tokens, texts[:16], 160), 0.2, tokens, seed=0)
    batch = data.collate([data[i] for i in range(16)])
    replay = ReplayBuffer(settings, tokens, max_tokens=160)
    replay.refill(reference, 0)
    samples = [torch.tensor(text) for text in replay.sample(0, batch["rows"])]
    data_ended = torch.tensor([row[-1] == tokens.eos_token_id for row in data.rows])
    model_ended = torch.tensor([bool(row[-1] == tokens.eos_token_id) for row in samples])
    assert 0 < data_ended.sum() < 16
    reference.train()
    data_tree, sample_tree = PrefixTree(**batch["tree"]), prefix_tree(samples, backspace_id)
    real, real_next = score_actions(reference, data_tree)
    learned = batch["learned"]
    sequence_match = SequenceMatch(alpha=0.1, discount=0.95)
    matched = sequence_match(
        real,
        real_next,
        *score_actions(reference, sample_tree),
        data_mask=data_tree.actions,
        data_labels=learned,
        data_ended=data_ended,
        model_mask=sample_tree.actions,
        model_ended=model_ended,
        denominator=sequence_match.steps(data_tree.actions),
    )
    loss = 0.1 * MLE()(real, learned) + 0.9 * matched
    loss.backward()
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    torch.optim.AdamW(reference.parameters(), lr=SMALL["learning_rate"], weight_decay=0.0).step()
    assert done.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(parameters(trained), parameters(reference), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_mle_with_backspace_is_mle_over_the_actions(toy, tmp_path):
    trained, _, done = train(toy, tmp_path, MLE(), max_steps=1, batch_size=16)
    model, tokenizer, texts = copy.deepcopy(toy)
    model, backspace_id = model.double(), add_backspace(model, tokenizer)
    rows = encode(tokenizer, texts[:16], 24)
    data = CorrectionNoiseDataset(rows, 0.2, tokenizer)
    batch = data.collate([data[i] for i in range(16)])
    nats = []
    for actions, learned in zip(batch["tree"]["ids"].tolist(), batch["learned"].tolist(), strict=True):
        for t in (t for t, is_learned in enumerate(learned) if is_learned):
            prefix = apply_backspaces(actions[:t], backspace_id)[0]
            logits = model(torch.tensor([prefix])).logits[0, -1]
            nats.append(TokenScores.from_logits(logits, torch.tensor(actions[t])).nll.item())
    assert done.history[0]["nll"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert trained.config.backspace_token_id == backspace_id


@pytest.mark.slow
def test_accumulation_does_not_change_the_training(toy, tmp_path):
    one, *_ = train(toy, tmp_path / "one", epochs=2, batch_size=8, max_tokens=200)
    eight, *_ = train(toy, tmp_path / "eight", epochs=2, batch_size=1, accumulation=8, max_tokens=200)
    base = copy.deepcopy(toy)
    add_backspace(*base[:2])
    assert (parameters(one) - parameters(base[0])).abs().max() > 1e-3
    assert (parameters(one) - parameters(eight)).abs().max() < 1e-5


def test_the_buffer_drops_its_oldest_and_is_saved(toy):
    model, tokenizer, _ = copy.deepcopy(toy)
    add_backspace(model, tokenizer)
    replay = ReplayBuffer(SETTINGS, tokenizer, max_tokens=5)
    replay.refill(model, 4)
    first = list(replay.texts)
    assert len(first) == 4
    assert replay.next_refill == 6
    replay.refill(model, 6)
    assert len(replay.texts) == 6 and replay.texts[:2] == first[2:]
    loaded = ReplayBuffer(SETTINGS, tokenizer, max_tokens=5)
    vars(loaded).update(json.loads(json.dumps(replay.state()))["attributes"])
    assert loaded.texts == replay.texts and loaded.next_refill == 8
    texts = replay.sample(7, [0, 1, 2, 3])
    assert loaded.sample(7, [2]) == [texts[2]]
    assert texts != replay.sample(8, [0, 1, 2, 3])


@pytest.mark.slow
def test_the_evaluation_has_no_noise(toy, tmp_path):
    model, tokenizer, done = train(toy, tmp_path, max_steps=2, batch_size=5)
    nats, tokens = text_nll(model, tokenizer, toy[2][-8:], max_tokens=SMALL["max_tokens"])
    assert done.validation_nll == pytest.approx((nats.sum() / tokens.sum()).item(), rel=1e-5)
    assert tokens.sum() == sum(len(row) - 1 for row in encode(toy[1], toy[2][-8:], SMALL["max_tokens"]))


@pytest.mark.slow
def test_bf16_trains_to_nearly_the_same_loss(toy, tmp_path):
    kwargs = {"dtype": torch.float32, "max_steps": 3, "batch_size": 8}
    *_, full = train(toy, tmp_path / "full", **kwargs)
    *_, half = train(toy, tmp_path / "half", **kwargs, precision="bf16")
    losses = [[line["loss"] for line in d.history if "loss" in line] for d in (full, half)]
    assert losses[0] == pytest.approx(losses[1], rel=3e-2) and losses[0] != losses[1]


def test_the_letters_of_the_token_are_text(toy):
    model, tokenizer, _ = copy.deepcopy(toy)
    backspace_id = add_backspace(model, tokenizer)
    (row,) = encode(tokenizer, [f"a {BACKSPACE} b"], 50)
    assert backspace_id not in row and tokenizer.decode(row[1:-1]) == f"a {BACKSPACE} b"


def test_refused_settings(toy, tmp_path):
    with pytest.raises(ValueError, match="SequenceMatch needs backtracking"):
        train(toy, tmp_path, settings=None, max_steps=1)
    with pytest.raises(ValueError, match="does not use <backspace>"):
        train(toy, tmp_path, MixCE(0.5), max_steps=1)
    with pytest.raises(ValueError, match="unknown precision 'fp16'"):
        train(toy, tmp_path, max_steps=1, precision="fp16")
    for bad, message in (
        ({"noise_rate": 0.6}, r"noise_rate is 0.6; it must be a number in \[0, 0.5\]"),
        ({"mle_minimum": -1}, r"mle_minimum is -1; it must be a number in \[0, 1\]"),
        ({"refill_every": 0}, r"refill_every is 0; it must be a number in \[1, inf\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Backtracking(**bad)
