"""The training loop: baseline and student see the same, kills change nothing, bad input is refused."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from pkd_utils.distillation import student_training, students
from pkd_utils.distillation.loop import learning_rate_at
from pkd_utils.distillation.student_training import StudentConfig, StudentData, check_student_data, fit_student
from pkd_utils.runs import machine, seeds
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import macro_auroc
from tests.processes import kill_at_call, run_killed

LABELS = ["a", "b"]
IDS = [str(i) for i in range(160)]
TINY = StudentConfig(image_size=32, width=32, depth=2, heads=2, epochs=4, batch_size=32, precision="fp32")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(n=160, seed=0):
    """Label a: a bright upper half; label b: a bright left half; noise, missing targets, a teacher that knows more."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 2)) < 0.5).astype(float)
    pixels = rng.normal(100, 30, (n, 32, 32))
    pixels[:, :16] += 50 * truth[:, :1, None]
    pixels[:, :, :16] += 50 * truth[:, 1:, None]
    targets = np.where(rng.random(truth.shape) < 0.2, np.nan, truth)
    soft = 0.1 + 0.8 * truth
    splits = np.array(["train"] * (n - 70) + ["validate"] * 40 + ["test"] * 30, dtype=object)
    return pixels.clip(0, 255).astype(np.uint8), targets, soft, splits


PIXELS, TARGETS, SOFT, SPLITS = data()


def given(**changes):
    usual = {"pixels": PIXELS, "targets": TARGETS, "soft_targets": SOFT, "splits": SPLITS}
    return usual | {"config": TINY, "image_ids": IDS, "labels": LABELS} | changes


def fit(folder, config=TINY, seed=0, **changes):
    return fit_student(**given(config=config, **changes), folder=folder, seed=seed, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed training, seed 0."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder)
    return folder


def interrupt(*_):
    raise KeyboardInterrupt


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_student_learns_and_leaves_a_complete_folder(tmp_path):
    config = dataclasses.replace(TINY, epochs=12, learning_rate=3e-3)
    result = fit(tmp_path / "s", config, image_ids=[f"id{i}" for i in range(160)])
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "history.csv", "metrics.json", "model.safetensors", "predictions.parquet"]  # fmt: skip
    assert result.metrics["macro_auroc"]["test"] > 0.75
    history = result.history
    assert history.columns.tolist() == ["epoch", "train_loss", "validate_loss", "validate_auroc", "learning_rate",
                                        "seconds"]  # fmt: skip
    assert history.epoch.tolist() == list(range(1, 13))
    assert result.best_epoch == history.validate_auroc.idxmax() + 1  # the first of equals
    table = result.predictions
    assert table.columns.tolist() == ["image_id", "split", *LABELS] and len(table) == 160
    assert table.image_id.tolist() == [f"id{i}" for i in range(160)] and table.split.tolist() == SPLITS.tolist()
    # the stored model is the best epoch's, and gives the stored predictions
    model, facts = students.load_student(tmp_path / "s")
    logits = students.predict_logits(model, PIXELS, facts["mean"], facts["std"])
    np.testing.assert_allclose(logits, table[LABELS], atol=1e-5)
    chosen = SPLITS == "validate"
    assert macro_auroc(TARGETS[chosen], logits[chosen]) == pytest.approx(history.validate_auroc.max())
    assert facts["labels"] == LABELS and facts["best_epoch"] == result.best_epoch


def test_same_seed_same_bits_other_seed_other_bits(whole, tmp_path):
    torch.rand(3)  # the caller's random state must not matter ...
    before = torch.get_rng_state()
    fit(tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())  # ... nor be changed
    fit(tmp_path / "c", seed=1)
    assert same(weights(whole), weights(tmp_path / "b"))
    assert not same(weights(whole), weights(tmp_path / "c"))


def test_baseline_differs_in_the_loss_alone(tmp_path, monkeypatch):
    """Same initial weights, same batches, same augmented images for weight 0 and weight 0.7."""
    seen = {}
    real = student_training.class_token_logits

    def spy(model, images):
        seen.setdefault(current, []).append((images.clone(), model.head.weight.detach().clone()))
        return real(model, images)

    monkeypatch.setattr(student_training, "class_token_logits", spy)
    for current in (0.0, 0.7):
        config = dataclasses.replace(TINY, epochs=2, weight=current)
        fit(tmp_path / str(current), config)
    baseline, student = seen[0.0], seen[0.7]
    assert torch.equal(baseline[0][1], student[0][1])
    assert len(baseline) == len(student) and all(torch.equal(a, b) for (a, _), (b, _) in zip(baseline, student))  # noqa: B905
    assert not torch.equal(baseline[0][0], baseline[3][0])
    assert not torch.equal(baseline[-1][1], student[-1][1])


