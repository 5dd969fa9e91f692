"""Corpora: train, validation and test texts by name, from built-in sources, local files and the Hugging Face hub."""

import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mixkit._common import CACHE, CLONE, InputError, did_you_mean, unknown, write_atomically

MIN_WORDS, MAX_WORDS = 50, 1000  # of a text, as in the MixCE paper
MIN_TEXTS = 20  # fewer cannot be split into three
SPLIT_SEED = 0
SIZES = {"train": 50_000, "validation": 5_000, "test": 5_000}  # default limits, as in the MixCE paper
TALES_SIZES = {"train": 10_000, "validation": 500, "test": 2_000}
NOISE = 0.05  # default share of damaged stories in tales-noisy
BUILT_IN = ("tales", "tales-noisy", "middlemarch")
NOVEL = CLONE / "data/corpora/middlemarch.txt.gz"
NOVEL_WORDS = 150  # a text of the novel ends at the first sentence end after them, if no paragraph ends before
HUB = {  # name: (dataset, configuration)
    "wikitext": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "openwebtext": ("Skylion007/openwebtext", None),
    "writingprompts": ("euclaise/writingprompts", None),
}
SUFFIXES = (".txt", ".jsonl", ".csv")
FILES = "the path of a .txt, .jsonl or .csv file"
TEXT_COLUMNS = ("text", "story", "content", "document", "article")
SPLIT_NAMES = {"validation": ("validation", "valid", "dev"), "test": ("test",)}

Splits = dict[str, list[str]]  # train, validation and test -> texts


@dataclass(frozen=True)
class Corpus:
    """Three lists of texts that share no text, and their origin in one line.

    from_grammar: the texts are stories of the grammar `tales_grammar()`, damaged stories included.
    clean_validation: no validation text is damaged. Test texts never are.
    """

    name: str
    origin: str
    train: list[str]
    validation: list[str]
    test: list[str]
    from_grammar: bool
    clean_validation: bool


def load_corpus(
    name: str, *, train: int | None = None, validation: int | None = None, test: int | None = None
) -> Corpus:
    """Load a corpus: the same texts in the same order every time. data/README.md describes each corpus.

    name: `tales`, `tales-noisy`, `tales-noisy:RATE` (that share of the training and validation stories is damaged),
      `middlemarch`, `wikitext`, `openwebtext`, `writingprompts`, `hub:NAME`, `hub:NAME:CONFIG` (a dataset of the
      Hugging Face hub or a local folder in its layout), or the path of a .txt, .jsonl or .csv file
    train, validation, test: the largest number of texts; by default 50,000 / 5,000 / 5,000 (tales: 10,000 / 500 /
      2,000). A corpus without splits is shuffled once and cut 80/10/10. Where a tenth is less than 150 texts, the test
      texts are 150, but at most 30 %.
    Raises InputError for an unknown name, an unreadable, binary or too short file, and a failed download.
    """
    noisy = name.partition(":")[0] == "tales-noisy"
    from_grammar = noisy or name == "tales"
    limits = dict(TALES_SIZES if from_grammar else SIZES)
    for split, limit in {"train": train, "validation": validation, "test": test}.items():
        if limit is not None and limit < 1:
            raise InputError(f"{split} is {limit}; at least 1 text is needed")
        limits[split] = limit or limits[split]
    if name == "tales":
        splits, origin = _sample_tales(limits, 0.0), "stories sampled from mixkit's own grammar"
    elif noisy:
        rate = _noise_rate(name)
        splits, origin = _sample_tales(limits, rate), f"mixkit's own stories, {rate:.3g} of those to learn from damaged"
    elif name == "middlemarch":
        splits, origin = _read_middlemarch(limits), "George Eliot, Middlemarch (1871), public domain"
    elif name in HUB or name.startswith("hub:"):
        splits, origin = _load_hub(name, limits)
    elif Path(name).suffix in SUFFIXES or os.sep in name or Path(name).exists():
        splits, origin = _split(_read_file(Path(name)), limits), f"the file {Path(name).name}"
    else:
        raise unknown("corpus", name, [*BUILT_IN, *HUB, "hub:NAME", FILES])
    return Corpus(name, origin, **splits, from_grammar=from_grammar, clean_validation=not noisy)


