"""Token ids of texts, and the negative log-likelihood (nll) that a model gives them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mixkit._common import Float, InputError, Int
from mixkit.losses.lm_head import token_scores
from mixkit.models.head import check_head, last_hidden, lm_head
from mixkit.models.loading import check_positions, default_device, inference, memory_advice, start_token

ENDS = 2  # tokens that `encode` puts around a text
GROUP_COSTS = {"cpu": 64, "cuda": 2048}  # positions that take as long as one more forward and backward pass
Ids = Int[Tensor, "B T"]


def tokenize(tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens. A special token in the text's letters is tokenized as letters."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def encode(tokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    """equals: [start] + tokens[:max_tokens] + [end], where a text of more than max_tokens tokens has no end."""
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    whole = ([start, *ids, end] for ids in tokenize(tokenizer, texts))
    return [row if len(row) <= max_tokens + ENDS else row[: 1 + max_tokens] for row in whole]


def collate_groups(rows: Sequence[list[int]], context_lengths: Sequence[int] | None = None) -> dict[str, Any]:
    """A batch of N targets with little padding: rows of like length form a group, which has a forward pass of its own.

    input_ids (B, T): the rows, the longest first, padded on the right with 0. groups: (first row, end row, tokens) of
    each. positions (N,): where the state that predicts a target is among the states of all groups. targets (N,): tokens
    after the context. rows (N,): the number of the target's row in `rows`.
    context_lengths: tokens of each row that are no targets; by default 1, the start token.
    num_targets, num_actions: N. Groups and not one packed row: attention needs no mask then, which is its fast path on
    a CPU and on a GPU, and states do not depend on other rows.
    """
    contexts = [1] * len(rows) if context_lengths is None else context_lengths
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    input_ids = pad_sequence([torch.tensor(rows[i]) for i in order], batch_first=True)
    widths = [max(1, len(rows[i]) - 1) for i in order]  # the last token predicts nothing
    groups = [(first, end, widths[first]) for first, end in length_groups(widths, GROUP_COSTS[default_device().type])]
    states = torch.tensor([width for first, end, width in groups for _ in range(first, end)])  # of each row
    column = torch.arange(input_ids.shape[1])
    context, length = torch.tensor([(contexts[i], len(rows[i])) for i in order]).T[..., None]  # (B, 1) each
    row, column = ((context <= column) & (column < length)).nonzero(as_tuple=True)
    flat = {"positions": (states.cumsum(0) - states)[row] + column - 1, "targets": input_ids[row, column]}
    counts = dict.fromkeys(("num_targets", "num_actions"), len(row))
    return {"input_ids": input_ids, "groups": groups, "rows": torch.tensor(order)[row]} | flat | counts


def length_groups(lengths: Sequence[int], cost: int) -> list[tuple[int, int]]:
    """(first, end) of the groups of rows, the longest first, for which the sum of rows * longest + cost is least."""
    least, groups = [0], [[]]  # for the first 0, 1, ... rows
    for end in range(1, len(lengths) + 1):
        total, first = min((least[i] + (end - i) * lengths[i] + cost, i) for i in range(end))
        least.append(total)
        groups.append([*groups[first], (first, end)])
    return groups[-1]


def group_hidden(model, batch: Mapping[str, Any]) -> Float[Tensor, "N D"]:
    """The hidden states that predict the targets of a batch from `collate_groups`. Nothing is read from the device."""
    hidden = [last_hidden(model, batch["input_ids"][first:end, :width]) for first, end, width in batch["groups"]]
    return torch.cat([states.flatten(0, 1) for states in hidden]).index_select(0, batch["positions"])


def batches(
    model, rows: list[list[int]], context_lengths: list[int], batch_size: int
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The numbers of the rows in each batch, the longest first, and the batch of `collate_groups` for the model."""
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for first in range(0, len(rows), batch_size):
        numbers = longest_first[first : first + batch_size]
        batch = collate_groups([rows[i] for i in numbers], [context_lengths[i] for i in numbers])
        yield numbers, {name: x.to(model.device) if isinstance(x, Tensor) else x for name, x in batch.items()}


@memory_advice("lower batch_size of text_nll, or max_tokens")
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
    only, the end token is left out, and `max_tokens` is the limit of prompt and text together. They are tokenized
    together: a token across their border belongs to the text. One without tokens has the nll 0.
    temperature: of the logits.
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
        contexts = tokenize(tokenizer, prompts)
        if too_long := sum(len(context) >= max_tokens for context in contexts):
            room = f"leave no room for a text in max_tokens={max_tokens}"
            raise InputError(f"{too_long} of {len(prompts)} prompts {room}")
        wholes = tokenize(tokenizer, [prompt + text for prompt, text in zip(prompts, texts, strict=True)])
        shared = map(os.path.commonprefix, zip(contexts, wholes, strict=True))  # of token ids
        context_lengths = [1 + len(ids) for ids in shared]
        rows = [[start_token(tokenizer), *ids][: 1 + max_tokens] for ids in wholes]
    nll, tokens = torch.zeros(2, len(rows), dtype=torch.float64)
    with inference(model):
        for numbers, batch in batches(model, rows, context_lengths, batch_size):
            results = batch_nll(model, batch, temperature)
            nll[numbers], tokens[numbers] = (values.double().cpu() for values in results)
    return nll, tokens


def batch_nll(
    model, batch: Mapping[str, Any], temperature: float = 1.0
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """The summed nll and the number of target tokens of each row. batch: from `collate_groups`."""
    hidden, targets, rows = group_hidden(model, batch), batch["targets"], batch["rows"]
    nll = token_scores(hidden, targets=targets, **vars(lm_head(model).at(temperature))).nll
    sums = nll.new_zeros(len(batch["input_ids"])).index_add(0, rows, nll)
    return sums, torch.zeros_like(sums, dtype=torch.long).index_add(0, rows, torch.ones_like(rows))
