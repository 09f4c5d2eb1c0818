"""CBIS-DDSM with pictures: every layout gives the same cohort, and every known trap of the data has its test."""

import os
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.cbis import cases
from pkd_utils.cohorts.cbis import pixels as cbis_pixels
from pkd_utils.cohorts.cbis.files import find_files
from pkd_utils.cohorts.table import CORNERS
from pkd_utils.runs.errors import DataError
from tests.cohorts import cbis_fixtures as fixtures
from tests.cohorts.fixtures import edit_csv

IDS = [
    "mass_P_00001_LEFT_CC_1",
    "mass_P_00001_LEFT_MLO_1",
    "mass_P_00002_RIGHT_CC_1",
    "mass_P_00002_RIGHT_CC_2",
    "mass_P_00003_LEFT_MLO_1",
]
LAYOUTS = [("old", False), *((style, listing) for style in ("uid", "new", "kaggle") for listing in (False, True))]


def write(root, style="new", listing=False):
    """One of the layouts; `listing` adds metadata.csv or dicom_info.csv."""
    return fixtures.write_kaggle(root, listing) if style == "kaggle" else fixtures.write_tcia(root, style, listing)


def roi_folder(root, number=0, kind="mass"):
    """Folder of one row's crop and mask in the new layout."""
    return root / "CBIS-DDSM" / fixtures.series_folders(fixtures.ROWS[number], kind, "new")[1]


def roi_file(root, role, number=0):
    """The crop or mask of one row, as the fixture alternates them."""
    return roi_folder(root, number) / ("1-1.dcm" if (role == "mask") == bool(number % 2) else "1-2.dcm")


def replace_pixels(file, pixels):
    """Give a DICOM file other pixels."""
    file.unlink()
    fixtures.write_dicom(file, pixels)


@pytest.fixture
def tcia(tmp_path):
    return write(tmp_path)


# Layouts


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("style", "listing"), LAYOUTS)
def test_every_layout_gives_the_same_cohort(tmp_path, style, listing):
    cohort = load_cohort("cbis_mass", write(tmp_path, style, listing), pixels="full")
    assert cohort.images["image_id"].tolist() == IDS
    assert cohort.has_images
    assert cohort.images[["width", "height"]].to_numpy().tolist() == [list(row[6]) for row in fixtures.ROWS]
    assert not cohort.images["mask_resized"].any()
    assert cohort.boxes[CORNERS].to_numpy().tolist() == [list(map(float, row[7])) for row in fixtures.ROWS]
    assert cohort.boxes["label"].unique().tolist() == ["mass"]
    for image_id, row in zip(IDS, fixtures.ROWS, strict=True):
        np.testing.assert_array_equal(cohort.mask(image_id), fixtures.mask(*row[6:]) > 0)
        assert cohort.image_size(image_id) == row[6]
        tones = cbis_pixels.read_picture(cohort.image_path(image_id))
        assert 0.3 < ((tones > 0.1 * tones.max()) & (tones < 0.9 * tones.max())).mean() < 0.6  # the mammogram


@pytest.mark.parametrize(("style", "listing"), [("old", False), ("new", True), ("kaggle", True)])
def test_crops(tmp_path, style, listing):
    cohort = load_cohort("cbis_mass", write(tmp_path, style, listing), pixels="crop")
    for image_id, row in zip(IDS, fixtures.ROWS, strict=True):
        x0, y0, x1, y1 = row[7]
        assert cohort.image_size(image_id) == (x1 - x0, y1 - y0)
        np.testing.assert_array_equal(cohort.mask(image_id), (fixtures.mask(*row[6:]) > 0)[y0:y1, x0:x1])
    assert (cohort.boxes[["x0", "y0"]] == 0).all(axis=None)
    assert (cohort.images["path"] == cohort.images["crop_path"]).all()


