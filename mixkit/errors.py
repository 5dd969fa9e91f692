"""What a user is told who asked for something that cannot be: the value, what is allowed, the near miss; one line."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real


class InputError(ValueError):
    """A request that mixkit refuses: the command line prints its one line and exits with code 2."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not one of `allowed`, with the closest allowed name where one is near.

    >>> str(unknown("objective", "mixec", ["mle", "mixce"]))
    "unknown objective 'mixec' (did you mean 'mixce'?); allowed: mle, mixce"
    """
    allowed = list(allowed)
    near = get_close_matches(str(value), allowed, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return InputError(f"unknown {kind} {value!r}{hint}; allowed: {', '.join(allowed)}")


def check_unit_interval(name: str, value: object) -> None:
    """Raises InputError unless value is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; it must be a number in [0, 1]")
