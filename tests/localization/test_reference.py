"""Maps that know nothing of the finding are what they say."""

import numpy as np
import pytest

from pkd_utils.localization.reference import body_masks, centre_prior, mean_training_mask
from pkd_utils.runs.errors import DataError


def test_centre_prior():
    bell = centre_prior((40, 80), 0.25)
    assert bell.shape == (40, 80) and bell.dtype == np.float32 and bell.max() == 1
    np.testing.assert_array_equal(bell, bell[::-1, ::-1])
    np.testing.assert_allclose(bell[:, 40], bell[::1, 39])
    # a standard deviation from the middle, along either side: exp(-1/2) of the peak
    for at, side in (((30, 40), 10), ((20, 60), 20)):
        expected = np.exp(-0.5 * (((side + 0.5) / side) ** 2 - (0.5 / side) ** 2))
        np.testing.assert_allclose(bell[at] / bell[20, 40], expected, rtol=1e-5)
    assert centre_prior((9, 9), 0.1).sum() < centre_prior((9, 9), 0.5).sum()
    for width in (0, -1, np.nan, np.inf):
        with pytest.raises(DataError, match="width"):
            centre_prior((4, 4), width)


def test_mean_training_mask():
    masks = np.zeros((3, 2, 2), bool)
    masks[:, 0, 0] = masks[0, 0, 1] = True
    np.testing.assert_allclose(mean_training_mask(masks), [[1, 1 / 3], [0, 0]])
    masks[:, 0, 0] = [True, True, False]
    np.testing.assert_allclose(mean_training_mask(masks), [[1, 0.5], [0, 0]])


def test_body_mask_is_the_largest_part_with_holes_filled():
    pixels = np.full((2, 20, 20), 5, np.uint8)
    pixels[0, 4:18, 2:14] = 180  # the body
    pixels[0, 8:12, 6:10] = 10  # a dark hole in it
    pixels[0, 1:3, 16:19] = 250  # a marker beside it
    mask = body_masks(pixels)
    expected = np.zeros((20, 20))
    expected[4:18, 2:14] = 1
    np.testing.assert_array_equal(mask[0], expected)
    assert mask.dtype == np.float32 and (mask[1] == 1).all()  # one grey level: everything
