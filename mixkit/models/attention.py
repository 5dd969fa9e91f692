"""Attention masks that this kit makes itself: for prefix trees and for caches in which rows go back."""

import torch
from torch import Tensor

from mixkit._common import Bool, Int
from mixkit.losses.lm_head import compute_dtype
from mixkit.models.loading import unwrapped


def layer_types(model) -> set[str]:
    """The kinds of layers that the model's configuration names, if it names any."""
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ())


def window_of(model) -> int | None:
    """The tokens that a token attends to in layers with a sliding window. None without such layers."""
    types = layer_types(model)
    return getattr(model.config.get_text_config(), "sliding_window", None) if types != {"full_attention"} else None


def attention_mask(model, visible: Bool[Tensor, "B Q K"], distance: Int[Tensor, "B Q K"]) -> Tensor | dict[str, Tensor]:
    """The 4-D mask (B, 1, Q, K): 0 where a query attends to a key. A dict of masks for layers of both types.

    visible: True where the key is the query itself or before it. distance: number of tokens from key to query.
    """
    model = unwrapped(model)
    window, seen, dtype = window_of(model), {"full_attention": visible}, compute_dtype(model)
    if window is not None:
        seen["sliding_attention"] = visible & (distance < window)
    masks = {kind: (~seen[kind]).to(dtype)[:, None] * torch.finfo(dtype).min for kind in seen}
    return masks if window is not None and layer_types(model) == masks.keys() else masks[max(masks)]
