"""Corpora by name: splits, local files, WikiText's preparation, datasets in the hub's layout, and errors."""

import bisect
import csv
import gzip
import itertools
import json
import re
from collections import Counter

import pytest

from mixkit._common import InputError
from mixkit.texts import corpora
from mixkit.texts.corpora import detokenize, load_corpus
from mixkit.texts.story_grammar import tales_grammar

PARAGRAPH = " ".join(f"word{i}" for i in range(60))


@pytest.mark.parametrize("name", ["tales", "middlemarch"])
def test_built_in_corpora_are_fixed_and_disjoint(name):
    sizes = {"train": 200, "validation": 30, "test": 100}
    once, again = load_corpus(name, **sizes), load_corpus(name, **sizes)
    assert once == again
    splits = [once.train, once.validation, once.test]
    assert [len(s) for s in splits] == [200, 30, 100]
    assert len(set().union(*splits)) == 330
    assert all(len(text.split()) >= 20 for split in splits for text in split)


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
    path.write_text("\n\n".join([PARAGRAPH] * 30))
    assert not load_corpus(str(path)).from_grammar


def words_of(*splits):
    return sum(len(text.split()) for split in splits for text in split)


def test_middlemarch_has_the_words_of_the_novel():
    corpus = load_corpus("middlemarch")
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


def test_middlemarch_has_no_headings_and_epigraphs():
    corpus = load_corpus("middlemarch")
    for text in corpus.train + corpus.validation + corpus.test:
        assert not re.search(r"\bCHAPTER|\bBOOK|FINALE|PRELUDE|Gent\.|--[A-Z]{4,}|  |_|\n", text), text


def test_no_chapter_of_middlemarch_is_in_two_splits():
    corpus = load_corpus("middlemarch")
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


def test_paragraphs_of_a_text_file(tmp_path):
    path = tmp_path / "own.txt"
    short = " ".join(["short"] * 30)
    path.write_text("\n\n".join([PARAGRAPH.replace(" ", "\n")] * 30 + [short, short]))
    corpus = load_corpus(str(path))
    texts = corpus.train + corpus.validation + corpus.test
    assert len(texts) == 31
    assert sorted(set(texts)) == [f"{short} {short}", PARAGRAPH]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_records_hold_one_text_each(tmp_path, suffix):
    path = tmp_path / f"own{suffix}"
    texts = [f'Text {i}, with "quotes"\nand two lines <b>, \u2028 three.' for i in range(40)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        if suffix == ".csv":
            writer = csv.writer(file)
            writer.writerows([["id", "text"], *enumerate(texts)])
        else:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    corpus = load_corpus(str(path))
    assert sorted(corpus.train + corpus.validation + corpus.test) == sorted(texts)
    assert len(load_corpus(str(path), train=5).train) == 5


def test_wikitext_is_prepared_as_the_paper_does(wikitext_file):
    corpus = load_corpus(str(wikitext_file))
    texts = corpus.train + corpus.validation + corpus.test
    raw = [line.strip() for line in wikitext_file.read_text().splitlines()]
    kept = [line for line in raw if not line.startswith("= ") and 50 < len(line.split()) < 1000]
    assert len(texts) == len(kept) > 1000
    assert len(corpus.test) == 150
    joined = "\n".join(texts)
    for trace in (" @-@ ", " @,@ ", " @.@ ", " ,", " .\n", "( ", " )", " 's ", " n't "):
        assert trace not in joined
    lobster = next(text for text in texts if text.startswith("Homarus gammarus, known as the European lobster"))
    assert "a length of 60 cm (24 in) and a mass of 6 kilograms (13 lb), and bears" in lobster
    assert 'the lobsters are blue, only becoming "lobster red" on cooking.' in lobster


def test_detokenize():
    tokens = "It 's 0 @.@ 7 – 2 @,@ 000 kg , well @-@ known ( the lobsters ' claws ) ; does n't it ?"
    assert detokenize(tokens) == "It's 0.7 – 2,000 kg, well-known (the lobsters' claws); doesn't it?"
    assert detokenize('called " <unk> " , or " crusher "') == 'called "<unk>", or "crusher"'
    assert detokenize('an odd " mark') == 'an odd " mark'


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


def test_a_named_dataset_is_streamed_once_and_cached(tmp_path, monkeypatch):
    rows = [" = Heading = \n", *(f" {t} @-@ x , \n" for t in numbered("a", 30))]
    folder = tmp_path / "local"
    write_dataset(folder, {"train": rows, "validation": rows[:8], "test": rows[:8]})
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
    ("name", "content", "message"),
    [
        ("tails", None, r"unknown corpus 'tails' \(did you mean 'tales'\?\); allowed: tales, tales-noisy, middlemarch"),
        ("hub:", None, "names no dataset"),
        ("none.txt", None, r"does not exist \(did you mean '.*one.txt'\?\)"),
        ("empty.txt", b"", "is too short: 0 texts"),
        ("short.txt", b"A few words only.\n" * 3, "is too short: 0 texts .* at least 20 are needed"),
        ("binary.txt", bytes(range(256)) * 9, "is not UTF-8 text"),
        ("nul.txt", b"text\0" * 900, "binary file"),
        ("own.pdf", b"%PDF", r"unknown file type of corpus .*: '.pdf'; allowed: .txt, .jsonl, .csv"),
        ("broken.jsonl", b'{"text": "x"}\n{"text', "record 2 is not JSON"),
        ("other.jsonl", b'{"story": "x"}\n', "record 1 has no field 'text' with a string .found: story."),
        ("other.csv", b"a,b\n1,2\n", "record 1 has no field 'text'"),
    ],
)
def test_bad_names_and_files(tmp_path, name, content, message):
    (tmp_path / "one.txt").touch()
    path = name
    if content is not None or name == "none.txt":
        path = str(tmp_path / name)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_corpus(path)
    assert "\n" not in str(error.value)


def test_a_folder_is_not_suggested_for_itself(tmp_path):
    with pytest.raises(ValueError, match=f"corpus '{tmp_path}' is a folder; a .txt, .jsonl or .csv file is needed"):
        load_corpus(str(tmp_path))


def test_a_split_needs_a_text():
    with pytest.raises(ValueError, match="train is 0"):
        load_corpus("tales", train=0)
