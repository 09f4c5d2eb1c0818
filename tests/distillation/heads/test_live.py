"""Heads on live tokens: one encoder pass an epoch for all of them, and the numbers that each would have alone."""

import dataclasses
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.data import MemoryTokens
from pkd_utils.distillation.heads.live import EpochTokens
from pkd_utils.distillation.heads.specs import plan_waves
from pkd_utils.distillation.heads.training import HeadConfig, HeadSpec, fit_heads
from pkd_utils.encoders.tokens.live import LiveTokens
from pkd_utils.runs.errors import DataError
from tests.distillation.heads.test_training import (
    CONFIG,
    ROWS,
    TEST,
    TRAIN,
    VALIDATION,
    Textbook,
    assert_same_bits,
    make_data,
    make_specs,
    stop_and_continue,
)
from tests.encoders.test_tokens import TinyEncoder

VIEWS = 3  # one for every epoch
CLEAN = len(VALIDATION) + len(TEST)


class LiveMemory(MemoryTokens):
    """Live tokens whose encoder is a table; `asked` holds (view, rows) of every pass."""

    live, clean, size = True, None, 8

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = []

    def passes(self, rows, view):
        for some in rows.split(self.size):
            self.asked.append((view, some.tolist()))
            views = torch.full_like(some, view)
            cls = None if self.class_token is None else self.class_tokens(some, views)
            yield some, self.batch(some, views), cls

    def encoded(self):
        """Rows encoded of each view, by view; each must have been encoded once."""
        found = {}
        for view, rows in self.asked:
            found.setdefault(view, []).extend(rows)
        assert all(len(set(rows)) == len(rows) for rows in found.values()), "a row was encoded twice for an epoch"
        return {view: sorted(rows) for view, rows in found.items()}


def live_data(views=VIEWS):
    tokens, text, targets = make_data(views=views)
    return LiveMemory(tokens.tokens, tokens.class_token), text, targets


def many_specs(taught=False):
    """Two seeds on other rows, two nested sizes with other epochs, all methods, or those that have no teacher."""
    specs = []
    for seed, mine in ((1, TRAIN[:30]), (2, TRAIN[6:])):
        for rows, epochs in ((mine, 2), (mine[:12], 3)):
            tag = f" {seed} {len(rows)}"
            for spec in make_specs(epochs, seed, train_rows=rows):
                if spec.teacher is None or taught:
                    teacher = spec.teacher and spec.teacher + tag
                    specs.append(dataclasses.replace(spec, name=spec.name + tag, teacher=teacher))
    return specs


@pytest.mark.parametrize(
    ("taught", "method", "teacher_view", "clean", "crops"),
    [
        (False, None, "same", [*VALIDATION, *TEST], {1: 36, 2: 36, 3: 18}),  # smaller subsets train an epoch more
        (True, None, "same", [*VALIDATION, *TEST], {1: 72, 2: 72, 3: 36}),  # students wait for their teachers' last
        (True, None, "clean", range(ROWS), {1: 72, 2: 72, 3: 36}),  # clean teachers speak of training images
        (False, "text_only", "same", [], {}),  # reports alone need no encoder
    ],
)
def test_an_image_is_encoded_once_an_epoch_whatever_is_trained(taught, method, teacher_view, clean, crops):
    data = live_data()
    specs = [spec for spec in many_specs(taught) if method in (None, spec.method)]
    fit_heads(specs, *data, dataclasses.replace(CONFIG, teacher_view=teacher_view))
    seen = Counter(view for view, rows in data[0].asked for _ in rows)
    assert sorted(row for view, rows in data[0].asked if view == 0 for row in rows) == [*clean]
    assert {view: count for view, count in seen.items() if view} == crops
    if not taught:
        assert data[0].encoded().get(1, []) == (TRAIN.tolist() if crops else [])


def test_students_hear_their_teachers_in_the_pass_of_the_epoch(tmp_path):
    """04-distil-students: teachers are finished, and no pass is made for them."""
    data, specs = live_data(), many_specs(taught=True)
    fit_heads([spec for spec in specs if spec.teacher is None], *data, CONFIG, tmp_path)
    data[0].asked.clear()
    fit_heads(specs, *data, CONFIG, tmp_path)
    assert {view: len(rows) for view, rows in data[0].encoded().items()} == {0: CLEAN, 1: 36, 2: 36, 3: 18}
    data[0].asked.clear()
    fit_heads(specs, *data, CONFIG, tmp_path)
    assert not data[0].asked


