"""Which heads a study gives rise to, and how they are scored."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from pkd_utils.cohorts.tasks.splits import subset
from pkd_utils.distillation.heads.data import MemoryTokens
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import micro_auroc
from pkd_utils.studies.reports import heads
from pkd_utils.studies.reports.heads import Study, head_specs, task_targets, train


class Memory(MemoryTokens):
    """Tokens in memory that know their images, as a TokenStore does."""

    def __init__(self, tokens, image_ids):
        super().__init__(tokens)
        self.image_ids = image_ids

    def subset(self, image_ids):
        rows = [self.image_ids.index(i) for i in image_ids]
        return Memory(self.tokens[:, rows], list(image_ids))


def tiny_study(n=48, seeds=(0, 1)):
    """Two classes, told by the first four numbers of the tokens; every image has a patient of its own."""
    rng = np.random.default_rng(0)
    ids = [f"i{k:03d}" for k in range(n)]
    target = rng.permutation(n) % 2
    tokens = torch.from_numpy(rng.normal(0, 1, (2, n, 5, 8))).float()
    tokens[..., :4] += torch.from_numpy(2.0 * target - 1)[:, None, None]  # not all eight: layer norm takes the mean
    splits = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(n)
        held = np.isin(np.arange(n), order[: n // 3])
        rank = np.full(n, -1)
        rank[order[n // 3 :]] = np.arange(n - n // 3)
        half = np.where(held, np.arange(n) // 2 % 2, -1)
        columns = {"image_id": ids, "part": np.where(held, "evaluate", "train"), "target": target, "rank": rank}
        splits.append(pd.DataFrame({"task": "age", "seed": seed, **columns, "half": half}))
    sizes = pd.DataFrame({"task": "age", "fraction": [0.25, 1.0], "samples": [8, 32], "epochs": [2, 3]})
    tasks = {"age": {"title": "Age", "kind": "auxiliary", "classes": ["young", "old"]}}
    shuffled = rng.permutation(n)  # the store's order is not the task's
    store = Memory(tokens[:, shuffled], [ids[k] for k in shuffled])
    return Study("mrm", store, None, tasks, pd.concat(splits, ignore_index=True), sizes, pd.Series(ids, index=ids))


def test_heads_are_methods_times_sizes_times_seeds_and_teachers_are_added():
    study = tiny_study()
    specs = head_specs(study, "age", ["self_distilled"], temperatures=[0.25, 2.5], weights=[0.5, 0.75])
    methods = pd.Series([s.method for s in specs]).value_counts()
    assert methods.to_dict() == {"self_distilled": 2 * 2 * 2 * 2, "image_only": 2 * 2}
    assert {s.method for s in head_specs(study, "age", ["self_restart"])} == {"self_restart", "image_restart"}
    by_name = {s.name: s for s in specs}
    assert {"image_only.n8.seed1", "self_distilled.n32.seed0.lambda0.75.tau2.5"} < set(by_name)
    for spec in specs:
        assert len(spec.train_rows) in (8, 32)
        if spec.teacher:
            assert (by_name[spec.teacher].method, by_name[spec.teacher].seed) == ("image_only", spec.seed)
            np.testing.assert_array_equal(by_name[spec.teacher].train_rows, spec.train_rows)
    assert {s.epochs for s in specs if len(s.train_rows) == 32} == {3}


def test_rows_are_the_splits_rows_subsets_are_nested_and_nested_selection_chooses_on_other_patients():
    study = tiny_study()
    ids, split = study.rows_of("age"), study.splits[study.splits["seed"] == 1]
    small, large = head_specs(study, "age", ["image_only"], seeds=[1])
    assert [ids[r] for r in small.train_rows] == subset(split, 8)["image_id"].tolist()
    assert set(small.train_rows) < set(large.train_rows)
    assert {ids[r] for r in small.validation_rows} == set(split.loc[split["part"] == "evaluate", "image_id"])
    for spec in head_specs(study, "age", ["image_only"], seeds=[1], selection="nested"):
        assert not set(spec.validation_rows) & set(spec.test_rows)
        assert set(spec.validation_rows) | set(spec.test_rows) == set(small.validation_rows)


def test_scores_are_those_of_the_images_by_name():
    """The store's order differs from the task's: a mix-up of rows would give chance."""
    study = tiny_study()
    specs = head_specs(study, "age", ["image_only"], epochs=30, learning_rate=1e-2)
    _, scores, tables, _ = train(study, "age", specs, None)
    assert scores.groupby("size")["auc"].mean().loc[32] > 0.9
    truth = study.splits.drop_duplicates("image_id").set_index("image_id")["target"]
    assert (tables["target"] == tables["image_id"].map(truth)).all()
    for head, table in tables.groupby("head"):
        auc = micro_auroc(table["target"], softmax(table[["class_0", "class_1"]].to_numpy(np.float64), axis=1))
        assert auc == pytest.approx(scores.set_index("head").loc[head, "auc"])


def test_three_choices_of_the_epoch():
    study = tiny_study()
    specs = head_specs(study, "age", ["image_only"], epochs=6, learning_rate=1e-3)
    results, scores, _, _ = train(study, "age", specs, None)
    scores = scores.set_index("head")
    targets = task_targets(study, "age")
    for spec in specs:
        row, truth = scores.loc[spec.name], targets[spec.validation_rows]
        every = [softmax(results.logits(spec.name, "validation", e).double().numpy(), axis=1) for e in range(1, 7)]
        aucs = [micro_auroc(truth, values) for values in every]
        assert row["auc"] == pytest.approx(max(aucs)) and row["auc_last"] == pytest.approx(aucs[-1])
        half = study.splits[study.splits["seed"] == spec.seed].set_index("image_id")["half"]
        half = half.loc[[study.rows_of("age")[r] for r in spec.validation_rows]].to_numpy()
        expected = []
        for side in (0, 1):
            by_other = np.argmax([micro_auroc(truth[half != side], e[half != side]) for e in every])
            expected.append(micro_auroc(truth[half == side], every[by_other][half == side]))
        assert row["auc_other_half"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"methods": ["guess"]}, "methods.0 = 'guess'"),
        ({"selection": "best"}, "selection = 'best'"),
        ({"seeds": [7]}, "seed or size 7"),
        ({"sizes": [9]}, "seed or size 9"),
    ],
)
def test_what_was_not_prepared_is_refused(change, sentence):
    with pytest.raises(DataError, match=sentence):
        head_specs(tiny_study(), "age", **{"methods": ["image_only"], **change})
    with pytest.raises(DataError, match="no task 'sex'"):
        head_specs(tiny_study(), "sex", ["image_only"])


CROPS = {"views": 8, "crop_scale": [0.4, 0.9]}
TASKS, OTHER_TASKS, ENCODED = (
    f"reports/a/{run}" for run in ("01-prepare-tasks/t", "01-prepare-tasks/u", "02-encode/mrm")
)


def write_run(folder, reference, parameters, rows=None, **record):
    """A finished run, of which only what is read is there; its reference."""
    files.write_json(folder / reference / "run.json", {"parameters": parameters, **record})
    if rows is not None:
        files.write(folder / reference / "scores.parquet", pd.DataFrame(rows))
    return reference


@pytest.fixture
def root(root, monkeypatch):
    """A run that prepared tasks, three of 02-encode on them, one on others; only what `load_study` reads of them."""
    study, prepared = tiny_study(), root / TASKS
    files.write(prepared / "images.parquet", pd.DataFrame({"image_id": study.study_of}))
    privileged = pd.DataFrame({"text": ""}, index=pd.Index(study.study_of, name="image_id"))
    files.write(prepared / "privileged.parquet", privileged)
    files.write(prepared / "splits.parquet", study.splits)
    files.write(prepared / "sizes.csv", study.sizes)
    files.write_json(prepared / "tasks.json", study.tasks)
    write_run(root, TASKS, {})
    for name, tasks in (("mrm", "1"), ("c2l", "1"), ("other_text", "1"), ("other_tasks", "2")):
        parameters = {"tasks_run": TASKS, "image_encoder": "c2l" if name == "c2l" else "mrm", **CROPS}
        run = root / write_run(root, f"reports/a/02-encode/{name}", parameters, upstream={TASKS: tasks})
        (run / "text").mkdir()
        files.write_json(run / "encoding.json", {"mode": "stored"})
    monkeypatch.setattr(heads, "TextStore", lambda folder: folder.parent.name)
    return root


def test_reports_can_come_from_another_run_of_the_same_tasks(root):
    assert heads.load_study(ENCODED).text == "mrm"
    assert heads.load_study(ENCODED, text_run="reports/a/02-encode/other_text").text == "other_text"
    with pytest.raises(DataError, match="are of different tasks: encode the reports of reports/a/01-prepare-tasks/t"):
        heads.load_study(ENCODED, text_run="reports/a/02-encode/other_tasks")


def test_scores_of_several_runs_are_joined_one_head_a_seed_and_cohorts_by_task(root):
    head = {"encoder": "mrm", "task": "age", "method": "image_only", "seed": 0, "size": 8, "auc": 0.7}
    elsewhere = write_run(
        root, "reports/a/02-encode/elsewhere", {"tasks_run": OTHER_TASKS, "image_encoder": "mrm", **CROPS}
    )
    files.write_json(root / elsewhere / "encoding.json", {"mode": "stored"})
    stay = {"task": "discharge_3_day", "part": ["train", "train", "train", "evaluate"]}
    files.write(root / OTHER_TASKS / "splits.parquet", pd.DataFrame(stay))
    prepared = {"discharge_3_day": {"title": "3-Day Discharge"}, "age": {"title": "Age of others"}}
    files.write_json(root / OTHER_TASKS / "tasks.json", prepared)
    write_run(root, OTHER_TASKS, {})
    other = "reports/a/03-train-teachers/other"

    one = write_run(root, "reports/a/03-train-teachers/one", {"encode_run": ENCODED}, [head])
    students = [head | {"method": "report_distilled"}]
    runs = [one, write_run(root, "reports/a/04-distil-students/one", {"teachers_run": one}, students)]
    scores = heads.read_scores(runs)
    assert scores.rows["method"].tolist() == ["image_only", "report_distilled"]
    assert scores.titles == {"age": "Age"} and scores.cohorts == {"age": TASKS}
    split = tiny_study().splits.query("task == 'age'")
    assert scores.shares == {"age": pytest.approx((split["part"] == "evaluate").mean())}
    joint = [*runs, write_run(root, other, {"encode_run": elsewhere}, [head])]
    with pytest.raises(DataError, match=r"/t and \S*/u both have age: give runs of different tasks"):
        heads.read_scores(joint)
    write_run(root, other, {"encode_run": elsewhere}, [head | {"task": "discharge_3_day"}])
    scores = heads.read_scores(joint)
    assert scores.titles == {"age": "Age", "discharge_3_day": "3-Day Discharge"}
    assert scores.shares["discharge_3_day"] == 0.25 and scores.cohorts["discharge_3_day"] == OTHER_TASKS
    assert heads.crops_of(runs) == "8 kept of each image, 40% to 90% of its area"
    rows = heads.read_scores(runs).rows.assign(encoder="c2l")
    c2l = [*runs, write_run(root, "reports/a/03-train-teachers/c2l", {"encode_run": "reports/a/02-encode/c2l"}, rows)]
    assert len(heads.read_scores(c2l).rows) == 4
    files.write_json(root / "reports/a/02-encode/c2l/encoding.json", {"mode": "live"})
    with pytest.raises(DataError, match=r"different crops .*mrm: 8 kept.*; c2l: fresh in every epoch, "):
        heads.read_scores(c2l)
    with pytest.raises(DataError, match="2 heads of one kind a seed: give runs with one temperature"):
        heads.read_scores([runs[1], runs[1]])


def test_heads_of_several_settings_are_kept_apart_by_weight_temperature_and_text_encoder(root):
    text = {"tasks_run": TASKS, "image_encoder": "mrm", **CROPS, "text_encoder": "minilm", "text_layer": "last"}
    text |= {"variant": "whole", "text_run": "", "text_weights": "a/folder"}
    others = {"mrm": {"text_run": "reports/a/02-encode/words"}, "words": {}, "sum": {"text_layer": "sum_last_4"}}
    others |= {"short": {"variant": "names_removed"}, "random": {"text_weights": "random"}}
    for name, changed in others.items():
        write_run(root, f"reports/a/02-encode/{name}", text | changed)
    head = {"encoder": "mrm", "task": "age", "seed": 0, "size": 8, "weight": np.nan, "temperature": np.nan}
    plain = [head | {"method": "image_only", "auc": 0.7}]
    students = [head | {"method": "report_distilled", "weight": 0.75, "temperature": t, "auc": 0.7} for t in (1, 2)]
    teachers = {"encode_run": ENCODED, "epochs": 0, "selection": "paper", "batch_size": 64}
    teachers |= {"learning_rate": 1e-4, "dropout": 0.2}
    runs = []
    for name in ("one", "sum", "short", "random"):
        text_run = "" if name == "one" else f"reports/a/02-encode/{name}"
        first = write_run(root, f"reports/a/03-train-teachers/{name}", teachers | {"text_run": text_run}, plain)
        runs += [first, write_run(root, f"reports/a/04-distil-students/{name}", {"teachers_run": first}, students)]
    rows = heads.read_scores(runs, several=True).rows
    readers = ("MiniLM", "MiniLM, sum last 4", "MiniLM, names removed", "MiniLM, random weights")
    expected = {("image_only", ""): 1} | {("report_distilled", reader): 2 for reader in readers}
    assert rows.groupby(["method", "reader"]).size().to_dict() == expected
    write_run(root, runs[0], teachers | {"text_run": "", "epochs": 9}, plain)
    with pytest.raises(DataError, match=r"The runs of 03 differ in epochs \([09], [09]\): give alike ones"):
        heads.read_scores(runs, several=True)


def test_heads_that_another_run_has_trained_are_found_done(tmp_path):
    study = tiny_study()
    specs = head_specs(study, "age", ["image_only"])
    first = train(study, "age", specs, tmp_path / "a")
    inode = {file.name: file.stat().st_ino for file in (tmp_path / "a").glob("group-*.safetensors")}
    again = train(study, "age", specs, tmp_path / "b", finished=[tmp_path / "a"])
    assert first.seconds > 0 == again.seconds
    assert inode == {file.name: file.stat().st_ino for file in (tmp_path / "b").glob("group-*.safetensors")}
    pd.testing.assert_frame_equal(first.scores, again.scores)
