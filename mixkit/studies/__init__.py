"""Plan, run, store and compare studies."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.studies.compare import compare_with_mle as compare_with_mle
    from mixkit.studies.compare import conclusion as conclusion
    from mixkit.studies.compare import verdicts as verdicts
    from mixkit.studies.config import BacktrackingConfig as BacktrackingConfig
    from mixkit.studies.config import KnownTruthConfig as KnownTruthConfig
    from mixkit.studies.config import RunConfig as RunConfig
    from mixkit.studies.config import SweepConfig as SweepConfig
    from mixkit.studies.config import TradeoffConfig as TradeoffConfig
    from mixkit.studies.config import WeightsConfig as WeightsConfig
    from mixkit.studies.plan import load_study as load_study
    from mixkit.studies.plan import load_sweep as load_sweep
    from mixkit.studies.plan import read_study as read_study
    from mixkit.studies.records import results as results
    from mixkit.studies.store import RunStore as RunStore
    from mixkit.studies.store import Sample as Sample
    from mixkit.studies.sweep import run_study as run_study
    from mixkit.studies.sweep import states as states

__getattr__, __all__ = lazy_imports(__name__)
