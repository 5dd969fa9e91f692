"""python -m tests.benchmarks.ship STUDY MACHINE COMMAND [SETS]: copy a finished study's records to data/results/.

For example: python -m tests.benchmarks.ship prose "2 CPU cores, 32 GB" "make study STUDY=prose" 1
"""

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mixkit._common import SHIPPED, InputError, write_atomically
from mixkit.notebook.labels import metric_label, number
from mixkit.studies.plan import read_study, write_study
from mixkit.studies.records import records, results_frame
from mixkit.studies.store import RunStore

LIMIT = 6_000_000  # bytes of a shipped study
CARD = """# Results of the study `{study.name}`

{study.about}

* Command: `{command}`
* Machine: {machine}; device: {device}
* Versions: {versions}
* Runs: {runs}, together {hours:.1f} hours, finished on {date}
* Kept: the plan, and of each run run.json (all numbers) and samples.jsonl ({sets} sample sets). Not kept: the models.

{table}

Each value has its 95 % interval. [notebooks/README.md](../../../notebooks/README.md) explains the metrics.
Written by `python -m tests.benchmarks.ship`.
"""

METRICS = ("perplexity", "best_temperature", "mauve", "precision", "distinct_2", "entropy_calibration", "coherence")


def table(frame: pd.DataFrame) -> str:
    """The runs and the human texts as a Markdown table of METRICS. frame: results(study)."""
    by_run = {name: rows.set_index("metric") for name, rows in frame.groupby("run", sort=False)}
    lines = [["run", *map(metric_label, METRICS)], ["---"] * (1 + len(METRICS))]
    for rows in by_run.values():
        cells = [number(rows.loc[name]) if name in rows.index else "–" for name in METRICS]
        lines.append([rows["label"].iloc[0], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ship(name: str, machine: str, command: str, sets: int = 99, *, store: RunStore | None = None, root: Path = SHIPPED):
    """Copy the plan, the records and the first `sets` sample sets. Raises InputError if the study is not finished."""
    store = store or RunStore()
    study = read_study(name, store)
    done, folder = records(study, store), root / name
    if store.for_reading(name) != store or len(done) < len(study.runs):
        raise InputError(f"{len(done)} of {len(study.runs)} runs of {name!r} in {store.root} are done; finish it first")
    shutil.rmtree(folder, ignore_errors=True)
    date = time.strftime("%Y-%m-%d", time.gmtime(max(record.began + record.seconds for record in done)))
    notice = f"Shipped results of {date}; `{command}` makes your own."
    write_study(replace(study, about=f"{study.about} {notice}".strip()), RunStore(root))
    for record in done:
        target = folder / record.name
        target.mkdir()
        shutil.copy(store.folder(name, record.name) / "run.json", target)
        samples = [sample for sample in store.samples(name, record.name) if sample.set < sets]
        lines = []
        for sample in samples:  # without deletions the segments repeat the text
            lines.append(sample.model_dump_json(exclude=set() if sample.num_deleted else {"segments"}) + "\n")
        write_atomically(target / "samples.jsonl", "".join(lines))
    facts = {
        "device": done[-1].resolved.get("device", "?"),
        "versions": ", ".join(f"{package} {version}" for package, version in done[-1].versions.items()),
        "runs": len(done),
        "hours": sum(record.seconds for record in done) / 3600,
        "sets": min(sets, max(record.config.sample_sets for record in done)),
    }
    facts["table"] = table(results_frame(done))
    card = CARD.format(study=study, command=command, machine=machine, date=date, **facts)
    write_atomically(folder / "README.md", card)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise InputError(f"{folder} has {size} bytes; at most {LIMIT} are shipped: keep fewer sample sets than {sets}")
    return folder


if __name__ == "__main__":
    print(ship(*sys.argv[1:4], *map(int, sys.argv[4:])))
