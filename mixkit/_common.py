"""What every room uses: errors of user input, folders, atomic writing, safe text, lazy imports, array shapes."""

import ast
import inspect
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING or os.environ.get("MIXKIT_CHECK_SHAPES"):  # tests set it; then calls are checked against the shapes
    from jaxtyping import Bool, Float, Int
else:
    Bool = Float = Int = Annotated

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # no telemetry unless the user asks for it
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
CLONE = Path(__file__).parents[1]
RUNS = CLONE / Path(os.environ.get("MIXKIT_RUNS") or "runs").expanduser()
SHIPPED = CLONE / "data" / "results"  # results of studies that come with the kit; nothing is written there
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

    The command line prints it and exits with code 2. A notebook shows it without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """IPython shows these lines in place of the traceback."""
        return [f"InputError: {visible(self)}"]


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


def write_atomically(path: Path, content: str) -> None:
    """Write a text file, and its folder. It has either its old content or all of the new, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:  # also on a full disk
        temporary.unlink(missing_ok=True)


def visible(value: object) -> str:
    r"""str(value) with control characters shown as symbols: "\x1b[31m" becomes "␛[31m".

    Control characters become their Unicode pictures (U+2400 and up). Controls without a picture and lone surrogates
    become U+FFFD. Characters that change the text direction are written out. Tab and newline stay.
    """
    return str(value).translate(_PICTURES)


def plain(text: str) -> str:
    """The text without ANSI colours and control characters, except newline and tab."""
    return _CONTROL.sub("", text)


def summary(value: object, length: int = 300) -> str:
    """str(value) in one line, plain, cut to `length` characters."""
    return plain(" ".join(str(value).split()))[:length]


def lazy_imports(package: str) -> tuple[Callable[[str], Any], list[str]]:
    """(__getattr__, __all__) of a package whose `__init__` lists its public names as `from module import X as X`.

    Each name is imported at its first use, because torch and plotly take seconds to import.
    """
    tree = ast.parse(inspect.getsource(sys.modules[package]))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {alias.asname: str(node.module) for node in imports for alias in node.names if alias.asname}

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__, sorted(modules)
