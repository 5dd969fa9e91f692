"""The panel of notebook 5: what to sweep; Run, Stop, Resume; and the study as it stands, looked at every second.
The sweep is the command line's, in a process of its own; nothing is trained or measured here."""

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as widgets

from mixkit._common import InputError, as_html
from mixkit.notebook import sweep_inputs, sweep_process
from mixkit.notebook.charts import COLORS, frontier, label
from mixkit.notebook.tables import table
from mixkit.notebook.training_charts import training_curves
from mixkit.notebook.widgets import fill
from mixkit.studies.executors import local_workers
from mixkit.studies.progress import duration, measured, time_left
from mixkit.studies.store import RunStore
from mixkit.studies.sweep import RunState, Study, read_study, records, states
from mixkit.studies.sweep_files import load_sweep, write_sweep

WRONG = re.compile(r"mixkit: (?!study .* was stopped)|[\w.]*(Error|Exception)\b")  # of a sweep's last line
STATUS_COLORS = {"done": "#009E73", "running": "#0072B2", "failed": "#b00020", "waiting": "#999999"}
_tasks: set[asyncio.Task] = set()  # the loop itself holds only weak references


@dataclass(frozen=True)
class Look:
    """A study as its folder tells: whether its process runs and what it said last, whether it can be resumed, the state
    of each run, the lines of each training so far, the finished records."""

    study: Study | None
    running: bool
    said: str
    resumable: bool
    states: list[RunState]
    histories: dict[str, list[dict]]
    done: list[dict]


def sweep(asked: SimpleNamespace, store: RunStore | None = None) -> widgets.VBox:
    """The panel, at the checked parameters.SWEEP. In a kernel it follows the study as long as the kernel lives; without
    a running event loop it shows it once."""
    panel = SweepPanel(vars(asked), store or RunStore())
    panel.show(panel.look())
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return panel.box
    task = loop.create_task(panel.follow())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return panel.box


