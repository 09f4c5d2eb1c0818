"""INSPECT's loader on tiny made-up trees in both published layouts: what it reads, counts, and refuses."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.inspect import studies
from pkd_utils.cohorts.inspect.tables import read_table
from pkd_utils.cohorts.tasks import build
from pkd_utils.cohorts.tasks.base import PAPER_COUNTS
from pkd_utils.cohorts.tasks.outcomes import INSPECT
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures
from tests.cohorts.fixtures import INSPECT_STUDIES as STUDIES
from tests.cohorts.fixtures import edit_csv as edit
from tests.cohorts.fixtures import inspect_tables as content
from tests.cohorts.fixtures import steps, without
from tests.cohorts.fixtures import write_inspect as write

MAPPING, LABELS, SPLITS = "study_mapping_20250611.tsv", "labels_20250611.tsv", "splits_20250611.tsv"
IMPRESSIONS = "impressions_20250611.tsv"
load, refused = partial(load_cohort, "inspect"), partial(fixtures.refused, "inspect")


def repeat(row, **changes):
    """A change that lists a row once more, with other values in some columns."""
    return lambda table: pd.concat([table, table.iloc[[row]].assign(**changes)], ignore_index=True)


@pytest.fixture
def root(tmp_path):
    return write(tmp_path / "inspect")


# --- what is read


@pytest.mark.parametrize("release", ["2025", "2023"])
def test_both_releases_give_the_same_tables(tmp_path, release):
    cohort = load(write(tmp_path, release))
    images = cohort.images
    assert images["image_id"].iloc[0] == "PE452890e" and images["path"].iloc[0] == "radiographs/PE452890e.jpg"
    assert images["ct_path"].iloc[0] == "CTPA/PE452890e.nii.gz" and images["patient_id"].nunique() == 7
    assert images["split"].value_counts().to_dict() == {"train": 4, "validate": 2, "test": 4}
    assert set(images["view"]) == {"AP"} and cohort.has_images and cohort.image_size("PE452890e") == (6, 8)
    np.testing.assert_array_equal(images["12_month_PH"], [1, 0, np.nan, 0, 1, 0, 0, np.nan, 0, 1])
    assert images["study_datetime"].iloc[0] == pd.Timestamp("2015-03-01 10:30")
    assert images["study_datetime"].isna().sum() == (1 if release == "2025" else 2)  # the note's time stands in
    assert cohort.privileged.loc["2000100", "text"] == '1. Made up "2000100",\nno. 2'
    assert release in cohort.info.title and not cohort.info.shareable_text and not cohort.info.shareable_images


def test_labels_are_chosen_and_censored_ones_counted(root):
    cohort = load(root, labels=("12_month_readmission", "pe_acute"))
    assert cohort.labels == ["12_month_readmission", "pe_acute"] and "12_month_PH" not in cohort.images
    table = steps(cohort)
    assert table.loc["label known: 12_month_readmission", ["rows", "note"]].tolist() == [8, "2 censored"]
    counted = table["rows"][[f"{what}: 12_month_readmission" for what in ("positive", "balanced")]]
    assert counted.tolist() == [3, 6] and "balanced: pe_acute" not in table.index  # the paper has no such task


@pytest.mark.parametrize(("offset", "hours"), [("Z", 0), ("+00:00", 0), ("-08:00", 8), ("+0530", -5.5), ("-08", 8)])
def test_times_with_an_offset_are_those_of_utc(root, offset, hours):
    # Winter and summer have offsets of their own.
    change = {"procedure_DATETIME": lambda t: ["2015-07-01T10:00:00.5-07:00", *(t["procedure_DATETIME"][1:] + offset)]}
    edit(root / MAPPING, lambda t: t.assign(**change)[:8])
    found = load(root).rows["study_datetime"]
    assert found.iloc[0] == pd.Timestamp("2015-07-01 17:00:00.5")
    expected = pd.Series(pd.date_range("2015-03-02 10:30", periods=7)) + pd.Timedelta(hours=hours)
    assert found.tolist()[1:8] == expected.tolist()


TEXTS = [
    '"Stable chest. No clot.',
    'No clot".',
    '"Stable" chest, "no" clot',
    '"',
    '"Quoted by ""the writer"" whole"',
    'Says "no clot"',
    '""Twice',
    "NA",
    'Ends with "',
    '"Once more',
]


@pytest.mark.parametrize("ragged", [False, True])
def test_an_unquoted_text_may_begin_with_a_quotation_mark(root, ragged):
    file = root / IMPRESSIONS
    ids = content()["impressions"]["impression_id"]
    lines = ["impression_id\timpressions", *(f"{i}\t{text}" for i, text in zip(ids, TEXTS, strict=True))]
    if ragged:  # an editor took the last field's tab away
        lines.append("2000999")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = load(root).privileged["text"]
    assert texts.tolist() == ['Quoted by "the writer" whole' if "whole" in text else text for text in TEXTS]


def test_spellings_of_an_outcome(root):
    written = ["true", "TRUE", "1", "0", "False", "Censor", " censored ", "FALSE", "1.0", "0.0"]
    edit(root / LABELS, lambda t: t.assign(pe_positive_nlp=written))
    found = load(root).images["pe_positive_nlp"]
    np.testing.assert_array_equal(found, [1, 1, 1, 0, 0, np.nan, np.nan, 0, 1, 0])


@pytest.mark.parametrize("written", ["", "maybe", "-1"])
def test_an_outcome_nobody_recorded_is_not_censored(root, written):
    edit(root / LABELS, lambda t: t.assign(**{"12_month_PH": [written, *t["12_month_PH"][1:]]}))
    refused(root, r"12_month_PH: 1 value.*not True, False or Censored")


def test_numbers_that_became_floats_and_images_with_an_extension_are_the_same_identifiers(root):
    ends = {"impression_id": ".0", "person_id": ".0", "image_id": ".nii.gz"}
    edit(root / MAPPING, lambda t: t.assign(**{column: t[column] + end for column, end in ends.items()}))
    first = load(root).images.iloc[0]
    assert first[["study_id", "patient_id", "image_id"]].tolist() == ["2000100", "700000", "PE452890e"]


def test_persons_come_from_the_crosswalk_where_the_metadata_has_none(tmp_path):
    root = write(tmp_path, "2023")
    crosswalk = root / "image_ehr_crosswalk_20250418.csv"
    edit(root / "Final_metadata.csv", without("person_id"))
    refused(root, rf"has no patients \(person_id or .*{crosswalk.name}")
    known = content()["mapping"][["person_id", "image_id"]]
    known.to_csv(crosswalk, index=False)
    cohort = load(root)
    assert cohort.images["patient_id"].nunique() == 7 and crosswalk in cohort.tables
    known.iloc[1:].to_csv(crosswalk, index=False)
    refused(root, "no patient id")
    pd.concat([known, known.assign(person_id="7")]).to_csv(crosswalk, index=False)
    refused(root, "one image to several persons")


# --- which files


def test_newest_complete_release_is_taken(tmp_path):
    write(tmp_path)
    write(tmp_path, "2023")
    assert "2025" in load(tmp_path).info.title
    (tmp_path / LABELS).unlink()
    assert "2023" in load(tmp_path).info.title


def test_accepted_names(tmp_path):
    root = write(tmp_path / "i")
    (root / LABELS).rename(root / "Labels_20260101.TSV".lower())
    (root / IMPRESSIONS).unlink()
    content()["impressions"].to_csv(root / "Final_impressions.csv", index=False)  # case as third parties write it
    assert len(load(root).privileged) == STUDIES
    (root / "labels_20260202.tsv").write_bytes((root / "labels_20260101.tsv").read_bytes())
    refused(root, "has 2 tables labels_")


def test_tables_may_lie_elsewhere(tmp_path):
    root = write(tmp_path / "pixels")
    (tmp_path / "tables").mkdir()
    for file in root.glob("*.tsv"):
        file.rename(tmp_path / "tables" / file.name)
    assert len(load(root, tables_root=tmp_path / "tables").images) == STUDIES


@pytest.mark.parametrize("release", ["2025", "2023"])
def test_missing_files_are_named_with_what_is_accepted(tmp_path, release):
    root = write(tmp_path, release)
    next(root.glob("*splits*")).unlink()
    message = rf"release {release} \(splits: [^:;]*plits[^:;]* or [^:;]*\); get them from .*stanfordaimi"  # these alone
    refused(root, message, FileNotFoundError)


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_nothing_there(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / folder, r"study_mapping_20250611\.tsv .* get them from", FileNotFoundError)


# --- duplicates, times, pixels


@pytest.mark.parametrize("file", [MAPPING, LABELS, SPLITS, IMPRESSIONS])
def test_rows_that_agree_collapse_and_are_counted(root, file):
    edit(root / file, repeat(3))
    cohort = load(root)
    assert len(cohort.images) == STUDIES and len(cohort.privileged) == STUDIES
    note = steps(cohort).loc["one row an impression", "note"]
    assert note.startswith("repeated ids: 1 in") and note.endswith("; collapse")
    cohort = load(root, duplicates="drop")
    assert len(cohort.images) == STUDIES - 1 and "2000103" not in set(cohort.images["study_id"])


@pytest.mark.parametrize(
    ("file", "change"),
    [
        (MAPPING, {"image_id": "PE0000001"}),
        (MAPPING, {"person_id": "1"}),
        (LABELS, {"12_month_PH": "True"}),
        (SPLITS, {"split": "test"}),
        (IMPRESSIONS, {"impressions": "1. Otherwise."}),
    ],
)
def test_rows_that_differ_are_refused_unless_a_policy_says_what_to_do(root, file, change):
    edit(root / file, repeat(3, **change))
    refused(root, r"1 study_id\(s\) have rows that differ.*'2000103'.*duplicates='all', 'first'")
    first = load(root, duplicates="first")
    assert len(first.images) == STUDIES and first.images["split"].iloc[3] == "train"
    assert first.images["12_month_PH"].iloc[3] == 0 and "Made up" in first.privileged["text"].iloc[3]
    assert len(load(root, duplicates="drop").images) == STUDIES - 1


def test_two_volumes_of_one_impression_can_be_images_of_one_study(root):
    edit(root / MAPPING, repeat(3, image_id="PE0000001"))
    edit(root / MAPPING, repeat(5))
    (root / "radiographs" / "PE0000001.jpg").write_bytes((root / "radiographs" / "PE452890e.jpg").read_bytes())
    cohort = load(root, duplicates="all")
    assert len(cohort.images) == STUDIES + 1 and cohort.images["study_id"].nunique() == STUDIES
    assert len(cohort.privileged) == STUDIES and len(cohort.data_hash()) == 64
    both = cohort.images[cohort.images["study_id"] == "2000103"]
    assert both["split"].nunique() == both["12_month_PH"].nunique() == 1 and both["image_id"].is_unique
    assert steps(cohort).loc["one row an image", "note"] == "repeated ids: 2 in studies; all"
    assert build.build_task("pulmonary_embolism", cohort, one_per="study").funnel["rows"].iloc[1] == STUDIES
    edit(root / MAPPING, repeat(3, person_id="1", image_id="PE0000002"))
    refused(root, "one impression to two persons", duplicates="all")


def test_one_image_under_two_impressions(root):
    edit(root / MAPPING, lambda t: t.assign(image_id=[*t["image_id"][:9], t["image_id"][0]]))
    refused(root, r"1 image_id\(s\) have rows that differ")
    refused(root, "'all'", duplicates="all")
    first = load(root, duplicates="first")
    assert "2000109" not in set(first.images["study_id"]) and "2000100" in set(first.images["study_id"])
    assert "1 shared images" in steps(first).loc["one row an impression", "note"]
    assert len(load(root, duplicates="drop").images) == STUDIES - 2


def test_studies_without_pixels_are_counted(root):
    (root / "CTPA" / "PE452890e.nii.gz").unlink()
    (root / "radiographs" / "PE452890f.jpg").unlink()
    cohort = load(root)
    table = steps(cohort)
    assert table.loc["CT volume there (others kept)", ["rows", "note"]].tolist() == [9, "1 without; 8 in the release"]
    assert table.loc["reconstructed radiograph there", ["rows", "note"]].tolist() == [9, "1 without"]
    assert "PE452890f" not in set(cohort.images["image_id"]) and pd.isna(cohort.images["ct_path"].iloc[0])
    volumes = load(root, pixels="ct")
    assert "PE452890e" not in set(volumes.images["image_id"]) and set(volumes.images["view"]) == {"CT"}
    assert (volumes.images["path"] == volumes.images["ct_path"]).all() and len(volumes.data_hash()) == 64
    tables = load(root, pixels="none")
    assert len(tables.images) == STUDIES and not tables.has_images and tables.images["view"].isna().all()


def test_no_pixels_at_all_says_how_to_get_them(tmp_path):
    root = write(tmp_path, volumes=False, radiographs=False)
    refused(root, r"no reconstructed radiograph of the 10 .*reports/00-reconstruct", FileNotFoundError)
    refused(root, r"no CT volume of the 10 studies .*stanfordaimi", FileNotFoundError, pixels="ct")


def test_radiographs_elsewhere_are_relative_to_the_root(tmp_path):
    root = write(tmp_path / "inspect", volumes=False)
    (tmp_path / "made").mkdir()
    (root / "radiographs").rename(tmp_path / "made" / "jpg")
    linked = tmp_path / "deep" / "er" / "linked"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(root)
    for folder in (root, linked):
        cohort = load(folder, radiographs_root=tmp_path / "made" / "jpg")
        assert cohort.images["path"].iloc[0] == "../made/jpg/PE452890e.jpg"
        assert cohort.image_size("PE452890e") == (6, 8)
        assert steps(cohort).loc["CT volume there (others kept)", "note"] == "no folder of volumes here"


# --- what is missing


def test_what_is_missing_is_counted_not_hidden(root):
    edit(root / IMPRESSIONS, lambda t: t.assign(impressions=["", *t["impressions"][1:]]))
    kept = load(root, report_missing="keep")
    assert len(kept.images) == STUDIES and len(kept.privileged) == STUDIES - 1
    assert steps(kept).loc["has an impression (others kept)", ["rows", "note"]].tolist() == [9, "1 without"]
    assert len(load(root, report_missing="drop").images) == STUDIES - 1
    edit(root / SPLITS, lambda t: t[:-1])
    edit(root / LABELS, lambda t: t[1:])
    edit(root / MAPPING, lambda t: t.assign(image_id=[*t["image_id"][:-2], "", t["image_id"].iloc[-1]]))
    cohort = load(root, report_missing="keep")
    table = steps(cohort)
    assert table.loc["has an image_id", "rows"] == 9 and table.loc["has a row of labels", "rows"] == 8
    assert table.loc["without a split (kept)", "rows"] == 1 and cohort.images["split"].isna().sum() == 1


# --- the paper's counts and tasks


def release_tables() -> dict[str, pd.DataFrame]:
    """Tables with as many rows, positives and censored outcomes as third parties count in the release."""
    n = 23_236
    ids = pd.Series(range(n)).astype(str)
    mapping = pd.DataFrame({"impression_id": ids, "person_id": "p" + ids, "image_id": [f"PE{k:07x}" for k in range(n)]})
    mapping["procedure_DATETIME"] = mapping["note_DATETIME"] = "2015-01-01"
    mapping.loc[: 779 - 1, ["procedure_DATETIME", "note_DATETIME"]] = None

    def column(positive, censored):
        return ["True"] * positive + ["Censored"] * censored + ["False"] * (n - positive - censored)

    labels = pd.DataFrame({"impression_id": ids, "12_month_PH": column(2_724, 4_015)})
    labels["12_month_readmission"] = column(2_825, 4_164)
    labels["pe_positive_nlp"] = column(4_684, 0)
    splits = pd.DataFrame({"impression_id": ids, "split": np.resize(["train", "valid", "test"], n)})
    impressions = pd.DataFrame({"impression_id": ids, "impressions": "Made up."})
    mapping = pd.concat([mapping, mapping[:12]])
    return {"mapping": mapping, "labels": labels, "splits": splits, "impressions": impressions}


def test_counts_stand_beside_those_of_the_release_and_the_paper(tmp_path):
    cohort = load(write(tmp_path, tables=release_tables(), volumes=False, radiographs=False), pixels="none")
    table = steps(cohort)
    assert table.iloc[0][["rows", "paper"]].tolist() == [23_248, 23_248]
    assert table.loc["one row an impression", "note"] == "repeated ids: 12 in studies; collapse"
    assert table.loc["time known (others kept)", "note"] == "779 without; 779 in the release"
    for label, balanced, paper in (("12_month_PH", 5_448, 5_449), ("12_month_readmission", 5_650, 5_651)):
        assert table.loc[f"positive: {label}", "rows"] == table.loc[f"positive: {label}", "paper"]
        assert table.loc[f"balanced: {label}", ["rows", "paper"]].tolist() == [balanced, paper]
    assert table.loc["balanced: pe_positive_nlp", ["rows", "paper"]].tolist() == [9_368, 9_375]
    assert table.loc["label known: 12_month_PH", "note"] == "4015 censored"


def test_counts_are_those_of_the_tasks():
    names = {name: usual for name, (_, _, _, usual) in INSPECT.items()}
    assert {names[name]: PAPER_COUNTS[name] for name in build.INSPECT_TASKS} == studies.BALANCED
    assert set(studies.LABELS) == set(names.values())


def test_tasks_take_the_cohorts_own_outcomes(root):
    cohort = load(root)
    task = build.build_task("ph_12_month", cohort)
    assert task.table["target"].tolist() == [1, 0, 0, 1, 0, 0, 0, 1]
    assert task.funnel["rows"].tolist() == [10, 10, 8, 6] and task.funnel["paper"].iloc[-1] == 5_449
    labels = read_table(root / LABELS)  # keyed by impression_id, which the cohort calls study_id
    given = build.build_task("ph_12_month", cohort, labels=labels)
    pd.testing.assert_frame_equal(task.table, given.table)
    acute = load(root, labels=("pe_acute",))
    assert build.build_task("pulmonary_embolism", acute, column="pe_acute").counts["pulmonary embolism"] == 5
    with pytest.raises(DataError, match="needs `labels`"):
        build.build_task("pulmonary_embolism", acute)
