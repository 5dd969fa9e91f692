"""The numbers of a run against the metrics they are made of, and what is absent with its reason."""

import math
import warnings

import numpy as np
import pytest

from mixkit._common import InputError
from mixkit.metrics import features as readers
from mixkit.metrics.features import Reader, choose_reader
from mixkit.metrics.ngram_metrics import score_texts
from mixkit.metrics.quality import SmallSampleWarning, coherence, judge_perplexity
from mixkit.metrics.statistics import Estimate, prediction_interval, t_interval
from mixkit.models.generation import Prompt, sample_continuations
from mixkit.studies import evaluate as judging
from mixkit.studies.config import check
from mixkit.studies.store import RunStore

FEW = pytest.mark.filterwarnings("ignore::mixkit.metrics.quality.SmallSampleWarning")


@pytest.fixture(scope="module")
def judged(toy):
    """100 prompts, two sets of a model's samples, 130 spare human texts, and the numbers of the run."""
    from mixkit.texts.corpora import load_corpus

    model, tokenizer, _ = toy
    stories = load_corpus("tales", train=1, validation=1, test=230).test
    halves = [(" ".join(s.split()[:5]), " " + " ".join(s.split()[5:30])) for s in stories]
    prompts = [Prompt([0, *tokenizer(a)["input_ids"]], a, b) for a, b in halves]
    prompts, others = prompts[:100], prompts[100:]
    drawn = sample_continuations(model, tokenizer, [p.ids for p in prompts], max_new_tokens=20, sets=2, seed=1)
    sets = [[continuation.text for continuation in one_set] for one_set in drawn]
    reader = Reader("toy", model, tokenizer, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallSampleWarning)
        found = judging.evaluate_samples(prompts, sets, others, reader, max_tokens=40)
    return prompts, sets, others, reader, *found


def test_text_metrics_are_means_over_sets(judged):
    prompts, sets, _, _, metrics, human = judged
    budget = sum(len(p.human.split()) for p in prompts) // 2
    scores = [score_texts(texts, budget=budget) for texts in sets]
    for name, first in scores[0].items():
        if scores[1][name].value is not None and first.value is not None:
            assert metrics[name]["value"] == pytest.approx(np.mean([s[name].value for s in scores]), abs=1e-12)
            assert metrics[name]["low"] == pytest.approx(np.mean([s[name].low for s in scores]), abs=1e-12)
    assert human["diversity"]["value"] == score_texts([p.human for p in prompts])["diversity"].value


def test_a_set_without_an_interval_gives_the_reason_why_the_mean_has_none():
    whole, bare = Estimate(0.5, 0.4, 0.6), Estimate(0.7, why="one text has no interval")
    for sets in ((whole, bare), (bare, whole)):
        found = judging._mean_over_sets([{"x": e} for e in sets])["x"]
        assert (found["value"], found["low"], found["why"]) == (0.6, None, "one text has no interval")
    assert judging._mean_over_sets([{"x": whole}])["x"]["why"] is None


@FEW
def test_numbers_of_features_are_those_of_the_packages_on_each_set(judged):
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    from mauve import compute_mauve

    prompts, sets, _, reader, metrics, _ = judged
    human = reader.features([p.text + p.human for p in prompts], 40)
    segments = [reader.features([p.text + text for p, text in zip(prompts, texts, strict=True)], 40) for texts in sets]
    outs = [[compute_mauve(p_features=human, q_features=w, seed=s) for s in judging.KMEANS_SEEDS] for w in segments]
    for name in judging.MAUVE_NAMES:
        values = [np.mean([getattr(out, name) for out in of_set]) for of_set in outs]
        assert metrics[name]["sets"] == pytest.approx(values, abs=1e-9)
        assert metrics[name]["value"] == pytest.approx(t_interval(values).value)
        assert 0 <= metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"] <= 1
    neighbours = [package.compute_prdc(human, w, nearest_k=5) for w in segments]
    for name in judging.PRDC_NAMES:
        assert metrics[name]["sets"] == pytest.approx([n[name] for n in neighbours], abs=1e-9)
        assert (metrics[name]["reader"], metrics[name]["texts"], metrics[name]["over"]) == ("toy", 100, "sets")
    assert metrics["density"]["high"] == pytest.approx(t_interval(metrics["density"]["sets"]).high)


def test_the_ceiling_is_human_against_human_with_an_interval(judged):
    *_, metrics, human = judged
    for name in (*judging.MAUVE_NAMES, *judging.PRDC_NAMES):
        assert human[name]["over"] == "halvings" and human[name]["texts"] == 100
        assert len(set(human[name]["sets"])) > 1 and len(human[name]["sets"]) == judging.CEILING_SPLITS
        assert human[name]["value"] == pytest.approx(np.mean(human[name]["sets"]))
        assert human[name]["low"] < human[name]["value"] < human[name]["high"]
    assert human["mauve"]["low"] > metrics["mauve"]["high"]  # the toy writes noise


@FEW
def test_what_is_too_little_is_absent_with_the_reason(judged):
    prompts, sets, others, reader, *_ = judged
    metrics, human = judging.evaluate_samples(prompts, sets[:1], others[:99], reader, max_tokens=40)
    assert metrics["mauve"]["value"] is not None and metrics["mauve"]["low"] is None
    for name in ("mauve", "coverage"):
        assert human[name]["value"] is None and "needs 100 more human texts; the corpus has 99" in human[name]["why"]
    few, human = judging.evaluate_samples(prompts[:99], [sets[0][:99]], others, reader, max_tokens=40)
    assert few["mauve"]["value"] is human["mauve"]["value"] is None and "at least 100" in few["mauve"]["why"]
    assert few["diversity"]["value"] is not None
    for name in judging.PRDC_NAMES:
        assert few[name]["texts"] == human[name]["texts"] == 99 and human[name]["low"] is not None


