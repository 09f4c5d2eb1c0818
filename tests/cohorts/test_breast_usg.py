"""BrEaST: the archive's table and masks, whole frames and crops, and each refusal."""

import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.table import CORNERS
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures

PICTURES, TABLE = fixtures.BREAST_PICTURES, fixtures.BREAST_TABLE
load, refused = partial(load_cohort, "breast_usg"), partial(fixtures.refused, "breast_usg")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    (tmp_path / "root").mkdir()
    return fixtures.write_breast_usg(tmp_path / "root")


def test_lesions_and_what_is_known_of_them(root):
    cohort = load(root)
    images = cohort.images.set_index("image_id")
    assert images.index.tolist() == ["case001", "case002", "case003", "case005"]
    assert (images["patient_id"] == images.index).all() and images["split"].isna().all()
    assert images["malignant"].tolist() == [0, 1, 0, 1]
    assert images["age"].tolist() == pytest.approx([51, 52, np.nan, 55], nan_ok=True)
    assert images["pixel_size"].unique().tolist() == [0.0078125]
    assert images["birads"].tolist() == ["2", "4c", "4a", "5"]
    assert images["verification"].tolist()[:2] == ["confirmed by follow-up care", "confirmed by biopsy"]
    assert cohort.info.shareable_images and cohort.info.licence == "CC BY 4.0"
    steps = fixtures.steps(cohort)
    assert steps.loc["rows of the table", ["rows", "paper"]].tolist() == [5, 256]
    assert steps.loc["classification normal", "rows"] == 1 and steps.loc["with a lesion", "rows"] == 4
    assert steps.loc["with a mask: other", ["rows", "note"]].tolist() == [1, "2 masks"]


def test_cases(root):
    assert load(root, cases="biopsied").images["image_id"].tolist() == ["case002", "case003", "case005"]
    cohort = load(root, cases="all")
    assert cohort.images["malignant"].tolist() == [0, 1, 0, 0, 1]
    assert "case004" not in set(cohort.boxes["image_id"])
    assert len(load(root, cases="all", pixels="crop").images) == 4  # nothing to cut a normal breast around


def test_descriptors_are_named_columns(root):
    table = load(root, cases="all").privileged
    assert table["birads"].tolist() == [2, 6, 4, 1, 7]
    named = {"tissue_composition": ["lactating", "homogeneous: fat"], "calcifications": ["in a mass"]}
    named |= {"margin": ["not circumscribed", "angular", "indistinct"], "skin_thickening": ["yes"]}
    for name, values in named.items():
        row = table.loc["case002", table.columns.str.startswith(name)]
        assert set(row.index[row == 1]) == {f"{name}={value}" for value in values}
    assert table.loc["case003", "tissue_composition=missing"] == 1 and table["tissue_composition=missing"].sum() == 1
    assert table.loc["case004", table.columns.str.match("shape|margin|halo")].sum() == 0  # not applicable
    assert not table.columns.str.contains("not applicable|interpretation|diagnosis|verification|signs|age").any()
    assert table.columns.tolist() == load(root, cases="biopsied").privileged.columns.tolist()


def test_descriptors_by_name(root):
    assert "birads" not in load(root, descriptors=("Shape", "Halo")).privileged
    later = load(root, descriptors=("Interpretation", "Diagnosis")).privileged
    assert later.loc["case002", ["interpretation=Dysplasia", "diagnosis=Carcinoma"]].tolist() == [1, 1]


def test_masks_of_the_whole_frame(root):
    cohort = load(root)
    assert cohort.boxes[["image_id", "label"]].value_counts()["case002", "other"] == 2
    box = cohort.boxes.set_index(["image_id", "label"]).loc[("case003", "tumour"), CORNERS]
    assert box.tolist() == [30, 5, 38, 11]
    mask = cohort.mask("case003", "tumour")
    assert mask.shape == (40, 60) and mask[5:11, 30:38].all() and mask.sum() == 48
    assert cohort.mask("case002", "other").sum() == 2 * 16 and cohort.mask("case002").sum() == 48 + 2 * 16
    with pytest.raises(DataError, match="'case003' has no region labelled 'other'"):
        cohort.mask("case003", "other")


