"""The chunked LM head against the full logits."""

import pytest
import torch
import torch.nn.functional as F

from mixkit import MLE, MixCE, SequenceMatch, TaiLr, TokenScores, objective, token_scores, weighted_cross_entropy
from mixkit._common import InputError
from mixkit.losses import TokenWeighted, lm_head, weighted_cross_entropy_and_nll
from tests.shapes import raises_shape_error

OBJECTIVES = [MLE(), MixCE(0.2), TaiLr(0.3, 0.1)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def random_head(positions=(3, 7), width=5, vocabulary=23, bias=True, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(*positions, width), (vocabulary, width), (vocabulary,)]
    floats = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    hidden, weight, bias_values = (x.requires_grad_() for x in floats)
    targets = torch.randint(vocabulary, positions, generator=generator)
    mask = torch.rand(positions, generator=generator) > 0.3
    mask.view(-1)[0] = True
    return hidden, weight, bias_values if bias else None, targets, mask


def naive_loss(hidden, weight, bias, targets, mask, objective):
    """The weighted loss in float64 with full logits and torch's cross-entropy."""
    logits = F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    nll = F.cross_entropy(logits[mask], targets[mask], reduction="none")
    weights = objective.weight((-nll).exp()).detach()
    return (weights * nll).sum() / mask.sum()


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 1000, None])
@pytest.mark.parametrize("positions", [(1,), (31,), (3, 7), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_token_scores_equal_the_full_logits(positions, chunk_size, bias):
    hidden, weight, bias, targets, _ = random_head(positions, bias=bias)
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    expected = TokenScores.from_logits(F.linear(hidden, weight, bias), targets)
    scores = token_scores(hidden, weight, targets, bias=bias, chunk_size=chunk_size)
    torch.testing.assert_close(scores.logit, expected.logit)
    torch.testing.assert_close(scores.log_partition, expected.log_partition)
    torch.testing.assert_close(scores.prob, expected.prob)
    functions = [(s.logit.sin() + s.log_partition.square()).sum() for s in (expected, scores)]
    gradients = [torch.autograd.grad(x, inputs) for x in functions]
    for want, got in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("scale", "soft_cap"), [(0.125, None), (20.0, 3.0), (1.0, 0.5), (1.0, 30.0)])
@pytest.mark.parametrize("bias", [True, False])
def test_scale_and_soft_cap_equal_autograd(monkeypatch, scale, soft_cap, bias):
    """Values and gradients of scores and losses, where the cap bites and where it does not. Three positions a part."""
    monkeypatch.setitem(lm_head.CACHED_LOGITS, "cpu", 3 * 23)
    hidden, weight, bias, targets, mask = random_head(bias=bias)
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    logits = scale * F.linear(hidden, weight, bias)
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    expected, how = TokenScores.from_logits(logits, targets), {"bias": bias, "scale": scale, "soft_cap": soft_cap}
    scores = token_scores(hidden, weight, targets, **how, chunk_size=4)
    pairs = [[(x.logit.sin() + x.log_partition.square()).sum() for x in (scores, expected)]]
    for trained in (MLE(), MixCE(0.2), objective("gem")):
        got = weighted_cross_entropy(hidden, weight, targets, trained, mask=mask, **how)
        parts = TokenScores.from_logits(logits, targets, trained.order)
        pairs.append([got, trained.losses(parts)[mask].sum() / mask.sum()])
    for got, want in pairs:
        torch.testing.assert_close(got, want)
        gradients = [torch.autograd.grad(x, inputs, retain_graph=True) for x in (got, want)]
        again = torch.autograd.grad(got, inputs, retain_graph=True)
        for one, other, second in zip(*gradients, again, strict=True):
            torch.testing.assert_close(one, other)
            torch.testing.assert_close(second, other)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("sizes", [((3, 47), 31, 123), ((1,), 1, 2), ((2, 13), 64, 1000)])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_losses_equal_the_naive_loss(objective, sizes, dtype):
    hidden, weight, bias, targets, mask = random_head(*sizes, dtype=dtype)
    inputs = (hidden, weight, bias)
    expected = naive_loss(*inputs, targets, mask, objective)
    chunked = objective(token_scores(hidden, weight, targets, bias=bias, chunk_size=9), mask)
    fused, _ = weighted_cross_entropy_and_nll(hidden, weight, targets, objective, mask=mask, bias=bias, chunk_size=9)
    expected_gradients = torch.autograd.grad(expected, inputs)
    for loss in (chunked, fused):
        assert loss.dtype == torch.promote_types(dtype, torch.float32)
        assert relative_error(loss, expected) < TOLERANCES[dtype]
        for gradient, expected_gradient in zip(torch.autograd.grad(loss, inputs), expected_gradients, strict=True):
            assert gradient.dtype == dtype
            assert relative_error(gradient, expected_gradient) < 2 * TOLERANCES[dtype]


class One(TokenWeighted):
    """The loss is one of the three numbers, so that it is no function of the other two."""

    order = 2.0

    def __init__(self, number: str):
        self.number = number

    def losses(self, scores):
        return getattr(scores, self.number)


@pytest.mark.parametrize("number", ["logit", "log_partition", "scaled_partition"])
def test_a_loss_may_use_one_number_alone(number):
    hidden, weight, bias, targets, _ = random_head()
    loss = weighted_cross_entropy(hidden, weight, targets, One(number), bias=bias)
    logits = F.linear(hidden, weight, bias)
    full = {"logit": logits.gather(-1, targets[..., None])[..., 0], "log_partition": logits.logsumexp(-1)}
    full["scaled_partition"] = (2 * logits).logsumexp(-1)
    gradients = [torch.autograd.grad(x, (hidden, weight, bias)) for x in (loss, full[number].mean())]
    assert torch.allclose(loss, full[number].mean(), rtol=1e-12)
    assert all(torch.allclose(ours, theirs, atol=1e-13) for ours, theirs in zip(*gradients, strict=True))


@pytest.mark.parametrize("chunk_size", [1, 5, None])
@pytest.mark.parametrize("denominator", [17.0, torch.tensor(17)])
def test_denominator_and_nll(chunk_size, denominator):
    hidden, weight, bias, targets, mask = random_head()
    arguments = {"mask": mask, "bias": bias, "chunk_size": chunk_size}
    mean, mean_nll = weighted_cross_entropy_and_nll(hidden, weight, targets, MixCE(0.2), **arguments)
    torch.testing.assert_close(mean_nll, naive_loss(hidden, weight, bias, targets, mask, MLE()))
    assert not mean_nll.requires_grad
    parts = weighted_cross_entropy_and_nll(hidden, weight, targets, MixCE(0.2), denominator=denominator, **arguments)
    torch.testing.assert_close(parts[0] * 17, mean * mask.sum())
    torch.testing.assert_close(parts[1] * 17, mean_nll * mask.sum())
    gradients = [torch.autograd.grad(x, (hidden, weight, bias)) for x in (3 * parts[0] * 17, 3 * mean * mask.sum())]
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", [{}, {"scale": 0.5}, {"scale": 20.0, "soft_cap": 3.0}], ids=str)
def test_logit_chunks_are_the_logits(how, bias, monkeypatch):
    hidden, weight, bias, _, _ = random_head((31,), bias=bias)
    expected = how.get("scale", 1) * F.linear(hidden, weight, bias)
    expected = 3 * torch.tanh(expected / 3) if "soft_cap" in how else expected
    monkeypatch.setitem(lm_head.CHUNK_LOGITS, "cpu", 23 * 5 + 22)
    places, logits = zip(*lm_head.logit_chunks(hidden, weight, bias, **how), strict=True)
    assert [len(part) for part in logits] == [5, 5, 5, 5, 5, 5, 1]
    assert torch.cat([torch.arange(31)[place] for place in places]).tolist() == list(range(31))
    torch.testing.assert_close(torch.cat(logits), expected)
    monkeypatch.setitem(lm_head.CHUNK_LOGITS, "cpu", 22)  # less than the vocabulary
    assert len(list(lm_head.logit_chunks(hidden, weight, bias, **how))) == 31


def test_gradcheck():
    hidden, weight, bias, targets, mask = random_head((2, 3), 4, 5)

    def scores(h, w, b):
        s = token_scores(h, w, targets, bias=b, chunk_size=4)
        return s.logit, s.log_partition

    def loss(h, w, b):
        return weighted_cross_entropy_and_nll(h, w, targets, MLE(), mask=mask, bias=b, chunk_size=2)[0]

    assert torch.autograd.gradcheck(scores, (hidden, weight, bias))
    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.long])
