"""Prefix trees against a stack and against the model on each prefix alone; correction noise; the token."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from mixkit import SequenceMatch, TokenScores
from mixkit._common import InputError
from mixkit.models.backspace import (
    BACKSPACE,
    add_backspace,
    add_correction_noise,
    apply_backspaces,
    check_tree_attention,
    prefix_tree,
    score_actions,
    segments,
)

VOCABULARY, BACK = 11, 10


def toy_model(kind="gpt2", attention="sdpa", dtype=torch.float64, vocabulary=VOCABULARY, tied=True):
    torch.manual_seed(0)
    common = {
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "attn_implementation": attention,
        "initializer_range": 0.5,
        "tie_word_embeddings": tied,
    }
    if kind == "gpt2":
        dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, **dropout, **common))
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=32, max_position_embeddings=64, **sizes, **common))
    return model.to(dtype)


def random_actions(batch, length, seed=0, rate=0.4):
    """Action sequences of random lengths, at most `length`, with many backspaces."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high: int(torch.randint(high, (1,), generator=generator))  # noqa: E731
    rows = []
    for _ in range(batch):
        row, height = [], 0
        for _ in range(length - draw(length)):
            back = height > 1 and torch.rand(1, generator=generator) < rate
            row.append(BACK if back else draw(BACK))
            height += -1 if back else 1
        rows.append(row)
    return rows


def stack_oracle(actions):
    """Nodes (token, parent, depth) and the node on top after every action, by a plain stack."""
    nodes, stack, tops = [], [], []
    for action in actions:
        if action == BACK:
            stack.pop()
        else:
            nodes.append((action, stack[-1] if stack else -1, len(stack)))
            stack.append(len(nodes) - 1)
        tops.append(stack[-1])
    return nodes, tops


def test_the_example_of_the_paper():
    """Actions x1 x2 n <backspace> x3 after a start token visit start, x1, x2, n, x2, x3."""
    start, x1, x2, n, x3 = 0, 1, 2, 3, 4
    tree = prefix_tree(torch.tensor([[start, x1, x2, n, BACK, x3]]), BACK)
    assert tree.tokens.tolist() == [[start, x1, x2, n, x3]]
    assert tree.depths.tolist() == [[0, 1, 2, 3, 3]]
    assert tree.states.tolist() == [[0, 1, 2, 3, 2, 4]]
    assert tree.actions.tolist() == [[False] + [True] * 5]
    assert tree.ancestors()[0, 4].tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7), (5, 31), (2, 64)])
def test_tree_equals_a_stack(batch, length):
    rows = random_actions(batch, length, seed=length)
    tree = prefix_tree(rows, BACK)
    ancestors, needed = tree.ancestors(), tree.actions | tree.actions.roll(-1, 1)  # before or after an action
    assert tree.scored.T.tolist() == needed.nonzero().tolist()
    for row, actions in enumerate(rows):
        nodes, tops = stack_oracle(actions)
        count = len(nodes)
        assert tree.real[row].sum() == count
        assert tree.tokens[row, :count].tolist() == [token for token, _, _ in nodes]
        assert tree.depths[row, :count].tolist() == [depth for _, _, depth in nodes]
        assert tree.states[row, : len(actions)].tolist() == tops
        assert tree.actions[row].tolist() == [0 < t < len(actions) for t in range(tree.actions.shape[1])]
        for i in range(tree.tokens.shape[1]):
            expected, node = {i}, i
            while i < count and nodes[node][1] >= 0:
                node = nodes[node][1]
                expected.add(node)
            assert set(ancestors[row, i].nonzero()[:, 0].tolist()) == expected


def test_without_backspace_it_is_the_causal_mask():
    """Identity 11, masks and positions."""
    ids = torch.randint(BACK, (3, 9), generator=torch.Generator().manual_seed(0))
    tree = prefix_tree(ids, BACK)
    assert torch.equal(tree.tokens, ids)
    assert torch.equal(tree.ancestors(), torch.ones(9, 9).tril().bool().expand(3, -1, -1))
    assert torch.equal(tree.depths, torch.arange(9).expand(3, -1))
    assert torch.equal(tree.states, torch.arange(9).expand(3, -1))


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([[0, 1, BACK, BACK]], "position 3 of row 0"),
        ([[0, 1, BACK, 2], [0, BACK]], "position 1 of row 1"),
        ([[BACK, 1]], "position 0 of row 0"),
    ],
)
def test_invalid_action_sequences(rows, place):
    with pytest.raises(InputError, match=f"<backspace> at {place} has no token to delete"):
        prefix_tree(rows, BACK)


