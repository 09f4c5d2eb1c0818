"""Grey DICOM pictures as arrays: rescale and photometric interpretation applied, bright is high."""

import io
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut

from pkd_utils.runs.errors import DataError

GREY = ("MONOCHROME1", "MONOCHROME2")
_NEEDED = ["Rows", "Columns", "BitsAllocated", "BitsStored"]
# All that `read_header` needs: pydicom skips every other element.
_HEADER_TAGS = [*_NEEDED, "PhotometricInterpretation", "SamplesPerPixel", "NumberOfFrames"]


class Header(NamedTuple):
    """What a DICOM file says of its picture; `complete` is False if the file ends before its pixels do."""

    width: int
    height: int
    complete: bool


def is_dicom(source: str | Path | bytes) -> bool:
    """True if the file (or its bytes) has DICOM's preamble: `DICM` after 128 bytes."""
    if isinstance(source, bytes):
        return source[128:132] == b"DICM"
    with open(source, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_header(source: str | Path | bytes) -> Header:
    """Read the size and kind of a grey picture, a path or the file's bytes, without its pixels.

    Returns
    -------
    Header
        `complete` compares the length of the file with the number of pixels; compressed pixels pass unchecked, and a
        deflated file that ends early cannot be read at all.

    Raises
    ------
    DataError
        The file is no DICOM, holds no picture, or one that is not a single grey frame.
    """
    with _open(source) as file:
        dataset = _read(file, source, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
        _check_grey(dataset, source)
        complete, syntax = True, dataset.file_meta.TransferSyntaxUID
        if not (syntax.is_compressed or syntax.is_deflated):
            pixel_bytes = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
            start = file.tell() + (8 if syntax.is_implicit_VR else 12)  # past the header of the pixel element
            complete = file.seek(0, io.SEEK_END) - start >= pixel_bytes
    return Header(int(dataset.Columns), int(dataset.Rows), bool(complete))


def read_grey(source: str | Path | bytes) -> np.ndarray:
    """Decode one grey DICOM picture, a path or the file's bytes.

    The modality transform (rescale slope and intercept, or its table) comes first, then the photometric interpretation:
    MONOCHROME1 is inverted, so bright is high whatever the file. Black to white is all that the stored bits can hold,
    the same for every file of one detector; the header's window is not applied. Padding (PixelPaddingValue, to
    PixelPaddingRangeLimit) becomes as dark as the picture's darkest pixel, so that it moves no minimum; where the
    picture has but one tone, as a mask has, padding is black.

    Returns
    -------
    (H, W) array
        uint8 where at most 8 bits are stored, else uint16; the range spans all of the type (12 bits 0 ... 4095 become
        0 ... 65535).

    Raises
    ------
    DataError
        The file is no DICOM, is cut short, is compressed in a way that no installed decoder reads, or holds several
        frames or colours.
    """
    with _open(source) as file:
        dataset = _read(file, source)
    _check_grey(dataset, source)
    try:
        stored = _stored(dataset)
    except Exception as error:  # every decoder has errors of its own
        raise DataError(
            f"{_name(source)}: the pixels ({dataset.file_meta.TransferSyntaxUID.name}) cannot be decoded "
            f"({' '.join(str(error).split())}); fetch the file again, or install a decoder for that compression."
        ) from None
    target = np.uint8 if dataset.BitsStored <= 8 else np.uint16
    top = np.iinfo(target).max
    if _stored_as_shown(dataset, target):
        grey = stored
    else:
        try:
            fraction = _fraction(stored, dataset)
        except (TypeError, ValueError) as error:  # an empty slope, a table of an odd number of bits
            raise DataError(f"{_name(source)}: its rescale cannot be applied ({error}); mend its header.") from None
        grey = np.rint(np.clip(fraction, 0, 1, out=fraction) * top).astype(target)
    grey = top - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey
    try:
        padding = _padding(stored, dataset)
    except (TypeError, ValueError) as error:
        raise DataError(f"{_name(source)}: its padding value cannot be read ({error}); mend its header.") from None
    if padding.any() and not padding.all():
        tones = grey[~padding]
        grey = np.where(padding, tones.min() if np.ptp(tones) else target(0), grey)
    return grey


def _stored(dataset: pydicom.Dataset) -> np.ndarray:
    """The stored values, also where they lie higher in their words than their own number of bits (HighBit)."""
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    shift = int(dataset.get("HighBit") or 0) + 1 - bits
    if not 0 < shift <= allocated - bits or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return dataset.pixel_array
    dataset.BitsStored, dataset.HighBit = allocated, allocated - 1  # pydicom would cut the bits above off
    words = dataset.pixel_array
    dataset.BitsStored = bits
    # Up to the word's end, then down: bits above go, and a sign is kept.
    return words << (allocated - bits - shift) >> (allocated - bits)


def _padding(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Where the stored values are padding, bool."""
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] in (None, ""):
        return np.zeros(stored.shape, bool)
    # Either end may be written with or without a sign; what counts is its bits.
    signed, size = dataset.get("PixelRepresentation") == 1, 2 ** int(dataset.BitsStored)
    ends = [int(end) % size for end in ends if end not in (None, "")]
    ends = [end - size if signed and 2 * end >= size else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _fraction(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """The stored values after the modality transform, as fractions of what the stored bits can become there; float."""
    bits, low = int(dataset.BitsStored), 0.0
    if dataset.get("PixelRepresentation") == 1:
        low = -(2.0 ** (bits - 1))
    high = low + 2.0**bits - 1
    if dataset.get("ModalityLUTSequence"):
        low, high = 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    elif dataset.get("RescaleSlope") is not None and dataset.get("RescaleIntercept") is not None:
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        low, high = sorted((low * slope + intercept, high * slope + intercept))  # a negative slope: dark is bright
    values = apply_modality_lut(stored, dataset)
    fraction = values.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
    fraction -= low
    fraction /= (high - low) or 1.0
    return fraction


def _stored_as_shown(dataset: pydicom.Dataset, target: type) -> bool:
    """True if the stored values are the picture already: unsigned, filling their type, brightness not reversed."""
    bits = dataset.BitsStored == dataset.BitsAllocated == np.iinfo(target).bits
    unsigned = dataset.get("PixelRepresentation") == 0
    plain = not dataset.get("ModalityLUTSequence") and float(dataset.get("RescaleSlope") or 1) > 0
    return bool(bits and unsigned and plain)


def _open(source: str | Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _name(source: str | Path | bytes) -> str:
    return "The DICOM file" if isinstance(source, bytes) else str(source)


def _read(file: BinaryIO, source, **options) -> pydicom.Dataset:
    try:
        dataset = pydicom.dcmread(file, **options)
        dataset.file_meta.TransferSyntaxUID  # noqa: B018 (a file without it cannot be decoded)
        list(dataset.group_dataset(0x0028))  # what describes the picture is read now, not where it is used
        return dataset
    except InvalidDicomError:
        raise DataError(f"{_name(source)} is no DICOM file; fetch it again.") from None
    except Exception as error:  # a damaged header fails in many ways
        raise DataError(
            f"{_name(source)} cannot be read as DICOM ({type(error).__name__}: {' '.join(str(error).split())}); "
            "fetch it again."
        ) from None


def _check_grey(dataset: pydicom.Dataset, source) -> None:
    missing = [name for name in _NEEDED if dataset.get(name) is None]
    if missing:
        raise DataError(f"{_name(source)} holds no picture (no {', '.join(missing)}); fetch it again.")
    kind = dataset.get("PhotometricInterpretation")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if kind not in GREY or int(dataset.get("SamplesPerPixel") or 1) != 1 or frames != 1:
        raise DataError(f"{_name(source)} is no single grey picture ({kind}, {frames} frame(s)); leave it out.")
