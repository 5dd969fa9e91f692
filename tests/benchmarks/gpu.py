"""python -m tests.benchmarks.gpu [--cpu] [--quick]: training, sampling and reading at GPT-2's shape, with a table.

Random weights: nothing is downloaded. On a GPU in bfloat16 where the card has it. --cpu leaves out what needs CUDA.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

from mixkit.losses.lm_head import weighted_cross_entropy_and_nll
from mixkit.losses.objectives import objective
from mixkit.metrics.features import Reader
from mixkit.metrics.quality import mauve_of_features
from mixkit.models.calibration import held_out
from mixkit.models.generation import sample_continuations
from mixkit.models.head import lm_head
from mixkit.models.likelihood import collate_groups, group_hidden
from mixkit.models.loading import FUSED_GELU, autocast, build_gpt2, default_device, device_name, has_bf16
from mixkit.models.sampling import sample_actions
from mixkit.models.trainer import finetune
from mixkit.studies.plan import load_study
from mixkit.texts.corpora import load_corpus

OBJECTIVES = ("mle", "mixce(0.3)", "tailr(0.1, 0.2)", "focal", "power(0.3)", "gem", "error-norm", "threshold")
SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300, "n_positions": 64}
LARGE_READER = {"n_embd": 1280, "n_layer": 36, "n_head": 20}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12}  # dense bfloat16 or fp16


def seconds_of(step: Callable[[], object], rounds: int) -> float:
    """Median seconds of a step after a first call. The device has finished before and after each."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    taken = []
    for _ in range(rounds + 1):
        wait()
        began = time.perf_counter()
        step()
        wait()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def model_loss(model, ids: torch.Tensor, batch: dict[str, Any], loss: Any) -> torch.Tensor:
    """HF's loss of the model where `loss` is None, else the kit's with this objective. batch: of the same ids."""
    if loss is None:
        return model(ids, labels=ids).loss
    how = {"objective": loss, **vars(lm_head(model))}
    return weighted_cross_entropy_and_nll(group_hidden(model, batch), targets=batch["targets"], **how)[0]


def training(
    shape: dict[str, Any], device: torch.device, rows: int, tokens: int, rounds: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """HF's MLE step and the step of every objective: forward, backward, clipping and AdamW.

    compiled: HF's step and one of ours also with torch.compile.
    HF's model is as transformers loads GPT-2, ours is as this kit loads it: with the same activation in one kernel.
    """
    ids = torch.randint(shape["vocab_size"], (rows, tokens + 1), generator=torch.Generator().manual_seed(0))
    batch = collate_groups(ids.tolist())
    batch = {name: part.to(device) if isinstance(part, torch.Tensor) else part for name, part in batch.items()}
    ids = ids.to(device)

    def step(model, optimizer, loss: Any) -> None:
        with autocast(model):
            value = model_loss(model, ids, batch, loss)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    ways = {"HF": None, **{name: objective(name) for name in OBJECTIVES}}
    ways |= {f"{way}, compiled": ways[way] for way in ("HF", "mixce(0.3)") if compiled}
    for way, loss in ways.items():
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        activation = {} if loss is None else {"activation_function": FUSED_GELU}
        with device:
            model: Any = GPT2LMHeadModel(GPT2Config(**shape, **activation)).train()
        if way.endswith("compiled"):
            model.compile()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        seconds = seconds_of(lambda m=model, o=optimizer, loss=loss: step(m, o, loss), rounds)
        row = {"what": f"training {rows} x {tokens}", "way": way, "tokens_per_second": rows * tokens / seconds}
        if device.type == "cuda":
            row["gigabytes"] = torch.cuda.max_memory_allocated() / 2**30
        if peak := next((flops for card, flops in PEAKS.items() if card in device_name()), None):
            row["mfu"] = flops_per_token(model, tokens) * row["tokens_per_second"] / peak
        del model, optimizer  # their memory is not the next way's
        yield row


def flops_per_token(model, tokens: int) -> float:
    """Of forward and backward: 6 for each weight of a matrix product, and 12 L D T of attention."""
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if "wpe" not in name)  # wte is the head
    return 6.0 * weights + 12.0 * config.n_layer * config.n_embd * tokens


def sampling(model, sizes: list[int], prompt: int, new_tokens: int) -> Iterator[dict[str, Any]]:
    """Sampled tokens per second of generate, of transformers' continuous batching and of our loop."""
    device = model.device

    def row(way: str, texts: int, run: Callable[[], object]) -> dict[str, Any]:
        try:
            with torch.no_grad(), autocast(model):
                tokens = texts * new_tokens / seconds_of(run, 1)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            return {"what": "sampling", "way": f"{way}, {texts} rows", "error": " ".join(str(error).split())[:100]}
        return {"what": "sampling", "way": f"{way}, {texts} rows", "tokens_per_second": tokens}

    options: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": new_tokens, "pad_token_id": 0}
    options |= {"eos_token_id": None}
    ids = torch.randint(1, model.config.vocab_size, (sizes[0], prompt)).to(device)
    yield row("generate, dynamic cache", sizes[0], lambda: model.generate(ids, **options))
    if device.type == "cuda":
        static = options | {"cache_implementation": "static"}
        yield row("generate, static cache, compiled", sizes[0], lambda: model.generate(ids, **static))
        config = transformers.GenerationConfig(**options)
        many = ids[:1].repeat(sizes[-1], 1).tolist()
        yield row("generate_batch", sizes[-1], lambda: model.generate_batch(many, generation_config=config))
    settings: dict[str, Any] = {"backspace_id": None, "end_id": None, "max_new_tokens": new_tokens}
    for texts in sizes:
        prompts = [[1] * prompt] * texts
        yield row(
            "ours", texts, lambda prompts=prompts: sample_actions(model, prompts, **settings, batch_size=len(prompts))
        )


