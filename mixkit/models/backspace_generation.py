"""Sampling in which the model may take tokens back: a batched loop over a key-value cache that rows can rewind.
Prompts and ids in, action sequences out; tokenizers and files live elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import Cache, DynamicLayer

from mixkit._common import InputError
from mixkit.models.backspace import apply_backspaces
from mixkit.models.loading import check_positions


@dataclass(frozen=True)
class Trajectory:
    """What one row did: its actions after the prompt, the text they leave, and whether it ended or was cut.

    actions: token ids, <backspace> and the end token among them. text: the ids left, the end token included.
    """

    prompt: list[int]
    actions: list[int]
    text: list[int]
    num_deleted: int
    ended: bool

    @property
    def steps_per_kept_token(self) -> float:
        """len(actions) / len(text): 1 without a backspace; inf where nothing is left."""
        return len(self.actions) / len(self.text) if self.text else float("inf")


def sample_with_backspace(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    backspace_id: int | None,
    end_id: int | None,
    max_new_tokens: int,
    max_steps: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    allow_backspace: bool = True,
) -> list[Trajectory]:
    """One trajectory a prompt, all in one batch; equals: sampling from the model fed with the kept prefix at every step

    model: a causal language model of transformers that takes a 4-D attention mask. prompts: token ids, at least one
    each, of any lengths. A row stops when it draws `end_id`, when it holds `max_new_tokens` of its own, or after
    `max_steps` actions (by default 2 max_new_tokens; a backspace is an action). Where a row holds nothing of its own,
    and everywhere with allow_backspace=False, <backspace> is not available.
    temperature > 0, top_k (0: off), top_p in (0, 1]: transformers' own, in generate's order; by default unbiased.
    The same seed, batch and device give the same trajectories.
    Raises InputError (a ValueError) for a <backspace> in a prompt, an empty prompt, texts longer than the model's
    positions, and values out of range.
    """
    max_steps = 2 * max_new_tokens if max_steps is None else max_steps
    ranges = {
        "max_new_tokens": (max_new_tokens, max_new_tokens >= 1, "at least 1"),
        "max_steps": (max_steps, max_steps >= 1, "at least 1"),
        "temperature": (temperature, temperature > 0, "above 0"),
        "top_k": (top_k, top_k >= 0, "0 (off) or more"),
        "top_p": (top_p, 0 < top_p <= 1, "in (0, 1]"),
    }
    for name, (value, fits, allowed) in ranges.items():
        if not fits:
            raise InputError(f"{name} is {value!r}; it must be {allowed}")
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise InputError(f"prompt {row} is empty; it needs a start token")
        if backspace_id in prompt:
            raise InputError(f"prompt {row} holds <backspace>; a prompt is text only")
    if allow_backspace and backspace_id is None:
        raise InputError("the model has no <backspace>; add the token first or sample with allow_backspace=False")
    warpers = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(float(top_p))] if top_p < 1 else []

    actions = [[] for _ in prompts]
    training = model.training
    model.eval()
    try:
        for step in _walk(
            model, prompts, backspace_id, end_id, max_new_tokens, max_steps, warpers, seed, allow_backspace
        ):
            for row, action, active in zip(*(x.tolist() for x in (step.row, step.action, step.active)), strict=True):
                if active:
                    actions[row].append(action)
    finally:
        model.train(training)
    trajectories = []
    for prompt, taken in zip(prompts, actions, strict=True):
        text, num_deleted = apply_backspaces(taken, backspace_id)
        trajectories.append(Trajectory(list(prompt), taken, text, num_deleted, taken[-1] == end_id))
    return trajectories


class _Step(NamedTuple):
    """One step: which prompts' rows are in the batch, the model's logits (B, V), the actions, who was still going."""

    row: torch.Tensor
    logits: torch.Tensor
    action: torch.Tensor
    active: torch.Tensor


@torch.no_grad()
def _walk(
    model, prompts, backspace_id, end_id, max_new_tokens, max_steps, warpers, seed, allow_backspace
) -> Iterator[_Step]:
    """The loop. Each step feeds every row's top token at its depth: a new one, or the one that a backspace bared."""
    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)  # (B,)
    longest = max(len(prompt) for prompt in prompts)
    capacity = longest + max_new_tokens
    check_positions(model, "max_new_tokens", max_new_tokens, longest)
    stack = torch.zeros(len(prompts), capacity, dtype=torch.long, device=device)  # (B, C) the token at every depth
    for at, prompt in enumerate(prompts):
        stack[at, : len(prompt)] = torch.tensor(prompt, device=device)
    row = torch.arange(len(prompts), device=device)
    depth = lengths - 1  # of the token on top
    active = torch.ones_like(row, dtype=torch.bool)
    generator = torch.Generator(device).manual_seed(seed)
    slots = torch.arange(capacity, device=device)
    cache = _Rewindable(model.config.num_hidden_layers, capacity)
    if longest > 1:
        cache.forward(model, stack[:, : longest - 1], slots[: longest - 1].expand(len(prompts), -1), longest - 1)
    for step in range(max_steps):
        width = min(longest + step, capacity)  # no row is deeper than that
        logits = cache.forward(model, stack.gather(1, depth[:, None]), depth[:, None], width)  # (B, V)
        scores = logits.clone()
        if backspace_id is not None:
            bare = (depth < lengths) | (not allow_backspace)
            scores[:, backspace_id] = scores[:, backspace_id].masked_fill(bare, -torch.inf)
        for warp in warpers:
            scores = warp(None, scores)
        action = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
        yield _Step(row, logits, action, active)
        back = action == backspace_id if backspace_id is not None else torch.zeros_like(active)
        depth = torch.where(active, depth + 1 - 2 * back.long(), depth)
        top = torch.where(active & ~back, action, stack.gather(1, depth[:, None])[:, 0])
        stack.scatter_(1, depth[:, None], top[:, None])
        active = active & (depth + 1 - lengths < max_new_tokens)
        if end_id is not None:
            active = active & (action != end_id)
        going = active.nonzero()[:, 0]
        if len(going) == 0:
            return
        if 2 * len(going) <= len(row):  # rows that have stopped cost as much as those that go on
            row, depth, lengths, stack, active = (x[going] for x in (row, depth, lengths, stack, active))
            cache.batch_select_indices(going)


