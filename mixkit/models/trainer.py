"""Finetuning: transformers' Trainer with an objective of ours in it.
Nothing here knows of corpora's names, of sampling or of run folders."""

import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from mixkit._common import InputError
from mixkit.losses.lm_head import weighted_cross_entropy_and_nll
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.losses.token_weighted import MLE
from mixkit.models.backspace import add_backspace, check_tree_attention
from mixkit.models.likelihood import ENDS, IGNORED, batch_nll, check_head, collate, encode, last_hidden
from mixkit.models.loading import check_positions, start_token
from mixkit.models.on_policy import Backtracking, BacktrackingLoss, CorrectionNoiseDataset, collate_actions
from mixkit.models.replay import ReplayBuffer
from mixkit.models.training_log import TrainingLog, history


@dataclass(frozen=True)
class Training:
    """What one finetuning did. Times in seconds without evaluations; nll in nats per token on the validation texts.

    sampling_share: the part of `seconds` that went into sampling the model's own texts (SequenceMatch), in [0, 1].
    """

    steps: int
    epochs: float
    seconds: float
    tokens_per_second: float
    best_step: int
    validation_nll: float
    history: list[dict]
    sampling_share: float = 0.0


def finetune(
    model,
    tokenizer,
    objective,
    train_texts: list[str],
    validation_texts: list[str],
    *,
    folder: Path,
    epochs: float = 5.0,
    max_steps: int = -1,
    batch_size: int = 64,
    accumulation: int = 1,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.0,
    max_tokens: int = 256,
    evaluations: int = 5,
    patience: int = 0,
    precision: str = "auto",
    seed: int = 0,
    progress: bool = True,
    backtracking: Backtracking | None = None,
) -> Training:
    """Trains `model` in place on the objective; leaves it at its best evaluation by validation nll, in evaluation mode.

    The loss is the mean over all target tokens of the global batch (gradient-accumulation steps and devices together),
    AdamW with linear decay. The validation nll is always the plain one, whatever the objective: perplexity is its exp.

    folder: `training.jsonl` (one line a log or evaluation) and `checkpoints/` go here; where checkpoints of a cut-off
    training lie there, it goes on from the last whole one, to the same bits as if it had not been cut off.
    Texts are cut at `max_tokens`. max_steps: -1 means by epochs. batch_size texts on each device, `accumulation`
    batches a step. evaluations: at most so many, evenly spaced over training, the last after it.
    patience: stop after so many evaluations without a better validation nll; 0 never stops early.
    precision: `auto` (bf16 on a GPU that has it, else float32), `bf16` or `float32`.
    backtracking: SequenceMatch needs it, and MLE learns <backspace> by it; the token is added to model and tokenizer
    where they do not know it. The validation texts have none.
    On several GPUs start the program with torchrun or accelerate launch; without, one GPU is used.
    Raises InputError for a model whose logits are not hidden states times output embedding, and where max_tokens, start
    and end exceed its positions; where there is backtracking, for a model that takes no 4-D attention mask, and for an
    objective that knows no <backspace>.
    """
    check_head(model)
    check_positions(model, "max_tokens", max_tokens, ENDS)
    folder = Path(folder)
    rows, validation = (encode(tokenizer, texts, max_tokens) for texts in (train_texts, validation_texts))
    processes = int(os.environ.get("WORLD_SIZE", 1))  # torchrun's; torch.distributed is not initialized yet
    batches = math.ceil(len(rows) / (batch_size * processes))
    steps = max_steps if max_steps > 0 else math.ceil(math.ceil(batches / accumulation) * epochs)
    every = max(1, math.ceil(steps / max(1, evaluations)))
    collator, replay, loss = collate, None, None
    if isinstance(objective, SequenceMatch) and backtracking is None:
        raise InputError("SequenceMatch needs backtracking: its noise rate, schedule and buffer; pass Backtracking()")
    if backtracking is not None:
        texts = rows, validation
        rows, validation, replay = _actions(model, tokenizer, objective, texts, backtracking, max_tokens, seed)
        loss = BacktrackingLoss(objective, backtracking, replay, steps, model.config.backspace_token_id)
        collator = collate_actions
    cut_off, waited = _last_checkpoint(folder / "checkpoints"), 0
    if cut_off and patience:
        waited = _evaluations_waited(cut_off)
        max_steps = _step(cut_off) if waited >= patience else max_steps  # it had stopped already
    bf16 = precision == "bf16" or (precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=epochs,
        max_steps=max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        lr_scheduler_type="linear",
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_nll",
        greater_is_better=False,
        logging_steps=max(1, min(every, steps // 50)),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=seed,
    )
    log = TrainingLog(folder / "training.jsonl", progress)
    stopping = EarlyStoppingCallback(max(1, patience))
    stopping.early_stopping_patience_counter = waited
    trainer = ObjectiveTrainer(
        objective=objective,
        backtracking=loss,
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=collator,
        compute_metrics=lambda p: {"nll": float(p.predictions.sum() / p.label_ids.sum())},
        callbacks=[
            log,
            *([stopping] if patience else []),
            *([_Epochs(rows)] if replay else []),
        ],
    )
    trainer.replay = replay
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "NotebookProgressCallback"):
            trainer.remove_callback(type(callback))
    if cut_off and replay:
        replay.load(cut_off)
    trainer.train(resume_from_checkpoint=str(cut_off) if cut_off else None)
    model.eval()
    state = trainer.state
    return Training(
        steps=state.global_step,
        epochs=float(state.epoch or 0.0),
        seconds=trainer.seconds,
        tokens_per_second=trainer.tokens / trainer.seconds if trainer.seconds else 0.0,
        best_step=state.best_global_step or state.global_step,
        validation_nll=state.best_metric,
        history=history(state),
        sampling_share=replay.seconds / trainer.seconds if replay and trainer.seconds else 0.0,
    )


def _actions(model, tokenizer, objective, texts, asked: Backtracking, max_tokens: int, seed: int):
    """Of (training, validation) rows: the first with corrections, the second without; and an empty `Replay`."""
    rows, validation = texts
    if not isinstance(objective, MLE | SequenceMatch):
        raise InputError(f"{objective} knows no <backspace>; backtracking goes with SequenceMatch and MLE")
    backspace_id, end_id = add_backspace(model, tokenizer), tokenizer.eos_token_id
    check_tree_attention(model)
    ids = {"backspace_id": backspace_id, "end_id": end_id}
    noise = {"vocabulary": len(tokenizer), "never": tokenizer.all_special_ids, "seed": seed}
    corrected = CorrectionNoiseDataset(rows, asked.noise_rate, **ids, **noise)
    replay = ReplayBuffer(asked, start_id=start_token(tokenizer), max_tokens=max_tokens, seed=seed, **ids)
    return corrected, CorrectionNoiseDataset(validation, 0, **ids, **noise), replay


def _last_checkpoint(folder: Path) -> Path | None:
    """The last that was written to its end. Others are removed: the trainer writes trainer_state.json last, and what
    was cut off before that, or in it, would be taken for the newest."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint, ignore_errors=True)
            continue
        if (checkpoint / "optimizer.pt").is_file() and any(checkpoint.glob("model*.safetensors*")):
            whole.append(checkpoint)  # else it was being removed
    return max(whole, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _evaluations_waited(checkpoint: Path) -> int:
    """How many evaluations in a row were no better when the checkpoint was written: the trainer forgets it."""
    kept = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["stateful_callbacks"]
    return kept["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"]


class _Epochs(TrainerCallback):
    """Tells the corrected texts which epoch it is."""

    def __init__(self, corrected: CorrectionNoiseDataset):
        self.corrected = corrected

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.corrected.epoch = int((state.epoch or 0) + 1e-6)


class ObjectiveTrainer(Trainer):
    """transformers' Trainer whose training loss is `objective` and whose evaluation is plain nll over all tokens."""

    def __init__(self, *, objective, backtracking: BacktrackingLoss | None = None, **kwargs):
        kwargs["args"]._n_gpu = min(1, kwargs["args"].n_gpu)  # several GPUs: torchrun, never nn.DataParallel
        super().__init__(**kwargs)
        self.objective, self.backtracking = objective, backtracking
        self.replay: ReplayBuffer | None = None  # the model's own texts, kept in each checkpoint
        self._discounted = 0.0  # of the global batch
        self.model_accepts_loss_kwargs = True  # count the target tokens of the whole accumulated batch for us
        self.loss_is_scaled_for_ga = True
        self.seconds, self.tokens = 0.0, 0
        self._nll, self._logged = 0.0, None  # nll summed over the steps since (step, seconds, tokens) of the last log

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        if self.replay is not None and self.args.should_save:
            self.replay.save(Path(output_dir or self.args.output_dir))

    def get_batch_samples(self, *args, **kwargs):
        batches, tokens = super().get_batch_samples(*args, **kwargs)
        if self.backtracking is not None and batches:
            own = torch.stack([self.backtracking.discounted(batch).double() for batch in batches]).sum()
            self._discounted = self.accelerator.reduce(own.float().to(self.args.device), "sum")
        return batches, tokens

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with self.accelerator.autocast():
            if self.backtracking is None:
                loss, nll = self._token_weighted(model, inputs, num_items_in_batch)
            else:
                counts = {"tokens": num_items_in_batch, "discounted": self._discounted}
                loss, nll = self.backtracking(model, inputs, self.state.global_step, **counts)
        scale = self.accelerator.num_processes  # gradients are averaged over the devices; the denominator is global
        self._nll = self._nll + nll * scale
        self.tokens += int(inputs["attention_mask"][:, 1:].sum()) * scale
        return loss * scale

    def _token_weighted(self, model, inputs, tokens):
        labels = inputs["labels"][:, 1:]
        hidden = last_hidden(model, inputs["input_ids"])[:, :-1]
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        return weighted_cross_entropy_and_nll(
            hidden,
            head.weight,
            labels,
            self.objective,
            mask=labels != IGNORED,
            bias=getattr(head, "bias", None),
            denominator=tokens,
        )

    def training_step(self, *args, **kwargs):
        self._logged = self._logged or (self.state.global_step, 0.0, 0)
        began = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.seconds += time.perf_counter() - began
        return loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            nats, tokens = batch_nll(model, self.accelerator.unwrap_model(model).get_output_embeddings(), inputs)
        return None, nats.double(), tokens

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            step, seconds, tokens = self._logged
            nll = self.accelerator.reduce(torch.as_tensor(self._nll, device=self.args.device), "mean").item()
            logs["nll"] = nll / (self.state.global_step - step)
            logs["tokens_per_second"] = (self.tokens - tokens) / (self.seconds - seconds)
            self._nll, self._logged = 0.0, (self.state.global_step, self.seconds, self.tokens)
        super().log(logs, *args, **kwargs)
