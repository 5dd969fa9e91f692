"""Folders and records of runs: runs/<study>/<name>/ holds run.json, samples.jsonl and the rest of one run."""

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mixkit._common import RUNS, SHIPPED, InputError, write_atomically
from mixkit.studies.config import RunConfig
from mixkit.texts.corpora import BUILT_IN, HUB

Role = Literal["base", "grid", "decoding"]
PACKAGES = ("mixkit", "torch", "transformers", "numpy", "mauve-text")  # they can change results
LOCAL = ("corpus", "model", "reader", "coherence_reader", "judge")  # settings that may name a file or a folder


class Metric(BaseModel):
    """A metric of a run with its interval [low, high], or the reason `why` it is absent."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str | None = None
    over: str = "texts"  # or sets or halvings: the interval is their spread
    sets: list[float] | None = None  # the value of each sample set
    reader: str | None = None  # the model that gave the features
    texts: int | None = None  # number of generated texts
    prompts: list[float | None] | None = None  # one value per prompt, for paired tests


class Sample(BaseModel):
    """One line of samples.jsonl: a prompt, its human continuation, and the continuation that the model generated.

    set: number of the sample set. num_deleted: tokens that the model deleted with <backspace>. segments: everything
    that the model wrote, in order, as (text, whether it is still there at the end).
    """

    set: int
    prompt: str
    human: str
    generated: str
    num_deleted: int = 0
    segments: list[tuple[str, bool]] = []


class RunRecord(BaseModel):
    """run.json: what was requested, where and when it ran, and the metrics of the run and of the human texts."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    study: str
    status: Literal["done", "failed"]
    config: RunConfig
    versions: dict[str, str]  # of packages; of the notebook, a hash of its code, where a study ran it
    began: float  # seconds since the epoch
    seconds: float
    metrics: dict[str, Metric] = {}
    human: dict[str, Metric] = {}
    resolved: dict[str, Any] = {}  # facts found at run time: objective, reader, device ...
    training: dict[str, Any] | None = None  # what `finetune` returns, without its history
    error: str = ""
    role: Role = "grid"  # from the plan; run.json does not have it

    @property
    def label(self) -> str:
        """The run in a few words, such as "MixCE η=0.1"."""
        return self.config.label(self.role)


def run_hash(config: RunConfig) -> str:
    """First eight hexadecimal digits of the SHA-256 of everything that can change the outcome of the run.

    A corpus or model that is a local file or folder counts by its content, not by its name.
    """
    settings = config.canonical()
    for name in LOCAL:
        settings[name] = with_paths(name, settings[name], _content)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def with_paths(setting: str, value: str, replace: Callable[[Path], object]) -> str:
    """The value of a setting with replace(path) for each local file or folder in it. Built-in names are no paths.

    >>> with_paths("corpus", "hub:.", lambda path: "X"), with_paths("reader", "gpt2-large|start", Path.absolute)
    ('hub:X', 'gpt2-large|start')
    """
    names = value.split("|") if setting == "reader" else [value]
    for i, name in enumerate(names):
        hub, rest = ("hub:", name[4:]) if name.startswith("hub:") else ("", name)
        path, *configuration = rest.split(":") if hub else [rest]
        if os.path.exists(path) and (os.sep in path or not _is_built_in(path)):
            names[i] = ":".join([f"{hub}{replace(Path(path))}", *configuration])
    return "|".join(names)


def _is_built_in(name: str) -> bool:
    from mixkit.models.loading import NAMES  # seconds

    return name in (*BUILT_IN, *HUB, *NAMES, "minilm", "start")


def _content(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files. Hidden files do not count."""
    if path.is_file():
        return _file_hash(path, path.stat().st_size, path.stat().st_mtime_ns)
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if file.is_file()}
    hashes = {name: _content(files[name]) for name in sorted(files) if "/." not in f"/{name}"}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


@lru_cache(maxsize=10_000)
def _file_hash(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def notebook_hash(notebook: Path) -> str:
    """First eight hexadecimal digits of the SHA-256 of a notebook's code cells, without the parameters cell."""
    try:
        cells = [cell for cell in json.loads(notebook.read_bytes())["cells"] if cell["cell_type"] == "code"]
        code = ["".join(cell["source"]) for cell in cells if "parameters" not in cell["metadata"].get("tags", ())]
    except (OSError, ValueError, LookupError, TypeError) as error:
        what = f"is not a notebook ({type(error).__name__})"
        raise InputError(f"{notebook} {what}; get the kit's own file again") from None
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:8]


