"""Read a CT (NIfTI, or a folder with one DICOM series) in any orientation as Hounsfield units on LPS axes.

LPS is DICOM's patient frame: x grows to the patient's left, y to the back, z to the head. `plastimatch drr` ignores
direction cosines, so a volume must be brought to these axes before it is projected: one stored feet first or mirrored
would otherwise give a picture that is upside down or has its heart on the wrong side, and nothing would say so.

What is odd about a volume that can be read is for `pkd_utils.images.ct.checks` to name.
"""

import contextlib
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk

from pkd_utils.images.dicom import is_dicom
from pkd_utils.runs.errors import DataError

LOWEST, HIGHEST = -1024, 3071  # Hounsfield units of 12 bits; scanners pad outside their circle with less
OBLIQUE_DEGREES = 0.5  # axes nearer than this to the patient's count as aligned
READ_PROBLEMS = {
    "unreadable": "the file or folder is not a CT volume that SimpleITK can read",
    "not CT": "the DICOM modality is not CT",
    "several series": "the folder holds more than one DICOM series",
    "several acquisitions": "the DICOM series holds more than one stack of slices, or a localizer",
    "no orientation": "the file does not say, or says in two ways, where left, front and head are",
    "no spacing": "the slices do not say how far apart their pixels are, or differ in it",
    "missing slices": "the distances between slices differ: slices are missing or doubled",
    "tilted gantry": "slices are not stacked along their normal",
}
_NO_NUMBERS = "values that are no numbers (NaN or infinite)"
_SUFFIXES = (".nii.gz", ".nii")
# How a DICOM file without the 128 bytes and `DICM` begins: an element of group 2 or 8, its kind or its short length.
_BARE = re.compile(rb"(?s)[\x02\x08]\0..(?:[A-Z]{2}|..\0\0)|\0[\x02\x08]..[A-Z]{2}")
_TAGS = [
    *("SeriesInstanceUID", "Modality", "ImagePositionPatient", "ImageOrientationPatient", "PatientPosition"),
    *("PixelSpacing", "Rows", "Columns", "AcquisitionNumber"),
    *("PixelRepresentation", "PixelPaddingValue", "RescaleSlope", "RescaleIntercept"),
]


class VolumeError(DataError):
    """A volume that cannot be used; `name` is one of `READ_PROBLEMS`, for the table of failures."""

    def __init__(self, name: str, message: str):
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Volume:
    """A CT on LPS axes.

    Attributes
    ----------
    hu : (Z, Y, X) int16 array
        Hounsfield units, clamped to [-1024, 3071]; indices grow to the head, to the back and to the patient's left.
    spacing : (dz, dy, dx) floats, mm
    origin : (z, y, x) floats, mm
        LPS position of the centre of voxel (0, 0, 0).
    facts : dict
        `orientation` as stored (three letters), `oblique_degrees` (largest angle between a stored axis and the
        patient's), `stored_low`, `stored_high` (before clamping), `patient_position` (DICOM, else ""), `slice_normal`
        (LPS x, y, z, to the head) and `stack_mm` (length of the stored stack along it).
    """

    hu: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    facts: dict = field(default_factory=dict)

    @property
    def centre(self) -> np.ndarray:
        """LPS position (z, y, x) of the volume's centre, mm."""
        return np.array(self.origin) + (np.array(self.hu.shape) - 1) / 2 * np.array(self.spacing)

    def crop(self, low: Sequence[int], high: Sequence[int]) -> "Volume":
        """The box of voxels `low` (included) to `high` (excluded), both (z, y, x), at its own place."""
        hu = self.hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        origin = tuple(float(o + a * s) for o, a, s in zip(self.origin, low, self.spacing, strict=True))
        return Volume(hu, self.spacing, origin, self.facts)

    def image(self) -> sitk.Image:
        """The volume as a SimpleITK image with identity direction."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(self.hu))
        image.SetSpacing(self.spacing[::-1])
        image.SetOrigin(self.origin[::-1])
        return image


def image_id(path: str | Path) -> str:
    """Name of a volume without folder and suffix: what its radiograph is called."""
    name = Path(path).name
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.lower().endswith(suffix)), name)


def find_volumes(folder: str | Path) -> list[Path]:
    """Volumes below a folder, sorted: image files, and folders whose files are DICOM; it must hold one at least."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give the folder that holds the CT volumes.")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    images = [path for path in files if path.name.lower().endswith(_SUFFIXES)]
    series = []
    for path in files:  # the first DICOM file of a folder makes it a series, whatever lies beside it
        if path.parent not in series[-1:] and not path.name.lower().endswith((*_SUFFIXES, "dicomdir")):
            series += [path.parent] if _is_slice(path) else []
    series = sorted(set(series))
    if not images and not series:
        raise FileNotFoundError(f"{folder} holds no CT volume ({', '.join(_SUFFIXES)} or folders of DICOM files).")
    return sorted([*images, *series])


