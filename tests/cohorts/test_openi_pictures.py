"""Open-i's pictures beside their reports: both published layouts, and every way in which the join can go wrong."""

import shutil

import pandas as pd
import pytest

from pkd_utils.cohorts import load_cohort, openi
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures
from tests.cohorts.fixtures import cell, steps, without

PROJECTIONS, REPORTS = "indiana_projections.csv", "indiana_reports.csv"
IDS = [f"CXR{number}_{film}" for number, films in fixtures.OPENI_FILMS.items() for film in films]
FRONTAL = [IDS[0], IDS[2], IDS[3]]


@pytest.fixture
def kaggle(tmp_path):
    return fixtures.write_openi_with_pictures(tmp_path)


def load(root, **options):
    return load_cohort("openi", root, images_root=root, **options)


def refused(root, message, error=DataError):
    fixtures.refused("openi", root, message, error, images_root=root)


def edit(root, change, file=PROJECTIONS):
    fixtures.edit_csv(root / file, change)


@pytest.mark.parametrize("layout", ["kaggle", "kaggle-small", "open-i"])
def test_the_layouts_give_the_same_pictures(tmp_path, layout):
    root = fixtures.write_openi_with_pictures(tmp_path, layout)
    cohort = load(root, views="all")
    assert cohort.images["image_id"].tolist() == IDS  # as the reports list them, by number
    assert cohort.images["study_id"].tolist() == cohort.images["patient_id"].tolist()
    assert cohort.images["study_id"].tolist() == ["CXR1", "CXR1", "CXR2", "CXR10", "CXR10"]
    assert cohort.images["Opacity"].tolist() == cohort.images["Cardiomegaly"].tolist() == [0, 0, 1, 0, 0]
    assert cohort.images["n_images"].tolist() == [2, 2, 1, 2, 2]
    assert [cohort.image_size(image) for image in IDS] == [(41, 32), (41, 33), (42, 32), (50, 32), (50, 33)]
    assert cohort.privileged.index.tolist() == ["CXR1", "CXR2", "CXR10"]
    assert cohort.images["duplicates"].isna().all() and cohort.images["split"].isna().all()
    assert steps(cohort).loc["reports in the archive", ["rows", "paper"]].tolist() == [4, 3955]
    assert steps(cohort).loc["pictures", ["rows", "patients", "paper"]].tolist() == [5, 3, 7470]
    if layout == "open-i":
        assert cohort.images["view"].isna().all()
        return
    assert cohort.images["view"].tolist() == ["frontal", "lateral", "frontal", "frontal", "lateral"]
    assert load(root).images["image_id"].tolist() == FRONTAL
    assert root / PROJECTIONS in cohort.tables


def test_reports_alone_are_read_as_before_and_nothing_of_open_i_may_be_shown(kaggle):
    cohort = load_cohort("openi", kaggle)
    assert cohort.images["image_id"].tolist() == ["CXR1", "CXR2", "CXR3", "CXR10"]
    assert not cohort.has_images and "duplicates" not in cohort.images
    assert cohort.images[["path", "split", "view"]].isna().all(axis=None)
    for info in (cohort.info, load(kaggle).info):
        assert not info.shareable_images and not info.shareable_text


def test_reports_and_pictures_in_two_folders(kaggle, tmp_path_factory):
    other = tmp_path_factory.mktemp("reports")
    (kaggle / "NLMCXR_reports.tgz").rename(other / "NLMCXR_reports.tgz")
    cohort = load_cohort("openi", other, images_root=kaggle)
    assert cohort.image_path(FRONTAL[0]).is_file() and cohort.root == kaggle


def test_open_is_own_pictures_take_their_views_from_the_kaggle_table(tmp_path):
    root = fixtures.write_openi_with_pictures(tmp_path, "open-i")
    refused(root, r"indiana_projections\.csv is missing.*or pass views='all'", FileNotFoundError)
    kaggle = fixtures.write_openi_with_pictures(tmp_path / "kaggle")
    shutil.copy(kaggle / PROJECTIONS, root)
    edit(root, lambda table: table[table["uid"] != "2"])
    cohort = load(root)
    assert cohort.images["image_id"].tolist() == [FRONTAL[0], FRONTAL[2]]
    assert steps(cohort).loc["pictures", "note"] == "0 repeated rows; 1 files without a row are left out"


def test_absent_pictures(kaggle):
    frontal = kaggle / "images/images_normalized/2_IM-0652-1001.dcm.png"
    (frontal.parent / "1_IM-0001-4001.dcm.png").unlink()  # a lateral that nobody asked for
    assert len(load(kaggle).images) == 3
    frontal.unlink()
    refused(kaggle, r"^1 of 3 files that .* the first is 2_IM-0652-1001\.dcm", FileNotFoundError)
    shutil.rmtree(kaggle / "images")
    refused(kaggle, r"holds no pictures such as .*get them from http", FileNotFoundError)


def test_pictures_without_a_report_and_unlisted_ones_are_counted(kaggle):
    films = {1: ["1_IM-0001-3001"], 2: ["IM-9999-1001"]}  # study 10 has no report, study 2 lists another picture
    members = {f"ecgen-radiology/{n}.xml": fixtures.openi_report(n, "a", "b", ["normal"], films[n]) for n in films}
    fixtures.write_openi(kaggle, members)
    (kaggle / REPORTS).unlink()
    cohort = load(kaggle)
    assert cohort.images["image_id"].tolist() == FRONTAL[:1]
    assert steps(cohort).loc["with a report that lists it", "note"] == "1 without a report, 1 not listed by theirs"
    fixtures.write_openi(kaggle, {"ecgen-radiology/7.xml": fixtures.openi_report(7, "a", "b", ["normal"])})
    refused(kaggle, r"^No report of .* lists a picture of .* \(3 without a report")