class _Rewindable(Cache):
    """A key-value cache whose slots are depths: a row that goes back writes over what it took back, without a copy."""

    def __init__(self, layers: int, capacity: int):
        super().__init__(layers=[_RewindableLayer(self, capacity) for _ in range(layers)])

    def forward(self, model, tokens: torch.Tensor, depths: torch.Tensor, width: int) -> torch.Tensor:
        """Feeds tokens (B, K) at depths (B, K), which see the depths up to their own; the last one's logits (B, V)."""
        self.depths, self.width = depths, width
        seen = torch.arange(width, device=depths.device) <= depths[:, :, None]  # (B, K, W)
        mask = torch.zeros((), dtype=model.dtype, device=depths.device)
        mask = torch.where(seen, mask, torch.finfo(model.dtype).min)[:, None]
        out = model(
            input_ids=tokens,
            position_ids=depths,
            attention_mask=mask,
            past_key_values=self,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()


class _RewindableLayer(DynamicLayer):
    def __init__(self, cache: _Rewindable, capacity: int):
        super().__init__()
        self.cache, self.capacity = cache, capacity

    def lazy_initialization(self, key_states, value_states):
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            x.new_zeros(*x.shape[:2], self.capacity, x.shape[-1]) for x in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = torch.arange(len(key_states), device=key_states.device)[:, None]
        for kept, new in ((self.keys, key_states), (self.values, value_states)):
            kept[rows, :, self.cache.depths] = new.transpose(1, 2)  # (B, K, H, D)
        return self.keys[:, :, : self.cache.width], self.values[:, :, : self.cache.width]
