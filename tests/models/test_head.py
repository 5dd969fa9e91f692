"""The head: scale and soft cap of every architecture that transformers can build at toy size, and refusals."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mixkit import MixCE, weighted_cross_entropy
from mixkit._common import InputError
from mixkit.models.head import check_head, last_hidden, lm_head
from mixkit.models.likelihood import batch_nll, collate_groups, text_nll
from mixkit.models.trainer import finetune

VOCABULARY = 61
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "num_heads"), 2),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "state_size"), 8),
    **dict.fromkeys(("head_dim", "v_head_dim", "moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **{"n_group": 1, "topk_group": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True},
    **{"max_position_embeddings": 64, "n_positions": 64, "vocab_size": VOCABULARY, "initializer_range": 0.2},
    **{"logits_scaling": 8.0, "logit_scale": 0.3, "lm_head_multiplier": 0.5},
}
# the output embedding reads other states than the last hidden ones, or a state depends on later tokens
BERTS = {"bert", "camembert", "electra", "ernie", "megatron-bert", "rembert", "roformer", "xmod", "big_bird"}
ROBERTAS = {"roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "data2vec-text"}
REFUSED = BERTS | ROBERTAS | {"cpmant", "modernbert-decoder", "xlm"}
KNOWN = {
    "cohere": (0.3, None),
    "falcon_h1": (0.5, None),
    "gemma2": (1.0, 30.0),
    "granite": (0.125, None),
    "minicpm3": (8.0, None),
    "nanochat": (1.0, 15.0),
}


def build(kind):
    """A random model of this kind with large logits, None where these sizes do not fit it."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    for left_out in ((), ("head_dim",), ("v_head_dim",)):
        try:
            config = CONFIG_MAPPING[kind](**{name: size for name, size in SMALL.items() if name not in left_out})
            architecture = getattr(transformers, names if isinstance(names, str) else names[0])
            with torch.device("meta"):
                size = sum(p.numel() for p in architecture(config).parameters())
            if size > 3e6:
                return None
            torch.manual_seed(0)
            model = architecture(config).eval()
            model(torch.ones(1, 9, dtype=torch.long), use_cache=False)
        except Exception:
            continue
        if isinstance(head := model.get_output_embeddings(), torch.nn.Linear):
            model.set_output_embeddings(copy.deepcopy(head))  # no longer tied to the input embedding
            model.get_output_embeddings().weight.data *= 10
        return model
    return None


@pytest.mark.slow
def test_every_architecture_has_its_own_nll_or_is_refused(capsys):
    """Against the model's own logits, at many positions and at logits so large that a soft cap matters."""
    transformers.utils.logging.set_verbosity(transformers.utils.logging.CRITICAL)
    ids = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    errors: dict[str, float | None] = {}
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        model = build(kind)
        if model is None:
            continue
        try:
            check_head(model)
        except InputError:
            errors[kind] = None
            continue
        with torch.no_grad():
            nll, tokens = batch_nll(model, collate_groups(ids.tolist()))
            logits = model(ids, use_cache=False).logits.double()
            own = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        errors[kind] = ((nll - own.sum(1)) / tokens).abs().max().item()
        head = lm_head(model)
        assert KNOWN.get(kind, (head.scale, head.soft_cap)) == (head.scale, head.soft_cap)
    with capsys.disabled():
        print(*(f"\n{kind}: {'refused' if e is None else format(e, '.0e')}" for kind, e in errors.items()))
    assert len(errors) >= 100 and {kind for kind, error in errors.items() if error is None} <= REFUSED
    assert max(error for error in errors.values() if error is not None) < 1e-4


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere", "inkling_text"])
def test_gradients_go_through_scale_and_cap(kind):
    model = build(kind)
    ids = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    loss = weighted_cross_entropy(
        last_hidden(model, ids)[:, :-1], targets=ids[:, 1:], objective=MixCE(0.3), **vars(lm_head(model))
    )
    nll = F.cross_entropy(
        model(ids, use_cache=False).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    own = (MixCE(0.3).weight((-nll).exp()).detach() * nll).mean()
    got, expected = (
        torch.autograd.grad(x, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
        for x in (loss, own)
    )
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)
    for one, other in zip(got, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


class Changed(transformers.GPT2LMHeadModel):
    """A model that changes its logits in a way that few tokens show."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = self.change(output.logits)
        return output


def changed(toy, change):
    model = Changed(toy[0].config)
    model.load_state_dict(toy[0].state_dict())
    model.change = change
    return model


@pytest.mark.parametrize(
    ("change", "head"),
    [
        (lambda logits: logits, (1.0, None)),
        (lambda logits: logits * 0.3, (0.3, None)),
        (lambda logits: 50 * torch.tanh(logits / 50), (1.0, 50.0)),
        (lambda logits: 5 * torch.tanh(0.5 * logits / 5), (0.5, 5.0)),
    ],
)
def test_scale_and_cap_are_measured(toy, change, head):
    model = changed(toy, change).train()
    check_head(model)
    assert (lm_head(model).scale, lm_head(model).soft_cap) == head and model.training


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits.clamp(-5, 5),
        lambda logits: 5 * torch.erf(logits / 5),
        lambda logits: logits.log_softmax(-1),
        lambda logits: logits + 0.01,
        lambda logits: logits - 2.0 * (torch.arange(logits.shape[-1]) == 7),
        lambda logits: logits * torch.linspace(1, 2, logits.shape[1])[:, None],
        lambda logits: torch.where(logits.abs() > 40, logits / 2, logits),
    ],
)
def test_other_changes_of_the_logits_are_refused(toy, change):
    with pytest.raises(InputError, match="Changed cannot be used: it changes its logits"):
        check_head(changed(toy, change))


def test_a_hook_on_the_output_embedding_is_refused(toy):
    model = copy.deepcopy(toy[0])
    model.lm_head.register_forward_hook(
        lambda module, args, output: output + args[0].square()[..., :1] * torch.arange(output.shape[-1])
    )
    with pytest.raises(InputError, match="it changes its last hidden states before the output embedding"):
        check_head(model)


def test_every_way_in_refuses(toy, tmp_path):
    """RoBERTa's head has a layer of its own, and a BERT that is no decoder reads later tokens."""
    _, tokenizer, texts = toy
    small = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 1, "</s>": 2})), eos_token="</s>")
    for kind in ("roberta", "xlm"):
        model = build(kind)
        with pytest.raises(InputError, match=r"cannot be used: it(s hidden states depend| changes its last hidden)"):
            text_nll(model, tokenizer, texts[:2], max_tokens=8)
        with pytest.raises(InputError, match="cannot be used"):
            finetune(model, small, MixCE(0.3), texts, texts, folder=tmp_path, max_tokens=8, max_steps=1)


def test_weights_that_are_not_finite_are_called_so(toy):
    model = copy.deepcopy(toy[0])
    model.transformer.h[1].mlp.c_fc.weight.data[3, 3] = torch.nan
    with pytest.raises(InputError, match="the logits of GPT2LMHeadModel are not finite: its training diverged"):
        text_nll(model, *toy[1:2], toy[2][:2], max_tokens=8)
