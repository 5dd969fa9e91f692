"""Texts out: continuations of prompts, several independent sets of them, unbiased unless a sampler is asked for.
Nothing here judges what it samples."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig

from mixkit.errors import InputError
from mixkit.models import start_token


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


def cut_prompts(tokenizer, texts: list[str], *, prompts: int, prompt_tokens: int, max_new_tokens: int) -> list[Prompt]:
    """The first `prompts` texts of more than `prompt_tokens` tokens, cut after them; the rest to `max_new_tokens`."""
    cut = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) > prompt_tokens and len(cut) < prompts:
            head, rest = ids[:prompt_tokens], ids[prompt_tokens : prompt_tokens + max_new_tokens]
            cut.append(Prompt([start_token(tokenizer), *head], tokenizer.decode(head), tokenizer.decode(rest)))
    return cut


@torch.no_grad()
def sample_texts(
    model,
    tokenizer,
    prompts: list[str | list[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler = Sampler(),
    sets: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[str]]:
    """Continuations [sets][len(prompts)]: each text ends at the end token (left out) or after `max_new_tokens`.

    prompts: strings (the start token is put before them) or token ids (taken as they are); prompts of one length share
    a batch, so nothing is padded. The same seed, batch size and machine give the same texts; sets are independent.
    """
    rows = [p if isinstance(p, list) else _ids(tokenizer, p) for p in prompts]
    if not rows or min(map(len, rows)) == 0:
        raise InputError("there is nothing to continue: no prompts, or a prompt without tokens")
    by_length = sorted(range(len(rows) * sets), key=lambda i: len(rows[i % len(rows)]))
    texts: list[list[str]] = [[""] * len(rows) for _ in range(sets)]
    with _plain_generation(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        while by_length:
            length = len(rows[by_length[0] % len(rows)])
            batch = [i for i in by_length[:batch_size] if len(rows[i % len(rows)]) == length]
            by_length = by_length[len(batch) :]
            ids = torch.tensor([rows[i % len(rows)] for i in batch], device=model.device)
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
            for i, row in zip(batch, out[:, length:].tolist(), strict=True):
                end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
                texts[i // len(rows)][i % len(rows)] = tokenizer.decode(row[:end])
    return texts


@contextmanager
def _plain_generation(model):
    """Without the sampling habits that a hub model ships (repetition penalty and such): generate() merges them in."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _ids(tokenizer, prompt: str) -> list[int]:
    return [start_token(tokenizer), *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
