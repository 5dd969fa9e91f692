"""The definitions of the objectives agree with the classes, and import nothing heavy."""

import math
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest
import torch

from mixkit import MLE, MixCE, SequenceMatch, TaiLr, TokenScores, objective, weighted_cross_entropy
from mixkit._common import InputError
from mixkit.losses import TokenWeighted
from mixkit.losses.definitions import COEFFICIENTS, DIVERGENCE_NAMES, OBJECTIVES, Coefficient
from mixkit.losses.sequence_match import DIVERGENCES


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_definition_makes_its_class(name):
    definition = OBJECTIVES[name]
    defaults = {c.name: c.default for c in definition.coefficients if c.in_loss}
    loss = objective(name, **defaults)
    assert type(loss).__name__ == definition.loss.split(".")[1]
    assert [field.name for field in fields(loss)] == list(defaults)
    for coefficient in definition.coefficients:
        coefficient.check(coefficient.default)
        assert coefficient.help and coefficient.symbol


def test_a_subclass_has_the_range_of_its_base():
    class Mine(MixCE):
        """A class of one's own."""

    assert Mine(0.5).eta == 0.5
    with pytest.raises(InputError, match="eta is 2"):
        Mine(2.0)


def test_names_of_coefficients_and_divergences_are_unique():
    assert tuple(DIVERGENCES) == DIVERGENCE_NAMES
    coefficients = {c for definition in OBJECTIVES.values() for c in definition.coefficients}
    assert len(coefficients) == len(COEFFICIENTS)


def test_objective_by_name():
    assert objective("mixce", eta=0.1) == MixCE(0.1)
    assert objective("tailr", gamma=0.1, w_min=0.3) == TaiLr(0.1, 0.3)
    assert objective("mle") == objective("mle-backspace") == MLE()
    assert objective("sequencematch", alpha=0.1) == SequenceMatch(0.1, 0.998, "chi2-mixture")


@pytest.mark.parametrize(
    ("name", "coefficients", "message"),
    [
        ("mixec", {}, r"unknown objective 'mixec' \(did you mean 'mixce'\?\); allowed: mle, mixce"),
        ("mixce", {"etta": 0.1}, r"unknown coefficient of mixce 'etta' \(did you mean 'eta'\?\); allowed: eta"),
        ("mle", {"eta": 0.1}, "unknown coefficient of mle 'eta'; allowed: none"),
        ("sequencematch", {"noise_rate": 0.1}, "unknown coefficient of sequencematch 'noise_rate'"),
        ("mixce", {}, "mixce needs eta; given: nothing"),
        ("tailr", {"w_min": 0.1}, "tailr needs gamma, w_min; given: .'w_min': 0.1."),
        ("tailr", {"gamma": 0.1, "w_min": 2}, r"w_min is 2; it must be a number in \[0, 1\]"),
    ],
)
def test_what_objective_refuses(name, coefficients, message):
    with pytest.raises(ValueError, match=message) as error:
        objective(name, **coefficients)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, "0.5", None, True])
def test_values_outside_a_closed_range_are_refused(bad):
    settings = [COEFFICIENTS[name].check for name in ("mle_warmup", "mle_decay", "mle_minimum")]
    for make in (MixCE, TaiLr, lambda x: TaiLr(0.1, x), *settings):
        with pytest.raises(ValueError, match=r"must be a number in \[0, 1\]"):
            make(bad)


@pytest.mark.parametrize("bad", [0, 1, -0.5, 1.5, math.nan, "0.9", None, True])
def test_values_outside_an_open_range_are_refused(bad):
    with pytest.raises(ValueError, match=r"discount is .*; it must be a number in \(0, 1\)"):
        SequenceMatch(discount=bad)


@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan, "0.1", None])
def test_values_outside_a_half_line_are_refused(bad):
    with pytest.raises(ValueError, match=r"alpha is .*; it must be a number in \(0, inf\)"):
        SequenceMatch(alpha=bad)


def test_an_unknown_choice_is_refused():
    message = r"unknown divergence 'chi2-mix' \(did you mean 'chi2-mixture'\?\); allowed: chi2-mixture, chi2, js, rkl"
    with pytest.raises(ValueError, match=message):
        SequenceMatch(divergence="chi2-mix")


@dataclass(frozen=True)
class Power(TokenWeighted):
    """w(q) = q^exponent."""

    exponent: float

    def __post_init__(self):
        Coefficient("exponent", "a", 0.5, "Power: exponent of q", 0, 1).check(self.exponent)

    def weight(self, prob):
        return prob**self.exponent


def test_a_new_weight_function_needs_only_its_class():
    hidden, head, targets = torch.randn(5, 3), torch.randn(7, 3), torch.arange(5)
    scores = TokenScores.from_logits(hidden @ head.T, targets)
    for power, same in ((0, MLE()), (1, MixCE(0.0))):
        torch.testing.assert_close(Power(power)(scores), same(scores))
    torch.testing.assert_close(weighted_cross_entropy(hidden, head, targets, Power(0.5)), Power(0.5)(scores))
    with pytest.raises(ValueError, match="exponent is 2; it must be"):
        Power(2)


@pytest.mark.slow
def test_imports_are_light():
    """definitions imports no torch. All of mixkit.losses needs none of the notebooks' packages."""
    code = """
import sys
import mixkit.losses.definitions
assert "torch" not in sys.modules
for name in ("pydantic", "pandas", "plotly", "papermill", "ipywidgets", "jinja2", "sklearn", "datasets", "jaxtyping"):
    sys.modules[name] = None  # importing it is an error
import mixkit.losses
for name in mixkit.losses.__all__:
    getattr(mixkit.losses, name)
"""
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
