"""Training objectives as functions of two or three numbers per token, and the LM head computed in chunks."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.losses.expressions import Expression as Expression
    from mixkit.losses.fixed_points import stationary_distribution as stationary_distribution
    from mixkit.losses.lm_head import TokenScores as TokenScores
    from mixkit.losses.lm_head import token_scores as token_scores
    from mixkit.losses.lm_head import weighted_cross_entropy as weighted_cross_entropy
    from mixkit.losses.lm_head import weighted_cross_entropy_and_nll as weighted_cross_entropy_and_nll
    from mixkit.losses.objectives import objective as objective
    from mixkit.losses.rivals import DFT as DFT
    from mixkit.losses.rivals import GEM as GEM
    from mixkit.losses.rivals import ErrorNormTruncation as ErrorNormTruncation
    from mixkit.losses.rivals import Focal as Focal
    from mixkit.losses.rivals import Power as Power
    from mixkit.losses.rivals import Threshold as Threshold
    from mixkit.losses.sequence_match import SequenceMatch as SequenceMatch
    from mixkit.losses.token_weighted import MLE as MLE
    from mixkit.losses.token_weighted import MixCE as MixCE
    from mixkit.losses.token_weighted import TaiLr as TaiLr
    from mixkit.losses.token_weighted import TokenWeighted as TokenWeighted

__getattr__, __all__ = lazy_imports(__name__)
