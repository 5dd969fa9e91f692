"""Find what would end the runs of a study, or leave numbers out, before anything trains."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from mixkit._common import InputError
from mixkit.studies.config import RunConfig
from mixkit.studies.plan import PlannedRun
from mixkit.studies.store import RunStore
from mixkit.texts.corpora import Corpus, load_corpus

KERNEL = ("papermill", "ipykernel")  # packages that execute notebook 3
COPIES = 9  # of the weights that a training writes: at most three checkpoints, each with Adam's two moments


class Problems(list[str]):
    """One line for each problem. A line that starts with "note:" is not a problem."""

    def check(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """equals: function(*arguments, **options), but an InputError becomes a problem, and the result is None."""
        try:
            return function(*arguments, **options)
        except InputError as error:
            self.append(str(error))

    def report(self) -> list[str]:
        """The notes. Raises InputError if there are problems."""
        lines = list(dict.fromkeys(self))
        if problems := [line for line in lines if not line.startswith("note:")]:
            raise InputError("\n".join(problems))
        return lines


def preflight(runs: Sequence[PlannedRun], store: RunStore | None = None) -> list[str]:
    """Check all that these runs need. Loads each corpus, each model that a run starts from, each reader and judge.

    Raises InputError with one line for each problem. Returns notes, one line each.
    """
    from mixkit.models.loading import load_model  # seconds

    store, problems, num_bytes = store or RunStore(), Problems(), 0
    problems += [f"{name} is not installed; run: pip install {name}" for name in KERNEL if find_spec(name) is None]
    by_name, load = {run.name: run for run in runs}, cache(load_corpus)
    groups: dict[str, tuple[RunConfig, list[tuple[RunConfig, Corpus]]]] = {}  # runs whose models descend from one
    for run in runs:
        first, config = run, run.config
        while before := by_name.get(first.depends_on or ""):
            if not before.config.keep_model:
                problems.append(f"keep_model is False for {before.name}; {first.name} starts from its model: set True")
            first = before
        record = store.read(config.study, first.depends_on) if first.depends_on else None
        sizes = {"train": config.train_texts, "validation": config.validation_texts, "test": config.test_texts}
        texts = problems.check(load, config.corpus, **sizes)
        problems.check(config.make_objective)
        if texts and (record is None or record.status == "done"):  # after a failed one the run is skipped
            key = f"{first.config.model} {first.config.corpus}"
            groups.setdefault(key, (first.config, []))[1].append((config, texts))
    for first, pairs in groups.values():
        options = {"texts": pairs[0][1].train, "study": first.study, "runs": store.root}
        if loaded := problems.check(load_model, first.model, **options):
            check_runs(problems, pairs, *loaded, start=first.model, store=store)
            num_bytes += 4 * loaded[0].num_parameters() * (COPIES + sum(config.keep_model for config, _ in pairs))
    folder = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        problems.append(f"{folder} cannot be written; set MIXKIT_RUNS to another folder")
    if (free := shutil.disk_usage(folder).free) < num_bytes:
        sizes = f"has {free / 1e9:.1f} GB free, and the runs need about {num_bytes / 1e9:.1f} GB"
        problems.append(f"{folder} {sizes}; free some, set MIXKIT_RUNS to another disk, or keep_model to False")
    return problems.report()


def lineage(model: str, study: str, store: RunStore) -> list[str]:
    """A model's name and those of its ancestors: ["run:quick/mle-f24d1833", "run:quick/base-bee46806", "tiny"]."""
    if not model.startswith("run:"):
        return [model]
    study, name = f"{study}/{model.removeprefix('run:')}".split("/")[-2:]
    record = store.read(study, name)
    return [f"run:{study}/{name}", *(lineage(record.config.model, study, store) if record else [])]


def check_run(config: RunConfig, texts: Corpus, model: Any, tokenizer: Any) -> list[str]:
    """Check one run with its corpus and the model that it starts from. Errors and result as for `preflight`."""
    problems = Problems()
    check_runs(problems, [(config, texts)], model, tokenizer, config.model, RunStore())
    return problems.report()


def check_runs(
    problems: Problems,
    runs: Sequence[tuple[RunConfig, Corpus]],
    model: Any,
    tokenizer: Any,
    start: str,
    store: RunStore,
) -> None:
    """Add the problems of runs whose models descend from one. start: its name."""
    from mixkit.metrics.features import MINILM_TOKENS, Reader, reader_name
    from mixkit.models.generation import cut_prompts
    from mixkit.models.head import check_head
    from mixkit.models.loading import check_model, load_model
    from mixkit.models.support import check_model_support

    @cache
    def load(parameter: str, name: str, study: str) -> Reader | None:
        """The reader or judge; None if it is the runs' own model, for minilm, and if it has a problem."""
        if name in ("tiny", start) or (name.startswith("run:") and "/" not in name):
            return None
        try:
            if name != "minilm" or parameter == "judge":
                return Reader(name, *load_model(name, study=study, runs=store.root), None)
            check_model(name)
        except InputError as error:
            problems.append(f"{parameter} {name!r}: {error}")

    check_support = cache(check_model_support)
    counts: dict[tuple[int, ...], int] = {}  # the texts of a study are cut once, not once per run
    for config, texts in runs:
        length = config.prompt_tokens + config.max_new_tokens
        needs = {"backtracking": config.make_backtracking() is not None, "torch_compile": config.torch_compile}
        problems.check(check_support, model, tokenizer, **needs, max_tokens=config.max_tokens, new_tokens=length)
        human = [*texts.test, *texts.validation] if texts.clean_validation else texts.test
        sizes = {"prompt_tokens": config.prompt_tokens, "max_new_tokens": config.max_new_tokens}
        key = (id(texts), config.prompts, *sizes.values())
        if key not in counts:
            counts[key] = len(cut_prompts(tokenizer, human, prompts=config.prompts, **sizes))
        longer = f"of {len(human)} human texts are longer than prompt_tokens={config.prompt_tokens}"
        if counts[key] == 0:
            problems.append(f"none {longer}; lower it or choose longer texts")
        elif counts[key] < config.prompts:
            problems.append(f"note: prompts is {config.prompts}, but only {counts[key]} {longer}")
        name = reader_name(config.reader, config.model)
        if config.coherence_reader:
            load("coherence_reader", config.coherence_reader, config.study)
        reader = load("reader", name, config.study)
        context = MINILM_TOKENS if name == "minilm" else reader.context if reader else length
        if length > context:
            lower = f"the reader {name!r} reads {context}; lower max_new_tokens or choose another reader"
            problems.append(f"prompt_tokens + max_new_tokens is {length}; {lower}")
        if lineage(config.judge, config.study, store)[0] in (start, *lineage(config.model, config.study, store)):
            problems.append(f"judge is {config.judge!r}, the model that the run starts from; choose another one")
        elif config.judge and (judge := load("judge", config.judge, config.study)):
            problems.check(check_head, judge.model)
            if judge.context < config.prompt_tokens + 2:
                problems.append(f"judge {config.judge!r} reads {judge.context} tokens; lower prompt_tokens")
