"""Sampling: unbiased by default, samplers, seeds, sets, prompts of several lengths, <backspace>."""

import copy
import re
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from mixkit._common import InputError
from mixkit.models.backspace import add_backspace
from mixkit.models.generation import Sampler, _decode, cut_prompts, sample_continuations


def sample_texts(model, tokenizer, prompts, **settings):
    sets = sample_continuations(model, tokenizer, prompts, **settings)
    return [[continuation.text for continuation in one_set] for one_set in sets]


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
    model.generation_config.suppress_tokens = list(range(200))
    model.generation_config.top_k = 3  # a hub model may have such settings: sampling must not use them
    return model, tokenizer


def expected_counts(sharp, prompt, count):
    model, tokenizer = sharp
    with torch.no_grad():
        probabilities = torch.softmax(model(torch.tensor([prompt])).logits[0, -1].double(), -1)
    texts = {}
    for token, probability in enumerate(probabilities.tolist()):
        text = "" if token == tokenizer.eos_token_id else tokenizer.decode([token]).rstrip("\ufffd")
        texts[text] = texts.get(text, 0) + probability * count
    return texts


@pytest.mark.slow
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


def test_temperature_top_p_and_top_k(sharp):
    prompt = [0, 5, 9, 33]
    model, tokenizer = sharp
    with torch.no_grad():
        probabilities, ids = torch.softmax(model(torch.tensor([prompt])).logits[0, -1], -1).sort(descending=True)
    likeliest = [tokenizer.decode([i]).rstrip("\ufffd") for i in ids[:3].tolist()]
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


def test_prompts_of_different_lengths_equal_single_prompts(toy):
    model, tokenizer, _ = toy
    prompts = ["The", "Once upon a time there lived", "A fox", "Once"]
    greedy = Sampler(temperature=1e-3)
    (together,) = sample_texts(model, tokenizer, prompts, max_new_tokens=6, sampler=greedy, batch_size=3)
    for prompt, text in zip(prompts, together, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt)["input_ids"]]])
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert re.fullmatch("\ufffd{0,3}", tokenizer.decode(ids[0]).removeprefix(tokenizer.bos_token + prompt + text))


def test_a_model_without_attention_is_sampled_by_generate(toy, monkeypatch):
    tokenizer, sizes = toy[1], {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "vocab_size": len(toy[1])}
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**sizes, initializer_range=1.0)).eval()
    monkeypatch.setattr("mixkit.models.generation.sample_actions", None)
    settings = {"max_new_tokens": 5, "sampler": Sampler(temperature=0), "batch_size": 2}
    monkeypatch.setattr(model, "generate", lambda *args, **how: check(MambaForCausalLM.generate(model, *args, **how)))

    def check(ids):
        assert not model.training  # dropout is off
        return ids

    sets = sample_texts(model.train(), tokenizer, ["A fox", "Once", "The king", "A wolf"], sets=2, **settings)
    assert sets[0] == sets[1]
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer("The king")["input_ids"]]])
    for _ in range(5):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    text = tokenizer.decode(ids[0, 1:]).split(tokenizer.eos_token)[0]
    assert "The king" + sets[0][2] == text.rstrip("\ufffd")


def test_a_model_with_backspace_deletes_tokens(toy):
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
    settings = {"max_new_tokens": 8, "sets": 2, "seed": 1, "batch_size": 3}
    random_state = torch.random.get_rng_state()
    sets = sample_continuations(model, tokenizer, prompts, **settings)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert [len(one_set) for one_set in sets] == [5, 5] and sets[0] != sets[1]
    continuations = [continuation for one_set in sets for continuation in one_set]
    for continuation in continuations:
        assert "<backspace>" not in str(continuation)
        assert all(remains for _, remains in continuation.segments) == (continuation.num_deleted == 0)
        joined = "".join(text for text, remains in continuation.segments if remains)
        assert joined == continuation.text
    assert sum(continuation.num_deleted for continuation in continuations) > 20


