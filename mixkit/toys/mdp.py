"""A decision process whose states are token sequences, with exact occupancies and SequenceMatch objectives."""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from mixkit.losses.sequence_match import SequenceMatch


@dataclass(frozen=True)
class World:
    """All sequences of at most n tokens. Actions are the tokens, then backspace, then end."""

    texts: tuple[tuple[int, ...], ...]  # of each state, the empty one first. After `end` only `end` is allowed
    next_state: Tensor  # (S, A); 0 if the action is not allowed
    allowed: Tensor  # (S, A): a token if the sequence is shorter than n, backspace if it is not empty, end always
    backspace: int
    end: int

    def action_name(self, action: int) -> str:
        """a, b, ... for the tokens, ⌫ for backspace, ∎ for end."""
        return {self.backspace: "⌫", self.end: "∎"}.get(action, chr(ord("a") + action))

    def state_name(self, state: int) -> str:
        """The names of the state's tokens; ∅ if it is empty."""
        return "".join(map(self.action_name, self.texts[state])) or "∅"


def build_world(tokens: int, longest: int) -> World:
    """The world of all sequences of at most `longest` of k = `tokens` tokens: 2 (1 + k + ... + k^longest) states."""
    open_texts = [text for length in range(longest + 1) for text in product(range(tokens), repeat=length)]
    backspace, end = tokens, tokens + 1
    texts = open_texts + [(*text, end) for text in open_texts]
    index = {text: state for state, text in enumerate(texts)}
    next_state = torch.zeros(len(texts), tokens + 2, dtype=torch.long)
    allowed = torch.zeros(len(texts), tokens + 2, dtype=torch.bool)
    for text, action in product(open_texts, range(tokens + 2)):
        following = text[:-1] if action == backspace else (*text, action)
        if following in index and following != text:
            next_state[index[text], action], allowed[index[text], action] = index[following], True
    ended = torch.arange(len(open_texts), len(texts))
    next_state[ended, end], allowed[ended, end] = ended, True
    return World(tuple(texts), next_state, allowed, backspace, end)


def policy_and_value(world: World, q: Tensor) -> tuple[Tensor, Tensor]:
    """equals: softmax(q) (S, A) and logsumexp(q) (S,) over the allowed actions of each state. q (S, A)."""
    q = q.masked_fill(~world.allowed, -torch.inf)
    return q.softmax(-1), q.logsumexp(-1)


def occupancy(world: World, policy: Tensor, discount: float) -> Tensor:
    """rho(s, a) = (1 - g) sum_t g^t P(s_t = s) pi(a | s) from state 0, by one linear solve. (S, A), sum 1."""
    identity = torch.eye(len(world.texts), dtype=policy.dtype)
    transitions = torch.zeros_like(identity).scatter_add(1, world.next_state, policy)  # P(s' | s)
    visits = torch.linalg.solve(identity - discount * transitions.T, (1 - discount) * identity[0])
    return visits[:, None] * policy


def expected_objective(world: World, objective: SequenceMatch, q: Tensor, data: Tensor, model: Tensor) -> Tensor:
    """J, exactly: SequenceMatch's objective of Q-values q (S, A) for the occupancies `data` and `model` (S, A)."""
    value = policy_and_value(world, q)[1]
    next_value = objective.discount * value[world.next_state]  # g V', (S, A)
    reward = torch.where(world.allowed, q - next_value, 0)
    matched = (data * objective.phi(objective.alpha * reward)).sum() / objective.alpha
    j = matched - ((data + model) * (value[:, None] - next_value)).sum() / 2
    penalty = objective.alpha / 4 * (model * reward.square()).sum()
    return j - penalty if objective.divergence == "chi2-mixture" else j


def fit(world: World, objective: SequenceMatch, data: Tensor, rounds: int = 10) -> Tensor:
    """The Q-values (S, A) that maximise J for the data's occupancy. Within a round the model's occupancy is fixed."""
    q = torch.zeros_like(data, requires_grad=True)
    for _ in range(rounds):
        model = occupancy(world, policy_and_value(world, q)[0].detach(), objective.discount)
        optimizer = torch.optim.LBFGS([q], max_iter=100, line_search_fn="strong_wolfe")

        def loss(optimizer: torch.optim.Optimizer = optimizer, model: Tensor = model) -> Tensor:
            optimizer.zero_grad()
            value = -expected_objective(world, objective, q, data, model)
            value.backward()
            return value

        optimizer.step(loss)
    return q.detach()


def total_variation(first: Tensor, second: Tensor) -> float:
    """1/2 sum |first - second|, in [0, 1]."""
    return float((first - second).abs().sum() / 2)