class SweepPanel:
    """The widgets and what they do. JupyterLab runs callbacks on another thread than the event loop's, so they only
    plan, start and stop; what is seen of the study is set by `show` alone."""

    def __init__(self, asked: Mapping[str, object], store: RunStore):
        self.store = store
        self.inputs = sweep_inputs.build(asked)
        self.plan, self.error, self.progress, self.numbers = (widgets.HTML() for _ in range(4))
        self.curves, self.picture = widgets.Output(), widgets.Output()
        self.curve = widgets.ToggleButtons(options=["nll", "loss"], tooltips=["of the tokens", "the objective's own"])
        self.axes = [widgets.Dropdown(description=text) for text in ("up", "right")]
        self.run, self.stop, self.resume = (
            widgets.Button(description=text, icon=icon, button_style="primary" * (text == "Run"))
            for text, icon in (("Run", "play"), ("Stop", "stop"), ("Resume", "repeat"))
        )
        self.running = self.ours = self.resumable = self.valid = False
        self.look_again = lambda change=None: None  # until something follows
        self._drawn: dict[str, object] = {}
        self._parsed: dict[Path, tuple] = {}
        for widget in self.inputs.values():
            widget.observe(self.preview, "value")
        for widget in (self.inputs["study"], self.curve, *self.axes):
            widget.observe(lambda change: self.look_again(), "value")
        self.run.on_click(lambda button: self.begin())
        self.resume.on_click(lambda button: self.begin(resume=True))
        self.stop.on_click(lambda button: sweep_process.stop(self.name, self.store))
        buttons, axes = widgets.HBox([self.run, self.stop, self.resume]), widgets.HBox(self.axes)
        shown = [self.error, self.progress, self.curve, self.curves, axes, self.picture, self.numbers]
        self.box = widgets.VBox([sweep_inputs.layout(self.inputs), self.plan, buttons, *shown])
        self.preview()

    @property
    def name(self) -> str:
        return self.inputs["study"].value

    def preview(self, change=None) -> None:
        """Says what Run would do, or in red why it cannot."""
        try:
            asked = sweep_inputs.settings(self.inputs)
            study = load_sweep(asked)
            self.plan.value = _plan(study, self.store)
            self.valid = True
        except InputError as error:
            self.plan.value = _red(error)
            self.valid = False
        self._enable()

    def begin(self, *, resume: bool = False) -> None:
        """Starts the sweep: as the widgets stand, or as it was asked for before, and then what failed once more."""
        self.running = self.ours = True
        self._enable()
        try:
            if not resume:
                write_sweep(sweep_inputs.settings(self.inputs), self.store)
            sweep_process.start(self.name, self.store, retry=resume)
        except (InputError, OSError) as error:
            self.running = self.ours = False
            self.plan.value = _red(error)
            self._enable()
        self.look_again()

    async def follow(self) -> None:
        """Looks and shows, every second while the study runs, every third otherwise, and at once when asked to."""
        woken, loop = asyncio.Event(), asyncio.get_running_loop()
        self.look_again = lambda change=None: loop.call_soon_threadsafe(woken.set)
        while True:
            try:
                self.show(await asyncio.to_thread(self.look))
            except Exception as error:  # what a task raises nobody sees
                self.error.value = _red(f"{type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), 1 if self.running else 3)
            woken.clear()

    def look(self) -> Look:
        """The study of the panel's name, from its folder. Touches no widget, so that a thread may do it."""
        name, folder = self.name, self.store.root / self.name
        facts = (
            sweep_process.find(name, self.store) is not None,
            sweep_process.last_line(name, self.store),
            (folder / "asked.yaml").is_file(),
        )
        if not name or not (folder / "study.yaml").is_file():
            return Look(None, *facts, [], {}, [])
        study = read_study(name, self.store)
        histories = {run.name: self._history(folder / run.name / "training.jsonl") for run in study.runs}
        return Look(study, *facts, states(study, self.store), histories, records(study, self.store))

    def show(self, look: Look) -> None:
        """What `look` saw: progress, curves, frontier, table. What is as it was is not drawn again."""
        finished = bool(look.states) and all(state.status == "done" for state in look.states)
        self.running, self.ours = look.running or any(s.status == "running" for s in look.states), look.running
        self.resumable = look.resumable and not finished
        self._enable()
        refused = not self.running and not finished and WRONG.match(look.said)
        self.error.value = _red(look.said) if refused else ""
        self.progress.value = _progress(look, self.store)
        lengths = {name: len(lines) for name, lines in look.histories.items() if lines}
        _display(self.curve, bool(lengths))
        if self._changed("curves", (lengths, self.curve.value)):
            runs = [{"name": s.run.name, "role": s.run.role, "parameters": s.run.parameters} for s in look.states]
            fill(self.curves, *[training_curves(runs, look.histories, self.curve.value)] * bool(lengths))
        trained = [record for record in look.done if record["role"] != "base"]
        self._offer_axes(trained)
        axes = [menu.value for menu in self.axes]
        if self._changed("picture", ([(r["name"], r["began"]) for r in look.done], axes)):
            fill(self.picture, *[frontier(look.done, *axes)] * bool(trained))
            self.numbers.value = table(look.done) if look.done else ""
            self.preview()

    def _offer_axes(self, done: list[dict]) -> None:
        names = sorted({m for r in done for m, e in r["metrics"].items() if e["value"] is not None})
        for menu, preferred in zip(self.axes, ("mauve", "distinct_2"), strict=True):
            _display(menu, bool(names))
            if list(menu.options) != names:
                wanted = menu.value or preferred
                menu.options = names
                menu.value = wanted if wanted in names else next(iter(names), None)

    def _history(self, path: Path) -> list[dict]:
        """The lines of a training.jsonl, parsed again only where it has changed."""
        if not path.is_file():
            return []
        stamp = (path.stat().st_mtime_ns, path.stat().st_size)
        if self._parsed.get(path, (None,))[0] != stamp:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._parsed[path] = (stamp, lines)
        return self._parsed[path][1]

    def _changed(self, what: str, now: object) -> bool:
        before, self._drawn[what] = self._drawn.get(what), now
        return before != now

    def _enable(self) -> None:
        self.run.disabled = self.running or not self.valid
        self.stop.disabled = not self.ours  # what another process or machine executes is ended there
        self.resume.disabled = self.running or not self.resumable


def _display(widget: widgets.Widget, shown: bool) -> None:
    widget.layout.display = None if shown else "none"


def _red(message: object) -> str:
    return f'<p role="alert" style="color:#b00020;margin:4px 0">{as_html(message)}</p>'


def _plan(study: Study, store: RunStore) -> str:
    """What Run would do: how many runs, of what, how long, and the same from a shell."""
    at_a_time = local_workers()
    left = [state.run for state in states(study, store) if state.status != "done"]
    done = len(study.runs) - len(left)
    seconds = time_left(left, measured(store), at_a_time, store=store) if left else 0.0
    time = "no run of these sizes was timed yet" if seconds is None else f"about {duration(seconds)}"
    names = ", ".join(label({"parameters": run.parameters, "role": run.role}) for run in study.runs)
    asked = study.runs[0].parameters
    steps = f"{asked['max_steps']} steps" if asked["max_steps"] > 0 else f"{asked['epochs']:g} × the texts"
    facts = f"{Path(asked['corpus']).name}; {asked['model']}; training: {steps}; {asked['prompts']} prompts"
    file = store.root / study.name / "asked.yaml"
    return (
        f"<p style='margin:4px 0'><b>{len(study.runs)} runs</b>, {done} of them done; {at_a_time} at a time, "
        f"<b>{as_html(time)}</b>. {as_html(facts)}.<br><span style='color:#777'>{as_html(names)}</span><br>"
        f"After Run, the same from a shell: "
        f"<code>python -m mixkit study {as_html(file)} --name {as_html(study.name)}</code></p>"
    )


def _progress(look: Look, store: RunStore) -> str:
    """A bar a run with its status, and a line about the whole."""
    if look.study is None:
        return "<p>The sweep is starting.</p>" if look.running else "<p>Nothing was run under this name yet.</p>"
    count = {status: sum(state.status == status for state in look.states) for status in STATUS_COLORS}
    told = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    where = store.root / look.study.name / "report.html"
    end = f"; report: <code>{as_html(where)}</code>" if where.is_file() and not look.running else ""
    said = f"<br><span style='color:#777'>{as_html(look.said)}</span>" if look.running else ""
    rows = "".join(map(_bar, look.states))
    return (
        f"<p style='margin:4px 0'><b>{as_html(look.study.name)}</b>: {told}{end}{said}</p>"
        f"<table style='border-spacing:8px 1px'>{rows}</table>"
    )


def _bar(state: RunState) -> str:
    color = STATUS_COLORS[state.status]
    percent = round(100 * (1.0 if state.status == "done" else min(1.0, max(0.0, state.share))))
    name = label({"parameters": state.run.parameters, "role": state.run.role})
    dot = COLORS[state.run.parameters["objective"]]
    return (
        f"<tr><td><span style='color:{dot}'>●</span> {as_html(name)}</td>"
        f"<td><div role='progressbar' aria-valuenow='{percent}' aria-label='{as_html(name)}' "
        f"style='width:180px;height:10px;background:#8883;border-radius:5px'>"
        f"<div style='width:{percent}%;height:100%;background:{color};border-radius:5px'></div></div></td>"
        f"<td style='color:{color}'>{as_html(state.status)}</td>"
        f"<td style='text-align:right'>{duration(state.seconds) if state.seconds else ''}</td>"
        f"<td>{as_html(state.detail)}</td></tr>"
    )
