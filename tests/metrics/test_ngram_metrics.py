"""Every metric against a loop over Counters written here, or against nltk, scipy."""

import math
import zlib
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from scipy import stats

from mixkit._common import InputError
from mixkit.metrics import ngram_metrics as metrics
from mixkit.metrics.ngram_metrics import Undefined
from mixkit.models.generation import Sampler, sample_continuations

EXACT = {"rel": 1e-9, "abs": 1e-12}


def random_tokens(seed: int, texts: int, longest: int, vocabulary: int) -> list[list[int]]:
    """Token lists of odd lengths, empty ones among them, a few with loops and runs of one token."""
    rng = np.random.default_rng(seed)
    made = [rng.integers(vocabulary, size=rng.integers(longest + 1)).tolist() for _ in range(texts)]
    made[0], made[1] = [], [1]
    made[2] += [3, 3, 3, 3, 3]
    made[-1] += [1, 2, 0, 2] * 4 + [1, 2]
    return made


def human_tokens(file: Path, texts: int) -> list[list[str]]:
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line[:149] for line in lines if len(line) > 20][:texts]


def model_tokens(model, tokenizer, texts: list[str]) -> list[list[str]]:
    """Words of a model's samples: as it is, and so cold that it falls into loops."""
    written = [
        sample_continuations(
            model, tokenizer, [t[:20] for t in texts[:20]], max_new_tokens=40, sampler=Sampler(temperature), seed=3
        )[0]
        for temperature in (1.0, 0.05)
    ]
    return [continuation.text.split() for one_set in written for continuation in one_set]


@pytest.fixture(
    params=["many texts, few words", "few texts, many words", "two words", "human", "model"], scope="module"
)
def tokens(request):
    return {
        "many texts, few words": lambda: random_tokens(1, 47, 31, 7),
        "few texts, many words": lambda: random_tokens(2, 5, 123, 61),
        "two words": lambda: random_tokens(3, 23, 17, 2),
        "human": lambda: human_tokens(request.getfixturevalue("wikitext_file"), 61),
        "model": lambda: model_tokens(*request.getfixturevalue("toy")),
    }[request.param]()


def ngrams(text: list, n: int, forget_last: bool = False) -> list[tuple]:
    """forget_last: as the released code of SimCTG counts, without the last n-gram."""
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1 - forget_last)]


def naive_rep(texts: list[list], n: int, forget_last: bool = False) -> float:
    grams = [ngrams(text, n, forget_last) for text in texts]
    return 1 - sum(len(set(g)) for g in grams) / sum(map(len, grams))


def naive_counts(texts: list[list], n: int) -> Counter:
    return Counter(gram for text in texts for gram in ngrams(text, n))


def naive_pooled(text: list) -> float:
    grams = [g for n in (1, 2, 3, 4) for g in ngrams(text, n) if n <= 2 or len(set(g)) > 1]
    return len(set(grams)) / len(grams)


def naive_distinct(texts: list[list], n: int) -> float:
    counts = naive_counts(texts, n)
    return len(counts) / counts.total()


def naive_entropy(texts: list[list], n: int) -> float:
    return stats.entropy(list(naive_counts(texts, n).values()))


def naive_zipf(texts: list[list]) -> float:
    counts = sorted(naive_counts(texts, 1).values(), reverse=True)[:5000]
    return -stats.linregress(np.log(np.arange(1, len(counts) + 1)), np.log(counts)).slope


