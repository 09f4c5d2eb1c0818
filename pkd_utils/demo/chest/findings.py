"""Five findings as edits of attenuation in 3-D, and the regions they leave on the detector.

A finding is a *fill*: a number in [0, 1] per lung point that says how far the point's attenuation has moved from its
healthy value towards water, mu' = mu + f (mu_water - mu). Several findings fill the same lung independently,
f = 1 - prod(1 - f_i), so that two overlapping lesions never exceed water. The X-ray transform is linear, so what a
detector pixel sees is the healthy line integral plus the sum of delta-mu times path length over the points of its ray.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from pkd_utils.demo.chest.anatomy import CANVAS, COARSE, DEPTH_STEP, FAT, HEART, LOBES, MU_LUNG, Points
from pkd_utils.runs.physics import MU_WATER

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
VISIBLE = 0.25  # severity from which a careful reader would call a finding; below it is drawn, but has no region
_TILE = 64  # edge of the periodic noise volume, cells; a power of two, so that wrapping is one bit mask
_CELL = 3.0  # mm per cell of the noise volume
_REGION = {  # a region is where the lesion's own delta-p exceeds both shares: of its own maximum, and absolute
    "Atelectasis": (0.33, 0.035),
    "Cardiomegaly": (0.10, 0.02),
    "Consolidation": (0.33, 0.05),
    "Edema": (0.38, 0.05),
    "Pleural Effusion": (0.22, 0.06),
}
SMALLEST_REGION = 24  # detector pixels; smaller islands are not part of a region


@dataclass(frozen=True)
class Lesion:
    """One lesion of one study, independent of any view."""

    finding: str  # one of `FINDINGS`
    severity: float  # 0 (absent) to 1; shown as a region from `VISIBLE`
    side: str  # "left", "right" or "bilateral"
    lobe: int  # 1..5 (order of `anatomy.LOBES`) where the lesion has a lobe, else 0
    seed: tuple  # of its shape: the same lesion in every view

    @property
    def lobe_name(self) -> str:
        return LOBES[self.lobe - 1] + " lobe" if self.lobe else ""


def noise_tile(stream: int, smooth: float) -> np.ndarray:
    """Periodic Gaussian noise of unit variance, shape (64**3,), float32; `smooth` is its correlation in cells."""
    white = np.random.default_rng([20240731, stream]).standard_normal((_TILE,) * 3)
    tile = ndimage.gaussian_filter(white, smooth, mode="wrap")
    return (tile / tile.std()).astype(np.float32).ravel()


class Field:
    """The points of one view with what all lesions need: noise look-up and lung masks. Built once per process."""

    def __init__(self, points: Points):
        self.points = points
        self.cell = np.ascontiguousarray(np.floor(points.xyz / _CELL).astype(np.int32).T)
        self.coarse_noise = noise_tile(0, 3.0)
        self.fine_noise = noise_tile(1, 1.0)
        tissue = points.tissue
        self.lung = (tissue >= 1) & (tissue <= 5)
        self.side = {"left": (tissue == 1) | (tissue == 2), "right": (tissue >= 3) & (tissue <= 5)}
        self.where = {code: np.flatnonzero(tissue == code) for code in range(1, 6)}
        self.where |= {side: np.flatnonzero(mask) for side, mask in self.side.items()}
        self.where["bilateral"] = np.flatnonzero(self.lung)
        self.where["heart"] = np.flatnonzero((points.heart_scale < 9) | (tissue >= HEART))
        shape = (CANVAS[0] // COARSE, CANVAS[1] // COARSE)
        self.shape, self.pixels = shape, shape[0] * shape[1]

    def noise(self, tile, at, rng) -> np.ndarray:
        """Noise at the points `at`, with a random offset of the tile drawn from `rng`."""
        i, j, k = (
            (cell[at] + int(offset)) & (_TILE - 1)
            for cell, offset in zip(self.cell, rng.integers(0, _TILE, 3), strict=True)
        )
        return tile[(i * _TILE + j) * _TILE + k]

    def project(self, delta_mu, at=slice(None)) -> np.ndarray:
        """Line integral (float64, coarse detector, shape CANVAS / 2) of delta-mu (1/mm) given at the points `at`."""
        p = np.bincount(self.points.pixel[at], weights=delta_mu, minlength=self.pixels)
        return p.reshape(self.shape) * DEPTH_STEP


def _step(x, width):
    """Smooth step from 0 to 1 around x = 0 over about 4 widths."""
    return 1 / (1 + np.exp(np.clip(-x / width, -30, 30)))


def _effusion(field, lesion, rng, tilt):
    """Fluid up to a level, higher along the wall (meniscus); `tilt` > 0 lets it run to the back, as lying down does."""
    at = field.where[lesion.side]
    xyz, wall = field.points.xyz[at], field.points.wall[at]
    height = xyz[:, 2] * float(np.cos(tilt)) + xyz[:, 1] * float(np.sin(tilt))
    height = height - rng.uniform(14, 26) * np.exp(-wall / rng.uniform(7, 12))
    level = np.quantile(height, 0.01 + 0.48 * lesion.severity ** rng.uniform(1.0, 1.3))
    return at, _step(level - height, 3.0) * (1.0 if tilt < 0.1 else 0.85)


def _consolidation(field, lesion, rng, tilt):
    """A soft, mottled ellipsoid inside one lobe."""
    at = field.where[lesion.lobe]
    xyz = field.points.xyz[at]
    # The centre is drawn as a position within the lobe's extent, so that it is the same in every view.
    low, high = np.quantile(xyz, 0.12, axis=0), np.quantile(xyz, 0.88, axis=0)
    centre = (low + (high - low) * rng.uniform(0.15, 0.85, 3)).astype(np.float32)
    radii = ((16 + 30 * lesion.severity) * rng.uniform(0.8, 1.25, 3)).astype(np.float32)
    r = np.sqrt((((xyz - centre) / radii) ** 2).sum(1)) + 0.22 * field.noise(field.coarse_noise, at, rng)
    mottle = 0.85 + 0.15 * np.clip(field.noise(field.fine_noise, at, rng), -1, 1)
    return at, (0.30 + 0.60 * lesion.severity) * mottle * _step(1 - r, 0.12)


def _atelectasis(field, lesion, rng, tilt):
    """Thin oblique plates, and some crowding around them, in a lower or middle lobe."""
    at = field.where[lesion.lobe]
    xyz = field.points.xyz[at]
    low, high = np.quantile(xyz, 0.10, axis=0), np.quantile(xyz, 0.80, axis=0)
    fill = np.zeros(len(at), np.float32)
    for _ in range(1 + int(rng.random() < lesion.severity) + int(rng.random() < lesion.severity)):
        centre = low + (high - low) * rng.uniform((0.2, 0.2, 0.0), (0.8, 0.7, 0.55))
        slope = np.tan(rng.uniform(-0.55, 0.55, 2) * (1, 0.35))
        normal = (np.array([slope[0], slope[1], 1.0]) / np.sqrt(1 + (slope**2).sum())).tolist()
        offset = xyz - centre.astype(np.float32)
        # Not a BLAS product: its last bit may depend on the number of threads.
        across = offset[:, 0] * normal[0] + offset[:, 1] * normal[1] + offset[:, 2] * normal[2]
        radius = np.sqrt(np.maximum((offset**2).sum(1) - across**2, 0))
        thick, wide = 2.2 + 3.8 * lesion.severity * rng.uniform(0.7, 1.2), rng.uniform(22, 32) + 22 * lesion.severity
        plate = np.exp(-((across / thick) ** 2)) * _step(wide - radius, 4)
        haze = 0.16 * lesion.severity * np.exp(-((across / 18) ** 2)) * _step(wide - radius, 8)
        fill = np.maximum(fill, (0.40 + 0.55 * lesion.severity) * plate + haze)
    return at, np.minimum(fill, 1)


def _edema(field, lesion, rng, tilt):
    """Haze around both hila that reaches further out and down as it grows, with fine streaks."""
    at = field.where["bilateral"]
    xyz = field.points.xyz[at]
    hilum = np.array([48.0, -5.0, -28.0]) * rng.uniform(0.9, 1.1, 3)
    spread = np.array([44.0, 70.0, 52.0]) * (0.65 + 0.75 * lesion.severity)
    # Plain floats keep float32 arrays float32: half the time.
    (a, b, c), (x, y, z) = spread.tolist(), hilum.tolist()
    d2 = ((np.abs(xyz[:, 0] - 2) - x - 2) / a) ** 2 + ((xyz[:, 1] - y) / b) ** 2 + ((xyz[:, 2] - z) / c) ** 2
    near = d2 < 4.5
    at, d2, left = at[near], d2[near], xyz[near, 0] > 0
    uneven = np.where(left, *rng.uniform(0.8, 1.2, 2).astype(np.float32))
    streak = 1 + 0.5 * np.clip(field.noise(field.fine_noise, at, rng), -1.5, 1.5)
    return at, np.clip((0.04 + 0.42 * lesion.severity) * uneven * streak * np.exp(-d2), 0, 0.8)


_SHAPES = {
    "Pleural Effusion": _effusion,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
    "Edema": _edema,
}


def lesion_fill(field: Field, lesion: Lesion, tilt: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points (K,) int that a lesion touches and how far it fills each: (K,) float, 0 healthy to 1 water.

    Any finding but cardiomegaly, which is the heart's scale; `tilt` in radians by which the patient leans back.
    """
    return _SHAPES[lesion.finding](field, lesion, np.random.default_rng(lesion.seed), tilt)


