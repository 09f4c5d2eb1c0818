"""The simulated cohort on disk: layout, identity, resumption, and that everything says it is simulated."""

import filecmp
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils import demo
from pkd_utils.demo.breast import cohort as mammography
from pkd_utils.demo.chest import causal, findings, reports
from pkd_utils.demo.chest import cohort as write
from pkd_utils.demo.ct import cohort as inspect_cohort
from pkd_utils.runs import assets
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import write_json

LABELLED = list(findings.FINDINGS)


@pytest.fixture(scope="session")
def chest_ct():
    try:
        return assets.path("chest_ct")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cohort(chest_ct, tmp_path_factory):
    return write.ensure(tmp_path_factory.mktemp("demo") / "one", patients=6, seed=3)


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def same_bytes(one, two):
    names = tree(one)
    return names == tree(two) and filecmp.cmpfiles(one, two, names, shallow=False)[0] == names


def table(root, name):
    return pd.read_csv(root / name, dtype={"subject_id": str, "study_id": str})


def test_two_workers_write_the_same_bytes(cohort, tmp_path):
    two = write.ensure(tmp_path / "two", patients=6, seed=3, workers=2)
    assert same_bytes(cohort, two)


def test_another_seed_writes_another_cohort(cohort, tmp_path):
    other = write.ensure(tmp_path / "other", patients=2, seed=4)
    mine, theirs = table(cohort, "truth.csv.gz"), table(other, "truth.csv.gz")
    assert not set(mine.subject_id) & set(theirs.subject_id)


def test_ensure_builds_only_once(cohort):
    before = (cohort / "cohort.json").stat().st_mtime_ns
    assert write.ensure(cohort, patients=6, seed=3) == cohort
    assert (cohort / "cohort.json").stat().st_mtime_ns == before
    assert write.verify(cohort) == []


def test_verify_names_what_changed(cohort, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(cohort, copy)
    next(copy.glob("files/p*/p*/*.txt")).write_text("changed")
    (copy / "truth.csv.gz").unlink()
    assert write.verify(copy) == ["files/ and masks/", "truth.csv.gz"]
    with pytest.raises(FileNotFoundError, match=r"cohort\.json is missing"):
        write.verify(tmp_path)


def test_a_killed_build_continues_to_the_same_bytes(cohort, tmp_path, monkeypatch):
    root, real, made = tmp_path / "killed", write._make_patient, []

    def dies(patient, **kwargs):
        if len(made) == 3:
            # A patient half written: files, but no part file that calls them whole.
            folder = kwargs["root"] / write.tables.patient_folder(patient.subject_id)
            folder.mkdir(parents=True)
            (folder / f"s{patient.studies[0].study_id}.txt").write_text("half a rep")
            raise KeyboardInterrupt
        made.append(patient.index)
        return real(patient, **kwargs)

    monkeypatch.setattr(write, "_make_patient", dies)
    with pytest.raises(KeyboardInterrupt):
        write.ensure(root, patients=6, seed=3)
    assert not root.exists() and (tmp_path / "killed.partial" / "SIMULATED.txt").exists()
    again = []
    monkeypatch.setattr(write, "_make_patient", lambda p, **kw: (again.append(p.index), real(p, **kw))[1])
    write.ensure(root, patients=6, seed=3)
    assert sorted(again) == sorted(set(range(6)) - set(made))
    assert same_bytes(cohort, root)
    assert [p.name for p in tmp_path.iterdir()] == ["killed"]


def test_killed_just_before_the_renames(cohort, tmp_path):
    """Complete in the partial folder, the old cohort moved away or not: one more call ends in the right place."""
    root = tmp_path / "c"
    shutil.copytree(cohort, tmp_path / "c.partial")
    (tmp_path / "c.partial" / "parts").mkdir()
    write_json(tmp_path / "c.partial" / "parts" / "0.json", {})
    (tmp_path / "c.old").mkdir()
    (tmp_path / "c.old" / "SIMULATED.txt").write_text("old")
    write.ensure(root, patients=6, seed=3)
    assert same_bytes(cohort, root) and [p.name for p in tmp_path.iterdir()] == ["c"]


def test_other_parameters_replace_a_simulated_cohort(chest_ct, tmp_path):
    root = write.ensure(tmp_path / "c", patients=1, seed=0)
    write.ensure(root, patients=1, seed=0, report_informativeness=0.0)
    found = json.loads((root / "cohort.json").read_text())
    assert found["parameters"]["report_informativeness"] == 0.0 and write.verify(root) == []


@pytest.mark.parametrize("where", ["", ".partial", ".old"])
def test_refuses_a_folder_that_is_not_simulated(chest_ct, tmp_path, where):
    foreign = tmp_path / f"mimic{where}"
    foreign.mkdir()
    (foreign / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(b"real")
    with pytest.raises(DataError, match="not a simulated cohort"):
        write.ensure(tmp_path / "mimic", patients=1)
    assert (foreign / "mimic-cxr-2.0.0-split.csv.gz").read_bytes() == b"real"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 0}, "at least 1 patient"),
        ({"patients": 1, "seed": -1}, "seed of 0 or more"),
        ({"patients": 1, "informativeness": 1}, "no parameter 'informativeness'"),
        ({"patients": 1, "report_informativeness": 1.5}, "outside 0 to 1"),
        ({"patients": 1, "noise": float("nan")}, "outside 0 to 20"),
    ],
)
def test_bad_parameters(chest_ct, tmp_path, arguments, message):
    with pytest.raises(DataError, match=message):
        write.ensure(tmp_path / "c", **arguments)
    assert not list(tmp_path.iterdir())


