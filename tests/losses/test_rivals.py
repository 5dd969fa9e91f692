"""The named rivals against loops over plain logits, and the identities that tie them to the other objectives."""

import math

import pytest
import torch

from mixkit import MLE, MixCE, TaiLr, TokenScores, objective, weighted_cross_entropy
from mixkit.losses import DFT, GEM, ErrorNormTruncation, Focal, Power, Threshold, stationary_distribution
from mixkit.losses.definitions import RIVALS, ObjectiveDefinition, parse_objective
from mixkit.studies import RunConfig

P = torch.tensor([0.40, 0.25, 0.15, 0.10, 0.06, 0.04], dtype=torch.float64)


def focal(z, y):
    q = z.softmax(-1)[y]
    return -((1 - q) ** 2.0) * q.log()


def error_norm(max_norm):
    def loss(z, y):
        q = z.softmax(-1)
        one_hot = torch.eye(len(z), dtype=z.dtype)[y]
        kept = (q - one_hot).norm().item() <= max_norm
        return -q[y].log() if kept else 0 * z.sum()

    return loss


# The loss of one position whose gradient is that of training.
LOSSES = {
    Power(0.3): lambda z, y: (1 - z.softmax(-1)[y] ** 0.3) / 0.3,
    DFT(): lambda z, y: -z.softmax(-1)[y],
    Focal(2.0): focal,
    Threshold(0.05): lambda z, y: -z.softmax(-1)[y].log() if z.softmax(-1)[y] > 0.05 else 0 * z.sum(),
    Threshold(0.05, "below"): lambda z, y: -z.softmax(-1)[y].log() if z.softmax(-1)[y] <= 0.05 else 0 * z.sum(),
    GEM(0.7): lambda z, y: -0.7 * (z / 0.7).log_softmax(-1)[y],
    ErrorNormTruncation(0.9): error_norm(0.9),
    ErrorNormTruncation(1.1): error_norm(1.1),
}


