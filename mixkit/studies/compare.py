"""What a study's numbers support: runs against MLE on the same prompts, and against MLE's decoding curve."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from mixkit._common import InputError
from mixkit.metrics.definitions import METRICS, PAIRED_MODEL_METRICS, PAIRED_TEXT_METRICS
from mixkit.metrics.ngram_metrics import text_values
from mixkit.metrics.statistics import compare, holm
from mixkit.studies.records import HUMAN, results_frame
from mixkit.studies.store import Metric, RunRecord, Sample

LEVEL = 0.05
NO_CURVE = "no curve"
CURVE_PARAMETERS = ("temperature", "top_p")
COLUMNS = ("run", "metric", "difference", "low", "high", "effect_size", "p", "holm_p", "pairs")


def compare_with_mle(records: Sequence[RunRecord], samples: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """One row per run and metric, with the columns COLUMNS: the run against the trained MLE run of its seed.

    samples: by run name. A prompt's value is the mean over its continuations. difference: the mean over prompts of
    run - MLE, with its interval (see `statistics.compare`). effect_size: NaN if all differences are equal. holm_p:
    Holm's correction over all runs, per metric. The base run and runs with other prompts have no rows.
    """
    rows = []
    values = {record.name: _values(record, samples.get(record.name, ())) for record in records}
    for metric in (*PAIRED_TEXT_METRICS, *PAIRED_MODEL_METRICS):
        family = []
        for record in records:
            mle = _trained_mle(records, record.config.seed)
            if record.role == "base" or mle is None or mle.name == record.name:
                continue
            (prompts, a), (mle_prompts, b) = values[record.name], values[mle.name]
            if prompts != mle_prompts or metric not in a or metric not in b:
                continue
            try:
                family.append((record.name, compare(a[metric], b[metric])))
            except InputError:  # fewer than two prompts have a value in both
                continue
        corrected = holm([c.p_value for _, c in family]) if family else []
        for (name, c), holm_p in zip(family, corrected, strict=True):
            ends = (c.difference.value, c.difference.low, c.difference.high)
            rows.append((name, metric, *ends, c.effect_size.value, c.p_value, holm_p, c.pairs))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _trained_mle(records: Sequence[RunRecord], seed: int) -> RunRecord | None:
    runs = (r for r in records if r.role == "grid" and r.config.objective == "mle" and r.config.seed == seed)
    return next(runs, None)


def _values(record: RunRecord, samples: Sequence[Sample]) -> tuple[list[str], dict[str, list[float | None]]]:
    """The run's prompts, and for each metric one value per prompt: the mean over its sample sets."""
    sets: dict[int, list[Sample]] = {}
    for sample in samples:
        sets.setdefault(sample.set, []).append(sample)
    if not sets or len({len(texts) for texts in sets.values()}) > 1:
        return [], {}
    prompts = [sample.prompt for sample in next(iter(sets.values()))]
    by_text = text_values([sample.generated for texts in sets.values() for sample in texts])
    values: dict[str, list[float | None]] = {}
    for metric in PAIRED_TEXT_METRICS:
        values[metric] = [_mean(by_text[metric][i :: len(prompts)]) for i in range(len(prompts))]
    for metric in PAIRED_MODEL_METRICS:
        by_prompt = record.metrics.get(metric, Metric()).prompts
        if by_prompt and len(by_prompt) == len(prompts):
            values[metric] = by_prompt
    return prompts, values


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


class DecodingCurve(NamedTuple):
    """Runs of one MLE model that differ in one decoding parameter, in its order; the trained run is among them."""

    parameter: str
    seed: int
    runs: list[str]


def decoding_curves(results: pd.DataFrame) -> list[DecodingCurve]:
    """The curves of every seed: by temperature, and by top_p. results: of `results_frame`."""
    runs, curves = results.drop_duplicates("run"), []
    for parameter, other in (CURVE_PARAMETERS, CURVE_PARAMETERS[::-1]):
        decoded = runs.query(f"role == 'decoding' and {parameter} != 1 and {other} == 1 and top_k == 0")
        for seed in sorted(decoded["seed"].unique().tolist()):
            trained = runs.query("role == 'grid' and objective == 'mle' and seed == @seed").head(1)
            same_seed = pd.concat([decoded.query("seed == @seed"), trained])
            ordered = same_seed.sort_values(parameter, kind="stable")
            curves.append(DecodingCurve(parameter, int(seed), ordered["run"].tolist()))
    return curves


