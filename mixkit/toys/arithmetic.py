"""A task with right answers: add or subtract in a given base; its questions, a model small enough for it, its accuracy.
Training and sampling are those of any other text."""

import random
from dataclasses import dataclass

from mixkit._common import InputError
from mixkit.metrics.statistics import Estimate, wilson_interval
from mixkit.models.generation import Continuation, sample_continuations
from mixkit.models.loading import build_gpt2


@dataclass(frozen=True)
class Question:
    """`asked`, as in "25+31=", and the right `answer`, "56" in base 7; a text of the task is one after the other."""

    asked: str
    answer: str

    @property
    def text(self) -> str:
        return self.asked + self.answer


def in_base(number: int, base: int) -> str:
    """The number's digits in that base, 2 to 10.

    >>> in_base(41, 7), in_base(-3, 2), in_base(0, 5)
    ('56', '-11', '0')
    """
    if number < base:
        return f"-{in_base(-number, base)}" if number < 0 else str(number)
    return in_base(number // base, base) + str(number % base)


def questions(count: int, *, base: int, digits: int, seed: int = 0) -> list[Question]:
    """`count` different questions on numbers of `digits` digits, zeros in front; sums and differences evenly.

    Raises InputError for a base outside 2..10 and where there are fewer questions than asked for.
    """
    largest = base**digits
    if not 2 <= base <= 10:
        raise InputError(f"base is {base!r}; it must be in [2, 10]")
    if count > 2 * largest**2:
        raise InputError(f"there are {2 * largest**2} questions of {digits} digits in base {base}, not {count}")
    asked = []
    for number in random.Random(seed).sample(range(2 * largest**2), count):
        first, second = divmod(number // 2, largest)
        sign, result = ("-", first - second) if number % 2 else ("+", first + second)
        left, right = (in_base(x, base).zfill(digits) for x in (first, second))
        asked.append(Question(f"{left}{sign}{right}=", in_base(result, base)))
    return asked


def small_model(texts: list[str], *, seed: int = 0, width: int = 96, layers: int = 3):
    """(model, tokenizer): a GPT-2 of a third of a million parameters that reads bytes: every digit is a token."""
    return build_gpt2(texts, 257, seed=seed, n_embd=width, n_layer=layers, n_head=4, n_positions=64)


def answers(model, tokenizer, asked: list[Question], *, seed: int = 0) -> list[Continuation]:
    """What the model answers to each question, sampled as it is; it takes tokens back where it can."""
    longest, prompts = max(len(q.answer) for q in asked) + 2, [q.asked for q in asked]
    return sample_continuations(model, tokenizer, prompts, max_new_tokens=longest, seed=seed, batch_size=500)[0]


def accuracy(asked: list[Question], given: list[Continuation]) -> Estimate:
    """Share of answers that are right to the letter, in [0, 1], with its interval (Wilson's)."""
    return wilson_interval(sum(a.text == q.answer for q, a in zip(asked, given, strict=True)), len(asked))
