"""Training with <backspace>: texts with correction noise, the replay buffer of model samples, the loss over both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.trainer_callback import ExportableState, TrainerCallback

from mixkit._common import Bool, Float
from mixkit.losses.definitions import COEFFICIENTS
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import MLE
from mixkit.models.backspace import BACKSPACE, PrefixTree, add_correction_noise, prefix_tree, score_actions
from mixkit.models.likelihood import collate_groups
from mixkit.models.loading import start_token, unwrapped
from mixkit.models.sampling import sample_actions

DEFAULTS: dict[str, Any] = {name: coefficient.default for name, coefficient in COEFFICIENTS.items()}


@dataclass(frozen=True)
class Backtracking:
    """Settings of training with <backspace>; their meanings and ranges are those of losses.definitions.COEFFICIENTS.

    SequenceMatch uses all of them, MLE only the noise rate. Raises InputError (a ValueError) for a value out of range.
    """

    noise_rate: float = DEFAULTS["noise_rate"]
    mle_warmup: float = DEFAULTS["mle_warmup"]
    mle_decay: float = DEFAULTS["mle_decay"]
    mle_minimum: float = DEFAULTS["mle_minimum"]
    buffer_texts: int = DEFAULTS["buffer_texts"]
    refill_texts: int = DEFAULTS["refill_texts"]
    refill_every: int = DEFAULTS["refill_every"]

    def __post_init__(self):
        for name, value in vars(self).items():
            COEFFICIENTS[name].check(value)


def derive_seed(*parts: int) -> int:
    """A seed in [0, 2**63) that depends on these numbers alone, so that a resumed run draws the same numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class CorrectionNoiseDataset(torch.utils.data.Dataset, TrainerCallback):
    """Encoded texts with correction noise. Item i is (i, actions, labels). As a callback it has new noise each epoch.

    rows: [start, tokens ..., end or not]. labels: False at the start and at wrong tokens. tokenizer: with <backspace>.
    """

    def __init__(self, rows: list[list[int]], rate: float, tokenizer, *, seed: int = 0):
        self.rows, self.rate, self.seed, self.epoch = rows, rate, seed, 0
        self.backspace_id: int = tokenizer.convert_tokens_to_ids(BACKSPACE)
        special_ids = tokenizer.all_special_ids  # <backspace> is one of them
        self.candidates = torch.tensor([i for i in range(len(tokenizer)) if i not in special_ids])

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch = int((state.epoch or 0) + 1e-6)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        row = torch.tensor(self.rows[i])
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, i))
        ids = {"candidates": self.candidates, "backspace_id": self.backspace_id}
        actions, labels = add_correction_noise(row[1:], self.rate, generator=generator, **ids)
        return i, torch.cat([row[:1], actions]), torch.cat([labels.new_zeros(1), labels])

    def collate(self, items) -> dict[str, Any]:
        """A batch of B items, padded to T positions. Plain rows, of an evaluation: as `collate_groups`.

        tree: the fields of the prefix tree. learned (B, T): False where nothing is learned: at padding, at the start
        token and at wrong tokens. num_targets, num_actions: learned ones and all. rows: the numbers of the texts.
        """
        if isinstance(items[0], list):
            return collate_groups(items)
        rows, actions, labels = zip(*items, strict=True)
        tree, learned = prefix_tree(actions, self.backspace_id), pad_sequence(list(labels), batch_first=True)
        counts = {"num_targets": int(learned.sum()), "num_actions": int(tree.actions.sum())}
        return counts | {"tree": vars(tree), "learned": learned, "rows": list(rows)}


