"""The widgets around figures, tables and samples."""

import re

import ipywidgets
import pytest

from mixkit._common import InputError, visible
from mixkit.notebook import charts, widgets
from mixkit.studies.records import results_frame
from tests.notebook.builders import DONE, EVIL, FRAME, SAMPLES


def test_a_figure_is_drawn_again_when_a_widget_changes():
    slider = ipywidgets.FloatSlider(0.0)
    panel = widgets.explore(lambda x: charts.training_curve([{"step": 1, "nll": x}]), x=slider)
    output = panel.children[2]
    slider.value = 0.5
    (shown,) = output.outputs
    assert shown["data"]["application/vnd.plotly.v1+json"]["data"][0]["y"] == [0.5]
    assert output.layout.min_height == "380px"


def test_the_menus_choose_the_axes():
    panel = widgets.choose_axes(FRAME, "mauve", "?")
    up, right = panel.children[0].children
    assert up.options == (
        ("MAUVE · quality", "mauve"),
        ("precision · quality", "precision"),
        ("perplexity · quality", "perplexity"),
        ("distinct-2 · diversity", "distinct_2"),
        ("diversity · diversity", "diversity"),
    )
    assert (up.value, right.value) == ("mauve", "mauve")
    right.value = "diversity"
    (shown,) = panel.children[2].outputs
    layout = shown["data"]["application/vnd.plotly.v1+json"]["layout"]
    assert layout["title"]["text"] == "MAUVE against diversity"


def test_the_table_is_sorted_by_the_chosen_metric():
    menu, view = widgets.sortable_table(FRAME, EVIL).children

    def first_cells():
        return re.findall(r'<tr><td data-value="([^"]+)"', view.value)

    assert first_cells()[:2] == ["base (MLE)", "MLE"] and first_cells()[-1] == "human texts"
    menu.value = "mauve"
    assert first_cells()[:2] == ["MLE, temperature 0.5", "MixCE η=0.1"] and first_cells()[-1] == "human texts"
    assert "data:text/csv" in view.value and "<script" not in view.value and "<button" not in view.value


def test_a_metric_that_no_run_has_is_refused():
    widgets.check_metrics(FRAME, "mauve", "coherence")  # absent with a reason
    with pytest.raises(InputError, match=r"unknown metric 'mauv' \(did you mean 'mauve'\?\); allowed: coherence, "):
        widgets.check_metrics(FRAME, "diversity", "mauv")
    with pytest.raises(InputError, match="no run of the study is done yet"):
        widgets.check_metrics(results_frame([]), "mauve")


def test_samples_of_one_prompt_are_shown_side_by_side():
    row, view = widgets.compare_samples(DONE, SAMPLES).children
    prompt, menu = row.children
    assert re.findall(r'data-run="([^"]+)"', view.value) == ["human", "mle", "mixce", "tailr"]
    menu.value, prompt.value = "cold", 3
    assert re.findall(r'data-run="([^"]+)"', view.value) == ["human", "cold"]
    assert "Once 3" in view.value and "cold said so" in view.value
    assert "<script" not in view.value and visible(EVIL)[-5:] in view.value
    assert "No run has samples" in widgets.compare_samples(DONE, {}).children[0].value
