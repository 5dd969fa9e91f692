"""The metrics of a run against the functions that they are made of, and what is absent with its reason."""

import math
import warnings

import numpy as np
import pytest

from mixkit._common import InputError
from mixkit.metrics.features import Reader, reader_name
from mixkit.metrics.ngram_metrics import score_texts
from mixkit.metrics.quality import SmallSampleWarning, coherence, judge_perplexity
from mixkit.metrics.statistics import Estimate, t_interval
from mixkit.models.generation import Prompt, sample_continuations
from mixkit.models.likelihood import text_nll
from mixkit.studies import evaluate as module
from mixkit.studies.config import RunConfig
from mixkit.studies.evaluate import (
    CEILING_SPLITS,
    KMEANS_SEEDS,
    MAUVE_NAMES,
    NEIGHBOUR_NAMES,
    _entropy_calibration,
    evaluate,
    evaluate_samples,
    evaluate_with_models,
)
from mixkit.texts.corpora import load_corpus

FEW = pytest.mark.filterwarnings("ignore::mixkit.metrics.quality.SmallSampleWarning")


@pytest.fixture(scope="module")
def evaluated(toy):
    """100 prompts, two sets of a model's samples, 130 spare human texts, and the numbers of the run."""
    model, tokenizer, _ = toy
    stories = load_corpus("tales", train=1, validation=1, test=230).test
    halves = [(" ".join(s.split()[:5]), " " + " ".join(s.split()[5:30])) for s in stories]
    prompts = [Prompt([0, *tokenizer(a)["input_ids"]], a, b) for a, b in halves]
    prompts, others = prompts[:100], prompts[100:]
    continuations = sample_continuations(model, tokenizer, [p.ids for p in prompts], max_new_tokens=20, sets=2, seed=1)
    sets = [[c.text for c in one_set] for one_set in continuations]
    reader = Reader("toy", model, tokenizer, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)
        result = evaluate_samples(prompts, sets, others, reader, max_tokens=40)
    return prompts, sets, others, reader, result.metrics, result.human


def test_text_metrics_are_means_over_sets(evaluated):
    prompts, sets, _, _, metrics, human = evaluated
    budget = sum(len(p.human.split()) for p in prompts) // 2
    scores = [score_texts(texts, budget=budget) for texts in sets]
    for name, first in scores[0].items():
        if scores[1][name].value is not None and first.value is not None:
            assert metrics[name].value == pytest.approx(np.mean([s[name].value for s in scores]), abs=1e-12)
            assert metrics[name].low == pytest.approx(np.mean([s[name].low for s in scores]), abs=1e-12)
    assert human["diversity"].value == score_texts([p.human for p in prompts])["diversity"].value


def test_a_set_without_an_interval_gives_the_reason(evaluated, monkeypatch):
    prompts, sets, _, reader, *_ = evaluated
    whole, bare = Estimate(0.5, 0.4, 0.6), Estimate(0.7, why="one text has no interval")
    for estimates in ((whole, bare), (bare, whole)):
        scores = iter([*({"x": e} for e in estimates), {"x": whole}])
        monkeypatch.setattr(module, "score_texts", lambda texts, budget, scores=scores: next(scores))
        result = evaluate_samples(prompts[:2], [texts[:2] for texts in sets], [], reader, max_tokens=40)
        x = result.metrics["x"]
        assert (x.value, x.low, x.why) == (0.6, None, "one text has no interval")
        assert result.human["x"].why is None


@FEW
def test_metrics_of_features_are_those_of_the_packages(evaluated):
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    from mauve import compute_mauve

    prompts, sets, _, reader, metrics, _ = evaluated
    human = reader.features([p.text + p.human for p in prompts], 40)
    segments = [reader.features([p.text + text for p, text in zip(prompts, texts, strict=True)], 40) for texts in sets]
    outs = [[compute_mauve(p_features=human, q_features=w, seed=s) for s in KMEANS_SEEDS] for w in segments]
    for name in MAUVE_NAMES:
        values = [np.mean([getattr(out, name) for out in of_set]) for of_set in outs]
        assert metrics[name].sets == pytest.approx(values, abs=1e-9)
        assert metrics[name].value == pytest.approx(t_interval(values).value)
        assert 0 <= metrics[name].low <= metrics[name].value <= metrics[name].high <= 1
    neighbours = [package.compute_prdc(human, w, nearest_k=5) for w in segments]
    for name in NEIGHBOUR_NAMES:
        assert metrics[name].sets == pytest.approx([n[name] for n in neighbours], abs=1e-9)
        assert (metrics[name].reader, metrics[name].texts, metrics[name].over) == ("toy", 100, "sets")
    assert metrics["density"].high == pytest.approx(t_interval(metrics["density"].sets).high)


