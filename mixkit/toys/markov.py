"""Markov chains over tokens plus an end, and what is exact about a pair of them: cross-entropies, divergences, visits.
Knows torch only; nothing here is trained (that is chains.py)."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mixkit._common import InputError, check_unit_interval

FLOOR = 1e-30  # log P is taken no lower than log of this, where a chain does what P never does: the published study's
LARGEST = 5000  # tokens of a random chain: 200 MB, and the texts of a fit to it, as counts, are 5 GB


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """probs[i, j] = P(next = j | previous = i): a bigram model over V tokens of which the last, V - 1, is the end.

    probs (..., V, V), float; leading dimensions are a batch of chains. Row 0 is the start, row i + 1 is token i; column
    j is token j, the last column is the end. `words` names the tokens 0 .. V - 2 where they are words.
    May carry gradients. Raises InputError where a row is not a distribution or a text might never end.
    """

    probs: torch.Tensor
    words: tuple[str, ...] | None = None

    def __post_init__(self):
        _check_transitions(self.probs.detach())

    @property
    def vocab(self) -> int:
        """V: the number of tokens, the end among them."""
        return self.probs.shape[-1]

    def __getitem__(self, index) -> "MarkovChain":
        """The chain (or chains) at that place of the batch."""
        return MarkovChain(self.probs[index], self.words)

    @classmethod
    def random(cls, vocab: int = 20, zeros: float = 0.5, seed: int | Sequence[int] = 7) -> "MarkovChain":
        """Rows ~ Dirichlet(0.5); each but the end's probabilities is set to 0 with probability `zeros`; rows rescaled.

        The first token is uniform over all `vocab` tokens (a text may be empty). Drawn from numpy's legacy stream in
        the published order, so that a seed gives the published study's own matrix. A sequence of seeds gives a batch.
        Raises InputError for vocab outside [2, 5000], zeros outside [0, 1] and a seed outside [0, 2**32 - 1].
        Source: Zhang et al., "MixCE", ACL 2023, section 4.1.
        """
        _check_vocab(vocab)
        if vocab > LARGEST:
            raise InputError(f"vocab is {vocab}; it must be in [2, {LARGEST}], as a chain is a matrix of vocab squared")
        check_unit_interval("zeros", zeros)
        if not isinstance(seed, int):
            return cls(torch.stack([cls.random(vocab, zeros, one).probs for one in seed]))
        if not 0 <= seed < 2**32:
            raise InputError(f"seed is {seed}; it must be in [0, 2**32 - 1]")
        stream = np.random.RandomState(seed)
        rows = stream.dirichlet(np.full(vocab, 0.5), size=vocab)[:-1]  # the last would be what follows the end
        rows[:, :-1][stream.random_sample((vocab - 1, vocab - 1)) < zeros] = 0
        rows /= rows.sum(1, keepdims=True)
        return cls(torch.from_numpy(np.vstack([np.full(vocab, 1 / vocab), rows])))

    @classmethod
    def from_matrix(cls, initial, matrix) -> "MarkovChain":
        """initial (..., V): how a text starts; matrix (..., V - 1, V): what follows each token. Last column: the end.

        Nested lists or tensors; tensors may carry gradients.
        """
        initial, matrix = (x if isinstance(x, torch.Tensor) else torch.tensor(x).double() for x in (initial, matrix))
        if initial.shape[-1:] != matrix.shape[-1:] or initial.ndim + 1 != matrix.ndim:
            raise InputError(
                f"initial {tuple(initial.shape)} and matrix {tuple(matrix.shape)} must be (V,) and (V - 1, V)"
            )
        return cls(torch.cat([initial[..., None, :], matrix], -2))

    @classmethod
    def from_logits(cls, logits: torch.Tensor) -> "MarkovChain":
        """equals: MarkovChain(logits.softmax(-1)); logits (..., V, V), differentiable."""
        return cls(logits.softmax(-1))

    @classmethod
    def from_corpus(cls, corpus: Sequence[str] | Sequence[Sequence[int]], vocab: int | None = None) -> "MarkovChain":
        """Relative bigram frequencies of texts (split at white space) or of lists of token ids 0 .. vocab - 2.

        Of texts, the `vocab` - 2 most frequent words are kept and the others become "<unk>"; without `vocab` all are
        kept. A token that never occurs is followed by the end.
        """
        if len(corpus) == 0:
            raise InputError("the corpus is empty; at least one text is needed")
        words = None
        if isinstance(corpus[0], str):
            texts = [text.split() for text in corpus]
            words = [word for word, _ in Counter(word for text in texts for word in text).most_common()]
            if vocab is not None and len(words) > vocab - 1:
                words = [*words[: max(vocab - 2, 0)], "<unk>"]
            index = {word: i for i, word in enumerate(words)}
            corpus = [[index.get(word, len(words) - 1) for word in text] for text in texts]
            vocab = len(words) + 1
        vocab = vocab or max((max(text, default=-1) for text in corpus), default=-1) + 2
        _check_vocab(vocab)
        counts = transition_counts(as_padded(corpus, vocab), vocab)
        counts[counts.sum(1) == 0, -1] = 1
        return cls(counts / counts.sum(1, keepdim=True), None if words is None else tuple(words))

    def sample(self, n: int, seed: int, cap: int | None = None) -> torch.Tensor:
        """n texts as token ids (n, longest), int64: each ends with the end token, V - 1, which also pads it.

        cap: texts of this many tokens, the end among them, are forced to end (the published study's is 500).
        """
        columns = []
        for alive, _, token in self._walk(n, seed, cap):
            columns.append(torch.full((n,), self.vocab - 1))
            columns[-1][alive] = token
        return torch.stack(columns).T

    def sample_transitions(self, n: int, seed: int, cap: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The transitions of the texts of `sample`: the text's number, row * V + column; (transitions,) int32 each."""
        steps = [(alive.int(), (row * self.vocab + token).int()) for alive, row, token in self._walk(n, seed, cap)]
        return tuple(torch.cat(parts) for parts in zip(*steps, strict=True))

    def _walk(self, n: int, seed: int, cap: int | None) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Step by step: the numbers of the texts not yet ended, the row each is at, the token drawn there."""
        if cap is not None and cap < 1:
            raise InputError(f"cap is {cap}; the shortest text is 1 token, the end")
        cumulative = self._single().detach().double().cumsum(-1)
        cumulative = cumulative / cumulative[:, -1:] + torch.arange(self.vocab)[:, None]  # row i lies in (i, i + 1]
        generator = torch.Generator().manual_seed(seed)
        alive, row, length = torch.arange(n), torch.zeros(n, dtype=torch.long), 0
        while len(alive):
            length += 1
            if length == cap:
                token = torch.full_like(row, self.vocab - 1)
            else:  # a hair below 1, so that row + uniform is never rounded up into the next row
                uniform = torch.rand(len(alive), generator=generator, dtype=torch.float64) * (1 - 2**-30)
                token = torch.searchsorted(cumulative.view(-1), row + uniform, right=True) - row * self.vocab
            yield alive, row, token
            going = token != self.vocab - 1
            alive, row = alive[going], token[going] + 1

    def log_prob(self, texts: torch.Tensor | Sequence[Sequence[int]]) -> torch.Tensor:
        """log P of each text, its end included: (n,), nats, -inf where the chain cannot write it; differentiable.

        texts: padded with the end token, as `sample` gives them, or lists of token ids without it.
        """
        texts, probs = as_padded(texts, self.vocab), self._single()
        log_probs = torch.where(probs > 0, torch.where(probs > 0, probs, 1).log(), -torch.inf)  # 0's gradient is 0
        rows, inside = _rows(texts, self.vocab)
        picked = log_probs[rows.clamp_max(self.vocab - 1), texts]
        return torch.where(inside, picked, 0).sum(1)

    def expected_visits(self, cap: int | None = None) -> torch.Tensor:
        """How often a text comes by each row: (..., V); the start's is 1, their sum is the mean length, end included.

        One linear solve; differentiable. cap: of texts that are forced to end at `cap` tokens, as in `sample`.
        """
        visits = visits_of(self.probs)
        if cap is None:
            return visits
        among = self.probs[..., 1:, :-1]
        beyond = self.probs[..., :1, :-1] @ torch.linalg.matrix_power(among, cap - 1)
        beyond = torch.linalg.solve(torch.eye(self.vocab - 1, dtype=among.dtype) - among, beyond, left=False)
        return visits - torch.cat([torch.zeros_like(visits[..., :1]), beyond[..., 0, :]], -1)

    def entropy(self) -> torch.Tensor:
        """-E_P log P of a whole text, in nats: (...)."""
        return forward_cross_entropy(self, self)

    def _single(self) -> torch.Tensor:
        if self.probs.ndim != 2:
            raise InputError(f"this is a batch of chains {tuple(self.probs.shape[:-2])}; pick one: chain[0]")
        return self.probs


def forward_cross_entropy(p: MarkovChain, q: MarkovChain) -> torch.Tensor:
    """-E_P log Q of a whole text, in nats (divide by p.expected_visits().sum(-1) for nats per token): (...).

    Exact, differentiable in both; inf where P does what Q never does. Small when Q covers P: diversity.
    """
    pairs = visits_of(p.probs)[..., None] * p.probs
    happens = pairs > 0
    return -(pairs * torch.where(happens, q.probs, 1).log()).sum((-2, -1))


def reverse_cross_entropy(p: MarkovChain, q: MarkovChain) -> torch.Tensor:
    """-E_Q log P of a whole text, in nats: (...). Exact, differentiable in both.

    log P is floored at log 1e-30 where P is 0, as in the published study: a text that P cannot write costs 69 nats
    a forbidden transition, not infinity. Small when Q writes only what P would: quality.
    """
    return -(visits_of(q.probs)[..., None] * q.probs * p.probs.clamp_min(FLOOR).log()).sum((-2, -1))


def forward_kl(p: MarkovChain, q: MarkovChain) -> torch.Tensor:
    """E_P log P/Q of a whole text = forward cross-entropy - entropy of P, in nats: (...); at least 0, maybe inf."""
    return forward_cross_entropy(p, q) - p.entropy()


def reverse_kl(p: MarkovChain, q: MarkovChain) -> torch.Tensor:
    """E_Q log Q/P of a whole text = reverse cross-entropy (with its floor) - entropy of Q, in nats: (...)."""
    return reverse_cross_entropy(p, q) - q.entropy()


def mixed_cross_entropy(p: MarkovChain, q: MarkovChain, eta: float) -> torch.Tensor:
    """MixCE*: eta * forward + (1 - eta) * reverse cross-entropy, with the true P. eta in [0, 1]; 1 is MLE's."""
    check_unit_interval("eta", eta)
    return eta * forward_cross_entropy(p, q) + (1 - eta) * reverse_cross_entropy(p, q)


def mixed_kl(p: MarkovChain, q: MarkovChain, eta: float) -> torch.Tensor:
    """eta * forward + (1 - eta) * reverse KL. eta in [0, 1]; 1 has MLE's gradient."""
    check_unit_interval("eta", eta)
    return eta * forward_kl(p, q) + (1 - eta) * reverse_kl(p, q)


def jensen_shannon(
    p: MarkovChain, q: MarkovChain, eta: float = 0.5, *, samples: int = 10_000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """eta KL(P, M) + (1 - eta) KL(Q, M), M = eta P + (1 - eta) Q over texts: (estimate, its standard error), nats.

    Sampled: a mean over `samples` texts from each of two single chains; mixture.exact_jensen_shannon is exact.
    Unbiased, and so is its gradient in both (texts depend on the chain by the score function). eta in [0, 1]; 0 at
    both ends.
    """
    check_unit_interval("eta", eta)
    if eta in (0, 1):
        return torch.zeros((), dtype=p.probs.dtype), torch.zeros((), dtype=p.probs.dtype)
    total, variance = 0.0, 0.0
    for chain, share, own_seed in ((p, eta, seed), (q, 1 - eta, seed + 1)):
        texts = chain.sample(samples, own_seed)
        log_p, log_q, own = (x.log_prob(texts) for x in (p, q, chain))
        log_m = torch.logaddexp(log_p + math.log(eta), log_q + math.log(1 - eta))
        terms = share * (own - own.detach()).exp() * (own - log_m)
        total, variance = total + terms.mean(), variance + terms.detach().var() / samples
    return total, variance**0.5


def visits_of(probs: torch.Tensor) -> torch.Tensor:
    """Expected visits of each row (..., V), unchecked: v = initial + v A among the tokens, solved for v."""
    among = probs[..., 1:, :-1]
    system = torch.eye(among.shape[-1], dtype=probs.dtype, device=probs.device) - among.mT
    visits = torch.linalg.solve(system, probs[..., 0, :-1])
    return torch.cat([torch.ones_like(visits[..., :1]), visits], -1)


def transition_counts(texts: torch.Tensor, vocab: int) -> torch.Tensor:
    """How often each column follows each row in padded texts (n, longest): (V, V), float64."""
    rows, inside = _rows(texts, vocab)
    return torch.bincount((rows * vocab + texts)[inside], minlength=vocab * vocab).view(vocab, vocab).double()


def as_padded(texts: torch.Tensor | Sequence[Sequence[int]], vocab: int) -> torch.Tensor:
    """Texts as token ids (n, longest + 1), ended and padded by the end token, vocab - 1; checked."""
    if not isinstance(texts, torch.Tensor):
        padded = torch.full((len(texts), max(map(len, texts), default=0) + 1), vocab - 1)
        for row, text in zip(padded, texts, strict=True):
            row[: len(text)] = torch.as_tensor(text)
        if sum(map(len, texts)) != int((padded != vocab - 1).sum()):
            raise InputError(f"a text holds {vocab - 1}, the end, which is implied; ids are 0 to {vocab - 2}")
        texts = padded
    if texts.ndim != 2 or (texts.numel() and not 0 <= int(texts.min()) <= int(texts.max()) < vocab):
        raise InputError(f"texts must be (n, length) token ids from 0 to {vocab - 1}; shape {tuple(texts.shape)}")
    return texts


def _rows(texts: torch.Tensor, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The row that each token was drawn from, and whether the text had not ended before."""
    rows = torch.cat([torch.zeros_like(texts[:, :1]), texts[:, :-1] + 1], 1)
    return rows, rows != vocab


def _check_vocab(vocab: int) -> None:
    if isinstance(vocab, bool) or not isinstance(vocab, int) or vocab < 2:
        raise InputError(f"vocab is {vocab!r}; it must be a whole number of at least 2: one token and the end")


def _check_transitions(probs: torch.Tensor) -> None:
    if probs.ndim < 2 or probs.shape[-1] != probs.shape[-2] or not probs.is_floating_point():
        raise InputError(
            f"transitions are {tuple(probs.shape)}; floats (..., V, V) are needed: the start and V - 1 tokens"
        )
    _check_vocab(probs.shape[-1])
    if not probs.isfinite().all():
        raise InputError(f"transitions hold {probs[~probs.isfinite()][0].item()}; they must be probabilities")
    if (probs < 0).any():
        raise InputError(f"transitions hold {probs.min().item():.4g}; they must be in [0, 1]")
    sums = probs.sum(-1)
    if ((sums - 1).abs() > 1e-5).any():
        at = int((sums - 1).abs().argmax())
        row = at % probs.shape[-1]
        name = "the start's row" if row == 0 else f"the row of token {row - 1}"
        raise InputError(f"{name} sums to {sums.view(-1)[at].item():.6g}; every row must sum to 1")
    leads = (probs[..., 1:, :-1] > 0).to(probs.dtype)
    reached, ends = probs[..., 0, :-1] > 0, probs[..., 1:, -1] > 0
    for _ in range(probs.shape[-1]):
        before = int(reached.sum() + ends.sum())
        reached = reached | ((reached.to(probs.dtype)[..., None, :] @ leads)[..., 0, :] > 0)
        ends = ends | ((leads @ ends.to(probs.dtype)[..., None])[..., 0] > 0)
        if int(reached.sum() + ends.sum()) == before:
            break
    if (reached & ~ends).any():
        token = int((reached & ~ends).nonzero()[0, -1])
        raise InputError(f"no way leads from token {token} to the end: expected visits diverge; give it a way out")
