"""python -m mixkit bench: what the vocabulary head costs, each way beside the others in one run.
Timings on a shared machine are noisy: read the ratios of the medians."""

import resource
import statistics
import subprocess
import sys
import time

import torch

from mixkit import MixCE, TokenScores, token_scores, weighted_cross_entropy

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
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, loss in WAYS.items():
            began = time.perf_counter()
            torch.autograd.grad(loss(hidden, weight, targets), (hidden, weight))
            seconds[way].append(time.perf_counter() - began)
    return [(way, statistics.median(seconds[way]), megabytes[way]) for way in WAYS]


def _inputs(positions: int, width: int, vocabulary: int):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator).requires_grad_()
    weight = (0.02 * torch.randn(vocabulary, width, generator=generator)).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (positions,), generator=generator)


def _extra_megabytes(way: str, *sizes: int) -> float:
    code = f"from mixkit import bench; print(bench._peak({way!r}, *{sizes}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _peak(way: str, *sizes: int) -> float:
    inputs = _inputs(*sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.autograd.grad(WAYS[way](*inputs), inputs[:2])
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Prints the table for GPT-2's head."""
    sizes = (2048, 768, 50257)
    print(
        f"MixCE loss and gradients, {sizes[0]} positions x {sizes[1]} -> {sizes[2]}, float32, "
        f"{torch.get_num_threads()} threads"
    )
    rows = head(*sizes)
    for way, seconds, megabytes in rows:
        print(f"{way:24} {seconds:6.2f} s  {seconds / rows[0][1]:5.2f} x  {megabytes:6.0f} MB")
