"""A study's plan: a base run and a grid of runs that start from it, out of a file or out of the folder that it filled.
Nothing is run here, and nothing that takes long to import is needed."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mixkit._common import CLONE, InputError, unknown, write_atomically
from mixkit.studies.config import FINETUNE, check
from mixkit.studies.store import RunStore, run_name

STUDIES = CLONE / "data" / "studies"
KEYS = ("about", "parameters", "base", "grid", "seeds", "decoding")


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study: its checked parameters, its part (base, grid, decoding) and the run that it starts from."""

    name: str
    role: str
    parameters: dict[str, object]
    depends_on: str | None


@dataclass(frozen=True)
class Study:
    """A name, one line about it, and its runs in an order in which each comes after the one that it needs."""

    name: str
    about: str
    runs: list[PlannedRun]


def load_study(file: str | Path, overrides: Mapping[str, object] | None = None, *, name: str = "") -> Study:
    """The study that a file asks for: data/studies/<file>.yaml by name, or a path.

    The file's keys: `about`; `parameters` (of every run); `base` (a run that the others start from); `grid` (a list;
    a parameter that is a list of values makes a run for each, several make their product); `seeds`; `decoding` (as
    grid: the MLE run's model sampled otherwise, without training). All are parameters of notebooks/3_finetune.ipynb.
    overrides: parameters that replace the file's wherever it gives them. `model` replaces the base run's where there is
    one; `objective`, the grid's. The name defaults to the file's, with the values overridden.
    Raises InputError (a ValueError) for what is misspelt, of a wrong type, or out of range, before anything is run.
    """
    path = _study_file(file)
    content = _read_yaml(path)
    overrides = _absolute(overrides or {})
    check(overrides)
    values = (Path(v).stem if k == "corpus" else Path(str(v)).name for k, v in overrides.items())
    name = name or "-".join([path.stem, *(re.sub(r"[^\w.-]+", "-", value) for value in values)])
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"study is {name!r}; a folder's name has letters, digits, '.', '_' and '-' only")
    shared = {**content.get("parameters", {}), "study": name}
    base = content.get("base")
    runs: list[PlannedRun] = []

    def plan(role: str, depends_on: str | None, *layers: Mapping[str, object]) -> PlannedRun:
        parameters = check(_absolute({k: v for layer in (shared, *layers) for k, v in layer.items()}))
        run = PlannedRun(run_name(parameters), role, parameters, depends_on)
        if run.name not in {r.name for r in runs}:
            runs.append(run)
        return run

    for seed in content.get("seeds", [0]):
        start, depends_on, replaced = {}, None, {**overrides, "seed": overrides.get("seed", seed)}
        if base is not None:
            depends_on = plan(
                "base", None, {"name": "base"}, base, {k: v for k, v in replaced.items() if k != "objective"}
            ).name
            start = {"model": f"run:{depends_on}", "reader": _reader(shared, f"run:{depends_on}")}
            replaced.pop("model", None)
        trained = [
            plan("grid", depends_on, start, point, replaced)
            for entry in content.get("grid", [])
            for point in _points(entry)
        ]
        mle = next((r for r in trained if r.parameters["objective"] == "mle"), None)
        for point in (p for entry in content.get("decoding", []) if mle for p in _points(entry)):
            reader = _reader(mle.parameters, mle.parameters["model"])
            sampled = {"model": f"run:{mle.name}", "reader": reader, "epochs": 0.0, "keep_model": False}
            plan("decoding", mle.name, {"objective": "mle"}, replaced, sampled, point)
    return Study(name, content.get("about", ""), runs)


def _reader(parameters: Mapping[str, object], start: str) -> str:
    """One reader for the whole study: `start`, in the names of readers, is the model that its grid starts from."""
    names = parameters.get("reader", FINETUNE["reader"].default)
    return "|".join(start if name == "start" else name for name in str(names).split("|"))


