"""All numbers of one run, each with its interval: what metrics.py and embeddings.py measure, set by set.
What cannot be computed is absent with the reason, never a zero."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from mixkit._common import InputError
from mixkit.metrics import grammar as oracle
from mixkit.metrics.features import Reader, load_reader
from mixkit.metrics.ngram_metrics import score_texts
from mixkit.metrics.quality import coherence, judge_perplexity, mauve_of_features, precision_recall_of_features
from mixkit.metrics.statistics import Estimate, bootstrap, prediction_interval, t_interval
from mixkit.models.generation import Prompt
from mixkit.models.likelihood import encode
from mixkit.studies.plan import lineage

KMEANS_SEEDS = (25, 26, 27)
CEILING_SPLITS = 5
MAUVE_NAMES = ("mauve", "mauve_star", "frontier_integral")
PRDC_NAMES = ("precision", "recall", "density", "coverage")
BOUNDS = {"density": (0.0, math.inf)}  # of the numbers whose interval is Student's t, which knows no range; else [0, 1]


def perplexity(nats, tokens) -> dict[str, object]:
    """exp(sum of nats / sum of tokens) over texts, with its bootstrap interval over texts. nats, tokens: (N,)."""
    return _record(_perplexity(nats, tokens), "texts")


def evaluate_samples(
    prompts: Sequence[Prompt],
    sets: Sequence[Sequence[str]],
    others: Sequence[Prompt],
    reader: Reader,
    *,
    max_tokens: int,
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The metrics of a run's sample sets, and the same of the human continuations: {name: {value, low, high, ...}}.

    Text metrics read the continuations alone: the value is the mean over sets, the interval the sets' mean interval
    over texts, and `sets` holds each set's value; distinct-n and n-gram entropy read half as many words as the humans
    wrote, the same for every run of these prompts. MAUVE, its kin and k-NN precision and recall read prompt and
    continuation together: their interval is the spread over sets (Student's t). The human row of them is human texts
    against human texts, as many on each side, in random halvings of the prompts' texts and `others` (human texts that
    no prompt was cut from): the ceiling; its interval is where 95 % of such halvings lie. Absent where `others` are
    too few.
    """
    human = [prompt.human for prompt in prompts]
    budget = max(1, sum(len(text.split()) for text in human) // 2)
    metrics = _mean_over_sets([score_texts(texts, budget=budget) for texts in sets])
    reference = _mean_over_sets([score_texts(human, budget=budget)])

    whole = [_joined(prompts, texts) for texts in (human, *sets)]
    spare = _joined(others, [prompt.human for prompt in others])
    found, ceiling = _by_features(whole[0], whole[1:], spare, reader, max_tokens)
    return metrics | found, reference | ceiling


def evaluate_with_models(
    prompts: Sequence[Prompt],
    sets: Sequence[Sequence[str]],
    *,
    coherence_reader: str,
    judge: str,
    judged: str,
    study: str = "",
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Coherence and judge perplexity of the sets, and of the human continuations, by models of these names.

    Values and intervals are as those of text metrics in `judge_samples`; `prompts` holds one value a prompt, the mean
    over sets (cosine; nats per token), None where there is none. judged: the model that wrote the texts, or that it
    was trained from: neither it nor one that it descends from, by the records of runs, may be the judge. An empty name,
    or a model that is not at hand, leaves its number absent with the reason.
    """
    beginnings = [prompt.text for prompt in prompts]

    def of_coherence(texts: Sequence[str], reader: Reader) -> tuple[Estimate, np.ndarray, np.ndarray]:
        cosines = coherence(beginnings, texts, reader)
        return bootstrap(cosines[~np.isnan(cosines)]), np.nan_to_num(cosines), ~np.isnan(cosines)

    def of_judge(texts: Sequence[str], reader: Reader) -> tuple[Estimate, np.ndarray, np.ndarray]:
        found = judge_perplexity(texts, reader, judged=judged, prompts=beginnings)
        return _perplexity(found.nll, found.tokens), found.nll, found.tokens

    metrics, reference = {}, {}
    asked = (
        ("coherence", "coherence_reader", coherence_reader, of_coherence),
        ("judge_perplexity", "judge", judge, of_judge),
    )
    for metric, parameter, name, measure in asked:
        try:
            if not name:
                raise InputError(f"no model was asked for; the parameter {parameter} names one")
            if metric == "judge_perplexity" and lineage(name, study)[0] in lineage(judged, study):
                raise InputError(f"judge {name!r} is the model that wrote the texts, or their model's start")
            reader = load_reader(name, study=study)
            results = [measure(texts, reader) for texts in sets]
            human = measure([prompt.human for prompt in prompts], reader)
        except InputError as error:
            metrics[metric] = reference[metric] = _record(Estimate.absent(str(error)), "texts")
            continue
        metrics |= _mean_over_sets(
            [{metric: result[0]} for result in results], reader=name, prompts=_by_prompt(results)
        )
        reference |= _mean_over_sets([{metric: human[0]}], reader=name, prompts=_by_prompt([human]))
    return metrics, reference


def evaluate_grammar(
    prompts: Sequence[Prompt], sets: Sequence[Sequence[str]], nats, texts: Sequence[str], tokenizer, *, max_tokens: int
) -> tuple[dict[str, dict], dict[str, dict]]:
    """What the grammar says of a run on tales, and of the same human texts: {name: {value, low, high, ...}} of each.

    oracle.score_texts of all sets together, each prompt with its continuation; oracle.coverage, of the run alone, by
    its nll `nats` (N,) of the test `texts`, of which it read `max_tokens` tokens.
    """
    given = [prompt.text for prompt in prompts]
    written = [prompt.text + text for continued in sets for prompt, text in zip(prompts, continued, strict=True)]
    cut = sum(row[-1] != tokenizer.eos_token_id for row in encode(tokenizer, list(texts), max_tokens))
    scores = oracle.score_texts(written, given * len(sets)) | oracle.coverage(nats, texts, cut=cut)
    human = oracle.score_texts([prompt.text + prompt.human for prompt in prompts], given)
    return tuple({name: _record(e, "texts") for name, e in found.items()} for found in (scores, human))


def _perplexity(nats, tokens) -> Estimate:
    totals = np.column_stack([np.asarray(nats, dtype=float), np.asarray(tokens, dtype=float)])
    return bootstrap(totals, lambda t: np.exp(t[..., 0] / t[..., 1]))


def _by_prompt(results: list[tuple[Estimate, np.ndarray, np.ndarray]]) -> list[float | None]:
    """Sum over sets of what each prompt's text adds, over the sum of its weight."""
    total, weight = (sum(column) for column in list(zip(*results, strict=True))[1:])
    return [float(t / w) if w else None for t, w in zip(total, weight, strict=True)]


def _joined(prompts: Sequence[Prompt], continuations: Sequence[str]) -> list[str]:
    return [prompt.text + text for prompt, text in zip(prompts, continuations, strict=True)]


def _by_features(
    human: list[str], sets: list[list[str]], spare: list[str], reader: Reader, max_tokens: int
) -> tuple[dict[str, dict], dict[str, dict]]:
    """MAUVE's and the neighbours' numbers of the sets and of human halvings, every text read once."""
    names, size = (*MAUVE_NAMES, *PRDC_NAMES), len(human)
    try:
        # two calls, because the cache returns the human texts' features to every run of these prompts
        people = reader.features([*human, *spare], max_tokens)
        written = np.split(reader.features([text for texts in sets for text in texts], max_tokens), len(sets))
    except InputError as error:
        absent = {name: _record(Estimate.absent(str(error)), "sets") for name in names}
        return absent, absent

    def numbers(pairs: Sequence, seeds: Sequence[int], interval: Callable) -> dict[str, dict]:
        def by_clusters() -> list:
            return [mauve_of_features(*pair, kmeans_seeds=seeds) for pair in pairs]

        def by_neighbours() -> list:
            return [precision_recall_of_features(*pair) for pair in pairs]

        facts = {"reader": reader.name, "texts": len(pairs[0][1])}
        clusters = _spread(by_clusters, MAUVE_NAMES, interval, **facts)
        return clusters | _spread(by_neighbours, PRDC_NAMES, interval, **facts)

    found = numbers([(people[:size], one_set) for one_set in written], KMEANS_SEEDS, t_interval)
    if len(spare) < size:
        why = f"human against human needs {size} more human texts; the corpus has {len(spare)}"
        return found, {name: _record(Estimate.absent(why), "halvings") for name in names}
    random = np.random.default_rng(0)
    orders = [random.permutation(len(people)) for _ in range(CEILING_SPLITS)]
    halvings = [(people[p[:size]], people[p[size : 2 * size]]) for p in orders]
    return found, numbers(halvings, KMEANS_SEEDS[:1], prediction_interval)


def _spread(measure: Callable, names: Sequence[str], interval: Callable, **facts: object) -> dict[str, dict]:
    """One record a name: the mean over measure()'s results, the interval over them, and each one's value; absent with
    the reason where it raises InputError."""
    over = "halvings" if interval is prediction_interval else "sets"
    try:
        results = measure()
    except InputError as error:
        return {name: _record(Estimate.absent(str(error)), over) for name in names}
    records = {}
    for name in names:
        values = [getattr(result, name) for result in results]
        estimate, (low, high) = interval(values), BOUNDS.get(name, (0.0, 1.0))
        if estimate.low is not None:
            estimate = Estimate(estimate.value, max(low, estimate.low), min(high, estimate.high), estimate.why)
        records[name] = _record(estimate, over, sets=values, **facts)
    return records


def _mean_over_sets(scores: list[dict[str, Estimate]], **facts: object) -> dict[str, dict]:
    metrics = {}
    for name in scores[0]:
        sets = [score[name] for score in scores]
        absent = next((e for e in sets if e.value is None), None)
        if absent:
            metrics[name] = _record(absent, "texts")
            continue
        bare = next((e for e in sets if e.low is None), None)
        low, high = (None, None) if bare else np.mean([(e.low, e.high) for e in sets], axis=0)
        values = [e.value for e in sets]
        estimate = Estimate(float(np.mean(values)), low, high, bare.why if bare else None)
        metrics[name] = _record(estimate, "texts", sets=values, **facts)
    return metrics


def _record(estimate: Estimate, over: str, **facts: object) -> dict[str, object]:
    return {**asdict(estimate), "over": over, **facts}
