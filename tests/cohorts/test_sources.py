"""Loaders on tiny trees in the published layouts: what they read, and each refusal."""

import gzip
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils.cohorts import SOURCES, load_cohort
from pkd_utils.cohorts.boxes import boxed_by_split, ground_truth, regions_of
from pkd_utils.cohorts.folds import patient_folds
from pkd_utils.cohorts.openi import label_table
from pkd_utils.cohorts.table import CORNERS, IMAGE_COLUMNS, CohortInfo
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures
from tests.cohorts.cbis_fixtures import ROWS, csv_paths
from tests.cohorts.fixtures import cell, refused, steps, without

METADATA = "mimic-cxr-2.0.0-metadata.csv.gz"
SPLIT = "mimic-cxr-2.0.0-split.csv.gz"
CHEXPERT = "mimic-cxr-2.0.0-chexpert.csv.gz"
MS_CXR = "ms-cxr/MS_CXR_Local_Alignment_v1.1.0.csv"
CBIS = "mass_case_description_train_set.csv"
ANNOTATIONS = "annotations/annotations.json"
FIRST_TWO = ("Atelectasis", "Edema")
STRUCTURE, LESIONS = "segmentations/structure.csv", ("ground glass", "consolidation", "pneumothorax")
BREAST = fixtures.BREAST_TABLE


@pytest.fixture
def mimic(tmp_path):
    return fixtures.write_mimic_cxr(tmp_path)


@pytest.fixture
def covid(tmp_path):
    return fixtures.write_covid_chestxray(tmp_path)


# All sources


@pytest.fixture
def tree(name, tmp_path):
    """The source's tree, by `fixtures.write_<name>`; a source without one is skipped, and says so."""
    write = getattr(fixtures, f"write_{name}", None)
    if write is None:
        pytest.skip(f"tests/cohorts/fixtures.py has no write_{name} to write a small tree of this source")
    (tmp_path / "tree").mkdir()
    return write(tmp_path / "tree")


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_tables(name, tree):
    cohort = load_cohort(name, tree)  # checked: see test_contract
    assert cohort.info.name == name
    assert not cohort.info.simulated
    expected = [*IMAGE_COLUMNS, *cohort.labels]
    assert list(cohort.images.columns[: len(expected)]) == expected
    assert cohort.privileged.index.isin(cohort.images[cohort.privileged.index.name]).all()
    assert cohort.images["image_id"].iloc[0] not in repr(cohort)
    assert cohort.data_hash() == load_cohort(name, tree).data_hash()


@pytest.mark.parametrize("name", SOURCES)
def test_missing_files_are_named_with_their_source(name, tmp_path):
    refused(name, tmp_path, r"get (it|them) from .*http", error=FileNotFoundError)


@pytest.mark.parametrize("name", SOURCES)
def test_unknown_options_are_answered_with_the_known_ones(name, tmp_path):
    refused(name, tmp_path, rf"^{name} has no option 'veiws'; it has .*\w\.$", veiws=["PA"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mimic_cxr", {"views": "PA"}, "views = 'PA'"),
        ("mimic_cxr", {"labels": ["Oedema"]}, "labels.0 = 'Oedema'"),
        ("mimic_cxr", {"labels": []}, "labels = "),
        ("mimic_cxr", {"labeller": "radiologist"}, "labeller = 'radiologist'"),
        ("mimic_cxr", {"sections": ["finding"]}, "sections.0 = 'finding'"),
        ("mimic_cxr", {"sections": "findings"}, "sections = 'findings'"),
        ("mimic_cxr", {"sections": []}, "sections = "),
        ("covid_chestxray", {"report_missing": "maybe"}, "report_missing = 'maybe'"),
        ("cbis_mass", {"pixels": "roi"}, "pixels = 'roi': input should be 'none', 'full', 'crop' or 'lesion_crop'"),
        ("cbis_calc", {"validate_share": 1.0}, "validate_share = 1.0: input should be less than 1"),
        ("openi", {"sections": ["history"]}, "sections.0 = 'history'"),
        ("openi", {"sections": "findings"}, "sections = 'findings'"),
        ("inspect", {"duplicates": "none"}, "duplicates = 'none'"),
        # of another type, or with a value twice
        ("mimic_cxr", {"uncertain": 3}, "uncertain.* = 3: input should be a valid string"),
        ("mimic_cxr", {"labels": "Edema"}, "labels = 'Edema'"),
        ("mimic_cxr", {"labels": ["Edema", "Edema"]}, r"labels = \['Edema', 'Edema'\]: a value stands twice"),
        ("covid_chestxray", {"views": "PA"}, "views = 'PA'"),
        ("cbis_mass", {"margin": -1}, "margin = -1: input should be greater than or equal to 0"),
        ("cbis_mass", {"margin": float("nan")}, "margin = nan: input should be a finite number"),
        ("openi", {"images_root": ["a"]}, r"images_root = .*: input is not a valid path"),
    ],
)
def test_wrong_options_are_refused_before_any_file_is_read(name, options, message, tmp_path):
    refused(name, tmp_path / "absent", f"^{name}: {message}[^\n]*$", **options)


