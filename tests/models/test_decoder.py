"""Sampling from the stationary distribution of an objective."""

import pytest
import torch
from scipy.stats import chisquare

from mixkit.losses import MLE, MixCE, SequenceMatch, TaiLr, fixed_points, objective, stationary_distribution
from mixkit.models import ObjectiveDecoder, Sampler

LOSSES = [MLE(), MixCE(0.7), MixCE(0.1), TaiLr(0.05, 0.2), TaiLr(0.1, 0.0), objective("q ** 0.3")]
LOSSES += [objective(text) for text in ("0.1 + 0.9 * q ** 0.5", "focal(2)", "gem(0.7)", "q", "2 * q", "dft")]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_decoder_gives_the_stationary_distribution(loss, monkeypatch):
    """In chunks of two rows, one of them with two most probable tokens."""
    monkeypatch.setattr(fixed_points, "_IN_CACHE", 2 * 1237)
    scores = 3 * torch.randn(5, 1237, generator=torch.Generator().manual_seed(1))
    scores[:, 3] = -torch.inf
    scores[2, 700:702] = 12.0
    expected = stationary_distribution(loss, scores.double().softmax(-1))
    found = ObjectiveDecoder(loss)(None, scores).exp().double()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", [MixCE(0.1), TaiLr(0.05, 0.2)], ids=str)
def test_samples_have_the_frequencies(loss, toy):
    model, tokenizer, _ = toy
    prompts = torch.tensor([[tokenizer.bos_token_id, 7]]).repeat(4000, 1)
    with torch.no_grad():
        probs = stationary_distribution(loss, model(prompts[:1]).logits[0, -1].double().softmax(-1))
        torch.manual_seed(1)
        processors = Sampler(decode_as=loss).logits_processors()
        tokens = model.generate(prompts, do_sample=True, top_k=0, max_new_tokens=1, logits_processor=processors)[:, -1]
    observed = tokens.bincount(minlength=len(probs)).double()
    order = probs.argsort(descending=True)
    bins = torch.arange(len(probs)) // 20  # so that every bin has many expected samples
    found, expected = (torch.zeros(int(bins[-1]) + 1).double().index_add(0, bins, x[order]) for x in (observed, probs))
    assert chisquare(found.numpy(), 4000 * expected.numpy()).pvalue > 1e-3


def test_an_objective_without_a_decoder_is_refused():
    with pytest.raises(ValueError, match="not a token-weighted objective"):
        ObjectiveDecoder(SequenceMatch())
