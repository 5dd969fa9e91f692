"""Exact quantities of Markov chains against enumeration, sampling, finite differences; the study against the texts."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from mixkit import MLE, MixCE, TaiLr, TokenScores
from mixkit.toys.bigrams import (
    Adam,
    Learner,
    Texts,
    forward_slope,
    gumbel_terms,
    log_with_padding,
    reverse_slope,
    reverse_terms,
    token_weights,
)
from mixkit.toys.chains import (
    KLMix,
    MarkovChain,
    MixCEStar,
    average_js,
    average_zeros,
    fit,
    forward_cross_entropy,
    forward_kl,
    jensen_shannon,
    mixed_cross_entropy,
    mixed_kl,
    reverse_cross_entropy,
    reverse_kl,
    study,
)
from mixkit.toys.markov import transition_counts


def short_chain(seed: int, vocab: int = 3) -> MarkovChain:
    """A chain whose texts are so short that they can be enumerated."""
    probs = torch.rand(vocab, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probs[:, -1] += 4 * vocab
    return MarkovChain(probs / probs.sum(-1, keepdim=True))


def enumerated(p: MarkovChain, q: MarkovChain, longest: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """P and Q of every text up to that length, by multiplying along each."""
    texts = [t for n in range(longest + 1) for t in itertools.product(range(p.vocab - 1), repeat=n)]
    values = []
    for chain in (p, q):
        rows = chain.probs
        products = []
        for text in texts:
            value, row = 1.0, 0
            for token in text:
                value, row = value * rows[row, token], token + 1
            products.append(value * rows[row, -1])
        values.append(torch.stack(products))
    return values[0], values[1]


def test_exact_quantities_equal_enumeration():
    p, q = short_chain(0), short_chain(1)
    of_p, of_q = enumerated(p, q)
    assert of_p.sum().item() == pytest.approx(1, abs=1e-7)
    log_ratio = (of_p / of_q).log()
    expected = {
        forward_cross_entropy: -(of_p * of_q.log()).sum(),
        reverse_cross_entropy: -(of_q * of_p.log()).sum(),
        forward_kl: (of_p * log_ratio).sum(),
        reverse_kl: -(of_q * log_ratio).sum(),
    }
    for function, value in expected.items():
        assert function(p, q).item() == pytest.approx(value.item(), rel=1e-5), function.__name__
    kls = expected[forward_kl], expected[reverse_kl]
    assert mixed_kl(p, q, 0.3).item() == pytest.approx((0.3 * kls[0] + 0.7 * kls[1]).item(), rel=1e-5)
    assert mixed_cross_entropy(p, q, 0.3).item() == pytest.approx(
        (0.3 * forward_cross_entropy(p, q) + 0.7 * reverse_cross_entropy(p, q)).item()
    )
    assert forward_kl(p, p).item() == pytest.approx(0, abs=1e-14)


def test_closed_form_of_two_geometric_chains():
    p, q = (MarkovChain.from_matrix([a, 1 - a], [[a, 1 - a]]) for a in (0.7, 0.4))
    tokens = 0.7 / 0.3  # mean number before the end
    assert p.expected_visits().sum().item() == pytest.approx(tokens + 1)
    assert forward_cross_entropy(p, q).item() == pytest.approx(-tokens * math.log(0.4) - math.log(0.6))
    assert reverse_cross_entropy(p, q).item() == pytest.approx(-0.4 / 0.6 * math.log(0.7) - math.log(0.3))


@pytest.mark.parametrize("eta", [0.1, 0.5, 0.9])
def test_sampled_jensen_shannon_and_its_gradient_meet_enumeration(eta):
    p = short_chain(2, 2)
    logits = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    estimate, error = jensen_shannon(p, MarkovChain.from_logits(logits), eta, samples=40_000)
    of_p, of_q = enumerated(p, MarkovChain.from_logits(logits), 40)
    middle = eta * of_p + (1 - eta) * of_q
    exact = eta * (of_p * (of_p / middle).log()).sum() + (1 - eta) * (of_q * (of_q / middle).log()).sum()
    assert abs(estimate.item() - exact.item()) < 4 * error.item() < 0.15 * exact.item()
    slopes = [torch.autograd.grad(x, logits)[0] for x in (estimate, exact)]
    torch.testing.assert_close(*slopes, rtol=0.1, atol=0.05 * slopes[1].abs().max().item())


def test_jensen_shannon_of_disjoint_chains_is_log_2():
    p, q = (MarkovChain.from_matrix([a, 1 - a, 0], [[0, 0, 1], [0, 0, 1]]) for a in (1.0, 0.0))
    value, error = jensen_shannon(p, q, samples=10)
    assert (value.item(), error.item()) == pytest.approx((math.log(2), 0))
    probs = q.probs.clone().requires_grad_()
    jensen_shannon(p, MarkovChain(probs), samples=10)[0].backward()
    assert probs.grad.isfinite().all()


def test_cross_entropies_are_the_mean_nll_of_sampled_texts():
    p, q = MarkovChain.random(12, 0.5, 1), MarkovChain.random(12, 0.0, 2)
    q = MarkovChain(0.5 * p.probs + 0.5 * q.probs)
    mixed = MarkovChain(0.9 * p.probs + 0.1 * q.probs)  # no zeros, so that log P of Q's texts is finite
    for exact, source, judge in (
        (forward_cross_entropy(p, q), p, q),
        (reverse_cross_entropy(mixed, q), q, mixed),
    ):
        nll = -judge.log_prob(source.sample(40_000, seed=3))
        assert abs(nll.mean() - exact).item() < 4 * nll.std().item() / 200
    assert forward_cross_entropy(q, p).item() == math.inf
    forbidden = q.probs * (p.probs == 0)
    floored = reverse_cross_entropy(p, q).item()
    least = (q.expected_visits()[:, None] * forbidden).sum().item() * -math.log(1e-30)
    assert least < floored < least + reverse_cross_entropy(mixed, q).item() + 10


@pytest.mark.parametrize(
    "function", [forward_cross_entropy, reverse_cross_entropy, forward_kl, reverse_kl], ids=lambda x: x.__name__
)
def test_gradients_equal_finite_differences_over_a_batch(function):
    p = MarkovChain.random(5, 0.4, [3, 4])
    logits = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: function(p, MarkovChain.from_logits(z)), (logits,))
    alone = torch.stack([function(p[i], MarkovChain.from_logits(logits[i])) for i in range(2)])
    torch.testing.assert_close(function(p, MarkovChain.from_logits(logits)), alone)


def test_gradient_where_both_are_zero_is_finite():
    p = MarkovChain.random(6, 0.5, 0)
    probs = p.probs.clone().requires_grad_()
    (forward_kl(p, MarkovChain(probs)) + p.log_prob([[]]).sum()).backward()
    assert probs.grad.isfinite().all()


@pytest.mark.parametrize("vocab", [2, 7])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
def test_random_chain_is_the_published_law_drawn_in_the_published_order(vocab, zeros):
    stream = np.random.RandomState(42)
    gold = stream.dirichlet([0.5] * vocab, size=vocab)
    for i in range(vocab - 1):
        for j in range(vocab - 1):
            if stream.random_sample() < zeros:
                gold[i][j] = 0
    gold = gold / gold.sum(axis=1)[:, None]
    chain = MarkovChain.random(vocab, zeros, 42)
    np.testing.assert_array_equal(chain.probs[1:], gold[:-1])
    np.testing.assert_array_equal(chain.probs[0], np.full(vocab, 1 / vocab))
    torch.testing.assert_close(MarkovChain.random(vocab, zeros, [1, 42])[1].probs, chain.probs)


@pytest.mark.parametrize("cap", [1, 2, 5, 500])
def test_visits_are_those_of_a_walk_step_by_step(cap):
    chain = MarkovChain.random(9, 0.3, 5)
    at, visits = torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    at[0] = 1
    for _ in range(cap):
        visits += at
        at = torch.cat([torch.zeros(1), at @ chain.probs[:, :-1]])
    torch.testing.assert_close(chain.expected_visits(cap), visits)
    if cap == 500:
        torch.testing.assert_close(chain.expected_visits(), visits)
    texts = chain.sample(20_000, seed=0, cap=cap)
    assert texts.shape[1] <= cap and (texts[:, -1] == 8).all()
    counted = transition_counts(texts, 9).sum(1) / 20_000
    torch.testing.assert_close(counted, visits, rtol=0.05, atol=0.02)


def test_samples_follow_the_chain_and_never_the_forbidden():
    chain = MarkovChain.random(20, 0.5, 7)
    texts = chain.sample(20_000, seed=1)
    counts = transition_counts(texts, 20)
    assert counts[chain.probs == 0].sum() == 0
    expected = 20_000 * chain.expected_visits()[:, None] * chain.probs
    deviation = (counts - expected) / expected.clamp_min(1).sqrt()
    assert deviation.abs().max() < 6 and deviation.std() < 1.5
    assert chain.log_prob(texts).isfinite().all()
    numbers, pairs = chain.sample_transitions(20_000, seed=1)
    assert (torch.bincount(pairs, minlength=400).view(20, 20) == counts).all()
    assert (torch.bincount(numbers) == (texts != 19).sum(1) + 1).all()
    assert (chain.sample(20_000, seed=2)[:, 0] != texts[:, 0]).any()


def test_log_prob_by_hand():
    chain = MarkovChain.from_matrix([0.5, 0.25, 0.25], [[0.0, 0.5, 0.5], [0.1, 0.2, 0.7]])
    expected = [0.25, 0.5 * 0.5, 0.5 * 0.5 * 0.2 * 0.7, 0.0]
    np.testing.assert_allclose(chain.log_prob([[], [0], [0, 1, 1], [0, 0, 1]]).exp(), expected)


def test_chain_from_corpus():
    chain = MarkovChain.from_corpus(["a b", "a a b", "c"])
    assert chain.words == ("a", "b", "c")
    np.testing.assert_allclose(chain.probs, [[2 / 3, 0, 1 / 3, 0], [1 / 3, 2 / 3, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]])
    ids = MarkovChain.from_corpus([[0, 1], [0, 0, 1], [2]], vocab=5)  # token 3 never occurs
    np.testing.assert_allclose(ids.probs[[0, 1, 2, 3]][:, [0, 1, 2, 4]], chain.probs)
    assert ids.probs[4].tolist() == [0, 0, 0, 0, 1]
    few = MarkovChain.from_corpus(["a b", "a a b", "c"], vocab=3)
    assert few.words == ("a", "<unk>")
    np.testing.assert_allclose(few.probs, [[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 0, 1]])


OBJECTIVES = [MLE(), MixCE(0.3), TaiLr(0.1, 0.2)]


def learner_logits(gold: MarkovChain, seed: int = 0) -> torch.Tensor:
    """(objectives, seeds = 1, masks = 1, V, V + 1), float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(OBJECTIVES), 1, 1, gold.vocab, gold.vocab + 1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_counts_give_the_loss_and_gradient_of_the_texts():
    """Identity: a bigram model's token-weighted loss depends on the transition counts alone."""
    gold = MarkovChain.random(6, 0.5, 3)
    texts = gold.sample(300, seed=1)
    counts = transition_counts(texts, 6)
    frequency = torch.cat([counts[:, :-1], torch.zeros(6, 1), counts[:, -1:]], 1)[None] / 300
    logits = learner_logits(gold)
    log_q = logits.log_softmax(-1)
    losses = -(token_weights(OBJECTIVES, log_q.exp().detach(), frequency) * log_q).sum((-3, -2, -1))
    (slope,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    torch.testing.assert_close(forward_slope(OBJECTIVES, logits.detach(), frequency), slope)

    previous = torch.cat([torch.zeros_like(texts[:, :1]), texts[:, :-1] + 1], 1)
    mask = previous != 6
    for i, objective in enumerate(OBJECTIVES):
        columns = torch.where(texts == 5, 6, texts)
        scores = TokenScores.from_logits(logits[i, 0, 0][previous.clamp_max(5)], columns)
        by_texts = objective(scores, mask) * mask.sum() / 300  # sums over a text, means over texts
        assert by_texts.item() == pytest.approx(losses[i, 0].item(), rel=1e-12)
        torch.testing.assert_close(torch.autograd.grad(by_texts, logits, retain_graph=True)[0][i], slope[i])


def test_an_epoch_of_counts_holds_every_training_text_once():
    gold = MarkovChain.random(6, 0.5, 3)
    texts = Texts(gold, train=400, development=100, batch=100, seed=9)
    counts = transition_counts(gold.sample(500, seed=9), 6)
    epochs = [texts.shuffled() for _ in range(2)]
    assert (epochs[0] != epochs[1]).any()
    for epoch in epochs:
        assert epoch.shape == (4, 6, 7) and (epoch[..., -2] == 0).all()
        total = 100 * epoch.sum(0) + 100 * texts.held_out
        torch.testing.assert_close(total[:, [0, 1, 2, 3, 4, 6]].double(), counts, rtol=1e-5, atol=1e-4)


def test_exact_reverse_terms_are_those_of_the_chain_with_its_padding():
    """Without any mass on the padding they are the public functions; with it, a sampled text pays the floor."""
    gold = MarkovChain.random(6, 0.3, 3)
    objectives = [MixCEStar(0.3), KLMix(0.3), MixCEStar(0.0)]
    logits = learner_logits(gold).detach()
    log_p = log_with_padding(gold.probs[None]).double()
    padded = reverse_terms(objectives, logits.log_softmax(-1), log_p)
    logits[..., -2] = -1e4
    terms = reverse_terms(objectives, logits.log_softmax(-1), log_p)
    for i, (function, share) in enumerate(
        [(reverse_cross_entropy, 0.7), (reverse_kl, 0.7), (reverse_cross_entropy, 1)]
    ):
        learned = MarkovChain.from_logits(logits[i, 0, 0][:, [0, 1, 2, 3, 4, 6]])
        assert terms[i, 0].item() == pytest.approx(share * function(gold, learned).item(), rel=1e-6)
    assert (padded > terms).all()


def test_gradients_by_hand_are_those_of_autograd():
    objectives = [MixCEStar(0.3), KLMix(0.3, "local"), MixCEStar(0.9, "local"), KLMix(0.0)]
    log_p = log_with_padding(MarkovChain.random(6, 0.4, [1, 2]).probs)
    learner = Learner(6, 4, [1, 2])
    states = [generator.get_state() for generator in learner.generators]
    logits = learner.logits(3)
    reverse_terms(objectives, logits.log_softmax(-1), log_p).sum().backward(inputs=[logits, *learner.parameters])
    expected = [logits.grad, *(x.grad.clone() for x in learner.parameters)]
    for generator, state in zip(learner.generators, states, strict=True):
        generator.set_state(state)
    slope = reverse_slope(objectives, learner.logits(3).detach(), log_p)
    learner.backward(slope)
    for found, wanted in zip([slope, *(x.grad for x in learner.parameters)], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_the_optimizer_is_torchs_adam():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.ones(3, 4, requires_grad=True), torch.ones(2, requires_grad=True)] for _ in range(2))
    optimizers = Adam(ours, 1e-2, 0.3), torch.optim.Adam(theirs, 1e-2, weight_decay=0.3)
    for _ in range(50):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = other.grad = torch.randn(own.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)


