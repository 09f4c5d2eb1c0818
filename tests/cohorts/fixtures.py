"""Tiny trees in the published layouts, written by code; all content is made up.

Each writer takes the folder to write into and returns it. Tests break a tree after it is written.
"""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils.cohorts import Cohort, load_cohort
from pkd_utils.cohorts.breast_usg import DESCRIPTORS
from pkd_utils.cohorts.mimic_cxr import ALL_LABELS
from pkd_utils.runs.errors import DataError
from tests.cohorts.cbis_fixtures import write_tables

SPLITS = ["train", "train", "train", "validate", "test", "test"]


def refused(name: str, root: Path, message: str, error=DataError, **options) -> None:
    """Loading this tree with these options is refused in such words."""
    with pytest.raises(error, match=message):
        load_cohort(name, root, **options)


def steps(cohort: Cohort) -> pd.DataFrame:
    """A cohort's funnel by step: `rows`, `patients`, `paper`, `note`."""
    return cohort.funnel.set_index("step")


def write_image(path: Path, size: tuple[int, int] = (40, 32)) -> None:
    """Write a grey image; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, size: tuple[int, int], box: tuple[int, int, int, int], colour=(255, 255, 255)) -> None:
    """Write an RGBA mask of this size, coloured inside the box and black outside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((*colour, 255), box)
    mask.save(path)


def edit_csv(path: Path, change) -> None:
    """Rewrite a CSV (plain or .gz), TSV or XLSX: `change` takes the table of strings and returns the new one."""
    if path.suffix == ".xlsx":
        change(pd.read_excel(path, dtype=str, keep_default_na=False)).to_excel(path, index=False)
        return
    separator = "\t" if path.suffix == ".tsv" else ","
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    change(table).to_csv(path, sep=separator, index=False)


def cell(column, value, row: int = 0):
    """A change for `edit_csv`: this value in one cell, or these values in some of one row."""

    def change(table):
        table.loc[row, column] = value
        return table

    return change


def without(column: str):
    """A change for `edit_csv`: one column less."""
    return lambda table: table.drop(columns=column)


def mimic_ids(patient: int, view: int) -> tuple[str, str, str]:
    """Return (subject_id, study_id, dicom_id) of a made-up image."""
    dicom = "-".join(f"{patient * 16 + view * 8 + part:08x}" for part in range(5))
    return f"{10000032 + patient}", f"{50414267 + patient}", dicom


def mimic_report(patient: int) -> str:
    """Return a report in MIMIC-CXR's format."""
    return (
        "                                 FINAL REPORT\n"
        " EXAMINATION:  CHEST (PA AND LAT)\n \n"
        " INDICATION:  ___F with cough  // ? pneumonia\n \n"
        " COMPARISON:  None.\n \n"
        f" FINDINGS: \n \n Made-up finding number {patient}.  Lungs are\n clear.\n \n"
        " IMPRESSION: \n \n No acute cardiopulmonary process.\n"
    )


