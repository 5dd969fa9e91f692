"""What a study's numbers support: each run against MLE on the same prompts, and against the curve of MLE's decoding.
Records and samples in, records and plain sentences out; nothing is measured or drawn here."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from mixkit._common import InputError
from mixkit.metrics.ngram_metrics import text_values
from mixkit.metrics.statistics import compare, holm

TEXT_METRICS = ("diversity", "rep_2", "rep_3", "rep_4", "length")
MODEL_METRICS = ("coherence", "judge_perplexity")  # where a run was judged by them; the judge's as nats per token
LEVEL = 0.05
DECODING_PARAMETERS = ("temperature", "top_p")


def compare_with_mle(done: Sequence[dict], samples: Mapping[str, Sequence[dict]]) -> list[dict]:
    """One record a run and metric: {run, metric, difference, low, high, effect_size, p, holm_p, pairs}.

    done: a study's run records. samples: by run name, its continuations with `set`, `prompt` and `generated`. A run is
    held against the trained MLE run of its seed; runs of other prompts, and the base run, are left out. A prompt's
    value is the mean over sample sets of what `text_values` gives for its continuations; `difference` is the mean over
    prompts of run - MLE (see `estimates.compare`). holm_p: Holm's correction over all runs of the study, a family for
    each metric. effect_size is None where all differences are equal.
    """
    found = []
    values = {r["name"]: _values(r, samples.get(r["name"], ())) for r in done if r.get("role") != "base"}
    for metric in (*TEXT_METRICS, *MODEL_METRICS):
        family = []
        for run in done:
            mle = _mle(done, run["parameters"]["seed"])
            if run.get("role") == "base" or mle is None or mle["name"] == run["name"]:
                continue
            (ours, a), (theirs, b) = values[run["name"]], values[mle["name"]]
            if ours != theirs or metric not in a or metric not in b:
                continue
            try:
                family.append((run["name"], compare(a[metric], b[metric])))
            except InputError:  # fewer than two prompts have a value in both
                continue
        corrected = holm([c.p_value for _, c in family]) if family else []
        found += [
            {
                "run": name,
                "metric": metric,
                "difference": c.difference.value,
                "low": c.difference.low,
                "high": c.difference.high,
                "effect_size": c.effect_size.value,
                "p": c.p_value,
                "holm_p": p,
                "pairs": c.pairs,
            }
            for (name, c), p in zip(family, corrected, strict=True)
        ]
    return found


def decoding_curves(done: Sequence[dict]) -> list[tuple[str, int, list[dict]]]:
    """(knob, seed, runs): the trained MLE run of each seed and the same model decoded with only that knob turned.

    In order of the knob, temperature or top_p; a knob that no run turns has no curve.
    """
    curves = []
    for knob in DECODING_PARAMETERS:
        for seed in sorted({r["parameters"]["seed"] for r in done}):
            plain = _mle(done, seed)
            turned = [
                r
                for r in done
                if r.get("role") == "decoding"
                and r["parameters"]["seed"] == seed
                and r["parameters"][knob] != 1
                and r["parameters"]["top_k"] == 0
                and all(r["parameters"][other] == 1 for other in DECODING_PARAMETERS if other != knob)
            ]
            if turned:
                runs = turned + [plain] * (plain is not None)
                curves.append((knob, seed, sorted(runs, key=lambda r: r["parameters"][knob])))
    return curves


def beyond_curve(record: dict, curve: Sequence[dict], quality: str, diversity: str) -> str:
    """`above`, `below`, `on` or `outside` the curve, by more than the intervals of run and curve together.

    The curve's points are joined by straight lines, its interval's ends likewise. `above`: over the whole width of the
    run's interval in diversity, its lower end in quality is above the upper end of the curve; `below` the other way
    round; `on`: not told apart. `outside`: the run's interval in diversity lies wholly outside the curve's range, or a
    number is missing. Higher is better on both axes.
    """
    points = [p for p in (_box(r, quality, diversity) for r in curve) if p]
    own = _box(record, quality, diversity)
    if own is None or len(points) < 2:
        return "outside"
    (_, left, right), (_, low, high) = own
    lows, highs = [], []
    for ((x0, *_), (_, *ends0)), ((x1, *_), (_, *ends1)) in pairwise(points):
        start, end = max(left, min(x0, x1)), min(right, max(x0, x1))
        for x in (start, end) if start <= end else ():
            share = (x - x0) / (x1 - x0) if x1 != x0 else 0.5
            bottom, top = (e0 + share * (e1 - e0) for e0, e1 in zip(ends0, ends1, strict=True))
            lows.append(bottom)
            highs.append(top)
    if not highs:
        return "outside"
    return "above" if low > max(highs) else "below" if high < min(lows) else "on"


def findings(
    done: Sequence[dict],
    compared: Sequence[dict],
    names: Mapping[str, str],
    pairs: Sequence[tuple[str, str]] = (("mauve", "distinct_2"), ("mauve", "diversity")),
) -> list[str]:
    """Sentences about what the intervals do and do not support, from the numbers alone.

    compared: of `compare_with_mle`. names: what each run is called. pairs: (quality, diversity), higher better on both;
    nothing is said of a run that lacks one of the two.
    """
    trained = [r for r in done if r.get("role", "grid") == "grid" and r["parameters"]["objective"] != "mle"]
    said = []
    for quality, diversity in pairs:
        for knob in DECODING_PARAMETERS:
            by_seed = {seed: curve for k, seed, curve in decoding_curves(done) if k == knob}
            places = {
                r["name"]: beyond_curve(r, by_seed.get(r["parameters"]["seed"], []), quality, diversity)
                for r in trained
                if _box(r, quality, diversity)
            }
            if by_seed and places:
                said.append(_about_curve(places, knob.replace("_", "-"), quality, diversity, names))
    if trained and not decoding_curves(done):
        said.append("The study has no decoding baselines, so nothing is said about MLE at other temperatures.")
    for metric in dict.fromkeys(c["metric"] for c in compared):
        family = [c for c in compared if c["metric"] == metric]
        said.append(_about_differences(metric, family, names))
    said += _about_ceiling(done, names)
    if done and len({r["parameters"]["seed"] for r in done}) == 1:
        said.append(
            "Every run was trained once. The intervals hold the luck of sampling, not that of training: a second seed "
            "may move a run by more than its interval."
        )
    return said


def pareto_front(
    done: Sequence[dict],
    quality: str,
    diversity: str,
    lower_is_better: Sequence[str] = (),
    *,
    cap: float | None = None,
) -> list[dict]:
    """The runs that no other run surpasses on one axis without falling behind on the other, by value.

    enough: what `diversity` is of the human texts, where known; what lies beyond counts as much as that, not more.
    """

    def place(record: dict) -> tuple[float, float] | None:
        values = [(record["metrics"].get(m) or {}).get("value") for m in (quality, diversity)]
        if None in values:
            return None
        signs = [-1 if m in lower_is_better else 1 for m in (quality, diversity)]
        good, varied = (sign * value for sign, value in zip(signs, values, strict=True))
        return good, varied if cap is None else min(varied, signs[1] * cap)

    placed = [(r, p) for r in done if (p := place(r))]
    return [r for r, p in placed if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for _, q in placed)]


def _mle(done: Sequence[dict], seed: int) -> dict | None:
    return next(
        (
            r
            for r in done
            if r.get("role", "grid") == "grid"
            and r["parameters"]["objective"] == "mle"
            and r["parameters"]["seed"] == seed
        ),
        None,
    )


def _values(record: dict, samples: Sequence[dict]) -> tuple[list[str], dict[str, list[float | None]]]:
    """The prompts of the run, and by metric one value a prompt, the mean over its sample sets."""
    sets: dict[int, list[dict]] = {}
    for sample in samples:
        sets.setdefault(sample["set"], []).append(sample)
    if not sets or len({len(texts) for texts in sets.values()}) > 1:
        return [], {}
    prompts = [sample["prompt"] for sample in next(iter(sets.values()))]
    by_text = text_values([s["generated"] for texts in sets.values() for s in texts])  # one counting pass
    values = {
        metric: _means([by_text[metric][start :: len(prompts)] for start in range(len(prompts))])
        for metric in TEXT_METRICS
    }
    for metric in MODEL_METRICS:
        kept = (record["metrics"].get(metric) or {}).get("prompts")
        if kept and len(kept) == len(prompts):
            values[metric] = kept
    return prompts, values


def _means(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    held = ([x for x in row if x is not None] for row in rows)
    return [sum(row) / len(row) if row else None for row in held]


def _box(record: dict, quality: str, diversity: str) -> tuple | None:
    """((diversity, low, high), (quality, low, high)), an absent interval as the value; None where a value is absent."""
    box = []
    for metric in (diversity, quality):
        e = record["metrics"].get(metric) or {"value": None}
        if e["value"] is None:
            return None
        box.append((e["value"], *((e["value"],) * 2 if e["low"] is None else (e["low"], e["high"]))))
    return tuple(box)


def _about_curve(places: dict[str, str], knob: str, quality: str, diversity: str, names: Mapping[str, str]) -> str:
    of = {where: [names[n] for n, p in places.items() if p == where] for where in ("above", "below", "on", "outside")}
    words = (
        ("above", "beyond it by more than the intervals"),
        ("below", "short of it by more than the intervals"),
        ("on", "not told apart from it"),
        ("outside", "where MLE was not sampled, so nothing is said"),
    )
    parts = [f"{text}: {_list(of[where])}" for where, text in words if of[where]]
    none = "" if of["above"] else " No objective is shown to reach what MLE cannot reach by decoding."
    return (
        f"{quality} against {diversity}, beside MLE with only its {knob} turned: {'; '.join(parts)}.{none} "
        f"{len(places)} runs were looked at, uncorrected."
    )


def _about_differences(metric: str, family: Sequence[dict], names: Mapping[str, str]) -> str:
    held = [c for c in family if c["holm_p"] < LEVEL]
    what = f"{metric} on the same prompts, run minus MLE"
    if not held:
        return f"{what}: none of {len(family)} differences survives Holm's correction at {LEVEL:g}."
    shown = [f"{names[c['run']]} {c['difference']:+.2g} (d = {_effect(c)})" for c in held]
    lost = sum(c["p"] < LEVEL <= c["holm_p"] for c in family)
    also = f" {lost} more would pass without it." if lost else ""
    return f"{what}: {len(held)} of {len(family)} differences survive Holm's correction: {_list(shown)}.{also}"


def _about_ceiling(done: Sequence[dict], names: Mapping[str, str]) -> list[str]:
    ceiling = next((r["human"]["mauve"] for r in done if (r.get("human") or {}).get("mauve")), None)
    if not ceiling or ceiling["value"] is None:
        return [f"There is no human ceiling of MAUVE: {ceiling['why']}."] if ceiling else []
    if ceiling["low"] is None:
        return []
    shown = [r for r in done if r.get("role") != "base" and _box(r, "mauve", "mauve")]
    reached = [names[r["name"]] for r in shown if _box(r, "mauve", "mauve")[1][2] >= ceiling["low"]]
    reach = f"{ceiling['low']:.2f} to {ceiling['high']:.2f}"
    text = f"Human texts against other human texts, as many, have a MAUVE of {reach}"
    if not reached:
        return [f"{text}; the interval of every run ends below."]
    return [f"{text}; not told apart from that: {_list(reached)}."]


def _effect(compared: dict) -> str:
    return "–" if compared["effect_size"] is None else f"{compared['effect_size']:.2g}"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
