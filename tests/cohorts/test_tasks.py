"""Tasks: every rule on hand-made tables, splits that keep patients apart, and files that name nobody."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.inspect.tables import read_table
from pkd_utils.cohorts.table import Cohort, CohortInfo, empty_boxes
from pkd_utils.cohorts.tasks import base, mimic
from pkd_utils.cohorts.tasks import splits as task_splits
from pkd_utils.cohorts.tasks.age import age, bin_edges, bin_names, rebin
from pkd_utils.cohorts.tasks.base import PAPER_COUNTS, SplitRule, Task
from pkd_utils.cohorts.tasks.build import (
    COVID_TASKS,
    INSPECT_TASKS,
    MIMIC_TASKS,
    build_task,
    count_variants,
)
from pkd_utils.demo.chest import outcomes
from pkd_utils.runs import paths
from pkd_utils.runs.errors import DataError
from pkd_utils.studies.reports import relations
from tests.cohorts.fixtures import write_covid_chestxray, write_mimic_cxr

BLANK = np.nan
DAY = pd.Timestamp("2180-05-06 12:00:00")


def make_cohort(images: pd.DataFrame, tables=(), name="mimic_cxr", labels=(), simulated=False) -> Cohort:
    """A cohort of these images; what is not given is made up."""
    count = len(images)
    filled = pd.DataFrame(
        {
            "image_id": [f"image-{k:04d}" for k in range(count)],
            "patient_id": [f"1{k:07d}" for k in range(count)],
            "study_id": [f"5{k:07d}" for k in range(count)],
            "path": "x.jpg",
            "split": np.nan,
            "view": "PA",
        }
    ).assign(**{column: images[column].to_numpy() for column in images})
    info = CohortInfo(name, "Made up", "none", "none", simulated=simulated)
    empty = pd.DataFrame({"text": []}, index=pd.Index([], name="study_id"))
    return Cohort(info, Path("."), list(labels), filled, empty_boxes(), pd.DataFrame(), empty, list(tables))


def make_task(targets, patients=None, rule=None, classes=("no", "yes"), name="age") -> Task:
    """A task of N images; by default every image has its own patient."""
    count = len(targets)
    patients = np.arange(count) if patients is None else np.asarray(patients)
    table = pd.DataFrame(
        {
            "image_id": [f"{k:08x}-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd" for k in range(count)],
            "patient_id": [f"1{k:07d}" for k in patients],
            "study_id": [f"5{k:07d}" for k in range(count)],
            "target": np.asarray(targets, dtype=np.int64),
        }
    )
    return Task(name, name, "auxiliary", tuple(classes), table, pd.DataFrame(), split=rule or SplitRule(evaluate=0.25))


def many_per_patient(count=600, patients=200, seed=0, classes=2, **rule) -> Task:
    rng = np.random.default_rng(seed)
    names = tuple("abcdefgh"[:classes])
    return make_task(rng.integers(classes, size=count), rng.integers(patients, size=count), SplitRule(**rule), names)


# --- 5x1200


def label_row(rest=BLANK, **five) -> dict:
    named = {"A": "Atelectasis", "C": "Cardiomegaly", "E": "Edema", "P": "Pleural Effusion", "S": "Consolidation"}
    row = dict.fromkeys(mimic.FIVE, BLANK) | dict.fromkeys(mimic.REST, BLANK)
    return row | {named[key]: value for key, value in five.items()} | {"Support Devices": rest}


@pytest.mark.parametrize(
    ("row", "expected"),
    [  # class under: others_not_positive, others_negative_or_blank, no_other_finding, uncertain_mapped
        (label_row(A=1), (0, 0, 0, 0)),
        (label_row(S=1, A=0), (4, 4, 4, 4)),
        (label_row(A=1, E=1), (-1, -1, -1, -1)),
        (label_row(), (-1, -1, -1, -1)),
        (label_row(C=1, S=-1), (1, -1, -1, 1)),  # an uncertain consolidation maps to 0
        (label_row(C=1, E=-1), (1, -1, -1, -1)),  # an uncertain edema maps to 1: two findings
        (label_row(E=-1), (-1, -1, -1, 2)),  # ... or to the only one
        (label_row(P=1, rest=1), (3, 3, -1, -1)),
        (label_row(P=1, rest=-1), (3, 3, -1, -1)),
        (label_row(P=1, rest=0), (3, 3, 3, 3)),
    ],
)
def test_exactly_one_of_five(row, expected):
    labels = pd.DataFrame([row], index=["s"])
    assert tuple(mimic.one_of_five(labels, rule)["s"] for rule in mimic.CO_LABELS) == expected


def test_no_finding_does_not_exclude_and_odd_labels_are_refused():
    assert "No Finding" not in mimic.REST and len(mimic.REST) == 8
    with pytest.raises(DataError, match="other than 1, 0, -1"):
        mimic.one_of_five(pd.DataFrame([label_row(A=2)]))


def write_labels(folder: Path, rows: list[dict]) -> Path:
    file = folder / "mimic-cxr-2.0.0-chexpert.csv.gz"
    table = pd.DataFrame(rows, index=pd.Index([f"5{k:07d}" for k in range(len(rows))], name="study_id"))
    table.to_csv(file)
    return file


def test_five_findings_counts_every_step(tmp_path):
    rows = [label_row(**{key: 1}) for key in "ACEPS"] + [label_row(A=1, C=1), label_row()]
    cohort = make_cohort(pd.DataFrame({"view": ["PA"] * 8}), [write_labels(tmp_path, rows)])
    task = build_task("mimic_5x1200", cohort)
    assert task.funnel["rows"].tolist() == [8, 7, 5, 5]  # the eighth image's study has no labels
    assert task.funnel["paper"].iloc[-1] == 6000
    assert task.table["target"].tolist() == [0, 1, 2, 3, 4] and task.classes == mimic.FIVE
    assert task.split.per_class == (1000, 200) and task.kind == "diagnostic"
    two = build_task("mimic_5x1200", cohort, findings=["Consolidation", "Edema"])
    assert two.table["study_id"].tolist() == ["50000002", "50000004"] and two.table["target"].tolist() == [1, 0]
    with pytest.raises(DataError, match="name one twice"):
        build_task("mimic_5x1200", cohort, findings=["Edema", "Edema"])


def test_variants_are_counted_one_rule_at_a_time(tmp_path):
    rows = [label_row(**{key: 1}) for key in "ACEPS"] + [label_row(A=1, S=-1)]
    cohort = make_cohort(pd.DataFrame({"view": ["PA"] * 5 + ["AP"]}), [write_labels(tmp_path, rows)])
    table = count_variants("mimic_5x1200", cohort, {"at_most": 1}).set_index("options")
    assert table.loc["as chosen", "images"] == 6
    assert table.loc["co_labels others_negative_or_blank", "images"] == 5
    assert table.loc["views AP", "images"] == 1 and "no image is left" in table.loc["views AP", "classes"]
    assert (table["paper"] == 6000).all()
    assert count_variants("mimic_5x1200", cohort, variants=[])["images"].tolist() == [6]


# --- age


def test_age_bins_edges_and_names():
    assert bin_edges([20, 70, 45], 5, "equal_width").tolist() == [30, 40, 50, 60]
    assert bin_edges(np.arange(100), 5, "quantile") == pytest.approx([19.8, 39.6, 59.4, 79.2])
    assert bin_names(np.array([30.0, 40.0])) == ("under 30", "30 to 40", "40 and over")
    task = age(make_cohort(pd.DataFrame({"age": [20.0, 30, 39.9, 40, 70, 55, BLANK]})))
    assert task.table["target"].tolist() == [0, 1, 1, 2, 4, 3]  # an edge belongs to the older bin
    assert task.table["value"].tolist() == [20, 30, 39.9, 40, 70, 55]
    assert task.funnel["rows"].tolist() == [7, 6, 6] and task.funnel["paper"].iloc[-1] == 35_242
    for values, bins in (([5, 5, 5], 5), ([], 5), ([1, 2, 2, 2, 2, 2, 2], 3)):
        with pytest.raises(DataError, match="bin"):
            bin_edges(values, bins, "quantile")


def test_ages_over_89_are_kept_capped_or_dropped():
    cohort = make_cohort(pd.DataFrame({"age": [18.0, 40, 60, 70, 89, 90, 91, 95]}))
    options = {"bins": 2, "edges": "equal_width"}
    assert age(cohort, **options).table["value"].max() == 95
    assert age(cohort, over_89="cap", **options).table["value"].tolist()[4:] == [89, 90, 90, 90]
    dropped = age(cohort, over_89="drop", **options)
    assert dropped.table["value"].tolist() == [18, 40, 60, 70, 89]
    assert dropped.classes[0] == "under 53.5" and age(cohort, **options).classes[0] == "under 56.5"
    with pytest.raises(DataError, match="no column age"):
        build_task("age", make_cohort(pd.DataFrame({"view": ["PA"]})))


def test_edges_may_be_fixed_on_the_training_part_alone():
    rng = np.random.default_rng(0)
    task = age(make_cohort(pd.DataFrame({"age": rng.uniform(20, 90, 200).round(1)})), edges="quantile")
    split = task_splits.split_task(task, 0, refit_edges="quantile")
    train = split[split["part"] == "train"]
    assert train["target"].value_counts().tolist() == [36] * 5  # equal numbers of the training images
    assert not (split["target"].to_numpy() == task.table["target"].to_numpy()).all()
    young = task.table.sort_values("value")["image_id"].head(50)
    assert (rebin(task, young, "quantile") == 4).sum() == 160


# --- 3-Day Discharge


def write_stays(folder: Path, rows: list[tuple]) -> Path:
    """Rows of (patient, stay, admitted, discharged, died[, registered]); times in hours after `DAY` or None."""

    def moment(hours):
        return "" if hours is None else str(DAY + pd.Timedelta(hours=hours))

    table = [
        {
            "subject_id": f"1{patient:07d}",
            "hadm_id": stay,
            "admittime": moment(begin),
            "dischtime": moment(end),
            "deathtime": moment(end) if died else "",
            "hospital_expire_flag": int(died),
            "edregtime": moment(rest[0] if rest else None),
        }
        for patient, stay, begin, end, died, *rest in rows
    ]
    file = folder / "admissions.csv.gz"
    pd.DataFrame(table).to_csv(file, index=False)
    return file


def films(hours, patients, stays: Path) -> Cohort:
    """Images at these hours, of a cohort that read MIMIC-IV's patients beside the stays."""
    times = [pd.NaT if h is None else DAY + pd.Timedelta(hours=h) for h in hours]
    images = pd.DataFrame({"study_datetime": times, "patient_id": [f"1{p:07d}" for p in patients]})
    return make_cohort(images, [stays.with_name("patients.csv.gz")])


