"""Studies from the command line: python -m mixkit study | status | report.

Exit codes: 2 for wrong input, 1 if a run has failed or is missing, 130 if the study was stopped.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mixkit._common import InputError, write_atomically
from mixkit.studies.config import RunConfig
from mixkit.studies.executors import local_workers
from mixkit.studies.plan import load_study, outdated, read_study
from mixkit.studies.records import records, results_frame
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import check_inputs, plan_table, run_study, states, status_table


def main(arguments: Sequence[str] | None = None, **options: Any) -> int:
    """Run a command. options: further arguments of run_study, for tests."""
    parser = argparse.ArgumentParser(prog="python -m mixkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="run a study; finished runs are not run again")
    study.add_argument("file", help="a name from data/studies (quick, gpt2, ...) or the path of a .yaml file")
    study.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="replace settings of every run"
    )
    study.add_argument("--name", default="", help="folder under runs/; default: the file's name and the values set")
    study.add_argument(
        "--max-workers", type=int, default=0, help="runs at a time; default: one per GPU, or two without a GPU"
    )
    study.add_argument("--retry", action="store_true", help="execute failed runs again")
    study.add_argument("--dry-run", action="store_true", help="list the runs and look for their inputs")
    study.add_argument(
        "--executor", "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster"
    )
    study.add_argument("--address", help="of the Ray cluster to join; default: one is started here")
    for command, what in (("status", "how far a study's runs are"), ("report", "print a table, write report.html")):
        commands.add_parser(command, help=what).add_argument("name", help="folder under runs/")
    settings = parser.parse_args(arguments)
    try:
        if settings.command == "study":
            return _study(settings, options)
        return _status(settings.name) if settings.command == "status" else _report(settings.name)
    except InputError as error:
        print(f"mixkit: {error}", file=sys.stderr)
        return 2


def _study(settings: argparse.Namespace, options: dict[str, Any]) -> int:
    study = load_study(settings.file, _overrides(settings.set), name=settings.name)
    if settings.dry_run:
        print(plan_table(study, local_workers(settings.max_workers)))
        check_inputs([state.run for state in states(study) if state.status != "done"])
        return 0
    for stopping in (signal.SIGINT, signal.SIGTERM):  # a parent process, such as a kernel, may ignore them
        signal.signal(stopping, signal.default_int_handler)
    for name in ("max_workers", "retry", "executor", "address"):
        options[name] = getattr(settings, name)
    try:
        run_study(study, **options, log=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"mixkit: study {study.name} was stopped; the same command continues it", file=sys.stderr)
        return 130
    return _report(study.name, always=False)


def _status(name: str) -> int:
    print(status_table(read_study(name)))
    return 0


def _report(name: str, *, always: bool = True) -> int:
    """Print the study's table. Write report.html and table.txt, if `always` or if they are out of date."""
    study, folder = read_study(name), RunStore().root / name
    report, table = folder / "report.html", folder / "table.txt"
    done = records(study)
    if always or outdated(report, folder) or outdated(table, folder):
        from mixkit.notebook.report import write_report
        from mixkit.notebook.tables import results_table

        write_report(study)
        write_atomically(table, results_table(results_frame(done)) + "\n")
    print(table.read_text(encoding="utf-8"))
    print(f"{len(done)} of {len(study.runs)} runs are done. Report: {report}")
    return 0 if len(done) == len(study.runs) else 1


def _overrides(assignments: list[str]) -> dict[str, Any]:
    """NAME=VALUE as papermill's -p reads them: numbers and booleans are converted, other values stay strings."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment!r}: write NAME=VALUE")
        overrides[name] = value = _value(text)
        field = RunConfig.model_fields.get(name)
        if field is not None and field.annotation in (int, float) and isinstance(value, str):
            raise InputError(f"{name} takes one number, not {value!r}; lists go into a study file's grid")
    return overrides


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


if __name__ == "__main__":
    sys.exit(main())
