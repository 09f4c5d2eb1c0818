"""Wrong data, planted in small trees of the published layouts: refused in one sentence, or read right."""

import gzip
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.checks import read_csv
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures

METADATA, CHEXPERT = "mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-chexpert.csv.gz"
MS_CXR = "ms-cxr/MS_CXR_Local_Alignment_v1.1.0.csv"
COCO = "annotations/annotations.json"
TREES = {"mimic": "mimic_cxr", "covid": "covid_chestxray"}


def edited(file, column, value, row=0):
    """A change that sets one cell."""
    return lambda root: fixtures.edit_csv(root / file, fixtures.cell(column, value, row))


def twice(file, column):
    return lambda root: fixtures.edit_csv(root / file, lambda table: pd.concat([table, table[[column]]], axis=1))


def rewritten(pattern, change):
    """A change of one file's bytes, within its compression."""

    def write(root):
        path = sorted(root.glob(pattern))[0]
        pack, unpack = (gzip.compress, gzip.decompress) if path.suffix == ".gz" else (bytes, bytes)
        path.write_bytes(pack(change(unpack(path.read_bytes()))))

    return write


def replacing(pattern, old, new):
    """A change of some bytes, where they stand first."""
    return rewritten(pattern, lambda text: text.replace(old, new, 1))


def replaced(pattern, how):
    """A change of one file to what is none: `how` makes it."""

    def change(root):
        path = sorted(root.glob(pattern))[0]
        path.unlink()
        how(path)

    return change


def linked_to_itself(pattern):
    return replaced(pattern, lambda path: path.symlink_to(path.name))


def made_a_folder(pattern):
    return replaced(pattern, Path.mkdir)


def coco(place, key, value):
    """A change of one value of the first image, category or annotation."""

    def change(root):
        content = json.loads((root / COCO).read_text())
        content[place][0][key] = value
        (root / COCO).write_text(json.dumps(content))

    return change


def outside(root):
    """A picture beside the data, which a table reaches by climbing."""
    shutil.copy(root / "images" / "film-1.png", root.parent / "private.png")
    edited("metadata.csv", "filename", "../../private.png")(root)


def one_study_of_two(root):
    """The second film of the first study, frontal too, under another subject."""
    edited(METADATA, "ViewPosition", "PA", 1)(root)
    edited(METADATA, "subject_id", "10000099", 1)(root)


def swapped_size(root):
    names = {"image_width": "image_height", "image_height": "image_width"}
    fixtures.edit_csv(root / MS_CXR, lambda table: table.rename(columns=names))


def two_spaces(root):
    for n in (1, 2):
        edited("metadata.csv", "patientid", f"p{' ' * n}0", n)(root)


def black_mask(root):
    cohort = load_cohort("mimic_cxr", root)
    image = cohort.boxes["image_id"].iloc[0]
    (root / "masks" / image).mkdir(parents=True)
    Image.new("L", cohort.image_size(image)).save(root / "masks" / image / "Edema.png")


