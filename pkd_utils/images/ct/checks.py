"""Name what is odd about a CT before it becomes a radiograph: empty, not HU, cropped, rotated, decubitus, thick ...

The checks work on blocks of about 4 mm and look at the picture as well as the header, because a header can be wrong:
the spine says where the back is, and the table on what the patient lies. They are rules of thumb with documented
limits, meant to list the volumes that a person should look at.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from pkd_utils.images.ct.volumes import OBLIQUE_DEGREES, READ_PROBLEMS, Volume

BLOCK_MM = 4.0
BODY_HU, TABLE_HU, AIR_HU, LUNG_HU, BONE_HU = -400, -700, -700, -600, 150
# From where on something counts as odd; all are choices of ours, not stated in the paper.
LEAST_SLICES = 16
LEAST_BODY_LITRES = 2.0  # of the largest connected thing denser than BODY_HU
THICK_MM = 5.0  # from slice to slice
ROTATED_DEGREES = 35.0  # of the spine, seen from the middle of the body, against the back
CUT_MM = 80.0  # of the body's outline on the edge of the field of view, mean of all slices; cut shoulders stay below
LUNG_CM2 = 40.0  # of lung in the first or the last slice
FATAL = {
    "empty": "every value is the same, or nothing as large as a body is in it",
    "not HU": "the values are not Hounsfield units: there is no air, or no soft tissue, where they should be",
    "few slices": "fewer slices than any chest has",
}
NAMED = {
    "oblique": "the stored axes are not the patient's; the volume was resampled",
    "rotated": "the patient is turned about the long axis",
    "decubitus": "the patient lies on the side",
    "prone": "the patient lies on the belly",
    "cropped sides": "the field of view cuts the body at its sides",
    "cropped lungs": "the lungs go on beyond the first or the last slice",
    "thick slices": "slices so thick that the picture is blurred from head to feet",
}
PROBLEMS = READ_PROBLEMS | FATAL | NAMED
"""Every name in the table of failures, with what it means. Those of `NAMED` still have a radiograph."""


class Problem(NamedTuple):
    """One thing that is odd: its name in `PROBLEMS`, and a sentence with the numbers."""

    name: str
    message: str


@dataclass(frozen=True)
class PatientBody:
    """The patient's filled outline `mask` in blocks of `block` voxels; corners `low`, `high` in LPS mm (z, y, x)."""

    mask: np.ndarray
    block: tuple[int, int, int]
    low: np.ndarray
    high: np.ndarray


