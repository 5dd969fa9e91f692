"""How a model learns to take tokens back: corrected texts, and the loss over them and the model's own.
Its settings, sampling, and the trainer that all this runs in live elsewhere."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from mixkit._common import InputError
from mixkit.losses.sequence_match import MLEWeightSchedule, SequenceMatch
from mixkit.models.backspace import ActionScores, add_correction_noise, prefix_tree, score_actions
from mixkit.models.likelihood import IGNORED


@dataclass(frozen=True)
class Backtracking:
    """What SequenceMatch needs beside its objective; MLE that learns <backspace> takes the noise rate alone.

    noise_rate in [0, 0.5]: wrong tokens spliced in, each with its <backspace>, per position of a text; 0 leaves the
    texts as they are, and teaches little. mle_alone, mle_fall, mle_floor in [0, 1]: MLE alone for a share of the steps;
    then, over another share, its part of the loss falls to the floor. buffer_texts: how many of the model's own texts
    are kept, the oldest dropped; every `refill_every` steps `refill_texts` new ones are sampled.
    """

    noise_rate: float = 0.02
    mle_warmup: float = 0.2
    mle_decay: float = 0.3
    mle_minimum: float = 0.2
    buffer_texts: int = 128
    refill_texts: int = 32
    refill_every: int = 10

    def __post_init__(self):
        ranges = {"noise_rate": (0, 0.5), "mle_warmup": (0, 1), "mle_decay": (0, 1), "mle_minimum": (0, 1)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be in [{low}, {high}]")
        for name in ("buffer_texts", "refill_texts", "refill_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be at least 1")


def derive_seed(*parts: int) -> int:
    """A seed that follows from these numbers alone: a run that resumes, or is cut up otherwise, draws the same."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class CorrectionNoiseDataset(torch.utils.data.Dataset):
    """Encoded texts with correction noise, drawn anew in every `epoch`: item i is (i, actions, labels, ended).

    rows: [start, tokens ..., end or not]. labels: False at the start and at wrong tokens.
    """

    def __init__(self, rows, rate: float, *, vocabulary: int, backspace_id: int, end_id: int, never=(), seed: int = 0):
        self.rows, self.rate, self.end_id, self.seed, self.epoch = rows, rate, end_id, seed, 0
        self.drawn = {"vocabulary": vocabulary, "backspace_id": backspace_id, "never": never}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, i))
        row = torch.tensor(self.rows[i])
        actions, labels = add_correction_noise(row[1:], self.rate, generator=generator, **self.drawn)
        return (
            i,
            torch.cat([row[:1], actions]),
            torch.cat([labels.new_zeros(1), labels]),
            self.rows[i][-1] == self.end_id,
        )


def collate_actions(items) -> dict[str, torch.Tensor]:
    """Items of CorrectedTexts padded on the right: input_ids, attention_mask, labels, each (B, T); rows, ended (B,).

    labels are -100 where nothing is learned: at padding, at the start and at wrong tokens.
    """
    rows, actions, learned, ended = zip(*items, strict=True)
    mask = pad_sequence([torch.ones_like(a) for a in actions], batch_first=True)
    input_ids = pad_sequence(list(actions), batch_first=True)
    labels = input_ids.where(pad_sequence(list(learned), batch_first=True), IGNORED)
    parts = {"rows": torch.tensor(rows), "ended": torch.tensor(ended)}
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, **parts}


class BacktrackingLoss:
    """share * MLE + (1 - share) * SequenceMatch over action sequences, both in nats per token of the global batch.

    objective: SequenceMatch, or MLE, whose share is 1 throughout. replay: the model's own texts, `Replay`. steps: the
    training's, which the schedule divides.
    """

    def __init__(self, objective, asked: Backtracking, replay, steps: int, backspace_id: int):
        self.objective, self.replay, self.backspace_id = objective, replay, backspace_id
        self.share = MLEWeightSchedule(0, 0, 1.0)
        if isinstance(objective, SequenceMatch):
            self.share = MLEWeightSchedule(
                round(asked.mle_warmup * steps), round(asked.mle_decay * steps), asked.mle_minimum
            )

    def discounted(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """SequenceMatch's denominator: the batch's discounted tokens, which add up over batches and devices."""
        mask = batch["attention_mask"][:, 1:]
        return self.objective.steps(mask) if isinstance(self.objective, SequenceMatch) else mask.sum()

    def __call__(self, model, batch: dict[str, torch.Tensor], step: int, *, tokens, discounted):
        """(loss, nll of the labelled actions), scalars, at optimizer step `step`; the nll is detached.

        batch: of collate_actions. tokens, discounted: labelled actions and discounted tokens of the global batch. There
        are as many of the model's own texts as of data; each side is one forward pass, padded to its own longest row.
        """
        share, learned = self.share(step), batch["labels"] != IGNORED
        data = self._score(model, batch["input_ids"], batch["attention_mask"])
        nll = data.scores.nll[learned].sum() / tokens
        if share == 1:
            return nll, nll.detach()
        self.replay.refill(model, step)
        own, own_ended = self.replay.draw(step, batch["rows"].tolist())
        ids, mask = (pad_sequence(x, batch_first=True) for x in (own, [torch.ones_like(x) for x in own]))
        played = self._score(model, ids.to(nll.device), mask)
        matched = self.objective(
            data.scores,
            data.following,
            played.scores,
            played.following,
            data_mask=data.mask,
            data_labels=learned,
            data_ended=batch["ended"],
            model_mask=played.mask,
            model_ended=own_ended.to(nll.device),
            denominator=discounted,
        )
        return share * nll + (1 - share) * matched, nll.detach()

    def _score(self, model, ids: torch.Tensor, mask: torch.Tensor) -> ActionScores:
        return score_actions(model, prefix_tree(ids, self.backspace_id, mask=mask))
