"""Make an objective from its name and coefficients, or from a formula."""

from pkgutil import resolve_name

from mixkit._common import InputError, unknown
from mixkit.losses.definitions import parse_objective
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import TokenWeighted


def objective(text: str, **coefficients: float | str) -> TokenWeighted | SequenceMatch:
    """The objective with this name, or with this weight function of q. See `definitions.parse_objective`.

    Raises InputError for an unknown name, an unknown or missing coefficient, a value out of range, and a wrong formula.

    >>> objective("mixce", eta=0.1)
    MixCE(eta=0.1)
    >>> objective("power(0.3)")
    Power(exponent=0.3)
    >>> objective("0.1 + 0.9 * q")
    Expression(text='0.1 + 0.9 * q')
    """
    definition, values = parse_objective(text)
    if not definition.loss:
        raise InputError(f"objective {text!r} is defined in a notebook cell; run it there")
    allowed = [c.name for c in definition.coefficients if c.in_loss]
    for coefficient in coefficients:
        if coefficient not in allowed:
            raise unknown(f"coefficient of {text}", coefficient, allowed or ["none"])
    try:
        return resolve_name(f"mixkit.losses.{definition.loss}")(**values | coefficients)
    except TypeError as error:  # a coefficient without a default is missing
        raise InputError(f"{text} needs {', '.join(allowed)}; given: {coefficients or 'nothing'}") from error
