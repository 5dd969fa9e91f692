"""Corpora by name: splits, duplicates, datasets in the hub's layout, and errors."""

import bisect
import gzip
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from mixkit._common import InputError
from mixkit.texts import corpora
from mixkit.texts.corpora import load_corpus
from mixkit.texts.story_grammar import tales_grammar

PARAGRAPH = " ".join(f"word{i}" for i in range(60))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tales", "middlemarch"])
def test_built_in_corpora_are_fixed_and_disjoint(name):
    sizes = {"train": 200, "validation": 30, "test": 100}
    once, again = load_corpus(name, **sizes), load_corpus(name, **sizes)
    assert once == again
    splits = [once.train, once.validation, once.test]
    assert [len(s) for s in splits] == [200, 30, 100]
    assert len(set().union(*splits)) == 330
    assert all(len(text.split()) >= 20 for split in splits for text in split)


@pytest.mark.slow
def test_noisy_tales_are_the_tales_with_damage():
    names = ("tales", "tales-noisy", "tales-noisy:0.5")
    clean, noisy, half = (load_corpus(name, train=60, validation=20, test=5) for name in names)
    assert clean.test == noisy.test == half.test
    for split, damaged in (("train", 3), ("validation", 1)):
        assert sum(a != b for a, b in zip(getattr(clean, split), getattr(noisy, split), strict=True)) == damaged
    assert sum(tales_grammar().log_prob(text) == -float("inf") for text in half.train) == 30
    for name in ("tales-noisy:", "tales-noisy:2", "tales-noisy:much"):
        with pytest.raises(InputError, match="no share of damaged texts"):
            load_corpus(name)


@pytest.mark.parametrize(
    ("name", "from_grammar", "clean"),
    [
        ("tales", True, True),
        ("tales-noisy", True, False),
        ("tales-noisy:0.2", True, False),
        ("middlemarch", False, True),
    ],
)
def test_facts_of_corpora(name, from_grammar, clean):
    corpus = load_corpus(name, train=20, validation=20, test=20)
    assert (corpus.from_grammar, corpus.clean_validation) == (from_grammar, clean)


def test_a_file_named_tales_has_no_grammar(tmp_path):
    path = tmp_path / "tales.txt"
    path.write_text("\n\n".join(numbered("a", 30)))
    assert not load_corpus(str(path)).from_grammar


def words_of(*splits):
    return sum(len(text.split()) for split in splits for text in split)


@pytest.fixture(scope="module")
def middlemarch():
    return load_corpus("middlemarch")


@pytest.mark.slow
def test_middlemarch_has_the_words_of_the_novel(middlemarch):
    corpus = middlemarch
    splits = (corpus.train, corpus.validation, corpus.test)
    lengths = [len(text.split()) for split in splits for text in split]
    assert min(lengths) == 50 and max(lengths) == 303 and sum(n > 200 for n in lengths) < len(lengths) / 20
    assert [len(split) for split in splits] == [2371, 311, 306]
    assert [round(words_of(split) / words_of(*splits), 2) for split in splits] == [0.8, 0.1, 0.1]
    # Independent: all words of the novel, without the indented and the upper-case lines.
    novel = gzip.decompress(corpora.NOVEL.read_bytes()).decode().partition("\nPRELUDE\n")[2].splitlines()
    words = sorted(" ".join(line for line in novel if line[:1] != " " and not line.isupper()).replace("_", "").split())
    ours = sorted(" ".join(itertools.chain(*splits)).split())
    assert 0 <= len(ours) - len(words) < 200  # 12 verses and signatures inside chapters are indented
    assert not Counter(words) - Counter(ours)


def test_middlemarch_has_no_headings_and_epigraphs(middlemarch):
    corpus = middlemarch
    for text in corpus.train + corpus.validation + corpus.test:
        assert not re.search(r"\bCHAPTER|\bBOOK|FINALE|PRELUDE|Gent\.|--[A-Z]{4,}|  |_|\n", text), text


