"""SequenceMatch against its formula in plain loops, and on MDPs that are small enough for exact solutions."""

import math
from dataclasses import dataclass

import pytest
import torch

from mixkit import MLE, SequenceMatch, TokenScores
from mixkit.losses.sequence_match import DIVERGENCES, MAX_SLOPE
from mixkit.toys.mdp import (
    build_world,
    expected_objective,
    fit,
    occupancy,
    policy_and_value,
    total_variation,
)


def sample(world, policy, count, steps, generator):
    """`count` trajectories of `steps` steps from state 0: states (count, steps + 1), actions (count, steps)."""
    states, actions = [torch.zeros(count, dtype=torch.long)], []
    for _ in range(steps):
        actions.append(torch.multinomial(policy[states[-1]], 1, generator=generator)[:, 0])
        states.append(world.next_state[states[-1], actions[-1]])
    return torch.stack(states, 1), torch.stack(actions, 1)


PHI = {
    "chi2-mixture": lambda x: x - x * x / 4,
    "chi2": lambda x: x - x * x / 4,
    "js": lambda x: math.log(2 - math.exp(-x)),
    "rkl": lambda x: -math.exp(-(x + 1)),
}


@dataclass(frozen=True)
class Linear(SequenceMatch):
    """phi(x) = x."""

    divergence: str = "chi2"

    def phi(self, x):
        return x


