"""ipywidgets around figures, tables and samples. Without a browser they show their first state."""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from math import ceil, floor, log10
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import torch

from mixkit._common import InputError, unknown, visible
from mixkit.losses.sequence_match import SequenceMatch
from mixkit.metrics.definitions import definition
from mixkit.models.backspace import apply_backspaces, prefix_tree
from mixkit.models.generation import Continuation, Prompt
from mixkit.notebook import tables
from mixkit.notebook.charts import frontier, measured_metrics
from mixkit.notebook.labels import metric_label
from mixkit.notebook.tables import SampleCard, Samples
from mixkit.notebook.toy_charts import occupancies, tree_and_mask
from mixkit.studies.store import RunRecord
from mixkit.toys.mdp import World, fit, occupancy, policy_and_value, total_variation

# plotly's default renderer would write its 5 MB of JavaScript into every notebook.
pio.renderers.default = "colab" if "google.colab" in sys.modules else "plotly_mimetype"


def fill(output: widgets.Output, *contents: go.Figure | str) -> None:
    """Replace the contents of an Output by figures and texts."""
    # `with output` would redirect the kernel's messages; headless runs (nbclient) then sometimes wait forever.
    output.outputs = tuple(
        {"output_type": "stream", "name": "stdout", "text": f"{visible(content)}\n"}
        if isinstance(content, str)
        else {"output_type": "display_data", "data": content._repr_mimebundle_(), "metadata": {}}
        for content in contents
    )


def observe(inputs: Iterable[Any], callback: Callable[[], object]) -> None:
    """Call back at once, and whenever the value of a widget changes."""
    for widget in inputs:
        widget.observe(lambda change: callback(), "value")
    callback()


def explore(draw: Callable[..., go.Figure | tuple[go.Figure, str]], **inputs: Any) -> widgets.VBox:
    """The widgets in a row, and below them draw(**their values), which is drawn again at each change.

    draw: returns a figure, or a figure and a text. All figures must have the same height, and state it.
    """
    output = widgets.Output()
    output.add_class("mixkit-figure")

    def redraw() -> None:
        contents = draw(**{name: widget.value for name, widget in inputs.items()})
        figure, *texts = contents if isinstance(contents, tuple) else (contents,)
        output.layout.min_height = f"{figure.layout.height}px"
        fill(output, figure, *texts)

    for widget in inputs.values():
        widget.style.description_width = "initial"
        widget.layout.margin = "2px 16px 2px 2px"
    observe(inputs.values(), redraw)
    style = widgets.HTML(tables.MACROS.styled(""), layout={"display": "none"})
    return widgets.VBox([widgets.HBox(list(inputs.values())), style, output])


def choose_axes(frame: pd.DataFrame, quality: str, diversity: str) -> widgets.VBox:
    """The frontier of results(study), and two menus of its metrics for the axes."""
    names = measured_metrics(frame) or [quality, diversity]
    titles = [(" · ".join(filter(None, (metric_label(name), definition(name).kind))), name) for name in names]
    up, right = (name if name in names else names[0] for name in (quality, diversity))
    up_menu = widgets.Dropdown(options=titles, value=up, description="up")
    right_menu = widgets.Dropdown(options=titles, value=right, description="right")
    return explore(partial(frontier, frame), quality=up_menu, diversity=right_menu)


def check_metrics(frame: pd.DataFrame, *names: str) -> None:
    """Raise InputError unless the frame has runs, and each name is one of their metrics, with or without a value."""
    if frame.empty:
        raise InputError("no run of the study is done yet; run it, or wait")
    known = sorted(set(frame["metric"]))
    for name in names:
        if name not in known:
            raise unknown("metric", name, known)


def sortable_table(frame: pd.DataFrame, name: str) -> widgets.VBox:
    """The table of results(study) with a menu to sort it, highest first, and a link to all numbers as <name>.csv."""
    options = [("the study's order", ""), *((metric_label(metric), metric) for metric in tables.columns(frame))]
    menu = widgets.Dropdown(options=options, description="sort by")
    view = widgets.HTML()
    link = tables.MACROS.csv_link(name, tables.results_csv(frame))

    def redraw() -> None:
        chosen = frame.loc[frame["metric"] == menu.value].set_index("run")["value"].astype(float)
        ordered = frame.sort_values("run", key=lambda runs: runs.map(chosen), ascending=False, kind="stable")
        view.value = tables.MACROS.styled(tables.results_html(ordered) + link)

    observe([menu], redraw)
    return widgets.VBox([menu, view])