def test_a_crop_with_a_margin_holds_its_mask_in_the_middle(tcia):
    (x0, y0, x1, y1), size = fixtures.ROWS[0][7], fixtures.ROWS[0][6]
    replace_pixels(roi_file(tcia, "crop"), fixtures.crop((x0, y0, x1, y1), margin=6))
    # One that reaches over the edge of the mammogram is moved inside it.
    (a0, b0, a1, b1) = fixtures.ROWS[3][7]
    replace_pixels(roi_file(tcia, "crop", 3), fixtures.crop((a0, b0, a1, b1), margin=20))
    cohort = load_cohort("cbis_mass", tcia, pixels="crop")
    expected = (fixtures.mask(size, (x0, y0, x1, y1)) > 0)[y0 - 6 : y1 + 6, x0 - 6 : x1 + 6]
    np.testing.assert_array_equal(cohort.mask(IDS[0]), expected)
    assert cohort.boxes.loc[0, CORNERS].tolist() == [6, 6, x1 - x0 + 6, y1 - y0 + 6]
    assert cohort.images.loc[3, ["crop_left", "crop_top"]].tolist() == [0, 190 - (b1 - b0 + 40)]
    assert cohort.mask(IDS[3]).sum() == (fixtures.mask((130, 190), (a0, b0, a1, b1)) > 0).sum()


def test_crops_without_their_mammograms(tcia):
    """Without a mammogram's size the pixels decide."""
    for folder in (tcia / "CBIS-DDSM").glob("Mass-T*"):
        if folder.name.endswith(("CC", "MLO")):
            shutil.rmtree(folder)
    cohort = load_cohort("cbis_mass", tcia, pixels="crop")
    np.testing.assert_array_equal(cohort.mask(IDS[1]), (fixtures.mask(*fixtures.ROWS[1][6:]) > 0)[90:130, 20:50])
    with pytest.raises(FileNotFoundError, match=r"5 of 5 rows lack a usable picture \(mammogram missing 5\)"):
        load_cohort("cbis_mass", tcia, pixels="full")


def test_calcifications_and_their_density_column_with_a_space(tmp_path):
    root = fixtures.write_tcia(tmp_path, kinds=("mass", "calc"))
    assert "breast density" in pd.read_csv(root / "calc_case_description_test_set.csv").columns
    cohort = load_cohort("cbis_calc", root, pixels="full")
    assert cohort.boxes["label"].unique().tolist() == ["calcification"]
    assert (cohort.privileged["breast_density"] == 2).all()
    assert cohort.images["path"].str.contains("/Calc-T").all()
    np.testing.assert_array_equal(cohort.mask("calc_P_00003_LEFT_MLO_1"), fixtures.mask(*fixtures.ROWS[4][6:]) > 0)
    assert load_cohort("cbis_mass", root, pixels="full").images["path"].str.contains("/Mass-T").all()


def test_folders_whose_short_names_coincide(tcia):
    """Another study of the case with a series of the same last five characters: the study's name decides."""
    folder = roi_folder(tcia)
    other = folder.parent.with_name("08-30-2017-DDSM-NA-00000") / folder.name
    other.mkdir(parents=True)
    for name in ("1-1.dcm", "1-2.dcm"):
        fixtures.write_dicom(other / name, fixtures.crop((0, 0, 50, 50)))
    paths = load_cohort("cbis_mass", tcia, pixels="crop").images[["mask_path", "crop_path"]].loc[0]
    assert not paths.str.contains("DDSM-NA-00000").any()


def test_metadata_leads_before_the_names_of_folders(tmp_path):
    root = write(tmp_path, "new", True)
    base = root / "manifest-1617905855234"
    listing = pd.read_csv(base / "metadata.csv")
    assert listing["File Location"].str.startswith(".\\CBIS-DDSM\\").all()
    # Content moved up beside the tables, the first part of the locations gone.
    for folder in (base / "CBIS-DDSM").iterdir():
        shutil.move(folder, root / folder.name)
    shutil.move(base / "metadata.csv", root / "metadata.csv")
    cohort = load_cohort("cbis_mass", root, pixels="full")
    assert root / "metadata.csv" in cohort.tables
    assert cohort.images["path"].str.contains("/scan 0/").all()
    edit_csv(root / "metadata.csv", lambda t: t.drop(columns="File Location"))
    with pytest.raises(DataError, match=r"metadata\.csv has no column 'File Location'"):
        load_cohort("cbis_mass", root, pixels="full")


def _unlisted(root):
    pd.DataFrame({"Series UID": ["1.2.3"], "File Location": ["./CBIS-DDSM/x"]}).to_csv(root / "metadata.csv")