def write_mimic_cxr(root: Path) -> Path:
    """Six patients with one study each, of a PA and a lateral image; boxes on the frontal image of the last three."""
    rows, labels, boxes = [], [], []
    for patient, split in enumerate(SPLITS):
        for view, position in enumerate(["PA" if patient % 2 else "AP", "LATERAL"]):
            subject, study, dicom = mimic_ids(patient, view)
            folder = f"files/p{subject[:2]}/p{subject}/s{study}"
            write_image(root / folder / f"{dicom}.jpg")
            rows.append((dicom, subject, study, position, 64, 80, "21800506", "93014.531", split))
            if view == 0 and patient >= 3:
                path = f"{folder}/{dicom}.jpg"
                boxes.append(("Edema", "made up", path, 8, 16, 40, 32, dicom, 80, 64, "test"))
        (root / folder).with_suffix(".txt").write_text(mimic_report(patient))
        values = dict.fromkeys(ALL_LABELS, "") | {"Edema": "1.0", "Cardiomegaly": "0.0", "Atelectasis": "-1.0"}
        labels.append({"subject_id": subject, "study_id": study, **values})
    names = ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime", "split"]
    metadata = pd.DataFrame(rows, columns=names)
    metadata.drop(columns="split").to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    split = metadata[["dicom_id", "study_id", "subject_id", "split"]]
    split.to_csv(root / "mimic-cxr-2.0.0-split.csv.gz", index=False)
    for labeller in ("chexpert", "negbio"):
        pd.DataFrame(labels).to_csv(root / f"mimic-cxr-2.0.0-{labeller}.csv.gz", index=False)
    (root / "hosp").mkdir()
    people = [(mimic_ids(p, 0)[0], "F", 50 + p, 2178, "2011 - 2013", "") for p in range(len(SPLITS))]
    names = ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"]
    pd.DataFrame(people, columns=names).to_csv(root / "hosp" / "patients.csv.gz", index=False)
    names = ["category_name", "label_text", "path", *"xywh", "dicom_id", "image_width", "image_height", "split"]
    (root / "ms-cxr").mkdir()
    table = pd.DataFrame(boxes, columns=names)
    table.to_csv(root / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv", index=False)
    return root


def write_covid_chestxray(root: Path, old_spelling: bool = False) -> Path:
    """Twelve images of eight patients, one of them a CT, one lateral, one without a note; `write_segmentations`."""
    names = "patientid offset sex age finding survival intubated went_icu in_icu view modality date location folder"
    names = [*names.split(), "filename", "doi", "url", "license", "clinical_notes", "other_notes"]
    rows, images, annotations = [], [], []
    findings = ["COVID-19", "Pneumonia/Viral/COVID-19", "todo", "No Finding", "COVID-19, ARDS", "Unknown"]
    for i in range(12):
        file = f"film-{i}.png"
        yes_no = ["Y", "N", "?", ""][i % 4]
        view, modality = ["PA", "AP Supine", "", "PA"][i % 4], "CT" if i == 10 else "X-ray"
        note = "" if i == 11 else f"Made-up note {i}."
        row = [f"p{i // 2 if i < 8 else i}", i, "F", 40 + i, findings[i % 6], yes_no, yes_no, yes_no, yes_no]
        row += ["L" if i == 9 else view, modality, "2020", "Nowhere", "images", file, "", "", "CC BY", note, "credit"]
        rows.append(row)
        write_image(root / "images" / file)
        images.append({"id": i, "file_name": file, "width": 80, "height": 64})
        for category, x in ((1, 4), (2, 44)):
            box = {"id": 2 * i + category, "image_id": i, "category_id": category, "bbox": [x, 8, 32, 40]}
            annotations.append(box)
    table = pd.DataFrame(rows, columns=names)
    if old_spelling:
        table = table.rename(columns={"clinical_notes": "clinical notes", "url": " url", "other_notes": "other notes"})
    table.to_csv(root / "metadata.csv", index=False)
    categories = [{"id": 1, "name": "Right Lung"}, {"id": 2, "name": "Left Lung"}]
    (root / "annotations").mkdir()
    coco = {"categories": categories, "images": images, "annotations": annotations}
    (root / "annotations" / "annotations.json").write_text(json.dumps(coco))
    write_segmentations(root)
    return root


def write_segmentations(root: Path) -> None:
    """Masks on three images of `write_covid_chestxray`, drawn on images twice as large, and `structure.csv`."""
    rows = []  # image, template, left, top, width, height
    masks = [(0, "Ground Glass Opacities", 20, 10, 16, 8), (0, "Consolidation", 40, 20, 10, 4)]
    masks += [(0, "Right Lung", 10, 4, 32, 40), (1, "Ground Glass Opacities", 0, 0, 80, 64)]
    masks += [(9, "Pneumothorax", 0, 0, 8, 8)]
    for number, (image, template, left, top, width, height) in enumerate(masks):
        mask = f"masks/{number:08x}_{template[:3]}.png"
        write_mask(root / "segmentations" / mask, (width, height), (0, 0, width // 2, height), (255, 0, 0))
        row = {"#": number, "Class": f"COVID-19 {template}", "Template Name": template, "Filename": f"film-{image}.png"}
        row |= {"Mask": mask, "Resolution": "80x64", "Top": top, "Left": left, "Width": width, "Height": height}
        rows.append(row)
    pd.DataFrame(rows).to_csv(root / "segmentations" / "structure.csv", index=False)


def write_cbis_mass(root: Path) -> Path:
    """The four tables of CBIS-DDSM; pictures are written by `cbis_fixtures`."""
    write_tables(root)
    return root


write_cbis_calc = write_cbis_mass  # all four tables lie together


def openi_report(number: int, findings: str, impression: str, majors: list[str], films=("1_IM-0001-3001",)) -> str:
    """Return one report's XML."""
    mesh = "".join(f"<major>{major}</major>" for major in majors)
    listed = "".join(f'<parentImage id="CXR{number}_{film}"/>' for film in films)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>'
        f'<AbstractText Label="COMPARISON">None.</AbstractText><AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>'
        f"<MeSH>{mesh}</MeSH>{listed}</eCitation>"
    )


def write_openi(root: Path, members: dict[str, str | bytes] | None = None) -> Path:
    """Six reports: normal, three findings, one not indexed, one without text; or the members given."""
    if members is None:
        reports = {
            1: ("Made up.", "Normal chest.", ["normal"]),
            10: ("Made up.", "", ["Cardiac Shadow/enlarged/mild", "Opacity/lung/base/left"]),  # before 2, as published
            2: ("", "Made up.", ["Pulmonary Atelectasis/base", "Pleural Effusion/left/small"]),
            3: ("Made up.", "Made up.", ["Cardiac Shadow/obscured", "Thoracic Vertebrae/degenerative"]),
            4: ("Made up.", "Made up.", ["No Indexing"]),
            5: ("", "", ["normal"]),
        }
        members = {f"ecgen-radiology/{n}.xml": openi_report(n, *report) for n, report in reports.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in members.items():
            data = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    root.mkdir(parents=True, exist_ok=True)
    (root / "NLMCXR_reports.tgz").write_bytes(gzip.compress(buffer.getvalue()))
    return root


OPENI_FILMS = {1: ["1_IM-0001-3001", "1_IM-0001-4001"], 2: ["IM-0652-1001"], 10: ["IM-0002-1001", "IM-0002-2001-0001"]}


def write_openi_with_pictures(root: Path, layout: str = "kaggle") -> Path:
    """Four reports, of which three list pictures, and these in the layout `kaggle`, `kaggle-small` or `open-i`."""
    majors = {1: ["normal"], 2: ["Opacity/lung/base/left", "Cardiomegaly/mild"]}
    majors |= {3: ["Pulmonary Atelectasis/base"], 10: ["normal"]}
    reports = {n: openi_report(n, "Made up.", "", majors[n], OPENI_FILMS.get(n, [])) for n in majors}
    write_openi(root, {f"ecgen-radiology/{n}.xml": report for n, report in reports.items()})
    rows = []
    for number, films in OPENI_FILMS.items():
        for k, film in enumerate(films):
            name = f"{number}_{film.removeprefix('1_')}.dcm.{'png' if layout == 'kaggle' else 'jpg'}"
            rows.append((str(number), name, "Lateral" if k == 1 else "Frontal"))
            folder = {"kaggle": "images/images_normalized/", "kaggle-small": "images/", "open-i": ""}[layout]
            name = f"CXR{number}_{film}.png" if layout == "open-i" else name
            write_image(root / f"{folder}{name}", (40 + number, 32 + k))
    if layout != "open-i":
        table = pd.DataFrame(rows, columns=["uid", "filename", "projection"])
        table.to_csv(root / "indiana_projections.csv", index=False)
    if layout == "kaggle":
        table = pd.DataFrame({"uid": list(majors), "MeSH": [";".join(m) for m in majors.values()]})
        table.assign(findings="Made up.").to_csv(root / "indiana_reports.csv", index=False)
    return root


BREAST_PICTURES = "BrEaST-Lesions_USG-images_and_masks"
BREAST_TABLE = "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx"


def write_breast_usg(root: Path) -> Path:
    """Five cases of 60 x 40 pixels: followed up; biopsied with two other masks; biopsied, 4a; normal; malignant."""
    no, gone, angular = "no", "not applicable", "not circumscribed - angular&indistinct"
    descriptions = [
        ("heterogeneous: predominantly fat", "oval", "circumscribed", "hypoechoic", no, no, no, no),
        ("lactating&homogeneous: fat", "irregular", angular, "hypoechoic", no, "yes", "in a mass", "yes"),
        ("not available", "round", "not circumscribed - indistinct", "anechoic", "shadowing", no, no, no),
        ("homogeneous: fat", gone, gone, gone, gone, gone, gone, no),
        ("homogeneous: fat", "irregular", "not circumscribed - spiculated", "hypoechoic", "shadowing", no, no, no),
    ]
    ends = [
        ("Fibroadenoma", 2, "confirmed by follow-up care", gone, "benign"),
        ("Suspicion of malignancy&Dysplasia", "4c", "confirmed by biopsy", "Carcinoma", "malignant"),
        ("Cyst filled with thick fluid", "4a", "confirmed by biopsy", "Fibroadenoma", "benign"),
        (gone, 1, gone, gone, "normal"),
        ("Suspicion of malignancy", 5, "confirmed by biopsy", "Carcinoma", "malignant"),
    ]
    rows = []
    for case, (description, end) in enumerate(zip(descriptions, ends, strict=True), start=1):
        name = f"case{case:03d}"
        write_image(root / BREAST_PICTURES / f"{name}.png", (60, 40))
        tumour = {f"{name}_tumor.png": (10 * case, 5, 10 * case + 8, 11)} if case != 4 else {}
        other = {f"{name}_other1.png": (1, 6, 5, 10), f"{name}_other2.png": (28, 6, 32, 10)} if case == 2 else {}
        for file, box in (tumour | other).items():
            write_mask(root / BREAST_PICTURES / file, (60, 40), box)
        row = {"CaseID": case, "Image_filename": f"{name}.png"}
        row |= {"Mask_tumor_filename": "&".join(tumour) or None, "Mask_other_filename": "&".join(other) or None}
        row |= {"Pixel_size": 0.0078125, "Age": "not available" if case == 3 else 50 + case}
        row |= {"Signs": no, "Symptoms": no}
        row |= dict(zip(DESCRIPTORS, (*description, end[1]), strict=True))
        last = ("Interpretation", "Verification", "Diagnosis", "Classification")
        rows.append(row | dict(zip(last, (end[0], *end[2:]), strict=True)))
    with pd.ExcelWriter(root / BREAST_TABLE) as book:
        pd.DataFrame(rows).to_excel(book, sheet_name="BrEaST-Lesions-USG clinical dat", index=False)
        pd.DataFrame({"type": ["CaseID"]}).to_excel(book, sheet_name="Data Dictionary", index=False)
    return root


INSPECT_STUDIES = 10
PH = ["True", "False", "Censored", "False", "True", "False", "False", "Censored", "False", "True"]
READMITTED = ["False"] * 5 + ["True"] * 3 + ["Censored"] * 2
EMBOLISM = ["True", "False"] * 5


def inspect_tables() -> dict[str, pd.DataFrame]:
    """Ten studies of seven persons; the last one has no time, the last but one only the note's."""
    ids = [str(2_000_100 + k) for k in range(INSPECT_STUDIES)]
    persons = [str(700_000 + k // 2 if k < 6 else 700_000 + k) for k in range(INSPECT_STUDIES)]
    split = ["train"] * 4 + ["valid"] * 2 + ["test"] * 4
    times = [f"2015-03-{k + 1:02d} 10:30:00" for k in range(INSPECT_STUDIES - 2)]
    mapping = pd.DataFrame({"impression_id": ids, "person_id": persons})
    mapping["image_id"] = [f"PE{0x452890E + k:07x}" for k in range(INSPECT_STUDIES)]
    mapping["procedure_DATETIME"] = [*times, None, None]
    mapping["note_DATETIME"] = [*times, "2016-01-01 00:00:00", None]
    mapping["procedure_occurrence_id"] = [*map(str, range(INSPECT_STUDIES - 2)), None, None]
    labels = pd.DataFrame({"impression_id": ids, "pe_positive_nlp": EMBOLISM, "pe_acute": EMBOLISM})
    labels["12_month_PH"], labels["12_month_readmission"] = PH, READMITTED
    return {
        "mapping": mapping,
        "labels": labels,
        "splits": pd.DataFrame({"impression_id": ids, "split": split}),
        "impressions": pd.DataFrame({"impression_id": ids, "impressions": [f'1. Made up "{i}",\nno. 2' for i in ids]}),
    }


def write_inspect(root, release="2025", tables=None, volumes=True, radiographs=True):
    """Write a tree; volumes are empty files, since the loader never opens them."""
    tables = tables or inspect_tables()
    root.mkdir(parents=True, exist_ok=True)
    if release == "2025":
        for name, table in tables.items():
            name = "study_mapping" if name == "mapping" else name
            table.to_csv(root / f"{name}_20250611.tsv", sep="\t", index=False)
    else:
        metadata = tables["mapping"].drop(columns=["note_DATETIME"]).rename(columns={"procedure_DATETIME": "StudyTime"})
        metadata["image_id"] = metadata["image_id"] + ".nii.gz"
        metadata.to_csv(root / "Final_metadata.csv", index=False)
        tables["labels"].replace("Censored", "Censor").to_csv(root / "Final_labels_v2.csv", index=False)
        tables["splits"].to_csv(root / "Final_splits.csv", index=False)
        tables["impressions"].to_csv(root / "Final_Impressions.csv", index=False)
    if volumes:
        (root / "CTPA").mkdir(exist_ok=True)
    for image_id in tables["mapping"]["image_id"].dropna().unique():
        if volumes:
            (root / "CTPA" / f"{image_id}.nii.gz").touch()
        if radiographs:
            write_image(root / "radiographs" / f"{image_id}.jpg", (6, 8))
    return root
