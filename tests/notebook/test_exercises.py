"""Exercises: verdicts on numbers, words and functions, and the folded hint and solution."""

import re

import numpy as np
import pytest
import torch

from mixkit.notebook.exercises import Exercise


def exercise(**changes):
    fields = {"difficulty": "easy", "minutes": 3, "hint": "think", "solution": "<b>so</b>", "right": lambda: 0.5}
    return Exercise(**fields | changes)


NUMBER = exercise(replies=[(1, "there it is 0")])
WORD = exercise(right=lambda: "mixce", replies=[("mle", "it knows nothing")])
FUNCTION = exercise(
    right=lambda q: 2 * q,
    replies=[(lambda q: q, "a factor 2 is missing")],
    points=[(0.25,), (torch.tensor(0.5),)],
)
LISTS = exercise(right=lambda text, n: text[:n], points=[(["a", "b"], 1), (["a"], 0)])


@pytest.mark.parametrize(
    ("asked", "answer", "verdict"),
    [
        (NUMBER, None, "Write your answer, then run this cell again."),
        (NUMBER, 0.501, "Right."),
        (NUMBER, np.float32(0.5), "Right."),
        (NUMBER, torch.tensor(0.5, requires_grad=True), "Right."),
        (NUMBER, torch.tensor(0.7, requires_grad=True), "Not yet: tensor.0.7.*, requires_grad=True. is not the"),
        (NUMBER, 1.0, "Not yet: there it is 0."),
        (NUMBER, 0, "Not yet: 0 is not the answer. Look at the hint."),
        (NUMBER, "half", "Not yet: 'half' is not the answer. Look at the hint."),
        (WORD, "mixce", "Right."),
        (WORD, " MixCE", "Right."),
        (WORD, np.array(["mixce", "mle"]), "Not yet: array.* is not the answer. Look at the hint."),
        (WORD, "mle", "Not yet: it knows nothing."),
        (WORD, 3, "Not yet: 3 is not the answer. Look at the hint."),
        (FUNCTION, None, "Write your answer, then run this cell again."),
        (FUNCTION, lambda q: None, "Write your answer, then run this cell again."),
        (FUNCTION, lambda q: q + q, "Right."),
        (FUNCTION, lambda q: 2 * torch.tensor(float(q), requires_grad=True), "Right."),
        (FUNCTION, lambda q: torch.tensor(float(q), requires_grad=True) + 0.5, "Not yet: for 0.25 .* 0.75, not 0.5."),
        (FUNCTION, lambda q: q, "Not yet: a factor 2 is missing."),
        (FUNCTION, lambda q: q + 0.25, "Not yet: for 0.5 your answer gives 0.75, not 1."),
        (FUNCTION, lambda q: q / 0, "Not yet: your answer stops with ZeroDivisionError: .*division by zero"),
        (FUNCTION, lambda: 1, "Not yet: your answer stops with TypeError: .*takes 0 positional arguments"),
        (FUNCTION, 7, "Not yet: for 0.25 your answer gives 7, not 0.5."),
        (FUNCTION, {}, "Not yet: for 0.25 your answer gives {}, not 0.5."),
        (FUNCTION, lambda q: True, "Not yet: for 0.25 your answer gives True, not 0.5."),
        (FUNCTION, "q", "Not yet: for 0.25 your answer gives 'q', not 0.5."),
        (LISTS, lambda text, n: text[:n], "Right."),
        (LISTS, lambda text, n: iter(text), "Not yet: .* your answer gives <list_iterator .*>, not .'a'.."),
        (LISTS, lambda text, n: text, r"Not yet: for \['a', 'b'\], 1 your answer gives \['a', 'b'\], not \['a'\]."),
    ],
)
def test_the_verdict_says_what_is_wrong(asked, answer, verdict, capsys):
    shown = asked.check(answer).data
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.endswith(" (easy, 3 minutes)\n")
    assert re.match(verdict, printed)
    assert shown.count("<details><summary>") == 2 and "think" in shown and "<b>so</b>" in shown


def test_an_answer_that_changes_its_arguments_harms_nothing():
    def cut(text, n):
        del text[n:]
        return text

    assert LISTS._verdict(cut) == "Right."
    assert LISTS._verdict(lambda text, n: text).startswith("Not yet")
