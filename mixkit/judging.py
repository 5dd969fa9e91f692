"""All numbers of one run, each with its interval: what metrics.py and embeddings.py measure, set by set.
What cannot be computed is absent with the reason, never a zero."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from mixkit.embeddings import Reader, mauve_by_sets
from mixkit.errors import InputError
from mixkit.estimates import Estimate, bootstrap, over_sets
from mixkit.metrics import score_texts
from mixkit.sampling import Prompt

KMEANS_SEEDS = (25, 26, 27)


def perplexity(nats, tokens) -> dict[str, object]:
    """exp(sum of nats / sum of tokens) over texts, with its bootstrap interval over texts. nats, tokens: (N,)."""
    totals = np.column_stack([np.asarray(nats, dtype=float), np.asarray(tokens, dtype=float)])
    return _record(bootstrap(totals, lambda t: np.exp(t[..., 0] / t[..., 1])), "texts")


def judge_samples(
    prompts: Sequence[Prompt], sets: Sequence[Sequence[str]], others: Sequence[str], reader: Reader, *, max_tokens: int
) -> tuple[dict[str, dict], dict[str, dict]]:
    """The metrics of a run's sample sets, and the same of the human continuations: {name: {value, low, high, ...}}.

    Text metrics read the continuations alone: the value is the mean over sets, the interval the sets' mean interval
    over texts, and `sets` holds each set's value; distinct-n and n-gram entropy read half as many words as the humans
    wrote, the same for every run of these prompts. MAUVE reads prompt and continuation together: its interval is the
    spread over sets (Student's t). The human texts' MAUVE is the ceiling: the prompts' texts against `others`, as many
    human texts again; absent where there are fewer.
    """
    human = [prompt.human for prompt in prompts]
    budget = max(1, sum(len(text.split()) for text in human) // 2)
    metrics = _over_sets([score_texts(texts, budget=budget) for texts in sets])
    reference = _over_sets([score_texts(human, budget=budget)])

    def whole(continuations: Sequence[str]) -> list[str]:
        return [prompt.text + text for prompt, text in zip(prompts, continuations, strict=True)]

    metrics["mauve"] = _mauve(whole(human), [whole(texts) for texts in sets], reader, max_tokens)
    if len(others) < len(human):
        reason = f"the ceiling needs {len(human)} more human texts; the corpus has {len(others)}"
        reference["mauve"] = _record(Estimate.absent(reason), "sets")
    else:
        reference["mauve"] = _mauve(whole(human), [list(others[: len(human)])], reader, max_tokens)
    return metrics, reference


def _mauve(human: list[str], sets: list[list[str]], reader: Reader, max_tokens: int) -> dict[str, object]:
    try:
        results = mauve_by_sets(human, sets, reader, max_tokens=max_tokens, kmeans_seeds=KMEANS_SEEDS)
    except InputError as error:
        return _record(Estimate.absent(str(error)), "sets")
    values = [result.mauve for result in results]
    estimate = over_sets(values)
    if estimate.low is not None:  # Student's t knows nothing of MAUVE's range
        estimate = Estimate(estimate.value, max(0.0, estimate.low), min(1.0, estimate.high), estimate.why)
    return _record(estimate, "sets", sets=values, reader=reader.name)


def _over_sets(scores: list[dict[str, Estimate]]) -> dict[str, dict]:
    metrics = {}
    for name, first in scores[0].items():
        sets = [score[name] for score in scores]
        absent = next((e for e in sets if e.value is None), None)
        if absent:
            metrics[name] = _record(absent, "texts")
            continue
        ends = [(e.low, e.high) for e in sets]
        low, high = (None, None) if any(None in pair for pair in ends) else np.mean(ends, axis=0)
        values = [e.value for e in sets]
        metrics[name] = _record(Estimate(float(np.mean(values)), low, high, first.why), "texts", sets=values)
    return metrics


def _record(estimate: Estimate, over: str, **facts: object) -> dict[str, object]:
    return {**asdict(estimate), "over": over, **facts}
