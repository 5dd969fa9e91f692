"""Texts of local files: .txt, WikiText's format, .jsonl and .csv. They are read without `datasets`."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mixkit._common import InputError, did_you_mean, unknown
from mixkit.texts.words import one_line, split_with_blanks

MIN_WORDS, MAX_WORDS = 50, 1000  # of a text, as in the MixCE paper
SUFFIXES = (".txt", ".jsonl", ".csv")
FILES = "the path of a .txt, .jsonl or .csv file"
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can write one half of a surrogate pair


def read_file(path: Path) -> list[str]:
    """The texts of a file, in order. data/README.md says how each format is cut into texts."""
    corpus, suffix = f"corpus {str(path)!r}", path.suffix.lower()
    if os.path.isdir(path):  # Path.is_dir fails for a name that is too long
        raise InputError(f"{corpus} is a folder; a .txt, .jsonl or .csv file is needed")
    if not os.path.isfile(path):
        dataset = suffix not in SUFFIXES and re.fullmatch(r"\w[\w-]*/[\w.-]+", str(path))
        hub = f"; for a dataset of the Hugging Face hub write hub:{path}" if dataset else ""
        near = did_you_mean(path, map(str, path.parent.glob("*")))
        raise InputError(f"{corpus} does not exist{near}; a .txt, .jsonl or .csv file is needed{hub}")
    if suffix not in SUFFIXES:
        raise unknown(f"file type of {corpus}:", path.suffix, SUFFIXES)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{corpus} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{corpus} is not UTF-8 text (byte {error.start}); is it a binary file?") from None
    if "\0" in content:
        raise InputError(f"{corpus} has NUL bytes: it is a binary file, not text")
    if suffix == ".txt":
        return _read_txt(content.replace("\r\n", "\n").replace("\r", "\n"))
    records = _read_csv(content, corpus) if suffix == ".csv" else _read_jsonl(content, corpus)
    return [_text_of(record, place, corpus) for place, record in records]


def _read_txt(content: str) -> list[str]:
    if re.search(r"^ = .* = $", content, re.M):
        return list(wikitext(content.split("\n")))
    blocks = re.split(r"\n\s*\n", content.strip())
    return _join_paragraphs(blocks if len(blocks) > 1 else content.split("\n"))


def _join_paragraphs(paragraphs: Iterable[str]) -> list[str]:
    """Join neighbours until a text has MIN_WORDS. Longer texts are cut at MAX_WORDS; a short rest is dropped."""
    texts, words = [], []
    for paragraph in paragraphs:
        words += split_with_blanks(f" {one_line(paragraph)}")
        *full, words = [words[i : i + MAX_WORDS] for i in range(0, len(words), MAX_WORDS)] or [[]]
        texts += full
        if len(words) >= MIN_WORDS:
            texts.append(words)
            words = []
    return ["".join(words).strip() for words in texts]


def _read_jsonl(content: str, corpus: str) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{corpus}: line {number} is not JSON ({error})") from None


def _read_csv(content: str, corpus: str) -> Iterator[tuple[str, object]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(content)))
    rows, header, place = csv.reader(io.StringIO(content, newline=""), strict=True), [], "line 1"
    try:
        for row in rows:
            if not header:
                header = row
            elif any(row[len(header) :]):
                raise InputError(f"{corpus}: the row on {place} has more fields than the header; quote its text")
            elif row:
                yield place, dict(zip(header, row, strict=False))
            place = f"line {rows.line_num + 1}"
    except csv.Error as error:
        problem = f"a quotation mark in the row on {place} is not closed, or not doubled ({error})"
        raise InputError(f"{corpus}: {problem}") from None


def _text_of(record: object, place: str, corpus: str) -> str:
    """The field `text` of a record. A half of a surrogate pair becomes U+FFFD: no tokenizer reads it."""
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise InputError(f"{corpus}: the record on {place} has no field 'text' with a string (found: {found})")
    return _HALF_CHARACTER.sub("\ufffd", text).strip()


# WikiText


def wikitext(lines: Iterable[str]) -> Iterator[str]:
    """The paragraphs of WikiText's lines, prepared as in the MixCE paper (Zhang et al. 2023, section 4.2).

    Headings are dropped, tokens are joined to prose, and a text has more than 50 and fewer than 1,000 words.
    """
    for line in map(str.strip, lines):
        heading = line.startswith("= ") and line.endswith(" =")
        if not heading and MIN_WORDS < len(line.split()) < MAX_WORDS:
            yield detokenize(line)


_DETOKENIZE = [
    (re.compile(r" @([-,.])@ "), r"\1"),  # 0 @.@ 7 – 2 @,@ 000, well @-@ known
    (re.compile(r" ([.,;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$£€]) "), r"\1"),
    (re.compile(r" (n't|'(?:s|re|ve|ll|d|m)\b)"), r"\1"),
    (re.compile(r"\b(\w+s) ' (?=\w)"), r"\1' "),  # the lobsters ' claws
]


def detokenize(text: str) -> str:
    """Join WikiText's tokens to prose.

    >>> detokenize('a " <unk> " , at 0 @.@ 7 kg')
    'a "<unk>", at 0.7 kg'
    """
    parts = text.split('"')
    if len(parts) % 2:  # the quotation marks are paired: every second part is a quotation
        parts = [part.strip() if i % 2 else part for i, part in enumerate(parts)]
    text = '"'.join(parts)
    for pattern, replacement in _DETOKENIZE:
        text = pattern.sub(replacement, text)
    return one_line(text)