@pytest.mark.slow
def test_no_chapter_of_middlemarch_is_in_two_splits(middlemarch):
    corpus = middlemarch
    novel = " ".join(gzip.decompress(corpora.NOVEL.read_bytes()).decode().replace("_", "").split())
    headings = [match.start() for match in re.finditer(r"CHAPTER [IVXLC]+\.? (?!CHAPTER|BOOK)|FINALE\.", novel)]
    chapters = {}
    for split in ("train", "validation", "test"):
        for text in getattr(corpus, split):
            chapters.setdefault(bisect.bisect(headings, novel.index(text[:60])), set()).add(split)
    assert len(chapters) == 88 and all(len(splits) == 1 for splits in chapters.values())


def test_middlemarch_without_its_file(monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "NOVEL", tmp_path / "middlemarch.txt.gz")
    with pytest.raises(InputError, match=r"corpus 'middlemarch'.* not in the installed package; clone") as error:
        load_corpus("middlemarch")
    assert "\n" not in str(error.value)


def write_dataset(folder, splits, column="text"):
    folder.mkdir()
    for split, texts in splits.items():
        rows = "".join(json.dumps({"id": i, column: text}) + "\n" for i, text in enumerate(texts))
        (folder / f"{split}.jsonl").write_text(rows)
    return f"hub:{folder}"


def numbered(prefix, count):
    return [f"{prefix}{i} {PARAGRAPH}" for i in range(count)]


def test_a_dataset_with_its_own_splits(tmp_path):
    splits = {"train": numbered("a", 50), "validation": numbered("b", 7), "test": [*numbered("c", 9), "too short"]}
    corpus = load_corpus(write_dataset(tmp_path / "data", splits), train=40)
    assert corpus.train == splits["train"][:40]
    assert corpus.validation == splits["validation"]
    assert corpus.test == splits["test"][:9]


def test_a_dataset_without_held_out_texts_is_split(tmp_path):
    texts = numbered("a", 60)
    corpus = load_corpus(write_dataset(tmp_path / "data", {"train": texts}, "story"), train=30, validation=5, test=10)
    assert [len(s) for s in (corpus.train, corpus.validation, corpus.test)] == [30, 5, 10]
    assert len({*corpus.train, *corpus.validation, *corpus.test}) == 45


def test_splits_of_a_dataset_share_no_text(tmp_path):
    a, b, c = numbered("a", 30), numbered("b", 5), numbered("c", 5)
    splits = {"train": a + b + c + a, "validation": b + c[:2] + b, "test": c + c}
    corpus = load_corpus(write_dataset(tmp_path / "data", splits))
    assert (corpus.train, corpus.validation, corpus.test) == (a, b, c)
    assert corpus.origin == f"{tmp_path / 'data'}, local folder; dropped: {5 + 7 + 40} duplicates"


def test_rows_without_a_text_are_skipped_and_counted(tmp_path):
    texts = numbered("a", 40)
    rows = [None, *texts[:20], None, *texts[20:], None]
    corpus = load_corpus(write_dataset(tmp_path / "data", {"train": rows}, "story"))
    assert sorted(corpus.train + corpus.validation + corpus.test) == sorted(texts)
    assert corpus.origin.endswith("local folder; dropped: 3 empty texts")


