"""SequenceMatch of bigram learners by counts, against SequenceMatch of their texts, and its fixed point."""

import pytest
import torch

from mixkit import MLE, SequenceMatch, TokenScores
from mixkit.toys.bigrams import Texts
from mixkit.toys.chains import MarkovChain, fit
from mixkit.toys.markov import transition_counts
from mixkit.toys.matching import MatchingTerms, discounted_transitions, unmatched

VOCAB = 4
GOLD = MarkovChain.random(VOCAB, 0.3, 5)


def table(masks: int = 1, seed: int = 0) -> torch.Tensor:
    """Q-values (seeds = 1, masks, V, V + 1) of a learner that never writes the padding."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, masks, VOCAB, VOCAB + 1, generator=generator, dtype=torch.float64)
    logits[..., -2] = -1e3
    logits[..., -1] += 1
    return logits


def of_texts(objective, logits, ended, data, model):
    """SequenceMatch as it is called on a model's scores, V of the ended text included: a number."""
    sides = []
    for texts in (data, model):
        rows = torch.cat([torch.zeros_like(texts[:, :1]), texts[:, :-1] + 1], 1)
        mask = rows < VOCAB
        value = torch.cat([logits.logsumexp(-1), ended[None]])
        columns = torch.where(texts == VOCAB - 1, VOCAB, texts)
        scores = TokenScores(logits[rows.clamp_max(VOCAB - 1), columns], value[rows])
        sides.append((scores, value[texts + 1], mask, torch.ones(len(texts), dtype=torch.bool)))
    (data_scores, data_next, data_mask, data_ended), (scores, following, mask, model_ended) = sides
    return objective(
        data_scores,
        data_next,
        scores,
        following,
        data_mask=data_mask,
        data_ended=data_ended,
        model_mask=mask,
        model_ended=model_ended,
    )


def discounted(texts: torch.Tensor, discount: float) -> torch.Tensor:
    """(1, V, V + 1): transitions, the i-th of a text counting discount^i, a mean over texts, counted one by one."""
    total = torch.zeros(VOCAB, VOCAB + 1, dtype=torch.float64)
    for text in texts.tolist():
        row = 0
        for i, token in enumerate(text):
            total[row, VOCAB if token == VOCAB - 1 else token] += discount**i
            row = token + 1
            if token == VOCAB - 1:
                break
    return total[None] / len(texts)


