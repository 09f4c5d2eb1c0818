"""Training many heads at once: each as if trained alone by the textbook, resumable, and strict about its rows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.data import MemoryTokens
from pkd_utils.distillation.heads.modules import TEACHES, build_head, dropout_keep
from pkd_utils.distillation.heads.training import HeadConfig, HeadSpec, fit_heads
from pkd_utils.distillation.loss import distillation_loss, soft_labels
from pkd_utils.distillation.rows import permute_within
from pkd_utils.encoders.texts import EncodedTexts
from pkd_utils.runs import seeds
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import micro_auroc
from tests.distillation.heads.conftest import textbook_logits
from tests.processes import kill_at_call, run_killed

ROWS, N, D, DT, C, VIEWS = 60, 7, 16, 12, 3, 2
TRAIN, VALIDATION, TEST = np.arange(36), np.arange(36, 50), np.arange(50, 60)


def make_data(views=VIEWS, dtype=torch.float16):
    """Simulated tokens and reports that carry the class."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(ROWS) % C
    signal = torch.nn.functional.one_hot(targets, D).float()
    tokens = torch.randn(1 + views, ROWS, N, D, generator=generator) + 0.7 * signal[None, :, None]
    lengths = torch.arange(ROWS) % 5 + 1
    offsets = np.concatenate([[0], lengths.cumsum(0).numpy()])
    hidden = torch.randn(offsets[-1], DT, generator=generator)
    hidden += 2 * torch.nn.functional.one_hot(targets, DT).float().repeat_interleave(lengths, 0)
    text = EncodedTexts(torch.zeros(offsets[-1], dtype=torch.int32), offsets, hidden.to(dtype), 0, 0, "text")
    return MemoryTokens(tokens.to(dtype), tokens[:, :, 0].to(dtype)), text, targets.numpy()


def make_specs(epochs=3, seed=1, **changes):
    common = {"seed": seed, "train_rows": TRAIN, "validation_rows": VALIDATION, "test_rows": TEST, "epochs": epochs,
              "learning_rate": 3e-3, **changes}  # fmt: skip
    return [
        HeadSpec("student", "report_distilled", teacher="teacher", temperature=2.5, **common),
        HeadSpec("sharp student", "report_distilled", teacher="teacher", weight=0.5, **common),
        HeadSpec("own student", "self_distilled", teacher="image", **common),
        HeadSpec("image", "image_only", **common),
        HeadSpec("teacher", "teacher", **common),
        HeadSpec("text", "text_only", **common),
        HeadSpec("mean", "mean_probe", **common),
        HeadSpec("class token", "cls_probe", **common),
        HeadSpec("permuted student", "permuted_distilled", teacher="teacher", temperature=2.5, **common),
    ]


def auc_of(targets, logits):
    return micro_auroc(targets, torch.softmax(logits.double(), 1).numpy())


CONFIG = HeadConfig(n_classes=C, batch_size=16)


def others(spec):
    """Of which rows the teacher speaks to a student of permuted soft labels, in the order of its training rows."""
    classes, rng = spec.train_rows % C, np.random.default_rng(seeds.stream(spec.draw, 3))
    return torch.from_numpy(permute_within(spec.train_rows, classes, rng))