def test_unknown_cohort(tmp_path):
    refused("chexpert", tmp_path, "no cohort named 'chexpert'; choose one of mimic_cxr")


def test_data_hash_follows_tables_images_and_text(mimic):
    hashes = [load_cohort("mimic_cxr", mimic).data_hash()]
    report = next(mimic.glob("files/*/*/*.txt"))
    report.write_text(report.read_text().replace("clear", "cleared"))
    hashes.append(load_cohort("mimic_cxr", mimic).data_hash())
    fixtures.edit_csv(mimic / CHEXPERT, cell("Edema", "0.0"))
    after = load_cohort("mimic_cxr", mimic)
    hashes.append(after.data_hash())
    image = after.image_path(after.images["image_id"].iloc[0])
    image.write_bytes(image.read_bytes() + b"\0")
    hashes.append(after.data_hash())
    assert len(set(hashes)) == 4
    image.unlink()
    with pytest.raises(FileNotFoundError, match="missing; cohort mimic_cxr lists it"):
        after.data_hash()


def test_select_keeps_order_and_counts(mimic):
    cohort = load_cohort("mimic_cxr", mimic)
    ids = cohort.images["image_id"].tolist()
    part = cohort.select([ids[4], ids[1]], step="two of six")
    assert part.images["image_id"].tolist() == [ids[1], ids[4]]
    assert part.boxes["image_id"].tolist() == [ids[4]]
    assert part.privileged.index.tolist() == part.images["study_id"].tolist()
    assert part.funnel.iloc[-1][["step", "rows"]].tolist() == ["two of six", 2]
    with pytest.raises(DataError, match="not in cohort mimic_cxr, the first is 'nowhere'"):
        cohort.select(["nowhere"])


# MIMIC-CXR


def test_mimic_index(mimic):
    cohort = load_cohort("mimic_cxr", mimic)
    images = cohort.images.set_index("image_id")
    subject, study, dicom = fixtures.mimic_ids(3, 0)
    row = images.loc[dicom]
    assert (row["patient_id"], row["study_id"], row["split"], row["view"]) == (subject, study, "validate", "PA")
    assert row["path"] == f"files/p10/p{subject}/s{study}/{dicom}.jpg"
    assert cohort.image_path(dicom).is_file()
    assert row["study_datetime"] == pd.Timestamp("2180-05-06 09:30:14.531")
    assert row["age"] == 53 + 2
    assert len(images) == 6  # frontal only
    assert len(load_cohort("mimic_cxr", mimic, views=None).images) == 12
    counted = ["images with metadata", "view AP, PA", "with MS-CXR boxes"]
    assert steps(cohort)["rows"][counted].tolist() == [12, 6, 3]
    assert cohort.funnel.loc[0, "paper"] == 377_110


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"Atelectasis": np.nan, "Cardiomegaly": 0.0, "Consolidation": 0.0, "Edema": 1.0}),
        ({"uncertain": "zero"}, {"Atelectasis": 0.0}),
        ({"uncertain": "one"}, {"Atelectasis": 1.0}),
        ({"uncertain": "ones-zeros"}, {"Atelectasis": 1.0}),
        ({"uncertain": {"Atelectasis": "zero", "Edema": "one"}, "labels": FIRST_TWO}, {"Atelectasis": 0.0}),
        ({"blank": "ignore"}, {"Consolidation": np.nan, "Cardiomegaly": 0.0, "Edema": 1.0}),
        ({"labeller": "negbio"}, {"Edema": 1.0}),
    ],
)
def test_label_policies(mimic, options, expected):
    images = load_cohort("mimic_cxr", mimic, **options).images
    for label, value in expected.items():
        np.testing.assert_array_equal(images[label], [value] * 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertain": "maybe"}, "uncertain gives 'maybe' for label 'Atelectasis'"),
        ({"uncertain": {"Edema": "one"}}, "uncertain gives None for label 'Atelectasis'"),
        ({"views": ("XX",)}, "no image is left after the filters"),
    ],
)
def test_mimic_options_are_checked(mimic, options, message):
    refused("mimic_cxr", mimic, message, **options)


