"""Small random models that read texts, for the tests of features and quality."""

import random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mixkit.metrics.features import Reader

CONTEXT, WIDTH = 96, 32
WORDS = ["the", "a", "cat", "dog", "moon", "river", "über", "sat", "ran", "softly", "Alone,", "and", "then;", "7", "."]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: a token a byte, 0 is <|endoftext|>."""
    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT,
    )


def toy_gpt2(cls: Any = GPT2LMHeadModel) -> Any:
    torch.manual_seed(0)
    sizes = {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": 2, "n_head": 2}
    return cls(GPT2Config(vocab_size=257, **sizes, bos_token_id=0, eos_token_id=0))


def toy_bert() -> BertModel:
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertModel(BertConfig(vocab_size=257, **sizes, max_position_embeddings=CONTEXT))


def sentences(n: int, seed: int, longest: int = 12) -> list[str]:
    """Texts of 1 to `longest` words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(n)]


class CountedTexts:
    """Counts the texts that go through a reader's model."""

    def __init__(self, reader: Reader):
        self.count = 0
        reader.model.base_model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.count += len(kwargs["input_ids"])
