"""CBIS-DDSM with pictures: every layout gives the same cohort, and every known trap of the data has its test."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.cbis import cases
from pkd_utils.cohorts.cbis import pixels as cbis_pixels
from pkd_utils.cohorts.cbis.files import find_files
from pkd_utils.cohorts.table import CORNERS
from pkd_utils.runs.errors import DataError
from tests.cohorts import cbis_fixtures as fixtures
from tests.cohorts.cbis_fixtures import ROWS, case_names, uid, write_dicom
from tests.cohorts.fixtures import cell, edit_csv, steps, without
from tests.cohorts.fixtures import refused as refused_load

IDS = [
    *("mass_P_00001_LEFT_CC_1", "mass_P_00001_LEFT_MLO_1"),
    *("mass_P_00002_RIGHT_CC_1", "mass_P_00002_RIGHT_CC_2", "mass_P_00003_LEFT_MLO_1"),
]
IMAGES = ["mass_P_00001_LEFT_CC", "mass_P_00001_LEFT_MLO", "mass_P_00002_RIGHT_CC", "mass_P_00003_LEFT_MLO"]
TRAIN, TEST = (f"mass_case_description_{split}_set.csv" for split in ("train", "test"))
LAYOUTS = [("old", False), *((style, listing) for style in ("uid", "new", "kaggle") for listing in (False, True))]


def write(root, style="new", listing=False):
    """One of the layouts; `listing` adds metadata.csv or dicom_info.csv."""
    return fixtures.write_kaggle(root, listing) if style == "kaggle" else fixtures.write_tcia(root, style, listing)


def load(root, pixels="full", kind="mass", **options):
    return load_cohort(f"cbis_{kind}", root, pixels=pixels, **options)


def refused(root, message, error=DataError, pixels="full", **options):
    refused_load("cbis_mass", root, message, error, pixels=pixels, **options)


def roi_folder(root, number=0):
    """Folder of one row's crop and mask in the new layout."""
    return root / "CBIS-DDSM" / fixtures.series_folders(ROWS[number], "mass", "new")[1]


def roi_file(root, role, number=0):
    """The crop or mask of one row, as the fixture alternates them."""
    return roi_folder(root, number) / ("1-1.dcm" if (role == "mask") == bool(number % 2) else "1-2.dcm")


def drawn(*numbers):
    """The masks of these rows' lesions as they were drawn, united."""
    return np.any([fixtures.mask(*ROWS[number][6:]) > 0 for number in numbers], axis=0)


@pytest.fixture
def tcia(tmp_path):
    return write(tmp_path)


# Layouts


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("style", "listing"), LAYOUTS)
def test_every_layout_gives_the_same_cohort(tmp_path, style, listing):
    cohort = load(write(tmp_path, style, listing))
    assert cohort.images["image_id"].tolist() == IMAGES and cohort.has_images
    shown = [(0,), (1,), (2, 3), (4,)]
    assert cohort.images[["width", "height"]].to_numpy().tolist() == [list(ROWS[one[0]][6]) for one in shown]
    assert not cohort.images["mask_resized"].any() and set(cohort.boxes["label"]) == {"mass"}
    assert cohort.boxes[CORNERS].to_numpy().tolist() == [list(map(float, row[7])) for row in ROWS]
    for image_id, numbers in zip(IMAGES, shown, strict=True):
        np.testing.assert_array_equal(cohort.mask(image_id), drawn(*numbers))
        assert cohort.image_size(image_id) == ROWS[numbers[0]][6]
        tones = cbis_pixels.read_picture(cohort.image_path(image_id))
        assert 0.3 < ((tones > 0.1 * tones.max()) & (tones < 0.9 * tones.max())).mean() < 0.6  # the mammogram