def check_folder_name(parameter: str, name: str) -> None:
    """Raise InputError unless `name` can be the name of a folder."""
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name.encode()) > 100:
        allowed = "at most 100 letters, digits, '.', '_' and '-', and must not start with '.' or '-'"
        raise InputError(f"{parameter} is {name!r}; it names a folder and must have {allowed}")


def run_name(config: RunConfig) -> str:
    """A readable name that ends in the run's hash, such as "mixce-eta0.1-3fa81c90"."""
    if config.name:
        check_folder_name("name", config.name)
    return f"{config.slug()}-{run_hash(config)}"


@dataclass(frozen=True)
class Run:
    """A run in progress."""

    folder: Path
    config: RunConfig
    began: float = field(default_factory=time.time)
    _start: float = field(default_factory=time.monotonic)  # unlike `began`, not by a clock that may be set anew

    @property
    def name(self) -> str:
        return self.folder.name

    def write_samples(self, samples: Iterable[Sample]) -> None:
        """Write samples.jsonl."""
        write_atomically(self.folder / "samples.jsonl", "".join(s.model_dump_json() + "\n" for s in samples))

    def finish(self, metrics: Mapping[str, Metric], **facts: Any) -> RunRecord:
        """Write run.json with status "done", then delete the checkpoints. `facts` are further fields of RunRecord."""
        record = self._write(status="done", metrics=dict(metrics), **facts)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return record

    def fail(self, error: str) -> RunRecord:
        """Write run.json with status "failed" and the error's one line."""
        return self._write(status="failed", error=error)

    def _write(self, **facts: Any) -> RunRecord:
        versions = {"notebook": os.environ.get("MIXKIT_NOTEBOOK", ""), "python": platform.python_version()}
        versions |= {name: version(name) for name in PACKAGES}
        facts |= {"name": self.name, "study": self.folder.parent.name, "config": self.config, "versions": versions}
        record = RunRecord(**facts, began=self.began, seconds=time.monotonic() - self._start)
        write_atomically(self.folder / "run.json", record.model_dump_json(indent=1, exclude={"role"}))
        return record


@dataclass(frozen=True)
class RunStore:
    """All studies under one folder."""

    root: Path = RUNS

    def folder(self, study: str, name: str) -> Path:
        return self.root / study / name

    def for_reading(self, study: str) -> "RunStore":
        """This store, or the one of data/results/ where only that has the study's plan."""
        shipped = RunStore(SHIPPED)
        own, other = ((store.root / study / "study.yaml").is_file() for store in (self, shipped))
        return shipped if other and not own else self

    def begin(self, config: RunConfig) -> Run:
        """Make the folder of the run with these settings."""
        check_folder_name("study", config.study)
        run = Run(self.folder(config.study, run_name(config)), config)
        run.folder.mkdir(parents=True, exist_ok=True)
        return run

    def read(self, study: str, name: str) -> RunRecord | None:
        """The run's record; None if run.json is missing, is not a record, or belongs to another run."""
        try:
            record = RunRecord.model_validate_json((self.folder(study, name) / "run.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.name == name else None

    def records(self, study: str) -> list[RunRecord]:
        """The records in the study's folder, the earliest first. The study needs no plan."""
        found = [self.read(study, path.parent.name) for path in (self.root / study).glob("*/run.json")]
        return sorted(filter(None, found), key=lambda run: run.began)

    def samples(self, study: str, name: str) -> list[Sample]:
        """The run's continuations, also shipped ones; empty if there are none. Raises InputError for a damaged file."""
        path = self.for_reading(study).folder(study, name) / "samples.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []  # of str it would also split at U+2028
        try:
            return [Sample.model_validate_json(line) for line in lines]
        except ValidationError:
            raise InputError(f"{path} is damaged; delete {path.parent} and run the study again") from None


def finished_runs(study: str) -> list[RunRecord]:
    """The finished runs in runs/<study>/, the earliest first. The study needs no plan."""
    return [run for run in RunStore().records(study) if run.status == "done"]
