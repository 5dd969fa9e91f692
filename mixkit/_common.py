"""What every room uses: errors of user input, folders, atomic writing, and text made safe to show."""

import html
import os
import platform
import re
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real
from pathlib import Path

CLONE = Path(__file__).parents[1]
RUNS = Path(os.environ.get("MIXKIT_RUNS", CLONE / "runs")).absolute()
CACHE = RUNS / ".cache"  # may be deleted at any time

_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # invisible, and they reorder the text around them
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD),
    **{code: f"⟨U+{code:04X}⟩" for code in _BIDIRECTIONAL},
}


class InputError(ValueError):
    """Errors caused by user input. The message is one line: the bad value, the allowed values and the closest match.

    The command line prints it and exits with code 2.
    """


def unknown(kind: str, value: object, allowed: Iterable[str]) -> InputError:
    """The error for a name that is not in `allowed`. It suggests the closest allowed name.

    >>> str(unknown("objective", "mixec", ["mle", "mixce"]))
    "unknown objective 'mixec' (did you mean 'mixce'?); allowed: mle, mixce"
    """
    allowed = list(allowed)
    return InputError(f"unknown {kind} {value!r}{did_you_mean(value, allowed)}; allowed: {', '.join(allowed)}")


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """ " (did you mean 'mixce'?)" with the closest allowed name, or "" if none is close."""
    near = get_close_matches(str(value), list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_unit_interval(name: str, value: object) -> None:
    """Raise InputError unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; it must be a number in [0, 1]")


def write_atomically(path: Path, content: str) -> None:
    """Write a text file so that it has either its old content or all of the new, even after a crash."""
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def visible(value: object) -> str:
    r"""str(value) with control characters shown as symbols: "\x1b[31m" becomes "␛[31m".

    Control characters become their Unicode pictures (U+2400 and up). Controls without a picture and lone surrogates
    become U+FFFD. Characters that change the text direction are written out. Tab and newline stay.
    """
    return str(value).translate(_PICTURES)


def plain(text: str) -> str:
    """The text without ANSI colours and control characters, except newline and tab."""
    return _CONTROL.sub("", text)


def as_html(value: object) -> str:
    """equals: html.escape(visible(value)), safe in an element and in a quoted attribute."""
    return html.escape(visible(value))