@pytest.mark.parametrize(("style", "listing"), [("old", False), ("new", True), ("kaggle", True)])
def test_crops(tmp_path, style, listing):
    cohort = load(write(tmp_path, style, listing), "crop")
    for number, image_id in enumerate(IDS):
        x0, y0, x1, y1 = ROWS[number][7]
        assert cohort.image_size(image_id) == (x1 - x0, y1 - y0)
        np.testing.assert_array_equal(cohort.mask(image_id), drawn(number)[y0:y1, x0:x1])
    assert (cohort.boxes[["x0", "y0"]] == 0).all(axis=None)
    assert (cohort.images["path"] == cohort.images["crop_path"]).all()


def test_a_crop_with_a_margin_holds_its_mask_in_the_middle(tcia):
    x0, y0, x1, y1 = ROWS[0][7]
    write_dicom(roi_file(tcia, "crop"), fixtures.crop((x0, y0, x1, y1), margin=6))
    # One that reaches over the edge of the mammogram is moved inside it.
    a0, b0, a1, b1 = ROWS[3][7]
    write_dicom(roi_file(tcia, "crop", 3), fixtures.crop((a0, b0, a1, b1), margin=20))
    cohort = load(tcia, "crop")
    np.testing.assert_array_equal(cohort.mask(IDS[0]), drawn(0)[y0 - 6 : y1 + 6, x0 - 6 : x1 + 6])
    assert cohort.boxes.loc[0, CORNERS].tolist() == [6, 6, x1 - x0 + 6, y1 - y0 + 6]
    assert cohort.images.loc[3, ["crop_left", "crop_top"]].tolist() == [0, 190 - (b1 - b0 + 40)]
    assert cohort.mask(IDS[3]).sum() == drawn(3).sum()


def test_crops_without_their_mammograms(tcia):
    """Without a mammogram's size the pixels decide."""
    for folder in (tcia / "CBIS-DDSM").glob("Mass-T*"):
        if folder.name.endswith(("CC", "MLO")):
            shutil.rmtree(folder)
    np.testing.assert_array_equal(load(tcia, "crop").mask(IDS[1]), drawn(1)[90:130, 20:50])
    refused(tcia, r"5 of 5 rows lack a usable picture \(mammogram missing 5\)", FileNotFoundError)


def test_calcifications_and_their_density_column_with_a_space(tmp_path):
    root = fixtures.write_tcia(tmp_path, kinds=("mass", "calc"))
    assert "breast density" in pd.read_csv(root / "calc_case_description_test_set.csv").columns
    cohort = load(root, kind="calc")
    assert set(cohort.boxes["label"]) == {"calcification"} and (cohort.privileged["breast_density"] == 2).all()
    assert cohort.images["path"].str.contains("/Calc-T").all()
    np.testing.assert_array_equal(cohort.mask("calc_P_00003_LEFT_MLO"), drawn(4))
    assert load(root).images["path"].str.contains("/Mass-T").all()
    assert len(pd.read_parquet(root / cbis_pixels.CACHE)) == 2 * (4 + 10)  # one cache serves both types


def test_folders_whose_short_names_coincide(tcia):
    """Another study of the case with a series of the same last five characters: the study's name decides."""
    folder = roi_folder(tcia)
    other = folder.parent.with_name("08-30-2017-DDSM-NA-00000") / folder.name
    for name in ("1-1.dcm", "1-2.dcm"):
        write_dicom(other / name, fixtures.crop((0, 0, 50, 50)))
    paths = load(tcia, "crop").images[["mask_path", "crop_path"]].loc[0]
    assert not paths.str.contains("DDSM-NA-00000").any()


def test_metadata_leads_before_the_names_of_folders(tmp_path):
    root = write(tmp_path, "new", True)
    base = root / "manifest-1617905855234"
    assert pd.read_csv(base / "metadata.csv")["File Location"].str.startswith(".\\CBIS-DDSM\\").all()
    # Content moved up beside the tables, the first part of the locations gone.
    for folder in (base / "CBIS-DDSM").iterdir():
        shutil.move(folder, root / folder.name)
    shutil.move(base / "metadata.csv", root / "metadata.csv")
    cohort = load(root)
    assert root / "metadata.csv" in cohort.tables and cohort.images["path"].str.contains("/scan 0/").all()
    edit_csv(root / "metadata.csv", without("File Location"))
    refused(root, r"metadata\.csv has no column 'File Location'")


