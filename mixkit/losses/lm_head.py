"""Target logits, log-partitions and token-weighted losses from hidden states, one chunk of logits at a time."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixkit._common import Bool, Float, InputError, Int
from mixkit.losses.token_weighted import TokenScores, TokenWeighted, check_targets

# Logits in a chunk. On a CPU 128 MB in float32, 667 positions of GPT-2's vocabulary. On a GPU 1 GB, for fewer kernels.
CHUNK_LOGITS = {"cpu": 2**25, "cuda": 2**28}
CACHED_LOGITS = {"cpu": 2**18, "cuda": 2**28}  # a part of a chunk whose logits stay in a CPU's cache
_Chunks = tuple[int, float | None]  # positions of a chunk; soft_cap


def token_scores(
    hidden: Float[Tensor, "*B D"],
    head_weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*B"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    chunk_size: int | None = None,
) -> TokenScores:
    """equals: TokenScores.from_logits(soft_cap * tanh(scale * F.linear(hidden, head_weight, bias) / soft_cap), targets)

    hidden: hidden states. head_weight, bias: output embedding. targets: token ids in [0, V).
    scale > 0, soft_cap > 0: what the model does to its logits; no tanh where soft_cap is None.
    chunk_size: positions per chunk. By default a chunk has at most `CHUNK_LOGITS` logits.
    Matrix products run in the dtype of hidden, or of autocast. Sums over the vocabulary run in float32 or float64.
    Differentiable once in hidden, head_weight and bias. The backward pass computes the logits again.
    Raises ValueError for shapes that do not fit and, on the CPU only, for a target outside [0, V).
    """
    inputs = _inputs(hidden, head_weight, bias, targets, chunk_size, scale, soft_cap)
    logit, log_partition = _Scores.apply(*inputs)
    return TokenScores(logit.reshape(targets.shape), log_partition.reshape(targets.shape))


def weighted_cross_entropy(
    hidden: Float[Tensor, "*B D"],
    head_weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*B"],
    objective: TokenWeighted,
    *,
    mask: Bool[Tensor, "*B"] | Int[Tensor, "*B"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    denominator: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """equals: objective.losses(scores)[mask].sum() / denominator

    Here scores = token_scores(hidden, head_weight, targets, ...). The gradients are computed in the forward pass, which
    takes three matrix products in place of four. Returns the loss in nats per token.
    mask: True for positions that count. Masked positions are removed first, so they may hold anything.
    denominator: by default the number of unmasked positions. With gradient accumulation or several devices pass the
    number of unmasked positions in the global batch.
    Raises ValueError as `token_scores`, for an objective without weights, and for no positions and no denominator.
    """
    options = {"mask": mask, "bias": bias, "scale": scale, "soft_cap": soft_cap, "denominator": denominator}
    return weighted_cross_entropy_and_nll(hidden, head_weight, targets, objective, **options)[0]


def weighted_cross_entropy_and_nll(
    hidden: Float[Tensor, "*B D"],
    head_weight: Float[Tensor, "V D"],
    targets: Int[Tensor, "*B"],
    objective: TokenWeighted,
    *,
    mask: Bool[Tensor, "*B"] | Int[Tensor, "*B"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
    denominator: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """equals: weighted_cross_entropy(..., objective), weighted_cross_entropy(..., MLE()).detach()

    One pass over the chunks. chunk_size is that of `token_scores`.
    """
    if isinstance(objective, type) or not callable(getattr(objective, "losses", None)):
        raise ValueError(f"objective is {objective!r}; it must be token-weighted: MLE(), MixCE(eta), TaiLr(gamma)")
    inputs = _inputs(hidden, head_weight, bias, targets, chunk_size, scale, soft_cap, mask)
    if denominator is None:
        denominator = len(inputs[0])
        if denominator == 0:
            raise ValueError("every position is masked, so there is no mean; pass a denominator")
    loss, nll = _WeightedSum.apply(*inputs, objective)
    return loss / denominator, nll / denominator


def logit_chunks(
    hidden: Float[Tensor, "N D"],
    head_weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None = None,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Iterator[tuple[slice, Float[Tensor, "C V"]]]:
    """The positions of each chunk and their logits, which the caller may overwrite. Arguments as of `token_scores`."""
    targets = hidden.new_zeros(len(hidden), dtype=torch.long)
    hidden, head, bias, _, chunks = _inputs(hidden, head_weight, bias, targets, None, scale, soft_cap)
    return ((at, logits) for at, logits, _ in _chunks(hidden, head, bias, chunks))


def _inputs(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk_size: int | None,
    scale: float,
    soft_cap: float | None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, _Chunks]:
    """The arguments of _Scores for the N unmasked positions. Floats have the dtype of autocast or of hidden."""
    if hidden.shape[:-1] != targets.shape:
        shapes = f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)}"
        raise ValueError(f"{shapes} do not fit; hidden must have the shape of targets and one more dimension")
    if mask is not None:
        if mask.shape != targets.shape:
            raise ValueError(f"mask {tuple(mask.shape)} and targets {tuple(targets.shape)} differ in shape")
        hidden, targets = hidden[mask.bool()], targets[mask.bool()]
    check_targets(targets, head.shape[0])
    if chunk_size is None:
        chunk_size = max(1, CHUNK_LOGITS.get(head.device.type, 2**25) // head.shape[0])
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1")
    if scale != 1:  # of the logits
        hidden, bias = hidden * scale, None if bias is None else bias * scale
    dtype = compute_dtype(hidden)
    hidden = hidden.reshape(-1, hidden.shape[-1]).to(dtype)  # (N, D)
    bias = None if bias is None else bias.to(dtype)
    return hidden, head.to(dtype), bias, targets.reshape(-1), (chunk_size, soft_cap)


def compute_dtype(inputs: Any) -> torch.dtype:
    """The dtype of products of this tensor, or in this model: that of autocast where it is enabled."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype


