"""Rows by finding, size and confidence, false alarms, and the order in which tokens are dropped."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.distillation.students import random_student
from pkd_utils.studies.maps import groups
from tests.studies.maps.conftest import BUILD, FACTS, IDS, SIDE


def test_thirds_are_of_equal_size_and_keep_ties_together():
    values = pd.Series([0.9, 0.1, 0.5, 0.2, 0.6, 0.8], index=list("abcdef"))
    third = groups.thirds(values)
    low, middle, high = groups.THIRDS
    assert third.to_dict() == {"b": low, "d": low, "c": middle, "e": middle, "a": high, "f": high}
    assert groups.thirds(pd.Series([1.0, 1, 1, 1, 2, 3])).tolist() == [low] * 4 + [high] * 2
    assert groups.thirds(pd.Series([7.0])).tolist() == [low]


def test_rows_by_third_are_means_of_their_images():
    rows = pd.DataFrame({name: np.arange(9.0) for name in groups.SHOWN})
    rows["region_share"] = [0.9, 0.8, 0.7, 0.4, 0.5, 0.6, 0.1, 0.2, 0.3]
    got = groups.by_third(rows, "size", rows["region_share"]).set_index("group")
    assert list(got.index) == list(groups.THIRDS) and (got["images"] == 3).all() and (got["kind"] == "size").all()
    assert got["pixel_auroc"].tolist() == [7, 4, 1]
    assert got["region_share"].tolist() == pytest.approx([0.2, 0.5, 0.8])


def test_a_finding_has_its_own_threshold_where_validation_has_enough(by_finding):
    maps = np.zeros((3, SIDE, SIDE), np.float32)
    for k, image in enumerate(("i4", "i2", "i5")):  # 0.4 in its box, 0.3 beside it
        maps[k] = 0.3 * (np.arange(SIDE) < 12)
        ((x0, y0, x1, y1),) = by_finding.boxes_of([image], "a")[0].astype(int)
        maps[k, y0:y1, x0:x1] = 0.4
    sets = (["i4"], maps[:1]), (["i2", "i5"], maps[1:])
    options = {"thresholds": (0.2, 0.5, 0.9), "normalize": False}
    few = groups.by_finding(by_finding, 0, *sets, common=0.2, smallest=2, **options).set_index("group")
    assert few["chosen"].tolist() == ["common"] * 2 and (few["threshold"] == 0.2).all()
    assert few.loc["a", "images"] == 2 and few.loc["b", "images"] == 1, "each against its own images"
    options["thresholds"] = (0.1, 0.35)
    own = groups.by_finding(by_finding, 0, *sets, common=0.1, smallest=1, **options).set_index("group")
    assert own["chosen"].to_dict() == {"a": "own", "b": "common"}
    assert own["threshold"].to_dict() == {"a": 0.35, "b": 0.1}
    assert own.loc["a", "iou"] == 1 > few.loc["a", "iou"]


def test_images_with_nothing_to_find(prepared):
    assert prepared.without_findings(0, "test") == []  # i1 is negative, but somebody drew a region on it
    prepared.images.loc["i7", ["a", "b"]] = 0.0
    assert prepared.without_findings(0, "test") == ["i7"]
    prepared.images.loc["i7", "b"] = np.nan
    assert prepared.without_findings(0, "test") == [], "unknown is not absent"


def test_alarms_are_those_of_the_enlarged_map_and_of_its_calls():
    maps = np.zeros((3, 4, 4))
    maps[1, 0, 0] = maps[1, 3, 3] = maps[2, 1, 1] = 1
    logits = np.array([[-1.0, 2], [-1, -1], [3, 3]])
    valid = np.ones((3, 16, 16), dtype=bool)
    got = groups.alarms(maps, logits, valid, 0.5)
    assert tuple(got) == groups.ALARMS
    assert got == pytest.approx(dict(zip(groups.ALARMS, (3, 2 / 3, 1, 2 / 3, 1 / 3, 1 / 3), strict=True)))
    valid[:, :, 12:] = False
    assert groups.alarms(maps, logits, valid, 0.5)["boxes"] == pytest.approx(2 / 3), "one lies in the padding"


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_what_a_student_uses_is_inserted_early(prepared, activation):
    model, pixels = random_student(BUILD, 0), prepared.pixels_of(IDS)
    flat = np.zeros((8, 4, 4))
    maps = {"one": flat + np.arange(16).reshape(4, 4), "other": flat - np.arange(16).reshape(4, 4)}
    got = groups.faithfulness(model, FACTS | {"activation": activation}, pixels, maps, 0).set_index("map")
    assert list(got.index) == ["one", "other", groups.RANDOM_ORDER] and (got["images"] == 8).all()
    assert got.loc["one", "insertion"] == pytest.approx(got.loc["other", "deletion"]), "the reverse order"
    again = groups.faithfulness(model, FACTS | {"activation": activation}, pixels, maps, 1).set_index("map")
    assert got.loc["one", "insertion"] == again.loc["one", "insertion"]
    assert got.loc[groups.RANDOM_ORDER, "insertion"] != again.loc[groups.RANDOM_ORDER, "insertion"]
