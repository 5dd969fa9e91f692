"""Metrics under the story grammar: validity of texts, and how well a model covers the distribution."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from mixkit._common import InputError
from mixkit.metrics.statistics import Estimate, bootstrap, wilson_interval
from mixkit.models.head import last_hidden, lm_head
from mixkit.models.loading import start_token
from mixkit.texts.story_grammar import Grammar, tales_grammar


def score_texts(texts: Sequence[str], prompts: Sequence[str], *, grammar: Grammar | None = None) -> dict[str, Estimate]:
    """Quality of whole texts, each with its prompt, under the grammar. A prompt may be empty.

      valid_text_rate    share of texts with a positive probability, in [0, 1]; Wilson's interval
      valid_prefix_rate  (words after the prompt and before a text's first mistake) / (words after the prompt), in
                         [0, 1]; bootstrap over texts. It tells small models apart, whose texts are all invalid
      grammar_nll        mean of -log P(text) over the valid texts, nats per text; bootstrap over texts. For human texts
                         the grammar's entropy. Lower is not better, only more usual

    Raises InputError without texts, with another number of prompts, and if a text does not begin with its prompt.
    """
    grammar = grammar or tales_grammar()
    if not texts or len(texts) != len(prompts):
        raise InputError(f"{len(texts)} texts and {len(prompts)} prompts; as many of both are needed, at least one")
    for text, prompt in zip(texts, prompts, strict=True):
        if not text.startswith(prompt):
            raise InputError(f"a text begins {text[:40]!r}, not with its prompt {prompt[:40]!r}; give whole texts")
    log_probs = np.array([grammar.log_prob(text) for text in texts])
    valid = log_probs > -math.inf
    prompt_words = np.array([len(prompt.split()) for prompt in prompts])
    right = np.array([len(grammar.longest_prefix(text).split()) for text in texts]) - prompt_words
    written = np.array([len(text.split()) for text in texts]) - prompt_words
    scores = {
        "valid_text_rate": wilson_interval(int(valid.sum()), len(texts)),
        "valid_prefix_rate": Estimate.absent("no word was written"),
        "grammar_nll": Estimate.absent(f"none of {len(texts)} texts is valid under the grammar"),
    }
    if written.any():
        scores["valid_prefix_rate"] = bootstrap(np.maximum(right, 0), written, statistic=np.divide)
    if valid.any():
        scores["grammar_nll"] = bootstrap(-log_probs[valid])
    return scores


def coverage(
    nats: ArrayLike, texts: Sequence[str], *, cut: int = 0, grammar: Grammar | None = None
) -> dict[str, Estimate]:
    """How well a model Q covers the language, from texts of the grammar P. Both in nats per text; bootstrap over texts.

      forward_ce  -E_P log Q, at least grammar.entropy()
      forward_kl  E_P log P/Q, at least 0 in the mean. Its interval is narrower, because log P drops out

    nats: -log Q of each text (N,) and its end, in the tokenizer's own tokens. A model may write a text in other tokens
    too, so both numbers are upper bounds. cut: number of texts that the model read only in part; if there are any, both
    numbers are absent. Raises InputError if a text is outside the language.
    """
    grammar = grammar or tales_grammar()
    if cut:
        absent = Estimate.absent(f"{cut} of {len(texts)} texts are longer than max_tokens")
        return {"forward_ce": absent, "forward_kl": absent}
    log_probs = np.array([grammar.log_prob(text) for text in texts])
    if not np.isfinite(log_probs).all():
        raise InputError(f"text {int(log_probs.argmin())} is outside the language; coverage needs undamaged texts")
    nll = np.asarray(nats, dtype=float)
    return {"forward_ce": bootstrap(nll), "forward_kl": bootstrap(nll + log_probs)}


@torch.no_grad()
def valid_next_auc(model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> Estimate:
    """How well the model ranks valid next words above invalid ones: AUC, mean over places, bootstrap over texts.

    AUC: the probability that a word which the grammar allows at a place between two words has a higher logit, of its
    first token, than a word which it does not, in [0, 1]; 0.5 is chance. No temperature changes it. Words that share
    their first token with a valid one are left out. texts: of the grammar. max_tokens: of a text that are read.
    """
    grammar = tales_grammar()
    words = [word for word in grammar.vocabulary if word[0].isalnum()]
    first_tokens = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    token_of = {word: ids[0] for word, ids in zip(words, first_tokens, strict=True)}
    candidates = np.array(sorted(set(token_of.values())))
    head = lm_head(model)
    weight, bias = head.head_weight[candidates], None if head.bias is None else head.bias[candidates]
    sums = np.zeros((len(texts), 2))
    for row, text in zip(sums, texts, strict=True):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [start_token(tokenizer), *encoded["input_ids"][:max_tokens]]
        token_at = {begin: i for i, (begin, _) in enumerate(encoded["offset_mapping"][:max_tokens])}
        hidden = last_hidden(model, torch.tensor([ids], device=model.device))[0]
        scores = torch.nn.functional.linear(hidden, weight, bias).float().cpu().numpy()  # scale or cap keep the order
        ranks = rankdata(scores, axis=1)  # among all candidates
        for end, following in grammar.next_words(text):
            index = token_at.get(end, token_at.get(end + 1))  # of the token that begins with the blank, or after it
            is_valid = np.isin(candidates, [token_of[word] for word in following if word in token_of])
            if text[end : end + 1] != " " or index is None or is_valid.all() or not is_valid.any():
                continue
            count = is_valid.sum()
            u = ranks[index][is_valid].sum() - count * (count + 1) / 2  # Mann and Whitney's
            row += u / (count * (~is_valid).sum()), 1
    if not sums[:, 1].any():
        return Estimate.absent("no place in the texts has both valid and invalid next words")
    return bootstrap(*sums.T, statistic=np.divide)
