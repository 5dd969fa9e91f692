"""Where things lie: the clone, what is kept of runs, and what may be made again at any time."""

import os
from pathlib import Path

CLONE = Path(__file__).parents[1]
RUNS = Path(os.environ.get("MIXKIT_RUNS", CLONE / "runs")).absolute()
CACHE = RUNS / ".cache"
