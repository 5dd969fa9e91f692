"""Every objective's name, label, and coefficients with their ranges. Free of torch, so commands start fast."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Coefficient:
    """One coefficient of an objective: its default, its range [low, high] and one line of help.

    open: low and high themselves are not allowed. choices: the allowed strings. in_loss: the loss itself depends on it;
    False for settings of the training around the loss, such as the replay buffer's size.
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


@dataclass(frozen=True)
class ObjectiveDefinition:
    """label: the objective's name in charts and tables. coefficients: the first one names a run and its chart label."""

    label: str
    coefficients: tuple[Coefficient, ...] = ()


DIVERGENCE_NAMES = ("chi2-mixture", "chi2", "js", "rkl")
NOISE_RATE = Coefficient(
    "noise_rate",
    "noise",
    0.02,
    "objectives with <backspace>: wrong tokens inserted per position, in [0, 0.5]",
    0,
    0.5,
    in_loss=False,
)
OBJECTIVES = {
    "mle": ObjectiveDefinition("MLE"),
    "mixce": ObjectiveDefinition(
        "MixCE", (Coefficient("eta", "η", 0.5, "MixCE: weight of the forward cross-entropy in [0, 1]; 1 is MLE", 0, 1),)
    ),
    "tailr": ObjectiveDefinition(
        "TaiLr",
        (
            Coefficient(
                "gamma", "γ", 1e-7, "TaiLr: weight of the one-hot target in the proxy, in [0, 1]; 0 is MLE", 0, 1
            ),
            Coefficient("w_min", "w_min", 0.2, "TaiLr: smallest weight of a token in [0, 1]; 1 is MLE", 0, 1),
        ),
    ),
    "sequencematch": ObjectiveDefinition(
        "SequenceMatch",
        (
            Coefficient(
                "alpha", "α", 0.01, "SequenceMatch: above 0; smaller brings the occupancies closer", 0, open=True
            ),
            Coefficient(
                "discount", "g", 0.998, "SequenceMatch: in (0, 1); about 1 / (1 - g) tokens matter", 0, 1, open=True
            ),
            Coefficient(
                "divergence",
                "divergence",
                "chi2-mixture",
                f"SequenceMatch: {', '.join(DIVERGENCE_NAMES)}",
                choices=DIVERGENCE_NAMES,
            ),
            NOISE_RATE,
            Coefficient(
                "mle_warmup", "mle_warmup", 0.2, "SequenceMatch: share of the steps with MLE alone", 0, 1, in_loss=False
            ),
            Coefficient(
                "mle_decay",
                "mle_decay",
                0.3,
                "SequenceMatch: share of the steps in which MLE's weight falls",
                0,
                1,
                in_loss=False,
            ),
            Coefficient(
                "mle_minimum", "mle_minimum", 0.2, "SequenceMatch: MLE's weight after that", 0, 1, in_loss=False
            ),
            Coefficient(
                "buffer_texts", "buffer_texts", 128, "SequenceMatch: texts in the replay buffer", 1, in_loss=False
            ),
            Coefficient(
                "refill_texts", "refill_texts", 32, "SequenceMatch: texts sampled per refill", 1, in_loss=False
            ),
            Coefficient("refill_every", "refill_every", 10, "SequenceMatch: steps between refills", 1, in_loss=False),
        ),
    ),
    "mle-backspace": ObjectiveDefinition("MLE with backspace", (NOISE_RATE,)),
}
COEFFICIENTS = {c.name: c for definition in OBJECTIVES.values() for c in definition.coefficients}
