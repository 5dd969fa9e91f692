"""What a model and its tokenizer must be able to do, checked before anything trains."""

from mixkit._common import InputError
from mixkit.models.backspace import check_tree_attention, known_backspace
from mixkit.models.head import check_head
from mixkit.models.likelihood import ENDS
from mixkit.models.loading import check_positions, start_token


def check_model_support(model, tokenizer, *, backtracking: bool, max_tokens: int, new_tokens: int = 0) -> None:
    """Raise InputError for what would fail after the start: training, likelihoods or sampling.

    Checked are the end token, token ids and positions, the head (`check_head`) and, with backtracking or where the
    model has <backspace> already, that token and the attention (`check_tree_attention`).
    max_tokens: of a text. new_tokens: of a prompt and its continuation. Neither counts start and end token.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token; choose a model whose tokenizer has one")
    ordinary = set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    largest = max(ordinary | {start_token(tokenizer), tokenizer.eos_token_id})
    rows = len(model.get_input_embeddings().weight)
    if largest >= rows:
        raise InputError(
            f"the tokenizer has token {largest}, the model's embedding {rows} rows: they do not belong together"
        )
    check_positions(model, "max_tokens", max_tokens, ENDS)
    check_positions(model, "prompt_tokens + max_new_tokens", new_tokens, 1)
    check_head(model)
    if backtracking or known_backspace(model, tokenizer) is not None:
        check_tree_attention(model, max(max_tokens, new_tokens))
