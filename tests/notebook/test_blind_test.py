"""The blind test: pairs, kept answers, the ranking, and the panel without a browser."""

import json
from collections import Counter
from itertools import combinations

import pytest

from mixkit.metrics.statistics import wilson_interval
from mixkit.notebook import blind_test
from mixkit.notebook.blind_test import Answer, BlindTest, append_answer, draw_pairs, ranking, read_answers
from mixkit.studies.store import RunStore
from tests.notebook.builders import DONE, EVIL, SAMPLES, record, samples_of

TRAINED = [run for run in DONE if run.role == "grid"]
SOURCES = ("human", "mle", "mixce", "tailr")


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.setattr(blind_test, "MIN_SECONDS", 0.0)
    return lambda: BlindTest("own", TRAINED, SAMPLES, RunStore(tmp_path))


def answer(winner, loser, **facts):
    settings = {"question": "person", "prompt": "p", "left": loser, "right": winner, "time": 0.0}
    return Answer(chosen=winner, **settings | facts)


def test_every_prompt_and_every_pair_of_sources_in_turn():
    pairs = draw_pairs(TRAINED, SAMPLES, "a")
    assert pairs == draw_pairs(TRAINED, SAMPLES, "a") != draw_pairs(TRAINED, SAMPLES, "b")
    assert len({pair.prompt for pair in pairs}) == len(pairs) == 40
    couples = Counter(frozenset(pair.sources) for pair in pairs)
    assert set(couples) == {frozenset(couple) for couple in combinations(SOURCES, 2)}
    assert set(couples.values()) == {6, 7}
    left = Counter(pair.sources[0] for pair in pairs)
    assert all(left[source] not in (0, 20) for source in SOURCES)
    for pair in pairs:
        for source, text in zip(pair.sources, pair.texts, strict=True):
            assert text == " upon a time" if source == "human" else text.startswith(f" {source} said so")


def test_seeds_are_one_source_and_equal_texts_are_no_pair():
    runs = [*TRAINED[:1], record("again", 0.5, 0.5, seed=1)]
    samples = {"mle": samples_of("mle"), "again": samples_of("again")}
    pairs = draw_pairs(runs, samples, "a")
    assert {frozenset(pair.sources) for pair in pairs} == {frozenset(("human", run.name)) for run in runs}
    twin = record("twin", 0.5, 0.5, objective="mixce", eta=0.1)
    pairs = draw_pairs([TRAINED[0], twin], {"mle": samples_of("mle"), "twin": samples_of("mle")}, "a")
    assert 0 < len(pairs) < 40 and all("human" in pair.sources for pair in pairs)


def test_without_common_prompts_there_are_no_pairs():
    assert draw_pairs([], {}, "a") == []
    other = {**SAMPLES, "mle": samples_of("mle", prompt="elsewhere")}
    assert draw_pairs(TRAINED, other, "a") == []


def test_a_rater_who_always_picks_the_human():
    answers = [answer("human", loser) for loser in ("a", "b", "c") for _ in range(8)]
    answers += [answer("a", "b"), answer("a", "b"), answer("b", "c"), answer("c", "a")] * 4
    frame = ranking(answers, {"a": "MLE", "b": "MixCE"})
    assert frame["source"].tolist() == ["human", "MLE", "c", "MixCE"]
    human, mle = frame.iloc[0], frame.iloc[1]
    assert human["wins"] == wilson_interval(24, 24) and human["pairs"] == 24
    assert human["wins against human"].value is None and mle["wins against human"] == wilson_interval(0, 8)
    assert mle["wins"] == wilson_interval(8, 20)
    assert human["strength s"].low > mle["strength s"].high


def test_runs_with_the_same_label_are_ranked_as_one():
    frame = ranking([answer("human", "x"), answer("y", "human")], {"x": "MLE", "y": "MLE"})
    assert sorted(zip(frame["source"], frame["pairs"], strict=True)) == [("MLE", 2), ("human", 2)]


def test_a_line_cut_by_a_crash_costs_that_line_only(tmp_path):
    path = tmp_path / "r.jsonl"
    append_answer(path, answer("a", "b", prompt="\u2028\n1"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    append_answer(path, answer("b", "a", prompt="2"))
    assert [a.prompt for a in read_answers(tmp_path, "person")["r"]] == ["\u2028\n1", "2"]
    assert read_answers(tmp_path, "better") == {}


def test_two_panels_of_one_rater_count_an_answer_once(panel, tmp_path):
    first, second = panel(), panel()
    for _ in range(5):
        first.buttons[0].click()
        second.buttons[1].click()
    (answers,) = read_answers(first.folder, "person").values()
    assert len(answers) == 5 == len({a.prompt for a in answers})


def test_a_panel_goes_on_where_the_last_one_ended(panel, tmp_path):
    first, asked = panel(), []
    for _ in range(5):
        asked.append(first.pair)
        first.buttons[0].click()
    second = panel()
    for _ in range(35):
        asked.append(second.pair)
        second.key_box.value = "2"
        assert second.key_box.value == ""
    assert asked == draw_pairs(TRAINED, SAMPLES, "rater-1")
    assert "40 of 40 answered" in second.view.value and all(button.disabled for button in second.buttons)
    lines = (tmp_path / "own" / "blind_test" / "rater-1.jsonl").read_text().splitlines()
    chosen = [json.loads(line)["chosen"] for line in lines]
    assert chosen == [pair.sources[i >= 5] for i, pair in enumerate(asked)]
    second.question.value = "better"
    assert "0 of 40 answered" in second.view.value and second.pair == asked[0]


def test_several_raters_have_their_own_answers_and_one_result(panel):
    one = panel()
    one.show_result()
    assert "0 answers by 0 people" in one.result.value and "<table" not in one.result.value
    one.answer(0)
    one.rater.value = "someone"
    assert "0 of 40 answered" in one.view.value
    one.answer(1)
    one.show.click()
    assert "2 answers by 2 people" in one.result.value and "<table" in one.result.value
    one.answer(1)
    assert one.result.value == ""


def test_nothing_tells_the_sources_and_no_text_is_markup(panel):
    one = panel()
    for _ in range(12):
        assert not any(word in one.view.value for word in ("MLE", "MixCE", "TaiLr", "#0", 'data-run="m'))
        assert EVIL not in one.view.value and "<script" not in one.view.value and "\x1b" not in one.view.value
        one.answer(0)


@pytest.mark.parametrize("name", ["../evil", "", "a/b"])
def test_a_name_that_is_no_file_is_refused(panel, tmp_path, name):
    one = panel()
    one.rater.value = name
    assert "your name is" in one.view.value
    one.buttons[0].click()
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_double_click_is_one_answer(panel, tmp_path, monkeypatch):
    one = panel()
    monkeypatch.setattr(blind_test, "MIN_SECONDS", 60.0)
    one.buttons[0].click()
    one.key_box.value = "1"
    assert not list(tmp_path.rglob("*.jsonl")) and "0 of 40" in one.view.value
