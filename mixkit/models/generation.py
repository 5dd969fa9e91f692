"""Sample continuations of prompts. By default tokens are drawn from the model's own distribution."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.generation import logits_process
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from mixkit._common import Float, InputError, Int
from mixkit.losses.fixed_points import decode, inverse_of
from mixkit.losses.token_weighted import TokenWeighted
from mixkit.models.backspace import check_tree_attention, segments
from mixkit.models.likelihood import tokenize
from mixkit.models.loading import check_positions, inference, memory_advice, start_token
from mixkit.models.sampling import sample_actions

INCOMPLETE = re.compile("\ufffd{1,3}\\Z")  # what a tokenizer makes of the first bytes of a character


class ObjectiveDecoder(LogitsProcessor):
    """equals: stationary_distribution(objective, scores.softmax(-1)).log(), a logits processor of transformers

    With a model trained by MLE it gives what training on `objective` would end at, if the model had learned the true
    distribution and could represent every distribution. Computed in float32, right to about 1e-4.
    Raises InputError for an objective without a unique stationary distribution.
    """

    def __init__(self, objective: TokenWeighted):
        self.objective, self.inverse = objective, inverse_of(objective)

    def __call__(self, input_ids: Int[Tensor, "B T"] | None, scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        return decode(self.objective, self.inverse, scores.float().softmax(-1)).log_().to(scores.dtype)


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn. The defaults draw from the model's own distribution.

    decode_as: a token-weighted objective; its stationary distribution first replaces the model's own. temperature >= 0
    divides the logits; 0 is greedy decoding, whatever the rest. top_k >= 0: so many of the most probable tokens remain,
    0 leaves all. top_p in (0, 1]: the fewest most probable tokens remain that have this probability together.
    Raises InputError (a ValueError) for a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    decode_as: TokenWeighted | None = None

    def __post_init__(self):
        if not self.temperature >= 0:
            raise InputError(f"temperature is {self.temperature!r}; it must be at least 0 (0: greedy)")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p!r}; it must be in (0, 1]")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k!r}; it must be at least 0 (0 keeps every token)")

    def logits_processors(self) -> LogitsProcessorList:
        """transformers' logits processors for these settings, in the order of `generate`."""
        if self.temperature == 0:
            return LogitsProcessorList([logits_process.TopKLogitsWarper(1)])
        decoder = [ObjectiveDecoder(self.decode_as)] if self.decode_as is not None else []
        temperature = [logits_process.TemperatureLogitsWarper(float(self.temperature))] if self.temperature != 1 else []
        top_k = [logits_process.TopKLogitsWarper(int(self.top_k))] if self.top_k > 0 else []
        top_p = [logits_process.TopPLogitsWarper(float(self.top_p))] if self.top_p < 1 else []
        return LogitsProcessorList([*decoder, *temperature, *top_k, *top_p])


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
    """Cut the first `prompts` texts of more than `prompt_tokens` tokens there. Human continuations: max_new_tokens.

    Where that cut is inside a character, the prompt ends before it. `text` and `human` joined begin the human text.
    """
    results = []
    for ids in tokenize(tokenizer, texts):
        cut = prompt_tokens if len(ids) > prompt_tokens else 0
        while cut and INCOMPLETE.search(tokenizer.decode(ids[:cut])):
            cut -= 1
        if cut and len(results) < prompts:
            head, rest = ids[:cut], ids[cut : cut + max_new_tokens]
            human = text_after(tokenizer, head, rest)
            results.append(Prompt([start_token(tokenizer), *head], tokenizer.decode(head), human))
    return results


def text_after(tokenizer, context: list[int], ids: list[int]) -> str:
    """The text of `ids` after `context`, decoded together: a token's text can depend on the tokens before it.

    A character that is not complete at the end is left out.
    """
    before, whole = (INCOMPLETE.sub("", tokenizer.decode(x)) for x in (context, [*context, *ids]))
    return whole[len(before) :]


