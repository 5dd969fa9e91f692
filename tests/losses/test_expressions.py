"""Weight functions given as text."""

import pytest
import torch

from mixkit.losses import MLE, Expression, MixCE, TaiLr, TokenScores, TokenWeighted, objective


class Custom(TokenWeighted):
    """w(q) = 0.1 + 0.9 q, as a user would write it."""

    def weight(self, prob):
        return 0.1 + 0.9 * prob


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", MLE()),
        ("0.1 + 0.9 * q", MixCE(0.1)),
        ("0.1 + 0.9 * q", Custom()),
        ("0.1 + 0.9 * q", objective("mixce", eta=0.1)),
        ("max(q / (0.05 + 0.95 * q), 0.2)", TaiLr(0.05, 0.2)),
        ("q", objective("mixce", eta=0.0)),
    ],
)
def test_an_expression_is_the_class_and_the_name(text, expected):
    logits = torch.randn(31, 47, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    values = [loss(TokenScores.from_logits(logits, torch.arange(31))) for loss in (objective(text), expected)]
    gradients = [torch.autograd.grad(value, logits)[0] for value in values]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-14)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-15)


def test_all_parts_of_the_language():
    q = torch.tensor([0.25, 1.0])
    weight = Expression("min(exp(-q), 2, sqrt(q)) + (q >= 0.5) - (q == 1) + q ** -1 / +4 - log(q)").weight(q)
    expected = [min(0.7788008, 0.5) + 0 - 0 + 1 + 1.3862944, min(0.3678794, 1) + 1 - 1 + 0.25]
    assert weight.tolist() == pytest.approx(expected, abs=1e-6)
    assert Expression("q" + " + 0" * 49 + "000").weight(q).tolist() == q.tolist()  # 200 characters are not too long


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q.__class__", "character 1: 'q.__class__' is not allowed"),
        ("1 + q.real", "character 5: 'q.real' is not allowed"),
        ("__import__('os')", "character 1:"),
        ("import os", "character 1: invalid syntax"),
        ("q +", "character 4: invalid syntax"),
        ("2 * x", "character 5: 'x' is not allowed"),
        ("q / 0", "is infinite at q = 1"),
        ("-q", "is negative at q = 1"),
        ("log(q)", "is negative at q ="),
        ("q ** -40", "is infinite at q ="),
        ("q ** -1.5", "is infinite at q ="),
        ("1" + "0" * 40, "is infinite at q = 1"),
        ("sqrt(q - 0.5)", "is nan at q ="),
        ("1e999 * q", "character 1:"),
        ("True + q", "character 1: 'True' is not allowed"),
        ("q if q else 1", "is not allowed"),
        ("[q for q in (1, 2)]", "is not allowed"),
        ("lambda: q", "is not allowed"),
        ("min(q)", "min takes two arguments or more, not 1"),
        ("exp(q, q)", "exp takes one argument, not 2"),
        ("0.1 < q < 0.5", "is not allowed"),
        ("(" * 150 + "q", "character"),
        ("(" * 300 + "q", "at most 200"),
        ("q ;", "character 3"),
        ("", "unknown objective|character 1"),
        ("mixec", "did you mean 'mixce'"),
        ("q\x00", "character"),
        ("q + min(1, q.real)", "character 12: 'q.real' is not allowed"),
        ("q + max(1, exp(q, 2))", "character 12: exp takes one argument, not 2"),
        ("exp(min(q))", "character 5: min takes two arguments or more, not 1"),
        ("exp(q, x=1)", "is not allowed"),
        ("q % 2", "character 1: 'q % 2' is not allowed"),
        ("(q < 2e-4) + (q > 9e-4) - 0.1", "is negative at q = 0.000[89]"),
        ("(q > 1e-29) - 0.1", "is negative at q = 9[.].*e-30"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        objective(text)
    assert len(str(error.value).splitlines()) <= 1
    assert repr(text)[1:-1] in str(error.value) or len(text) > 200
