"""Ways to spoil texts on purpose, which a metric should notice: (texts, seed) -> texts of the same number, as str.
No metric may live here. In the manner of He et al. 2023 (On the Blind Spots of Model-Based Evaluation Metrics)."""

import random
import re

from mixkit._common import InputError


def truncate(texts: list[str], seed: int) -> list[str]:
    """The first half of the words of each text, at least one."""
    return [" ".join(words[: max(1, len(words) // 2)]) for words in map(str.split, texts)]


def shuffle_words(texts: list[str], seed: int) -> list[str]:
    """The words of each text in random order: what a bag of words cannot see."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(words, len(words))) for words in map(str.split, texts)]


def repeat_sentence(texts: list[str], seed: int) -> list[str]:
    """One sentence of each text, drawn at random, is said three times in a row; a sentence ends at . ! or ?"""
    rng, spoiled = random.Random(seed), []
    for text in texts:
        sentences = re.split(r"(?<=[.!?])\s+", text.strip())
        at = rng.randrange(len(sentences))
        spoiled.append(" ".join(sentences[:at] + [sentences[at]] * 3 + sentences[at + 1 :]))
    return spoiled


def replace_text(texts: list[str], seed: int) -> list[str]:
    """Each text gives way to another one of the list: the set stays, no text fits its prompt. Needs two texts."""
    if len(texts) < 2:
        raise InputError(f"{len(texts)} texts; replacing a text by another one needs at least 2")
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    spoiled = list(texts)
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        spoiled[here] = texts[there]
    return spoiled


def repeat_forever(texts: list[str], seed: int) -> list[str]:
    """Half way through, each text falls into repeating its last 1 to 6 words until it is as long as it was."""
    rng, spoiled = random.Random(seed), []
    for words in map(str.split, texts):
        half = words[: (len(words) + 1) // 2]
        phrase = half[-rng.randint(1, 6) :]
        missing = len(words) - len(half)
        spoiled.append(" ".join(half + (phrase * missing)[:missing]))
    return spoiled


DAMAGES = {
    "truncate": truncate,
    "shuffle words": shuffle_words,
    "repeat a sentence": repeat_sentence,
    "replace by another text": replace_text,
    "unbounded repetition": repeat_forever,
}
