"""Maps that know nothing of the finding are what they say, and the mean mask never sees a test region."""

import cv2
import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from pkd_utils.distillation.students import random_student
from pkd_utils.localization.reference import body_masks, centre_prior, mean_training_mask, uniform_map
from pkd_utils.runs.errors import DataError

BUILD = {"name": "vit", "image_size": 16, "patch_size": 8, "n_labels": 2, "width": 16, "depth": 2, "heads": 2}


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_uniform_and_centre_prior():
    assert (uniform_map((3, 4)) == 1).all() and uniform_map((3, 4)).dtype == np.float32
    bell = centre_prior((40, 80), 0.25)
    assert bell.shape == (40, 80) and bell.dtype == np.float32 and bell.max() == 1
    np.testing.assert_array_equal(bell, bell[::-1, ::-1])
    np.testing.assert_allclose(bell[:, 40], bell[::1, 39])
    # a standard deviation from the middle, along either side: exp(-1/2) of the peak
    np.testing.assert_allclose(
        bell[30, 40] / bell[20, 40], np.exp(-0.5 * ((10.5 / 10) ** 2 - (0.5 / 10) ** 2)), rtol=1e-5
    )
    np.testing.assert_allclose(
        bell[20, 60] / bell[20, 40], np.exp(-0.5 * ((20.5 / 20) ** 2 - (0.5 / 20) ** 2)), rtol=1e-5
    )
    assert centre_prior((9, 9), 0.1).sum() < centre_prior((9, 9), 0.5).sum()
    for width in (0, -1, np.nan, np.inf):
        with pytest.raises(DataError, match="width"):
            centre_prior((4, 4), width)


def test_mean_training_mask():
    masks = np.zeros((3, 2, 2), bool)
    masks[:, 0, 0] = masks[0, 0, 1] = True
    np.testing.assert_allclose(mean_training_mask(masks, ["train"] * 3), [[1, 1 / 3], [0, 0]])
    masks[:, 0, 0] = [True, True, False]
    np.testing.assert_allclose(mean_training_mask(masks.astype(np.uint8), ["train"] * 3), [[1, 0.5], [0, 0]])


@pytest.mark.parametrize(
    ("masks", "splits", "message"),
    [
        (np.ones((2, 2, 2)), ["train", "test"], "'test' would leak"),
        (np.ones((2, 2, 2)), ["train", "validate"], "'validate' would leak"),
        (np.ones((2, 2, 2)), ["train", None], "'None' would leak"),
        (np.zeros((2, 2, 2)), ["train", "train"], "No training image has a region"),
        (np.zeros((0, 2, 2)), [], "No training image has a region"),
        (np.ones((2, 2, 2)), ["train"], "one split a mask"),
    ],
)
def test_mean_training_mask_refuses(masks, splits, message):
    with pytest.raises(DataError, match=message):
        mean_training_mask(masks, splits)


def test_random_student_is_of_the_same_make_repeatable_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, same, other = (random_student({**BUILD, "weights": "absent.safetensors"}, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not one.training and one.head.out_features == 2
    weight = "blocks.0.attn.qkv.weight"
    assert torch.equal(one.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])


def otsu_written_out(image):
    """The lowest of the grey levels that maximise the variance between the two classes that they make."""
    counts = np.bincount(image.reshape(-1), minlength=256).astype(np.float64)
    below, sums = counts.cumsum(), (counts * np.arange(256)).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (sums[-1] / below[-1] * below - sums) ** 2 / (below * (below[-1] - below))
    return int(np.nanargmax(np.where((below > 0) & (below < below[-1]), between, -1)))


def test_otsu_of_opencv_equals_the_definition_and_scikit_image(rng):
    dark, bright = rng.normal(60, 12, (6, 40, 30)), rng.normal(170, 20, (6, 40, 30))
    pixels = np.where(rng.random((6, 40, 30)) < 0.3, bright, dark).clip(0, 255).astype(np.uint8)
    pixels = [*pixels, *rng.integers(0, 256, (30, 40, 30), dtype=np.uint8), np.array([[3, 3, 200]], np.uint8)]
    for image in pixels:
        threshold, foreground = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        assert threshold == otsu_written_out(image) == threshold_otsu(image)
        np.testing.assert_array_equal(foreground, image > threshold)


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
