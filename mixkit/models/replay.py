"""The model's own texts while it trains: a buffer of what it has sampled lately, the oldest dropped.
Drawn from by SequenceMatch's loss; nothing here computes one."""

import json
import time
from pathlib import Path

import torch

from mixkit._common import write_atomically
from mixkit.models.backspace_generation import sample_with_backspace
from mixkit.models.on_policy import Backtracking, derive_seed

FILE = "replay.json"


class ReplayBuffer:
    """Action sequences that the model wrote from the start token, <backspace> and end among them.

    Every process of a training on several devices samples the same texts, so nothing is sent between them.
    """

    def __init__(self, asked: Backtracking, *, start_id: int, end_id: int, backspace_id: int, max_tokens: int, seed=0):
        self.asked, self.start_id, self.seed = asked, start_id, seed
        self.sampling = {"end_id": end_id, "backspace_id": backspace_id, "max_new_tokens": max_tokens}
        self.texts: list[tuple[list[int], bool]] = []  # actions, start token included, and whether the text ended
        self.refilled = -1  # step of the last refill
        self.seconds = 0.0  # spent on sampling

    def refill(self, model, step: int) -> None:
        """Samples new texts where none are there or the last came `refill_every` or more steps ago."""
        if self.texts and step < self.refilled + self.asked.refill_every:
            return
        began = time.perf_counter()
        inner = getattr(model, "module", model)  # under DistributedDataParallel
        with torch.autocast(inner.device.type, enabled=False):
            drawn = sample_with_backspace(
                inner, [[self.start_id]] * self.asked.refill_texts, **self.sampling, seed=derive_seed(self.seed, step)
            )
        self.texts = [*self.texts, *(([self.start_id, *t.actions], t.ended) for t in drawn)][-self.asked.buffer_texts :]
        self.refilled = step
        self.seconds += time.perf_counter() - began

    def draw(self, step: int, rows: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """One text for each data row: its actions, and (len(rows),) whether it ended. Which one follows from the step
        and the row's number alone, so it does not matter how a global batch is cut up."""
        drawn = [self.texts[derive_seed(self.seed, step, row) % len(self.texts)] for row in rows]
        return [torch.tensor(actions) for actions, _ in drawn], torch.tensor([ended for _, ended in drawn])

    def save(self, folder: Path) -> None:
        """Into a checkpoint's folder."""
        write_atomically(Path(folder) / FILE, json.dumps({"refilled": self.refilled, "texts": self.texts}))

    def load(self, folder: Path) -> None:
        """Out of a checkpoint's folder; without the file the buffer stays empty, and is filled when it is needed."""
        path = Path(folder) / FILE
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.refilled, self.texts = kept["refilled"], [(actions, ended) for actions, ended in kept["texts"]]
