"""The embedded mammography cohort: simulated mammograms of a real BI-RADS table, in CBIS-DDSM's layout.

`python -m pkd_utils demo breast --root data/embedded-mammography --workers 2`.
Work happens in `<root>.partial/`,
one finished patient at a time; a killed build continues there, and the finished folder is renamed last. Neither the
number of workers nor an interruption changes a byte.
"""

import argparse
import multiprocessing
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pkd_utils.demo import build
from pkd_utils.demo.breast import anatomy, birads, cbis_layout, lesions
from pkd_utils.demo.breast import cases as mammogram_cases
from pkd_utils.demo.breast.cases import Case
from pkd_utils.runs import files, paths
from pkd_utils.runs.errors import DataError

GENERATOR = "pkd_utils demo breast"
DEFAULTS = {  # parameters of the cohort beyond its size and seed
    "contrast": 1.0,  # multiple of the lesions' attenuation
    "noise": 1.0,  # multiple of the usual quantum noise and film grain
    "image_height": 320,  # pixels; the width is 0.8 of it, and the film is 256 mm high
}
_LIMITS = {"contrast": (0.0, 10.0), "noise": (0.0, 20.0), "image_height": (96, 2048)}
DEFAULT_CALC_CASES = 400
_MODULES = tuple(f"breast/{name}" for name in ("birads", "anatomy", "lesions", "cbis_layout", "cases", "cohort"))
_BULK = ("CBIS-DDSM/",)  # one hash over all files below
_STREAM_WOMAN, _STREAM_VIEW = 41, 42
_NOTICE = """\
SIMULATED DATA. No picture in this folder is of a patient.

Every mammogram and mask here was drawn by pkd_utils.demo.breast.cohort, as were all identifiers, sides, views, breast
densities and subtleties. Real are, for masses only, the words behind the picture: shape, margin, mass density, age,
BI-RADS assessment and benign or malignant are those of one row of the Mammographic Mass data set (Elter,
Schulz-Wendtland and Wittenberg 2007), de-identified and public. The calcifications' words are drawn. The files have
the layout of CBIS-DDSM and come from nothing in it. An identifier that also exists there is a coincidence.
truth.csv holds what was drawn, for tests only. Parameters, versions and hashes: cohort.json.
"""


def _checked(seed: int, params: dict) -> dict:
    unknown = sorted(set(params) - set(DEFAULTS))
    if unknown:
        raise DataError(f"The mammography cohort has no parameter {unknown[0]!r}; it knows {', '.join(DEFAULTS)}.")
    if seed < 0:
        raise DataError(f"seed = {seed}: give a seed of 0 or more.")
    values = {name: type(default)(params.get(name, default)) for name, default in DEFAULTS.items()}
    for name, (low, high) in _LIMITS.items():
        if not low <= values[name] <= high:
            raise DataError(f"Parameter {name} = {values[name]} is outside {low:g} to {high:g}; choose a value inside.")
    return values


def cohort_identity(seed: int, mass_rows: int, calc_cases: int, **params) -> dict:
    """What decides every byte of a cohort on one machine: size, seed, parameters, code and the BI-RADS table."""
    return {
        "simulated": True,
        "generator": GENERATOR,
        "mass_rows": int(mass_rows),
        "calc_cases": int(calc_cases),
        "seed": int(seed),
        "parameters": _checked(seed, params),
        "code_sha256": build.code_sha256(_MODULES),
        "table_sha256": files.file_sha256(birads.table_file()),
    }


def draw_cases(seed: int = 0, mass_rows: int = 0, calc_cases: int = DEFAULT_CALC_CASES) -> list[Case]:
    """All cases of a cohort: masses, then calcifications; see `mammogram_cases`."""
    masses = mammogram_cases.mass_cases(birads.read(), seed, mass_rows)
    return masses + mammogram_cases.calc_cases(seed, calc_cases)


def _stamp(image: np.ndarray, case: Case) -> np.ndarray:
    """Write "SIM" and side and view into the corner away from the chest wall, like the marker on a film."""
    canvas = Image.new("L", image.shape[::-1])
    text, font = f"SIM {case.side[0]} {case.view}", ImageFont.load_default_imagefont()
    width = int(font.getlength(text))
    left = image.shape[1] - width - 6 if case.side == "LEFT" else 6
    ImageDraw.Draw(canvas).text((left, 5), text, fill=255, font=font)
    return np.maximum(image, np.asarray(canvas).astype(np.uint16) * 130)