# The pass through a model

MODELS = [
    ("gpt2", "eager", 1e-10),
    ("gpt2", "sdpa", 1e-10),
    ("llama", "sdpa", 1e-10),
    ("llama", "eager", 1e-5),  # its softmax is float32 whatever the model's dtype
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "attention", "tolerance"), MODELS)
@pytest.mark.parametrize("tied", [True, False])
def test_one_pass_equals_every_prefix_alone(kind, attention, tolerance, tied):
    """Identity 10: l, V and the next state's V of every action."""
    model = toy_model(kind, attention, tied=tied).eval()
    tree = prefix_tree(random_actions(4, 20, seed=3), BACK)
    ids = tree.ids
    with torch.no_grad():
        scores, following = score_actions(model, tree)
    assert (ids[tree.actions] == BACK).sum() > 5
    for row, t in tree.actions.nonzero().tolist():
        with torch.no_grad():
            before, after = (
                model(torch.tensor([apply_backspaces(ids[row, :end].tolist(), BACK)[0]])).logits[0, -1]
                for end in (t, t + 1)
            )
        want = TokenScores.from_logits(before, ids[row, t])
        assert abs(scores.logit[row, t] - want.logit) < tolerance
        assert abs(scores.log_partition[row, t] - want.log_partition) < tolerance
        assert abs(following[row, t] - after.logsumexp(-1)) < tolerance
    assert (scores.logit[~tree.actions] == 0).all() and (following[~tree.actions] == 0).all()


@pytest.mark.parametrize(("kind", "attention", "tolerance"), MODELS)
def test_without_backspace_the_pass_is_the_ordinary_one(kind, attention, tolerance):
    """Identity 11, values and gradients."""
    model = toy_model(kind, attention)
    ids = torch.randint(BACK, (3, 9), generator=torch.Generator().manual_seed(0))
    scores, following = score_actions(model, prefix_tree(ids, BACK))
    logits = model(ids).logits
    want, values = TokenScores.from_logits(logits[:, :-1], ids[:, 1:]), logits.logsumexp(-1)
    torch.testing.assert_close(scores.logit[:, 1:], want.logit, rtol=0, atol=tolerance)
    torch.testing.assert_close(scores.log_partition[:, 1:], want.log_partition, rtol=0, atol=tolerance)
    torch.testing.assert_close(following[:, 1:], values[:, 1:], rtol=0, atol=tolerance)
    parameters = list(model.parameters())
    losses = [scores.nll.square().sum() + following.sin().sum()]
    losses.append(want.nll.square().sum() + values[:, 1:].sin().sum())
    for a, b in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8 if tolerance < 1e-8 else 1e-3, atol=100 * tolerance)


def test_tree_gradients_equal_those_of_single_prefixes():
    model = toy_model()
    tree = prefix_tree(random_actions(2, 12, seed=1), BACK)
    ids = tree.ids
    scores, following = score_actions(model, tree)
    loss = (scores.logit.sin() + scores.log_partition.square() + following.cos())[tree.actions].sum()
    expected = 0
    for row, t in tree.actions.nonzero().tolist():
        before, after = (
            model(torch.tensor([apply_backspaces(ids[row, :end].tolist(), BACK)[0]])).logits[0, -1]
            for end in (t, t + 1)
        )
        expected += before[ids[row, t]].sin() + before.logsumexp(-1).square() + after.logsumexp(-1).cos()
    for a, b in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_autocast_to_bf16(kind, attention):
    model = toy_model(kind, attention, torch.float32)
    tree = prefix_tree(random_actions(3, 10), BACK)
    _, want = score_actions(model, tree)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, following = score_actions(model, tree)
    assert scores.logit.dtype == following.dtype == torch.float32
    assert (following - want).abs().max() < 0.1 * want.abs().max()


