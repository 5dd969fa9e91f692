"""Metrics under the grammar: by hand, for a known model, and for the grammar's own texts."""

import math

import numpy as np
import pytest
import torch

from mixkit._common import InputError
from mixkit.metrics.grammar import coverage, score_texts, valid_next_auc
from mixkit.models.loading import build_gpt2
from mixkit.texts.corpora import load_corpus
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
    scores = score_texts(tales.sample(300, seed=11), [""] * 300)
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
    scores = score_texts(["fox", "Pip"], ["", ""], grammar=toy)
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
        (lambda: score_texts([], []), "0 texts"),
        (lambda: score_texts(["a"], ["a", "b"]), "1 texts and 2 prompts"),
        (lambda: score_texts(["a"], ["b"]), "not with its prompt"),
        (lambda: coverage([1.0], ["Nonsense."]), "text 0 is outside"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_next_words_are_those_that_some_text_has():
    grammar = Grammar(
        {
            "<s>": [(1, ("<a>", "ran", ".")), (1, ("so", "<a>", "<tail>"))],
            "<a>": [(2, ("the", "fox")), (1, ("a", "hen"))],
            "<tail>": [(1, ("sat", ".")), (1, ("sat", "down", "."))],
        },
        "<s>",
    )
    texts = {" ".join(text.replace(".", " .").split()) for text in grammar.sample(500, 0)}
    for text in ("the fox ran.", "so a hen sat down."):
        for end, following in grammar.next_words(text):
            begun = text[:end].replace(".", " .").split()
            tails = [words.split()[len(begun) :] for words in texts if words.split()[: len(begun)] == begun]
            assert following == {tail[0] if tail else "" for tail in tails}


@pytest.mark.slow
def test_auc_of_next_words_against_all_pairs():
    texts = load_corpus("tales", train=64, validation=1, test=1).train
    model, tokenizer = build_gpt2(texts, 400, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    grammar = tales_grammar()
    found = valid_next_auc(model, tokenizer, texts[:3], max_tokens=30)
    words = [word for word in grammar.vocabulary if word[0].isalnum()]
    first = {word: tokenizer(f" {word}")["input_ids"][0] for word in words}
    aucs = []
    for text in texts[:3]:
        for end, following in grammar.next_words(text):
            prefix = tokenizer(text[:end])["input_ids"]
            whole = tokenizer(text)["input_ids"]
            if text[end : end + 1] != " " or whole[: len(prefix)] != prefix or len(prefix) >= 30:
                continue
            with torch.no_grad():
                z = model(torch.tensor([[tokenizer.eos_token_id, *prefix]])).logits[0, -1]
            valid = {first[word] for word in following if word in first}
            invalid = set(first.values()) - valid
            if valid and invalid:
                pairs = [float(z[v] > z[i]) + 0.5 * float(z[v] == z[i]) for v in valid for i in invalid]
                aucs.append(np.mean(pairs))
    assert found.value == pytest.approx(np.mean(aucs), abs=1e-6)
    assert 0.2 < found.value < 0.8
