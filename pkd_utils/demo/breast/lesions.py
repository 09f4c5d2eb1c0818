"""Lesions of a simulated mammogram: masses by BI-RADS shape and margin, calcifications by type and distribution.

A lesion is an attenuation that is added to the healthy breast's, and a mask of the region that a reader would outline.
Lengths are in millimetres; every shape is drawn from the generator that it is given and from nothing else.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage import morphology

from pkd_utils.demo.breast.anatomy import MU_FAT, MU_GLAND, Breast
from pkd_utils.runs.errors import DataError

# Attenuation of a mass (1/mm) by the table's mass density: 1 high, 2 iso, 3 low, 4 fat-containing; ours. Nine masses of
# ten are "low" in the table and were still found, so low lies above glandular tissue's value.
MASS_ATTENUATION = {1: 0.146, 2: 0.132, 3: 0.118, 4: 0.086}
_MOST_PATH = 2.2  # largest attenuation that a mass adds; ours
_MOST = {"EGGSHELL": 4, "COARSE": 5, "LUCENT_CENTER": 8}  # large ones are few
CALCIFICATION_PATH = 1.8  # attenuation of an average particle at full contrast; ours


@dataclass(frozen=True)
class BreastLesion:
    """What a lesion adds to one view."""

    path: np.ndarray  # (H, W) float32, attenuation to add; negative where fat replaces tissue
    mask: np.ndarray  # (H, W) bool, the region of interest


def place(breast: Breast, radius: float, rng: np.random.Generator, depth: float | None = None) -> tuple[float, float]:
    """Draw a centre (row, column in pixels) where glandular tissue lies, at least about `radius` mm from the skin.

    `depth`, in mm from the nipple, is kept to within about 6 mm: two views of a lesion agree in it.
    """
    weight = (breast.envelope + 0.03) * breast.inside * ~breast.pectoral
    if depth is not None:
        away = np.hypot(*(np.indices(weight.shape) - np.array(breast.nipple)[:, None, None])) * breast.pixel
        weight = weight * (np.exp(-0.5 * ((away - depth) / 6) ** 2) + 1e-9)
    for need in (radius + 6.0, 0.6 * radius + 5.0, 4.0):
        free = weight * (breast.skin > need)
        free[: round((radius + 4) / breast.pixel)] = 0  # whole inside the film
        free[-round((radius + 4) / breast.pixel) :] = 0
        free[:, : round((0.8 * radius + 4) / breast.pixel)] = 0
        if free.any():
            cumulative = np.cumsum(free.ravel(), dtype=np.float64)
            at = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
            return divmod(min(at, free.size - 1), free.shape[1])
    raise DataError(f"A lesion of radius {radius:.0f} mm finds no place in this breast; choose a smaller one.")


def _outline(shape: str, margin: str, theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Radius of the outline in each direction, as a multiple of the mass's mean radius."""
    aspect = {"ROUND": (1.0, 1.08), "OVAL": (1.4, 1.85), "LOBULATED": (1.1, 1.4), "IRREGULAR": (1.0, 1.5)}[shape]
    aspect = rng.uniform(*aspect)
    turned = theta - rng.uniform(0, np.pi)
    radius = 1 / np.sqrt((np.cos(turned) ** 2) / aspect + (np.sin(turned) ** 2) * aspect)
    if shape == "LOBULATED":  # few, gentle undulations
        lobes = int(rng.integers(3, 5))
        radius = radius * (0.86 + 0.34 * np.abs(np.cos(lobes / 2 * turned + rng.uniform(0, np.pi))))
    if shape == "IRREGULAR":
        for k in range(2, 9):
            radius = radius * np.exp(rng.normal(0, 0.26 / k**0.7) * np.cos(k * theta + rng.uniform(0, 2 * np.pi)))
    if margin == "MICROLOBULATED":  # many small ones
        lobes = int(rng.integers(9, 15))
        radius = radius * (0.9 + 0.24 * np.abs(np.cos(lobes / 2 * theta + rng.uniform(0, np.pi))))
    return radius


def _body(distance: np.ndarray, soft: np.ndarray | float) -> np.ndarray:
    """Thickness of the mass over its largest one; `distance` is 1 on the outline, `soft` the width of the border."""
    dome = np.sqrt(np.clip(1 - np.clip(distance, 0, 1) ** 2 * 0.6, 0, 1))
    return dome / (1 + np.exp(np.clip((distance - 1) / soft, -30, 30)))