def random_texts(rows, steps, seed=0, vocabulary=5):
    """l and V, V of the next state, a mask with rows of different start and length, and end flags."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, steps + 1, vocabulary, generator=generator, dtype=torch.float64)
    actions = torch.randint(vocabulary, (rows, steps), generator=generator)
    first = torch.randint(steps, (rows, 1), generator=generator) // 2
    last = torch.maximum(first + 1, torch.randint(steps + 1, (rows, 1), generator=generator))
    time = torch.arange(steps)
    mask = (time >= first) & (time < last)
    ended = torch.rand(rows, generator=generator) < 0.5
    values = logits.logsumexp(-1)
    scores = TokenScores.from_logits(logits[:, :-1], actions)
    return TokenScores(scores.logit, values[:, :-1]), values[:, 1:].clone(), mask, ended


def loop(phi, alpha, g, mixture, data, model, labels=None):
    """-J_hat by the formula: the mean over data texts plus the mean over model texts, one text at a time."""
    total = [0.0, 0.0]
    for side, (scores, following, mask, ended) in enumerate((data, model)):
        for row in range(len(following)):
            at = [t for t in range(following.shape[1]) if mask[row, t]]
            n, j = len(at), 0.0
            for i, t in enumerate(at):
                value, after = scores.log_partition[row, t].item(), following[row, t].item()
                logit = scores.logit[row, t].item()
                if side == 0 and labels is not None and not labels[row, t]:
                    logit = value
                r = logit - g * after
                if side == 0:
                    j += g**i * phi(alpha * r) / alpha
                elif mixture:
                    j -= alpha / 4 * g**i * r * r
                j -= g**i * (value - g * after) / 2
            if ended[row]:
                value = following[row, at[-1]].item()
                j -= g**n * value / 2
                if side == 0:
                    j += g**n / (alpha * (1 - g)) * phi(alpha * (1 - g) * value)
                elif mixture:
                    j -= alpha / 4 * g**n * (1 - g) * value**2
            total[side] += j / len(following)
    return -sum(total)


@pytest.mark.parametrize("divergence", PHI)
@pytest.mark.parametrize("shapes", [((1, 1), (1, 1)), ((3, 7), (5, 4)), ((4, 31), (2, 13))])
@pytest.mark.parametrize(("alpha", "discount"), [(0.01, 0.998), (0.2, 0.5)])
def test_value_equals_the_formula_in_loops(divergence, shapes, alpha, discount):
    data, model = random_texts(*shapes[0], seed=1), random_texts(*shapes[1], seed=2)
    labels = torch.rand(shapes[0], generator=torch.Generator().manual_seed(3)) < 0.8
    loss = SequenceMatch(alpha, discount, divergence)(
        *data[:2],
        *model[:2],
        data_mask=data[2],
        data_labels=labels,
        data_ended=data[3],
        model_mask=model[2],
        model_ended=model[3],
    )
    expected = loop(PHI[divergence], alpha, discount, divergence == "chi2-mixture", data, model, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("divergence", PHI)
def test_gradcheck(divergence):
    data, model = random_texts(2, 5, seed=1), random_texts(3, 4, seed=2)
    inputs = [x.requires_grad_() for s in (data, model) for x in (s[0].logit, s[0].log_partition, s[1])]

    def loss(l1, v1, n1, l2, v2, n2):
        flags = {"data_mask": data[2], "data_ended": data[3], "model_mask": model[2], "model_ended": model[3]}
        return SequenceMatch(0.3, 0.9, divergence)(TokenScores(l1, v1), n1, TokenScores(l2, v2), n2, **flags)

    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("discount", [0.1, 0.9, 0.998])
def test_linear_phi_with_both_values_on_data_is_mle(discount):
    """Identity 6: r - (V - g V') = l - V, so the loss is the discounted nll. Masked labels count 0."""
    scores, following, mask, ended = random_texts(4, 9)
    labels = torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) < 0.7
    inputs = [x.requires_grad_() for x in (scores.logit, scores.log_partition, following)]
    flags = {"data_mask": mask, "model_mask": mask, "data_ended": ended, "model_ended": ended}
    for learned in (None, labels):
        linear = Linear(0.01, discount)
        loss = linear(scores, following, scores, following, data_labels=learned, **flags)
        weight = discount ** (mask.cumsum(-1) - 1).double() * mask * (1 if learned is None else learned)
        expected = (weight * scores.nll).sum() / 4
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        gradients = [
            torch.autograd.grad(x, inputs, retain_graph=True, materialize_grads=True) for x in (loss, expected)
        ]
        for got, want in zip(*gradients, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("discount", [0.1, 0.9, 0.998])
def test_linear_phi_on_single_tokens_is_exactly_mle(discount):
    scores, following, mask, ended = random_texts(6, 1)
    flags = {"data_ended": ended, "model_ended": ended, "denominator": SequenceMatch(0.01, discount).steps(mask)}
    loss = Linear(0.01, discount)(scores, following, scores, following, **flags)
    assert loss.item() == pytest.approx(MLE()(scores).item(), rel=1e-6)  # the number of steps is float32


def test_a_wrong_token_keeps_the_value_of_its_state_balanced():
    """The steps are a wrong token, its backspace and a right token. For alpha -> 0 the gradient of J in V of the state
    between them is 0, as for every other state of the data. Otherwise that V would diverge."""
    value = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value[0, 2] = value[0, 0]  # back again
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = value + shift * torch.tensor([0, 1, 0, 0])
    logit = torch.tensor([[-9.0, -1, -2]]).double() + shift * torch.tensor([0, 1, 0])
    other = random_texts(1, 2)
    labels = torch.tensor([[False, True, True]])
    loss = SequenceMatch(1e-9, 0.9)(TokenScores(logit, value[:, :-1]), value[:, 1:], *other[:2], data_labels=labels)
    assert abs(torch.autograd.grad(loss, shift)[0]) < 1e-6


@pytest.mark.parametrize("divergence", ["chi2-mixture", "chi2", "js"])
def test_small_alpha_is_linear(divergence):
    scores, following, mask, ended = random_texts(3, 8)
    flags = {"data_mask": mask, "model_mask": mask, "data_ended": ended, "model_ended": ended}
    losses = [make(1e-7, 0.9)(scores, following, scores, following, **flags) for make in (Linear, SequenceMatch)]
    losses.append(SequenceMatch(1e-7, 0.9, divergence)(scores, following, scores, following, **flags))
    assert losses[2].item() == pytest.approx(losses[0].item(), rel=1e-5)


@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("divergence", PHI)
def test_masked_positions_do_not_matter(divergence, poison):
    data, model = random_texts(3, 7, seed=1), random_texts(2, 5, seed=2)
    labels = torch.rand(3, 7, generator=torch.Generator().manual_seed(3)) < 0.7

    def loss_and_gradients(fill):
        inputs = []
        for scores, following, mask, _ in (data, model):
            for x in (scores.logit, scores.log_partition, following):
                inputs.append(torch.where(mask, x, fill).requires_grad_() if fill else x.clone().requires_grad_())
        if fill:
            inputs[0] = torch.where(labels, inputs[0].detach(), fill).requires_grad_()
        flags = {"data_mask": data[2], "data_ended": data[3], "model_mask": model[2], "model_ended": model[3]}
        loss = SequenceMatch(0.1, 0.9, divergence)(
            TokenScores(*inputs[:2]), inputs[2], TokenScores(*inputs[3:5]), inputs[5], data_labels=labels, **flags
        )
        return loss.item(), torch.autograd.grad(loss, inputs, materialize_grads=True)

    (clean, want), (poisoned, got) = loss_and_gradients(0), loss_and_gradients(poison)
    assert clean == poisoned
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert got[0][~(data[2] & labels)].abs().sum() == 0


def test_denominator_adds_up_over_micro_batches():
    data, model = random_texts(4, 7, seed=1), random_texts(2, 5, seed=2)
    sequence_match = SequenceMatch(0.1, 0.9)

    def loss(d, m, denominator=None):
        (scores, following, mask, ended), (m_scores, m_following, m_mask, m_ended) = data, model
        return sequence_match(
            TokenScores(scores.logit[d], scores.log_partition[d]),
            following[d],
            TokenScores(m_scores.logit[m], m_scores.log_partition[m]),
            m_following[m],
            data_mask=mask[d],
            data_ended=ended[d],
            model_mask=m_mask[m],
            model_ended=m_ended[m],
            denominator=denominator,
        )

    whole, halves = slice(None), [(slice(0, 2), slice(0, 1)), (slice(2, 4), slice(1, 2))]
    steps = sequence_match.steps(data[2])
    expected_steps = sum(0.9**i for n in data[2].sum(1).tolist() for i in range(n))
    assert steps.item() == pytest.approx(expected_steps)
    torch.testing.assert_close(sum(loss(d, m, steps) for d, m in halves), loss(whole, whole, steps))
    torch.testing.assert_close(loss(whole, whole, steps) * steps / 4, loss(whole, whole))


@pytest.mark.parametrize("divergence", PHI)
def test_phi(divergence):
    """phi equals its closed form where that is defined and not steep. It is concave, smooth and finite everywhere."""
    phi = DIVERGENCES[divergence]
    x = torch.linspace({"js": -0.64, "rkl": -3.99}.get(divergence, -5), 5, 57, dtype=torch.float64)
    torch.testing.assert_close(phi(x), torch.tensor([PHI[divergence](v) for v in x.tolist()], dtype=torch.float64))
    wide = torch.linspace(-50, 20, 7001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(phi(wide).sum(), wide)
    assert (slope.diff() <= 1e-12).all()
    assert (phi(wide).diff() - slope[:-1] * 0.01 <= 1e-9).all()  # below its tangents: no jump
    if divergence in ("js", "rkl"):
        assert slope.max() == MAX_SLOPE
    far = torch.tensor([-1e6, -1e3, 1e3], requires_grad=True)
    phi(far).sum().backward()
    assert phi(far).isfinite().all() and far.grad.isfinite().all()


def test_jensen_shannon_keeps_its_digits_near_zero_in_float32():
    x = torch.tensor([1e-5, -1e-5])
    torch.testing.assert_close(DIVERGENCES["js"](x).double(), DIVERGENCES["js"](x.double()), rtol=1e-6, atol=0)


# MDPs with exact solutions


def random_policy(world, seed):
    q = torch.randn(world.allowed.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q[:, world.end] -= 1  # for longer texts
    return policy_and_value(world, q)[0]


def test_world():
    world = build_world(2, 2)
    assert len(world.texts) == 14
    index = {text: state for state, text in enumerate(world.texts)}
    assert world.next_state[index[(0, 1)], world.backspace] == index[(0,)]
    assert world.next_state[index[(0,)], 1] == index[(0, 1)]
    assert world.next_state[index[(1,)], world.end] == index[(1, world.end)]
    assert not world.allowed[index[()], world.backspace] and not world.allowed[index[(0, 1)], 0]
    assert world.allowed[index[(1, world.end)]].nonzero().tolist() == [[world.end]]


def test_occupancy_equals_the_sum_over_time():
    world, g = build_world(2, 2), 0.8
    policy = random_policy(world, 0)
    at = torch.zeros(len(world.texts), dtype=torch.float64)
    at[0], expected = 1, torch.zeros_like(policy)
    for t in range(200):
        expected += (1 - g) * g**t * at[:, None] * policy
        after = torch.zeros_like(at)
        for state in range(len(world.texts)):
            for action in world.allowed[state].nonzero()[:, 0].tolist():
                after[world.next_state[state, action]] += at[state] * policy[state, action]
        at = after
    torch.testing.assert_close(occupancy(world, policy, g), expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("g", [0.3, 0.9, 0.998])
def test_value_differences_telescope_for_any_policy(seed, g):
    """Identity 7."""
    world = build_world(2, 3)
    values = policy_and_value(world, torch.randn(world.allowed.shape, dtype=torch.float64) * 3)[1]
    rho = occupancy(world, random_policy(world, seed), g)
    expected = (rho * (values[:, None] - g * values[world.next_state])).sum()
    torch.testing.assert_close(expected, (1 - g) * values[0], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", PHI)
def test_recovery(divergence):
    """Identity 8: the distance of the occupancies is about linear in alpha."""
    world, g = build_world(2, 2), 0.9
    data = occupancy(world, random_policy(world, 0), g)
    assert data[:, world.backspace].sum() > 0.04
    distance = {}
    for alpha in (0.2, 0.1, 0.05):
        q = fit(world, SequenceMatch(alpha, g, divergence), data)
        distance[alpha] = total_variation(occupancy(world, policy_and_value(world, q)[0], g), data)
    assert distance[0.1] < (0.02 if divergence == "js" else 0.01)  # the curvature of js at 0 is four times that of chi2
    for alpha in (0.1, 0.05):
        assert distance[2 * alpha] / distance[alpha] == pytest.approx(2, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("divergence", PHI)
def test_j_hat_is_unbiased(divergence):
    """Identity 9: the mean of J_hat over sampled texts is J / (1 - g), within four standard errors."""
    world, g = build_world(2, 2), 0.9
    q = torch.randn(world.allowed.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = policy_and_value(world, q)[1]
    policies = [random_policy(world, 1), random_policy(world, 2)]
    sequence_match = SequenceMatch(0.2, g, divergence)
    exact = expected_objective(world, sequence_match, q, *(occupancy(world, policy, g) for policy in policies))
    sides = []
    generator = torch.Generator().manual_seed(6)
    for policy in policies:
        states, actions = sample(world, policy, 6000, 100, generator)
        end = actions == world.end
        mask = end.cumsum(1) - end.long() == 0  # up to and with the first end
        sides.append((q[states[:, :-1], actions], values[states[:, :-1]], values[states[:, 1:]], mask, end.any(1)))
    estimates = []
    for d, m in zip(*(zip(*(x.chunk(60) for x in side), strict=True) for side in sides), strict=True):
        flags = {"data_mask": d[3], "data_ended": d[4], "model_mask": m[3], "model_ended": m[4]}
        estimates.append(-sequence_match(TokenScores(*d[:2]), d[2], TokenScores(*m[:2]), m[2], **flags))
    estimates = torch.stack(estimates)
    error = estimates.std() / len(estimates) ** 0.5
    assert error < 0.02 * abs(exact / (1 - g))
    assert abs(estimates.mean() - exact / (1 - g)) < 4 * error


def test_shapes_that_do_not_fit():
    scores, following, _, _ = random_texts(2, 3)
    with pytest.raises(ValueError, match=r"scores \(2, 3\) and next \(2, 2\) do not fit"):
        SequenceMatch()(scores, following[:, 1:], scores, following)
    with pytest.raises(ValueError, match="at least one data text and one text sampled"):
        SequenceMatch()(scores, following, TokenScores(torch.zeros(0, 3), torch.zeros(0, 3)), torch.zeros(0, 3))
