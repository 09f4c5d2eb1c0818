"""The shared figures draw what they are given, in the colour and line style of its role, or refuse it."""

import colorsys

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from pkd_utils.runs.showing import simulated_mark
from pkd_utils.studies import figures
from tests.studies.legible import touching


def texts(figure):
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return [t.get_text() for t in found if t.get_text()]


IMAGE = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)


def test_style_is_okabe_ito_on_white_and_boxes_differ_in_colour_and_line():
    figures.use_style()
    colours = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert set(colours) == set(figures.OKABE_ITO.values()) >= set(figures.PALETTE.values())
    assert matplotlib.rcParams["figure.facecolor"] == "white" and matplotlib.rcParams["figure.dpi"] <= 100
    reference, predicted = figures.PALETTE["reference"], figures.PALETTE["predicted"]
    assert reference != predicted and figures.BOX_STYLES["reference"] != figures.BOX_STYLES["predicted"]
    hues = [colorsys.rgb_to_hsv(*to_rgb(c))[0] * 360 for c in (reference, predicted)]
    assert not any(80 < hue < 180 for hue in hues)  # no green in the pair


def test_grid_draws_every_image_title_and_box():
    figure = figures.show_radiograph_grid(
        [IMAGE] * 5,
        titles=[f"case {i}" for i in range(5)],
        reference=[np.array([[2, 3, 10, 12], [11, 3, 15, 12]]), *[np.empty((0, 4))] * 4],
        predicted=[np.empty((0, 4)), np.array([[0, 0, 30, 20]]), *[np.empty((0, 4))] * 3],
        columns=2,
    )
    assert len(figure.axes) == 5
    assert [len(ax.patches) for ax in figure.axes] == [2, 1, 0, 0, 0]
    box = figure.axes[0].patches[0]
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (1.5, 2.5, 8, 9)
    assert {"case 0", "case 4", "reference box", "predicted box"} <= set(texts(figure))


def test_maps_are_stretched_over_their_image_and_uint8_images_share_one_grey_scale():
    figure = figures.show_radiograph_grid([IMAGE], ["one"], maps=[np.array([[0.0, 1.0]])])
    grey, layer = figure.axes[0].images
    assert layer.get_extent() == [-0.5, 29.5, 19.5, -0.5] and layer.get_alpha() < 1
    assert layer.get_cmap().name == figures.ATTENTION_MAP
    assert layer.get_clim() == (0, 1) and grey.get_clim() == (0, 255)


def test_learning_curves_mean_over_seeds_in_role_colour():
    history = pd.DataFrame({"epoch": [0, 1, 0, 1], "seed": [0, 0, 1, 1], "val_auroc": [0.5, 0.6, 0.7, 0.8]})
    figure = figures.learning_curves({"baseline": history, "mmpkd": history.assign(val_auroc=0.9)})
    (ax,) = figure.axes
    assert len(ax.lines) == 6  # two seeds and a mean, twice
    mean = next(line for line in ax.lines if line.get_label() == "baseline")
    np.testing.assert_allclose(mean.get_ydata(), [0.6, 0.7])
    assert mean.get_color() == figures.PALETTE["baseline"]
    assert ax.get_ylabel() == "val AUROC"
    history = pd.DataFrame({"epoch": [0], "loss": [1.0], "val_auroc": [0.5]})
    assert [ax.get_ylabel() for ax in figures.learning_curves({"teacher": history}).axes] == ["loss", "val AUROC"]


def test_learning_curves_of_many_methods_keep_their_legend_off_the_lines_and_count_whole_epochs():
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "validation_auc": [0.5, 0.6]})
    curves = {f"MIMIC 5x1200: method {i}": history for i in range(7)}
    figure = figures.learning_curves(curves, ["train_loss", "validation_auc"])
    assert touching(simulated_mark(figure)) == []
    assert all(t.get_text().isdigit() for t in figure.axes[0].get_xticklabels())


def test_forest_draws_rows_from_the_top_with_intervals_and_published_values():
    columns = {"label": ["a", "b"], "estimate": [0.1, 0.4], "low": [0.0, 0.3], "high": [0.2, 0.5]}
    ax = figures.forest(pd.DataFrame(columns).assign(paper=[0.3, np.nan]), paper="paper", xlabel="difference")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    intervals = [line.get_xdata() for line in ax.lines if list(line.get_ydata()) in ([0, 0], [1, 1])]
    np.testing.assert_allclose(sorted(map(list, intervals)), [[0.0, 0.2], [0.3, 0.5]])
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [0.3]


def test_heat_table_writes_every_number():
    grid = pd.DataFrame([[0.5, 0.75], [np.nan, 1.0]], index=[0.0, 0.5], columns=[1, 2])
    ax = figures.heat_table(grid, value_format="{:.2f}")
    assert [t.get_text() for t in ax.texts] == ["0.50", "0.75", "–", "1.00"]
    assert ax.texts[0].get_color() == "white" and ax.texts[3].get_color() == "black"