def test_sequence_match_has_finite_gradients():
    """From ids to a finite gradient, data and model samples in one batch."""
    model = toy_model()
    tree = prefix_tree(random_actions(5, 14), BACK)
    scores, following = score_actions(model, tree)
    data, samples = slice(0, 3), slice(3, 5)
    rows = lambda part: (TokenScores(scores.logit[part], scores.log_partition[part]), following[part])  # noqa: E731
    loss = SequenceMatch(0.1, 0.9)(
        *rows(data), *rows(samples), data_mask=tree.actions[data], model_mask=tree.actions[samples]
    )
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "attention"), [(kind, attention) for kind, attention, _ in MODELS])
def test_models_that_take_a_tree_mask(kind, attention, dtype):
    check_tree_attention(toy_model(kind, attention, dtype))


class IgnoresTheMask(GPT2LMHeadModel):
    def forward(self, *args, attention_mask=None, **kwargs):
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_models_without_a_tree_mask_are_refused(dtype):
    refused = [
        IgnoresTheMask(GPT2Config(vocab_size=11, n_layer=2, n_head=2, n_embd=16, bos_token_id=0, eos_token_id=1)),
        MambaForCausalLM(MambaConfig(vocab_size=11, hidden_size=16, num_hidden_layers=1, state_size=4)),
        BloomForCausalLM(BloomConfig(vocab_size=11, hidden_size=16, n_layer=2, n_head=2)),
    ]
    for model in refused:
        with pytest.raises(InputError, match=f"{type(model).__name__} does not take a 4-D attention mask"):
            check_tree_attention(model.to(dtype))


# Correction noise and deletions


def test_noise_is_wrong_tokens_deleted_at_once():
    text = torch.randint(2, 9, (20000,), generator=torch.Generator().manual_seed(0))
    settings = {"candidates": torch.arange(2, 10), "backspace_id": BACK}
    actions, labels = add_correction_noise(text, 0.1, generator=torch.Generator().manual_seed(1), **settings)
    left, num_deleted = apply_backspaces(actions.tolist(), BACK)
    assert left == text.tolist()
    wrong = (~labels).nonzero()[:, 0]
    assert len(wrong) == num_deleted == pytest.approx(2000, abs=4 * (20000 * 0.1 * 0.9) ** 0.5)
    assert (actions[wrong + 1] == BACK).all() and labels[wrong + 1].all()
    assert (actions[wrong] != actions[wrong + 2]).all()  # never the right token
    counts = actions[wrong].bincount(minlength=VOCABULARY)
    assert (counts[[0, 1, BACK]] == 0).all()
    p = [6 / 7 / 7] * 7 + [1 / 7]  # 8 tokens to draw; 2 to 8 are right one time in 7 and then not drawn, 9 never is
    for token, share in zip(range(2, 10), p, strict=True):
        assert abs(counts[token] - num_deleted * share) < 4 * (num_deleted * share * (1 - share)) ** 0.5
    again = add_correction_noise(text, 0.1, generator=torch.Generator().manual_seed(1), **settings)
    assert torch.equal(actions, again[0]) and torch.equal(labels, again[1])


def test_a_token_outside_the_candidates_gets_noise():
    text = torch.ones(4000, dtype=torch.long)  # the end token
    generator = torch.Generator().manual_seed(1)
    candidates = torch.tensor([0, 2, 3])
    actions, labels = add_correction_noise(text, 0.5, candidates=candidates, backspace_id=4, generator=generator)
    counts = actions[~labels].bincount(minlength=5).tolist()
    assert counts[1] == counts[4] == 0
    assert all(abs(count - sum(counts) / 3) < 4 * (sum(counts) * 2 / 9) ** 0.5 for count in (counts[0], *counts[2:4]))


@pytest.mark.parametrize("text", [[1, 2, 3], []])
def test_rate_zero_and_empty_texts(text):
    settings = {"candidates": torch.tensor([2, 3, 4]), "backspace_id": BACK, "generator": torch.Generator()}
    actions, labels = add_correction_noise(torch.tensor(text, dtype=torch.long), 0, **settings)
    assert actions.tolist() == text and labels.all() and len(labels) == len(text)


