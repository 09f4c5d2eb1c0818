"""Figures of the reports study show both choices of the epoch, filled the one that is made on other patients."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.studies.figures import use_style
from pkd_utils.studies.reports.figures import READINGS, methods_by_encoder, seed_by_seed

METHODS = ("image_only", "report_distilled", "teacher")


@pytest.fixture
def scores():
    """Two encoders, two sizes, three seeds, three methods; every value another one."""
    names = {"encoder": ("rad_dino", "mrm"), "size": (100, 50), "method": METHODS, "seed": (0, 1, 2)}
    table = pd.MultiIndex.from_product(names.values(), names=names).to_frame(index=False)
    rng = np.random.default_rng(0)
    table["auc_other_half"], table["auc"] = rng.uniform(0.5, 0.7, len(table)), rng.uniform(0.7, 0.9, len(table))
    return table


def drawn(ax, filled):
    """Heights or places of the markers of one filling."""
    lines = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    return [line for line in lines if (line.get_markerfacecolor() != "white") == filled]


def test_methods_stand_side_by_side_with_both_choices_of_the_epoch(scores):
    figure = methods_by_encoder(scores, "Readmission")
    assert [ax.get_title() for ax in figure.axes] == ["50 training images", "100 training images"]
    for ax, size in zip(figure.axes, (50, 100), strict=True):
        means = scores[scores["size"] == size].groupby(["encoder", "method"])[list(READINGS)].mean()
        for column, filled in zip(READINGS, (True, False), strict=True):
            shown = [value for line in drawn(ax, filled) for value in line.get_xdata()]
            assert sorted(shown) == pytest.approx(sorted(means[column]))
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[-2:] == list(READINGS.values())


def test_numbers_below_one_panel_stay_clear_of_the_next(scores):
    wide = scores[scores["seed"] < 2].assign(encoder="simulated_masked", auc=scores["seed"].astype(float))
    use_style()
    figure = methods_by_encoder(wide, "Readmission", ["auc"])
    figure.canvas.draw()
    one, next_one = ({t.get_text(): t.get_window_extent() for t in ax.get_xticklabels()} for ax in figure.axes)
    assert next_one["0.0"].x0 - one["1.0"].x1 > 10  # pixels


@pytest.mark.parametrize("methods", [METHODS[:2], METHODS])
def test_every_seed_is_shown_at_every_size(scores, methods):
    figure = seed_by_seed(scores, "Readmission", methods)
    panels = [(encoder, size) for encoder in ("rad_dino", "mrm") for size in (50, 100)]
    for ax, (encoder, size) in zip(figure.axes, panels, strict=True):
        rows = scores[(scores["encoder"] == encoder) & (scores["size"] == size) & scores["method"].isin(methods)]
        for column, filled in zip(READINGS, (True, False), strict=True):
            shown = [value for line in drawn(ax, filled) for value in line.get_ydata()]
            assert sorted(shown) == pytest.approx(sorted(rows[column]))


def test_nested_selection_has_one_reading(scores):
    scores["auc_other_half"] = np.nan
    for figure in (methods_by_encoder(scores, "Readmission"), seed_by_seed(scores, "Readmission")):
        assert all(not drawn(ax, False) and drawn(ax, True) for ax in figure.axes)
        assert figure.legends[0].get_texts()[-1].get_text() == READINGS["auc"]
