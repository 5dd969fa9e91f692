"""Texts out: continuations of prompts, several independent sets of them, unbiased unless a sampler is asked for.
Nothing here judges what it samples."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from mixkit._common import InputError
from mixkit.models.backspace import segments
from mixkit.models.backspace_generation import Trajectory, sample_with_backspace
from mixkit.models.loading import check_positions, start_token


@dataclass(frozen=True)
class Sampler:
    """How the next token is drawn from the model's distribution; the defaults draw from it as it is.

    temperature > 0 divides the logits: 1 leaves them, towards 0 only the likeliest token remains. top_p in (0, 1]
    keeps the likeliest tokens that together reach top_p: 1 keeps all. top_k >= 0 keeps the k likeliest: 0 keeps all.
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


@dataclass(frozen=True)
class Prompt:
    """A text cut in two: the prompt's token ids (start token included), the prompt, and how the human went on."""

    ids: list[int]
    text: str
    human: str


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt: the text that it left, how many tokens it took back, and everything that it
    wrote, in runs: (text, whether it was left standing)."""

    text: str
    num_deleted: int = 0
    segments: tuple[tuple[str, bool], ...] = ()


def cut_prompts(tokenizer, texts: list[str], *, prompts: int, prompt_tokens: int, max_new_tokens: int) -> list[Prompt]:
    """The first `prompts` texts of more than `prompt_tokens` tokens, cut after them; the rest to `max_new_tokens`."""
    cut = []
    for text in texts:
        ids = _tokens(tokenizer, text)
        if len(ids) > prompt_tokens and len(cut) < prompts:
            head, rest = ids[:prompt_tokens], ids[prompt_tokens : prompt_tokens + max_new_tokens]
            cut.append(Prompt([start_token(tokenizer), *head], tokenizer.decode(head), tokenizer.decode(rest)))
    return cut


def sample_texts(model, tokenizer, prompts: list[str | list[int]], **asked) -> list[list[str]]:
    """equals: [[c.text for c in one_set] for one_set in sample_continuations(model, tokenizer, prompts, **asked)]"""
    return [[c.text for c in one_set] for one_set in sample_continuations(model, tokenizer, prompts, **asked)]


@torch.no_grad()
def sample_continuations(
    model,
    tokenizer,
    prompts: list[str | list[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler = Sampler(),
    sets: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[Continuation]]:
    """Continuations [sets][len(prompts)]: each text ends at the end token (left out) or after `max_new_tokens`.

    prompts: strings (the start token is put before them) or token ids (taken as they are); prompts of one length share
    a batch, so nothing is padded. A model that knows <backspace> takes tokens back, within 2 max_new_tokens steps.
    The same seed, batch size and machine give the same texts; sets are independent.
    Raises InputError where there are no prompts, one has no tokens, or prompt and continuation exceed the model's
    positions.
    """
    rows = [p if isinstance(p, list) else [start_token(tokenizer), *_tokens(tokenizer, p)] for p in prompts]
    if not rows or min(map(len, rows)) == 0:
        raise InputError("there is nothing to continue: no prompts, or a prompt without tokens")
    check_positions(model, "max_new_tokens", max_new_tokens, max(map(len, rows)))
    backspace_id, end_id = getattr(model.config, "backspace_token_id", None), tokenizer.eos_token_id
    by_length = sorted(range(len(rows) * sets), key=lambda i: len(rows[i % len(rows)]))
    drawn = [[Continuation("")] * len(rows) for _ in range(sets)]
    with _plain_generation(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        while by_length:
            length = len(rows[by_length[0] % len(rows)])
            batch = [i for i in by_length[:batch_size] if len(rows[i % len(rows)]) == length]
            by_length = by_length[len(batch) :]
            ids = [rows[i % len(rows)] for i in batch]
            if backspace_id is None:
                found = _generated(model, tokenizer, ids, sampler, max_new_tokens)
            else:
                asked = {"backspace_id": backspace_id, "end_id": end_id, "max_new_tokens": max_new_tokens}
                batch_seed = int(torch.randint(2**62, ()))
                trajectories = sample_with_backspace(model, ids, **asked, **vars(sampler), seed=batch_seed)
                found = [_continuation(tokenizer, t, backspace_id) for t in trajectories]
            for i, continuation in zip(batch, found, strict=True):
                drawn[i // len(rows)][i % len(rows)] = continuation
    return drawn


def _generated(model, tokenizer, prompts: list[list[int]], sampler: Sampler, max_new_tokens: int) -> list[Continuation]:
    """By transformers' own loop."""
    ids = torch.tensor(prompts, device=model.device)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=True,
        temperature=float(sampler.temperature),
        top_p=float(sampler.top_p),
        top_k=int(sampler.top_k),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    texts = (tokenizer.decode(_before(tokenizer.eos_token_id, row)) for row in out[:, ids.shape[1] :].tolist())
    return [Continuation(text, 0, ((text, True),)) for text in texts]


def _continuation(tokenizer, trajectory: Trajectory, backspace_id: int) -> Continuation:
    end = tokenizer.eos_token_id
    runs = segments(_before(end, trajectory.actions), backspace_id)
    shown = tuple((tokenizer.decode(ids), stands) for ids, stands in runs)
    return Continuation(tokenizer.decode(_before(end, trajectory.text)), trajectory.num_deleted, shown)


def _before(end_id: int, ids: list[int]) -> list[int]:
    return ids[: ids.index(end_id)] if end_id in ids else ids


@contextmanager
def _plain_generation(model):
    """Without the sampling habits that a hub model ships (repetition penalty and such): generate() merges them in."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _tokens(tokenizer, text: str) -> list[int]:
    """Its token ids; a special token that the text spells out, <backspace> among them, counts as letters."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
