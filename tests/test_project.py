"""Tests of the project's files: requirements, public faces, packaging."""

import ast
import importlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[1]
ROOMS = ("losses", "metrics", "models", "texts", "toys", "studies", "notebook")


def test_requirements_are_those_of_pyproject():
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = (CLONE / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if not line.startswith("#")]
    assert requirements == [*project["dependencies"], *extras["notebooks"], *extras["mauve"]]


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_import_and_hide_no_module(room):
    package = importlib.import_module(f"mixkit.{room}")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    for name in getattr(package, "__all__", []):
        assert name not in modules
        assert getattr(package, name) is not None


def test_rooms_are_seven_folders_of_small_files():
    folders = {path.name for path in (CLONE / "mixkit").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ROOMS)
    assert {path.name for path in (CLONE / "mixkit").glob("*.py")} == {"__init__.py", "__main__.py", "_common.py"}
    lines = {path: len(path.read_text().splitlines()) for path in (CLONE / "mixkit").rglob("*.py")}
    assert max(lines.values()) <= 350
    assert sum(lines.values()) <= 9475  # it may only shrink


@pytest.mark.parametrize("room", ["losses", "metrics", "models", "texts"])
def test_thin_rooms_import_only_the_thin_stack(room):
    with_transformers = {"transformers", "tokenizers", "huggingface_hub", "tqdm"}
    allowed = {"torch", "numpy", "scipy", "mixkit", *with_transformers, *sys.stdlib_module_names}
    for path in (CLONE / "mixkit" / room).glob("*.py"):
        for node in ast.parse(path.read_text()).body:  # imports inside functions are optional
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules.append(node.module or "")
            assert {module.partition(".")[0] for module in modules} <= allowed, path


def commands_of(name):
    """The commands in a Markdown file's blocks of shell code, without their comments."""
    text = (CLONE / name).read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def test_the_commands_of_the_readme_exist():
    commands = commands_of("README.md")
    assert {"make study", "make test"} <= set(commands)
    for command in [*commands, *commands_of("CONTRIBUTING.md")]:
        program, *arguments = shlex.split(command)
        if program == "make":
            done = subprocess.run(["make", "-n", *arguments], cwd=CLONE, capture_output=True, text=True)
            assert done.returncode == 0 and done.stdout, command


def test_the_readme_s_first_command_is_the_command_line_s(monkeypatch):
    """`make study` runs a command that the parser takes, and a study file that exists."""
    from mixkit import __main__ as command_line

    printed = subprocess.run(
        ["make", "-n", "--no-print-directory", "study"], cwd=CLONE, capture_output=True, text=True
    ).stdout
    arguments = shlex.split(printed.splitlines()[-1])
    assert arguments[1:3] == ["-m", "mixkit"]
    studies = []
    monkeypatch.setattr(command_line, "run_study", lambda study, **_: studies.append(study.name))
    monkeypatch.setattr(command_line, "_report", lambda name, **_: 0)
    assert command_line.main(arguments[3:]) == 0 and studies == ["quick"]


@pytest.mark.slow
def test_the_wheel_has_the_library_and_nothing_else(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CLONE / name, tmp_path)
    shutil.copytree(CLONE / "mixkit", tmp_path / "mixkit", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", ".", "-q", "--no-deps", "--no-build-isolation", "-w", "made"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "made").glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    suffixes = {".py", ".typed", ".grammar", ".jinja", ".css", ".js"}
    files = [path for path in (CLONE / "mixkit").rglob("*") if path.suffix in suffixes]
    assert names == {path.relative_to(CLONE).as_posix() for path in files}
    assert len([name for name in names if not name.endswith(".py")]) == 6
