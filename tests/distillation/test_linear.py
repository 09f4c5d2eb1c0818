"""Linear heads: the optimum that scikit-learn finds, for every column of targets at once."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pkd_utils.distillation import linear
from pkd_utils.distillation.linear import fit_heads, principal_axes
from pkd_utils.distillation.loss import distillation_loss
from pkd_utils.runs.errors import DataError


def drawn(n, d, columns=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.linspace(3, 0.1, d) + 2, rng.random((n, columns))


@pytest.mark.parametrize(("n", "d"), [(200, 15), (40, 60)])
def test_columns_are_scikit_learns_optima(n, d):
    x, targets = drawn(n, d)
    targets[:, 0] = targets[:, 0] < 0.1  # hard, and rare
    l2 = np.array([0.01, 0.03, 0.3, 3.0])
    heads = fit_heads(x, targets, l2, 1e-9)
    for k, penalty in enumerate(l2):
        model = LogisticRegression(C=1 / (n * penalty), tol=1e-10, max_iter=5000)
        weights = np.r_[targets[:, k], 1 - targets[:, k]]
        model.fit(np.r_[x, x], np.repeat([1, 0], n), sample_weight=weights)
        assert heads.coefficients[:, k] == pytest.approx(model.coef_[0], abs=2e-6)
        assert heads.logits(x)[:, k] == pytest.approx(model.decision_function(x), abs=2e-5)


def test_a_mixed_target_is_the_optimum_of_equation_1():
    x, (labels, soft) = drawn(100, 5)[0], drawn(100, 5)[1][:, :2].T
    labels, weight, l2 = (labels > 0.6).astype(float), 0.7, 0.05
    heads = fit_heads(x, ((1 - weight) * labels + weight * soft)[:, None], l2, 1e-9)
    w, b = (torch.tensor(v, requires_grad=True) for v in (heads.coefficients, heads.intercepts))
    logits = torch.from_numpy(x) @ w + b
    loss = distillation_loss(logits, *(torch.from_numpy(v[:, None]) for v in (labels, soft)), weight, "sigmoid")
    slopes = torch.autograd.grad(loss + l2 / 2 * (w**2).sum(), (w, b))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-8


def test_single_precision_and_more_columns_than_a_block_agree_with_double():
    x, targets = drawn(150, 10, columns=1500)
    double, single = fit_heads(x, targets, 0.1, 1e-8), fit_heads(x.astype(np.float32), targets, 0.1, 1e-5)
    assert single.coefficients.dtype == np.float32
    assert np.abs(single.coefficients - double.coefficients).max() < 1e-3
    assert np.abs(double.coefficients[:, :3] - fit_heads(x, targets[:, :3], 0.1, 1e-8).coefficients).max() < 1e-6


def test_one_class_only_has_no_slope_and_half_a_case_of_the_other():
    x, targets = drawn(50, 4)
    targets[:, 0], targets[:, 1] = 0, 1
    heads = fit_heads(x, targets, 0.1, 1e-5)
    assert not heads.coefficients[:, :2].any() and heads.coefficients[:, 2:].any()
    assert 1 / (1 + np.exp(-heads.intercepts[:2])) == pytest.approx([0.01, 0.99])


def test_principal_axes_are_those_of_the_singular_value_decomposition():
    for shape in ((30, 6), (6, 30)):
        x = drawn(*shape)[0]
        x = x - x.mean(0)
        expected = np.linalg.svd(x, full_matrices=False)[2][: min(shape[0] - 1, shape[1])].T
        assert np.abs(np.abs(principal_axes(x)) - np.abs(expected)).max() < 1e-6


def test_what_does_not_converge_is_refused(monkeypatch):
    x, targets = drawn(50, 4)
    monkeypatch.setattr(linear, "STEPS", 5)
    with pytest.raises(DataError, match=r"4 of 4 heads .* after 5 steps: raise l2"):
        fit_heads(x, targets, 0.1, 1e-12)