def read_volume(path: str | Path) -> Volume:
    """Read one volume and bring it to LPS axes.

    Parameters
    ----------
    path : str or Path
        A NIfTI file with a 3-D grid in patient coordinates, or a folder with the files of one DICOM series under any
        names. Axes that are permuted or flipped are reordered without a change of values; an
        oblique grid (by more than 0.5 degrees) is resampled, linearly, to axes along the patient's. What cannot be used
        is a `VolumeError`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no volume {path}: check the data root.")
    if path.is_dir():
        files, head = _slices_in_order(path)
        image = _read(files, path)
        padding = [head.get(name) for name in ("PixelPaddingValue", "RescaleSlope", "RescaleIntercept")]
        # Padding above all Hounsfield units, as 63536 is in words without a sign, would be the brightest bone.
        if None not in padding and (top := float(padding[0] * padding[1] + padding[2])) > HIGHEST:
            image = sitk.Threshold(image, -1e9, top - 0.5, LOWEST)
        return to_lps(image, path.name, str(head.get("PatientPosition", "")))
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    named = path.name.lower().endswith(".gz")
    if packed != named:
        what = ("compressed (gzip)", ".nii.gz") if packed else ("not compressed (gzip)", ".nii")
        raise VolumeError("unreadable", f"{path.name} is {what[0]}, which its name denies; let it end in {what[1]}.")
    check_whole(path)
    return to_lps(_read(path, path), path.name)


def to_lps(image: sitk.Image, name: str = "the image", patient_position: str = "") -> Volume:
    """Bring a SimpleITK image of Hounsfield units to LPS axes; see `read_volume`."""
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() != 3 or components != 1:
        size = " x ".join(map(str, image.GetSize()))
        message = f"{name} is no volume: it has {size} voxels of {components} value(s); give one 3-D grid of HU a file."
        raise VolumeError("unreadable", message)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    stored = sitk.DICOMOrientImageFilter().GetOrientationFromDirectionCosines(image.GetDirection())
    oblique = float(np.degrees(np.arccos(np.clip(np.abs(direction).max(axis=0), 0, 1))).max())
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())  # NaN anywhere makes both NaN
    if not np.isfinite([low, high]).all():
        raise VolumeError("unreadable", f"{name} holds {_NO_NUMBERS}; write it again.")
    axis = int(np.abs(direction[2]).argmax())  # the stored axis from feet to head
    facts = {
        "orientation": stored,
        "oblique_degrees": round(oblique, 2),
        "stored_low": low,
        "stored_high": high,
        "patient_position": patient_position,
        "slice_normal": tuple((direction[:, axis] * np.sign(direction[2, axis])).tolist()),
        "stack_mm": float(image.GetSize()[axis] * image.GetSpacing()[axis]),
    }
    if oblique > OBLIQUE_DEGREES:
        image = _resampled(image, min(low, LOWEST))
    elif stored != "LPS":
        image = sitk.DICOMOrient(image, "LPS")
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f":
        values = np.rint(values)
    # One pass clamps and converts: a chest CT has a hundred million bytes.
    hu = np.empty(values.shape, np.int16)
    np.clip(values, LOWEST, HIGHEST, out=hu, casting="unsafe")
    return Volume(hu, image.GetSpacing()[::-1], image.GetOrigin()[::-1], facts)


def _resampled(image: sitk.Image, outside: float) -> sitk.Image:
    """The image on axes along the patient's, in a box around it; as fine as the stored axis nearest to each."""
    size = np.array(image.GetSize())
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in size])).reshape(3, -1).T
    corners = np.array([image.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners])
    direction = np.abs(np.array(image.GetDirection()).reshape(3, 3))
    spacing = np.array(image.GetSpacing())[direction.argmax(axis=1)]
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.maximum(1, np.round((high - low) / spacing)).astype(int)
    origin = (low + high) / 2 - (size - 1) / 2 * spacing
    return sitk.Resample(
        image, size.tolist(), sitk.Transform(), sitk.sitkLinear, origin.tolist(), spacing.tolist(),
        np.eye(3).ravel().tolist(), outside,
    )  # fmt: skip


