"""Splits that keep patients apart, nested training sizes, and files that name nobody."""

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts.tasks import splits as task_splits
from pkd_utils.cohorts.tasks.base import SplitRule
from pkd_utils.runs.errors import DataError
from tests.cohorts.tasks.fixtures import make_task, many_per_patient

# --- splits


@pytest.mark.parametrize(
    "rule",
    [
        {"evaluate": 0.1},
        {"evaluate": 0.25, "balance": "image"},
        {"evaluate": 0.25, "balance": "patient"},
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
            # Three images a patient: by whole patients at most one too many or too few.
            assert split["target"].mean() == pytest.approx(0.5, abs=0.01 if rule["balance"] == "patient" else 0)
        assert not split["image_id"].duplicated().any()
        assert (split["rank"][held] == -1).all() and (split["half"][~held] == -1).all()
        assert sorted(split["rank"][~held]) == list(range((~held).sum()))
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
    mixed = good.copy()
    mixed.loc[rows, "part"] = "evaluate"
    mixed.loc[rows, "half"] = np.resize([0, 1], rows.sum())
    with pytest.raises(DataError, match="halves"):
        task_splits.check_split(mixed, task)


@pytest.mark.parametrize("flip", [False, True])
def test_balancing_by_patient_draws_those_without_the_event_whole(flip):
    """Ten patients with the event, five of them at one of three visits; forty without, three visits each."""
    event = np.repeat([[1, 0, 0], [1, 1, 1], [0, 0, 0]], [5, 5, 40], axis=0)
    targets, patients = event.reshape(-1) ^ flip, np.repeat(np.arange(50), 3)
    task = make_task(targets, patients, SplitRule(evaluate=0.25, balance="patient"))
    without = set()
    for seed in range(6):
        kept = task.table[task.table["image_id"].isin(task_splits.split_task(task, seed)["image_id"])]
        assert set(kept.groupby("patient_id").size()) == {3}  # whole
        drawn = set(kept["patient_id"].str[1:].astype(int))
        assert set(range(10)) < drawn
        # 20 images of the event; 10 of its patients without it, so 3 patients more come nearest (19).
        assert kept["target"].value_counts().to_dict() == {1 ^ flip: 20, 0 ^ flip: 19}
        without.add(frozenset(drawn - set(range(10))))
    assert len(without) > 1
    image = make_task(targets, patients, SplitRule(evaluate=0.25, balance="image"))
    assert task_splits.split_task(image, 0)["target"].value_counts().to_dict() == {0: 20, 1: 20}


def test_a_fixed_balanced_set_is_drawn_once_and_every_seed_divides_it():
    targets = np.repeat([1, 0], [20, 100])
    for once in (True, False):
        task = make_task(targets, np.arange(120), SplitRule(evaluate=0.25, balance="patient", fixed=once))
        found = [task_splits.split_task(task, seed) for seed in range(3)]
        assert len({frozenset(split["image_id"]) for split in found}) == (1 if once else 3)
        held = {frozenset(split.loc[split["part"] == "evaluate", "image_id"]) for split in found}
        assert len(held) == 3
        held = [task_splits.split_task(task, seed, evaluation_seed=7)["part"].tolist() for seed in range(2)]
        assert held[0] == held[1]


def test_a_fixed_set_is_divided_once_and_seeds_draw_its_subsets():
    fixed, drawn = (many_per_patient(count=900, per_class=(60, 20), fixed=once) for once in (True, False))
    parts = {}
    for task in (fixed, drawn):
        found = [task_splits.split_task(task, seed) for seed in range(3)]
        for name in ("train", "evaluate"):
            parts[task.split.fixed, name] = {frozenset(s.loc[s["part"] == name, "image_id"]) for s in found}
        assert len({frozenset(task_splits.subset(split, 10)["image_id"]) for split in found}) == 3
    assert [len(found) for found in parts.values()] == [1, 1, 3, 3]
    halves = [task_splits.split_task(fixed, seed)["half"].tolist() for seed in range(2)]
    assert halves[0] == halves[1]
    other = task_splits.split_task(fixed, 0, evaluation_seed=7)
    assert set(other.loc[other["part"] == "evaluate", "image_id"]) not in parts[True, "evaluate"]


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
    for options in ({"seed": -1}, {"seed": 0, "evaluation_seed": -2}):
        with pytest.raises(DataError, match=r"split_task: .* input should be"):
            task_splits.split_task(make_task([0, 1] * 20), **options)


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
    assert sizes["fraction"].tolist() == [100 / smallest, smallest // 2 / smallest, 1.0]
    assert list(sizes.columns) == ["task", "fraction", "samples", "epochs", "source"]
    assert sizes["epochs"].tolist() == [3] * 3 and set(sizes["source"]) == {"chosen here"}
    with pytest.raises(DataError, match=f"smallest training part of the seeds has {smallest}"):
        task_splits.choose_sizes("age", splits, [smallest + 1], epochs=3)
    with pytest.raises(DataError, match="3171 training images"):
        task_splits.choose_sizes("age", splits)
    for epochs in (0, [3, 4], [0]):
        with pytest.raises(DataError, match="epochs of your own"):
            task_splits.choose_sizes("age", splits, [10], epochs)
    by_size = task_splits.choose_sizes("age", splits, [0.5, 100, 1.0], epochs=[5, 9, 2])
    assert dict(zip(by_size["samples"], by_size["epochs"], strict=True)) == {100: 9, smallest // 2: 5, smallest: 2}


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