@memory_advice("lower batch_size of sample_continuations, or max_new_tokens")
def sample_continuations(
    model,
    tokenizer,
    prompts: Sequence[str | list[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler = Sampler(),
    sets: int = 1,
    seed: int = 0,
    batch_size: int = 0,
) -> list[list[Continuation]]:
    """Sample `sets` independent sets of continuations, one for each prompt in a set.

    A text ends at the end token, which is left out, or after `max_new_tokens`. A model with <backspace> takes at most
    2 max_new_tokens actions.
    prompts: strings (the start token is put before them) or token ids (used unchanged). batch_size: texts at a time; 0
    chooses it by the memory. The same seed and machine give the same texts, whatever the batch size (see
    `sample_actions`), except for models without an ordinary attention mask, which `generate` samples.
    Raises InputError for no prompts, a prompt without tokens, and texts that exceed the model's positions.
    """
    if isinstance(prompts, str):
        raise InputError("prompts is one string; allowed: a list of strings or of token ids")
    rows = [p if isinstance(p, list) else [start_token(tokenizer), *tokenize(tokenizer, [p])[0]] for p in prompts]
    if not rows or min(map(len, rows)) == 0:
        raise InputError("there is nothing to continue: no prompts, or a prompt without tokens")
    longest = max(map(len, rows))
    check_positions(model, "max_new_tokens", max_new_tokens, longest)
    backspace_id = getattr(model.config, "backspace_token_id", None)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "logits_processor": sampler.logits_processors()}
    settings |= {"end_id": tokenizer.eos_token_id, "seed": seed, "batch_size": batch_size}
    with tqdm(total=len(rows) * sets, desc="sampling", unit="text", delay=3, mininterval=1) as bar:
        settings["on_finished"] = bar.update
        if backspace_id is not None or _has_rewindable_cache(model, longest + max_new_tokens):
            actions = sample_actions(model, rows * sets, backspace_id=backspace_id, **settings)
        else:
            actions = _generate(model, rows * sets, **settings | {"batch_size": batch_size or 64})
    results = [_decode(model, tokenizer, *pair) for pair in zip(rows * sets, actions, strict=True)]
    return [results[first : first + len(rows)] for first in range(0, len(results), len(rows))]


def _has_rewindable_cache(model, tokens: int) -> bool:
    """Whether `sample_actions` can sample texts of so many tokens. State-space models, for example, cannot go back."""
    with suppress(InputError):
        check_tree_attention(model, max(1, tokens - 4))  # its deepest state has 3 tokens more
        return True
    return False


def _generate(model, prompts, *, max_new_tokens: int, end_id: int, logits_processor, seed, batch_size, on_finished):
    """Token ids after each prompt, by transformers' `generate`. Prompts of one length share a batch: no padding."""
    actions: list[list[int]] = [[] for _ in prompts]
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "logits_processor": logits_processor}
    settings |= {"eos_token_id": end_id, "pad_token_id": end_id, "do_sample": True, "top_k": 0}
    gpus = [model.device] if model.device.type == "cuda" else []
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    # `generate` would apply the model's own settings too (repetition penalty and others)
    plain = mock.patch.object(model, "generation_config", GenerationConfig())
    with inference(model), plain, torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        for length, group in groupby(by_length, key=lambda i: len(prompts[i])):
            group = list(group)
            for first in range(0, len(group), batch_size):
                batch = group[first : first + batch_size]
                ids = torch.tensor([prompts[i] for i in batch], device=model.device)
                found = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, length:].tolist()
                for i, row_actions in zip(batch, found, strict=True):
                    actions[i] = row_actions
                on_finished(len(batch))
    return actions


def _decode(model, tokenizer, prompt: list[int], actions: Sequence[int]) -> Continuation:
    if tokenizer.eos_token_id in actions:
        actions = actions[: actions.index(tokenizer.eos_token_id)]
    backspace_id = getattr(model.config, "backspace_token_id", None)
    context = prompt[1:] if prompt[0] == start_token(tokenizer) else prompt
    written, runs = list(context), []
    for ids, remains in segments(actions, backspace_id):
        runs.append((text_after(tokenizer, written, ids), remains))
        written += ids if remains else []
    text = text_after(tokenizer, context, written[len(context) :])
    return Continuation(text, actions.count(backspace_id), tuple(runs))