def _sample_tales(limits: dict[str, int], noise: float) -> Splits:
    from mixkit.texts.story_grammar import tales_grammar

    grammar = tales_grammar()
    splits = {split: grammar.sample(count, seed) for seed, (split, count) in enumerate(limits.items())}
    for seed, split in enumerate(("train", "validation") if noise else ()):
        splits[split] = grammar.corrupt(splits[split], noise, seed)
    return splits


def _noise_rate(name: str) -> float:
    _, colon, argument = name.partition(":")
    try:
        rate = float(argument) if colon else NOISE
    except ValueError:
        rate = math.nan
    if not 0 <= rate <= 1:
        raise InputError(f"corpus {name!r}: {argument!r} is no share of damaged texts; write tales-noisy:RATE, 0 to 1")
    return rate


def _read_middlemarch(limits: dict[str, int]) -> Splits:
    """Each chapter belongs to one split, so that no text continues a text of another split."""
    if not NOVEL.is_file():
        raise InputError(
            f"corpus 'middlemarch': {NOVEL.name} is in data/corpora of mixkit's repository, not in the installed "
            f"package; clone the repository, or use tales or {FILES}"
        )
    novel = gzip.decompress(NOVEL.read_bytes()).decode("ascii").partition("\nPRELUDE\n")[2]
    chapters = [_cut_chapter(chapter) for chapter in re.split(r"\n(?:CHAPTER [IVXLC]+\.?|FINALE\.)\n", novel)]
    shuffler = random.Random(SPLIT_SEED)
    shuffler.shuffle(chapters)
    splits: Splits = {"test": [], "validation": [], "train": []}
    total, seen = sum(map(len, chapters)), 0
    for texts in chapters:
        share = seen / total
        splits["test" if share < 0.1 else "validation" if share < 0.2 else "train"] += texts
        seen += len(texts)
    for split, texts in splits.items():
        shuffler.shuffle(texts)
        del texts[limits[split] :]
    return splits


def _cut_chapter(chapter: str) -> list[str]:
    """The texts of a chapter, without epigraph and headings. Two blanks end a sentence in this transcription."""
    blocks = re.split(r"\n\n+", chapter.strip("\n"))
    texts, words = [], []
    for block in itertools.dropwhile(lambda block: block.startswith(" "), blocks):
        if block.isupper():  # the heading of the next book
            break
        for sentence in block.replace("_", "").split("  "):
            words += sentence.split()
            if len(words) >= NOVEL_WORDS:
                texts.append(words)
                words = []
        if len(words) >= MIN_WORDS:
            texts.append(words)
            words = []
    texts[-1] += words
    return list(map(" ".join, texts))


