"""A notebook that is done in a moment, in place of 3_finetune, and a small study."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import torch
from torch.nn.utils.rnn import pad_sequence

from mixkit.studies.config import RunConfig
from mixkit.studies.store import Metric, Role, RunRecord

CLONE = Path(__file__).parents[1]
TINY = {
    "train_texts": 24,
    "validation_texts": 4,
    "test_texts": 210,
    "batch_size": 8,
    "max_tokens": 32,
    "epochs": 1.0,
    "evaluations": 1,
    "prompts": 100,
    "prompt_tokens": 4,
    "max_new_tokens": 8,
    "sample_sets": 2,
}
STUDY = {
    "about": "A study for tests.",
    "parameters": TINY,
    "base": {"objective": "mle"},
    "grid": [
        {"objective": "mle"},
        {"objective": "mixce", "eta": [0.0, 0.5]},
        {"objective": "sequencematch", "refill_texts": 4},
    ],
    "decoding": [{"temperature": [0.5]}],
}
CELL = """
import os, time
from pathlib import Path
from mixkit.studies.config import RunConfig
from mixkit.studies.store import Metric, RunStore
config = RunConfig.check({name: value for name, value in globals().items() if name in RunConfig.model_fields})
run = RunStore(Path(os.environ["MIXKIT_RUNS"])).begin(config)
with open(run.folder / "began.txt", "a") as file:
    file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ['OMP_NUM_THREADS']}\\n")
print("\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 <script>\\r\\n10 %\\r20 %\\r30 %")
while (run.folder / "wait").exists() or (run.folder.parent / "wait").exists():
    time.sleep(0.05)
if config.eta == 0.25:
    raise ValueError("a quarter is \\x1b[1mnot\\x1b[0m allowed")
if config.eta != 0.75:
    record = run.finish({"eta": Metric(value=config.eta)})
"""


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T) with zeros on the right, and True where they are the rows'."""
    tensors = [torch.tensor(row) for row in rows]
    ids, mask = (pad_sequence(parts, batch_first=True) for parts in (tensors, [torch.ones_like(x) for x in tensors]))
    return ids, mask.bool()


def write_notebook(folder: Path) -> Path:
    """Write the notebook, and return its path."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL, id="a")])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "small.ipynb"
    nbformat.write(book, path)
    return path


def metrics_of(values: dict[str, Any]) -> dict[str, Metric]:
    """Metrics from (value, low, high); a Metric stays."""
    ends = ("value", "low", "high")
    return {m: v if isinstance(v, Metric) else Metric(**dict(zip(ends, v, strict=True))) for m, v in values.items()}


def record(
    name: str, objective: str = "mixce", role: Role = "grid", *, metrics=None, human=None, **settings: Any
) -> RunRecord:
    """A finished run. metrics, human: as in metrics_of. settings: of RunConfig."""
    return RunRecord(
        name=name,
        study="own",
        status="done",
        config=RunConfig.check({"objective": objective, **settings}),
        versions={},
        began=0.0,
        seconds=1.0,
        metrics=metrics_of(metrics or {}),
        human=metrics_of(human or {}),
        role=role,
    )


def environment(runs: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "MIXKIT_CHECK_SHAPES"}
    return inherited | {"MIXKIT_RUNS": str(runs), "PYTHONPATH": str(CLONE), "CUDA_VISIBLE_DEVICES": ""}


def sweep_command(file: Path, name: str, notebook: Path, arguments: Sequence[str] = ()) -> list[str]:
    """python -m mixkit study FILE with this notebook in place of 3_finetune, and without a preflight."""
    arguments = ["study", str(file), "--name", name, *arguments]
    imports = "import sys; from pathlib import Path; from mixkit.__main__ import main; from mixkit.studies import sweep"
    code = (
        f"{imports}; sweep.preflight = lambda *_: []; sys.exit(main({arguments!r}, notebook=Path({str(notebook)!r})))"
    )
    return [sys.executable, "-c", code]


def began(folder: Path) -> list[list[str]]:
    """(process of the kernel, CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS) of every start of a run."""
    path = folder / "began.txt"
    return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []
