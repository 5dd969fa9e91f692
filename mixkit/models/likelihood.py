"""Texts as rows of token ids, and the plain nll of a model on them, whatever it was trained by.
Nothing here changes a model."""

import torch
from torch.nn.utils.rnn import pad_sequence

from mixkit._common import InputError
from mixkit.losses.lm_head import TokenScores, token_scores
from mixkit.models.loading import check_positions, start_token

IGNORED = -100
ENDS = 2  # tokens that `encode` puts around a text


def encode(tokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    """equals: [start] + tokens[:max_tokens] + [end], the end only where the text was not cut.

    A text that spells out a special token, `<backspace>` among them, holds those letters and not the token.
    """
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
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


def last_hidden(model, input_ids: torch.Tensor) -> torch.Tensor:
    """The states (B, T, D) that the output embedding reads, from one forward pass that makes one position's logits.

    Padding must be on the right, where no token of a causal model looks: so there is no mask, and attention is faster.
    """
    output = model(input_ids=input_ids, output_hidden_states=True, logits_to_keep=1, use_cache=False)
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
        hidden = last_hidden(model, ids)[:, -1]
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
    in the mode that it was in. Raises InputError where max_tokens, start and end exceed the model's positions.
    """
    check_positions(model, "max_tokens", max_tokens, ENDS)
    rows = encode(tokenizer, texts, max_tokens)
    nats, tokens = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            at = longest_first[start : start + batch_size]
            batch = {key: value.to(model.device) for key, value in collate([rows[i] for i in at]).items()}
            nats[at], tokens[at] = (x.double().cpu() for x in batch_nll(model, model.get_output_embeddings(), batch))
    model.train(training)
    return nats, tokens


def batch_nll(model, head, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed nll and number of tokens of each row, both (B,)."""
    hidden = last_hidden(model, batch["input_ids"])[:, :-1]
    labels = batch["labels"][:, 1:]
    mask = labels != IGNORED
    scores: TokenScores = token_scores(hidden[mask], head.weight, labels[mask], bias=getattr(head, "bias", None))
    nll = torch.zeros(mask.shape, dtype=scores.nll.dtype, device=mask.device).masked_scatter(mask, scores.nll)
    return nll.sum(1), mask.sum(1)
