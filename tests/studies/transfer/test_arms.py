"""Each arm does what its docstring says."""

import numpy as np
import pytest
from scipy.special import expit

from pkd_utils.studies.transfer import arms


def test_crossed_soft_labels_never_use_a_studys_own_label_and_those_in_sample_do():
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((60, 3)), rng.integers(0, 2, (60, 1)).astype(float)
    folds = arms.cross_folds(np.arange(60) // 2, 5, rng)
    assert (folds.reshape(30, 2) == folds.reshape(30, 2)[:, :1]).all()  # patients stay together
    before = arms.teach(x, labels, folds, [0.1], in_sample=True, tolerance=1e-8)
    own = np.flatnonzero(folds == folds[7])
    labels[7] = 1 - labels[7]
    after = arms.teach(x, labels, folds, [0.1], in_sample=True, tolerance=1e-8)
    assert (before.crossed[own] == after.crossed[own]).all()
    assert not np.isclose(before.crossed, after.crossed).all()
    assert not np.isclose(before.seen[7], after.seen[7], atol=1e-4)


def test_a_teacher_takes_the_penalty_of_the_smallest_crossed_loss_and_tells_it():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((200, 5))
    labels = (rng.random((200, 2)) < expit(2 * x[:, :2])).astype(float)
    folds = arms.cross_folds(np.arange(200), 4, rng)
    each = [arms.teach(x, labels, folds, [l2], False).loss for l2 in (0.01, 10.0)]
    assert arms.teach(x, labels, folds, [10.0, 0.01], False).loss == pytest.approx(np.minimum(*each), abs=1e-5)


def test_candidates_are_equation_1_and_say_their_dose():
    observed, truth = np.array([0.0, 1.0]), np.array([0.0, 0.0])
    logits = {arms.TEXT: np.array([-1.0, 3.0])}
    made = list(arms.candidates(observed, truth, logits, [0.0, 0.25, 1.0], [1.0, 2.0]))
    by_name = {(arm, w, t): (target, dose) for arm, w, t, target, dose in made}
    assert len(by_name) == len(made) == 1 + 2 + 1 + 4
    target, dose = by_name[arms.TEXT, 0.25, 2.0]
    soft = expit(logits[arms.TEXT] / 2)
    assert target == pytest.approx(0.75 * observed + 0.25 * soft)
    assert dose == pytest.approx(np.abs(soft - observed).mean())
    assert by_name[arms.ORACLE, 1.0, 1.0][0] == pytest.approx(truth)
    assert by_name[arms.SMOOTHED, 0.25, 1.0][0] == pytest.approx([0.125, 0.875])
    assert (arms.SMOOTHED, 1.0, 1.0) not in by_name
    assert made[0][0] == arms.IMAGE_ONLY and (made[0][3] == observed).all()
