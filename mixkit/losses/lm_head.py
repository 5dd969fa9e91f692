"""Hidden states and the output embedding in; the target's logit and the log-partition out, or a token-weighted loss.
The [positions x vocabulary] logits are made chunk by chunk and never held. Knows torch only."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

CHUNK_LOGITS = 2**24  # logits held at once, 64 MB in float32: 333 positions of GPT-2's vocabulary


@dataclass(frozen=True)
class TokenScores:
    """logit = z[y], log_partition = logsumexp(z): all that an objective may look at.

    Two float tensors of one shape, one entry a position, in nats; `z` are the position's logits over the vocabulary
    and `y` is its target token.
    """

    logit: torch.Tensor
    log_partition: torch.Tensor

    def __post_init__(self):
        if self.logit.shape != self.log_partition.shape:
            raise ValueError(
                f"logit {tuple(self.logit.shape)} and log_partition {tuple(self.log_partition.shape)} differ in shape"
            )

    @property
    def logprob(self) -> torch.Tensor:
        """log q = z[y] - logsumexp(z), at most 0, in nats."""
        return self.logit - self.log_partition

    @property
    def nll(self) -> torch.Tensor:
        """-log q = logsumexp(z) - z[y], at least 0, in nats."""
        return self.log_partition - self.logit

    @property
    def prob(self) -> torch.Tensor:
        """q = exp(z[y] - logsumexp(z)), in [0, 1]."""
        return self.logprob.exp()

    @classmethod
    def from_logits(cls, logits: torch.Tensor, targets: torch.Tensor) -> "TokenScores":
        """equals: logits.gather(-1, targets[..., None])[..., 0], logits.logsumexp(-1)

        The slow exact reference. logits (..., V), targets (...) of token ids. Half precision is raised to float32.
        Raises ValueError for a target outside [0, V), on the CPU only: a GPU would be waited for.
        """
        _check_targets(targets, logits.shape[-1])
        logits = _at_least_float32(logits)
        return cls(logits.gather(-1, targets[..., None])[..., 0], logits.logsumexp(-1))


def token_scores(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    chunk_size: int | None = None,
) -> TokenScores:
    """equals: TokenScores.from_logits(F.linear(hidden, head_weight, bias), targets)

    Differentiable once, in hidden, head_weight and bias; the backward pass makes each chunk's logits again.

    hidden (..., D), head_weight (V, D), bias (V,) or None, targets (...) of token ids in [0, V).
    chunk_size: positions whose logits are held at once; by default as many as fit `CHUNK_LOGITS`.
    Half-precision products are summed in float32; under autocast the products run in its dtype.
    Raises ValueError for shapes that do not fit and, on the CPU only, for a target outside [0, V).
    """
    hidden, head_weight, bias, chunk_size = _prepared(hidden, head_weight, targets, bias, chunk_size)
    flat = _Scores.apply(hidden.reshape(-1, hidden.shape[-1]), head_weight, bias, targets.reshape(-1), chunk_size)
    return TokenScores(*(x.reshape(targets.shape) for x in flat))


def weighted_cross_entropy(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    objective,
    *,
    mask: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    denominator: torch.Tensor | float | None = None,
    chunk_size: int | None = None,
    return_nll: bool = False,
):
    """equals: (objective.weight(scores.prob).detach() * scores.nll)[mask].sum() / denominator

    with scores = token_scores(hidden, head_weight, targets): the fused path for token-weighted objectives. A weight is
    known as soon as its nll is, so the gradients are made in the forward pass: three matrix products, not four.

    hidden (..., D), head_weight (V, D), bias (V,) or None, targets (...) of token ids in [0, V) where unmasked.
    objective: anything with `weight(prob) -> tensor` (MLE, MixCE, TaiLr).
    mask (...): True where a position counts; masked positions are left out before anything is computed.
    denominator: what the sum is divided by; by default the number of unmasked positions. Under gradient accumulation
    or on several devices pass the unmasked positions of the whole global batch.
    Returns the scalar loss in nats per token; with return_nll also the plain nll over the same denominator, detached.
    Raises ValueError where nothing is unmasked and no denominator is given, for an objective without weights, for
    shapes that do not fit and, on the CPU only, for an unmasked target outside [0, V).
    """
    if isinstance(objective, type) or not callable(getattr(objective, "weight", None)):
        raise ValueError(f"objective is {objective!r}; it must be token-weighted: MLE(), MixCE(eta), TaiLr(gamma)")
    if mask is not None:
        _check_positions(hidden, targets)
        if mask.shape != targets.shape:
            raise ValueError(f"mask {tuple(mask.shape)} and targets {tuple(targets.shape)} differ in shape")
        mask = mask.bool()
        hidden, targets = hidden[mask], targets[mask]
    if denominator is None:
        if targets.numel() == 0:
            raise ValueError("every position is masked: the mean over no tokens is undefined; pass a denominator")
        denominator = targets.numel()
    hidden, head_weight, bias, chunk_size = _prepared(hidden, head_weight, targets, bias, chunk_size)
    loss, nll = _FusedLoss.apply(
        hidden.reshape(-1, hidden.shape[-1]),
        head_weight,
        bias,
        targets.reshape(-1),
        objective.weight,
        denominator,
        chunk_size,
    )
    return (loss, nll) if return_nll else loss


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _prepared(hidden, head_weight, targets, bias, chunk_size):
    """The inputs in the dtype that autocast asks for, checked, and the number of positions a chunk."""
    _check_positions(hidden, targets)
    if hidden.shape[-1] != head_weight.shape[1]:
        raise ValueError(f"hidden has width {hidden.shape[-1]}, the output embedding {head_weight.shape[1]}")
    _check_targets(targets, head_weight.shape[0])
    if chunk_size is None:
        chunk_size = max(1, CHUNK_LOGITS // head_weight.shape[0])
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1")
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    bias = None if bias is None else bias.to(dtype)
    return hidden.to(dtype), head_weight.to(dtype), bias, chunk_size


def _check_positions(hidden, targets):
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(f"hidden {tuple(hidden.shape)} must be targets {tuple(targets.shape)} and one more dimension")


def _check_targets(targets, vocabulary):
    if targets.device.type != "cpu" or targets.numel() == 0:
        return
    low, high = targets.min().item(), targets.max().item()
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise ValueError(
            f"targets hold {wrong}; token ids are in [0, {vocabulary}): mask those positions out (targets != {wrong})"
        )


def _chunks(hidden, head_weight, bias, targets, chunk_size):
    """Positions (a slice), their hidden states, targets, float32 logits (C, V) that the caller may overwrite, and V."""
    for start in range(0, len(targets), chunk_size):
        at = slice(start, start + chunk_size)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _at_least_float32(F.linear(hidden[at], head_weight, bias))
        yield at, hidden[at], targets[at, None], logits


class _HeadGradients:
    """Sums the gradients of hidden, head_weight and bias over chunks of d loss / d logits."""

    def __init__(self, hidden, head_weight, bias, needed):
        self.head_weight = head_weight
        kept = _at_least_float32(head_weight[:0]).dtype
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(head_weight, dtype=kept) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=kept) if needed[2] else None

    def add(self, at: slice, hidden, by_logits):  # hidden (C, D), by_logits (C, V)
        if self.bias is not None:
            self.bias += by_logits.sum(0)
        by_logits = by_logits.to(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            if self.hidden is not None:
                torch.mm(by_logits, self.head_weight, out=self.hidden[at])
            if self.weight is not None and self.weight.dtype == hidden.dtype:
                self.weight.addmm_(by_logits.T, hidden)
            elif self.weight is not None:
                self.weight += by_logits.T @ hidden

    def scaled(self, scale):
        parts = (self.hidden, self.weight, self.bias)
        return tuple(None if x is None else (x * scale).to(self.head_weight.dtype) for x in parts)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head_weight, bias, targets, chunk_size):
        logit = _at_least_float32(hidden[:0, 0]).new_empty(len(targets))
        log_partition = torch.empty_like(logit)
        for at, _, target, logits in _chunks(hidden, head_weight, bias, targets, chunk_size):
            logit[at] = logits.gather(1, target)[:, 0]
            log_partition[at] = logits.logsumexp(1)
        ctx.save_for_backward(hidden, head_weight, bias, targets, log_partition)
        ctx.chunk_size = chunk_size
        return logit, log_partition

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_logit, by_log_partition):
        hidden, head_weight, bias, targets, log_partition = ctx.saved_tensors
        gradients = _HeadGradients(hidden, head_weight, bias, ctx.needs_input_grad)
        for at, part, target, logits in _chunks(hidden, head_weight, bias, targets, ctx.chunk_size):
            by_logits = logits.sub_(log_partition[at, None]).exp_().mul_(by_log_partition[at, None])
            by_logits.scatter_add_(1, target, by_logit[at, None])
            gradients.add(at, part, by_logits)
        return *gradients.scaled(1.0), None, None


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head_weight, bias, targets, weight: Callable, denominator, chunk_size):
        needed = ctx.needs_input_grad[:3]
        gradients = _HeadGradients(hidden, head_weight, bias, needed)
        loss = nll_sum = _at_least_float32(hidden[:0, 0]).new_zeros(())
        for at, part, target, logits in _chunks(hidden, head_weight, bias, targets, chunk_size):
            log_partition = logits.logsumexp(1)
            nll = log_partition - logits.gather(1, target)[:, 0]
            weights = weight((-nll).exp())
            loss = loss + (weights * nll).sum()
            nll_sum = nll_sum + nll.sum()
            if any(needed):
                by_logits = logits.sub_(log_partition[:, None]).exp_().mul_(weights[:, None])
                gradients.add(at, part, by_logits.scatter_add_(1, target, -weights[:, None]))
        ctx.gradients, ctx.denominator = gradients, denominator
        nll = nll_sum / denominator
        ctx.mark_non_differentiable(nll)
        return loss / denominator, nll

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, by_loss, _by_nll):
        return *ctx.gradients.scaled(by_loss / ctx.denominator), None, None, None, None