def test_reports_are_read_late_and_only_for_the_selected_studies(mimic):
    cohort = load_cohort("mimic_cxr", mimic)
    for file in mimic.glob("files/*/*/*.txt"):
        if fixtures.mimic_ids(0, 0)[1] not in file.name:
            file.unlink()
    part = cohort.select(cohort.images["image_id"].iloc[:1])
    assert part.privileged["text"].tolist() == [
        "Made-up finding number 0. Lungs are clear.\nNo acute cardiopulmonary process."
    ]
    assert part.privileged["sections"].tolist() == ["findings+impression"]
    with pytest.raises(FileNotFoundError, match=r"s50414268\.txt is missing .*physionet"):
        _ = cohort.privileged


def test_report_without_text(mimic):
    empty = mimic / "files/p10/p10000032/s50414267.txt"
    empty.write_text("                                 FINAL REPORT\n")
    with pytest.raises(DataError, match=r"1 report\(s\) have no text, the first is '50414267'"):
        _ = load_cohort("mimic_cxr", mimic).privileged
    dropped, kept = (load_cohort("mimic_cxr", mimic, report_missing=policy) for policy in ("drop", "keep"))
    assert (dropped.funnel["step"].str.startswith("report has text") & (dropped.funnel["rows"] == 5)).any()
    assert (len(dropped.images), len(kept.images), len(kept.privileged)) == (5, 6, 5)


def test_boxes_follow_the_stored_size(mimic):
    table = load_cohort("mimic_cxr", mimic)
    box = table.boxes.iloc[0]
    assert box[CORNERS].tolist() == [4, 8, 24, 24]  # declared 80x64, stored 40x32
    assert "3 images rescaled" in table.funnel["note"].iloc[-1]
    mask = table.mask(box["image_id"], "Edema")
    assert mask.shape == (32, 40) and mask[8:24, 4:24].all() and mask.sum() == 20 * 16
    for corners, pixel in (((7.6, 8.7, 8.4, 9.4), [9, 8]), ((-0.9, 31.6, 0.2, 32.8), [31, 0])):  # no pixel's centre
        table.boxes.loc[0, CORNERS] = corners
        assert np.argwhere(table.mask(box["image_id"], "Edema")).tolist() == [pixel]
    (mimic / MS_CXR).unlink()
    refused("mimic_cxr", mimic, "or pass boxes=False", error=FileNotFoundError)
    assert load_cohort("mimic_cxr", mimic, boxes=False).boxes.empty


def store_first_boxed(mimic, size, orientation):
    """Store a picture of this size, turned as the orientation says, as the first with a box; the cohort before it."""
    cohort, exif = load_cohort("mimic_cxr", mimic), Image.Exif()
    exif[0x0112] = orientation
    Image.new("L", size).save(cohort.image_path(cohort.boxes["image_id"].iloc[0]), exif=exif)
    return cohort


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_on_an_upright_picture_that_is_stored_turned(mimic, orientation):
    before = store_first_boxed(mimic, (32, 40) if orientation >= 5 else (40, 32), orientation)  # 40x32 upright
    cohort, image = load_cohort("mimic_cxr", mimic), before.boxes["image_id"].iloc[0]
    assert cohort.image_size(image) == (40, 32) and cohort.mask(image).shape == (32, 40)
    pd.testing.assert_frame_equal(cohort.boxes, before.boxes)


@pytest.mark.parametrize(("size", "orientation"), [((32, 40), 1), ((40, 32), 6), ((40, 40), 1), ((40, 30), 1)])
def test_boxes_of_another_aspect_are_refused(mimic, size, orientation):
    store_first_boxed(mimic, size, orientation)
    refused("mimic_cxr", mimic, r"drawn on 80x64 pixels, but .*\.jpg has \d+x\d+: it is turned, cropped")


def annotate(mimic, split_of):
    """Write MS-CXR's csv for the frontal images of these patients, with this split each."""
    row = pd.read_csv(mimic / MS_CXR, dtype=str).iloc[0].to_dict()
    rows = [row | {"dicom_id": fixtures.mimic_ids(*key)[2], "split": split} for key, split in split_of.items()]
    pd.DataFrame(rows).to_csv(mimic / MS_CXR, index=False)


def test_split_of_ms_cxr_where_it_crosses_no_patient(mimic):
    official = load_cohort("mimic_cxr", mimic, views=None).images.set_index("image_id")["split"]
    annotate(mimic, {(0, 0): "val", (1, 0): "test", (2, 0): "train", (2, 1): "test"})
    cohort = load_cohort("mimic_cxr", mimic, views=None, split_from="ms_cxr")
    split = cohort.images.set_index("image_id")["split"]
    for patient, expected in enumerate(["validate", "test"]):  # all images of the patient, also those without a box
        for view in (0, 1):
            assert split[fixtures.mimic_ids(patient, view)[2]] == expected
    rest = [fixtures.mimic_ids(patient, view)[2] for patient in range(2, 6) for view in (0, 1)]
    assert (split[rest] == official[rest]).all()
    assert cohort.images.groupby("patient_id")["split"].nunique().eq(1).all()
    funnel = steps(cohort)["rows"]
    assert funnel["of patients split as in MS-CXR"] == 4 and funnel["of patients in several parts of MS-CXR"] == 2
    assert (load_cohort("mimic_cxr", mimic, views=None).images.set_index("image_id")["split"] == official).all()
    refused("mimic_cxr", mimic, "boxes=False does not go", split_from="ms_cxr", boxes=False)
    annotate(mimic, {(0, 0): ""})
    refused("mimic_cxr", mimic, "does not say train, val or test", split_from="ms_cxr")


