"""The name, label, loss class and coefficients of every objective, without importing torch."""

import math
from dataclasses import dataclass
from numbers import Real

from mixkit._common import InputError, unknown


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of an objective, with its default and its range [low, high].

    open: the range is (low, high). choices: the allowed strings.
    in_loss: the loss class has this coefficient. It is False for settings of the training, such as a buffer size.
    """

    name: str
    symbol: str
    default: float | int | str
    help: str
    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    choices: tuple[str, ...] = ()
    in_loss: bool = True

    def check(self, value: object) -> None:
        """Raise InputError unless `value` is one of the choices or, without choices, a number in the range."""
        if self.choices:
            if value not in self.choices:
                raise unknown(self.name, value, self.choices)
            return
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
        inside = self.low < number < self.high if self.open else self.low <= number <= self.high
        if not inside:
            allowed = f"({self.low:g}, {self.high:g})" if self.open else f"[{self.low:g}, {self.high:g}]"
            raise InputError(f"{self.name} is {value!r}; it must be a number in {allowed}")


@dataclass(frozen=True)
class ObjectiveDefinition:
    """One objective.

    label: the name in charts and tables. loss: the module in mixkit.losses and the class in it.
    coefficients: the first one is part of the names of runs and of the labels in charts.
    """

    label: str
    loss: str
    coefficients: tuple[Coefficient, ...] = ()

    def check(self, loss: object) -> None:
        """Raise InputError unless every coefficient of `loss`, an instance of the loss class, is allowed."""
        for coefficient in self.coefficients:
            if coefficient.in_loss:
                coefficient.check(getattr(loss, coefficient.name))


def _setting(name: str, default: float, help: str, low: float, high: float = math.inf) -> Coefficient:
    return Coefficient(name, name, default, help, low, high, in_loss=False)


DIVERGENCE_NAMES = ("chi2-mixture", "chi2", "js", "rkl")
DIVERGENCE_HELP = f"SequenceMatch: {', '.join(DIVERGENCE_NAMES)}"
NOISE_HELP = "with <backspace>: wrong tokens inserted per position, in [0, 0.5]"
NOISE_RATE = Coefficient("noise_rate", "noise", 0.02, NOISE_HELP, 0, 0.5, in_loss=False)
SEQUENCE_MATCH_COEFFICIENTS = (
    Coefficient("alpha", "α", 0.01, "SequenceMatch: above 0; smaller brings the occupancies closer", 0, open=True),
    Coefficient("discount", "g", 0.998, "SequenceMatch: in (0, 1); about 1 / (1 - g) tokens matter", 0, 1, open=True),
    Coefficient("divergence", "divergence", "chi2-mixture", DIVERGENCE_HELP, choices=DIVERGENCE_NAMES),
    NOISE_RATE,
    _setting("mle_warmup", 0.2, "SequenceMatch: share of the steps with MLE alone", 0, 1),
    _setting("mle_decay", 0.3, "SequenceMatch: share of the steps in which MLE's weight falls", 0, 1),
    _setting("mle_minimum", 0.2, "SequenceMatch: MLE's weight after that", 0, 1),
    _setting("buffer_texts", 128, "SequenceMatch: texts in the replay buffer", 1),
    _setting("refill_texts", 32, "SequenceMatch: texts sampled per refill", 1),
    _setting("refill_every", 10, "SequenceMatch: steps between refills", 1),
)
OBJECTIVES = {
    "mle": ObjectiveDefinition("MLE", "token_weighted.MLE"),
    "mixce": ObjectiveDefinition(
        "MixCE",
        "token_weighted.MixCE",
        (Coefficient("eta", "η", 0.5, "MixCE: weight of the forward cross-entropy in [0, 1]; 1 is MLE", 0, 1),),
    ),
    "tailr": ObjectiveDefinition(
        "TaiLr",
        "token_weighted.TaiLr",
        (
            Coefficient("gamma", "γ", 1e-7, "TaiLr: weight of the one-hot target in [0, 1]; 0 is MLE", 0, 1),
            Coefficient("w_min", "w_min", 0.2, "TaiLr: smallest weight of a token in [0, 1]; 1 is MLE", 0, 1),
        ),
    ),
    "sequencematch": ObjectiveDefinition("SequenceMatch", "sequence_match.SequenceMatch", SEQUENCE_MATCH_COEFFICIENTS),
    "mle-backspace": ObjectiveDefinition("MLE with backspace", "token_weighted.MLE", (NOISE_RATE,)),
}
COEFFICIENTS = {c.name: c for definition in OBJECTIVES.values() for c in definition.coefficients}
