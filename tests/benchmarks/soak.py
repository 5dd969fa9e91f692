"""python -m tests.benchmarks.soak 10 [FOLDER]: ten minutes of two sweeps at once, with kills and damaged files.

FOLDER: a file system of at most 1 GB for the studies; then its disk is full now and then. For example, as root:
mount -t tmpfs -o size=600m tmpfs FOLDER
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mixkit.studies.plan import Study, load_study
from mixkit.studies.store import RunStore
from tests import support
from tests.benchmarks.kills import kernel_of, running

STUDY = {
    "about": "Nine runs that are done in a moment.",
    "parameters": support.TINY,
    "base": {"objective": "mle"},
    "grid": [{"objective": "mle"}, {"objective": "mixce", "eta": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}],
    "decoding": [{"temperature": [0.5]}],
}
EVENTS = ("kill a sweep", "kill a worker", "kill a kernel", "cut run.json", "damage run.json", "fill the disk")
SMALL_DISK = 2**30  # bytes; a larger one is never filled


@dataclass
class Soak:
    """What happened in all rounds. wrong: what must not happen, a line each."""

    rounds: int = 0
    starts: int = 0
    events: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def start_sweep(file: Path, notebook: Path, store: RunStore) -> subprocess.Popen:
    command = support.sweep_command(file, "soak", notebook, ["--retry", "--max-workers", "2"])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=support.environment(store.root), cwd=file.parent, **quiet)


def cause(event: str, sweeps: list[subprocess.Popen], study: Study, store: RunStore, rng: random.Random) -> bool:
    """Make the event happen. Returns whether it was possible."""
    target = None
    if event == "fill the disk":
        if shutil.disk_usage(store.root.parent).total > SMALL_DISK:
            return False
        with open(store.root.parent / "ballast", "wb") as ballast, suppress(OSError):
            os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(store.root.parent).free)
        time.sleep(rng.uniform(1, 4))
        os.remove(ballast.name)
        return True
    if event == "kill a sweep":
        target = rng.choice(sweeps).pid
    elif event.startswith("kill") and (workers := running(study, store)):
        target = rng.choice(workers) if event == "kill a worker" else kernel_of(rng.choice(workers))
    elif not event.startswith("kill"):
        done = sorted((store.root / study.name).glob("*/run.json"))
        if not done:
            return False
        path = rng.choice(done)
        with suppress(FileNotFoundError):  # replaced at this moment
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2] if event == "cut run.json" else b"\xff" + content)
        return True
    if target is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(target, signal.SIGKILL)
    return True


def one_round(folder: Path, rng: random.Random, pause: float, soak: Soak) -> dict[str, object]:
    """The study in `folder` with two sweeps at once, until both find that it is done. pause: seconds, 0: no events."""
    store, notebook, file = RunStore(folder / "runs"), support.write_notebook(folder), folder / "soak.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    study, events, was_full = load_study(file, name="soak"), 0, False
    sweeps = [start_sweep(file, notebook, store) for _ in range(2 if pause else 1)]
    due, calm = time.monotonic() + rng.uniform(0, 2 * pause), False
    while any(sweep.poll() is None for sweep in sweeps) or any(sweep.returncode for sweep in sweeps) or not calm:
        if all(sweep.poll() == 0 for sweep in sweeps):
            calm = all(store.read("soak", run.name) for run in study.runs)  # nothing was damaged after the end
        for i, sweep in enumerate(sweeps):
            if sweep.poll() not in (None, 0) or (sweep.poll() == 0 and not calm):
                sweeps[i] = start_sweep(file, notebook, store)
        if pause and time.monotonic() >= due and events < 2 * len(study.runs):
            event = rng.choice(EVENTS)
            if cause(event, sweeps, study, store, rng):
                soak.events[event] += 1
                events += 1
                was_full |= event == "fill the disk"
                due = time.monotonic() + rng.uniform(0, 2 * pause)
        time.sleep(0.1)
    folders = [store.folder("soak", run.name) for run in study.runs]
    starts = [len(support.began(path)) for path in folders]
    soak.rounds, soak.starts = soak.rounds + 1, soak.starts + sum(starts)
    if not was_full and sum(starts) > len(starts) + events:  # on a full disk a run fails, and is started, many times
        soak.wrong.append(f"{sum(starts)} starts of {len(starts)} runs after {events} events")
    if left := [str(path) for path in store.root.glob("soak/*/.*")]:
        soak.wrong.append(f"files left behind: {left}")
    results: dict[str, object] = {path.name: store.read("soak", path.name).metrics for path in folders}  # pyright: ignore
    return results | {"table": (store.root / "soak" / "table.txt").read_bytes()}


def main(minutes: str = "10", parent: str | None = None) -> Soak:
    """Print what happened in rounds of the study until the time is over."""
    rng, soak = random.Random(0), Soak()
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        began = time.monotonic()
        (calm_folder := Path(folder) / "calm").mkdir()
        calm, seconds = one_round(calm_folder, rng, 0.0, Soak()), time.monotonic() - began
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        while time.monotonic() < began + seconds + 60 * float(minutes):
            (path := Path(folder) / str(soak.rounds)).mkdir()
            if one_round(path, rng, seconds / 12, soak) != calm:
                soak.wrong.append(f"round {soak.rounds}: the numbers or the table differ from the undisturbed study's")
            shutil.rmtree(path)
    events = ", ".join(f"{event} {count}" for event, count in sorted(soak.events.items()))
    print(f"{soak.rounds} rounds of {len(calm) - 1} runs by two sweeps at once: {soak.starts} starts; {events}")
    print("\n".join(soak.wrong) or "nothing lost, nothing run twice, every table bit-equal to the undisturbed one")
    return soak


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:]).wrong))