def test_boxed_images_by_split(mimic):
    # The fixture has every Edema present and no Cardiomegaly.
    cohort = load_cohort("mimic_cxr", mimic, labels=("Edema", "Cardiomegaly"))
    cohort.images["split"] = ["train", "train", "train", "train", "validate", "test"]
    splits = cohort.images[["image_id", "split"]].assign(fold=0)
    table, lacking = boxed_by_split(cohort, splits)
    assert table["of a trained label"].tolist() == [1, 1, 1] and not lacking
    cohort.boxes["label"] = ["Edema", "Pneumothorax", "Cardiomegaly"]
    table, lacking = boxed_by_split(cohort, splits)
    assert table["with a region"].tolist() == [1, 1, 1] and table["of a trained label"].tolist() == [1, 0, 1]
    assert table["positive for it"].tolist() == [1, 0, 0]
    assert "No validation image of fold 0 has a region of a trained label" in lacking and "ms_cxr" in lacking


def test_regions_of_no_finding_count_for_every_label(covid):
    cohort = load_cohort("covid_chestxray", covid)
    regions = regions_of(cohort)
    assert set(regions["finding"]) == {""} and ground_truth(regions, cohort.labels).all()


def test_masks_come_before_boxes(mimic):
    dicom = fixtures.mimic_ids(3, 0)[2]
    folder = mimic / "masks" / dicom
    folder.mkdir(parents=True)
    pixels = np.zeros((32, 40), np.uint8)
    pixels[1, 2] = 255
    Image.fromarray(pixels).save(folder / "Pleural_Effusion.png")
    cohort = load_cohort("mimic_cxr", mimic)
    assert np.argwhere(cohort.mask(dicom, "Pleural Effusion")).tolist() == [[1, 2]]
    assert cohort.mask(dicom).sum() == 1
    assert cohort.mask(dicom, "Edema").sum() == 20 * 16  # no mask of this label, so its box
    with pytest.raises(DataError, match="no region labelled 'Pneumonia'"):
        cohort.mask(dicom, "Pneumonia")
    with pytest.raises(DataError, match="has no region; ask only"):
        cohort.mask(fixtures.mimic_ids(0, 0)[2])
    Image.fromarray(pixels[:10]).save(folder / "Pleural_Effusion.png")
    with pytest.raises(DataError, match="or is not of its 40x32 pixels"):
        cohort.mask(dicom)


@pytest.mark.parametrize("name", ["mimic_cxr", "cbis_mass", "inspect"])
def test_simulated_data_is_marked_and_not_called_by_the_sources_name(name, tree):
    real = load_cohort(name, tree).info
    (tree / "SIMULATED.txt").write_text("Simulated.\n")
    cohort = load_cohort(name, tree)
    info = cohort.info
    assert info.simulated and info.shareable_text and info.shareable_images and info.splits == real.splits
    assert real.credentialed is (name != "cbis_mass") and not info.credentialed
    assert info.title.startswith("Simulated ") and "in the layout of" in info.title and "SIMULATED" in repr(cohort)
    assert info.licence != real.licence and info.citation != real.citation
    assert cohort.funnel["paper"].isna().all() or name == "cbis_mass"


def test_credentialed_data_are_never_shareable():
    with pytest.raises(DataError, match="nothing of them is shareable"):
        CohortInfo("x", "X", "licence", "nobody", credentialed=True, shareable_images=True)


