"""ipywidgets panels around figures and samples; headless (papermill) they show the same once, from the parameters.
Core widgets of ipywidgets 7.7 and 8 only; figures are drawn into an Output."""

import html
import sys
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import plotly.graph_objects as go
import plotly.io as pio
import torch
from IPython.display import display

from mixkit.sampling import Prompt

# The default renderer of plotly would write its 5 MB of JavaScript into every notebook.
pio.renderers.default = "colab" if "google.colab" in sys.modules else "plotly_mimetype"


def device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The GPU's name, or how many threads of the CPU are used."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def show_samples(prompts: Sequence[Prompt], sets: Sequence[Sequence[str]]) -> widgets.VBox:
    """A slider over prompts: the prompt, the human's continuation, and one of each sample set."""
    slider = widgets.IntSlider(0, 0, len(prompts) - 1, description="prompt", continuous_update=False)
    view = widgets.HTML()

    def draw(change=None) -> None:
        prompt = prompts[slider.value]
        rows = [("human", prompt.human), *((f"set {i}", texts[slider.value]) for i, texts in enumerate(sets))]
        view.value = "".join(
            f"<p><b>{who}</b><br><span style='color:#777'>{html.escape(prompt.text)}</span>{html.escape(text)}</p>"
            for who, text in rows
        )

    slider.observe(draw, "value")
    draw()
    return widgets.VBox([slider, view])


def choose_axes(draw: Callable[[str, str], go.Figure], records: Sequence[dict], quality: str, diversity: str):
    """Two menus over the metrics that the records have; the figure is drawn again at each choice."""
    names = sorted({m for r in records for m, e in r["metrics"].items() if e["value"] is not None})
    menus = [
        widgets.Dropdown(options=names, value=value if value in names else names[0], description=text)
        for text, value in (("up", quality), ("right", diversity))
    ]
    output = widgets.Output()

    def redraw(change=None) -> None:
        output.clear_output(wait=True)
        with output:
            display(draw(*(menu.value for menu in menus)))

    for menu in menus:
        menu.observe(redraw, "value")
    redraw()
    return widgets.VBox([widgets.HBox(menus), output])


def explore(draw: Callable[..., go.Figure], **inputs: widgets.ValueWidget) -> widgets.VBox:
    """The widgets in a row and under them draw(**their values), drawn again whenever one changes."""
    output = widgets.Output()

    def redraw(change=None) -> None:
        with output:
            figure = draw(**{name: widget.value for name, widget in inputs.items()})
            output.clear_output(wait=True)
            display(figure)

    for widget in inputs.values():
        widget.observe(redraw, "value")
    redraw()
    return widgets.VBox([widgets.HBox(list(inputs.values())), output])


def check_answer(answer: object, truth: Callable[[], object], hint: str) -> None:
    """Says whether an exercise's answer is right; the truth is computed, not stored. None shows the hint only."""
    if answer is None:
        print(f"Set `answer`. Hint: {hint}.")
        return
    right = truth()
    if isinstance(right, float) and isinstance(answer, int | float):
        correct = abs(answer - right) <= 1e-3 * max(1.0, abs(right))
    else:
        correct = answer == right
    print("Right." if correct else f"Not yet. Hint: {hint}.")
