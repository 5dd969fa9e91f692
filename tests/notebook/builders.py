"""A finished study with made-up numbers, for tests of charts, tables, panels and the report."""

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