def test_real_and_simulated_folders_do_not_mix(tmp_path):
    real, simulated = (fixtures.write_mimic_cxr(tmp_path / name) for name in ("a", "b"))
    (simulated / "SIMULATED.txt").write_text("Simulated.\n")
    for root, other in ((simulated, {"reports_root": real}), (real, {"ms_cxr_root": simulated / "ms-cxr"})):
        refused("mimic_cxr", root, "some are simulated", **other)
    assert not load_cohort("mimic_cxr", real).info.shareable_text
    scans = fixtures.write_inspect(tmp_path / "c")
    (scans / "SIMULATED.txt").write_text("Simulated.\n")
    (scans / "radiographs").rename(tmp_path / "radiographs")
    refused("inspect", scans, "some are simulated", radiographs_root=tmp_path / "radiographs")


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("mimic_cxr", METADATA, without("ViewPosition"), "metadata.csv.gz has no column 'ViewPosition'"),
        ("mimic_cxr", METADATA, lambda t: pd.concat([t, t.tail(1)]), "dicom_id '.*' occurs more than once"),
        ("mimic_cxr", METADATA, cell("subject_id", "", 2), "data row 3 has no subject_id"),
        ("mimic_cxr", METADATA, cell("StudyDate", "2180-05-06"), "StudyDate '2180-05-06', which is not a date"),
        ("mimic_cxr", METADATA, cell("StudyTime", "250000"), "StudyTime '250000', which is not a date or time"),
        ("mimic_cxr", SPLIT, lambda t: t.iloc[1:], r"no row for 1 image\(s\)"),
        ("mimic_cxr", SPLIT, cell("split", "validation"), "'validation', which is not one of train, validate, test"),
        ("mimic_cxr", CHEXPERT, lambda t: pd.concat([t, t.head(1)]), "study_id '50414267' occurs more than once"),
        ("mimic_cxr", CHEXPERT, cell("Edema", "2.0"), "data row 1 has Edema '2.0', which is not 1, 0, -1"),
        ("mimic_cxr", CHEXPERT, lambda t: t.rename(columns={"Edema": "Oedema"}), "has no column 'Edema'"),
        ("mimic_cxr", MS_CXR, cell("w", "400"), "box 'Edema' of image '.*' .* lies outside its image of 40x32 pixels"),
        ("mimic_cxr", MS_CXR, cell("x", "-4"), "lies outside its image"),
        ("mimic_cxr", MS_CXR, cell("h", "0"), "has no area"),
        ("mimic_cxr", MS_CXR, cell("w", "wide"), "data row 1 has w 'wide', which is not a number"),
        ("mimic_cxr", MS_CXR, cell("image_width", "0"), "declares no image size"),
        ("covid_chestxray", "metadata.csv", without("finding"), "metadata.csv has no column 'finding'"),
        ("covid_chestxray", "metadata.csv", without("went_icu"), "has no column 'went_icu'"),
        ("covid_chestxray", "metadata.csv", cell("patientid", " "), "no patient id, the first is image 'film-0.png'"),
        ("covid_chestxray", "metadata.csv", cell("filename", "film-1.png"), "'film-1.png' occurs more than once"),
        ("covid_chestxray", "metadata.csv", cell("filename", ""), "data row 1 has no filename"),
        ("covid_chestxray", STRUCTURE, without("Resolution"), "structure.csv has no column 'Resolution'"),
        ("covid_chestxray", STRUCTURE, cell("Resolution", "80"), "row 1 has Resolution '80', which is not a size such"),
        ("covid_chestxray", STRUCTURE, cell("Resolution", "80x80"), "on .* 80x80 pixels, but .*film-0.png has 40x32"),
        ("covid_chestxray", STRUCTURE, cell("Left", "left"), "data row 1 has Left 'left', which is not a number"),
        ("covid_chestxray", STRUCTURE, cell("Left", ""), "data row 1 has no Left"),
        ("covid_chestxray", STRUCTURE, cell("Left", "70"), "row 1 has Mask '.*', which does not lie inside its Res"),
        ("covid_chestxray", STRUCTURE, cell("Top", "-1"), "does not lie inside its Resolution"),
        ("covid_chestxray", STRUCTURE, cell("Width", "17"), "_Gro.png has another size than the 17x8 of structure.csv"),
        ("covid_chestxray", STRUCTURE, cell("Mask", ""), "data row 1 has no Mask"),
        ("cbis_mass", CBIS, without("mass margins"), "has no column 'mass margins'"),
        ("cbis_mass", CBIS, lambda t: pd.concat([t, t.head(1)]), "'mass_P_00001_LEFT_CC_1' occurs more than once"),
        ("cbis_mass", CBIS, cell("patient_id", ""), "data row 1 has no patient_id"),
        ("cbis_mass", CBIS, cell("pathology", "UNPROVEN"), "'UNPROVEN', which is not one of MALIGNANT"),
        ("cbis_mass", CBIS, cell("left or right breast", "Left"), "side 'Left', which is not one of LEFT, RIGHT"),
        ("cbis_mass", CBIS, cell("assessment", "4A"), "assessment '4A', which is not one of 0, 1"),
        ("cbis_mass", CBIS, cell("patient_id", "P_00003"), "patient 'P_00003' is in splits test and train"),
        ("breast_usg", BREAST, cell("Classification", "unclear"), "'unclear', which is not one of benign"),
        ("breast_usg", BREAST, cell("BIRADS", "4d"), "BIRADS '4d', which is not one of 1, 2, 3, 4a, 4b, 4c, 5"),
        ("breast_usg", BREAST, cell("Verification", ""), "data row 1 has no Verification"),
        ("breast_usg", BREAST, cell("Age", "old"), "data row 1 has Age 'old', which is not a number"),
        ("breast_usg", BREAST, cell("Mask_tumor_filename", ""), "data row 1 has no Mask_tumor_filename"),
        ("breast_usg", BREAST, cell("Image_filename", ""), "data row 1 has no Image_filename"),
        ("breast_usg", BREAST, cell("Image_filename", "case002.png"), "image_id 'case002' occurs more than once"),
        ("inspect", "labels", without("12_month_PH"), r"no column '12_month_PH' \(it has"),
        ("inspect", "study_mapping", without("image_id"), "no column 'image_id'"),
        ("inspect", "splits", cell("split", "validation"), "'validation', which is not one of train, valid, test"),
        ("inspect", "labels", cell("impression_id", ""), "data row 1 has no impression_id"),
        ("inspect", "labels", lambda t: t.assign(impression_id="9" + t["impression_id"]), "use files of one release"),
        ("inspect", "impressions", cell("impressions", "  "), "1 report.*have no text"),
        ("inspect", "impressions", lambda t: t[1:], "1 report.*have no text"),
        ("inspect", "study_mapping", cell("person_id", ""), "no patient id"),
        ("inspect", "study_mapping", cell("procedure_DATETIME", "yesterday"), "'yesterday', which is not a time"),
        ("inspect", "study_mapping", cell("procedure_DATETIME", "2015-03-01T10:00+02:00"), "cannot be read as times"),
        ("inspect", "splits", cell("split", "test"), "patient '700000' is in splits"),
    ],
)
def test_refusals_of_tables(name, tree, file, change, message):
    fixtures.edit_csv(tree / (f"{file}_20250611.tsv" if name == "inspect" else file), change)
    refused(name, tree, message, **({"regions": LESIONS} if file == STRUCTURE else {}))


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("mimic_cxr", SPLIT, b"\x1f\x8b\x08", r"split\.csv\.gz cannot be read as CSV"),
        ("inspect", "labels_20250611.tsv", b"", "cannot be read as TSV"),
        ("covid_chestxray", ANNOTATIONS, b"{", "not a COCO annotation file"),
        ("covid_chestxray", ANNOTATIONS, b'{"images": []}', "lacks the COCO entry 'categories'"),
        ("openi", "NLMCXR_reports.tgz", b"no archive", r"not a readable \.tgz"),
        ("openi", "NLMCXR_reports.tgz", gzip.compress(b"no tar"), r"not a readable \.tgz"),
    ],
)
def test_damaged_files(name, tree, file, content, message):
    (tree / file).write_bytes(content)
    refused(name, tree, message)


