"""What a study's numbers support: runs against MLE on the same prompts, and against MLE's decoding curve."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mixkit._common import InputError
from mixkit.losses.definitions import OBJECTIVES, RIVALS
from mixkit.metrics.definitions import METRICS, PAIRED_MODEL_METRICS, PAIRED_TEXT_METRICS
from mixkit.metrics.ngram_metrics import text_values
from mixkit.metrics.statistics import compare, holm
from mixkit.studies.records import HUMAN, results_frame
from mixkit.studies.store import Metric, RunRecord, Sample

LEVEL = 0.05
QUALITY, DIVERSITY = "mauve", "distinct_2"  # the axes of verdicts
NO_CURVE = "no curve"
DECODING = ("temperature", "top_p")
COLUMNS = ("run", "metric", "difference", "low", "high", "effect_size", "p", "holm_p", "pairs")


def compare_with_mle(records: Sequence[RunRecord], samples: Mapping[str, Sequence[Sample]]) -> pd.DataFrame:
    """One row per run and metric, with the columns COLUMNS: the run against the trained MLE run of its seed.

    samples: by run name. A prompt's value is the mean over its continuations; judge_perplexity is in nats per token.
    difference: the mean over prompts of run - MLE, with its interval (see `statistics.compare`). effect_size: NaN if
    all differences are equal. holm_p: p after Holm's correction over the runs. The base and other prompts have no rows.
    """
    rows = []
    values = {record.name: _values(record, samples.get(record.name, ())) for record in records}
    trained = [record for record in records if record.role == "grid" and record.config.objective == "mle"]
    mle_runs = {record.config.seed: record.name for record in reversed(trained)}
    for metric in (*PAIRED_TEXT_METRICS, *PAIRED_MODEL_METRICS):
        family = []
        for record in records:
            mle = mle_runs.get(record.config.seed, record.name)
            (prompts, a), (mle_prompts, b) = values[record.name], values[mle]
            if record.role == "base" or mle == record.name or prompts != mle_prompts or metric not in a.keys() & b:
                continue
            try:
                family.append((record.name, compare(a[metric], b[metric])))
            except InputError:  # fewer than two prompts have a value in both
                continue
        corrected = holm([c.p_value for _, c in family]) if family else []
        for (name, c), holm_p in zip(family, corrected, strict=True):
            ends = (c.difference.value, c.difference.low, c.difference.high)
            rows.append((name, metric, *ends, c.effect_size, c.p_value, holm_p, c.pairs))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _values(record: RunRecord, samples: Sequence[Sample]) -> tuple[list[str], dict[str, list[float | None]]]:
    """The run's prompts, and for each metric one value per prompt: the mean over its sample sets."""
    samples = sorted(samples, key=lambda sample: sample.set)
    num_sets = len({sample.set for sample in samples})
    prompts = [sample.prompt for sample in samples[: len(samples) // max(1, num_sets)]]
    if not prompts or [sample.prompt for sample in samples] != prompts * num_sets:
        return [], {}
    by_text: Any = pd.DataFrame(text_values([sample.generated for sample in samples]), dtype=float)
    by_prompt = by_text.groupby(by_text.index % len(prompts)).mean().astype(object)
    values = by_prompt.where(by_prompt.notna(), None).to_dict(orient="list")
    for metric in PAIRED_MODEL_METRICS:
        of_prompts = record.metrics.get(metric, Metric()).prompts
        if of_prompts and len(of_prompts) == len(prompts):
            values[metric] = of_prompts
    return prompts, values


class DecodingCurve(NamedTuple):
    """Runs of one MLE model that differ in one decoding parameter, in its order; the trained run is among them."""

    parameter: str  # "temperature", "top_p", or "decode_as <objective>"
    seed: int
    runs: list[str]


def decoding_curves(results: pd.DataFrame) -> list[DecodingCurve]:
    """The curves of every seed: by temperature, by top_p, and by the coefficient of each objective in decode_as."""
    runs, curves = results.drop_duplicates("run"), []
    decoded = runs.loc[(runs["role"] == "decoding") & (runs["top_k"] == 0)]  # `query` is slow, and reports ask often
    mle = runs.loc[(runs["role"] == "grid") & (runs["objective"] == "mle")]
    as_mle, hot, cut = decoded["decode_as"] == "", decoded["temperature"] != 1, decoded["top_p"] != 1
    families = {"temperature": decoded.loc[as_mle & hot & ~cut], "top_p": decoded.loc[as_mle & cut & ~hot]}
    by_objective = decoded.loc[~as_mle & ~hot & ~cut & decoded["decode_coefficient"].notna()]
    for name, group in by_objective.groupby(by_objective["decode_as"].str.split("(").str[0], sort=False):
        families[f"decode_as {name}"] = group
    for parameter, family in families.items():
        column = parameter if parameter in DECODING else "decode_coefficient"
        objective = (OBJECTIVES | RIVALS).get(parameter.removeprefix("decode_as "))
        at_mle = {column: objective.coefficients[0].mle if objective else 1.0}  # where the parameter means plain MLE
        for seed, decoded_runs in family.groupby("seed"):
            trained = mle.loc[mle["seed"] == seed].head(1).assign(**at_mle)
            order = pd.concat([decoded_runs, trained]).sort_values(column, kind="stable")["run"]
            curves.append(DecodingCurve(parameter, int(seed), order.tolist()))
    return curves


def decoders(results: pd.DataFrame) -> dict[str, str]:
    """For each trained run, the run of MLE's model that is decoded as the trained run's objective, if there is one."""
    runs = results.drop_duplicates("run").set_index("run")
    trained, decoded = (runs.loc[runs["role"] == role, "label"] for role in ("grid", "decoding"))
    by_label = {label: run for run, label in decoded.items()}
    return ("MLE, decoded as " + trained).map(by_label).dropna().to_dict()


def controls(results: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Each trained run that has a decoder, MLE decoded as its objective, and MLE at the T of equal distinct-2.

    Columns: run (its label), texts ("trained", "MLE decoded as it", "MLE at T=0.82"), metric, value, low, high. The
    third is interpolated on the temperature curve of the run's seed; it is absent where the run is outside the curve.
    """
    frame = results.set_index(["run", "metric"])[["value", "low", "high"]].astype(float)
    facts = results.drop_duplicates("run").set_index("run")
    curves = {curve.seed: curve.runs for curve in decoding_curves(results) if curve.parameter == "temperature"}
    rows: list[tuple[Any, ...]] = []
    for run, twin in decoders(results).items():
        label, curve = facts.loc[run, "label"], curves.get(facts.loc[run, "seed"], [])
        for metric in metrics:
            rows.append((label, "trained", metric, *frame.loc[(run, metric)]))
            rows.append((label, "MLE decoded as it", metric, *frame.loc[(twin, metric)]))
        order = sorted(curve, key=lambda name: frame.loc[(name, DIVERSITY), "value"])
        places = [frame.loc[(name, DIVERSITY), "value"] for name in order]
        x = frame.loc[(run, DIVERSITY), "value"]
        if places and places[0] <= x <= places[-1]:
            temperature = np.interp(x, places, [facts.loc[name, "temperature"] for name in order])
            for metric in metrics:
                ends = np.array([frame.loc[(name, metric)] for name in order])
                at_x = [float(np.interp(x, places, column)) for column in ends.T]
                rows.append((label, f"MLE at T={temperature:.2f}", metric, *at_x))
    return pd.DataFrame(rows, columns=["run", "texts", "metric", "value", "low", "high"])


def pareto_front(results: pd.DataFrame, quality: str, diversity: str) -> list[str]:
    """The trained and decoded runs that no other surpasses on one axis without being worse on the other, by value.

    Diversity counts up to that of the human texts. Empty if a metric has no better end.
    """
    wide = results.pivot(index="run", columns="metric", values="value").reindex(columns=[quality, diversity])
    for metric in (quality, diversity):
        direction = METRICS[metric].direction if metric in METRICS else "higher"
        wide[metric] *= {"higher": 1, "lower": -1, "none": np.nan}[direction]
    if HUMAN in wide.index:
        wide[diversity] = wide[diversity].clip(upper=wide.loc[HUMAN, diversity])
    points = wide.loc[results.query("role in ('grid', 'decoding')")["run"].unique()].dropna()
    pairs = points.to_numpy()[:, None] - points.to_numpy()  # the report asks for many pairs of metrics: pandas is slow
    surpassed = ((pairs >= 0).all(axis=2) & (pairs > 0).any(axis=2)).any(axis=0)
    return points.index[~surpassed].tolist()


def curve_place(results: pd.DataFrame, run: str, curve: Sequence[str]) -> str:
    """Where a run lies relative to a curve of runs: "above", "below", "on" or "outside" it.

    above: over the part of the run's interval in DIVERSITY that the curve covers, the lower end of the run's QUALITY is
    above the upper end of the curve, whose points and interval ends are joined by straight lines. below: the other way
    round. on: neither. outside: the run's interval lies outside the curve's range, or a value is absent.
    """
    *boxes, (across, up) = [[_interval(results, n, metric) for metric in (DIVERSITY, QUALITY)] for n in (*curve, run)]
    points = [(x.value, y.low, y.high) for x, y in boxes if x and y]
    if not across or not up:
        return "outside"
    lows, highs = [], []
    for point, other in pairwise(points):
        x, low, high = zip(*sorted((point, other)), strict=True)
        span = (max(across.low, x[0]), min(across.high, x[1]))
        if span[0] <= span[1]:
            lows += np.interp(span, x, low).tolist()
            highs += np.interp(span, x, high).tolist()
    if not highs:
        return "outside"
    return "above" if up.low > max(highs) else "below" if up.high < min(lows) else "on"


def _interval(results: pd.DataFrame, run: str, metric: str) -> Any:
    """A tuple with low, value and high; an absent interval is the value. None if the value is absent."""
    rows: Any = results.query("run == @run and metric == @metric")[["low", "value", "high"]].astype(float)
    return next(rows.dropna(subset="value").bfill(axis=1).ffill(axis=1).itertuples(index=False), None)


def verdicts(records: Sequence[RunRecord], compared: pd.DataFrame) -> pd.DataFrame:
    """One row per trained run of another objective than MLE: run, seed, verdict, decoder, human, differences.

    verdict: the first of "below", "on", "above" and "outside the curve" that `curve_place` gives for MLE's decoding
    curves of the run's seed; "no curve" without one. decoder: "better" or "worse" where the interval of QUALITY is
    above or below that of MLE decoded as the run's objective, else "alike". human: whether the interval
    of QUALITY reaches that of the human texts. differences: from MLE, where holm_p < LEVEL.
    """
    results, rows = results_frame(records), []
    ceiling, twins = _interval(results, HUMAN, QUALITY), decoders(results)
    curves = [curve for curve in decoding_curves(results) if curve.parameter in DECODING]
    for record in records:
        if record.role != "grid" or record.config.objective == "mle":
            continue
        places = [curve_place(results, record.name, c.runs) for c in curves if c.seed == record.config.seed]
        place = next((f"{p} the curve" for p in ("below", "on", "above", "outside") if p in places), NO_CURVE)
        interval, reaches = _interval(results, record.name, QUALITY), ""
        if interval and ceiling:
            reaches = "reached" if interval.high >= ceiling.low else "not reached"
        other, decoder = _interval(results, twins.get(record.name, ""), QUALITY), ""
        if interval and other:
            decoder = "better" if interval.low > other.high else "worse" if interval.high < other.low else "alike"
        significant = compared.query("run == @record.name and holm_p < @LEVEL")
        differences = [f"{row['metric']} {row['difference']:+.2g}" for row in significant.to_dict(orient="records")]
        rows.append((record.label, record.config.seed, place, decoder, reaches, ", ".join(differences)))
    return pd.DataFrame(rows, columns=["run", "seed", "verdict", "decoder", "human", "differences"])


def conclusion(table: pd.DataFrame) -> str:
    """How many runs of `verdicts` are above MLE's curve, and how many beat their decoder, in one sentence."""
    if table.empty:
        return "The study has trained no other objective than MLE, so there is nothing to compare."
    if set(table["verdict"]) <= {NO_CURVE}:
        return "The study has no decoding baselines, so its runs are not compared with MLE at other temperatures."
    above = table["run"][table["verdict"] == "above the curve"].tolist()
    outside = sum(verdict in ("outside the curve", NO_CURVE) for verdict in table["verdict"])
    if outside == len(table):
        return "All runs are outside the range of MLE's decoding curve, or have no curve or value: none is compared."
    sentence = f"None of {len(table)} runs is above MLE's decoding curve: no objective is shown to beat decoding"
    if above:
        sentence = f"{len(above)} of {len(table)} runs are above MLE's decoding curve: {', '.join(above)}"
    if outside:
        sentence += f"; {outside} of them cannot be compared: no curve, outside its range, or no value"
    paired = table[table["decoder"] != ""]
    if len(paired):
        better = paired["run"][paired["decoder"] == "better"].tolist()
        names = f": {', '.join(better)}" if better else ""
        sentence += f"; {len(better)} of {len(paired)} are better than MLE decoded as their objective{names}"
    seeds: Any = table.groupby(table["run"].str.replace(r", seed \d+", "", regex=True))["seed"].nunique()
    if once := int((seeds == 1).sum()):
        sentence += f"; {once} of {len(seeds)} were trained once: their intervals leave out the variation between seeds"
    return sentence + "."
