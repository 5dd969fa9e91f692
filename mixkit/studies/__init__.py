"""Plan, run, store and compare studies."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.studies.plan import load_study as load_study
    from mixkit.studies.sweep import run_study as run_study

__getattr__, __all__ = lazy_imports(__file__)
