"""Specs of heads: refused with one clear sentence, and sorted into groups."""

import dataclasses

import numpy as np
import pytest

from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.data import MemoryTokens
from pkd_utils.distillation.heads.specs import check_specs
from pkd_utils.distillation.heads.training import HeadSpec, fit_heads
from pkd_utils.runs.errors import DataError
from tests.distillation.heads.test_training import CONFIG, TRAIN, VALIDATION, make_data, make_specs


def test_the_papers_learning_rates():
    rates = {
        name: HeadSpec(name, name, 0, TRAIN, VALIDATION, 1).rate for name in ("image_only", "teacher", "mean_probe")
    }
    assert rates == {"image_only": 1e-4, "teacher": 1e-4, "mean_probe": 1e-3}
    assert HeadSpec("own", "mean_probe", 0, TRAIN, VALIDATION, 1, learning_rate=0.5).rate == 0.5


def test_groups_share_minibatches_and_fit_the_memory():
    specs = [*make_specs(), HeadSpec("other seed", "image_only", 2, TRAIN, VALIDATION, 3)]
    names = [[spec.name for spec in group] for group in training.group_specs(specs, dict.fromkeys(
        [spec.name for spec in specs], 10), 1000)]  # fmt: skip
    assert names == [["image", "teacher", "text", "mean", "class token"], ["other seed"],
                     ["student", "sharp student", "own student", "permuted student"]]  # fmt: skip
    small = training.group_specs(specs, dict.fromkeys([spec.name for spec in specs], 10), 20)
    assert [len(group) for group in small] == [2, 2, 1, 1, 2, 2]
    assert [part.stop - part.start for part in training.parts_of(10, 100, 450)] == [4, 4, 2]
    assert len(training.parts_of(3, 100, 1)) == 3


def test_two_of_three_classes_are_enough_to_validate_on():
    spec = HeadSpec("one", "image_only", 0, [0, 1, 2], [3, 4, 5], 1)
    check_specs([spec], np.array([0, 1, 2, 0, 1, 1]), has_text=False)
    with pytest.raises(DataError, match="validation rows are all of one class"):
        check_specs([spec], np.array([0, 1, 2, 1, 1, 1]), has_text=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "nonsense"}, "method = 'nonsense': input should be"),
        ({"seed": -1}, "seed = -1: input should be greater"),
        ({"epochs": 0}, "epochs = 0: input should be greater"),
        ({"weight": 1.5}, "weight = 1.5: input should be less"),
        ({"temperature": 0.0}, "temperature = 0.0: input should be greater"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: input should be greater"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(DataError, match=f"HeadSpec: {message}"):
        dataclasses.replace(make_specs(1)[3], **changes)
    with pytest.raises(DataError, match="HeadConfig: dropout"):
        dataclasses.replace(CONFIG, dropout=1.0)


def test_other_bad_input_is_named():
    tokens, text, targets = make_data()
    specs = make_specs(1)
    leaking = dataclasses.replace(specs[4], train_rows=np.arange(40), validation_rows=np.arange(40, 50))
    offsets = text.offsets.copy()
    offsets[5] = offsets[4]
    for bad_specs, bad_tokens, bad_text, message in (
        ([], tokens, text, "0 heads have 0 names"),
        ([specs[3], specs[3]], tokens, text, "2 heads have 1 names"),
        (specs, tokens, None, "'teacher': it reads report tokens"),
        ([specs[0], leaking], tokens, text, "its teacher 'teacher' was trained on rows that it is evaluated on"),
        (specs[7:8], MemoryTokens(tokens.tokens), text, "no class tokens"),
        (specs, tokens, dataclasses.replace(text, offsets=offsets), "report of row 4 has no tokens"),
    ):
        with pytest.raises(DataError, match=message):
            fit_heads(bad_specs, bad_tokens, bad_text, targets, CONFIG)
