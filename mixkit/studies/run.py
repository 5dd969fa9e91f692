"""Execute one run in its folder: lock it, run notebook 3 there with papermill, and record the outcome."""

import atexit
import errno
import fcntl
import io
import math
import os
import platform
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import yaml

from mixkit._common import CLONE, InputError, plain, summary, write_atomically
from mixkit.studies.config import RunConfig
from mixkit.studies.store import Run, RunStore, notebook_hash, run_name

NOTEBOOK = CLONE / "notebooks" / "3_finetune.ipynb"
FINISHED, LOCKED, KILLED = 0, 75, 76  # exit codes: run.json tells the outcome; another process has the lock; killed
OUT_OF_MEMORY = "out of memory: halve batch_size and double accumulation, or lower max_tokens or --max-workers"


def prepare(folder: Path, config: RunConfig) -> None:
    """Write FOLDER/parameters.yaml: all settings, so that no edit of notebook 3's parameters cell counts."""
    with lock(folder) as descriptor:  # whoever has it takes a file that is being written for one left behind
        if descriptor is not None:
            write_atomically(folder / "parameters.yaml", yaml.safe_dump(config.model_dump()))


def execute(folder: Path, notebook: Path = NOTEBOOK, gpu: str | None = None) -> int:
    """equals: papermill notebook FOLDER/notebook.ipynb -f FOLDER/parameters.yaml

    Nothing is executed if another process has the folder's lock or if FOLDER/run.json exists. What the notebook prints
    goes to log.txt. If it raises, run.json has status "failed" and the error. gpu: wait until no other run of this
    machine uses it. Returns FINISHED, LOCKED or KILLED.
    """
    store, study, name = RunStore(folder.parents[1]), folder.parent.name, folder.name
    with lock(folder) as descriptor:
        if descriptor is None:
            return LOCKED
        if store.read(study, name) is not None:
            return FINISHED
        for left_behind in folder.glob(".*.*.*"):  # by write_atomically, in a process that was killed
            left_behind.unlink()
        parameters = yaml.safe_load((folder / "parameters.yaml").read_text(encoding="utf-8"))
        run = Run(folder, RunConfig.check(parameters))
        if run_name(run.config) != name:
            run.fail("the content of a local file or folder (corpus, model ...) has changed since the study began")
            return FINISHED
        os.environ["MIXKIT_NOTEBOOK"] = notebook_hash(notebook)
        with PlainLog(open(folder / "log.txt", "ab"), encoding="utf-8", errors="replace", line_buffering=True) as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {lock_owner(folder)}\n")
            gpu_folder = Path(tempfile.gettempdir()) / f"mixkit-{os.getuid()}-gpu-{gpu}"
            with lock(gpu_folder, timeout=math.inf) if gpu else nullcontext():
                error = _run_notebook(notebook, parameters, folder, log, descriptor)
        if store.read(study, name) is None:
            if error is None:
                return KILLED
            if re.search(r"out of memory|OutOfMemory|^MemoryError|not enough memory|allocate memory", error):
                error = f"{OUT_OF_MEMORY} ({error})"
            run.fail(error or "the notebook ended without a result")
        return FINISHED


# Not filelock: its descriptor, which the kernel must inherit, is private there.
@contextmanager
def lock(folder: Path, timeout: float = 1.0) -> Iterator[int | None]:
    """Exclusive lock on a folder: its file descriptor, or None if another process has the lock.

    The kernel inherits it, so it is released only after worker and kernel have exited. There are no stale locks. It
    works between machines, on NFS 4, Lustre or CephFS. timeout: seconds, not 0: lock_owner has the lock for a moment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a", encoding="utf-8") as file:
        end = time.monotonic() + timeout
        while not (locked := _flock(file, fcntl.LOCK_EX)) and time.monotonic() < end:
            time.sleep(0.05)
        if locked:
            file.truncate(0)
            file.write(f"{platform.node()}, process {os.getpid()}")
            file.flush()
        yield file.fileno() if locked else None


def lock_owner(folder: Path) -> str | None:
    """The owner of the folder's lock, such as "host, process 123", or None if the lock is free."""
    try:
        with open(folder / "lock", encoding="utf-8") as file:
            return None if _flock(file, fcntl.LOCK_SH) else file.read()
    except FileNotFoundError:
        return None


def _flock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError("runs/ is on a file system without locks; set MIXKIT_RUNS to another folder") from None
        raise
    return True


def _run_notebook(notebook: Path, parameters: dict[str, Any], folder: Path, log: IO[str], lock: int) -> str | None:
    """Returns the error's line, "" if the notebook ran to its end, or None if its kernel died. lock: descriptor."""
    # jsonschema would build a grammar of IRIs, most of papermill's import time; no notebook's format needs it.
    sys.modules.setdefault("rfc3987_syntax", None)  # pyright: ignore[reportArgumentType]
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class LockedKernel(AsyncKernelManager):
        async def start_kernel(self, **options):
            await super().start_kernel(**options, pass_fds=(lock,))

        @property
        def kernel_spec(self):
            return KernelSpec(**get_kernel_dict())  # this Python, not another "python3" on JUPYTER_PATH

    watch = f"__import__('mixkit.studies.run').studies.run.exit_with_parent({os.getpid()})"
    arguments = [f"--IPKernelApp.exec_lines={watch}", "--IPKernelApp.log_level=40"]
    kernel = {"kernel_name": "python3", "kernel_manager_class": LockedKernel, "extra_arguments": arguments}
    output = {"stdout_file": log, "stderr_file": log, "progress_bar": False}
    # papermill formats the paths with the parameters
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, folder / "notebook.ipynb"))
    try:
        papermill.execute_notebook(source, target, parameters, cwd=str(CLONE), start_timeout=600, **kernel, **output)
    except papermill.PapermillExecutionError as error:
        log.write("\n".join(error.traceback) + "\n")
        return summary(f"{error.ename}: {error.evalue}")
    except Exception as error:
        log.write(traceback.format_exc())
        died = str(error).startswith("Kernel died")  # nbclient's or jupyter_client's words
        return None if died else summary(f"{type(error).__name__}: {error}")
    return ""


def exit_with_parent(parent: int) -> None:
    """Exit this process at most half a second after its parent: a kernel without its worker must not write."""
    atexit.register(os._exit, 0)  # where it ends by itself: Python would take seconds to unload torch

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class PlainLog(io.TextIOWrapper):
    """A text file without control characters."""

    def write(self, text: str) -> int:
        return super().write(plain(text))


if __name__ == "__main__":
    folder, notebook, *gpu = sys.argv[1:]
    sys.exit(execute(Path(folder), Path(notebook), *gpu))