def test_numbers_by_other_models(judged, monkeypatch):
    prompts, sets, _, reader, *_ = judged
    sets = [["", *sets[0][1:]], sets[1]]
    monkeypatch.setattr(judging, "load_reader", lambda name, *, study: reader)
    metrics, human = judging.evaluate_with_models(prompts, sets, coherence_reader="toy", judge="toy", judged="another")
    beginnings = [p.text for p in prompts]
    cosines = np.array([coherence(beginnings, texts, reader) for texts in sets])
    assert metrics["coherence"]["sets"] == pytest.approx(np.nanmean(cosines, 1), abs=1e-6)
    assert metrics["coherence"]["prompts"] == pytest.approx(np.nanmean(cosines, 0).tolist(), abs=1e-6)
    results = [judge_perplexity(texts, reader, judged="another", prompts=beginnings) for texts in sets]
    assert metrics["judge_perplexity"]["sets"] == pytest.approx([r.perplexity for r in results])
    nats = sum(r.nll for r in results) / sum(r.tokens for r in results)
    assert metrics["judge_perplexity"]["prompts"] == pytest.approx(nats.tolist())
    assert metrics["judge_perplexity"]["prompts"][0] == pytest.approx(results[1].nll[0] / results[1].tokens[0])
    own = judge_perplexity([p.human for p in prompts], reader, judged=None, prompts=beginnings).perplexity
    assert human["judge_perplexity"]["value"] == pytest.approx(own)
    assert human["judge_perplexity"]["reader"] == human["coherence"]["reader"] == "toy"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "no model was asked for; the parameter judge names one"),
        ({"judge": "start"}, "judge 'start' is the model that wrote the texts, or their model's start"),
        ({"judge": "run:none"}, "no finished run of that name"),
        ({"judge": "gpt3"}, "unknown model 'gpt3'"),
    ],
)
def test_a_judge_that_is_not_at_hand_leaves_the_number_absent(judged, asked, reason):
    prompts, sets, *_ = judged
    names = {"coherence_reader": "", "judge": "", "judged": "start", **asked}
    for numbers in judging.evaluate_with_models(prompts, sets, **names):
        assert numbers["judge_perplexity"]["value"] is None and reason in numbers["judge_perplexity"]["why"]
        assert "the parameter coherence_reader names one" in numbers["coherence"]["why"]


def test_no_model_judges_those_that_descend_from_it(judged, tmp_path, monkeypatch):
    prompts, sets, _, reader, *_ = judged
    store = RunStore(tmp_path)
    base = store.begin(check({"study": "own", "objective": "mle", "model": "smollm2-135m"}))
    tuned = store.begin(check({"study": "own", "objective": "mle", "model": f"run:{base.name}"}))
    for run in (base, tuned):
        run.finish({})
    monkeypatch.setattr("mixkit.studies.plan.RunStore", lambda: store)
    monkeypatch.setattr(judging, "load_reader", lambda name, *, study: reader)
    for judge in ("smollm2-135m", f"run:{base.name}", f"run:own/{base.name}", "another"):
        asked = {"coherence_reader": "", "judge": judge, "judged": f"run:{tuned.name}", "study": "own"}
        found = judging.evaluate_with_models(prompts, sets, **asked)[0]["judge_perplexity"]
        assert (found["value"] is not None) == (judge == "another")
        assert judge == "another" or "wrote the texts, or their model's start" in found["why"]


def test_where_one_more_value_would_lie():
    from scipy import stats

    values = [0.3, 0.5, 0.45, 0.6]
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * math.sqrt(1 + 1 / 4)
    found = prediction_interval(values)
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert prediction_interval([0.5]).low is None and prediction_interval([0.5]).why
    with pytest.raises(InputError, match="empty"):
        prediction_interval([])


@pytest.mark.parametrize(
    ("names", "start", "here", "chosen"),
    [
        ("gpt2-large|start", "run:base", (), "run:base"),
        ("gpt2-large|start", "run:base", ("gpt2-large",), "gpt2-large"),
        ("gpt2-large|start", "gpt2", (), "gpt2"),  # the last one, download or not
        ("start|gpt2-large", "smollm2-135m", (), "smollm2-135m"),
        ("minilm", "tiny", (), "minilm"),
        ("gpt2-large|minilm|start", "gpt2", (), "minilm"),
    ],
)
def test_the_first_reader_that_needs_no_download_is_chosen(monkeypatch, names, start, here, chosen):
    monkeypatch.setattr("mixkit.models.loading.is_here", lambda name: name in here)
    monkeypatch.setattr(readers, "load_reader", lambda name, *, study: (name, study))
    assert choose_reader(names, start=start, study="s", trained=None) == (chosen, "s")


def test_a_run_from_the_random_start_is_read_by_what_it_has_become(monkeypatch):
    monkeypatch.setattr("mixkit.models.loading.is_here", lambda name: False)
    trained = object()
    assert choose_reader("gpt2-large|start", start="tiny", study="s", trained=trained) is trained
