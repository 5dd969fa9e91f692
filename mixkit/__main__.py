"""Studies from the command line: python -m mixkit study | status | report.
Exit code 2 for what cannot be asked, 1 where a run failed, 130 where the study was stopped."""

import argparse
import os
import signal
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mixkit._common import InputError, write_atomically
from mixkit.studies.config import FINETUNE
from mixkit.studies.store import RunStore


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mixkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="run a study: what is done already is not run again")
    study.add_argument("file", help="a name from data/studies (quick, gpt2, ...) or the path of a .yaml file")
    study.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="replace parameters of every run"
    )
    study.add_argument("--name", default="", help="folder under runs/; by default the file's name and the values set")
    study.add_argument(
        "--max-workers", type=int, default=0, help="runs at a time; by default one a GPU, or two without one"
    )
    study.add_argument("--retry", action="store_true", help="execute again what failed")
    study.add_argument(
        "--dry-run", action="store_true", help="list the runs and the time they take, look for their inputs"
    )
    study.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    study.add_argument("--address", help="of the Ray cluster to join; by default one is started here")
    status = commands.add_parser("status", help="how a study's runs stand: done, running, failed, waiting")
    status.add_argument("name", help="folder under runs/")
    report = commands.add_parser("report", help="print a study's table and bring its report.html up to date")
    report.add_argument("name", help="folder under runs/")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "status":
            return _status(asked.name)
        return _study(asked) if asked.command == "study" else _report(asked.name)
    except InputError as error:
        print(f"mixkit: {error}", file=sys.stderr)
        return 2


def _study(asked: argparse.Namespace) -> int:
    from mixkit.studies.sweep import check_inputs, load_study, run_study, states

    study = load_study(asked.file, _overrides(asked.set), name=asked.name)
    if asked.dry_run:
        from mixkit.studies.executors import local_workers
        from mixkit.studies.progress import plan_lines

        print("\n".join(plan_lines(study, local_workers(asked.max_workers))))
        check_inputs([state.run for state in states(study) if state.status != "done"])
        return 0
    for stopping in (signal.SIGINT, signal.SIGTERM):  # also where a parent process ignores them, as a kernel does
        signal.signal(stopping, signal.default_int_handler)
    chosen = {"max_workers": asked.max_workers, "retry": asked.retry, "engine": asked.engine, "address": asked.address}
    try:
        run_study(study, **chosen, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"mixkit: study {study.name} was stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return _report(study.name, again=False)


def _status(name: str) -> int:
    from mixkit.studies.plan import read_study
    from mixkit.studies.progress import status_lines

    print("\n".join(status_lines(read_study(name))))
    return 0


def _report(name: str, *, again: bool = True) -> int:
    """Prints the study's table; report.html, and the table beside it, are made again where they may be out of date."""
    from mixkit.studies.plan import outdated, read_study
    from mixkit.studies.sweep import records

    study, folder = read_study(name), RunStore().root / name
    done, kept, report = records(study), folder / "table.txt", folder / "report.html"
    if again or outdated(kept, folder) or outdated(report, folder):
        from mixkit.notebook.report import write_report

        write_report(study)
        write_atomically(kept, table(done) + "\n")
    print(kept.read_text(encoding="utf-8"))
    print(f"{len(done)} of {len(study.runs)} runs are done. Report: {report}")
    return 0 if len(done) == len(study.runs) else 1


def _overrides(assignments: list[str]) -> dict[str, object]:
    """NAME=VALUE as papermill's -p reads them: numbers and booleans become such, everything else stays a string."""
    overrides: dict[str, object] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment!r}: write NAME=VALUE")
        overrides[name] = _value(value)
        is_list = isinstance(overrides[name], str) and ("," in value or value.startswith("["))
        if is_list and name in FINETUNE and isinstance(FINETUNE[name].default, int | float):
            raise InputError(f"{name} takes one number, not {value!r}; lists go into a study file's grid")
    return overrides


def _value(text: str) -> object:
    if text in ("true", "True", "false", "False"):
        return text in ("true", "True")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def table(done: list[dict]) -> str:
    """The records as a plain-text table with an interval behind every number."""
    from mixkit.notebook.charts import label, number
    from mixkit.studies.progress import aligned

    known = ("valid_prefix_rate",) if any("valid_prefix_rate" in r["metrics"] for r in done) else ()
    columns = ("perplexity", "mauve", "diversity", "distinct_2", *known)
    rows = [("run", *columns)]
    rows += [(label(r), *(number(r["metrics"].get(c)) for c in columns)) for r in done]
    human = next((r["human"] for r in done if r.get("human")), None)
    if human:
        rows.append(("human texts", *(number(human.get(c)) for c in columns)))
    return "\n".join(aligned(rows))


if __name__ == "__main__":
    sys.exit(main())
