"""Sampling with backspace against the model applied to the remaining prefix alone."""

import collections

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
)

from mixkit._common import InputError
from mixkit.models.backspace import apply_backspaces
from mixkit.models.backspace_generation import _steps, sample_with_backspace
from mixkit.models.generation import Sampler

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
SETTINGS = {"backspace_id": BACKSPACE, "end_id": END, "max_new_tokens": 12}


@pytest.mark.parametrize(
    ("kind", "attention", "tolerance"),
    [
        ("gpt2", "eager", 1e-10),
        ("gpt2", "sdpa", 1e-10),
        ("llama", "sdpa", 1e-10),
        ("llama", "eager", 1e-5),  # its softmax is float32 whatever the model's dtype
    ],
)
def test_every_step_has_the_logits_of_its_prefix(kind, attention, tolerance):
    model = toy_model(kind, attention)
    prefixes, num_deleted, sizes = [list(prompt) for prompt in PROMPTS], 0, []
    for rows, logits, actions, active in _steps(model, PROMPTS, BACKSPACE, END, 12, LogitsProcessorList(), 3):
        sizes.append(len(rows))
        for at, row in enumerate(rows.tolist()):
            if not active[at]:
                continue
            prefix = prefixes[row]
            with torch.no_grad():
                alone = model(torch.tensor([prefix])).logits[0, -1]
            torch.testing.assert_close(logits[at], alone, rtol=0, atol=tolerance)
            action = int(actions[at])
            if action == BACKSPACE:
                assert len(prefix) > len(PROMPTS[row])
                prefix.pop()
                num_deleted += 1
            else:
                prefix.append(action)
    assert num_deleted > 10
    assert sizes[-1] < sizes[0]  # stopped rows leave the batch


def test_actions_are_consistent():
    for actions in sample_with_backspace(toy_model(), PROMPTS, **SETTINGS):
        tokens, num_deleted = apply_backspaces(actions, BACKSPACE)
        assert BACKSPACE not in tokens and num_deleted == actions.count(BACKSPACE)
        assert END not in actions[:-1]
        assert actions[-1] == END or len(tokens) == 12 or len(actions) == 24
        assert len(tokens) <= 12 and len(actions) <= 24


def test_first_two_actions_follow_the_model():
    """Counts of the first two actions over 4,000 rows against their exact probabilities, four standard errors wide."""
    model, rows = toy_model(), 4000
    drawn = collections.Counter()
    for actions in sample_with_backspace(model, [[1]] * rows, **SETTINGS):
        drawn[tuple(actions[:2])] += 1
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
    actions = sample_with_backspace(toy_model(), PROMPTS * 4, **{**SETTINGS, "backspace_id": None})
    assert all(row[-1] == END or len(row) == 12 for row in actions)
    assert any(BACKSPACE in row for row in actions)  # an ordinary token here


def test_seeds():
    model = toy_model()
    once, again, other = (sample_with_backspace(model, PROMPTS, **SETTINGS, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize("sampler", [Sampler(top_k=3), Sampler(top_p=0.6)])
def test_logits_processors_restrict_every_action(sampler):
    model = toy_model()
    for actions in sample_with_backspace(
        model, [[2, 3]] * 20, **SETTINGS, logits_processor=sampler.logits_processors()
    ):
        for position, action in enumerate(actions[:6]):
            prefix = [2, 3, *apply_backspaces(actions[:position], BACKSPACE)[0]]
            with torch.no_grad():
                scores = model(torch.tensor([prefix])).logits[:, -1]
            if len(prefix) == 2:
                scores[:, BACKSPACE] = -torch.inf
            assert sampler.logits_processors()(None, scores)[0, action] > -torch.inf


def test_low_temperature_is_deterministic():
    processors = Sampler(temperature=1e-4).logits_processors()
    rows = sample_with_backspace(toy_model(), [[2, 3]] * 3, **SETTINGS, logits_processor=processors)
    assert rows[0] == rows[1] == rows[2]


def test_training_mode_is_restored_in_float32():
    model = toy_model("llama", dtype=torch.float32).train()
    assert sample_with_backspace(model, PROMPTS, **SETTINGS)
    assert model.training


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompts": [[1], [2, BACKSPACE]]}, "a prompt contains <backspace>"),
        ({"max_new_tokens": 64}, "beside 2 other tokens the model's 64 positions have room for 62"),
    ],
)
def test_refused_input(changed, message):
    with pytest.raises(InputError, match=message):
        sample_with_backspace(toy_model(), **{"prompts": [[1, 2]], **SETTINGS, **changed})
