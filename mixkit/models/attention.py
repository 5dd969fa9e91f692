"""Attention masks that this kit makes itself: for prefix trees and for caches in which rows go back."""

import torch
from torch import Tensor

from mixkit._common import Bool, Int

LAYER_TYPES = {"full_attention", "sliding_attention"}  # the layers that read nothing but this mask


def layer_types(model) -> set[str]:
    """The kinds of the model's layers, as its configuration names them. Empty where it names none."""
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ())


def attention_mask(
    model, visible: Bool[Tensor, "B Q K"], distance: Int[Tensor, "B Q K"], dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """The 4-D mask (B, 1, Q, K): 0 where a query attends to a key. A dict of masks for a model of two kinds of layers.

    visible: True where the key is the query itself or before it. distance: number of tokens from key to query. In a
    layer with a sliding window a query attends to distances below the model's `sliding_window`.
    """
    model = getattr(model, "module", model)  # under DistributedDataParallel
    types, window = layer_types(model), getattr(model.config.get_text_config(), "sliding_window", None)
    full = _additive(visible, dtype)
    if window is None or types == {"full_attention"}:
        return full
    sliding = _additive(visible & (distance < window), dtype)
    return {"full_attention": full, "sliding_attention": sliding} if types == LAYER_TYPES else sliding


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return (~visible).to(dtype)[:, None] * torch.finfo(dtype).min