def test_identifiers_paths_and_splits(cohort):
    metadata, split = table(cohort, "mimic-cxr-2.0.0-metadata.csv.gz"), table(cohort, "mimic-cxr-2.0.0-split.csv.gz")
    assert metadata.subject_id.str.fullmatch(r"1\d{7}").all() and metadata.study_id.str.fullmatch(r"5\d{7}").all()
    assert metadata.dicom_id.str.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}").all() and metadata.dicom_id.is_unique
    assert list(split) == ["dicom_id", "study_id", "subject_id", "split"]
    assert (split.groupby("subject_id").split.nunique() == 1).all()
    assert set(split.split) == {"train", "validate", "test"}
    records = table(cohort, "cxr-record-list.csv.gz")
    for row, record in zip(metadata.itertuples(), records.itertuples(), strict=True):
        path = f"files/p{row.subject_id[:2]}/p{row.subject_id}/s{row.study_id}/{row.dicom_id}"
        assert record.path == f"{path}.dcm"
        with Image.open(cohort / f"{path}.jpg") as image:
            assert image.mode == "L" and image.size == (row.Columns, row.Rows)
    assert len(list(cohort.glob("files/**/*.jpg"))) == len(metadata)
    studies = table(cohort, "cxr-study-list.csv.gz")
    assert {p.relative_to(cohort).as_posix() for p in cohort.glob("files/**/*.txt")} == set(studies.path)