def _read(source: Path | list[str], path: Path) -> sitk.Image:
    """Read with SimpleITK; its pages of text become one sentence."""
    try:
        return sitk.ReadImage(str(source) if isinstance(source, Path) else source)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("): ")[-1].strip()[:200]
        raise VolumeError("unreadable", f"{path.name} cannot be read ({reason}); fetch or convert it again.") from None


def check_whole(path: Path) -> None:
    """VolumeError for a NIfTI file that ends early, has no sides or two kinds, is sheared, or holds NaN (ITK's water).

    Whole numbers are not read.
    """
    try:
        image = nibabel.load(path)
    except Exception as error:  # what SimpleITK read, nibabel may refuse in many ways
        reason = " ".join(str(error).split())
        raise VolumeError("unreadable", f"{path.name} cannot be read ({reason}); convert it again.") from None
    forms = [form for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)) if code]
    if not forms:
        lacking = "does not say where left, front and head are; convert it again from its source, with its orientation."
        raise VolumeError("no orientation", f"{path.name} {lacking}")
    # SimpleITK takes the sform, or without a word the qform where the sform is sheared or of other steps.
    steps = [np.linalg.norm(form[:3, :3], axis=0) for form in forms]
    with np.errstate(invalid="ignore"):
        axes = [form[:3, :3] / step for form, step in zip(forms, steps, strict=True)]
    lean = max(float(np.degrees(np.arcsin(np.abs(each.T @ each - np.eye(3)).max()))) for each in axes)
    if lean > OBLIQUE_DEGREES:
        raise _tilted(path.name, lean)
    apart = float(np.degrees(np.arccos(np.clip((axes[0] * axes[-1]).sum(axis=0).min(), -1, 1))))
    if not (apart <= OBLIQUE_DEGREES and np.allclose(steps[0], steps[-1], rtol=0.01)):
        codes = " and ".join("".join(map(str, nibabel.aff2axcodes(form))) for form in forms)
        said = f"{path.name} gives its axes as {codes} (sform and qform), {apart:.1f} degrees apart"
        sizes = " and ".join(" x ".join(f"{length:.3g}" for length in step) for step in steps)
        raise VolumeError("no orientation", f"{said}, with voxels of {sizes} mm; correct its header.")
    stored = image.dataobj
    needed = stored.offset + int(np.prod(stored.shape)) * stored.dtype.itemsize
    size = path.stat().st_size
    if path.name.lower().endswith(".gz"):
        with open(path, "rb") as file:
            file.seek(-4, 2)
            size = int.from_bytes(file.read(4), "little")  # gzip ends with the length of what it holds
        if size != needed % 2**32:  # cut, or written in several members: count
            size = 0
            with contextlib.suppress(EOFError, OSError, zlib.error), gzip.open(path) as file:
                while part := file.read(1 << 24):
                    size += len(part)
    if size < needed:
        raise VolumeError("unreadable", f"{path.name} ends early: {size} of {needed} bytes are there; fetch it again.")
    if stored.dtype.kind == "f" and not np.isfinite(stored.get_unscaled()).all():
        raise VolumeError("unreadable", f"{path.name} holds {_NO_NUMBERS}; write it again.")


def _is_slice(path: Path) -> bool:
    """True of a DICOM file, also of an old one that begins with its first element."""
    with open(path, "rb") as file:
        return is_dicom(path) or _BARE.match(file.read(8)) is not None


