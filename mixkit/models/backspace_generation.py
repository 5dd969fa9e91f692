"""Sample action sequences with <backspace>, in a batch over a key-value cache in which each row can go back."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer

from mixkit._common import Float, InputError
from mixkit.models.attention import attention_mask
from mixkit.models.likelihood import Ids
from mixkit.models.loading import check_positions


def sample_with_backspace(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    backspace_id: int | None,
    end_id: int | None,
    max_new_tokens: int,
    logits_processor: LogitsProcessorList | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """equals: at each step, sample an action from the model applied to prompt and remaining tokens, row by row

    Returns the actions after each prompt: token ids, <backspace> and end token included. A row stops at `end_id`, when
    it has `max_new_tokens` tokens after its prompt, or after 2 max_new_tokens actions. A row without such tokens cannot
    draw <backspace>.
    model: a causal language model of transformers that takes a 4-D attention mask. prompts: at least one token id each.
    backspace_id: None where no token deletes. The same seed, batch and device give the same actions.
    Raises InputError for a <backspace> in a prompt, and where prompt and new tokens exceed the model's positions.
    """
    if any(backspace_id in prompt for prompt in prompts):
        raise InputError("a prompt contains <backspace>; pass the text without it")
    check_positions(model, "max_new_tokens", max_new_tokens, max(map(len, prompts)))
    processors = logits_processor or LogitsProcessorList()
    actions: list[list[int]] = [[] for _ in prompts]
    training = model.training
    model.eval()
    for rows, _, action, active in _steps(model, prompts, backspace_id, end_id, max_new_tokens, processors, seed):
        for row, row_action in zip(rows[active].tolist(), action[active].tolist(), strict=True):
            actions[row].append(row_action)
    model.train(training)
    return actions


@torch.no_grad()
def _steps(
    model, prompts, backspace_id: int | None, end_id: int | None, max_new_tokens: int, processors, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each step feeds the last token of every row: a new one, or an old one after a backspace.

    Yields the number of each row's prompt (B,), logits (B, V), actions (B,), and False where the row has stopped (B,).
    """
    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)  # (B,)
    longest = int(lengths.max())
    capacity = longest + max_new_tokens
    tokens = torch.zeros(len(prompts), capacity, dtype=torch.long, device=device)  # (B, C) the token at each depth
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = torch.tensor(prompt, device=device)
    row = torch.arange(len(prompts), device=device)
    depth = lengths - 1  # of the last token
    active = torch.ones_like(row, dtype=torch.bool)
    generator = torch.Generator(device).manual_seed(seed)
    slots = torch.arange(capacity, device=device)
    cache = RewindableCache(model.config.num_hidden_layers, capacity)
    if longest > 1:
        cache.forward(model, tokens[:, : longest - 1], slots[: longest - 1].expand(len(prompts), -1), longest - 1)
    for step in range(2 * max_new_tokens):
        width = min(longest + step, capacity)  # no row is deeper
        logits = cache.forward(model, tokens.gather(1, depth[:, None]), depth[:, None], width)  # (B, V)
        scores = logits.clone()
        if backspace_id is not None:
            scores[:, backspace_id] = scores[:, backspace_id].masked_fill(depth < lengths, -torch.inf)
        scores = processors(tokens, scores)  # none of them reads the tokens
        action = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
        yield row, logits, action, active
        back = action == (-1 if backspace_id is None else backspace_id)
        depth = torch.where(active, depth + 1 - 2 * back.long(), depth)
        last = torch.where(active & ~back, action, tokens.gather(1, depth[:, None])[:, 0])
        tokens.scatter_(1, depth[:, None], last[:, None])
        active = active & (depth + 1 - lengths < max_new_tokens) & (action != (-1 if end_id is None else end_id))
        remaining = active.nonzero()[:, 0]
        if len(remaining) == 0:
            return
        if 2 * len(remaining) <= len(row):  # a stopped row costs as much as an active one
            row, depth, lengths, tokens, active = (x[remaining] for x in (row, depth, lengths, tokens, active))
            cache.batch_select_indices(remaining)


class RewindableCache(Cache):
    """A key-value cache with one slot for each depth. A row that went back overwrites its slots, without a copy."""

    def __init__(self, layers: int, capacity: int):
        super().__init__(layers=[RewindableLayer(self, capacity) for _ in range(layers)])

    def forward(self, model, tokens: Ids, depths: Ids, width: int) -> Float[Tensor, "B V"]:
        """Feed tokens at these depths. Each attends to the depths up to its own. Returns the last token's logits.

        width: slots in use, above the largest depth.
        """
        self.depths, self.width = depths, width
        distance = depths[:, :, None] - torch.arange(width, device=depths.device)  # (B, K, width)
        mask = attention_mask(model, distance >= 0, distance, model.dtype)
        inputs = {"input_ids": tokens, "position_ids": depths, "attention_mask": mask}
        logits = model(**inputs, past_key_values=self, use_cache=True, logits_to_keep=1).logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    def follow(self, model, prefixes: Sequence[Tensor]) -> list[Tensor]:
        """The logits (B, V) after each prefix (B, T). Each adds or deletes one token of the one before."""
        depths = torch.arange(max(prefix.shape[1] for prefix in prefixes), device=prefixes[0].device)[None]
        start = prefixes[0].shape[1] - 1
        self.forward(model, prefixes[0][:, :start], depths[:, :start], start)
        ends = [prefix.shape[1] for prefix in prefixes]
        return [self.forward(model, p[:, -1:], depths[:, n - 1 : n], n) for p, n in zip(prefixes, ends, strict=True)]


class RewindableLayer(DynamicLayer):
    """The keys and values (B, heads, capacity, D) of one layer of a RewindableCache."""

    def __init__(self, cache: RewindableCache, capacity: int):
        super().__init__()
        self.cache, self.capacity = cache, capacity

    def lazy_initialization(self, key_states, value_states):
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        batch, heads = key_states.shape[:2]
        self.keys: Tensor = key_states.new_zeros(batch, heads, self.capacity, key_states.shape[-1])
        self.values: Tensor = value_states.new_zeros(batch, heads, self.capacity, value_states.shape[-1])

    def update(self, key_states, value_states, *args, **kwargs):
        """Write at the cache's current depths. Returns the slots in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = torch.arange(len(key_states), device=key_states.device)[:, None]
        self.keys[rows, :, self.cache.depths] = key_states.transpose(1, 2)  # (B, K, H, D)
        self.values[rows, :, self.cache.depths] = value_states.transpose(1, 2)
        return self.keys[:, :, : self.cache.width], self.values[:, :, : self.cache.width]