@pytest.mark.parametrize(
    ("changes", "cache"),
    [({}, 1 << 30), ({"teacher_view": "clean"}, 1 << 30), ({}, 0), ({"memory_bytes": 60_000}, 1 << 30)],
)
def test_heads_in_lockstep_equal_textbook_heads_trained_alone(changes, cache, monkeypatch):
    monkeypatch.setattr(training, "CACHE_BYTES", cache)
    data, specs = live_data(), many_specs(taught=True)
    config = dataclasses.replace(CONFIG, precision="fp64", **changes)
    results = fit_heads(specs, *data, config)
    textbook = Textbook(data, specs, config, torch.float64)
    for spec in sorted(specs, key=lambda spec: spec.teacher is not None):
        if (spec.seed == 1) != (len(spec.train_rows) == 12):  # of either seed one size, and all methods of it
            continue
        for epoch, logits in enumerate(textbook.train(spec), 1):
            found = torch.cat([results.logits(spec.name, part, epoch) for part in ("validation", "test")])
            torch.testing.assert_close(found.double(), logits, rtol=0, atol=1e-6)


def test_a_group_alone_has_the_bits_that_it_has_in_lockstep():
    specs = many_specs()
    together = fit_heads(specs, *live_data(), CONFIG)
    for seed, size in ((1, 12), (2, 30)):
        mine = [spec for spec in specs if spec.seed == seed and len(spec.train_rows) == size]
        alone = fit_heads(mine, *live_data(), CONFIG)
        for spec in mine:
            for epoch in range(1, spec.epochs + 1):
                assert torch.equal(alone.logits(spec.name, "test", epoch), together.logits(spec.name, "test", epoch))


