"""Metrics of quality and diversity, with intervals and paired tests."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.metrics.ngram_metrics import distinct_n as distinct_n
    from mixkit.metrics.ngram_metrics import diversity as diversity
    from mixkit.metrics.ngram_metrics import ngram_entropy as ngram_entropy
    from mixkit.metrics.ngram_metrics import pooled_diversity as pooled_diversity
    from mixkit.metrics.ngram_metrics import rep_n as rep_n
    from mixkit.metrics.ngram_metrics import repetition_loops as repetition_loops
    from mixkit.metrics.ngram_metrics import self_bleu as self_bleu
    from mixkit.metrics.ngram_metrics import zipf_coefficient as zipf_coefficient
    from mixkit.metrics.quality import coherence as coherence
    from mixkit.metrics.quality import judge_perplexity as judge_perplexity
    from mixkit.metrics.quality import mauve as mauve
    from mixkit.metrics.quality import precision_recall as precision_recall
    from mixkit.metrics.statistics import Estimate as Estimate

__getattr__, __all__ = lazy_imports(__name__)
