"""A map's mass on the patient's left and right against the coded side."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pkd_utils.localization import side_auroc
from pkd_utils.localization.sides import side_scores
from pkd_utils.runs.errors import DataError


def at(column, width=5, height=4):
    """A map with all of its mass in one column."""
    map = np.zeros((height, width), dtype=np.float32)
    map[:, column] = 2.0
    return map


def test_the_patients_left_is_on_the_images_right():
    assert side_scores(np.stack([at(0), at(2), at(4), 0 * at(0)])).tolist() == [-1, 0, 1, 0]
    assert side_auroc([at(4), at(0)], ["left", "right"]) == 1
    assert side_auroc([at(4), at(0)], ["right", "left"]) == 0


def test_scores_are_shares_and_the_auroc_is_sklearns():
    rng = np.random.default_rng(0)
    maps, sides = rng.random((40, 6, 8)), rng.choice(["left", "right"], 40)
    scores = side_scores(maps)
    np.testing.assert_allclose(scores, (maps[:, :, 4:].sum((1, 2)) - maps[:, :, :4].sum((1, 2))) / maps.sum((1, 2)))
    np.testing.assert_allclose(side_scores(7 * maps), scores)
    assert side_auroc(maps, sides) == pytest.approx(roc_auc_score(sides == "left", scores))
    np.testing.assert_allclose(side_scores(maps[:, :, ::-1]), -scores)
    tied = np.stack([at(0), at(4), at(4)])
    assert side_auroc(tied, ["right", "left", "right"]) == 0.75


def test_only_the_picture_counts_and_its_middle_divides():
    map = at(2, width=8) + at(7, width=8)  # in the picture's right half, and in the padding
    valid = np.zeros((4, 8), dtype=bool)
    valid[1:3, :4] = True
    assert side_scores(map[None], valid).tolist() == [1]
    assert side_scores(at(3, width=8)[None]).tolist() == [-1]


def test_what_stays_in_the_frame_cancels_in_mirrored_pairs():
    rng = np.random.default_rng(1)
    sides = np.array(["left", "right"] * 20)
    finding = np.stack([at(4 if side == "left" else 0) for side in sides])
    frame = rng.random((40, 4, 5)) * 9  # a habit of each film's map that is the same for its mirror image
    seen = side_auroc(frame + finding, sides, mirrored=frame + finding[:, :, ::-1])
    assert seen > side_auroc(frame + finding, sides) and seen == 1
    assert side_auroc(frame, sides, mirrored=frame) == 0.5
    padded = np.pad(finding, ((0, 0), (0, 0), (0, 3)))
    valid = np.arange(8) < np.full((4, 1), 5)
    assert side_auroc(padded, sides, padded[:, :, ::-1], valid) == 1


def test_refusals():
    assert np.isnan(side_auroc([at(0)], ["left"]))
    with pytest.raises(DataError, match="A side is 'bilateral': give left or right"):
        side_auroc([at(0), at(1)], ["left", "bilateral"])
    with pytest.raises(DataError, match="2 maps, 1 sides"):
        side_auroc([at(0), at(1)], ["left"])
    with pytest.raises(DataError, match="negative values"):
        side_scores(-at(0)[None])
    with pytest.raises(DataError, match="Map 1 holds values that are not finite"):
        side_scores([at(0), np.nan * at(1)])