def reading(model, rows: int, tokens: int) -> dict[str, Any]:
    """Texts per second of a reader: the hidden states without a head."""
    ids = torch.ones(rows, tokens, dtype=torch.long, device=model.device)
    with torch.no_grad(), autocast(model):
        seconds = seconds_of(lambda: model.base_model(input_ids=ids, use_cache=False), 2)
    return {"what": "reading", "way": f"{rows} x {tokens}", "texts_per_second": rows / seconds}


def whole_run(shape: dict[str, Any], reader, *, texts: int, samples: int, tokens: int, new_tokens: int):
    """Seconds of each phase of one run: one epoch of `texts` texts, and `samples` samples. shape: of the model."""
    tales = load_corpus("tales", train=4 * texts, validation=100, test=4 * samples)
    long_texts, test = ([" ".join(some[i::4]) for i in range(len(some) // 4)] for some in (tales.train, tales.test))
    vocabulary, sizes = shape["vocab_size"], {name: size for name, size in shape.items() if name != "vocab_size"}
    model, tokenizer = build_gpt2(long_texts, vocabulary, **sizes)
    model.resize_token_embeddings(vocabulary)  # tales have fewer
    model, seconds = model.to(reader.model.device), {}

    def timed(phase: str, step: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = step()
        seconds[phase] = time.perf_counter() - began
        return result

    settings: dict[str, Any] = {"evaluations": 1, "max_tokens": tokens, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        train = partial(finetune, model, tokenizer, objective("mixce(0.3)"), long_texts, test[:50], folder=folder)
        timed("train", lambda: train(epochs=1.0, **settings))
    timed("held-out texts", lambda: held_out(model, tokenizer, test, max_tokens=tokens))
    prompts = [[tokenizer.eos_token_id] * (tokens - new_tokens)] * samples
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "seed": 0}
    (written,) = timed("sample", lambda: sample_continuations(model, tokenizer, prompts, **options))
    reader = Reader("random weights", reader.model, tokenizer, cache=None)
    both = [*test, *(f"{text.text} end" for text in written)]
    features = timed("read", lambda: reader.features(both, tokens))
    with warnings.catch_warnings(action="ignore"):  # few texts
        timed("MAUVE", lambda: mauve_of_features(features[: len(test)], features[len(test) :]))
    return seconds


def study_hours(phases: dict[str, float], texts: int, samples: int) -> float:
    """Hours of gpt2.yaml, from the phases of a run with so many training texts and samples."""
    study = load_study("gpt2")
    config = study.runs[0].config
    trained = sum(run.role == "grid" for run in study.runs)
    sampled = len(study.runs) * config.sample_sets * config.prompts / samples
    steps = trained * config.epochs * (config.train_texts or 0) / texts
    per_run = len(study.runs) * (config.test_texts or 0) / samples * phases["held-out texts"]
    by_samples = sampled * (phases["sample"] + phases["read"] + phases["MAUVE"])
    return (steps * phases["train"] + per_run + by_samples) / 3600


def measure(quick: bool, cpu: bool) -> dict[str, Any]:
    """All rows, the projected hours of the study, and the machine."""
    device = torch.device("cpu") if cpu else default_device()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "vocab_size": 50257}
    sizes |= SMALL if quick else {}
    rows: list[dict[str, Any]] = []
    if quick:
        rows += training(sizes, device, 4, 32, rounds=1, compiled=device.type == "cuda")
    else:
        rows += training(sizes, device, 64, 512, rounds=5, compiled=device.type == "cuda")
        rows += training(sizes, device, 16, 1023, rounds=3, compiled=False)
    with device:
        model: Any = GPT2LMHeadModel(GPT2Config(**sizes, activation_function=FUSED_GELU)).eval()
    rows += sampling(model, [4, 8] if quick else [64, 256, 1024, 2048], 8 if quick else 50, 8 if quick else 200)
    large: dict[str, Any] = sizes | ({} if quick else LARGE_READER)
    reader: Any = GPT2LMHeadModel(GPT2Config(**large))
    reader = Reader("random weights", reader.to(device).eval(), None, cache=None)
    rows.append(reading(reader.model, *((4, 32) if quick else (64, 512))))
    size = {"texts": 16, "samples": 100, "tokens": 48, "new_tokens": 8}
    if not quick:
        size = {"texts": 5000, "samples": 1500, "tokens": 512, "new_tokens": 462}
    shape = {"vocab_size": 50257, **(SMALL if quick else {})}
    phases = whole_run(shape, reader, **size)
    rows += [{"what": "a run of gpt2.yaml, a tenth", "way": way, "seconds": taken} for way, taken in phases.items()]
    machine = {"device": device_name() if device.type == "cuda" else "CPU", "bf16": has_bf16() and not cpu}
    machine |= {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**machine, "quick": quick, "study_hours": study_hours(phases, size["texts"], size["samples"]), "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The rows in Markdown."""
    columns = ("what", "way", "tokens_per_second", "texts_per_second", "seconds", "mfu", "gigabytes", "error")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    for row in found["rows"]:
        cells = [row.get(name, "") for name in columns]
        lines.append(" | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    options = parser.parse_args()
    found = measure(options.quick, options.cpu)
    print(table(found), f"\nthe study: {found['study_hours']:.1f} hours on {found['device']}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1))
        (options.out / "gpu.md").write_text(table(found))


if __name__ == "__main__":
    main()