def copy_picture(root, source, target, flip=False):
    folder = root / "images/images_normalized"
    content = bytearray((folder / f"{source}.dcm.png").read_bytes())
    content[-1] ^= flip
    (folder / f"{target}.dcm.png").write_bytes(content)


def test_equal_files_of_one_study_are_kept_once_and_named(kaggle):
    copy_picture(kaggle, "10_IM-0002-1001", "10_IM-0002-2001-0001")
    cohort = load(kaggle, views="all")
    assert cohort.images["image_id"].tolist() == IDS[:4]
    named = "images/images_normalized/10_IM-0002-2001-0001.dcm.png"
    assert cohort.images["duplicates"].dropna().tolist() == [named]
    assert steps(cohort).loc["each file once", "note"] == "1 the same as another of their study, 0 under two studies"


@pytest.mark.parametrize(("flip", "left"), [(False, FRONTAL[:1]), (True, FRONTAL)], ids=["equal", "of equal size"])
def test_a_file_under_two_studies_is_left_out(kaggle, flip, left):
    copy_picture(kaggle, "10_IM-0002-1001", "2_IM-0652-1001", flip)
    cohort = load(kaggle)
    assert cohort.images["image_id"].tolist() == left
    two = 0 if flip else 2
    assert (
        steps(cohort).loc["each file once", "note"] == f"0 the same as another of their study, {two} under two studies"
    )


def test_repeated_rows_are_dropped_and_counted(kaggle):
    edit(kaggle, lambda table: pd.concat([table, table.head(2)]))
    cohort = load(kaggle)
    assert cohort.images["image_id"].tolist() == FRONTAL
    assert steps(cohort).loc["pictures", "note"] == "2 repeated rows; 0 files without a row are left out"


def with_another_view(table):
    return pd.concat([table, table.head(1).assign(projection="Lateral")])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (PROJECTIONS, without("uid"), "indiana_projections.csv has no column 'uid'"),
        (PROJECTIONS, cell("uid", "7", 2), "data row 3 has uid '7', which is not the study that its filename names"),
        (PROJECTIONS, cell("uid", "1.0"), "data row 1 has uid '1.0', which is not the study"),
        (PROJECTIONS, cell("uid", ""), "data row 1 has no uid"),
        (PROJECTIONS, cell("filename", ""), "data row 1 has no filename"),
        (PROJECTIONS, cell("filename", "../1_IM-0001-3001.dcm.png"), "which names no picture such as"),
        (PROJECTIONS, cell("projection", "Oblique"), "'Oblique', which is not one of Frontal, Lateral"),
        (PROJECTIONS, with_another_view, "data row 6 has filename '1_IM-.*', which stands in an earlier row"),
        (REPORTS, lambda t: t.assign(uid=["2", "3", "10", "1"]), "MeSH headings of 3 of 4 studies"),
        (REPORTS, lambda t: t.assign(uid=["101", "102", "103", "110"]), "MeSH headings of 4 of 4 studies"),
        (REPORTS, without("MeSH"), "indiana_reports.csv has no column 'MeSH'"),
    ],
)
def test_tables_that_would_join_wrongly(kaggle, file, change, message):
    edit(kaggle, change, file)
    refused(kaggle, message)


def test_one_picture_under_two_names(kaggle):
    folder = kaggle / "images/images_normalized"
    shutil.copy(folder / "2_IM-0652-1001.dcm.png", folder / "2_IM-0652-1001.dcm.jpg")
    refused(kaggle, r"holds the picture 2_IM-0652-1001.dcm.png under two names; keep one")


def test_a_table_in_one_kind_of_name_finds_pictures_in_the_other(tmp_path):
    root = fixtures.write_openi_with_pictures(tmp_path, "kaggle-small")
    edit(root, lambda table: table.assign(filename=table["filename"].str.replace(".jpg", ".png")))
    assert load(root).images["image_id"].tolist() == FRONTAL


@pytest.mark.parametrize(
    ("headings", "sides", "side"),
    [
        (["opacity/lung/base/left", "opacity/lung/hilum"], {"opacity": "left"}, "left"),
        (["infiltrate/right", "pneumonia/upper lobe/right"], {"opacity": "right", "pneumonia": "right"}, "right"),
        (["opacity/lung/base/left", "airspace disease/right"], {}, None),
        (["opacity/lung/base/left", "consolidation/lung/bilateral"], {}, None),
        (["pulmonary atelectasis/left", "nodule/right"], {"atelectasis": "left", "nodule": "right"}, None),
        (["pleural effusion/left", "nodule/bilateral"], {"pleural_effusion": "left"}, "left"),
        (["fractures, bone/ribs/left", "calcinosis/lung/left", "normal"], {}, None),
    ],
)
def test_the_side_of_a_finding(headings, sides, side):
    expected = {f"side_{finding}": where for finding, where in sides.items()} | ({"side": side} if side else {})
    assert openi.side_table(pd.Series([headings])).iloc[0].dropna().to_dict() == expected


def test_sides_are_columns_of_the_images(kaggle):
    images = load(kaggle, views="all").images.set_index("study_id")
    assert images.loc["CXR2", ["side_opacity", "side"]].tolist() == ["left", "left"]
    assert images.loc[["CXR1", "CXR10"], "side"].isna().all()