def targets(task: Task) -> dict[str, int]:
    return dict(zip(task.table["image_id"].str[-1].astype(int), task.table["target"], strict=True))


def test_discharge_bounds_are_inclusive(tmp_path):
    file = write_stays(tmp_path, [(0, 20, 0, 100, False), (1, 21, 0, 72, False)])
    # exactly at admission, 72 h before discharge, just more, at discharge, a second outside either way, no time
    hours = [0, 28, 27.99, 100, -1 / 3600, 100 + 1 / 3600, None, 0]
    task = build_task("discharge_3_day", films(hours, [0] * 7 + [1], file))
    assert targets(task) == {0: 0, 1: 1, 2: 0, 3: 1, 7: 1}
    assert task.funnel["rows"].tolist() == [8, 7, 5, 5, 5] and task.funnel["paper"].iloc[-1] == 18_490
    assert task.sources == (file,) and task.kind == "prognostic"


def test_discharge_takes_the_stay_that_started_last_and_counts_odd_stays(tmp_path):
    stays = [(0, 20, 0, 200, False), (0, 21, 48, 100, False), (1, 22, 0, None, False), (1, 23, 50, 40, False)]
    file = write_stays(tmp_path, [*stays, (2, 24, 0, 500, False)])
    task = build_task("discharge_3_day", films([50, 150, 45, 10], [0, 0, 1, 2], file))
    assert targets(task) == {0: 1, 1: 1, 3: 0}  # 50 h before the inner stay's end; the outer one alone; no usable stay
    assert "1 studies in several stays" in task.funnel["note"].iloc[2]
    assert "2 stays without usable times" in task.funnel["note"].iloc[2]


