"""Small CT volumes with the findings of the causal model, from the one real chest CT: what INSPECT's layout needs.

The CT is brought to a coarse grid once; a finding moves voxels towards water by the same fills that `findings` gives
the films, so a study's lesions are the same in a radiograph made from the volume. Embolism is simulated: the contrast
medium leaves a stretch of the pulmonary arteries and the heart grows.

Coordinates as in `anatomy`: x to the patient's left, y to the front, z up, millimetres from the carina. Arrays are in
that order (L, A, S) until `orient` stores them as a scanner might.
"""

import functools
import gzip
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations
from scipy import ndimage

from pkd_utils.demo.chest import anatomy
from pkd_utils.demo.chest.anatomy import HEART, Points
from pkd_utils.demo.chest.film import Body, spline
from pkd_utils.demo.chest.findings import Field, Lesion, heart_delta, lesion_fill
from pkd_utils.runs.physics import MU_WATER

SUPINE = 1.2  # radians that fluid runs to the back: CT is taken lying down
# Direction of the voxel axes in the file and how often: readers that ignore the affine get most of them wrong.
ORIENTATIONS = {"LAS": 0.30, "LPS": 0.20, "RAS": 0.20, "RPI": 0.10, "ALS": 0.10, "SLA": 0.10}
DESCRIPTION = b"SIMULATED CT, not a patient; pkd_utils.demo"
_GRID = 4  # control points of the elastic warp along each axis
_CONTRAST = 420.0  # HU; streaks in the vein that carries the contrast medium are cut here
_ARTERY_REACH = 70.0  # mm from the carina within which unlabelled bright vessels count as pulmonary arteries


@dataclass(frozen=True)
class Torso:
    """The CT on a cubic grid (X, Y, Z), float32 where not said otherwise, and the points on which findings act."""

    soft: np.ndarray  # HU without bone mineral and contrast medium
    mineral: np.ndarray  # HU that bone adds
    contrast: np.ndarray  # HU that the contrast medium adds
    aorta: np.ndarray  # 1 in the wall of the aorta, which calcifies with age
    arteries: np.ndarray  # uint8: 1 left, 2 right pulmonary arteries, as far as bright near the carina; 3 aorta
    origin: np.ndarray  # (3,) voxel coordinates of the carina
    voxel: float  # edge of a voxel, mm
    points: Points  # voxels of lung, heart and its fat; `pixel` is the flat voxel index
    domes: np.ndarray  # (2,) height of the right and left dome of the diaphragm, mm from the carina
    breasts: np.ndarray  # (2, 3) centres of the right and left breast on the skin, mm


@dataclass(frozen=True)
class Scan:
    """One CT pulmonary angiogram to be."""

    body: Body
    age: float  # years
    heart_scale: float  # size of the heart relative to the CT's
    lesions: list[Lesion] = field(default_factory=list)
    burden: float = 0.0  # share of the pulmonary arteries of `side` that a clot fills, 0 to 1
    side: str = "bilateral"  # or "left", "right"
    inspiration: float = 0.85  # 1 full breath, 0 very shallow
    noise: float = 12.0  # standard deviation, HU
    seed: tuple = (0,)  # of warp, contrast, clot, noise and geometry


def _resample(volume, step, voxel, shape, order):
    """`volume` (spacing `step`, mm) at the centres of cubic voxels; blurred first where it is averaged."""
    factor = voxel / np.asarray(step)
    if order:
        volume = ndimage.gaussian_filter(volume, 0.35 * factor)
    return ndimage.affine_transform(volume, factor, 0.5 * factor - 0.5, shape, order=order, mode="nearest")