def test_negative_age_is_unknown(mimic):
    fixtures.edit_csv(mimic / "hosp/patients.csv.gz", cell("anchor_year", "2300"))
    ages = load_cohort("mimic_cxr", mimic).images["age"]
    assert ages.isna().tolist() == [True] + [False] * 5


def test_unreadable_images(mimic):
    cohort = load_cohort("mimic_cxr", mimic)
    boxed = cohort.image_path(cohort.boxes["image_id"].iloc[0])
    boxed.write_bytes(b"no image")
    refused("mimic_cxr", mimic, "cannot be read")
    boxed.unlink()
    refused("mimic_cxr", mimic, "is missing", error=FileNotFoundError)


# covid-chestxray


@pytest.mark.parametrize("old_spelling", [False, True])
def test_covid_both_spellings(tmp_path, old_spelling):
    cohort = load_cohort("covid_chestxray", fixtures.write_covid_chestxray(tmp_path, old_spelling))
    images = cohort.images.set_index("image_id")
    assert cohort.privileged.loc["film-0.png", "text"] == "Made-up note 0."
    first = images.loc["film-0.png", ["patient_id", "path", "licence", "age"]]
    assert first.tolist() == ["p0", "images/film-0.png", "CC BY", 40.0]
    # the CT, the lateral film and the film without a note are left out
    assert not {"film-9.png", "film-10.png", "film-11.png"} & set(images.index)
    assert images["COVID-19"].tolist()[:6] == pytest.approx([1, 1, np.nan, 0, 1, np.nan], nan_ok=True)
    assert images["went_icu"].tolist()[:4] == pytest.approx([1, 0, np.nan, np.nan], nan_ok=True)
    assert images["death"].tolist()[:4] == pytest.approx([0, 1, np.nan, np.nan], nan_ok=True)
    note = steps(cohort).loc["label known: went_icu", "note"]
    assert "? 2" in note and "empty 2" in note
    assert cohort.boxes.iloc[1].tolist() == ["film-0.png", "Left Lung", 22, 4, 38, 24]


