"""python -m tests.benchmarks.kills: kill a study at random moments, resume it, and compare with an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import yaml

from mixkit._common import CLONE
from mixkit.studies.plan import Study, load_study
from mixkit.studies.run import lock_owner
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import states

VICTIMS = ("sweep", "worker", "kernel")
SMALL = {
    "train_texts": 24,
    "validation_texts": 4,
    "test_texts": 210,
    "batch_size": 4,
    "max_tokens": 32,
    "epochs": 1.0,
    "evaluations": 3,
    "prompts": 8,  # too few for MAUVE, whose clustering would take most of the time
    "prompt_tokens": 4,
    "max_new_tokens": 8,
    "sample_sets": 2,
}
STUDY = {
    "about": "Twelve small runs to be killed.",
    "parameters": SMALL,
    "base": {"objective": "mle", "epochs": 2.0},
    "grid": [
        {"objective": "mle", "prompts": 100},
        {"objective": "mixce", "eta": [0.0, 0.3, 0.6]},
        {"objective": "tailr", "gamma": [0.01, 0.1]},
        {"objective": "sequencematch", "noise_rate": [0.03, 0.1], "refill_texts": 4, "refill_every": 2},
        {"objective": "mle-backspace"},
    ],
    "decoding": [{"temperature": [0.5, 0.8]}],
}


@dataclass
class Watch:
    """How often run.json files were read, which were broken, and which changed after they were done."""

    reads: int = 0
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def read_all(self, folder: Path) -> None:
        """Read the folder's run.json files until `over` is set."""
        done: dict[str, bytes] = {}
        while not self.over.wait(0.02):
            for path in folder.glob("*/run.json"):
                content, name = path.read_bytes(), path.parent.name
                self.reads += 1
                try:
                    status = json.loads(content)["status"]
                except ValueError:
                    self.broken.append(name)
                    continue
                if done.setdefault(name, content) != content:
                    self.changed.append(name)
                if status != "done":
                    del done[name]


def sweep(file: Path, store: RunStore, name: str, *arguments: str, log) -> subprocess.Popen:
    """python -m mixkit study FILE, in a process of its own."""
    environment = os.environ | {"MIXKIT_RUNS": str(store.root), "PYTHONPATH": str(CLONE)}
    command = [sys.executable, "-m", "mixkit", "study", str(file), "--name", name, *arguments]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=CLONE)


def outcome(study: Study, store: RunStore) -> dict[str, object]:
    """The results of a study's runs without times: metrics, samples, and the steps and nll of the training."""
    results: dict[str, object] = {}
    for run in study.runs:
        record = store.read(study.name, run.name)
        assert record is not None
        training = record.training or {}
        results[run.name] = (
            record.model_dump(include={"status", "metrics", "human", "resolved"}),
            [training.get(name) for name in ("steps", "best_step", "validation_nll")],
            store.samples(study.name, run.name),
        )
    return results


def executions(study: Study, store: RunStore) -> dict[str, int]:
    """How often each run was started, by the lines of its log."""
    counts = {}
    for run in study.runs:
        log = store.folder(study.name, run.name) / "log.txt"
        counts[run.name] = sum(", process " in line for line in log.read_text(encoding="utf-8").splitlines())
    return counts


def running(study: Study, store: RunStore) -> list[int]:
    """The workers that are running."""
    owners = [lock_owner(store.folder(study.name, run.name)) for run in study.runs]
    return [process_of(owner) for owner in owners if owner]


def process_of(owner: str) -> int:
    """123 for "host, process 123"."""
    return int(owner.rpartition(" ")[2])


def kernel_of(worker: int) -> int | None:
    """The process that the worker started."""
    try:
        return next((child.pid for child in psutil.Process(worker).children()), None)
    except psutil.NoSuchProcess:
        return None


def kill_and_resume(
    file: Path,
    store: RunStore,
    name: str,
    kills: Sequence[str],
    pause: Callable[[], float],
    *,
    max_workers: int = 2,
    log=print,
    seed: int = 0,
) -> Watch:
    """Run the study until it is done, and kill processes meanwhile.

    kills: of VICTIMS, in order, spread over the runs. pause: seconds between two kills. A sweep that is killed is
    started again at once.
    """
    study, rng = load_study(file, name=name), random.Random(seed)
    watch, left, starts = Watch(), list(kills), len(kills) + 3
    watcher = threading.Thread(target=watch.read_all, args=(store.root / name,), daemon=True)
    watcher.start()
    arguments = ("--max-workers", str(max_workers), "--retry")
    with tempfile.TemporaryFile() as output:
        process, due = sweep(file, store, name, *arguments, log=output), time.monotonic() + pause()
        while True:
            if process.poll() is not None:
                if process.returncode == 0:
                    break
                if starts == 0:
                    raise RuntimeError(f"the sweep ended with exit code {process.returncode} again and again")
                process, starts = sweep(file, store, name, *arguments, log=output), starts - 1
            done = sum(state.status == "done" for state in states(study, store)) if left else 0
            share = 0.8 * (len(kills) - len(left)) / len(kills)  # below 1, so that something is left to kill
            if left and time.monotonic() >= due and done >= int(share * len(study.runs)):
                workers = running(study, store)
                rng.shuffle(workers)
                targets = {"sweep": [process.pid], "worker": workers, "kernel": [kernel_of(w) for w in workers]}
                target = next((pid for pid in targets[left[0]] if pid), None)
                if target is not None:
                    os.kill(target, signal.SIGKILL)
                    log(f"killed a {left.pop(0)}: process {target}; {len(left)} to go")
                    due = time.monotonic() + pause()
            time.sleep(0.1)
        watch.over.set()
        watcher.join()
        output.seek(0)
        for line in output.read().decode().splitlines():
            log(f"  {line}")
    if left:
        raise RuntimeError(f"the study was done before {len(left)} of the kills")
    return watch


def main(kills: int = 20, seed: int = 0) -> None:
    """Print what happened to a study of 12 runs that was killed, beside the same study left alone."""
    rng = random.Random(seed)
    victims = [VICTIMS[i % 3] for i in range(kills)]
    rng.shuffle(victims)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kills.yaml"
        file.write_text(yaml.safe_dump(STUDY))
        stores = [RunStore(Path(folder) / kind) for kind in ("calm", "killed")]  # no cache in common
        began = time.monotonic()
        sweep(file, stores[0], "kills", "--max-workers", "2", log=subprocess.DEVNULL).wait()
        calm = time.monotonic() - began
        print(f"undisturbed: {calm:.0f} s", flush=True)
        watch = kill_and_resume(
            file,
            stores[1],
            "kills",
            victims,
            lambda: rng.uniform(0.05, 1.0) * calm / 12,  # at most about half the time of a run
            log=partial(print, flush=True),
            seed=seed,
        )
        seconds, study = time.monotonic() - began - calm, load_study(file, name="kills")
        one, other = (outcome(study, store) for store in stores)
        starts = executions(study, stores[1])
    print(f"{kills} kills of {', '.join(VICTIMS)}: {seconds:.0f} s, beside {calm:.0f} s undisturbed")
    print(f"run.json was read {watch.reads} times while they ran: {len(watch.broken)} times half-written")
    print(f"written again after done: {len(watch.changed)} of {len(starts)} runs; starts: {sum(starts.values())}")
    differing = [name for name in one if one[name] != other[name]]
    print(f"runs that differ from the undisturbed study in any number or text: {len(differing)} {differing or ''}")


if __name__ == "__main__":
    main()
