"""From one file to pixels: the image as it is stored, or grey and resized to a packed square; see `geometry`.

A source is a path or a file's bytes, of anything that PIL reads or DICOM (see `dicom.read_grey`). A picture stored
turned or mirrored (EXIF orientation) is read upright, and its size is the upright one: boxes refer to that. A file that
is no whole image is a DataError of one sentence.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from pkd_utils.images.depth import eight_bit_range, is_deep
from pkd_utils.images.dicom import is_dicom, read_grey, read_header
from pkd_utils.images.geometry import Aspect, packed_geometry, resize
from pkd_utils.runs.errors import DataError

_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}  # what a file begins and ends with
_TAIL = 1 << 16  # bytes at the end of a file: some writers pad


def read_image(source: str | Path | bytes, size: int, aspect: Aspect = "squash") -> tuple[np.ndarray, tuple[int, int]]:
    """Decode one image to grey and resize it, in one decode and one resize.

    Parameters
    ----------
    source : path, or the file's bytes
        Colour becomes luma (ITU-R 601), transparency is ignored; more than 8 bits become 8 by `depth.eight_bit_range`.
        Of a JPEG, libjpeg decodes 1/2, 1/4 or 1/8 of the size where that still has `size` pixels along each resized
        side.
    size : int, side of the result in pixels
    aspect : {"squash", "pad", "crop"}, see `packed_geometry`
        The resize is PIL's bilinear one, which averages what it makes smaller.

    Returns
    -------
    pixels : (size, size) uint8 array
    stored_size : (width, height) of the upright picture in the file
    """
    image, stored = _decoded(source, (size, aspect))
    return _eight_bits(resize(_grey(image), stored, size, aspect, Image.Resampling.BILINEAR)), stored


def open_image(source: str | Path | bytes) -> Image.Image:
    """Open one image, whole and in the mode that it is stored in (DICOM: "L" or "I;16"): the one way to a picture."""
    return _decoded(source)[0]


def open_grey(path: str | Path) -> Image.Image:
    """Open one image for display, whole, in PIL's mode "L" (8-bit grey): what `read_image` reads before it resizes."""
    return Image.fromarray(_eight_bits(_grey(open_image(path))))


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of a stored image, upright, from its header alone; DataError also of DICOM that is cut short."""
    with _one_sentence(path):
        if is_dicom(path):
            header = read_header(path)
            if not header.complete:
                raise DataError(f"{path} is cut short; fetch the file again.")
            return header.width, header.height
        with Image.open(path) as image:
            return image.size[::-1] if _orientation(image) >= 5 else image.size


def check_ends(path: Path) -> None:
    """DataError unless the header can be read and the file goes on to its end; nothing is decoded.

    A JPEG ends with a marker that its pixels never hold, a PNG with a chunk, DICOM after all of its pixels.
    """
    image_size(path)
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        tail = file.read()
    if any(start.startswith(first) and last not in tail for first, last in _ENDS.items()):
        raise DataError(f"{path} is cut short; fetch the file again.")


def upright(image: Image.Image) -> Image.Image:
    """The image itself, loaded, turned and mirrored as its EXIF orientation says."""
    turned = _orientation(image) != 1
    image.load()
    if turned:
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation of an image that was just opened, 1 to 8; from 5 on, width and height change places."""
    # PIL would read a PNG to its end to look for an orientation behind the pixels.
    exif = {} if image.format == "PNG" and "exif" not in image.info else image.getexif()
    orientation = exif.get(Base.Orientation, 1)
    if image.format == "TIFF" and orientation != 1:  # PIL turns some of them once, others twice
        raise ValueError(f"a TIFF stored turned, orientation {orientation}: save it upright")
    return orientation if orientation in range(1, 9) else 1


@contextlib.contextmanager
def _one_sentence(source: str | Path | bytes) -> Iterator[None]:
    """Whatever PIL says of a file that is no image, as one sentence."""
    name = "The image" if isinstance(source, bytes) else str(source)
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"Image {name} is missing; fetch it, or take it out of the table.") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{name} cannot be read as an image ({said}); fetch the file again.") from None


def _decoded(source, packed: tuple[int, Aspect] | None = None) -> tuple[Image.Image, tuple[int, int]]:
    """The image, of any mode, and its stored size; a JPEG no larger than what is `packed` (size, aspect) needs."""
    with _one_sentence(source):
        if is_dicom(source):
            image = Image.fromarray(read_grey(source))
            return image, image.size
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if packed and image.format == "JPEG" and _orientation(image) == 1:
                stored, geometry = image.size, packed_geometry(*image.size, *packed)
                # draft() keeps both sides at least as large as asked for.
                image.draft("L", (round(geometry.scale_x * stored[0]), round(geometry.scale_y * stored[1])))
                image.load()
                return image, stored
            image = upright(image)
            return image, image.size


def _grey(image: Image.Image) -> Image.Image:
    """Mode "L", or "F" with values from 0 to 255 for more than 8 bits."""
    if is_deep(image):
        return Image.fromarray(eight_bit_range(np.asarray(image)))
    return image.convert("RGB").convert("L") if image.mode in ("P", "PA", "CMYK") else image.convert("L")


def _eight_bits(grey: Image.Image) -> np.ndarray:
    pixels = np.asarray(grey)
    return pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