def test_where_the_gradients_of_the_three_estimators_point(record_property):
    """The published one is the local one's, blurred; the exact one is something else, on the same side at the start."""
    gold = MarkovChain.random(8, 0.5, 11)
    learner, log_p = Learner(8, 2, [0]), log_with_padding(gold.probs[None])
    slopes = {}
    for estimator in ("exact", "local", "gumbel"):
        objectives = [MixCEStar(0.0, estimator), KLMix(0.0, estimator)]
        if estimator == "gumbel":
            values = gumbel_terms(objectives, learner, [0, 1], log_p, 5000, torch.Generator().manual_seed(0))
        else:
            values = reverse_terms(objectives, learner.logits(100).log_softmax(-1), log_p)
            exact_values = values.detach()
        torch.testing.assert_close(values, exact_values, rtol=0.05, atol=0)
        gradients = torch.autograd.grad(values.sum(), learner.parameters)
        slopes[estimator] = torch.cat([x.flatten(1) for x in gradients], 1)
    for other, least in (("local", 0.97), ("exact", 0.5)):
        cosines = torch.cosine_similarity(slopes["gumbel"], slopes[other], dim=1)
        record_property(f"cosine of gumbel and {other} (MixCE*, KLs)", cosines.tolist())
        assert (cosines > least).all()
    assert (torch.cosine_similarity(slopes["exact"], slopes["local"], dim=1) < 0.9).all()


