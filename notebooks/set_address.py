"""Write the project's public address into the notebooks and the README: `make address`.

The address is `Repository` under `[project.urls]` in pyproject.toml, for example "https://github.com/OWNER/mixkit".
Without it there are no Colab badges, and the install cells say that the address is not set.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

COLAB = "https://colab.research.google.com"
INSTALL = """\
# On Colab: clone the kit and install what is missing. Elsewhere this cell does nothing.
import os
import sys

results_on_drive = False  # True: Colab saves the results on your Google Drive, where they outlive the runtime
if "google.colab" in sys.modules and "mixkit" not in sys.modules:
    repository = "{address}"  # written by `make address`
    if not repository:
        raise SystemExit("This copy of mixkit has no public address yet: clone it by hand, then run this notebook.")
    if results_on_drive:
        from google.colab import drive

        drive.mount("/content/drive")
        os.environ["MIXKIT_RUNS"] = "/content/drive/MyDrive/mixkit-runs"
    !git clone --depth 1 {{repository}} /content/mixkit
    %cd /content/mixkit
    !grep -v jupyterlab requirements.txt > colab.txt
    !pip install -q -r colab.txt && pip install -q --no-deps -e .
    sys.path.insert(0, "/content/mixkit")"""
BADGE = re.compile(r"\[!\[Open In Colab\].*\n\n")
LINKS = re.compile(r"(?<=<!-- colab -->\n).*?(?=<!-- /colab -->)", re.DOTALL)


def set_address(clone: Path) -> list[Path]:
    """Rewrite the files that differ from the address in pyproject.toml, and return them."""
    urls = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    address = urls.get("Repository", "").removesuffix("/")
    owner = address.removeprefix("https://github.com/")
    notebooks = sorted((clone / "notebooks").glob("*.ipynb"))
    links = {path: f"{COLAB}/github/{owner}/blob/main/notebooks/{path.name}" for path in notebooks if address}
    new = {path: _notebook(path, address, links.get(path)) for path in notebooks}
    readme = clone / "README.md"
    line = " · ".join(f"[{path.stem}]({link})" for path, link in links.items())
    new[readme] = LINKS.sub(f"Open in Colab: {line}\n" if line else "", readme.read_text(encoding="utf-8"))
    changed = [path for path, text in new.items() if path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.write_text(new[path], encoding="utf-8")
    return changed


def _notebook(path: Path, address: str, link: str | None) -> str:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = {cell["id"]: cell for cell in notebook["cells"]}
    title, _, rest = "".join(cells["title"]["source"]).partition("\n\n")
    badge = f"[![Open In Colab]({COLAB}/assets/colab-badge.svg)]({link})\n\n" if link else ""
    sources = {"title": f"{title}\n\n{badge}{BADGE.sub('', rest)}", "install": INSTALL.format(address=address)}
    for name, source in sources.items():
        cells[name]["source"] = source.splitlines(keepends=True)
    cells["install"]["metadata"] = {"jupyter": {"source_hidden": True}}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for changed in set_address(Path(__file__).parents[1]):
        print(f"{changed} rewritten", file=sys.stderr)
