"""Comparisons with MLE against `statistics.compare`, places beside the curve by hand, and verdicts that follow."""

import numpy as np
import pandas as pd
import pytest

from mixkit.metrics.ngram_metrics import text_values
from mixkit.metrics.statistics import compare, holm
from mixkit.studies.compare import (
    COLUMNS,
    compare_with_mle,
    conclusion,
    controls,
    curve_place,
    decoders,
    decoding_curves,
    pareto_front,
    verdicts,
)
from mixkit.studies.records import results_frame
from mixkit.studies.store import Metric, Sample
from tests.support import record


def written(seed: int, vocabulary: int, prompts: int = 40, sets: int = 2, prefix: str = "p") -> list[Sample]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{w}" for w in rng.integers(vocabulary, size=30)) for _ in range(prompts * sets)]
    places = [(s, i) for s in range(sets) for i in range(prompts)]
    return [
        Sample(set=s, prompt=f"{prefix}{i}", human="", generated=text)
        for (s, i), text in zip(places, texts, strict=True)
    ]


DONE = [
    record("base", "mle", "base"),
    record("mle", "mle"),
    record("narrow"),
    record("like"),
    record("cold", "mle", "decoding"),
]
SAMPLES = {
    "base": written(9, 3),
    "mle": written(0, 30),
    "narrow": written(1, 6),
    "like": written(2, 30),
    "cold": written(3, 12),
}


def test_each_run_is_compared_with_mle_on_the_same_prompts():
    table = compare_with_mle(DONE, SAMPLES)
    assert set(table["run"]) == {"narrow", "like", "cold"} and len(table) == 15 and tuple(table) == COLUMNS

    def means(name, metric):
        half = len(SAMPLES[name]) // 2
        sets = [text_values([s.generated for s in part]) for part in (SAMPLES[name][:half], SAMPLES[name][half:])]
        return np.mean([s[metric] for s in sets], axis=0).tolist()

    for metric in ("diversity", "rep_3"):
        family = [compare(means(name, metric), means("mle", metric)) for name in ("narrow", "like", "cold")]
        rows = table[table["metric"] == metric]
        assert rows["difference"].tolist() == pytest.approx([c.difference.value for c in family])
        assert rows["low"].tolist() == [c.difference.low for c in family]
        assert rows["high"].tolist() == [c.difference.high for c in family]
        assert rows["effect_size"].tolist() == pytest.approx([c.effect_size for c in family])
        assert rows["p"].tolist() == [c.p_value for c in family]
        assert rows["holm_p"].tolist() == holm([c.p_value for c in family])
        assert rows["pairs"].tolist() == [40, 40, 40]
    rows = table[table["metric"] == "diversity"].set_index("run")
    assert rows.loc["narrow", "high"] < 0
    assert rows.loc["narrow", "holm_p"] < 0.05 < rows.loc["like", "holm_p"]
    lengths = table[table["metric"] == "length"]
    assert (lengths[["difference", "effect_size"]] == 0).all(axis=None) and (lengths["p"] == 1).all()


def test_other_prompts_other_seeds_and_no_samples_have_no_rows():
    done = [record("mle", "mle"), record("a"), record("b"), record("c", seed=1), record("ragged")]
    samples = {
        "mle": written(0, 30),
        "a": written(1, 6, prefix="x"),
        "c": written(4, 30),
        "ragged": written(4, 30)[:-1],
    }
    assert compare_with_mle(done, samples).empty
    assert compare_with_mle(done[1:], samples).empty and compare_with_mle([], {}).empty
    seeds = [done[0], record("c", seed=1), record("mle1", "mle", seed=1)]
    assert set(compare_with_mle(seeds, {**samples, "mle1": written(5, 30)})["run"]) == {"c"}


def test_values_by_another_model_are_compared_too():
    def judged(name, objective, values):
        return record(name, objective, metrics={"judge_perplexity": Metric(value=9.0, prompts=values)})

    rng = np.random.default_rng(0)
    low, high = rng.random(40).tolist(), (rng.random(40) + 1).tolist()
    done = [judged("mle", "mle", high), judged("a", "mixce", [None, *low[1:]]), judged("b", "mixce", low[:9])]
    table = compare_with_mle(done, dict.fromkeys(("mle", "a", "b"), written(0, 30)))
    (row,) = table[table["metric"] == "judge_perplexity"].to_dict("records")
    assert row["run"] == "a" and row["pairs"] == 39
    assert row["difference"] == pytest.approx(np.mean(low[1:]) - np.mean(high[1:]))