def render(case: Case, seed: int, params: dict, depth: float | None = None):
    """Draw one mammogram.

    Parameters
    ----------
    case : Case
    seed : int
        Of the cohort.
    params : dict
        As `DEFAULTS`.
    depth : float, optional
        Distance of the lesion from the nipple, mm; drawn if not given.

    Returns
    -------
    image : np.ndarray
        (H, W) uint16; a left breast lies at the left edge, a right one at the right edge.
    mask : np.ndarray
        (H, W) bool, the lesion.
    depth : float
        Distance of the lesion from the nipple, mm.
    """
    woman_key, view_key = ([seed, s, case.kind == "mass", case.number] for s in (_STREAM_WOMAN, _STREAM_VIEW))
    woman = anatomy.draw_woman(np.random.default_rng(woman_key), case.breast_density)
    rng = np.random.default_rng([*view_key, case.view == "MLO"])
    body = anatomy.make(woman, case.view, params["image_height"], rng)
    centre = lesions.place(body, case.radius, rng, depth)
    contrast = params["contrast"] * case.contrast
    if case.kind == "mass":
        shape, margin = case.descriptors
        lesion = lesions.mass(body, shape, margin, case.mass_density, case.radius, contrast, rng, centre)
    else:
        kind, distribution = case.descriptors
        lesion = lesions.calcifications(body, kind, distribution, case.radius, contrast, rng, centre)
    image = anatomy.develop(np.clip(body.path + lesion.path, 0, None), body.inside, rng, params["noise"])
    depth = float(np.hypot(*(np.array(centre) - body.nipple)) * body.pixel)
    mask = lesion.mask
    if case.side == "RIGHT":
        image, mask = image[:, ::-1], mask[:, ::-1]
    return _stamp(image, case), mask, depth


def _make_patient(cases: list[Case], root: Path, seed: int, params: dict) -> str:
    """Write all files of one patient; the part file, written last, says that they are whole."""
    part, depth = {"series": [], "truth": []}, None
    for case in cases:
        image, mask, depth = render(case, seed, params, depth)
        pixel = anatomy.FILM_HEIGHT / params["image_height"]
        part["series"] += cbis_layout.write_case(root, case, seed, image, mask, pixel)
        truth = {name: value for name, value in vars(case).items() if name != "descriptors"}
        truth |= dict(zip(("shape or type", "margin or distribution"), case.descriptors, strict=True))
        extra = {"mask_pixels": int(mask.sum()), "swapped": cbis_layout.swapped(case, seed), "simulated": True}
        part["truth"].append({"case": case.name, "patient_id": case.patient_id, **truth, **extra})
    files.write_json(root / "parts" / f"{_part_name(cases)}.json", part)
    return _part_name(cases)


def _part_name(cases: list[Case]) -> str:
    return f"{cases[0].kind}-{cases[0].number}"


def _render_all(todo: list[list[Case]], root: Path, seed: int, params: dict, workers: int) -> None:
    work = partial(_make_patient, root=root, seed=seed, params=params)
    with tqdm(total=len(todo), desc="simulated patients", unit="patient", disable=len(todo) < 60) as progress:
        if workers == 1 or len(todo) < 2:
            for cases in todo:
                work(cases)
                progress.update()
            return
        with multiprocessing.Pool(workers) as pool:
            for _ in pool.imap_unordered(work, todo, chunksize=4):
                progress.update()


def _describe(root: Path, cases: list[Case], patients: list[list[Case]], seed: int) -> dict:
    """Write the tables, and return what `cohort.json` says of them beside the identity."""
    parts = [files.read_json(root / "parts" / f"{_part_name(cases)}.json") for cases in patients]
    counts = cbis_layout.write_tables(root, cases, seed)
    cbis_layout.write_metadata(root, [row for part in parts for row in part["series"]])
    files.write_csv(root / "truth.csv", pd.DataFrame([row for part in parts for row in part["truth"]]))
    counts |= {"patients": len(patients), "mammograms": len(cases)}
    counts["BI-RADS read as 5"] = sum(case.birads in (6, 55) for case in cases)
    libraries = build.versions(("numpy", "scipy", "pandas", "pillow", "pydicom", "scikit-image"))
    return {"counts": counts, "versions": libraries, "sha256": build.tree_hashes(root, _BULK)}


