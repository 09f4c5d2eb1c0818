"""A real chest CT turned into what the X-ray simulator needs: healthy projections and lung points, per view.

The X-ray transform is linear, so the healthy thorax is projected once per view at full resolution, and a finding adds
the projection of its change of attenuation, delta-mu. Findings live on *lung points*: the voxels of lung, heart and
pericardial fat on a grid whose axes follow the (cone-beam) rays of a view, so that projecting is one `bincount` over
detector pixels. Points know their true position, so one lesion is the same lesion in every view.

Coordinates: millimetres, x to the patient's left, y to the front, z up, origin at the carina. Frontal images show the
patient's left on the viewer's right; lateral images show the front on the viewer's left.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from scipy import ndimage

from pkd_utils.demo import build
from pkd_utils.runs import files, paths
from pkd_utils.runs.physics import MU_WATER

MU_LUNG = 0.0052
CANVAS = (288, 304)  # rows, columns of the projected canvas; the image is a window of it after the warp
PITCH = 1.3  # detector pixel, mm
COARSE = 2  # a lesion pixel is 2 x 2 detector pixels
DEPTH_STEP = 4.21875  # mm between lesion points along a ray
LOBES = ("left upper", "left lower", "right upper", "right middle", "right lower")  # codes 1..5
HEART, FAT = 6, 7  # further codes of `Points.tissue`
VIEWS = ("AP", "PA", "LATERAL")
# source to detector in mm; detector side of the patient; gap between the skin and the detector
GEOMETRY = {"AP": (1100.0, "back", 25.0), "PA": (1830.0, "front", 15.0), "LATERAL": (1830.0, "left", 20.0)}
HEART_SCALES = np.arange(1.70, 0.59, -0.025)
_PICTURES = ("soft", "bone", "aorta", "frame")  # of a view, beside its points
_FILES = ("cxr.nii.gz", "mask.nii.gz", "structures.csv")
LUNGS = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)


@dataclass(frozen=True)
class Points:
    """Lung, heart and pericardial-fat points of one view, along the view's own rays."""

    pixel: np.ndarray  # (N,) int32, flat index of the coarse detector pixel (row-major, shape `CANVAS / COARSE`)
    xyz: np.ndarray  # (N, 3) float32, true position, mm from the carina
    mu: np.ndarray  # (N,) float32, attenuation in the healthy CT, 1/mm
    tissue: np.ndarray  # (N,) uint8, 1..5 lobes in the order of `LOBES`, 6 heart, 7 fat around the heart
    wall: np.ndarray  # (N,) float32, distance to the nearest point outside the lung, mm (0 outside the lung)
    heart_scale: np.ndarray  # (N,) float32, smallest scale of the heart that covers the point (9 where none does)


@dataclass(frozen=True)
class View:
    """Healthy projections (line integrals, float32, shape `CANVAS`) and points of one view.

    `soft` is everything but the mineral of bone, `bone` the excess of bone over soft tissue, `aorta` the path length
    (mm) in the wall of the aorta, which calcifies with age.
    """

    name: str
    soft: np.ndarray
    bone: np.ndarray
    aorta: np.ndarray
    points: Points
    frame: np.ndarray  # (5,): source distance, detector plane, sign, centre across and along z; see `project_point`

    def project_point(self, xyz) -> tuple[float, float]:
        """Canvas row and column (pixels) where the point `xyz` (mm from the carina) lands."""
        xyz = np.asarray(xyz, float)
        distance, plane, sign, cu, cv = self.frame
        depth_axis, across = (0, 1) if self.name == "LATERAL" else (1, 0)
        mag = distance / (distance - abs(xyz[depth_axis] - plane))
        u = sign * (xyz[across] - cu) * mag / PITCH
        v = -(xyz[2] - cv) * mag / PITCH
        return v + CANVAS[0] / 2 - 0.5, u + CANVAS[1] / 2 - 0.5


@dataclass(frozen=True)
class Anatomy:
    """All views of the one CT, and landmarks (mm from the carina)."""

    views: dict[str, View]
    landmarks: dict[str, tuple]


def ct_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the CT's three files."""
    return {name: files.file_sha256(folder / name) for name in _FILES}


