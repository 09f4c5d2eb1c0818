"""From line integrals to an 8-bit film: body, pose, elastic warp, detector noise, logarithm, window.

The warp moves image and regions with the same coordinates, so a region stays on its finding.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from pkd_utils.demo.chest.anatomy import CANVAS, PITCH, Anatomy, View
from pkd_utils.demo.chest.findings import Field, Lesion, drop_islands, study_delta, upsample

IMAGE_SHAPE = {"AP": (240, 256), "PA": (240, 256), "LATERAL": (240, 224)}  # rows, columns
_DOMES = {"right": (158.0, 88.0), "left": (180.0, 216.0)}  # rows, columns of the diaphragm's domes on a frontal canvas
_GRID = 5  # control points of the elastic warp along each side


@dataclass(frozen=True)
class Body:
    """What stays the same in all films of a patient; sizes are relative to the CT's patient."""

    sex: str  # "M" or "F"
    habitus: float  # thickness of soft tissue, about 0.9 to 1.25
    width: float
    height: float
    seed: tuple  # of the patient's own elastic warp


@dataclass(frozen=True)
class Film:
    """One exposure."""

    view: str  # "AP", "PA" or "LATERAL"
    body: Body
    age: float  # years; older: less mineral in bone, a calcified aorta, on the lateral film a bent upper spine
    heart_scale: float  # size of the heart relative to the CT's
    lesions: list[Lesion] = field(default_factory=list)
    devices: tuple = ()  # of "pacemaker", "central line", "endotracheal tube", "wires"
    inspiration: float = 0.8  # 1 full breath, 0 very shallow
    tilt: float = 0.0  # radians by which the patient leans back (AP only)
    noise: float = 1.0  # multiple of the usual quantum noise
    seed: tuple = (0,)  # of pose, elastic warp and noise


def spline(n, size):
    """Weights (size, n) of a quadratic B-spline with n control points over `size` pixels."""
    x = np.linspace(0.5, n - 1.5, size)[:, None] - np.arange(n)[None]
    a = np.abs(x)
    return np.where(a < 0.5, 0.75 - a**2, np.where(a < 1.5, 0.5 * (1.5 - a) ** 2, 0.0))


def elastic(rng, shape, amplitude) -> np.ndarray:
    """Smooth random displacement (2, rows, columns) in pixels; `amplitude` is the standard deviation at the knots."""
    knots = rng.standard_normal((2, _GRID, _GRID)) * amplitude
    rows, cols = spline(_GRID, shape[0]), spline(_GRID, shape[1])
    # einsum without BLAS: the same bytes whatever the number of threads.
    half = np.einsum("ri,kij->krj", rows, knots)
    return np.einsum("krj,cj->krc", half, cols)


def warp_coordinates(film: Film) -> np.ndarray:
    """Canvas coordinates (2, rows, columns), float32, from which each pixel of the film is taken.

    A composition of the patient's size and elastic warp, the exposure's rotation, shift and elastic warp, the height of
    the diaphragm (inspiration, and loss of volume under an atelectasis), and the bent spine of old age.
    """
    shape = IMAGE_SHAPE[film.view]
    rng = np.random.default_rng(film.seed)
    own = np.random.default_rng([*film.body.seed, film.view == "LATERAL"])
    portable = film.view == "AP"
    angle = np.deg2rad(rng.normal(0, 2.5 if portable else 1.2))
    shift = rng.normal(0, (6, 6) if portable else (4, 4))
    zoom = 1.05 * np.exp(rng.normal(0, 0.035))
    r, c = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    r = r / (zoom * film.body.height)
    c = c / (zoom * film.body.width)
    rows = np.cos(angle) * r - np.sin(angle) * c + (CANVAS[0] - 1) / 2 + shift[0] - 14
    cols = np.sin(angle) * r + np.cos(angle) * c + (CANVAS[1] - 1) / 2 + shift[1]
    moved = elastic(own, shape, 5.0) + elastic(rng, shape, 2.5)
    rows, cols = rows + moved[0], cols + moved[1]
    shallow = 26 * (0.9 - film.inspiration)
    lifts = {side: shallow + rng.normal(0, 3) for side in _DOMES}
    for lesion in film.lesions:
        if lesion.finding == "Atelectasis" and lesion.side in lifts:
            lifts[lesion.side] += 13 * lesion.severity
    if film.view == "LATERAL":
        lift = (lifts["left"] + lifts["right"]) / 2
        rows = rows + lift * np.exp(-(((rows - 178) / 50) ** 2))
        bend = max(0.0, (film.age - 55) / 40) * 22
        cols = cols + bend * np.clip((130 - rows) / 110, 0, None) ** 2
    else:
        for side, (row, col) in _DOMES.items():
            rows = rows + lifts[side] * np.exp(-(((rows - row) / 48) ** 2) - ((cols - col) / 62) ** 2)
    return np.stack([rows, cols]).astype(np.float32)


