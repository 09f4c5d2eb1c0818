"""The embedded mammograms: simulated pictures of a real BI-RADS table, in CBIS-DDSM's layout."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from pkd_utils.demo import build
from pkd_utils.demo.breast import anatomy, birads, cbis_layout, lesions
from pkd_utils.demo.breast.cases import Case, calc_cases, mass_cases
from pkd_utils.runs import files, paths
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError

_STREAM_WOMAN, _STREAM_VIEW = 41, 42
_NOTICE = """\
SIMULATED DATA. No picture in this folder is of a patient.

Every mammogram and mask here was drawn by pkd_utils.demo.mammography, as were all identifiers, sides, views, breast
densities and subtleties. Real are, for masses only, the words behind the picture: shape, margin, mass density, age,
BI-RADS assessment and benign or malignant are those of one row of the Mammographic Mass data set (Elter,
Schulz-Wendtland and Wittenberg 2007), de-identified and public. The calcifications' words are drawn. The files have
the layout of CBIS-DDSM and come from nothing in it. An identifier that also exists there is a coincidence.
truth.csv holds what was drawn, for tests only. Parameters, versions and hashes: cohort.json.
"""


@config
class BreastCohort(build.Recipe):
    """Mammograms with masses and with calcifications; what they show is in `cases`."""

    mass_rows: int = Field(0, ge=0, le=birads.ROWS, description="rows of the BI-RADS table, 0: all")
    calc_cases: int = Field(400, ge=0, description="mammograms with calcifications; most patients have two")
    seed: int = Field(0, ge=0, description="seed of everything")
    contrast: float = Field(1.0, ge=0, le=10, description="multiple of the lesions' attenuation")
    noise: float = Field(1.0, ge=0, le=20, description="multiple of the usual quantum noise and film grain")
    image_height: int = Field(320, ge=96, le=2048, description="pixels; the film is 256 mm high, 0.8 of it wide")

    root = "data/embedded-mammography"
    size = "mass_rows"
    notice = _NOTICE
    folders = ("CBIS-DDSM/",)
    libraries = ("numpy", "scipy", "pandas", "pillow", "pydicom", "scikit-image")

    def sources(self) -> dict[str, str]:
        return {"table_sha256": files.file_sha256(birads.table_file())}

    @functools.cached_property
    def cases(self) -> list[Case]:
        """All cases: masses, then calcifications."""
        masses = mass_cases(birads.read(), self.seed, self.mass_rows)
        return masses + calc_cases(self.seed, self.calc_cases)

    @functools.cached_property
    def patients_drawn(self) -> list[list[Case]]:
        """The cases of each patient."""
        groups = {}
        for case in self.cases:
            groups.setdefault((case.kind, case.number), []).append(case)
        return list(groups.values())

    def render(self, i: int, root: Path) -> dict:
        part, depth = {"series": [], "truth": []}, None
        for case in self.patients_drawn[i]:
            image, mask, depth = draw(case, self, depth)
            pixel = anatomy.FILM_HEIGHT / self.image_height
            part["series"] += cbis_layout.write_case(root, case, self.seed, image, mask, pixel)
            truth = {name: value for name, value in vars(case).items() if name != "descriptors"}
            truth |= dict(zip(("shape or type", "margin or distribution"), case.descriptors, strict=True))
            truth |= {"mask_pixels": int(mask.sum()), "swapped": cbis_layout.swapped(case, self.seed)}
            part["truth"].append({"case": case.name, "patient_id": case.patient_id, **truth, "simulated": True})
        return part

    def tables(self, root: Path, parts: list[dict]) -> dict[str, int]:
        counts = cbis_layout.write_tables(root, self.cases, self.seed)
        for name, rows in (("metadata", "series"), ("truth", "truth")):
            files.write(root / f"{name}.csv", pd.DataFrame([row for part in parts for row in part[rows]]))
        counts |= {"patients": len(parts), "mammograms": len(self.cases)}
        return counts | {"BI-RADS read as 5": sum(case.birads in (6, 55) for case in self.cases)}


def _stamp(image: np.ndarray, case: Case) -> np.ndarray:
    """Write "SIM" and side and view into the corner away from the chest wall, like the marker on a film."""
    canvas = Image.new("L", image.shape[::-1])
    text, font = f"SIM {case.side[0]} {case.view}", ImageFont.load_default_imagefont()
    width = int(font.getlength(text))
    left = image.shape[1] - width - 6 if case.side == "LEFT" else 6
    ImageDraw.Draw(canvas).text((left, 5), text, fill=255, font=font)
    return np.maximum(image, np.asarray(canvas).astype(np.uint16) * 130)


def draw(case: Case, cohort: BreastCohort, depth: float | None = None):
    """Draw one mammogram.

    Returns
    -------
    image : (H, W) uint16; a left breast lies at the left edge, a right one at the right edge
    mask : (H, W) bool, the lesion
    depth : float, distance of the lesion from the nipple, mm; drawn where `depth` is not given
    """
    woman_key, view_key = ([cohort.seed, s, case.kind == "mass", case.number] for s in (_STREAM_WOMAN, _STREAM_VIEW))
    woman = anatomy.draw_woman(np.random.default_rng(woman_key), case.breast_density)
    rng = np.random.default_rng([*view_key, case.view == "MLO"])
    body = anatomy.make(woman, case.view, cohort.image_height, rng)
    centre = lesions.place(body, case.radius, rng, depth)
    contrast = cohort.contrast * case.contrast
    if case.kind == "mass":
        shape, margin = case.descriptors
        lesion = lesions.mass(body, shape, margin, case.mass_density, case.radius, contrast, rng, centre)
    else:
        kind, distribution = case.descriptors
        lesion = lesions.calcifications(body, kind, distribution, case.radius, contrast, rng, centre)
    image = anatomy.develop(np.clip(body.path + lesion.path, 0, None), body.inside, rng, cohort.noise)
    depth = float(np.hypot(*(np.array(centre) - body.nipple)) * body.pixel)
    mask = lesion.mask
    if case.side == "RIGHT":
        image, mask = image[:, ::-1], mask[:, ::-1]
    return _stamp(image, case), mask, depth


def write_tables(root, **options) -> Path:
    """Write the four case-description tables of a cohort alone, without pixels, and SIMULATED.txt.

    The rows are those of the whole cohort with the same options (`seed`, `mass_rows`, `calc_cases`); the files that
    their paths name do not exist. A folder that holds anything else is refused.
    """
    root, cohort = paths.resolve(root), BreastCohort(**options)
    build.refuse_foreign(root)
    if (root / "cohort.json").exists():
        raise DataError(f"{root} is a whole cohort: its tables are there already; choose another root.")
    with files.atomic_path(root / "SIMULATED.txt") as temporary:
        temporary.write_text(_NOTICE)
    cbis_layout.write_tables(root, cohort.cases, cohort.seed)
    return root
