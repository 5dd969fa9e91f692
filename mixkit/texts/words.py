"""The words of a text: the unit of all lengths and n-grams."""

import re
from collections.abc import Sequence

_SCRIPTS = (  # without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai; kana, Chinese, Yi
    r"\u0e00-\u109f\u1780-\u17ff\u1950-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
    r"\u2e80-\u2fff\u3001-\u312f\u3190-\u31ff\u3400-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f"
    r"\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(f"[{_SCRIPTS}]")
_WORD = re.compile(rf"[{_SCRIPTS}]|[^\s{_SCRIPTS}]+")
_WORD_AFTER_BLANKS = re.compile(rf"\s*(?:{_WORD.pattern})")
_WRAPPED_LINE = re.compile(rf"(?<=[{_SCRIPTS}])[^\S\n]*\n\s*(?=[{_SCRIPTS}])")


def split_words(text: str) -> list[str]:
    """equals: text.split(), but each character of a script without blanks between words is a word of its own.

    Such scripts are Chinese, Japanese, Thai, Lao, Tibetan, Burmese and Khmer. Korean has blanks.

    >>> split_words("two foxes, 两只狐狸。")
    ['two', 'foxes,', '两', '只', '狐', '狸', '。']
    """
    return text.split() if text.isascii() else _WORD.findall(text)


def split_with_blanks(text: str) -> list[str]:
    """The words of `text`, each with the blanks before it: joined, they are the text without its last blanks."""
    return _WORD_AFTER_BLANKS.findall(text)


def text_unit(texts: Sequence[str]) -> str:
    """ "characters" if more than half of the words of all texts are single characters of such scripts, else "words"."""
    characters = sum(len(_CHARACTER.findall(text)) for text in texts)
    return "characters" if 2 * characters > sum(len(split_words(text)) for text in texts) else "words"


def one_line(text: str) -> str:
    """equals: " ".join(text.split()), but lines between characters of such scripts are joined without a blank"""
    return " ".join(_WRAPPED_LINE.sub("", text).split())