def _without_identifiers(root):
    edit_csv(root / "csv" / "dicom_info.csv", lambda t: t.assign(SeriesInstanceUID=""))


def _quoted_paths(root):
    table = root / "mass_case_description_train_set.csv"
    assert '000000.dcm\n"' in table.read_text()  # as published
    columns = ["image file path", "ROI mask file path"]
    edit_csv(table, lambda t: t.assign(**{name: '"' + t[name] + '"\r\n' for name in columns}))


@pytest.mark.parametrize(
    ("style", "listing", "change"),
    [("uid", False, _unlisted), ("kaggle", True, _without_identifiers), ("new", False, _quoted_paths)],
)
def test_rows_that_no_listing_names_and_paths_in_quotes_are_found(tmp_path, style, listing, change):
    change(write(tmp_path, style, listing))
    assert load_cohort("cbis_mass", tmp_path, pixels="full").images["image_id"].tolist() == IDS


def test_tables_of_the_download_in_folder_csv(tmp_path):
    root = write(tmp_path, "kaggle")
    assert load_cohort("cbis_mass", root).images["path"].isna().all()
    assert cases.shared_patients(root).loc["mass train", "calc train"] == 2


def test_kaggle_goes_by_series_and_never_by_study(tmp_path):
    root = write(tmp_path, "kaggle", True)
    listing = pd.read_csv(root / "csv" / "dicom_info.csv")
    assert listing.groupby("StudyInstanceUID")["SeriesInstanceUID"].nunique().max() >= 4
    paths = load_cohort("cbis_mass", root, pixels="full").images[["mammogram_path", "mask_path", "crop_path"]]
    assert paths[["mask_path", "crop_path"]].stack().is_unique
    for number, row in enumerate(fixtures.ROWS):
        case, roi = fixtures.case_names(row, "mass")
        assert paths["mammogram_path"][number].split("/")[1] == fixtures.uid("series", case)
        assert paths["mask_path"][number].split("/")[1] == fixtures.uid("series", roi)


def test_kaggle_folders_of_other_names_go_by_the_listing(tmp_path):
    root = write(tmp_path, "kaggle", True)
    series = fixtures.uid("series", fixtures.case_names(fixtures.ROWS[0], "mass")[1])
    (root / "jpeg" / series).rename(root / "jpeg" / "renamed")
    with pytest.raises(FileNotFoundError, match="mask missing 1"):
        load_cohort("cbis_mass", root, pixels="full")
    edit_csv(
        root / "csv" / "dicom_info.csv",
        lambda t: t.assign(image_path=t["image_path"].str.replace(f"jpeg/{series}", "jpeg/renamed")),
    )
    assert "renamed" in load_cohort("cbis_mass", root, pixels="full").images["mask_path"][0]


