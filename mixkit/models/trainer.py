"""Finetune a model on an objective with transformers' Trainer; resume, log and keep the best checkpoint."""

import hashlib
import json
import math
import os
import re
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.trainer import Trainer
from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainerState
from transformers.training_args import TrainingArguments

from mixkit._common import InputError, unknown, write_atomically
from mixkit.losses.lm_head import weighted_cross_entropy_and_nll
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import MLE, TokenScores, TokenWeighted
from mixkit.models.backspace import add_backspace
from mixkit.models.head import lm_head
from mixkit.models.likelihood import batch_nll, collate_groups, encode, group_hidden
from mixkit.models.loading import has_bf16, memory_advice, silence_libraries
from mixkit.models.on_policy import Backtracking, BacktrackingLoss, CorrectionNoiseDataset, ReplayBuffer
from mixkit.models.support import check_model_support

LOGGED = ("step", "epoch", "loss", "nll", "tokens_per_second", "learning_rate", "eval_nll")


@dataclass(frozen=True)
class TrainingResult:
    """The record of one finetuning. Seconds exclude evaluations. validation_nll is in nats per token."""

    steps: int
    epochs: float
    seconds: float
    tokens_per_second: float
    best_step: int
    validation_nll: float | None
    history: list[dict[str, float]]