def naive_loop(text: list) -> bool:
    return any(text[-3 * m :] == text[-m:] * 3 for m in range(1, len(text) // 3 + 1))


def nltk_bleu(references: list[list], hypothesis: list, n: int) -> float:
    return float(sentence_bleu(references, hypothesis, [1 / n] * n, SmoothingFunction().method1))


def naive_self_bleu(texts: list[list], n: int) -> list[float]:
    return [nltk_bleu(texts[:i] + texts[i + 1 :], text, n) for i, text in enumerate(texts)]


def naive_jackknife(value: float, statistic, texts: list) -> tuple[float, float]:
    groups = min(20, len(texts))
    left = []
    for g in range(groups):
        first, end = len(texts) * g // groups, len(texts) * (g + 1) // groups
        left.append(statistic(texts[:first] + texts[end:]))
    half = stats.t.ppf(0.975, groups - 1) * math.sqrt(
        (groups - 1) / groups * sum((x - np.mean(left)) ** 2 for x in left)
    )
    return value - half, value + half


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_rep_n(tokens, n):
    assert metrics.rep_n(tokens, n) == pytest.approx(naive_rep(tokens, n), **EXACT)


def test_rep_n_counts_the_last_ngram():
    texts = [[1, 2, 3, 1, 2]]
    assert naive_rep(texts, 2, forget_last=True) == 0.0
    assert metrics.rep_n(texts, 2) == naive_rep(texts, 2) == 0.25


def test_diversity(tokens):
    assert metrics.diversity(tokens) == pytest.approx(math.prod(1 - naive_rep(tokens, n) for n in (2, 3, 4)), **EXACT)


def test_pooled_diversity(tokens):
    expected = np.mean([naive_pooled(text) for text in tokens if text])
    assert metrics.pooled_diversity(tokens) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_distinct_n_and_entropy(tokens, n):
    assert metrics.distinct_n(tokens, n) == pytest.approx(naive_distinct(tokens, n), **EXACT)
    assert metrics.ngram_entropy(tokens, n) == pytest.approx(naive_entropy(tokens, n), **EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.61, 1.0])
def test_a_budget_reads_the_first_tokens(tokens, share):
    budget, cut, left = int(share * sum(map(len, tokens))), [], int(share * sum(map(len, tokens)))
    for text in tokens:
        cut.append(text[:left])
        left -= len(cut[-1])
        if not left:
            break
    scores = metrics.score_texts(tokens, budget=budget)
    for n in (1, 2, 3):
        assert metrics.distinct_n(tokens, n, budget=budget) == pytest.approx(naive_distinct(cut, n), **EXACT)
        assert metrics.ngram_entropy(tokens, n, budget=budget) == pytest.approx(naive_entropy(cut, n), **EXACT)
    entropy = scores["ngram_entropy_2"]
    if sum(len(text) > 1 for text in cut) == 1:  # without that one text there is no bigram
        assert entropy.low is None and "without some of the texts" in entropy.why
    else:
        low, high = naive_jackknife(entropy.value, lambda texts: naive_entropy(texts, 2), cut)
        assert (entropy.low, entropy.high) == pytest.approx((max(0, low), high), **EXACT)


def test_zipf(tokens):
    assert metrics.zipf_coefficient(tokens) == pytest.approx(naive_zipf(tokens), **EXACT)


def test_zipf_reads_the_most_frequent_tokens():
    texts = [list(range(6000)), list(range(3000))]
    assert metrics.zipf_coefficient(texts) == pytest.approx(naive_zipf(texts), **EXACT)


@pytest.mark.slow
def test_zipf_recovers_a_power_law():
    counts = [round(1e6 * rank**-1.3) for rank in range(1, 31)]
    texts = [[token] * count for token, count in enumerate(counts)]
    assert metrics.zipf_coefficient(texts) == pytest.approx(1.3, abs=1e-4)


def test_repetition_loops(tokens):
    assert metrics.repetition_loops(tokens) == np.mean([naive_loop(text) for text in tokens])


@pytest.mark.parametrize(
    ("text", "loop"),
    [("a b c a b c a b c", 1), ("x a b c a b c a b c a", 1), ("a b a b", 0), ("no no no", 1), ("a a a b", 0), ("", 0)],
)
def test_a_loop_is_a_phrase_three_times_at_the_end(text, loop):
    assert metrics.repetition_loops([text]) == loop


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_self_bleu_is_nltk(tokens, n):
    assert metrics.self_bleu(tokens, n) == pytest.approx(np.mean(naive_self_bleu(tokens, n)), **EXACT)


def test_self_bleu_with_equal_counts():
    texts = [["a", "a", "b"], ["a", "a", "c", "d"], ["a", "b", "b", "b"], ["a", "a", "b"], ["e"], []]
    for n in (1, 2, 3, 4):
        assert metrics.self_bleu(texts, n) == pytest.approx(np.mean(naive_self_bleu(texts, n)), **EXACT)


def test_compression_ratio():
    texts = ["ein Text über Füchse", "another text", "", "another text"]
    raw = "ein Text über Füchse another text  another text".encode()
    assert metrics.compression_ratio(texts) == len(raw) / len(zlib.compress(raw))
    assert metrics.compression_ratio([[1, 22], [3]]) == 6 / len(zlib.compress(b"1 22 3"))


def test_strings_words_and_numbers_give_equal_values(tokens):
    distinct = sorted({token for text in tokens for token in text})  # of any script
    words = [[f"w{distinct.index(token)}" for token in text] for text in tokens]
    texts = [" ".join(text) for text in words]
    numbers = {word: i for i, word in enumerate(sorted({word for text in words for word in text}))}
    by_text, by_list = metrics.text_values(texts), metrics.text_values(words)
    by_number = metrics.text_values([np.array([numbers[word] for word in text], dtype=int) for text in words])
    assert by_text == by_list == by_number


@pytest.mark.parametrize("text", ["狐狸跳过了懒狗。", "きつねがイヌをとびこえた", "สุนัขจิ้งจอก"])
def test_texts_without_blanks_are_read_by_character(text):
    texts, characters = [text * 3 + "二", *[text] * 10], [[*text * 3, "二"], *[[*text]] * 10]
    assert metrics.text_values(texts) == metrics.text_values(characters)
    assert metrics.distinct_n(texts, 1) == naive_distinct(characters, 1) < 0.2
    assert metrics.self_bleu(texts) == pytest.approx(np.mean(naive_self_bleu(characters, 4)), **EXACT)
    assert metrics.rep_n(texts, 2) > 0.1 and metrics.self_bleu(texts) > 0.9


def test_text_values(tokens):
    values = metrics.text_values(tokens)
    expected = {f"rep_{n}": [naive_rep([t], n) if len(t) >= n else None for t in tokens] for n in (2, 3, 4)}
    expected["diversity"] = [
        math.prod(1 - naive_rep([t], n) for n in (2, 3, 4)) if len(t) >= 4 else None for t in tokens
    ]
    expected["length"] = [len(t) for t in tokens]
    assert values.keys() == expected.keys()
    for name, column in expected.items():
        assert [x is None for x in values[name]] == [x is None for x in column], name
        assert [x or 0 for x in values[name]] == pytest.approx([x or 0 for x in column], **EXACT), name


def test_score_texts_equals_the_single_metrics(tokens):
    scores = metrics.score_texts(tokens)
    single = {f"rep_{n}": metrics.rep_n(tokens, n) for n in (2, 3, 4)}
    single |= {f"distinct_{n}": metrics.distinct_n(tokens, n) for n in (1, 2, 3, 4)}
    single |= {f"ngram_entropy_{n}": metrics.ngram_entropy(tokens, n) for n in (1, 2, 3, 4)}
    single |= {"self_bleu_4": metrics.self_bleu(tokens), "length": np.mean([len(text) for text in tokens])}
    for name in ("diversity", "pooled_diversity", "zipf_coefficient", "repetition_loops", "compression_ratio"):
        single[name] = getattr(metrics, name)(tokens)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(single, **EXACT)
    for name, score in scores.items():
        if score.low is not None:
            assert score.low <= score.value + 1e-12 and score.value <= score.high + 1e-12, name
    assert all(asdict(score).keys() == {"value", "low", "high", "why"} for score in scores.values())


@pytest.mark.slow
def test_corpus_metrics_have_jackknife_intervals():
    tokens = random_tokens(5, 43, 29, 5)
    scores = metrics.score_texts(tokens)
    for name, statistic in {
        "distinct_2": lambda texts: naive_distinct(texts, 2),
        "ngram_entropy_3": lambda texts: naive_entropy(texts, 3),
        "zipf_coefficient": naive_zipf,
        "self_bleu_4": lambda texts: np.mean(naive_self_bleu(texts, 4)),
    }.items():
        low, high = naive_jackknife(statistic(tokens), statistic, tokens)
        assert (scores[name].low, scores[name].high) == pytest.approx((max(0, low), high), **EXACT), name


def test_intervals_of_shares_end_at_1():
    unlike = [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(20)] + [[0] * 6]
    assert naive_jackknife(0, lambda texts: naive_distinct(texts, 1), unlike)[1] > 1 - naive_distinct(unlike, 1)
    assert metrics.score_texts(unlike)["distinct_1"].high == 1
    alike = [["a", "b", "c", "d", "e"]] * 20 + [["x"] * 5]
    assert metrics.self_bleu(alike) < metrics.score_texts(alike)["self_bleu_4"].high == 1


def test_rep_n_resamples_texts():
    tokens = random_tokens(6, 31, 29, 5)
    picks = np.random.default_rng(0).integers(31, size=(1000, 31))
    drawn = [naive_rep([tokens[i] for i in row], 2) for row in picks]
    score = metrics.score_texts(tokens)["rep_2"]
    assert (score.low, score.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), **EXACT)


