"""python -m tests.benchmarks.head: time and memory of the LM head and of SequenceMatch, the variants side by side.

Timings on a shared machine are noisy, so compare the medians of one run.
"""

import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mixkit import MLE, MixCE, SequenceMatch, TokenScores, objective, token_scores, weighted_cross_entropy
from mixkit.models.backspace import add_backspace
from mixkit.models.likelihood import collate_groups, encode, group_hidden
from mixkit.models.loading import FUSED_GELU, load_model
from mixkit.models.on_policy import Backtracking, BacktrackingLoss, CorrectionNoiseDataset, ReplayBuffer
from mixkit.models.sampling import sample_actions
from mixkit.texts.corpora import load_corpus
from tests.benchmarks.gpu import OBJECTIVES, model_loss

OBJECTIVE = MixCE(0.1)
WAYS = {
    "logits held": lambda h, w, y: OBJECTIVE(TokenScores.from_logits(h @ w.T, y)),
    "token_scores": lambda h, w, y: OBJECTIVE(token_scores(h, w, y)),
    "weighted_cross_entropy": lambda h, w, y: weighted_cross_entropy(h, w, y, OBJECTIVE),
}


def head(positions: int, width: int, vocabulary: int, rounds: int = 5) -> list[tuple[str, float, float]]:
    """(way, median seconds, extra megabytes) of the MixCE loss and its gradients: hidden (positions, width) in float32,
    output embedding (vocabulary, width). The ways take turns; memory is the peak above the inputs, in a fresh process.
    """
    sizes = (positions, width, vocabulary)
    megabytes = {way: _extra_megabytes(way, *sizes) for way in WAYS}  # first: a child starts at its parent's peak
    hidden, weight, targets = _inputs(*sizes)
    gradients = [
        lambda loss=loss: torch.autograd.grad(loss(hidden, weight, targets), (hidden, weight)) for loss in WAYS.values()
    ]
    seconds, _ = take_turns(rounds, *gradients)
    return list(zip(WAYS, seconds, megabytes.values(), strict=True))


def whole_steps(
    rounds: int = 8, rows: int = 2, tokens: int = 256, names: Sequence[str] = OBJECTIVES, **sizes: int
) -> list[tuple[str, float]]:
    """(way, median of its seconds over those of HF's MLE before and after it): forward, backward, AdamW. No dropout.

    GPT-2 small, or of these `sizes`. HF's model is as transformers loads it, ours is as this kit loads it: with the
    same activation in one kernel.
    """
    shape = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **sizes}
    theirs: Any = GPT2LMHeadModel(GPT2Config(**shape)).train()
    ours: Any = GPT2LMHeadModel(GPT2Config(**shape, activation_function=FUSED_GELU)).train()
    ids = torch.randint(theirs.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0))
    batch = collate_groups(ids.tolist())

    optimizers = {model: torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True) for model in (theirs, ours)}

    def step(model, loss: Any = None) -> float:
        began = time.perf_counter()
        model_loss(model, ids, batch, loss).backward()
        optimizers[model].step()
        optimizers[model].zero_grad()
        return time.perf_counter() - began

    ways = {name: partial(step, ours, objective(name)) for name in names}
    ways["HF's MLE, the kit's model"] = partial(step, ours)
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    for measured in range(rounds + 1):
        for way, run in ways.items():
            before, taken, after = step(theirs), run(), step(theirs)
            if measured:  # not the first time
                ratios[way].append(2 * taken / (before + after))
    return [(way, statistics.median(found)) for way, found in ratios.items()]


def steps(rounds: int = 8, texts: int = 8, max_tokens: int = 160) -> list[tuple[str, float]]:
    """(what, median seconds) of the loss and its gradients on `tiny` and tales, on the same texts: MLE; MLE with
    <backspace>; SequenceMatch, with as many texts again for the model's own, sampling left out. They take turns.
    """
    model, _, data, replay = _practice(texts * rounds, max_tokens)
    losses = {
        "MLE with backspace": BacktrackingLoss(MLE(), replay, 1),
        "SequenceMatch": BacktrackingLoss(SequenceMatch(), replay, 1),
    }
    seconds: dict[str, list[float]] = {"MLE": [], **{way: [] for way in losses}}
    for first in range(0, texts * rounds, texts):
        plain = collate_groups(data.rows[first : first + texts])
        batch = data.collate([data[i] for i in range(first, first + texts)])
        began = time.perf_counter()
        hidden, weight = group_hidden(model, plain), model.get_output_embeddings().weight
        weighted_cross_entropy(hidden, weight, plain["targets"], MLE()).backward()
        seconds["MLE"].append(time.perf_counter() - began)
        for way, loss in losses.items():
            began = time.perf_counter()
            tokens, discounted = batch["num_targets"], SequenceMatch().steps(batch["tree"]["actions"])
            loss(model, batch, 1, tokens=tokens, discounted=discounted)[0].backward()
            seconds[way].append(time.perf_counter() - began)
    return [(way, statistics.median(found)) for way, found in seconds.items()]


