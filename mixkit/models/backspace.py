"""Action sequences with <backspace>: the tree of prefixes they visit, its attention mask, the one pass of a model over
it, correction noise, undo, and the token itself. Sampling such sequences and learning from them live elsewhere."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from mixkit._common import InputError
from mixkit.losses.lm_head import TokenScores, token_scores

BACKSPACE = "<backspace>"


@dataclass(frozen=True)
class PrefixTree:
    """The prefixes that a batch of action sequences visits: B rows of T positions, at most N nodes a row.

    A token makes a node whose parent is the node on top of the stack, and is pushed; a backspace pops. Nodes are
    numbered in the order of their tokens, so the subtree of node j is the run j .. ends[j] - 1.
    """

    ids: torch.Tensor  # (B, T) prompt, then actions, then padding
    actions: torch.Tensor  # (B, T) True where the position is an action: not of the prompt, not padding
    states: torch.Tensor  # (B, T) the node on top of the stack after the position: the state that it leads to
    tokens: torch.Tensor  # (B, N) 0 where a row has fewer nodes
    parents: torch.Tensor  # (B, N) -1 at the first token and where a row has fewer nodes
    depths: torch.Tensor  # (B, N) position ids
    ends: torch.Tensor  # (B, N)
    real: torch.Tensor  # (B, N) False where a row has fewer nodes

    @property
    def before(self) -> torch.Tensor:
        """The node of the state in which every position's action is taken; only meaningful at actions. (B, T)"""
        return self.states.roll(1, 1)

    def ancestors(self) -> torch.Tensor:
        """True at [b, i, j] where node j is node i or one of its ancestors. (B, N, N)"""
        node = torch.arange(self.tokens.shape[1], device=self.ends.device)
        return (node <= node[:, None]) & (node[:, None] < self.ends[:, None, :])

    def attention_mask(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """0 where a node attends (to its ancestors and itself), else the dtype's lowest number. (B, 1, N, N)"""
        mask = torch.zeros((), dtype=dtype, device=self.ends.device)
        return torch.where(self.ancestors(), mask, torch.finfo(dtype).min)[:, None]

    def to(self, device) -> "PrefixTree":
        return PrefixTree(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def prefix_tree(
    ids: torch.Tensor,
    backspace_id: int,
    *,
    mask: torch.Tensor | None = None,
    prompt_length: int | torch.Tensor = 1,
) -> PrefixTree:
    """The tree of a batch of action sequences, in time linear in the number of actions.

    ids (B, T): each row a prompt (or a start token) and the actions after it, padded on the right. mask (B, T): True
    where a row is not padding; by default everywhere. A mask and not a pad id, since GPT-2 pads with its end token.
    prompt_length: an int or (B,), at least 1; how many leading tokens of a row can never be taken back.
    Raises InputError (a ValueError) where a backspace stands in a prompt or would reach into one, where a prompt is
    longer than its row, and where padding is not on the right.
    """
    given, ids = ids, ids.cpu().numpy()
    batch, length = ids.shape
    mask = np.ones_like(ids, dtype=bool) if mask is None else mask.bool().cpu().numpy()
    prompt = np.broadcast_to(np.asarray(torch.as_tensor(prompt_length).cpu()), (batch,))
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise InputError("a row's padding is not on its right; pad action sequences on the right")
    if ((prompt < 1) | (prompt > mask.sum(1))).any():
        row = int(((prompt < 1) | (prompt > mask.sum(1))).argmax())
        raise InputError(f"prompt_length is {prompt[row]} in row {row}; allowed: 1 to its length {mask[row].sum()}")
    pops = mask & (ids == backspace_id)
    pushes = mask & ~pops
    height = np.cumsum(pushes.astype(np.int64) - pops, 1) - 1  # depth of the node on top after the position
    wrong = pops & ((height < prompt[:, None] - 1) | (np.arange(length) < prompt[:, None]))
    if wrong.any():
        row, at = np.argwhere(wrong)[0].tolist()
        what = "stands in the prompt" if at < prompt[row] else "reaches into the prompt"
        raise InputError(f"<backspace> at position {at} of row {row} {what}; the first {prompt[row]} tokens stay")

    node = np.cumsum(pushes, 1) - 1  # the latest node so far
    states = np.empty_like(height)
    latest = np.zeros((batch, length), dtype=np.int64)  # the latest node of every depth, which is the stack
    rows = np.arange(batch)
    for t in range(length):
        at = height[:, t]
        latest[rows, at] = np.where(pushes[:, t], node[:, t], latest[rows, at])
        states[:, t] = latest[rows, at]

    nodes = int(node[:, -1].max()) + 1
    count = node[:, -1:] + 1
    real = np.arange(nodes) < count
    tokens, depths = np.zeros((batch, nodes), dtype=np.int64), np.zeros((batch, nodes), dtype=np.int64)
    tokens[real], depths[real] = ids[pushes], height[pushes]  # both in the order of rows, then time
    parents = np.full((batch, nodes), -1)
    parents[real] = np.concatenate([np.full((batch, 1), -1), states[:, :-1]], 1)[pushes]
    ends = np.where(real, count, np.arange(1, nodes + 1))
    row, at = pops.nonzero()
    ends[row, states[row, at - 1]] = node[row, at] + 1
    actions = mask & (np.arange(length) >= prompt[:, None])
    parts = (torch.from_numpy(x).to(given.device) for x in (actions, states, tokens, parents, depths, ends, real))
    return PrefixTree(given, *parts)


class ActionScores(NamedTuple):
    """What SequenceMatch asks of a batch: l and V of every action, the next state's V, and which positions are actions.

    All (B, T), aligned with the tree's ids; 0 where the position is no action.
    """

    scores: TokenScores
    following: torch.Tensor
    mask: torch.Tensor


def score_actions(model, tree: PrefixTree, *, chunk_size: int | None = None) -> ActionScores:
    """equals: for every action, the logits of the model fed with the visited prefix alone; one pass over the nodes

    model: a causal language model of transformers that takes a 4-D attention mask (`check_tree_attention`). Its last
    hidden states are gathered to the visited states, and `token_scores` makes l and V of them chunk by chunk.
    Differentiable. Cut states have their V too: `following` at the last action is that of the state it led to.
    """
    inner = getattr(model, "module", model)  # under DistributedDataParallel
    autocast = torch.is_autocast_enabled(tree.ids.device.type)
    dtype = torch.get_autocast_dtype(tree.ids.device.type) if autocast else inner.dtype
    out = model(
        input_ids=tree.tokens,
        attention_mask=tree.attention_mask(dtype),
        position_ids=tree.depths,
        output_hidden_states=True,
        logits_to_keep=1,
        use_cache=False,
    )
    head = inner.get_output_embeddings()
    acted = torch.cat([tree.actions[:, 1:], torch.zeros_like(tree.actions[:, :1])], 1)  # an action is taken after t
    rows, times = (acted | tree.actions).nonzero(as_tuple=True)  # positions whose state needs its V
    hidden = out.hidden_states[-1][rows, tree.states[rows, times]]  # (P, D)
    targets = torch.where(acted, tree.ids.roll(-1, 1), 0)[rows, times]
    flat = token_scores(hidden, head.weight, targets, bias=head.bias, chunk_size=chunk_size)
    empty = flat.logit.new_zeros(tree.ids.shape)
    logit, value = (empty.index_put((rows, times), x) for x in (flat.logit, flat.log_partition))
    before = [torch.where(tree.actions, x.roll(1, 1), 0) for x in (logit, value)]
    return ActionScores(TokenScores(*before), torch.where(tree.actions, value, 0), tree.actions)


@torch.no_grad()
def check_tree_attention(model) -> None:
    """Feeds a small tree once and its prefixes one by one; raises InputError (a ValueError) where they disagree.

    To be called before training: a model without attention over positions, or one that takes no 4-D mask, would
    otherwise learn from wrong states. The tolerance is a thousandth of the largest logit, two hundredths in bf16.
    """
    name = type(model).__name__
    refusal = InputError(f"{name} does not take a 4-D attention mask, so it cannot score the states after a backspace")
    backspace = model.config.vocab_size - 1
    row = torch.randint(backspace, (10,), generator=torch.Generator().manual_seed(0))
    row[[4, 5, 8]] = backspace
    tree = prefix_tree(row[None], backspace, prompt_length=2).to(model.device)
    training = model.training
    model.eval()
    try:
        try:
            got = score_actions(model, tree)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError) as error:
            raise refusal from error
        for at in range(2, 10):
            prefix, _ = apply_backspaces(row[:at].tolist(), backspace)
            logits = model(torch.tensor([prefix], device=model.device), use_cache=False).logits[0, -1]
            want = TokenScores.from_logits(logits, tree.ids[0, at])
            tolerance = max(1e-3, 2.5 * torch.finfo(model.dtype).eps) * logits.abs().max().item()
            found = (got.scores.logit[0, at] - want.logit, got.scores.log_partition[0, at] - want.log_partition)
            if not max(x.abs().item() for x in found) < tolerance:
                raise refusal
    finally:
        model.train(training)


def add_correction_noise(
    actions: torch.Tensor,
    rate: float,
    *,
    vocabulary: int,
    backspace_id: int,
    generator: torch.Generator,
    never: Collection[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Correction noise: before each action, at this rate, a random wrong token and the <backspace> that takes it back.

    actions (N,): a text's token ids. rate in [0, 0.5]: 0 leaves the text as it is. vocabulary: ids are drawn evenly
    from [0, vocabulary) without backspace_id, those in `never` (end and padding) and the right token.
    Returns the longer actions and their labels (True where an action is to be learned: all but the wrong tokens).
    Raises InputError (a ValueError) for a rate outside [0, 0.5], a text that holds a <backspace>, no id to draw.
    """
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 0.5:
        raise InputError(f"noise rate is {rate!r}; it must be a number in [0, 0.5]")
    if (actions == backspace_id).any():
        raise InputError("a data text holds <backspace>; corrections are spliced into plain texts only")
    drawable = torch.ones(vocabulary, dtype=torch.bool)
    drawable[[backspace_id, *never]] = False
    candidates = drawable.nonzero()[:, 0]
    if len(candidates) < 2:
        raise InputError(f"a vocabulary of {len(candidates)} tokens has no wrong token to draw; it needs at least 2")
    noisy = torch.rand(len(actions), generator=generator) < rate
    places = noisy.nonzero()[:, 0]
    right = actions[places].cpu()
    choices = len(candidates) - drawable[right].long()  # the last one stands in for the right token
    draw = torch.rand(len(places), generator=generator, dtype=torch.float64) * choices
    wrong = candidates[draw.long()]
    wrong = torch.where(wrong == right, candidates[-1], wrong).to(actions.device)
    end = torch.arange(len(actions)) + 2 * noisy.cumsum(0)  # where the text's own tokens go
    spliced = actions.new_full((len(actions) + 2 * len(places),), backspace_id)
    spliced[end] = actions
    spliced[end[places] - 2] = wrong
    labels = torch.ones(len(spliced), dtype=torch.bool, device=actions.device)
    labels[end[places] - 2] = False
    return spliced, labels


def apply_backspaces(actions: Sequence[int], backspace_id: int) -> tuple[list[int], int]:
    """The token ids that an action sequence leaves, and how many tokens it took back.

    Raises InputError (a ValueError) where a <backspace> has nothing to take back.
    """
    text, num_deleted = [], 0
    for at, action in enumerate(actions):
        if action != backspace_id:
            text.append(action)
        elif text:
            text.pop()
            num_deleted += 1
        else:
            raise InputError(f"<backspace> at position {at} has nothing to take back")
    return text, num_deleted


def segments(actions: Sequence[int], backspace_id: int) -> list[tuple[list[int], bool]]:
    """All token ids in the order in which they were written, in runs: (ids, whether they were left standing).

    equals, for the runs left standing joined together: undo(actions, backspace_id)[0]
    """
    tokens, kept, stack = [], [], []
    for action in actions:
        if action == backspace_id:
            kept[stack.pop()] = False
        else:
            stack.append(len(tokens))
            tokens.append(action)
            kept.append(True)
    runs = groupby(zip(tokens, kept, strict=True), key=lambda pair: pair[1])
    return [([token for token, _ in run], stands) for stands, run in runs]


class TreePicture(NamedTuple):
    """One row's tree as plain lists, for a drawing: nodes in the order in which they were written."""

    labels: list[str]
    parents: list[int]  # -1 at the first node
    depths: list[int]
    mask: list[list[bool]]  # mask[i][j]: node i attends to node j
    kept: list[bool]  # whether the node is part of the text that is left


def tree_picture(tree: PrefixTree, row: int, label) -> TreePicture:
    """The tree of one row; label(token id) -> the text beside its node."""
    real = tree.real[row]
    mask = tree.ancestors()[row][real][:, real]
    labels = [label(token) for token in tree.tokens[row][real].tolist()]
    parents, depths = (x[row][real].tolist() for x in (tree.parents, tree.depths))
    return TreePicture(labels, parents, depths, mask.tolist(), mask[tree.states[row, -1]].tolist())


def tree_text(picture: TreePicture) -> str:
    """The tree in plain text: one node a line, indented where paths part; ~~struck~~ where it was taken back.

    >>> print(tree_text(TreePicture(["a", "x", "b"], [-1, 0, 0], [0, 1, 1], [], [True, False, True])))
    a
      ~~x~~
    b
    """
    lines = []
    for label, depth, kept in zip(picture.labels, picture.depths, picture.kept, strict=True):
        lines.append(label if kept else "  " * depth + f"~~{label}~~")
    return "\n".join(lines)


def add_backspace(model, tokenizer) -> int:
    """Gives model and tokenizer the <backspace> token, whose embedding rows start at the mean of the rows; its id.

    The token is special: decoding with skip_special_tokens leaves it out. The model's configuration keeps its id as
    `backspace_token_id`, and its generation_config suppresses it, so plain `generate` never writes it. All of that is
    saved and loaded with the two. A second call changes nothing.
    Raises InputError (a ValueError) where the tokenizer or the model already has a different <backspace>.
    """
    known = getattr(model.config, "backspace_token_id", None)
    rows = model.get_input_embeddings().weight.shape[0]
    backspace_id = tokenizer.get_vocab().get(BACKSPACE)
    if backspace_id is not None and backspace_id == known:
        return backspace_id
    foreign = backspace_id is not None and (BACKSPACE not in tokenizer.all_special_tokens or backspace_id < rows)
    if foreign or known is not None:
        where = f"id {backspace_id} in the tokenizer, {known} in the model"
        raise InputError(f"there already is a different {BACKSPACE} ({where}); take a pair in which it is not in use")
    words = min(rows, len(tokenizer))  # rows beyond are padding
    if backspace_id is None:
        tokenizer.add_special_tokens({"extra_special_tokens": [BACKSPACE]}, replace_extra_special_tokens=False)
        backspace_id = tokenizer.convert_tokens_to_ids(BACKSPACE)
    if backspace_id >= rows:
        model.resize_token_embeddings(backspace_id + 1, mean_resizing=False)
    head = model.get_output_embeddings()
    parameters = [model.get_input_embeddings().weight, head.weight, head.bias]
    with torch.no_grad():
        for rows_of in {id(x): x for x in parameters if x is not None}.values():  # tied embeddings count once
            rows_of[backspace_id] = rows_of[:words].mean(0)
    model.config.backspace_token_id = backspace_id
    suppressed = model.generation_config.suppress_tokens or []
    model.generation_config.suppress_tokens = sorted({*suppressed, backspace_id})
    return backspace_id
