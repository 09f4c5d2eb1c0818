"""Tasks: every rule on hand-made tables."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks import base, mimic, outcomes
from pkd_utils.cohorts.tasks import splits as task_splits
from pkd_utils.cohorts.tasks.age import age, bin_edges, bin_names, rebin
from pkd_utils.cohorts.tasks.base import SplitRule, Task
from pkd_utils.cohorts.tasks.build import EmptyClassError, build_task, count_variants
from pkd_utils.runs.errors import DataError
from tests.cohorts.fixtures import cell, edit_csv, write_covid_chestxray, write_mimic_cxr
from tests.cohorts.tasks.fixtures import BLANK, DAY, make_cohort


def refused(message, *arguments, error=DataError, **options):
    with pytest.raises(error, match=message):
        build_task(*arguments, **options)


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
    assert tuple(mimic.one_of_five(labels, rule)["s"] for rule in get_args(mimic.CoLabels)) == expected


def test_no_finding_does_not_exclude_and_odd_labels_are_refused(tmp_path):
    assert "No Finding" not in mimic.REST and len(mimic.REST) == 8
    cohort = make_cohort(pd.DataFrame({"view": ["PA"]}), [write_labels(tmp_path, [label_row(A=2)])])
    refused("data row 1 has Atelectasis '2', which is not 1, 0, -1", "mimic_5x1200", cohort)


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
    assert task.split == SplitRule(per_class=(1000, 200), fixed=True) and task.kind == "diagnostic"
    assert not build_task("mimic_5x1200", cohort, drawn="each_seed").split.fixed
    two = build_task("mimic_5x1200", cohort, findings=["Consolidation", "Edema"])
    assert two.table["study_id"].tolist() == ["50000002", "50000004"] and two.table["target"].tolist() == [1, 0]
    refused("name one twice", "mimic_5x1200", cohort, findings=["Edema", "Edema"])


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
    for values, bins in (([5, 5, 5], 5), ([], 5), ([1, 2, 2, 2, 2, 2, 2], 3), ([1, 1, 1, 2, 3, 4], 3)):
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
    refused("no column age", "age", make_cohort(pd.DataFrame({"view": ["PA"]})))


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

    names = ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "hospital_expire_flag", "edregtime"]
    table = [
        (f"1{p:07d}", stay, moment(begin), moment(end), moment(end) if died else "", int(died), moment(*rest or [None]))
        for p, stay, begin, end, died, *rest in rows
    ]
    file = folder / "admissions.csv.gz"
    pd.DataFrame(table, columns=names).to_csv(file, index=False)
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
    stays += [(2, 24, 0, 500, False), (3, 25, 0, 300, False), (3, 26, 0, 60, False)]
    file = write_stays(tmp_path, stays)
    task = build_task("discharge_3_day", films([50, 150, 45, 10, 50], [0, 0, 1, 2, 3], file))
    # 50 h before the inner stay's end; the outer one alone; no usable stay; the one of two that ended first.
    assert targets(task) == {0: 1, 1: 1, 3: 0, 4: 1}
    assert "2 studies in several stays" in task.funnel["note"].iloc[2]
    assert "2 stays without usable times" in task.funnel["note"].iloc[2]


def test_of_stays_with_the_same_times_the_first_by_number_is_taken():
    studies = pd.DataFrame({"study_id": ["s"], "patient_id": ["p"], "study_datetime": [DAY]})
    stays = pd.DataFrame({"patient_id": "p", "stay_id": ["9", "10", "8"], "start": DAY, "end": DAY, "died": False})
    joined, several = mimic.join_stays(studies, stays)
    assert joined["stay_id"].tolist() == ["10"] and several == 1


def test_deaths_images_of_a_stay_and_arrival_are_choices(tmp_path):
    file = write_stays(tmp_path, [(0, 20, 0, 60, True), (1, 21, 0, 200, False, -5), (2, 22, 0, 60, False)])
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
    # Both last films see the end within three days.
    refused("no image is left of class stays longer", "discharge_3_day", cohort, error=EmptyClassError, per_stay="last")


def test_discharge_refuses_broken_tables(tmp_path):
    cohort = films([1], [0], tmp_path / "admissions.csv.gz")
    refused("admissions", "discharge_3_day", cohort, error=FileNotFoundError)
    refused("has no table of MIMIC-IV; give the loader mimic_iv_root", "discharge_3_day", make_cohort(cohort.images))
    refused("no study times", "discharge_3_day", make_cohort(pd.DataFrame({"view": ["PA"]})))
    write_stays(tmp_path, [(0, 20, 0, 60, False), (0, 20, 70, 80, False)])
    refused("occurs more than once", "discharge_3_day", cohort)
    edit_csv(write_stays(tmp_path, [(0, 20, 0, 60, False)]), cell("admittime", "yesterday"))
    refused("data row 1 has admittime 'yesterday', which is not a time", "discharge_3_day", cohort)


def test_one_image_a_study_is_the_first_in_time_then_by_name():
    images = pd.DataFrame({"image_id": ["c", "b", "a", "d"], "patient_id": list("pppq"), "study_id": list("ssst")})
    images["study_datetime"] = [DAY, DAY, DAY + pd.Timedelta(hours=1), DAY]
    cohort = make_cohort(images)
    assert base.select_images(cohort, one_per="study")[0]["image_id"].tolist() == ["b", "d"]
    assert base.take_one(images, "study", last=True)["image_id"].tolist() == ["a", "d"]
    table = base.make_table(images.iloc[[3, 0]], [0, 1])
    assert list(table.columns) == ["image_id", "patient_id", "study_id", "target"] and list(table.index) == [0, 1]
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
    assert task.split == SplitRule(evaluate=0.25, balance="patient", fixed=True)
    assert task.funnel["note"].iloc[-1] == "about 2 of each class; which ones is drawn once"
    assert not build_task("ph_12_month", cohort, labels=labels, drawn="each_seed").split.fixed
    by_image = build_task("ph_12_month", cohort, labels=labels, balance="image")
    assert by_image.split.balance == "image" and by_image.funnel["note"].iloc[-1].startswith("2 of each")


def test_outcomes_refuse_what_they_do_not_know():
    cohort = make_cohort(pd.DataFrame({"view": ["PA"] * 3}))
    for values, message in (
        (["True", "maybe", "False"], "1 value.* first is 'maybe'"),
        (["True", None, "False"], "not True, False or Censored"),
        (["True", "True", "Censored"], "no image is left of class no PH"),
    ):
        refused(message, "ph_12_month", cohort, labels=inspect_labels(values))
    refused("needs `labels`", "readmission_12_month", cohort)
    refused("'pe_positive_nlp'", "pulmonary_embolism", cohort, labels=inspect_labels(["True"]))
    twice = pd.concat([inspect_labels(["True", "False"]), inspect_labels(["Censored"])])
    refused("two different values", "ph_12_month", cohort, labels=twice)
    same = pd.concat([inspect_labels(["True", "False"]), inspect_labels(["True"])])
    task = build_task("ph_12_month", cohort, labels=same)
    assert len(task.table) == 2 and task.kind == "prognostic" and task.choices["column"].endswith(" (stated)")


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
    refused("without label 'intubated'", "intubated", cohort)


@pytest.mark.shared
def test_covid_tasks_of_the_real_table(shared_data):
    labels = ("went_icu", "in_icu", "intubated", "death", "COVID-19")
    cohort = load_cohort("covid_chestxray", shared_data / "covid-chestxray", labels=labels)
    for name in (*outcomes.COVID, "age"):
        options = {"edges": "quantile", "stratify": True, "evaluate": 0.25} if name == "age" else {}
        task = build_task(name, cohort, **options)
        for seed in range(3):
            task_splits.check_split(task_splits.split_task(task, seed), task)


# --- Open-i


def openi_cohort(rows):
    """A cohort of one image a study whose labels are 1 where named."""
    labels = [*outcomes.OPENI_FINDINGS, "Abnormal"]
    named = {"C": "Cardiomegaly", "A": "Atelectasis", "P": "Pleural Effusion", "O": "Opacity", "x": "Abnormal"}
    table = pd.DataFrame([{label: float(label in {named[c] for c in row}) for label in labels} for row in rows])
    return replace(make_cohort(table), labels=labels)


def test_one_of_five_on_open_i():
    cohort = openi_cohort(["Cx", "Ax", "Px", "Ox", "", "x", "COx", "Cx", "", "APOx"])
    task = build_task("openi_five", cohort)
    assert task.classes == ("cardiomegaly", "atelectasis", "pleural effusion", "opacity", "normal")
    assert targets(task) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 7: 0, 8: 4}
    assert task.funnel["note"].iloc[-1] == "2 images with several, 1 with none"
    assert task.split == SplitRule(evaluate=0.25, stratify=True)
    refused("without label 'Abnormal'", "openi_five", replace(cohort, labels=list(outcomes.OPENI_FINDINGS)))


def test_each_finding_of_open_i_and_abnormal_hold_out_the_same_images():
    cohort = openi_cohort(["Cx", "", "COx", "x", "Px", "Ax", "", "Ox"] * 20)
    held = []
    for name, (title, kind, classes, label) in outcomes.OPENI.items():
        task = build_task(name, cohort, stratify=False)
        assert (task.title, task.kind, task.classes) == (title, kind, classes) and kind == "diagnostic"
        assert task.table["target"].tolist() == cohort.images[label].tolist()
        split = task_splits.split_task(task, 3)
        held.append(set(split.loc[split["part"] == "evaluate", "image_id"]))
    findings = ("abnormal", "cardiomegaly", "atelectasis", "pleural_effusion", "opacity")
    assert list(outcomes.OPENI) == [f"openi_{finding}" for finding in findings]
    assert all(images == held[0] for images in held)


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
    refused(f"^{message}", name, make_cohort(pd.DataFrame({"view": ["PA"]})), **options)


def test_the_loader_and_the_tasks_fit_together(tmp_path):
    root = write_mimic_cxr(tmp_path)
    write_stays(root / "hosp", [(32 + k, 20 + k, 0, 30 + 39 * k, False) for k in range(6)])
    cohort = load_cohort("mimic_cxr", root, boxes=False)
    # The made-up films are taken on 2180-05-06 at 09:30, so start the stays a day before.
    edit_csv(root / "hosp" / "admissions.csv.gz", lambda table: table.assign(admittime="2180-05-05 12:00:00"))
    task = build_task("discharge_3_day", cohort)
    assert task.counts == {"stays longer": 4, "discharged within 3 days": 2}
    assert build_task("age", cohort, bins=3).counts == {"under 53.67": 2, "53.67 to 55.33": 2, "55.33 and over": 2}
    refused("no image is left", "mimic_5x1200", cohort)