def test_no_pictures_and_two_kinds_of_them(tmp_path):
    fixtures.write_tables(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no pictures of CBIS-DDSM .*Mass-Training_P_00001_LEFT_CC, no"):
        load_cohort("cbis_mass", tmp_path, pixels="full")
    write(tmp_path)
    write(tmp_path, "kaggle")
    with pytest.raises(DataError, match=r"as DICOM and as JPEG \(jpeg/\); give each a root of its own"):
        load_cohort("cbis_mass", tmp_path, pixels="full")


# Table fields


def test_a_path_that_is_none(tcia):
    column = "image file path"
    edit_csv(tcia / "mass_case_description_test_set.csv", lambda t: t.assign(**{column: "P_00003/000000.dcm"}))
    load_cohort("cbis_mass", tcia)  # of no concern without pixels
    with pytest.raises(DataError, match=r"dicom_path 'P_00003/000000.dcm' is not <case>/<study>/<series>/<file>"):
        load_cohort("cbis_mass", tcia, pixels="full")
    edit_csv(tcia / "mass_case_description_test_set.csv", lambda t: t.assign(**{column: ""}))
    with pytest.raises(FileNotFoundError, match=r"1 of 5 rows .*\(mammogram missing 1\), first 'mass_P_00003"):
        load_cohort("cbis_mass", tcia, pixels="full")


def test_extra_columns_of_simulated_tables_are_privileged(tmp_path):
    fixtures.write_tables(tmp_path, {"age": 57, "mass density": 3})
    plain = load_cohort("cbis_mass", tmp_path).privileged
    assert (plain["age"] == 57).all()
    assert (plain["mass_density"] == 3).all()
    file = tmp_path / "mass_case_description_train_set.csv"
    edit_csv(file, lambda t: t.assign(**{"mass density": ["low", "fat-containing", "", "low"], "age": ["", "1", 2, 3]}))
    words = load_cohort("cbis_mass", tmp_path).privileged
    assert words["mass_density=low"].sum() == 2
    assert words["mass_density=fat-containing"].sum() == words["mass_density=missing"].sum() == 1
    assert words["age"].isna().sum() == 1
    edit_csv(file, lambda t: t.assign(age="old"))
    with pytest.raises(DataError, match="data row 1 has age 'old', which is not a number"):
        load_cohort("cbis_mass", tmp_path)


# Roles by content


def test_roles_do_not_depend_on_names_or_tables(tcia):
    before = load_cohort("cbis_mass", tcia, pixels="full")
    folder = roi_folder(tcia)
    (folder / "1-1.dcm").rename(folder / "x.dcm")
    (folder / "1-2.dcm").rename(folder / "1-1.dcm")
    (folder / "x.dcm").rename(folder / "1-2.dcm")
    crop, mask = "cropped image file path", "ROI mask file path"
    edit_csv(
        tcia / "mass_case_description_train_set.csv",
        lambda t: t.rename(columns={crop: mask, mask: crop}),
    )
    after = load_cohort("cbis_mass", tcia, pixels="full")
    assert before.images["mask_path"][0] != after.images["mask_path"][0]
    np.testing.assert_array_equal(before.mask(IDS[1]), after.mask(IDS[1]))
    np.testing.assert_array_equal(after.mask(IDS[0]), fixtures.mask(*fixtures.ROWS[0][6:]) > 0)


@pytest.mark.parametrize("swapped", [False, True])
def test_crop_and_mask_in_series_of_their_own(tcia, swapped):
    """104 of the real rows; the table may still say which is which the wrong way round."""
    folder = roi_folder(tcia)
    images, crop = load_cohort("cbis_mass", tcia).images, roi_file(tcia, "crop")
    series = fixtures.uid("series", "of its own")
    target = folder.with_name(f"1.000000-cropped images-{series[-5:]}") / "1-1.dcm"
    target.parent.mkdir()
    crop.rename(target)
    mask_path, case = images["roi_dicom_path"][0], images["cropped_dicom_path"][0]
    crop_path = "/".join([*case.split("/")[:2], series, "000000.dcm"])
    if swapped:
        mask_path, crop_path = crop_path, mask_path

    def change(table):
        table.loc[0, ["cropped image file path", "ROI mask file path"]] = [crop_path, mask_path]
        return table

    edit_csv(tcia / "mass_case_description_train_set.csv", change)
    cohort = load_cohort("cbis_mass", tcia, pixels="crop")
    assert tcia / cohort.images["path"][0] == target
    np.testing.assert_array_equal(cohort.mask(IDS[0]), (fixtures.mask(*fixtures.ROWS[0][6:]) > 0)[40:70, 30:70])


def test_sizes_settle_roles_without_decoding_crops_and_mammograms(tcia, monkeypatch):
    decoded = []
    read = cbis_pixels.read_picture
    monkeypatch.setattr(cbis_pixels, "read_picture", lambda path: decoded.append(path) or read(path))
    cohort = load_cohort("cbis_mass", tcia, pixels="full")
    assert sorted(decoded) == sorted(tcia / path for path in cohort.images["mask_path"])


def test_a_mask_of_another_size_is_resized_and_flagged(tcia):
    """As in the collection (4386 x 1789 for 5041 x 2056): nearest pixel; here one smaller, one of another aspect."""
    file = roi_file(tcia, "mask", 0)
    replace_pixels(file, fixtures.mask((60, 100), (15, 20, 35, 35)))  # half of 120 x 200
    bent = roi_file(tcia, "mask", 4)
    replace_pixels(bent, fixtures.mask((125, 164), (50, 48, 80, 80)))  # 125 x 205
    cohort = load_cohort("cbis_mass", tcia, pixels="full")
    assert cohort.images["mask_resized"].tolist() == [True, False, False, False, True]
    assert cohort.images.loc[0, ["mask_width", "mask_height"]].tolist() == [60, 100]
    small = fixtures.mask((60, 100), (15, 20, 35, 35)) > 0
    np.testing.assert_array_equal(cohort.mask(IDS[0]), small.repeat(2, axis=0).repeat(2, axis=1))
    assert cohort.boxes.loc[0, CORNERS].tolist() == [30, 40, 70, 70]
    assert cohort.mask(IDS[4]).shape == (205, 125)
    step = cohort.funnel.set_index("step").loc["mask of another size than its mammogram, resized"]
    assert (step["rows"], step["note"]) == (2, "nearest pixel; 1 of them also of another aspect ratio")
    crop = load_cohort("cbis_mass", tcia, pixels="crop")
    np.testing.assert_array_equal(crop.mask(IDS[0]), cohort.mask(IDS[0])[40:70, 30:70])


@pytest.mark.parametrize("stored", [(71, 113), (120, 200), (240, 411), (121, 199)])
def test_boxes_of_resized_masks_are_those_of_the_masks(tcia, stored):
    rng = np.random.default_rng(1)
    file = roi_file(tcia, "mask")
    pixels = fixtures.mask(stored, (stored[0] // 4, 9, stored[0] // 4 + 20, 9 + int(rng.integers(25, 40))))
    replace_pixels(file, pixels)
    cohort = load_cohort("cbis_mass", tcia, pixels="full")
    mask = cohort.mask(IDS[0])
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
        ("crop", 0, fixtures.mask(*fixtures.ROWS[0][6:]), "2 files could be the mask"),
        ("mask", 2, np.zeros((190, 130), np.uint8), "without a white pixel"),
    ],
)
def test_series_without_one_sound_mask_are_refused(tcia, role, number, pixels, message):
    replace_pixels(roi_file(tcia, role, number), pixels)
    with pytest.raises(DataError, match=rf"\(mask unusable 1\), first '{IDS[number]}' .*{message}"):
        load_cohort("cbis_mass", tcia, pixels="full")


def test_jpeg_masks_are_not_exactly_binary(tmp_path):
    root = write(tmp_path, "kaggle", True)
    cohort = load_cohort("cbis_mass", root, pixels="full")
    pixels = cbis_pixels.read_picture(root / cohort.images["mask_path"][1])
    assert ((pixels > 0.1 * 255) & (pixels < 0.9 * 255)).any()
    np.testing.assert_array_equal(cohort.mask(IDS[1]), fixtures.mask(*fixtures.ROWS[1][6:]) > 0)


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
        replace_pixels(roi_file(tcia, role), pixels)
    images = load_cohort("cbis_mass", tcia, pixels="full").images
    assert tcia / images["mask_path"][0] == roi_file(tcia, "mask")
    assert tcia / images["crop_path"][0] == roi_file(tcia, "crop")


def test_a_mammogram_series_with_two_files(tcia):
    images = load_cohort("cbis_mass", tcia, pixels="full").images
    folder = (tcia / images["mammogram_path"][0]).parent
    fixtures.write_dicom(folder / "1-2.dcm", fixtures.crop((0, 0, 30, 30)))
    assert load_cohort("cbis_mass", tcia, pixels="full").images["path"][0] == images["path"][0]
    replace_pixels(folder / "1-2.dcm", fixtures.mammogram((120, 200), 9))
    with pytest.raises(DataError, match=r"mammogram unusable 1.*1-1\.dcm and 1-2\.dcm .* could both be the mammogram"):
        load_cohort("cbis_mass", tcia, pixels="full")


def test_several_abnormalities_on_one_mammogram(tcia):
    cohort = load_cohort("cbis_mass", tcia, pixels="full")
    first, second = IDS[2], IDS[3]
    assert cohort.image_path(first) == cohort.image_path(second)
    assert not (cohort.mask(first) & cohort.mask(second)).any()
    assert cohort.funnel.set_index("step").loc["on a mammogram with several abnormalities", "rows"] == 2
    assert cohort.mask(first, "mass").sum() == cohort.mask(first).sum()
    with pytest.raises(DataError, match="no region labelled 'calcification'"):
        cohort.mask(first, "calcification")
    with pytest.raises(DataError, match="has no image 'mass_P_9'"):
        cohort.mask("mass_P_9")


def test_sixteen_bits_and_photometric_interpretation(tcia):
    images = load_cohort("cbis_mass", tcia, pixels="full").images
    file = tcia / images["path"][0]
    dataset = pydicom.dcmread(file)
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(file)
    pixels = cbis_pixels.read_picture(file)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, 65535 - fixtures.mammogram((120, 200), 0))