def test_a_dataset_of_short_texts(tmp_path):
    with pytest.raises(InputError, match=r"too short: 0 texts; at least 20 texts of 50 to 1,000 words are") as error:
        load_corpus(write_dataset(tmp_path / "data", {"train": ["too short"] * 50}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("short", [["validation"], ["test"], ["validation", "test"]])
def test_a_split_of_short_texts_is_taken_from_train(tmp_path, short):
    splits = {"train": numbered("a", 60), "validation": numbered("b", 9), "test": numbered("c", 9)}
    written = {split: ["too short"] * 9 if split in short else texts for split, texts in splits.items()}
    corpus = load_corpus(write_dataset(tmp_path / "data", written))
    for split in ("validation", "test"):
        texts = getattr(corpus, split)
        assert texts and set(texts) <= set(splits["train" if split in short else split])
    expected = sum(len(splits[split]) for split in splits if split not in short)
    assert len({*corpus.train, *corpus.validation, *corpus.test}) == expected


def test_a_dataset_without_texts(tmp_path):
    with pytest.raises(InputError, match=r"has no text column; found: id, words; known: text, story"):
        load_corpus(write_dataset(tmp_path / "data", {"train": numbered("a", 30)}, "words"))


def test_a_named_dataset_is_streamed_once_and_cached(tmp_path, monkeypatch):
    rows, *held_out = [[" = Heading = \n", *(f" {t} @-@ x , \n" for t in numbered(prefix, 30))] for prefix in "abc"]
    folder = tmp_path / "local"
    write_dataset(folder, {"train": rows, "validation": held_out[0], "test": held_out[1]})
    import datasets

    calls, real = [], datasets.load_dataset
    monkeypatch.setattr(corpora, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, **k: calls.append(name) or real(str(folder), **k)
    )
    first = load_corpus("wikitext", train=25)
    assert first.train[0] == f"a0 {PARAGRAPH}-x,"
    assert load_corpus("wikitext", train=25) == first
    assert calls == ["Salesforce/wikitext"]


def test_a_failed_download(monkeypatch, tmp_path):
    monkeypatch.setattr(corpora, "CACHE", tmp_path)
    with pytest.raises(ValueError) as error:
        load_corpus("wikitext")
    for part in ("corpus 'wikitext': cannot load 'Salesforce/wikitext'", "these work: tales, tales-noisy, middlemarch"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tails", r"unknown corpus 'tails' \(did you mean 'tales'\?\); allowed: tales, tales-noisy, middlemarch"),
        ("mytext", r"unknown corpus 'mytext'; allowed: .*hub:NAME, the path of a .txt, .jsonl or .csv file"),
        ("hub:", "names no dataset"),
        ("hub::config", "names no dataset"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(InputError, match=message) as error:
        load_corpus(name)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_files_do_not_hide_names(tmp_path, monkeypatch):
    """A file or folder in the working directory that has the name of a corpus or of a dataset."""
    monkeypatch.chdir(tmp_path)
    for name in ("tales", "middlemarch", "tales-noisy:0.5", "mytext"):
        Path(name).write_text("not this")
    Path("imdb").mkdir()
    assert load_corpus("tales", train=1, validation=1, test=1).from_grammar
    assert load_corpus("middlemarch", train=1, validation=1, test=1).train[0] != "not this"
    assert load_corpus("tales-noisy:0.5", train=2, validation=1, test=1).from_grammar
    with pytest.raises(InputError, match="unknown corpus 'mytext'"):
        load_corpus("mytext")
    with pytest.raises(InputError, match=r"corpus 'hub:imdb': a folder 'imdb' is here too; write hub:./imdb"):
        load_corpus("hub:imdb")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("own.txt", "own.txt"),
        ("data/own", "data/own"),
        ("./tales", "tales"),
        ("hub:./data", "data"),
        ("hub:/data/x:config", "/data/x"),
        ("hub:owner/name", None),
        ("hub:owner/name:config", None),
        ("wikitext", None),
        ("tales", None),
        ("tales-noisy:0.5", None),
        ("middlemarch", None),
    ],
)
def test_the_path_of_a_corpus(name, path):
    assert corpora.corpus_path(name) == (path and Path(path))


def write_records(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_duplicates_are_in_one_split_and_counted(tmp_path):
    texts = [f"text {i}" for i in range(60)]
    corpus = load_corpus(write_records(tmp_path / "own.jsonl", [*texts * 3, "", " "]))
    assert corpus.origin == "the file own.jsonl; dropped: 120 duplicates, 2 empty texts"
    assert sorted(corpus.train + corpus.validation + corpus.test) == sorted(texts)
    unique = load_corpus(write_records(tmp_path / "unique.jsonl", texts))
    assert unique.origin == "the file unique.jsonl" and unique.test == corpus.test
    with pytest.raises(InputError, match=r"too short: 3 texts; dropped: 57 duplicates; at least 20 texts .records, or"):
        load_corpus(write_records(tmp_path / "own.jsonl", texts[:3] * 20))


def test_a_split_needs_a_text():
    with pytest.raises(ValueError, match="train is 0"):
        load_corpus("tales", train=0)
