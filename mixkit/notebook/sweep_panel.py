"""The panel of notebook 5: a form with the settings of a sweep, buttons to run it, and its progress."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

import ipywidgets as widgets
import numpy as np
import psutil
from pydantic.fields import FieldInfo

from mixkit._common import CLONE, InputError
from mixkit.losses.definitions import COEFFICIENTS, OBJECTIVES
from mixkit.notebook.charts import default_axes, measured_metrics, training_curves
from mixkit.notebook.tables import MACROS, results_html
from mixkit.notebook.widgets import choose_axes, fill, observe
from mixkit.studies.config import SweepConfig, bounds
from mixkit.studies.executors import local_workers
from mixkit.studies.plan import SWEEP_FILE, Study, load_sweep, read_study, write_sweep
from mixkit.studies.preflight import preflight
from mixkit.studies.records import records, results_frame
from mixkit.studies.store import RunRecord, RunStore
from mixkit.studies.sweep import RunState, states, time_left

SCALES = {  # the values that a range slider offers; those of gamma are about equal factors apart
    "eta": [i / 100 for i in range(101)],
    "gamma": [float(f"{digit}e-{power}") for power in range(7, 0, -1) for digit in (1, 2, 5)] + [1.0],
}
INPUTS = {"corpus", "train_texts", "validation_texts", "test_texts", "model", "reader"}  # preview looks for them
FAILURE = re.compile(r"mixkit: (?!stopped)|[\w.]*(Error|Exception)\b")  # last log line of a failed sweep
_children: list[subprocess.Popen] = []  # a Popen that is garbage while its process runs gives a warning


def sweep(config: SweepConfig, store: RunStore | None = None) -> "SweepPanel":
    """The panel, with its form set to `config`. It follows the study; without a running event loop it shows it once."""
    panel = SweepPanel(config, store or RunStore())
    panel.show(panel.snapshot())
    with contextlib.suppress(RuntimeError):  # no running event loop
        panel.task = asyncio.get_running_loop().create_task(panel.follow())  # the loop holds only weak references
    return panel


class FieldInput(NamedTuple):
    """The widgets of one setting, and how its value is read from them."""

    widgets: list[Any]
    value: Callable[[], Any]


class SweepForm:
    """One row of widgets per field of SweepConfig, made from the field's type, range and help."""

    def __init__(self, config: SweepConfig):
        self.inputs: dict[str, FieldInput] = {}
        self.rows: dict[str, widgets.HBox] = {}
        for name, info in SweepConfig.model_fields.items():
            if name != "run_now":
                self.inputs[name] = field_input(name, info, getattr(config, name))
                row = [*self.inputs[name].widgets, widgets.HTML(MACROS.faint(info.description))]
                self.rows[name] = widgets.HBox(row, layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox(list(self.rows.values()))
        self.widgets = [widget for entry in self.inputs.values() for widget in entry.widgets]
        observe(self.widgets, self._show_rows)

    def config(self) -> SweepConfig:
        """The settings in the form. Raises InputError for a wrong value."""
        return SweepConfig.check({name: entry.value() for name, entry in self.inputs.items()})

    def _show_rows(self) -> None:
        """Show the row of a coefficient while an objective with that coefficient is chosen."""
        chosen = [c.name for name in self.inputs["objectives"].value() for c in OBJECTIVES[name].coefficients]
        for name, row in self.rows.items():
            row.layout.display = None if name in chosen or name not in COEFFICIENTS else "none"


def field_input(name: str, info: FieldInfo, value: Any) -> FieldInput:
    """The widgets for a field of a settings model, showing this value."""
    kind: Any = info.annotation
    symbol = COEFFICIENTS[name].symbol if name in COEFFICIENTS else name
    label = f"{symbol} ({name})" if symbol != name else name.replace("_", " ")
    settings: Any = {"description": label, "layout": {"width": "360px"}, "style": {"description_width": "120px"}}
    once = {"continuous_update": False}  # each value makes a new plan, which reads every finished run
    if name == "objectives":
        style: Any = {"indent": False, "layout": {"width": "max-content", "margin": "2px 8px 2px 14px"}}
        boxes = {key: widgets.Checkbox(key in value, description=o.label, **style) for key, o in OBJECTIVES.items()}
        return FieldInput(list(boxes.values()), lambda: [key for key, box in boxes.items() if box.value])
    if name in SCALES:
        return _list_input(SCALES[name], value, settings | once)
    if get_origin(kind) is list:
        line = widgets.Text("; ".join(value), placeholder="power(0.3); 0.1 + 0.9 * q", **settings, **once)
        return FieldInput([line], lambda: [text.strip() for text in line.value.split(";") if text.strip()])
    if get_origin(kind) is Literal:
        widget = widgets.Dropdown(options=get_args(kind), value=value, **settings)
    elif kind is str:
        widget = widgets.Text(value, **settings, **once)
    else:
        low, high = bounds(info)
        box = widgets.BoundedIntText if kind is int else widgets.BoundedFloatText
        widget = box(value, min=low, max=min(high, 1e9), **settings)
    return FieldInput([widget], lambda: widget.value)


def _list_input(scale: list[float], values: list[float], settings: dict[str, Any]) -> FieldInput:
    """A range slider over `scale`, and how many of its values to take. Until one is moved, the value is the list."""
    ends = [min(scale, key=lambda option: abs(option - end)) for end in (min(values), max(values))]
    options = [(np.format_float_positional(option, trim="-"), option) for option in scale]
    slider = widgets.SelectionRangeSlider(options=options, value=ends, **settings)
    count = widgets.BoundedIntText(len(values), min=1, max=50, description="values", layout={"width": "120px"})
    count.style.description_width = "50px"
    initial = (slider.value, count.value)

    def read() -> list[float]:
        if (slider.value, count.value) == initial:
            return values
        first, last = map(scale.index, slider.value)
        return [scale[i] for i in sorted({round(i) for i in np.linspace(first, last, count.value)})]

    return FieldInput([slider, count], read)


def start(study: str, store: RunStore, *, retry: bool = False) -> None:
    """Run the sweep's study file in a process that outlives the kernel, with its output in sweep.log.

    retry: failed runs are executed again. InputError if the process is running already.
    """
    if find(study, store):
        raise InputError(f"a sweep of {study!r} is running already; stop it first")
    environment = {**os.environ, "MIXKIT_RUNS": str(store.root)}
    options: dict[str, Any] = {"cwd": CLONE, "env": environment, "stdin": subprocess.DEVNULL, "start_new_session": True}
    with open(store.root / study / "sweep.log", "w", encoding="utf-8") as log:
        command = [sys.executable, *_command(study, store), *["--retry"] * retry]
        _children.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options))