def read(folder: Path):
    """Attenuation (1/mm), bone share of it and labels on a 1.4 x 1.4 x 2.5 mm grid in x-left, y-front, z-up order."""
    image, mask = nibabel.load(folder / "cxr.nii.gz"), nibabel.load(folder / "mask.nii.gz")
    hu = np.asanyarray(image.dataobj).astype(np.float32)
    labels = np.asanyarray(mask.dataobj).astype(np.uint8)
    step = np.abs(np.diag(image.affine)[:3])
    names = pd.read_csv(folder / "structures.csv").set_index("structure")["id"]
    shape = (hu.shape[0] // 2, 2, hu.shape[1] // 2, 2, hu.shape[2])
    hu = hu.reshape(shape).mean((1, 3))
    labels = np.ascontiguousarray(labels[::2, ::2])
    # The scanner's table and gown are not the patient: keep the largest connected body.
    parts, _ = ndimage.label(hu > -400)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    body = ndimage.binary_opening(parts == sizes.argmax(), iterations=2)
    body = np.stack([ndimage.binary_fill_holes(body[:, :, k]) for k in range(body.shape[2])], axis=2)
    hu[~body] = -1000
    skeleton = np.isin(labels, [*range(25, 51), *range(69, 75), *range(91, 119)])
    near_bone = ndimage.binary_dilation(skeleton, iterations=1)
    # Contrast medium in vessels would show on no plain film: outside bone, anything brighter than muscle is muscle.
    hu = np.where(~near_bone & (hu > 90), 50, np.minimum(hu, 1100)).astype(np.float32)
    mu = np.clip(1 + hu / 1000, 0, None) * MU_WATER
    mu = _without_nodule(mu, np.isin(labels, [names[name] for name in LUNGS]))
    mineral = np.where(near_bone, np.clip(mu - 1.05 * MU_WATER, 0, None), 0).astype(np.float32)
    return mu.astype(np.float32), mineral, labels, names, step * (2, 2, 1)


def _without_nodule(mu, lung) -> np.ndarray:
    """Fill the patient's lung nodule (the largest thick dense blob inside the lung) with lung from beside it.

    The CT comes from a lung-nodule collection; left in, the nodule would be on every film of the cohort.
    """
    blobs, count = ndimage.label(ndimage.binary_opening((mu > 0.55 * MU_WATER) & lung, iterations=2))
    if not count:
        return mu
    sizes = np.bincount(blobs.ravel())
    sizes[0] = 0
    nodule = ndimage.binary_dilation(blobs == sizes.argmax(), iterations=4) & lung
    cells = np.argwhere(nodule)
    beside = cells + np.array([0, np.ptp(cells[:, 1]) + 2, 0])
    clear = lung[tuple(beside.T)]
    filled = mu.copy()
    filled[tuple(cells.T)] = np.where(clear, np.minimum(mu[tuple(beside.T)], 0.012), MU_LUNG)
    return filled


def _interpolation(size, step, origin, at):
    """Lower index, and weight of the next one, for linear interpolation at `at` (mm), edges repeated."""
    where = np.clip(at / step + origin, 0, size - 1.001)
    low = where.astype(np.int64)
    return low, (where - low).astype(np.float32)


def _project_view(name, mu, mineral, wall_aorta, fields, step, origin) -> View:
    """Cone-beam projection of the volumes for one view, slab by slab (each slab is magnified as a plane)."""
    distance, side, gap = GEOMETRY[name]
    depth_axis, across = (0, 1) if name == "LATERAL" else (1, 0)
    size = mu.shape
    coordinate = (np.arange(size[depth_axis]) - origin[depth_axis]) * step[depth_axis]
    body = np.flatnonzero((mu > 0.3 * MU_WATER).any(axis=tuple(a for a in range(3) if a != depth_axis)))
    skin = coordinate[body[[0, -1]]]
    plane = skin[1] + gap if side in ("front", "left") else skin[0] - gap
    sign = -1.0 if name == "LATERAL" else 1.0
    lung = (fields["tissue"] > 0) & (fields["tissue"] <= 5)
    extent = [np.flatnonzero(lung.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    centre = [(e[0] + e[-1]) / 2 for e in extent]
    cu = (centre[across] - origin[across]) * step[across]
    cv = (centre[2] - origin[2]) * step[2] - 4
    rows = -(np.arange(CANVAS[0]) - CANVAS[0] / 2 + 0.5) * PITCH
    cols = sign * (np.arange(CANVAS[1]) - CANVAS[1] / 2 + 0.5) * PITCH
    coarse = [a.reshape(-1, COARSE).mean(1) for a in (rows, cols)]
    maps = {key: np.zeros(CANVAS[::-1], np.float32) for key in ("soft", "bone", "aorta")}
    volumes = {"soft": mu - mineral, "bone": mineral, "aorta": wall_aorta}
    parts = []
    every = round(DEPTH_STEP / step[depth_axis])
    for k in range(body[0], body[-1] + 1):
        mag = distance / (distance - abs(coordinate[k] - plane))
        take = (k,) if depth_axis == 0 else (slice(None), k)
        ia, wa = _interpolation(size[across], step[across], origin[across], cols / mag + cu)
        ib, wb = _interpolation(size[2], step[2], origin[2], rows / mag + cv)
        for key, volume in volumes.items():
            slab = volume[take]
            slab = slab[ia] * (1 - wa[:, None]) + slab[ia + 1] * wa[:, None]
            maps[key] += slab[:, ib] * (1 - wb) + slab[:, ib + 1] * wb
        if (k - body[0]) % every == every // 2:
            pa = np.clip(np.rint((coarse[1] / mag + cu) / step[across] + origin[across]), 0, size[across] - 1)
            pb = np.rint((coarse[0] / mag + cv) / step[2] + origin[2])
            inside = (pb >= 0) & (pb < size[2])
            slab_tissue = fields["tissue"][take][pa.astype(int)][:, np.clip(pb, 0, size[2] - 1).astype(int)]
            c, r = np.nonzero((slab_tissue > 0) & inside)
            index = np.zeros((len(c), 3), np.int64)
            index[:, depth_axis], index[:, across], index[:, 2] = k, pa[c], pb[r]
            parts.append((r * (CANVAS[1] // COARSE) + c, index))
    index = np.concatenate([p[1] for p in parts])
    at = tuple(index.T)
    points = Points(
        pixel=np.concatenate([p[0] for p in parts]).astype(np.int32),
        xyz=((index - origin) * step).astype(np.float32),
        mu=mu[at],
        **{key: fields[key][at] for key in ("tissue", "wall", "heart_scale")},
    )
    scaled = {key: np.ascontiguousarray(m.T) * np.float32(step[depth_axis]) for key, m in maps.items()}
    return View(name=name, points=points, frame=np.array([distance, plane, sign, cu, cv]), **scaled)


def heart_scale(heart, grown) -> np.ndarray:
    """Smallest scale about a point at the heart's right lower side at which the heart covers each voxel of `grown`."""
    cells = np.argwhere(heart)
    low, high = cells.min(0), cells.max(0)
    # The apex moves to the left and down when a heart enlarges; the right border moves less.
    centre = np.array([0.67 * low[0] + 0.33 * high[0], cells[:, 1].mean(), 0.55 * low[2] + 0.45 * high[2]])
    where = np.argwhere(grown)
    scale = np.full(len(where), 9, np.float32)
    for s in HEART_SCALES:
        source = np.rint(centre + (where - centre) / s).astype(int)
        ok = ((source >= 0) & (source < heart.shape)).all(1)
        source = np.clip(source, 0, np.array(heart.shape) - 1)
        scale[ok & heart[tuple(source.T)]] = s
    out = np.full(heart.shape, 9, np.float32)
    out[grown] = scale
    return out


def carina(labels, names) -> np.ndarray:
    """Voxel coordinates of the lower end of the trachea, the origin of all millimetres."""
    trachea = np.argwhere(labels == names["trachea"])
    return trachea[trachea[:, 2] <= trachea[:, 2].min() + 3].mean(0)


def aortic_wall(labels, names) -> np.ndarray:
    """1 in the wall of the aorta, which calcifies with age; float32."""
    aorta = labels == names["aorta"]
    return (ndimage.binary_dilation(aorta) & ~ndimage.binary_erosion(aorta)).astype(np.float32)


def breasts(mu, origin, step) -> list[tuple[float, float, float]]:
    """Centres of the right and left breast on the skin, mm from the carina."""
    found = []
    for x in (-78.0, 90.0):
        column = np.rint(np.array([x, 0, -55]) / step + origin).astype(int)
        front = np.flatnonzero(mu[column[0], :, column[2]] > 0.5 * MU_WATER)[-1]
        found.append((x, float((front - origin[1]) * np.broadcast_to(step, 3)[1]), -55.0))
    return found


def tissue_fields(labels, names, step, closing: int, fat: int, lung: int, bones: int) -> dict[str, np.ndarray]:
    """`tissue`, `wall` and `heart_scale` of `Points` for every voxel of edges `step` (mm).

    The other numbers are voxels: gaps of the heart that are closed, how far its fat reaches from it and from the lung,
    and how far from ribs and sternum it stays.
    """
    tissue = np.zeros(labels.shape, np.uint8)
    for code, structure in enumerate(LUNGS, start=1):
        tissue[labels == names[structure]] = code
    air = tissue > 0
    heart = np.isin(labels, [names["heart"], names["atrial_appendage_left"]])
    heart = ndimage.binary_closing(np.pad(heart, closing + 1), iterations=closing)
    heart = ndimage.binary_fill_holes(heart[(slice(closing + 1, -closing - 1),) * 3]) & ~air
    tissue[heart] = HEART
    near = ndimage.binary_dilation(heart, iterations=fat) & ndimage.binary_dilation(air, iterations=lung)
    chest_wall = ndimage.binary_dilation(np.isin(labels, range(92, 119)), iterations=bones)
    tissue[near & ~chest_wall & (labels == 0) & (tissue == 0)] = FAT
    wall = ndimage.distance_transform_edt(air, sampling=step).astype(np.float32)
    return {"tissue": tissue, "wall": wall, "heart_scale": heart_scale(heart, tissue > 0)}


def _prepare(folder: Path) -> dict[str, np.ndarray]:
    """Everything of `Anatomy` as arrays."""
    mu, mineral, labels, names, step = read(folder)
    fields = tissue_fields(labels, names, step, closing=5, fat=5, lung=9, bones=4)
    aorta_wall, origin = aortic_wall(labels, names), carina(labels, names)
    views = {v: _project_view(v, mu, mineral, aorta_wall, fields, step, origin) for v in VIEWS}
    landmarks = {}
    for structure in ("heart", "superior_vena_cava", "brachiocephalic_vein_right", "clavicula_left", "trachea"):
        cells = np.argwhere(labels == names[structure])
        landmarks[structure] = tuple(((cells.mean(0) - origin) * step).round(3).tolist())
    for side, (x, front, z) in zip(("right", "left"), breasts(mu, origin, step), strict=True):
        landmarks[f"breast_{side}"] = (x, round(front, 3), z)
    arrays = {f"landmarks/{key}": np.array(value) for key, value in landmarks.items()}
    for name, view in views.items():
        arrays |= {f"{name}/{key}": getattr(view, key) for key in _PICTURES}
        arrays |= {f"{name}/points/{key}": getattr(view.points, key) for key in Points.__dataclass_fields__}
    return arrays


def kept(
    name: str, folder: Path, module: str, *key, make: Callable[..., dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays that `make(folder, *key)` gives, made once and kept in `<data>/derived/chest_ct/<name>-<hash>.npz`.

    The hash is over the CT, the key, and the code of `module`.
    """
    digest = files.hash_params([ct_hashes(folder), build.code_sha256(module), key])[:16]
    file = paths.data_dir() / "derived" / "chest_ct" / f"{name}-{digest}.npz"
    if not file.exists():
        with files.atomic_path(file) as temporary:
            np.savez(temporary, **make(Path(folder), *key))
    with np.load(file, allow_pickle=False) as data:
        return {array: data[array] for array in data.files}


@functools.lru_cache(maxsize=1)
def load(folder: Path) -> Anatomy:
    """Projections and points of the CT in `folder` (the asset `chest_ct`), prepared once (20 s) and kept in a file."""
    data = kept("anatomy", folder, __name__, make=_prepare)
    views = {}
    for name in VIEWS:
        points = Points(**{k: data[f"{name}/points/{k}"] for k in Points.__dataclass_fields__})
        views[name] = View(name=name, points=points, **{k: data[f"{name}/{k}"] for k in _PICTURES})
    marks = {k.split("/")[1]: tuple(v.tolist()) for k, v in data.items() if k.startswith("landmarks/")}
    return Anatomy(views=views, landmarks=marks)