def test_masked_positions_may_hold_anything(poison, mask_dtype):
    hidden, weight, bias, targets, mask = random_head()
    poisoned = hidden.detach().clone()
    poisoned[~mask] = poison
    poisoned.requires_grad_()
    wrong_ids = torch.where(mask, targets, -100)
    clean = weighted_cross_entropy(hidden, weight, targets, MixCE(0.3), mask=mask, bias=bias)
    loss = weighted_cross_entropy(poisoned, weight, wrong_ids, MixCE(0.3), mask=mask.to(mask_dtype), bias=bias)
    assert loss.item() == clean.item()
    loss.backward()
    assert poisoned.grad[~mask].abs().sum() == 0
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    hidden, weight, bias, targets, _ = random_head((5, 13), 64, 1000, dtype=dtype)
    scores = token_scores(hidden, weight, targets, bias=bias, chunk_size=9)
    same_logits = F.linear(hidden, weight, bias).double().logsumexp(-1)
    torch.testing.assert_close(scores.log_partition.double(), same_logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_chunks_lose_no_precision_in_gradients(dtype):
    hidden, weight, bias, targets, mask = random_head((20, 47), 31, 123, dtype=dtype)
    (expected,) = torch.autograd.grad(naive_loss(hidden, weight, bias, targets, mask, MLE()), weight)
    errors = []
    for chunk_size in (1, 1000):
        loss, _ = weighted_cross_entropy_and_nll(
            hidden, weight, targets, MLE(), mask=mask, bias=bias, chunk_size=chunk_size
        )
        errors.append(relative_error(torch.autograd.grad(loss, weight)[0], expected))
    assert errors[0] < 1.2 * errors[1]


def test_autocast_sets_the_dtype_of_the_products():
    hidden, weight, bias, targets, mask = random_head((4, 9), 33, 101, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = weighted_cross_entropy(hidden, weight, targets, MixCE(0.3), mask=mask, bias=bias)
    halves = [x.to(torch.bfloat16) for x in (hidden, weight, bias)]
    expected = weighted_cross_entropy(halves[0], halves[1], targets, MixCE(0.3), mask=mask, bias=halves[2])
    assert loss.item() == expected.item()
    loss.backward()
    assert weight.grad.dtype == torch.float32


def test_no_tensor_has_positions_times_vocabulary_entries():
    """Every tensor that an operation makes, forward and backward, is smaller."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class LargestTensor(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor):
                    self.numel = max(self.numel, x.numel())
            return out

    hidden, weight, bias, targets, mask = random_head((40, 50), 8, 300, dtype=torch.float32)
    chunks = {"chunk_size": 64}
    for compute in (
        lambda: weighted_cross_entropy_and_nll(hidden, weight, targets, MixCE(0.1), mask=mask, bias=bias, **chunks)[0],
        lambda: MixCE(0.1)(token_scores(hidden, weight, targets, bias=bias, **chunks), mask),
    ):
        with LargestTensor() as largest:
            compute().backward()
        assert largest.numel <= 64 * 300
    with LargestTensor() as largest:
        naive_loss(hidden, weight, bias, targets, mask, MLE()).backward()
    assert largest.numel >= 2000 * 300  # full logits are detected


def test_frozen_head_and_no_grad():
    hidden, weight, _, targets, _ = random_head(bias=False)
    loss = weighted_cross_entropy(hidden, weight.detach(), targets, MLE())
    loss.backward()
    assert hidden.grad is not None and weight.grad is None
    with torch.no_grad():
        assert weighted_cross_entropy(hidden, weight, targets, MLE()).item() == loss.item()


@pytest.mark.parametrize("losses", [lambda self, scores: scores.nll.mean(), lambda self, scores: scores.nll[:, None]])
def test_losses_that_are_not_one_for_each_token_are_refused(monkeypatch, losses):
    monkeypatch.setattr(MLE, "losses", losses)
    with pytest.raises(InputError, match="has losses of shape"):
        weighted_cross_entropy(torch.zeros(4, 3), torch.ones(5, 3), torch.arange(4), MLE())


def test_shapes_that_do_not_fit_are_refused():
    hidden, weight, _, targets, mask = random_head(bias=False)
    with raises_shape_error("one more dimension"):
        token_scores(hidden, weight, targets[:, 1:])
    with raises_shape_error("one more dimension"):
        weighted_cross_entropy(hidden[:, 1:], weight, targets, MLE(), mask=mask)
    with raises_shape_error("shapes cannot be multiplied", RuntimeError):
        token_scores(hidden, weight[:, :4], targets)
    with raises_shape_error(r"mask \(3, 6\) and targets \(3, 7\) differ in shape"):
        weighted_cross_entropy(hidden, weight, targets, MLE(), mask=mask[:, 1:])
    with raises_shape_error("differ in shape"):
        TokenScores(torch.zeros(2), torch.zeros(3))


def test_chunk_size_and_an_empty_mean_are_refused():
    hidden, weight, _, targets, mask = random_head(bias=False)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        token_scores(hidden, weight, targets, chunk_size=0)
    with pytest.raises(ValueError, match="every position is masked"):
        weighted_cross_entropy(hidden, weight, targets, MLE(), mask=torch.zeros_like(mask))
    nothing = weighted_cross_entropy(hidden, weight, targets, MLE(), mask=torch.zeros_like(mask), denominator=5)
    assert nothing.item() == 0
    halves = hidden.bfloat16(), weight.bfloat16()
    nothing = weighted_cross_entropy(*halves, targets, MLE(), mask=torch.zeros_like(mask), denominator=5)
    assert nothing.dtype == torch.float32
    one = weighted_cross_entropy(hidden[:1, :1], weight, targets[:1, :1], MLE())  # a denominator of 1
    torch.testing.assert_close(one, -F.linear(hidden, weight).log_softmax(-1)[0, 0, targets[0, 0]])


@pytest.mark.parametrize("wrong", [-100, 23])
def test_unmasked_targets_must_be_token_ids(wrong):
    hidden, weight, bias, targets, _ = random_head()
    targets[1, 2] = wrong
    for compute in (
        lambda: TokenScores.from_logits(F.linear(hidden, weight, bias), targets),
        lambda: token_scores(hidden, weight, targets, bias=bias),
        lambda: weighted_cross_entropy(hidden, weight, targets, MLE(), bias=bias),
    ):
        with pytest.raises(ValueError, match=rf"targets hold {wrong}; token ids are in \[0, 23\): mask"):
            compute()
    assert weighted_cross_entropy(hidden, weight, targets, MLE(), mask=targets != wrong, bias=bias).isfinite()


@pytest.mark.parametrize("objective", [SequenceMatch(), "mixce", MixCE, None])
def test_an_objective_without_weights_is_refused(objective):
    hidden, weight, _, targets, _ = random_head(bias=False)
    with pytest.raises(ValueError, match="it must be token-weighted"):
        weighted_cross_entropy(hidden, weight, targets, objective)