def cut_at(texts, budget):
    """The first `budget` tokens of the texts."""
    cut = []
    for text in texts:
        cut.append(text[: budget - sum(map(len, cut))])
        if sum(map(len, cut)) == budget:
            break
    return cut


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=1, max_size=7), st.integers(1, 5), st.data())
def test_any_texts_against_loops(texts, n, data):
    def value(metric, *arguments, **options):
        try:
            return metric(*arguments, **options)
        except Undefined:
            return None

    budget = data.draw(st.integers(1, max(1, sum(map(len, texts)))))
    within = cut_at(texts, budget) if sum(map(len, texts)) >= budget else []
    grams, tokens = naive_counts(texts, n), naive_counts(texts, 1)
    expected = {
        "rep_n": naive_rep(texts, n) if grams else None,
        "distinct_n": naive_distinct(texts, n) if grams else None,
        "ngram_entropy": naive_entropy(texts, n) if grams else None,
        "budget": naive_distinct(within, n) if naive_counts(within, n) else None,
        "pooled": np.mean([naive_pooled(text) for text in texts if text]) if tokens else None,
        "zipf": naive_zipf(texts) if len(tokens) > 1 else None,
        "loops": np.mean([naive_loop(text) for text in texts]),
        "self_bleu": np.mean(naive_self_bleu(texts, n)) if len(texts) > 1 else None,
    }
    got = {
        "rep_n": value(metrics.rep_n, texts, n),
        "distinct_n": value(metrics.distinct_n, texts, n),
        "ngram_entropy": value(metrics.ngram_entropy, texts, n),
        "budget": value(metrics.distinct_n, texts, n, budget=budget),
        "pooled": value(metrics.pooled_diversity, texts),
        "zipf": value(metrics.zipf_coefficient, texts),
        "loops": metrics.repetition_loops(texts),
        "self_bleu": value(metrics.self_bleu, texts, n),
    }
    assert got == {name: x if x is None else pytest.approx(x, **EXACT) for name, x in expected.items()}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=9), min_size=2, max_size=7), st.data())
