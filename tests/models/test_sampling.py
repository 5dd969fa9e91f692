"""Sampling with backspace against the model applied to the remaining prefix alone."""

import collections
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from mixkit._common import InputError
from mixkit.models import sampling
from mixkit.models.backspace import apply_backspaces
from mixkit.models.generation import Sampler
from mixkit.models.sampling import choose_actions, default_rows, sample_actions
from tests.models.test_head import build
from tests.waits import CountWaits

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "attention", "tolerance"),
    [
        ("gpt2", "eager", 1e-10),
        ("gpt2", "sdpa", 1e-10),
        ("llama", "sdpa", 1e-10),
        ("llama", "eager", 1e-5),  # its softmax is float32 whatever the model's dtype
    ],
)
def test_actions_equal_a_loop_over_single_prefixes(kind, attention, tolerance):
    """Every action is the race's winner under the logits of its prefix alone, with the random numbers of its prompt."""
    model, num_deleted = toy_model(kind, attention), 0
    found = sample_actions(model, PROMPTS * 2, **SETTINGS, seed=3, batch_size=4)
    keys = np.random.Generator(np.random.Philox(3)).integers(-(2**31), 2**31, (len(found), 2))
    for prompt, key, actions in zip(PROMPTS * 2, keys.tolist(), found, strict=True):
        prefix = list(prompt)
        for step, action in enumerate(actions):
            with torch.no_grad():
                scores = model(torch.tensor([prefix])).logits[:, -1]
            if len(prefix) == len(prompt):
                scores[:, BACKSPACE] = -torch.inf
            noise = torch.tensor([key], dtype=torch.int32), torch.tensor([step], dtype=torch.int32)
            assert choose_actions(scores, *noise).item() == action
            if action == BACKSPACE:
                prefix.pop()
                num_deleted += 1
            else:
                prefix.append(action)
        assert action == END or len(prefix) == len(prompt) + 12 or len(actions) == 24
    assert num_deleted > 20


@pytest.mark.slow
@pytest.mark.parametrize("backspace_id", [None, BACKSPACE])
def test_the_batch_size_does_not_change_the_actions(backspace_id):
    model, settings = toy_model(), SETTINGS | {"backspace_id": backspace_id, "seed": 5}
    alone = sample_actions(model, PROMPTS * 5, **settings, batch_size=1)
    for batch_size in (2, 7, 64):
        finished = []
        assert (
            sample_actions(model, PROMPTS * 5, **settings, batch_size=batch_size, on_finished=finished.append) == alone
        )
        assert sum(finished) == 25
    assert sample_actions(model, PROMPTS, **settings) == alone[:5]
    assert len({tuple(actions) for actions in alone}) > 20


def test_greedy_texts_equal_those_of_generate():
    model = toy_model(lift=-50.0)
    greedy = Sampler(temperature=0).logits_processors()
    found = sample_actions(model, PROMPTS, **SETTINGS, logits_processor=greedy, batch_size=3)
    for prompt, actions in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": 12, "eos_token_id": END, "pad_token_id": END, "do_sample": False}
        assert model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist() == actions


@pytest.mark.slow
def test_the_race_has_the_probabilities():
    """Chi-squared over tokens, and of pairs: neighbouring steps, rows and keys are independent."""
    rows, vocabulary = 60_000, 12
    scores = torch.linspace(-4, 1, vocabulary).expand(rows, -1)
    keys = torch.randint(-(2**31), 2**31, (rows, 2), generator=torch.Generator().manual_seed(1)).int()
    zero = torch.zeros(rows, dtype=torch.int32)
    probs = scores[0].double().softmax(-1)
    first = choose_actions(scores, keys, zero)
    ordered = torch.stack([torch.arange(rows), 0 * torch.arange(rows)], 1).int()  # the least random keys
    for other in (choose_actions(scores, keys, zero + 1), choose_actions(scores, ordered, zero), first.roll(1)):
        pairs = (first * vocabulary + other).bincount(minlength=vocabulary**2)
        expected = rows * torch.outer(probs, probs).flatten()
        common = expected > 5
        expected *= pairs[common].sum() / expected[common].sum()
        assert chisquare(pairs[common].numpy(), expected[common].numpy()).pvalue > 1e-3
    uniform = choose_actions(torch.zeros(1, 50257).expand(500, -1), keys[:500], zero[:500]).double() / 50257
    assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3


