"""The name, label, loss class and coefficients of every objective, without importing torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mixkit._common import InputError, unknown


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of an objective, with its default and its range [low, high].

    open: the range is (low, high). choices: the allowed strings.
    in_loss: the loss class has this coefficient. It is False for settings of the training, such as a buffer size.
    mle: the value at which the objective is MLE, if there is one.
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
    mle: float | None = None

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
    """One objective. The first coefficient is part of the names of runs and of the labels in charts."""

    label: str  # in charts and tables
    loss: str  # the module in mixkit.losses and the class in it
    coefficients: tuple[Coefficient, ...] = ()


def _setting(name: str, default: float, help: str, low: float, high: float = math.inf) -> Coefficient:
    return Coefficient(name, name, default, help, low, high, in_loss=False)


DIVERGENCE_NAMES = ("chi2-mixture", "chi2", "js", "rkl")
DIVERGENCE_HELP = f"SequenceMatch: {', '.join(DIVERGENCE_NAMES)}"
NOISE_HELP = "with <backspace>: wrong tokens inserted per position, in [0, 0.5]"
ETA = Coefficient("eta", "η", 0.5, "MixCE: weight of the forward cross-entropy in [0, 1]; 1 is MLE", 0, 1, mle=1)
GAMMA = Coefficient("gamma", "γ", 1e-7, "TaiLr: weight of the one-hot target in [0, 1]; 0 is MLE", 0, 1, mle=0)
W_MIN = Coefficient("w_min", "w_min", 0.2, "TaiLr: smallest weight of a token in [0, 1]; 1 is MLE", 0, 1)
NOISE_RATE = Coefficient("noise_rate", "noise", 0.02, NOISE_HELP, 0, 0.5, in_loss=False)
SEQUENCE_MATCH = (
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
    "mixce": ObjectiveDefinition("MixCE", "token_weighted.MixCE", (ETA,)),
    "tailr": ObjectiveDefinition("TaiLr", "token_weighted.TaiLr", (GAMMA, W_MIN)),
    "sequencematch": ObjectiveDefinition("SequenceMatch", "sequence_match.SequenceMatch", SEQUENCE_MATCH),
    "mle-backspace": ObjectiveDefinition("MLE with backspace", "token_weighted.MLE", (NOISE_RATE,)),
}
EXPONENT = Coefficient("exponent", "a", 0.5, "w(q) = q^a; 0 is MLE, 1 is DFT", 0, 100, mle=0)
FOCUSING = Coefficient("focusing", "g", 2.0, "loss -(1 - q)^g log q; 0 is MLE", 0, 100, mle=0)
TAU = Coefficient("tau", "τ", 0.1, "tokens of probability above (or below) τ are learned", 0, 1)
SIDE = Coefficient("side", "side", "above", "above or below", choices=("above", "below"))
BETA = Coefficient("beta", "β", 0.7, "β times the cross-entropy of z / β; 1 is MLE", 0.01, 100, mle=1)
MAX_NORM = Coefficient("max_norm", "τ", 1.2, "tokens of a larger error norm are dropped; √2 is MLE", 0, 2**0.5)
RIVALS = {  # their coefficients are no settings of a run: a run's objective is a call such as "power(0.3)"
    "dft": ObjectiveDefinition("DFT", "rivals.DFT"),
    "power": ObjectiveDefinition("power", "rivals.Power", (EXPONENT,)),
    "focal": ObjectiveDefinition("focal", "rivals.Focal", (FOCUSING,)),
    "threshold": ObjectiveDefinition("threshold", "rivals.Threshold", (TAU, SIDE)),
    "gem": ObjectiveDefinition("GEM", "rivals.GEM", (BETA,)),
    "error-norm": ObjectiveDefinition("error-norm truncation", "rivals.ErrorNormTruncation", (MAX_NORM,)),
}
COEFFICIENTS = {c.name: c for definition in OBJECTIVES.values() for c in definition.coefficients}


def check_coefficients(loss: object) -> None:
    """Raise InputError unless every coefficient of a loss is allowed. Its class, or a base of it, is defined here."""
    names = {f"{base.__module__}.{base.__name__}" for base in type(loss).__mro__}
    for definition in (OBJECTIVES | RIVALS).values():
        if f"mixkit.losses.{definition.loss}" in names:
            for coefficient in definition.coefficients:
                if coefficient.in_loss:
                    coefficient.check(getattr(loss, coefficient.name))


def parse_objective(text: str) -> tuple[ObjectiveDefinition, dict[str, Any]]:
    """The definition of an objective that is given as text, and the coefficients that the text has.

    text: a name ("mixce"), a call ("power(0.3)", "tailr(0.01, 0.2)"), a formula in q ("0.1 + 0.9 * q"), or
    "own: Focal(2.0)", the label of a class that is defined in a notebook. The formula itself is not checked here.
    Raises InputError for an unknown name, and for coefficients of a call that are wrong.

    >>> parse_objective("power(0.3)")[1]
    {'exponent': 0.3}
    """
    known = OBJECTIVES | RIVALS
    if text in known:
        return known[text], {}
    if text.startswith("own: "):
        return ObjectiveDefinition(text.removeprefix("own: "), ""), {}
    call = re.fullmatch(r"([a-z][a-z0-9_-]+)(?:\((.*)\))?", text)
    if call is None or call[1] in ("exp", "log", "sqrt", "min", "max"):
        return ObjectiveDefinition(f"w(q) = {text}", "expressions.Expression"), {"text": text}
    if call[1] not in known:
        raise unknown("objective", call[1], [*known, "a formula in q, such as '0.1 + 0.9 * q'"])
    name, given = call[1], [part.strip() for part in (call[2] or "").split(",")]
    in_loss = [c for c in known[name].coefficients if c.in_loss]
    if len(given) > len(in_loss):
        raise InputError(f"objective {text!r} has {len(given)} coefficients; {name} takes at most {len(in_loss)}")
    values: dict[str, Any] = {}
    for c, part in zip(in_loss, given, strict=False):
        try:
            values[c.name] = part if c.choices else float(part)
        except ValueError:
            raise InputError(f"objective {text!r}: {part!r} is no number, such as {name}({c.default})") from None
        c.check(values[c.name])
    return known[name], values


def describe(objective: str, coefficients: Mapping[str, Any]) -> str:
    """For example "MixCE η=0.1", "TaiLr γ=0.1, w_min=0.2", "SequenceMatch α=0.01, js", "w(q) = 0.1 + 0.9 * q".

    The first coefficient always appears. Others of the loss appear where they are not the default (w_min: not 0).
    """
    definition, _ = parse_objective(objective)
    parts = [definition.label]
    for i, c in enumerate(definition.coefficients):
        value = coefficients[c.name]
        if i == 0:
            parts[0] += f" {c.symbol}={short(value)}"
        elif c.in_loss and value != (0.0 if c.name == "w_min" else c.default):
            parts.append(value if c.choices else f"{c.symbol}={short(value)}")
    return ", ".join(parts)


def name_parts(objective: str, coefficients: Mapping[str, Any]) -> list[str]:
    """The objective in a folder's name: the first coefficient, and the others where they are not the default."""
    definition, given = parse_objective(objective)
    parts = [re.sub(r"[^\w.]+", "-", objective).strip("-")]
    for i, c in enumerate(definition.coefficients):
        if c.name not in given and (i == 0 or coefficients[c.name] != c.default):
            parts.append(c.name.replace("_", "") + short(coefficients[c.name]))
    return parts


def short(value: object) -> str:
    """equals: f"{value:g}" for a float, else str(value)"""
    return f"{value:g}" if isinstance(value, float) else str(value)
