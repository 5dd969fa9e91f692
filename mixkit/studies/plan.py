"""Study files, and the plan of runs that follows from one."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from mixkit._common import CLONE, InputError, unknown, write_atomically
from mixkit.losses.definitions import OBJECTIVES, parse_objective
from mixkit.studies.config import RunConfig, Settings, SweepConfig
from mixkit.studies.store import LOCAL, Role, RunStore, check_folder_name, run_name, with_paths

STUDIES = CLONE / "data" / "studies"
SWEEP_FILE = "sweep.yaml"  # in the folder of a sweep: its study file
SIZES = ("corpus", "model", "train_texts", "epochs", "max_steps", "prompts")  # a sweep may replace its base study's


class StudyFile(Settings):
    """A study file. A setting of the grid that is a list makes one run per value; several lists make their product."""

    noun = "key in a study file:"

    about: str = ""
    parameters: dict[str, Any] = Field({})  # settings of every run
    base: dict[str, Any] | None = None  # settings of a run whose model the grid starts from
    grid: list[dict[str, Any]] = Field([])
    seeds: list[int] = Field([0], min_length=1)  # the study is repeated with each; an entry may have its own seed
    decoding: list[dict[str, Any]] = Field([])  # as grid, for the first MLE run's model, which is not trained again

    @classmethod
    def read(cls, file: str | Path) -> Self:
        """data/studies/<file>.yaml, or the file at a path that ends in .yaml. Raises InputError for a wrong file."""
        path, known = Path(file), sorted(path.stem for path in STUDIES.glob("*.yaml"))
        if path.suffix not in (".yaml", ".yml"):
            if str(file) not in known:
                raise unknown("study", str(file), [*known, "the path of a .yaml file"])
            path = STUDIES / f"{file}.yaml"
        subject = f"study file {str(path)!r}"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError:
            raise InputError(f"{subject} does not exist") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{subject} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise InputError(f"{subject} must be a mapping with the keys {', '.join(cls.model_fields)}")
        study_file = cls.check(content)
        if not study_file.grid and study_file.base is None:
            raise InputError(f"{subject} has no runs: it has neither a grid nor a base")
        return study_file


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study."""

    name: str
    role: Role
    config: RunConfig
    depends_on: str | None  # the name of the run whose model it starts from


@dataclass(frozen=True)
class Study:
    """A name, one line about the study, and its runs. Every run comes after the one that it depends on."""

    name: str
    about: str
    runs: list[PlannedRun]


def load_study(file: str | Path, overrides: Mapping[str, Any] | None = None, *, name: str = "") -> Study:
    """The study of a study file. Raises InputError for unknown names, wrong types and values.

    overrides: settings that replace the file's everywhere. `model` replaces the base run's if there is a base;
    `objective` replaces the grid's. name: by default the name of the file and the values of the overrides.
    """
    parts = [Path(file).stem]
    for key, value in (overrides or {}).items():
        path = Path(str(value))
        parts.append(re.sub(r"[^\w.-]+", "-", path.stem if key == "corpus" else path.name))
    return expand(StudyFile.read(file), overrides or {}, name or "-".join(parts))


def load_sweep(config: SweepConfig) -> Study:
    """The study of a sweep. Nothing is written. Raises InputError as load_study does."""
    return expand(sweep_file(config), {}, config.study)


def write_sweep(config: SweepConfig, store: RunStore | None = None) -> Path:
    """Write the sweep's study file, runs/<study>/sweep.yaml, for `python -m mixkit study`."""
    path = (store or RunStore()).root / load_sweep(config).name / SWEEP_FILE
    write_atomically(path, yaml.safe_dump(sweep_file(config).model_dump(), sort_keys=False))
    return path


def sweep_file(config: SweepConfig) -> StudyFile:
    """The study file of a sweep. Settings that the sweep does not have are the base study's.

    Coefficients such as TaiLr's w_min come from the first entry of the base study's grid with the same objective.
    """
    base_study = StudyFile.read(config.base_study)
    replaced = {name: getattr(config, name) for name in SIZES if getattr(config, name)}
    grid = []
    for name in dict.fromkeys(config.objectives):
        entry = next((entry for entry in base_study.grid if entry.get("objective") == name), {})
        swept = {c.name for c in OBJECTIVES[name].coefficients} & SweepConfig.model_fields.keys()
        grid.append({**_without(entry, replaced), "objective": name, **config.model_dump(include=swept)})
    grid += [{"objective": name} for name in config.other_objectives]
    labels = ", ".join(parse_objective(entry["objective"])[0].label for entry in grid)
    content: dict[str, Any] = {
        "about": f"{labels}; other settings as in {Path(config.base_study).stem}.",
        "parameters": {**base_study.parameters, **replaced},
        "base": None if base_study.base is None else _without(base_study.base, replaced),
        "grid": grid,
        "seeds": list(range(config.seeds)),
    }
    return base_study.model_copy(update=content)


