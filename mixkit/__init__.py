"""mixkit: MLE, MixCE, TaiLr and SequenceMatch side by side; what each does to quality and to diversity."""

from mixkit.objectives import MLE, MixCE, SequenceMatch, TaiLr, objective
from mixkit.scores import TokenScores, token_scores, weighted_cross_entropy

__all__ = [
    "MLE",
    "MixCE",
    "SequenceMatch",
    "TaiLr",
    "TokenScores",
    "objective",
    "token_scores",
    "weighted_cross_entropy",
]
