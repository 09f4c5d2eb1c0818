"""Figures of the comparison of maps: what they draw, and what they refuse."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics import power
from pkd_utils.studies.maps import controls, figures, verdicts
from tests.studies.maps.conftest import map_runs


@pytest.fixture(scope="module")
def two_cohorts(tmp_path_factory):
    return map_runs(tmp_path_factory.mktemp("runs"), {}, {"cohort": "cbis_mass", "effect": 0.0})


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    asked = {"controls": {"self": 0.0, "permuted": 0.1}}, {"cohort": "cbis_mass"}
    return controls.compare_arms(map_runs(tmp_path_factory.mktemp("runs"), *asked), "attention_mean", ["iou", "fpr"])


def points(ax):
    return [line for line in ax.lines if line.get_marker() not in ("None", "", None)]


def test_every_gain_stands_beside_those_of_the_controls(arms):
    figure = figures.arm_forest(arms)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == ["IoU", "FPR"]
    iou, fpr = figure.axes
    drawn = {round(float(line.get_xdata()[0]), 9) for line in points(iou)}
    gains = arms[(arms["metric"] == "iou") & (arms["against"] == "baseline")]
    assert drawn == {round(v, 9) for v in gains["estimate"]} and len(points(iou)) == 3 + 1
    filled = [line.get_markerfacecolor() != "white" for line in points(iou)]
    assert filled == (~gains["low"].le(0) | ~gains["high"].ge(0)).tolist() and {True, False} == set(filled)
    assert len({line.get_marker() for line in points(iou)}) == 3, "arms differ in more than colour"
    assert iou.patches[0].get_x() == 0 and fpr.patches[0].get_x() < 0, "the shaded side is the better one"
    bare = figures.arm_forest(arms.assign(low=np.nan, high=np.nan, paper=0.2))
    marks = points(bare.axes[0])
    assert sum(line.get_color() == figures.PALETTE["paper"] for line in marks) == 4
    assert all(line.get_markerfacecolor() in ("white", "none") for line in marks)


def test_levels_show_reference_maps_as_lines(two_cohorts):
    levels = verdicts.levels_table(two_cohorts)
    figure = figures.map_levels(levels, "embedded")
    ax = figure.axes[0]
    upright = [line for line in ax.lines if list(line.get_ydata()) == [0, 1]]
    assert len(upright) == 5 and len({str(line._dash_pattern) for line in upright}) == 5
    assert len(points(ax)) == 4


def test_detectable_curves():
    table = power.detectable_table((5, 6), 0.05, 0.8, 200)
    figure = figures.detectable_curves(table)
    lengths = [len(line.get_xdata()) for line in figure.axes[0].lines]
    assert len(figure.axes) == 2 and lengths == [2, 2, 2]


def test_randomisation_and_threshold_curves_draw_the_mean_over_students():
    stages = {"map": "rollout", "stage": ["head", "block 0"] * 2, "rank_correlation": [1.0, 0.6, 1.0, 0.2]}
    sanity = pd.DataFrame(stages)
    figure = figures.randomisation_curves({"cascading": sanity, "independent": sanity})
    assert [ax.get_title() for ax in figure.axes] == ["cascading", "independent"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1, 0.4])
    curves = pd.DataFrame({"map": ["rollout"] * 4, "threshold": [0.1, 0.5] * 2, "iou": [0.2, 0.4, 0.4, 0.4]})
    figure = figures.threshold_curves(curves.assign(region_iou=0.5))
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.3, 0.4])
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([0.5, 0.5])


def test_students_are_dots_and_reference_maps_lines(two_cohorts):
    table = two_cohorts.per_student.query("cohort == 'embedded'")
    table = table.replace({"method": {"mmpkd": "distilled"}})
    reference = {"map": "reference: uniform", "method": "reference", "metric": "iou", "value": 0.25}
    figure = figures.student_dots(pd.concat([table, pd.DataFrame([reference])]), ["iou"])
    (ax,) = figure.axes
    assert [len(line.get_xdata()) for line in points(ax)] == [10, 10], "two maps of five seeds a method"
    assert list(ax.lines[-1].get_ydata()) == [0.25, 0.25]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["attention mean", "rollout"]


def test_cases_are_the_ends_and_the_middle():
    values = pd.Series([0.1, 0.9, 0.5, 0.5, np.nan], ["a", "b", "d", "c", "e"])
    assert figures.choose_cases(values) == {"best": "b", "median": "d", "worst": "a"}
    with pytest.raises(DataError, match="2 images have a pixel-wise AUROC; best, median and worst need three"):
        figures.choose_cases(values[:2])


def test_gallery():
    cases = {"best": "a", "worst": "b"}
    images = dict.fromkeys("ab", np.zeros((16, 16), np.uint8))
    boxes = dict.fromkeys("ab", np.array([[2.0, 2, 8, 8]]))
    maps = {m: dict.fromkeys("ab", np.eye(4)) for m in ("baseline", "mmpkd")}
    values = {"baseline": {"a": 0.5, "b": 0.25}, "mmpkd": {"a": 0.75, "b": 0.125}}
    figure = figures.case_gallery(cases, images, boxes, maps, values)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["best, baseline 0.50", "worst, baseline 0.25", "best, distilled 0.75", "worst, distilled 0.12"]


def test_names():
    assert figures.map_label("grad_cam") == "Grad-CAM" and figures.map_label("reference: uniform") == "uniform"
    assert figures.metric_title("fpr") == "FPR (lower is better)"
