"""Corpora: train, validation and test texts by name, from built-in sources, local files and the Hugging Face hub."""

import gzip
import hashlib
import itertools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mixkit._common import CACHE, CLONE, InputError, summary, unknown, write_atomically
from mixkit.texts.files import FILES, MAX_WORDS, MIN_WORDS, SUFFIXES, read_file, wikitext
from mixkit.texts.story_grammar import tales_grammar
from mixkit.texts.words import split_words

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
TEXT_COLUMNS = ("text", "story", "content", "document", "article")
SPLIT_NAMES = {"test": ("test",), "validation": ("validation", "valid", "dev")}

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
    elif path := corpus_path(name):
        dropped: Counter[str] = Counter()
        texts = list(_distinct(read_file(path), set(), dropped))
        _check_size(name, texts, f"texts (records, or paragraphs joined to {MIN_WORDS} words)", dropped)
        splits, origin = _split(texts, limits), f"the file {path.name}{_dropped(dropped)}"
    else:
        raise unknown("corpus", name, [*BUILT_IN, *HUB, "hub:NAME", FILES])
    return Corpus(name, origin, **splits, from_grammar=from_grammar, clean_validation=not noisy)


def corpus_path(name: str) -> Path | None:
    """The local file or folder that a corpus is read from; None for a built-in corpus and a dataset of the hub.

    A file is given by its suffix or by a path with a separator, the folder of a dataset as hub:./FOLDER or hub:/FOLDER.
    Other names never mean a file or folder, even where one has that name.
    """
    if name.startswith("hub:"):
        dataset, _ = _dataset(name)
        return Path(dataset) if dataset.startswith((".", os.sep)) else None
    return Path(name) if Path(name).suffix.lower() in SUFFIXES or os.sep in name else None


def _sample_tales(limits: dict[str, int], noise: float) -> Splits:
    grammar = tales_grammar()
    splits = {split: grammar.sample(count, seed) for seed, (split, count) in enumerate(limits.items())}
    for seed, split in enumerate(("train", "validation")):
        splits[split] = grammar.corrupt(splits[split], noise, seed)
    return splits


def _noise_rate(name: str) -> float:
    argument = name.partition(":")[2] if ":" in name else NOISE
    with suppress(ValueError):
        if 0 <= float(argument) <= 1:
            return float(argument)
    raise InputError(f"corpus {name!r}: {argument!r} is no share of damaged texts; write tales-noisy:RATE, 0 to 1")


