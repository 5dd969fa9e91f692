"""A notebook that is done in a moment, in the place of 3_finetune: for what happens around a run, not in it."""

import json
import os
import sys
from pathlib import Path

import nbformat

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
from mixkit.studies.config import FINETUNE, check
from mixkit.studies.store import RunStore
asked = check({name: value for name, value in globals().items() if name in FINETUNE})
run = RunStore(Path(os.environ["MIXKIT_RUNS"])).begin(asked)
with open(run.folder / "began.txt", "a") as file:
    file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ['OMP_NUM_THREADS']}\\n")
print("\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 <script>\\r\\n10 %\\r20 %\\r30 %")
while (run.folder / "wait").exists() or (run.folder.parent / "wait").exists():
    time.sleep(0.05)
if asked["eta"] == 0.25:
    raise ValueError("a quarter is \\x1b[1mnot\\x1b[0m allowed")
if asked["eta"] != 0.75:
    record = run.finish({"eta": {"value": asked["eta"], "low": None, "high": None}})
"""


def write_notebook(folder: Path) -> Path:
    """The notebook's file."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL, id="a")])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "small.ipynb"
    nbformat.write(book, path)
    return path


def worker(notebook: Path) -> tuple[str, str]:
    """engines.WORKER that executes this notebook."""
    return "-c", (
        "import sys; from pathlib import Path; from mixkit.studies import run; "
        f"run.NOTEBOOK = Path({str(notebook)!r}); sys.exit(run.execute(Path(sys.argv[-1])))"
    )


def environment(runs: Path) -> dict[str, str]:
    return os.environ | {"MIXKIT_RUNS": str(runs), "PYTHONPATH": str(CLONE)}


def sweep_command(file: Path, name: str, notebook: Path, *arguments: str) -> list[str]:
    """python -m mixkit study FILE with this notebook in the place of 3_finetune."""
    code = (
        "import sys; from mixkit.studies import executors, sweep; from mixkit.__main__ import main; "
        f"executors.WORKER = {worker(notebook)!r}; sweep.check_inputs = lambda runs: None; "
        "executors._gpus = lambda: []; "
        f"sys.exit(main({['study', str(file), '--name', name, *arguments]!r}))"
    )
    return [sys.executable, "-c", code]


def began(folder: Path) -> list[list[str]]:
    """Of a run: (kernel's process, CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS) of each time that it began."""
    path = folder / "began.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
