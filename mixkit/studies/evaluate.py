"""All metrics of one run and of the human texts, each with its interval. A metric that is absent has a reason."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mixkit._common import InputError
from mixkit.metrics import grammar
from mixkit.metrics.features import Reader, load_reader, reader_name
from mixkit.metrics.ngram_metrics import score_texts
from mixkit.metrics.quality import coherence, judge_perplexity, mauve_of_features, precision_recall_of_features
from mixkit.metrics.statistics import Estimate, bootstrap, t_interval
from mixkit.models.calibration import RECALL_AT, HeldOut, best_temperature, held_out
from mixkit.models.generation import Prompt
from mixkit.models.likelihood import encode, text_nll
from mixkit.studies.config import RunConfig
from mixkit.studies.store import Metric
from mixkit.texts.corpora import Corpus
from mixkit.texts.words import split_words

KMEANS_SEEDS = (25, 26, 27)
CEILING_SPLITS = 5
MAUVE_NAMES = ("mauve", "mauve_star", "frontier_integral")
NEIGHBOUR_NAMES = ("precision", "recall", "density", "coverage")
AUC_TEXTS = 100  # with about 60 places each
Sets = Sequence[Sequence[str]]  # sample sets: one continuation per prompt in each


class Evaluation(NamedTuple):
    """Metrics of the model's texts and of the human texts, by name, and the name of the reader of their features."""

    metrics: dict[str, Metric]
    human: dict[str, Metric]
    reader: str = ""


def evaluate(
    name: str, config: RunConfig, corpus: Corpus, model: Any, tokenizer: Any, people: Sequence[Prompt], sets: Sets
) -> Evaluation:
    """All metrics of the run `name`: of its model and its sample sets, which continue the first of the human texts."""
    sets = sets[:1] if all(texts == sets[0] for texts in sets) else sets  # greedy decoding: their spread tells nothing
    prompts, others = people[: len(sets[0])], people[len(sets[0]) :]
    chosen = reader_name(config.reader, config.model)  # tiny has random weights: the run reads its own texts then
    reader = Reader(f"run:{name}", model, tokenizer) if chosen == "tiny" else load_reader(chosen, study=config.study)
    held = held_out(model, tokenizer, corpus.test, max_tokens=config.max_tokens)
    max_tokens = config.prompt_tokens + config.max_new_tokens
    metrics, human, _ = evaluate_samples(prompts, sets, others, reader, max_tokens=max_tokens)
    by_models = evaluate_with_models(config, prompts, sets)
    scores, human_scores = _predictions(held), {}
    scores["entropy_calibration"] = _entropy_calibration(config, model, tokenizer, prompts, sets)
    if corpus.from_grammar:
        beginnings, human_texts = [prompt.text for prompt in prompts], [prompt.human for prompt in prompts]
        num_cut = sum(row[-1] != tokenizer.eos_token_id for row in encode(tokenizer, corpus.test, config.max_tokens))
        scores |= grammar.score_texts(_joined(prompts, *sets), beginnings * len(sets))
        scores |= grammar.coverage(held.nll, corpus.test, cut=num_cut)
        auc_texts = corpus.test[:AUC_TEXTS]
        scores["valid_next_auc"] = grammar.valid_next_auc(model, tokenizer, auc_texts, max_tokens=config.max_tokens)
        human_scores = grammar.score_texts(_joined(prompts, human_texts), beginnings)
    metrics |= by_models.metrics | {name: Metric(**vars(score)) for name, score in scores.items()}
    human |= by_models.human | {name: Metric(**vars(score)) for name, score in human_scores.items()}
    return Evaluation(metrics, human, reader.name)


def _predictions(held: HeldOut) -> dict[str, Estimate]:
    """Metrics of the model's predictions of held-out texts, each a ratio of sums over texts."""

    def at_best_temperature(statistic: Callable[[Any, Any], Any]) -> Estimate:
        def of_totals(tokens: Any, *nll_at: Any) -> Any:
            return statistic(*best_temperature(np.stack(nll_at, -1), tokens))

        if np.isnan(best_temperature(held.nll_at.sum(0), held.tokens.sum(0))[0]):
            return Estimate.absent("the nll has no minimum at a temperature between 0.56 and 5")
        estimate = bootstrap(held.tokens, *held.nll_at.T, statistic=of_totals)
        undefined = "no interval: T* is outside 0.56 to 5 on some resamples"
        return estimate if estimate.low is not None else replace(estimate, why=undefined)

    return {
        "perplexity": _ratio(held.nll, held.tokens, np.exp),
        "best_temperature": at_best_temperature(lambda temperature, nats: temperature),
        "refined_perplexity": at_best_temperature(lambda temperature, nats: np.exp(nats)),
        "mean_reciprocal_rank": _ratio(held.reciprocal_rank, held.tokens),
        **{f"recall_at_{n}": _ratio(hits, held.tokens) for n, hits in zip(RECALL_AT, held.recall.T, strict=True)},
    }