def test_measures_equal_scipy_and_a_loop():
    gold = MarkovChain.random(7, 0.5, [1, 2]).probs
    learned = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for i in range(2):
        expected = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(gold[i], learned[i], strict=True)])
        assert average_js(gold, learned)[i].item() == pytest.approx(expected)
        zeros = [learned[i, r, c].item() for r in range(7) for c in range(7) if gold[i, r, c] == 0]
        assert average_zeros(gold, learned)[i].item() == pytest.approx(np.mean(zeros))
    assert average_js(gold, gold).abs().max() < 1e-15
    assert average_zeros(torch.full((2, 2), 0.5), torch.full((2, 2), 0.5)).isnan()


SMALL = {"epochs": 6, "train": 4000, "development": 500, "batch": 100}


def test_fit_learns_and_its_ends_are_mle():
    gold = MarkovChain.random(6, 0.5, [1, 2])
    objectives = [MLE(), MixCE(1.0), TaiLr(0.0), MixCEStar(1.0), KLMix(1.0), KLMix(0.5, "local")]
    found = fit(gold, objectives, [1, 2], **SMALL)
    untrained = fit(gold, MLE(), [1, 2], **{**SMALL, "epochs": 1, "train": 100})
    assert (found.average_js[:5] < 0.2 * untrained.average_js).all()
    for i in range(1, 5):
        torch.testing.assert_close(found.learned.probs[i], found.learned.probs[0], rtol=1e-4, atol=1e-6)
    assert (found.average_zeros[5] < found.average_zeros[0]).all()
    records = found.records()
    assert len(records) == 12 and records[-1]["objective"] == "kls" and records[-1]["seed"] == 2
    assert records[-1]["reverse_kl"] == pytest.approx(reverse_kl(gold[1], found.learned[5, 1]).item())

    alone = fit(gold[1], MLE(), [2], **SMALL)  # what runs beside a cell does not change it
    torch.testing.assert_close(alone.learned.probs[0, 0], found.learned.probs[0, 1], rtol=1e-3, atol=1e-5)


