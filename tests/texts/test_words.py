"""Words: white space, and single characters of scripts that are written without it."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkit.texts.words import one_line, split_with_blanks, split_words, text_unit

SPACED = "The fox, Füchse, лиса, αλεπού, 여우가 말했다, ثعلب, शेर, שועל, “quoted” – naïve… 3.5 kg"
UNSPACED = {
    "Chinese": "狐狸跳过了懒狗。",
    "rare Chinese": "𠀀𠮷",
    "Japanese": "きつねがイヌをとびこえた。",
    "Thai": "สุนัขจิ้งจอก",
    "Lao": "ໝາຈອກ",
    "Burmese": "မြေခွေး",
    "Khmer": "កញ្ជ្រោង",
    "Tibetan": "ཝ་མོ",
}


def test_words_with_blanks_are_those_of_split():
    assert split_words(SPACED) == SPACED.split()
    assert text_unit([SPACED]) == "words"


@pytest.mark.parametrize("script", UNSPACED)
def test_characters_of_scripts_without_blanks_are_words(script):
    assert split_words(UNSPACED[script]) == list(UNSPACED[script])
    assert text_unit([UNSPACED[script]]) == "characters"


def test_all_letters_of_these_scripts_are_words():
    """Independent: Unicode's names of the letters."""
    unspaced = re.compile("CJK|HIRAGANA|KATAKANA|BOPOMOFO|THAI|LAO|TIBETAN|MYANMAR|KHMER|YI |TAI |NEW TAI")
    spaced = re.compile("LATIN|GREEK|CYRILLIC|HANGUL|ARABIC|HEBREW|DEVANAGARI|ETHIOPIC|ARMENIAN|GEORGIAN")
    for letter in filter(str.isalpha, map(chr, range(0x11000))):
        name = unicodedata.name(letter)
        words = split_words(letter * 2)
        assert len(words) == 2 or not unspaced.match(name), name
        assert len(words) == 1 or not spaced.match(name), name


def test_foreign_words_stay_whole():
    assert split_words("我用Python 3.13编程。\u3000好") == ["我", "用", "Python", "3.13", "编", "程", "。", "好"]


def test_the_unit_is_that_of_most_words():
    assert text_unit(["two foxes and 狐"]) == "words"
    assert text_unit(["two foxes", "两只狐狸"]) == "characters"
    assert text_unit(["a b", "两只"]) == "words"  # half is not most
    assert text_unit([]) == text_unit([""]) == "words"


def test_one_line():
    assert one_line(" two\n  foxes\t ran ") == "two foxes ran"
    assert one_line("两只 \n  狐狸\nran\n远。\n好") == "两只狐狸 ran 远。好"


scripts = st.text(st.sampled_from("ab 狐ก\n\t\u3000。é,"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.one_of(scripts, st.text(max_size=40)))
def test_words_have_all_characters_but_the_blanks(text):
    words = split_words(text)
    assert "".join(words) == "".join(text.split())
    assert "".join(split_with_blanks(text)) == text.rstrip()
    assert [word.strip() for word in split_with_blanks(text)] == words
    assert "".join(one_line(text).split()) == "".join(text.split())
