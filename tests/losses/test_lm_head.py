"""Chunked scores and the fused loss against the full logits."""

import pytest
import torch
import torch.nn.functional as F

from mixkit import MLE, MixCE, SequenceMatch, TaiLr, TokenScores, token_scores, weighted_cross_entropy
from mixkit.losses import weighted_cross_entropy_and_nll
from tests.shapes import raises_shape_error

OBJECTIVES = [MLE(), MixCE(0.2), TaiLr(0.3, 0.1)]


def head(positions=(3, 7), width=5, vocabulary=23, bias=True, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*positions, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    bias = (
        torch.randn(vocabulary, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    )
    targets = torch.randint(vocabulary, positions, generator=generator)
    mask = torch.rand(positions, generator=generator) > 0.3
    mask.view(-1)[0] = True
    return hidden, weight, bias, targets, mask


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000, None])
@pytest.mark.parametrize("positions", [(1,), (31,), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_token_scores_equal_the_full_logits(positions, chunk_size, bias):
    hidden, weight, bias, targets, _ = head(positions, bias=bias)
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    expected = TokenScores.from_logits(F.linear(hidden, weight, bias), targets)
    scores = token_scores(hidden, weight, targets, bias=bias, chunk_size=chunk_size)
    torch.testing.assert_close(scores.logit, expected.logit)
    torch.testing.assert_close(scores.log_partition, expected.log_partition)
    torch.testing.assert_close(scores.prob, expected.prob)
    mixed = [(s.logit.sin() + s.log_partition.square()).sum() for s in (expected, scores)]
    for want, got in zip(*(torch.autograd.grad(x, inputs) for x in mixed), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("chunk_size", [1, 5, None])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("denominator", [None, 17.0, torch.tensor(17)])
def test_fused_loss_equals_the_objective_on_full_logits(objective, chunk_size, denominator):
    hidden, weight, bias, targets, mask = head()
    expected = objective(TokenScores.from_logits(F.linear(hidden, weight, bias), targets), mask)
    if denominator is not None:
        expected = expected * mask.sum() / denominator
    fused, nll = weighted_cross_entropy_and_nll(
        hidden,
        weight,
        targets,
        objective,
        mask=mask,
        bias=bias,
        denominator=denominator,
        chunk_size=chunk_size,
    )
    torch.testing.assert_close(fused, expected)
    plain = F.cross_entropy(F.linear(hidden, weight, bias)[mask], targets[mask], reduction="sum")
    torch.testing.assert_close(nll, plain.detach() / (denominator or mask.sum()))
    for want, got in zip(*(torch.autograd.grad(3 * x, (hidden, weight, bias)) for x in (expected, fused)), strict=True):
        torch.testing.assert_close(got, want)


def test_gradcheck():
    hidden, weight, bias, targets, mask = head((2, 3), 4, 5)
    assert torch.autograd.gradcheck(
        lambda h, w, b: (lambda s: (s.logit, s.log_partition))(token_scores(h, w, targets, bias=b, chunk_size=4)),
        (hidden, weight, bias),
    )
    assert torch.autograd.gradcheck(
        lambda h, w, b: weighted_cross_entropy(h, w, targets, MLE(), mask=mask, bias=b, chunk_size=2),
        (hidden, weight, bias),
    )


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_masked_hidden_states_do_not_matter(poison):
    hidden, weight, bias, targets, mask = head()
    poisoned = hidden.detach().clone()
    poisoned[~mask] = poison
    poisoned.requires_grad_()
    wrong_ids = torch.where(mask, targets, -100)
    losses = [
        weighted_cross_entropy(h, weight, y, MixCE(0.3), mask=mask, bias=bias)
        for h, y in ((hidden, targets), (poisoned, wrong_ids))
    ]
    assert losses[0].item() == losses[1].item()
    losses[1].backward()
    assert poisoned.grad[~mask].abs().sum() == 0
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reduces_in_float32(dtype):
    hidden, weight, bias, targets, mask = head((5, 13), 64, 1000, dtype=dtype)
    scores = token_scores(hidden, weight, targets, bias=bias, chunk_size=9)
    assert scores.logit.dtype == scores.log_partition.dtype == torch.float32
    exact = TokenScores.from_logits(F.linear(hidden.double(), weight.double(), bias.double()), targets)
    torch.testing.assert_close(scores.log_partition.double(), exact.log_partition, rtol=1e-2, atol=1e-2)
    # The sum over the vocabulary is float32's: far closer than half precision could be, given the same logits.
    same_logits = F.linear(hidden, weight, bias).double().logsumexp(-1)
    torch.testing.assert_close(scores.log_partition.double(), same_logits, rtol=1e-6, atol=1e-6)
    loss = weighted_cross_entropy(hidden, weight, targets, MixCE(0.3), mask=mask, bias=bias, chunk_size=9)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (hidden, weight, bias))
    inputs = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    reference = MixCE(0.3)(TokenScores.from_logits(F.linear(*inputs), targets), mask)
    for got, want in zip(gradients, torch.autograd.grad(reference, inputs), strict=True):
        assert got.dtype == dtype
        assert (got.double() - want).norm() < 0.05 * want.norm()


def test_autocast_runs_the_products_in_its_dtype():
    hidden, weight, bias, targets, mask = head(dtype=torch.float32, positions=(4, 9), width=33, vocabulary=101)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = weighted_cross_entropy(hidden, weight, targets, MixCE(0.3), mask=mask, bias=bias)
    halves = [x.to(torch.bfloat16) for x in (hidden, weight, bias)]
    expected = weighted_cross_entropy(halves[0], halves[1], targets, MixCE(0.3), mask=mask, bias=halves[2])
    assert loss.item() == expected.item()
    loss.backward()
    assert weight.grad.dtype == torch.float32


def test_no_tensor_of_positions_times_vocabulary_is_ever_held():
    """Every tensor that any operation makes, forward and backward, is smaller than positions x vocabulary."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor):
                    self.numel = max(self.numel, x.numel())
            return out

    hidden, weight, bias, targets, mask = head((40, 50), 8, 300, dtype=torch.float32)
    for compute in (
        lambda: weighted_cross_entropy(hidden, weight, targets, MixCE(0.1), mask=mask, bias=bias, chunk_size=64),
        lambda: MixCE(0.1)(token_scores(hidden, weight, targets, bias=bias, chunk_size=64), mask),
    ):
        with Largest() as largest:
            compute().backward()
        assert largest.numel <= 64 * 300
        with Largest() as largest:
            TokenScores.from_logits(F.linear(hidden, weight, bias), targets).nll.mean().backward()
        assert largest.numel >= 2000 * 300  # the watch does see the full logits


def test_frozen_head_and_no_grad():
    hidden, weight, _, targets, _ = head(bias=False)
    loss = weighted_cross_entropy(hidden, weight.detach(), targets, MLE())
    loss.backward()
    assert hidden.grad is not None and weight.grad is None
    with torch.no_grad():
        assert weighted_cross_entropy(hidden, weight, targets, MLE()).item() == loss.item()


def test_bad_shapes_are_refused():
    hidden, weight, _, targets, mask = head(bias=False)
    with raises_shape_error("one more dimension"):
        token_scores(hidden, weight, targets[:, 1:])
    with raises_shape_error("the output embedding 4"):
        token_scores(hidden, weight[:, :4], targets)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        token_scores(hidden, weight, targets, chunk_size=0)
    with pytest.raises(ValueError, match="every position is masked"):
        weighted_cross_entropy(hidden, weight, targets, MLE(), mask=torch.zeros_like(mask))
    with raises_shape_error("differ in shape"):
        TokenScores(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize("wrong", [-100, 23])
def test_targets_that_are_no_token_ids_are_refused_where_they_count(wrong):
    hidden, weight, bias, targets, _ = head()
    targets[1, 2] = wrong
    for compute in (
        lambda: TokenScores.from_logits(F.linear(hidden, weight, bias), targets),
        lambda: token_scores(hidden, weight, targets, bias=bias),
        lambda: weighted_cross_entropy(hidden, weight, targets, MLE(), bias=bias),
    ):
        with pytest.raises(ValueError, match=rf"targets hold {wrong}; token ids are in \[0, 23\): mask"):
            compute()
    assert weighted_cross_entropy(hidden, weight, targets, MLE(), mask=targets != wrong, bias=bias).isfinite()


def test_a_mask_of_another_shape_is_refused():
    hidden, weight, _, targets, mask = head(bias=False)
    with raises_shape_error(r"mask \(3, 6\) and targets \(3, 7\) differ in shape"):
        weighted_cross_entropy(hidden, weight, targets, MLE(), mask=mask[:, 1:])
    with raises_shape_error("one more dimension"):
        weighted_cross_entropy(hidden[:, 1:], weight, targets, MLE(), mask=mask)


@pytest.mark.parametrize("objective", [SequenceMatch(), "mixce", MixCE, None])
def test_an_objective_without_weights_is_refused(objective):
    hidden, weight, _, targets, _ = head(bias=False)
    with pytest.raises(ValueError, match="it must be token-weighted"):
        weighted_cross_entropy(hidden, weight, targets, objective)