def test_fit_stops_when_the_development_loss_does_and_keeps_the_best():
    gold = MarkovChain.random(4, 0.0, 1)
    seen = []
    found = fit(
        gold, MLE(), [1], epochs=60, train=200, development=50, batch=10, progress=lambda epoch, _: seen.append(epoch)
    )
    assert seen[-1] == found.best_epoch.item() + 5 < 60


@pytest.mark.parametrize("estimator", ["local", "gumbel"])
def test_the_other_estimators_fit_too(estimator):
    gold = MarkovChain.random(5, 0.5, 1)
    objectives = [MLE(), MixCEStar(0.9, estimator), KLMix(0.9, estimator)]
    found = fit(gold, objectives, [1], **{**SMALL, "train": 1500, "epochs": 2})
    assert (found.average_zeros[1:, 0] < found.average_zeros[0, 0]).all()


def test_tailr_forgets_noise_in_the_data_that_mle_learns():
    """A twentieth of the next tokens are any at all: what the learner finds improbable weighs less; P comes nearer."""
    clean = MarkovChain.random(10, 0.5, [7, 42])
    noisy = MarkovChain(0.95 * clean.probs + 0.05 / 10)
    found = fit(noisy, [MLE(), TaiLr(1e-3)], [7, 42], epochs=15, train=5000, development=500, batch=100)
    for figure in (forward_kl(clean, found.learned), average_zeros(clean.probs, found.learned.probs)):
        assert (figure[1] < 0.9 * figure[0]).all()