def _entropy_calibration(
    config: RunConfig, model: Any, tokenizer: Any, prompts: Sequence[Prompt], sets: Sets
) -> Estimate:
    """EntCE: mean nll of the model's texts - mean nll of the human texts, both under the model, nats per token.

    The model is taken at the run's temperature, so the texts are unbiased samples of it. Above 0 it is flatter than
    people, below 0 sharper. Continuations only; bootstrap over prompts.
    Source: Cao et al. 2025, arXiv 2511.11966; Braverman et al. 2019, arXiv 1906.05664.
    """
    if config.decode_as or config.top_p < 1 or config.top_k or config.temperature == 0:
        return Estimate.absent("the texts are not sampled from the model's distribution at some temperature")
    if config.make_backtracking() is not None:
        return Estimate.absent("a text with deleted tokens is no sample of the model's token probabilities")
    options: dict[str, Any] = {"prompts": [prompt.text for prompt in prompts], "temperature": config.temperature}
    options["max_tokens"] = config.prompt_tokens + config.max_new_tokens
    everything = ([prompt.human for prompt in prompts], *sets)
    scored: Any = [text_nll(model, tokenizer, list(texts), **options) for texts in everything]
    nll, tokens = zip(*scored, strict=True)
    totals = np.stack([sum(nll[1:]), sum(tokens[1:]), nll[0], tokens[0]])
    return bootstrap(*totals, statistic=lambda own, n, human, m: own / n - human / m)