def test_an_empty_continuation_has_no_segments(toy):
    model, tokenizer, _ = copy.deepcopy(toy)
    bias = torch.zeros(model.config.vocab_size)
    bias[tokenizer.eos_token_id] = 50.0
    model.lm_head.bias = torch.nn.Parameter(bias)
    ((continuation,),) = sample_continuations(model, tokenizer, ["Once"], max_new_tokens=5)
    assert (continuation.text, continuation.num_deleted, continuation.segments) == ("", 0, ())


def test_cut_prompts_join_to_the_text(toy):
    _, tokenizer, texts = toy
    prompts = cut_prompts(tokenizer, ["short", *texts], prompts=5, prompt_tokens=7, max_new_tokens=1000)
    assert [p.text + p.human for p in prompts] == texts[:5]
    assert all(len(p.ids) == 8 and p.ids[0] == tokenizer.bos_token_id for p in prompts)


def test_refused_settings(toy):
    for bad in ({"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}):
        with pytest.raises(ValueError, match="must be"):
            Sampler(**bad)
    with pytest.raises(InputError, match="prompts is one string"):
        sample_continuations(*toy[:2], "Once", max_new_tokens=3)
    with pytest.raises(ValueError, match="nothing to continue"):
        sample_texts(*toy[:2], [], max_new_tokens=3)
    with pytest.raises(InputError, match="max_new_tokens is 254; beside 3 other tokens"):
        sample_texts(*toy[:2], [[0, 5], [0, 5, 7]], max_new_tokens=254)


def subwords(decoder):
    """A tokenizer with Metaspace's or byte-level subwords, and texts in the script that it is difficult for."""
    tokenizer = Tokenizer(BPE())
    if decoder == "metaspace":
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        texts = ["One summer, there lived a fox.", "Once upon a time, a king lived there."]
    else:
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        texts = ["从前有一只狐狸，它住在山里。", "有一天，国王来了。"]
    trainer = BpeTrainer(vocab_size=60, special_tokens=["</s>"], initial_alphabet=[], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"), texts


@pytest.mark.parametrize("decoder", ["metaspace", "byte level"])
@pytest.mark.parametrize("prompt_tokens", [1, 3, 4, 5, 6, 7])
def test_prompt_and_human_are_the_beginning_of_the_text(decoder, prompt_tokens):
    tokenizer, texts = subwords(decoder)
    for max_new_tokens in (1, 2, 4, 1000):
        cuts = cut_prompts(tokenizer, texts, prompts=2, prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens)
        assert prompt_tokens < 3 or len(cuts) == 2
        for cut in cuts:
            (text,) = [text for text in texts if text.startswith(cut.text)]
            assert len(cut.ids) - 1 <= prompt_tokens and cut.text == tokenizer.decode(cut.ids[1:]) != ""
            assert text == cut.text + cut.human if max_new_tokens == 1000 else text.startswith(cut.text + cut.human)


@pytest.mark.parametrize("decoder", ["metaspace", "byte level"])
def test_a_continuation_is_cut_out_of_the_whole_text(decoder):
    """A model that repeats the text, and one that first writes a wrong token each time: blanks and characters stay."""
    tokenizer, texts = subwords(decoder)
    back, end = len(tokenizer), tokenizer.eos_token_id
    model = SimpleNamespace(config=SimpleNamespace(backspace_token_id=back))
    for ids, text in zip(tokenizer(texts)["input_ids"], texts, strict=True):
        for cut in range(len(ids)):
            for actions in (ids[cut:], [token for i in ids[cut:] for token in (5, back, i)]):
                model = SimpleNamespace(config=SimpleNamespace(backspace_token_id=back))
                got = _decode(model, tokenizer, [end, *ids[:cut]], [*actions, end])
                assert tokenizer.decode(ids[:cut]).rstrip("\ufffd") + got.text == text
                assert "".join(segment for segment, remains in got.segments if remains) == got.text
