"""Small worlds in which the true distribution is known exactly."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.toys.bigram import MarkovChain as MarkovChain
    from mixkit.toys.bigram import MixCEStar as MixCEStar
    from mixkit.toys.bigram import fit as fit
    from mixkit.toys.bigram import forward_cross_entropy as forward_cross_entropy
    from mixkit.toys.bigram import forward_kl as forward_kl
    from mixkit.toys.bigram import reverse_cross_entropy as reverse_cross_entropy
    from mixkit.toys.bigram import reverse_kl as reverse_kl

__getattr__, __all__ = lazy_imports(__name__)