def evaluate_samples(
    prompts: Sequence[Prompt], sets: Sets, others: Sequence[Prompt], reader: Reader, *, max_tokens: int
) -> Evaluation:
    """Metrics of the texts alone, and metrics of features: MAUVE, k-NN precision and recall.

    Text metrics read the continuations; value and interval are means over sets. distinct-n and n-gram entropy read half
    as many words as the humans wrote. Metrics of features read prompt and continuation together, and have Student's
    interval over sets. Their human value is a ceiling: human texts against as many other human texts, in random
    halvings of `prompts` and `others`. Its interval contains 95 % of such halvings. It is absent if `others` are fewer.
    """
    size, everyone = len(prompts), [*prompts, *others]
    human_texts = [prompt.human for prompt in everyone]
    budget = max(1, sum(len(split_words(text)) for text in human_texts[:size]) // 2)
    metrics = _mean_over_sets([score_texts(texts, budget=budget) for texts in sets])
    human = _mean_over_sets([score_texts(human_texts[:size], budget=budget)])
    try:
        # two calls: the human texts are the same for every run, so their features come from the cache
        people = reader.features(_joined(everyone, human_texts), max_tokens)
        written = reader.features(_joined(prompts, *sets), max_tokens)
    except InputError as error:
        absent = dict.fromkeys((*MAUVE_NAMES, *NEIGHBOUR_NAMES), Metric(why=str(error), over="sets"))
        return Evaluation(metrics | absent, human | absent, reader.name)
    facts = {"reader": reader.name, "texts": size}
    pairs = [(people[:size], features) for features in np.split(written, len(sets))]
    metrics |= _feature_metrics(pairs, "sets", **facts)
    if len(others) < size:
        why = f"human against human needs {size} more human texts; the corpus has {len(others)}"
        human |= dict.fromkeys((*MAUVE_NAMES, *NEIGHBOUR_NAMES), Metric(why=why, over="halvings"))
    else:
        random = np.random.default_rng(0)
        orders = [random.permutation(len(people)) for _ in range(CEILING_SPLITS)]
        halvings = [(people[order[:size]], people[order[size : 2 * size]]) for order in orders]
        human |= _feature_metrics(halvings, "halvings", **facts)
    return Evaluation(metrics, human, reader.name)


def evaluate_with_models(config: RunConfig, prompts: Sequence[Prompt], sets: Sets) -> Evaluation:
    """Coherence and judge perplexity, by the models that config.coherence_reader and config.judge name; "": absent.

    Means over sets, as text metrics are. Metric.prompts: one mean over sets per prompt (cosine; nats per token).
    """
    beginnings = [prompt.text for prompt in prompts]

    def measure(metric: str, texts: Sequence[str], reader: Reader) -> tuple[Estimate, np.ndarray, np.ndarray]:
        """The metric, and what every text adds to its numerator and to its denominator."""
        if metric == "coherence":
            cosines = coherence(beginnings, texts, reader)
            defined = ~np.isnan(cosines)
            return bootstrap(cosines[defined]), np.nan_to_num(cosines), defined
        nll, tokens = judge_perplexity(texts, reader, judged=config.model, prompts=beginnings)
        return _ratio(nll, tokens, np.exp), nll, tokens

    evaluation = Evaluation({}, {})
    for metric, parameter in (("coherence", "coherence_reader"), ("judge_perplexity", "judge")):
        name = getattr(config, parameter)
        try:
            if not name:
                raise InputError(f"no model was requested; set the parameter {parameter}")
            reader = load_reader(name, study=config.study)
            model_values = [measure(metric, texts, reader) for texts in sets]
            human_values = [measure(metric, [prompt.human for prompt in prompts], reader)]
        except InputError as error:
            evaluation.metrics[metric] = evaluation.human[metric] = Metric(why=str(error))
            continue
        for metrics, values in ((evaluation.metrics, model_values), (evaluation.human, human_values)):
            estimates, totals, weights = zip(*values, strict=True)
            sums = zip(np.sum(totals, axis=0), np.sum(weights, axis=0), strict=True)
            by_prompt = [float(total / weight) if weight else None for total, weight in sums]
            metrics |= _mean_over_sets([{metric: estimate} for estimate in estimates], reader=name, prompts=by_prompt)
    return evaluation


def _feature_metrics(pairs: Sequence[tuple[np.ndarray, np.ndarray]], over: str, **facts: Any) -> dict[str, Metric]:
    """MAUVE and k-NN metrics of pairs of (human, other) features: means, with the spread over pairs as the interval."""
    metrics: dict[str, Metric] = {}
    mauve = partial(mauve_of_features, kmeans_seeds=KMEANS_SEEDS if over == "sets" else KMEANS_SEEDS[:1])
    for names, metric in ((MAUVE_NAMES, mauve), (NEIGHBOUR_NAMES, precision_recall_of_features)):
        try:
            results = [metric(*pair) for pair in pairs]
        except InputError as error:
            metrics |= dict.fromkeys(names, Metric(why=str(error), over=over))
            continue
        for name in names:
            values = [getattr(result, name) for result in results]
            estimate = t_interval(values, predict=over == "halvings")
            if estimate.low is not None:  # Student's t does not know the metric's range
                ends: Any = (estimate.low, estimate.high)
                estimate = Estimate(estimate.value, *np.clip(ends, 0, np.inf if name == "density" else 1))
            metrics[name] = Metric(**vars(estimate), over=over, sets=values, **facts)
    return metrics


def _mean_over_sets(scores: Sequence[dict[str, Estimate]], **facts: Any) -> dict[str, Metric]:
    """Means of the values and of the intervals' ends; absent, with the reason, where a set has none."""
    metrics = {}
    for name in scores[0]:
        estimates = [score[name] for score in scores]
        numbers = np.array([(e.value, e.low, e.high) for e in estimates], dtype=float)  # None becomes nan
        value, low, high = (None if np.isnan(mean) else float(mean) for mean in numbers.mean(axis=0))
        why = next((e.why for e in estimates if e.why), None)
        values = None if value is None else numbers[:, 0].tolist()
        metrics[name] = Metric(value=value, low=low, high=high, why=why, sets=values, **facts)
    return metrics


def _ratio(values: Any, tokens: Any, function: Callable[[Any], Any] = lambda ratio: ratio) -> Estimate:
    """function(sum of values / sum of tokens) over texts, with its bootstrap interval. values, tokens: (N,)."""
    return bootstrap(values, tokens, statistic=lambda values, tokens: function(values / tokens))


def _joined(prompts: Sequence[Prompt], *sets: Sequence[str]) -> list[str]:
    return [prompt.text + text for texts in sets for prompt, text in zip(prompts, texts, strict=True)]
