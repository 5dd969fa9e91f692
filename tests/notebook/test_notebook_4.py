"""The figures and widgets of notebook 4."""

import html

import pytest
import torch

from mixkit.metrics.statistics import Estimate
from mixkit.models.backspace import prefix_tree
from mixkit.models.generation import Continuation
from mixkit.notebook import widgets as controls
from mixkit.notebook.toy_charts import accuracies, tree_and_mask
from mixkit.toys.mdp import build_world, policy_and_value


def errors(output) -> list[str]:
    return [o["ename"] for o in output.outputs if o["output_type"] == "error"]


def test_the_tree_follows_the_line():
    panel = controls.edit_actions("the cat sat < ran")
    (line,), output = panel.children[0].children, panel.children[2]
    assert not errors(output)
    line.value = "a b < < c <script>"
    line.value = "< a"  # nothing to take back: said, not raised
    assert not errors(output)


def test_the_mask_and_the_tree_of_a_sequence():
    words = ["<", "start", "x1", "x2", "n", "x3"]
    figure = tree_and_mask(prefix_tree(torch.tensor([[1, 2, 3, 4, 0, 5]]), 0), words.__getitem__)
    (mask,) = figure.select_traces({"type": "heatmap"})
    causal = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    assert [list(row) for row in mask.z] == causal
    kept, taken = (trace for trace in figure.data if trace.name is not None)
    assert list(kept.x) == [0, 1, 2, 3] and list(taken.x) == [3]  # n and x3 share a position
    assert set(kept.y) == {0} and taken.y[0] < 0


@pytest.mark.slow
def test_the_occupancies_follow_the_sliders():
    world = build_world(1, 1)
    taste = torch.randn(world.allowed.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    panel = controls.match_occupancies(world, policy_and_value(world, taste)[0], 0.1, 0.5)
    sliders, _, output = panel.children
    for slider, value in zip(sliders.children, (1.0, 0.75), strict=True):
        slider.value = value
    assert not errors(output)
    assert world.state_name(0) == "∅" and world.state_name(len(world.texts) - 1) == "a∎"


@pytest.mark.parametrize(("alpha", "discount"), [(1e-3, 0.99), (250.0, 0.1), (3.3e-7, 0.998)])
def test_the_sliders_hold_the_values_given(alpha, discount):
    world = build_world(1, 1)
    policy = policy_and_value(world, torch.zeros(world.allowed.shape, dtype=torch.float64))[0]
    sliders = controls.match_occupancies(world, policy, alpha, discount).children[0].children
    assert [slider.value for slider in sliders] == [alpha, discount]


def test_what_was_written_is_shown_as_text():
    shown = controls.show_continuations(["1+1="], [Continuation("2", 1, (("<u>", False), ("2", True)))]).value
    assert f"<s>{html.escape('<u>')}</s>2" in shown and "<u>" not in shown


def test_accuracies_have_one_bar_per_objective():
    figure = accuracies({"mle": Estimate(0.5, 0.4, 0.6), "sequencematch": Estimate(0.7, 0.5, 0.8)})
    (bars,) = figure.data
    assert bars.x == ("MLE", "SequenceMatch") and bars.error_y.array == pytest.approx([0.1, 0.1])