class Textbook:
    """Heads one after the other, in a plain loop over the textbook modules and torch's Adam."""

    def __init__(self, data, specs, config, dtype):
        (self.tokens, self.text, targets), self.config, self.dtype = data, config, dtype
        self.targets = torch.from_numpy(targets)
        self.specs = {spec.name: spec for spec in specs}
        self.best, self.last = {}, {}

    def forward(self, head, spec, rows, views, *key, sorting=None):
        image, cls = (part(rows, views).to(self.dtype) for part in (self.tokens.batch, self.tokens.class_tokens))
        text, mask = self.text.batch(rows.numpy(), torch.device("cpu"))
        padding = -text.shape[1] % 16
        text = torch.nn.functional.pad(text, (0, 0, 0, padding)).to(self.dtype)
        mask = torch.nn.functional.pad(mask, (0, padding))
        keep = text_keep = None
        if key:
            keep = dropout_keep((len(rows), N, N), 0.2, *key, 0)[sorting]
            text_keep = dropout_keep((len(rows), text.shape[1], text.shape[1]), 0.2, *key, 1)[sorting]
        return textbook_logits(head, spec.method, image, cls[:, None], text, mask, keep, text_keep)

    def train(self, spec):
        head = build_head(spec.method, C, D, DT, spec.draw).to(self.dtype)
        optimizer = torch.optim.Adam(head.parameters(), lr=spec.rate)
        loader = training.HeadData(self.tokens, self.text, self.targets.numpy(), "cpu", self.dtype)
        history, top = [], -1.0
        for epoch in range(1, spec.epochs + 1):
            head.train()
            for step in loader.steps(spec.train_rows, self.config.batch_size, spec.draw, epoch):
                soft = None
                if spec.teacher:
                    views = step.views if self.config.teacher_view == "same" else torch.zeros_like(step.views)
                    heard = step.rows if spec.method != "permuted_distilled" else others(spec)[step.positions]
                    with torch.no_grad():
                        logits = self.forward(self.best[spec.teacher].eval(), self.specs[spec.teacher], heard, views)
                    soft = soft_labels(logits, spec.temperature, "softmax")
                key = spec.draw, epoch, step.number
                out = self.forward(head, spec, step.rows, step.views, *key, sorting=step.sorting)
                weight = spec.weight if spec.teacher else 0.0
                loss = distillation_loss(out, self.targets[step.rows], soft, weight, "softmax")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            head.eval()
            rows = torch.from_numpy(np.concatenate([VALIDATION, TEST]))
            with torch.no_grad():
                history.append(self.forward(head, spec, rows, torch.zeros_like(rows)))
            split = len(VALIDATION)
            auc = auc_of(self.targets[VALIDATION].numpy(), history[-1][:split])
            if auc > top:
                top, self.best[spec.name] = auc, build_head(spec.method, C, D, DT).to(self.dtype)
                self.best[spec.name].load_state_dict(head.state_dict())
        return history


@pytest.mark.parametrize(
    ("precision", "tolerance", "views", "changes"),
    [
        ("fp64", 1e-9, 4, {}),  # more than epochs: teachers are asked minibatch by minibatch, not for a table
        ("fp32", 1e-4, VIEWS, {}),
        ("fp64", 1e-9, VIEWS, {"teacher_view": "clean"}),
        ("fp64", 1e-9, VIEWS, {"memory_bytes": 60_000}),
    ],
)
def test_heads_trained_together_equal_textbook_heads_trained_alone(precision, tolerance, views, changes):
    """Parameters and logits after epochs of Adam, with the same masks; also in small parts and small groups."""
    data, specs = make_data(views), make_specs()
    config = dataclasses.replace(CONFIG, precision=precision, **changes)
    results = fit_heads(specs, *data, config)
    textbook = Textbook(data, specs, config, config.dtype)
    for spec in sorted(specs, key=lambda spec: spec.teacher is not None):
        expected = textbook.train(spec)
        for epoch, logits in enumerate(expected, 1):
            found = torch.cat([results.logits(spec.name, part, epoch) for part in ("validation", "test")])
            torch.testing.assert_close(found.to(logits.dtype), logits, rtol=0, atol=max(tolerance, 1e-6))
        for (name, value), found in zip(
            textbook.best[spec.name].named_parameters(), results.head(spec.name).parameters(), strict=True
        ):
            if not name.endswith("key.bias"):  # has no effect on any output
                torch.testing.assert_close(found, value, rtol=0, atol=tolerance)


def test_a_restart_shares_rows_alone_and_its_student_starts_as_the_baseline():
    """The control of self-distillation: the teacher is another network, the student the usual one."""
    data, image = make_data(), make_specs()[3]
    restart = dataclasses.replace(image, name="restart", method="image_restart")
    student = dataclasses.replace(image, name="student", method="self_restart", teacher="restart")
    specs, config = [image, restart, student], dataclasses.replace(CONFIG, precision="fp64")
    results, textbook = fit_heads(specs, *data, config), Textbook(data, specs, config, torch.float64)
    for spec in specs:
        expected = textbook.train(spec)
        found = torch.cat([results.logits(spec.name, part, "last") for part in ("validation", "test")])
        torch.testing.assert_close(found.double(), expected[-1], rtol=0, atol=1e-6)
    starts = {spec.name: results.new_head(spec.name).attention.query.weight for spec in specs}
    assert torch.equal(starts["student"], starts["image"])
    assert not torch.isclose(starts["image"], starts["restart"]).any()
    loader = training.HeadData(*data, torch.device("cpu"), torch.float64)
    orders = {spec.name: torch.cat([s.rows for s in loader.steps(TRAIN, 16, spec.draw, 1)]).tolist() for spec in specs}
    assert orders["student"] == orders["image"] != orders["restart"]
    assert sorted(orders["restart"]) == sorted(orders["image"]) == TRAIN.tolist()


