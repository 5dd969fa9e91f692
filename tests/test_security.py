"""No pickle, no foreign code, no secrets, no large files, no telemetry, no request to a network."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata

import pytest
import yaml

from tests.support import CLONE, TINY, environment

LIBRARY = sorted((CLONE / "mixkit").rglob("*.py"))
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "xmlrpc", "telnetlib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.hub.load"}
UNSAFE_CALLS |= {
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pandas.read_pickle",
    "pd.read_pickle",
}
UNSAFE_ARGUMENTS = {"trust_remote_code": True, "allow_pickle": True, "shell": True, "weights_only": False}
LARGEST, LARGE = 1_000_000, {}  # bytes of a file in git; larger ones by name
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z]{30,}|\bgh[pousr]_\w{30,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bsk-[\w-]{40,}|\bxox[bp]-\w+"
)
GUARD = """
import os, socket
open(os.environ["GUARD"] + "/on", "a").write("on\\n")
def guarded(method):
    def call(self, address, *rest):
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "localhost", "::1"):
            open(os.environ["GUARD"] + "/refused", "a").write(f"{address}\\n")
            raise OSError(f"no network: {address}")
        return method(self, address, *rest)
    return call
socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
"""


def code_of_notebooks():
    for path in sorted((CLONE / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield path, re.sub(r"(?m)^(\s*)[!%].*", r"\1pass", "".join(cell["source"]))


def unsafe(code):
    """What in the code may run foreign code."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] * ((node.module or "").split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            found += [ast.unparse(node.func)] * (ast.unparse(node.func) in UNSAFE_CALLS)
            for keyword in node.keywords:
                constant = getattr(keyword.value, "value", None)
                found += [keyword.arg] * (UNSAFE_ARGUMENTS.get(str(keyword.arg), "none") is constant)
        elif isinstance(node, ast.Dict):  # of keyword arguments
            for key, value in zip(node.keys, node.values, strict=True):
                name = getattr(key, "value", None)
                found += [name] * (UNSAFE_ARGUMENTS.get(str(name), "none") is getattr(value, "value", None))
    return found


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from joblib import load", "yaml.load(x)", "torch.load(x)", "exec(x)", "eval(x)"),
        *(
            "f(trust_remote_code=True)",
            "np.load(f, allow_pickle=True)",
            "run(x, shell=True)",
            "d = {'allow_pickle': True}",
        ),
    ],
)
def test_what_is_unsafe_is_found(code):
    assert unsafe(code) and not unsafe("import json; yaml.safe_load(x); f(trust_remote_code=False)")


def test_the_library_and_the_notebooks_run_no_foreign_code():
    for path in LIBRARY:
        assert unsafe(path.read_text(encoding="utf-8")) == [], path
    for path, code in code_of_notebooks():
        assert unsafe(code) == [], path


def tracked():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CLONE, capture_output=True, text=True, check=True).stdout
    return [CLONE / name for name in names.split("\0") if name and (CLONE / name).is_file()]


@pytest.mark.slow
def test_no_large_files_and_no_secrets():
    files = tracked()
    assert len(files) > 100
    assert {path.name: path.stat().st_size for path in files if path.stat().st_size > LARGEST} == LARGE
    assert SECRETS.search("hf_" + "a" * 34) and SECRETS.search("-----BEGIN RSA " + "PRIVATE KEY")
    for path in files:
        assert not SECRETS.search(path.read_text(encoding="utf-8", errors="replace")), path


def test_no_telemetry_unless_requested():
    code = "import mixkit, os; print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    inherited = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_DISABLE_TELEMETRY",)}
    inherited.pop("RAY_USAGE_STATS_ENABLED", None)
    for extra, expected in (({}, "1 0"), ({"HF_HUB_DISABLE_TELEMETRY": "0", "RAY_USAGE_STATS_ENABLED": "1"}, "0 1")):
        options = {"env": {**inherited, **extra}, "cwd": CLONE, "capture_output": True, "text": True}
        assert subprocess.run([sys.executable, "-c", code], **options).stdout.strip() == expected


@pytest.mark.slow
def test_make_lab_listens_on_loopback_and_asks_nobody():
    makefile = (CLONE / "Makefile").read_text()
    (line,) = (line for line in makefile.splitlines() if "jupyter lab" in line)
    assert not re.search(r"--ip|token|password|allow.remote|0\.0\.0\.0", line)
    assert "NeverCheckForUpdate" in line  # JupyterLab asks before it fetches news, but not before this
    from jupyter_server.serverapp import ServerApp

    assert ServerApp.ip.default_value in ("localhost", "127.0.0.1") and not ServerApp.allow_remote_access.default_value


def test_the_licences_are_those_of_the_table():
    text = (CLONE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (BSD|Apache|MIT|MPL|GPL)[^|]* \| ([^|]+) \|$", text, re.M))
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    direct = {re.split(r"[<>=]", requirement)[0] for requirements in lists for requirement in requirements}
    assert sorted(name for names in table.values() for name in names.split(", ")) == sorted(direct)
    for family, names in table.items():
        for name in names.split(", "):
            facts = metadata(name)
            said = [
                facts.get("License-Expression"),
                (facts.get("License") or "")[:300],
                *facts.get_all("Classifier", []),
            ]
            assert re.search({"GPL": "GNU General"}.get(family, family), " ".join(filter(None, said))), name


@pytest.mark.slow
def test_a_study_needs_no_network(tmp_path):
    """Every process of the sweep, kernels included, refuses all sockets but those of this machine."""
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    study = {"parameters": TINY, "base": {"objective": "mle"}, "grid": [{"objective": "mixce", "eta": 0.1}]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(study))
    paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{CLONE}", "GUARD": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mixkit", "study", str(tmp_path / "own.yaml")]
    done = subprocess.run(
        command, env=environment(tmp_path / "runs") | paths, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "on").read_text().split()) >= 5  # the sweep, two workers, two kernels
    assert not (tmp_path / "refused").exists()
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    refused = subprocess.run([sys.executable, "-c", code], env=os.environ | paths, capture_output=True, text=True)
    assert "no network" in refused.stderr
