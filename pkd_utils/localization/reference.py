"""Maps that know nothing of the finding, against which every attention map has to stand: none of them is in the paper.

uniform            every pixel the same: the region's share of the image is its energy inside and its pointing game
centre prior       a Gaussian in the middle of the image, fitted to nothing
mean training mask where findings lie on average, from the training split alone
random weights     the student's own architecture before any training
start weights      the student before fine-tuning, where it starts from a file of weights (else: random weights)
body mask          the breast or bright tissue, found by Otsu's threshold (1979, as OpenCV has it)

The fixed ones are (H, W) or (N, H, W) float32 within [0, 1] with 1 as largest value, so a threshold can act on them as
they are (`normalize=False`): scaled by its own range, a uniform map would point nowhere instead of everywhere.
"""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field
from scipy import ndimage

from pkd_utils.runs.checked import checked

NAMES = tuple(
    f"reference: {name}"
    for name in ("uniform", "centre prior", "mean training mask", "random weights", "body mask", "start weights")
)


@checked
def centre_prior(shape: tuple[int, int], width: Annotated[float, Field(gt=0)] = 0.25) -> np.ndarray:
    """A Gaussian at the middle of the image, float32 (H, W), its largest value 1; fitted to nothing.

    `width` is the standard deviation along each side as a share of that side.
    """
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in shape)
    bell = np.exp(-0.5 * ((y[:, None] / width) ** 2 + (x[None] / width) ** 2))
    return (bell / bell.max()).astype(np.float32)


def mean_training_mask(masks: np.ndarray) -> np.ndarray:
    """Mean of the training images' regions, float32 (H, W), divided by its largest value.

    `masks` (M, H, W), boolean, are regions of training images, one or more and no others: a test region must not leak
    into the map.
    """
    mean = masks.mean(0)
    return (mean / mean.max()).astype(np.float32)


def body_masks(pixels: np.ndarray) -> np.ndarray:
    """The body on every image (N, H, W) uint8 as a 0/1 map, float32: the breast, or bright tissue on a radiograph.

    Foreground is the largest connected part (by sides) above Otsu's threshold with its holes filled, so that a
    laterality marker beside the breast does not count; an image of one grey level is foreground everywhere. On a chest
    radiograph the threshold parts soft tissue and bone from air: lungs that are not closed in by tissue on all sides
    are left out, and the map is a weak reference there.
    """
    found = np.ones(pixels.shape, dtype=np.float32)
    for mask, image in zip(found, pixels, strict=True):
        if image.min() == image.max():
            continue
        _, foreground = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        parts, _ = ndimage.label(foreground)
        mask[:] = ndimage.binary_fill_holes(parts == np.bincount(parts[parts > 0]).argmax())
    return found
