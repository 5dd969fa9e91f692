"""python -m mixkit bench kills: a study is killed at random moments, resumed each time, and must end as if nothing was.
The same code is the short test of tests/test_sweeps.py."""

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
from mixkit.studies.progress import states
from mixkit.studies.run import lock_owner
from mixkit.studies.store import RunStore

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
    """What was seen of a study's run.json files: how often one was there that was not whole JSON (`broken`), and whose
    numbers changed after it was done (`changed`)."""

    looks: int = 0
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def look(self, folder: Path) -> None:
        seen: dict[str, bytes] = {}
        while not self.over.wait(0.02):
            for path in folder.glob("*/run.json"):
                raw, self.looks = path.read_bytes(), self.looks + 1
                try:
                    status = json.loads(raw)["status"]
                except ValueError:
                    self.broken.append(path.parent.name)
                    continue
                if seen.setdefault(path.parent.name, raw) != raw:
                    self.changed.append(path.parent.name)
                if status != "done":
                    seen.pop(path.parent.name)


def sweep(file: Path, store: RunStore, name: str, *arguments: str, log) -> subprocess.Popen:
    """python -m mixkit study FILE, in a process of its own."""
    environment = os.environ | {"MIXKIT_RUNS": str(store.root), "PYTHONPATH": str(CLONE)}
    command = [sys.executable, "-m", "mixkit", "study", str(file), "--name", name, *arguments]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=CLONE)


def outcome(study: Study, store: RunStore) -> dict[str, object]:
    """All that a study's runs gave but times: metrics, the human row, samples, and the step and nll of the training."""
    found: dict[str, object] = {}
    for run in study.runs:
        record = store.read(study.name, run.name)
        training = record.get("training") or {}
        kept = {k: training.get(k) for k in ("steps", "best_step", "validation_nll")}
        parts = {k: record[k] for k in ("status", "metrics", "human", "resolved")}
        found[run.name] = {**parts, **kept, "samples": store.samples(study.name, run.name)}
    return found


def executions(study: Study, store: RunStore) -> dict[str, int]:
    """How often each run was begun, by the lines that its workers left in its log."""
    logs = {run.name: store.folder(study.name, run.name) / "log.txt" for run in study.runs}
    return {
        name: sum(", process " in line for line in log.read_text(encoding="utf-8").splitlines())
        for name, log in logs.items()
    }


def running(study: Study, store: RunStore) -> list[int]:
    """The workers under way."""
    found = [lock_owner(store.folder(study.name, run.name)) for run in study.runs]
    return [who["process"] for who in found if who is not None and who["process"]]


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
    say=print,
    seed: int = 0,
) -> Watch:
    """Sweeps the study until it is done while `kills` (of VICTIMS) happen, spread over its runs: each when its share of
    them is done, and pause() seconds after the one before. A sweep that was killed is started again at once."""
    study, drawn = load_study(file, name=name), random.Random(seed)
    watch, left, starts = Watch(), list(kills), len(kills) + 3
    watcher = threading.Thread(target=watch.look, args=(store.root / name,), daemon=True)
    watcher.start()
    arguments = ("--max-workers", str(max_workers), "--retry")
    with tempfile.TemporaryFile() as log:
        process, due = sweep(file, store, name, *arguments, log=log), time.monotonic() + pause()
        while True:
            if process.poll() is not None:
                if process.returncode == 0:
                    break
                if starts == 0:
                    raise RuntimeError(f"the sweep ended with exit code {process.returncode} again and again")
                process, starts = sweep(file, store, name, *arguments, log=log), starts - 1
            done = sum(state.status == "done" for state in states(study, store)) if left else 0
            share = 0.8 * (len(kills) - len(left)) / len(kills)  # less than all, so that something is left to kill
            if left and time.monotonic() >= due and done >= int(share * len(study.runs)):
                workers = running(study, store)
                drawn.shuffle(workers)
                targets = {"sweep": [process.pid], "worker": workers, "kernel": [kernel_of(w) for w in workers]}
                target = next((pid for pid in targets[left[0]] if pid), None)
                if target is not None:
                    os.kill(target, signal.SIGKILL)
                    say(f"killed a {left.pop(0)}: process {target}; {len(left)} to go")
                    due = time.monotonic() + pause()
            time.sleep(0.1)
        watch.over.set()
        watcher.join()
        log.seek(0)
        for line in log.read().decode().splitlines():
            say(f"  {line}")
    if left:
        raise RuntimeError(f"the study was done before {len(left)} of the kills")
    return watch


def main(kills: int = 20, seed: int = 0) -> None:
    """Prints what came of a 12-run study that is killed 20 times, beside the same study left alone."""
    drawn = random.Random(seed)
    victims = [VICTIMS[i % 3] for i in range(kills)]
    drawn.shuffle(victims)
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
            lambda: drawn.uniform(0.05, 1.0) * calm / 12,  # at most about half the time of a run
            say=partial(print, flush=True),
            seed=seed,
        )
        seconds, study = time.monotonic() - began - calm, load_study(file, name="kills")
        one, other = (outcome(study, store) for store in stores)
        times = executions(study, stores[1])
    print(f"{kills} kills of {', '.join(VICTIMS)}: {seconds:.0f} s, beside {calm:.0f} s undisturbed")
    print(f"run.json was read {watch.looks} times while they ran: {len(watch.broken)} times half-written")
    print(f"done and written once more: {len(watch.changed)} of {len(times)} runs; begun: {sum(times.values())} times")
    differing = [name for name in one if one[name] != other[name]]
    print(f"runs that differ from the undisturbed study's in any number or text: {len(differing)} {differing or ''}")
