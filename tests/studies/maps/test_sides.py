"""The side a map looks at: definition, pairing by image, and what a map gets that knows nothing."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import auroc
from pkd_utils.studies.maps import sides


@pytest.fixture
def scores():
    """Two methods, four seeds, two folds of 30 images; "sees" leans to the side, "heart" to the left always."""
    rng, rows = np.random.default_rng(0), []
    names = [f"i{k}" for k in range(60)]
    side = pd.Series(rng.choice(["left", "right"], 60), names)
    for method, seed in itertools.product(("sees", "heart"), range(4)):
        towards = np.where(side == "left", 1, -1) * (method == "sees")
        noise = 0.2 * rng.standard_normal(60)
        score = np.where(method == "sees", 0.15 * towards, 0.5) + noise
        mirrored = np.where(method == "sees", -0.15 * towards, 0.5) + noise  # "heart": wherever the heart is
        rows.append(
            pd.DataFrame({"image_id": names, "method": method, "fold": np.arange(60) % 2, "seed": seed})
            .assign(score=score, mirrored=mirrored)
        )  # fmt: skip
    return pd.concat(rows), side


def test_values_are_the_aurocs_of_folds(scores):
    table, side = scores
    values = sides.side_values(table, side)
    for method in ("sees", "heart"):
        for seed in range(4):
            own = table.query("method == @method and seed == @seed")
            by_hand = [auroc(rows["image_id"].map(side) == "left", rows["score"]) for _, rows in own.groupby("fold")]
            assert values[method].loc[seed].mean() == pytest.approx(np.mean(by_hand))


def test_a_fold_of_one_side_and_images_without_side_are_left_out(scores):
    table, side = scores
    even = table.query("fold == 0")["image_id"].unique()
    side[even[1:]] = "left"
    side[even[0]] = np.nan
    values = sides.side_values(table, side)
    assert set(values["sees"].columns) == set(table.query("fold == 1")["image_id"])
    assert sides.side_values(table.query("fold == 0"), side) == {}


def test_who_sees_the_side_is_above_chance_and_above_who_follows_the_heart(scores):
    table, side = scores
    values = sides.side_values(table, side)
    patients = pd.Series(side.index, side.index)
    found = sides.compare_sides(values, patients, [("sees", "heart"), ("sees", "nobody")], 0.95).set_index("label")
    half = (found["high"] - found["low"]) / 2
    assert (found["detectable"] > 1.2 * half).all()  # half an interval is seen as often as not
    assert list(found.index) == ["heart", "sees", "sees minus heart"]
    assert found.loc["sees", "low"] > 0.5 and found.loc["sees minus heart", "low"] > 0
    assert found.loc["heart", "low"] < 0.5 < found.loc["heart", "high"]


def test_methods_are_paired_by_their_seeds_and_not_by_their_place(scores):
    table, side = scores
    values, patients = sides.side_values(table, side), pd.Series(side.index, side.index)
    of = lambda **changed: sides.compare_sides(values | changed, patients, [("sees", "heart")], 0.95).iloc[-1]  # noqa: E731
    turned, fewer = values["heart"].iloc[::-1], values["heart"].loc[1:]
    pd.testing.assert_series_equal(of(heart=turned), of())
    pd.testing.assert_series_equal(of(heart=fewer), of(heart=fewer, sees=values["sees"].loc[1:]))
    with pytest.raises(DataError, match="sees and heart share no seed: train both"):
        of(heart=values["heart"].set_axis(range(5, 9)))


def test_what_stays_in_the_frame_cancels_with_the_mirrored_film(scores):
    table, side = scores
    habit = np.random.default_rng(1).normal(0, 2, 60)[table["image_id"].str[1:].astype(int)]  # of a film's map
    framed = table.assign(score=table["score"] + habit, mirrored=table["mirrored"] + habit)
    paired = framed.assign(score=(framed["score"] - framed["mirrored"]) / 2)
    alone, both = (sides.side_values(one, side)["sees"].to_numpy().mean() for one in (framed, paired))
    assert alone < 0.7 and both == 1
    assert sides.side_values(paired, side)["heart"].to_numpy().mean() == 0.5


def test_sides_come_from_the_source_or_from_boxes(tmp_path):
    images = pd.DataFrame({"side_pleural_effusion": ["left", np.nan], "side": ["left", np.nan]}, ["a", "b"])
    stored = SimpleNamespace(images=images, pixels=np.zeros((2, 8, 8)), folder=tmp_path)
    assert sides.named_sides(stored).columns.tolist() == ["pleural effusion", "any finding"]
    stored.images = images[[]]
    rows = [("a", "Edema", 0, 3), ("a", "Edema", 1, 3), ("a", "Mass", 5, 8), ("b", "Edema", 0, 2), ("b", "Edema", 6, 8)]
    pd.DataFrame(rows, columns=["image_id", "finding", "x0", "x1"]).to_parquet(tmp_path / "boxes.parquet")
    table = sides.named_sides(stored)
    assert table.loc["a", ["Edema", "Mass"]].tolist() == ["right", "left"]
    assert table["any finding"].isna().all() and pd.isna(table.loc["b", "Edema"])