def heart_delta(field: Field, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Change of attenuation when the CT's heart is replaced by one of `scale` times its size.

    Returns
    -------
    at : (K,) int, points of the heart, its fat and the lung it could grow into
    delta_mu : (K,) float, change of attenuation, 1/mm
    inside : (K,) float, 1 inside the new heart, 0 outside, with a soft edge
    """
    at = field.where["heart"]
    points = field.points
    inside = _step(scale - points.heart_scale[at], 0.012)
    mu, tissue = points.mu[at], points.tissue[at]
    lung = (tissue >= 1) & (tissue <= 5)
    outside_mu = np.where(lung, mu, MU_LUNG)
    # Heart muscle and fat at the border become lung where the heart shrinks; fat inside the heart stays as it is.
    soft = np.where(tissue == FAT, np.minimum(mu, 0.97 * MU_WATER), mu)
    inside_mu = np.where(lung, np.maximum(mu, 1.04 * MU_WATER), soft)
    return at, inside * inside_mu + (1 - inside) * outside_mu - mu, inside


def upsample(image) -> np.ndarray:
    """Coarse detector to full detector (shape `CANVAS`), bilinear, float32."""
    image = np.asarray(image, np.float32)
    for axis in (0, 1):
        a = np.moveaxis(image, axis, 0)
        padded = np.concatenate([a[:1], a, a[-1:]])
        out = np.empty((2 * a.shape[0], *a.shape[1:]), np.float32)
        out[0::2] = 0.25 * padded[:-2] + 0.75 * a
        out[1::2] = 0.25 * padded[2:] + 0.75 * a
        image = np.moveaxis(out, 0, axis)
    return image


def study_delta(field: Field, lesions: list[Lesion], heart_scale: float, tilt: float = 0.0):
    """Project all lesions of a study together, and find the region of each finding; a large heart is `heart_scale`.

    Returns
    -------
    delta : (CANVAS / 2) float64, change of the line integral over healthy anatomy
    regions : dict of str to (CANVAS / 2) bool
        For each finding of at least `VISIBLE` severity, where its lesions (each alone) stand out; for cardiomegaly
        the whole heart, which is what a reader boxes.
    """
    points = field.points
    at, heart_change, inside = heart_delta(field, heart_scale)
    mu = points.mu.copy()
    mu[at] += heart_change
    clear = np.ones_like(mu)
    regions = {}
    for lesion in lesions:
        if lesion.finding == "Cardiomegaly":
            if lesion.severity >= VISIBLE:
                regions["Cardiomegaly"] = region(field.project(inside * MU_WATER, at), lesion.finding)
            continue
        where, fill = lesion_fill(field, lesion, tilt)
        clear[where] *= 1 - fill
        if lesion.severity < VISIBLE:
            continue
        alone = field.project(fill * np.maximum(MU_WATER - mu[where], 0), where)
        regions[lesion.finding] = regions.get(lesion.finding, False) | region(alone, lesion.finding)
    change = (1 - clear) * np.maximum(MU_WATER - mu, 0) + (mu - points.mu)
    return field.project(change), regions


def region(delta, finding: str) -> np.ndarray:
    """The part of a projected lesion that counts as its region: boolean, same shape as `delta`."""
    share, floor = _REGION[finding]
    smooth = ndimage.gaussian_filter(delta, 1.5 if finding == "Edema" else 0.8, mode="nearest")
    return ndimage.binary_fill_holes(smooth > max(share * float(smooth.max()), floor))


def drop_islands(mask, smallest: int = SMALLEST_REGION) -> np.ndarray:
    """Remove 8-connected components of fewer than `smallest` pixels from a boolean mask."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= smallest)[labels]


def component_boxes(mask) -> list[tuple[int, int, int, int]]:
    """Bounding boxes x, y, width, height (pixels, origin top left) of the 8-connected components, left to right."""
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    boxes = [(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in ndimage.find_objects(labels)]
    return sorted(boxes)