def test_baseline_ignores_the_teacher(tmp_path):
    config = dataclasses.replace(TINY, epochs=1, weight=0.0)
    fit(tmp_path / "a", config, soft_targets=None)
    fit(tmp_path / "b", config)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_one_step_is_equation_1_and_adamw(tmp_path):
    """One epoch of one batch without augmentation against plain torch."""
    config = dataclasses.replace(
        TINY, epochs=1, batch_size=1000, warmup_epochs=1, weight=0.3, degrees=0.0,
        translate=0.0, scale=(1.0, 1.0), brightness=0.0, contrast=0.0, learning_rate=1e-2,
        weight_decay=1.0,
    )  # fmt: skip
    fit(tmp_path, config, seed=5)
    torch.manual_seed(seeds.stream(5, 0, 0))
    model = students.build_student("vit", 32, 8, 2, 32, 2, 2)
    x = (torch.from_numpy(PIXELS[:90])[:, None] / 255 - 0.5) / 0.25
    y, s = torch.tensor(TARGETS[:90]), torch.tensor(SOFT[:90])
    z = model(x).double()
    seen = ~y.isnan()
    log_p, log_q = torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
    mixed = 0.7 * y.nan_to_num() + 0.3 * s
    loss = -(mixed * log_p + (1 - mixed) * log_q)[seen].mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    got, checked = weights(tmp_path), 0
    for name, p in model.named_parameters():
        decay = 1.0 if p.ndim >= 2 and name not in ("cls_token", "pos_embed") else 0.0
        # Adam's first step is the learning rate times the gradient's sign: noise where the gradient is noise
        want = p.detach() * (1 - 1e-2 * decay) - 1e-2 * p.grad / (p.grad.abs() + 1e-8)
        sure = p.grad.abs() > 1e-5
        torch.testing.assert_close(got[name][sure], want[sure], rtol=1e-3, atol=2e-5)
        checked += int(sure.sum())
    assert checked > 0.8 * sum(p.numel() for p in model.parameters())


def test_learning_rate_schedule():
    rates = [learning_rate_at(i, 100, 10, 2.0) for i in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0) and 0 < rates[99] < 0.002
    assert learning_rate_at(0, 10, 0, 1.0) == 1.0
    line = [learning_rate_at(i, 100, 10, 1.0, "linear") for i in range(100)]
    assert line[9] == 1.0 and np.all(np.diff(line[:10]) > 0) and np.all(np.diff(line[10:]) < 0)
    assert line[0] > 0 and 0 < line[-1] < 0.02


def test_finished_folder_is_returned_and_foreign_folder_refused(tmp_path, monkeypatch):
    config = dataclasses.replace(TINY, epochs=1)
    first = fit(tmp_path, config)
    monkeypatch.setattr(student_training, "Loop", None)
    again = fit(tmp_path, config)
    assert again.best_epoch == first.best_epoch and again.predictions.equals(first.predictions)
    for other in ({"config": dataclasses.replace(config, weight=0.25)}, {"config": config, "seed": 1}):
        with pytest.raises(DataError, match="other data, configuration or seed"):
            fit(tmp_path, **other)


def test_the_best_epoch_is_kept_and_patience_stops_after_it(tmp_path, monkeypatch):
    scores, after = [0.6, 0.9, 0.7, 0.9, 0.95], []

    def scripted(self):
        after.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return {"validate_loss": 0.0, "validate_auroc": scores[len(after) - 1]}

    monkeypatch.setattr(student_training.StudentTraining, "validate", scripted)
    result = fit(tmp_path, dataclasses.replace(TINY, epochs=10, patience=2))
    assert result.best_epoch == 2 and result.metrics["epochs"] == len(after) == 4  # the earlier of equals
    assert same(weights(tmp_path), after[1]) and not same(weights(tmp_path), after[3])


