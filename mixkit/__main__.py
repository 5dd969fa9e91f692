"""Studies from the command line: python -m mixkit study | tune | status | report.

Exit codes: 2 for wrong input, 1 if a run has failed or is missing, 130 if the study was stopped.
"""

import argparse
import io
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from mixkit._common import InputError, plain, write_atomically
from mixkit.studies.executors import local_workers
from mixkit.studies.plan import load_study, read_study
from mixkit.studies.preflight import preflight
from mixkit.studies.records import records, results_frame
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import run_study, states, status_table


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` lists what there is")


def main(arguments: Sequence[str] | None = None, **options: Any) -> int:
    """Run a command. options: further arguments of run_study, for tests."""
    parser = Parser(prog="python -m mixkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    file = Parser(add_help=False)
    add = file.add_argument
    add("file", help="a name from data/studies (quick, gpt2, ...) or the path of a .yaml file")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="settings of runs, after the file")
    study = commands.add_parser("study", parents=[file], help="run a study; finished runs are not run again")
    add = study.add_argument
    add("--name", default="", help="folder under runs/; default: the file's name and the values set")
    add("--max-workers", type=int, default=0, help="runs at a time; default: one per GPU, or two without a GPU")
    add("--retry", action="store_true", help="execute failed runs again")
    add("--dry-run", action="store_true", help="list the runs and look for their inputs")
    add("--executor", "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    add("--address", default="", help="of the Ray cluster to join; default: one is started here")
    what = "search for the coefficient with which the model is as sharp as people"
    tuning = commands.add_parser("tune", parents=[file], help=what)
    tuning.add_argument("--objective", default="mixce", help="mixce (the default), tailr or mle")
    for command, what in (("status", "how far a study's runs are"), ("report", "print a table, write report.html")):
        commands.add_parser(command, help=what).add_argument("name", help="folder under runs/")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A line is shown at once, with "?" for what the terminal's encoding lacks, such as η.
            stream.reconfigure(errors="replace", line_buffering=True)
    try:
        settings = parser.parse_args(arguments)
        if settings.command in ("study", "tune"):
            for stopping in (signal.SIGINT, signal.SIGTERM):  # a parent process, such as a kernel, may ignore them
                signal.signal(stopping, signal.default_int_handler)
        if settings.command == "study":
            return _study(settings, options)
        if settings.command == "tune":
            return _tune(settings, options)
        if settings.command == "report":
            return _report(settings.name)
        print(status_table(read_study(settings.name), RunStore().for_reading(settings.name)))
        return 0
    except KeyboardInterrupt:
        print("mixkit: stopped; the same command continues it", file=sys.stderr)
        return 130
    except InputError as error:
        problem = str(error)
    except OSError as error:  # a full disk, a folder of another user
        problem = f"{error.filename or 'a file'}: {error.strerror or error}; fix this; the same command continues"
    for line in problem.splitlines():
        print(f"mixkit: {plain(line)}", file=sys.stderr)
    return 2


def _study(settings: argparse.Namespace, options: dict[str, Any]) -> int:
    study = load_study(settings.file, _overrides(settings.set), name=settings.name)
    if settings.dry_run:
        print(status_table(study, max_workers=local_workers(settings.max_workers)))
        for note in preflight([state.run for state in states(study) if state.status != "done"]):
            print(plain(note))
        return 0
    options |= {name: getattr(settings, name) for name in ("max_workers", "retry", "executor", "address")}
    run_study(study, **options)
    return _report(study.name)


def _tune(settings: argparse.Namespace, options: dict[str, Any]) -> int:
    from mixkit.notebook.charts import search
    from mixkit.studies.tune import tune  # pandas

    found = tune(settings.file, settings.objective, overrides=_overrides(settings.set), **options)
    chart = RunStore().root / found.study / "search.html"
    search(found).write_html(chart)
    print(found.table.to_string(index=False, float_format="{:.4g}".format))
    print(f"{found.conclusion} Chart: {chart}")
    return 0


def _report(name: str) -> int:
    """Write report.html and table.txt, and print the table."""
    from mixkit.notebook.report import write_report  # plotly
    from mixkit.notebook.tables import results_table

    study = read_study(name)
    done, report = records(study), write_report(study)
    table = results_table(results_frame(done)) + "\n"
    write_atomically(report.with_name("table.txt"), table)
    print(table)
    print(f"{len(done)} of {len(study.runs)} runs are done. Report: {report}")
    return 0 if len(done) == len(study.runs) else 1


def _overrides(assignments: list[str]) -> dict[str, bool | int | float | str]:
    """NAME=VALUE as papermill's -p reads them: numbers and booleans are converted, other values stay strings."""
    overrides: dict[str, bool | int | float | str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment!r}: write NAME=VALUE")
        overrides[name] = {"true": True, "false": False}.get(text.lower(), text)
        for number in (float, int):
            with suppress(ValueError):
                overrides[name] = number(text)
    return overrides


if __name__ == "__main__":
    sys.exit(main())
