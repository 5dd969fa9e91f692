"""The process of a sweep that was started from a panel: begun, found again, asked to stop.
It outlives the kernel; whether it lives is read from the machine, never remembered."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from mixkit._common import CLONE, InputError, write_atomically
from mixkit.studies.store import RunStore

# A Jupyter kernel ignores SIGINT between cells, and what it starts inherits that: the sweep could not be stopped.
_COMMAND = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('mixkit', run_name='__main__', alter_sys=True)"
)
_children: list[subprocess.Popen] = []


def start(study: str, store: RunStore, *, retry: bool = False) -> None:
    """`python -m mixkit study runs/<study>/asked.yaml --name <study>` in a session of its own; its words go into
    runs/<study>/sweep.log. retry: run again what failed. Raises InputError where one is under way."""
    if find(study, store):
        raise InputError(f"a sweep of {study!r} is under way already; stop it first")
    folder = store.root / study
    command = [sys.executable, "-c", _COMMAND, "study", str(folder / "asked.yaml"), "--name", study]
    with open(folder / "sweep.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*command, *["--retry"] * retry],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=CLONE,
            env={**os.environ, "MIXKIT_RUNS": str(store.root)},
            start_new_session=True,
        )
    _children.append(process)
    write_atomically(folder / "sweep.pid", f"{process.pid} {psutil.Process(process.pid).create_time()!r}\n")


def find(study: str, store: RunStore) -> psutil.Process | None:
    """The study's process where it still runs on this machine. A number that another process has by now is not it."""
    _children[:] = [child for child in _children if child.poll() is None]  # the ended ones leave the process table
    try:
        pid, began = (store.root / study / "sweep.pid").read_text().split()
        process = psutil.Process(int(pid))
        return process if process.create_time() == float(began) and process.status() != "zombie" else None
    except (OSError, ValueError, psutil.Error):
        return None


def stop(study: str, store: RunStore) -> None:
    """SIGINT to the study's process, which then ends its runs; nothing where none runs."""
    if process := find(study, store):
        process.send_signal(signal.SIGINT)


def last_line(study: str, store: RunStore) -> str:
    """The last that the process said, or nothing."""
    path: Path = store.root / study / "sweep.log"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
