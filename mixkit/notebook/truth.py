"""The published bigram study as one table: every objective, coefficient and seed, kept as a run, beside the published.
Fitting is chains.py's; here are what is asked, what is kept, and what it is compared with."""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from statistics import mean, stdev

import torch
import yaml

from mixkit._common import CLONE, InputError, unknown, write_atomically
from mixkit.metrics import grammar as oracle
from mixkit.notebook import charts
from mixkit.studies.progress import aligned
from mixkit.studies.store import RunStore, versions
from mixkit.toys import chains
from mixkit.toys.markov import MarkovChain

STUDY = "truth"
PUBLISHED = CLONE / "data" / "published.yaml"
LARGEST = 30_000_000  # logits that one batch of fits may hold at a time: 120 MB
LABELS = charts.LABELS | {"mixce*": "MixCE*", "kls": "mix of KLs", "js": "Jensen-Shannon"}
COEFFICIENTS = ("eta", "gamma", "w_min", "alpha", "estimator", "discount", "divergence")


def run_truth(
    *,
    vocab: int = 20,
    zeros: float = 0.5,
    objectives: Sequence[str] = (),
    seeds: Sequence[int] = chains.SEEDS,
    epochs: int = chains.EPOCHS,
    patience: int = chains.PATIENCE,
    max_workers: int = 0,
    store: RunStore | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, object]:
    """chains.study, kept in runs/truth/<name>/ (run.json, table.csv); returns the run's record. Done once, it is read.

    objectives: names out of mle, mixce, mixce*, kls, js, tailr, sequencematch; none means all, each at all its
    coefficients. slots: processes of one thread, by default one a core: a batch of small matrices gains nothing from
    a second thread.
    The record's `rows` hold one dict an (objective, seed). Raises InputError for what cannot be fitted.
    """
    store = store or RunStore()
    chains.check_counts(epochs=epochs, patience=patience)
    for name in objectives:
        if name not in chains.NAMES.values():
            raise unknown("objective", name, chains.NAMES.values())
    asked = [x for x in chains.objectives_of_study() if not objectives or chains.NAMES[type(x)] in objectives]
    parameters = {
        "vocab": vocab,
        "zeros": zeros,
        "objectives": [repr(x) for x in asked],
        "seeds": list(seeds),
        "epochs": epochs,
        "patience": patience,
    }
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]
    name = f"vocab{vocab}-zeros{zeros:g}-patience{patience}-{digest}"
    record = store.read(STUDY, name)
    if record is not None:
        say(f"{name} is done already")
        return record
    MarkovChain.random(vocab, zeros, seeds)  # refuses what cannot be, before a process is started
    max_workers = min(max_workers or os.cpu_count() or 1, len(asked))
    at_once = max(1, LARGEST // (8 * len(seeds) * vocab**2))
    parts = max(max_workers, -(-len(asked) // at_once))
    batches = [asked[i::parts] for i in range(parts)]
    say(f"{name}: {len(asked)} objectives, {len(seeds)} seeds, {max_workers} at a time")
    began, found = time.time(), []
    fit = partial(chains.study, vocab, zeros, seeds=tuple(seeds), epochs=epochs, patience=patience)
    with ProcessPoolExecutor(max_workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for rows in pool.map(fit, batches):
            found.append(rows)
            say(f"[{len(found)}/{parts}] {time.time() - began:.0f} s")
    n = len(seeds)  # rows of objective i are in batch i % parts, at place i // parts
    rows = [row for i in range(len(asked)) for row in found[i % parts][i // parts * n :][:n]]
    record = {
        "name": name,
        "study": STUDY,
        "hash": digest,
        "status": "done",
        "parameters": parameters,
        "versions": versions(),
        "began": began,
        "seconds": time.time() - began,
        "rows": rows,
    }
    folder = store.folder(STUDY, name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.csv", _csv(summary(rows)))
    write_atomically(folder / "run.json", json.dumps(record, indent=1, allow_nan=False))
    return record


def summary(rows: Sequence[dict]) -> list[dict]:
    """The rows of one objective and its coefficients as one: mean and standard deviation over seeds (None for one).

    avg_0s is over the seeds whose chain forbids something, None where none does.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    table = []
    for group in groups.values():
        line = {name: group[0][name] for name in ("objective", *COEFFICIENTS) if name in group[0]}
        for figure in ("avg_js", "avg_0s", "forward_kl", "reverse_kl"):
            values = [row[figure] for row in group if row[figure] is not None]
            line[figure] = mean(values) if values else None
            line[f"{figure}_sd"] = stdev(values) if len(values) > 1 else None
        table.append(line | {"seeds": len(group), "seconds": mean(row["seconds"] for row in group)})
    return table


def _key(row: dict) -> tuple:
    return (row["objective"], *(row.get(name) for name in COEFFICIENTS))


@cache
def published() -> dict[str, dict]:
    """data/published.yaml: figures of papers and of released programs, each part with its source and trust."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def published_row(line: dict, vocab: int, zeros: float) -> dict | None:
    """What the released script gives for that objective, coefficient and chain; its gradient is no "exact" one."""
    for row in published()["bigrams"]["random"]["rows"]:
        same = row["objective"] == line["objective"] and row.get("eta") == line.get("eta")
        same = same and line.get("estimator") != "exact"
        if same and (row["vocab"], row["zeros"]) == (vocab, zeros):
            return row
    return None


def table(rows: Sequence[dict], vocab: int, zeros: float) -> str:
    """The summary as plain text, mean ± spread over seeds, beside what the released script gives where it is known."""
    lines = [("objective", "avg. js", "avg. 0s", "fwd KL", "rev KL", "s", "released js", "0s", "s")]
    for line in summary(rows):
        released = published_row(line, vocab, zeros) or {}
        lines.append(
            (
                title(line),
                _spread(line, "avg_js"),
                _spread(line, "avg_0s"),
                f"{line['forward_kl']:.2g}",
                f"{line['reverse_kl']:.2g}",
                f"{line['seconds']:.2f}",
                *(f"{released[x]:.2e}" if x in released else "" for x in ("avg_js", "avg_0s")),
                f"{released['seconds']}" if released else "",
            )
        )
    return "\n".join(aligned(lines))


def title(line: dict) -> str:
    """`MixCE* η=0.99 (local)`"""
    text = LABELS[line["objective"]]
    text += f" η={line['eta']:g}" if "eta" in line else ""
    text += f" γ={line['gamma']:g}" if "gamma" in line else ""
    text += f", w_min={line['w_min']:g}" if line.get("w_min") else ""
    text += f" α={line['alpha']:g}" if "alpha" in line else ""
    return text + (f" ({line['estimator']})" if "estimator" in line else "")


def _spread(line: dict, figure: str) -> str:
    if line[figure] is None:
        return "–"
    sd = line[f"{figure}_sd"]
    return f"{line[figure]:.2e}" + ("" if sd is None else f" ± {sd:.0e}")


def _csv(lines: Sequence[dict]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def judged(study: str, store: RunStore | None = None) -> list[dict]:
    """The records of a study's finished runs on tales, each with the grammar's scores of its samples in `metrics`.

    Runs that hold them already keep their own; of others they are computed from samples.jsonl. Raises InputError where
    there is no such study, or none of its runs is on tales.
    """
    from mixkit.studies.sweep import read_study, records

    store = store or RunStore()
    tales = ("tales", "tales-noisy")
    kept = [r for r in records(read_study(study, store), store) if r["parameters"]["corpus"].partition(":")[0] in tales]
    if not kept:
        raise InputError(f"study {study!r} has no finished run on tales")
    for record in kept:
        if "valid_prefix_rate" not in record["metrics"]:
            samples = store.samples(study, record["name"])
            prompts = [sample["prompt"] for sample in samples]
            scores = oracle.score_texts([sample["prompt"] + sample["generated"] for sample in samples], prompts)
            record["metrics"] |= {name: asdict(estimate) for name, estimate in scores.items()}
    return kept