def _spicules(dr, dc, radius: float, pixel: float, rng: np.random.Generator) -> np.ndarray:
    """Thin lines that radiate from a mass and taper off, as a share of the mass's thickness."""
    lines = np.zeros(dr.shape)
    distance, theta = np.hypot(dr, dc), np.arctan2(dr, dc)
    count = int(rng.integers(14, 26))
    for at in (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * np.pi / count:
        reach = radius * rng.uniform(1.5, 2.7)
        bend = rng.normal(0, 0.18)
        angle = np.angle(np.exp(1j * (theta - at - bend * (distance / reach) ** 2)))
        width = rng.uniform(0.55, 1.0) * np.clip(1.2 - distance / reach, 0.3, 1) + 0.25 * pixel
        line = np.exp(-0.5 * (angle * distance / width) ** 2) * np.clip((reach - distance) / (0.55 * reach), 0, 1)
        lines = np.maximum(lines, rng.uniform(0.35, 0.75) * line * (np.abs(angle) < 1))
    return lines


def mass(
    breast: Breast,
    shape: str,
    margin: str,
    density: int,
    radius: float,
    contrast: float,
    rng: np.random.Generator,
    centre: tuple[float, float],
) -> BreastLesion:
    """Draw a mass of a BI-RADS shape and margin.

    Circumscribed: a sharp border; microlobulated: many small lobes; obscured: part of it fades under tissue that is
    drawn over it; ill-defined: a wide, uneven border; spiculated: radiating lines.

    Parameters
    ----------
    shape, margin : of `birads.SHAPES` and `birads.MARGINS`
    density : int, of the mass, see `MASS_ATTENUATION`; fat-containing masses have a lucent centre
    radius : float, mean radius of the outline, mm
    contrast : float, multiple of the attenuation
    centre : row and column in pixels, as `place` draws them
    """
    row0, col0 = centre
    row, col = np.indices(breast.path.shape, dtype=np.float32)
    dr, dc = (row - row0) * breast.pixel, (col - col0) * breast.pixel
    theta = np.arctan2(dr, dc)
    distance = np.hypot(dr, dc) / (radius * _outline(shape, margin, theta, rng))
    soft = 0.35 * breast.pixel / radius + 0.03
    hidden = 1.0
    if margin == "ILL_DEFINED":
        wave = sum(rng.normal(0, 0.2) * np.cos(k * theta + rng.uniform(0, 6.3)) for k in (1, 2, 3))
        soft = np.clip(0.25 + 0.10 * wave, 0.14, 0.4)
    elif margin == "SPICULATED":
        soft = 0.17
    elif margin == "OBSCURED":
        side = np.cos(theta - rng.uniform(0, 2 * np.pi))
        covered = 1 / (1 + np.exp(-(side - rng.uniform(-0.1, 0.35)) / 0.15))
        soft = soft + 0.3 * covered
        hidden = 1 - 0.5 * covered * np.clip(distance, 0, 1)
    profile = _body(distance * (1.15 if margin == "ILL_DEFINED" else 1.0), soft) * hidden
    if margin == "SPICULATED":
        profile = np.maximum(profile, _spicules(dr, dc, radius, breast.pixel, rng))
    around = distance <= 1.0
    surround = float(breast.gland[around].mean()) if around.any() else 0.0
    # The mass pushes half of the tissue aside and lies over the rest.
    gain = MASS_ATTENUATION[density] - MU_FAT - 0.5 * surround * (MU_GLAND - MU_FAT)
    thick = min(1.25 * radius, 0.6 * float(breast.skin[around].max(initial=radius)) + radius / 2)
    # A large mass does not grow brighter without end: it replaces no more tissue than there is.
    added = _MOST_PATH * np.tanh(contrast * gain * thick * profile / _MOST_PATH)
    if density == 4:
        added = added * (1 - 1.45 * np.exp(-0.5 * (distance / 0.5) ** 2))
    outline = distance <= (1.12 if margin in ("SPICULATED", "ILL_DEFINED") else 1.0)
    mask = ndimage.binary_fill_holes(outline) & breast.inside
    return BreastLesion((added * breast.inside).astype(np.float32), mask)


def _positions(breast: Breast, distribution: str, centre, size: float, rng: np.random.Generator) -> np.ndarray:
    """Places of the particles, (n, 2) rows and columns in mm from the film's corner."""
    start = np.array(centre) * breast.pixel
    nipple = np.array(breast.nipple) * breast.pixel
    along = (nipple - start) / max(1.0, float(np.hypot(*(nipple - start))))
    across = np.array([-along[1], along[0]])
    if distribution == "CLUSTERED":
        n = int(rng.integers(8, 24))
        return start + rng.normal(0, 1, (n, 2)) * size * 0.42
    if distribution == "LINEAR":
        n = int(rng.integers(9, 18))
        t = rng.uniform(-1.6, 1.6, n) * size
        bend = rng.normal(0, 0.012) * t**2
        return start + t[:, None] * along + (bend + rng.normal(0, 0.7, n))[:, None] * across
    if distribution == "SEGMENTAL":  # a wedge with its point towards the nipple
        n = int(rng.integers(20, 45))
        t = rng.uniform(0.15, 1, n) ** 0.6
        wide = rng.uniform(-1, 1, n) * t * 0.85 * size
        return start + ((0.5 - t) * 2.6 * size)[:, None] * along + wide[:, None] * across
    if distribution == "REGIONAL":
        n = int(rng.integers(22, 50))
        return start + rng.uniform(-1, 1, (n, 2)) * np.array([1.7, 1.4]) * size
    if distribution == "DIFFUSELY_SCATTERED":
        n = int(rng.integers(25, 60))
        places = np.argwhere((breast.envelope > 0.12) & (breast.skin > 8))
        places = places if len(places) else np.argwhere(breast.skin > 4)
        return places[rng.integers(0, len(places), n)] * breast.pixel + rng.uniform(0, breast.pixel, (n, 2))
    n = int(rng.integers(1, 5))  # not given: a few single ones
    return start + rng.normal(0, 1, (n, 2)) * size * (0 if n == 1 else 1.0)


def _dot(canvas: np.ndarray, at, sigma: float, height: float, pixel: float, stretch=(1.0, 0.0)) -> None:
    """Add a small bright ellipse (`stretch`: length over width, and its angle) to `canvas`, in place."""
    length, angle = stretch
    sigma = max(sigma / pixel, 0.45)  # one pixel is the least that a film of this resolution shows
    row, col = at[0] / pixel, at[1] / pixel
    reach = int(np.ceil(3.2 * sigma * length)) + 1
    rows, cols = (
        np.arange(max(0, int(place) - reach), min(size, int(place) + reach + 1))
        for place, size in zip((row, col), canvas.shape, strict=True)
    )
    r, c = rows[:, None] - row, cols - col
    u, v = np.cos(angle) * c + np.sin(angle) * r, -np.sin(angle) * c + np.cos(angle) * r
    spot = height * np.exp(-0.5 * ((u / (sigma * length)) ** 2 + (v / sigma) ** 2))
    part = np.ix_(rows, cols)
    canvas[part] = np.maximum(canvas[part], spot)


def _ring(canvas: np.ndarray, at, radius: float, wall: float, height: float, pixel: float, rng) -> None:
    """Add a ring with a lucent centre to `canvas`, in place."""
    squash = rng.uniform(0.75, 1.0)
    r, c = np.indices(canvas.shape, dtype=np.float32)
    r, c = r * pixel - at[0], (c * pixel - at[1]) / squash
    shell = np.exp(-0.5 * ((np.hypot(r, c) - radius) / max(wall, 0.5 * pixel)) ** 2)
    np.maximum(canvas, height * shell, out=canvas)


def _particle(canvas, kind: str, at, pixel: float, rng: np.random.Generator) -> None:
    """Draw one particle of a type at a place (mm), in place."""
    turn = rng.uniform(0, np.pi)
    if kind == "PUNCTATE":
        _dot(canvas, at, 0.35, rng.uniform(0.7, 0.9), pixel)
    elif kind == "ROUND_AND_REGULAR":
        _dot(canvas, at, rng.uniform(0.7, 0.95), rng.uniform(0.9, 1.05), pixel)
    elif kind == "AMORPHOUS":
        _dot(canvas, at, rng.uniform(0.7, 1.2), rng.uniform(0.22, 0.42), pixel)
    elif kind == "PLEOMORPHIC":
        for _ in range(int(rng.integers(1, 4))):
            nearby = at + rng.normal(0, 0.6, 2)
            _dot(canvas, nearby, rng.uniform(0.3, 0.8), rng.uniform(0.4, 1.25), pixel, (rng.uniform(1, 2.2), turn))
    elif kind == "FINE_LINEAR_BRANCHING":
        _dot(canvas, at, 0.35, rng.uniform(0.6, 1.0), pixel, (rng.uniform(3.5, 6.5), turn))
        if rng.random() < 0.5:
            _dot(canvas, at, 0.35, rng.uniform(0.5, 0.9), pixel, (rng.uniform(2.5, 4), turn + rng.uniform(0.5, 1.1)))
    elif kind == "LUCENT_CENTER":
        _ring(canvas, at, rng.uniform(1.3, 2.4), 0.5, rng.uniform(0.8, 1.1), pixel, rng)
    elif kind == "EGGSHELL":
        _ring(canvas, at, rng.uniform(2.2, 4.5), 0.4, rng.uniform(0.7, 1.0), pixel, rng)
    elif kind == "COARSE":
        for _ in range(int(rng.integers(3, 7))):
            _dot(canvas, at + rng.normal(0, 1.5, 2), rng.uniform(1.0, 2.0), rng.uniform(1.1, 1.8), pixel)


def _vessel(canvas, breast: Breast, centre, size: float, rng: np.random.Generator) -> np.ndarray:
    """Two parallel broken lines along a winding vessel; returns its places in mm."""
    start, toward = np.array(centre) * breast.pixel, np.array(breast.nipple) * breast.pixel
    angle = np.arctan2(*(toward - start)) + rng.normal(0, 0.7)
    length = rng.uniform(3.0, 5.0) * size
    t = np.arange(-length / 2, length / 2, 0.9)
    wind = rng.uniform(1.5, 4) * np.sin(2 * np.pi * t / rng.uniform(25, 45) + rng.uniform(0, 6.3))
    along, across = np.array([np.sin(angle), np.cos(angle)]), np.array([np.cos(angle), -np.sin(angle)])
    middle = start + t[:, None] * along + wind[:, None] * across
    half = rng.uniform(1.0, 1.5)
    for wall in (-half, half):
        present = ndimage.gaussian_filter1d(rng.standard_normal(len(t)), 2) > -0.12
        for at in (middle + wall * across)[present]:
            _dot(canvas, at, 0.4, rng.uniform(0.55, 0.9), breast.pixel)
    return middle


def calcifications(
    breast: Breast, kind: str, distribution: str, size: float, contrast: float, rng: np.random.Generator, centre
) -> BreastLesion:
    """Draw calcifications of a type and distribution.

    Parameters
    ----------
    kind : a type of `cases.CALC_SHARES`; of several joined by "-", each particle is one
    distribution : of `cases.CALC_SHARES`; "" is a few single ones, or a vessel for VASCULAR
    size : float, scale of the group, mm: about the radius of a cluster
    contrast : float, multiple of the particles' attenuation
    centre : row and column in pixels, as `place` draws them
    """
    kinds = kind.split("-")
    canvas = np.zeros(breast.path.shape)
    if "VASCULAR" in kinds:
        places = _vessel(canvas, breast, centre, size, rng)
    else:
        places = _positions(breast, distribution, centre, size, rng)
        height, width = (side * breast.pixel for side in canvas.shape)
        rows = np.clip(np.nan_to_num(places[:, 0]).astype(float), 3, height - 3) / breast.pixel
        cols = np.clip(places[:, 1], 3, width - 3) / breast.pixel
        kept = breast.skin[rows.astype(int), cols.astype(int)] > 3  # none outside the breast
        places = np.stack([rows, cols], 1)[kept] * breast.pixel if kept.any() else np.array([centre]) * breast.pixel
        for at in places[: min(_MOST.get(word, 99) for word in kinds)]:
            _particle(canvas, str(rng.choice(kinds)), at, breast.pixel, rng)
    canvas = canvas * breast.inside
    # The outline that a reader would draw around particles: their convex hull and a margin of 2.5 mm.
    hull = morphology.convex_hull_image(canvas > 0.1)
    mask = (ndimage.distance_transform_edt(~hull) * breast.pixel <= 2.5) & breast.inside
    return BreastLesion((contrast * CALCIFICATION_PATH * canvas).astype(np.float32), mask)
