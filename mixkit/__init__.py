"""Training objectives of language models side by side: MLE, MixCE, TaiLr and SequenceMatch."""

import os
from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

# torch's threads wait some microseconds and then sleep: other work may need their cores. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from mixkit.losses.lm_head import TokenScores as TokenScores
    from mixkit.losses.lm_head import token_scores as token_scores
    from mixkit.losses.lm_head import weighted_cross_entropy as weighted_cross_entropy
    from mixkit.losses.objectives import objective as objective
    from mixkit.losses.sequence_match import SequenceMatch as SequenceMatch
    from mixkit.losses.token_weighted import MLE as MLE
    from mixkit.losses.token_weighted import MixCE as MixCE
    from mixkit.losses.token_weighted import TaiLr as TaiLr

__getattr__, __all__ = lazy_imports(__name__)
