"""A finished study with made-up numbers, for tests of charts, tables, panels and the report; notebooks executed."""

import json

import papermill

from mixkit._common import CLONE
from mixkit.studies.config import RunConfig
from mixkit.studies.plan import PlannedRun, Study
from mixkit.studies.records import results_frame
from mixkit.studies.store import Metric, RunRecord, Sample

EVIL = "</script><script>alert(1)</script><!--\x1b[31m"


def metric(value, half=0.02, **facts):
    return Metric(value=value, low=value - half, high=value + half, **facts)


def record(name, x, y, *, role="grid", metrics=None, **settings):
    """A run with diversity and distinct-2 x, MAUVE and precision y."""
    return RunRecord(
        name=name,
        study="own",
        status="done",
        role=role,
        config=RunConfig.check({"study": "own", "name": name, "objective": "mle", **settings}),
        metrics={
            "perplexity": metric(9.0, 0.5),
            "mauve": metric(y),
            "diversity": metric(x),
            "precision": metric(y),
            "distinct_2": metric(x),
            "coherence": Metric(why=f"no encoder {EVIL}"),
            **(metrics or {}),
        },
        human={"mauve": metric(0.9, over="halvings"), "diversity": metric(0.8), "distinct_2": metric(0.7)},
        versions={"torch": "2"},
        began=0.0,
        seconds=60.0,
        resolved={"reader": EVIL, "prompts": 40, "device": "CPU"},
    )


DONE = [
    record("base", 0.5, 0.5, role="base"),
    record("mle", 0.8, 0.5),
    record("mixce", 0.7, 0.8, objective="mixce", eta=0.1),
    record("tailr", 0.6, 0.6, objective="tailr", gamma=0.1),
    record("cold", 0.4, 0.85, role="decoding", temperature=0.5),
    record("cool", 0.6, 0.7, role="decoding", temperature=0.8),
    record("p9", 0.7, 0.6, role="decoding", top_p=0.9),
]
FRAME = results_frame(DONE)


def samples_of(name, **facts):
    texts = [f" {name} said so {EVIL} {i % 7} x y" for i in range(40)]
    fixed = {"set": 0, "human": " upon a time", **facts}
    return [Sample(**{"prompt": f"Once {i}", "generated": text, **fixed}) for i, text in enumerate(texts)]


SAMPLES = {run.name: samples_of(run.name) for run in DONE}
STUDY = Study("own", f"About {EVIL}", [PlannedRun(run.name, run.role, run.config, None) for run in DONE])


def execute(name, folder, edit=("", ""), **parameters):
    """The outputs of a notebook's cells and of its widgets, after papermill has executed it with these parameters.

    edit: text of a cell, and what a reader writes in its place.
    """
    source, out = folder / "source.ipynb", folder / f"{name}.ipynb"
    source.write_text((CLONE / "notebooks" / out.name).read_text(encoding="utf-8").replace(*edit), encoding="utf-8")
    options = {"kernel_name": "python3", "cwd": CLONE, "progress_bar": False, "execution_timeout": 300}
    papermill.execute_notebook(source, out, parameters, **options)
    notebook = json.loads(out.read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    states = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    drawn = [output for state in states for output in state["state"].get("outputs", ())]
    assert not [output for output in [*outputs, *drawn] if output["output_type"] == "error"]
    return outputs, drawn


def printed(outputs):
    return "".join(line for out in outputs if out["output_type"] == "stream" for line in out["text"])
