"""SequenceMatch where the state is the last token: a bigram learner's logits as its table of Q-values, by counts.
What SequenceMatch is stands in objectives.py; worlds.py has small worlds with <backspace>, which a chain lacks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from mixkit.losses.sequence_match import SequenceMatch
from mixkit.toys.bigrams import Texts


def unmatched(objective: SequenceMatch, logits: torch.Tensor, ended: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """equals: objective(scores of the data's texts, ..., scores of the model's, ...), all ended: (seeds,), nats a text.

    logits (seeds, masks, V, V + 1): Q(a|s), s the start or the last token, a a token, the padding, which leads back to
    the start's row, or the end. There is no <backspace>: what is written stays. ended (seeds,): the value of a text
    that has ended. data (seeds, V, V + 1): transitions, the i-th of a text counting discount^i, a mean over texts.
    Nothing is sampled: both sums of V - g V' telescope, whatever the texts, to the start's V, and the model's own
    discounted transitions, held fixed as its samples would be, solve a linear system.
    """
    alpha, discount = objective.alpha, objective.discount
    value = logits.logsumexp(-1)  # (seeds, masks, V)
    after = value.roll(1, 1)  # under another mask: dropout is drawn anew at each position
    last = ended[:, None, None].expand(-1, after.shape[1], 1)
    after = torch.cat([after[..., 1:], after[..., :1], last], -1)  # V', by action: (seeds, masks, V + 1)
    reward = logits - discount * after[..., None, :]
    for_ever = (1 - discount) * ended  # r of every step after the end, where there is no choice

    def expect(transitions: torch.Tensor, function) -> torch.Tensor:
        ends = discount / (1 - discount) * transitions[..., -1].sum((1, 2))  # sum over t >= N of g^t
        return (transitions * function(reward)).sum((1, 2, 3)) + ends * function(for_ever)

    shared = data[:, None] / logits.shape[1]
    j = expect(shared.expand_as(logits), lambda r: objective.phi(alpha * r) / alpha) - value[..., 0].mean(-1)
    if objective.divergence == "chi2-mixture":
        j = j - alpha / 4 * expect(discounted_transitions(logits.detach(), discount), torch.square)
    return -j


def discounted_transitions(logits: torch.Tensor, discount: float) -> torch.Tensor:
    """sum_t g^t P(row at t) q(column | row), shared among masks, by one linear solve: logits' shape."""
    by_mask = logits.softmax(-1)
    q = by_mask.mean(1)  # (seeds, V, V + 1)
    moves = torch.cat([q[..., -2:-1], q[..., :-2]], -1)  # to the start's row, by the padding, and the tokens'
    system = torch.eye(moves.shape[-1], dtype=q.dtype) - discount * moves
    visits = torch.linalg.inv(system)[..., 0, :]
    return visits[:, None, :, None] * by_mask / by_mask.shape[1]


class MatchingTerms:
    """`unmatched` of the learners under SequenceMatch objectives, over the data's texts, and its slope.

    The learner has no row for the end, so the ended texts' values, `ended` (objectives, seeds), are parameters too.
    """

    def __init__(self, objectives: Sequence[SequenceMatch], data: Sequence[Texts]):
        self.objectives, self.data = objectives, data
        self.ended = torch.zeros(len(objectives), len(data), requires_grad=True)
        discounts = {objective.discount for objective in objectives}
        self.train = {g: [x.matrix(g) for x in data] for g in discounts}
        self.held_out = {g: _per_text([x.matrix(g, held_out=True) for x in data]) for g in discounts}

    def value(self, logits: torch.Tensor) -> torch.Tensor:
        """-J_hat over the held-out texts, (objectives, seeds), nats a text; logits (objectives, seeds, masks, ...).

        The model's own part moves with it, so this is no loss that must fall: at alpha 1 and V = 20 it is least after
        the first epoch, which stopping early then keeps.
        """
        return self._values(logits, self.held_out)

    def slope(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The gradient of -J_hat in the logits over the texts of batch `step`; that in `ended` becomes its .grad."""
        batch = {
            g: _per_text([x[source.order[step]] for x, source in zip(matrices, self.data, strict=True)])
            for g, matrices in self.train.items()
        }
        logits = logits.detach().requires_grad_()
        with torch.enable_grad():
            slope, self.ended.grad = torch.autograd.grad(self._values(logits, batch).sum(), (logits, self.ended))
        return slope

    def _values(self, logits: torch.Tensor, data: dict[float, torch.Tensor]) -> torch.Tensor:
        parts = zip(self.objectives, logits, self.ended, strict=True)
        return torch.stack([unmatched(x, one, ended, data[x.discount]) for x, one, ended in parts])


def _per_text(matrices: Sequence) -> torch.Tensor:
    """The mean over texts of each seed's matrix (texts, V * V), the padding put in: (seeds, V, V + 1)."""
    means = torch.stack([torch.from_numpy(x.sum(0) / x.shape[0]) for x in matrices])
    side = round(means.shape[-1] ** 0.5)
    means = means.view(-1, side, side)
    return torch.cat([F.pad(means[..., :-1], (0, 1)), means[..., -1:]], -1)
