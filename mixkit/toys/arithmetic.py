"""Addition in a given base as a text task with right answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import BPE
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from mixkit._common import InputError
from mixkit.metrics.statistics import Estimate, wilson_interval
from mixkit.models.generation import Continuation, sample_continuations
from mixkit.models.loading import END, build_gpt2


@dataclass(frozen=True)
class Question:
    """A prompt, as "25+31=", and its right answer, "56" in base 7. A text of the task is one after the other."""

    prompt: str
    answer: str


def questions(count: int, *, base: int, digits: int, seed: int = 0) -> list[Question]:
    """`count` different sums of two numbers of `digits` digits with leading zeros.

    Raises InputError for a base outside [2, 10], and if there are fewer questions than `count`.
    """
    numbers, results = base**digits, []
    if not 2 <= base <= 10:
        raise InputError(f"base is {base!r}; it must be in [2, 10]")
    if count > numbers**2:
        raise InputError(f"there are {numbers**2} questions of {digits} digits in base {base}, not {count}")
    for index in random.Random(seed).sample(range(numbers**2), count):
        first, second = divmod(index, numbers)
        left, right = (np.base_repr(x, base).zfill(digits) for x in (first, second))
        results.append(Question(f"{left}+{right}=", np.base_repr(first + second, base)))
    return results


def build_model(base: int, *, seed: int = 0, **sizes: Any):
    """A GPT-2 with random weights and sizes as in `models.loading.build_gpt2`, and a tokenizer. Returns both.

    Tokens are the digits, "+" and "=": of bytes, hardly any inserted wrong token would be a digit.
    """
    model, _ = build_gpt2(["0"], 257, seed=seed, **sizes)
    vocabulary = {character: i for i, character in enumerate([END, *"0123456789"[:base], "+", "="])}
    characters = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    characters.decoder = Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters, bos_token=END, eos_token=END, pad_token=END)
    model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


def sample_answers(model, tokenizer, questions: Sequence[Question], *, seed: int = 0) -> list[Continuation]:
    """Sample the model's answer to each question. A model with backspace may delete tokens."""
    max_new_tokens = max(len(question.answer) for question in questions) + 2
    prompts = [question.prompt for question in questions]
    return sample_continuations(model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed, batch_size=500)[0]


def accuracy(questions: Sequence[Question], answers: Sequence[Continuation]) -> Estimate:
    """The share of answers that are exactly right, in [0, 1], with Wilson's interval."""
    right = [given.text == question.answer for question, given in zip(questions, answers, strict=True)]
    return wilson_interval(sum(right), len(right))