class ReplayBuffer(TrainerCallback, ExportableState):
    """The latest `buffer_texts` action sequences that the model sampled from the start token. Part of a checkpoint.

    Each process of a training on several devices samples the same texts, so that the processes exchange none.
    """

    def __init__(self, settings: Backtracking, tokenizer, *, max_tokens: int, seed: int = 0):
        self.settings, self.max_tokens, self.seed = settings, max_tokens, seed
        self.start_id, self.end_id = start_token(tokenizer), tokenizer.eos_token_id
        self.backspace_id: int = tokenizer.convert_tokens_to_ids(BACKSPACE)
        self.texts: list[list[int]] = []  # actions after the start token, which is the first id
        self.next_refill = 0  # optimizer step

    def refill(self, model, step: int) -> None:
        limits = {"backspace_id": self.backspace_id, "end_id": self.end_id, "max_new_tokens": self.max_tokens}
        prompts = [[self.start_id]] * self.settings.refill_texts
        found = sample_actions(unwrapped(model), prompts, **limits, seed=derive_seed(self.seed, step))
        new_texts = [[self.start_id, *actions] for actions in found]
        self.texts = [*self.texts, *new_texts][-self.settings.buffer_texts :]
        self.next_refill = step + self.settings.refill_every

    def sample(self, step: int, rows: list[int]) -> list[list[int]]:
        """One text for each data row. The choice depends on step and row number alone, not on the batches."""
        return [self.texts[derive_seed(self.seed, step, row) % len(self.texts)] for row in rows]

    def state(self) -> dict[str, dict[str, Any]]:
        return {"args": {}, "attributes": {"next_refill": self.next_refill, "texts": self.texts}}


class BacktrackingLoss:
    """share * MLE + (1 - share) * SequenceMatch over action sequences, both in nats per token of the global batch.

    objective: SequenceMatch, or MLE alone. steps: optimizer steps of the whole training.
    """

    def __init__(self, objective: MLE | SequenceMatch, replay: ReplayBuffer, steps: int):
        self.objective, self.replay, self.steps = objective, replay, steps

    def share(self, step: int) -> float:
        """The weight of MLE at optimizer step `step`: 1 at first, then it falls in a straight line to its minimum."""
        settings = self.replay.settings
        warmup, decay = round(settings.mle_warmup * self.steps), round(settings.mle_decay * self.steps)
        return float(np.interp(step, (warmup, warmup + decay), (1, settings.mle_minimum)))

    def __call__(
        self, model, batch: Mapping[str, Any], step: int, *, tokens, discounted
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """(loss, nll of the labelled actions) at optimizer step `step`; the nll is detached.

        batch: from CorrectionNoiseDataset.collate. tokens, discounted: of the global batch, the number of labelled
        actions and the sum of SequenceMatch's `steps`. The model samples are as many as the data texts. Each side is
        one forward pass with its own padding.
        """
        share, learned, data = self.share(step), batch["learned"], PrefixTree(**batch["tree"])
        data_scores, data_next = score_actions(model, data)
        nll = torch.where(learned, data_scores.nll, 0).sum() / tokens
        if isinstance(self.objective, MLE) or share == 1:
            return nll, nll.detach()
        if step >= self.replay.next_refill:
            if not nll.isfinite():  # a diverged model cannot be sampled
                return nll, nll.detach()
            self.replay.refill(model, step)
        tree = vars(prefix_tree(self.replay.sample(step, batch["rows"]), self.replay.backspace_id))
        samples = PrefixTree(**{name: part.to(nll.device, non_blocking=True) for name, part in tree.items()})
        masks = {"data_mask": data.actions, "data_labels": learned, "model_mask": samples.actions}
        ended = {"data_ended": self._ended(data), "model_ended": self._ended(samples)}
        values = (data_scores, data_next, *score_actions(model, samples))
        sequence_match = self.objective(*values, **masks, **ended, denominator=discounted)
        return share * nll + (1 - share) * sequence_match, nll.detach()

    def _ended(self, tree: PrefixTree) -> Bool[Tensor, " B"]:
        """True where the last action is the end token."""
        return tree.ids.gather(1, tree.actions.sum(1, keepdim=True))[:, 0] == self.replay.end_id