def _unlisted(root):
    pd.DataFrame({"Series UID": ["1.2.3"], "File Location": ["./CBIS-DDSM/x"]}).to_csv(root / "metadata.csv")


def _without_identifiers(root):
    edit_csv(root / "csv" / "dicom_info.csv", lambda t: t.assign(SeriesInstanceUID=""))


def _quoted_paths(root):
    assert '000000.dcm\n"' in (root / TRAIN).read_text()  # as published
    columns = ["image file path", "ROI mask file path"]
    edit_csv(root / TRAIN, lambda t: t.assign(**{name: '"' + t[name] + '"\r\n' for name in columns}))


@pytest.mark.parametrize(
    ("style", "listing", "change"),
    [("uid", False, _unlisted), ("kaggle", True, _without_identifiers), ("new", False, _quoted_paths)],
)
def test_rows_that_no_listing_names_and_paths_in_quotes_are_found(tmp_path, style, listing, change):
    change(write(tmp_path, style, listing))
    assert load(tmp_path).images["image_id"].tolist() == IMAGES


def test_kaggle_goes_by_series_and_never_by_study(tmp_path):
    root = write(tmp_path, "kaggle", True)
    listing = pd.read_csv(root / "csv" / "dicom_info.csv")
    assert listing.groupby("StudyInstanceUID")["SeriesInstanceUID"].nunique().max() >= 4
    paths = load(root, "crop").images[["mammogram_path", "mask_path", "crop_path"]]
    assert paths[["mask_path", "crop_path"]].stack().is_unique
    for number, row in enumerate(ROWS):
        found = [paths[column][number].split("/")[1] for column in ("mammogram_path", "mask_path")]
        assert found == [uid("series", name) for name in case_names(row, "mass")]


def test_kaggle_folders_of_other_names_go_by_the_listing(tmp_path):
    root = write(tmp_path, "kaggle", True)
    series = uid("series", case_names(ROWS[0], "mass")[1])
    (root / "jpeg" / series).rename(root / "jpeg" / "renamed")
    refused(root, "mask missing 1", FileNotFoundError)
    listing = root / "csv" / "dicom_info.csv"
    listing.write_text(listing.read_text().replace(f"jpeg/{series}", "jpeg/renamed"))
    assert "renamed" in load(root).images["mask_path"][0]


def test_no_pictures_and_two_kinds_of_them(tmp_path):
    fixtures.write_tables(tmp_path)
    message = r"holds no pictures of CBIS-DDSM .*Mass-Training_P_00001_LEFT_CC, no"
    refused(tmp_path, message, FileNotFoundError)
    write(tmp_path)
    write(tmp_path, "kaggle")
    refused(tmp_path, r"as DICOM and as JPEG \(jpeg/\); give each a root of its own")


def test_files_that_are_no_pictures_are_passed_over(tcia):
    folder = roi_folder(tcia)
    (folder / "LICENSE").write_text("CC BY 3.0")
    Image.new("L", (9, 9)).save(folder / ".thumbnail.jpg")
    files, _ = find_files(tcia, load(tcia, "none", rows="lesion").images)
    assert [len(names) for names in files["roi_files"]] == [2] * 5


# Table fields


def test_a_path_that_is_none(tcia):
    edit_csv(tcia / TEST, cell("image file path", "P_00003/000000.dcm"))
    load(tcia, "none")  # of no concern without pixels
    refused(tcia, r"dicom_path 'P_00003/000000.dcm' is not <case>/<study>/<series>/<file>")
    edit_csv(tcia / TEST, cell("image file path", ""))
    refused(tcia, r"1 of 5 rows .*\(mammogram missing 1\), first 'mass_P_00003", FileNotFoundError)