def cut_mask(root):
    black_mask(root)
    rewritten("masks/*/*.png", lambda data: data[: len(data) // 2])(root)


def use(name, root):
    """Load a tree and read all that a study reads of it."""
    cohort = load_cohort(name, root)
    cohort.data_hash()
    for image in cohort.boxes["image_id"].unique():
        cohort.mask(image)
    return cohort


REFUSED = {
    # two names of one person, one study of two
    "a space": ("covid", edited("metadata.csv", "patientid", "p0 "), "patient_id 'p0 ' has spaces around it"),
    "case": ("covid", edited("metadata.csv", "patientid", "P0"), "patients 'P0' and 'p0' differ in nothing but case"),
    "two spaces": ("covid", two_spaces, r"patients 'p 0' and 'p  0' differ .* \(2 such names\)"),
    "study of two": ("mimic", one_study_of_two, "study '50414267' is of patients '10000032' and '10000099'"),
    # paths
    "climbing": ("covid", outside, r"path 'images/\.\./\.\./private.png' is not plain"),
    "roundabout": ("covid", edited("metadata.csv", "filename", "./film-1.png"), r"path 'images/\./film-1.png' is not"),
    "absolute": ("covid", edited("metadata.csv", "filename", "/etc/x.png"), "path 'images//etc/x.png' is not plain"),
    # content
    "NUL report": ("mimic", rewritten("files/*/*/*.txt", lambda t: t[:200] + bytes(300)), "holds NUL characters"),
    "NUL note": (
        "covid",
        edited("metadata.csv", "clinical_notes", "\0" * 9),
        "text of image_id 'film-0.png' holds NUL",
    ),
    "black mask": ("mimic", black_mask, r"Mask .*Edema.png marks no pixel of its image"),
    "cut mask": ("mimic", cut_mask, r"Edema.png cannot be read as an image"),
    "swapped size": ("mimic", swapped_size, "were drawn on 64x80 pixels, but .* has 40x32"),
    # tables
    "cut table": ("covid", rewritten("metadata.csv", lambda t: t[:450]), r"row \d+ has \d+ field\(s\), its header 20"),
    "cut in gzip": ("mimic", rewritten(METADATA, lambda t: t[:-30]), r"data row 12 has 4 field\(s\), its header 8"),
    "a comma more": ("mimic", replacing(METADATA, b",PA,", b",PA,PA,"), r"data row 3 has 9 field\(s\), its header 8"),
    "column twice": ("mimic", twice(CHEXPERT, "Edema"), "chexpert.csv.gz has two columns 'Edema'"),
    "column with a space": ("covid", replacing("metadata.csv", b"location", b"view "), "has two columns 'view'"),
    "a time": ("mimic", edited(METADATA, "StudyTime", "9:30"), "data row 1 has StudyTime '9:30', which is not"),
    "infinite time": ("mimic", edited(METADATA, "StudyTime", "inf"), "StudyTime 'inf', which is not a date or time"),
    "year 9999": ("mimic", edited(METADATA, "StudyDate", "99991231"), "StudyDate '99991231', which is not a date"),
    # boxes
    "text": ("covid", coco("annotations", "bbox", ["a", 1, 2, 3]), "annotation 1 has bbox and size 'a', 1, .* not six"),
    "a list": ("covid", coco("annotations", "bbox", [[1], 1, 2, 3]), r"annotation 1 has bbox and size \[1\], 1"),
    "true": ("covid", coco("annotations", "bbox", [True, 1, 2, 3]), "annotation 1 has bbox and size True"),
    "width": ("covid", coco("images", "width", "wide"), "'wide', 64, not six numbers"),
    "file": ("covid", coco("images", "file_name", 3), "annotation 1 has file and category .3, 'Right Lung'., not two"),
    "nested": ("covid", rewritten(COCO, lambda text: b"[" * 100_000), "is not a COCO annotation file"),
    # files that are none
    "circle table": ("mimic", linked_to_itself(CHEXPERT), "chexpert.csv.gz is missing"),
    "circle image": ("mimic", linked_to_itself("files/*/*/*/*.jpg"), r"Image .* is missing"),
    "circle report": ("mimic", linked_to_itself("files/*/*/*.txt"), "Report files/.* cannot be read .*symbolic links"),
    "folder report": ("mimic", made_a_folder("files/*/*/*.txt"), r"Report files/.* cannot be read .*Is a directory"),
    "folder image": ("mimic", made_a_folder("files/*/*/*/*.jpg"), r"Image .* is missing"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_data_are_refused_in_one_sentence(fault, tmp_path):
    name, plant, message = REFUSED[fault]
    root = tmp_path / "tree"
    root.mkdir()
    getattr(fixtures, f"write_{TREES[name]}")(root)
    plant(root)
    with pytest.raises((DataError, FileNotFoundError), match=message) as error:
        use(TREES[name], root)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize("file", [METADATA, CHEXPERT, MS_CXR])
def test_a_comma_at_the_end_of_each_row_shifts_no_column(tmp_path, file):
    fixtures.write_mimic_cxr(tmp_path)
    before = use("mimic_cxr", tmp_path)
    rewritten(file, lambda text: text.replace(b"\n", b",\n").replace(b",\n", b"\n", 1))(tmp_path)
    after = use("mimic_cxr", tmp_path)
    pd.testing.assert_frame_equal(before.images, after.images)
    pd.testing.assert_frame_equal(before.boxes, after.boxes)


def test_rows_of_a_split_table_without_images_are_counted(tmp_path):
    fixtures.write_mimic_cxr(tmp_path)
    rewritten("*split*", lambda text: text + b"0-0-0-0-0,1,2,train\n")(tmp_path)
    assert "1 rows of mimic-cxr-2.0.0-split.csv.gz have none" in load_cohort("mimic_cxr", tmp_path).funnel["note"][0]


ENCODINGS = ["ebcdic-nope", "utf-16", "utf-7", "hex", "shift_jis"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_xml_of_another_encoding(tmp_path, encoding):
    report = fixtures.openi_report(1, "a", "b", ["normal"]).replace("utf-8", encoding)
    with pytest.raises(DataError, match=r"ecgen-radiology/1.xml is not valid XML \(.*\); fetch the archive again\.$"):
        load_cohort("openi", fixtures.write_openi(tmp_path, {"ecgen-radiology/1.xml": report}))


def test_views_that_no_picture_has(tmp_path):
    with pytest.raises(DataError, match=r"metadata\.csv has no X-ray of view pa; its views are AP Supine, L, PA\."):
        load_cohort("covid_chestxray", fixtures.write_covid_chestxray(tmp_path), views=["pa"])


def test_a_quoted_comma_is_no_field(tmp_path: Path):
    (tmp_path / "a.csv").write_text('a,b\n"1,2",3\n\n"x\ny",\n')
    assert read_csv(tmp_path / "a.csv", ["a", "b"], "nowhere")["a"].tolist() == ["1,2", "x\ny"]
