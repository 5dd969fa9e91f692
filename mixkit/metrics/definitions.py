"""Every metric's label, axis title, direction and role in the trade-off, without importing torch or numpy."""

from typing import Literal, NamedTuple


class MetricDefinition(NamedTuple):
    """What is known of a metric apart from its values."""

    label: str  # short name for tables
    axis: str  # title of a chart's axis
    direction: Literal["higher", "lower", "none"]  # the better end, if one is
    kind: Literal["quality", "diversity", ""] = ""  # the axis of the trade-off that it can stand on


def metric_names(kind: Literal["quality", "diversity"]) -> list[str]:
    """Names of the metrics of one kind, the most telling first.

    >>> metric_names("diversity")
    ['distinct_2', 'diversity', 'recall', 'self_bleu_4', 'ngram_entropy_2']
    """
    return [name for name, metric in METRICS.items() if metric.kind == kind]


_D = MetricDefinition
METRICS: dict[str, MetricDefinition] = {  # within a kind, the first measured one is charted first
    # distributions of generated texts against human texts
    "mauve": _D("MAUVE", "MAUVE (1 = as the human texts)", "higher", "quality"),
    "mauve_star": _D("MAUVE*", "MAUVE* (smoothed counts; 1 = as the human texts)", "higher"),
    "frontier_integral": _D("frontier integral", "frontier integral (lower is better)", "lower"),
    "precision": _D("precision", "precision: generated texts among the human ones", "higher", "quality"),
    # probabilities
    "perplexity": _D("perplexity", "perplexity on held-out texts (lower is better)", "lower", "quality"),
    "refined_perplexity": _D("refined perplexity", "perplexity at T* (lower is better)", "lower", "quality"),
    "best_temperature": _D("T*", "T*: temperature of the least held-out nll; above 1 = too sharp", "none"),
    "entropy_calibration": _D(
        "EntCE", "EntCE: nll of own minus human texts, nats a token; 0 = as sharp as people", "none"
    ),
    "mean_reciprocal_rank": _D(
        "MRR", "mean reciprocal rank of the human token; no temperature changes it", "higher", "quality"
    ),
    **{
        f"recall_at_{n}": _D(f"recall@{n}", f"human tokens among the {n} most probable, share", "higher")
        for n in (1, 5, 50)
    },
    "coherence": _D("coherence", "coherence: cosine of prompt and continuation", "higher", "quality"),
    "judge_perplexity": _D("judge perplexity", "perplexity under the judge (lower is better)", "lower", "quality"),
    # the story grammar
    "valid_prefix_rate": _D("valid words", "words before a text's first mistake, share of all", "higher", "quality"),
    "valid_next_auc": _D(
        "AUC", "AUC of valid above invalid next words; no temperature changes it", "higher", "quality"
    ),
    "valid_text_rate": _D("valid texts", "texts without a mistake, share of all", "higher", "quality"),
    "forward_kl": _D(
        "forward KL", "forward KL from the true distribution, nats a text (lower is better)", "lower", "quality"
    ),
    "forward_ce": _D("forward CE", "cross-entropy of the grammar's texts, nats a text (lower is better)", "lower"),
    "grammar_nll": _D("grammar nll", "nll of the valid texts under the grammar, nats a text", "none"),
    # diversity
    "distinct_2": _D(
        "distinct-2", "diversity across texts: distinct 2-grams in equally many words", "higher", "diversity"
    ),
    "diversity": _D("diversity", "diversity within a text: ∏(1 − rep-n), n = 2..4", "higher", "diversity"),
    "recall": _D("recall", "recall: human texts among the generated ones", "higher", "diversity"),
    "self_bleu_4": _D("self-BLEU-4", "self-BLEU-4 (lower is more diverse)", "lower", "diversity"),
    "ngram_entropy_2": _D("entropy-2", "entropy of 2-grams", "higher", "diversity"),
    "density": _D("density", "density: human neighbourhoods around a generated text, over k", "higher"),
    "coverage": _D("coverage", "coverage: human texts with a generated neighbour", "higher"),
    "pooled_diversity": _D("pooled diversity", "distinct share of a text's 1- to 4-grams", "higher"),
    **{
        f"rep_{n}": _D(f"rep-{n}", f"repeated {n}-grams within a text, share (lower is better)", "lower")
        for n in (2, 3, 4)
    },
    **{f"distinct_{n}": _D(f"distinct-{n}", f"distinct {n}-grams in equally many words", "higher") for n in (1, 3, 4)},
    **{f"ngram_entropy_{n}": _D(f"entropy-{n}", f"entropy of {n}-grams", "higher") for n in (1, 3, 4)},
    "zipf_coefficient": _D("Zipf", "Zipf coefficient (human English is near 1)", "none"),
    "repetition_loops": _D("loops", "texts that end in a loop, share (lower is better)", "lower"),
    "compression_ratio": _D("compression", "compression ratio (lower is less redundant)", "lower"),
    "length": _D("length", "length in words", "none"),
}


def definition(metric: str) -> MetricDefinition:
    """The entry of METRICS. A metric that has none is called by its name, and higher is better."""
    name = metric.replace("_", " ")
    return METRICS.get(metric) or MetricDefinition(name, name, "higher")


_MAIN = ("perplexity", "mauve", "precision", "recall", "diversity", "distinct_2")
TABLE_METRICS = (
    *_MAIN,
    *("best_temperature", "refined_perplexity", "mean_reciprocal_rank", "entropy_calibration"),
    *("coherence", "judge_perplexity"),
    *("valid_prefix_rate", "valid_text_rate", "valid_next_auc", "forward_kl"),
)
PARALLEL_METRICS = (*_MAIN, "self_bleu_4", "coherence", "judge_perplexity")
PAIRED_TEXT_METRICS = ("diversity", "rep_2", "rep_3", "rep_4", "length")  # one value a text, from the text alone
PAIRED_MODEL_METRICS = ("coherence", "judge_perplexity")  # one value a text, from another model
