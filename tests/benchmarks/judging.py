"""python -m tests.benchmarks.judging [CORPUS]: time of reading texts and of counting their n-grams."""

import os
import statistics
import sys
import tempfile

import numpy as np
import torch

from mixkit.metrics import ngram_metrics as metrics
from mixkit.metrics.features import Reader
from mixkit.models.loading import load_model
from mixkit.texts.corpora import load_corpus
from tests.benchmarks.head import take_turns


def reading(rounds: int = 5, texts: int = 200) -> list[tuple[float, float, float]]:
    """(tokens a text, mauve-text's seconds, our seconds) for the features of stories and of their beginnings, by `tiny`
    in one process: mauve-text's own text path, one text at a time, and `Reader.features` without its cache. They take
    turns, and what they find must agree to 1e-5.
    """
    from mauve.utils import featurize_tokens_from_model, get_model

    os.environ["DISABLE_TQDM"] = "1"  # mauve-text's switch
    model, tokenizer = load_model("tiny")
    reader, rows = Reader("tiny", model, tokenizer, cache=None), []
    tales = load_corpus("tales", train=2 * texts, validation=1, test=1).train
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/gpt2"  # mauve-text goes by the name
        model.save_pretrained(path)
        theirs = get_model(path, tokenizer, -1)
    for words in (12, 40, None):
        asked = list(dict.fromkeys(" ".join(tale.split()[:words]) for tale in tales))[:texts]

        def one_at_a_time(asked=asked):
            cut = {"return_tensors": "pt", "truncation": True, "max_length": 512}
            return featurize_tokens_from_model(theirs, [tokenizer.encode(text, **cut) for text in asked], 1).numpy()

        seconds, found = take_turns(rounds, one_at_a_time, lambda asked=asked: reader.features(asked, 512))
        np.testing.assert_allclose(*found, atol=1e-5)
        rows.append((statistics.mean(map(len, tokenizer(asked)["input_ids"])), *seconds))
    return rows


def counting(corpus: str, rounds: int = 3, texts: int = 5_000, words: int = 128) -> list[tuple[str, float]]:
    """(what, median seconds) for all n-gram metrics but self-BLEU together, and for self-BLEU-4, of windows."""
    stream = " ".join(load_corpus(corpus).train).split()
    starts = np.random.default_rng(0).integers(len(stream) - words, size=texts)
    asked = [" ".join(stream[start : start + words]) for start in starts]

    def all_but_self_bleu():
        counts = metrics.count_ngrams(asked)
        for n in (2, 3, 4):
            metrics.rep_n(counts, n)
        for n in (1, 2, 3, 4):
            metrics.distinct_n(counts, n), metrics.distinct_n(counts, n, budget=texts * words // 2)
            metrics.ngram_entropy(counts, n)
        for metric in (metrics.diversity, metrics.pooled_diversity, metrics.zipf_coefficient):
            metric(counts)
        metrics.repetition_loops(counts)

    seconds, _ = take_turns(rounds, all_but_self_bleu, lambda: metrics.self_bleu(asked, 4))
    return list(zip(("all n-gram metrics but self-BLEU", "self-BLEU-4"), seconds, strict=True))


def judging(corpus: str) -> None:
    """Prints what reading costs, and counting in windows of a corpus, by name or file."""
    print(
        f"features of 200 texts by tiny, {torch.get_num_threads()} threads: mauve-text, one text at a time, and mixkit"
    )
    for tokens, theirs, ours in reading():
        print(f"{tokens:5.1f} tokens a text {theirs:6.2f} s {ours:6.2f} s {theirs / ours:5.1f} x faster")
    print(f"\n5,000 windows of 128 words of {corpus}")
    for what, seconds in counting(corpus):
        print(f"{what:34} {seconds:6.2f} s")


if __name__ == "__main__":
    judging(sys.argv[1] if sys.argv[1:] else "middlemarch")
