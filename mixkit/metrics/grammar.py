"""What a model learned of the tales, asked of their grammar, which knows every text's probability: quality, coverage.
Numbers of whole texts and of a model's nll of them; the grammar itself is tales.py's."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from mixkit._common import InputError
from mixkit.metrics.statistics import Estimate, bootstrap, wilson_interval
from mixkit.texts.story_grammar import Grammar

CORPORA = ("tales", "tales-noisy")
NAMES = (
    "valid_prefix_rate",
    "valid_text_rate",
    "grammar_nll",
    "forward_ce",
    "forward_kl",
)  # most telling first


def knows(corpus: str) -> bool:
    """Whether the texts of that corpus come from the grammar, damaged ones included."""
    return corpus.partition(":")[0] in CORPORA


@cache
def stories() -> Grammar:
    """The grammar of the corpus `tales`, read once."""
    return Grammar()


def score_texts(
    texts: Sequence[str], prompts: Sequence[str] | None = None, *, grammar: Grammar | None = None
) -> dict[str, Estimate]:
    """Quality of whole texts, prompt included, by their probability under the grammar. Empty prompts by default.

      tales_inside           share of texts inside the language, in [0, 1]; Wilson's interval
      tales_valid_prefix     words written before a text's first mistake / words written: 1 where no text has one. What
                             small models differ in, of whose texts hardly one is inside; bootstrap over texts
      tales_nll              -E log P of the texts inside, nats a text: what of them the grammar finds likely. Human
                             texts have its entropy; lower is no merit, only the likeliest stories told; bootstrap
      tales_distinct         different texts among those inside / texts inside: below 1 where the model repeats itself
      tales_choice_distance  Grammar.choice_total_variation of the texts inside, in [0, 1]: how unevenly they use its
                             choices, less that of as many texts of the grammar itself; about 0 is even

    Absent, with the reason, is what needs a text inside where none is. Raises InputError where there is no text, or
    where prompts are not as many as texts or do not begin them.
    """
    grammar = grammar or stories()
    prompts = prompts if prompts is not None else [""] * len(texts)
    if not texts or len(texts) != len(prompts):
        raise InputError(f"{len(texts)} texts and {len(prompts)} prompts; as many of both are needed, at least one")
    for text, prompt in zip(texts, prompts, strict=True):
        if not text.startswith(prompt):
            raise InputError(f"a text begins {text[:40]!r}, not with its prompt {prompt[:40]!r}; give whole texts")
    log_probs = np.array([grammar.log_prob(text) for text in texts])
    inside = [text for text, value in zip(texts, log_probs, strict=True) if value > -math.inf]
    scores = {
        "valid_text_rate": wilson_interval(len(inside), len(texts)),
        "valid_prefix_rate": _valid_prefix(texts, prompts, grammar),
    }
    if not inside:
        reason = f"none of {len(texts)} texts is inside the language"
        return scores | dict.fromkeys(("grammar_nll", "tales_distinct", "rule_usage_tv"), Estimate.absent(reason))
    even = grammar.choice_total_variation(grammar.sample(len(inside), seed=0))
    return scores | {
        "grammar_nll": bootstrap(-log_probs[log_probs > -math.inf]),
        "tales_distinct": Estimate(len(set(inside)) / len(inside), why="no interval: copies in a resample are copies"),
        "rule_usage_tv": Estimate(
            grammar.choice_total_variation(inside) - even,
            why=f"no interval; {even:.3g}, what {len(inside)} texts of the grammar score, is taken off",
        ),
    }


def _valid_prefix(texts: Sequence[str], prompts: Sequence[str], grammar: Grammar) -> Estimate:
    given = np.array([len(prompt.split()) for prompt in prompts])
    right = np.array([len(grammar.longest_prefix(text).split()) for text in texts])
    written = np.array([len(text.split()) for text in texts]) - given
    if not written.any():
        return Estimate.absent("no word was written")
    return bootstrap(np.column_stack([np.maximum(right - given, 0), written]), lambda t: t[..., 0] / t[..., 1])


def coverage(
    nats: Sequence[float], texts: Sequence[str], *, cut: int = 0, grammar: Grammar | None = None
) -> dict[str, Estimate]:
    """Of texts of the grammar, a model's nll of each in nats, all of its tokens and the end counted:

      tales_forward_ce  -E_P log Q in nats a text: how well the model covers the language; at least grammar.entropy()
      tales_forward_kl  E_P log P/Q, nats a text, at least 0 in the mean: what is above the floor. Its interval is the
                        narrower one, as how improbable a text is by itself drops out

    cut: how many texts were read only in part, which makes both absent. Of a model that may write a text by several
    token sequences, Q is that of the tokenizer's own: both are upper bounds, close where it was trained on that one.
    Raises InputError where a text is outside the language.
    """
    grammar = grammar or stories()
    if cut:
        absent = Estimate.absent(f"{cut} of {len(texts)} texts are longer than max_tokens")
        return {"forward_ce": absent, "forward_kl": absent}
    log_probs = np.array([grammar.log_prob(text) for text in texts])
    if not np.isfinite(log_probs).all():
        raise InputError(f"text {int(log_probs.argmin())} is outside the language: coverage is asked of clean texts")
    nats = np.asarray(nats, dtype=float)
    return {"forward_ce": bootstrap(nats), "forward_kl": bootstrap(nats + log_probs)}
