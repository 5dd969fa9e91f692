"""Tests of the project's files: requirements, public faces, packaging."""

import ast
import importlib
import pkgutil
import sys
import tomllib
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
    assert sum(lines.values()) <= 9000  # raised for a moment


@pytest.mark.parametrize("room", ["losses", "metrics", "models", "texts"])
def test_thin_rooms_import_only_the_thin_stack(room):
    allowed = {"torch", "transformers", "numpy", "scipy", "tqdm", "mixkit", *sys.stdlib_module_names}
    for path in (CLONE / "mixkit" / room).glob("*.py"):
        for node in ast.parse(path.read_text()).body:  # imports inside functions are optional
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules.append(node.module or "")
            assert {module.partition(".")[0] for module in modules} <= allowed, path