# Missing and damaged files


def test_missing_series_are_counted_in_one_sentence(tcia):
    shutil.rmtree(roi_folder(tcia, 1))
    shutil.rmtree(roi_folder(tcia, 4))
    shutil.rmtree(tcia / "CBIS-DDSM" / fixtures.case_names(fixtures.ROWS[0], "mass")[0])
    with pytest.raises(
        FileNotFoundError,
        match=r"CBIS-DDSM mass: 3 of 5 rows lack a usable picture \(mammogram missing 1, mask missing 2\), first "
        r"'mass_P_00001_LEFT_CC_1' \(mammogram: no file of its series\); get the files from .*or take these rows out",
    ):
        load_cohort("cbis_mass", tcia, pixels="full")
    assert load_cohort("cbis_mass", tcia).images["image_id"].tolist() == IDS


@pytest.mark.parametrize(
    ("role", "length"), [("mammogram", -10), ("mammogram", 1000), ("mask", 100), ("mask", -10), ("crop", -10)]
)
def test_a_truncated_dicom(tcia, role, length):
    file = tcia / "CBIS-DDSM" / fixtures.series_folders(fixtures.ROWS[0], "mass", "new")[0] / "1-1.dcm"
    file = file if role == "mammogram" else roi_file(tcia, role)
    file.write_bytes(file.read_bytes()[:length])
    pixels, other = ("crop", "full") if role == "crop" else ("full", "crop")
    with pytest.raises(DataError, match=rf"1 of 5 rows .*\({role} unusable 1\).*{file.name}.*fetch"):
        load_cohort("cbis_mass", tcia, pixels=pixels)
    if role != "mask":  # the pictures that the other choice needs are whole
        assert len(load_cohort("cbis_mass", tcia, pixels=other).images) == 5