def test_a_part_of_a_corpus_counts_as_if_alone(texts, data):
    first = data.draw(st.integers(0, len(texts) - 1))
    end = data.draw(st.integers(first + 1, len(texts)))
    left = texts[:first] + texts[end:]
    part = metrics.count_ngrams(texts).without(slice(first, end))
    assert part.texts == left and part.lengths.tolist() == list(map(len, left))
    if left:
        assert metrics.text_values(part) == metrics.text_values(left)
        assert metrics.repetition_loops(part) == np.mean([naive_loop(text) for text in left])
    for n in (3, 1, 2):
        number = part.ngrams(n).number
        fits = [j + n <= len(text) for text in left for j in range(len(text))]
        assert (number >= 0).tolist() == fits
        assert sorted(np.unique(number[fits], return_counts=True)[1]) == sorted(naive_counts(left, n).values())
    if len(left) > 1:
        assert metrics.self_bleu(part) == pytest.approx(np.mean(naive_self_bleu(left, 4)), **EXACT)


def test_counts_can_be_shared():
    tokens = random_tokens(7, 31, 29, 5)
    assert metrics.score_texts(tokens) == metrics.score_texts(metrics.count_ngrams(tokens))


def test_all_texts_equal():
    scores = metrics.score_texts(["the cat sat on the mat"] * 7)
    assert scores["self_bleu_4"].value == scores["self_bleu_4"].low == 1
    assert scores["distinct_4"].value == pytest.approx(1 / 7)
    assert scores["ngram_entropy_1"].value == pytest.approx(stats.entropy([2, 1, 1, 1, 1]))


