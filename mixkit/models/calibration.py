"""Sharpness and order of a model's predictions of held-out texts, in one pass with their nll."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from mixkit._common import Float
from mixkit.losses.lm_head import logit_chunks
from mixkit.models.head import lm_head
from mixkit.models.likelihood import ENDS, batches, encode, group_hidden
from mixkit.models.loading import check_positions, inference

STEP = 0.2
INVERSE_TEMPERATURES = np.arange(1, 10) / 5  # k = 1/T, from 0.2 to 1.8
RECALL_AT = (1, 5, 50)
ROWS = 2  # of logits, whose powers stay in a core's cache


@dataclass(frozen=True)
class HeldOut:
    """What a model says of N held-out texts, summed over the tokens of each text, the end included.

    nll: in nats. tokens: their number. nll_at: the nll with logits divided by T, for each 1/T of INVERSE_TEMPERATURES.
    reciprocal_rank: sum of 1 / rank, where rank 1 is the most probable token. recall: tokens of rank <= 1, 5, 50.
    """

    nll: Float[np.ndarray, " N"]
    tokens: Float[np.ndarray, " N"]
    nll_at: Float[np.ndarray, "N K"]
    reciprocal_rank: Float[np.ndarray, " N"]
    recall: Float[np.ndarray, "N 3"]


def held_out(model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int, batch_size: int = 32) -> HeldOut:
    """The nll and number of tokens of `text_nll(model, tokenizer, texts, max_tokens=max_tokens)`, with ranks and T.

    Texts are cut after `max_tokens` tokens.
    """
    check_positions(model, "max_tokens", max_tokens, ENDS)
    rows = encode(tokenizer, list(texts), max_tokens)
    count = len(INVERSE_TEMPERATURES)
    sums = torch.zeros(len(rows), count + 1 + len(RECALL_AT), dtype=torch.float64)
    with inference(model):
        for numbers, batch in batches(model, rows, [1] * len(rows), batch_size):
            text_of_token = torch.tensor(numbers)[batch["rows"].cpu()]
            for at, logits in logit_chunks(group_hidden(model, batch), **vars(lm_head(model))):
                values = _token_values(logits, batch["targets"][at])
                sums.index_add_(0, text_of_token[at], values.double().cpu())
    nll_at, reciprocal_rank, recall = np.split(sums.numpy(), [count, count + 1], axis=1)
    nll, tokens = nll_at[:, INVERSE_TEMPERATURES == 1][:, 0], np.array([len(row) - 1.0 for row in rows])
    return HeldOut(nll, tokens, nll_at, reciprocal_rank[:, 0], recall)


def _token_values(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Per position: the nll at each 1/T, 1/rank, and whether the rank is at most each of RECALL_AT.

    V_k = logsumexp(k z), so that the nll at T is V_{1/T} - z_y / T. The powers exp(k z) are made by multiplication.
    """
    target = logits.gather(1, targets[:, None])
    largest = logits.amax(1, keepdim=True)
    partitions = logits.new_empty(len(logits), len(INVERSE_TEMPERATURES))
    above = logits.new_empty(len(logits))
    for start in range(0, len(logits), ROWS):
        at = slice(start, start + ROWS)
        above[at] = (logits[at] > target[at]).sum(1)
        base = (logits[at] - largest[at]).mul_(STEP).exp_()
        power = base.clone()
        for i in range(len(INVERSE_TEMPERATURES)):
            partitions[at, i] = power.sum(1)
            power *= base
    k = torch.as_tensor(INVERSE_TEMPERATURES, dtype=logits.dtype, device=logits.device)
    nll_at = partitions.log() + k * (largest - target)
    rank = above[:, None] + 1
    hits = rank <= torch.tensor(RECALL_AT, device=rank.device)
    return torch.cat([nll_at, 1 / rank, hits], 1)


def best_temperature(nll_at: Float[np.ndarray, "... K"], tokens: ArrayLike) -> tuple[Any, Any]:
    """(T*, nats per token at T*): the temperature at which the held-out nll is least, and that nll.

    equals: argmin over T of sum_t -log softmax(z_t / T)[y_t]. nll_at (..., K), tokens (...): sums over texts. The nll
    is convex in 1/T. A cubic spline in log T through its values at INVERSE_TEMPERATURES is right to about 1e-3 for T*
    up to 1.7, and to about 1 % above. Both are nan where the least value is at an end, so that T* is outside [0.56, 5].
    """
    curve = np.asarray(nll_at, dtype=float) / np.asarray(tokens, dtype=float)[..., None]
    log_k = np.log(INVERSE_TEMPERATURES)
    fine = np.linspace(log_k[0], log_k[-1], 2198)  # steps of 0.001
    values = CubicSpline(log_k, curve, axis=-1)(fine)
    place = values.argmin(-1)
    inside = (place > 0) & (place < len(fine) - 1)
    return np.where(inside, np.exp(-fine[place]), np.nan), np.where(inside, values.min(-1), np.nan)
