"""A map's mass on the patient's left and right against the coded side."""

import numpy as np

from pkd_utils.localization.sides import side_scores


def at(column, width=5, height=4):
    """A map with all of its mass in one column."""
    map = np.zeros((height, width), dtype=np.float32)
    map[:, column] = 2.0
    return map


def test_the_patients_left_is_on_the_images_right():
    assert side_scores(np.stack([at(0), at(2), at(4), 0 * at(0)])).tolist() == [-1, 0, 1, 0]


def test_scores_are_shares():
    rng = np.random.default_rng(0)
    maps = rng.random((40, 6, 8))
    scores = side_scores(maps)
    np.testing.assert_allclose(scores, (maps[:, :, 4:].sum((1, 2)) - maps[:, :, :4].sum((1, 2))) / maps.sum((1, 2)))
    np.testing.assert_allclose(side_scores(7 * maps), scores)
    np.testing.assert_allclose(side_scores(maps[:, :, ::-1]), -scores)


def test_only_the_picture_counts_and_its_middle_divides():
    map = at(2, width=8) + at(7, width=8)  # in the picture's right half, and in the padding
    valid = np.zeros((4, 8), dtype=bool)
    valid[1:3, :4] = True
    assert side_scores(map[None], valid).tolist() == [1]
    assert side_scores(at(3, width=8)[None]).tolist() == [-1]
