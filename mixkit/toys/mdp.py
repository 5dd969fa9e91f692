"""Small decision processes in which every token sequence is a state, so occupancies and SequenceMatch's J are exact.
Tables and linear solves; models, tokenizers and texts live elsewhere."""

from dataclasses import dataclass
from itertools import product

import torch

from mixkit.losses.sequence_match import SequenceMatch


@dataclass(frozen=True)
class World:
    """All sequences of at most `longest` of `tokens` tokens; actions: the tokens, then backspace, then end.

    texts: the sequence of every state, state 0 the empty one; where it ends in `end` the state absorbs and `end` is its
    only action. next_state (S, A): where an action leads, 0 where it is not allowed. allowed (S, A): a token while the
    sequence is shorter than `longest`, backspace where there is a token to take back, end everywhere.
    """

    texts: tuple[tuple[int, ...], ...]
    next_state: torch.Tensor
    allowed: torch.Tensor

    @property
    def backspace(self) -> int:
        return self.allowed.shape[1] - 2

    @property
    def end(self) -> int:
        return self.allowed.shape[1] - 1

    def action_name(self, action: int) -> str:
        """a, b, ... for the tokens, ⌫ for backspace, ∎ for end."""
        return {self.backspace: "⌫", self.end: "∎"}.get(action, chr(ord("a") + action))

    def state_name(self, state: int) -> str:
        """The sequence in those letters, ∅ the empty one."""
        return "".join(map(self.action_name, self.texts[state])) or "∅"


def build_world(tokens: int, longest: int) -> World:
    """The world of all sequences up to `longest` tokens: 2 (1 + k + ... + k^longest) states, k = `tokens`."""
    open_texts = [text for length in range(longest + 1) for text in product(range(tokens), repeat=length)]
    backspace, end = tokens, tokens + 1
    texts = open_texts + [(*text, end) for text in open_texts]
    index = {text: state for state, text in enumerate(texts)}
    next_state = torch.zeros(len(texts), tokens + 2, dtype=torch.long)
    allowed = torch.zeros(len(texts), tokens + 2, dtype=torch.bool)
    for state, text in enumerate(texts):
        if text[-1:] == (end,):
            moves = {end: text}
        else:
            moves = {token: (*text, token) for token in range(tokens) if len(text) < longest}
            moves[end] = (*text, end)
            if text:
                moves[backspace] = text[:-1]
        for action, after in moves.items():
            next_state[state, action], allowed[state, action] = index[after], True
    return World(tuple(texts), next_state, allowed)


def policy_and_value(world: World, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """equals: softmax(q) (S, A) and logsumexp(q) (S,) over the allowed actions of each state. q (S, A)."""
    q = q.masked_fill(~world.allowed, -torch.inf)
    return q.softmax(-1), q.logsumexp(-1)


def occupancy(world: World, policy: torch.Tensor, discount: float) -> torch.Tensor:
    """rho(s, a) = (1 - g) sum_t g^t P(s_t = s) pi(a | s), from state 0, by one linear solve. (S, A), sums to 1."""
    states = len(world.texts)
    moves = torch.zeros(states, states, dtype=policy.dtype)
    moves = moves.scatter_add(1, world.next_state, policy)  # P(s' | s); disallowed actions have probability 0
    start = torch.zeros(states, dtype=policy.dtype)
    start[0] = 1 - discount
    visits = torch.linalg.solve(torch.eye(states, dtype=policy.dtype) - discount * moves.T, start)
    return visits[:, None] * policy


def expected_objective(
    world: World, objective: SequenceMatch, q: torch.Tensor, data: torch.Tensor, model: torch.Tensor
) -> torch.Tensor:
    """J, exactly: SequenceMatch's objective for a table q (S, A) under the occupancies `data` and `model` (S, A)."""
    value = policy_and_value(world, q)[1]
    following = objective.discount * value[world.next_state]  # g V', (S, A)
    reward = torch.where(world.allowed, q - following, 0)
    difference = value[:, None] - following
    matched = (data * objective.phi(objective.alpha * reward)).sum() / objective.alpha
    j = matched - ((data + model) * difference).sum() / 2
    if objective.divergence == "chi2-mixture":
        j = j - objective.alpha / 4 * (model * reward.square()).sum()
    return j


def fit(world: World, objective: SequenceMatch, data: torch.Tensor, rounds: int = 10) -> torch.Tensor:
    """The table q (S, A) that maximises J for the data's occupancy, the model's own held fixed within each round.

    The model's occupancy is taken afresh each round, with no gradient through it, as samples of the model are.
    """
    q = torch.zeros_like(data, requires_grad=True)

    def loss():
        q.grad = None
        value = -expected_objective(world, objective, q, data, model)
        value.backward()
        return value

    for _ in range(rounds):
        model = occupancy(world, policy_and_value(world, q)[0].detach(), objective.discount)
        torch.optim.LBFGS([q], max_iter=100, line_search_fn="strong_wolfe").step(loss)
    return q.detach()


def total_variation(first: torch.Tensor, second: torch.Tensor) -> float:
    """1/2 sum |first - second|, in [0, 1]."""
    return float((first - second).abs().sum() / 2)


def sample(
    world: World, policy: torch.Tensor, count: int, steps: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` trajectories of `steps` steps from state 0: states (count, steps + 1), actions (count, steps)."""
    states, actions = [torch.zeros(count, dtype=torch.long)], []
    for _ in range(steps):
        actions.append(torch.multinomial(policy[states[-1]], 1, generator=generator)[:, 0])
        states.append(world.next_state[states[-1], actions[-1]])
    return torch.stack(states, 1), torch.stack(actions, 1)