def test_loss_that_is_not_finite_stops_with_one_sentence(tmp_path):
    config = dataclasses.replace(TINY, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(DataError, match=r"loss became nan in epoch \d.*lower the learning rate") as error:
        fit(tmp_path, config)
    assert "\n" not in str(error.value) and not (tmp_path / "metrics.json").exists()


def train_until_killed(folder, config, step):
    torch.set_num_threads(1)
    kill_at_call(student_training, "class_token_logits", step)
    fit(folder, config)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sigkill_at_any_time_ends_in_the_same_bits(tmp_path, precision):
    """A real process is killed three times, at an epoch's first, second and last of three steps."""
    folder, config = tmp_path / "killed", dataclasses.replace(TINY, epochs=5, precision=precision)
    for step, done in ((5, 1), (4, 2), (6, 3)):
        run_killed(train_until_killed, folder, config, step)
        with safe_open(folder / "checkpoint.safetensors", "pt") as file:
            assert len(json.loads(file.metadata()["state"])["history"]) == done
    resumed, whole = fit(folder, config), fit(tmp_path / "whole", config)
    assert resumed.metrics["sessions"] == 4 and whole.metrics["sessions"] == 1
    assert same(weights(folder), weights(tmp_path / "whole"))
    assert resumed.predictions.equals(whole.predictions)
    pd.testing.assert_frame_equal(resumed.history.drop(columns="seconds"), whole.history.drop(columns="seconds"),
                                  check_exact=True)  # fmt: skip


@pytest.mark.parametrize("damage", [lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b[:99], lambda b: b""])
def test_of_a_damaged_checkpoint_the_epoch_before_is_taken(whole, tmp_path, monkeypatch, damage):
    """Flipped, truncated, empty: one sentence with the file's name, and the same bits in the end."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(student_training.Loop, "restore_best", interrupt)
        fit(tmp_path)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint\.safetensors is damaged \(its checksum is another\)"):
        result = fit(tmp_path)
    assert result.metrics["sessions"] == 2 and same(weights(tmp_path), weights(whole))
    assert not [path for path in tmp_path.iterdir() if "checkpoint" in path.name]


def test_kill_while_finishing_is_repaired(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(student_training, "write_json", interrupt)
        fit(tmp_path)
    fit(tmp_path)
    assert same(weights(tmp_path), weights(whole))


def test_softmax_and_three_channels(tmp_path):
    classes = (SOFT > 0.5).sum(1)
    teacher = np.eye(3)[classes] * 0.7 + 0.1
    config = dataclasses.replace(TINY, activation="softmax", channels=3, epochs=2)
    names = ["label_0", "label_1", "label_2"]
    result = fit(tmp_path, config, targets=classes, soft_targets=teacher, labels=names)
    assert result.predictions.columns.tolist() == ["image_id", "split", *names]
    test = (SPLITS == "test").tolist()
    p = np.exp(result.predictions.loc[test, names].to_numpy(np.float64))
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    macro = roc_auc_score(classes[test], p / p.sum(1, keepdims=True), multi_class="ovr")
    assert result.metrics["macro_auroc"]["test"] == pytest.approx(macro, abs=1e-6)


def test_unused_rows_are_counted_and_soft_labels_of_other_splits_may_be_missing(tmp_path):
    soft, splits = SOFT.copy(), SPLITS.copy()
    splits[[0, 5]] = [None, np.nan]
    soft[splits == "test"] = np.nan
    soft[0] = np.nan
    result = fit(tmp_path, dataclasses.replace(TINY, epochs=1), soft_targets=soft, splits=splits)
    assert result.metrics["rows_unused"] == 2 and len(result.predictions) == 158


def test_precision():
    assert machine.resolve_precision("auto", "cpu") in ("fp32", "bf16")
    assert machine.resolve_precision("bf16", "cpu") == "bf16"
    with pytest.raises(DataError, match="precision"):
        machine.resolve_precision("fp16", "cpu")


def test_bf16_logits_are_not_rounded_to_ties(tmp_path):
    result = fit(tmp_path, dataclasses.replace(TINY, precision="bf16", epochs=1))
    assert result.predictions["a"].nunique() > 150


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": TARGETS * 2}, "targets are not in"),
        ({"targets": TARGETS * np.nan}, "nothing to learn from"),
        ({"targets": np.where((SPLITS == "validate")[:, None], 1.0, TARGETS)}, "both 1 and 0"),
        ({"soft_targets": np.where(np.arange(160)[:, None] == 7, np.nan, SOFT)}, r"1 of 90 .*first: 7\)"),
        ({"soft_targets": SOFT * 9}, "soft targets are not in"),
        ({"splits": ["val"] * 160}, "'val' is no split"),
        ({"splits": ["train"] * 160}, "split 'validate'"),
    ],
)
def test_bad_data_is_refused(changes, message):
    with pytest.raises(DataError, match=message) as error:
        check_student_data(**given(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"weight": 1.5}, {"epochs": 0}, {"learning_rate": 0.0}, {"patience": 0}, {"device": "tpu"}]
)
def test_bad_configuration_is_refused(tmp_path, change):
    with pytest.raises(DataError, match=r"StudentConfig|device 'tpu' cannot be used"):
        fit(tmp_path, dataclasses.replace(TINY, **change))


def test_the_hash_of_many_pixels_looks_at_the_first_and_the_last_image():
    pixels = torch.zeros(2**28 + 1, 1, 1, dtype=torch.uint8)
    data = StudentData(pixels, torch.zeros(1), None, {}, np.array([]), [], [])
    seen = {data.content_hash()}
    for place in (0, -1):
        pixels[place] += 1
        seen.add(data.content_hash())
    assert len(seen) == 3
