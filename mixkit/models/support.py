"""What a model and its tokenizer must be able to do, checked before anything trains."""

import os
import shutil
import sys

from mixkit._common import InputError
from mixkit.models.backspace import check_tree_attention, known_backspace
from mixkit.models.head import check_head
from mixkit.models.likelihood import ENDS
from mixkit.models.loading import check_positions, default_device, start_token


def check_model_support(
    model, tokenizer, *, backtracking: bool, max_tokens: int, new_tokens: int = 0, torch_compile: bool = False
) -> None:
    """Raise InputError for what would fail after the start: training, likelihoods or sampling.

    Checked are the end token, token ids, positions, precision of the weights, the head (`check_head`), a C++ compiler
    for torch_compile on a CPU and, with backtracking or <backspace> in the model, that token and the tree's attention.
    max_tokens: of a text. new_tokens: of a prompt and its continuation. Neither counts start and end token.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if torch_compile and default_device().type == "cpu" and shutil.which(compiler) is None:
        raise InputError(f"torch_compile needs a C++ compiler; there is no {compiler}: install one, or leave it off")
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token; choose a model whose tokenizer has one")
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    largest = max(ordinary | {start_token(tokenizer), tokenizer.eos_token_id})
    rows = len(model.get_input_embeddings().weight)
    if largest >= rows:
        raise InputError(
            f"the tokenizer has token {largest}, the model's embedding {rows} rows: they do not belong together"
        )
    if any(weight.requires_grad and weight.dtype.itemsize < 4 for weight in model.parameters()):
        raise InputError("the weights have half precision, which loses small steps; load them with dtype=torch.float32")
    check_positions(model, "max_tokens", max_tokens, ENDS)
    check_positions(model, "prompt_tokens + max_new_tokens", new_tokens, 1)
    check_head(model)
    if backtracking or known_backspace(model, tokenizer) is not None:
        check_tree_attention(model, max(max_tokens, new_tokens))
