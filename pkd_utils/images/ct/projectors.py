"""Line integrals through a CT along the anterior-posterior axis: geometry, a parallel beam and a cone beam in NumPy.

These projectors share nothing with plastimatch but the geometry, and check it; the parallel one also works where
plastimatch is not installed. **They are not the paper's**, which used plastimatch.

The source stands in front of the patient (`sad_mm` from the isocentre, the volume's centre), the detector behind. On
the picture rows go from head to feet and columns from the patient's right to the left, as radiographs are shown.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from pkd_utils.images.ct.volumes import Volume
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.physics import MU_WATER

Millimetres = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=8)]


@config
class DrrGeometry:
    """How the film is taken; every number is **not stated in the paper**.

    Attributes
    ----------
    sad_mm, sid_mm : float
        Distance from the source to the isocentre, and to the detector. Defaults: 1.8 m, the usual distance of a chest
        film, with the detector 150 mm behind the middle of the chest.
    detector_mm : (height, width)
        Size of the detector; default 430 x 430 mm, the largest usual cassette.
    detector_pixels : (rows, columns)
        Its resolution; default 512 x 512, about the CT's own in-plane resolution at the detector.
    frame : {"body", "detector"}
        "body": only the part of the detector that the body covers, and whose rays neither enter nor leave through the
        first or last slice. "detector": all of it, black where nothing is.
    """

    sad_mm: Millimetres = 1650.0
    sid_mm: Millimetres = 1800.0
    detector_mm: tuple[Millimetres, Millimetres] = (430.0, 430.0)
    detector_pixels: tuple[Pixels, Pixels] = (512, 512)
    frame: Literal["body", "detector"] = "body"

    def __post_init__(self):
        if self.sad_mm >= self.sid_mm:
            raise DataError(f"sad_mm must be below sid_mm, not {self.sad_mm} and {self.sid_mm}.")

    @property
    def magnification(self) -> float:
        """Of the plane through the isocentre."""
        return self.sid_mm / self.sad_mm

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Height and width of a detector pixel."""
        return tuple(size / count for size, count in zip(self.detector_mm, self.detector_pixels, strict=True))


class Frame(NamedTuple):
    """The exposed part of the detector, and where in it the central ray hits; in pixels, whose first is at (0, 0)."""

    rows: int
    columns: int
    centre_row: float
    centre_column: float


def frame_of(volume: Volume, body: tuple[np.ndarray, np.ndarray], geometry: DrrGeometry) -> Frame:
    """Part of the detector to expose; DataError if next to nothing of it is left.

    `body` holds the corners, low and high, of the body's box, LPS mm in the order z, y, x; for the frame "body" alone.
    """
    rows, columns = geometry.detector_pixels
    whole = Frame(rows, columns, (rows - 1) / 2, (columns - 1) / 2)
    if geometry.frame == "detector":
        return whole
    low, high = (np.asarray(corner) - volume.centre for corner in body)
    # At the sides, what lies in front is magnified most.
    front = geometry.sid_mm / (geometry.sad_mm + min(low[1], 0.0))
    pitch_v, pitch_u = geometry.pixel_mm
    lowest, highest = _whole_rays(volume, low, high, geometry)
    top = max(0, int(np.ceil(whole.centre_row - highest / pitch_v)))
    bottom = min(rows, int(np.floor(whole.centre_row - lowest / pitch_v)) + 1)
    left = max(0, int(np.floor(whole.centre_column + low[2] * front / pitch_u)))
    right = min(columns, int(np.ceil(whole.centre_column + high[2] * front / pitch_u)) + 1)
    if bottom - top < 8 or right - left < 8:
        raise DataError(
            f"The body covers {max(bottom - top, 0)} x {max(right - left, 0)} detector pixels: the volume is too short "
            "or far off its centre; look at it, or use the frame 'detector'."
        )
    return Frame(bottom - top, right - left, whole.centre_row - top, whole.centre_column - left)


def _whole_rays(volume: Volume, low: np.ndarray, high: np.ndarray, geometry: DrrGeometry) -> tuple[float, float]:
    """Lowest and highest z on the detector (mm) of the rays that pass a box between the first and the last slice.

    `low`, `high` are the box's corners in mm from the volume's centre. In an oblique stack the faces are tilted.
    """
    normal_x, normal_y, normal_z = volume.facts.get("slice_normal", (0.0, 0.0, 1.0))
    half = volume.facts.get("stack_mm", volume.hu.shape[0] * volume.spacing[0]) / 2
    y, x = (axis.ravel() for axis in np.meshgrid([low[1], high[1]], [low[2], high[2]]))
    magnified = geometry.sid_mm / (geometry.sad_mm + y)
    shift = x * normal_x + y * normal_y
    lowest, highest = (((end - shift) / normal_z) * magnified for end in (-half, half))
    return float(lowest.max()), float(highest.min())


