"""T*, refined nll and ranks against plain loops over the full logits."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from mixkit.models import text_nll
from mixkit.models.calibration import INVERSE_TEMPERATURES, best_temperature, held_out
from mixkit.models.likelihood import encode


@pytest.fixture(scope="module")
def scored(toy):
    model, tokenizer, texts = toy
    with torch.no_grad():
        rows = [torch.tensor(row) for row in encode(tokenizer, texts[:7], 40)]
        logits = [model(row[None]).logits[0, :-1].double() for row in rows]
    return held_out(model, tokenizer, texts[:7], max_tokens=40, batch_size=3), rows, logits


def nll_at(logits, rows, temperature):
    losses = [
        torch.nn.functional.cross_entropy(z / temperature, row[1:], reduction="sum")
        for z, row in zip(logits, rows, strict=True)
    ]
    return np.array([loss.item() for loss in losses])


def test_nll_at_every_temperature(scored, toy):
    found, rows, logits = scored
    for i, k in enumerate(INVERSE_TEMPERATURES):
        np.testing.assert_allclose(found.nll_at[:, i], nll_at(logits, rows, 1 / k), rtol=1e-5)
    nll, tokens = text_nll(toy[0], toy[1], toy[2][:7], max_tokens=40)
    np.testing.assert_allclose(found.nll, nll.numpy(), rtol=1e-6)
    assert found.tokens.tolist() == tokens.tolist()


@pytest.mark.slow
def test_ranks(scored):
    found, rows, logits = scored
    for i, (z, row) in enumerate(zip(logits, rows, strict=True)):
        ranks = [
            1 + sum(value > position[y] for value in position.tolist()) for position, y in zip(z, row[1:], strict=True)
        ]
        ranks = np.array([int(rank) for rank in ranks])
        assert found.reciprocal_rank[i] == pytest.approx((1 / ranks).sum(), rel=1e-6)
        assert found.recall[i].tolist() == [(ranks <= n).sum() for n in (1, 5, 50)]


@pytest.mark.parametrize("true_temperature", [0.6, 1.0, 1.4])
def test_the_best_temperature_of_known_logits(true_temperature):
    # The logits of P^(1/T0) are log P / T0; texts are P itself, so T* is 1 / T0.
    p = torch.distributions.Dirichlet(torch.full((50,), 0.3)).sample((200,)).double().clamp(min=1e-9)
    p = p / p.sum(-1, keepdim=True)
    z = p.log() * true_temperature
    curve = [-(p * (k * z).log_softmax(-1)).sum().item() for k in INVERSE_TEMPERATURES]
    best, nats = best_temperature(np.array(curve), np.array(200.0))
    assert best == pytest.approx(true_temperature, rel=4e-3)
    entropy = -(p * p.log()).sum().item() / 200
    assert nats == pytest.approx(entropy, abs=2e-4)


def test_it_is_the_minimum_of_the_exact_nll(scored):
    found, rows, logits = scored
    best, nats = best_temperature(found.nll_at.sum(0), found.tokens.sum())
    exact = minimize_scalar(lambda t: nll_at(logits, rows, t).sum(), bounds=(0.5, 6), method="bounded")
    if 0.6 < exact.x < 4.5:
        assert best == pytest.approx(exact.x, rel=2e-3)
        assert nats == pytest.approx(exact.fun / found.tokens.sum(), rel=1e-4)


def test_a_minimum_at_an_end_is_absent():
    rising = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])
    assert np.isnan(best_temperature(rising, np.array(1.0))).all()
