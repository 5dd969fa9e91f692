"""One run executed: its folder claimed, notebooks/3_finetune run in it by papermill, a clean log, its failure kept.
python -m mixkit.studies.run FOLDER does it in a process of its own. Which run is next is not decided here."""

import errno
import fcntl
import json
import os
import platform
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from mixkit._common import CLONE, InputError, plain, write_atomically
from mixkit.studies.config import FINETUNE, check
from mixkit.studies.store import Run, RunStore, run_name

NOTEBOOK = CLONE / "notebooks" / "3_finetune.ipynb"
ENDED, ELSEWHERE, KILLED = 0, 75, 76  # exit codes: run.json tells how; another process has the claim; the kernel died
GPU = "MIXKIT_GPU"  # names the one that a worker shall have to itself
PATIENCE = 1.0  # seconds: whoever looks at a claim holds it for a moment


def execute(folder: Path) -> int:
    """equals: papermill notebooks/3_finetune.ipynb FOLDER/notebook.ipynb -f FOLDER/parameters.yaml

    by one process at a time, and only where FOLDER/run.json does not say yet how the run ended. What the notebook
    prints goes into log.txt; where it raised, run.json says so in one line, and where its corpus is a file that has
    changed since the folder was named, it is not run. Returns ENDED, ELSEWHERE or KILLED.
    """
    store, study, name = RunStore(folder.parents[1]), folder.parent.name, folder.name
    with lock(folder) as descriptor:
        if descriptor is None:
            return ELSEWHERE
        if store.read(study, name) is not None:
            return ENDED
        given = yaml.safe_load((folder / "parameters.yaml").read_text(encoding="utf-8"))
        run = Run(folder, name, check(given))
        if os.path.isfile(run.parameters["corpus"]) and run_name(run.parameters) != name:
            run.fail("the corpus file has changed since the study was planned")
            return ENDED
        log = PlainLog(folder / "log.txt")
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {platform.node()}, process {os.getpid()}\n")
        log.flush()
        try:
            with _gpu():
                error = _run_notebook(given, folder, log, descriptor)
        finally:
            log.close()
        if store.read(study, name) is not None:
            return ENDED
        if error == "":
            return KILLED
        run.fail(error or "the notebook ended without a result")
        return ENDED


@contextmanager
def lock(folder: Path) -> Iterator[int | None]:
    """Holds FOLDER/lock: the file's descriptor, or None where another process holds it.

    The claim lasts until the last process that has the descriptor is dead, whatever it died of, on this machine or on
    another one of a shared file system with locks (NFS 4, Lustre, CephFS): a kernel that outlives its worker by a
    moment, and might still write, keeps it. No file of a dead process has to be cleaned up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        mine, until = _lock(descriptor, fcntl.LOCK_EX), time.monotonic() + PATIENCE
        while not mine and time.monotonic() < until:
            time.sleep(0.05)
            mine = _lock(descriptor, fcntl.LOCK_EX)
        if mine:
            who = {"host": platform.node(), "process": os.getpid(), "began": time.time()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
        yield descriptor if mine else None
    finally:
        os.close(descriptor)


@contextmanager
def _gpu() -> Iterator[None]:
    """Holds the GPU that the local engine chose, among all workers of this machine: another sweep may have it."""
    chosen = os.environ.get(GPU)
    while chosen:
        with lock(Path(tempfile.gettempdir()) / f"mixkit-{os.getuid()}-gpu-{chosen}") as mine:
            if mine is not None:
                yield
                return
    yield


def lock_owner(folder: Path) -> dict[str, object] | None:
    """Who holds the folder's claim (host, process, began in seconds since the epoch); None where nobody does."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _lock(descriptor, fcntl.LOCK_SH):
            return None
        return {"host": "?", "process": 0, "began": time.time()} | json.loads(os.pread(descriptor, 1000, 0))
    except ValueError:  # it is just being written
        return {"host": "?", "process": 0, "began": time.time()}
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError("runs/ lies on a file system without locks; let MIXKIT_RUNS name another folder") from None
        raise
    return True


def _run_notebook(given: dict[str, object], folder: Path, log: "PlainLog", descriptor: int) -> str | None:
    """None where the notebook ran to its end, "" where its kernel died, else the error's line."""
    # jsonschema would build a grammar of IRIs, the better part of papermill's import; no notebook's format asks for it.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from jupyter_client import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **asked):
            await super().start_kernel(**asked, pass_fds=(descriptor,))

    leash = f"__import__('mixkit.studies.run').studies.run.end_with({os.getpid()})"
    try:
        papermill.execute_notebook(
            str(NOTEBOOK),
            str(folder / "notebook.ipynb"),
            given,
            kernel_name="python3",
            progress_bar=False,
            start_timeout=600,
            stdout_file=log,
            stderr_file=log,
            cwd=str(CLONE),
            kernel_manager_class=Kernel,
            extra_arguments=[f"--IPKernelApp.exec_lines={leash}", "--IPKernelApp.log_level=40"],
        )
    except papermill.PapermillExecutionError as error:
        log.write("\n".join(error.traceback) + "\n")
        return one_line(f"{error.ename}: {error.evalue}")
    except DeadKernelError:
        log.write("the kernel died\n")
        return ""
    except Exception as error:
        log.write(traceback.format_exc())
        return "" if str(error).startswith("Kernel died") else one_line(f"{type(error).__name__}: {error}")
    return None


def end_with(parent: int) -> None:
    """Ends this process within half a second of its parent's end: a kernel without its worker may not write on."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def prepare(folder: Path, parameters: dict[str, object]) -> None:
    """What `execute` finds in the folder: parameters.yaml, what differs from the notebook's own."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {k: v for k, v in parameters.items() if v != FINETUNE[k].default}
    write_atomically(folder / "parameters.yaml", yaml.safe_dump(given))


def one_line(text: str, length: int = 300) -> str:
    """Plain, white space as single spaces, at most `length` characters."""
    return plain(" ".join(text.split()))[:length]


class PlainLog:
    """A text file that is appended to, `plain`; of a line that was drawn over and over (a bar) the last state."""

    def __init__(self, path: Path):
        self.file, self.line = path.open("a", encoding="utf-8", errors="replace"), ""

    def write(self, text: str) -> None:
        *lines, self.line = (self.line + text).split("\n")
        self.file.writelines(_drawn(line) + "\n" for line in lines)
        self.line = self.line[self.line.rfind("\r", 0, -1) + 1 :]

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.write(_drawn(self.line))
        self.file.close()


def _drawn(line: str) -> str:
    return plain(line.rstrip("\r").rpartition("\r")[2])


if __name__ == "__main__":
    sys.exit(execute(Path(sys.argv[1])))
