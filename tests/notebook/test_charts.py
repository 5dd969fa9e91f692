"""Figures: what they show of a results frame and of training curves."""

import pandas as pd
import pytest

from mixkit.notebook import charts
from mixkit.notebook.charts import search
from mixkit.studies.config import RunConfig
from mixkit.studies.plan import PlannedRun
from mixkit.studies.records import results_frame
from mixkit.studies.tune import Tuning
from tests.notebook.builders import DONE, FRAME, metric, record

RING = "no run is better on both axes"


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def frontier(runs, *axes):
    return traces(charts.frontier(results_frame(runs), *axes))


def test_the_frontier_has_curves_rings_and_the_human_band():
    figure = charts.frontier(FRAME, "mauve", "diversity")
    named = traces(figure)
    temperature, top_p = named["MLE, only its temperature changed"], named["MLE, only its top-p changed"]
    assert temperature.x == (0.4, 0.6, 0.8) and temperature.line.dash == "dot"
    assert top_p.y == (0.6, 0.5) and top_p.line.dash == "dashdot"
    assert set(named[RING].x) == {0.8, 0.7, 0.4}
    mixce = named["MixCE"]
    assert mixce.customdata == ("mixce",) and mixce.error_y.array == pytest.approx((0.02,))
    assert mixce.hovertext == (
        "<b>MixCE η=0.1</b><br>MAUVE 0.8 [0.78, 0.82]<br>diversity 0.7 [0.68, 0.72]<br>perplexity 9 [8.5, 9.5]",
    )
    assert set(named["MLE, other decoding"].customdata) == {"cold", "cool", "p9"}
    assert named["human texts"].x == (0.8,) and named["human texts"].y == (0.9,)
    (band,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (band.y0, band.y1) == pytest.approx((0.88, 0.92))
    assert "base" not in str(figure.to_json())


def test_each_objective_has_its_colour_and_symbol():
    named = traces(charts.frontier(FRAME, "mauve", "diversity"))
    for label, objective in (("MLE", "mle"), ("MixCE", "mixce"), ("TaiLr", "tailr")):
        assert named[label].marker.color == charts.COLORS[objective]
        assert named[label].marker.symbol == charts.LOOKS[objective][1]
    colors, symbols = zip(*charts.LOOKS.values(), strict=True)
    assert len(set(colors)) == len(set(symbols)) == len(charts.LOOKS)


def test_two_seeds_have_two_curves_and_one_legend_entry():
    again = [
        run.model_copy(update={"name": f"{run.name}-1", "config": run.config.model_copy(update={"seed": 1})})
        for run in DONE
    ]
    figure = charts.frontier(results_frame([*DONE, *again]), "mauve", "diversity")
    curves = [trace for trace in figure.data if trace.name == "MLE, only its temperature changed"]
    assert [curve.showlegend for curve in curves] == [True, False] and curves[0].x == curves[1].x


def test_a_label_covers_neither_a_marker_nor_another_label():
    crowd = [
        record("a", 0.0, 0.0),
        record(
            "b",
            0.04,
            0.02,
            objective="mixce",
            eta=0.1,
            metrics={"mauve": metric(0.03, 0), "diversity": metric(0.02, 0)},
        ),
        record("c", 1.0, 1.0, objective="tailr", gamma=0.1),
    ]
    named = frontier(crowd, "mauve", "diversity")
    (left,), (right,) = named["MLE"].textposition, named["MixCE"].textposition
    assert left != "top right" and right.endswith("right")


def test_places_of_labels_take_in_the_intervals_and_the_label_of_the_human_line():
    wide = [record(name, 0.5, y, metrics={"mauve": metric(y, 0.4)}) for name, y in (("a", 0.5), ("b", 0.52))]
    named = frontier([*wide, record("c", 0.0, 0.5, objective="mixce")], "mauve", "diversity")
    first, second = named["MLE"].textposition
    assert first == "top right" != second
    low = [record("a", 0.1, 0.8656), record("b", 0.5, 0.5, objective="mixce")]  # 25 pixels below the line, see PLOT
    assert frontier(low, "mauve", "diversity")["MLE"].textposition == ("bottom right",)


def test_lower_perplexity_is_better_for_the_rings():
    worse = [record("a", 0.5, 0.5), record("b", 0.6, 0.5, metrics={"perplexity": metric(12.0)})]
    assert set(frontier(worse, "perplexity", "diversity")[RING].x) == {0.5, 0.6}
    better = [record("a", 0.5, 0.5), record("b", 0.6, 0.5, metrics={"perplexity": metric(7.0)})]
    assert frontier(better, "perplexity", "diversity")[RING].x == (0.6,)


def test_no_ring_for_more_diversity_than_humans_have():
    runs = [record("wild", 0.95, 0.4), record("good", 0.85, 0.8)]  # humans: 0.8
    assert frontier(runs, "mauve", "diversity")[RING].x == (0.85,)


def test_no_ring_where_neither_direction_is_better():
    runs = [
        record("a", 0.5, 0.5, metrics={"grammar_nll": metric(12.0), "forward_ce": metric(12.0)}),
        record("b", 0.6, 0.5, metrics={"grammar_nll": metric(9.0), "forward_ce": metric(9.0)}),
    ]
    assert frontier(runs, "forward_ce", "diversity")[RING].y == (9.0,)
    assert RING not in frontier(runs, "grammar_nll", "diversity")
    assert list(frontier(runs, "mauve", "grammar_nll")) == ["MLE"]


def test_a_run_without_one_of_the_metrics_is_left_out():
    runs = [
        record("a", 0.5, 0.5),
        record("b", 0.6, 0.5, metrics={"mauve": metric(0.7).model_copy(update={"value": None})}),
    ]
    assert frontier(runs, "mauve", "diversity")["MLE"].customdata == ("a",)
    assert not charts.frontier(results_frame([]), "mauve", "diversity").data


def test_greedy_decoding_does_not_crowd_the_others():
    runs = [record("mle", 0.9, 0.6), record("cool", 0.8, 0.7, role="decoding", temperature=0.8)]
    assert charts.frontier(results_frame(runs), "mauve", "diversity").layout.xaxis.range is None
    runs.append(record("greedy", 0.1, 0.5, role="decoding", temperature=0.0))
    figure = charts.frontier(results_frame(runs), "mauve", "diversity")
    assert figure.layout.xaxis.range == pytest.approx((0.79, 0.91))  # a tenth of the span on both sides
    assert "greedy: 0.1" in [note.text for note in figure.layout.annotations]
    assert 0.1 in [x for trace in figure.data for x in trace.x]  # a double click shows it


def test_each_seed_has_its_own_curve_against_the_coefficient():
    runs = [
        record(f"{objective}{eta}{seed}", 0.5, 0.5 + eta / 10 + seed / 5, objective=objective, eta=eta, seed=seed)
        for seed in (1, 0)
        for objective, eta in (("mle", 0.5), ("mixce", 0.9), ("mixce", 0.1))
    ]
    figure = charts.against_coefficient(results_frame(runs), "mauve")
    assert [(trace.showlegend, trace.y) for trace in figure.data] == [(True, (0.51, 0.59)), (False, (0.71, 0.79))]
    assert figure.data[0].x == ("η=0.1", "η=0.9")
    assert [line.y0 for line in figure.layout.shapes] == [0.75, 0.55]
    assert [note.text for note in figure.layout.annotations] == ["MLE 0.75, 0.55"]


def test_parallel_coordinates_have_the_metrics_of_all_runs():
    lines = charts.parallel_coordinates(FRAME).data
    assert [line.name for line in lines] == ["MLE", "MixCE", "TaiLr", *["MLE, other decoding"] * 3]
    assert [line.showlegend for line in lines] == [True] * 4 + [False] * 2
    mle, mixce = lines[:2]
    labels = [text.split("<br>")[1] for text in mle.x]
    assert labels == ["perplexity", "MAUVE", "precision", "diversity", "distinct-2"]
    assert mle.x[1] == "<b>0.85</b><br>MAUVE<br>0.5" and mle.x == mixce.x
    assert mixce.y[1] == pytest.approx((0.8 - 0.5) / (0.85 - 0.5)) and mle.y[1] == 0
    assert mixce.line.color == charts.COLORS["mixce"] and mixce.hovertext[1] == "MixCE η=0.1<br>MAUVE 0.8"
    assert not charts.parallel_coordinates(results_frame([])).data


def test_the_better_end_of_every_axis_is_on_top():
    runs = [record("a", 0.5, 0.5), record("b", 0.6, 0.5, metrics={"perplexity": metric(7.0)})]
    a, b = charts.parallel_coordinates(results_frame(runs)).data
    assert (a.y[0], b.y[0]) == (0, 1) and a.x[0] == "<b>7</b><br>perplexity<br>9"


def test_the_default_axes_are_the_first_that_were_measured():
    assert charts.default_axes(FRAME) == ("mauve", "distinct_2")
    without = FRAME[~FRAME["metric"].isin(["mauve", "distinct_2"])]
    assert charts.default_axes(without) == ("precision", "diversity")
    assert charts.default_axes(results_frame([])) == ("mauve", "distinct_2")
    assert "coherence" not in charts.measured_metrics(FRAME)


def test_objectives_without_a_look_of_their_own_have_one():
    assert charts.look("mixce(0.1)") == charts.look("mixce") and charts.look("power(0.3)") == charts.look("power(0.9)")
    runs = [
        record("mle", 0.8, 0.5),
        record("power", 0.7, 0.6, objective="power(0.3)"),
        record("formula", 0.6, 0.7, objective="0.1 + 0.9 * q"),
        record("own", 0.5, 0.8, objective="own: Focal(gamma=2.0)"),
    ]
    named = frontier(runs, "mauve", "diversity")
    labels = ["MLE", "power", "w(q) = 0.1 + 0.9 * q", "Focal(gamma=2.0)"]
    assert list(named)[-5:] == [*labels, "human texts"]
    assert len({(named[label].marker.color, named[label].marker.symbol) for label in labels}) == 4
    chart = charts.against_coefficient(results_frame(runs), "mauve")
    assert [trace.x for trace in chart.data] == [("a=0.3",), (labels[2],), (labels[3],)]
    lines = charts.parallel_coordinates(results_frame(runs)).data
    assert [line.name for line in lines] == labels


def test_a_decoded_objective_has_its_colour_and_is_hollow():
    decoded = {"role": "decoding", "decode_as": "mixce"}
    runs = [*DONE, record("d1", 0.65, 0.7, eta=0.1, **decoded), record("d7", 0.75, 0.6, eta=0.7, **decoded)]
    figure = charts.frontier(results_frame(runs), "mauve", "diversity")
    points = [trace for trace in figure.data if trace.customdata == ("d1", "d7")]
    assert [(t.name, t.text) for t in points] == [("MLE decoded as MixCE", ("η=0.1", "η=0.7"))]
    assert points[0].marker.color == charts.COLORS["mixce"] and points[0].marker.symbol == "square-open"
    curve, marks = (trace for trace in figure.data if trace.name == "MLE decoded as MixCE")
    assert curve.x == (0.65, 0.75, 0.8) and curve.line.dash == "dash"  # it ends at MLE, which is eta = 1
    assert curve.line.color == charts.COLORS["mixce"] and (curve.showlegend, marks.showlegend) == (True, False)


def test_the_worth_of_a_coefficient_is_its_best_temperature():
    runs = [
        record("mle", 0.5, 0.5, metrics={"best_temperature": metric(1.0)}),
        record("mixce", 0.5, 0.5, objective="mixce", eta=0.1, metrics={"best_temperature": metric(1.3, 0.1)}),
    ]
    figure = charts.against_coefficient(results_frame(runs), "best_temperature")
    assert figure.data[0].y == (1.3,) and figure.data[0].error_y.array == pytest.approx((0.1,))
    assert figure.layout.shapes[0].y0 == 1.0 and figure.layout.title.text == "T* against the coefficient"


def test_every_chart_is_transparent_and_has_a_title():
    lines = [{"step": 1, "nll": 2.0}]
    runs = [PlannedRun("a", "grid", DONE[1].config, None)]
    frontier, coefficient = charts.frontier(FRAME), charts.against_coefficient(FRAME, "mauve")
    training = [charts.training_curve(lines), charts.training_curves(runs, {"a": lines})]
    for figure in (frontier, coefficient, charts.parallel_coordinates(FRAME), *training):
        assert figure.layout.title.text
    template = charts.pio.templates["mixkit"].layout
    assert template.paper_bgcolor == template.plot_bgcolor == "rgba(0,0,0,0)"
    for background in (1.0, 0.0056):  # luminance of white, and of JupyterLab's dark page
        for color in (charts.INK, charts.COLORS["human"]):
            light, dark = sorted((luminance(color), background), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 3.9


def luminance(color):
    """Relative luminance of #rrggbb, by WCAG 2."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_training_curve_has_the_keys_that_occur():
    lines = [{"step": 1, "loss": 3.0, "nll": 2.0}, {"step": 2, "validation_nll": 2.5}]
    named = traces(charts.training_curve(lines))
    assert named["nll (training)"].y == (2.0,) and named["nll (validation)"].x == (2,)
    assert not charts.training_curve([]).data


def test_training_curves_leave_the_base_run_out():
    config = RunConfig.check({"objective": "mixce", "eta": 0.1})
    runs = [PlannedRun(name, "base" if name == "base" else "grid", config, None) for name in ("base", "a", "b")]
    lines = [{"step": i, "nll": float(i)} for i in range(1, 121)]
    (base,) = charts.training_curves(runs, {"base": lines}).data
    assert len(base.x) == 120 and base.y[:2] == (1.0, 2.0)
    figure = charts.training_curves(runs, {"base": lines, "a": lines[:2], "b": [{"step": 3, "validation_nll": 1.0}]})
    assert [trace.y for trace in figure.data] == [(1.0, 2.0)] and figure.data[0].name == "MixCE η=0.1"
    both = charts.training_curves(runs, {"a": lines, "b": lines}).data
    assert both[0].line.color == both[1].line.color and both[0].line.dash != both[1].line.dash


def test_the_search_is_numbered_in_its_order():
    table = pd.DataFrame({"eta": [1.0, 0.03, 0.2], "value": [0.4, -0.2, 0.01], "low": -0.3, "high": 0.5})
    figure = search(Tuning("s", 0.2, table, "eta = 0.2"))
    assert list(figure.data[0].text) == ["MLE", "1", "2"] and list(figure.data[0].x) == [1.0, 0.03, 0.2]
    assert list(figure.data[0].error_y.array) == pytest.approx([0.1, 0.7, 0.49])
    table = pd.DataFrame({"gamma": [0.0, 0.003], "value": [0.4, -0.2], "low": -0.3, "high": 0.5})
    assert min(search(Tuning("s", None, table, "")).data[0].x) > 0  # else the log axis would leave MLE out
