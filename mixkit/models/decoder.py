"""Decode a model by the stationary distribution of an objective."""

import torch
from transformers import LogitsProcessor

from mixkit._common import Float, Int
from mixkit.losses.fixed_points import decode, inverse_of
from mixkit.losses.token_weighted import TokenWeighted


class ObjectiveDecoder(LogitsProcessor):
    """equals: stationary_distribution(objective, scores.softmax(-1)).log(), a logits processor of transformers

    With a model trained by MLE it gives what training on `objective` would end at, if the model had learned the true
    distribution and could represent every distribution. Computed in float32, right to about 1e-4.
    Raises InputError for an objective without a unique stationary distribution.
    """

    def __init__(self, objective: TokenWeighted):
        self.objective, self.inverse = objective, inverse_of(objective)

    def __call__(
        self, input_ids: Int[torch.Tensor, "B T"] | None, scores: Float[torch.Tensor, "B V"]
    ) -> Float[torch.Tensor, "B V"]:
        return decode(self.objective, self.inverse, scores.float().softmax(-1)).log_().to(scores.dtype)
