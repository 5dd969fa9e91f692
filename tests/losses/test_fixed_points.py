"""The stationary distribution against closed forms, its own equation and gradient descent."""

import itertools

import pytest
import torch

from mixkit.losses import MLE, MixCE, SequenceMatch, TaiLr, TokenScores, objective, stationary_distribution
from mixkit.losses.fixed_points import inverse_of

P = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04], dtype=torch.float64)
ENDS = [MixCE(0.0), TaiLr(1.0, 0.0), objective("dft"), objective("q"), objective("2 * q")]  # q / w(q) is constant
UNIQUE = [
    *(MLE(), MixCE(0.9), MixCE(0.1), MixCE(0.001), TaiLr(0.01, 0.1), TaiLr(0.1, 0.0), TaiLr(0.5, 0.3)),
    *(objective("q ** 0.3"), objective("0.2 + 0.8 * q"), objective("1 / (1 + q)"), objective("exp(-q)")),
    objective("max(q, 0.2)"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "tokens"),
    [*itertools.product(UNIQUE, [2, 47, 5000]), *itertools.product(UNIQUE[:7], [50_000])],
    ids=str,
)
def test_it_solves_its_equation(loss, tokens):
    generator = torch.Generator().manual_seed(tokens)
    p = torch.rand(3, tokens, dtype=torch.float64, generator=generator) ** 6
    p[:, torch.rand(tokens, generator=generator) < 0.3] = 0
    p[:, :2] = 0.1  # a tie
    p = p / p.sum(-1, keepdim=True)
    q = stationary_distribution(loss, p)
    weighted = p * loss.weight(q)
    torch.testing.assert_close(q * weighted.sum(-1, keepdim=True), weighted, rtol=0, atol=1e-12)
    torch.testing.assert_close(q.sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (q[:, 0] == q[:, 1]).all() and (q[p == 0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("loss", [*UNIQUE, objective("power(0.3)"), objective("focal(2)"), *ENDS], ids=str)
def test_the_inverse_is_the_largest_solution(loss, dtype):
    """The largest q in [0, 1] with q / w(q) <= r, read off a grid."""
    grid, step = torch.linspace(0, 1, 20_001, dtype=torch.float64), 1 / 20_000
    ratios = torch.cat([torch.tensor([0.0, 1.0]), torch.logspace(-9, 1, 41), torch.linspace(0.05, 2.05, 41)]).to(dtype)
    found = inverse_of(loss)(ratios)
    assert found.dtype == dtype and found.min() == 0
    slack = 1 + (1e-5 if loss in ENDS else 1e-12)
    expected = grid.where(grid <= slack * ratios.double()[:, None] * loss.weight(grid), 0).amax(1)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=step + (2e-4 if dtype == torch.float32 else 0))
    inside = (found > 0) & (found < 1) & ((ratios > 1e-8) if dtype == torch.float64 else (ratios > 1e-4))
    ratio = found[inside].double() / loss.weight(found[inside].double())
    torch.testing.assert_close(ratio, ratios[inside].double(), rtol=1e-9 if dtype == torch.float64 else 1e-3, atol=0)


def test_closed_forms():
    assert torch.equal(stationary_distribution(MLE(), P), P)
    for power in (0.3, 0.6):
        expected = P ** (1 / (1 - power))
        found = stationary_distribution(objective(f"q ** {power}"), P)
        torch.testing.assert_close(found, expected / expected.sum(), rtol=0, atol=1e-12)
    found = stationary_distribution(MixCE(0.3), P)  # checked by gradient flow, four digits
    assert found.tolist() == pytest.approx([0.529, 0.226, 0.112, 0.069, 0.039, 0.025], abs=5e-4)
    found = stationary_distribution(TaiLr(0.05, 0.2), P)
    assert found.tolist() == pytest.approx([0.470, 0.274, 0.143, 0.078, 0.026, 0.010], abs=5e-4)


@pytest.mark.parametrize("loss", ENDS, ids=str)
def test_a_weight_of_q_ends_at_the_most_probable_tokens(loss):
    assert stationary_distribution(loss, P).tolist() == [1, 0, 0, 0, 0, 0]
    tie = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    assert stationary_distribution(loss, tie).tolist() == pytest.approx([0.5, 0.5, 0], abs=1e-12)
    many = torch.full((20,), 0.05, dtype=torch.float64)  # exp(log(0.05)) is above 0.05
    torch.testing.assert_close(stationary_distribution(loss, many), many)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [MixCE(0.3), TaiLr(0.05, 0.2)], ids=str)
def test_gradient_descent_ends_there(loss):
    logits = P.log().clone().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(1500):
        scores = TokenScores.from_logits(logits.expand(6, 6), torch.arange(6))
        loss_value = (P * loss.weight(scores.prob).detach() * scores.nll).sum()
        optimizer.zero_grad()
        loss_value.backward()
        optimizer.step()
    distance = (logits.detach().softmax(-1) - stationary_distribution(loss, P)).abs().sum() / 2
    assert distance < 1e-4


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (objective("q ** 2"), "is not convex"),
        (objective("q > 0.3"), "weight 0"),
        (objective("q < 0.3"), "weight 0"),
        (objective("1 + (q > 0.2)"), "is not convex"),
        (objective("1 + 9 * (q < 0.3)"), "its weight jumps"),
        (SequenceMatch(), "not a token-weighted objective"),
    ],
    ids=str,
)
def test_it_refuses_where_there_is_no_unique_solution(loss, reason):
    with pytest.raises(ValueError, match=reason):
        stationary_distribution(loss, P)


@pytest.mark.parametrize("wrong", [P * 2, -P, P * torch.nan, P[:0]], ids=["sum", "negative", "nan", "empty"])
def test_it_refuses_what_is_no_distribution(wrong):
    with pytest.raises(ValueError, match="probs"):
        stationary_distribution(MixCE(0.5), wrong)


@pytest.mark.parametrize("loss", [MLE(), MixCE(0.3), objective("gem(0.7)"), objective("0.2 + 0.8 * q")], ids=str)
def test_probs_of_any_shape_dtype_and_nearly_any_sum(loss):
    expected = stationary_distribution(loss, P)
    for factor in (0.9991, 1.0009):
        torch.testing.assert_close(stationary_distribution(loss, factor * P), expected, rtol=0, atol=1e-12)
    for factor in (0.9989, 1.0011):
        with pytest.raises(ValueError, match=f"probs sum to {factor:.4g}; they must sum to 1"):
            stationary_distribution(loss, torch.stack([factor * P, P]))
    two = torch.stack([P, P.flip(0)]).float()[:, None]
    torch.testing.assert_close(
        stationary_distribution(loss, two)[:, 0], torch.stack([expected, expected.flip(0)]).float()
    )
    assert stationary_distribution(loss, torch.ones(1)).tolist() == [1]


def test_a_subclass_with_its_own_weight_has_its_own_inverse():
    class Squared(MixCE):
        def weight(self, prob):
            return super().weight(prob) ** 0.5

    probs = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    q = stationary_distribution(Squared(0.2), probs)
    ratio = probs * Squared(0.2).weight(q) / q  # constant at a stationary distribution
    torch.testing.assert_close(ratio, ratio[:1].expand(3), rtol=1e-6, atol=0)
    assert inverse_of(MixCE(0.2)).__func__ is MixCE.inverse
