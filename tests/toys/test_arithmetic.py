"""Questions with right answers, and the share that a model gets right."""

import pytest

from mixkit.models.generation import Continuation
from mixkit.toys import arithmetic


def test_questions_are_right_different_and_the_same_for_a_seed():
    problems = arithmetic.questions(300, base=7, digits=2, seed=1)
    assert problems == arithmetic.questions(300, base=7, digits=2, seed=1) and len({q.prompt for q in problems}) == 300
    for question in problems:
        left, right = question.prompt[:-1].split("+")
        assert int(question.answer, 7) == int(left, 7) + int(right, 7)
    with pytest.raises(ValueError, match=r"base is 11; it must be in \[2, 10\]"):
        arithmetic.questions(3, base=11, digits=1)
    with pytest.raises(ValueError, match="there are 4 questions of 1 digits in base 2, not 5"):
        arithmetic.questions(5, base=2, digits=1)


def test_answers_are_counted_to_the_letter():
    problems = arithmetic.questions(4, base=5, digits=1)
    answers = [Continuation(q.answer) for q in problems]
    assert arithmetic.accuracy(problems, answers).value == 1
    assert arithmetic.accuracy(problems, [*answers[:3], Continuation(answers[3].text + "0")]).value == 0.75
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model, tokenizer = arithmetic.build_model(5, **sizes)
    assert sorted(tokenizer.get_vocab()) == sorted(["<|endoftext|>", *"01234+="])
    assert len(tokenizer("12+3=")["input_ids"]) == 5 and tokenizer.decode(tokenizer("12+3=")["input_ids"]) == "12+3="
    assert len(arithmetic.sample_answers(model, tokenizer, problems)) == 4