def _split(texts: list[str], limits: dict[str, int]) -> Splits:
    """Shuffle the texts with a fixed seed and cut them into three parts."""
    order, n = random.Random(SPLIT_SEED).sample(texts, len(texts)), len(texts)
    validation, test = limits["validation"], limits["test"]
    if sum(limits.values()) > n:
        validation = min(validation, max(1, n // 10))
        test = min(test, max(n // 10, min(150, 3 * n // 10)))
    return {
        "train": order[validation + test :][: limits["train"]],
        "validation": order[:validation],
        "test": order[validation : validation + test],
    }


# Local files. They are read without `datasets`, which the thin installation does not have.


def _read_file(path: Path) -> list[str]:
    corpus = f"corpus {str(path)!r}"
    if not path.is_file():
        siblings = [str(sibling) for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        problem = "is a folder" if path.is_dir() else f"does not exist{did_you_mean(path, siblings)}"
        raise InputError(f"{corpus} {problem}; a .txt, .jsonl or .csv file is needed")
    if path.suffix not in SUFFIXES:
        raise unknown(f"file type of {corpus}:", path.suffix, SUFFIXES)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{corpus} is not UTF-8 text (byte {error.start}); is it a binary file?") from None
    if "\0" in content:
        raise InputError(f"{corpus} has NUL bytes: it is a binary file, not text")
    unit = "records with a text"
    if path.suffix == ".txt":
        texts, unit = _read_txt(content), f"paragraphs joined to {MIN_WORDS} words"
    elif path.suffix == ".csv":
        texts = _read_records(csv.DictReader(io.StringIO(content, newline="")), corpus)
    else:
        texts = _read_records(_read_jsonl(content, corpus), corpus)
    if len(texts) < MIN_TEXTS:
        raise InputError(f"{corpus} is too short: {len(texts)} texts ({unit}); at least {MIN_TEXTS} are needed")
    return texts


def _read_txt(content: str) -> list[str]:
    if re.search(r"^ = .* = $", content, re.M):
        return list(wikitext(content.splitlines()))
    blocks = re.split(r"\n\s*\n", content)
    return _join_paragraphs(blocks if len(blocks) > 1 else content.splitlines())


def _read_jsonl(content: str, corpus: str) -> Iterator[object]:
    lines = filter(str.strip, content.split("\n"))
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(f"{corpus}: record {number} is not JSON ({error})") from None


def _read_records(records: Iterable[object], corpus: str) -> list[str]:
    texts = []
    for number, record in enumerate(records, 1):
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            found = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
            raise InputError(f"{corpus}: record {number} has no field 'text' with a string (found: {found})")
        texts.append(text.strip())
    return list(filter(None, texts))


def _one_line(block: str) -> str:
    return " ".join(block.split())


def _join_paragraphs(paragraphs: Iterable[str]) -> list[str]:
    """Join neighbours until a text has MIN_WORDS. Longer texts are cut at MAX_WORDS; a short rest is dropped."""
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
    return _one_line(text)


# The Hugging Face hub


def _load_hub(name: str, limits: dict[str, int]) -> tuple[Splits, str]:
    """(splits, origin). The texts are cached, because `datasets` downloads a stream again each time."""
    dataset, config = HUB[name] if name in HUB else (*name.removeprefix("hub:").split(":", 1), None)[:2]
    if not dataset:
        raise InputError(f"corpus {name!r} names no dataset; write hub:OWNER/NAME or hub:OWNER/NAME:CONFIG")
    origin = f"{dataset}{f' ({config})' if config else ''}, Hugging Face hub"
    if Path(dataset).is_dir():
        return _stream_hub(name, dataset, config, limits), origin
    key = hashlib.sha256(json.dumps([dataset, config, limits]).encode()).hexdigest()[:16]
    cached = CACHE / "corpora" / f"{key}.json"
    if not cached.is_file():
        splits = _stream_hub(name, dataset, config, limits)
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, json.dumps(splits))
    return json.loads(cached.read_text(encoding="utf-8")), origin


def _stream_hub(name: str, dataset: str, config: str | None, limits: dict[str, int]) -> Splits:
    from datasets import load_dataset

    try:
        source = load_dataset(dataset, config, streaming=True)
    except Exception as error:  # datasets raises many kinds; each means that the dataset cannot be loaded
        reason = _one_line(str(error))[:200]
        raise InputError(
            f"corpus {name!r}: cannot load {dataset!r} ({type(error).__name__}: {reason}); "
            f"without a network these work: {', '.join(BUILT_IN)}, or {FILES}"
        ) from error
    train = "train" if "train" in source else next(iter(source))
    names = {"train": train}  # split -> its name in the dataset
    for split, candidates in SPLIT_NAMES.items():
        for candidate in candidates:
            if candidate in source and candidate != train:
                names.setdefault(split, candidate)
    missing = limits.keys() - names.keys()
    counts = limits | {"train": limits["train"] + sum(limits[split] for split in missing)}
    splits = {split: list(itertools.islice(_hub_texts(name, source[at]), counts[split])) for split, at in names.items()}
    if len(splits["train"]) < MIN_TEXTS:
        raise InputError(f"corpus {name!r} is too short: {len(splits['train'])} texts; at least {MIN_TEXTS} are needed")
    if missing:
        parts = _split(splits["train"], limits)
        splits |= {split: parts[split] for split in ("train", *missing)}
    return splits


def _hub_texts(name: str, rows: Iterable[dict]) -> Iterator[str]:
    rows = iter(rows)
    first = next(rows, {})
    column = next((column for column in TEXT_COLUMNS if isinstance(first.get(column), str)), None)
    if column is None:
        raise InputError(
            f"corpus {name!r} has no text column; found: {', '.join(first)}; known: {', '.join(TEXT_COLUMNS)}"
        )
    texts = (row[column].strip() for row in itertools.chain([first], rows))
    if name == "wikitext":
        return wikitext(texts)
    return (text for text in texts if MIN_WORDS <= len(text.split()) <= MAX_WORDS)