def at(name, x, y, half=0.0, objective="mixce", role="grid", **settings):
    numbers = {"distinct_2": (x, x - half, x + half), "mauve": (y, y - half, y + half)}
    human = {"mauve": (0.97, 0.95, 0.99), "distinct_2": (0.9, None, None)}
    return record(name, objective, role, metrics=numbers, human=human, **settings)


CURVE = [
    at("T.5", 0.2, 0.9, 0.02, objective="mle", role="decoding", temperature=0.5),
    at("T.7", 0.5, 0.8, 0.02, objective="mle", role="decoding", temperature=0.7),
    at("mle", 0.8, 0.4, 0.02, objective="mle"),
]
NAMES = ["T.5", "T.7", "mle"]


def place(run, curve=CURVE, names=NAMES):
    return curve_place(results_frame([*curve, run]), run.name, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "y", "half", "expected"),
    [
        (0.35, 0.90, 0.01, "above"),  # the curve is 0.85 + 0.02 there, and 0.8533 + 0.02 at 0.34
        (0.35, 0.88, 0.01, "on"),
        (0.35, 0.81, 0.01, "below"),  # 0.8467 - 0.02 at 0.36
        (0.65, 0.66, 0.0, "above"),  # 0.6 + 0.02
        (0.65, 0.66, 0.05, "on"),
        (0.5, 0.83, 0.0, "above"),
        (0.5, 0.82, 0.0, "on"),
        (0.9, 0.99, 0.01, "outside"),
        (0.1, 0.1, 0.01, "outside"),
        (0.81, 0.45, 0.02, "on"),  # at its left end, 0.79, the curve reaches 0.4133 + 0.02
        (0.81, 0.49, 0.02, "above"),
    ],
)
def test_the_place_beside_the_curve_by_more_than_the_intervals(x, y, half, expected):
    assert place(at("r", x, y, half)) == expected
    assert place(at("r", x, y, half), CURVE[::-1], NAMES[::-1]) == expected


def test_without_a_curve_or_a_value_a_run_is_outside():
    assert place(at("r", 0.5, 0.9), CURVE[:1], NAMES[:1]) == "outside"
    absent = record("r", metrics={"mauve": Metric(why="none"), "distinct_2": (0.5, 0.5, 0.5)})
    assert place(absent) == "outside"
    bare = record("r", metrics={"mauve": (0.99, None, None), "distinct_2": (0.5, None, None)})
    assert place(bare) == "above"


def test_a_curve_varies_one_parameter_of_one_seed():
    top_p = [at(f"p{p}", 0.6, 0.7, objective="mle", role="decoding", top_p=p) for p in (0.95, 0.8)]
    both = at("both", 0.6, 0.7, objective="mle", role="decoding", top_p=0.9, temperature=0.7)
    seed1 = [at("mle1", 0.6, 0.7, objective="mle", seed=1), at("r1", 0.6, 0.7, seed=1)]
    curves = decoding_curves(results_frame([*CURVE[::-1], *top_p, both, *seed1]))
    assert curves == [("temperature", 0, NAMES), ("top_p", 0, ["p0.8", "p0.95", "mle"])]
    assert decoding_curves(results_frame([CURVE[2]])) == [] == decoding_curves(results_frame([]))


def test_no_run_surpasses_those_of_the_pareto_front():
    points = {"a": (0.2, 0.9), "b": (0.5, 0.8), "c": (0.4, 0.8), "d": (0.8, 0.1), "e": (0.8, 0.1)}
    done = [at(name, *point) for name, point in points.items()]
    done += [record("absent", metrics={"mauve": Metric(why="none")}), at("base", 0.9, 0.99, role="base")]
    frame = results_frame(done)
    assert pareto_front(frame, "mauve", "distinct_2") == ["a", "b", "d", "e"]
    capped = frame.copy()
    capped.loc[(capped["run"] == "human") & (capped["metric"] == "distinct_2"), "value"] = 0.5
    assert pareto_front(capped, "mauve", "distinct_2") == ["a", "b"]
    lower = frame.replace({"metric": {"distinct_2": "self_bleu_4"}})  # lower is better; the human texts have 0.9
    assert pareto_front(lower, "mauve", "self_bleu_4") == ["a"]
    lower.loc[(lower["run"] == "human") & (lower["metric"] == "self_bleu_4"), "value"] = 0.5
    assert pareto_front(lower, "mauve", "self_bleu_4") == ["a"]
    assert pareto_front(lower[lower["run"] != "a"], "mauve", "self_bleu_4") == ["b", "c"]  # 0.4 counts as 0.5
    assert pareto_front(frame.replace({"metric": {"mauve": "length"}}), "length", "distinct_2") == []


