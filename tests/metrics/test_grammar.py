"""Metrics under the grammar: by hand, for a known model, and for the grammar's own texts."""

import math

import pytest

from mixkit._common import InputError
from mixkit.metrics.grammar import coverage, score_texts
from mixkit.texts.story_grammar import Grammar, tales_grammar

RULES = {
    "S": [(1, ("NP", "sings", ".")), (2, ('"', "VP", '"', ",", "said", "NP", "."))],
    "NP": [(3, ("a", "fox")), (1, ("a", "fox", ",", "who", "VP", ",")), (1, ("Pip",))],
    "VP": [(1, ("runs",)), (1, ("runs", "and", "hides"))],
}
LANGUAGE_SIZE = 4 + 2 * 4  # four NP; two VP


@pytest.fixture(scope="module")
def toy():
    return Grammar(RULES, "S")


def test_scores_of_the_grammars_own_texts():
    tales = tales_grammar()
    scores = score_texts(tales.sample(300, seed=11))
    assert scores["valid_text_rate"].value == scores["valid_prefix_rate"].value == 1
    assert scores["grammar_nll"].low < tales.entropy() < scores["grammar_nll"].high


def test_scores_by_hand(toy):
    prompts = ["a fox", "a fox", "Pip", "Pip"]
    texts = ["a fox sings.", "a fox sings sings.", "Pip sings.", "Pip runs and hides."]
    scores = score_texts(texts, prompts, grammar=toy)
    assert scores["valid_text_rate"].value == 0.5
    assert scores["valid_prefix_rate"].value == pytest.approx((1 + 1 + 1 + 0) / (1 + 2 + 1 + 3))
    first, second = -math.log(1 / 3 * 3 / 5), -math.log(1 / 3 * 1 / 5)
    assert scores["grammar_nll"].value == pytest.approx((first + second) / 2)


def test_a_prompt_that_ends_within_a_word(toy):
    scores = score_texts(["a fox sings.", "a fix sings."], ["a f", "a f"], grammar=toy)
    assert scores["valid_prefix_rate"].value == pytest.approx(1 / 2)


def test_absent_scores_have_a_reason(toy):
    scores = score_texts(["fox", "Pip"], grammar=toy)
    assert scores["valid_text_rate"].value == 0 and scores["valid_text_rate"].high > 0.5
    assert scores["grammar_nll"].value is None and "none of 2 texts" in scores["grammar_nll"].why
    assert score_texts(["Pip"], ["Pip"], grammar=toy)["valid_prefix_rate"].why == "no word was written"


def test_coverage_of_a_known_model(toy):
    """Q: uniform over the language. E_P log P/Q = log(size) - H(P)."""
    texts = toy.sample(3000, seed=2)
    assert len(set(texts)) == LANGUAGE_SIZE
    nats = [math.log(LANGUAGE_SIZE)] * len(texts)
    scores = coverage(nats, texts, grammar=toy)
    assert scores["forward_ce"].value == pytest.approx(math.log(LANGUAGE_SIZE))
    kl = scores["forward_kl"]
    assert kl.low < math.log(LANGUAGE_SIZE) - toy.entropy() < kl.high
    exact = coverage([-toy.log_prob(text) for text in texts], texts, grammar=toy)
    assert exact["forward_kl"].value == exact["forward_kl"].high == pytest.approx(0, abs=1e-12)
    assert "2 of 3000 texts" in coverage(nats, texts, cut=2, grammar=toy)["forward_kl"].why


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_texts([]), "0 texts"),
        (lambda: score_texts(["a"], ["a", "b"]), "1 texts and 2 prompts"),
        (lambda: score_texts(["a"], ["b"]), "not with its prompt"),
        (lambda: coverage([1.0], ["Nonsense."]), "text 0 is outside"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