def _chunks(
    hidden: Tensor, head: Tensor, bias: Tensor | None, chunks: _Chunks
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """The positions of each chunk, their logits (C, V), which the caller may overwrite, and the soft cap's slope there.

    The slope is that of each logit in its value before the cap, None without a cap.
    """
    size, soft_cap = chunks
    for start in range(0, len(hidden), size):
        at = slice(start, start + size)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden[at], head, bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if soft_cap is None:
            yield at, logits, None
        else:
            tanh = torch.tanh(logits / soft_cap)
            yield at, soft_cap * tanh, 1 - tanh.square()


class _Gradients:
    """Gradients of hidden, head and bias, summed over chunks. None where no gradient is needed."""

    def __init__(self, hidden: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, needed: tuple[bool, ...]):
        self.hidden, self.head, self.targets = hidden, head, targets
        dtype = torch.promote_types(head.dtype, torch.float32)
        self.by_hidden = torch.empty_like(hidden) if needed[0] else None
        self.by_weight = torch.zeros_like(head, dtype=dtype) if needed[1] else None
        self.by_bias = torch.zeros_like(bias, dtype=dtype) if bias is not None and needed[2] else None

    def add(self, at: slice, by_logits: Tensor, by_logit: Tensor, slope: Tensor | None) -> None:
        """Add the gradients of one chunk: through its logits (C, V), which are overwritten, and the targets' (C,)."""
        by_logits.scatter_add_(1, self.targets[at, None], by_logit[:, None])
        if slope is not None:
            by_logits.mul_(slope)
        if self.by_bias is not None:
            self.by_bias += by_logits.sum(0)
        hidden = self.hidden[at]
        by_logits = by_logits.to(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            if self.by_hidden is not None:
                torch.mm(by_logits, self.head, out=self.by_hidden[at])
            if self.by_weight is not None and self.by_weight.dtype == hidden.dtype:
                self.by_weight.addmm_(by_logits.T, hidden)
            elif self.by_weight is not None:
                self.by_weight += by_logits.T @ hidden

    def scaled(self, scale: Tensor | float = 1.0) -> list[Tensor | None]:
        """The sums times `scale`, in place."""
        sums = (self.by_hidden, self.by_weight, self.by_bias)
        return [None if x is None else x.mul_(scale).to(self.head.dtype) for x in sums]


def _by_logits(logits: Tensor, log_partition: Tensor, by_log_partition: Tensor) -> Tensor:
    """The gradient of the log-partition in the logits (C, V), which are overwritten, times by_log_partition (C,)."""
    return logits.sub_(log_partition[:, None]).exp_().mul_(by_log_partition[:, None])


# torch.utils.checkpoint over the chunks instead takes 1.14 times the time and 2.3 times the memory of _Scores
# (2048 positions, width 768, vocabulary 50257, float32, one CPU core).
class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, chunks: _Chunks
    ) -> tuple[Tensor, Tensor]:
        logit = hidden.new_empty(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        log_partition = torch.empty_like(logit)
        for at, logits, _ in _chunks(hidden, head, bias, chunks):
            logit[at] = logits.gather(1, targets[at, None])[:, 0]
            log_partition[at] = logits.logsumexp(1)
        ctx.save_for_backward(hidden, head, bias, targets, log_partition)
        ctx.chunks = chunks
        return logit, log_partition

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_logit: Tensor, by_log_partition: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, head, bias, targets, log_partition = ctx.saved_tensors
        gradients = _Gradients(hidden, head, bias, targets, ctx.needs_input_grad)
        for at, logits, slope in _chunks(hidden, head, bias, ctx.chunks):
            gradients.add(at, _by_logits(logits, log_partition[at], by_log_partition[at]), by_logit[at], slope)
        return *gradients.scaled(), None, None


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, chunks: _Chunks, objective: Any
    ) -> tuple[Tensor, Tensor]:
        gradients = _Gradients(hidden, head, bias, targets, ctx.needs_input_grad)
        loss_sum = nll_sum = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        order, size = objective.order, max(1, CACHED_LOGITS.get(head.device.type, 2**18) // len(head))
        for at, chunk, slope in _chunks(hidden, head, bias, chunks):
            by_logit = []
            for logits, y in zip(chunk.split(size), targets[at].split(size), strict=True):
                parts = [logits.gather(1, y[:, None])[:, 0], logits.logsumexp(1)]
                if order is not None:
                    parts.append((order * logits).logsumexp(1))
                with torch.enable_grad():  # of the few numbers per position, not of the logits
                    scores = TokenScores(*(part.requires_grad_() for part in parts))
                    losses = objective.losses(scores)
                    if losses.shape != y.shape:
                        raise InputError(f"{objective} has losses of shape {(*losses.shape,)} for {len(y)} tokens")
                    loss = losses.sum()
                    by: Any = torch.autograd.grad(loss, parts, allow_unused=True)  # None: the loss is no function of it
                loss_sum, nll_sum = loss_sum + loss.detach(), nll_sum + scores.nll.detach().sum()
                by_logit.append(torch.zeros_like(loss).expand_as(y) if by[0] is None else by[0])
                scaled = _by_logits(order * logits, parts[2], order * by[2]) if order and by[2] is not None else None
                logits = logits.zero_() if by[1] is None else _by_logits(logits, parts[1], by[1])
                if scaled is not None:
                    logits.add_(scaled)
            if any(ctx.needs_input_grad):
                gradients.add(at, chunk, torch.cat(by_logit), slope)
        ctx.gradients, ctx.how = gradients, (chunks, objective)
        ctx.save_for_backward(hidden, head, bias, targets)
        ctx.mark_non_differentiable(nll_sum)
        return loss_sum, nll_sum

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_loss: Tensor, _by_nll: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not hasattr(ctx, "gradients"):  # a second backward pass
            _WeightedSum.forward(ctx, *ctx.saved_tensors, *ctx.how)
        by_inputs = ctx.gradients.scaled(by_loss)
        del ctx.gradients  # given away, without a copy
        return *by_inputs, None, None, None
