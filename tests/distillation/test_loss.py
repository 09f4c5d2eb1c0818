"""The loss against hand-computed numbers, autograd and the plain losses it must reduce to."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pkd_utils.distillation.loss import distillation_loss, soft_labels
from pkd_utils.runs.errors import DataError

NAN = float("nan")


def case(n=7, k=5, seed=0, dtype=torch.float64, missing=0.3):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=g, dtype=dtype) * 3
    targets = (torch.rand(n, k, generator=g) < 0.4).to(dtype)
    targets[torch.rand(n, k, generator=g) < missing] = NAN
    soft = torch.rand(n, k, generator=g, dtype=dtype)
    return logits, targets, soft


def bce(target, logit):
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def test_soft_labels_by_hand():
    got = soft_labels(torch.tensor([[2.0, -1.0]], dtype=torch.float64), 2.5)
    np.testing.assert_allclose(got, [[1 / (1 + math.exp(-0.8)), 1 / (1 + math.exp(0.4))]], rtol=1e-14)
    assert torch.equal(soft_labels(torch.tensor([2.0, -1.0])), torch.sigmoid(torch.tensor([2.0, -1.0])))
    got = soft_labels(np.array([[1.0, 2.0, 3.0]]), 0.5, "softmax")
    e = np.exp([2.0, 4.0, 6.0])
    np.testing.assert_allclose(got, [e / e.sum()], rtol=1e-14)
    stacked = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft_labels(stacked, 1.0, "softmax").sum(-1), torch.ones(2, 3))  # classes come last


def test_soft_labels_carry_no_gradient_and_survive_extreme_logits():
    logits = torch.tensor([[1e30, -1e30, 0.0]], requires_grad=True)
    assert not soft_labels(logits, 1.0).requires_grad
    assert soft_labels(logits, 0.25).tolist() == [[1.0, 0.0, 0.5]]
    assert soft_labels(logits, 0.25, "softmax").tolist() == [[1.0, 0.0, 0.0]]


def test_equation_1_by_hand_with_missing_targets():
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.7]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0], [NAN, 1.0]], dtype=torch.float64)
    soft = torch.tensor([[0.8, 0.1], [0.6, 0.4]], dtype=torch.float64)
    seen = [(0, 0), (0, 1), (1, 1)]
    hard = sum(bce(targets[i].item(), logits[i].item()) for i in seen) / 3
    soft_seen = sum(bce(soft[i].item(), logits[i].item()) for i in seen) / 3
    soft_all = (3 * soft_seen + bce(0.6, 2.0)) / 4
    for weight in (0.0, 0.3, 1.0):
        for on_missing, soft_term in ((False, soft_seen), (True, soft_all)):
            got = distillation_loss(logits, targets, soft, weight, soft_on_missing=on_missing)
            assert got.item() == pytest.approx((1 - weight) * hard + weight * soft_term, rel=1e-14)


def test_equation_1_by_hand_softmax():
    logits = torch.tensor([[0.3, -1.2, 0.5]], dtype=torch.float64)
    log_p = np.log(np.exp(logits[0]) / np.exp(logits[0]).sum())
    soft = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    want = 0.4 * -log_p[2] + 0.6 * -(soft[0] * log_p).sum()
    assert distillation_loss(logits, torch.tensor([2]), soft, 0.6, "softmax").item() == pytest.approx(float(want))
    one_hot = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    assert distillation_loss(logits, one_hot, soft, 0.6, "softmax").item() == pytest.approx(float(want))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_zero_is_bit_for_bit_plain_bce(dtype):
    for seed in range(20):
        logits, targets, soft = case(33, 5, seed, dtype, missing=0.0)
        a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        got, want = distillation_loss(a, targets, soft, 0.0), F.binary_cross_entropy_with_logits(b, targets)
        assert torch.equal(got, want)
        got.backward()
        want.backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
        assert torch.equal(distillation_loss(a, targets, None, 0), want)  # the soft labels do not enter at all


def test_weight_zero_softmax_and_weight_one():
    logits, _, soft = case(9, 4, missing=0)
    classes = torch.arange(9) % 4
    soft = soft / soft.sum(1, keepdim=True)
    assert torch.equal(distillation_loss(logits, classes, None, 0, "softmax"), F.cross_entropy(logits, classes))
    assert torch.equal(distillation_loss(logits, classes, soft, 1, "softmax"), F.cross_entropy(logits, soft))


@pytest.mark.parametrize("options", [{}, {"soft_on_missing": True}])
def test_gradcheck_and_closed_form_gradient(options):
    logits, targets, soft = case(4, 3)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, targets, soft, 0.4, **options), logits)
    classes, of_classes = torch.tensor([0, 2, 1, 1]), soft / soft.sum(1, keepdim=True)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, classes, of_classes, 0.4, "softmax"), logits)
    if not options:  # (sigmoid - mixed target) / number observed, and exactly 0 where the target is not known
        distillation_loss(logits, targets, soft, 0.4).backward()
        seen = ~targets.isnan()
        want = (torch.sigmoid(logits) - 0.6 * targets - 0.4 * soft) / seen.sum()
        torch.testing.assert_close(logits.grad[seen], want[seen].detach(), rtol=1e-12, atol=1e-15)
        assert (logits.grad[~seen] == 0).all()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [1.0, NAN]])
    loss = distillation_loss(logits, targets, torch.full((2, 2), 0.5), 0.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    classes = torch.tensor([0, 0])
    assert torch.isfinite(distillation_loss(logits, classes, torch.full((2, 2), 0.5), 0.5, "softmax"))


def test_nothing_observed_gives_zero_loss_and_zero_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = distillation_loss(logits, torch.full((3, 2), NAN), torch.full((3, 2), 0.5), 0.5)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_whole_numbers_are_targets_too():
    logits, whole = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([[1, 0], [0, 1]])
    assert torch.equal(distillation_loss(logits, whole, None, 0), distillation_loss(logits, whole.float(), None, 0))


X = torch.zeros(2, 3)
HALF = torch.full((2, 3), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_labels(X, 0.0), "temperature must be"),
        (lambda: soft_labels(X, -1.0), "temperature must be"),
        (lambda: soft_labels(X, NAN), "temperature must be"),
        (lambda: soft_labels(X, 1.0, "tanh"), "activation must be one of"),
        (lambda: soft_labels(torch.tensor([[1.0], [NAN]])), "first: row 1"),
        (lambda: soft_labels(torch.tensor([[1.0, 0.0, 2.0], [0.0, NAN, 1.0]])), "^1 of 2 rows .*first: row 1"),
        (lambda: distillation_loss(X, HALF, HALF, 1.2), r"must lie in \[0, 1\]"),
        (lambda: distillation_loss(X, HALF, HALF, -0.1), r"must lie in \[0, 1\]"),
        (lambda: distillation_loss(X, HALF, HALF, NAN), r"must lie in \[0, 1\]"),
        (lambda: distillation_loss(X, HALF, HALF, 0.5, "relu"), "activation must be one of"),
        (lambda: distillation_loss(X, HALF[:1], HALF, 0.5), "targets have the shape"),
        (lambda: distillation_loss(X, HALF, HALF[:, :1], 0.5), "soft targets have the shape"),
        (lambda: distillation_loss(X, HALF, None, 0.5), "there are no soft targets"),
        (lambda: distillation_loss(X, HALF, HALF * NAN, 0.5), "soft targets are not in"),
        (lambda: distillation_loss(X, HALF, HALF * 4, 0.5), "not logits"),
        (lambda: distillation_loss(X, HALF * 4, HALF, 0.5), "targets are not in"),
        (lambda: distillation_loss(X, HALF * float("inf"), HALF, 0.5), "targets are not in"),
        (lambda: distillation_loss(X, HALF * -float("inf"), HALF, 0.5), "targets are not in"),
        (lambda: distillation_loss(X, HALF * NAN, HALF / 1.5, 0.5, "softmax"), "must be left out"),
        (lambda: distillation_loss(X, torch.tensor([0, -100]), HALF / 1.5, 0.5, "softmax"), "must be left out"),
        (lambda: distillation_loss(X, torch.tensor([0, 3]), HALF / 1.5, 0.5, "softmax"), "Class numbers"),
        (lambda: distillation_loss(X, torch.tensor([0, 1]), HALF, 0.5, "softmax"), "sum to 1"),
        (lambda: distillation_loss(X[0], torch.tensor([0]), HALF[0], 0.5, "softmax"), "shape"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(DataError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