def _prepare(folder: Path, voxel: float) -> dict[str, np.ndarray]:
    """Everything of `Torso` as arrays; about 20 s."""
    mu, mineral, labels, names, step = anatomy.read(folder)
    shape = tuple((np.array(mu.shape) * step / voxel).astype(int))
    raw = np.asanyarray(nibabel.load(folder / "cxr.nii.gz").dataobj)[::2, ::2].astype(np.float32)
    # What `anatomy.read` took for contrast medium: brighter than muscle outside bone, in the chest's vessels and heart.
    vessels = np.isin(labels, [names[name] for name in names.index if 51 <= names[name] <= 63])
    lung = np.isin(labels, [names[name] for name in anatomy.LUNGS])
    origin = anatomy.carina(labels, names)
    offsets = np.ogrid[tuple(slice(n) for n in labels.shape)]
    distance = sum(((o - c) * s) ** 2 for o, c, s in zip(offsets, origin, step, strict=True))
    free = (labels == 0) | (labels == names["pulmonary_vein"]) | lung
    central = free & (distance < _ARTERY_REACH**2) & (mineral == 0)
    bright = np.clip(np.minimum(raw, _CONTRAST) - 50, 0, None) * ((vessels | central) & (raw > 110))
    arteries = (central & (raw > 150)).astype(np.uint8)
    arteries[: round(origin[0])] *= 2  # x grows to the patient's left
    arteries[labels == names["aorta"]] = 3
    wall = anatomy.aortic_wall(labels, names)

    coarse = functools.partial(_resample, step=step, voxel=voxel, shape=shape)
    origin = (origin + 0.5) * step / voxel - 0.5
    labels = coarse(labels, order=0)
    mu, mineral = coarse(mu, order=1), coarse(mineral, order=1)
    fields = {"mu": mu} | anatomy.tissue_fields(labels, names, voxel, closing=2, fat=2, lung=3, bones=1)
    at = np.flatnonzero(fields["tissue"])
    index = np.stack(np.unravel_index(at, shape), axis=1)
    tops = [labels == names["liver"], np.isin(labels, [names["stomach"], names["spleen"]])]
    return {
        "soft": ((mu - mineral) / MU_WATER * 1000 - 1000).astype(np.float32),
        "mineral": (mineral / MU_WATER * 1000).astype(np.float32),
        "contrast": coarse(bright, order=1).astype(np.float32),
        "aorta": coarse(wall, order=1).astype(np.float32),
        "arteries": coarse(arteries, order=0),
        "origin": origin,
        "points/pixel": at.astype(np.int32),
        "points/xyz": ((index - origin) * voxel).astype(np.float32),
        **{f"points/{name}": volume.ravel()[at] for name, volume in fields.items()},
        "domes": np.array([(np.flatnonzero(top.any((0, 1)))[-1] - origin[2]) * voxel for top in tops]),
        "breasts": np.array(anatomy.breasts(mu, origin, voxel)),
    }


@functools.lru_cache(maxsize=1)
def load(folder: Path, voxel: float = 4.0) -> Torso:
    """The CT in `folder` on a grid of `voxel` mm, prepared once and kept in a cache file beside that of `anatomy`."""
    arrays = anatomy.kept("torso", folder, __name__, voxel, make=_prepare)
    points = Points(**{name: arrays.pop(f"points/{name}") for name in Points.__dataclass_fields__})
    return Torso(points=points, voxel=voxel, **arrays)


def _clot(torso: Torso, scan: Scan, rng) -> np.ndarray:
    """Share of the contrast medium that stays, (X, Y, Z): 0 where a clot fills the artery.

    The clot takes the `burden` of an artery's voxels that lie nearest to a random seed point in it.
    """
    stays = np.ones(torso.contrast.shape, np.float32)
    for code, side in ((1, "left"), (2, "right")):
        cells = np.argwhere(torso.arteries == code)
        start = cells[rng.integers(len(cells))]
        if scan.burden <= 0 or scan.side not in (side, "bilateral"):
            continue
        near = ((cells - start) ** 2).sum(1).argsort(kind="stable")[: max(1, round(scan.burden * len(cells)))]
        stays[tuple(cells[near].T)] = 0.0
    return stays


def _coordinates(torso: Torso, scan: Scan, rng) -> np.ndarray:
    """Voxel coordinates (3, X, Y, Z), float32, from which each voxel is taken: elastic warp and breath."""
    shape = torso.soft.shape
    own = np.random.default_rng([*scan.body.seed, 9])
    knots = own.standard_normal((3, _GRID, _GRID, _GRID)) * 5 + rng.standard_normal((3, _GRID, _GRID, _GRID)) * 2.5
    moved = knots / torso.voxel
    for axis, size in enumerate(shape, start=1):
        # Multiply and add, not BLAS: the same bytes whatever the number of threads.
        moved = np.moveaxis(np.einsum("sk,kabc->sabc", spline(_GRID, size), np.moveaxis(moved, axis, 0)), 0, axis)
    where = np.indices(shape, dtype=np.float32) + moved.astype(np.float32)
    x, _, z = ((np.arange(n) - o) * torso.voxel for n, o in zip(shape, torso.origin, strict=True))
    for dome, side, centre in zip(torso.domes, ("right", "left"), (-70.0, 70.0), strict=True):
        lift = 34 * (0.9 - scan.inspiration) + rng.normal(0, 4)
        lift += sum(16 * a.severity for a in scan.lesions if a.finding == "Atelectasis" and a.side == side)
        rise = np.exp(-(((x - centre) / 62) ** 2))[:, None] * np.exp(-(((z - dome) / 50) ** 2))
        where[2] -= (lift / torso.voxel * rise).astype(np.float32)[:, None, :]
    return where


