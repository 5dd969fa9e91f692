"""Workers that execute runs: processes on this machine, or tasks of a Ray cluster."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixkit._common import CLONE, InputError, unknown
from mixkit.studies.run import KILLED, NOTEBOOK, execute, one_line

EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class Worker:
    """A run in progress. poll: None while it runs, then the exit code of `execute`, or below 0 for a signal."""

    poll: Callable[[], int | None]
    stop: Callable[[], None]
    wait: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Executor:
    """max_workers: runs at a time. start(folder, slot, num_siblings): execute the run of a folder.

    slot: 0 to max_workers - 1, not in use. num_siblings: runs of the plan that start from the same run. The number of
    threads follows from max_workers and num_siblings, not from what runs at the moment: it changes the last bits of
    sums.
    """

    max_workers: int
    start: Callable[[Path, int, int], Worker]
    close: Callable[[], None] = lambda: None


def make_executor(
    name: str,
    max_workers: int = 0,
    *,
    address: str | None = None,
    notebook: Path = NOTEBOOK,
    gpus: Sequence[str] | None = None,
) -> Executor:
    """The executor of that name. max_workers: 0: one per GPU, or two per machine without one.

    address: of the Ray cluster. gpus: of this machine, as in CUDA_VISIBLE_DEVICES; None: all.
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if name == "ray":
        return _ray_executor(max_workers, notebook, address)
    if address:
        raise InputError(f"address {address!r} is for Ray; use it with the executor ray")
    return local_executor(max_workers, notebook, gpus)


def local_workers(max_workers: int = 0, gpus: Sequence[str] | None = None) -> int:
    """max_workers; for 0 one per GPU, or two without GPUs, or one on one core. InputError below 0."""
    if max_workers < 0:
        raise InputError(f"max_workers is {max_workers}; it must be at least 0 (0: one per GPU, or two without)")
    return max_workers or len(_gpus() if gpus is None else gpus) or min(2, _cores())


def local_executor(
    max_workers: int = 0, notebook: Path = NOTEBOOK, gpus: Sequence[str] | None = None, cores: int | None = None
) -> Executor:
    """Runs as processes of this machine. gpus and cores: those to use; None: all that there are."""
    gpus, cores = _gpus() if gpus is None else gpus, cores or _cores()
    max_workers = local_workers(max_workers, gpus)

    def start(folder: Path, slot: int, num_siblings: int) -> Worker:
        environment = os.environ | _environment(folder, cores // min(max_workers, num_siblings))
        command = [sys.executable, "-m", "mixkit.studies.run", str(folder.absolute()), "--notebook", str(notebook)]
        if gpus:
            gpu = gpus[slot % len(gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = gpu
            if max_workers <= len(gpus):  # otherwise the user wants runs to share a GPU
                command += ["--gpu", gpu]
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=CLONE,
                start_new_session=True,  # Ctrl-C goes to the sweep alone
            )
        return Worker(process.poll, process.terminate, process.wait)

    return Executor(max_workers, start)


def _ray_executor(max_workers: int, notebook: Path, address: str | None) -> Executor:
    """Runs as tasks of the Ray cluster at `address`, of the one that is joined already, or of one started here."""
    try:
        import ray
        from ray import exceptions
    except ImportError:
        how = ".venv/bin/pip install -c constraints.txt -e .[ray]"
        raise InputError(f"executor 'ray' is not installed; run: {how}") from None
    was_initialized = ray.is_initialized()
    if not was_initialized:
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address!r} ({one_line(str(error), 150)})") from None
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(resource.get("GPU", 0)) for resource in resources)
    if gpus:
        resources = [resource for resource in resources if "GPU" in resource]
    cores = min(int(resource.get("CPU", 1)) for resource in resources)
    max_workers = local_workers(max_workers) if max_workers else gpus or len(resources) * min(2, cores)
    per_node = -(-max_workers // len(resources))
    lost = (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError)

    def start(folder: Path, slot: int, num_siblings: int) -> Worker:
        threads = max(1, cores // min(per_node, num_siblings))
        needs: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": threads}
        task = ray.remote(**needs, max_retries=0)(_task)  # the sweep restarts lost runs, and counts them
        result = task.remote(folder.absolute(), _environment(folder, threads), notebook)

        def poll() -> int | None:
            if not ray.wait([result], timeout=0)[0]:
                return None
            try:
                return ray.get(result)
            except lost:
                return KILLED
            except exceptions.RayError as error:
                with open(folder / "log.txt", "a", encoding="utf-8") as log:
                    log.write(one_line(str(error)) + "\n")
                return 1

        return Worker(poll, lambda: ray.cancel(result, force=True))

    return Executor(max_workers, start, lambda: None if was_initialized else ray.shutdown())


def _task(folder: Path, environment: dict[str, str], notebook: Path) -> int:
    os.environ.update(environment)
    return execute(folder, notebook)


def _environment(folder: Path, threads: int) -> dict[str, str]:
    return {
        "MIXKIT_RUNS": str(folder.absolute().parents[1]),
        "OMP_NUM_THREADS": str(max(1, threads)),
        "TOKENIZERS_PARALLELISM": "false",
    }


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The GPUs of this machine, as in CUDA_VISIBLE_DEVICES."""
    import torch  # seconds

    gpus = [str(i) for i in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[: len(gpus)] if visible else gpus
