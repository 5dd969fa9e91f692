"""Studies from the command line: python -m mixkit study | report | bench.
Exit code 2 for what cannot be asked, 1 where a run failed."""

import argparse
import os
import sys

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from mixkit.charts import label, number
from mixkit.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mixkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    study = commands.add_parser("study", help="run a study: what is done already is not run again")
    study.add_argument("file", help="a name from data/studies (quick, gpt2, ...) or the path of a .yaml file")
    study.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="replace parameters of every run"
    )
    study.add_argument("--name", default="", help="folder under runs/; by default the file's name and the values set")
    study.add_argument("--slots", type=int, default=0, help="runs at a time; by default one a GPU, or two without one")
    report = commands.add_parser("report", help="print a study's table and write its report.html again")
    report.add_argument("name", help="folder under runs/")
    commands.add_parser("bench", help="time and memory of the vocabulary head, each way beside the others")
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "bench":
            from mixkit.bench import main as bench

            bench()
            return 0
        return _study(asked) if asked.command == "study" else _report(asked.name)
    except InputError as error:
        print(f"mixkit: {error}", file=sys.stderr)
        return 2


def _study(asked: argparse.Namespace) -> int:
    from mixkit.sweeps import load_study, run_study

    study = load_study(asked.file, _overrides(asked.set), name=asked.name)
    run_study(study, slots=asked.slots, say=lambda line: print(line, flush=True))
    return _report(study.name)


def _report(name: str) -> int:
    from mixkit.report import write_report
    from mixkit.sweeps import read_study, records

    study = read_study(name)
    done = records(study)
    print(table(done))
    print(f"\n{len(done)} of {len(study.runs)} runs are done. Report: {write_report(study)}")
    return 0 if len(done) == len(study.runs) else 1


def _overrides(assignments: list[str]) -> dict[str, object]:
    """NAME=VALUE as papermill's -p reads them: numbers and booleans become such, everything else stays a string."""
    overrides: dict[str, object] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment!r}: write NAME=VALUE")
        overrides[name] = _value(value)
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
    columns = ("perplexity", "mauve", "diversity", "distinct_2")
    rows = [("run", *columns)]
    rows += [(label(r), *(number(r["metrics"].get(c)) for c in columns)) for r in done]
    human = next((r["human"] for r in done if r.get("human")), None)
    if human:
        rows.append(("human texts", *(number(human.get(c)) for c in columns)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
