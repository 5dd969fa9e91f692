"""Execute one run in its folder: lock it, run notebook 3 there with papermill, and record the outcome."""

import argparse
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
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mixkit._common import CLONE, InputError, plain, write_atomically
from mixkit.studies.config import RunConfig
from mixkit.studies.store import Run, RunStore, run_name

NOTEBOOK = CLONE / "notebooks" / "3_finetune.ipynb"
FINISHED, LOCKED, KILLED = 0, 75, 76  # exit codes: run.json tells the outcome; another process has the lock; killed
LOCK_TIMEOUT = 1.0  # seconds: lock_owner holds the lock for a moment
KERNEL_DIED = "the kernel died"


def prepare(folder: Path, config: RunConfig) -> None:
    """Write FOLDER/parameters.yaml: the settings that are not notebook 3's defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "parameters.yaml", yaml.safe_dump(config.model_dump(exclude_defaults=True)))


def execute(folder: Path, notebook: Path = NOTEBOOK, gpu: str | None = None) -> int:
    """equals: papermill notebook FOLDER/notebook.ipynb -f FOLDER/parameters.yaml

    Nothing is executed if another process has the folder's lock or if FOLDER/run.json exists. What the notebook prints
    goes to log.txt. If it raises, run.json has status "failed" and the error. A run whose corpus file has changed since
    it was planned fails. gpu: wait until no other run of this machine uses it. Returns FINISHED, LOCKED or KILLED.
    """
    store, study, name = RunStore(folder.parents[1]), folder.parent.name, folder.name
    with lock(folder) as descriptor:
        if descriptor is None:
            return LOCKED
        if store.read(study, name) is not None:
            return FINISHED
        parameters = yaml.safe_load((folder / "parameters.yaml").read_text(encoding="utf-8"))
        run = Run(folder, name, RunConfig.check(parameters))
        if os.path.isfile(run.config.corpus) and run_name(run.config) != name:
            run.fail("the corpus file has changed since the study was planned")
            return FINISHED
        log = PlainLog(folder / "log.txt")
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {platform.node()}, process {os.getpid()}\n")
        log.flush()
        try:
            with lock_gpu(gpu) if gpu else nullcontext():
                error = _run_notebook(notebook, parameters, folder, log, descriptor)
        finally:
            log.close()
        if store.read(study, name) is not None:
            return FINISHED
        if error == KERNEL_DIED:
            return KILLED
        run.fail(error or "the notebook ended without a result")
        return FINISHED


# Not filelock: its descriptor, which the kernel must inherit, is private there.
@contextmanager
def lock(folder: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[int | None]:
    """Exclusive lock on a folder: its file descriptor, or None if another process has the lock.

    The kernel inherits it, so it is released only after worker and kernel have exited. There are no stale locks. It
    works between machines on file systems with locks (NFS 4, Lustre, CephFS).
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + timeout
        while not (locked := _flock(descriptor, fcntl.LOCK_EX)) and time.monotonic() < end:
            time.sleep(0.05)
        if locked:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(LockOwner(platform.node(), os.getpid()))).encode(), 0)
        yield descriptor if locked else None
    finally:
        os.close(descriptor)


@contextmanager
def lock_gpu(gpu: str, folder: Path | None = None, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Wait for a GPU of this machine and lock it: the runs of two sweeps do not share one."""
    path = (folder or Path(tempfile.gettempdir())) / f"mixkit-{os.getuid()}-gpu-{gpu}"
    while True:
        with lock(path, timeout) as descriptor:
            if descriptor is not None:
                yield
                return


@dataclass(frozen=True)
class LockOwner:
    """The process that has a lock. began: seconds since the epoch."""

    host: str = "?"
    process: int = 0
    began: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"{self.host}, process {self.process}"


def lock_owner(folder: Path) -> LockOwner | None:
    """The owner of the folder's lock, or None if it is free."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _flock(descriptor, fcntl.LOCK_SH):
            return None
        return LockOwner(**json.loads(os.pread(descriptor, 1000, 0)))
    except ValueError:  # the owner is writing the file
        return LockOwner()
    finally:
        os.close(descriptor)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError("runs/ is on a file system without locks; set MIXKIT_RUNS to another folder") from None
        raise
    return True


def _run_notebook(notebook: Path, parameters: dict[str, Any], folder: Path, log: "PlainLog", descriptor: int) -> str:
    """Returns the error's line, KERNEL_DIED, or "" if the notebook ran to its end."""
    # jsonschema would build a grammar of IRIs, most of papermill's import time; no notebook's format needs it.
    sys.modules.setdefault("rfc3987_syntax", None)  # pyright: ignore[reportArgumentType]
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError

    class LockedKernel(AsyncKernelManager):
        async def start_kernel(self, **options):
            await super().start_kernel(**options, pass_fds=(descriptor,))

    watch = f"__import__('mixkit.studies.run').studies.run.exit_with_parent({os.getpid()})"
    try:
        papermill.execute_notebook(
            str(notebook),
            str(folder / "notebook.ipynb"),
            parameters,
            kernel_name="python3",
            progress_bar=False,
            start_timeout=600,
            stdout_file=log,
            stderr_file=log,
            cwd=str(CLONE),
            kernel_manager_class=LockedKernel,
            extra_arguments=[f"--IPKernelApp.exec_lines={watch}", "--IPKernelApp.log_level=40"],
        )
    except papermill.PapermillExecutionError as error:
        log.write("\n".join(error.traceback) + "\n")
        return one_line(f"{error.ename}: {error.evalue}")
    except Exception as error:
        log.write(traceback.format_exc())
        if isinstance(error, DeadKernelError) or str(error).startswith("Kernel died"):
            return KERNEL_DIED
        return one_line(f"{type(error).__name__}: {error}")
    return ""


def exit_with_parent(parent: int) -> None:
    """Exit this process at most half a second after its parent: a kernel without its worker must not write."""

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def one_line(text: str, length: int = 300) -> str:
    """The text without control characters, with single spaces, cut to `length` characters."""
    return plain(" ".join(text.split()))[:length]


class PlainLog:
    """A text file to append to, without control characters. Of a progress bar it has the last state."""

    def __init__(self, path: Path):
        self.file, self.line = path.open("a", encoding="utf-8", errors="replace"), ""

    def write(self, text: str) -> None:
        *lines, self.line = (self.line + text).split("\n")
        self.file.writelines(_last_state(line) + "\n" for line in lines)
        self.line = self.line[self.line.rfind("\r", 0, -1) + 1 :]

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.write(_last_state(self.line))
        self.file.close()


def _last_state(line: str) -> str:
    return plain(line.rstrip("\r").rpartition("\r")[2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m mixkit.studies.run", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--notebook", type=Path, default=NOTEBOOK)
    parser.add_argument("--gpu", help="wait until no other run of this machine uses it")
    arguments = parser.parse_args()
    sys.exit(execute(arguments.folder, arguments.notebook, arguments.gpu))
