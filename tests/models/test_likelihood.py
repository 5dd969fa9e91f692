"""Batches in groups of like length: little padding, and the same loss and gradients as the padded batch."""

import copy
import itertools
import random

import pytest
import torch
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mixkit import MLE, TaiLr, TokenScores
from mixkit.losses.lm_head import weighted_cross_entropy
from mixkit.models.head import lm_head
from mixkit.models.likelihood import (
    GROUP_COSTS,
    batch_nll,
    collate_groups,
    encode,
    group_hidden,
    length_groups,
    text_nll,
)
from mixkit.models.loading import byte_level_bpe, default_device
from mixkit.texts.corpora import load_corpus
from tests.support import padded


@pytest.mark.parametrize("objective", [MLE(), TaiLr(0.1, 0.2)], ids=str)
@pytest.mark.parametrize("group_cost", [0, 20, 10**6])
def test_groups_have_the_loss_and_gradients_of_the_padded_batch(toy, monkeypatch, objective, group_cost):
    monkeypatch.setitem(GROUP_COSTS, default_device().type, group_cost)
    model, tokenizer, texts = copy.deepcopy(toy)
    rows = encode(tokenizer, [*texts[:9], "a", "The fox"], 90)
    batch = collate_groups(rows)
    assert len(batch["groups"]) == {0: len({len(row) for row in rows}), 10**6: 1}.get(group_cost, len(batch["groups"]))
    hidden = group_hidden(model, batch)
    loss = weighted_cross_entropy(hidden, targets=batch["targets"], objective=objective, **vars(lm_head(model)))
    found = torch.autograd.grad(loss, list(model.parameters()))
    ids, mask = padded(rows)
    logits = model(ids, attention_mask=mask.long()).logits[:, :-1]
    expected = objective(TokenScores.from_logits(logits, ids[:, 1:]), mask[:, 1:])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for one, other in zip(found, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    nll, tokens = batch_nll(model, batch)
    assert tokens.tolist() == [len(row) - 1 for row in rows]
    alone = [batch_nll(model, collate_groups([row]))[0].item() for row in rows]
    assert nll.tolist() == pytest.approx(alone, rel=1e-5)


def test_contexts_are_no_targets(monkeypatch):
    monkeypatch.setitem(GROUP_COSTS, default_device().type, 0)
    batch = collate_groups([[9, 1, 2], [9, 3, 4, 5, 6], [9]], context_lengths=[2, 3, 1])
    assert batch["input_ids"].tolist() == [[9, 3, 4, 5, 6], [9, 1, 2, 0, 0], [9, 0, 0, 0, 0]]
    assert batch["groups"] == [(0, 1, 4), (1, 2, 2), (2, 3, 1)]
    assert batch["targets"].tolist() == [5, 6, 2] and batch["rows"].tolist() == [1, 1, 0]
    assert batch["positions"].tolist() == [2, 3, 5]


def test_the_groups_are_the_best_division():
    lengths = [17, 9, 9, 8, 3, 1, 1]

    def total(groups):
        return sum((end - first) * lengths[first] + 5 for first, end in groups)

    divisions = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(lengths)]
        divisions.append(list(itertools.pairwise([0, *ends])))
    assert total(length_groups(lengths, 5)) == min(map(total, divisions))


@pytest.mark.slow
def test_less_than_5_percent_of_wikitext_is_padding(wikitext_file, monkeypatch):
    monkeypatch.setitem(GROUP_COSTS, "cuda", GROUP_COSTS["cpu"])
    texts = load_corpus(str(wikitext_file), train=10**6, validation=50, test=50).train
    rows = encode(byte_level_bpe(texts[:200], 2048), texts, 256)
    random.Random(0).shuffle(rows)
    real, read = 0, 0
    for first in range(0, len(rows), 32):
        batch = collate_groups(rows[first : first + 32])
        real += len(batch["targets"])
        read += sum((end - start) * width for start, end, width in batch["groups"])
    assert real == sum(len(row) - 1 for row in rows)
    assert 1 - real / read < 0.05


@pytest.mark.parametrize("cut", [" a king", "ing lived"])
def test_a_text_after_its_prompt_has_the_tokens_of_the_whole(cut):
    """As Llama 2 does, the tokenizer puts a mark of a blank before every text that it is given."""
    whole = "Once upon a time, a king lived there."
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator(whole.split() * 2, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=len(tokenizer))).eval()
    prompt = whole[: whole.index(cut)]
    nll, tokens = text_nll(model, tokenizer, [whole.removeprefix(prompt)], prompts=[prompt], max_tokens=60)
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(whole)["input_ids"]]])
    each = -model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    same = [a == b for a, b in zip(tokenizer(prompt)["input_ids"], ids[0, 1:].tolist(), strict=False)]
    first = (*same, False).index(False)
    assert tokens.item() == len(each) - first < len(each)
    torch.testing.assert_close(nll[0], each[first:].sum().double())
