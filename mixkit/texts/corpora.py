"""Text in: a corpus by name, as train, validation and test lists of texts.
Built-in corpora, local files and the Hugging Face hub; nothing here knows of tokens or models."""

import csv
import hashlib
import itertools
import json
import math
import os
import platform
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mixkit._common import CACHE, InputError, unknown

MIN_WORDS, MAX_WORDS = 50, 1000  # a text of prose, as in the MixCE paper
MIN_TEXTS = 20  # fewer cannot be split into three
SPLIT_SEED = 0
SIZES = {"train": 50_000, "validation": 5_000, "test": 5_000}  # at most, as in the MixCE paper
TALES_SIZES = {"train": 10_000, "validation": 500, "test": 2_000}


@dataclass(frozen=True)
class Corpus:
    """Three disjoint lists of texts, the name they were asked by, and their origin in one line."""

    name: str
    origin: str
    train: list[str]
    validation: list[str]
    test: list[str]


def load_corpus(
    name: str, *, train: int | None = None, validation: int | None = None, test: int | None = None
) -> Corpus:
    """The corpus of that name, each split cut to at most so many texts; the same texts in the same order every time.

    name: `tales` (stories of the built-in grammar, whose probabilities are known), `tales-noisy` or `tales-noisy:RATE`
    (the same, 5 % or that share of the training and validation stories damaged, the test stories clean), `pydoc` (the
    language reference inside Python), `wikitext`, `openwebtext`, `writingprompts`, `hub:NAME` or `hub:NAME:CONFIG`
    (Hugging Face; also a local folder in the hub's layout), or the path of a .txt, .jsonl or .csv file.
    A .txt file is cut into paragraphs (at empty lines, or at line ends where there are none), joined until a text has
    50 words; one in WikiText's own format is prepared as the MixCE paper does. .jsonl and .csv hold one text a record
    in the field `text`. What comes without splits is shuffled once and cut 80/10/10, with up to 150 test texts (at most
    30 %) where a tenth is less, so that metrics have enough to read.
    train, validation, test: None means all there are, up to 50,000 / 5,000 / 5,000 (tales: 10,000 / 500 / 2,000).
    Raises InputError (a ValueError) for an unknown name, an unreadable, binary or too short file, a failed download.
    """
    limits = {"train": train, "validation": validation, "test": test}
    for split, count in limits.items():
        if count is not None and count < 1:
            raise InputError(f"{split} is {count}; at least 1 text is needed")
    defaults = TALES_SIZES if name.partition(":")[0] in ("tales", "tales-noisy") else SIZES
    limits = {split: defaults[split] if count is None else count for split, count in limits.items()}
    if name == "tales":
        splits, origin = _tales(limits), "stories sampled from mixkit's own grammar"
    elif name.partition(":")[0] == "tales-noisy":
        rate = _noise(name)
        splits, origin = _tales(limits, rate), f"mixkit's own stories, {rate:.3g} of those to learn from damaged"
    elif name == "pydoc":
        splits, origin = _split(_pydoc(), limits), f"the language reference of Python {platform.python_version()} (PSF)"
    elif name in HUB or name.startswith("hub:"):
        splits, origin = _hub_cached(name, limits)
    elif Path(name).suffix in READERS or os.sep in name or Path(name).exists():
        splits, origin = _split(_local(Path(name)), limits), f"the file {Path(name).name}"
    else:
        raise unknown("corpus", name, [*BUILT_IN, *HUB, "hub:NAME", "the path of a .txt, .jsonl or .csv file"])
    return Corpus(name, origin, **splits)


BUILT_IN = ("tales", "tales-noisy", "pydoc")
NOISE = 0.05


def _tales(limits: dict[str, int], noise: float = 0.0) -> dict[str, list[str]]:
    from mixkit.texts.story_grammar import Grammar

    grammar = Grammar()
    splits = {split: grammar.sample(count, seed) for seed, (split, count) in enumerate(limits.items())}
    for seed, split in enumerate(("train", "validation") if noise else ()):
        splits[split], _ = grammar.corrupt(splits[split], noise, seed)
    return splits


def _noise(name: str) -> float:
    rate = name.partition(":")[2]
    try:
        value = float(rate) if ":" in name else NOISE
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"corpus {name!r}: {rate!r} is no share of damaged texts; write tales-noisy:RATE, 0 to 1")
    return value


