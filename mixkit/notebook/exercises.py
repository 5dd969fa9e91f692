"""Exercises of a notebook: judged at once, with a hint and a solution that the reader unfolds."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from IPython.display import HTML


@dataclass(frozen=True)
class Exercise:
    """An exercise. Its answer is a number or a word, or with `points` a function, which is compared at each of them."""

    difficulty: str
    minutes: int
    hint: str  # hint and solution are HTML and may contain LaTeX
    solution: str
    right: Callable[..., Any]  # computes the right answer, or with points is the right function
    replies: Sequence[tuple[Any, str]] = ()  # wrong answers, each with what is wrong about it
    points: Sequence[tuple[Any, ...]] = ()  # tuples of arguments; an answer gets copies

    def check(self, answer: Any) -> HTML:
        """Print the verdict. Return the hint and the solution, both folded."""
        print(f"{self._verdict(answer)} ({self.difficulty}, {self.minutes} minutes)")
        parts = {"Hint": self.hint, "Solution": self.solution}
        return HTML("".join(f"<details><summary>{title}</summary>{text}</details>" for title, text in parts.items()))

    def _verdict(self, answer: Any) -> str:
        try:
            given = self._values(answer)
        except Exception as error:  # of the reader's function
            return f"Not yet: your answer stops with {type(error).__name__}: {error}"
        if any(value is None for value in given):
            return "Write your answer, then run this cell again."
        right = self._values(self.right)
        same = list(map(_equal, given, right))
        if all(same):
            return "Right."
        for wrong, reply in self.replies:
            if all(map(_equal, given, self._values(wrong))):
                return f"Not yet: {reply}."
        if not self.points:
            return f"Not yet: {answer!r} is not the answer. Look at the hint."
        first = same.index(False)
        arguments = ", ".join(map(_short, self.points[first]))
        return f"Not yet: for {arguments} your answer gives {_short(given[first])}, not {_short(right[first])}."

    def _values(self, answer: Any) -> list[Any]:
        values = [answer(*point) if callable(answer) else answer for point in deepcopy(self.points) or [()]]
        return [value.detach().cpu() if isinstance(value, torch.Tensor) else value for value in values]


def _equal(given: Any, right: Any) -> bool:
    """Whether two words are the same up to case, or two numbers or arrays up to 1 %."""
    try:
        given, right = np.asarray(given, float), np.asarray(right, float)
        return given.shape == right.shape and np.allclose(given, right, rtol=0.01, atol=1e-6)
    except (TypeError, ValueError):  # not numbers
        return type(given) is type(right) and right in (given, str(given).strip().lower())


def _short(x: Any) -> str:
    return repr(x) if isinstance(x, bool) or not hasattr(x, "__float__") or np.ndim(x) else f"{float(x):.4g}"