def test_verdicts_follow_the_numbers():
    done = [*CURVE, at("good", 0.5, 0.95, 0.01, eta=0.2), at("same", 0.5, 0.8, 0.01), at("far", 0.99, 0.8, 0.01)]
    compared = pd.DataFrame(
        [
            ("good", "diversity", 0.12, 0.1, 0.14, 0.5, 0.001, 0.002, 40),
            ("good", "rep_2", -0.031, -0.04, -0.02, 0.5, 0.001, 0.002, 40),
            ("same", "diversity", 0.01, 0.0, 0.02, 0.1, 0.04, 0.06, 40),
        ],
        columns=list(COLUMNS),
    )
    done.append(at("twin", 0.5, 0.7, 0.01, objective="mle", role="decoding", decode_as="mixce", eta=0.2))
    table = verdicts(done, compared)
    assert table.values.tolist() == [
        ["MixCE η=0.2", 0, "above the curve", "better", "reached", "diversity +0.12, rep_2 -0.031"],
        ["MixCE η=0.5", 0, "on the curve", "", "not reached", ""],
        ["MixCE η=0.5", 0, "outside the curve", "", "not reached", ""],
    ]
    assert conclusion(table).startswith(
        "1 of 3 runs are above MLE's decoding curve: MixCE η=0.2; "
        "1 of them cannot be compared: no curve, outside its range, or no value; "
        "1 of 1 are better than MLE decoded as their objective: MixCE η=0.2; 2 of 2 were trained once"
    )
    assert "no objective is shown to beat decoding" in conclusion(table[1:2])
    twice = table[:2].assign(decoder="", run=["MixCE η=0.2", "MixCE η=0.2, seed 1"], seed=[0, 1])
    assert conclusion(twice) == "1 of 2 runs are above MLE's decoding curve: MixCE η=0.2."
    assert "; 1 of 2 were trained once: their" in conclusion(table.assign(seed=[0, 1, 2]))
    alone = verdicts([at("good", 0.5, 0.95, 0.01), CURVE[2]], compared)
    assert alone["verdict"].tolist() == ["no curve"] and "no decoding baselines" in conclusion(alone)
    assert verdicts([], compared).empty and "no other objective than MLE" in conclusion(verdicts([], compared))
    one_without = table.assign(verdict=["above the curve", "no curve", "outside the curve"])
    assert "; 2 of them cannot be compared: no curve" in conclusion(one_without)
    assert conclusion(table[2:]).startswith("All runs are outside the range")


def test_curves_of_objectives_and_controls():
    as_mixce = [
        at(f"as{eta}", x, y, 0.01, objective="mle", role="decoding", decode_as="mixce", eta=eta)
        for eta, x, y in ((0.5, 0.7, 0.5), (0.1, 0.4, 0.85))
    ]
    as_tailr = [at("ast", 0.6, 0.6, objective="mle", role="decoding", decode_as="tailr", gamma=0.1, w_min=0.0)]
    as_power = [at("asp", 0.6, 0.6, objective="mle", role="decoding", decode_as="power(0.3)")]
    trained = [at("r", 0.35, 0.8, 0.01, eta=0.1), at("far", 0.1, 0.9, eta=0.5), at("alone", 0.5, 0.7, eta=0.9)]
    frame = results_frame([*CURVE, *as_mixce, *as_tailr, *as_power, *trained])
    assert decoding_curves(frame) == [
        ("temperature", 0, NAMES),
        ("decode_as mixce", 0, ["as0.1", "as0.5", "mle"]),  # eta 1 is MLE
        ("decode_as tailr", 0, ["mle", "ast"]),  # gamma 0 is
        ("decode_as power", 0, ["mle", "asp"]),
    ]
    assert decoders(frame) == {"r": "as0.1", "far": "as0.5"}
    table = controls(frame, ["mauve", "distinct_2"])
    values = table.query("run == 'MixCE η=0.1'").pivot(index="texts", columns="metric", values="value")
    assert values.loc["trained"].to_dict() == {"mauve": 0.8, "distinct_2": 0.35}
    assert values.loc["MLE decoded as it"].to_dict() == {"mauve": 0.85, "distinct_2": 0.4}
    assert values.loc["MLE at T=0.60"].to_dict() == pytest.approx({"mauve": 0.85, "distinct_2": 0.35})
    assert table.query("run == 'MixCE η=0.5'")["texts"].unique().tolist() == ["trained", "MLE decoded as it"]