def reach(volume: Volume, geometry: DrrGeometry, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """The box of voxels, `low` (included) to `high` (excluded) as (z, y, x), that the rays of a frame can meet.

    Rays part towards the detector, so the back of the volume decides. A voxel more is kept on each side, because
    projectors interpolate.
    """
    v, u = _detector_mm(geometry, frame)
    size, spacing = np.array(volume.hu.shape), np.array(volume.spacing)
    backs = (np.array([-1, 1]) * size[1] * spacing[1] / 2 + geometry.sad_mm) / geometry.sid_mm
    low, high = np.zeros(3, int), size.copy()
    for axis, distances in ((0, v), (2, u)):
        # Half a voxel lies between the volume's centre and the middle of its voxels' indices.
        ends = np.outer(backs, [distances.min(), distances.max()]) / spacing[axis] + (size[axis] - 1) / 2
        low[axis] = max(0, int(np.floor(ends.min())) - 1)
        high[axis] = min(size[axis], int(np.ceil(ends.max())) + 2)
    return low, np.maximum(high, low + 1)


def attenuation(hu: np.ndarray) -> np.ndarray:
    """Linear attenuation coefficient, 1/mm: mu = max(0, 1 + HU / 1000) * mu_water, float32."""
    return np.maximum(0, 1 + hu.astype(np.float32) / 1000) * np.float32(MU_WATER)


def _weights(size: int, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lower index, upper index and their weights of linear interpolation at `positions` (voxels); 0 outside."""
    inside = (positions > -0.5) & (positions < size - 0.5)  # as far as the voxels reach
    where = np.clip(positions, 0, size - 1)
    low = np.minimum(where.astype(np.int64), max(size - 2, 0))
    upper = ((where - low) * inside).astype(np.float32)
    return low, np.minimum(low + 1, size - 1), (inside - upper).astype(np.float32), upper


def _plane(slab: np.ndarray, z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A (Z, X) slab at the voxel positions `z` of the rows and `x` of the columns."""
    low, high, below, above = _weights(slab.shape[0], z)
    slab = slab[low] * below[:, None] + slab[high] * above[:, None]
    low, high, below, above = _weights(slab.shape[1], x)
    return slab[:, low] * below + slab[:, high] * above


def _detector_mm(geometry: DrrGeometry, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """z of the rows and x of the columns on the detector, mm from the central ray."""
    (pitch_v, pitch_u), rows, columns = geometry.pixel_mm, np.arange(frame.rows), np.arange(frame.columns)
    return (frame.centre_row - rows) * pitch_v, (columns - frame.centre_column) * pitch_u


def parallel_beam(volume: Volume, geometry: DrrGeometry, frame: Frame, centre: np.ndarray) -> np.ndarray:
    """Line integrals of attenuation along y, (rows, columns) float32, at the magnification of the isocentre's plane.

    `centre` is the isocentre, LPS mm in the order z, y, x: the centre of the volume before any cropping.
    """
    summed = np.zeros((volume.hu.shape[0], volume.hu.shape[2]), np.float32)
    for y in range(volume.hu.shape[1]):  # by slabs: the attenuation of a whole volume would take its size in floats
        summed += attenuation(volume.hu[:, y])
    v, u = (distance / geometry.magnification for distance in _detector_mm(geometry, frame))
    z = (v + centre[0] - volume.origin[0]) / volume.spacing[0]
    x = (u + centre[2] - volume.origin[2]) / volume.spacing[2]
    return _plane(summed, z, x) * np.float32(volume.spacing[1])


def cone_beam(volume: Volume, geometry: DrrGeometry, frame: Frame, centre: np.ndarray) -> np.ndarray:
    """Line integrals of attenuation along the rays of a point source, slab by slab along y.

    A slab of voxels at depth y is a plane, magnified by sid / (sad + y); a ray's path through it is longer than its
    thickness by the ray's obliquity. Otherwise as `parallel_beam`.
    """
    v, u = _detector_mm(geometry, frame)
    total = np.zeros((frame.rows, frame.columns), np.float32)
    for index in range(volume.hu.shape[1]):
        depth = volume.origin[1] + index * volume.spacing[1] - centre[1]
        scale = (geometry.sad_mm + depth) / geometry.sid_mm
        z = (v * scale + centre[0] - volume.origin[0]) / volume.spacing[0]
        x = (u * scale + centre[2] - volume.origin[2]) / volume.spacing[2]
        total += _plane(attenuation(volume.hu[:, index]), z, x)
    obliquity = np.sqrt(1 + (v[:, None] ** 2 + u[None] ** 2) / geometry.sid_mm**2)
    return (total * obliquity * volume.spacing[1]).astype(np.float32)