def test_extra_columns_of_simulated_tables_are_privileged(tmp_path):
    fixtures.write_tables(tmp_path, {"age": 57, "mass density": 3})
    plain = load(tmp_path, "none", rows="lesion").privileged
    assert (plain["age"] == 57).all() and (plain["mass_density"] == 3).all()
    words = {"mass density": ["low", "fat-containing", "", "low"], "age": ["", "1", 2, 3]}
    edit_csv(tmp_path / TRAIN, lambda t: t.assign(**words))
    found = load(tmp_path, "none", rows="lesion").privileged
    counts = [found[f"mass_density={word}"].sum() for word in ("low", "fat-containing", "missing")]
    assert counts == [2, 1, 1] and found["age"].isna().sum() == 1
    edit_csv(tmp_path / TRAIN, lambda t: t.assign(age="old"))
    refused(tmp_path, "data row 1 has age 'old', which is not a number", pixels="none")


# Roles by content


def test_roles_do_not_depend_on_names_or_tables(tcia):
    before = load(tcia)
    folder = roi_folder(tcia)
    for old, new in (("1-1", "x"), ("1-2", "1-1"), ("x", "1-2")):
        (folder / f"{old}.dcm").rename(folder / f"{new}.dcm")
    crop, mask = "cropped image file path", "ROI mask file path"
    edit_csv(tcia / TRAIN, lambda t: t.rename(columns={crop: mask, mask: crop}))
    after = load(tcia)
    assert before.images["mask_path"][0] != after.images["mask_path"][0]
    np.testing.assert_array_equal(before.mask(IMAGES[1]), after.mask(IMAGES[1]))
    np.testing.assert_array_equal(after.mask(IMAGES[0]), drawn(0))


@pytest.mark.parametrize("swapped", [False, True])
def test_crop_and_mask_in_series_of_their_own(tcia, swapped):
    """104 of the real rows; the table may still say which is which the wrong way round."""
    images, series = load(tcia, "none").images, uid("series", "of its own")
    target = roi_folder(tcia).with_name(f"1.000000-cropped images-{series[-5:]}") / "1-1.dcm"
    target.parent.mkdir()
    roi_file(tcia, "crop").rename(target)
    case = images["cropped_dicom_path"][0].split("/")[:2]
    paths = ["/".join([*case, series, "000000.dcm"]), images["roi_dicom_path"][0]]
    edit_csv(tcia / TRAIN, cell(["cropped image file path", "ROI mask file path"], paths[:: -1 if swapped else 1]))
    cohort = load(tcia, "crop")
    assert tcia / cohort.images["path"][0] == target
    np.testing.assert_array_equal(cohort.mask(IDS[0]), drawn(0)[40:70, 30:70])


def test_sizes_settle_roles_without_decoding_crops_and_mammograms(tcia, monkeypatch):
    decoded = []
    read = cbis_pixels.read_picture
    monkeypatch.setattr(cbis_pixels, "read_picture", lambda path: decoded.append(path) or read(path))
    assert sorted(decoded) == [] and len(load(tcia).images) == 4
    assert sorted(decoded) == sorted(roi_file(tcia, "mask", number) for number in range(5))


def test_a_mask_of_another_size_is_resized_and_flagged(tcia):
    """As in the collection (4386 x 1789 for 5041 x 2056): nearest pixel; here one smaller, one of another aspect."""
    small = fixtures.mask((60, 100), (15, 20, 35, 35))  # half of 120 x 200
    write_dicom(roi_file(tcia, "mask", 0), small)
    write_dicom(roi_file(tcia, "mask", 4), fixtures.mask((125, 164), (50, 48, 80, 80)))  # 125 x 205
    cohort = load(tcia)
    assert cohort.images["mask_resized"].tolist() == [True, False, False, True]
    assert cohort.images.loc[0, ["mask_width", "mask_height"]].tolist() == [60, 100]
    np.testing.assert_array_equal(cohort.mask(IMAGES[0]), small.repeat(2, axis=0).repeat(2, axis=1) > 0)
    assert cohort.boxes.loc[0, CORNERS].tolist() == [30, 40, 70, 70] and cohort.mask(IMAGES[3]).shape == (205, 125)
    row = steps(cohort).loc["mask of another size than its mammogram, resized"]
    assert (row["rows"], row["note"]) == (2, "nearest pixel; 1 of them also of another aspect ratio")
    np.testing.assert_array_equal(load(tcia, "crop").mask(IDS[0]), cohort.mask(IMAGES[0])[40:70, 30:70])