@pytest.mark.parametrize("rival", LOSSES, ids=str)
def test_the_gradient_is_that_of_a_loop(rival):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(31, 5, generator=generator, dtype=torch.float64).requires_grad_()
    head = (2 * torch.randn(47, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(47, (31,), generator=generator)
    logits = hidden @ head.T
    loop = torch.stack([LOSSES[rival](z, y) for z, y in zip(logits, targets, strict=True)]).mean()
    expected = torch.autograd.grad(loop, (hidden, head), retain_graph=True)
    scores = TokenScores.from_logits(logits, targets, rival.order)
    masked = [rival(scores, mask) * mask.sum() / 31 for mask in (targets % 3 == 0, targets % 3 > 0)]
    for loss in (rival(scores), sum(masked), weighted_cross_entropy(hidden, head, targets, rival)):
        for gradient, right in zip(torch.autograd.grad(loss, (hidden, head), retain_graph=True), expected, strict=True):
            torch.testing.assert_close(gradient, right, rtol=1e-9, atol=1e-12)
    assert (torch.cat([g.flatten() for g in expected]) != 0).any()


@pytest.mark.parametrize(
    ("rival", "same"),
    [
        (Power(0.0), MLE()),
        (Power(1.0), DFT()),
        (DFT(), MixCE(0.0)),
        (DFT(), objective("tailr", gamma=1.0, w_min=0.0)),
        (Focal(0.0), MLE()),
        (Threshold(0.0), MLE()),
        (Threshold(1.0, "below"), MLE()),
        (GEM(1.0), MLE()),
        (ErrorNormTruncation(math.sqrt(2)), MLE()),
        (Power(0.3), objective("q ** 0.3")),
        (Threshold(0.02), objective("q > 0.02")),
        (Focal(2.0), objective("(1 - q) ** 2 - 2 * q * (1 - q) * log(q)")),
    ],
    ids=str,
)
def test_identities(rival, same):
    logits = torch.randn(31, 47, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    targets = torch.arange(31)
    losses = [loss(TokenScores.from_logits(logits, targets, loss.order)) for loss in (rival, same)]
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-15)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-13)


def test_stationary_distributions():
    for rival, exponent in ((Power(0.3), 1 / 0.7), (GEM(0.7), 0.7)):
        expected = P**exponent
        torch.testing.assert_close(stationary_distribution(rival, P), expected / expected.sum(), rtol=0, atol=1e-12)
    assert stationary_distribution(DFT(), P).tolist() == [1, 0, 0, 0, 0, 0]
    flat = stationary_distribution(Focal(2.0), P)
    weighted = P * Focal(2.0).weight(flat)
    torch.testing.assert_close(flat * weighted.sum(), weighted, rtol=0, atol=1e-12)
    assert flat[0] < P[0] and flat[5] > P[5]


@pytest.mark.parametrize(
    ("rival", "reason"),
    [
        (Power(2.0), "not convex"),
        (Threshold(0.1), "weight 0"),
        (Threshold(0.1, "below"), "weight 0"),
        (ErrorNormTruncation(), "not a function of q alone"),
    ],
    ids=str,
)
def test_no_unique_stationary_distribution(rival, reason):
    with pytest.raises(ValueError, match=reason):
        stationary_distribution(rival, P)


def test_no_coefficient_is_named_as_a_setting():
    """The setting would replace it."""
    assert not {c.name for rival in RIVALS.values() for c in rival.coefficients} & RunConfig.model_fields.keys()


@pytest.mark.parametrize("name", RIVALS)
def test_a_name_a_call_and_a_class_are_one(name):
    defaults = [c.default for c in RIVALS[name].coefficients]
    call = f"{name}({', '.join(map(str, defaults))})" if defaults else name
    assert objective(name) == objective(call) == type(objective(name))(*defaults)
    assert parse_objective(call)[0] == RIVALS[name]


@pytest.mark.parametrize("rival", [GEM(0.7), ErrorNormTruncation(0.9)], ids=str)
def test_rivals_that_need_more_of_the_logits_say_so(rival):
    scores = TokenScores.from_logits(torch.randn(3, 5), torch.arange(3))
    with pytest.raises(ValueError, match="needs the scaled_partition"):
        rival(scores)


def test_a_threshold_of_0_keeps_probabilities_that_underflow():
    assert Threshold(0.0).weight(torch.zeros(1)).tolist() == [1.0]
    at_and_above = torch.tensor([0.25, 0.5])
    assert Threshold(0.25).weight(at_and_above).tolist() == [0, 1]
    assert Threshold(0.25, "below").weight(at_and_above).tolist() == [1, 0]


def test_coefficients_of_calls():
    assert objective("mixce(0.1)") == MixCE(0.1)
    assert objective("threshold(0.2, below)") == Threshold(0.2, "below")
    assert objective("power", exponent=0.2) == Power(0.2)
    assert objective("threshold( 0.2 )") == Threshold(0.2) and objective("tailr(0.1)") == TaiLr(0.1)
    assert parse_objective("own: Focal(gamma=2.0)") == (ObjectiveDefinition("Focal(gamma=2.0)", ""), {})
    for formula in ("0.1 + 0.9 * q", "sqrt(q)", "min(q, 0.5)", "max(q, 0.5)", "exp(q)", "log(2 + q)", "Power(2)"):
        definition = ObjectiveDefinition(f"w(q) = {formula}", "expressions.Expression")
        assert parse_objective(formula) == (definition, {"text": formula})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("power(x)", "'x' is no number, such as power"),
        ("power(0.1, 0.2)", "has 2 coefficients; power takes at most 1"),
        ("power()", "'' is no number"),
        ("power(-1)", "exponent is -1.0; it must be a number in"),
        ("powr(0.3)", r"did you mean 'power'"),
        ("threshold(0.1, over)", "unknown side 'over'"),
        ("mle(1)", "takes at most 0"),
        ("own: Focal(2.0)", "defined in a notebook cell"),
        ("power(nan)", "exponent is nan"),
    ],
)
def test_calls_that_are_wrong(text, message):
    with pytest.raises(ValueError, match=message) as error:
        objective(text)
    assert "\n" not in str(error.value)