def show_samples(prompts: Sequence[Prompt], sets: Sequence[Sequence[str]]) -> widgets.VBox:
    """A slider over prompts: the human continuation, and one continuation of each sample set."""

    def cards(i: int) -> list[SampleCard]:
        texts = [("human", prompts[i].human), *((f"set {n}", texts[i]) for n, texts in enumerate(sets))]
        return [SampleCard(title, prompts[i].text, [(text, True)]) for title, text in texts]

    return _browse(len(prompts), cards)


def show_continuations(prompts: Sequence[str], continuations: Sequence[Continuation]) -> widgets.HTML:
    """Prompts and their continuations; what the model deleted is struck through."""
    pairs = zip(prompts, continuations, strict=True)
    cards = [SampleCard("", prompt, continuation.segments, "sequencematch") for prompt, continuation in pairs]
    return widgets.HTML(tables.MACROS.styled(tables.MACROS.cards(cards)))


def compare_samples(done: Sequence[RunRecord], samples: Samples) -> widgets.VBox:
    """The continuations of one prompt side by side: human, and each run or the one in the menu."""
    sets = tables.first_sets(done, samples)
    if not sets:
        return widgets.VBox([widgets.HTML("<p>No run has samples.</p>")])
    options = [("every trained run", ""), *((record.label, record.name) for record, _ in sets)]
    menu = widgets.Dropdown(options=options, description="run")

    def cards(i: int) -> list[SampleCard]:
        human, *others = tables.prompt_cards(sets, i)
        chosen = [card for card in others if card.run == menu.value or (not menu.value and card.role != "decoding")]
        return [human, *chosen]

    return _browse(min(len(texts) for _, texts in sets), cards, menu)


def edit_actions(actions: str) -> widgets.VBox:
    """A line to edit, with words and `<` for <backspace>; below it the tree of visited prefixes and its mask."""

    def draw(actions: str) -> tuple[go.Figure, str]:
        words = actions.split()
        vocabulary = ["<", "start", *sorted(set(words) - {"<", "start"})]
        ids = [1, *map(vocabulary.index, words)]
        try:
            tree = prefix_tree(torch.tensor([ids]), 0)
        except InputError as error:
            return go.Figure(layout={"height": 360}), str(error)
        remaining = " ".join(vocabulary[i] for i in apply_backspaces(ids[1:], 0)[0])
        text = f"{len(words)} actions, {len(tree.tokens[0])} nodes; remaining text: {remaining}"
        return tree_and_mask(tree, lambda i: escape(visible(vocabulary[i]))), text

    line = widgets.Text(actions, description="actions", continuous_update=False, layout={"width": "95%"})
    return explore(draw, actions=line)


def match_occupancies(world: World, policy: torch.Tensor, alpha: float, discount: float) -> widgets.VBox:
    """Sliders for alpha and the discount; at each change SequenceMatch's table is fitted anew, exactly."""
    names = [f"{world.state_name(state)} → {world.action_name(a)}" for state, a in world.allowed.nonzero().tolist()]

    def draw(alpha: float, discount: float) -> tuple[go.Figure, str]:
        objective = SequenceMatch(alpha, discount)
        data = occupancy(world, policy, discount)
        model = occupancy(world, policy_and_value(world, fit(world, objective, data))[0], discount)
        figure = occupancies(names, data[world.allowed].tolist(), model[world.allowed].tolist())
        return figure, f"total variation between the two: {total_variation(data, model):.4f}"

    # The ranges include the given values: a slider would clamp a value outside without a message.
    ends = {"min": min(-2, floor(log10(alpha))), "max": max(1, ceil(log10(alpha)))}
    log_slider = widgets.FloatLogSlider(alpha, **ends, step=0.25, description="alpha", continuous_update=False)
    ends = {"min": min(0.5, discount), "max": max(0.95, discount), "readout_format": ".3g"}
    slider = widgets.FloatSlider(discount, **ends, step=0.05, description="discount", continuous_update=False)
    return explore(draw, alpha=log_slider, discount=slider)


def _browse(count: int, cards: Callable[[int], list[SampleCard]], *menus: widgets.ValueWidget) -> widgets.VBox:
    """A slider over `count` prompts, menus, and the cards of the chosen prompt."""
    slider: Any = widgets.IntSlider(0, 0, count - 1, description="prompt", continuous_update=False)
    view = widgets.HTML()

    def redraw() -> None:
        view.value = tables.MACROS.styled(tables.MACROS.cards(cards(slider.value)))

    observe([slider, *menus], redraw)
    return widgets.VBox([widgets.HBox([slider, *menus]), view])
