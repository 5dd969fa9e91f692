"""Readers of local files: each format's own record ends, scripts without blanks, WikiText, and errors."""

import csv
import io
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkit._common import InputError
from mixkit.texts.corpora import load_corpus
from mixkit.texts.files import detokenize, read_file
from mixkit.texts.words import split_words

PARAGRAPH = " ".join(f"word{i}" for i in range(60))
ODD = "a fox. \u2028 \u2029 \x0b \x0c \x1c \x85 two"  # str.splitlines ends a line at each of them


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(texts, end="\r\n"):
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=end).writerows([["id", "text"], *enumerate(texts)])
    return file.getvalue()


def as_jsonl(texts, end="\n"):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + end for text in texts)


# Records


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("suffix", "write_texts"), [(".jsonl", as_jsonl), (".csv", as_csv)])
def test_records_end_where_the_format_says(tmp_path, suffix, write_texts, end):
    texts = [f'Text {i}, with "quotes"\nand two lines <b>, {ODD}' for i in range(40)]
    assert read_file(write(tmp_path / f"own{suffix}", write_texts(texts, end))) == texts


def test_odd_characters_in_fields_without_quotes(tmp_path):
    lines = [f"{i} {ODD} {'word ' * 40}" for i in range(60)]
    assert read_file(write(tmp_path / "own.csv", "text\n" + "\n".join(lines))) == [line.strip() for line in lines]
    empty_fields = "text,id\n" + "".join(f"{i} fox,1,,\n" for i in range(20))
    assert read_file(write(tmp_path / "own.csv", empty_fields)) == [f"{i} fox" for i in range(20)]


def test_a_field_may_be_long(tmp_path):
    texts = ["word " * 100_000 + "end", "short"]
    assert read_file(write(tmp_path / "own.csv", as_csv(texts))) == texts


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    path = write(tmp_path / "own.jsonl", r'{"text": "a \ud83d b \ude00"}' + "\n" + r'{"text": "\ud83d\ude00"}')
    assert read_file(path) == ["a \ufffd b \ufffd", "\U0001f600"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30), max_size=12))
def test_all_texts_come_back(tmp_path_factory, texts):
    folder = tmp_path_factory.getbasetemp()
    stripped = [text.strip() for text in texts]
    assert read_file(write(folder / "own.csv", as_csv(texts))) == stripped
    assert read_file(write(folder / "own.jsonl", as_jsonl(texts))) == stripped


# Plain text


def test_paragraphs_of_a_text_file(tmp_path):
    short = " ".join(["short"] * 30)
    content = "\n\n".join([PARAGRAPH.replace(" ", "\n")] * 3 + [short, short, short])
    assert read_file(write(tmp_path / "own.txt", content)) == [PARAGRAPH] * 3 + [f"{short} {short}"]
    for end in ("\r\n", "\r"):
        assert read_file(write(tmp_path / "own.txt", content.replace("\n", end)))[3] == f"{short} {short}"
    lines = "\n".join([PARAGRAPH, PARAGRAPH + f" {ODD}", "\n\n"])  # without empty lines each line is a paragraph
    assert read_file(write(tmp_path / "lines.TXT", lines)) == [PARAGRAPH, f"{PARAGRAPH} a fox. two"]


def test_long_paragraphs_are_cut(tmp_path):
    words = [f"w{i}" for i in range(2100)]
    texts = read_file(write(tmp_path / "own.txt", " ".join(words[:2030]) + "\n\n" + " ".join(words[2030:])))
    assert [text.split() for text in texts] == [words[:1000], words[1000:2000], words[2000:]]


@pytest.mark.parametrize(
    "sentence",
    [
        "敏捷的棕色狐狸跳过了懒狗。",
        "すばやい茶色のキツネがのろまな犬を飛びこえる。",
        "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ ",
    ],
)
def test_texts_without_blanks_lose_nothing(tmp_path, sentence):
    paragraphs = [f"第{i}。" + sentence * 5 + "\n" + sentence * 5 for i in range(40)]  # two lines each
    texts = read_file(write(tmp_path / "own.txt", "\n\n".join(paragraphs)))
    assert len(texts) == 40
    assert [Counter(text.replace(" ", "")) for text in texts] == [Counter("".join(p.split())) for p in paragraphs]
    one_paragraph = read_file(write(tmp_path / "own.txt", "".join(paragraphs[:20])))
    assert all(50 <= len(split_words(text)) <= 1000 for text in one_paragraph)
    assert "。\n" not in "".join(texts) and "。 敏" not in "".join(texts)