def test_constant_texts_have_a_pooled_diversity():
    assert metrics.pooled_diversity([["a"] * 9]) == naive_pooled(["a"] * 9) == 2 / 17
    assert metrics.ngram_entropy([["a"] * 9], 2) == 0


def test_one_text_has_values_without_intervals():
    scores = metrics.score_texts(["a b a b c"])
    assert scores["rep_2"].value == 0.25 and scores["rep_2"].low is None and scores["rep_2"].why
    assert scores["distinct_1"].value == 0.6 and scores["distinct_1"].low is None and scores["distinct_1"].why
    assert scores["self_bleu_4"].value is None and "two texts" in scores["self_bleu_4"].why


def test_short_texts_give_a_reason():
    scores = metrics.score_texts(["a b", "", "c"])
    assert scores["rep_3"].value is None and scores["rep_3"].why == "no text has a 3-gram"
    assert scores["diversity"].value is None and scores["distinct_4"].why == "no text has a 4-gram"
    assert scores["rep_2"].value == 0 and "undefined on some resamples" in scores["rep_2"].why
    assert metrics.text_values(["a b", ""])["rep_2"] == [0.0, None]
    everything = metrics.score_texts(["", ""])
    assert everything["length"].value == 0 and everything["pooled_diversity"].why == "all texts are empty"
    too_long = metrics.score_texts(["a b"], budget=3)["distinct_1"]
    assert too_long.value is None and too_long.why == "the texts have 2 tokens, fewer than the budget of 3"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.score_texts([]), "texts is empty"),
        (lambda: metrics.score_texts("one text"), "one string"),
        (lambda: metrics.score_texts(["a", None]), "text 1 is None"),
        (lambda: metrics.score_texts([3.5]), "text 0 is 3.5"),
        (lambda: metrics.score_texts(["a", ["b"]]), "all str, or all lists"),
        (lambda: metrics.score_texts([[1, float("nan")]]), "type float"),
        (lambda: metrics.score_texts([[[1], [2]]]), "type list"),
        (lambda: metrics.score_texts(["a b"], budget=0), "budget is 0"),
        (lambda: metrics.rep_n(["a b"], 0), "n is 0"),
        (lambda: metrics.self_bleu(["a b", "b"], 0), "n is 0"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert not isinstance(error.value, Undefined) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: metrics.rep_n(["a"], 2), "no text has a 2-gram"),
        (lambda: metrics.diversity(["a b c"]), "no text has a 4-gram"),
        (lambda: metrics.pooled_diversity([""]), "all texts are empty"),
        (lambda: metrics.distinct_n(["a b"], 1, budget=3), "the texts have 2 tokens, fewer than the budget of 3"),
        (lambda: metrics.distinct_n(["a b", "c d"], 2, budget=1), "no text has a 2-gram within the first 1 tokens"),
        (lambda: metrics.zipf_coefficient(["a a a"]), "the texts have fewer than two different tokens"),
        (lambda: metrics.self_bleu(["a b c d"]), "self-BLEU needs at least two texts"),
        (lambda: metrics.compression_ratio(["", ""]), "all texts are empty"),
    ],
)
def test_undefined_metrics_raise(call, reason):
    with pytest.raises(Undefined, match=f"^{reason}$"):
        call()
