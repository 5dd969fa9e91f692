"""The token-weighted objectives against plain loops, closed forms and each other."""

import math

import pytest
import torch

from mixkit import MLE, MixCE, TaiLr, TokenScores

WEIGHTS = {
    "mle": (MLE(), lambda q: 1.0),
    "mixce 0.3": (MixCE(0.3), lambda q: 0.3 + 0.7 * q),
    "mixce 0": (MixCE(0.0), lambda q: q),
    "tailr 1e-7 0.2": (TaiLr(1e-7, 0.2), lambda q: min(1.0, max(0.2, q / (1e-7 + (1 - 1e-7) * q)))),
    "tailr 0.8 0.2": (TaiLr(0.8, 0.2), lambda q: min(1.0, max(0.2, q / (0.8 + 0.2 * q)))),
}


def random_logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(shape[-1], shape[:-1], generator=generator)
    mask = torch.rand(shape[:-1], generator=generator) > 0.3
    return logits.requires_grad_(), targets, mask


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 7, 11), (2, 31, 123)])
def test_value_and_gradient_equal_a_loop_over_positions(name, shape):
    loss_function, weight = WEIGHTS[name]
    logits, targets, mask = random_logits(*shape)
    mask[0, 0] = True
    loss = loss_function(TokenScores.from_logits(logits, targets), mask)
    loss.backward()

    total, count, gradient = 0.0, int(mask.sum()), torch.zeros_like(logits)
    for index in mask.nonzero().tolist():
        row = [math.exp(z) for z in logits[tuple(index)].tolist()]
        target = int(targets[tuple(index)])
        q = row[target] / sum(row)
        total -= weight(q) * math.log(q)
        for token in range(shape[-1]):
            gradient[(*index, token)] = weight(q) * (row[token] / sum(row) - (token == target)) / count
    assert loss.item() == pytest.approx(total / count, rel=1e-12)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("same", [MixCE(1.0), TaiLr(0.0), TaiLr(0.0, 0.5), TaiLr(0.3, 1.0)])
def test_ends_of_the_ranges_are_mle(same):
    logits, targets, mask = random_logits(3, 5, 7)
    scores = TokenScores.from_logits(logits, targets)
    expected, value = MLE()(scores, mask), same(scores, mask)
    assert value.item() == expected.item()
    gradients = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (expected, value)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-16)


def test_mixce_0_is_tailr_1_is_the_weight_q():
    q = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(MixCE(0.0).weight(q), q)
    torch.testing.assert_close(TaiLr(1.0).weight(q), q)
    two_equal_tokens = TokenScores.from_logits(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    assert MixCE(0.0)(two_equal_tokens).item() == pytest.approx(math.log(2) / 2)


def test_tailr_0_is_mle_where_the_probability_underflows():
    assert TaiLr(0.0).weight(torch.tensor([0.0])).item() == 1


@pytest.mark.parametrize("name", ["mixce 0.3", "mixce 0"])
def test_nothing_flows_through_the_weight(name):
    """A finite difference of the loss value moves the weight too, so it must differ from the gradient."""
    loss_function = WEIGHTS[name][0]
    logits, targets, _ = random_logits(1, 1, 5)
    loss_function(TokenScores.from_logits(logits, targets)).backward()
    step = torch.zeros_like(logits)
    step[0, 0, targets.item()] = 1e-6
    values = [loss_function(TokenScores.from_logits(logits.detach() + s, targets)).item() for s in (step, -step)]
    difference = (values[0] - values[1]) / 2e-6
    assert abs(difference - logits.grad[0, 0, targets.item()].item()) > 1e-3


@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", WEIGHTS)
def test_masked_positions_do_not_matter(name, poison):
    loss_function = WEIGHTS[name][0]
    logits, targets, mask = random_logits(3, 5, 7)
    clean = loss_function(TokenScores.from_logits(logits, targets), mask)
    (expected,) = torch.autograd.grad(clean, logits)
    poisoned = logits.detach().clone()
    poisoned[~mask] = poison
    poisoned.requires_grad_()
    loss = loss_function(TokenScores.from_logits(poisoned, targets), mask)
    loss.backward()
    assert loss.item() == clean.item()
    torch.testing.assert_close(poisoned.grad[mask], expected[mask], rtol=0, atol=0)

    scores = TokenScores.from_logits(logits.detach(), targets)
    logit, log_partition = scores.logit.clone(), scores.log_partition.clone()
    logit[~mask] = log_partition[~mask] = poison
    logit.requires_grad_()
    loss = loss_function(TokenScores(logit, log_partition), mask)
    loss.backward()
    assert loss.item() == clean.item()
    assert logit.grad[~mask].abs().sum() == 0


def test_all_masked_is_an_error():
    logits, targets, mask = random_logits(1, 2, 3)
    with pytest.raises(ValueError, match="every position is masked"):
        MLE()(TokenScores.from_logits(logits, targets), torch.zeros_like(mask))
