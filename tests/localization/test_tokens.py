"""Insertion and deletion: orders with known areas, and tokens that are really left out."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from pkd_utils.localization.tokens import insertion_deletion, token_predictor
from tests.localization.models import build

LESION = [3, 5]  # of ten tokens; the probability is the share of them that is kept


def share_of_lesion(kept):
    return np.isin(kept, LESION).sum(axis=1) / len(LESION)


def by_hand(ranks):
    """Trapezoids over 0, 0.1, ..., 1 of the share of lesion tokens among the first; ranks from 0."""
    curve = [sum(rank < count for rank in ranks) / len(ranks) for count in range(11)]
    return sum((a + b) / 2 for a, b in pairwise(curve)) / 10


@pytest.mark.parametrize(
    ("ranks", "insertion", "deletion"),
    [((0, 1), 0.9, 0.1), ((8, 9), 0.1, 0.9), ((0, 9), 0.5, 0.5)],  # a perfect map, its reverse, one that cannot decide
)
def test_a_perfect_map_inserts_early_and_its_reverse_late(ranks, insertion, deletion):
    maps = np.zeros((2, 2, 5))
    others = iter(rank for rank in range(10) if rank not in ranks)
    for token in range(10):
        maps[:, token // 5, token % 5] = -(ranks[LESION.index(token)] if token in LESION else next(others))
    got = insertion_deletion(share_of_lesion, maps)
    assert by_hand(ranks) == pytest.approx(insertion)
    np.testing.assert_allclose(got, [[insertion] * 2, [deletion] * 2])


def test_a_random_order_is_one_half_on_average():
    maps = np.random.default_rng(0).random((4000, 2, 5))
    insertion, deletion = insertion_deletion(share_of_lesion, maps)
    assert insertion.mean() == pytest.approx(0.5, abs=0.01) == deletion.mean()
    np.testing.assert_allclose(insertion + deletion, 1)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_hidden_tokens_are_out_of_the_model(activation):
    model = build().eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    targets = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0]])
    predict = token_predictor(model, images, targets, activation)
    with torch.no_grad():
        logits = model(images).double()
    p = (logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)).numpy()
    whole = [p[0, 0], p[1, 1], p[2, 2:4].mean()]
    every = np.tile(np.arange(16), (3, 1))
    np.testing.assert_allclose(predict(every), whole, atol=1e-6)
    np.testing.assert_allclose(predict(every[:, ::-1].copy()), whole, atol=1e-6)  # positions go with their tokens
    kept = np.array([[0, 1, 4, 5]] * 3)
    some = predict(kept)
    assert not np.allclose(some, whole, atol=1e-3)
    changed = images.clone()
    changed[:, :, 16:] += 5  # patches 8 to 15 are not among those kept
    np.testing.assert_allclose(token_predictor(model, changed, targets, activation)(kept), some, atol=1e-6)
    assert predict(every[:, :0]).shape == (3,)  # the class token alone