def _study_file(file: str | Path) -> Path:
    path = Path(file)
    if path.suffix not in (".yaml", ".yml"):
        known = sorted(p.stem for p in STUDIES.glob("*.yaml"))
        if str(file) not in known:
            raise unknown("study", str(file), [*known, "the path of a .yaml file"])
        path = STUDIES / f"{file}.yaml"
    if not path.is_file():
        raise InputError(f"study file {str(path)!r} does not exist")
    return path


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"study file {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"study file {str(path)!r} must be a mapping with the keys {', '.join(KEYS)}")
    for key in content:
        if key not in KEYS:
            raise unknown(f"key in study file {str(path)!r}:", key, KEYS)
    kinds = {"about": str, "parameters": dict, "base": dict, "grid": list, "seeds": list, "decoding": list}
    for key, value in content.items():
        if not isinstance(value, kinds[key]):
            raise InputError(f"study file {str(path)!r}: {key} must be a {kinds[key].__name__}, not {value!r}")
    for entry in (e for key in ("grid", "decoding") for e in content.get(key, [])):
        if not isinstance(entry, dict):
            raise InputError(f"study file {str(path)!r}: an entry of a grid maps parameters to values, not {entry!r}")
    if content.get("seeds") == []:
        raise InputError(f"study file {str(path)!r}: seeds is an empty list; at least one seed is needed")
    if not content.get("grid") and "base" not in content:
        raise InputError(f"study file {str(path)!r} asks for no run: it has neither a grid nor a base")
    return content


def _points(entry: Mapping[str, object]) -> list[dict[str, object]]:
    """The product over all parameters that are lists of values."""
    for name, value in entry.items():
        if value == []:
            raise InputError(f"{name} is an empty list; a grid needs at least one value")
    axes = [value if isinstance(value, list) else [value] for value in entry.values()]
    return [dict(zip(entry, values, strict=True)) for values in itertools.product(*axes)]


def _absolute(parameters: Mapping[str, object]) -> dict[str, object]:
    """A file as corpus and a folder as model by their whole paths: runs are executed from another folder."""
    given = dict(parameters)
    for name, here in (("corpus", os.path.isfile), ("model", os.path.isdir)):
        if isinstance(given.get(name), str) and given[name] and here(given[name]):
            given[name] = os.path.abspath(given[name])
    return given


def write_study(study: Study, store: RunStore) -> None:
    """study.yaml in the study's folder: the runs that belong to it, so that the folder alone can be reported."""
    folder = store.root / study.name
    folder.mkdir(parents=True, exist_ok=True)
    runs = [
        {"name": r.name, "role": r.role, "depends_on": r.depends_on, "parameters": r.parameters} for r in study.runs
    ]
    content = yaml.safe_dump({"name": study.name, "about": study.about, "runs": runs}, sort_keys=False)
    path = folder / "study.yaml"
    if not path.is_file() or path.read_text(encoding="utf-8") != content:  # else it is as old as the report made of it
        write_atomically(path, content)


def lineage(model: str, study: str, store: RunStore | None = None, planned: Sequence[PlannedRun] = ()) -> list[str]:
    """The model that a run of `study` names, the one which that was trained from, and so on: run:STUDY/NAME, ..., tiny.

    What a run started from is told by `planned`, or by its record. The last name is no run's, or that of a run that
    neither knows.
    """
    store, names = store or RunStore(), [model]
    starts = {(run.parameters["study"], run.name): run.parameters for run in planned}
    while names[-1].startswith("run:"):
        study, name = f"{study}/{names[-1].removeprefix('run:')}".split("/")[-2:]
        names[-1] = f"run:{study}/{name}"
        start = starts.get((study, name)) or (store.read(study, name) or {}).get("parameters", {})
        if "model" not in start:
            break
        names.append(start["model"])
    return names


def outdated(made: Path, folder: Path) -> bool:
    """Whether what was made of a study's folder is older than its plan, one of its records, or the kit itself."""
    sources = [folder / "study.yaml", *folder.glob("*/run.json"), *Path(__file__).parents[1].glob("*/*.*")]
    try:
        return made.stat().st_mtime <= max(path.stat().st_mtime for path in sources)
    except FileNotFoundError:  # it was not made yet, or a run is being taken back
        return True


def read_study(name: str, store: RunStore | None = None) -> Study:
    """The study that was run under that name. Raises InputError where there is none."""
    store = store or RunStore()
    path = store.root / name / "study.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in store.root.glob("*/study.yaml"))
        if not known:
            raise InputError(
                f"no study under {store.root} yet; `make study` (on Colab `!python -m mixkit study quick`) makes one"
            )
        raise unknown("study under runs/", name, known)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return Study(content["name"], content["about"], [PlannedRun(**run) for run in content["runs"]])