def ensure(
    root, seed: int = 0, workers: int = 1, mass_rows: int = 0, calc_cases: int = DEFAULT_CALC_CASES, **params
) -> Path:
    """Make sure that `root` holds exactly this simulated cohort; build it if it does not.

    Parameters
    ----------
    root : str or Path
        Folder of the cohort; relative paths are relative to the project root.
    seed : int
        Seed of everything. With the same code, table and libraries the same seed gives the same bytes.
    workers : int
        Processes; changes nothing but time.
    mass_rows : int
        Rows of the BI-RADS table that get a mammogram, chosen by the seed; 0 for all 830.
    calc_cases : int
        Mammograms with calcifications; most patients have two.
    **params
        `contrast`, `noise`, `image_height`: see `DEFAULTS`.

    Returns
    -------
    Path
        The cohort's folder.

    Raises
    ------
    DataError
        `root` holds something that is not a simulated cohort, or a parameter is unknown or out of range.
    FileNotFoundError
        The BI-RADS table has not been fetched.
    """
    root = paths.resolve(root)
    wanted = cohort_identity(seed, mass_rows, calc_cases, **params)
    cases = draw_cases(seed, mass_rows, calc_cases)

    def make(partial_root: Path) -> dict:
        groups = {}
        for case in cases:
            groups.setdefault((case.kind, case.number), []).append(case)
        patients = list(groups.values())
        done = {file.stem for file in (partial_root / "parts").glob("*-*.json")}
        todo = [group for group in patients if _part_name(group) not in done]
        _render_all(todo, partial_root, seed, wanted["parameters"], workers)
        return _describe(partial_root, cases, patients, seed)

    return build.build(root, wanted, _NOTICE, make)


def write_tables(root, seed: int = 0, mass_rows: int = 0, calc_cases: int = DEFAULT_CALC_CASES) -> Path:
    """Write the four case-description tables of the cohort alone, without pixels, and SIMULATED.txt.

    The rows are those of `ensure` with the same arguments; the files that their paths name do not exist.

    Parameters
    ----------
    root : str or Path
        Made if missing.
    seed, mass_rows, calc_cases
        As in `ensure`.

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    DataError
        `root` holds something that is not simulated, or a whole cohort with pixels.
    FileNotFoundError
        The BI-RADS table has not been fetched.
    """
    root = paths.resolve(root)
    build.refuse_foreign(root)
    if (root / "cohort.json").exists():
        raise DataError(f"{root} is a whole cohort: its tables are there already; choose another root.")
    cases = draw_cases(seed, mass_rows, calc_cases)
    with files.atomic_path(root / "SIMULATED.txt") as temporary:
        temporary.write_text(_NOTICE)
    cbis_layout.write_tables(root, cases, seed)
    return root


def verify(root) -> list[str]:
    """Names of tables (or `CBIS-DDSM/`) of a cohort whose bytes are not those that were written; empty if whole.

    Raises
    ------
    FileNotFoundError
        `root` has no cohort.json.
    """
    return build.changed_files(root, lambda folder: build.tree_hashes(folder, _BULK), GENERATOR)


def main(arguments: list[str] | None = None) -> None:
    """Build the simulated mammography cohort if it is not there, and say what it holds."""
    parser = argparse.ArgumentParser(prog=f"python -m {GENERATOR}", description=main.__doc__)
    parser.add_argument("--root", default="data/embedded-mammography", help="folder to write (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes; changes only the time (default %(default)s)")
    parser.add_argument("--mass-rows", type=int, default=0, help="rows of the BI-RADS table, 0: all")
    parser.add_argument("--calc-cases", type=int, default=DEFAULT_CALC_CASES, help="default %(default)s")
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="default %(default)s")
    given = vars(parser.parse_args(arguments))
    start = time.perf_counter()
    root = ensure(**given)
    counts = files.read_json(root / "cohort.json")["counts"]
    print(f"Simulated mammography cohort in {root}, {time.perf_counter() - start:.1f} s:", end=" ")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
