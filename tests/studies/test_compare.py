"""Comparisons with MLE against estimates.compare, the curve by hand, and sentences that follow the numbers."""

import numpy as np
import pytest

from mixkit.metrics.ngram_metrics import text_values
from mixkit.metrics.statistics import compare, holm
from mixkit.studies.compare import beyond_curve, compare_with_mle, decoding_curves, findings, pareto_front


def run(name, objective="mixce", role="grid", seed=0, temperature=1.0, top_p=1.0, prompts=None, **metrics):
    """metrics: name=(value, low, high)."""
    made = {m: dict(zip(("value", "low", "high"), e, strict=True)) for m, e in metrics.items()}
    if prompts:
        made["judge_perplexity"] = {"value": 9.0, "low": None, "high": None, "prompts": prompts}
    decoding = {"temperature": temperature, "top_p": top_p, "top_k": 0}
    return {
        "name": name,
        "role": role,
        "parameters": {"objective": objective, "seed": seed, "eta": 0.1, **decoding},
        "metrics": made,
    }


def segments(seed: int, vocabulary: int, prompts: int = 40, sets: int = 2) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"set": s, "prompt": f"p{i}", "generated": " ".join(f"w{w}" for w in rng.integers(vocabulary, size=30))}
        for s in range(sets)
        for i in range(prompts)
    ]


DONE = [run("base", "mle", "base"), run("mle", "mle"), run("narrow"), run("like"), run("cold", "mle", "decoding")]
SAMPLES = {
    "base": segments(9, 3),
    "mle": segments(0, 30),
    "narrow": segments(1, 6),
    "like": segments(2, 30),
    "cold": segments(3, 12),
}


def test_each_run_is_held_against_mle_on_the_same_prompts():
    found = compare_with_mle(DONE, SAMPLES)
    assert {c["run"] for c in found} == {"narrow", "like", "cold"} and len(found) == 15

    def means(name, metric):
        half = len(SAMPLES[name]) // 2
        sets = [text_values([s["generated"] for s in role]) for role in (SAMPLES[name][:half], SAMPLES[name][half:])]
        return np.mean([s[metric] for s in sets], axis=0).tolist()

    for metric in ("diversity", "rep_3"):
        family = [compare(means(name, metric), means("mle", metric)) for name in ("narrow", "like", "cold")]
        rows = [c for c in found if c["metric"] == metric]
        assert [c["difference"] for c in rows] == pytest.approx([c.difference.value for c in family])
        assert [(c["low"], c["high"]) for c in rows] == [(c.difference.low, c.difference.high) for c in family]
        assert [c["effect_size"] for c in rows] == pytest.approx([c.effect_size.value for c in family])
        assert [c["p"] for c in rows] == [c.p_value for c in family]
        assert [c["holm_p"] for c in rows] == holm([c.p_value for c in family])
        assert [c["pairs"] for c in rows] == [40, 40, 40]
    by_run = {c["run"]: c for c in found if c["metric"] == "diversity"}
    assert by_run["narrow"]["high"] < 0 and by_run["narrow"]["holm_p"] < 0.05 < by_run["like"]["holm_p"]
    lengths = [c for c in found if c["metric"] == "length"]
    assert all(c["difference"] == 0 and c["effect_size"] == 0 and c["p"] == 1 for c in lengths)


def test_runs_of_other_prompts_other_seeds_or_without_samples_are_left_out():
    other = [{**s, "prompt": "x" + s["prompt"]} for s in segments(1, 6)]
    done = [run("mle", "mle"), run("a"), run("b"), run("c", seed=1), run("ragged")]
    samples = {"mle": segments(0, 30), "a": other, "c": segments(4, 30), "ragged": segments(4, 30)[:-1]}
    assert compare_with_mle(done, samples) == []
    assert compare_with_mle(done[1:], samples) == [] and compare_with_mle([], {}) == []
    seeds = [*done[:1], run("c", seed=1), run("mle1", "mle", seed=1)]
    assert {c["run"] for c in compare_with_mle(seeds, {**samples, "mle1": segments(5, 30)})} == {"c"}


def test_what_a_judge_kept_is_compared_too():
    rng = np.random.default_rng(0)
    low, high = rng.random(40).tolist(), (rng.random(40) + 1).tolist()
    done = [run("mle", "mle", prompts=high), run("a", prompts=[None, *low[1:]]), run("b", prompts=low[:9])]
    samples = dict.fromkeys(("mle", "a", "b"), segments(0, 30))
    (found,) = (c for c in compare_with_mle(done, samples) if c["metric"] == "judge_perplexity")
    assert found["run"] == "a" and found["pairs"] == 39
    assert found["difference"] == pytest.approx(np.mean(low[1:]) - np.mean(high[1:]))


def at(name, x, y, half=0.0, **parameters):
    return run(name, distinct_2=(x, x - half, x + half), mauve=(y, y - half, y + half), **parameters)


CURVE = [
    at("T.5", 0.2, 0.9, 0.02, objective="mle", role="decoding", temperature=0.5),
    at("T.7", 0.5, 0.8, 0.02, objective="mle", role="decoding", temperature=0.7),
    at("mle", 0.8, 0.4, 0.02, objective="mle"),
]