def _slices_in_order(folder: Path) -> tuple[list[str], pydicom.Dataset]:
    """Files of the one DICOM series in a folder, from the first slice to the last, and what one of them says."""
    heads = {}
    for file in sorted(item for item in folder.iterdir() if item.is_file() and _is_slice(item)):
        try:
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            if head.get("ImagePositionPatient") and head.get("ImageOrientationPatient"):
                heads[str(file)] = head
        except Exception as error:  # a damaged header fails in many ways
            message = f"{file.name} in {folder.name} cannot be read as DICOM ({type(error).__name__}); fetch it again."
            raise VolumeError("unreadable", message) from None
    files, found = list(heads), list(heads.values())
    _check_series(found, folder.name)
    along = np.array(found[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(along[:3], along[3:])
    positions = np.array([head.ImagePositionPatient for head in found], dtype=float)
    order = np.argsort(positions @ normal)
    acquisitions = np.array([str(head.get("AcquisitionNumber", "")) for head in found])
    _check_stack(positions[order], normal, acquisitions[order], folder.name)
    return [files[i] for i in order], found[0]


def _check_series(found: list[pydicom.Dataset], name: str) -> None:
    """VolumeError for slices that make no stack; each check relies on the earlier ones."""
    if not found:
        said = f"{name} holds no DICOM slices with a position; give the folder of one series."
        raise VolumeError("unreadable", said)
    modalities = sorted({str(head.get("Modality", "missing")) for head in found})
    if modalities != ["CT"]:
        raise VolumeError("not CT", f"The series in {name} has the modality {', '.join(modalities)}, not CT.")
    several = len({str(head.get("SeriesInstanceUID", "")) for head in found})
    if several > 1:
        said = f"{name} holds {several} DICOM series; give each a folder of its own."
        raise VolumeError("several series", said)
    orientations = np.array([head.ImageOrientationPatient for head in found], dtype=float)
    if np.ptp(orientations, axis=0).max() > 1e-3:
        said = f"The slices in {name} point into different directions; take localizers and other stacks out."
        raise VolumeError("several acquisitions", said)
    grids = np.array([[*(head.get("PixelSpacing") or (0, 0)), head.Rows, head.Columns] for head in found], dtype=float)
    if grids[:, :2].min() <= 0:
        raise VolumeError("no spacing", f"Slices in {name} have no PixelSpacing; fetch the series again.")
    if (np.ptp(grids, axis=0) > [1e-3, 1e-3, 0, 0]).any():
        said = f"The slices in {name} differ in PixelSpacing or size; give each stack of slices a folder of its own."
        raise VolumeError("no spacing", said)


def _odd_steps(places: np.ndarray) -> np.ndarray:
    """Which steps between slices, in order, differ from the usual one."""
    steps = np.diff(places)
    usual = float(np.median(steps))
    return np.flatnonzero(np.abs(steps - usual) > max(0.05 * usual, 0.02))


def _check_stack(positions: np.ndarray, normal: np.ndarray, acquisitions: np.ndarray, name: str) -> None:
    """VolumeError for slices of several stacks, missing, doubled, or sheared against their normal (a tilted gantry)."""
    if len(positions) < 2:
        raise VolumeError("missing slices", f"The series in {name} has one slice; a volume needs many.")
    places = positions @ normal
    steps, odd = np.diff(places), _odd_steps(places)
    usual = float(np.median(steps))
    _, times = np.unique(np.round(places / 0.02), return_counts=True)
    if times.min() > 1:
        said = f"Every position in {name} has {times.min()} slices or more; give each stack a folder of its own."
        raise VolumeError("several acquisitions", said)
    stacks = [places[acquisitions == acquisition] for acquisition in np.unique(acquisitions)]
    # Not the rotations of one scan, which may have numbers of their own, and one slice that is missing between two.
    apart = 1 < len(stacks) <= len(odd) + 1
    if apart and all(len(stack) > 1 and not len(_odd_steps(stack)) for stack in stacks):
        said = f"The series in {name} holds {len(stacks)} acquisitions; give each a folder of its own."
        raise VolumeError("several acquisitions", said)
    if len(odd):
        what = "missing" if steps[odd[0]] > usual else "doubled or crowded"
        raise VolumeError(
            "missing slices",
            f"Slices are {what} in {name}: {len(odd)} of {len(steps)} steps differ from the usual {usual:.2f} mm, the "
            f"first is {steps[odd[0]]:.2f} mm after slice {odd[0] + 1}; fetch the series again.",
        )
    along = positions[-1] - positions[0]
    angle = float(np.degrees(np.arccos(np.clip(abs(along @ normal) / np.linalg.norm(along), 0, 1))))
    if angle > OBLIQUE_DEGREES:
        raise _tilted(name, angle)


def _tilted(name: str, degrees: float) -> VolumeError:
    said = f"The slices in {name} are stacked {degrees:.1f} degrees off their normal"
    return VolumeError("tilted gantry", f"{said}; correct the tilt first (for example with dcm2niix).")
