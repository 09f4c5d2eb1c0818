"""Shuffling soft labels within a class: the permuted control."""

import numpy as np
import pytest

from pkd_utils.distillation.rows import permute_within


@pytest.mark.parametrize("classes", [[0, 1, 1, 0, 2, 1], [[0, 1], [1, 1], [1, 0], [0, -1], [0, -1], [1, 1]]])
def test_each_class_keeps_its_values_and_cases_lose_theirs(classes):
    classes = np.repeat(classes, 20, axis=0)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(120, 2))
    found = permute_within(values, classes, rng)
    assert (found != values).mean() > 0.8
    if classes.ndim == 1:  # rows stay whole
        assert set(map(tuple, found)) == set(map(tuple, values))
    for column in range(2):
        own = classes if classes.ndim == 1 else classes[:, column]
        for one in np.unique(own):
            assert sorted(found[own == one, column]) == sorted(values[own == one, column])