def test_apply_backspaces():
    assert apply_backspaces([1, 2, 3, BACK, BACK, 4], BACK) == ([1, 4], 2)
    assert apply_backspaces([], BACK) == ([], 0)
    with pytest.raises(InputError, match="<backspace> at position 2 has no token to delete"):
        apply_backspaces([1, BACK, BACK], BACK)


def test_segments():
    b = 9
    assert segments([1, 2, 3, b, 4, 5, b, b, 6], b) == [([1, 2], True), ([3, 4, 5], False), ([6], True)]
    assert segments([1, b], b) == [([1], False)] and segments([], b) == []


# The token


def toy_tokenizer(words=("<end>", "a", "b", "c")):
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


@pytest.mark.parametrize("rows", [4, 8])  # 8: an embedding padded beyond the tokenizer's 4 tokens
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_backspace_is_added_saved_and_loaded(kind, tied, rows, tmp_path):
    model, tokenizer = toy_model(kind, vocabulary=rows, tied=tied), toy_tokenizer()
    before = [x.weight.detach().clone() for x in (model.get_input_embeddings(), model.get_output_embeddings())]
    backspace_id = add_backspace(model, tokenizer)
    assert backspace_id == 4 == tokenizer.convert_tokens_to_ids(BACKSPACE) == model.config.backspace_token_id
    for old, module in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert module.weight.shape[0] == max(rows, 5)
        torch.testing.assert_close(module.weight[4], old[:4].mean(0))
        torch.testing.assert_close(module.weight[:4], old[:4], rtol=0, atol=0)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied

    assert tokenizer.decode([1, 4, 2], skip_special_tokens=True).split() == ["a", "b"]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    loaded.get_input_embeddings().weight.data[4] += 1  # trained since
    kept = loaded.get_input_embeddings().weight.detach().clone()
    for _ in range(2):
        assert add_backspace(loaded, words) == 4
    assert torch.equal(loaded.get_input_embeddings().weight, kept)
    assert words.decode([1, 4, 2], skip_special_tokens=True).split() == ["a", "b"]


def test_plain_generation_never_samples_backspace():
    model, tokenizer = toy_model(vocabulary=4), toy_tokenizer()
    backspace_id = add_backspace(model, tokenizer)
    head = torch.nn.Linear(16, 5, dtype=torch.float64)
    head.bias.data[backspace_id] = 50
    model.set_output_embeddings(head)
    model.eval()
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 20, "pad_token_id": 0}
    prompt = {"input_ids": torch.tensor([[1]] * 8), "attention_mask": torch.ones(8, 1)}
    torch.manual_seed(0)
    assert (model.generate(**prompt, **settings) != backspace_id).all()
    assert (model.generate(**prompt, **settings, suppress_tokens=None)[:, 1:] == backspace_id).all()


def test_a_tokenizer_serves_a_second_model():
    tokenizer = toy_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["b"]})
    assert [add_backspace(toy_model(vocabulary=4), tokenizer) for _ in range(2)] == [4, 4]
    assert {"b", BACKSPACE} <= set(tokenizer.all_special_tokens)


def test_a_different_backspace_is_refused():
    word = toy_tokenizer(("<end>", "a", BACKSPACE, "c"))
    with pytest.raises(InputError, match=r"there already is a different <backspace> \(id 2 in the tokenizer, None in"):
        add_backspace(toy_model(vocabulary=4), word)
    special = toy_tokenizer()
    special.add_special_tokens({"extra_special_tokens": [BACKSPACE]})
    with pytest.raises(InputError, match="id 4 in the tokenizer, None in the model"):
        add_backspace(toy_model(vocabulary=8), special)  # a row that someone has trained
    model = toy_model(vocabulary=4)
    add_backspace(model, toy_tokenizer())
    with pytest.raises(InputError, match="id None in the tokenizer, 4 in the model"):
        add_backspace(model, toy_tokenizer())