def test_study_is_the_table_as_plain_records():
    records = study(5, 0.5, [MLE(), TaiLr(0.1, 0.2)], [3, 4], **{**SMALL, "epochs": 1})
    assert [(r["objective"], r["seed"]) for r in records] == [("mle", 3), ("mle", 4), ("tailr", 3), ("tailr", 4)]
    assert records[2]["gamma"] == 0.1 and records[2]["w_min"] == 0.2
    assert all(isinstance(x, int | float | str) for r in records for x in r.values())


def rows(**changed):
    probs = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    for name, row in changed.items():
        probs[int(name[1:])] = torch.tensor(row)
    return probs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MarkovChain(rows(r1=[-0.1, 0.6, 0.5])), r"hold -0\.1; they must be in \[0, 1\]"),
        (lambda: MarkovChain(rows(r0=[0.1, 0.6, 0.5])), r"the start's row sums to 1\.2; every row must sum to 1"),
        (lambda: MarkovChain(rows(r2=[0.1, 0.6, 0.1])), r"the row of token 1 sums to 0\.8"),
        (lambda: MarkovChain(rows(r2=[0.1, math.nan, 0.1])), "hold nan; they must be probabilities"),
        (
            lambda: MarkovChain(rows(r2=[0.0, 1.0, 0.0])),
            "no way leads from token 1 to the end: expected visits diverge",
        ),
        (lambda: MarkovChain(torch.ones(1, 1)), "vocab is 1; it must be a whole number of at least 2"),
        (lambda: MarkovChain(torch.ones(2, 3)), r"transitions are \(2, 3\)"),
        (lambda: MarkovChain(torch.ones(2, 2, dtype=torch.long)), "floats"),
        (lambda: MarkovChain.from_matrix([0.5, 0.5], [[0.2, 0.3, 0.5]]), r"must be \(V,\) and \(V - 1, V\)"),
        (lambda: MarkovChain.random(1), "vocab is 1"),
        (lambda: MarkovChain.random(20, 1.5), r"zeros is 1\.5; it must be a number in \[0, 1\]"),
        (lambda: MarkovChain.random(100_000), r"vocab is 100000; it must be in \[2, 5000\]"),
        (lambda: MarkovChain.random(20, 0.5, [7, -1]), r"seed is -1; it must be in \[0, 2\*\*32 - 1\]"),
        (lambda: MarkovChain.from_corpus([]), "the corpus is empty"),
        (lambda: MarkovChain.from_corpus([[]]), "vocab is 1"),
        (lambda: MarkovChain.from_corpus([[0, 7]], vocab=5), "ids from 0 to 4"),
        (lambda: short_chain(0).log_prob([[0, 2]]), "a text holds 2, the end, which is implied; ids are 0 to 1"),
        (lambda: short_chain(0).sample(3, 0, cap=0), "cap is 0"),
        (lambda: MarkovChain.random(5, 0.5, [1, 2]).sample(3, 0), r"pick one: chain\[0\]"),
        (lambda: MixCEStar(1.5), r"eta is 1\.5; it must be a number in \[0, 1\]"),
        (lambda: KLMix("0.5"), r"eta is '0\.5'"),
        (lambda: MixCEStar(0.5, "gumbl"), r"unknown estimator 'gumbl' \(did you mean 'gumbel'\?\)"),
        (lambda: mixed_kl(short_chain(0), short_chain(1), -1), "eta is -1"),
        (lambda: jensen_shannon(short_chain(0), short_chain(1), 2), "eta is 2"),
        (lambda: fit(short_chain(0), []), "0 objectives"),
        (
            lambda: fit(short_chain(0), "mle"),
            r"'mle' cannot be fitted; allowed: MLE, .*, KLMix, JensenShannon, SequenceMatch instances",
        ),
        (lambda: fit(short_chain(0), MLE(), [1, 1]), "no seed twice"),
        (lambda: fit(short_chain(0), MLE(), [1], train=10), r"batch is 1000; it must be in \[1, 10\], train"),
        (lambda: fit(short_chain(0), MLE(), [1], patience=0), "patience is 0; it must be at least 1"),
        (lambda: fit(MarkovChain.random(5, 0.5, [1, 2]), MLE(), [1]), r"gold is a batch \(2,\) of chains"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert type(caught.value).__name__ == "InputError" and "\n" not in str(caught.value)


def test_a_trap_is_refused_only_where_a_text_can_enter_it():
    probs = torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert MarkovChain(probs).log_prob([[0]]).exp().item() == pytest.approx(0.25)
    probs[0] = torch.tensor([0.5, 0.1, 0.4])
    with pytest.raises(ValueError, match="no way leads from token 1"):
        MarkovChain(probs)