def test_a_token_of_probability_one_is_always_chosen():
    scores = torch.full((1000, 300), -torch.inf).index_fill_(1, torch.tensor([7]), 0.0)
    keys = torch.arange(2000).view(-1, 2).int()
    assert (choose_actions(scores, keys, keys[:, 0]) == 7).all()


@pytest.mark.slow
def test_the_host_waits_once_in_32_steps(monkeypatch):
    monkeypatch.setattr(sampling, "CPU_STEPS", sampling.GPU_STEPS)
    steps, original = [], sampling._Rows.step
    monkeypatch.setattr(sampling._Rows, "step", lambda *args: (steps.append(1), original(*args)))
    with CountWaits() as waits:
        found = sample_actions(toy_model(), PROMPTS * 4, **SETTINGS | {"max_new_tokens": 40}, batch_size=6)
    assert len(found) == 20 and len(steps) > 100
    assert waits.count == len(steps) / 32


@pytest.mark.parametrize(("free", "rows"), [(2**40, 2048), (2**31, 67), (0, 1)])
def test_rows_of_a_batch_fit_the_memory(monkeypatch, free, rows):
    """GPT-2 small, 189 tokens: 2 * 12 * 768 * 4 bytes for each, and 40 bytes for each logit."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**41))
    config = GPT2Config()
    model = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, config=config)
    assert default_rows(model, 189) == rows
    model.device = torch.device("cpu")
    assert default_rows(model, 189) == 67
    assert (default_rows(toy_model(), 189), default_rows(toy_model(), 10**9)) == (256, 1)
    assert default_rows(build("gemma4_unified_text"), 189) == 256  # its head_dim differs from layer to layer


def test_actions_are_consistent():
    for actions in sample_actions(toy_model(), PROMPTS, **SETTINGS):
        tokens, num_deleted = apply_backspaces(actions, BACKSPACE)
        assert BACKSPACE not in tokens and num_deleted == actions.count(BACKSPACE)
        assert END not in actions[:-1]
        assert actions[-1] == END or len(tokens) == 12 or len(actions) == 24
        assert len(tokens) <= 12 and len(actions) <= 24


@pytest.mark.slow
def test_first_two_actions_follow_the_model():
    """Counts of the first two actions over 4,000 rows against their exact probabilities, four standard errors wide."""
    model, rows = toy_model(), 4000
    drawn = collections.Counter()
    for actions in sample_actions(model, [[1]] * rows, **SETTINGS):
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
    actions = sample_actions(toy_model(), PROMPTS * 4, **{**SETTINGS, "backspace_id": None})
    assert all(row[-1] == END or len(row) == 12 for row in actions)
    assert any(BACKSPACE in row for row in actions)  # an ordinary token here


def test_seeds():
    model = toy_model()
    once, again, other = (sample_actions(model, PROMPTS, **SETTINGS, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


@pytest.mark.parametrize("sampler", [Sampler(top_k=3), Sampler(top_p=0.6)])
def test_logits_processors_restrict_every_action(sampler):
    model = toy_model()
    for actions in sample_actions(model, [[2, 3]] * 20, **SETTINGS, logits_processor=sampler.logits_processors()):
        for position, action in enumerate(actions[:6]):
            prefix = [2, 3, *apply_backspaces(actions[:position], BACKSPACE)[0]]
            with torch.no_grad():
                scores = model(torch.tensor([prefix])).logits[:, -1]
            if len(prefix) == 2:
                scores[:, BACKSPACE] = -torch.inf
            assert sampler.logits_processors()(None, scores)[0, action] > -torch.inf


def test_low_temperature_is_deterministic():
    processors = Sampler(temperature=1e-4).logits_processors()
    rows = sample_actions(toy_model(), [[2, 3]] * 3, **SETTINGS, logits_processor=processors)
    assert rows[0] == rows[1] == rows[2]


def test_training_mode_is_restored_in_float32():
    model = toy_model("llama", dtype=torch.float32).train()
    assert sample_actions(model, PROMPTS, **SETTINGS)
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
        sample_actions(toy_model(), **{"prompts": [[1, 2]], **SETTINGS, **changed})
