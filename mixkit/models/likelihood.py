"""Token ids of texts, and the negative log-likelihood (nll) that a model gives them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mixkit._common import Float, InputError, Int
from mixkit.losses.lm_head import token_scores
from mixkit.models.head import check_head, last_hidden, lm_head
from mixkit.models.loading import check_positions, memory_advice, start_token

IGNORED = -100
ENDS = 2  # tokens that `encode` puts around a text
Ids = Int[Tensor, "B T"]


def tokenize(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens. A special token in the text's letters is tokenized as letters."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode(tokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    """equals: [start] + tokens[:max_tokens] + [end], where a text of more than max_tokens tokens has no end."""
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    rows = []
    for ids in tokenize(tokenizer, texts):
        rows.append([start, *ids, end] if len(ids) <= max_tokens else [start, *ids[:max_tokens]])
    return rows


def collate(rows: Sequence[list[int] | Tensor]) -> dict[str, Ids]:
    """Pad rows of token ids on the right: input_ids (with 0), attention_mask and labels.

    labels are -100 at padding and at the first token, which is never a target. (transformers counts the labels of a
    batch, and its versions differ in whether they count the first position.)
    """
    labels = pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=IGNORED)
    mask = labels != IGNORED
    input_ids = labels.where(mask, 0)
    labels[:, 0] = IGNORED
    return {"input_ids": input_ids, "attention_mask": mask.long(), "labels": labels}


@memory_advice("lower batch_size of text_nll, or max_tokens")
@torch.no_grad()
def text_nll(
    model,
    tokenizer,
    texts: list[str],
    *,
    prompts: list[str] | None = None,
    max_tokens: int,
    batch_size: int = 32,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """equals: for each text, sum_t -log q(y_t | y_<t) in nats, and its number of tokens t

    Texts are cut after `max_tokens` tokens. The end token counts too, where the text was not cut.
    prompts: one for each text. Then the nll is that of the text given its prompt: start token and prompt are context
    only, the end token is left out, and `max_tokens` is the limit of prompt and text together. Prompt and text are
    tokenized apart. A text without tokens has the nll 0. temperature: of the logits.
    Returns two float64 tensors on the CPU. Perplexity is exp(nll.sum() / tokens.sum()).
    Raises InputError as `check_head` does, where texts may exceed the model's positions, where prompts and texts differ
    in number, and where a prompt leaves no room for its text.
    """
    check_head(model)
    check_positions(model, "max_tokens", max_tokens, ENDS if prompts is None else 1)
    if prompts is None:
        rows, context_lengths = encode(tokenizer, texts, max_tokens), [1] * len(texts)
    else:
        if len(prompts) != len(texts):
            raise InputError(f"{len(prompts)} prompts and {len(texts)} texts; pass one prompt for each text")
        contexts = [[start_token(tokenizer), *ids] for ids in tokenize(tokenizer, prompts)]
        context_lengths = [len(context) for context in contexts]
        if too_long := sum(length > max_tokens for length in context_lengths):
            room = f"leave no room for a text in max_tokens={max_tokens}"
            raise InputError(f"{too_long} of {len(prompts)} prompts {room}")
        pairs = zip(contexts, tokenize(tokenizer, texts), strict=True)
        rows = [(context + ids)[: 1 + max_tokens] for context, ids in pairs]
    nll, tokens = torch.zeros(2, len(rows), dtype=torch.float64)
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    training = model.training
    model.eval()
    for first in range(0, len(rows), batch_size):
        indices = longest_first[first : first + batch_size]
        batch = collate([rows[i] for i in indices])
        for labels, i in zip(batch["labels"], indices, strict=True):
            labels[: context_lengths[i]] = IGNORED
        batch_results = batch_nll(model, {k: v.to(model.device) for k, v in batch.items()}, temperature)
        nll[indices], tokens[indices] = (values.double().cpu() for values in batch_results)
    model.train(training)
    return nll, tokens


def batch_nll(
    model, batch: Mapping[str, Tensor], temperature: float = 1.0
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """The summed nll and the number of target tokens of each row. batch: from `collate`."""
    hidden = last_hidden(model, batch["input_ids"])[:, :-1]
    labels = batch["labels"][:, 1:]
    mask = labels != IGNORED
    scores = token_scores(hidden[mask], targets=labels[mask], **vars(lm_head(model).at(temperature)))
    nll = torch.zeros(mask.shape, dtype=scores.nll.dtype, device=mask.device).masked_scatter(mask, scores.nll)
    return nll.sum(1), mask.sum(1)
