"""Action sequences with <backspace>: prefix trees, the scores of all actions in one pass, correction noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from mixkit._common import Bool, Float, InputError, Int
from mixkit.losses.lm_head import TokenScores, token_scores
from mixkit.models.attention import attention_mask, layer_types
from mixkit.models.head import lm_head
from mixkit.models.likelihood import Ids
from mixkit.models.loading import inference
from mixkit.models.sampling import RewindableCache

BACKSPACE = "<backspace>"


@dataclass(frozen=True)
class PrefixTree:
    """The prefixes that a batch of action sequences visits: B rows of T positions, at most N nodes in a row.

    A token makes a node. Its parent is the node on top of the stack, and it is pushed. A backspace pops. Nodes are
    numbered in the order of their tokens, so the subtree of node j is j .. ends[j] - 1.
    """

    ids: Ids  # start token, then actions, then padding
    actions: Bool[Tensor, "B T"]  # True where the position is an action: neither start token nor padding
    states: Ids  # the node on top of the stack after the position: the state that it leads to
    tokens: Int[Tensor, "B N"]  # 0 where a row has fewer nodes
    depths: Int[Tensor, "B N"]  # position ids
    ends: Int[Tensor, "B N"]
    real: Bool[Tensor, "B N"]  # False where a row has fewer nodes
    scored: Int[Tensor, "2 P"]  # row and position of each state whose logits are needed: before or after an action

    def ancestors(self) -> Bool[Tensor, "B N N"]:
        """True at [b, i, j] where node j is node i or one of its ancestors."""
        node = torch.arange(self.tokens.shape[1], device=self.ends.device)
        return (node <= node[:, None]) & (node[:, None] < self.ends[:, None, :])


def prefix_tree(rows: Sequence[Sequence[int] | Tensor] | Ids, backspace_id: int) -> PrefixTree:
    """Build the tree of a batch of action sequences, in time linear in the number of actions.

    rows: each is a start token and its actions; their lengths may differ.
    Raises InputError where a backspace has no token to delete. The start token cannot be deleted.
    """
    ids = pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True)
    array = ids.cpu().numpy()
    real_ids = np.arange(array.shape[1]) < np.array([[len(row)] for row in rows])
    pops = real_ids & (array == backspace_id)
    pushes = real_ids & ~pops
    height = np.cumsum(pushes.astype(np.int64) - pops, 1) - 1  # depth of the node on top after the position
    if (height < 0).any():
        row, position = np.argwhere(height < 0)[0].tolist()
        raise InputError(f"<backspace> at position {position} of row {row} has no token to delete")

    batch, length = array.shape
    latest_node = np.cumsum(pushes, 1) - 1
    states = np.empty_like(height)
    stack = np.zeros((batch, length), dtype=np.int64)  # the latest node of each depth
    row = np.arange(batch)
    for t in range(length):
        depth = height[:, t]
        stack[row, depth] = np.where(pushes[:, t], latest_node[:, t], stack[row, depth])
        states[:, t] = stack[row, depth]

    count = latest_node[:, -1:] + 1
    nodes = np.arange(count.max())
    real = nodes < count
    tokens, depths = np.zeros(real.shape, dtype=np.int64), np.zeros(real.shape, dtype=np.int64)
    tokens[real], depths[real] = array[pushes], height[pushes]  # both in the order of rows, then time
    ends = np.where(real, count, nodes + 1)
    popped_rows, times = pops.nonzero()
    ends[popped_rows, states[popped_rows, times - 1]] = latest_node[popped_rows, times] + 1
    actions = real_ids & (np.arange(length) > 0)
    scored = np.stack((actions | np.roll(actions, -1, 1)).nonzero())  # the start token is no action
    parts = (actions, states, tokens, depths, ends, real, scored)
    return PrefixTree(ids, *(torch.from_numpy(part).to(ids.device) for part in parts))


def score_actions(model, tree: PrefixTree) -> tuple[TokenScores, Float[Tensor, "B T"]]:
    """equals: the scores of each action under the logits of the model applied to its prefix alone

    Returns these (B, T), and the log-partition of the state that each action leads to; both are 0 elsewhere.
    All prefixes are computed in one pass over the tree's nodes. Differentiable.
    model: a causal language model of transformers that takes a 4-D attention mask (see `check_tree_attention`).
    """
    mask = attention_mask(model, tree.ancestors(), tree.depths[:, :, None] - tree.depths[:, None])
    inputs = {"input_ids": tree.tokens, "attention_mask": mask, "position_ids": tree.depths}
    output = model(**inputs, output_hidden_states=True, logits_to_keep=1, use_cache=False)
    rows, times = tree.scored
    hidden = output.hidden_states[-1][rows, tree.states[rows, times]]  # (P, D)
    targets = tree.ids.roll(-1, 1)[rows, times]  # after a text's last action any token: its score is not read
    flat = token_scores(hidden, targets=targets, **vars(lm_head(model)))
    empty = flat.logit.new_zeros(tree.ids.shape)
    logit, log_partition = (empty.index_put((rows, times), x) for x in (flat.logit, flat.log_partition))
    scores = TokenScores(*(torch.where(tree.actions, x.roll(1, 1), 0) for x in (logit, log_partition)))
    return scores, torch.where(tree.actions, log_partition, 0)


def check_tree_attention(model, max_tokens: int = 60) -> None:
    """Raise InputError unless the model's scores of a tree, and its cache that goes back, equal single prefixes.

    The tree has the depth of a text of max_tokens, so that windows in the model's attention matter. A model without
    attention, or one that ignores the mask, would learn from wrong states. The tolerance is a ten-thousandth of the
    largest logit, and two hundredths in bf16. The model stays in its mode.
    """
    name = type(model).__name__
    limits = f"in its {' and '.join(sorted(layer_types(model)))} layers" if layer_types(model) else "in its layers"
    reason = f"does not take a 4-D attention mask {limits} for texts of {max_tokens} tokens"
    refusal = InputError(f"{name} {reason}, so it cannot score the states after a backspace; choose another model")
    backspace_id = model.config.get_text_config().vocab_size - 1
    blocks = max(2, max_tokens // 2)  # of two tokens that stay and two that are deleted
    ids = torch.randint(backspace_id, (1, 1 + 6 * blocks), generator=Generator().manual_seed(0)).to(model.device)
    ids[0, 4::6] = ids[0, 5::6] = backspace_id
    last = range(ids.shape[1] - 6, ids.shape[1])
    prefixes = [apply_backspaces(ids[0, :t].tolist(), backspace_id)[0] for t in last]
    rows = [torch.tensor([prefix], device=model.device) for prefix in prefixes]
    depths = [torch.arange(len(prefix), device=model.device)[None] for prefix in prefixes]
    cache = RewindableCache(max(map(len, prefixes)))
    try:
        with inference(model):
            scores, _ = score_actions(model, prefix_tree(ids, backspace_id))
            logits = torch.cat([model(row, use_cache=False).logits[:, -1] for row in rows])
            cache.forward(model, rows[0], depths[0], len(prefixes[0]))
            ends = zip(rows, depths, strict=True)  # each row adds or deletes one token of the one before
            cached = torch.cat([cache.forward(model, x[:, -1:], at[:, -1:], x.shape[1]) for x, at in ends])
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError) as error:
        raise refusal from error
    expected = TokenScores.from_logits(logits, ids[0, last])
    errors = [scores.logit[0, last] - expected.logit, scores.log_partition[0, last] - expected.log_partition]
    errors.append((cached - logits).abs().amax(1))
    tolerance = max(1e-4, 2.5 * torch.finfo(model.dtype).eps) * logits.abs().amax(1)
    if not (torch.stack(errors).abs() < tolerance).all():
        raise refusal


def add_correction_noise(
    actions: Int[Tensor, " N"], rate: float, *, candidates: Int[Tensor, " C"], backspace_id: int, generator: Generator
) -> tuple[Int[Tensor, " M"], Bool[Tensor, " M"]]:
    """Insert a random wrong token and the <backspace> that deletes it before each action, with probability `rate`.

    actions: the token ids of a text without <backspace>. rate in [0, 0.5]: 0 leaves the text unchanged.
    candidates: wrong tokens are drawn uniformly from these ids (at least two) without the right token.
    Returns the longer actions and their labels, which are True except at wrong tokens: these are not learned.
    """
    noisy = torch.rand(len(actions), generator=generator) < rate
    places = noisy.nonzero()[:, 0]
    right = actions[places]
    choices = len(candidates) - torch.isin(right, candidates).long()
    draw = torch.rand(len(places), generator=generator, dtype=torch.float64) * choices
    wrong = candidates[draw.long()]
    wrong = torch.where(wrong == right, candidates[-1], wrong)  # the last candidate replaces the right token
    positions = torch.arange(len(actions)) + 2 * noisy.cumsum(0)  # of the text's own tokens in the longer sequence
    longer = actions.new_full((len(actions) + 2 * len(places),), backspace_id)
    longer[positions] = actions
    longer[positions[places] - 2] = wrong
    labels = torch.ones(len(longer), dtype=torch.bool)
    labels[positions[places] - 2] = False
    return longer, labels


def apply_backspaces(actions: Sequence[int], backspace_id: int | None) -> tuple[list[int], int]:
    """The token ids that an action sequence leaves, and the number of tokens that it deleted. Errors as `segments`."""
    runs = segments(actions, backspace_id)
    tokens = list(chain.from_iterable(ids for ids, remain in runs if remain))
    return tokens, sum(len(ids) for ids, _ in runs) - len(tokens)


def segments(actions: Sequence[int], backspace_id: int | None) -> list[tuple[list[int], bool]]:
    """All token ids in the order of writing, as runs (ids, whether these tokens remain).

    Raises InputError where a <backspace> has no token to delete.
    """
    written, stack = [], []  # pairs [token, whether it remains]
    for position, action in enumerate(actions):
        if action != backspace_id:
            stack.append([action, True])
            written.append(stack[-1])
        elif stack:
            stack.pop()[1] = False
        else:
            raise InputError(f"<backspace> at position {position} has no token to delete")
    runs = groupby(written, key=lambda pair: pair[1])
    return [([token for token, _ in run], remains) for remains, run in runs]


def known_backspace(model, tokenizer) -> int | None:
    """The id of <backspace> in model and tokenizer, None before `add_backspace`.

    Raises InputError where the tokenizer or the model has a different <backspace>.
    """
    known_id = getattr(model.config, "backspace_token_id", None)
    num_rows = model.get_input_embeddings().weight.shape[0]
    backspace_id = tokenizer.get_vocab().get(BACKSPACE)
    if backspace_id == known_id:
        return known_id
    foreign = backspace_id is not None and (BACKSPACE not in tokenizer.all_special_tokens or backspace_id < num_rows)
    if foreign or known_id is not None:
        where = f"id {backspace_id} in the tokenizer, {known_id} in the model"
        raise InputError(f"there already is a different {BACKSPACE} ({where}); use a model and tokenizer without it")
    return None


def add_backspace(model, tokenizer) -> int:
    """Add the <backspace> token to model and tokenizer. Returns its id. A second call changes nothing.

    Its embedding rows start at the mean of the others. The token is special: decoding with skip_special_tokens omits
    it. `model.config.backspace_token_id` stores the id, and plain `generate` suppresses the token. All of that is
    saved and loaded with model and tokenizer. Raises InputError as `known_backspace` does.
    """
    if (backspace_id := known_backspace(model, tokenizer)) is not None:
        return backspace_id
    num_rows = model.get_input_embeddings().weight.shape[0]
    num_tokens = min(num_rows, len(tokenizer))  # further rows are padding
    tokenizer.add_special_tokens({"extra_special_tokens": [BACKSPACE]}, replace_extra_special_tokens=False)
    backspace_id = tokenizer.convert_tokens_to_ids(BACKSPACE)
    if backspace_id >= num_rows:
        model.resize_token_embeddings(backspace_id + 1, mean_resizing=False)
    with torch.no_grad():
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            for parameter in embedding.parameters():
                parameter[backspace_id] = parameter[:num_tokens].mean(0)
    model.config.backspace_token_id = backspace_id
    suppressed = model.generation_config.suppress_tokens or []
    model.generation_config.suppress_tokens = sorted({*suppressed, backspace_id})
    return backspace_id
