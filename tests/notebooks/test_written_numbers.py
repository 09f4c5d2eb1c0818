"""Numbers that the committed notebooks write, checked with tolerances: `make test` runs this after nbval.

nbval compares text and cannot tolerate a last digit that differs between processors, so cells with such numbers are
marked `nbval-ignore-output` and their files are checked here against `tests/expected/smoke.json`. The tolerances are
what other processors' rounding may do to a training of seconds, not what another method would do: the tests below
that compare methods with each other are exact.

To accept new numbers after an intended change: `make notebooks`, then
`PKD_RUNS=_build/smoke-runs python tests/notebooks/test_written_numbers.py`.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from pkd_utils.encoders.tokens.stored import TokenStore
from pkd_utils.runs import paths, run
from pkd_utils.runs.files import read_json, write_json

EXPECTED = Path(__file__).parent / "expected" / "smoke.json"
STUDY = "mmpkd/embedded"
REPORTS = "reports/embedded"


def step(name: str, study: str = STUDY) -> Path:
    return run.find_run(f"{study}/{name}/smoke")


@functools.cache
def written() -> dict[str, float]:
    """The numbers that are compared, by name."""
    return written_mmpkd() | written_reports()


def written_mmpkd() -> dict[str, float]:
    """Of the study of attention."""
    prepared, teacher, students = step("01-prepare-data"), step("02-train-teacher"), step("03-distil-student")
    pixels = np.load(prepared / "pixels.npy", mmap_mode="r")
    metrics = pd.read_csv(teacher / "metrics.csv")
    table = pd.read_csv(students / "students.csv")
    history = pd.read_csv(students / "history.csv")
    maps = pd.read_csv(step("04-evaluate-attention") / "per_student.csv")
    numbers = {"images": len(pixels), "mean pixel": float(pixels.mean())}
    numbers["boxes"] = len(pd.read_parquet(prepared / "boxes.parquet"))
    macro = metrics.query("split == 'test' and label == 'macro'")
    numbers["teacher test AUROC"] = float(macro["auroc"].mean())
    for weight, rows in table.groupby("weight"):
        numbers[f"student test AUROC, lambda {weight:g}"] = float(rows["test_auroc"].mean())
    for weight, rows in history[history["epoch"] == 1].groupby("weight"):
        numbers[f"first epoch's loss, lambda {weight:g}"] = float(rows["train_loss"].mean())
    for weight, rows in maps.groupby("weight"):
        numbers[f"attention AUROC, lambda {weight:g}"] = float(rows["pixel_auroc"].mean())
    return numbers


def written_reports() -> dict[str, float]:
    """Of the study of reports."""
    prepared, encoded, taught = (step(name, REPORTS) for name in ("01-prepare-tasks", "02-encode", "03-train-teachers"))
    tasks, splits = (pd.read_parquet(prepared / f"{name}.parquet") for name in ("tasks", "splits"))
    numbers = {f"{task}: images": len(rows) for task, rows in tasks.groupby("task")}
    numbers["reports: images in splits"] = len(splits)
    numbers["reports: evaluation images"] = int((splits["part"] == "evaluate").sum())
    relations = pd.read_csv(prepared / "relations.csv").set_index(["task", "source"])["auc"]
    for task, source in (("mimic_5x1200", "report"), ("age", "state"), ("ph_12_month", "state")):
        numbers[f"{task} read from the {source}, AUROC"] = float(relations[task, source])
    store = TokenStore(encoded / "tokens")
    numbers["mean size of a token"] = float(store.batch(range(store.rows), 0).float().norm(dim=2).mean())
    files = sorted((taught / "heads").glob("*/history.parquet"))
    history = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True).query("epoch == 1")
    for name, rows in history.groupby(history["name"].str.split(".").str[0]):
        numbers[f"reports: first epoch's loss, {name}"] = float(rows["train_loss"].mean())
    scores = pd.read_parquet(taught / "scores.parquet")
    numbers["reports: Brier score, teacher"] = float(scores.loc[scores["method"] == "teacher", "brier"].mean())
    table = pd.read_csv(step("07-ablations", REPORTS) / "ablations.csv").query("column == 'auc'")
    numbers["mean probe minus attention head, AUROC"] = float(table["difference"].mean())
    return numbers


TOLERANCE = {"size of a token": 0.05, "images": 0, "boxes": 3, "mean pixel": 0.05}
TOLERANCE |= {"loss": 0.005, "Brier": 0.03, "AUROC": 0.03}

pytestmark = pytest.mark.skipif(
    not (paths.runs_dir() / STUDY / "05-compare" / "smoke").exists(),
    reason="no smoke runs in PKD_RUNS: `make test` makes them by running the notebooks before this file",
)


@pytest.mark.parametrize("name", list(json.loads(EXPECTED.read_text())))
def test_number(name):
    expected, found = json.loads(EXPECTED.read_text())[name], written()[name]
    tolerance = next(value for key, value in TOLERANCE.items() if key in name)
    assert found == pytest.approx(expected, abs=tolerance)


def test_soft_labels_change_the_student():
    folder = step("03-distil-student") / "students"
    first, second = (load_file(folder / f"{name}-t1-fold0-seed0" / "model.safetensors") for name in ("w0", "w0.5"))
    assert first.keys() == second.keys()
    assert any(not np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("folder", "table", "each", "part"),
    [
        (f"{STUDY}/01-prepare-data", "images", ["fold"], "split"),
        (f"{REPORTS}/01-prepare-tasks", "tasks", ["task", "seed"], "part"),
    ],
)
def test_no_patient_is_on_both_sides(folder, table, each, part):
    folder = run.find_run(f"{folder}/smoke")
    of, splits = (pd.read_parquet(folder / f"{name}.parquet") for name in (table, "splits"))
    merged = splits.merge(of[["image_id", "patient_id", *set(each) & set(of)]].drop_duplicates())
    assert merged.groupby([*each, "patient_id"])[part].nunique().max() == 1


def test_table1_is_the_mean_of_the_rows_it_summarises():
    rows = pd.read_parquet(step("04-evaluate-attention") / "per_image.parquet")
    table = pd.read_csv(step("05-compare") / "table1.csv").set_index("metric")
    for column, name in {"pixel_auroc": "Obj. AUROC", "iou": "IoU", "fpr": "FPR"}.items():
        for weight, method in ((0.0, "baseline"), (0.5, "mmpkd")):
            seeds = rows[rows["weight"] == weight].groupby("seed")[column].mean()
            assert table.loc[name, f"{method}_mean"] == pytest.approx(seeds.mean())
            assert table.loc[name, f"{method}_sd"] == pytest.approx(seeds.std(ddof=1))


def test_sample_efficiency_is_the_mean_of_the_heads_it_summarises():
    scores = pd.read_parquet(step("03-train-teachers", REPORTS) / "scores.parquet").query("method == 'image_only'")
    table = pd.read_csv(step("05-sample-efficiency", REPORTS) / "table.csv")
    mean = scores.groupby(["task", "size", "encoder"])["auc"].mean()
    assert len(table) == len(mean) > 0
    for row in table.itertuples():
        assert row.auc == pytest.approx(mean[row.task, row.size, row.encoder])


def test_students_are_held_against_other_heads_of_their_seed():
    scores = pd.read_parquet(step("06-distillation-effect", REPORTS) / "scores.parquet")
    table = pd.read_csv(step("06-distillation-effect", REPORTS) / "differences.csv")
    wide = scores.pivot_table(index=["task", "encoder", "size", "seed"], columns="method", values="auc")
    students = {"self_distilled", "self_restart", "permuted_distilled", "report_distilled"}
    assert set(table["method"]) == {"image_restart", "teacher", "text_only", "mean_probe", *students}
    for row in table.itertuples():
        heads = wide.loc[row.task, row.encoder, row.size]
        assert row.difference == pytest.approx((heads[row.method] - heads[row.against]).mean())
    against = table.loc[table["against"] != "image_only", ["method", "against"]].drop_duplicates()
    controls = ("permuted_distilled", "self_distilled", "self_restart")
    assert sorted(map(tuple, against.to_numpy())) == [("report_distilled", control) for control in controls]


def test_an_ablation_holds_each_probe_against_the_attention_head_of_its_seed():
    scores = pd.read_parquet(step("03-train-teachers", REPORTS) / "scores.parquet")
    table = pd.read_csv(step("07-ablations", REPORTS) / "ablations.csv").query("axis == 'method'")
    assert len(table) > 0
    for row in table.itertuples():
        wide = scores.query("task == @row.task and size == @row.size").pivot(index="seed", columns="method")[row.column]
        assert row.difference == pytest.approx((wide["mean_probe"] - wide["image_only"]).mean())


def test_published_numbers_stand_beside_ours():
    table = pd.read_csv(step("05-compare") / "table1.csv").set_index("metric")
    reported = pd.read_csv(paths.resolve("book/reported/mmpkd-table1.csv"))
    reported = reported[reported["dataset"] == "MIMIC-CXR"].set_index(["metric", "method"])
    for name in table.index:
        assert table.loc[name, "paper_mmpkd_mean"] == reported.loc[(name, "MMPKD"), "mean"]
        assert table.loc[name, "paper_baseline_mean"] == reported.loc[(name, "Baseline"), "mean"]


def test_every_run_is_marked_simulated_and_carries_provenance():
    files = [f for study in (STUDY, REPORTS) for f in (paths.runs_dir() / study).glob("*/*-*/run.json")]
    assert len(files) >= 12
    for record_file in files:
        record = read_json(record_file)
        assert record["cohort"]["simulated"] is True
        assert record["data_hash"] and record["environment_hash"] and record["device"]


if __name__ == "__main__":
    write_json(EXPECTED, {name: round(value, 4) for name, value in written().items()})