def _pydoc() -> list[str]:
    from pydoc_data.topics import topics

    seen, texts = set(), []
    for topic in sorted(topics):
        blocks = re.split(r"\n\s*\n", topics[topic])
        prose = [
            b
            for b in blocks
            if not b.startswith(" ") and "::=" not in b and not re.search(r"^[*=\-~^\"]{4,}$", b, re.M)
        ]
        fresh = [b for b in map(_one_line, prose) if b not in seen]
        seen.update(fresh)
        texts += _joined(fresh)
    return texts


def _split(texts: list[str], limits: dict[str, int]) -> dict[str, list[str]]:
    """The texts in one fixed random order, cut into three disjoint parts."""
    order, n = random.Random(SPLIT_SEED).sample(texts, len(texts)), len(texts)
    validation, test = limits["validation"], limits["test"]
    if sum(limits.values()) > n:
        validation = min(validation, max(1, n // 10))
        test = min(test, max(n // 10, min(150, 3 * n // 10)))
    held_out = validation + test
    return {
        "train": order[held_out:][: limits["train"]],
        "validation": order[:validation],
        "test": order[validation:held_out],
    }


# Local files


def _local(path: Path) -> list[str]:
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, names, n=1)
        hint = f" (did you mean {str(path.parent / near[0])!r}?)" if near else ""
        what = "is a folder" if path.is_dir() else f"does not exist{hint}"
        raise InputError(f"corpus {str(path)!r} {what}; a .txt, .jsonl or .csv file is needed")
    if path.suffix not in READERS:
        raise unknown(f"file type of corpus {str(path)!r}:", path.suffix, READERS)
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"corpus {str(path)!r} is not UTF-8 text (byte {error.start}); is it a binary file?") from None
    if "\0" in content:
        raise InputError(f"corpus {str(path)!r} holds NUL bytes: it is a binary file, not text")
    texts = READERS[path.suffix](content, path)
    if len(texts) < MIN_TEXTS:
        unit = f"paragraphs joined to {MIN_WORDS} words" if path.suffix == ".txt" else "records with a text"
        raise InputError(
            f"corpus {str(path)!r} is too short: {len(texts)} texts ({unit}); at least {MIN_TEXTS} are needed"
        )
    return texts


def _read_txt(content: str, path: Path) -> list[str]:
    if re.search(r"^ = .* = $", content, re.M):
        return list(wikitext(content.splitlines()))
    blocks = re.split(r"\n\s*\n", content)
    return _joined(map(_one_line, blocks if len(blocks) > 1 else content.splitlines()))


def _read_jsonl(content: str, path: Path) -> list[str]:
    texts = []
    for number, line in enumerate(filter(None, map(str.strip, content.splitlines())), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"corpus {str(path)!r}: record {number} is not JSON ({error})") from None
        texts.append(_field(record, path, number))
    return [text for text in texts if text]


def _read_csv(content: str, path: Path) -> list[str]:
    rows = csv.DictReader(content.splitlines(keepends=True))
    return [text for text in (_field(row, path, number) for number, row in enumerate(rows, 1)) if text]


def _field(record: object, path: Path, number: int) -> str:
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise InputError(f"corpus {str(path)!r}: record {number} has no field 'text' with a string (found: {found})")
    return record["text"].strip()


READERS = {".txt": _read_txt, ".jsonl": _read_jsonl, ".csv": _read_csv}


def _one_line(block: str) -> str:
    return " ".join(block.split())


def _joined(paragraphs: Iterable[str]) -> list[str]:
    """Neighbours joined until they have MIN_WORDS; what is longer is cut at MAX_WORDS; a short rest is dropped."""
    texts, words = [], []
    for paragraph in paragraphs:
        words += paragraph.split()
        while len(words) > MAX_WORDS:
            texts.append(" ".join(words[:MAX_WORDS]))
            words = words[MAX_WORDS:]
        if len(words) >= MIN_WORDS:
            texts.append(" ".join(words))
            words = []
    return texts


# WikiText


def wikitext(lines: Iterable[str]) -> Iterator[str]:
    """WikiText's lines (one paragraph each) as texts: headings dropped, detokenized, of more than 50 and fewer than
    1,000 words, as the MixCE paper prepares it (Zhang et al. 2023, section 4.2)."""
    for line in map(str.strip, lines):
        if not (line.startswith("= ") and line.endswith(" =")) and MIN_WORDS < len(line.split()) < MAX_WORDS:
            yield detokenize(line)


_DETOKENIZE = [
    (re.compile(r" @([-,.])@ "), r"\1"),  # 0 @.@ 7 – 2 @,@ 000, well @-@ known
    (re.compile(r" ([.,;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$£€]) "), r"\1"),
    (re.compile(r" (n't|'(?:s|re|ve|ll|d|m)\b)"), r"\1"),
    (re.compile(r"\b(\w+s) ' (?=\w)"), r"\1' "),  # the lobsters ' claws
]


def detokenize(text: str) -> str:
    """Word-level tokens joined as prose is written: `a " <unk> " , at 0 @.@ 7 kg` gives `a "<unk>", at 0.7 kg`."""
    parts = text.split('"')
    if len(parts) % 2:  # quotation marks in pairs: the odd parts stand inside
        parts = [part.strip() if i % 2 else part for i, part in enumerate(parts)]
    text = '"'.join(parts)
    for pattern, replacement in _DETOKENIZE:
        text = pattern.sub(replacement, text)
    return _one_line(text)


# The Hugging Face hub

HUB = {  # name: dataset, configuration
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
    "writingprompts": ("euclaise/writingprompts", None),
}
TEXT_COLUMNS = ("text", "story", "content", "document", "article")
SPLIT_NAMES = {"validation": ("validation", "valid", "dev"), "test": ("test",)}


def _hub_cached(name: str, limits: dict[str, int]) -> tuple[dict[str, list[str]], str]:
    """Streams only the texts that are asked for, once: the prepared texts are kept beside the runs."""
    dataset, config = HUB[name] if name in HUB else (*name.removeprefix("hub:").split(":", 1), None)[:2]
    if not dataset:
        raise InputError(f"corpus {name!r} names no dataset; write hub:OWNER/NAME or hub:OWNER/NAME:CONFIG")
    origin = f"{dataset}{f' ({config})' if config else ''}, Hugging Face hub"
    key = hashlib.sha256(json.dumps([dataset, config, limits]).encode()).hexdigest()[:16]
    kept = CACHE / "corpora" / f"{key}.json"
    local = Path(dataset).is_dir()
    if kept.is_file() and not local:
        return json.loads(kept.read_text(encoding="utf-8")), origin
    splits = _hub(name, dataset, config, limits)
    if not local:
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(splits), encoding="utf-8")
        beside.replace(kept)
    return splits, origin


def _hub(name: str, dataset: str, config: str | None, limits: dict[str, int]) -> dict[str, list[str]]:
    from datasets import load_dataset

    try:
        source = load_dataset(dataset, config, streaming=True)
    except Exception as error:  # datasets raises many kinds; each means: this name cannot be had
        reason = _one_line(str(error))[:200]
        raise InputError(
            f"corpus {name!r}: cannot load {dataset!r} ({type(error).__name__}: {reason}); "
            f"without a network these work: {', '.join(BUILT_IN)}, or the path of a .txt, .jsonl or .csv file"
        ) from error
    found = {"train": next((s for s in ("train", *source) if s in source), None)}
    for split, names in SPLIT_NAMES.items():
        found[split] = next((s for s in names if s in source and s != found["train"]), None)
    missing = [split for split in SPLIT_NAMES if found[split] is None]
    wanted = limits["train"] + sum(limits[split] for split in missing)
    texts = {
        split: list(itertools.islice(_hub_texts(name, source[at]), wanted if split == "train" else limits[split]))
        for split, at in found.items()
        if at is not None
    }
    if len(texts["train"]) < MIN_TEXTS:
        raise InputError(f"corpus {name!r} is too short: {len(texts['train'])} texts; at least {MIN_TEXTS} are needed")
    if missing:
        cut = _split(texts["train"], limits)
        texts |= {split: cut[split] for split in ("train", *missing)}
    return texts


def _hub_texts(name: str, rows: Iterable[dict]) -> Iterator[str]:
    rows = iter(rows)
    first = next(rows, {})
    column = next((c for c in TEXT_COLUMNS if isinstance(first.get(c), str)), None)
    if column is None:
        raise InputError(
            f"corpus {name!r} has no text column; found: {', '.join(first)}; known: {', '.join(TEXT_COLUMNS)}"
        )
    texts = (row[column] for row in itertools.chain([first], rows))
    if name == "wikitext":
        return wikitext(texts)
    return (text for text in map(str.strip, texts) if MIN_WORDS <= len(text.split()) <= MAX_WORDS)
