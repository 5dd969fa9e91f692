"""Take the pictures in notebooks/images/: python notebooks/take_pictures.py [NAME ...], by default of all notebooks.

Each notebook is run in JupyterLab in Chromium. The picture is of its first chart, or of notebook 5's panel. Notebooks 5
and 6 show the study `prose`, which the kit ships. Needs the packages of `make test` and Chromium on the path.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

HERE = Path(__file__).parent
TEN_MINUTES = 600_000  # milliseconds
PARTS = {"5_sweep": "button.widget-button"}  # the picture is of the first output that is or contains this
PORT = 8899
HEIGHT = 604  # pixels of the panel's picture; what is below is cut off, such as paths


def take(page, name: str) -> None:
    """Run a notebook and write images/<name>.png."""
    page.goto(f"http://127.0.0.1:{PORT}/lab/tree/{name}.ipynb?token=here&reset", wait_until="domcontentloaded")
    page.get_by_text("(ipykernel) | Idle").wait_for()
    for item in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=item, exact=True).click()
    expect(page.locator(".jp-CodeCell .jp-InputPrompt").last).to_have_text(re.compile(r"\[\d+\]"), timeout=TEN_MINUTES)
    page.wait_for_timeout(5000)  # the charts are drawn after the cells have run
    part = PARTS.get(name, ".js-plotly-plot")
    output = page.locator(f".jp-OutputArea-output:is({part}, :has({part}))").first
    output.evaluate("element => element.scrollIntoView()")
    page.wait_for_timeout(1000)
    clip = output.bounding_box()
    if name in PARTS:
        clip["height"] = min(clip["height"], HEIGHT)
    page.screenshot(path=HERE / "images" / f"{name}.png", clip=clip)


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for path in HERE.glob("*.ipynb"):
            text = path.read_text(encoding="utf-8")
            if path.stem in ("5_sweep", "6_tradeoff"):
                text = re.sub(r'study = \\"(sweep|quick)\\"', r"study = \"prose\"", text)
            (Path(folder) / path.name).write_text(text, encoding="utf-8")
        settings = Path(folder) / "settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text('{"windowingMode": "none", "autoStartDefaultKernel": true}')
        own = {"JUPYTERLAB_SETTINGS_DIR": str(settings.parents[2]), "PYTHONPATH": str(HERE.parent)}
        options = ["--no-browser", "--allow-root", f"--port={PORT}", "--IdentityProvider.token=here"]
        command = [sys.executable, "-m", "jupyterlab", folder, *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        server = subprocess.Popen(command, env={**os.environ, **own}, **quiet)
        try:
            is_up = False
            while not is_up:
                with suppress(OSError):
                    is_up = urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api?token=here").status == 200
                time.sleep(0.5)
            with sync_playwright() as playwright:
                arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
                chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
                page = chromium.new_page(viewport={"width": 1200, "height": 1600})
                page.set_default_timeout(TEN_MINUTES)
                for name in names or sorted(path.stem for path in HERE.glob("*.ipynb")):
                    take(page, name)
                chromium.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main(sys.argv[1:])
