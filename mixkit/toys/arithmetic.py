"""Addition and subtraction in a given base as a text task with right answers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixkit._common import InputError
from mixkit.metrics.statistics import Estimate, wilson_interval
from mixkit.models.generation import Continuation, sample_continuations


@dataclass(frozen=True)
class Question:
    """A prompt, as "25+31=", and its right answer, "56" in base 7. A text of the task is one after the other."""

    prompt: str
    answer: str


def questions(count: int, *, base: int, digits: int, seed: int = 0) -> list[Question]:
    """`count` different questions on numbers of `digits` digits with leading zeros, as many sums as differences.

    Raises InputError for a base outside [2, 10], and if there are fewer questions than `count`.
    """
    numbers, results = base**digits, []
    if not 2 <= base <= 10:
        raise InputError(f"base is {base!r}; it must be in [2, 10]")
    if count > 2 * numbers**2:
        raise InputError(f"there are {2 * numbers**2} questions of {digits} digits in base {base}, not {count}")
    for index in random.Random(seed).sample(range(2 * numbers**2), count):
        first, second = divmod(index // 2, numbers)
        sign, value = ("-", first - second) if index % 2 else ("+", first + second)
        left, right = (np.base_repr(x, base).zfill(digits) for x in (first, second))
        results.append(Question(f"{left}{sign}{right}=", np.base_repr(value, base)))
    return results


def sample_answers(model, tokenizer, questions: Sequence[Question], *, seed: int = 0) -> list[Continuation]:
    """Sample the model's answer to each question. A model with backspace may delete tokens."""
    max_new_tokens = max(len(question.answer) for question in questions) + 2
    prompts = [question.prompt for question in questions]
    return sample_continuations(model, tokenizer, prompts, max_new_tokens=max_new_tokens, seed=seed, batch_size=500)[0]


def accuracy(questions: Sequence[Question], answers: Sequence[Continuation]) -> Estimate:
    """The share of answers that are exactly right, in [0, 1], with Wilson's interval."""
    right = [given.text == question.answer for question, given in zip(questions, answers, strict=True)]
    return wilson_interval(sum(right), len(right))