def pareto_front(results: pd.DataFrame, quality: str, diversity: str) -> list[str]:
    """The trained and decoded runs that no other surpasses on one axis without being worse on the other, by value.

    Diversity counts up to that of the human texts: more than humans have is not better. Empty if a metric has no better
    end.
    """
    directions = {name: METRICS[name].direction if name in METRICS else "higher" for name in (quality, diversity)}
    if "none" in directions.values():
        return []
    wide = results.pivot(index="run", columns="metric", values="value").reindex(columns=[quality, diversity])
    for metric, direction in directions.items():
        if direction == "lower":
            wide[metric] = -wide[metric]
    if HUMAN in wide.index:
        wide[diversity] = wide[diversity].clip(upper=wide.loc[HUMAN, diversity])
    points = wide.loc[results.query("role in ('grid', 'decoding')")["run"].unique()].dropna()
    surpassed = [((points >= point).all(axis=1) & (points > point).any(axis=1)).any() for point in points.to_numpy()]
    return points.index[~np.array(surpassed, dtype=bool)].tolist()


def curve_place(results: pd.DataFrame, run: str, curve: Sequence[str], quality: str, diversity: str) -> str:
    """Where a run lies relative to a curve of runs: "above", "below", "on" or "outside" it.

    above: over the whole width of the run's interval in diversity, its lower end in quality is above the upper end of
    the curve, whose points and interval ends are joined by straight lines. below: the other way round. on: neither.
    outside: the run's interval lies outside the curve's range, or a value is absent. Higher is better on both axes.
    """
    boxes = {}
    for name in [*curve, run]:
        box = [_interval(results, name, metric) for metric in (diversity, quality)]
        if None not in box:
            boxes[name] = box
    points = [boxes[name] for name in curve if name in boxes]
    if run not in boxes or len(points) < 2:
        return "outside"
    (_, left, right), (_, low, high) = boxes[run]
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


def _interval(results: pd.DataFrame, run: str, metric: str) -> tuple[float, float, float] | None:
    """(value, low, high); an absent interval is the value. None if the value is absent."""
    for row in results.query("run == @run and metric == @metric").to_dict(orient="records"):
        if not pd.isna(row["value"]):
            return row["value"], *(row["value"] if pd.isna(row[end]) else row[end] for end in ("low", "high"))
    return None


def verdicts(
    records: Sequence[RunRecord], compared: pd.DataFrame, quality: str = "mauve", diversity: str = "distinct_2"
) -> pd.DataFrame:
    """One row per trained run of another objective than MLE: run (its label), seed, verdict, human, differences.

    verdict: the run's place relative to MLE's decoding curves of its seed, by more than the intervals. It is "above the
    curve" if it is above every curve that it is not outside of, and "below the curve" if it is below one. human:
    whether the interval of `quality` reaches that of the human texts. differences: from MLE, where holm_p < LEVEL.
    """
    results, rows = results_frame(records), []
    ceiling = _interval(results, HUMAN, quality)
    for record in records:
        if record.role != "grid" or record.config.objective == "mle":
            continue
        curves = [curve.runs for curve in decoding_curves(results) if curve.seed == record.config.seed]
        places = [curve_place(results, record.name, runs, quality, diversity) for runs in curves]
        place = next((p for p in ("below", "on", "above", "outside") if p in places), None)
        interval = _interval(results, record.name, quality)
        reaches = (
            "" if interval is None or ceiling is None else "reached" if interval[2] >= ceiling[1] else "not reached"
        )
        significant = compared.query("run == @record.name and holm_p < @LEVEL")
        differences = [f"{row['metric']} {row['difference']:+.2g}" for row in significant.to_dict(orient="records")]
        verdict = f"{place} the curve" if place else NO_CURVE
        rows.append((record.label, record.config.seed, verdict, reaches, ", ".join(differences)))
    return pd.DataFrame(rows, columns=["run", "seed", "verdict", "human", "differences"])


def conclusion(table: pd.DataFrame) -> str:
    """One sentence about the table of `verdicts`."""
    if set(table["verdict"]) <= {NO_CURVE}:
        return "The study has no decoding baselines, so its runs are not compared with MLE at other temperatures."
    above = table["run"][table["verdict"] == "above the curve"].tolist()
    sentence = f"None of {len(table)} runs is above MLE's decoding curve: no objective is shown to beat decoding"
    if above:
        sentence = f"{len(above)} of {len(table)} runs are above MLE's decoding curve: {', '.join(above)}"
    if len(set(table["seed"])) == 1:
        sentence += "; each was trained once, and the intervals do not include the variation between training seeds"
    return sentence + "."
