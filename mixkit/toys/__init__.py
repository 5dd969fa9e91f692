"""Worlds small enough that the true distribution is known."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.toys.chains import MixCEStar as MixCEStar
    from mixkit.toys.chains import fit as fit
    from mixkit.toys.markov import MarkovChain as MarkovChain
    from mixkit.toys.markov import forward_cross_entropy as forward_cross_entropy
    from mixkit.toys.markov import forward_kl as forward_kl
    from mixkit.toys.markov import reverse_cross_entropy as reverse_cross_entropy
    from mixkit.toys.markov import reverse_kl as reverse_kl

__getattr__, __all__ = lazy_imports(__file__)