def warp(image, coordinates) -> np.ndarray:
    """Sample `image` (shape `CANVAS`) at `coordinates` by linear interpolation, edges repeated."""
    return ndimage.map_coordinates(np.asarray(image, np.float32), coordinates, order=1, mode="nearest")


def _breasts(view: View, anatomy: Anatomy, rng) -> np.ndarray:
    """Line integral of two soft mounds on the chest wall, shape `CANVAS`; from the side, only outside the body."""
    size = rng.uniform(0.7, 1.2)
    half = np.array([52, 34, 58]) * size
    out = np.zeros(CANVAS, np.float32)
    rows, cols = np.mgrid[: CANVAS[0], : CANVAS[1]]
    for side in ("right", "left"):
        x, front, z = anatomy.landmarks[f"breast_{side}"]
        v, u = view.project_point((x, front - 6, z + 4 - 8 * size))
        across, depth = (half[1], half[0]) if view.name == "LATERAL" else (half[0], half[1])
        q = 1 - ((rows - v) * PITCH / half[2]) ** 2 - ((cols - u) * PITCH / across) ** 2
        out += 0.019 * depth * np.clip(q, 0, None)
    return out * np.clip(1 - view.soft / 2.0, 0, 1) if view.name == "LATERAL" else out


def _polyline(points, width, attenuation) -> np.ndarray:
    picture = Image.new("L", CANVAS[::-1], 0)
    ImageDraw.Draw(picture).line([(u, v) for v, u in points], fill=255, width=width, joint="curve")
    return ndimage.gaussian_filter(np.asarray(picture, np.float32) / 255 * attenuation, 0.7)


def _devices(view: View, anatomy: Anatomy, names, rng) -> np.ndarray:
    """Line integral of tubes and wires, shape `CANVAS`."""
    out = np.zeros(CANVAS, np.float32)
    at = anatomy.landmarks

    def path(*points, jitter=2.0):
        return [view.project_point(np.add(p, rng.normal(0, jitter, 3))) for p in points]

    if "endotracheal tube" in names:
        tip = rng.uniform(15, 55)
        out += _polyline(path((0, 5, tip), (-2, 15, 70), (-4, 25, 160), jitter=1.0), 3, 0.25)
    if "central line" in names:
        vein, svc = at["brachiocephalic_vein_right"], at["superior_vena_cava"]
        tip = (svc[0], svc[1], svc[2] - rng.uniform(10, 40))
        out += _polyline(path((vein[0] - 25, vein[1], 150), (vein[0] - 8, vein[1], 90), vein, svc, tip), 2, 0.35)
    if "pacemaker" in names:
        box = np.array([95.0, 110.0, 72.0])
        v, u = view.project_point(box)
        rows, cols = np.mgrid[: CANVAS[0], : CANVAS[1]]
        q = ((rows - v) / 12) ** 4 + ((cols - u) / (6 if view.name == "LATERAL" else 14)) ** 4
        out += np.where(q < 1, 1.3, 0).astype(np.float32)
        heart = np.array(at["heart"])
        route = (
            box - (10, 0, 5),
            (60, 70, 95),
            (-10, 45, 70),
            (-22, 35, 0),
            (-15, 40, -55),
            heart + np.array((15, 15, -25)),
        )
        out += _polyline(path(*route), 2, 0.5)
    if "wires" in names:
        for _ in range(3):
            start = np.array([rng.uniform(-120, 120), 140, rng.uniform(-20, 110)])
            bend, end = np.array((rng.normal(0, 40), 0, -70)), np.array((60, 0, -190))
            out += _polyline(path(start, start + bend, start + end, jitter=18), 2, 0.3)
    return out


