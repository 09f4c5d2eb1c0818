"""Maps that know nothing of the finding, against which every attention map has to stand: none of them is in the paper.

uniform            every pixel the same: what chance gives
centre prior       a Gaussian in the middle of the image, fitted to nothing
mean training mask where findings lie on average, from the training split alone
random weights     the student's own architecture before any training
body mask          the breast or bright tissue, found by Otsu's threshold, or the lungs where a cohort knows them

The fixed ones are (H, W) or (N, H, W) float32 within [0, 1] with 1 as largest value, so a threshold can act on them as
they are (`normalize=False`): scaled by its own range, a uniform map would point nowhere instead of everywhere.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from pkd_utils.runs.errors import DataError

NAMES = (
    "reference: uniform",
    "reference: centre prior",
    "reference: mean training mask",
    "reference: random weights",
    "reference: body mask",
)


def uniform_map(shape: tuple[int, int]) -> np.ndarray:
    """Ones, float32 (H, W): the region's share of the image is its energy inside and its pointing game."""
    return np.ones(shape, dtype=np.float32)


def centre_prior(shape: tuple[int, int], width: float = 0.25) -> np.ndarray:
    """A Gaussian at the middle of the image, float32 (H, W), its largest value 1.

    Parameters
    ----------
    shape : (H, W)
    width : float
        Standard deviation along each side as a share of that side. Fitted to nothing.

    Raises
    ------
    DataError
        If `width` is not above 0.
    """
    if not 0 < width < np.inf:
        raise DataError(f"width={width} of the centre prior must be above 0: it is a share of the image's side.")
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in shape)
    bell = np.exp(-0.5 * ((y[:, None] / width) ** 2 + (x[None] / width) ** 2))
    return (bell / bell.max()).astype(np.float32)


def mean_training_mask(masks, splits: Sequence[str]) -> np.ndarray:
    """Mean of the training images' regions, float32 (H, W), divided by its largest value.

    Parameters
    ----------
    masks : (M, H, W) array, boolean or 0/1
        Regions of training images, all of them: an image without any adds nothing to where regions lie.
    splits : M names
        The split of each mask's image; anything but "train" is refused, so that no test region leaks into the map.

    Raises
    ------
    DataError
        A mask of another split, no masks, masks of another shape, or not one pixel inside.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or len(masks) != len(splits):
        raise DataError(f"Masks of shape {masks.shape} and {len(splits)} splits: give (M, H, W) and one split a mask.")
    others = sorted({str(split) for split in splits} - {"train"})
    if others:
        raise DataError(f"A mask of the split {others[0]!r} would leak into the mean mask: give training masks only.")
    mean = masks.astype(bool).mean(0) if len(masks) else np.zeros(1)
    if not mean.max():
        raise DataError("No training image has a region, so there is no mean training mask: leave this map out.")
    return (mean / mean.max()).astype(np.float32)


def otsu_thresholds(pixels: np.ndarray) -> np.ndarray:
    """Otsu's threshold of every image, int64 (N,): pixels above it are foreground.

    The grey level that maximises the variance between the two classes that it makes (Otsu, 1979); of equally good ones
    the lowest. -1 where an image has one grey level only: all of it is foreground.

    Parameters
    ----------
    pixels : (N, H, W) uint8
    """
    pixels = _as_pixels(pixels)
    levels = np.arange(256)
    counts = np.stack([np.bincount(image.reshape(-1), minlength=256) for image in pixels]).astype(np.float64)
    below, total = counts.cumsum(1), counts.sum(1, keepdims=True)
    sums = (counts * levels).cumsum(1)
    mean = sums[:, -1:] / total
    with np.errstate(invalid="ignore", divide="ignore"):
        # w0 w1 (m0 - m1)^2 = (m w0 - s0)^2 / (w0 w1), with weights as shares
        between = (mean * below - sums) ** 2 / (below * (total - below))
    between = np.where((below > 0) & (below < total), between, -1)
    return np.where(between.max(1) > 0, between.argmax(1), -1)


def body_masks(pixels, lungs=None) -> np.ndarray:
    """The body on every image as a 0/1 map: the breast on a mammogram, bright tissue or the lungs on a radiograph.

    Parameters
    ----------
    pixels : (N, H, W) uint8, bright where tissue is
    lungs : (N, H, W) boolean, optional
        Lung fields where the cohort knows them; an image without any gets its foreground. Leave it out where the lungs
        are the very regions that maps are scored against.

    Returns
    -------
    float32 (N, H, W), 0 or 1
        Foreground is the largest connected part (by sides) above Otsu's threshold with its holes filled, so that a
        laterality marker beside the breast does not count. On a chest radiograph the threshold parts soft tissue and
        bone from air: lungs that are not closed in by tissue on all sides are left out, and the map is a weak
        reference there.
    """
    pixels = _as_pixels(pixels)
    found = np.zeros(pixels.shape, dtype=np.float32)
    lungs = np.zeros(pixels.shape, dtype=bool) if lungs is None else np.asarray(lungs).astype(bool)
    if lungs.shape != pixels.shape:
        raise DataError(f"Lungs {lungs.shape} and pixels {pixels.shape} differ in shape: pack both at the same size.")
    known = lungs.any((1, 2))
    found[known] = lungs[known]
    rest = np.flatnonzero(~known)
    if len(rest):
        bright = pixels[rest] > otsu_thresholds(pixels[rest])[:, None, None]
        for index, foreground in zip(rest, bright, strict=True):
            parts, count = ndimage.label(foreground)
            if count > 1:
                foreground = parts == np.bincount(parts[parts > 0]).argmax()
            found[index] = ndimage.binary_fill_holes(foreground)
    return found


def _as_pixels(pixels) -> np.ndarray:
    pixels = np.asarray(pixels)
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise DataError(f"Pixels are {pixels.dtype} {pixels.shape}: give packed images, uint8 (N, H, W).")
    return pixels