def test_deaths_images_of_a_stay_and_arrival_are_choices(tmp_path):
    rows = [(0, 20, 0, 60, True), (1, 21, 0, 200, False, -5), (2, 22, 0, 60, False)]
    file = write_stays(tmp_path, rows)
    cohort = films([1, 10, 150, 30, -3, 1], [0, 1, 1, 1, 1, 2], file)

    def build(**options):
        return targets(build_task("discharge_3_day", cohort, **options))

    assert build() == {1: 0, 2: 1, 3: 0, 5: 1}
    assert build(deaths="negative") == {0: 0, 1: 0, 2: 1, 3: 0, 5: 1}
    assert build(deaths="positive") == {0: 1, 1: 0, 2: 1, 3: 0, 5: 1}
    assert build(per_stay="first") == {1: 0, 5: 1}
    assert build(start="edregtime") == {1: 0, 2: 1, 3: 0, 4: 0, 5: 1}
    assert build(start="edregtime", per_stay="first") == {4: 0, 5: 1}
    assert build(one_per="patient", deaths="positive", start="edregtime") == {0: 1, 4: 0, 5: 1}
    with pytest.raises(base.EmptyClassError, match="no image is left of class stays longer"):
        build(per_stay="last")  # both last films see the end within three days


def test_discharge_refuses_broken_tables(tmp_path):
    cohort = films([1], [0], tmp_path / "admissions.csv.gz")
    with pytest.raises(FileNotFoundError, match="admissions"):
        build_task("discharge_3_day", cohort)
    with pytest.raises(DataError, match="loaded without MIMIC-IV"):
        build_task("discharge_3_day", make_cohort(cohort.images))
    with pytest.raises(DataError, match="no study times"):
        build_task("discharge_3_day", make_cohort(pd.DataFrame({"view": ["PA"]})))
    write_stays(tmp_path, [(0, 20, 0, 60, False), (0, 20, 70, 80, False)])
    with pytest.raises(DataError, match="occurs more than once"):
        build_task("discharge_3_day", cohort)
    file = write_stays(tmp_path, [(0, 20, 0, 60, False)])
    text = gzip.decompress(file.read_bytes()).decode().replace("2180-05-06 12:00:00", "yesterday")
    file.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DataError, match="admittime is not a time"):
        build_task("discharge_3_day", cohort)


def test_one_image_a_study_is_the_first_in_time_then_by_name():
    images = pd.DataFrame(
        {
            "image_id": ["c", "b", "a", "d"],
            "patient_id": ["p"] * 3 + ["q"],
            "study_id": ["s"] * 3 + ["t"],
            "study_datetime": [DAY, DAY, DAY + pd.Timedelta(hours=1), DAY],
        }
    )
    cohort = make_cohort(images)
    assert base.select_images(cohort, one_per="study")[0]["image_id"].tolist() == ["b", "d"]
    assert base.take_one(images, "study", last=True)["image_id"].tolist() == ["a", "d"]
    with pytest.raises(DataError, match="has the view 'XX'"):
        base.select_images(cohort, views=["PA", "XX"])


# --- INSPECT


