"""From one file to pixels: the image as it is stored, or grey and resized to a packed square.

Packed pixels are related to stored pixels by `packed = scale * stored + offset` along each axis; the four numbers stand
in the index beside every image, and `transform_boxes` and `transform_mask` apply them. Coordinates are pixel edges:
a box (x0, y0, x1, y1) has exclusive x1, y1, and an image of width W spans 0 ... W.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pkd_utils.images.depth import eight_bit_range
from pkd_utils.images.dicom import is_dicom, read_grey
from pkd_utils.images.geometry import Aspect, packed_geometry, resize


def read_image(
    source: str | Path | bytes, size: int, aspect: Aspect = "squash", depth: str = "full"
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one image to grey and resize it, in one decode and one resize.

    Parameters
    ----------
    source : path, or the file's bytes
        See `open_image`. Colour becomes luma (ITU-R 601), transparency is ignored. Of a JPEG, libjpeg decodes 1/2, 1/4
        or 1/8 of the size where that still has `size` pixels along each resized side.
    size : int, side of the result in pixels
    aspect : {"squash", "pad", "crop"}, see `packed_geometry`
        The resize is PIL's bilinear one, which averages what it makes smaller.
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
        As `open_image`.
    """
    image, stored = _decoded(source, (size, aspect))
    return _eight_bits(resize(_grey(image, depth), stored, size, aspect, Image.Resampling.BILINEAR)), stored


def open_image(source: str | Path | bytes) -> Image.Image:
    """Open one image, whole and as it is stored: the one way from a file to its picture.

    Parameters
    ----------
    source : path, or the file's bytes
        Anything PIL reads, or DICOM (see `dicom.read_grey`: mode "L" or "I;16"). EXIF orientation is not applied: boxes
        refer to stored pixels.

    Raises
    ------
    OSError, ValueError, SyntaxError, DecompressionBombError
        Whatever PIL says of a file that is not an image; a DataError (a ValueError) of a DICOM file.
    """
    return _decoded(source)[0]


def open_grey(path: str | Path) -> Image.Image:
    """Open one image for display, whole, in PIL's mode "L" (8-bit grey): what `read_image` reads before it resizes."""
    return Image.fromarray(_eight_bits(_grey(open_image(path), "full")))


def _decoded(source, packed: tuple[int, Aspect] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The image, of any mode, and its stored size; a JPEG no larger than what is `packed` (size, aspect) needs."""
    if is_dicom(source):
        image = Image.fromarray(read_grey(source))
        return image, image.size
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        stored = image.size
        if packed and image.format == "JPEG":
            geometry = packed_geometry(*stored, *packed)
            # draft() keeps both sides at least as large as asked for.
            image.draft("L", (round(geometry.scale_x * stored[0]), round(geometry.scale_y * stored[1])))
        image.load()
    return image, stored


def _grey(image: Image.Image, depth: str) -> Image.Image:
    """Mode "L", or "F" with values from 0 to 255 for more than 8 bits."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(eight_bit_range(np.asarray(image), depth))
    return image.convert("RGB").convert("L") if image.mode in ("P", "PA", "CMYK") else image.convert("L")


def _eight_bits(grey: Image.Image) -> np.ndarray:
    pixels = np.asarray(grey)
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
