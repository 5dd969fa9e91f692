"""What is refused before a training starts."""

import copy
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from mixkit._common import InputError
from mixkit.models.backspace import add_backspace, check_tree_attention, prefix_tree, score_actions
from mixkit.models.support import check_model_support

SIZES: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
NEO: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
NEO |= {"max_position_embeddings": 128, "attention_types": [[["global", "local"], 1]]}
LOCAL: dict[str, Any] = {"head_dim": 8, "sliding_window": 16}


def build(architecture, config):
    torch.manual_seed(0)
    return architecture(config).eval()


def sliding(kind):
    if kind == "mistral":  # the window is in every layer
        return build(MistralForCausalLM, MistralConfig(**SIZES, sliding_window=16))
    types = ["sliding_attention", "full_attention"] if kind == "gemma3" else ["sliding_attention"] * 2
    return build(Gemma3ForCausalLM, Gemma3TextConfig(**SIZES, **LOCAL, layer_types=types))


@pytest.mark.parametrize("kind", ["mistral", "gemma3", "gemma3 with windows alone"])
def test_windows_are_by_depth_in_the_tree(kind):
    """60 actions without backspace are the model's own pass; with backspaces and the cache, single prefixes."""
    model = sliding(kind)
    row = torch.randint(1, 98, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = score_actions(model, prefix_tree(row, 98))[0].logprob[0, 1:]
        own = model(row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])[:, 0]
    torch.testing.assert_close(got, own, rtol=0, atol=1e-5)
    check_tree_attention(model)


@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
def test_a_window_that_is_left_out_is_seen(kind, monkeypatch):
    monkeypatch.setattr("mixkit.models.attention.window_of", lambda model: None)
    with pytest.raises(InputError, match="does not take a 4-D attention mask"):
        check_tree_attention(sliding(kind))


def test_windows_by_position_are_refused_for_longer_texts():
    model = build(GPTNeoForCausalLM, GPTNeoConfig(**NEO, window_size=32))
    check_tree_attention(model, 10)
    with pytest.raises(InputError, match="4-D attention mask in its layers for texts of 60 tokens"):
        check_tree_attention(model, 60)


@pytest.mark.parametrize("kind", ["lfm2", "jamba"])
def test_hybrids_are_refused_at_the_start(kind, toy):
    if kind == "lfm2":
        model = build(Lfm2ForCausalLM, Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]))
    else:
        model = build(JambaForCausalLM, JambaConfig(**SIZES, num_experts=2, attn_layer_period=2, attn_layer_offset=1))
    with pytest.raises(InputError, match=r"in its (conv and full|full_attention and linear)_attention"):
        check_tree_attention(model)


def words(count, **special: Any) -> Any:
    vocabulary = {"</s>": 0} | {f"w{i}": i for i in range(1, count)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w1")), **special)


@pytest.mark.parametrize(
    ("tokenizer", "changed", "message"),
    [
        (words(20), {}, "the tokenizer has no end-of-sequence token"),
        (words(500, eos_token="</s>"), {}, "the tokenizer has token 499, the model's embedding 400 rows"),
        (words(20, eos_token="</s>"), {"max_tokens": 255}, "max_tokens is 255; beside 2 other tokens"),
        (words(20, eos_token="</s>"), {"new_tokens": 256}, "max_new_tokens is 256; beside 1 other tokens"),
    ],
)
def test_refused_before_the_start(toy, tokenizer, changed, message):
    settings = {"backtracking": True, "max_tokens": 40, "new_tokens": 60} | changed
    with pytest.raises(InputError, match=message):
        check_model_support(toy[0], tokenizer, **settings)


def test_a_model_with_backspace_is_checked_without_backtracking(toy, monkeypatch):
    model, tokenizer, _ = copy.deepcopy(toy)
    settings = {"backtracking": False, "max_tokens": 40, "new_tokens": 60}
    checked = []
    monkeypatch.setattr("mixkit.models.support.check_tree_attention", lambda *args: checked.append(args))
    check_model_support(model, tokenizer, **settings)
    assert checked == []
    add_backspace(model, tokenizer)
    check_model_support(model, tokenizer, **settings)
    assert checked == [(model, 60)]
    with pytest.raises(InputError, match="there already is a different <backspace>"):
        check_model_support(model, words(20, eos_token="</s>"), **settings)