def test_a_damaged_jpeg_mask(tmp_path):
    root = write(tmp_path, "kaggle", True)
    file = root / load_cohort("cbis_mass", root, pixels="full").images["mask_path"][0]
    for content in (file.read_bytes()[:-400], b"<html>"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"mask unusable 1.*cannot be read as an image"):
            load_cohort("cbis_mass", root, pixels="full")


# What is remembered


def test_the_second_load_reads_no_file(tcia, monkeypatch):
    first = load_cohort("cbis_mass", tcia, pixels="full")

    def refuse(path):
        raise AssertionError(path)

    monkeypatch.setattr(cbis_pixels, "image_size", refuse)
    monkeypatch.setattr(cbis_pixels, "read_picture", refuse)
    again = load_cohort("cbis_mass", tcia, pixels="full")
    pd.testing.assert_frame_equal(first.images, again.images)
    pd.testing.assert_frame_equal(first.boxes, again.boxes)
    assert first.data_hash() == again.data_hash()


def test_the_cache_follows_the_files_and_survives_damage(tcia):
    file = roi_file(tcia, "mask")
    replace_pixels(file, fixtures.mask((120, 200), (5, 6, 25, 36)))
    assert load_cohort("cbis_mass", tcia, pixels="full").boxes.loc[0, ["x0", "y0"]].tolist() == [5, 6]
    (tcia / cbis_pixels.CACHE).write_bytes(b"not parquet")
    cohort = load_cohort("cbis_mass", tcia, pixels="full")
    assert cohort.boxes.loc[0, ["x0", "y0"]].tolist() == [5, 6]
    # A file that was damaged and mended without a change of length or time.
    stat, whole = file.stat(), file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="cut short"):
        load_cohort("cbis_mass", tcia, pixels="full")
    file.write_bytes(whole)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    pd.testing.assert_frame_equal(load_cohort("cbis_mass", tcia, pixels="full").boxes, cohort.boxes)


