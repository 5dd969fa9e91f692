"""Generalised Jensen-Shannon of chains, exact and as an objective, against enumeration of all texts and samples."""

import itertools
import math

import pytest
import torch

from mixkit.toys.bigrams import Texts
from mixkit.toys.chains import JensenShannon, MarkovChain, exact_jensen_shannon, fit, jensen_shannon
from mixkit.toys.mixture import MixtureTerms

ETAS = (0.01, 0.5, 0.9)


def short_rows(seed: int, columns: int = 3) -> torch.Tensor:
    """Logits of three rows whose last column, the end, is so likely that texts can be enumerated."""
    logits = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[:, -1] += 4
    return logits


def enumerated(*chains: torch.Tensor, longest: int = 8) -> list[torch.Tensor]:
    """The probability of every text of two tokens up to that length, under each (3, 3), by multiplying along it."""
    texts = [t for n in range(longest + 1) for t in itertools.product(range(2), repeat=n)]
    paths = [list(zip([0, *(x + 1 for x in t)], [*t, 2], strict=True)) for t in texts]
    return [torch.stack([math.prod(rows[i, j] for i, j in path) for path in paths]) for rows in chains]


def divergence(p: torch.Tensor, q: torch.Tensor, eta: float) -> torch.Tensor:
    middle = eta * p + (1 - eta) * q
    return sum(share * (torch.xlogy(x, x) - x * middle.log()).sum() for share, x in ((eta, p), (1 - eta, q)))


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("forbidden", [False, True])
def test_exact_divergence_and_its_gradient_equal_enumeration(eta, forbidden):
    p, logits = short_rows(0).softmax(-1), short_rows(1).requires_grad_()
    if forbidden:
        p[1, 0] = 0
        p = p / p.sum(-1, keepdim=True)
    q = logits.softmax(-1)
    found, expected = exact_jensen_shannon(MarkovChain(p), MarkovChain(q), eta), divergence(*enumerated(p, q), eta)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    slopes = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-2, atol=1e-3 * slopes[1].abs().max().item())
    assert exact_jensen_shannon(MarkovChain(q), MarkovChain(p), 1 - eta).item() == pytest.approx(found.item())


def test_exact_divergence_of_long_texts_meets_the_sampled_one():
    p = MarkovChain.random(20, 0.5, [7, 42])
    near = MarkovChain(0.95 * p.probs + 0.05 * MarkovChain.random(20, 0.0, 3).probs)
    for q in (near, MarkovChain.random(20, 0.5, [8, 9])):
        exact = exact_jensen_shannon(p, q, 0.3)
        for i in range(2):
            estimate, error = jensen_shannon(p[i], q[i], 0.3, samples=20_000)
            assert abs(estimate - exact[i]).item() < 4 * error.item() < 0.1 * exact[i].item()


def test_ends_of_the_exact_divergence():
    p, q = (MarkovChain.from_matrix([a, 1 - a, 0], [[0, 0, 1], [0, 0, 1]]) for a in (1.0, 0.0))
    assert exact_jensen_shannon(p, q).item() == pytest.approx(math.log(2))
    assert exact_jensen_shannon(p, p).item() == pytest.approx(0, abs=1e-8)
    assert exact_jensen_shannon(p, q, 0).item() == exact_jensen_shannon(p, q, 1).item() == 0
    for eta in (0, 1.0, 1.5, "0.5"):
        with pytest.raises(ValueError, match=r"eta is .*must be"):
            JensenShannon(eta)


def test_value_and_slope_of_the_learners_equal_enumeration():
    """Two objectives, one seed, two dropout masks, some mass on the padding; the first half over texts of the data."""
    gold = MarkovChain(short_rows(0).softmax(-1))
    data = Texts(gold, train=300, development=100, batch=50, seed=1)
    data.shuffled()
    logits = torch.stack([torch.stack([short_rows(i, 4), short_rows(i + 1, 4)]) for i in (2, 5)])[:, None]
    objectives = [JensenShannon(0.2), JensenShannon(0.9)]
    terms = MixtureTerms(objectives, MarkovChain(gold.probs[None]), [data])
    texts = gold.sample(400, seed=1)
    held_out, batch = texts[:100], texts[100:][data.order[4]]

    logits.requires_grad_()
    for i, objective in enumerate(objectives):
        eta, q = objective.eta, logits[i, 0].softmax(-1).mean(0)[:, [0, 1, 3]]
        of_p, of_q = enumerated(gold.probs, q)
        middle = eta * of_p + (1 - eta) * of_q
        reverse = (of_q * (of_q / middle).log()).sum() - (1 - of_q.sum()) * math.log(1 - eta)

        def half(texts, q=q, eta=eta):
            log_p = gold.log_prob(texts)
            rows = torch.cat([torch.zeros_like(texts[:, :1]), texts[:, :-1] + 1], 1)
            log_q = torch.where(rows < 3, q[rows.clamp_max(2), texts].log(), 0).sum(1)
            return (log_p - torch.logaddexp(log_p + math.log(eta), log_q + math.log(1 - eta))).mean()

        value, loss = (eta * half(x) + (1 - eta) * reverse for x in (held_out, batch))
        assert terms.value(logits.detach())[i, 0].item() == pytest.approx(value.item(), rel=1e-5)
        (slope,) = torch.autograd.grad(loss, logits)
        found = terms.slope(logits.detach().float(), 4)[i]
        torch.testing.assert_close(found.double(), slope[i], rtol=2e-3, atol=1e-3 * slope.abs().max().item())


def test_learners_under_the_divergence_come_near_the_truth():
    gold = MarkovChain.random(5, 0.5, [1, 2])
    asked = {"train": 2000, "development": 200, "batch": 50}
    objectives = [JensenShannon(0.1), JensenShannon(0.5)]
    found = fit(gold, objectives, [1, 2], epochs=5, **asked)
    untrained = fit(gold, objectives, [1, 2], epochs=1, **{**asked, "train": 100})
    assert (found.average_js < 0.3 * untrained.average_js).all()
    assert (exact_jensen_shannon(gold, found.learned, 0.5) < exact_jensen_shannon(gold, untrained.learned, 0.5)).all()
    assert found.records()[-1]["objective"] == "js" and found.records()[-1]["eta"] == 0.5
