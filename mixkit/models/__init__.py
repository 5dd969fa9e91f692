"""Load, train and sample causal language models."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.models.generation import ObjectiveDecoder as ObjectiveDecoder
    from mixkit.models.generation import Sampler as Sampler
    from mixkit.models.generation import sample_continuations as sample_continuations
    from mixkit.models.likelihood import text_nll as text_nll
    from mixkit.models.loading import load_model as load_model
    from mixkit.models.trainer import finetune as finetune

__getattr__, __all__ = lazy_imports(__name__)
