"""One folder a run, runs/<study>/<name>/: what was asked and what came out.
run.json with status "done" is written last; files are written beside and renamed, so none is ever half there."""

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

from mixkit._common import RUNS, write_atomically
from mixkit.studies.config import COEFFICIENTS, FINETUNE

NOT_HASHED = ("study", "name", "keep_model")  # do not change what comes out


def run_hash(parameters: Mapping[str, object]) -> str:
    """Eight hexadecimal digits of the SHA-256 of the canonical parameters: sorted JSON of all that bear on the outcome.

    Coefficients of other objectives are left out; a corpus that is a file counts by its content, not by its name.
    """
    foreign = {c for names in COEFFICIENTS.values() for c in names} - set(COEFFICIENTS[parameters["objective"]])
    kept = {k: v for k, v in parameters.items() if k not in foreign and k not in NOT_HASHED}
    if os.path.isfile(kept["corpus"]):
        kept["corpus"] = hashlib.sha256(Path(kept["corpus"]).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:8]


def run_name(parameters: Mapping[str, object]) -> str:
    """A readable name that ends in the run's hash: `mixce-eta0.1-3fa81c90`.

    It tells the objective's first coefficient, and those of the others that are not the default.
    """
    parts = [parameters["name"] or parameters["objective"]]
    if not parameters["name"]:
        own = COEFFICIENTS[parameters["objective"]]
        told = [c for c in own if c == own[0] or parameters[c] != FINETUNE[c].default]
        parts += [c.replace("_", "") + format(parameters[c], "" if c == "divergence" else "g") for c in told]
    parts += [f"T{parameters['temperature']:g}"] * (parameters["temperature"] != 1)
    parts += [f"top-p{parameters['top_p']:g}"] * (parameters["top_p"] != 1)
    parts += [f"top-k{parameters['top_k']}"] * (parameters["top_k"] != 0)
    parts += [f"seed{parameters['seed']}"] * (parameters["seed"] != 0)
    return "-".join([*parts, run_hash(parameters)])


@dataclass(frozen=True)
class Run:
    """A run under way: its folder, its name, the parameters asked for, and when it began (seconds since the epoch)."""

    folder: Path
    name: str
    parameters: dict[str, object]
    began: float = field(default_factory=time.time)

    def write_samples(self, samples: Iterable[Mapping[str, object]]) -> None:
        """samples.jsonl: one continuation a line (prompt, human, generated, taken_back, set, sampler, seed)."""
        write_atomically(self.folder / "samples.jsonl", "".join(json.dumps(s) + "\n" for s in samples))

    def finish(self, metrics: Mapping[str, object], **facts: object) -> dict[str, object]:
        """Writes run.json with status "done" and returns it; checkpoints of the training have served and are removed.

        metrics: {name: {value, low, high, why}}.
        """
        record = self._write("done", metrics=dict(metrics), **facts)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return record

    def fail(self, error: str) -> dict[str, object]:
        """Writes run.json with status "failed" and the error's one line."""
        return self._write("failed", error=error)

    def _write(self, status: str, **facts: object) -> dict[str, object]:
        record = {
            "name": self.name,
            "study": self.folder.parent.name,
            "hash": self.name.rpartition("-")[2],  # not taken anew: a corpus file may have changed while it ran
            "status": status,
            "parameters": self.parameters,
            "versions": versions(),
            "began": self.began,
            "seconds": time.time() - self.began,
            **facts,
        }
        write_atomically(self.folder / "run.json", json.dumps(record, indent=1, allow_nan=False))
        return record


@dataclass(frozen=True)
class RunStore:
    """The folder of all studies."""

    root: Path = RUNS

    def folder(self, study: str, name: str) -> Path:
        return self.root / study / name

    def begin(self, parameters: Mapping[str, object]) -> Run:
        """The run that these (checked) parameters ask for, its folder made."""
        name = run_name(parameters)
        folder = self.folder(parameters["study"], name)
        folder.mkdir(parents=True, exist_ok=True)
        return Run(folder, name, dict(parameters))

    def read(self, study: str, name: str) -> dict[str, object] | None:
        """The run's record; None where run.json is missing, does not parse, or its hash does not end the name."""
        try:
            record = json.loads((self.folder(study, name) / "run.json").read_text(encoding="utf-8"))
            return record if name.endswith(record["hash"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def samples(self, study: str, name: str) -> list[dict[str, object]]:
        """The run's continuations, a record each; empty where there are none."""
        path = self.folder(study, name) / "samples.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def versions() -> dict[str, str]:
    """Of Python and of the packages that bear on results."""
    packages = ("mixkit", "torch", "transformers", "numpy", "mauve-text")
    return {"python": platform.python_version(), **{p: version(p) for p in packages}}