def inspect_labels(values, column="12_month_PH", key="study_id") -> pd.DataFrame:
    prefix = {"study_id": "5{:07d}", "image_id": "image-{:04d}"}[key]
    return pd.DataFrame({key: [prefix.format(k) for k in range(len(values))], column: values})


@pytest.mark.parametrize("key", ["study_id", "image_id"])
def test_outcomes_drop_censored_and_balance(key):
    cohort = make_cohort(pd.DataFrame({"view": ["PA"] * 8}))
    labels = inspect_labels(["True", "False", "Censored", "False", "false", True, "FALSE"], key=key)
    task = build_task("ph_12_month", cohort, labels=labels)
    assert task.table["target"].tolist() == [1, 0, 0, 0, 1, 0]
    assert task.funnel["rows"].tolist() == [8, 7, 6, 4] and task.funnel["paper"].iloc[-1] == 5449
    assert task.split == SplitRule(evaluate=0.25, balance=True)


def test_outcomes_refuse_what_they_do_not_know():
    cohort = make_cohort(pd.DataFrame({"view": ["PA"] * 3}))
    for values, message in (
        (["True", "maybe", "False"], "1 value.* first is 'maybe'"),
        (["True", None, "False"], "not True, False or Censored"),
        (["True", "True", "Censored"], "no image is left of class no PH"),
    ):
        with pytest.raises(DataError, match=message):
            build_task("ph_12_month", cohort, labels=inspect_labels(values))
    with pytest.raises(DataError, match="needs `labels`"):
        build_task("readmission_12_month", cohort)
    with pytest.raises(DataError, match="'pe_positive_nlp'"):
        build_task("pulmonary_embolism", cohort, labels=inspect_labels(["True"]))
    twice = pd.concat([inspect_labels(["True", "False"]), inspect_labels(["Censored"])])
    with pytest.raises(DataError, match="two different values"):
        build_task("ph_12_month", cohort, labels=twice)
    same = pd.concat([inspect_labels(["True", "False"]), inspect_labels(["True"])])
    assert len(build_task("ph_12_month", cohort, labels=same).table) == 2


def test_outcome_tables_are_read_as_text(tmp_path):
    table = inspect_labels(["True", "Censored"], column="12_month_readmission")
    table.to_csv(tmp_path / "labels.tsv", sep="\t", index=False)
    table.to_csv(tmp_path / "labels.csv", index=False)
    for name in ("labels.tsv", "labels.csv"):
        assert read_table(tmp_path / name)["12_month_readmission"].tolist() == ["True", "Censored"]


# --- covid-chestxray


def test_covid_tasks_count_what_is_unknown(tmp_path):
    cohort = load_cohort("covid_chestxray", write_covid_chestxray(tmp_path), labels=("went_icu", "death", "COVID-19"))
    task = build_task("went_icu", cohort)
    known = cohort.images["went_icu"].notna()
    assert len(task.table) == known.sum() and f"{(~known).sum()} images unknown" in task.funnel["note"].iloc[-1]
    assert build_task("covid19", cohort).classes == ("other", "COVID-19") and task.split.stratify
    died = build_task("death", cohort).table.set_index("image_id")["target"]
    assert (died == cohort.images.set_index("image_id")["death"].dropna()).all()
    assert build_task("age", cohort, bins=2).funnel["paper"].isna().all(), "the paper's ages are MIMIC's"
    with pytest.raises(DataError, match="without label 'intubated'"):
        build_task("intubated", cohort)


@pytest.mark.shared
def test_covid_tasks_of_the_real_table(shared_data):
    labels = ("went_icu", "in_icu", "intubated", "death", "COVID-19")
    cohort = load_cohort("covid_chestxray", shared_data / "covid-chestxray", labels=labels)
    for name in COVID_TASKS:
        options = {"edges": "quantile", "stratify": True, "evaluate": 0.25} if name == "age" else {}
        task = build_task(name, cohort, **options)
        for seed in range(3):
            task_splits.check_split(task_splits.split_task(task, seed), task)


# --- splits


@pytest.mark.parametrize(
    "rule",
    [
        {"evaluate": 0.1},
        {"evaluate": 0.25, "balance": True},
        {"per_class": (60, 20)},
        {"evaluate": 0.2, "stratify": True},
    ],
)
def test_no_patient_crosses_and_shares_are_kept(rule):
    task = many_per_patient(classes=2 if rule.get("balance") else 3, **rule)
    seen = []
    for seed in range(4):
        split = task_splits.split_task(task, seed)
        task_splits.check_split(split, task)
        held = split["part"] == "evaluate"
        if "per_class" in rule:
            assert split.groupby(["part", "target"]).size().tolist() == [20] * 3 + [60] * 3
        else:
            assert held.mean() == pytest.approx(rule["evaluate"], abs=0.01)
        if rule.get("balance"):
            assert split["target"].mean() == 0.5
        assert not split["image_id"].duplicated().any()
        assert (split["rank"][held] == -1).all() and (split["half"][~held] == -1).all()
        assert sorted(split["rank"][~held]) == list(range((~held).sum()))
        assert not split["inner"][held].any() and 0.1 < split["inner"][~held].mean() < 0.3
        assert 0.35 < split["half"][held].mean() < 0.65
        again = task_splits.split_task(task, seed)
        pd.testing.assert_frame_equal(split, again)
        seen.append(frozenset(split["image_id"][held]))
    assert len(set(seen)) == 4, "every seed holds out other images"
    fixed = [task_splits.split_task(task, seed, evaluation_seed=7) for seed in range(2)]
    held = [frozenset(split["image_id"][split["part"] == "evaluate"]) for split in fixed]
    assert held[0] == held[1]
    first, second = (task_splits.subset(split, 20)["image_id"].tolist() for split in fixed)
    assert first != second, "the training images still change with the seed"


