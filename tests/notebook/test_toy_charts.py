"""Figures of weights, Gaussians, transitions and the bigram trade-off."""

import re

import pandas as pd
import pytest
import torch

from mixkit import MLE, MixCE, TaiLr
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


def test_tradeoff_has_a_curve_per_objective_and_the_published_points():
    row = {"objective": "mixce", "estimator": "", "gamma": None, "avg_js": 0.1, "avg_js_std": 0.01, "avg_0s_std": None}
    rows = [row | {"eta": 0.0, "avg_0s": 1.6}, row | {"eta": 0.5, "avg_0s": 1.4}]
    rows.append(row | {"objective": "mle", "eta": None, "avg_0s": None})  # nothing is forbidden
    figures = {"avg_js": 1e-3, "avg_0s": 1e-4}
    published = pd.DataFrame([{"objective": "mle", **figures}, {"objective": "mixce*", "eta": 0.5, **figures}])
    curve, points = toy_charts.bigram_tradeoff(pd.DataFrame(rows), published, chosen=0.5).data
    assert list(curve.y) == pytest.approx([1.6, 1.4]) and list(curve.marker.size) == [8, 16]
    assert list(points.hovertext) == ["MLE", "MixCE* 0.5"]