def sampling(rounds: int = 3, texts: int = 32, max_new_tokens: int = 100) -> list[tuple[str, float]]:
    """(what, median seconds a step) of one loop without and with <backspace>, which this model draws one time in 20."""
    model, tokenizer, *_ = _practice(1, 8)
    head = torch.nn.Linear(*model.lm_head.weight.shape[::-1])
    head.weight, head.bias.data[:] = model.lm_head.weight, 0.0
    head.bias.data[model.config.backspace_token_id] = math.log(0.05 * len(tokenizer))
    model.set_output_embeddings(head)
    seconds: dict[str, list[float]] = {"without <backspace>": [], "with <backspace>": []}
    for seed in range(rounds):
        for way, found in seconds.items():
            began = time.perf_counter()
            drawn = sample_actions(
                model,
                [[tokenizer.bos_token_id]] * texts,
                backspace_id=model.config.backspace_token_id if way.startswith("with ") else None,
                end_id=None,
                max_new_tokens=max_new_tokens,
                seed=seed,
            )
            found.append((time.perf_counter() - began) / max(map(len, drawn)))
    return [(way, statistics.median(found)) for way, found in seconds.items()]


def take_turns(rounds: int, *ways: Callable[[], object]) -> tuple[list[float], list]:
    """Median seconds of each way after a first call, and what that call gave."""
    found, seconds = [way() for way in ways], [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way()
            taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds], found


def _practice(texts: int, max_tokens: int):
    """`tiny` from a random start that knows <backspace>, corrected tales, and a buffer of its own texts."""
    words = load_corpus("tales", train=max(texts, 500), validation=1, test=1).train
    model, tokenizer = load_model("tiny", texts=words)
    add_backspace(model, tokenizer)
    rows = encode(tokenizer, words[:texts], max_tokens)
    data = CorrectionNoiseDataset(rows, 0.03, tokenizer)
    asked = Backtracking(mle_warmup=0, mle_decay=0)
    replay = ReplayBuffer(asked, tokenizer, max_tokens=max_tokens)
    # the data's texts stand for the model's own, of their length: a random start would write on to the cut
    replay.texts, replay.next_refill = rows, 2  # the steps are 1
    return model, tokenizer, data, replay


def _inputs(positions: int, width: int, vocabulary: int):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator).requires_grad_()
    weight = (0.02 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (positions,), generator=generator)


def _extra_megabytes(way: str, *sizes: int) -> float:
    code = f"from tests.benchmarks import head; print(head._peak({way!r}, *{sizes}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _peak(way: str, *sizes: int) -> float:
    inputs = _inputs(*sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.autograd.grad(WAYS[way](*inputs), inputs[:2])
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Prints the table for GPT-2's head, and those of SequenceMatch's steps."""
    sizes = (2048, 768, 50257)
    print(
        f"MixCE loss and gradients, {sizes[0]} positions x {sizes[1]} -> {sizes[2]}, float32, "
        f"{torch.get_num_threads()} threads"
    )
    rows = head(*sizes)
    for way, seconds, megabytes in rows:
        print(f"{way:24} {seconds:6.2f} s  {seconds / rows[0][1]:5.2f} x  {megabytes:6.0f} MB")
    print("\na training step of GPT-2 small, 2 x 256, over HF's MLE step")
    for way, ratio in whole_steps():
        print(f"{way:28} {ratio:5.2f} x")
    for title, rows in (("a training step of tiny on 8 tales", steps()), ("a step of sampling 32 texts", sampling())):
        print(f"\n{title}")
        for way, seconds in rows:
            print(f"{way:24} {1000 * seconds:6.1f} ms {seconds / rows[0][1]:5.2f} x")


if __name__ == "__main__":
    main()
