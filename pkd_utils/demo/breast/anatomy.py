"""Anatomy of a simulated mammogram: outline, skin, pectoral muscle, parenchyma by density, and the film's response.

Everything is drawn with the chest wall at the left edge (a left breast) and mirrored for right breasts by the caller.
Lengths are in millimetres of the film, so the picture's size in pixels changes the resolution and not the anatomy.
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

FILM_HEIGHT = 256.0  # mm; the width is 0.8 of it, as of an 18 x 24 cm film that was cut to the breast
ASPECT = 0.8
THICKNESS = 48.0  # mm, compressed breast of average size
# Linear attenuation at about 20 keV, 1/mm: rounded from the measurements of Johns and Yaffe (1987).
MU_FAT, MU_GLAND, MU_SKIN = 0.046, 0.080, 0.080
# Mean share of glandular tissue in the region where it lies, by BI-RADS density of the breast; ours.
GLAND_SHARE = {1: 0.07, 2: 0.24, 3: 0.46, 4: 0.72}
_GREYS = 65535


@dataclass(frozen=True)
class Woman:
    """What both views of one breast share."""

    density: int  # BI-RADS density of the breast, 1 to 4
    size: float  # 1: average depth and width
    slope: float  # beta of the parenchyma's power spectrum 1/f^beta
    thickness: float  # mm, compressed


@dataclass(frozen=True)
class Breast:
    """One view, before any lesion. Arrays are (H, W), float32 unless said otherwise."""

    pixel: float  # mm
    nipple: tuple[float, float]  # row, column in pixels
    inside: np.ndarray  # bool, breast and pectoral muscle
    pectoral: np.ndarray  # bool
    skin: np.ndarray  # mm to the skin line, 0 outside
    gland: np.ndarray  # 0 to 1, share of glandular tissue
    envelope: np.ndarray  # 0 to 1, how likely glandular tissue lies here
    path: np.ndarray  # attenuation along the ray, -log of the transmitted share


def draw_woman(rng: np.random.Generator, density: int) -> Woman:
    """Draw size and texture of a breast of the given BI-RADS density."""
    size = float(np.clip(rng.normal(1.0, 0.13), 0.7, 1.3))
    slope = float(np.clip(rng.normal(3.0, 0.2), 2.5, 3.5))
    return Woman(density, size, slope, THICKNESS * float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.3)) * size**0.5)


def power_law(rng: np.random.Generator, shape: tuple[int, int], slope: float) -> np.ndarray:
    """Gaussian field with power spectrum 1/f^slope, mean 0 and variance 1; (H, W) float32.

    Mammographic parenchyma has such a spectrum with a slope near 3 (Burgess, Jacobson and Judy 2001).
    """
    rows, cols = (size + 32 for size in shape)  # the field repeats at its edges: cut them off
    frequency = np.hypot(fft.fftfreq(rows)[:, None], fft.rfftfreq(cols)[None, :]).astype(np.float32)
    frequency[0, 0] = np.inf
    spectrum = fft.rfft2(rng.standard_normal((rows, cols), dtype=np.float32)) * frequency ** np.float32(-slope / 2)
    field = fft.irfft2(spectrum, s=(rows, cols))[: shape[0], : shape[1]]
    return (field - field.mean()) / field.std()


def _edge_columns(rng: np.random.Generator, view: str, size: float, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Depth of the skin line (mm from the chest wall) in each row, and the row of the nipple (both in mm)."""
    depth = 122.0 * size * float(np.exp(rng.normal(0, 0.06)))
    if view == "CC":
        centre, half = 128.0 + rng.normal(0, 5), min(118.0, 104.0 * size)
        t = np.clip(np.abs(rows - centre) / half, 0, 1)
        edge = depth * (1 - t**2.2) ** 0.6
        nipple = centre + rng.normal(0, 4)
    else:
        nipple = 138.0 + rng.normal(0, 6)
        top = depth * float(np.clip(rng.normal(0.52, 0.06), 0.38, 0.66))
        bottom = min(247.0, nipple + 94.0 * size**0.5)
        above, below = np.clip((nipple - rows) / nipple, 0, 1), np.clip((rows - nipple) / (bottom - nipple), 0, 1)
        edge = np.where(rows < nipple, top + (depth - top) * (1 - above**1.9) ** 1.15, depth * (1 - below**2.4) ** 0.62)
    wobble = sum(
        rng.normal(0, 1.6 / k) * np.sin(2 * np.pi * (k * rows / FILM_HEIGHT + rng.random())) for k in range(1, 5)
    )
    edge = edge + wobble * np.clip(edge / 30.0, 0, 1)
    edge = edge + 3.5 * np.exp(-(((rows - nipple) / 4.5) ** 2))
    return np.minimum(edge, ASPECT * FILM_HEIGHT - 8), float(nipple)