def test_the_ceiling_is_human_against_human_with_an_interval(evaluated):
    *_, metrics, human = evaluated
    for name in (*MAUVE_NAMES, *NEIGHBOUR_NAMES):
        assert human[name].over == "halvings" and human[name].texts == 100
        assert len(set(human[name].sets)) > 1 and len(human[name].sets) == CEILING_SPLITS
        assert human[name].value == pytest.approx(np.mean(human[name].sets))
        assert human[name].low < human[name].value < human[name].high
    assert human["mauve"].low > metrics["mauve"].value  # the toy writes noise


@pytest.mark.slow
@FEW
def test_what_is_too_little_is_absent_with_the_reason(evaluated):
    prompts, sets, others, reader, *_ = evaluated
    metrics, human, _ = evaluate_samples(prompts, sets[:1], others[:99], reader, max_tokens=40)
    assert metrics["mauve"].value is not None and metrics["mauve"].low is None
    for name in ("mauve", "coverage"):
        assert human[name].value is None and "needs 100 more human texts; the corpus has 99" in human[name].why
    few, human, _ = evaluate_samples(prompts[:99], [sets[0][:99]], others, reader, max_tokens=40)
    assert few["mauve"].value is human["mauve"].value is None and "at least 100" in few["mauve"].why
    assert few["diversity"].value is not None
    for name in NEIGHBOUR_NAMES:
        assert few[name].texts == human[name].texts == 99 and human[name].low is not None


@pytest.mark.slow
def test_numbers_by_other_models(evaluated, monkeypatch):
    prompts, sets, _, reader, *_ = evaluated
    sets = [["", *sets[0][1:]], sets[1]]
    monkeypatch.setattr(module, "load_reader", lambda name, *, study: reader)
    config = RunConfig.check({"coherence_reader": "toy", "judge": "toy", "model": "another"})
    metrics, human, _ = evaluate_with_models(config, prompts, sets)
    beginnings = [p.text for p in prompts]
    cosines = np.array([coherence(beginnings, texts, reader) for texts in sets])
    assert metrics["coherence"].sets == pytest.approx(np.nanmean(cosines, 1), abs=1e-6)
    assert metrics["coherence"].prompts == pytest.approx(np.nanmean(cosines, 0).tolist(), abs=1e-6)
    results = [judge_perplexity(texts, reader, judged="another", prompts=beginnings) for texts in sets]
    assert metrics["judge_perplexity"].sets == pytest.approx([np.exp(nll.sum() / n.sum()) for nll, n in results])
    nats = sum(nll for nll, _ in results) / sum(n for _, n in results)
    assert metrics["judge_perplexity"].prompts == pytest.approx(nats.tolist())
    assert metrics["judge_perplexity"].prompts[0] == pytest.approx(results[1][0][0] / results[1][1][0])
    nll, tokens = judge_perplexity([p.human for p in prompts], reader, judged=None, prompts=beginnings)
    assert human["judge_perplexity"].value == pytest.approx(np.exp(nll.sum() / tokens.sum()))
    assert human["judge_perplexity"].reader == human["coherence"].reader == "toy"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "no model was requested; set the parameter judge"),
        ({"judge": "run:none"}, "no finished run of that name"),
        ({"judge": "gpt3"}, "unknown model 'gpt3'"),
    ],
)
def test_without_a_judge_the_metric_is_absent(evaluated, settings, reason):
    prompts, sets, *_ = evaluated
    config = RunConfig.check({"model": "start", **settings})
    metrics, human, _ = evaluate_with_models(config, prompts, sets)
    for numbers in (metrics, human):
        assert numbers["judge_perplexity"].value is None and reason in numbers["judge_perplexity"].why
        assert "set the parameter coherence_reader" in numbers["coherence"].why


def test_the_prediction_interval():
    from scipy import stats

    values = [0.3, 0.5, 0.45, 0.6]
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * math.sqrt(1 + 1 / 4)
    found = t_interval(values, predict=True)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert t_interval([0.5], predict=True) == t_interval([0.5])
    with pytest.raises(InputError, match="empty"):
        t_interval([], predict=True)


