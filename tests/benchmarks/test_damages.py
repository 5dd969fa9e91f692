"""Damages do what they say, and the metrics that should notice them do."""

from collections import Counter

import numpy as np
import pytest

from mixkit._common import InputError
from mixkit.metrics import ngram_metrics as metrics
from tests.benchmarks import damage_table as stress
from tests.benchmarks.damages import DAMAGES


def sentences(seed: int, texts: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(" ".join(f"w{i}" for i in rng.integers(900, size=rng.integers(4, 12))) + " ." for _ in range(6))
        for _ in range(texts)
    ]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_seeded_and_keeps_the_number_of_texts(name):
    texts = sentences(0, 30)
    spoiled = DAMAGES[name](texts, 1)
    assert len(spoiled) == 30 and spoiled == DAMAGES[name](texts, 1)
    assert all(old != new for old, new in zip(texts, spoiled, strict=True))
    assert texts == sentences(0, 30)


@pytest.mark.parametrize("name", DAMAGES)
def test_empty_texts_and_single_words_survive(name):
    assert DAMAGES[name](["", "word"], 0) == (["word", ""] if "replace" in name else DAMAGES[name](["", "word"], 3))


def test_what_each_damage_keeps():
    texts = sentences(2, 30)
    words = [text.split() for text in texts]
    spoiled = {name: [text.split() for text in damage(texts, 5)] for name, damage in DAMAGES.items()}
    assert spoiled["truncate"] == [text[: len(text) // 2] for text in words]
    assert [Counter(text) for text in spoiled["shuffle words"]] == [Counter(text) for text in words]
    assert all(text.count(".") == 8 for text in spoiled["repeat a sentence"])
    assert sorted(spoiled["replace by another text"]) == sorted(words)
    assert [len(text) for text in spoiled["unbounded repetition"]] == [len(text) for text in words]


def test_what_metrics_see():
    texts = sentences(3, 60)
    human, spoiled = metrics.score_texts(texts), {name: metrics.score_texts(d(texts, 7)) for name, d in DAMAGES.items()}
    assert spoiled["unbounded repetition"]["repetition_loops"].value > 0.9 > human["repetition_loops"].value
    assert spoiled["unbounded repetition"]["diversity"].high < human["diversity"].low
    assert spoiled["repeat a sentence"]["diversity"].high < human["diversity"].low
    assert spoiled["truncate"]["length"].high < human["length"].low
    assert spoiled["shuffle words"]["distinct_1"] == human["distinct_1"]
    assert spoiled["replace by another text"]["diversity"].value == pytest.approx(human["diversity"].value)


def test_one_text_cannot_be_replaced():
    with pytest.raises(InputError, match="at least 2"):
        DAMAGES["replace by another text"](["one"], 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mixkit.metrics.quality.SmallSampleWarning")
def test_the_table_of_damages(toy):
    from mixkit.metrics.features import Reader

    model, tokenizer, _ = toy
    reader = Reader("toy", model, tokenizer, None)
    texts = [" ".join(sentences(seed, 2)) + " and more of it " + " ".join(sentences(seed, 1)) for seed in range(60)]
    table = stress.damage_table(texts, reader, reader, texts=20)
    assert list(table) == ["human", *DAMAGES]
    human, loops = table["human"], table["unbounded repetition"]
    assert human["length"].value == loops["length"].value == stress.WORDS
    assert table["truncate"]["length"].value == stress.WORDS / 2
    assert {"precision", "recall", "coherence", "judge_perplexity"} < human.keys() and "mauve" not in human
    assert stress.verdict("diversity", human["diversity"], loops["diversity"]) == "worse"
    assert stress.verdict("repetition_loops", human["repetition_loops"], loops["repetition_loops"]) == "worse"
    shown = stress.markdown(table)
    assert shown.splitlines()[0].startswith("| metric | human | truncate |")
    assert "| repetition_loops | 0 |" in shown and "**worse**" in shown
    assert "coherence" not in stress.damage_table(texts, texts=20)["human"]
    with pytest.raises(InputError, match="60 paragraphs of 64 words; 800 are needed"):
        stress.damage_table(texts)


def test_a_verdict_needs_intervals_that_part():
    from mixkit.metrics.statistics import Estimate

    low, high, between = Estimate(1.0, 0.9, 1.1), Estimate(2.0, 1.9, 2.1), Estimate(1.5, 1.0, 2.0)
    assert stress.verdict("mauve", low, high) == "better" and stress.verdict("mauve", high, low) == "worse"
    assert stress.verdict("judge_perplexity", low, high) == "worse" and stress.verdict("length", low, high) == "other"
    assert stress.verdict("mauve", low, between) == stress.verdict("mauve", low, Estimate(9.0)) == ""
