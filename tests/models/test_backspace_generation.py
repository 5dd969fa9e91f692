"""Sampling with backspace against feeding the kept prefix alone."""

import collections

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mixkit._common import InputError
from mixkit.models.backspace_generation import _walk, sample_with_backspace

VOCABULARY, BACKSPACE, END = 13, 11, 12


def toy_model(kind="gpt2", attention="sdpa", dtype=torch.float64, lift=3.0):
    """A random model whose <backspace> is likely (its logit is lifted), so that rows go back and forth."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": END, "attn_implementation": attention}
    if kind == "gpt2":
        config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, initializer_range=0.4, **common)
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.4,
            **common,
        )
        model = LlamaForCausalLM(config)
    head = torch.nn.Linear(16, VOCABULARY)
    torch.nn.init.normal_(head.weight, std=0.4)
    head.bias.data.zero_()
    head.bias.data[BACKSPACE], head.bias.data[END] = lift, -1.5
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(head)
    return model.to(dtype).eval()


PROMPTS = [[1], [2, 3, 4, 5], [6, 7], [8, 9, 10], [1, 1, 1, 1, 1, 1]]
ASKED = {"backspace_id": BACKSPACE, "end_id": END, "max_new_tokens": 12, "max_steps": 40}


@pytest.mark.parametrize(
    ("kind", "attention", "tolerance"),
    [
        ("gpt2", "eager", 1e-10),
        ("gpt2", "sdpa", 1e-10),
        ("llama", "sdpa", 1e-10),
        ("llama", "eager", 1e-5),  # its softmax is float32 whatever the model's dtype
    ],
)
def test_every_step_has_the_logits_of_the_kept_prefix(kind, attention, tolerance):
    model = toy_model(kind, attention)
    kept, back, sizes = [list(prompt) for prompt in PROMPTS], 0, []
    for step in _walk(model, PROMPTS, BACKSPACE, END, 12, 24, [], 3, True):
        sizes.append(len(step.row))
        for at, row in enumerate(step.row.tolist()):
            if not step.active[at]:
                continue
            prefix = kept[row]
            with torch.no_grad():
                alone = model(torch.tensor([prefix])).logits[0, -1]
            torch.testing.assert_close(step.logits[at], alone, rtol=0, atol=tolerance)
            action = int(step.action[at])
            if action == BACKSPACE:
                assert len(prefix) > len(PROMPTS[row])
                prefix.pop()
                back += 1
            else:
                prefix.append(action)
    assert back > 10
    assert sizes[-1] < sizes[0]  # rows that had stopped were dropped on the way


def test_trajectories_are_consistent():
    for trajectory, prompt in zip(sample_with_backspace(toy_model(), PROMPTS, **ASKED), PROMPTS, strict=True):
        text = []
        for action in trajectory.actions:
            text = text[:-1] if action == BACKSPACE else [*text, action]
        assert trajectory.prompt == prompt
        assert trajectory.text == text and BACKSPACE not in text
        assert trajectory.num_deleted == trajectory.actions.count(BACKSPACE)
        assert trajectory.ended == (trajectory.actions[-1] == END)
        assert trajectory.ended or len(text) == 12 or len(trajectory.actions) == 40
        assert END not in trajectory.actions[:-1]
        assert len(text) <= 12 and len(trajectory.actions) <= 40
        assert trajectory.steps_per_kept_token == (len(trajectory.actions) / len(text) if text else float("inf"))


def test_first_two_actions_follow_the_model():
    """Counts of the first two actions over 4,000 rows against their exact probabilities, four standard errors wide."""
    model, rows = toy_model(), 4000
    drawn = collections.Counter()
    for trajectory in sample_with_backspace(model, [[1]] * rows, **{**ASKED, "max_steps": 2}):
        drawn[tuple(trajectory.actions)] += 1
    with torch.no_grad():
        first = model(torch.tensor([[1]])).logits[0, -1]
        first[BACKSPACE] = -torch.inf
        first = first.softmax(-1)
        assert drawn[(END,)] == pytest.approx(rows * first[END].item(), abs=4 * (rows * 0.25) ** 0.5)
        for token in range(11):
            second = model(torch.tensor([[1, token]])).logits[0, -1].softmax(-1)
            for action in range(VOCABULARY):
                p = (first[token] * second[action]).item()
                assert abs(drawn[(token, action)] - rows * p) <= 4 * (rows * p * (1 - p)) ** 0.5 + 1


def test_without_backspace_it_is_plain_sampling():
    for trajectory in sample_with_backspace(toy_model(), PROMPTS * 4, **ASKED, allow_backspace=False):
        assert trajectory.num_deleted == 0 and trajectory.text == trajectory.actions
        assert trajectory.steps_per_kept_token == 1
    no_token = {**ASKED, "backspace_id": None}
    assert sample_with_backspace(toy_model(), PROMPTS, **no_token, allow_backspace=False)


def test_seeds():
    model = toy_model()
    once, again, other = (sample_with_backspace(model, PROMPTS, **ASKED, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_top_k_and_top_p_cut_as_transformers_does():
    model = toy_model()
    for asked, warper in ({"top_k": 3}, TopKLogitsWarper(3)), ({"top_p": 0.6}, TopPLogitsWarper(0.6)):
        for trajectory in sample_with_backspace(model, [[2, 3]] * 20, **ASKED, **asked):
            for at, action in enumerate(trajectory.actions[:6]):
                prefix = [2, 3]
                for before in trajectory.actions[:at]:
                    prefix = prefix[:-1] if before == BACKSPACE else [*prefix, before]
                with torch.no_grad():
                    scores = model(torch.tensor([prefix])).logits[:, -1]
                if len(prefix) == 2:
                    scores[:, BACKSPACE] = -torch.inf
                assert warper(None, scores)[0, action] > -torch.inf
    cold = [x.actions for x in sample_with_backspace(model, [[2, 3]] * 3, **ASKED, temperature=1e-4)]
    assert cold[0] == cold[1] == cold[2]


def test_training_mode_is_put_back_and_float32_works():
    model = toy_model("llama", dtype=torch.float32).train()
    assert sample_with_backspace(model, PROMPTS, **ASKED)
    assert model.training


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": [[1], [2, BACKSPACE]]}, "prompt 1 holds <backspace>"),
        ({"prompts": [[]]}, "prompt 0 is empty"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"temperature": 0}, "temperature is 0; it must be above 0"),
        ({"top_p": 1.1}, r"top_p is 1.1; it must be in \(0, 1\]"),
        ({"top_k": -1}, "top_k is -1"),
        ({"max_new_tokens": 64}, "beside 2 other tokens the model's 64 positions have room for 62"),
        ({"backspace_id": None}, "the model has no <backspace>"),
    ],
)
def test_bad_input(changed, message):
    asked = {"prompts": [[1, 2]], **ASKED, **changed}
    with pytest.raises(InputError, match=message):
        sample_with_backspace(toy_model(), **asked)
