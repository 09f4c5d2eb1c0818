"""How pixels of more than 8 bits become 8 bits: one rule for packed images and for the encoders' input."""

import numpy as np
from PIL import Image

from pkd_utils.runs.errors import DataError


def is_deep(image: Image.Image) -> bool:
    """True if the image has more than 8 bits a pixel, which PIL's own `convert("L")` would clip."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def check_depth(depth: str | int) -> None:
    """Raise DataError unless `depth` is "full", "minmax" or a number of bits from 8 to 32."""
    bits = isinstance(depth, int) and not isinstance(depth, bool) and 8 <= depth <= 32
    if not bits and depth not in ("full", "minmax"):
        raise DataError(f"depth must be full, minmax or a number of bits from 8 to 32, not {depth!r}.")


def eight_bit_range(values: np.ndarray, depth: str | int = "full") -> np.ndarray:
    """More than 8 bits to 0 ... 255, not yet rounded: the one rule for 12-bit, 16-bit and floating point images.

    Parameters
    ----------
    values : array of integers or floats
    depth : {"full", "minmax"} or int
        The range that becomes 0 ... 255. "full": 0 ... 65535; the image's own minimum ... maximum where values are
        floating point or outside 16 bits. "minmax": always the image's own range. A number of bits, for example 12:
        0 ... 4095.

    Returns
    -------
    float32 array of the same shape; an image of one value under "minmax" is 0 everywhere.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("The image has pixel values that are not finite numbers: mend the file.")
    check_depth(depth)
    low, high = 0.0, 65535.0
    if depth == "minmax" or (
        depth == "full" and (values.dtype.kind == "f" or values.max() > 65535 or values.min() < 0)
    ):
        low, high = float(values.min()), float(values.max())
    elif depth != "full":
        high = float(2 ** int(depth) - 1)
        if values.min() < 0 or values.max() > high:
            raise DataError(
                f"The image's values, {values.min()} to {values.max()}, do not fit into {depth} bits: give its own "
                'number of bits, or depth="minmax".'
            )
    # 16 bits times 255 fit into float32 exactly; wider values would lose their last bits there.
    wide = values.dtype.itemsize > 2 and (values.dtype == np.float64 or max(abs(low), abs(high)) > 65535)
    scaled = values.astype(np.float64 if wide else np.float32)
    scaled -= low
    scaled *= 255
    scaled /= max(high - low, 1e-12)
    return scaled.astype(np.float32, copy=False)
