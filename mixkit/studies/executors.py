"""Where runs are executed: processes of this machine, or tasks of a Ray cluster. Both call execution.execute.
An engine starts a run in a slot and tells when it ended; which run and when is the sweep's business."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mixkit._common import CLONE, InputError, unknown
from mixkit.studies.run import GPU, KILLED, execute, one_line

ENGINES = ("local", "ray")
WORKER = ("-m", "mixkit.studies.run")


@dataclass(frozen=True)
class Job:
    """A run under way. ended(): None while it is, then execution's exit code, below 0 for a signal; stop() ends it,
    wait() until it is over."""

    ended: Callable[[], int | None]
    stop: Callable[[], None]
    wait: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Engine:
    """slots: runs at a time. start(folder, slot, beside) -> Job; `beside`: how many runs of the plan wait for the
    same one, this one included. A run's cores follow from that and the slots, never from what happens to run beside it:
    the number of threads changes the last bits of sums."""

    max_workers: int
    start: Callable[[Path, int, int], Job]
    close: Callable[[], None] = lambda: None


def engine(name: str, *, max_workers: int = 0, address: str | None = None) -> Engine:
    """The engine of that name. slots: 0 means one a GPU, or two a machine without one."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if address and name != "ray":
        raise InputError(f"address {address!r} is of a Ray cluster; it needs the engine ray")
    _check_slots(max_workers)
    return _local(max_workers) if name == "local" else _ray(max_workers, address)


def local_workers(asked: int = 0) -> int:
    """As many as asked for; for 0 one a GPU, or two without one, or one on one core. InputError below 0."""
    _check_slots(asked)
    return asked or len(_gpus()) or min(2, _cores())


def _check_slots(max_workers: int) -> None:
    if max_workers < 0:
        raise InputError(f"max_workers is {max_workers}; it must be at least 0 (0: one per GPU, or two without)")


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names those that are there."""
    import torch  # here, as it takes seconds

    found = [str(i) for i in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[: len(found)] if visible else found


def _local(max_workers: int) -> Engine:
    gpus, cores, max_workers = _gpus(), _cores(), local_workers(max_workers)

    def start(folder: Path, slot: int, num_siblings: int) -> Job:
        environment = os.environ | _environment(folder, cores // min(max_workers, num_siblings))
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
            if max_workers <= len(gpus):  # else it is wanted that runs share one
                environment[GPU] = environment["CUDA_VISIBLE_DEVICES"]
        command = [sys.executable, *WORKER, str(folder.absolute())]
        with open(folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=CLONE,
                start_new_session=True,  # Ctrl-C is the sweep's
            )

        return Job(process.poll, process.terminate, process.wait)

    return Engine(max_workers, start)


def _ray(max_workers: int, address: str | None) -> Engine:
    try:
        import ray
    except ImportError:
        how = ".venv/bin/pip install -c constraints.txt -e .[ray]"
        raise InputError(f"engine 'ray' is not installed; run: {how}") from None
    joined = ray.is_initialized()
    if not joined:
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"no Ray cluster answers at {address!r} ({one_line(str(error), 150)})") from None
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(resource.get("GPU", 0)) for resource in resources)
    resources = [resource for resource in resources if "GPU" in resource or not gpus] or resources
    cores = min(int(resource.get("CPU", 1)) for resource in resources)
    max_workers = max_workers or gpus or len(resources) * min(2, cores)
    on_one = -(-max_workers // len(resources))
    lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)

    def start(folder: Path, slot: int, num_siblings: int) -> Job:
        threads = max(1, cores // min(on_one, num_siblings))
        asked = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": threads}
        task = ray.remote(**asked, max_retries=0)(_task)  # lost runs are started again by the sweep, which counts them
        job = task.remote(str(folder.absolute()), _environment(folder, threads))

        def ended() -> int | None:
            if not ray.wait([job], timeout=0)[0]:
                return None
            try:
                return ray.get(job)
            except lost:
                return KILLED
            except ray.exceptions.RayError as error:
                with open(folder / "log.txt", "a", encoding="utf-8") as log:
                    log.write(one_line(str(error)) + "\n")
                return 1

        return Job(ended, lambda: ray.cancel(job, force=True))

    return Engine(max_workers, start, lambda: None if joined else ray.shutdown())


def _task(folder: str, environment: dict[str, str]) -> int:
    os.environ.update(environment)
    return execute(Path(folder))


def _environment(folder: Path, threads: int) -> dict[str, str]:
    return {
        "MIXKIT_RUNS": str(folder.absolute().parents[1]),
        "OMP_NUM_THREADS": str(max(1, threads)),
        "TOKENIZERS_PARALLELISM": "false",
    }