def find(study: str, store: RunStore) -> psutil.Process | None:
    """The process of this machine that runs the sweep, by its command line."""
    _children[:] = [child for child in _children if child.poll() is None]  # removes ended ones from the process table
    command = _command(study, store)
    running = psutil.process_iter(["cmdline"])
    return next((one for one in running if (one.info["cmdline"] or [])[1 : len(command) + 1] == command), None)


def _command(study: str, store: RunStore) -> list[str]:
    return ["-m", "mixkit", "study", str(store.root / study / SWEEP_FILE), "--name", study]


class Snapshot(NamedTuple):
    """The state of a study. running: on this machine. message: last line of its log. resumable: it has a study file."""

    running: bool
    message: str
    resumable: bool
    study: Study | None = None
    states: Sequence[RunState] = ()
    histories: Mapping[str, list[dict[str, float]]] = {}  # by run name, the lines of its training.jsonl so far
    done: Sequence[RunRecord] = ()


class SweepPanel(widgets.VBox):
    """The widgets and their callbacks, which only plan, start and stop; `show` alone sets what is seen of the study.

    The reason: JupyterLab runs callbacks on another thread than the event loop's.
    """

    def __init__(self, config: SweepConfig, store: RunStore):
        self.store, self.form = store, SweepForm(config)
        self.plan, self.error, self.progress, self.numbers = (widgets.HTML() for _ in range(4))
        self.curves, self.picture = widgets.Output(), widgets.VBox()
        self.run = widgets.Button(description="Run", icon="play", button_style="primary")
        self.stop = widgets.Button(description="Stop", icon="stop")
        self.resume = widgets.Button(description="Resume", icon="repeat")
        self.running = self.running_here = self.resumable = self.valid = False
        self.wake: Callable[[], object] = lambda: None  # replaced by `follow`
        self.task: asyncio.Task | None = None
        self._shown: dict[str, object] = {}
        self._inputs: object = None  # that `preview` has found
        observe(self.form.widgets, self.preview)
        self.form.inputs["study"].widgets[0].observe(lambda change: self.wake(), "value")
        self.run.on_click(lambda button: self.begin())
        self.resume.on_click(lambda button: self.begin(resume=True))
        self.stop.on_click(lambda button: self.terminate())
        buttons = widgets.HBox([self.run, self.stop, self.resume])
        study = [self.error, self.progress, self.curves, self.picture, self.numbers]
        super().__init__([self.form.box, self.plan, buttons, *study])

    @property
    def name(self) -> str:
        return self.form.inputs["study"].value()

    def preview(self) -> None:
        """Show what Run would do, or in red why it cannot."""
        try:
            study, workers = load_sweep(self.form.config()), local_workers()
            now = states(study, self.store)
            done = [state.seconds for state in now if state.status == "done"]
            left = time_left(done, len(study.runs) - len(done), workers)
            inputs = {str(run.config.model_dump(include=INPUTS)) for run in study.runs}
            if inputs != self._inputs:
                preflight([state.run for state in now if state.status != "done"], self.store)
                self._inputs = inputs
            file = self.store.root / study.name / SWEEP_FILE
            self.plan.value, self.valid = MACROS.plan(study, len(done), workers, left, file), True
        except InputError as error:
            self.plan.value, self.valid = MACROS.error(error), False
        self._enable()

    def begin(self, *, resume: bool = False) -> None:
        """Start the sweep with the form's settings. resume: with the settings of last time, failed runs included."""
        try:
            if not resume and find(self.name, self.store) is None:  # else `start` refuses
                write_sweep(self.form.config(), self.store)
            start(self.name, self.store, retry=resume)
            self.running = self.running_here = True
        except (InputError, OSError) as error:
            self.plan.value = MACROS.error(error)
        self._enable()
        self.wake()

    def terminate(self) -> None:
        """Send SIGTERM to the study's process; it then ends its runs. Not SIGINT: a kernel's children ignore that."""
        if process := find(self.name, self.store):
            process.terminate()

    async def follow(self) -> None:
        """Show the study every second while it runs, every three seconds otherwise, and at once after `wake`."""
        woken, loop = asyncio.Event(), asyncio.get_running_loop()
        self.wake = lambda: loop.call_soon_threadsafe(woken.set)
        while True:
            try:
                self.show(await asyncio.to_thread(self.snapshot))
            except Exception as error:  # nobody would see a task's exception
                self.error.value = MACROS.error(f"{type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), 1 if self.running else 3)
            woken.clear()

    def snapshot(self) -> Snapshot:
        """The state of the study. Sets no widget, so it may run on any thread."""
        name, store, folder = self.name, self.store, self.store.root / self.name
        log = folder / "sweep.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().split("\n") if log.is_file() else [""]
        process = (find(name, store) is not None, lines[-1].strip(), (folder / SWEEP_FILE).is_file())
        reading = store.for_reading(name)
        if not name or not (reading.root / name / "study.yaml").is_file():
            return Snapshot(*process)
        study = read_study(name, store)
        files = {run.name: folder / run.name / "training.jsonl" for run in study.runs}
        texts = {run: file.read_text(encoding="utf-8") for run, file in files.items() if file.is_file()}
        histories = {run: [json.loads(line) for line in text.splitlines()] for run, text in texts.items()}
        return Snapshot(*process, study, states(study, reading), histories, records(study, store))

    def show(self, now: Snapshot) -> None:
        """Show progress, curves, frontier and table. What has not changed is not drawn again."""
        finished = bool(now.states) and all(state.status == "done" for state in now.states)
        self.running = now.running or any(state.status == "running" for state in now.states)
        self.running_here, self.resumable = now.running, now.resumable and not finished
        self._enable()
        failed = not self.running and not finished and FAILURE.match(now.message)
        self.error.value = MACROS.error(now.message) if failed else ""
        self.progress.value = MACROS.styled(MACROS.progress(now, self.store.root / self.name / "report.html"))
        lengths = {name: len(lines) for name, lines in now.histories.items() if lines}
        if self._changed("curves", lengths):
            fill(self.curves, *[training_curves(now.study.runs, now.histories)] if now.study and lengths else [])
        if self._changed("done", [(record.name, record.began) for record in now.done]):
            frame = results_frame(now.done)
            menus: Any = [menu for panel in self.picture.children for menu in panel.children[0].children]
            axes = [menu.value for menu in menus] or default_axes(frame)
            self.picture.children = [choose_axes(frame, *axes)] if measured_metrics(frame) else []
            self.numbers.value = MACROS.styled(results_html(frame)) if now.done else ""
            self.preview()

    def _changed(self, part: str, now: object) -> bool:
        before, self._shown[part] = self._shown.get(part), now
        return before != now

    def _enable(self) -> None:
        self.run.disabled = self.running or not self.valid
        self.stop.disabled = not self.running_here  # processes of other machines are stopped there
        self.resume.disabled = self.running or not self.resumable
