"""Loading MIMIC-CXR at its published size: what is touched and computed must not grow per image (no clocks here)."""

import builtins
import os
import shutil
import sys
import threading
from collections import Counter

import pandas as pd
import pytest

from benchmarks import mimic_size
from pkd_utils.cohorts import load_cohort, report_sections
from pkd_utils.runs.errors import DataError
from tests.cohorts.fixtures import edit_csv, mimic_report

SMALL, LARGE = 400, 1600
BOXES = "ms-cxr/MS_CXR_Local_Alignment_v1.1.0.csv"


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Two simulated trees, each with a single box."""
    found = {}
    for images in (SMALL, LARGE):
        found[images] = mimic_size.write_tree(tmp_path_factory.mktemp("mimic") / "simulated-tree", images)
        edit_csv(found[images] / BOXES, lambda table: table.head(1))
    return found


@pytest.fixture
def touched(monkeypatch):
    """Counts of `open` and of `os.stat` on files below a folder named simulated-tree."""
    count, real_open, real_stat = Counter(), builtins.open, os.stat

    def counted(kind, real):
        def call(path, *args, **kwargs):
            count[kind] += "simulated-tree" + os.sep in str(path)
            return real(path, *args, **kwargs)

        return call

    monkeypatch.setattr(builtins, "open", counted("open", real_open))
    monkeypatch.setattr(os, "stat", counted("stat", real_stat))
    return count


def calls_of(work) -> int:
    """Python functions called, generators resumed and C functions called, in this thread."""
    count = 0

    def profile(frame, event, arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_tree_has_the_published_proportions_and_an_index_of_few_bytes(trees):
    cohort = load_cohort("mimic_cxr", trees[LARGE], views=None)
    images = cohort.images
    assert len(images) == LARGE and cohort.info.simulated
    assert images["study_id"].nunique() == round(227_835 * LARGE / 377_110)
    assert images["patient_id"].nunique() == round(65_379 * LARGE / 377_110)
    assert set(images["split"]) == {"train", "validate", "test"} and images["age"].notna().any()
    assert set(cohort.privileged["sections"]) == {"findings+impression", "last_paragraph"}
    assert len(cohort.boxes) == 1 and len(cohort.data_hash()) == 64  # every image is there
    assert all(images[name].dtype.storage == "pyarrow" for name in ("image_id", "patient_id", "study_id", "path"))
    assert images.memory_usage(deep=True).sum() < 500 * LARGE


def test_loading_touches_no_file_per_image(trees, touched):
    seen = {}
    for images, root in trees.items():
        touched.clear()
        load_cohort("mimic_cxr", root, views=None)
        seen[images] = dict(touched)
    assert seen[SMALL] == seen[LARGE] and seen[LARGE]["stat"] < 40


def test_loading_does_no_work_per_image_in_python(trees):
    load_cohort("mimic_cxr", trees[SMALL], views=None)  # what is imported or cached at first use
    calls = {n: calls_of(lambda root=root: load_cohort("mimic_cxr", root, views=None)) for n, root in trees.items()}
    # Decompressing takes a call for every 8 KiB, about 0.3 an image; a loop over images would be a call or more.
    assert calls[LARGE] - calls[SMALL] < 0.7 * (LARGE - SMALL), calls


def test_each_selected_report_is_opened_once(trees, touched):
    cohort = load_cohort("mimic_cxr", trees[LARGE])
    cohort = cohort.select(cohort.images["image_id"].iloc[::3])
    touched.clear()
    assert len(cohort.privileged) == cohort.images["study_id"].nunique()
    assert touched["open"] == len(cohort.privileged) and touched["stat"] < 5


def test_waiting_for_one_report_does_not_keep_the_others(trees, monkeypatch):
    """Slow storage: the first report comes only when one of a later batch was asked for."""
    cohort = load_cohort("mimic_cxr", trees[LARGE])
    expected = cohort.privileged
    later, real = threading.Event(), report_sections.ReportFolder.read
    names = [f"s{study}.txt" for study in cohort.images["study_id"].unique()]
    rank = {name: i for i, name in enumerate(names)}
    assert len(names) > 2 * report_sections.BATCH

    def read(self, name):
        position = rank[name.rsplit("/", 1)[1]]
        if position >= report_sections.BATCH:
            later.set()
        if position == 0:
            assert later.wait(20), "no other report was read meanwhile"
        return real(self, name)

    monkeypatch.setattr(report_sections.ReportFolder, "read", read)
    found = load_cohort("mimic_cxr", trees[LARGE]).privileged
    pd.testing.assert_frame_equal(found, expected)  # in order, whichever came first


@pytest.mark.parametrize("archived", [False, True])
def test_the_first_bad_report_is_named_and_reading_stops(tmp_path, archived, monkeypatch):
    studies = pd.DataFrame({"study_id": [f"{50_000_000 + i}" for i in range(400)]}).assign(patient_id="10000032")
    folder = tmp_path / "files" / "p10" / "p10000032"
    folder.mkdir(parents=True)
    for i, study in enumerate(studies["study_id"]):
        if i not in (150, 300):
            (folder / f"s{study}.txt").write_text(mimic_report(i))
    (folder / "s50000200.txt").write_bytes(b"\xff\xfe")
    if archived:
        shutil.make_archive(str(tmp_path / "mimic-cxr-reports"), "zip", tmp_path, "files")
        shutil.rmtree(tmp_path / "files")
    with pytest.raises(FileNotFoundError, match=r"s50000150\.txt is missing from .*get it from https"):
        report_sections.read_reports(tmp_path, studies, ("findings",))
    with pytest.raises(DataError, match=r"s50000200\.txt in .* cannot be read"):
        report_sections.read_reports(tmp_path, studies.iloc[160:250], ("findings",))
    table = report_sections.read_reports(tmp_path, studies.iloc[:150], ("findings",))
    assert table.index.tolist() == studies["study_id"].iloc[:150].tolist()
    assert table["text"].iloc[149] == "Made-up finding number 149. Lungs are clear."
