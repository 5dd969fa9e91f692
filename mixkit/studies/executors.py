"""Workers that execute runs: processes on this machine, or tasks of a Ray cluster."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mixkit._common import CLONE, InputError, summary, unknown
from mixkit.studies.run import KILLED, execute


class Worker(NamedTuple):
    """A run in progress. poll: None while it runs, then the exit code of `execute`, or below 0 for a signal."""

    poll: Callable[[], int | None]
    stop: Callable[[], None]
    wait: Callable[[], object] = lambda: None


class Executor(NamedTuple):
    """max_workers: runs at a time. start(folder, slot, num_siblings): execute the run of a folder, an absolute path.

    slot: a free one, from 0. num_siblings: runs of the plan that start from the same run. The number of threads must
    not follow from what runs at the moment, because it changes the last bits of sums.
    """

    max_workers: int
    start: Callable[[Path, int, int], Worker]


def make_executor(name: str, max_workers: int, notebook: Path, address: str) -> Executor:
    """The executor "local" or "ray". max_workers: as in local_workers. address: of the Ray cluster."""
    if name == "ray":
        return _ray_executor(max_workers, notebook, address)
    if name != "local":
        raise unknown("executor", name, ("local", "ray"))
    if address:
        raise InputError(f"address {address!r} is for Ray; use it with the executor ray")
    return local_executor(max_workers, notebook)


def local_workers(max_workers: int = 0) -> int:
    """max_workers; for 0 one per GPU, or two without GPUs, or one on one core. InputError below 0."""
    if max_workers < 0:
        raise InputError(f"max_workers is {max_workers}; it must be at least 0 (0: one per GPU, or two without)")
    return max_workers or len(_gpus()) or min(2, _cores())


def local_executor(max_workers: int, notebook: Path) -> Executor:
    """Runs as processes of this machine."""
    max_workers, gpus, cores = local_workers(max_workers), _gpus(), _cores()

    def start(folder: Path, slot: int, num_siblings: int) -> Worker:
        environment = os.environ | _environment(folder, cores // min(max_workers, num_siblings))
        command = [sys.executable, "-m", "mixkit.studies.run", str(folder), str(notebook)]
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
            if max_workers <= len(gpus):  # otherwise the user wants runs to share a GPU
                command.append(gpus[slot])
        options: dict[str, Any] = {"env": environment, "cwd": CLONE, "stdin": subprocess.DEVNULL}
        with open(folder / "log.txt", "ab") as log:  # a session of its own, so that Ctrl-C goes to the sweep alone
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)
        return Worker(process.poll, process.terminate, process.wait)

    return Executor(max_workers, start)


def _ray_executor(max_workers: int, notebook: Path, address: str) -> Executor:
    """Runs as tasks of the Ray cluster at `address`, of the one that is joined already, or of one started here."""
    try:
        import ray
        from ray import exceptions
    except ImportError:
        raise InputError("Ray is not installed; run: .venv/bin/pip install -c constraints.txt -e .[ray]") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address!r} ({summary(error, 150)})") from None
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        nodes = [node for node in nodes if "GPU" in node]
    cores = min(int(node.get("CPU", 1)) for node in nodes)
    max_workers = local_workers(max_workers) if max_workers else gpus or len(nodes) * min(2, cores)
    per_node = -(-max_workers // len(nodes))

    def start(folder: Path, slot: int, num_siblings: int) -> Worker:
        threads = max(1, cores // min(per_node, num_siblings))

        def task() -> int:
            os.environ.update(_environment(folder, threads))
            return execute(folder, notebook)

        needs: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": threads}
        result = ray.remote(**needs, max_retries=0)(task).remote()  # the sweep restarts lost runs, and counts them

        def poll() -> int | None:
            try:
                return ray.get(result) if ray.wait([result], timeout=0)[0] else None
            except exceptions.RayTaskError as error:  # raised by `execute`
                with open(folder / "log.txt", "a", encoding="utf-8") as log:
                    log.write(f"{error}\n")
                return 1
            except exceptions.RayError:  # the worker or its node is lost
                return KILLED

        return Worker(poll, lambda: ray.cancel(result, force=True))

    return Executor(max_workers, start)


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """Environment variables of a worker, which its kernel inherits."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    return {"MIXKIT_RUNS": str(folder.parents[1]), "OMP_NUM_THREADS": str(max(1, threads)), **quiet}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """The GPUs of this machine, as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    import torch  # seconds

    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]
