"""Corpora, and the story grammar whose probabilities are known."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.texts.corpora import Corpus as Corpus
    from mixkit.texts.corpora import load_corpus as load_corpus
    from mixkit.texts.story_grammar import Grammar as Grammar

__getattr__, __all__ = lazy_imports(__name__)