@pytest.mark.parametrize("stored", [(71, 113), (120, 200), (240, 411), (121, 199)])
def test_boxes_of_resized_masks_are_those_of_the_masks(tcia, stored):
    pixels = fixtures.mask(stored, (stored[0] // 4, 9, stored[0] // 4 + 20, 41))
    write_dicom(roi_file(tcia, "mask"), pixels)
    cohort = load(tcia)
    mask = cohort.mask(IMAGES[0])
    nearest = np.asarray(Image.fromarray(pixels).resize((120, 200), Image.Resampling.NEAREST)) > 0
    np.testing.assert_array_equal(mask, nearest)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    assert cohort.boxes.loc[0, CORNERS].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize(
    ("role", "number", "pixels", "message"),
    [
        # Black and white, but a quarter of the sides: it cannot be brought to the mammogram in good faith.
        ("mask", 0, fixtures.mask((50, 55), (20, 20, 40, 40)), r"black and white but too small .*50x55, .* 120x200"),
        # A mammogram among the crops, of the right size.
        ("mask", 0, fixtures.mammogram((120, 200)), r"none of .*1-1\.dcm, .*1-2\.dcm is black and white"),
        ("crop", 0, fixtures.mask(*ROWS[0][6:]), "2 files could be the mask"),
        ("mask", 2, np.zeros((190, 130), np.uint8), "without a white pixel"),
    ],
)
def test_series_without_one_sound_mask_are_refused(tcia, role, number, pixels, message):
    write_dicom(roi_file(tcia, role, number), pixels)
    refused(tcia, rf"\(mask unusable 1\), first '{IDS[number]}' .*{message}")


def test_jpeg_masks_are_not_exactly_binary_and_damaged_ones_are_refused(tmp_path):
    cohort = load(write(tmp_path, "kaggle", True))
    pixels = cbis_pixels.read_picture(tmp_path / cohort.images["mask_path"][1])
    assert ((pixels > 0.1 * 255) & (pixels < 0.9 * 255)).any()
    file = tmp_path / cohort.images["mask_path"][0]
    for content in (file.read_bytes()[:-400], b"<html>"):
        file.write_bytes(content)
        refused(tmp_path, r"mask unusable 1.*cannot be read as an image")


@pytest.mark.parametrize(
    "changed",
    [
        {"crop": fixtures.crop((0, 0, 120, 200))},  # as large as the mammogram: the grey tones decide
        {"crop": np.full((30, 40), 40_000, np.uint16), "mask": fixtures.mask((118, 200), (30, 40, 70, 70))},
    ],
    ids=["size settles nothing", "no grey tones"],
)
def test_crops_are_told_from_masks_by_pixels_or_by_size(tcia, changed):
    for role, pixels in changed.items():
        write_dicom(roi_file(tcia, role), pixels)
    found = load(tcia).images.loc[0, ["mask_path", "crop_path"]]
    assert [tcia / path for path in found] == [roi_file(tcia, "mask"), roi_file(tcia, "crop")]


def test_a_sixteen_bit_png_mask_keeps_its_dark_tones(tcia):
    """PIL's own `convert("L")` would make white of all above 255."""
    pixels = fixtures.mask(*ROWS[0][6:]).astype(np.uint16) * 257
    pixels[pixels == 0] = 300
    roi_file(tcia, "mask").unlink()
    Image.fromarray(pixels).save(roi_file(tcia, "mask").with_suffix(".png"))
    np.testing.assert_array_equal(load(tcia).mask(IMAGES[0]), drawn(0))


def test_a_mammogram_series_with_two_files(tcia):
    images = load(tcia).images
    second = (tcia / images["mammogram_path"][0]).with_name("1-2.dcm")
    write_dicom(second, fixtures.crop((0, 0, 30, 30)))
    assert load(tcia).images["path"][0] == images["path"][0]
    write_dicom(second, fixtures.mammogram((120, 200), 9))
    refused(tcia, r"mammogram unusable 1.*1-1\.dcm and 1-2\.dcm .* could both be the mammogram")


def test_a_mammogram_is_one_row_and_no_lesion_of_it_is_background(tcia):
    """Else its pixels would be learned twice, here as malignant and as benign."""
    words = ["ROUND", "ROUND", "IRREGULAR", "OVAL"]
    told = {"pathology": ["MALIGNANT", "MALIGNANT", "BENIGN", "MALIGNANT"], "mass shape": words}
    edit_csv(tcia / TRAIN, lambda t: t.assign(**told))
    cohort, image = load(tcia), IMAGES[2]
    assert cohort.images["mammogram_path"].is_unique and cohort.images["image_id"].tolist() == IMAGES
    assert cohort.images["malignant"].tolist() == [1, 1, 1, 0] and cohort.images["lesions"].tolist() == [1, 1, 2, 1]
    np.testing.assert_array_equal(cohort.mask(image), drawn(2, 3))
    boxes = cohort.boxes[cohort.boxes["image_id"] == image]
    assert boxes[CORNERS].to_numpy().tolist() == [[60, 20, 90, 50], [10, 140, 40, 180]]
    row = cohort.privileged.loc[image]
    assert row["mass_shape=OVAL"] == 1 and row["mass_shape=IRREGULAR"] == 0, "that of the lesion that gives the label"
    several = steps(cohort).loc["of them with several abnormalities"]
    assert several["rows"] == 1 and several["note"] == "2 abnormalities; 1 of them malignant and benign: malignant"
    assert steps(cohort).loc["mammograms, a row each", "rows"] == 4
    assert cohort.mask(image, "mass").sum() == cohort.mask(image).sum()
    with pytest.raises(DataError, match="no region labelled 'calc"):
        cohort.mask(image, "calcification")


@pytest.mark.parametrize(
    ("pathology", "numbers", "chosen"),
    [
        (("BENIGN", "MALIGNANT"), (1, 2), 1),
        (("BENIGN_WITHOUT_CALLBACK", "BENIGN"), (1, 2), 1),
        (("BENIGN", "BENIGN"), (1, 2), 0),
        (("BENIGN", "BENIGN"), (10, 2), 1),  # the lowest number, not the first word
    ],
)
def test_the_lesion_that_gives_the_label(tmp_path, pathology, numbers, chosen):
    fixtures.write_tables(tmp_path)
    told = {"abnormality id": numbers, "pathology": pathology, "subtlety": (1, 2), "image view": "CC"}
    edit_csv(tmp_path / TRAIN, lambda t: t.iloc[2:].assign(**told))
    cohort = load(tmp_path, "none", target="pathology")
    assert cohort.images["image_id"].tolist() == IMAGES[2:] and cohort.images["pathology"][0] == pathology[chosen]
    assert (cohort.images[cohort.labels].sum(axis=1) == 1).all()
    assert cohort.privileged["subtlety"].tolist() == [chosen + 1, 3]
    lesions = load(tmp_path, "none", rows="lesion")
    assert lesions.images["image_id"].tolist()[:2] == [f"{IMAGES[2]}_{number}" for number in numbers]


def test_mammograms_are_not_repeated_lesion_by_lesion(tcia):
    refused(tcia, 'rows="lesion" repeats whole mammograms: choose', rows="lesion")


def test_lesions_are_cut_from_their_mammograms(tcia, tmp_path_factory, monkeypatch):
    data = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("PKD_DATA", str(data))
    # A second lesion beside the first of its mammogram: each crop shows a part of the other.
    write_dicom(roi_file(tcia, "mask", 3), fixtures.mask((130, 190), (80, 30, 110, 60)))
    cohort = load(tcia, "lesion_crop", margin=0.1)
    assert cohort.images["image_id"].tolist() == IDS and cohort.root.parent == data / "cache"
    both = drawn(2) | (fixtures.mask((130, 190), (80, 30, 110, 60)) > 0)
    windows = [(26, 31, 74, 79), (11, 86, 59, 134), (57, 17, 93, 53), (77, 27, 113, 63), (41, 56, 89, 104)]
    for number, (image_id, (x0, y0, x1, y1)) in enumerate(zip(IDS, windows, strict=True)):
        part = np.s_[y0:y1, x0:x1]
        whole = fixtures.mammogram(ROWS[number][6], 3 if number == 2 else number)  # as the fixture writes it last
        np.testing.assert_array_equal(cbis_pixels.read_picture(cohort.image_path(image_id)), whole[part])
        np.testing.assert_array_equal(cohort.mask(image_id), (both if number in (2, 3) else drawn(number))[part])
    boxes = cohort.boxes[cohort.boxes["image_id"] == IDS[2]]
    assert boxes[CORNERS].to_numpy().tolist() == [[3, 3, 33, 33], [23, 13, 36, 36]]
    assert cohort.images["malignant"].tolist() == [1, 1, 0, 0, 0]
    # Cut once, and again where the mammogram is newer.
    file, mammogram = cohort.image_path(IDS[0]), tcia / cohort.images["mammogram_path"][0]
    before = file.stat().st_mtime_ns
    assert load(tcia, "lesion_crop", margin=0.1).data_hash() == cohort.data_hash()
    assert file.stat().st_mtime_ns == before
    write_dicom(mammogram, fixtures.mammogram((120, 200), 9))
    again = load(tcia, "lesion_crop", margin=0.1).image_path(IDS[0])
    np.testing.assert_array_equal(cbis_pixels.read_picture(again), fixtures.mammogram((120, 200), 9)[31:79, 26:74])
    wide = load(tcia, "lesion_crop", margin=9)  # no further than the mammogram
    assert wide.image_size(IDS[2]) == (130, 190) and (wide.mask(IDS[2]) == both).all()


def test_inverted_mammograms_are_turned(tmp_path):
    drawn = fixtures.mammogram((120, 200), 0)
    pixels = cbis_pixels.read_picture(write_dicom(tmp_path / "a.dcm", drawn, PhotometricInterpretation="MONOCHROME1"))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, 65535 - drawn)


# Missing and damaged files


def test_missing_series_are_counted_in_one_sentence(tcia):
    for folder in (roi_folder(tcia, 1), roi_folder(tcia, 4), tcia / "CBIS-DDSM" / case_names(ROWS[0], "mass")[0]):
        shutil.rmtree(folder)
    message = (
        r"CBIS-DDSM mass: 3 of 5 rows lack a usable picture \(mammogram missing 1, mask missing 2\), first "
        r"'mass_P_00001_LEFT_CC_1' \(mammogram: no file of its series\); get the files from .*or take these rows out"
    )
    refused(tcia, message, FileNotFoundError)
    assert load(tcia, "none").images["image_id"].tolist() == IMAGES


@pytest.mark.parametrize(
    ("role", "length"), [("mammogram", -10), ("mammogram", 1000), ("mask", 100), ("mask", -10), ("crop", -10)]
)
def test_a_truncated_dicom(tcia, role, length):
    file = tcia / "CBIS-DDSM" / fixtures.series_folders(ROWS[0], "mass", "new")[0] / "1-1.dcm"
    file = file if role == "mammogram" else roi_file(tcia, role)
    file.write_bytes(file.read_bytes()[:length])
    pixels, other = ("crop", "full") if role == "crop" else ("full", "crop")
    refused(tcia, rf"1 of 5 rows .*\({role} unusable 1\).*{file.name}.*fetch", pixels=pixels)
    if role != "mask":  # the pictures that the other choice needs are whole
        assert len(load(tcia, other).images) == {"full": 4, "crop": 5}[other]


# What is remembered


def test_the_second_load_reads_no_file(tcia, monkeypatch):
    first = load(tcia)
    monkeypatch.setattr(cbis_pixels, "image_size", None)
    monkeypatch.setattr(cbis_pixels, "read_picture", None)
    again = load(tcia)
    pd.testing.assert_frame_equal(first.images, again.images)
    pd.testing.assert_frame_equal(first.boxes, again.boxes)
    assert first.data_hash() == again.data_hash()


def test_the_cache_follows_the_files_and_survives_damage(tcia):
    load(tcia)
    file = roi_file(tcia, "mask")
    write_dicom(file, fixtures.mask((120, 200), (5, 6, 25, 36)))
    cohort = load(tcia)
    assert cohort.boxes.loc[0, ["x0", "y0"]].tolist() == [5, 6]
    (tcia / cbis_pixels.CACHE).write_bytes(b"not parquet")
    pd.testing.assert_frame_equal(load(tcia).boxes, cohort.boxes)
    # A file that was damaged and mended without a change of length or time.
    stat, whole = file.stat(), file.read_bytes()
    file.write_bytes(whole[:-10])
    refused(tcia, "cut short")
    file.write_bytes(whole)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    pd.testing.assert_frame_equal(load(tcia).boxes, cohort.boxes)


def test_the_cache_of_a_folder_nothing_can_be_written_to(tcia, tmp_path_factory, monkeypatch):
    data = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("PKD_DATA", str(data))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    load(tcia)
    assert not (tcia / cbis_pixels.CACHE).exists() and len(list((data / "cache").glob("cbis-*.parquet"))) == 1


def test_selection_keeps_masks_and_the_data_hash_follows_them(tcia):
    cohort = load(tcia)
    part = cohort.select(IMAGES[2:3])
    assert part.mask(IMAGES[2]).sum() == drawn(2, 3).sum() and len(part.boxes) == 2
    before = cohort.data_hash()
    file = roi_file(tcia, "mask", 3)  # not of the lesion that gives the label
    file.write_bytes(file.read_bytes() + b"\0\0")
    assert len({before, cohort.data_hash(), load(tcia, "none").data_hash()}) == 3


# Splits


def test_validate_is_carved_from_training_patients(tmp_path):
    fixtures.write_tables(tmp_path)
    one = pd.read_csv(tmp_path / TRAIN, dtype=str).head(2)  # 60 patients with two views each
    parts = [one.assign(patient_id=f"P_{100 + i:05d}", pathology=cases.PATHOLOGY[i % 3]) for i in range(60)]
    pd.concat(parts).to_csv(tmp_path / TRAIN, index=False)
    plain = load(tmp_path, "none").images
    assert set(plain["split"]) == {"train", "test"}
    cohort = load(tmp_path, "none", validate_share=0.2)
    images = cohort.images
    assert images.groupby("patient_id")["split"].nunique().max() == 1
    assert (images["split"] == "test").equals(plain["split"] == "test")
    validate = images[images["split"] == "validate"]
    assert validate["patient_id"].nunique() == 12
    assert validate.drop_duplicates("patient_id")["pathology"].value_counts().tolist() == [4, 4, 4]  # as in all
    assert steps(cohort).loc["of the train table, now validate", ["rows", "patients"]].tolist() == [24, 12]
    pd.testing.assert_frame_equal(images, load(tmp_path, "none", validate_share=0.2).images)
    fixtures.write_tables(tmp_path)
    refused(tmp_path, "2 training patients cannot give a validate split of 0.01", pixels="none", validate_share=0.01)


def test_patients_shared_between_tables_are_counted(tmp_path):
    fixtures.write_tables(tmp_path)
    edit_csv(tmp_path / "calc_case_description_test_set.csv", lambda t: t.assign(patient_id="P_00001"))
    assert steps(load(tmp_path, "none")).loc["train table", "note"] == "1 patients are also in the calc test table"
    assert steps(load(tmp_path, "none")).loc["test table", "note"] == "0 patients are also in the calc train table"
    for file in tmp_path.glob("calc*"):
        file.unlink()
    assert steps(load(tmp_path, "none")).loc["train table", "note"] == ""