def make_volume(torso: Torso, points: Field, scan: Scan) -> np.ndarray:
    """Hounsfield units of one scan: (X, Y, Z) int16 in [-1024, 3071], axes to the left, front and top.

    `points` is `Field(torso.points)`, built once a process.
    """
    rng = np.random.default_rng([*scan.seed, 0])
    own = np.random.default_rng([*scan.body.seed, 8])
    at, change, inside = heart_delta(points, scan.heart_scale)
    mu = torso.points.mu.copy()
    mu[at] += change
    clear = np.ones_like(mu)
    for lesion in scan.lesions:
        if lesion.finding != "Cardiomegaly":  # drawn by the heart's scale
            where, fill = lesion_fill(points, lesion, SUPINE)
            clear[where] *= 1 - fill
    mu += (1 - clear) * np.maximum(MU_WATER - mu, 0)

    contrast = torso.contrast * _clot(torso, scan, rng) * np.float32(rng.uniform(0.75, 1.15))
    # The scan is timed for the pulmonary arteries; the aorta has had less of the contrast medium by then.
    contrast *= np.where(torso.arteries == 3, np.float32(rng.uniform(0.35, 0.9)), np.float32(1))
    blood = np.ones(contrast.size, np.float32)
    blood[torso.points.pixel[at]] = np.where(torso.points.tissue[at] == HEART, inside, 1)
    aged = np.clip((scan.age - 40) / 50, -0.4, 1.0)
    mineral = (1 - 0.4 * aged) * own.uniform(0.9, 1.1)
    calcium = 500 * max(0.0, (scan.age - 55) / 35) ** 1.5 * own.uniform(0.3, 1.7)
    hu = torso.soft + contrast * blood.reshape(contrast.shape) + mineral * torso.mineral + calcium * torso.aorta
    hu.ravel()[torso.points.pixel] += (mu - torso.points.mu) / MU_WATER * 1000
    if scan.body.sex == "F":
        _add_breasts(hu, torso, own.uniform(0.7, 1.2))
    hu = ndimage.map_coordinates(hu.astype(np.float32), _coordinates(torso, scan, rng), order=1, mode="nearest")
    # The air around the body has no noise, which halves the file.
    hu += scan.noise * rng.standard_normal(hu.shape, dtype=np.float32) * (hu > -980)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def _add_breasts(hu, torso: Torso, size: float) -> None:
    """Two half ellipsoids of fat in front of the chest; flatter than upright, since the patient lies on the back."""
    x, y, z = (
        ((np.arange(n) - o) * torso.voxel).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, o) in enumerate(zip(hu.shape, torso.origin, strict=True))
    )
    for centre, front, height in torso.breasts:
        q = ((x - centre) / (56 * size)) ** 2 + ((y - front) / (22 * size)) ** 2 + ((z - height) / (56 * size)) ** 2
        hu[(q < 1) & (hu < -500) & (y > front - 25)] = -90.0


@dataclass(frozen=True)
class VolumeGeometry:
    """How a volume lies in its file: axis directions, pose, and which part of the body it covers."""

    codes: str
    angles: tuple[float, float, float]  # degrees about x, y, z
    crop: tuple[tuple[float, float], ...]  # shares cut off at the low and high end of x, y, z


def draw_geometry(seed: tuple) -> VolumeGeometry:
    """Axis directions for every volume; for a third a small rotation, for a sixth a cropped field of view."""
    rng = np.random.default_rng([*seed, 1])
    codes = str(rng.choice(list(ORIENTATIONS), p=list(ORIENTATIONS.values())))
    angles = rng.normal(0, 3, 3) if rng.random() < 1 / 3 else np.zeros(3)
    crop = np.zeros((3, 2))
    if rng.random() < 1 / 6:
        crop = np.array([(0.0, 0.0), (0.0, 0.04), (0.12, 0.05)]) * rng.uniform(0.3, 1, (3, 2))
    return VolumeGeometry(codes, tuple(angles.round(2).tolist()), tuple(map(tuple, crop.round(3).tolist())))


def orient(volume: np.ndarray, voxel: float, scan: Scan, geometry: VolumeGeometry | None = None) -> nibabel.Nifti1Image:
    """Put a volume (L, A, S) into a NIfTI image as `geometry` says; the affine alone knows what is left and up.

    The patient's size is in the spacing: width across, width times habitus from front to back, height.
    """
    geometry, body = geometry or draw_geometry(scan.seed), scan.body
    parts = zip(geometry.crop, volume.shape, strict=True)
    volume = volume[tuple(slice(round(low * n), n - round(high * n)) for (low, high), n in parts)]
    spacing = voxel * np.array([body.width, body.width * body.habitus, body.height])
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    a, b, c = np.deg2rad(geometry.angles)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn = turn @ np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn = turn @ np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    centre = affine[:3, :3] @ ((np.array(volume.shape) - 1) / 2)
    # Where a scanner puts its origin is arbitrary.
    affine[:3, 3] = np.random.default_rng([*scan.seed, 2]).normal(0, 60, 3) - centre
    change = orientations.ornt_transform(*(orientations.axcodes2ornt(tuple(c)) for c in ("LAS", geometry.codes)))
    affine = affine @ orientations.inv_ornt_aff(change, volume.shape)
    image = nibabel.Nifti1Image(np.ascontiguousarray(orientations.apply_orientation(volume, change)), affine)
    image.header["descrip"] = DESCRIPTION
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    return image


def compress(image: nibabel.Nifti1Image) -> bytes:
    """The bytes of a .nii.gz file; without a time stamp, so the same every time."""
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)