def write_study(study: Study, store: RunStore) -> None:
    """Write study.yaml, the plan, into the study's folder. Raises InputError for a folder of an earlier mixkit."""
    path = store.root / study.name / "study.yaml"
    if path.is_file():
        read_study(study.name, store)  # raises
    write_atomically(path, yaml.safe_dump(TypeAdapter(Study).dump_python(study), sort_keys=False))


def read_study(name: str, store: RunStore | None = None) -> Study:
    """The study in runs/, or the shipped one. Raises InputError if there is none, or if an earlier mixkit wrote it."""
    check_folder_name("study", name)
    root = (store or RunStore()).for_reading(name).root
    path = root / name / "study.yaml"
    try:
        study = TypeAdapter(Study).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
        runs = [replace(run, config=run.config.model_copy(update={"study": name})) for run in study.runs]
        return replace(study, name=name, runs=runs)  # the folder may have been renamed or copied
    except FileNotFoundError:
        if found := RunStore(root).records(name):  # notebook 3 writes no plan
            runs = [PlannedRun(x.name, "grid" if x.config.epochs else "decoding", x.config, None) for x in found]
            return Study(name, "Single runs of notebook 3, whose settings may differ.", runs)
        plans, runs = root.glob("*/study.yaml"), root.glob("*/*/run.json")
        known = {path.parent.name for path in plans} | {path.parents[1].name for path in runs}
        if known := sorted(known - {name}):
            raise unknown("study under runs/", name, known) from None
        how = "`make study` (on Colab `!python -m mixkit study quick`) makes `quick`"
        raise InputError(f"no study under {root} yet, and the kit ships no {name!r}; {how}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValidationError):
        hint = f"run the study again under another name, or delete {path.parent}"
        raise InputError(f"{path} was written by an earlier mixkit; {hint}") from None


def expand(file: StudyFile, overrides: Mapping[str, Any], name: str) -> Study:
    """The runs of a study file."""
    check_folder_name("study", name)
    runs: dict[str, PlannedRun] = {}
    if "seed" in file.parameters:
        raise InputError(f"seed is in the parameters; write seeds: [{file.parameters['seed']}] beside them")

    def add(role: Role, depends_on: str | None, settings: dict[str, Any]) -> PlannedRun:
        settings = {**file.parameters, **settings}
        if settings.setdefault("study", name) != name:
            raise InputError(f"study is {settings['study']!r}, but the study is {name!r}; use --name in place of study")
        config = RunConfig.check(settings)
        paths = {name: with_paths(name, getattr(config, name), os.path.abspath) for name in LOCAL}
        config = config.model_copy(update=paths)  # runs are executed in another folder
        return runs.setdefault(run_name(config), PlannedRun(run_name(config), role, config, depends_on))

    for seed in file.seeds:
        replaced, start, depends_on = dict(overrides), {"seed": seed}, None
        if file.base is not None:
            base = add("base", None, {"name": "base", **start, **file.base, **_without(replaced, ["objective"])})
            depends_on, model = base.name, f"run:{base.name}"
            start |= {"model": model, "reader": _reader(base.config.reader, model)}
            replaced.pop("model", None)
        trained = [add("grid", depends_on, start | point | replaced) for point in _points(file.grid)]
        mle = next((run for run in trained if run.config.objective == "mle"), None)
        if mle is not None:
            reader = _reader(mle.config.reader, mle.config.model)
            sampled = {"model": f"run:{mle.name}", "reader": reader, "epochs": 0.0, "keep_model": False}
            for point in _points(file.decoding):
                add("decoding", mle.name, {"objective": "mle", "seed": seed, **replaced, **sampled, **point})
    return Study(name, file.about, list(runs.values()))


def _reader(names: str, start: str) -> str:
    """The names of readers with the name `start` replaced by a model, so that the whole study has one reader."""
    return "|".join(start if name == "start" else name for name in names.split("|"))


def _points(grid: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of every run of a grid: of each entry, the product over its settings that are lists."""
    points = []
    for entry in grid:
        if empty := [name for name, value in entry.items() if value == []]:
            raise InputError(f"{empty[0]} is an empty list; a grid needs at least one value")
        axes = [value if isinstance(value, list) else [value] for value in entry.values()]
        points += [dict(zip(entry, values, strict=True)) for values in itertools.product(*axes)]
    return points


def _without(settings: Mapping[str, Any], names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}
