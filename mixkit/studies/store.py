"""Folders and records of runs: runs/<study>/<name>/ holds run.json, samples.jsonl and the rest of one run."""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mixkit._common import RUNS, write_atomically
from mixkit.studies.config import RunConfig

Role = Literal["base", "grid", "decoding"]
PACKAGES = ("mixkit", "torch", "transformers", "numpy", "mauve-text")  # they can change results


class Metric(BaseModel):
    """A metric of a run with its interval [low, high], or the reason `why` it is absent.

    over: what the interval is over: texts, sets or halvings. sets: the value of each sample set. reader: the model that
    gave the features. texts: number of generated texts. prompts: one value per prompt, for paired tests.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str | None = None
    over: str = ""
    sets: list[float] | None = None
    reader: str | None = None
    texts: int | None = None
    prompts: list[float | None] | None = None


class Sample(BaseModel):
    """One line of samples.jsonl: a prompt, its human continuation, and the continuation that the model generated.

    set: number of the sample set. num_deleted: tokens that the model deleted with <backspace>. segments: everything
    that the model wrote, in order, as (text, whether it is still there at the end). decoding: the sampler's parameters.
    """

    set: int
    prompt: str
    human: str
    generated: str
    num_deleted: int = 0
    segments: list[tuple[str, bool]] = []
    decoding: dict[str, Any] = {}
    seed: int = 0


class RunRecord(BaseModel):
    """run.json: what was requested, where and when it ran, and the metrics of the run and of the human texts.

    config: all settings. resolved: facts found at run time (objective, reader, device ...). training: what `finetune`
    returns, without its history. began: seconds since the epoch. role: the run's role in its study, from the plan.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    study: str
    status: Literal["done", "failed"]
    config: RunConfig
    versions: dict[str, str]
    began: float
    seconds: float
    metrics: dict[str, Metric] = {}
    human: dict[str, Metric] = {}
    resolved: dict[str, Any] = {}
    training: dict[str, Any] | None = None
    error: str = ""
    role: Role = "grid"

    @property
    def label(self) -> str:
        """The run in a few words, such as "MixCE η=0.1"."""
        return self.config.label(self.role)


def run_hash(config: RunConfig) -> str:
    """First eight hexadecimal digits of the SHA-256 of everything that can change the outcome of the run.

    A corpus that is a file counts by its content, not by its name.
    """
    settings = config.canonical()
    if os.path.isfile(config.corpus):
        settings["corpus"] = hashlib.sha256(Path(config.corpus).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def run_name(config: RunConfig) -> str:
    """A readable name that ends in the run's hash, such as "mixce-eta0.1-3fa81c90"."""
    return f"{config.slug()}-{run_hash(config)}"


@dataclass(frozen=True)
class Run:
    """A run in progress: its folder, its name, its settings, and when it began (seconds since the epoch)."""

    folder: Path
    name: str
    config: RunConfig
    began: float = field(default_factory=time.time)

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
        versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        facts |= {"name": self.name, "study": self.folder.parent.name, "config": self.config, "versions": versions}
        record = RunRecord(**facts, began=self.began, seconds=time.time() - self.began)
        write_atomically(self.folder / "run.json", record.model_dump_json(indent=1, exclude={"role"}))
        return record


@dataclass(frozen=True)
class RunStore:
    """All studies under one folder."""

    root: Path = RUNS

    def folder(self, study: str, name: str) -> Path:
        """The folder of a run."""
        return self.root / study / name

    def begin(self, config: RunConfig) -> Run:
        """Make the folder of the run with these settings."""
        name = run_name(config)
        run = Run(self.folder(config.study, name), name, config)
        run.folder.mkdir(parents=True, exist_ok=True)
        return run

    def read(self, study: str, name: str) -> RunRecord | None:
        """The run's record; None if run.json is missing, is not a record, or belongs to another run."""
        try:
            record = RunRecord.model_validate_json((self.folder(study, name) / "run.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return record if record.name == name else None

    def samples(self, study: str, name: str) -> list[Sample]:
        """The run's continuations; empty if there are none."""
        path = self.folder(study, name) / "samples.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []  # of str it would also split at U+2028
        return [Sample.model_validate_json(line) for line in lines]