@pytest.mark.parametrize(
    ("x", "y", "half", "place"),
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
def test_beyond_the_curve_by_more_than_the_intervals(x, y, half, place):
    assert beyond_curve(at("r", x, y, half), CURVE, "mauve", "distinct_2") == place
    assert beyond_curve(at("r", x, y, half), CURVE[::-1], "mauve", "distinct_2") == place


def test_without_a_curve_or_a_number_nothing_is_said():
    assert beyond_curve(at("r", 0.5, 0.9), CURVE[:1], "mauve", "distinct_2") == "outside"
    absent = run("r", mauve=(None, None, None), distinct_2=(0.5, 0.5, 0.5))
    assert beyond_curve(absent, CURVE, "mauve", "distinct_2") == "outside"
    bare = run("r", mauve=(0.99, None, None), distinct_2=(0.5, None, None))
    assert beyond_curve(bare, CURVE, "mauve", "distinct_2") == "above"


def test_a_curve_turns_one_knob_of_one_seed():
    top_p = [at(f"p{p}", 0.6, 0.7, objective="mle", role="decoding", top_p=p) for p in (0.95, 0.8)]
    both = at("both", 0.6, 0.7, objective="mle", role="decoding", top_p=0.9, temperature=0.7)
    seed1 = [at("mle1", 0.6, 0.7, objective="mle", seed=1), at("r1", 0.6, 0.7, seed=1)]
    curves = decoding_curves([*CURVE[::-1], *top_p, both, *seed1])
    assert [(knob, seed, [r["name"] for r in runs]) for knob, seed, runs in curves] == [
        ("temperature", 0, ["T.5", "T.7", "mle"]),
        ("top_p", 0, ["p0.8", "p0.95", "mle"]),
    ]
    assert decoding_curves([CURVE[2]]) == [] == decoding_curves([])


def test_undominated_runs_are_surpassed_by_none():
    done = [at("a", 0.2, 0.9), at("b", 0.5, 0.8), at("c", 0.4, 0.8), at("d", 0.8, 0.1), at("e", 0.8, 0.1)]
    done.append(run("absent", mauve=(None, None, None)))
    assert [r["name"] for r in pareto_front(done, "mauve", "distinct_2")] == ["a", "b", "d", "e"]
    assert [r["name"] for r in pareto_front(done, "mauve", "distinct_2", ("distinct_2",))] == ["a"]
    assert [r["name"] for r in pareto_front(done, "mauve", "distinct_2", cap=0.5)] == ["a", "b"]
    # where less is more varied, 0.4 counts as 0.5
    lower = pareto_front(done[1:], "mauve", "distinct_2", ("distinct_2",), cap=0.5)
    assert [r["name"] for r in lower] == ["b", "c"]


def test_the_sentences_follow_the_numbers():
    above, on = at("good", 0.5, 0.95, 0.01), at("same", 0.5, 0.8, 0.01)
    human = {"mauve": {"value": 0.97, "low": 0.95, "high": 0.99}}
    done = [{**r, "human": human} for r in [*CURVE, above, on]]
    names = {r["name"]: r["name"].upper() for r in done}
    pairs = [("mauve", "distinct_2")]
    compared = [
        {"run": "good", "metric": "diversity", "difference": 0.12, "effect_size": 0.5, "p": 0.001, "holm_p": 0.002},
        {"run": "same", "metric": "diversity", "difference": 0.01, "effect_size": 0.1, "p": 0.04, "holm_p": 0.06},
        {"run": "same", "metric": "rep_2", "difference": 0.01, "effect_size": None, "p": 0.3, "holm_p": 0.3},
    ]
    said = findings(done, compared, names, pairs)
    assert "beyond it by more than the intervals: GOOD; not told apart from it: SAME." in said[0]
    assert "only its temperature turned" in said[0] and "No objective" not in said[0] and "2 runs" in said[0]
    assert "1 of 2 differences survive Holm's correction: GOOD +0.12 (d = 0.5). 1 more would pass" in said[1]
    assert said[2].endswith("none of 1 differences survives Holm's correction at 0.05.")
    assert "a MAUVE of 0.95 to 0.99; not told apart from that: GOOD." in said[3]
    assert "trained once" in said[4] and len(said) == 5
    beaten = findings([r for r in done if r["name"] != "good"], [], names, pairs)
    assert "No objective is shown to reach what MLE cannot reach" in beaten[0]
    assert "the interval of every run ends below" in beaten[1]
    assert "no decoding baselines" in findings([above, CURVE[2]], [], names)[0]
    assert findings([], [], {}) == []


def test_nothing_is_said_of_runs_that_lack_a_number():
    lacking = {**at("lacking", 0.5, 0.9), "metrics": {"mauve": {"value": None, "low": None, "high": None}}}
    names = {"lacking": "LACKING", "good": "GOOD"}
    (said, _) = findings([*CURVE, at("good", 0.5, 0.95, 0.01), lacking], [], names, [("mauve", "distinct_2")])
    assert "GOOD" in said and "LACKING" not in said and said.endswith("1 runs were looked at, uncorrected.")
    assert [s for s in findings([*CURVE, lacking], [], names) if "beside MLE" in s] == []