def blocks_of(volume: Volume) -> tuple[np.ndarray, tuple[int, int, int], np.ndarray]:
    """Means over blocks of about 4 mm (float32), the block's size in voxels and in mm, both in the order z, y, x."""
    block = tuple(min(n, max(1, round(BLOCK_MM / s))) for n, s in zip(volume.hu.shape, volume.spacing, strict=True))
    z, y, x = (n // b for n, b in zip(volume.hu.shape, block, strict=True))
    means = np.zeros((z, y, x), np.float32)
    for i in range(z * block[0]):  # INTER_AREA by a whole factor is the mean of the block
        plane = np.ascontiguousarray(volume.hu[i, : y * block[1], : x * block[2]])
        means[i // block[0]] += cv2.resize(plane.astype(np.float32), (x, y), interpolation=cv2.INTER_AREA)
    means /= block[0]
    return means, block, np.array(block) * volume.spacing


def find_body(volume: Volume, blocks) -> PatientBody | None:
    """The largest connected thing in `blocks_of` a volume above -400 HU, holes filled slice by slice; or None.

    Tables and blankets touch the patient through foam that is lighter than that, and fall off.
    """
    means, block, size = blocks
    parts, count = ndimage.label(ndimage.binary_opening(means > BODY_HU, np.ones((1, 2, 2))))
    if not count:
        return None
    largest = parts == np.bincount(parts[parts > 0]).argmax()
    mask = np.stack([ndimage.binary_fill_holes(plane) for plane in largest])
    place = ndimage.find_objects(mask.astype(np.int8))[0]
    edge = np.array(volume.origin) - np.array(volume.spacing) / 2
    low, high = (edge + np.array(corner) * size for corner in zip(*((s.start, s.stop) for s in place), strict=True))
    return PatientBody(mask, block, low, high)


def inspect(volume: Volume) -> tuple[PatientBody | None, list[Problem]]:
    """Find the body, if the volume holds one, and name what is odd: nothing for an ordinary chest CT.

    A name of `FATAL` means that no radiograph can be made, and ends the list.
    """
    facts, shape = volume.facts, volume.hu.shape
    low, high = facts.get("stored_low", float(volume.hu.min())), facts.get("stored_high", float(volume.hu.max()))
    if low == high:
        return None, [Problem("empty", f"every voxel holds {low:g}")]
    if shape[0] < LEAST_SLICES:
        return None, [Problem("few slices", f"{shape[0]} slices, fewer than {LEAST_SLICES}")]
    blocks = blocks_of(volume)
    means, _, size = blocks
    air, soft = float((means < AIR_HU).mean()), float((np.abs(means) < 200).mean())
    if air > 0.999 and high < 500:
        return None, [Problem("empty", f"{air:.1%} of it is air")]
    if air < 0.01 or soft < 0.01:
        share = f"values from {low:g} to {high:g}; {air:.1%} of it is air and {soft:.1%} soft tissue"
        return None, [Problem("not HU", share)]
    body = find_body(volume, blocks)
    litres = 0.0 if body is None else float(body.mask.sum() * np.prod(size) / 1e6)
    if litres < LEAST_BODY_LITRES:
        return None, [Problem("empty", f"its largest part has {litres:.1f} litres, less than {LEAST_BODY_LITRES:g}")]
    found, oblique = [], facts.get("oblique_degrees", 0.0)
    if oblique > OBLIQUE_DEGREES:
        found.append(Problem("oblique", f"stored {oblique:.1f} degrees off the patient's axes"))
    cropped = _cropped(means, body.mask, size)
    # Where the sides are cut, nobody knows the middle of the body, from which the spine is seen.
    whole = all(problem.name != "cropped sides" for problem in cropped)
    found += _lying(means, body.mask, facts.get("patient_position", ""), whole) + cropped
    if volume.spacing[0] > THICK_MM + 1e-3:
        found.append(Problem("thick slices", f"{volume.spacing[0]:.1f} mm from slice to slice"))
    return body, found


def _spine_angle(means: np.ndarray, mask: np.ndarray) -> float | None:
    """Where the spine lies, seen from the middle of the body, in degrees from the back; None if no spine is found.

    90 is left, -90 right, 180 the front. The spine is what is dense in all slices: contrast medium fills the heart in a
    part of them only, so the least of the shares in the lower, middle and upper third decides.
    """
    dense = (means > BONE_HU) & mask
    thirds = [part.mean(axis=0) for part in np.array_split(dense, 3)]
    column = np.min([ndimage.gaussian_filter(part.astype(np.float32), 1.5) for part in thirds], axis=0)
    if column.max() < 0.1:
        return None
    spine = ndimage.center_of_mass(column * (column > column.max() / 2))
    y, x = np.subtract(spine, ndimage.center_of_mass(mask)[1:])
    return float(np.degrees(np.arctan2(x, y)))


def _table_angle(means: np.ndarray, mask: np.ndarray) -> float | None:
    """Where the table lies, in degrees from the back; None if next to nothing is outside the body, or all around it."""
    outside = (means > TABLE_HU) & ~ndimage.binary_dilation(mask, iterations=2)
    persistent = outside.mean(axis=0) > 0.5  # a table goes through all slices; arms and wires do not
    if persistent.sum() < 10:
        return None
    y, x = np.subtract(ndimage.center_of_mass(persistent), ndimage.center_of_mass(mask)[1:])
    reach = np.sqrt(mask.any(axis=0).sum() / np.pi)
    return float(np.degrees(np.arctan2(x, y))) if np.hypot(y, x) > reach / 3 else None


def _lying(means, mask, position: str, whole: bool) -> list[Problem]:
    """Rotated, decubitus or prone, by the spine (if the body is whole), the header's word and the table."""
    spine = _spine_angle(means, mask) if whole else None
    if spine is not None and abs(spine) > ROTATED_DEGREES:
        kind = "rotated" if abs(spine) < 60 else "decubitus" if abs(spine) < 120 else "prone"
        return [Problem(kind, f"the spine lies {spine:+.0f} degrees from the header's back: the view is not AP")]
    if position[2:] in ("P", "DL", "DR"):
        kind = "prone" if position[2:] == "P" else "decubitus"
        return [Problem(kind, f"the header says {position}; the view is AP, but organs sag another way")]
    table = _table_angle(means, mask) if whole else None
    if table is not None and abs(table) > 60:
        kind = "decubitus" if abs(table) < 120 else "prone"
        return [Problem(kind, f"the table lies {table:+.0f} degrees from the back; organs sag another way")]
    return []


def _cropped(means, mask, size) -> list[Problem]:
    """The body on the edge of the field of view, square or round; lung in the first or last slice."""
    found = []
    length = mask[:, [0, -1]].sum() * size[2] + mask[:, 1:-1, [0, -1]].sum() * size[1]
    y, x = (np.arange(n) - (n - 1) / 2 for n in mask.shape[1:])
    radius = np.hypot(y[:, None] * size[1], x[None] * size[2])
    inner = min(mask.shape[1] * size[1], mask.shape[2] * size[2]) / 2
    corners = means[:, radius > inner + 1.5 * BLOCK_MM]
    beyond = mask[:, radius > inner + BLOCK_MM / 2].any()
    if corners.size and np.ptp(corners) < 1 and not beyond:  # nothing but padding: the scanner's circle
        ring = (radius > inner - 2 * BLOCK_MM) & (radius <= inner)
        length += (mask & ring).sum() * size[1] * size[2] / (2 * BLOCK_MM)
    cut = float(length / len(mask))
    if cut > CUT_MM:
        found.append(Problem("cropped sides", f"{cut:.0f} mm of its outline lie on the edge of the field of view"))
    for i, where in ((0, "first (lowest)"), (-1, "last (highest)")):
        area = float(((means[i] < LUNG_HU) & mask[i]).sum() * size[1] * size[2] / 100)
        if area > LUNG_CM2:
            found.append(Problem("cropped lungs", f"{area:.0f} cm2 of lung in the {where} slice"))
    return found