def test_crops_hold_the_tumour_and_know_their_place(root):
    full, cohort = load(root), load(root, pixels="crop")
    assert cohort.images["path"].nunique() == 4 and cohort.root != root
    for row in cohort.images.itertuples():
        window = np.s_[row.crop_top : row.crop_top + row.crop_height, row.crop_left : row.crop_left + row.crop_width]
        assert (row.crop_width, row.crop_height) == (12, 12)  # 8 and a quarter of it on each side
        part, whole = (np.asarray(Image.open(one.image_path(row.image_id))) for one in (cohort, full))
        np.testing.assert_array_equal(part, whole[window])
        np.testing.assert_array_equal(cohort.mask(row.image_id), full.mask(row.image_id)[window])
        assert cohort.mask(row.image_id, "tumour").sum() == 48
    inside = cohort.boxes[cohort.boxes["label"] == "other"]  # one of two lies beside the crop, one is cut off
    assert inside[CORNERS].to_numpy().tolist() == [[10, 4, 12, 8]]
    assert cohort.data_hash() == load(root, pixels="crop").data_hash() != full.data_hash()


def test_crops_stay_inside_the_frame_and_are_written_once(root):
    wide = load(root, pixels="crop", margin=2.0)
    assert (wide.images[["crop_width", "crop_height"]] == 40).all(axis=None)
    assert (wide.images["crop_left"] + 40 <= 60).all() and (wide.images["crop_top"] == 0).all()
    written = {path: path.stat().st_mtime_ns for path in wide.root.iterdir()}
    load(root, pixels="crop", margin=2.0)
    assert {path: path.stat().st_mtime_ns for path in wide.root.iterdir()} == written
    picture = root / PICTURES / "case001.png"
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    again = load(root, pixels="crop", margin=2.0)
    assert (again.images["path"] != wide.images["path"]).tolist() == [True, False, False, False]


@pytest.mark.parametrize("pixels", ["full", "crop"])
def test_drawn_marks_are_painted_over_and_counted(root, pixels):
    picture = np.array(Image.open(root / PICTURES / "case003.png").convert("RGB"))
    box = load(root).boxes.set_index(["image_id", "label"]).loc[("case003", "tumour"), CORNERS].astype(int)
    picture[box["y0"] : box["y0"] + 2, box["x0"] : box["x0"] + 2] = (0, 255, 0)
    Image.fromarray(picture).save(root / PICTURES / "case003.png")
    kept, painted = (load(root, pixels=pixels, marks=marks) for marks in ("keep", "paint"))
    assert fixtures.steps(painted).loc["with drawn marks, painted over", "rows"] == 1
    for image in kept.images["image_id"]:
        shown = [Image.open(one.image_path(image)).convert("RGB") for one in (kept, painted)]
        before, after = (np.asarray(picture).astype(int) for picture in shown)
        drawn = np.ptp(before, axis=2) > 60
        assert drawn.sum() == 4 * (image == "case003") and not (np.ptp(after, axis=2) > 60).any()
        far = (before != after).any(axis=2).sum()
        assert far <= 16 * (image == "case003")  # the mark and the pixel around it
        np.testing.assert_array_equal(painted.mask(image), kept.mask(image))


def test_missing_and_damaged_files(root):
    fixtures.write_mask(root / PICTURES / "case001_tumor.png", (60, 40), (0, 0, 0, 0))
    refused(root, r"case001_tumor\.png marks no pixel of its image")
    fixtures.write_mask(root / PICTURES / "case001_tumor.png", (40, 60), (0, 0, 9, 9))
    refused(root, r"drawn on an image of 40x60 pixels, but .*case001\.png has 60x40")
    (root / PICTURES / "case001_tumor.png").unlink()
    (root / PICTURES / "case002_other2.png").unlink()
    refused(root, r"^2 of 11 files that .* the first is .*/case001_tumor\.png; get them", FileNotFoundError)
    shutil.copy(root / TABLE, root / "BrEaST-Lesions-USG-clinical-data.xlsx")
    refused(root, r"holds BrEaST.*\.xlsx and BrEaST.*\.xlsx; keep one of them")
    (root / "BrEaST-Lesions-USG-clinical-data.xlsx").unlink()
    (root / TABLE).write_bytes(b"PK no archive")
    refused(root, r"cannot be read as an \.xlsx table")
    pd.DataFrame({"CaseID": [1]}).to_excel(root / TABLE, index=False)
    refused(root, "has no column 'Image_filename'")
    shutil.rmtree(root / PICTURES)
    refused(root, r"images_and_masks\* is missing; get it from http", FileNotFoundError)
