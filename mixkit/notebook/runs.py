"""What notebook 3 knows of the runs before it, and how it shows warnings."""

import warnings

from mixkit.studies.config import RunConfig
from mixkit.studies.store import RunRecord, RunStore


def show_warnings_once() -> None:
    """Print each kind of warning once, on one line. Jupyter would show a red block for every warning."""
    shown: set[type[Warning]] = set()

    def show(message: Warning | str, category: type[Warning], *place: object, **source: object) -> None:
        if category not in shown:
            print(f"Note: {message}")
        shown.add(category)

    warnings.showwarning = show


def with_first_reader(config: RunConfig, run: str, finished: list[RunRecord]) -> RunConfig:
    """The settings of `run`, in which the first of the finished runs is the reader in place of `start`.

    It applies to a study without a plan whose runs start from random weights: otherwise each would be its own reader.
    """
    store = RunStore()
    alike = [one.name for one in finished if (one.config.model, one.config.corpus) == ("tiny", config.corpus)]
    saved = [name for name in alike if (store.folder(config.study, name) / "model").is_dir()]
    planned = (store.root / config.study / "study.yaml").is_file()
    if planned or config.model != "tiny" or saved[:1] in ([], [run]):
        return config
    names = [f"run:{saved[0]}" if name == "start" else name for name in config.reader.split("|")]
    return config.model_copy(update={"reader": "|".join(names)})