def _read_middlemarch(limits: dict[str, int]) -> Splits:
    """Each chapter belongs to one split, so that no text continues a text of another split."""
    if not NOVEL.is_file():
        where = f"{NOVEL.name} is in data/corpora of mixkit's repository, not in the installed package"
        raise InputError(f"corpus 'middlemarch': {where}; clone the repository, or use tales or {FILES}")
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
    blocks = itertools.dropwhile(lambda block: block.startswith(" "), re.split(r"\n\n+", chapter.strip("\n")))
    texts, words = [], []
    for block in itertools.takewhile(lambda block: not block.isupper(), blocks):  # up to the heading of the next book
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
    """Shuffle the texts with a fixed seed and cut them into the parts that have a limit."""
    rest, n = random.Random(SPLIT_SEED).sample(texts, len(texts)), len(texts)
    splits = {}
    for split, small in (("validation", max(1, n // 10)), ("test", max(n // 10, min(150, 3 * n // 10))), ("train", n)):
        if split in limits:
            size = limits[split] if sum(limits.values()) <= n else min(limits[split], small)
            splits[split], rest = rest[:size], rest[size:]
    return splits


def _distinct(texts: Iterable[str], seen: set[str], dropped: Counter[str]) -> Iterator[str]:
    """The texts that are neither empty nor in `seen` yet. `dropped` counts the others."""
    for text in texts:
        if not text or text in seen:
            dropped["duplicates" if text else "empty texts"] += 1
        else:
            seen.add(text)
            yield text


def _dropped(dropped: Counter[str]) -> str:
    return "; dropped: " * bool(dropped) + ", ".join(f"{count:,} {kind}" for kind, count in dropped.items())


def _check_size(name: str, texts: list[str], kind: str, dropped: Counter[str]) -> None:
    if len(texts) < MIN_TEXTS:
        found = f"{len(texts)} texts{_dropped(dropped)}"
        raise InputError(f"corpus {name!r} is too short: {found}; at least {MIN_TEXTS} {kind} are needed")


# The Hugging Face hub


def _dataset(name: str) -> tuple[str, str | None]:
    """(name or folder, configuration) of a dataset."""
    dataset, _, config = name.removeprefix("hub:").partition(":")
    return HUB.get(name, (dataset, config or None))


def _load_hub(name: str, limits: dict[str, int]) -> tuple[Splits, str]:
    """(splits, origin). The texts are cached, because `datasets` downloads a stream again each time."""
    dataset, config = _dataset(name)
    if not dataset:
        raise InputError(f"corpus {name!r} names no dataset; write hub:OWNER/NAME or hub:OWNER/NAME:CONFIG")
    if corpus_path(name):
        return _stream_hub(name, dataset, config, limits)
    if Path(dataset).is_dir():  # `datasets` would read it
        raise InputError(f"corpus {name!r}: a folder {dataset!r} is here too; write hub:./{dataset} or rename it")
    key = hashlib.sha256(json.dumps(["distinct texts", dataset, config, limits]).encode()).hexdigest()[:16]
    cached = CACHE / "corpora" / f"{key}.json"
    if not cached.is_file():
        write_atomically(cached, json.dumps(_stream_hub(name, dataset, config, limits)))
    splits, origin = json.loads(cached.read_text(encoding="utf-8"))
    return splits, origin


def _stream_hub(name: str, dataset: str, config: str | None, limits: dict[str, int]) -> tuple[Splits, str]:
    """(splits, origin). A split that the dataset does not have, or only with too short texts, is cut from train."""
    seen: set[str] = set()
    dropped: Counter[str] = Counter()

    def read(split: str, count: int) -> list[str]:
        return list(itertools.islice(_distinct(_hub_texts(name, data[split]), seen, dropped), count))

    try:
        from datasets import load_dataset

        data = load_dataset(dataset, config, streaming=True)
        train = "train" if "train" in data else str(next(iter(data)))
        splits = {}
        for split, candidates in SPLIT_NAMES.items():
            found = [candidate for candidate in candidates if candidate in data and candidate != train]
            splits[split] = read(found[0], limits[split]) if found else []
        missing = [split for split in splits if not splits[split]]
        splits["train"] = read(train, limits["train"] + sum(limits[split] for split in missing))
    except InputError:
        raise
    except Exception as error:  # datasets raises many kinds; each means that the dataset cannot be loaded
        what = f"corpus {name!r}: cannot load {dataset!r} ({type(error).__name__}: {summary(error, 200)})"
        raise InputError(f"{what}; without a network these work: {', '.join(BUILT_IN)}, or {FILES}") from error
    _check_size(name, splits["train"], f"texts of {MIN_WORDS} to {MAX_WORDS:,} words", dropped)
    if missing:
        splits |= _split(splits["train"], {split: limits[split] for split in ("train", *missing)})
    source = "local folder" if corpus_path(name) else "Hugging Face hub"
    return splits, f"{dataset}{f' ({config})' if config else ''}, {source}{_dropped(dropped)}"


def _hub_texts(name: str, rows: Iterable[dict]) -> Iterator[str]:
    """The texts of suitable length, and "" for each row without a text."""
    column = None
    for row in rows:
        column = column or next((field for field in TEXT_COLUMNS if isinstance(row.get(field, 0), str | None)), None)
        if column is None:
            known = ", ".join(TEXT_COLUMNS)
            raise InputError(f"corpus {name!r} has no text column; found: {', '.join(row)}; known: {known}")
        text = row[column]
        if text is None:
            yield ""
        elif name == "wikitext":
            yield from wikitext([text])
        elif MIN_WORDS <= len(split_words(text)) <= MAX_WORDS:
            yield text.strip()
