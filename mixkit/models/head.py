"""From hidden states to logits: the output embedding of a model, its scale and its soft cap."""

from dataclasses import dataclass, replace
from unittest.mock import patch
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from mixkit._common import Float, InputError, Int, summary
from mixkit.models.loading import inference, unwrapped

PROBES = (0.0, 2.0**-20, -1.0, 1.0, 7.0, -50.0, 300.0, 1e18)  # put in place of the output of the embedding
_MEASURED: WeakKeyDictionary = WeakKeyDictionary()  # (scale, soft_cap) of each model


@dataclass(frozen=True)
class Head:
    """equals: logits = soft_cap * tanh(z / soft_cap), where z = scale * F.linear(hidden, head_weight, bias)

    Without soft_cap the logits are z. The fields are arguments of the functions in losses/lm_head.py.
    """

    head_weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"] | None
    scale: float
    soft_cap: float | None

    def at(self, temperature: float) -> "Head":
        """The head whose logits are those of this one divided by `temperature`."""
        soft_cap = None if self.soft_cap is None else self.soft_cap / temperature
        return replace(self, scale=self.scale / temperature, soft_cap=soft_cap)


def lm_head(model) -> Head:
    """The head of a model, with its present weights. The model may be compiled and inside DistributedDataParallel.

    Scale and soft cap are measured at the first call. Raises InputError as `check_head` does.
    """
    model = unwrapped(model)
    if model not in _MEASURED:
        check_head(model)
    embedding = model.get_output_embeddings()
    return Head(embedding.weight, embedding.bias, *_MEASURED[model])


def last_hidden(model, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """The hidden states that the output embedding reads. Only the last position's logits are computed.

    Padding must be on the right. A causal model does not attend to it there, so no attention mask is needed.
    """
    # transformers would look for several texts in one row, and the host would wait for the answer of a GPU
    with patch("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None, create=True):
        output = model(input_ids=input_ids, output_hidden_states=True, logits_to_keep=1, use_cache=False)
    return output.hidden_states[-1]


def check_head(model) -> None:
    """Measure the scale and soft cap of a model's logits, from what the model does at small and at large values.

    Raises InputError where the logits are no `Head` of the last hidden states, where a state depends on later tokens,
    and where a logit is not finite. The model stays in its mode.
    """
    try:
        with inference(model), torch.autocast(model.device.type, enabled=False):
            _MEASURED[model] = _measure(model)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        what = f"{type(model).__name__} cannot be used: it does not run on token ids alone"
        raise InputError(f"{what} ({summary(error, 120)})") from error


def _measure(model) -> tuple[float, float | None]:
    """(scale, soft cap). A hook puts known values in place of what the output embedding gives."""
    embedding, name = model.get_output_embeddings(), type(model).__name__
    if type(embedding).forward is not torch.nn.Linear.forward:
        raise InputError(f"{name} cannot be used: its output embedding is {type(embedding).__name__}, not a Linear")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (1, len(PROBES)), generator=generator)
    ids = ids.to(model.device)
    inputs: list[Tensor] = []
    with embedding.register_forward_hook(lambda module, args, output: inputs.append(args[0])):
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    logits, hidden = output.logits[0], output.hidden_states[-1][0]
    if not (logits.isfinite().all() and hidden.isfinite().all()):
        raise InputError(f"the logits of {name} are not finite: its training diverged, or its file is damaged")

    probes = torch.tensor(PROBES, device=model.device)
    with embedding.register_forward_hook(lambda module, args, output: probes.to(output)[:, None].expand(output.shape)):
        after = model(input_ids=ids, use_cache=False).logits[0].double()  # (probes, V)
    scale, largest = _rounded(after[1, 0] / PROBES[1]), _rounded(after[-1, 0])
    soft_cap = largest if largest < scale * PROBES[-1] / 2 else None
    if not _close(after[:-1], _capped(scale * probes.double(), soft_cap)[:-1, None].expand_as(after[:-1])):
        raise InputError(f"{name} cannot be used: it changes its logits, and not by a scale or a soft cap")

    state, multiplier = inputs[0][0], 1.0
    if not torch.equal(state, hidden):  # the model multiplies its last hidden states
        multiplier = _rounded((state * hidden).sum() / hidden.square().sum())
    found = _capped(scale * F.linear(state, embedding.weight, embedding.bias), soft_cap)
    foldable = multiplier == 1 or embedding.bias is None
    if not (foldable and _close(multiplier * hidden, state) and _close(found, logits)):
        raise InputError(f"{name} cannot be used: it changes its last hidden states before the output embedding")
    if not _close(last_hidden(model, ids[:, :5])[0], hidden[:5]):
        raise InputError(f"{name} cannot be used: its hidden states depend on later tokens; choose a causal model")
    return multiplier * scale, soft_cap


def _capped(values: Tensor, soft_cap: float | None) -> Tensor:
    return values if soft_cap is None else soft_cap * torch.tanh(values / soft_cap)


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether all values of each row are equal, up to rounding relative to the row's largest."""
    tolerance = max(1e-4, 4 * torch.finfo(a.dtype).eps)
    return bool(((a - b).abs() <= tolerance * b.abs().amax(-1, keepdim=True)).all())


def _rounded(value: Tensor) -> float:
    return float(f"{value.item():.7g}")
