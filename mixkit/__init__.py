"""mixkit: MLE, MixCE, TaiLr and SequenceMatch side by side; what each does to quality and to diversity."""

from importlib import import_module

_HOMES = {
    **dict.fromkeys(("MLE", "MixCE", "SequenceMatch", "TaiLr", "objective"), "mixkit.losses.objectives"),
    **dict.fromkeys(("TokenScores", "token_scores", "weighted_cross_entropy"), "mixkit.losses.lm_head"),
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    """The public names, at their first use: torch takes seconds to import, and most commands do without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mixkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