def _pectoral(rng: np.random.Generator, view: str, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Signed depth (mm) inside the pectoral muscle: a triangle at the upper chest wall of oblique views."""
    if view == "CC":
        return np.full(row.shape, -1e3)
    width, height = rng.uniform(44, 72), rng.uniform(105, 160)
    curve = rng.uniform(-3, 7) * np.sin(np.pi * np.clip(row / height, 0, 1))  # its border is slightly convex
    return (width * (1 - row / height) + curve - col) * height / np.hypot(width, height)


def _strands(rng: np.random.Generator, shape: tuple[int, int], dr: np.ndarray, dc: np.ndarray, pixel: float):
    """Ducts and ligaments: noise that is long towards the nipple and short across, and a web of thin lines."""
    noise = ndimage.gaussian_filter(rng.standard_normal((96, 160)), (7, 1.1), mode="wrap")
    radius = np.hypot(dr, dc) * pixel
    at = np.stack([np.clip(radius / 140.0, 0, 1) * 95, (np.arctan2(dr, -dc) / np.pi * 0.5 + 0.5) * 159])
    ducts = ndimage.map_coordinates(noise / noise.std(), at, order=1, mode="nearest")
    sigma = 3.2 / pixel
    web = ndimage.gaussian_filter(rng.standard_normal(shape), sigma / 2) - ndimage.gaussian_filter(
        rng.standard_normal(shape), sigma
    )
    web = np.exp(-((web / web.std() / 0.22) ** 2))
    return ducts, ndimage.gaussian_filter(web, 0.5)


def _parenchyma(rng, woman: Woman, pixel: float, inside, skin, muscle, nipple) -> tuple[np.ndarray, np.ndarray]:
    """Share of glandular tissue, and the region where it can lie."""
    shape = inside.shape
    row, col = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    dr, dc = row - nipple[0], col - nipple[1]
    fat = {1: 13.0, 2: 12.0, 3: 10.0, 4: 7.5}[woman.density] * woman.size  # mm of fat under the skin
    envelope = 1 / (1 + np.exp(-(skin - fat + 2.5 * power_law(rng, shape, 3.2)) / 2.2))
    # Behind the nipple, thinning towards the chest wall.
    depth = nipple[1] * pixel
    middle = (nipple[0] + rng.normal(-6, 5) / pixel, nipple[1] - 0.46 * depth / pixel)
    spread = {1: 0.42, 2: 0.5, 3: 0.62, 4: 0.85}[woman.density] * depth
    far = np.hypot((row - middle[0]) * pixel / 1.25, (col - middle[1]) * pixel) / spread
    envelope = envelope * np.exp(-0.5 * far**2.5) * inside / (1 + np.exp(np.clip(muscle - 2, -30, 30) / 1.5))
    ducts, web = _strands(rng, shape, dr, dc, pixel)
    field = 0.9 * power_law(rng, shape, woman.slope) + 0.18 * power_law(rng, shape, 2.0) + 0.33 * ducts
    where = envelope > 0.35
    level = np.quantile(field[where], 1 - GLAND_SHARE[woman.density]) if where.any() else 0.0
    gland = envelope * (0.04 + 0.62 / (1 + np.exp(-(field - level) / 0.42)) + 0.10 * np.clip(field - level, -1, 2))
    lines = 0.20 * web * np.clip((skin - 2) / 6, 0, 1) * (muscle < 0)
    return np.clip(gland + lines * (1 - gland) * (0.5 + 0.5 * envelope), 0, 1), envelope


def make(woman: Woman, view: str, rows: int, rng: np.random.Generator) -> Breast:
    """Draw one view ("CC" or "MLO") of a breast, chest wall at the left edge, `rows` pixels high and 0.8 as wide."""
    shape, pixel = (rows, round(rows * ASPECT)), FILM_HEIGHT / rows
    row, col = np.mgrid[: shape[0], : shape[1]] * pixel
    edge, nipple_row = _edge_columns(rng, view, woman.size, np.arange(rows) * pixel)
    inside = col < edge[:, None]
    nipple = (nipple_row / pixel, float(np.interp(nipple_row, np.arange(rows) * pixel, edge)) / pixel)
    muscle = _pectoral(rng, view, row, col)
    # Distance to the skin: the film's own edges are no skin.
    margin = rows // 5
    padded = np.pad(inside, ((margin, 0), (margin, 0)), mode="edge")
    skin = ndimage.distance_transform_edt(padded)[margin:, margin:] * pixel
    roll = np.clip(skin / (0.42 * woman.thickness), 0, 1)
    thick = woman.thickness * np.sqrt(1 - (1 - roll) ** 2)
    gland, envelope = _parenchyma(rng, woman, pixel, inside, skin, muscle, nipple)
    flesh = 1 / (1 + np.exp(-np.clip(muscle, -40, 40) / 1.4)) * (0.62 + 0.05 * power_law(rng, shape, 2.6)) * inside
    share = np.clip(np.maximum(gland, flesh), 0, 1)
    path = thick * (MU_FAT + (MU_GLAND - MU_FAT) * share)
    rim = np.clip(1 - np.abs(skin - 1.0) / 1.5, 0, 1) * inside
    areola = np.exp(-0.5 * (np.hypot(row / pixel - nipple[0], col / pixel - nipple[1]) * pixel / 4.5) ** 2) * inside
    path = path + MU_SKIN * (3.0 * rim + 4.0 * areola)
    return Breast(
        pixel=pixel,
        nipple=nipple,
        inside=inside,
        pectoral=(muscle > 0) & inside,
        skin=skin.astype(np.float32),
        gland=gland.astype(np.float32),
        envelope=envelope.astype(np.float32),
        path=path.astype(np.float32),
    )


def develop(path: np.ndarray, inside: np.ndarray, rng: np.random.Generator, noise: float = 1.0) -> np.ndarray:
    """Expose, develop and digitise: attenuation (H, W) to grey values (H, W) uint16, dense tissue bright.

    The exposure control aims at the median of `inside` (H, W) bool; `noise` is a multiple of the usual quantum noise
    and film grain.
    """
    blurred = ndimage.gaussian_filter(path, 0.55)
    quanta = rng.standard_normal(path.shape) * 0.016 * np.exp(np.clip(blurred, 0, 6) / 4)
    grain = ndimage.gaussian_filter(rng.standard_normal(path.shape), 0.7) * 2.4 * 0.02
    middle = np.median(blurred[inside]) + 0.35
    # The characteristic curve of film: optical density is a sigmoid of the logarithm of exposure.
    grey = 1 / (1 + np.exp(-1.45 * (blurred + noise * (quanta + grain) - middle)))
    floor = 0.012 + 0.004 * noise * np.abs(rng.standard_normal(path.shape))
    return np.round(np.clip(floor + 0.985 * grey, 0, 1) * _GREYS).astype(np.uint16)