def test_the_cache_of_a_folder_nothing_can_be_written_to(tcia, tmp_path_factory, monkeypatch):
    data = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("PKD_DATA", str(data))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    load_cohort("cbis_mass", tcia, pixels="full")
    assert not (tcia / cbis_pixels.CACHE).exists()
    assert len(list((data / "cache").glob("cbis-*.parquet"))) == 1


def test_one_cache_serves_both_types(tmp_path):
    root = fixtures.write_tcia(tmp_path, kinds=("mass", "calc"))
    for name in ("cbis_mass", "cbis_calc"):
        load_cohort(name, root, pixels="full")
    assert len(pd.read_parquet(root / cbis_pixels.CACHE)) == 2 * (4 + 10)


def test_selection_keeps_masks_and_the_data_hash_follows_them(tcia):
    cohort = load_cohort("cbis_mass", tcia, pixels="full")
    part = cohort.select([IDS[3]])
    assert part.mask(IDS[3]).sum() == (fixtures.mask(*fixtures.ROWS[3][6:]) > 0).sum()
    assert len(part.boxes) == 1
    before = cohort.data_hash()
    file = tcia / cohort.images["mask_path"][0]
    file.write_bytes(file.read_bytes() + b"\0\0")
    assert len({before, cohort.data_hash(), load_cohort("cbis_mass", tcia).data_hash()}) == 3


# Splits and options


def test_validate_is_carved_from_training_patients(tmp_path):
    fixtures.write_tables(tmp_path)
    for kind in ("mass", "calc"):  # 60 patients with two views each
        file = tmp_path / f"{kind}_case_description_train_set.csv"
        one = pd.read_csv(file, dtype=str).head(2)
        found = {f"P_{100 + i:05d}": cases.PATHOLOGY[i % 3] for i in range(60)}
        parts = [one.assign(patient_id=patient, pathology=name) for patient, name in found.items()]
        pd.concat(parts).to_csv(file, index=False)
    plain = load_cohort("cbis_mass", tmp_path).images
    assert set(plain["split"]) == {"train", "test"}
    cohort = load_cohort("cbis_mass", tmp_path, validate_share=0.2)
    images = cohort.images
    assert images.groupby("patient_id")["split"].nunique().max() == 1
    assert (images["split"] == "test").equals(plain["split"] == "test")
    validate = images[images["split"] == "validate"]
    assert validate["patient_id"].nunique() == 12
    assert validate.drop_duplicates("patient_id")["pathology"].value_counts().tolist() == [4, 4, 4]  # as in all
    step = cohort.funnel.set_index("step").loc["of the train table, now validate"]
    assert (step["rows"], step["patients"]) == (24, 12)
    pd.testing.assert_frame_equal(images, load_cohort("cbis_mass", tmp_path, validate_share=0.2).images)
    fixtures.write_tables(tmp_path)
    with pytest.raises(DataError, match=r"2 training patients cannot give a validate split of 0.01"):
        load_cohort("cbis_mass", tmp_path, validate_share=0.01)


def test_patients_shared_between_tables_are_counted(tmp_path):
    root = fixtures.write_tcia(tmp_path)
    edit_csv(root / "calc_case_description_test_set.csv", lambda t: t.assign(patient_id="P_00001"))
    shared = cases.shared_patients(root)
    assert shared.loc["mass train", "calc test"] == 1 and shared.loc["mass train", "mass test"] == 0
    notes = load_cohort("cbis_mass", root, pixels="full").funnel.set_index("step")["note"]
    assert notes["train table"] == "1 patients are also in the calc test table"
    for file in root.glob("calc*"):
        file.unlink()
    assert load_cohort("cbis_mass", root).funnel.set_index("step")["note"]["train table"] == ""


def test_files_that_are_no_pictures_are_passed_over(tcia):
    folder = roi_folder(tcia)
    (folder / "LICENSE").write_text("CC BY 3.0")
    Image.new("L", (9, 9)).save(folder / ".thumbnail.jpg")
    files, _ = find_files(tcia, load_cohort("cbis_mass", tcia).images)
    assert [len(names) for names in files["roi_files"]] == [2] * 5
