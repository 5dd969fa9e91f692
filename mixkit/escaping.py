"""Text that nobody vouches for (a model's, a file's, an error's), made safe to look at. Everything that the kit shows
goes through here; nothing is decided here about where it is shown."""

import html
import re

_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # turn the text around them, and show nothing
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PICTURES = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD),
    **{code: f"⟨U+{code:04X}⟩" for code in _BIDIRECTIONAL},
}


def visible(value: object) -> str:
    r"""str(value) with what acts on a terminal or turns the text's direction shown instead: "\x1b[31m" as "␛[31m".

    Control characters become their Unicode pictures (U+2400 and on); those without one, and lone surrogates, U+FFFD.
    Tab and newline stay.
    """
    return str(value).translate(_PICTURES)


def plain(text: str) -> str:
    """Without colours and control characters but newline and tab: what a log keeps of an output that was made for a
    terminal."""
    return _CONTROL.sub("", text)


def as_html(value: object) -> str:
    """html.escape(visible(value)): shown as the text it is, in an element and in a quoted attribute alike."""
    return html.escape(visible(value))