def test_everything_says_simulated(cohort):
    assert "SIMULATED" in (cohort / "SIMULATED.txt").read_text()
    assert json.loads((cohort / "cohort.json").read_text())["simulated"] is True
    assert table(cohort, "truth.csv.gz").simulated.all()
    for path in cohort.glob("files/**/*.jpg"):
        with Image.open(path) as image:
            assert b"SIMULATED" in image.info["comment"]
    coco = json.loads((cohort / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.json").read_text())
    assert "SIMULATED" in coco["info"]["description"]


def test_boxes_are_the_components_of_the_masks(cohort):
    boxes = pd.read_csv(cohort / "ms-cxr" / "MS_CXR_Local_Alignment_v1.1.0.csv")
    assert len(boxes)
    for (dicom, label), group in boxes.groupby(["dicom_id", "category_name"]):
        mask = np.asarray(Image.open(cohort / "masks" / dicom / f"{label.replace(' ', '_')}.png"))
        assert set(np.unique(mask)) == {0, 255}
        assert sorted(map(tuple, group[["x", "y", "w", "h"]].to_numpy())) == findings.component_boxes(mask > 0)
        assert (group.x >= 0).all() and (group.x + group.w <= group.image_width).all()
        assert (group.y >= 0).all() and (group.y + group.h <= group.image_height).all()
        report = (cohort / group.path.iloc[0]).parent.with_suffix(".txt").read_text()
        assert group.label_text.iloc[0] in " ".join(report.split())


def test_held_out_positives_all_have_boxes_and_json_equals_csv(cohort):
    folder = cohort / "ms-cxr"
    boxes = pd.read_csv(folder / "MS_CXR_Local_Alignment_v1.1.0.csv")
    split = table(cohort, "mimic-cxr-2.0.0-split.csv.gz").merge(table(cohort, "mimic-cxr-2.0.0-metadata.csv.gz"))
    held = split[(split.split != "train") & split.ViewPosition.isin(["AP", "PA"])]
    people = {str(p.subject_id): p for p in causal.simulate(6, 3)}
    have = set(zip(boxes.dicom_id, boxes.category_name, strict=True))
    expected = 0
    for row in held.itertuples():
        study = next(s for s in people[row.subject_id].studies if str(s.study_id) == row.study_id)
        said = reports.assertions(study, 3)
        for label in LABELLED:
            called = said.get(label) in (1.0, -1.0)
            mask = (cohort / "masks" / row.dicom_id / f"{label.replace(' ', '_')}.png").exists()
            assert mask <= causal.visible(study, label)
            assert ((row.dicom_id, label) in have) == (called and mask)
            expected += called and mask
    assert expected
    coco = json.loads((folder / "MS_CXR_Local_Alignment_v1.1.0.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    files = {i["id"]: i["path"] for i in coco["images"]}
    rows = [(files[a["image_id"]], names[a["category_id"]], *a["bbox"], a["split"]) for a in coco["annotations"]]
    columns = ["path", "category_name", "x", "y", "w", "h", "split"]
    assert rows == list(boxes[columns].itertuples(index=False, name=None))


def test_stays_and_ages_follow_mimic(cohort):
    patients = table(cohort, "hosp/patients.csv.gz")
    stays = table(cohort, "hosp/admissions.csv.gz")
    metadata = table(cohort, "mimic-cxr-2.0.0-metadata.csv.gz")
    assert patients.anchor_age.between(18, 91).all() and not patients.anchor_age.eq(90).any()
    assert patients.anchor_year_group.isin(causal.YEAR_GROUPS).all()
    assert (pd.to_datetime(stays.admittime) < pd.to_datetime(stays.dischtime)).all()
    assert set(stays.subject_id) <= set(patients.subject_id)
    died = stays[stays.hospital_expire_flag == 1]
    assert (died.deathtime == died.dischtime).all() and stays[stays.hospital_expire_flag == 0].deathtime.isna().all()
    clock = metadata.StudyTime.map(lambda x: f"{int(float(x)):06}")
    when = pd.to_datetime(metadata.StudyDate.astype(str) + " " + clock, format="%Y%m%d %H%M%S")
    assert (when.dt.year >= 2110).all()
    age = patients.set_index("subject_id").anchor_year.reindex(metadata.subject_id).to_numpy()
    assert (when.dt.year.to_numpy() >= age).all()


def test_labels_are_study_level_with_four_values(cohort):
    for labeller in ("chexpert", "negbio"):
        labels = table(cohort, f"mimic-cxr-2.0.0-{labeller}.csv.gz")
        assert list(labels) == ["subject_id", "study_id", *reports.LABELS] and labels.study_id.is_unique
        values = labels[list(reports.LABELS)].to_numpy()
        assert set(values[~np.isnan(values)].tolist()) <= {1.0, 0.0, -1.0}


def test_reports_have_the_form_of_mimic(cohort):
    for path in cohort.glob("files/**/*.txt"):
        text = path.read_text()
        assert text.startswith(" " * 33 + "FINAL REPORT\n")
        names = re.findall(r"\n ([A-Z ()/,-]+):\s", text)
        assert {"INDICATION", "COMPARISON"} <= set(names) and {"FINDINGS", "IMPRESSION"} & set(names)
        assert set(names) <= {"EXAMINATION", "INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"}
        assert "___" in text and all(len(line) <= 79 and line.startswith(" ") for line in text.splitlines())


def test_each_source_gets_the_embedded_cohort_that_its_loader_reads(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(demo, "ensure", lambda *args, **options: asked.append(("chest", *args, options)))
    monkeypatch.setattr(mammography, "ensure", lambda *args, **options: asked.append(("breast", *args, options)))
    monkeypatch.setattr(inspect_cohort, "ensure", lambda *args, **options: asked.append(("volumes", *args, options)))
    demo.ensure_source("mimic_cxr", tmp_path, 9, 1, workers=2, noise=2.0)
    demo.ensure_source("cbis_calc", tmp_path, 9, 1, workers=2, calc_cases=4)
    demo.ensure_source("inspect", tmp_path, 9, 1, workers=2)
    assert asked == [
        ("chest", tmp_path, 9, 1, {"workers": 2, "noise": 2.0}),
        ("breast", tmp_path, 1, {"workers": 2, "mass_rows": 9, "calc_cases": 4}),
        ("volumes", tmp_path, 9, 1, {"workers": 2}),
    ]
    with pytest.raises(DataError, match="no embedded cohort for the source 'openi': set simulate_patients to 0"):
        demo.ensure_source("openi", tmp_path, 9)
