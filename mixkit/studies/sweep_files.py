"""A sweep asked for by a few numbers (objectives, ranges, how many points), as a study file that the shell runs too.
Everything that is not asked for is the base study's. Nothing is run here."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from mixkit._common import InputError, unknown, write_atomically
from mixkit.notebook.charts import LABELS
from mixkit.studies.config import NAMES
from mixkit.studies.plan import STUDIES, Study, load_study
from mixkit.studies.store import RunStore

REPLACED = ("corpus", "model", "train_texts", "epochs", "max_steps", "prompts")  # where neither empty nor 0


def evenly(low: float, high: float, points: int) -> list[float]:
    """`points` values from low to high at equal distances, to four decimals and each once; one point is low."""
    steps = range(points) if points > 1 else (0,)
    return list(dict.fromkeys(round(low + (high - low) * i / max(1, points - 1), 4) for i in steps))


def by_factors(low: float, high: float, points: int) -> list[float]:
    """`points` values from low > 0 to high at equal factors, to three digits; one point is low."""
    exponents = evenly(math.log10(low), math.log10(high), points)
    return list(dict.fromkeys(float(f"{10**exponent:.3g}") for exponent in exponents))


def sweep_content(asked: Mapping[str, object]) -> dict[str, object]:
    """What the study file of a sweep holds. asked: checked parameters.SWEEP.

    An objective's entry in the base study's grid gives the coefficients that are not asked for, such as TaiLr's w_min.
    Raises InputError for an unknown objective or study, and for a range whose ends are the wrong way round.
    """
    objectives = list(dict.fromkeys(asked["objectives"].replace(",", " ").split()))
    if not objectives:
        raise InputError(f"objectives is empty; choose some of {', '.join(NAMES)}")
    for name in objectives:
        if name not in NAMES:
            raise unknown("objective", name, NAMES)
    for name in ("eta", "gamma"):
        low, high = asked[f"{name}_low"], asked[f"{name}_high"]
        if low > high:
            raise InputError(f"{name}_low is {low:g}, above {name}_high, {high:g}")
    base, replaced = _read(asked["base_study"]), _replaced(asked)

    def others(entry: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in entry.items() if name not in replaced}

    swept = {
        "mixce": {"eta": evenly(asked["eta_low"], asked["eta_high"], asked["eta_points"])},
        "tailr": {"gamma": by_factors(asked["gamma_low"], asked["gamma_high"], asked["gamma_points"])},
        "sequencematch": {name: asked[name] for name in ("alpha", "discount", "divergence", "noise_rate")},
        "mle-backspace": {"noise_rate": asked["noise_rate"]},
    }
    entries = {name: next((e for e in base.get("grid", []) if e.get("objective") == name), {}) for name in objectives}
    named = ", ".join(LABELS[name] for name in objectives)
    content = {
        "about": f"{named}; what was not asked for is as in {Path(asked['base_study']).stem}.",
        "parameters": {**base.get("parameters", {}), **replaced},
        "base": others(base["base"]) if "base" in base else None,
        "grid": [{**others(entries[name]), "objective": name, **swept.get(name, {})} for name in objectives],
        "seeds": list(range(asked["seeds"])),
        "decoding": base.get("decoding"),
    }
    return {key: value for key, value in content.items() if value is not None}


def load_sweep(asked: Mapping[str, object]) -> Study:
    """The study that a sweep asks for, its runs checked and named; nothing is kept. Raises as load_study does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "asked.yaml"
        path.write_text(_yaml(asked), encoding="utf-8")
        return load_study(path, name=asked["study"])


def write_sweep(asked: Mapping[str, object], store: RunStore | None = None) -> Path:
    """Writes the sweep's study file and returns its path, runs/<study>/asked.yaml; `python -m mixkit study` runs it."""
    load_sweep(asked)
    path = (store or RunStore()).root / asked["study"] / "asked.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _yaml(asked))
    return path


def _read(base_study: str) -> dict[str, object]:
    load_study(base_study)  # says what is wrong with it
    path = Path(base_study) if base_study.endswith((".yaml", ".yml")) else STUDIES / f"{base_study}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _replaced(asked: Mapping[str, object]) -> dict[str, object]:
    return {name: asked[name] for name in REPLACED if asked[name]}


def _yaml(asked: Mapping[str, object]) -> str:
    return yaml.safe_dump(sweep_content(asked), sort_keys=False)