def test_covid_options(covid):
    assert len(load_cohort("covid_chestxray", covid, report_missing="keep").images) == 10
    assert len(load_cohort("covid_chestxray", covid, views=None).images) == 10
    assert "film-9.png" in set(load_cohort("covid_chestxray", covid, views=("L",)).images["image_id"])
    (covid / "annotations/annotations.json").rename(covid / "annotations/imageannotation_ai_lung_bounding_boxes.json")
    assert len(load_cohort("covid_chestxray", covid).boxes) == 18
    refused("covid_chestxray", covid, r"1 report\(s\) have no text, the first is 'film-11.png'", report_missing="raise")


def test_covid_lesions_are_placed_then_scaled(covid):
    cohort = load_cohort("covid_chestxray", covid, regions=LESIONS)
    boxes = cohort.boxes[cohort.boxes["label"].isin(LESIONS)].set_index(["image_id", "label"])[CORNERS]
    # Half as large as the annotator's images; the left half of each mask is marked.
    assert boxes.loc[("film-0.png", "ground glass")].tolist() == [10, 5, 14, 9]
    assert boxes.loc[("film-0.png", "consolidation")].tolist() == [20, 10, 22, 12]
    assert boxes.loc[("film-1.png", "ground glass")].tolist() == [0, 0, 20, 32]
    assert len(boxes) == 3  # film-9 is a lateral view
    mask = cohort.mask("film-0.png", "ground glass")
    assert mask.shape == (32, 40) and mask[5:9, 10:14].all() and mask.sum() == 16
    assert cohort.mask("film-0.png").sum() == 16 + 4
    assert cohort.mask("film-0.png", "Left Lung").sum() == cohort.mask("film-2.png").sum() / 2 == 16 * 20
    assert steps(cohort).loc["with region: ground glass", ["rows", "note"]].tolist() == [2, "2 masks"]
    assert steps(cohort).loc["with region: pneumothorax", "rows"] == 0


def test_covid_regions_are_read_when_asked_for(covid):
    plain = load_cohort("covid_chestxray", covid)
    assert set(plain.boxes["label"]) == {"Right Lung", "Left Lung"} and plain.regions is None
    alone = load_cohort("covid_chestxray", covid, regions=("right lung",), boxes=False)
    assert alone.boxes["label"].tolist() == ["right lung"]
    assert alone.data_hash() != load_cohort("covid_chestxray", covid, boxes=False).data_hash()
    part = alone.select(["film-0.png"])
    assert part.mask("film-0.png", "right lung").sum() == 8 * 20
    none = load_cohort("covid_chestxray", covid, regions=("airways",))
    assert none.regions.empty and len(none.boxes) == 18
    (covid / "segmentations").rename(covid / "elsewhere")  # the published folder has none
    assert len(load_cohort("covid_chestxray", covid).boxes) == 18


def test_covid_masks_that_are_not_there(covid):
    no_lesions = partial(refused, "covid_chestxray", covid, regions=LESIONS)
    masks = sorted((covid / "segmentations/masks").iterdir())
    masks[0].write_bytes(b"no picture")
    no_lesions("cannot be read as an image")
    fixtures.write_mask(masks[0], (16, 8), (0, 0, 0, 0))
    no_lesions("marks no pixel of its image")
    masks[0].unlink()
    no_lesions(r"^1 of 3 files that .* are missing, the first is .*; get them from http", FileNotFoundError)
    (covid / STRUCTURE).unlink()
    no_lesions(r"structure\.csv is missing; get it from http", FileNotFoundError)


# CBIS-DDSM


def test_cbis_features_and_paths(tmp_path):
    cbis = fixtures.write_cbis_mass(tmp_path)
    shapes = {"mass shape": ["IRREGULAR-ARCHITECTURAL_DISTORTION", "OVAL", "", "N/A"]}
    fixtures.edit_csv(cbis / CBIS, lambda t: t.assign(**shapes))
    cohort = load_cohort("cbis_mass", cbis, rows="lesion")
    first = cohort.images.iloc[0]
    assert first["image_id"] == "mass_P_00001_LEFT_CC_1"
    published = csv_paths(ROWS[0], "mass")["cropped image file path"]
    assert published.endswith("\n") and first["cropped_dicom_path"] == published[:-1]
    features = cohort.privileged.loc[first["image_id"]]
    assert features["mass_shape=IRREGULAR"] == features["mass_shape=ARCHITECTURAL_DISTORTION"] == 1
    assert features["mass_shape=OVAL"] == features["mass_shape=missing"] == 0
    assert features["breast_density"] == 2
    assert cohort.privileged["mass_shape=missing"].sum() == 2  # empty and "N/A"
    assert cohort.images["malignant"].tolist()[:3] == [1, 1, 0]
    assert cohort.images["split"].value_counts().to_dict() == {"train": 4, "test": 1}
    three = load_cohort("cbis_calc", cbis, target="pathology")
    assert three.labels == ["malignant", "benign", "benign_without_callback"]
    assert (three.images[three.labels].sum(axis=1) == 1).all()
    assert "breast_density" in three.privileged.columns