def tensors_of(results, specs):
    """Every number a run ends in."""
    found = {}
    for spec in specs:
        found |= {f"{spec.name}.{name}": value for name, value in results.head(spec.name).state_dict().items()}
        for epoch in range(1, spec.epochs + 1):
            found[f"{spec.name}.{epoch}"] = results.logits(spec.name, "test", epoch)
    return found


def assert_same_bits(one, other, specs):
    first, second = tensors_of(one, specs), tensors_of(other, specs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    columns = [column for column in one.history if column != "seconds"]
    pd.testing.assert_frame_equal(one.history[columns], other.history[columns])


@pytest.fixture(scope="module")
def whole():
    """What all heads end in, trained at once and undisturbed."""
    return fit_heads(make_specs(), *make_data(), CONFIG)


def stop_and_continue(specs, data, folder, monkeypatch, epoch, name):
    """Stop before the evaluation of one head's epoch, go on; the results, and (first head, epoch) of what was trained.

    `data` is a list of two: what the stopped and the continued run read.
    """
    evaluate, train, trained = training.GroupTraining.evaluate, training.GroupTraining.train, []

    def stop(fit, losses):
        if fit.epoch == epoch and any(spec.name == name for spec in fit.specs):
            raise KeyboardInterrupt
        evaluate(fit, losses)

    def watched(fit):
        trained.append((fit.specs[0].name, fit.epoch))
        return train(fit)

    with monkeypatch.context() as patch:
        patch.setattr(training.GroupTraining, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_heads(specs, *data[0], CONFIG, folder)
    monkeypatch.setattr(training.GroupTraining, "train", watched)
    continued = fit_heads(specs, *data[1], CONFIG, folder)
    assert not list(folder.glob("*.checkpoint"))
    return continued, trained


@pytest.mark.parametrize("stop_at", [(1, "image"), (2, "image"), (2, "student")])
def test_a_stopped_run_continues_to_the_same_bits(whole, tmp_path, monkeypatch, stop_at):
    data, specs = make_data(), make_specs()
    continued, trained = stop_and_continue(specs, [data, data], tmp_path, monkeypatch, *stop_at)
    done = (stop_at[0] - 1) + (3 if stop_at[1] == "student" else 0)
    assert len(trained) == 6 - done  # at most the epoch that was stopped is trained again
    assert_same_bits(whole, continued, specs)


def test_short_epochs_are_kept_every_few_seconds(whole, tmp_path, monkeypatch):
    data, specs, now = make_data(), make_specs(), [0.0]

    def tick():
        now[0] += 0.5 * training.CHECKPOINT_SECONDS
        return now[0]

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 5.0)
    monkeypatch.setattr(training.time, "monotonic", tick)  # an epoch takes half of that
    saved, save = [], training.GroupTraining._save_checkpoint
    monkeypatch.setattr(training.GroupTraining, "_save_checkpoint", lambda fit: saved.append(fit.epoch) or save(fit))
    continued, trained = stop_and_continue(specs, [data, data], tmp_path, monkeypatch, 3, "image")
    assert saved[0] == 3 - 1 and len(trained) == 1 + 3
    assert_same_bits(whole, continued, specs)


def fit_one_head(folder, threads, killed=False):
    torch.set_num_threads(threads)
    if killed:
        training.CHECKPOINT_SECONDS = 0.0  # this process ends soon
        kill_at_call(training.GroupTraining, "train", 3)
    specs = [HeadSpec("image", "image_only", 1, TRAIN, VALIDATION, 4, TEST)]
    tokens, _, targets = make_data()
    return specs, fit_heads(specs, MemoryTokens(tokens.tokens), None, targets, CONFIG, folder)


def test_a_killed_process_loses_at_most_an_epoch(tmp_path, monkeypatch):
    threads, train, trained = torch.get_num_threads(), training.GroupTraining.train, []
    run_killed(fit_one_head, tmp_path, threads, True)
    monkeypatch.setattr(training.GroupTraining, "train", lambda fit: trained.append(fit.epoch) or train(fit))
    specs, continued = fit_one_head(tmp_path, threads)
    assert trained == [3, 4]
    assert_same_bits(fit_one_head(None, threads)[1], continued, specs)


def test_a_finished_run_is_read_and_a_changed_one_trained(tmp_path, monkeypatch):
    data, specs = make_data(), make_specs(1)[3:5]
    first = fit_heads(specs, *data, CONFIG, tmp_path)
    assert list(pd.read_parquet(tmp_path / "history.parquet")["name"]) == ["image", "teacher"]
    with monkeypatch.context() as patch:
        patch.setattr(training.GroupTraining, "train", None)
        assert_same_bits(first, fit_heads(specs, *data, CONFIG, tmp_path), specs)
    for other_specs, other_config in (
        ([dataclasses.replace(spec, learning_rate=1e-2) for spec in specs], CONFIG),
        (specs, dataclasses.replace(CONFIG, batch_size=8)),
    ):
        other = fit_heads(other_specs, *data, other_config, tmp_path)
        assert not torch.equal(other.logits("image"), first.logits("image"))


def test_a_student_is_another_when_its_teacher_is(tmp_path):
    data, specs = make_data(), make_specs(1)
    first = fit_heads([specs[0], specs[4]], *data, CONFIG, tmp_path)
    slower = dataclasses.replace(specs[4], learning_rate=1e-5)
    second = fit_heads([specs[0], slower], *data, CONFIG, tmp_path)
    assert not torch.equal(first.logits("student"), second.logits("student"))


def test_kept_normalised_tokens_change_no_bit_and_are_asked_for_once(monkeypatch):
    specs, asked = make_specs(), []
    batch = MemoryTokens.batch
    monkeypatch.setattr(
        MemoryTokens, "batch", lambda self, rows, views: asked.append(len(rows)) or batch(self, rows, views)
    )
    kept = fit_heads(specs, *make_data(), CONFIG)
    assert sum(asked) <= ROWS * (1 + VIEWS)
    asked.clear()
    monkeypatch.setattr(training, "CACHE_BYTES", 0)
    plain = fit_heads(specs, *make_data(), CONFIG)
    assert sum(asked) > ROWS * (1 + VIEWS)
    assert_same_bits(kept, plain, specs)


def test_only_clean_images():
    data, specs = make_data(views=0), make_specs(2)
    steps = training.HeadData(*data, torch.device("cpu"), torch.float32).steps(TRAIN, 16, 1, 1)
    assert all((step.views == 0).all() for step in steps)
    results = fit_heads(specs, *data, CONFIG)
    assert len(results.history) == 2 * len(specs)


def test_steps_hold_every_row_once_in_an_order_of_seed_and_epoch():
    data = training.HeadData(*make_data(), torch.device("cpu"), torch.float32)
    rows = np.arange(5, 45)
    steps = data.steps(rows, 16, seed=1, epoch=1)
    assert [len(step.rows) for step in steps] == [16, 16, 8]
    assert sorted(torch.cat([step.rows for step in steps]).tolist()) == rows.tolist()
    assert all((torch.from_numpy(rows)[step.positions] == step.rows).all() for step in steps)
    assert set(torch.cat([step.views for step in steps]).tolist()) == {1, 2}
    again, other = data.steps(rows, 16, 1, 1), data.steps(rows, 16, 1, 2)
    assert torch.equal(steps[0].rows, again[0].rows)
    assert torch.equal(steps[0].views, again[0].views)
    assert not torch.equal(steps[0].rows, other[0].rows)


def test_best_epochs_follow_from_the_history_and_ties_go_to_the_first(whole):
    targets = make_data()[2]
    for spec in make_specs():
        history = whole.history.query("name == @spec.name")
        assert whole.best_epoch(spec.name) == history["validation_auc"].argmax() + 1
        for epoch in (1, 2, 3):
            for part, rows in (("validation", VALIDATION), ("test", TEST)):
                auc = auc_of(targets[rows], whole.logits(spec.name, part, epoch))
                assert auc == history[f"{part}_auc"].iloc[epoch - 1]
        best = whole.best_epoch(spec.name)
        assert torch.equal(whole.logits(spec.name), whole.logits(spec.name, "validation", best))
    tied = [{"epoch": epoch, "validation_auc": auc} for epoch, auc in enumerate([0.5, 0.9, 0.8, 0.9], 1)]
    assert training.best_epoch(tied) == 2


def test_weights_of_the_best_epoch_are_kept(monkeypatch):
    """With an AUC that peaks in the second of four epochs."""
    scripted = iter([0.5, 0.6, 0.9, 0.7, 0.8, 0.6, 0.9, 0.7])  # validation and test in turn
    monkeypatch.setattr(training, "micro_auroc", lambda targets, probabilities: next(scripted))
    tokens, text, targets = make_data()
    results = fit_heads(make_specs(4)[3:4], tokens, text, targets, CONFIG)
    assert results.best_epoch("image") == 2
    rows = torch.from_numpy(VALIDATION)
    with torch.no_grad():
        found = results.head("image")(tokens.batch(rows, torch.zeros_like(rows)).float())
    torch.testing.assert_close(found, results.logits("image"), rtol=1e-4, atol=1e-5)
    assert (found - results.logits("image", "validation", "last")).abs().max() > 1e-2


def test_only_chosen_logits_are_kept():
    data, specs = make_data(), make_specs(epochs=6)[3:4]
    everything = fit_heads(specs, *data, CONFIG)
    chosen = fit_heads(specs, *data, dataclasses.replace(CONFIG, keep_logits="chosen"))
    kept = {everything.best_epoch("image"), everything.best_epoch("image", "test"), 6}
    for epoch in range(1, 7):
        if epoch in kept:
            assert torch.equal(chosen.logits("image", "test", epoch), everything.logits("image", "test", epoch))
        else:
            with pytest.raises(DataError, match=f"after epoch {epoch} were not kept"):
                chosen.logits("image", "test", epoch)


def test_weights_are_kept_of_heads_that_may_teach(monkeypatch):
    monkeypatch.setattr(training, "TEACHES", TEACHES)
    data, (spec,) = make_data(), make_specs(epochs=1)[3:4]
    probe = dataclasses.replace(spec, name="probe", method="mean_probe")
    results = fit_heads([spec, probe], *data, CONFIG)
    assert results.head("image")
    with pytest.raises(DataError, match="weights of head 'probe' were not kept"):
        results.head("probe")


def test_teachers_are_the_same_heads_whether_or_not_somebody_learns_from_them(tmp_path):
    """04-distil-students takes over the groups that 03-train-teachers wrote."""
    data, specs = make_data(), make_specs(epochs=2)
    taught = [spec for spec in specs if spec.teacher is None]
    fit_heads(taught, *data, CONFIG, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("group-*")}
    fit_heads(specs, *data, dataclasses.replace(CONFIG, teacher_view="clean"), tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("group-*")}
    assert before.items() <= after.items() and len(after) > len(before)


def test_heads_of_another_call_are_taken_where_they_are_the_same(tmp_path, monkeypatch):
    """Beside other reports the heads that read images are the same, to rounding, and are trained once."""
    data, specs = make_data(), make_specs(epochs=2)
    first = fit_heads([spec for spec in specs if spec.teacher is None], *data, CONFIG, tmp_path / "a")
    tokens, text, targets = data
    longer = np.arange(ROWS)[::-1] % 4 + 2  # the reports' lengths in another order
    offsets = np.concatenate([[0], longer.cumsum()])
    hidden = torch.randn(int(offsets[-1]), DT, generator=torch.Generator().manual_seed(1)).half()
    other = tokens, dataclasses.replace(text, offsets=offsets, hidden=hidden, identity="other text"), targets
    alone = fit_heads(specs, *other, CONFIG)
    images = {"image", "mean", "class token"}
    for name in [spec.name for spec in specs if spec.teacher is None]:
        same = torch.allclose(first.logits(name), alone.logits(name), rtol=0, atol=1e-4)
        assert same == (name in images)
    trained, train = [], training.GroupTraining.train
    monkeypatch.setattr(training.GroupTraining, "train", lambda fit: trained.extend(fit.group.methods) or train(fit))
    taken = fit_heads(specs, *other, CONFIG, tmp_path / "b", finished=[tmp_path / "a"])
    assert taken.elsewhere == images
    assert sorted(set(trained)) == ["permuted_distilled", "report_distilled", "self_distilled", "teacher", "text_only"]
    assert all(torch.equal(taken.logits(name), first.logits(name)) for name in images)
    assert len(taken.history) == 2 * len(specs)
    again = fit_heads(specs, *other, CONFIG, tmp_path / "c", finished=[tmp_path / "b"])
    assert again.elsewhere == {spec.name for spec in specs}  # those of "a" with them
    assert all(torch.equal(again.logits(spec.name), taken.logits(spec.name)) for spec in specs)
    changed = dataclasses.replace(CONFIG, batch_size=8)
    assert not fit_heads(specs[3:4], *data, changed, finished=[tmp_path / "a"]).elsewhere


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    tokens, text, targets = make_data()
    tokens.tokens[:, 5] = torch.inf
    with pytest.raises(DataError, match="training loss of head 'image' is not finite in epoch 1"):
        fit_heads(make_specs(1)[3:4], tokens, text, targets, CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())
