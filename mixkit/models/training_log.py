"""The record of a training: training.jsonl, kept equal to the trainer's own history, and a progress bar.
Nothing here trains."""

import json
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback


class TrainingLog(TrainerCallback):
    """Keeps training.jsonl equal to the trainer's own history (resumed parts included) and shows a progress bar."""

    def __init__(self, path: Path, progress: bool):
        self.path, self.progress, self.bar = path, progress, None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.progress:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", desc="training", mininterval=2
            )

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % args.save_steps == 0:
            control.should_log = True  # what is summed for the log begins anew with a checkpoint, resumed or not
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        lines = history(state)
        if self.bar is not None and lines:
            self.bar.set_postfix(
                {k: f"{v:.3g}" for k, v in lines[-1].items() if k in ("loss", "validation_nll")}, refresh=False
            )
        beside = self.path.with_suffix(".part")
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines))
        beside.replace(self.path)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()


def history(state) -> list[dict]:
    """The log as records {step, epoch, loss, nll, tokens_per_second, ...} or {step, epoch, validation_nll}."""
    names = {"step": "step", "epoch": "epoch", "loss": "loss", "nll": "nll", "tokens_per_second": "tokens_per_second"}
    names |= {"learning_rate": "learning_rate", "eval_nll": "validation_nll"}
    records = [{names[k]: v for k, v in line.items() if k in names} for line in state.log_history]
    return [r for r in records if "loss" in r or "validation_nll" in r]
