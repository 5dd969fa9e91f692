"""An objective by its name and coefficients."""

from dataclasses import fields

from mixkit._common import InputError, unknown
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import MLE, MixCE, TaiLr, TokenWeighted

_CLASSES = {"mle": MLE, "mixce": MixCE, "tailr": TaiLr, "sequencematch": SequenceMatch}


def objective(name: str, **coefficients: float | str) -> TokenWeighted | SequenceMatch:
    """The objective of that name: objective("mixce", eta=0.1) equals MixCE(eta=0.1).

    Raises InputError (a ValueError) for an unknown name, an unknown or missing coefficient, a value out of range.
    """
    if name not in _CLASSES:
        raise unknown("objective", name, _CLASSES)
    allowed = [field.name for field in fields(_CLASSES[name])]
    for given in coefficients:
        if given not in allowed:
            raise unknown(f"coefficient of {name}", given, allowed or ["none"])
    try:
        return _CLASSES[name](**coefficients)
    except TypeError as error:
        raise InputError(f"{name} needs {', '.join(allowed)}; given: {coefficients or 'nothing'}") from error
