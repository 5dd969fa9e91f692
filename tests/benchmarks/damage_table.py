"""python -m tests.benchmarks.damage_table [CORPUS]: which metric notices which damage to human texts."""

import sys
import warnings
from collections.abc import Sequence

import numpy as np

from mixkit._common import InputError
from mixkit.metrics.definitions import METRICS
from mixkit.metrics.features import Reader, load_reader
from mixkit.metrics.ngram_metrics import score_texts
from mixkit.metrics.quality import (
    MIN_TEXTS,
    SmallSampleWarning,
    coherence,
    judge_perplexity,
    mauve_of_features,
    precision_recall_of_features,
)
from mixkit.metrics.statistics import Estimate, bootstrap, t_interval
from mixkit.texts.corpora import load_corpus
from tests.benchmarks.damages import DAMAGES

PROMPT_WORDS, WORDS, TEXTS = 16, 48, 400
READ, JUDGED = 200, 50  # texts that the reader and the judge read: models take their time without a GPU
SPLITS = 5
SHOWN = ("mauve", "precision", "recall", "coherence", "judge_perplexity", "diversity", "pooled_diversity", "rep_4")
SHOWN += ("distinct_2", "ngram_entropy_2", "self_bleu_4", "zipf_coefficient", "repetition_loops", "compression_ratio")
SHOWN += ("length",)


def damage_table(
    paragraphs: Sequence[str], reader: Reader | None = None, judge: Reader | None = None, *, texts: int = TEXTS
) -> dict[str, dict[str, Estimate]]:
    """{"human": scores, "truncate": scores, ...}: each {metric: Estimate} of the same texts, whole and spoiled.

    The first 2 * texts paragraphs of 64 words and more are cut to 16 words of prompt and 48 of continuation; the
    continuations of the first half are spoiled. Text metrics read the continuations, distinct-n and entropy under one
    budget that the shortest version fills. reader, of the first 200 texts: MAUVE, precision and recall of prompt +
    continuation against as many of the second half, 100 drawn from each side five times, with the spread of that; and
    coherence. judge, of the first 50: judge perplexity. Without them those numbers are left out.
    Raises InputError where there are too few paragraphs.
    """
    cut = [p.split()[: PROMPT_WORDS + WORDS] for p in paragraphs]
    cut = [words for words in cut if len(words) == PROMPT_WORDS + WORDS][: 2 * texts]
    if len(cut) < 2 * texts:
        raise InputError(f"{len(cut)} paragraphs of {PROMPT_WORDS + WORDS} words; {2 * texts} are needed")
    prompts = [" ".join(words[:PROMPT_WORDS]) for words in cut[:texts]]
    human = [" ".join(words[PROMPT_WORDS:]) for words in cut[:texts]]
    others = [" ".join(words) for words in cut[texts:]]
    versions = {"human": human, **{name: damage(human, 0) for name, damage in DAMAGES.items()}}
    budget = min(sum(len(text.split()) for text in version) for version in versions.values())
    whole = {n: [f"{p} {t}" for p, t in zip(prompts[:READ], v[:READ], strict=True)] for n, v in versions.items()}
    if reader:
        others_features = reader.features(others[:READ])
    table = {}
    for name, version in versions.items():
        table[name] = score_texts(version, budget=budget)
        if reader:
            table[name] |= _against(others_features, reader.features(whole[name]))
            table[name]["coherence"] = bootstrap(coherence(prompts[:READ], version[:READ], reader))
        if judge:
            judged = judge_perplexity(version[:JUDGED], judge, judged=None, prompts=prompts[:JUDGED])
            table[name]["judge_perplexity"] = bootstrap(*judged, statistic=lambda nll, tokens: np.exp(nll / tokens))
    return table


def verdict(metric: str, human: Estimate, spoiled: Estimate) -> str:
    """`worse`, `better` or `other` than the human texts where the two intervals part, and "" where they do not.

    other: of a metric that has no better end.
    """
    if None in (human.low, spoiled.low) or (spoiled.low <= human.high and human.low <= spoiled.high):
        return ""
    direction = METRICS[metric].direction
    if direction == "none":
        return "other"
    return "worse" if (spoiled.value > human.value) == (direction == "lower") else "better"


def markdown(table: dict[str, dict[str, Estimate]]) -> str:
    """The table as Markdown: a row a metric, a column a damage, the verdict behind each value."""
    lines = [f"| metric | {' | '.join(table)} |", "| --- |" + " --- |" * len(table)]
    for metric in SHOWN:
        if metric in table["human"]:
            cells = []
            for scores in table.values():
                word = verdict(metric, table["human"][metric], scores[metric])
                value = scores[metric].value
                cells.append(
                    "–" if value is None else f"{value:.3g} {f'**{word}**' if word == 'worse' else word}".strip()
                )
            lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(file: str) -> None:
    """Prints the table of a corpus, with the readers that are installed."""
    corpus = load_corpus(file)
    readers = []
    for name in ("minilm", "smollm2-135m"):
        try:
            readers.append(load_reader(name))
        except InputError as error:
            print(f"without {name}: {error}")
            readers.append(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)  # the table's text says it, once
        print(markdown(damage_table([*corpus.train, *corpus.validation, *corpus.test], *readers)))


def _against(others: np.ndarray, features: np.ndarray) -> dict[str, Estimate]:
    size, random = len(features) // 2, np.random.default_rng(0)
    draws = [[side[random.permutation(len(side))[:size]] for side in (others, features)] for _ in range(SPLITS)]
    neighbours = [precision_recall_of_features(*draw) for draw in draws]
    found = {name: [getattr(n, name) for n in neighbours] for name in ("precision", "recall")}
    if size >= MIN_TEXTS:
        found["mauve"] = [mauve_of_features(*draw, kmeans_seeds=(25,)).mauve for draw in draws]
    return {name: t_interval(values, predict=True) for name, values in found.items()}


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "wikitext")