@memory_advice("lower batch_size and raise accumulation by as much, or lower max_tokens")
def finetune(
    model,
    tokenizer,
    objective,
    train_texts: list[str],
    validation_texts: list[str],
    *,
    folder: Path | str,
    epochs: float = 5.0,
    max_steps: int = -1,
    batch_size: int = 64,
    accumulation: int = 1,
    learning_rate: float = 5e-5,
    max_tokens: int = 256,
    evaluations: int = 5,
    patience: int = 0,
    precision: str = "auto",
    torch_compile: bool = False,
    seed: int = 0,
    progress: bool = True,
    backtracking: Backtracking | None = None,
) -> TrainingResult:
    """Train `model` in place on the objective. It ends in evaluation mode with the weights of its best evaluation.

    The loss is the mean over all target tokens of the global batch: of all accumulated batches and all devices. The
    optimizer is AdamW without weight decay; the learning rate falls linearly to 0. The best evaluation has the lowest
    plain nll, whatever the objective.

    folder: for `training.jsonl` (one line for each log or evaluation) and `checkpoints/`, which may be deleted at the
    end. The same training of the same model resumes from its last complete checkpoint and ends with the same bits.
    epochs: passes over the texts. max_steps: optimizer steps in their place; -1 uses epochs.
    batch_size: texts in a batch on each device. accumulation: batches in an optimizer step.
    max_tokens: texts are cut after so many tokens.
    evaluations: at most so many, at equal intervals, and the last at the end.
    patience: stop after so many evaluations without a lower nll; 0 never stops early.
    precision: `auto` (bf16 on a GPU that supports it, otherwise float32), `bf16` or `float32`.
    torch_compile: compile the model. On a CPU it takes minutes and saves a tenth of each step; it needs a C++ compiler.
    backtracking: required by SequenceMatch; with MLE the model learns <backspace> too. The token is added to model
    and tokenizer. Validation texts have no correction noise.
    One GPU is used; for several start the program with torchrun or accelerate launch.
    Raises InputError for a model that `check_model_support` refuses, an objective that does not fit backtracking or
    whose loss of a token depends on others, an unknown precision, where memory runs out, and where the training
    diverges: at nan and inf, and at an nll of 2 log V above the first step's (log V is that of a uniform guess).
    """
    silence_libraries()
    if isinstance(objective, SequenceMatch) and backtracking is None:
        raise InputError("SequenceMatch needs backtracking: its noise rate, schedule and buffer; pass Backtracking()")
    if backtracking is not None and not (type(objective) is MLE or isinstance(objective, SequenceMatch)):
        raise InputError(f"{objective} does not use <backspace>; backtracking is for SequenceMatch and MLE")
    bf16 = {"auto": has_bf16(), "bf16": True, "float32": False}
    if precision not in bf16:
        raise unknown("precision", precision, bf16)
    needs = {"backtracking": backtracking is not None, "torch_compile": torch_compile}
    check_model_support(model, tokenizer, **needs, max_tokens=max_tokens)
    folder = Path(folder)
    train, validation = (encode(tokenizer, texts, max_tokens) for texts in (train_texts, validation_texts))
    processes = int(os.environ.get("WORLD_SIZE", 1))  # of torchrun; torch.distributed is not initialized yet
    batches = math.ceil(len(train) / (batch_size * processes))
    steps = max_steps if max_steps > 0 else math.ceil(math.ceil(batches / accumulation) * epochs)
    interval = max(1, math.ceil(steps / max(1, evaluations)))
    stopping = EarlyStoppingCallback(patience or sys.maxsize)
    callbacks: list[TrainerCallback] = [TrainingLog(folder / "training.jsonl", progress), stopping]
    data: dict[str, Any] = {"train_dataset": train, "eval_dataset": validation, "data_collator": collate_groups}
    loss = None
    if backtracking is not None:
        add_backspace(model, tokenizer)
        replay = ReplayBuffer(backtracking, tokenizer, max_tokens=max_tokens, seed=seed)
        loss = BacktrackingLoss(objective, replay, steps)
        noisy = CorrectionNoiseDataset(train, backtracking.noise_rate, tokenizer, seed=seed)
        data |= {"train_dataset": noisy, "data_collator": noisy.collate}
        callbacks += [noisy, replay]

    # An edited weight function, or other texts, must not go on from the checkpoints of another training.
    losses = None if isinstance(objective, SequenceMatch) else _losses_at(objective, model.device)
    known = re.sub(r" at 0x\w+", "", f"{type(objective)} {vars(objective)}")  # without addresses, which change
    of_training = [known, losses, backtracking, train, validation, epochs, max_steps, batch_size, accumulation]
    of_training += [learning_rate, seed, precision]
    checkpoints = folder / "checkpoints" / hashlib.sha256(repr(of_training).encode()).hexdigest()[:8]
    checkpoint, last = _last_checkpoint(checkpoints)
    if last:
        # not restore_callback_states_from_checkpoint: a training that had stopped would go on for one interval
        saved: Any = last.stateful_callbacks
        for callback in callbacks:
            vars(callback).update(saved.get(type(callback).__name__, {}).get("attributes", {}))
        if stopping.early_stopping_patience_counter >= stopping.early_stopping_patience:
            max_steps = last.global_step

    gpu = torch.cuda.is_available()
    device = {"bf16": bf16[precision], "torch_compile": torch_compile, "use_cpu": not gpu, "optim": "adamw_torch_fused"}
    loading = {"dataloader_pin_memory": gpu, "dataloader_num_workers": 2 * gpu}
    device |= {**loading, "accelerator_config": {"non_blocking": gpu}}
    length = {"num_train_epochs": epochs, "max_steps": max_steps, "gradient_accumulation_steps": accumulation}
    batch_sizes = {"per_device_train_batch_size": batch_size, "per_device_eval_batch_size": batch_size}
    intervals = {"eval_strategy": "steps", "eval_steps": interval, "save_strategy": "steps", "save_steps": interval}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_nll", "greater_is_better": False}
    logs = {"logging_steps": max(1, min(interval, steps // 50)), "logging_nan_inf_filter": False, "disable_tqdm": True}
    settings: dict[str, Any] = device | length | batch_sizes | intervals | best | logs
    settings |= {"learning_rate": learning_rate, "seed": seed, "save_total_limit": 1, "remove_unused_columns": False}
    arguments = TrainingArguments(str(checkpoints), report_to="none", **settings)
    trainer = ObjectiveTrainer(objective, loss, model=model, args=arguments, callbacks=callbacks, **data)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    model.eval()
    state, seconds = trainer.state, trainer.seconds
    return TrainingResult(
        steps=state.global_step,
        epochs=float(state.epoch or 0.0),
        seconds=seconds,
        tokens_per_second=trainer.tokens / seconds if seconds else 0.0,
        best_step=state.best_global_step or state.global_step,
        validation_nll=state.best_metric,
        history=history(state),
    )


class ObjectiveTrainer(Trainer):
    """transformers' Trainer. Its training loss is `objective`; its evaluation is the plain nll over all tokens."""

    def __init__(self, objective, backtracking: BacktrackingLoss | None, **kwargs):
        kwargs["args"]._n_gpu = min(1, kwargs["args"].n_gpu)  # several GPUs: torchrun, never nn.DataParallel
        kwargs["compute_metrics"] = lambda p: {"nll": float(p.predictions.sum() / p.label_ids.sum())}
        super().__init__(**kwargs)
        self.objective, self.backtracking = objective, backtracking
        self.model_accepts_loss_kwargs = True  # then Trainer counts the target tokens of all accumulated batches
        self.loss_is_scaled_for_ga = True
        self.seconds, self.tokens = 0.0, 0
        self._discounted: Any = 0.0  # sum of discounts of the global batch
        self._first_nll: Any = 0.0  # of the first step since start or resume
        self._first_step = -1
        self._nll_sum: Any = 0.0  # of the steps since the last log
        self._began: tuple[float, int, int] | None = None  # time, step and tokens when they began

    def get_batch_samples(self, *args, **kwargs):
        batches, _ = super().get_batch_samples(*args, **kwargs)
        tokens: Any = sum(batch["num_targets"] for batch in batches)
        if self.accelerator.num_processes > 1:
            tokens = self.accelerator.reduce(torch.tensor(tokens, device=self.args.device), "sum")
        if isinstance(self.objective, SequenceMatch) and batches:
            steps = [self.objective.steps(batch["tree"]["actions"]).double() for batch in batches]
            discounted = torch.stack(steps).sum()
            self._discounted = self.accelerator.reduce(discounted.float().to(self.args.device), "sum")
        return batches, tokens

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with self.accelerator.autocast():
            if self.backtracking is None:
                hidden, targets = group_hidden(model, inputs), inputs["targets"]
                how = {"denominator": num_items_in_batch, **vars(lm_head(model))}
                loss, nll = weighted_cross_entropy_and_nll(hidden, targets=targets, objective=self.objective, **how)
            else:
                counts = {"tokens": num_items_in_batch, "discounted": self._discounted}
                loss, nll = self.backtracking(model, inputs, self.state.global_step, **counts)
        scale = self.accelerator.num_processes  # gradients are averaged over the devices; the denominator is global
        if self._first_step in (-1, self.state.global_step):
            self._first_step, self._first_nll = self.state.global_step, self._first_nll + nll * scale
        self._nll_sum = self._nll_sum + nll * scale  # on the device: no step waits for it
        self.tokens += scale * inputs["num_actions"]
        return loss * scale

    def training_step(self, *args, **kwargs):
        if self._began is None:
            self._began = time.perf_counter(), self.state.global_step, self.tokens
        return super().training_step(*args, **kwargs)

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        nll, tokens = batch_nll(model, self._prepare_inputs(inputs))
        return None, nll.double(), tokens

    def log(self, logs, *args, **kwargs):
        if "loss" in logs and self._began is not None:
            began, step, tokens = self._began
            nll: Any = self.accelerator.reduce(torch.as_tensor(self._nll_sum, device=self.args.device), "mean")
            logs["nll"] = nll.item() / (self.state.global_step - step)
            seconds = time.perf_counter() - began  # the device has finished: its nll was read
            logs["tokens_per_second"] = (self.tokens - tokens) / seconds
            self.seconds += seconds
            self._nll_sum, self._began = 0.0, None
        self._stop_if_diverged(logs)
        super().log(logs, *args, **kwargs)

    def _stop_if_diverged(self, logs: dict[str, float]) -> None:
        limit = float(self._first_nll) + 2 * math.log(len(lm_head(self.model).head_weight))
        for name, largest in {"loss": sys.float_info.max, "nll": limit, "eval_nll": limit}.items():
            if name in logs and not abs(logs[name]) <= largest:
                checkpoint, _ = _last_checkpoint(Path(str(self.args.output_dir)))
                raise InputError(
                    f"training on {self.objective} diverged after step {self.state.global_step}: "
                    f"{name} is {logs[name]:.6g}; learning_rate is {self.args.learning_rate:g}, choose a lower one; "
                    f"last good checkpoint: {checkpoint or 'none'}"
                )


class TrainingLog(TrainerCallback):
    """Write training.jsonl from the trainer's history, steps before a resume included. Show a progress bar."""

    def __init__(self, path: Path, progress: bool):
        self.path, self.progress = path, progress

    def on_train_begin(self, args, state, control, **kwargs):
        hidden = not (self.progress and state.is_world_process_zero)
        steps = {"total": state.max_steps, "initial": state.global_step, "unit": "step"}
        options: dict[str, Any] = {"disable": True} if hidden else {}  # else as TQDM_DISABLE says
        self.bar = tqdm(**steps, desc="training", mininterval=2, **options)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % args.save_steps == 0 or state.global_step == state.max_steps:
            control.should_log = True  # the sums of a log must not cross a checkpoint: a resumed training has none
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            lines = [json.dumps(record, allow_nan=False) + "\n" for record in history(state)]
            write_atomically(self.path, "".join(lines))

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def history(state: TrainerState) -> list[dict[str, float]]:
    """Records {step, epoch, loss, nll, tokens_per_second, learning_rate} and {step, epoch, validation_nll}."""
    lines = [line for line in state.log_history if "loss" in line or "eval_nll" in line]
    return [{k.replace("eval_nll", "validation_nll"): v for k, v in line.items() if k in LOGGED} for line in lines]


def _losses_at(objective: TokenWeighted, device: torch.device) -> list[str]:
    """The losses of tokens of probabilities from 0.007 to 0.98. Raises InputError where one depends on the others."""
    logits, targets = torch.linspace(-3, 6, 8, device=device).diag(), torch.arange(8, device=device)
    scores = [TokenScores.from_logits(logits[at], targets[at], objective.order) for at in (slice(8), *targets[:, None])]
    together, *alone = (objective.losses(of_tokens) for of_tokens in scores)
    if together.shape != (8,) or not torch.allclose(together, torch.cat(alone), equal_nan=True):
        raise InputError(f"{objective} has no loss for each token that depends on this token alone, and not on chance")
    return [f"{loss:.4g}" for loss in together.tolist()]  # the last bits depend on the machine


def _last_checkpoint(folder: Path) -> tuple[str, TrainerState] | tuple[None, None]:
    """Folder and state of the last complete checkpoint.

    Trainer writes trainer_state.json last. A checkpoint that it was deleting may have that file but lacks others.
    """
    complete = []
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        has_all = (path.parent / "optimizer.pt").is_file() and any(path.parent.glob("model*.safetensors*"))
        if has_all and all(file.stat().st_size for file in path.parent.iterdir()):  # after a power cut files are empty
            with suppress(ValueError):  # an incomplete file
                complete.append((str(path.parent), TrainerState.load_from_json(str(path))))
    return max(complete, key=lambda found: found[1].global_step, default=(None, None))