def test_without_grouping_patients_cross_and_the_check_says_so():
    task = many_per_patient(evaluate=0.25)
    split = task_splits.split_task(task, 0, group=False)
    assert (split["part"] == "evaluate").mean() == pytest.approx(0.25, abs=0.002)
    with pytest.raises(DataError, match="in both training and evaluation"):
        task_splits.check_split(split, task)
    good = task_splits.split_task(task, 0)
    patient = task.table["patient_id"].value_counts().index[0]
    rows = good["image_id"].isin(task.table.loc[task.table["patient_id"] == patient, "image_id"])
    for column, message in (("inner", "inner validation"), ("half", "halves")):
        mixed = good.copy()
        mixed.loc[rows, "part"] = "train" if column == "inner" else "evaluate"
        mixed.loc[rows, column] = np.resize([True, False] if column == "inner" else [0, 1], rows.sum())
        with pytest.raises(DataError, match=message):
            task_splits.check_split(mixed, task)


def test_subsets_are_nested_and_stratified_where_drawn_by_class():
    task = many_per_patient(count=900, classes=5, per_class=(50, 20))
    split = task_splits.split_task(task, 3)
    previous = set()
    for size in (5, 10, 25, 100, 250):
        part = task_splits.subset(split, size)
        assert previous < set(part["image_id"]) and len(part) == size
        assert part["target"].value_counts().tolist() == [size // 5] * 5
        previous = set(part["image_id"])
    plain = task_splits.split_task(many_per_patient(count=900, classes=5, evaluate=0.2), 3)
    assert task_splits.subset(plain, 25)["target"].value_counts().nunique() > 1
    for size in (0, 251):
        with pytest.raises(DataError, match="1 to 250"):
            task_splits.subset(split, size)


def test_a_patient_in_several_classes_stays_on_one_side():
    # Each of 40 patients has one image of every class: the same patients must fill all three evaluation quotas.
    task = make_task(np.tile([0, 1, 2], 40), np.repeat(np.arange(40), 3), SplitRule(per_class=(25, 10)), "abc")
    split = task_splits.split_task(task, 0)
    task_splits.check_split(split, task)
    held = task.table.set_index("image_id").loc[split.loc[split["part"] == "evaluate", "image_id"], "patient_id"]
    assert held.nunique() == 10


def test_rare_classes_are_served_first():
    # Six patients hold all of class 2, two images each, and one of class 0: holding out a fourth for the sake of
    # class 0 would leave too few of class 2 to train on.
    patients = [*range(10), *range(100, 150), *range(200, 206), *np.repeat(np.arange(200, 206), 2)]
    task = make_task([0] * 10 + [1] * 50 + [0] * 6 + [2] * 12, patients, SplitRule(per_class=(6, 6)), "abc")
    for seed in range(20):
        split = task_splits.split_task(task, seed)
        assert split.groupby(["part", "target"]).size().tolist() == [6] * 6


def test_impossible_splits_are_refused():
    with pytest.raises(DataError, match="class yes has 2 images for the train part of 5"):
        task_splits.split_task(make_task([0] * 20 + [1] * 5, rule=SplitRule(per_class=(5, 3))), 0)
    with pytest.raises(DataError, match="evaluate part has no image of class yes"):
        task_splits.split_task(make_task([0] * 40 + [1], rule=SplitRule(evaluate=0.1)), 1)
    for options in ({"seed": -1}, {"seed": 0, "inner": 1.0}, {"seed": 0, "evaluation_seed": -2}):
        with pytest.raises(DataError, match=r"split_task: .* input should be"):
            task_splits.split_task(make_task([0, 1] * 20), **options)
    with pytest.raises(DataError, match="no seeds"):
        task_splits.split_seeds(make_task([0, 1]), [])


def test_cutting_to_a_number_keeps_whole_patients(tmp_path):
    ages = pd.DataFrame({"age": np.linspace(20, 90, 300), "patient_id": [f"1{k // 3:07d}" for k in range(300)]})
    cohort = make_cohort(ages)
    task = build_task("age", cohort, at_most=100)
    assert len(task.table) == 99 and (task.table["patient_id"].value_counts() == 3).all()
    assert task.funnel["rows"].tolist()[-2:] == [300, 99] and "99" not in task.choices["cut"]
    other = build_task("age", cohort, at_most=100, draw_seed=1)
    assert set(other.table["image_id"]) != set(task.table["image_id"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("age", {"at_most": 0}, "build_task: at_most = 0"),
        ("age", {"edges": "guess"}, "Task age: edges = 'guess': input should be 'equal_width' or 'quantile'"),
        ("age", {"one_per": "house"}, "Task age: one_per = 'house'"),
        ("age", {"evaluate": 1.5}, "Task age: evaluate = 1.5: input should be less than 1"),
        ("age", {"bin": 3}, "Task age has no option 'bin'; it has views, one_per, bins"),
        ("mimic_5x1200", {"findings": ["Edema", "Hernia"]}, "Task mimic_5x1200: findings.1 = 'Hernia'"),
        ("mimic_5x1200", {"co_labels": "any"}, "Task mimic_5x1200: co_labels = 'any'"),
        ("discharge_3_day", {"deaths": "x"}, "Task discharge_3_day: deaths = 'x'"),
        ("ph_12_month", {"colum": "x"}, "Task ph_12_month has no option 'colum'; it has labels, views"),
        ("x", {}, "There is no task named 'x'; choose one of mimic_5x1200"),
    ],
)
def test_wrong_options_of_a_task_are_one_sentence(name, options, message):
    with pytest.raises(DataError, match=f"^{message}"):
        build_task(name, make_cohort(pd.DataFrame({"view": ["PA"]})), **options)


# --- sizes


def test_training_sizes_are_those_of_tables_3_to_7():
    expected = {
        "mimic_5x1200": ([100, 200, 400, 1000, 2000, 4000], [100, 100, 100, 50, 50, 50], "Table 3"),
        "age": ([317, 792, 1585, 3171], [150, 100, 100, 50], "Table 4"),
        "discharge_3_day": ([82, 165, 416, 829, 1662, 4145], [100, 100, 100, 50, 50, 50], "Table 5"),
        "readmission_12_month": ([211, 423, 741, 1059, 2119], [100, 100, 100, 100, 50], "Table 6"),
        "ph_12_month": ([204, 408, 715, 1022, 2044], [100, 100, 100, 100, 50], "Table 7"),
    }
    whole = {"mimic_5x1200": 4000, "age": 31_717, "readmission_12_month": 4_238.5, "ph_12_month": 4_088.5}
    for name, (samples, epochs, table) in expected.items():
        sizes = task_splits.training_sizes(name)
        assert sizes["samples"].tolist() == samples and sizes["epochs"].tolist() == epochs
        assert set(sizes["source"]) == {table}
        if name in whole:  # the fractions are those of one whole; 3-Day Discharge's are of none
            assert (np.abs(sizes["fraction"] * whole[name] - samples) < 1).all()
    with pytest.raises(DataError, match="no training sizes"):
        task_splits.training_sizes("pulmonary_embolism")


def test_own_sizes_and_what_does_not_fit():
    task = many_per_patient(count=400, evaluate=0.25)
    splits = task_splits.split_seeds(task, [0, 1, 2])
    smallest = splits[splits["part"] == "train"].groupby("seed").size().min()
    sizes = task_splits.choose_sizes("age", splits, [0.5, 100, 1.0], epochs=3)
    assert sizes["samples"].tolist() == [100, smallest // 2, smallest]
    assert sizes["epochs"].tolist() == [3] * 3 and set(sizes["source"]) == {"chosen here"}
    with pytest.raises(DataError, match=f"smallest training part of the seeds has {smallest}"):
        task_splits.choose_sizes("age", splits, [smallest + 1], epochs=3)
    with pytest.raises(DataError, match="3171 training images"):
        task_splits.choose_sizes("age", splits)
    with pytest.raises(DataError, match="epochs of your own"):
        task_splits.choose_sizes("age", splits, [10])


# --- files to publish


def test_public_splits_name_nobody(tmp_path):
    task = many_per_patient(count=120, patients=40, evaluate=0.25)
    splits = task_splits.split_seeds(task, [0, 1])
    files = task_splits.write_public_splits(tmp_path, splits, [task.table])
    assert [file.name for file in files] == ["splits-age-seed0.csv", "splits-age-seed1.csv"]
    for file in files:
        text = file.read_text()
        for column in ("image_id", "patient_id", "study_id"):
            assert not any(name in text for name in task.table[column])
    table = pd.read_csv(files[0])
    assert table["image_sha256"].is_monotonic_increasing
    # Whoever has the identifiers finds every image again.
    back = {task_splits.hash_id(name): name for name in task.table["image_id"]}
    joined = table.assign(image_id=table["image_sha256"].map(back)).merge(splits[splits["seed"] == 0], on="image_id")
    assert len(joined) == 120 and (joined["rank_x"] == joined["rank_y"]).all()
    salted = pd.read_csv(task_splits.write_public_splits(tmp_path / "s", splits, [task.table], salt="k")[0])
    assert not set(salted["image_sha256"]) & set(table["image_sha256"])
    assert task_splits.hash_id("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def test_planted_leaks_are_caught(tmp_path, monkeypatch):
    task = many_per_patient(count=60, patients=30, evaluate=0.25)
    splits = task_splits.split_seeds(task, [0])
    public = pd.read_csv(task_splits.write_public_splits(tmp_path / "ok", splits, [task.table])[0])
    ids = set(task.table["image_id"])
    task_splits.check_public(public, ids)
    leaks = {
        "no others": public.assign(patient_id="10000001"),
        "no SHA-256": public.assign(image_sha256=task.table["image_id"]),
        "part must be": public.assign(part="10000001"),
        "inner true or false": public.assign(inner=public["inner"].astype(str)),
        "target holds": public.assign(target=50_000_001),
        "rank holds": public.assign(rank=public["rank"].astype(str)),
        "half holds": public.assign(half=0.5),
    }
    for message, table in leaks.items():
        with pytest.raises(DataError, match=message):
            task_splits.check_public(table, ids)
    hashed = task_splits.hash_id("x")
    with pytest.raises(DataError, match="no SHA-256"):
        task_splits.check_public(public.assign(image_sha256=hashed), {hashed})
    monkeypatch.setattr(task_splits, "hash_id", lambda image_id, salt: image_id)
    with pytest.raises(DataError, match="hash it"):
        task_splits.write_public_splits(tmp_path / "bad", splits, [task.table])
    assert not (tmp_path / "bad").exists()
    with pytest.raises(DataError, match="know the tasks"):
        task_splits.write_public_splits(tmp_path / "bad", splits.assign(task="p10000001"), [task.table])


# --- outcomes of the simulated cohort


def simulated(count=1500, seed=0, **fixed) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(5)
    studies = pd.DataFrame(rng.beta(1.2, 2, (count, 4)), columns=outcomes.STATE).assign(**fixed)
    studies.insert(0, "study_id", [f"5{k:07d}" for k in range(count)])
    studies.insert(1, "subject_id", [f"1{k:07d}" for k in range(count)])
    studies["study_datetime"] = DAY
    stays = pd.DataFrame({"subject_id": [], "hadm_id": [], "admittime": [], "dischtime": []})
    stays = stays.astype({"admittime": "datetime64[us]", "dischtime": "datetime64[us]"})
    return studies, stays, pd.Series(dtype="datetime64[us]")


def test_outcomes_follow_the_state_and_nothing_else_moves_them():
    studies, stays, died = simulated()
    table = outcomes.simulate_outcomes(studies, stays, died, seed=0).set_index("study_id")
    pd.testing.assert_frame_equal(table, outcomes.simulate_outcomes(studies, stays, died, 0).set_index("study_id"))
    part = outcomes.simulate_outcomes(studies.tail(100), stays, died, 0).set_index("study_id")
    pd.testing.assert_frame_equal(part, table.tail(100))  # a patient's outcome does not depend on the others
    assert not table.equals(outcomes.simulate_outcomes(studies, stays, died, 1).set_index("study_id"))
    ill = studies.set_index("study_id")["heart_disease"]
    for column in ("12_month_PH", "12_month_readmission"):
        assert set(table[column]) == {"True", "False", "Censored"}
        means = ill.groupby(table[column]).mean()
        assert means["True"] > means["False"] + 0.05
    inside = table["12_month_PH"] == "True"
    assert table["tte_PH"][inside].between(1, 365 * 1440).all()
    assert (table["tte_PH"][table["12_month_PH"] == "False"] >= 365 * 1440).all()


def test_a_later_stay_is_a_readmission_and_the_current_one_is_not():
    studies, _, died = simulated(2, heart_disease=0.0, heart_failure=0.0, infection=0.0, immobility=0.0)
    hours = {"admittime": [-10, 2400, -10], "dischtime": [50, 2500, 50]}
    stays = pd.DataFrame({"subject_id": ["10000000", "10000000", "10000001"], "hadm_id": ["20", "21", "22"]})
    stays = stays.assign(**{name: [DAY + pd.Timedelta(hours=h) for h in values] for name, values in hours.items()})
    later = outcomes.simulate_outcomes(studies, stays, died, 0)
    assert later["12_month_readmission"].iloc[0] == "True" and later["tte_readmission"].iloc[0] <= 2400 * 60
    assert later["12_month_readmission"].iloc[1] != "True"
    dead = pd.Series([DAY + pd.Timedelta(days=20)] * 2, index=["10000000", "10000001"])
    table = outcomes.simulate_outcomes(studies, stays.tail(1), dead, 0)
    assert table["12_month_readmission"].tolist() == ["Censored"] * 2
    assert table["12_month_PH"].tolist() == ["Censored"] * 2


def test_an_event_before_the_film_is_censored_not_predicted():
    studies, stays, died = simulated(400, heart_disease=1.0, heart_failure=1.0)
    studies["subject_id"] = studies["subject_id"].to_numpy()[np.arange(400) // 2]
    studies["study_datetime"] = [DAY, DAY + pd.Timedelta(days=3650)] * 200
    table = outcomes.simulate_outcomes(studies, stays, died, 0)
    first, second = table.iloc[::2].reset_index(), table.iloc[1::2].reset_index()
    fell_ill = first["12_month_PH"] == "True"
    assert fell_ill.sum() > 50 and (second["12_month_PH"][fell_ill] == "Censored").all()
    assert (second["tte_PH"][fell_ill] == 0).all()


def test_films_of_one_stay_share_their_fate_and_real_cohorts_are_refused():
    studies, _, died = simulated(6)
    studies["subject_id"] = "10000000"
    studies["study_datetime"] = [DAY + pd.Timedelta(hours=h) for h in range(6)]
    stays = pd.DataFrame({"subject_id": ["10000000"], "hadm_id": ["20"], "admittime": [DAY - pd.Timedelta(hours=1)]})
    stays["dischtime"] = DAY + pd.Timedelta(hours=30)
    table = outcomes.simulate_outcomes(studies, stays, died, 0)
    assert table["12_month_readmission"].nunique() == 1
    steps = table["tte_readmission"].diff().dropna().tolist()
    assert steps == [-60] * 5, "one event, seen from six films an hour apart"
    with pytest.raises(DataError, match="not simulated"):
        outcomes.label_table(make_cohort(pd.DataFrame({"view": ["PA"]})))


def test_the_loader_and_the_tasks_fit_together(tmp_path):
    root = write_mimic_cxr(tmp_path)
    write_stays(root / "hosp", [(32 + k, 20 + k, 0, 30 + 39 * k, False) for k in range(6)])
    cohort = load_cohort("mimic_cxr", root, boxes=False)
    # the made-up films are taken on 2180-05-06 at 09:30, so start the stays a day before
    table = pd.read_csv(root / "hosp" / "admissions.csv.gz")
    table["admittime"] = "2180-05-05 12:00:00"
    table.to_csv(root / "hosp" / "admissions.csv.gz", index=False)
    task = build_task("discharge_3_day", cohort)
    assert task.counts == {"stays longer": 4, "discharged within 3 days": 2}
    assert build_task("age", cohort, bins=3).counts == {"under 53.67": 2, "53.67 to 55.33": 2, "55.33 and over": 2}
    with pytest.raises(DataError, match="no image is left"):
        build_task("mimic_5x1200", cohort)


# --- relations


def test_information_and_entropy_of_known_cases():
    target = np.array([0, 0, 1, 1])
    sure = np.eye(2)[target]
    assert relations.entropy(target) == pytest.approx(1)
    assert relations.information(target, sure) == pytest.approx(np.ones(4))
    assert relations.information(target, np.full((4, 2), 0.5)) == pytest.approx(np.zeros(4))
    assert (relations.information(target, 1 - sure) < -10).all()
    assert relations.entropy([0, 0, 0]) == 0


def test_relations_find_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    task = many_per_patient(count=300, patients=100, classes=3, evaluate=0.2)
    target = task.table["target"].to_numpy()
    told = np.eye(3)[target] + rng.normal(0, 0.3, (300, 3))
    features = {"state": told, "image": rng.normal(size=(300, 5))}
    table = relations.relate(task, task.table, task.table["image_id"], features, folds=3, resamples=200)
    table = table.set_index("source")
    assert table.loc["state", "auc"] > 0.95 and table.loc["state", "bits_low"] > 1
    assert table.loc["image", "auc_low"] < table.loc["image", "chance"] + 0.06 and table.loc["image", "bits"] < 0.05
    assert table["entropy"].iloc[0] == pytest.approx(np.log2(3), abs=0.02)
    # Rows of features are found by image, whatever the order of the task's table.
    shuffled = task.table.sample(frac=1, random_state=0)
    again = relations.relate(task, shuffled, task.table["image_id"], features, folds=3, resamples=50)
    assert again.set_index("source").loc["state", "auc"] > 0.95
    with pytest.raises(DataError, match="no row of features"):
        relations.relate(task, task.table, task.table["image_id"].head(10), features)
    with pytest.raises(DataError, match="no model for the source 'smell'"):
        relations.relate(task, task.table, task.table["image_id"], {"smell": told})


def test_held_out_models_never_see_the_patient():
    # The feature is the patient's own number: useless on unseen patients, perfect on seen ones.
    patients = np.repeat(np.arange(60), 4)
    target = np.repeat(np.random.default_rng(1).integers(2, size=60), 4)
    features = np.eye(60)[patients]
    out = relations.held_out_probabilities(features, target, patients, relations.MODELS["report"])
    assert np.abs(out[:, 1] - target.mean()).max() < 0.1
    with pytest.raises(DataError, match="cannot fill"):
        relations.held_out_probabilities(features[:8], target[:8], patients[:8], relations.MODELS["report"])
    with pytest.raises(DataError, match="one class only"):
        relations.held_out_probabilities(features, (patients == 0).astype(int), patients, relations.MODELS["report"])


def test_features_of_text_image_and_state(tmp_path):
    assert relations.report_features(["a small effusion", "no effusion", "clear lungs"]).shape[0] == 3
    root = write_mimic_cxr(tmp_path)
    cohort = load_cohort("mimic_cxr", root, boxes=False)
    features = relations.image_features(root / path for path in cohort.images["path"])
    assert features.shape == (6, 5) and features.dtype == np.float32
    with pytest.raises(FileNotFoundError, match="only the simulated cohort"):
        relations.read_state(root)
    state = pd.DataFrame({"a": np.arange(200) % 2, "b": np.random.default_rng(0).normal(size=200)})
    state.index = [f"5{k:07d}" for k in range(200)]
    bits = relations.state_information(make_task(np.arange(200) % 2).table, state)
    assert bits["a"] > 0.9 and bits["b"] < 0.1


def test_every_task_of_the_paper_has_its_count():
    assert set(PAPER_COUNTS) == {*MIMIC_TASKS, *INSPECT_TASKS}
    assert paths.resolve(task_splits.TRAINING_SIZES).is_file()
