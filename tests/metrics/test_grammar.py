"""The oracle against enumeration, closed forms, and texts whose mistakes are put there by hand."""

import math
import random

import pytest

from mixkit._common import InputError
from mixkit.metrics import grammar as oracle
from mixkit.texts.story_grammar import Grammar

RULES = {
    "S": [(1, ("NP", "sings", ".")), (2, ('"', "VP", '"', ",", "said", "NP", "."))],
    "NP": [(3, ("a", "fox")), (1, ("a", "fox", ",", "who", "VP", ",")), (1, ("Pip",))],
    "VP": [(1, ("runs",)), (1, ("runs", "and", "hides"))],
}
ENDLESS = RULES | {"S": [*RULES["S"], (1, ("S", "S"))], "VP": [(1, ("runs",)), (1, ("runs", "and", "VP"))]}
LANGUAGE = sorted(Grammar(RULES, "S")._enumerate("test"))


@pytest.fixture(scope="module")
def toy():
    return Grammar(RULES, "S")


@pytest.fixture(scope="module")
def stories():
    return oracle.stories()


def texts_of(toy):
    texts = set(toy.sample(2000, seed=0))
    assert len(texts) == len(LANGUAGE)
    return sorted(texts)


def beginnings(texts):
    """All that a text may begin with, cut where a word or mark ends: by brute force."""
    cuts = {""}
    for text in texts:
        ends = [i for i in range(1, len(text) + 1) if text[i - 1] != " " and not text[i - 1 : i + 1].isalnum()]
        cuts |= {text[:i] for i in ends} | {text}
    return cuts


def test_longest_prefix_is_that_of_enumeration(toy):
    texts = texts_of(toy)
    allowed, generator = beginnings(texts), random.Random(0)
    characters = [*sorted({c for text in texts for c in text}), "  ", "é"]
    for text in texts:
        assert toy.longest_prefix(text) == text
    for _ in range(3000):
        text = generator.choice(texts)
        at, kind = generator.randrange(len(text)), generator.randrange(3)
        new = "" if kind == 0 else generator.choice(characters)
        text = text[:at] + new + text[at + (kind != 1) :]
        found = toy.longest_prefix(text)
        assert found in allowed and text.startswith(found)
        # no longer beginning ends where a word of the text ends
        ends = [
            i for i in range(len(found) + 1, len(text) + 1) if text[i - 1] != " " and not text[i - 1 : i + 1].isalnum()
        ]
        assert not any(text[:i] in allowed for i in ends), (text, found)


def test_longest_prefix_of_recursive_rules():
    endless = Grammar(ENDLESS, "S")
    text = '"runs and runs and runs", said Pip. a fox, who runs, sings. a fox'
    assert endless.longest_prefix(text) == text and endless.log_prob(text) == -math.inf
    assert endless.longest_prefix(text + " fox sings.") == text
    assert endless.longest_prefix("Fox") == endless.longest_prefix("") == ""
    with pytest.raises(InputError, match="a text is a str, not int"):
        endless.longest_prefix(3)


def test_scores_of_the_grammars_own_texts(stories):
    texts = stories.sample(300, seed=11)
    scores = oracle.score_texts(texts)
    assert scores["valid_text_rate"].value == scores["valid_prefix_rate"].value == scores["tales_distinct"].value == 1
    assert scores["grammar_nll"].low < stories.entropy() < scores["grammar_nll"].high
    assert abs(scores["rule_usage_tv"].value) < 0.02


def test_scores_by_hand(toy):
    prompts = ["a fox", "a fox", "Pip", "Pip"]
    texts = ["a fox sings.", "a fox sings sings.", "Pip sings.", "Pip runs and hides."]
    scores = oracle.score_texts(texts, prompts, grammar=toy)
    assert scores["valid_text_rate"].value == 0.5
    assert scores["valid_prefix_rate"].value == pytest.approx((1 + 1 + 1 + 0) / (1 + 2 + 1 + 3))
    first, second = -math.log(1 / 3 * 3 / 5), -math.log(1 / 3 * 1 / 5)
    assert scores["grammar_nll"].value == pytest.approx((first + second) / 2)
    again = oracle.score_texts([*texts, "Pip sings."], grammar=toy)
    assert again["tales_distinct"].value == pytest.approx(2 / 3)


def test_one_sided_texts_use_the_choices_unevenly(stories):
    texts = [text for text in stories.sample(600, seed=4) if "fox" in text]
    assert oracle.score_texts(texts)["rule_usage_tv"].value > 0.05


def test_a_prompt_that_ends_within_a_word(toy):
    scores = oracle.score_texts(["a fox sings.", "a fix sings."], ["a f", "a f"], grammar=toy)
    assert scores["valid_prefix_rate"].value == pytest.approx(1 / 2)


def test_what_is_not_there_is_absent_with_the_reason(toy):
    scores = oracle.score_texts(["fox", "Pip"], grammar=toy)
    assert scores["valid_text_rate"].value == 0 and scores["valid_text_rate"].high > 0.5
    for name in ("grammar_nll", "tales_distinct", "rule_usage_tv"):
        assert scores[name].value is None and "none of 2 texts" in scores[name].why
    assert oracle.score_texts(["Pip"], ["Pip"], grammar=toy)["valid_prefix_rate"].why == "no word was written"


def test_coverage_of_a_known_model(toy):
    """Q: uniform over the language. E_P log P/Q = log(size) - H(P)."""
    texts = toy.sample(3000, seed=2)
    nats = [math.log(len(LANGUAGE))] * len(texts)
    scores = oracle.coverage(nats, texts, grammar=toy)
    assert scores["forward_ce"].value == pytest.approx(math.log(len(LANGUAGE)))
    kl = scores["forward_kl"]
    assert kl.low < math.log(len(LANGUAGE)) - toy.entropy() < kl.high
    exact = oracle.coverage([-toy.log_prob(text) for text in texts], texts, grammar=toy)
    assert exact["forward_kl"].value == exact["forward_kl"].high == pytest.approx(0, abs=1e-12)
    assert "2 of 3000 texts" in oracle.coverage(nats, texts, cut=2, grammar=toy)["forward_kl"].why


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: oracle.score_texts([]), "0 texts"),
        (lambda: oracle.score_texts(["a"], ["a", "b"]), "1 texts and 2 prompts"),
        (lambda: oracle.score_texts(["a"], ["b"]), "not with its prompt"),
        (lambda: oracle.coverage([1.0], ["Nonsense."]), "text 0 is outside"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_which_corpora_it_knows():
    assert [oracle.knows(name) for name in ("tales", "tales-noisy:0.2", "pydoc", "my/tales.txt")] == [
        True,
        True,
        False,
        False,
    ]
