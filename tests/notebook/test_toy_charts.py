"""Figures of weights, Gaussians, transitions and the bigram trade-off."""

import re

import pandas as pd
import torch

from mixkit import MLE, MixCE, TaiLr, objective
from mixkit.notebook import toy_charts
from mixkit.toys.bigram import MarkovChain
from mixkit.toys.gaussian import fit_gaussian


def test_curves_are_the_weights_and_the_gradients():
    figure = toy_charts.weight_curves({"MLE": MLE(), "a": MixCE(0.2), "b": TaiLr(0.1, 0.3), "c": MixCE(0.5)})
    assert [trace.name for trace in figure.data] == ["MLE", "MLE", "a", "a", "b", "b", "c", "c"]
    weight, gradient = figure.data[2:4]
    q = torch.tensor(weight.x)
    torch.testing.assert_close(torch.tensor(weight.y), 0.2 + 0.8 * q)
    torch.testing.assert_close(torch.tensor(gradient.y), (0.2 + 0.8 * q) * (1 - q))
    assert figure.data[2].line.dash != figure.data[6].line.dash


def test_heat_maps_mark_every_forbidden_transition():
    chain = MarkovChain.random(6, 0.5, 4)
    figure = toy_charts.transitions(chain, MarkovChain.random(6, 0.0, 5), "MLE")
    truth, learned = figure.data
    assert truth.x[-1] == "end" and truth.y[0] == "start"
    for shape in figure.layout.shapes:
        ends = re.findall(r"M([-\d.]+),([-\d.]+)L([-\d.]+),([-\d.]+)", shape.path)
        middles = [((float(y0) + float(y1)) / 2, (float(x0) + float(x1)) / 2) for x0, y0, x1, y1 in ends]
        marked = {(round(row), round(column)) for row, column in middles}
        assert len(ends) == 2 * len(marked) and marked == {tuple(c) for c in (chain.probs == 0).nonzero().tolist()}
    assert [shape.xref for shape in figure.layout.shapes] == ["x", "x2"]
    assert learned.customdata.shape == (6, 6) and learned.z.min() >= -6
    assert "learned by MLE" in figure.layout.annotations[1].text


def test_gaussians_are_drawn_with_their_parameters():
    figure = toy_charts.gaussian_fits({"forward KL": fit_gaussian("forward_kl"), "tv": fit_gaussian("tv")})
    assert figure.data[1].name == "forward KL: N(1.80, 1.67²)" and max(figure.data[1].y) < max(figure.data[2].y)


def test_a_point_per_coefficient_and_a_panel_per_measure():
    rows = [
        {"learner": learner, "coefficient": coefficient, "measure": measure, "value": value, "deviation": 0.1}
        for learner, coefficient, value in (("MixCE", "η=0", 1.6), ("MixCE", "η=0.5", 1.4), ("MixCE*", "η=0.5", 0.2))
        for measure in ("avg. js", "avg. 0s")
    ]
    figure = toy_charts.learners(pd.DataFrame(rows), "coefficient", "value", facet_col="measure")
    assert [title.text for title in figure.layout.annotations] == ["avg. js", "avg. 0s"]
    assert {(trace.name, tuple(trace.y)) for trace in figure.data} == {("MixCE", (1.6, 1.4)), ("MixCE*", (0.2,))}
    assert {trace.marker.symbol for trace in figure.data} == {"square", "star"}


def test_a_formula_of_the_readers_own_is_drawn_too():
    figure = toy_charts.weight_curves({"own": objective("q ** 0.5")})
    assert figure.data[0].y[-1] == 1 and figure.data[0].line.color == "#666666"
