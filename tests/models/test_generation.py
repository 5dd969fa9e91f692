"""Sampling: unbiased by default, the samplers, seeds, sets, and batches of one prompt length."""

import copy

import pytest
import torch

from mixkit._common import InputError
from mixkit.models.backspace import add_backspace
from mixkit.models.generation import Sampler, cut_prompts, sample_continuations, sample_texts


def first_tokens(model, tokenizer, prompt, count, **kwargs):
    """`count` independent continuations of one token."""
    (texts,) = sample_texts(model, tokenizer, [prompt] * count, max_new_tokens=1, batch_size=500, **kwargs)
    return texts


@pytest.fixture(scope="module")
def sharp(toy):
    """The toy model with sharper logits, so that a few hundred samples tell distributions apart."""
    model, tokenizer, _ = toy
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.transformer.ln_f.weight *= 4
    model.generation_config.top_k = 3  # a habit that a hub model may ship: sampling must not inherit it
    return model, tokenizer


def expected_counts(sharp, prompt, count):
    model, tokenizer = sharp
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1)
    texts = {}
    for token, probability in enumerate(probabilities.tolist()):
        text = "" if token == tokenizer.eos_token_id else tokenizer.decode([token])
        texts[text] = texts.get(text, 0) + probability * count
    return texts


def test_sampling_is_unbiased_by_default(sharp):
    prompt, count = [0, 5, 9, 33], 4000
    expected = expected_counts(sharp, prompt, count)
    sampled = first_tokens(*sharp, prompt, count)
    observed = {text: sampled.count(text) for text in expected}
    assert sum(observed.values()) == count
    common = [t for t in expected if expected[t] >= 10]
    statistic = sum((observed[t] - expected[t]) ** 2 / expected[t] for t in common)
    degrees = len(common)
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5  # chi-square: five standard deviations
    assert len(set(sampled)) > 50  # neither the model's own top_k=3 nor transformers' 50


def test_temperature_top_p_and_top_k_cut_the_distribution(sharp):
    prompt = [0, 5, 9, 33]
    model, tokenizer = sharp
    with torch.no_grad():
        probabilities, ids = torch.softmax(model(torch.tensor([prompt])).logits[0, -1], -1).sort(descending=True)
    likeliest = [tokenizer.decode([i]) for i in ids[:3].tolist()]
    assert set(first_tokens(*sharp, prompt, 200, sampler=Sampler(temperature=1e-3))) == {likeliest[0]}
    assert set(first_tokens(*sharp, prompt, 400, sampler=Sampler(top_k=3))) == set(likeliest)
    nucleus = set(first_tokens(*sharp, prompt, 400, sampler=Sampler(top_p=probabilities[0].item() * 0.9)))
    assert nucleus == {likeliest[0]}


def test_seeds_and_sets(toy):
    model, tokenizer, texts = toy
    prompts = [p.ids for p in cut_prompts(tokenizer, texts, prompts=6, prompt_tokens=4, max_new_tokens=8)]
    once = sample_texts(model, tokenizer, prompts, max_new_tokens=8, sets=2, seed=1)
    assert once == sample_texts(model, tokenizer, prompts, max_new_tokens=8, sets=2, seed=1)
    assert once != sample_texts(model, tokenizer, prompts, max_new_tokens=8, sets=2, seed=2)
    assert once[0] != once[1]
    assert [len(s) for s in once] == [6, 6]


def test_prompts_of_different_lengths_are_continued_as_if_alone(toy):
    model, tokenizer, _ = toy
    prompts = ["The", "Once upon a time there lived", "A fox", "Once"]
    greedy = Sampler(temperature=1e-3)
    (together,) = sample_texts(model, tokenizer, prompts, max_new_tokens=6, sampler=greedy, batch_size=3)
    for prompt, text in zip(prompts, together, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]])
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert tokenizer.decode(ids[0]).endswith(prompt + text)


def test_a_model_that_knows_backspace_takes_tokens_back(toy):
    model, tokenizer, texts = copy.deepcopy(toy)
    backspace_id = add_backspace(model, tokenizer)
    with torch.no_grad():
        bias = torch.zeros(backspace_id + 1)
        bias[backspace_id] = 5.0
        model.lm_head.bias = torch.nn.Parameter(bias)
    prompts = [
        "Once",
        "A fox",
        *(p.ids for p in cut_prompts(tokenizer, texts, prompts=3, prompt_tokens=4, max_new_tokens=1)),
    ]
    asked = {"max_new_tokens": 8, "sets": 2, "seed": 1, "batch_size": 3}
    drawn = sample_continuations(model, tokenizer, prompts, **asked)
    assert [len(one_set) for one_set in drawn] == [5, 5] and drawn[0] != drawn[1]
    for continuation in (c for one_set in drawn for c in one_set):
        assert "<backspace>" not in str(continuation)
        assert all(stands for _, stands in continuation.segments) == (continuation.num_deleted == 0)
        whole = "".join(text for text, stands in continuation.segments if stands)
        assert (
            whole == continuation.text or "\ufffd" in whole
        )  # a character of two tokens, parted by what was taken back
    assert sum(c.num_deleted for one_set in drawn for c in one_set) > 20
    assert sample_texts(model, tokenizer, prompts, **asked) == [[c.text for c in one_set] for one_set in drawn]
    before = torch.random.get_rng_state()
    sample_texts(model, tokenizer, prompts, **asked)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_cut_prompts_join_to_the_text(toy):
    _, tokenizer, texts = toy
    prompts = cut_prompts(tokenizer, ["short", *texts], prompts=5, prompt_tokens=7, max_new_tokens=1000)
    assert [p.text + p.human for p in prompts] == texts[:5]
    assert all(len(p.ids) == 8 and p.ids[0] == tokenizer.bos_token_id for p in prompts)


def test_what_is_refused(toy):
    for bad in ({"temperature": 0}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}):
        with pytest.raises(ValueError, match="must be"):
            Sampler(**bad)
    with pytest.raises(ValueError, match="nothing to continue"):
        sample_texts(*toy[:2], [], max_new_tokens=3)
    with pytest.raises(InputError, match="max_new_tokens is 254; beside 3 other tokens"):
        sample_texts(*toy[:2], [[0, 5], [0, 5, 7]], max_new_tokens=254)
