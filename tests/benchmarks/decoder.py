"""What a decoder and T* cost beside plain sampling and plain nll, at GPT-2's shape: python -m tests.benchmarks.decoder

Pairs of a plain and a changed step in turn, medians of the ratios, wall time and CPU time. Nothing is downloaded.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from mixkit import MLE, MixCE, TaiLr, objective
from mixkit.losses.lm_head import logit_chunks
from mixkit.models import ObjectiveDecoder
from mixkit.models.calibration import _token_values
from mixkit.models.head import last_hidden, lm_head

OBJECTIVES = (
    MixCE(0.7),
    MixCE(0.3),
    MixCE(0.1),
    MixCE(0.01),
    TaiLr(0.01, 0.2),
    TaiLr(0.1, 0.0),
    objective("power(0.3)"),
)


def ratios(plain: Callable[[], object], changed: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """Medians over pairs: changed / plain in wall time and in CPU time, and the plain seconds."""
    rows = []
    for _ in range(pairs):
        times = []
        for step in (plain, changed):
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            times += [time.perf_counter() - wall, time.process_time() - cpu]
        rows.append((times[2] / times[0], times[3] / times[1], times[0]))
    wall, cpu, seconds = np.median(rows[1:], axis=0)
    return wall, cpu, seconds


def main(pairs: int, batch: int, texts: int, **sizes: int) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(12)  # the logits of random weights are too even: a next token of probability .3
        prompt = torch.randint(1000, (batch, 32))
        cache = model(prompt, use_cache=True).past_key_values
        token = torch.randint(1000, (batch, 1))

        def sample(decoder: ObjectiveDecoder | None) -> torch.Tensor:
            logits = model(token, past_key_values=cache, use_cache=True).logits[:, -1]
            cache.crop(-1)
            return torch.multinomial((logits if decoder is None else decoder(None, logits)).softmax(-1), 1)

        for loss in (MLE(), *OBJECTIVES):
            decoder = ObjectiveDecoder(loss)
            wall, cpu, seconds = ratios(lambda: sample(None), lambda decoder=decoder: sample(decoder), pairs)
            print(f"sampling step, decode_as {loss!s:32} {wall:.2f} x wall, {cpu:.2f} x CPU; plain {seconds:.3f} s")
        ids = torch.randint(1000, (4, texts))

        def score(grid: bool) -> None:
            hidden = last_hidden(model, ids)[:, :-1].flatten(0, 1)
            targets = ids[:, 1:].flatten()
            for at, logits in logit_chunks(hidden, **vars(lm_head(model))):
                if grid:
                    _token_values(logits, targets[at])
                else:
                    logits.logsumexp(1) - logits.gather(1, targets[at, None])[:, 0]

        wall, cpu, seconds = ratios(lambda: score(False), lambda: score(True), pairs)
        print(
            f"likelihood pass with the grid of V_k and ranks: {wall:.2f} x wall, {cpu:.2f} x CPU; plain {seconds:.3f} s"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    quick = parser.parse_args().quick
    small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 1200}
    main(parser.parse_args().pairs, 4 if quick else 64, 40 if quick else 256, **small if quick else {})
