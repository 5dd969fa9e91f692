"""ipywidgets panels around figures and samples; headless (papermill) they show the same once, from the parameters.
Core widgets of ipywidgets 7.7 and 8 only; figures are drawn into an Output."""

import sys
from collections.abc import Callable, Sequence
from math import ceil, floor, log10

import ipywidgets as widgets
import plotly.graph_objects as go
import plotly.io as pio
import torch

from mixkit._common import InputError, as_html, visible
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.models.backspace import apply_backspaces, prefix_tree
from mixkit.models.generation import Continuation, Prompt
from mixkit.notebook.toy_charts import occupancies, tree_and_mask, tree_picture
from mixkit.toys.mdp import World, fit, occupancy, policy_and_value, total_variation

# The default renderer of plotly would write its 5 MB of JavaScript into every notebook.
pio.renderers.default = "colab" if "google.colab" in sys.modules else "plotly_mimetype"


def fill(output: widgets.Output, *shown: go.Figure | str) -> None:
    """Figures and texts into an Output at once. Not by `with output`: that redirects the kernel's messages, and a
    headless run (nbclient) then now and then waits for ever for a cell that has long ended."""
    output.outputs = tuple(
        {"output_type": "stream", "name": "stdout", "text": f"{visible(x)}\n"}
        if isinstance(x, str)
        else {"output_type": "display_data", "data": x._repr_mimebundle_(), "metadata": {}}
        for x in shown
    )


def show_samples(prompts: Sequence[Prompt], sets: Sequence[Sequence[str]]) -> widgets.VBox:
    """A slider over prompts: the prompt, the human's continuation, and one of each sample set."""
    slider = widgets.IntSlider(0, 0, len(prompts) - 1, description="prompt", continuous_update=False)
    view = widgets.HTML()

    def draw(change=None) -> None:
        prompt = prompts[slider.value]
        rows = [("human", prompt.human), *((f"set {i}", texts[slider.value]) for i, texts in enumerate(sets))]
        view.value = "".join(
            f"<p style='white-space:pre-wrap'><b>{who}</b><br>"
            f"<span style='color:#777'>{as_html(prompt.text)}</span>{as_html(text)}</p>"
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
        fill(output, draw(*(menu.value for menu in menus)))

    for menu in menus:
        menu.observe(redraw, "value")
    redraw()
    return widgets.VBox([widgets.HBox(menus), output])


# In JupyterLab plotly draws each figure once more, as the PNG that a saved notebook shows: a third of the time between
# slider and chart, for a picture that is never saved out of an Output. It does not where a figure's box has no height.
UNSAVED = """<style>
.mixkit-unsaved :is(.jp-OutputArea, .jp-OutputArea-child, .jp-RenderedPlotly) { overflow: visible !important }
.mixkit-unsaved .jp-RenderedPlotly { height: 0 !important }
</style>"""


def explore(draw: Callable[..., go.Figure], **inputs: widgets.ValueWidget) -> widgets.VBox:
    """The widgets in a row and under them draw(**their values), drawn again whenever one changes.

    The figures must state their height, the same one each time.
    """
    output = widgets.Output()
    output.add_class("mixkit-unsaved")

    def asked() -> go.Figure:
        return draw(**{name: widget.value for name, widget in inputs.items()})

    for widget in inputs.values():
        widget.style.description_width, widget.layout.margin = "initial", "2px 16px 2px 2px"  # room for the whole of it
        widget.observe(lambda change: fill(output, asked()), "value")
    fill(output, first := asked())
    output.layout.min_height = f"{first.layout.height}px"
    style = widgets.HTML(UNSAVED, layout={"display": "none"})
    return widgets.VBox([widgets.HBox(list(inputs.values())), style, output])


def edit_actions(actions: str) -> widgets.VBox:
    """A line to edit, words and `<` for <backspace>; below it the tree of prefixes that they visit, and its mask."""
    line = widgets.Text(actions, description="actions", continuous_update=False, layout={"width": "95%"})
    output = widgets.Output()

    def redraw(change=None) -> None:
        words = line.value.split()
        known = ["<", "start", *sorted(set(words) - {"<", "start"})]
        ids = [1, *map(known.index, words)]
        try:
            tree = prefix_tree(torch.tensor([ids]), 0)
        except InputError as error:
            return fill(output, str(error))
        left = " ".join(apply_backspaces(words, "<")[0])
        fill(
            output,
            tree_and_mask(tree_picture(tree, 0, lambda i: as_html(known[i]))),
            f"{len(words)} actions, {len(tree.tokens[0])} nodes; left standing: {left}",
        )

    line.observe(redraw, "value")
    redraw()
    return widgets.VBox([line, output])


def match_occupancies(world: World, policy: torch.Tensor, alpha: float, discount: float) -> widgets.VBox:
    """Sliders for alpha and the discount over a world: SequenceMatch's table is fitted anew, exactly, at each move.

    Their ranges hold the values given: a slider would set one outside to its nearer end without a word.
    """
    sliders = [
        widgets.FloatLogSlider(
            alpha,
            min=min(-2, floor(log10(alpha))),
            max=max(1, ceil(log10(alpha))),
            step=0.25,
            description="alpha",
            continuous_update=False,
        ),
        widgets.FloatSlider(
            discount,
            min=min(0.5, discount),
            max=max(0.95, discount),
            step=0.05,
            readout_format=".3g",
            description="discount",
            continuous_update=False,
        ),
    ]
    names = [f"{world.state_name(state)} → {world.action_name(a)}" for state, a in world.allowed.nonzero().tolist()]
    output = widgets.Output()

    def redraw(change=None) -> None:
        asked = SequenceMatch(*(slider.value for slider in sliders))
        data = occupancy(world, policy, asked.discount)
        found = occupancy(world, policy_and_value(world, fit(world, asked, data))[0], asked.discount)
        fill(
            output,
            occupancies(names, data[world.allowed].tolist(), found[world.allowed].tolist()),
            f"total variation between the two: {total_variation(data, found):.4f}",
        )

    for slider in sliders:
        slider.observe(redraw, "value")
    redraw()
    return widgets.VBox([widgets.HBox(sliders), output])


def show_written(asked: Sequence[str], given: Sequence[Continuation]) -> widgets.HTML:
    """Prompts and what was written after them, with what was taken back struck through."""
    rows = []
    for prompt, continuation in zip(asked, given, strict=True):
        runs = [as_html(text) if stands else f"<s>{as_html(text)}</s>" for text, stands in continuation.segments]
        rows.append(f"<p style='margin:0'><span style='color:#777'>{as_html(prompt)}</span>{''.join(runs)}</p>")
    return widgets.HTML("".join(rows))


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