@pytest.mark.parametrize("divergence", ["chi2", "js", "rkl"])
def test_counts_give_the_loss_and_gradient_of_the_texts(divergence):
    """Of these the model's texts touch only terms that telescope: any will do, and equality is exact."""
    objective = SequenceMatch(0.3, 0.9, divergence)
    data, model = GOLD.sample(40, seed=1), GOLD.sample(3, seed=2)
    logits, ended = table().requires_grad_(), torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    found = unmatched(objective, logits, ended, discounted(data, 0.9))
    expected = of_texts(objective, logits[0, 0], ended[0], data, model)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    pairs = zip(*(torch.autograd.grad(x.sum(), (logits, ended)) for x in (found, expected)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_the_mixture_meets_the_models_own_sampled_texts():
    objective = SequenceMatch(1.0, 0.95)
    logits, ended = table().requires_grad_(), torch.tensor([0.7], dtype=torch.float64)
    learned = MarkovChain.from_logits(logits.detach()[0, 0][:, [0, 1, 2, 4]])
    data, model = GOLD.sample(40, seed=1), learned.sample(20_000, seed=2)
    found = unmatched(objective, logits, ended, discounted(data, 0.95))
    expected = of_texts(objective, logits[0, 0], ended[0], data, model)
    without = unmatched(SequenceMatch(1.0, 0.95, "chi2"), logits, ended, discounted(data, 0.95))
    assert (found - without).item() == pytest.approx((expected - without).item(), rel=0.05) and found > 1.05 * without
    slopes = [torch.autograd.grad(x.sum(), logits)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0.05, atol=0.02 * slopes[1].abs().max().item())


def test_discounted_transitions_are_those_of_a_walk_and_of_the_texts():
    logits = table(2)
    logits[..., -2] = 0.5  # the padding leads back to the start's row
    found = discounted_transitions(logits, 0.8)[0]
    by_mask = logits[0].softmax(-1)
    at, expected = torch.eye(VOCAB, dtype=torch.float64)[0], torch.zeros_like(found)
    for step in range(100):
        expected += 0.8**step * at[:, None] * by_mask / 2
        q = by_mask.mean(0)
        at = torch.cat([(at @ q)[-2:-1], (at @ q)[: VOCAB - 1]])
    torch.testing.assert_close(found, expected)

    data = Texts(GOLD, train=60, development=20, batch=20, seed=9)
    texts = GOLD.sample(80, seed=9)
    for held_out, kept in ((True, texts[:20]), (False, texts[20:])):
        matrix = torch.from_numpy(data.matrix(0.8, held_out=held_out).toarray()).double()
        expected = torch.stack([discounted(text[None], 0.8)[0] for text in kept])[..., [0, 1, 2, 4]]
        torch.testing.assert_close(matrix.view_as(expected), expected, rtol=1e-5, atol=1e-6)
    counts = torch.from_numpy(data.matrix().sum(0)).view(VOCAB, VOCAB).double()
    torch.testing.assert_close(counts, transition_counts(texts[20:], VOCAB))


@pytest.mark.parametrize("divergence", ["chi2-mixture", "chi2"])
def test_the_fixed_point_is_the_truth_as_alpha_falls(divergence):
    """Where the data are P itself, the table's policy is P's next token, but for a distance in proportion to alpha."""
    discount, distances = 0.9, []
    with_padding = torch.cat([GOLD.probs[:, :-1], torch.zeros(VOCAB, 1), GOLD.probs[:, -1:]], 1)
    data = discounted_transitions(with_padding.clamp_min(1e-300).log()[None, None], discount)[:, 0]
    for alpha in (0.1, 0.01):
        logits, ended = table(seed=3).requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits, ended], max_iter=100, line_search_fn="strong_wolfe")

        def loss(logits=logits, ended=ended, optimizer=optimizer, alpha=alpha):
            optimizer.zero_grad()
            value = unmatched(SequenceMatch(alpha, discount, divergence), logits, ended, data).sum()
            value.backward()
            return value

        for _ in range(20):
            optimizer.step(loss)
        policy = logits.detach()[0, 0].softmax(-1)
        distances.append((policy - with_padding).abs().sum(-1).div(2).max().item())
    assert distances[1] < 0.01 and 5 < distances[0] / distances[1] < 20


def test_learners_under_sequencematch():
    gold = MarkovChain.random(5, 0.5, [1, 2])
    asked = {"epochs": 5, "train": 2000, "development": 200, "batch": 50}
    objectives = [MLE(), SequenceMatch(1e-5), SequenceMatch(0.01), SequenceMatch(0.01, 0.9, "js")]
    found = fit(gold, objectives, [1, 2], **asked)
    torch.testing.assert_close(found.average_js[1], found.average_js[0], rtol=0.1, atol=0)  # MLE's, as alpha falls
    assert (found.average_js[2:] < 0.1).all()
    record = found.records()[-1]
    assert record["objective"] == "sequencematch" and (record["alpha"], record["divergence"]) == (0.01, "js")


def test_the_ended_texts_value_is_learned():
    gold = MarkovChain.random(5, 0.5, [1])
    data = Texts(gold[0], train=200, development=50, batch=100, seed=1)
    data.shuffled()
    terms = MatchingTerms([SequenceMatch(0.1, 0.9), SequenceMatch(0.1, 0.99)], [data])
    logits = torch.randn(2, 1, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    slope = terms.slope(logits, 1)
    assert slope.shape == logits.shape and (terms.ended.grad != 0).all()
    alone = MatchingTerms([SequenceMatch(0.1, 0.9)], [data])
    assert alone.value(logits[:1])[0, 0].item() == pytest.approx(terms.value(logits)[0, 0].item())
