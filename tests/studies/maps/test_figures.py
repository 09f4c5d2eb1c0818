"""Figures of the comparison of maps: what they draw, and what they refuse."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

from pkd_utils.localization.suite import METRICS
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics import power
from pkd_utils.studies.maps import comparison, figures, verdicts
from tests.studies.maps.run_fixtures import write_map_run

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def two_cohorts(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PKD_RUNS", str(root))
        references = [write_map_run(root), write_map_run(root, "cbis_mass", effect=0.0)]
        return comparison.read_map_runs(references)


@pytest.fixture(scope="module")
def differences(two_cohorts):
    return comparison.compare_maps(two_cohorts, resamples=100)


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def points(ax):
    return [line for line in ax.lines if line.get_marker() not in ("None", "", None)]


def test_forest_has_a_panel_a_metric_and_a_mark_a_row(differences):
    figure = figures.map_forest(differences)
    assert len(figure.axes) == len(METRICS)
    assert all(len(points(ax)) == 4 for ax in figure.axes)
    iou = figure.axes[3]
    assert iou.get_title().startswith("IoU\n(higher")
    drawn = {round(float(line.get_xdata()[0]), 9) for line in points(iou)}
    assert drawn == {round(v, 9) for v in differences.loc[differences["metric"] == "iou", "estimate"]}
    assert len({line.get_marker() for line in points(iou)}) == 2, "cohorts differ in more than colour"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["attention mean", "rollout"]
    figure.canvas.draw()


def test_open_marks_hold_zero(differences):
    part = differences[differences["metric"] == "iou"]
    ax = figures.map_forest(part).axes[0]
    filled = [line.get_markerfacecolor() != "white" for line in points(ax)]
    assert filled == (~part["low"].le(0) | ~part["high"].ge(0)).tolist() and True in filled


def test_forest_without_intervals_and_its_shaded_side(differences):
    bare = differences.assign(low=np.nan, high=np.nan)
    figure = figures.map_forest(bare[bare["metric"] == "iou"])
    assert len(figure.axes) == 1 and all(line.get_markerfacecolor() == "white" for line in points(figure.axes[0]))
    by_title = {ax.get_title().split("\n")[0]: ax for ax in figures.map_forest(differences).axes}
    assert by_title["IoU"].patches[0].get_x() == 0 and by_title["FPR"].patches[0].get_x() < 0


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


def test_randomisation_and_threshold_curves_draw_the_mean_over_students(two_cohorts):
    figure = figures.randomisation_curves({"cascading": two_cohorts.sanity, "independent": two_cohorts.sanity})
    assert [ax.get_title() for ax in figure.axes] == ["cascading", "independent"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1, 0.6, 0.2])
    curves = pd.DataFrame({"map": ["rollout"] * 4, "threshold": [0.1, 0.5] * 2, "iou": [0.2, 0.4, 0.4, 0.4]})
    figure = figures.threshold_curves(curves.assign(region_iou=0.5))
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([0.3, 0.4])
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([0.5, 0.5])


def test_students_are_dots_and_reference_maps_lines(two_cohorts):
    table = two_cohorts.per_student.query("cohort == 'embedded'")
    table = table.assign(method=np.where(table["weight"] == 0, "baseline", "distilled"))
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