def line_integrals(anatomy: Anatomy, points: Field, film: Film):
    """Line integrals of a film before the warp, and the regions of its findings.

    Returns
    -------
    p : CANVAS float32, healthy body (soft tissue, mineral and calcium of that age, breasts, devices) plus findings
    regions : dict of str to (CANVAS / 2) bool
    """
    view = anatomy.views[film.view]
    rng = np.random.default_rng([*film.body.seed, 7])
    aged = np.clip((film.age - 40) / 50, -0.4, 1.0)
    mineral = 2.4 * (1 - 0.5 * aged) * rng.uniform(0.9, 1.1)
    calcium = 0.010 * max(0.0, (film.age - 55) / 35) ** 1.5 * rng.uniform(0.3, 1.7)
    p = film.body.habitus * view.soft + mineral * view.bone + calcium * view.aorta
    if film.body.sex == "F":
        p = p + _breasts(view, anatomy, rng)
    if film.devices:
        p = p + _devices(view, anatomy, film.devices, np.random.default_rng([*film.seed, 3]))
    delta, regions = study_delta(points, film.lesions, film.heart_scale, film.tilt)
    return (p + upsample(delta)).astype(np.float32), regions


def develop(p, film: Film) -> np.ndarray:
    """Detector, logarithm and window: line integrals (rows, columns) to uint8, dense tissue bright.

    Counts are Poisson around dose * (exp(-p) + scatter); a portable film has less dose and more scatter. What is shown
    is -log(counts), slightly sharpened, between two percentiles.
    """
    rng = np.random.default_rng([*film.seed, 5])
    portable = film.view == "AP"
    dose = (5.0e4 if portable else 9.0e4) * (4 if film.view == "LATERAL" else 1) / max(film.noise, 1e-3) ** 2
    primary = np.exp(-p.astype(np.float64))
    scatter = primary
    for _ in range(2):
        scatter = ndimage.uniform_filter(scatter, 41, mode="nearest")
    share = 0.30 if portable else 0.14
    counts = rng.poisson(dose * ((1 - share) * primary + share * scatter))
    blurred = ndimage.gaussian_filter(np.maximum(counts, 1).astype(np.float64), 0.55, mode="nearest", truncate=3)
    dark = -np.log(blurred / dose)
    smooth = ndimage.uniform_filter(ndimage.uniform_filter(dark, 21, mode="nearest"), 21, mode="nearest")
    shown = dark - 0.35 * smooth
    low, high = np.percentile(shown, [rng.uniform(0.5, 3), rng.uniform(99.0, 99.8)])
    grey = np.clip((shown - low) / (high - low), 0, 1) ** rng.uniform(0.85, 1.2)
    return np.rint(grey * 255).astype(np.uint8)


def expose(anatomy: Anatomy, points: Field, film: Film) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Make one film; `points` are those of its view.

    Returns
    -------
    image : `IMAGE_SHAPE[view]` uint8
    masks : dict of str to bool of the same shape
        Region of each finding that has one on this film, small islands removed.
    """
    p, regions = line_integrals(anatomy, points, film)
    coordinates = warp_coordinates(film)
    image = develop(warp(p, coordinates), film)
    masks = {}
    for finding, coarse in regions.items():
        mask = drop_islands(warp(upsample(coarse), coordinates) > 0.5)
        if mask.any():
            masks[finding] = mask
    return image, masks