def test_every_epoch_has_a_crop_of_its_own_and_seeds_share_it():
    data = training.HeadData(*live_data(), torch.device("cpu"), torch.float32)
    for seed in (1, 2):
        for epoch in (1, 2):
            assert {view for step in data.steps(TRAIN, 16, seed, epoch) for view in step.views.tolist()} == {epoch}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Data that all heads have read in lockstep, what came out, and its folder."""
    data, folder = live_data(), tmp_path_factory.mktemp("whole")
    return data, fit_heads(many_specs(taught=True), *data, CONFIG, folder), folder


@pytest.mark.parametrize("stop_at", [(1, "image 1 30"), (3, "image 1 12"), (2, "student 2 30"), (3, "student 2 12")])
def test_a_stopped_lockstep_continues_to_the_same_bits(undisturbed, tmp_path, monkeypatch, stop_at):
    """Some groups are an epoch ahead; what the encoder sees is what it would have seen."""
    specs, (straight, whole, _), data = many_specs(taught=True), undisturbed, live_data()
    continued, trained = stop_and_continue(specs, [live_data(), data], tmp_path, monkeypatch, *stop_at)
    assert_same_bits(whole, continued, specs)
    assert trained[0][1] == stop_at[0]  # only the epoch that was stopped is trained again
    assert data[0].asked[-1] == straight[0].asked[-1]
    assert all(batch in straight[0].asked for batch in data[0].asked)


def test_groups_ahead_wait_and_are_not_trained_twice(tmp_path, monkeypatch):
    data = [live_data(), live_data()]
    _, trained = stop_and_continue(many_specs(), data, tmp_path, monkeypatch, 2, "image 2 30")
    assert trained == [("image 2 30", 2), ("image 2 12", 2), ("image 1 12", 3), ("image 2 12", 3)]


def test_tokens_that_do_not_fit_memory_go_to_a_file_that_leaves_nothing(undisturbed, tmp_path, monkeypatch):
    specs, seen, memmap = many_specs(taught=True), [], np.memmap

    def watched(file, *arguments, **options):
        seen.append(options["shape"])
        return memmap(file, *arguments, **options)

    monkeypatch.setattr(np, "memmap", watched)
    monkeypatch.setattr(training, "CACHE_BYTES", 0)
    mapped = fit_heads(specs, *live_data(), CONFIG, tmp_path)
    assert seen[0] == (CLEAN, 7, 2 * 16) and len(seen) == 1 + 3 + 3
    assert_same_bits(undisturbed[1], mapped, specs)
    names = [sorted(path.name for path in folder.iterdir()) for folder in (undisturbed[2], tmp_path)]
    assert names[0] == names[1]


def test_memory_is_for_clean_views_and_one_epoch(tmp_path):
    source = live_data(views=4)[0]
    row = 7 * 16 * 2  # bytes
    tokens = EpochTokens(source, tmp_path, cache_bytes=30 * row)
    tokens.keep(VALIDATION, 0)  # 14 images
    for epoch in (1, 2, 3):
        tokens.keep(np.arange(16), epoch)
        assert tokens.in_memory == {0: 14 * row, epoch: 16 * row}
    tokens.keep(np.arange(17), 4)
    assert tokens.in_memory == {0: 14 * row, 4: 0}
    rows = torch.tensor([3, 16, 3])
    assert torch.equal(tokens.batch(rows, torch.full((3,), 4)), source.batch(rows, torch.full((3,), 4)))
    assert torch.equal(tokens.class_tokens(rows, torch.full((3,), 4)), source.class_tokens(rows, torch.full((3,), 4)))
    with pytest.raises(KeyError):  # the epoch before is gone
        tokens.batch(rows, torch.full((3,), 3))
    with pytest.raises((IndexError, RuntimeError), match="out of range"):  # not encoded in this epoch
        tokens.batch(torch.tensor([17]), torch.tensor([4]))


def test_too_little_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(training, "CACHE_BYTES", 0)
    with pytest.raises(DataError, match=r"Tokens of 24 images need 5,376 bytes and the disk of .* has 1,000 free"):
        fit_heads(many_specs(), *live_data(), CONFIG, tmp_path)


def test_evaluation_images_of_all_seeds_are_encoded():
    data, (spec,) = live_data(), make_specs(2, test_rows=None)[3:4]
    other = dataclasses.replace(spec, name="other", seed=2, validation_rows=TEST)
    fit_heads([spec, other], *data, CONFIG)
    assert data[0].encoded()[0] == [*VALIDATION, *TEST]


def test_class_tokens_must_be_there():
    tokens, text, targets = live_data()
    probe = [spec for spec in many_specs() if spec.method == "cls_probe"]
    with pytest.raises(DataError, match="no class tokens"):
        fit_heads(probe, LiveMemory(tokens.tokens), text, targets, CONFIG)


def test_waves_fit_the_budget_and_teachers_come_first():
    def group(name, method, count):
        return [HeadSpec(f"{name}{i}", method, 1, TRAIN, VALIDATION, 1) for i in range(count)]

    made = (("a", "image_only", 3), ("b", "image_only", 2), ("c", "teacher", 1), ("d", "teacher", 9),
            ("e", "self_distilled", 1))  # fmt: skip
    groups = [group(*facts) for facts in made]
    costs = {spec.name: 10 for members in groups for spec in members}
    names = [[members[0].name[0] for members in wave] for wave in plan_waves(groups, costs, 40)]
    assert names == [["a", "c"], ["b"], ["d"], ["e"]]
    assert [len(wave) for wave in plan_waves(groups, costs, 150)] == [4, 1]


def test_waves_have_passes_of_their_own_and_the_same_numbers():
    specs, data = [spec for spec in many_specs() if spec.method == "image_only"], live_data()
    heads_of_two = 2 * 2 * 17 * 16 * 16 * 4
    waves = fit_heads(specs, *data, dataclasses.replace(CONFIG, memory_bytes=heads_of_two))
    assert sum(len(rows) for view, rows in data[0].asked if view == 1) == 2 * 30
    assert sum(len(rows) for view, rows in data[0].asked if view == 0) == CLEAN  # once a call
    together = fit_heads(specs, *live_data(), CONFIG)
    for spec in specs:
        torch.testing.assert_close(waves.logits(spec.name), together.logits(spec.name), rtol=0, atol=1e-4)


def test_stored_and_live_groups_have_other_names(tmp_path):
    """Tokens of the same identity: a change of mode is no finished run."""
    specs, (live, text, targets) = make_specs(1)[3:4], live_data()
    fit_heads(specs, MemoryTokens(live.tokens), text, targets, CONFIG, tmp_path)
    fit_heads(specs, live, text, targets, CONFIG, tmp_path)
    assert len(list(tmp_path.glob("group-*.safetensors"))) == 2


@pytest.mark.parametrize("kept_clean", [False, True])
def test_live_tokens_of_image_files(tmp_path, kept_clean):
    """Each image is decoded and encoded once an epoch; evaluation costs one pass, or none where the store has it."""
    rng, paths = np.random.default_rng(0), []
    for n in range(24):
        paths.append(tmp_path / f"i{n:02d}.png")
        Image.fromarray((rng.integers(0, 200, (30, 30)) + 50 * (n % 2)).astype(np.uint8)).save(paths[-1])
    names = [path.stem for path in paths]
    clean = None
    if kept_clean:
        from pkd_utils.encoders.tokens.encode import encode_images

        clean = encode_images(TinyEncoder(), names, paths, tmp_path / "clean", views=0)
    encoder = TinyEncoder()
    live = LiveTokens(encoder, names, paths, clean=clean).subset(names)
    common = {"validation_rows": np.arange(16, 24), "epochs": 3}
    specs = [
        HeadSpec(f"{method} {seed} {size}", method, seed, np.arange(size), **common)
        for method in ("image_only", "mean_probe", "cls_probe") for seed in (1, 2) for size in (8, 16)
    ]  # fmt: skip
    results = fit_heads(specs, live, None, np.arange(24) % 2, HeadConfig(2))
    assert encoder.seen == 3 * 16 + (0 if kept_clean else 8)
    assert results.history["train_loss"].notna().all() and len(results.history) == 3 * len(specs)
