"""Sample continuations of prompts. By default tokens are drawn from the model's own distribution."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from mixkit._common import InputError
from mixkit.models.backspace import apply_backspaces, segments
from mixkit.models.backspace_generation import sample_with_backspace
from mixkit.models.likelihood import tokenize
from mixkit.models.loading import check_positions, start_token


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn. The defaults draw from the model's own distribution.

    temperature > 0 divides the logits: 1 changes nothing, and near 0 only the most probable token remains. top_p in
    (0, 1] is the probability of the most probable tokens that remain: 1 leaves all. top_k >= 0 is their number: 0
    leaves all. Raises InputError (a ValueError) for a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature!r}; it must be above 0")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p!r}; it must be in (0, 1]")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k!r}; it must be at least 0 (0 keeps every token)")

    def logits_processors(self) -> LogitsProcessorList:
        """transformers' logits processors for these settings, in the order of `generate`."""
        temperature = [TemperatureLogitsWarper(float(self.temperature))] if self.temperature != 1 else []
        top_k = [TopKLogitsWarper(int(self.top_k))] if self.top_k > 0 else []
        top_p = [TopPLogitsWarper(float(self.top_p))] if self.top_p < 1 else []
        return LogitsProcessorList([*temperature, *top_k, *top_p])


@dataclass(frozen=True)
class Prompt:
    """The beginning of a human text: its token ids (with the start token), its text, and the human continuation."""

    ids: list[int]
    text: str
    human: str


@dataclass(frozen=True)
class Continuation:
    """A sampled continuation: its final text and the number of deleted tokens.

    segments: all text in the order of writing, as runs (text, whether it remains in the final text).
    """

    text: str
    num_deleted: int = 0
    segments: tuple[tuple[str, bool], ...] = ()


def cut_prompts(tokenizer, texts: list[str], *, prompts: int, prompt_tokens: int, max_new_tokens: int) -> list[Prompt]:
    """Cut the first `prompts` texts of more than `prompt_tokens` tokens there. Human continuations: max_new_tokens."""
    cut = []
    for text in texts:
        (ids,) = tokenize(tokenizer, [text])
        if len(ids) > prompt_tokens and len(cut) < prompts:
            head, rest = ids[:prompt_tokens], ids[prompt_tokens : prompt_tokens + max_new_tokens]
            cut.append(Prompt([start_token(tokenizer), *head], tokenizer.decode(head), tokenizer.decode(rest)))
    return cut


@torch.no_grad()
def sample_continuations(
    model,
    tokenizer,
    prompts: Sequence[str | list[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler = Sampler(),
    sets: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[Continuation]]:
    """Sample `sets` independent sets of continuations, one for each prompt in a set.

    A text ends at the end token, which is left out, or after `max_new_tokens`. A model with <backspace> may delete
    tokens; it takes at most 2 max_new_tokens actions.
    prompts: strings (the start token is put before them) or token ids (used unchanged). Prompts of one length share a
    batch, so there is no padding. The same seed, batch size and machine give the same texts.
    Raises InputError without prompts, for a prompt without tokens, and where prompt and continuation exceed the
    model's positions.
    """
    rows = [p if isinstance(p, list) else [start_token(tokenizer), *tokenize(tokenizer, [p])[0]] for p in prompts]
    if not rows or min(map(len, rows)) == 0:
        raise InputError("there is nothing to continue: no prompts, or a prompt without tokens")
    check_positions(model, "max_new_tokens", max_new_tokens, max(map(len, rows)))
    backspace_id = getattr(model.config, "backspace_token_id", None)
    by_length: dict[int, list[tuple[int, int]]] = {}  # length of the prompt: places (set, prompt) in the results
    for one_set, prompt in product(range(sets), range(len(rows))):
        by_length.setdefault(len(rows[prompt]), []).append((one_set, prompt))
    results = [[Continuation("")] * len(rows) for _ in range(sets)]
    gpus = [model.device] if model.device.type == "cuda" else []
    with _default_generation_config(model), torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        for _, places in sorted(by_length.items()):
            for first in range(0, len(places), batch_size):
                batch = places[first : first + batch_size]
                ids = [rows[prompt] for _, prompt in batch]
                actions = _sample_actions(model, ids, tokenizer.eos_token_id, max_new_tokens, sampler)
                for (one_set, prompt), row_actions in zip(batch, actions, strict=True):
                    results[one_set][prompt] = _decode(tokenizer, row_actions, backspace_id)
    return results


def _sample_actions(model, prompts, end_id: int, max_new_tokens: int, sampler: Sampler) -> list[list[int]]:
    """Token ids after each prompt; all prompts have one length. With <backspace>, by our own loop."""
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "logits_processor": sampler.logits_processors()}
    backspace_id = getattr(model.config, "backspace_token_id", None)
    if backspace_id is not None:
        batch_seed = int(torch.randint(2**62, ()))
        ids = {"backspace_id": backspace_id, "end_id": end_id}
        return sample_with_backspace(model, prompts, **ids, **settings, seed=batch_seed)
    prompt_ids = torch.tensor(prompts, device=model.device)
    mask = torch.ones_like(prompt_ids)
    ends = {"eos_token_id": end_id, "pad_token_id": end_id}
    output = model.generate(prompt_ids, attention_mask=mask, do_sample=True, top_k=0, **ends, **settings)
    return output[:, prompt_ids.shape[1] :].tolist()


def _decode(tokenizer, actions: list[int], backspace_id: int | None) -> Continuation:
    if tokenizer.eos_token_id in actions:
        actions = actions[: actions.index(tokenizer.eos_token_id)]
    tokens, num_deleted = apply_backspaces(actions, backspace_id)
    runs = [(tokenizer.decode(ids), remains) for ids, remains in segments(actions, backspace_id)]
    return Continuation(tokenizer.decode(tokens), num_deleted, tuple(runs))


@contextmanager
def _default_generation_config(model):
    """Replace the model's own generation settings (repetition penalty and others), which `generate` would apply."""
    model_config, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = model_config