@pytest.mark.parametrize(
    ("names", "start", "here", "chosen"),
    [
        ("gpt2-large|start", "run:base", (), "run:base"),
        ("gpt2-large|start", "run:base", ("gpt2-large",), "gpt2-large"),
        ("gpt2-large|start", "gpt2", (), "gpt2"),  # the last one, download or not
        ("start|gpt2-large", "smollm2-135m", (), "smollm2-135m"),
        ("minilm", "tiny", (), "minilm"),
        ("gpt2-large|minilm|start", "gpt2", (), "minilm"),
        ("gpt2-large|start", "tiny", (), "tiny"),
    ],
)
def test_the_first_reader_that_needs_no_download_is_chosen(monkeypatch, names, start, here, chosen):
    monkeypatch.setattr("mixkit.models.loading.is_here", lambda name: name in here)
    assert reader_name(names, start) == chosen


def test_the_reader_is_loaded_for_the_study(monkeypatch):
    def load_reader(name, *, study):
        raise InputError(f"{name} for {study}")

    monkeypatch.setattr(module, "load_reader", load_reader)
    config = RunConfig.check({"reader": "minilm", "study": "own"})
    with pytest.raises(InputError, match="minilm for own"):
        evaluate("name", config, None, None, None, [], [[]])


@pytest.mark.slow
@FEW
def test_all_metrics_of_a_run(toy, evaluated, monkeypatch):
    model, tokenizer, _ = toy
    prompts, sets, others, _, metrics, human = evaluated
    monkeypatch.setattr("mixkit.models.loading.is_here", lambda name: False)
    corpus = load_corpus("tales", train=1, validation=1, test=5)
    config = RunConfig.check({"prompt_tokens": 20, "max_new_tokens": 20, "max_tokens": 60})
    result = evaluate("name", config, corpus, model, tokenizer, [*prompts, *others], sets)
    assert result.reader == "run:name"
    for name in MAUVE_NAMES:
        assert result.metrics[name].sets == pytest.approx(metrics[name].sets)
        assert result.human[name].sets == pytest.approx(human[name].sets)
    assert {"perplexity", "coherence", "valid_prefix_rate", "forward_kl"} <= set(result.metrics)
    assert result.metrics["perplexity"].value > 1 and result.human["valid_prefix_rate"].value == 1
    assert "longer than max_tokens" in result.metrics["forward_kl"].why
    nll, tokens = text_nll(model, tokenizer, corpus.test, max_tokens=60)
    assert result.metrics["perplexity"].value == pytest.approx((nll.sum() / tokens.sum()).exp().item(), rel=1e-6)
    refined, best = (result.metrics[name] for name in ("refined_perplexity", "best_temperature"))
    assert (refined.value is None) == (best.value is None) and (refined.value or 0) <= result.metrics[
        "perplexity"
    ].value
    rates = [result.metrics[f"recall_at_{n}"].value for n in (1, 5, 50)]
    assert 0 <= rates[0] <= result.metrics["mean_reciprocal_rank"].value <= rates[2] <= 1 and rates == sorted(rates)
    assert "valid_next_auc" in result.metrics
    beginnings = [prompt.text for prompt in prompts]

    def mean_nll(texts, prompts):
        nll, tokens = text_nll(model, tokenizer, texts, prompts=prompts, max_tokens=40)
        return (nll.sum() / tokens.sum()).item()

    own = mean_nll([text for texts in sets for text in texts], beginnings * len(sets))
    expected = own - mean_nll([prompt.human for prompt in prompts], beginnings)
    assert result.metrics["entropy_calibration"].value == pytest.approx(expected, rel=1e-6)
    assert "perplexity" not in result.human and "forward_kl" not in result.human
    greedy = evaluate("name", config, corpus, model, tokenizer, [*prompts, *others], [sets[0], list(sets[0])]).metrics
    assert greedy["mauve"].value == result.metrics["mauve"].sets[0] and greedy["mauve"].low is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"top_p": 0.7}, "at some temperature"),
        ({"temperature": 0.0}, "at some temperature"),
        ({"temperature": 0.7}, None),
        ({"decode_as": "mixce"}, "at some temperature"),
        ({"objective": "sequencematch"}, "deleted"),
        ({"seed": 3}, None),
    ],
)
def test_entropy_calibration_needs_unbiased_texts(toy, evaluated, settings, reason):
    model, tokenizer, _ = toy
    prompts, sets, *_ = evaluated
    config = RunConfig.check({"prompt_tokens": 20, "max_new_tokens": 20, **settings})
    estimate = _entropy_calibration(config, model, tokenizer, prompts[:8], [texts[:8] for texts in sets])
    assert reason in estimate.why if reason else estimate.low < estimate.value < estimate.high
