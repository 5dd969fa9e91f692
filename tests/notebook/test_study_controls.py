"""Notebook 6's panels over made-up runs: what is sorted, what stands beside what, and nothing that a browser runs."""

import re

import pytest

from mixkit._common import InputError, visible
from mixkit.notebook import study_controls
from tests.notebook.test_report import DONE, EVIL, SAMPLES


def test_the_table_is_sorted_by_the_metric_that_is_chosen():
    menu, view = study_controls.numbers(DONE, EVIL).children

    def first_cells():
        return re.findall(r'<tr><td data-value="([^"]+)"', view.value)

    assert first_cells()[:2] == ["base (MLE)", "MLE"] and first_cells()[-1] == "human texts"
    menu.value = "mauve"
    assert first_cells()[:2] == ["MLE, temperature 0.5", "MixCE η=0.1"]
    assert "data:text/csv" in view.value and "<script" not in view.value and "<button" not in view.value


def test_a_metric_that_no_run_has_is_refused():
    study_controls.check_metrics(DONE, "mauve", "coherence")  # absent with a reason: the runs know it
    with pytest.raises(InputError, match=r"unknown metric 'mauv' \(did you mean 'mauve'\?\); allowed: coherence, "):
        study_controls.check_metrics(DONE, "diversity", "mauv")


def test_samples_of_one_prompt_stand_side_by_side():
    row, view = study_controls.samples(DONE, SAMPLES).children
    prompt, menu = row.children
    assert re.findall(r'data-run="([^"]+)"', view.value) == ["human", "mle", "mixce", "tailr"]
    menu.value, prompt.value = "cold", 3
    assert re.findall(r'data-run="([^"]+)"', view.value) == ["human", "cold"]
    assert "Once 3" in view.value and "cold said so" in view.value
    assert "<script" not in view.value and visible(EVIL)[-5:] in view.value
    taken = {"mle": [{**s, "segments": [["a ", True], ["b", False]]} for s in SAMPLES["mle"]]}
    assert "a <s>b</s>" in study_controls.samples(DONE[:2], taken).children[1].value
    assert "No run has samples" in study_controls.samples(DONE, {}).children[0].value
