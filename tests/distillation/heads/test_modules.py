"""Heads as in the paper, and the fused heads that must give the same numbers."""

import math

import numpy as np
import pytest
import torch

from pkd_utils.distillation.heads import fused
from pkd_utils.distillation.heads.fused import HeadGroup, Inputs, Keeps, batched_product, normalised, product
from pkd_utils.distillation.heads.modules import AttentionHead, TokenAttention, build_head, dropout_keep
from tests.distillation.heads.conftest import textbook_logits

B, N, L, D, DT, C = 6, 19, 11, 32, 24, 3
METHODS = ["image_only", "teacher", "text_only", "mean_probe", "cls_probe", "report_distilled", "teacher"]


def make_inputs(dtype):
    """Tokens of large offset and unequal scale, reports of different lengths, masks that drop some weights."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(B, N, D, dtype=dtype, generator=generator) * 2 + 1
    text = torch.randn(B, L, DT, dtype=dtype, generator=generator) - 3
    mask = torch.arange(L)[None] < torch.tensor([11, 3, 1, 7, 8, 2])[:, None]
    return image, text, mask, dropout_keep((B, N, N), 0.2, 1), dropout_keep((B, L, L), 0.2, 2)


def make_heads(dtype):
    """Heads whose every parameter differs from its initial value, gains and biases too."""
    heads = [build_head(method, C, D, DT, seed=i).to(dtype) for i, method in enumerate(METHODS)]
    generator = torch.Generator().manual_seed(1)
    for head in heads:
        for parameter in head.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, dtype=dtype, generator=generator)
    return heads


def fused_inputs(image, text, mask):
    x = normalised(image)
    return Inputs(x, normalised(text), mask, x.mean(1), x[:, 0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("tile", [1, 20_000, 1 << 30])
@pytest.mark.parametrize("dropout", [True, False])
def test_fused_heads_equal_the_textbook_heads(dtype, tolerance, tile, dropout, monkeypatch):
    monkeypatch.setitem(fused.TILE_BYTES, "cpu", tile)
    image, text, mask, keep, text_keep = make_inputs(dtype)
    heads = [head.train(dropout) for head in make_heads(dtype)]
    if not dropout:
        keep = text_keep = None
    read = image, image[:, :1], text, mask, keep, text_keep
    pairs = zip(heads, METHODS, strict=True)
    expected = torch.stack([textbook_logits(head, method, *read) for head, method in pairs], 1)
    direction = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    (expected * direction).sum().backward()
    gradients = {id(p): p.grad for head in heads for p in head.parameters()}
    for head in heads:
        head.zero_grad()
    group = HeadGroup(heads, METHODS)
    found = group.logits(group.fold(), fused_inputs(image, text, mask), Keeps(keep, text_keep))
    (found * direction).sum().backward()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for parameter in group.parameters():
        torch.testing.assert_close(parameter.grad, gradients[id(parameter)], rtol=100 * tolerance, atol=10 * tolerance)
    # What is not trained has no gradient: the softmax cancels the keys' biases.
    trained = {id(p) for p in group.parameters()}
    left_out = [p for head in heads for p in head.parameters() if id(p) not in trained]
    assert len(left_out) == 7
    assert all(gradients[id(p)].abs().max() < 1e-4 for p in left_out)


@pytest.mark.parametrize("onednn", [True, False])
def test_products_are_the_same_by_either_library(onednn, monkeypatch):
    monkeypatch.setattr(fused, "multiplied_by_onednn", lambda a: onednn)
    monkeypatch.setattr(fused, "LARGE", 3 * 5 * 7)
    generator = torch.Generator().manual_seed(0)
    for columns in (2, 3, 4):  # less, as many and more multiplications than LARGE
        a, b = torch.randn(2, 5, 7, generator=generator), torch.randn(2, columns, 7, generator=generator)
        torch.testing.assert_close(batched_product(a, b), torch.einsum("imk,ink->imn", a, b))
        torch.testing.assert_close(product(a[0], b[0]), torch.einsum("mk,nk->mn", a[0], b[0]))


def test_bfloat16_products_come_close():
    image, text, mask, keep, text_keep = make_inputs(torch.float32)
    heads = make_heads(torch.float32)
    inputs = fused_inputs(image, text, mask)
    with torch.no_grad():
        exact, low = (
            group.logits(group.fold(), inputs, Keeps(keep, text_keep))
            for group in (HeadGroup(heads, METHODS), HeadGroup(heads, METHODS, torch.bfloat16))
        )
    difference = (low - exact).pow(2).mean().sqrt()
    assert 0 < difference < 0.01 * exact.std()


def test_attention_is_the_papers_by_hand():
    """One image, in plain numpy: layer norm, softmax(q k / sqrt(D)), dropout, values, mean."""
    attention = TokenAttention(8).double()
    for parameter in attention.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    x = torch.randn(1, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    keep = dropout_keep((1, 5, 5), 0.2, 3)
    assert not keep.all()
    p = {name: value.detach().numpy() for name, value in attention.named_parameters()}
    t = x[0].numpy()
    t = (t - t.mean(1, keepdims=True)) / np.sqrt(t.var(1, keepdims=True) + 1e-5) * p["norm.weight"] + p["norm.bias"]
    q, k, v = (t @ p[f"{name}.weight"].T + p[f"{name}.bias"] for name in ("query", "key", "value"))
    weights = np.exp(q @ k.T / math.sqrt(8))
    weights = weights / weights.sum(1, keepdims=True) * keep[0].numpy() / 0.8
    np.testing.assert_allclose(attention(x, keep=keep)[0].detach(), (weights @ v).mean(0), rtol=1e-12)


def test_teacher_normalises_both_pooled_vectors_before_it_concatenates():
    teacher = build_head("teacher", C, D, DT).double()
    image, text = torch.randn(B, D, dtype=torch.float64), torch.randn(B, DT, dtype=torch.float64)
    both = [(x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt() for x in (image, text)]
    expected = torch.cat(both, 1) @ teacher.classifier.weight.T + teacher.classifier.bias
    torch.testing.assert_close(teacher.classify(image, text), expected)


def test_padding_changes_nothing():
    head = AttentionHead(D, C).eval()
    text = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(5))
    padded = torch.cat([text, torch.full((2, 3, D), 7.0)], 1)
    mask = torch.arange(8)[None].expand(2, -1) < 5
    torch.testing.assert_close(head(padded, mask), head(text))


def test_dropout_is_drawn_only_while_training():
    attention = TokenAttention(D)
    x = torch.randn(2, N, D)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


def test_heads_of_one_seed_start_alike_and_of_others_differently():
    student, again, other = (build_head("report_distilled", C, D, seed=s) for s in (0, 0, 1))
    teacher = build_head("teacher", C, D, DT, seed=0)
    assert torch.equal(student.attention.query.weight, again.attention.query.weight)
    assert torch.equal(student.attention.query.weight, teacher.image_attention.query.weight)
    assert not torch.equal(student.attention.query.weight, other.attention.query.weight)


def test_dropout_mask_is_a_function_of_its_key():
    mask = dropout_keep((64, 50, 50), 0.2, 3, 1, 2)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, dropout_keep((64, 50, 50), 0.2, 3, 1, 2))
    assert (mask == dropout_keep((64, 50, 50), 0.2, 3, 2, 1)).double().mean() < 0.75
    assert mask.double().mean().item() == pytest.approx(0.8, abs=0.004)  # four standard deviations


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_with_any_strides(dtype):
    a, b = torch.randn(33, 20), torch.randn(17, 20)
    expected = a.double() @ b.double().T
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-6, torch.bfloat16: 0.2}[dtype]
    for x in (a, a.T.contiguous().T):
        for y in (b, b.T.contiguous().T):
            found = product(x.to(dtype), y.to(dtype)).double()
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