# Open-i


def test_openi_labels_and_text(tmp_path):
    cohort = load_cohort("openi", fixtures.write_openi(tmp_path))
    assert cohort.images["image_id"].tolist() == ["CXR1", "CXR2", "CXR3", "CXR10"]  # by number
    values = cohort.images.set_index("image_id")[cohort.labels]
    assert values.loc["CXR1"].tolist() == [0, 0, 0, 0, 0]
    assert values.loc["CXR10"].tolist() == [1, 0, 0, 1, 1]
    assert values.loc["CXR2"].tolist() == [0, 1, 1, 0, 1]
    assert values.loc["CXR3"].tolist() == [0, 0, 0, 0, 1]
    assert cohort.privileged.loc["CXR1", "text"] == "Made up.\nNormal chest."
    assert cohort.funnel["rows"].tolist()[:3] == [6, 5, 4] and (cohort.privileged["context"] == "None.").all()
    assert not cohort.info.shareable_text and not cohort.info.shareable_images
    impressions = load_cohort("openi", tmp_path, sections=("impression",)).privileged
    assert impressions.index.tolist() == ["CXR1", "CXR2", "CXR3"]


def test_openi_heading_rules():
    headings = ["effusion", "pericardial effusion", "hydropneumothorax/left", "density/lung", "normal"]
    table = label_table(pd.Series([[heading] for heading in headings]))
    assert table["Pleural Effusion"].tolist() == [0, 0, 1, 0, 0]
    assert table["Opacity"].sum() == 0
    assert table["Abnormal"].tolist() == [1, 1, 1, 1, 0]


REPORT = fixtures.openi_report(1, "a", "b", ["normal"])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../escape.xml": "x"}, "is not a report file"),
        ({"ecgen-radiology/1.xml": "<a>"}, "is not valid XML"),
        ({"ecgen-radiology/1.xml": "<!DOCTYPE a><a/>"}, "declares a document type"),
        ({"ecgen-radiology/1.xml": "<a/>"}, "has no identifier"),
        ({f"ecgen-radiology/{n}.xml": REPORT for n in (1, 2)}, "image_id 'CXR1' occurs more than once"),
        ({}, "holds no report"),
    ],
)
def test_openi_refusals(tmp_path, members, message):
    refused("openi", fixtures.write_openi(tmp_path, members), message)


# Folds


def _folds_table(n_patients=40, images_each=3):
    patient = np.repeat(np.arange(n_patients), images_each)
    table = pd.DataFrame({"image_id": np.arange(len(patient)).astype(str), "patient_id": patient.astype(str)})
    return table.assign(a=(patient % 3 == 0).astype(float), b=(patient % 2).astype(float))


@pytest.mark.parametrize("label", ["a", ["a", "b"]])
def test_folds_keep_patients_together(label):
    images = _folds_table()
    images.loc[:2, "a"] = np.nan
    folds = patient_folds(images, label, n_folds=4, seed=1)
    pd.testing.assert_frame_equal(folds, patient_folds(images, label, n_folds=4, seed=1))
    assert not folds.equals(patient_folds(images, label, n_folds=4, seed=2))
    merged = folds.merge(images, on="image_id")
    assert set(merged["image_id"]) == set(images["image_id"][3:])
    assert (merged.groupby(["fold", "patient_id"])["split"].nunique() == 1).all()
    assert (merged[merged["split"] == "test"].groupby("image_id").size() == 1).all()
    assert (merged[merged["split"] == "validate"].groupby("image_id").size() == 1).all()
    assert (merged.groupby(["fold", "split"])["a"].nunique() == 2).all()


def test_folds_repeated_are_the_partitions_of_the_next_seeds():
    images = _folds_table()
    folds = patient_folds(images, "a", n_folds=4, seed=1, repeats=2)
    for repeat, part in folds.groupby("repeat"):
        alone = patient_folds(images, "a", n_folds=4, seed=1 + repeat)
        part = part.assign(fold=part["fold"] - 4 * repeat, repeat=0).reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone)
    assert folds["fold"].nunique() == 8


def test_folds_refusals():
    images = _folds_table()
    with pytest.raises(DataError, match="n_folds = 2: input should be greater than or equal to 3"):
        patient_folds(images, "a", n_folds=2)
    with pytest.raises(DataError, match="no label c to cut"):
        patient_folds(images, "c")
    with pytest.raises(DataError, match=r"'a' has 3 patient\(s\) with value 1, too few for 5 folds"):
        patient_folds(images[images["patient_id"].astype(int) < 8], "a")
