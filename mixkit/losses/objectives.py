"""Make an objective from its name and coefficients, or from a formula."""

import re
from pkgutil import resolve_name

from mixkit._common import InputError, unknown
from mixkit.losses.definitions import OBJECTIVES
from mixkit.losses.expressions import Expression
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import TokenWeighted


def objective(name: str, **coefficients: float | str) -> TokenWeighted | SequenceMatch:
    """The objective with this name in `definitions.OBJECTIVES`, or with this weight function of q.

    Raises InputError for an unknown name, an unknown or missing coefficient, a value out of range, and a formula that
    is wrong.

    >>> objective("mixce", eta=0.1)
    MixCE(eta=0.1)
    >>> objective("0.1 + 0.9 * q")
    Expression(text='0.1 + 0.9 * q')
    """
    if name not in OBJECTIVES:
        if re.fullmatch(r"[a-z][a-z-]+", name):
            raise unknown("objective", name, [*OBJECTIVES, "a formula in q, such as '0.1 + 0.9 * q'"])
        return Expression(name)
    definition = OBJECTIVES[name]
    allowed = [c.name for c in definition.coefficients if c.in_loss]
    for coefficient in coefficients:
        if coefficient not in allowed:
            raise unknown(f"coefficient of {name}", coefficient, allowed or ["none"])
    loss_class = resolve_name(f"mixkit.losses.{definition.loss}")
    try:
        return loss_class(**coefficients)
    except TypeError as error:  # a coefficient without a default is missing
        raise InputError(f"{name} needs {', '.join(allowed)}; given: {coefficients or 'nothing'}") from error
