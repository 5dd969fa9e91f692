"""Finetuning: transformers' Trainer with an objective of ours in it, and the plain nll that every model is judged by.
Nothing here knows of corpora's names, of sampling or of run folders."""

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from mixkit.errors import InputError
from mixkit.models import start_token
from mixkit.scores import TokenScores, token_scores, weighted_cross_entropy

IGNORED = -100


@dataclass(frozen=True)
class Training:
    """What one finetuning did. Times in seconds without evaluations; nll in nats per token on the validation texts."""

    steps: int
    epochs: float
    seconds: float
    tokens_per_second: float
    best_step: int
    validation_nll: float
    history: list[dict]


def encode(tokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    """equals: [start] + tokens[:max_tokens] + [end], the end only where the text was not cut."""
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [[start, *ids[:max_tokens], *([end] if len(ids) <= max_tokens else [])] for ids in encoded]


def collate(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """Token ids padded on the right to one length: input_ids, attention_mask, labels, each (B, T).

    labels are -100 at padding and at the start token, which is never a target: versions of transformers differ in
    whether the first position counts when they count the targets of a batch.
    """
    tensors = [torch.tensor(row) for row in rows]
    labels = pad_sequence(tensors, batch_first=True, padding_value=IGNORED)
    mask = labels != IGNORED
    input_ids = labels.where(mask, 0)
    labels[:, 0] = IGNORED
    return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": labels}


def last_hidden(model, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The states (B, T, D) that the output embedding reads, from one forward pass that makes one position's logits."""
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        output_hidden_states=True,
        logits_to_keep=1,
        use_cache=False,
    )
    return output.hidden_states[-1]


def check_head(model) -> None:
    """Raises InputError unless the model's logits are its last hidden states times its output embedding (plus bias).

    The objectives read nothing else, so models that scale, cap or otherwise change their logits are refused.
    """
    ids = torch.arange(1, 6, device=model.device)[None]
    head, training = model.get_output_embeddings(), model.training
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
        hidden = last_hidden(model, ids, torch.ones_like(ids))[:, -1]
        made = torch.nn.functional.linear(hidden, head.weight, getattr(head, "bias", None)).float()
    model.train(training)
    if not torch.allclose(logits, made, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"{type(model).__name__} changes its logits after the output embedding (scaling or capping): not supported"
        )


def text_nll(
    model, tokenizer, texts: list[str], *, max_tokens: int, batch_size: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """equals: per text, sum_t -log q(y_t | y_<t) and the number of tokens t, end of text included where it fits.

    Returns two float64 tensors (N,): nats and tokens. Perplexity is exp(nats.sum() / tokens.sum()). The model is left
    in the mode that it was in.
    """
    rows = encode(tokenizer, texts, max_tokens)
    nats, tokens = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            at = longest_first[start : start + batch_size]
            batch = {key: value.to(model.device) for key, value in collate([rows[i] for i in at]).items()}
            nats[at], tokens[at] = (x.double().cpu() for x in _batch_nll(model, model.get_output_embeddings(), batch))
    model.train(training)
    return nats, tokens


def _batch_nll(model, head, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed nll and number of tokens of each row, both (B,)."""
    hidden = last_hidden(model, batch["input_ids"], batch["attention_mask"])[:, :-1]
    labels = batch["labels"][:, 1:]
    mask = labels != IGNORED
    scores: TokenScores = token_scores(hidden[mask], head.weight, labels[mask], bias=getattr(head, "bias", None))
    nll = torch.zeros(mask.shape, dtype=scores.nll.dtype, device=mask.device).masked_scatter(mask, scores.nll)
    return nll.sum(1), mask.sum(1)


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
    max_tokens: int = 512,
    evaluations: int = 5,
    patience: int = 0,
    precision: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Training:
    """Trains `model` in place on the objective; leaves it at its best evaluation by validation nll, in evaluation mode.

    The loss is the mean over all target tokens of the global batch (gradient-accumulation steps and devices together),
    AdamW with linear decay. The validation nll is always the plain one, whatever the objective: perplexity is its exp.

    folder: `training.jsonl` (one line a log or evaluation) and `checkpoints/` go here; where checkpoints of a cut-off
    training lie there, it goes on from the last one. Texts are cut at `max_tokens`. max_steps: -1 means by epochs.
    batch_size texts on each device, `accumulation` batches a step. evaluations: how many, evenly spaced over training.
    patience: stop after so many evaluations without a better validation nll; 0 never stops early.
    precision: `auto` (bf16 on a GPU that has it, else float32), `bf16` or `float32`.
    On several GPUs start the program with torchrun or accelerate launch; without, one GPU is used.
    Raises InputError for a model whose logits are not hidden states times output embedding.
    """
    check_head(model)
    folder = Path(folder)
    rows = encode(tokenizer, train_texts, max_tokens)
    processes = int(os.environ.get("WORLD_SIZE", 1))  # torchrun's; torch.distributed is not initialized yet
    batches = math.ceil(len(rows) / (batch_size * processes))
    steps = max_steps if max_steps > 0 else math.ceil(math.ceil(batches / accumulation) * epochs)
    every = max(1, steps // max(1, evaluations))
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
    log = _Log(folder / "training.jsonl", progress)
    trainer = ObjectiveTrainer(
        objective=objective,
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=encode(tokenizer, validation_texts, max_tokens),
        data_collator=collate,
        compute_metrics=lambda p: {"nll": float(p.predictions.sum() / p.label_ids.sum())},
        callbacks=[log, *([EarlyStoppingCallback(patience)] if patience else [])],
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "NotebookProgressCallback"):
            trainer.remove_callback(type(callback))
    cut_off = get_last_checkpoint(arguments.output_dir) if Path(arguments.output_dir).is_dir() else None
    trainer.train(resume_from_checkpoint=cut_off)
    model.eval()
    state = trainer.state
    return Training(
        steps=state.global_step,
        epochs=float(state.epoch or 0.0),
        seconds=trainer.seconds,
        tokens_per_second=trainer.tokens / trainer.seconds if trainer.seconds else 0.0,
        best_step=state.best_global_step or state.global_step,
        validation_nll=state.best_metric,
        history=_history(state),
    )


class ObjectiveTrainer(Trainer):
    """transformers' Trainer whose training loss is `objective` and whose evaluation is plain nll over all tokens."""

    def __init__(self, *, objective, **kwargs):
        kwargs["args"]._n_gpu = min(1, kwargs["args"].n_gpu)  # several GPUs: torchrun, never nn.DataParallel
        super().__init__(**kwargs)
        self.objective = objective
        self.model_accepts_loss_kwargs = True  # count the target tokens of the whole accumulated batch for us
        self.loss_is_scaled_for_ga = True
        self.seconds, self.tokens = 0.0, 0
        self._nll, self._logged = 0.0, None  # nll summed over the steps since (step, seconds, tokens) of the last log

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"][:, 1:]
        hidden = last_hidden(model, inputs["input_ids"], inputs["attention_mask"])[:, :-1]
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        with self.accelerator.autocast():
            loss, nll = weighted_cross_entropy(
                hidden,
                head.weight,
                labels,
                self.objective,
                mask=labels != IGNORED,
                bias=getattr(head, "bias", None),
                denominator=num_items_in_batch,
                return_nll=True,
            )
        scale = self.accelerator.num_processes  # gradients are averaged over the devices; the denominator is global
        self._nll = self._nll + nll * scale
        self.tokens += int(inputs["attention_mask"][:, 1:].sum()) * scale
        return loss * scale

    def training_step(self, *args, **kwargs):
        self._logged = self._logged or (self.state.global_step, 0.0, 0)
        began = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.seconds += time.perf_counter() - began
        return loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            nats, tokens = _batch_nll(model, self.accelerator.unwrap_model(model).get_output_embeddings(), inputs)
        return None, nats.double(), tokens

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            step, seconds, tokens = self._logged
            nll = self.accelerator.reduce(torch.as_tensor(self._nll, device=self.args.device), "mean").item()
            logs["nll"] = nll / (self.state.global_step - step)
            logs["tokens_per_second"] = (self.tokens - tokens) / (self.seconds - seconds)
            self._nll, self._logged = 0.0, (self.state.global_step, self.seconds, self.tokens)
        super().log(logs, *args, **kwargs)


class _Log(TrainerCallback):
    """Keeps training.jsonl equal to the trainer's own history (resumed parts included) and shows a progress bar."""

    def __init__(self, path: Path, progress: bool):
        self.path, self.progress, self.bar = path, progress, None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.progress:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", desc="training", mininterval=2
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        history = _history(state)
        if self.bar is not None and history:
            self.bar.set_postfix(
                {k: f"{v:.3g}" for k, v in history[-1].items() if k in ("loss", "validation_nll")}, refresh=False
            )
        beside = self.path.with_suffix(".part")
        beside.write_text("".join(json.dumps(line) + "\n" for line in history))
        beside.replace(self.path)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()


def _history(state) -> list[dict]:
    """The log as records {step, epoch, loss, nll, tokens_per_second, ...} or {step, epoch, validation_nll}."""
    names = {"step": "step", "epoch": "epoch", "loss": "loss", "nll": "nll", "tokens_per_second": "tokens_per_second"}
    names |= {"learning_rate": "learning_rate", "eval_nll": "validation_nll"}
    records = [{names[k]: v for k, v in line.items() if k in names} for line in state.log_history]
    return [r for r in records if "loss" in r or "validation_nll" in r]
