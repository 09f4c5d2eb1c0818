"""Decode and resize every image once, into one packed uint8 array.

Packed pixels are related to stored pixels by `packed = scale * stored + offset` along each axis; the four numbers stand
in the index beside every image, and `transform_boxes` and `transform_mask` apply them. Coordinates are pixel edges:
a box (x0, y0, x1, y1) has exclusive x1, y1, and an image of width W spans 0 ... W.
"""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from pkd_utils.images.depth import eight_bit_range
from pkd_utils.images.dicom import is_dicom, read_grey
from pkd_utils.images.geometry import inner_part, packed_geometry, resize

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
              "lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}  # fmt: skip


def read_image(
    source: str | Path | bytes,
    size: int,
    aspect: str = "squash",
    invert: bool = False,
    resample: str = "bilinear",
    detail: float = 1.0,
    depth: str = "full",
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one image to grey and resize it, in one decode and one resize.

    Parameters
    ----------
    source : path, or the file's bytes
        Anything PIL reads, or DICOM (see `dicom.read_grey`, the whole range of the bits stored). Colour becomes luma
        (ITU-R 601), transparency is ignored, EXIF orientation is not applied (boxes refer to stored pixels).
    size : int, side of the result in pixels
    aspect : {"squash", "pad", "crop"}, see `packed_geometry`
    invert : bool
        True for images where high values are dark; DICOM files that say so (MONOCHROME1) are turned already.
    resample : {"bilinear", "bicubic", "lanczos", "box"}, all with PIL's anti-aliasing
    detail : float
        JPEG only: libjpeg may decode at 1/2, 1/4 or 1/8 size, as long as what is left has at least `detail * size`
        pixels along each resized side. 1.0 is fastest; `inf` decodes at full size.
    depth : {"full", "minmax"}
        How more than 8 bits become 8: the whole range of 16 bits, or the image's own minimum to maximum (always so
        for 32-bit and floating point images, whose range says nothing).

    Returns
    -------
    pixels : (size, size) uint8 array
    stored_size : (width, height) of the file

    Raises
    ------
    OSError, ValueError, SyntaxError, DecompressionBombError
        Whatever PIL says of a file that is not an image; a DataError (a ValueError) of a DICOM file.
    """
    grey, stored = _decode(source, depth, (size, aspect, detail) if math.isfinite(detail) else None)
    pixels = _eight_bits(resize(grey, stored, size, aspect, RESAMPLING[resample]))
    if invert:
        pixels = 255 - pixels
        if aspect == "pad":  # padding stays black
            inner = np.zeros_like(pixels)
            rows, columns = inner_part(stored, size)
            inner[rows, columns] = pixels[rows, columns]
            pixels = inner
    return pixels, stored


def open_grey(path: str | Path, depth: str = "full") -> Image.Image:
    """Open one image for display, whole, as it is stored: what `read_image` reads, in PIL's mode "L" (8-bit grey).

    Parameters
    ----------
    path : path
        Anything PIL reads, or DICOM.
    depth : {"full", "minmax"}, see `read_image`

    Raises
    ------
    OSError, ValueError, SyntaxError, DecompressionBombError
        As `read_image`.
    """
    return Image.fromarray(_eight_bits(_decode(path, depth)[0]))


def _decode(source, depth: str, reduced: tuple[int, str, float] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """Grey image (mode L, or F for more than 8 bits) and its stored size; `reduced`: size, aspect, detail of a JPEG."""
    if is_dicom(source):
        values = read_grey(source)
        grey = values if values.dtype == np.uint8 else eight_bit_range(values, depth)
        return Image.fromarray(grey), values.shape[::-1]
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        stored = image.size
        if image.format == "JPEG" and reduced:
            size, aspect, detail = reduced
            geometry = packed_geometry(*stored, size, aspect)
            # draft() keeps both sides at least as large as asked for.
            image.draft(
                "L", (round(geometry.scale_x * stored[0] * detail), round(geometry.scale_y * stored[1] * detail))
            )
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return Image.fromarray(eight_bit_range(np.asarray(image), depth)), stored
        return image.convert("RGB").convert("L") if image.mode in ("P", "PA", "CMYK") else image.convert("L"), stored


def _eight_bits(grey: Image.Image) -> np.ndarray:
    pixels = np.asarray(grey)
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
