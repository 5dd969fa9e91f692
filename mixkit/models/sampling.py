"""Sample actions, with or without <backspace>, in a batch whose finished rows are replaced by waiting prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation.logits_process import LogitsProcessorList

from mixkit._common import Float, InputError, Int
from mixkit.losses.lm_head import compute_dtype
from mixkit.models.attention import attention_mask
from mixkit.models.likelihood import Ids
from mixkit.models.loading import autocast, check_positions, inference

CPU_ROWS, GPU_ROWS = 256, 2048  # of a batch; fewer where the memory is short
CPU_BYTES = 2**30  # of a batch
CPU_STEPS, GPU_STEPS = 4, 32  # between two looks at the rows: on a GPU the host waits there for all steps before
FACTORS = (0x7FEB352D, 0x846CA68B - 2**32)  # of lowbias32, as int32
WIDTH = 8  # the slots that are read are a multiple of it, as fast attention on a GPU needs


def sample_actions(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    backspace_id: int | None,
    end_id: int | None,
    max_new_tokens: int,
    logits_processor: LogitsProcessorList | None = None,
    seed: int = 0,
    batch_size: int = 0,
    on_finished: Callable[[int], object] = lambda texts: None,
) -> list[list[int]]:
    """equals: for each prompt and step, choose_actions(logits of the model applied to the remaining tokens, key, step)

    Returns the actions after each prompt: token ids, <backspace> and end token included. A row stops at `end_id`, when
    it has `max_new_tokens` tokens after its prompt, or after 2 max_new_tokens actions. A row without such tokens cannot
    draw <backspace>.
    model: a causal language model of transformers that takes a 4-D attention mask. prompts: at least one token id each.
    backspace_id: None where no token deletes. batch_size: rows at a time; 0 as many as `default_rows`.
    on_finished: called with 1 for each text that is finished.
    Each prompt has its own random numbers, so the actions do not depend on batch_size, except where rounding decides
    between two tokens (in float32 about once in a million tokens).
    Raises InputError for a <backspace> in a prompt, and where prompt and new tokens exceed the model's positions.
    """
    if any(backspace_id in prompt for prompt in prompts):
        raise InputError("a prompt contains <backspace>; pass the text without it")
    longest = max(map(len, prompts))
    check_positions(model, "max_new_tokens", max_new_tokens, longest)
    keys = np.random.Generator(np.random.Philox(seed)).integers(-(2**31), 2**31, (len(prompts), 2)).tolist()
    capacity = longest + max_new_tokens
    steps = GPU_STEPS if model.device.type == "cuda" else CPU_STEPS
    actions: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # similar lengths start together
    with inference(model), autocast(model):
        num_rows = min(len(prompts), batch_size or default_rows(model, capacity))
        rows = _Rows(model, num_rows, capacity, backspace_id, end_id, max_new_tokens)
        in_row: dict[int, int] = {}  # the prompt of each active row
        while waiting or in_row:
            free = [row for row in range(num_rows) if row not in in_row][: len(waiting)]
            new = [waiting.pop() for _ in free]
            in_row |= zip(free, new, strict=True)
            if free:
                rows.start(free, [prompts[i] for i in new], [keys[i] for i in new])
            for _ in range(steps):
                rows.step(logits_processor or LogitsProcessorList())
            for row, row_actions in rows.finished().items():
                if row in in_row:
                    actions[in_row.pop(row)] = row_actions
                    on_finished(1)
            if not waiting and 2 * len(in_row) <= num_rows:  # a stopped row costs as much as an active one
                rows.keep(list(in_row))
                num_rows, in_row = len(in_row), dict(enumerate(in_row.values()))
    return actions


def default_rows(model, capacity: int) -> int:
    """Rows of a batch: what fits CPU_BYTES or half of a GPU's free memory, at most CPU_ROWS or GPU_ROWS.

    capacity: tokens of the longest text. A row needs its keys and values, and ten floats for each logit.
    """
    config: Any = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
    cached = 2 * config.num_hidden_layers * heads * width * capacity * compute_dtype(model).itemsize
    most, room = CPU_ROWS, CPU_BYTES
    if model.device.type == "cuda":
        most, room = GPU_ROWS, torch.cuda.mem_get_info(model.device)[0] // 2
    return min(most, max(1, room // (cached + 40 * config.vocab_size)))


def choose_actions(
    scores: Float[Tensor, "B V"], keys: Int[Tensor, "B 2"], step: Int[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """equals: torch.multinomial(scores.softmax(-1), 1)[:, 0], with numbers that depend on key, step and token alone

    Exponential race: argmax_v p_v / E_v, where the E_v are independent and exponential with rate 1. A small error of p
    seldom changes its result, unlike that of a sum over p. E_v is made from a hash of 32 bits: torch has no CPU
    generator with a state per row, and torch.multinomial takes 4 times as long there.
    keys, step: int32. Each pair is used once.
    """
    first, second = _mix(keys ^ _mix(step)[:, None]).split(1, 1)  # (B, 1)
    x = _mix(torch.arange(scores.shape[1], dtype=torch.int32, device=scores.device)) ^ first  # (B, V)
    x.mul_(FACTORS[0]).bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).add_(second)
    x.mul_(FACTORS[1]).bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).bitwise_and_(0x7FFFFFFF)
    exponential = x.float().add_(0.5).mul_(-(2.0**-31) * (1 - 2.0**-23)).log1p_().neg_()
    return (scores.softmax(-1) / exponential).argmax(-1)


def _mix(x: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """A bijective hash of int32 (Wellons' lowbias32)."""
    x = (x ^ (x >> 16) & 0xFFFF) * FACTORS[0]
    x = (x ^ (x >> 15) & 0x1FFFF) * FACTORS[1]
    return x ^ (x >> 16) & 0xFFFF


class _Rows:
    """The texts that are being written, one in each row of the cache. All tensors stay on the device.

    A step feeds the last token of every row: a new one, or an old one after a backspace. Stopped rows are fed too.
    """

    def __init__(self, model, rows: int, capacity: int, backspace_id: int | None, end_id: int | None, new_tokens: int):
        self.model, self.new_tokens = model, new_tokens
        self.backspace_id = -1 if backspace_id is None else backspace_id
        self.end_id = -1 if end_id is None else end_id
        self.max_actions = new_tokens if backspace_id is None else 2 * new_tokens
        self.capacity = -(-capacity // WIDTH) * WIDTH
        self.cache = RewindableCache(self.capacity)
        self.width = 0  # above the largest depth
        empty = torch.zeros(rows, 1, dtype=torch.int32, device=model.device)
        self.state = {
            "tokens": empty.long().repeat(1, self.capacity),  # the token at each depth
            "actions": empty.repeat(1, self.max_actions + 1),  # the last column is never read
            "keys": empty.repeat(1, 2),
            "start": empty[:, 0].long(),  # tokens of the prompt
            "depth": empty[:, 0].long(),  # of the last token
            "count": empty[:, 0].clone(),  # of actions
            "active": empty[:, 0].bool(),
        }

    def start(self, rows: list[int], prompts: list[Sequence[int]], keys: list[list[int]]) -> None:
        """Put new prompts into these rows."""
        longest = max(map(len, prompts))
        self.width = max(self.width, longest)
        packed = [[*key, len(p), *p, *[0] * (longest - len(p))] for key, p in zip(keys, prompts, strict=True)]
        row, block = self._upload(rows), self._upload(packed)
        length, tokens = block[:, 2], block[:, 3:]
        self.state["tokens"][row, :longest] = tokens
        new = {"keys": block[:, :2].int(), "start": length, "depth": length - 1, "count": 0, "active": True}
        for name, value in new.items():
            self.state[name][row] = value
        if longest > 1:
            depths = torch.arange(longest - 1, device=row.device).expand(len(rows), -1)
            self.cache.forward(self.model, tokens[:, :-1], depths, longest - 1, row)

    def step(self, processors: Callable[[Any, Tensor], Any]) -> None:
        tokens, actions, keys, start, depth, count, active = self.state.values()
        width = min(-(-self.width // WIDTH) * WIDTH, self.capacity)
        scores = self.cache.forward(self.model, tokens.gather(1, depth[:, None]), depth[:, None], width)  # (B, V)
        if self.backspace_id >= 0:
            scores[:, self.backspace_id].masked_fill_(depth < start, -torch.inf)
        scores = processors(tokens, scores)  # none of them reads the tokens
        action = choose_actions(scores, keys, count)
        actions.scatter_(1, count.long()[:, None], action.int()[:, None])
        back = action == self.backspace_id
        depth += torch.where(active, 1 - 2 * back.long(), 0)
        last = torch.where(active & ~back, action, tokens.gather(1, depth[:, None])[:, 0])
        tokens.scatter_(1, depth[:, None], last[:, None])
        count += active
        active &= (depth + 1 - start < self.new_tokens) & (action != self.end_id) & (count < self.max_actions)
        self.width += 1

    def finished(self) -> dict[int, list[int]]:
        """The actions of each row that has stopped. The only place where the host waits for the device."""
        names = ("active", "depth", "count", "actions")
        packed = torch.cat([self.state[name].reshape(len(self.state["depth"]), -1).int() for name in names], 1)
        host = packed.cpu().numpy()
        active, depth, count = host[:, :3].T
        self.width = int(depth.max(initial=0, where=active > 0)) + 1
        return {row: host[row, 3 : 3 + count[row]].tolist() for row in (active == 0).nonzero()[0].tolist()}

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows."""
        row = self._upload(rows)
        self.state = {name: value[row] for name, value in self.state.items()}
        self.cache.keep(row)

    def _upload(self, values: list) -> Tensor:
        on_host = torch.tensor(values, dtype=torch.long)
        cuda = self.model.device.type == "cuda"
        return (on_host.pin_memory() if cuda else on_host).to(self.model.device, non_blocking=True)


class RewindableCache(Cache):
    """A key-value cache with one slot for each depth. A row that went back overwrites its slots, without a copy."""

    def __init__(self, capacity: int):
        super().__init__(layers=[])
        self.capacity = capacity
        self.slots: dict[int, list[Tensor]] = {}  # keys and values (B, heads, capacity, D) of each layer

    def forward(
        self, model, tokens: Ids, depths: Ids, width: int, rows: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B V"]:
        """Feed tokens at these depths. Each attends to the depths up to its own. Returns the last token's logits.

        width: slots in use, above the largest depth. rows: of the cache, by default all.
        """
        self.depths, self.width, self.rows = depths, width, rows
        distance = depths[:, :, None] - torch.arange(width, device=depths.device)  # (B, K, width)
        mask = attention_mask(model, distance >= 0, distance)
        inputs = {"input_ids": tokens, "position_ids": depths, "attention_mask": mask}
        logits = model(**inputs, past_key_values=self, use_cache=True, logits_to_keep=1).logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write at the current rows and depths. Returns the slots in use of these rows."""
        new = key_states, value_states
        if layer_idx not in self.slots:
            self.slots[layer_idx] = [x.new_zeros(*x.shape[:2], self.capacity, x.shape[-1]) for x in new]
        row = torch.arange(len(key_states), device=key_states.device) if self.rows is None else self.rows
        for slots, states in zip(self.slots[layer_idx], new, strict=True):
            slots[row[:, None], :, self.depths] = states.transpose(1, 2)  # (B, K, heads, D)
        keys, values = (slots[:, :, : self.width] for slots in self.slots[layer_idx])
        return (keys, values) if self.rows is None else (keys[row], values[row])

    def keep(self, rows: Int[Tensor, " B"]) -> None:
        """Drop all other rows."""
        self.slots = {layer: [slots[rows] for slots in pair] for layer, pair in self.slots.items()}