@pytest.mark.slow
def test_a_line_of_a_million_words(tmp_path):
    """One second in linear time, half a minute in quadratic time."""
    texts = read_file(write(tmp_path / "own.txt", "word " * 1_000_000))
    assert len(texts) == 1000 and set(texts) == {" ".join(["word"] * 1000)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2300), max_size=6), st.sampled_from(["w{}", "狐"]))
def test_cutting_keeps_the_order_of_words(tmp_path_factory, sizes, word):
    """equals: a loop over single words, here."""
    paragraphs = [[word.format(i) for i in range(size)] for size in sizes]
    expected, words = [], []
    for paragraph in paragraphs:
        for one in paragraph:
            if len(words) == 1000:
                expected.append(words)
                words = []
            words.append(one)
        if len(words) >= 50:
            expected.append(words)
            words = []
    blank = "" if word == "狐" else " "
    content = "\n\n".join(["", *(blank.join(paragraph) for paragraph in paragraphs)])
    texts = read_file(write(tmp_path_factory.getbasetemp() / "cut.txt", content))
    assert [split_words(text) for text in texts] == expected


# WikiText


def test_wikitext_is_prepared_as_the_paper_does(wikitext_file):
    texts = read_file(wikitext_file)
    raw = [line.strip() for line in wikitext_file.read_text().splitlines()]
    kept = [line for line in raw if not line.startswith("= ") and 50 < len(line.split()) < 1000]
    assert len(texts) == len(kept) > 1000
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


# Errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"does not exist \(did you mean '.*one.txt'\?\); a .txt, .jsonl or .csv file is needed$"),
        ("binary.txt", bytes(range(256)) * 9, "is not UTF-8 text"),
        ("nul.txt", b"text\0" * 900, "binary file"),
        ("own.pdf", b"%PDF", r"unknown file type of corpus .*: '.pdf'; allowed: .txt, .jsonl, .csv"),
        ("broken.jsonl", b'{"text": "x"}\n\n{"text', "line 3 is not JSON"),
        ("deep.jsonl", b'{"text": "x"}\n' + b"[" * 100_000, "line 2 is not JSON"),
        ("other.jsonl", b'{"story": "x"}\n', "the record on line 1 has no field 'text' with a string .found: story."),
        ("null.jsonl", b'{"text": "x"}\n{"text": null}', "the record on line 2 has no field 'text' with a string"),
        ("list.jsonl", b'["x"]\n', r"record on line 1 has no field 'text' with a string \(found: list"),
        ("other.csv", b"a,b\n1,2\n", "the record on line 2 has no field 'text'"),
        ("short.csv", b"id,text\n1,x\n2\n", "the record on line 3 has no field 'text'"),
        ("open.csv", b'text\nx\n"a fox\nx\nx\n', "mark in the row on line 3 is not closed, or not doubled"),
        ("opens.csv", b'text\n"x\ny"\n"a fox\nx\n"x"\n', "mark in the row on line 4 is not closed, or not doubled"),
        ("inner.csv", b'text\n"a "red" fox"\n', "mark in the row on line 2 is not closed, or not doubled"),
        ("header.csv", b'"text\nx\n', "mark in the row on line 1 is not closed, or not doubled"),
        ("comma.csv", b"id,text\n1,a fox\n2,a fox, too\n", "row on line 3 has more fields than the header; quote its"),
    ],
)
def test_errors_of_files(tmp_path, name, content, message):
    (tmp_path / "one.txt").touch()
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as error:
        read_file(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_is_not_suggested_for_itself(tmp_path):
    with pytest.raises(InputError, match=f"corpus '{tmp_path}' is a folder; a .txt, .jsonl or .csv file is needed$"):
        read_file(tmp_path)


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not exist"):
        read_file(tmp_path / f"{'a' * 5000}.txt")
    path = write(tmp_path / "own.txt", PARAGRAPH)
    monkeypatch.setattr(type(path), "read_bytes", lambda self: (self / "x").open())
    with pytest.raises(InputError, match=r"own.txt' cannot be read: Not a directory$"):
        read_file(path)


def test_a_dataset_without_its_prefix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "owner/name-v1.5"):
        with pytest.raises(InputError, match=f"does not exist; a .* is needed; for a dataset .* write hub:{name}$"):
            load_corpus(name)
