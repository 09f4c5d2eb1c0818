"""Maps of every method equal the textbook: a forward pass written out here, whole matrices, autograd."""

import math

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer

from pkd_utils.localization.saliency import METHODS, predicted_positives, saliency_maps
from pkd_utils.runs.errors import DataError
from tests.localization import models
from tests.localization.models import SMALL

SHAPES = {
    "plain": {},
    "registers": {"reg_tokens": 4, "no_embed_class": True},
    "norms": {"qk_norm": True, "init_values": 0.3, "pre_norm": True, "scale_attn_norm": True},
    "oblong": {"img_size": (32, 48), "qkv_bias": False},
    "dropout": {"attn_drop_rate": 0.5, "proj_drop_rate": 0.5, "drop_path_rate": 0.5, "drop_rate": 0.5},
}


def build(**options):
    """The small model with a head whose labels differ."""
    model = models.build(**options)
    torch.nn.init.normal_(model.head.weight)
    return model


def one_map(model, images, method, *, targets=None, batch_size=64, **options):
    maps, logits = saliency_maps(model, images, {method: options}, targets=targets, batch_size=batch_size)
    return maps[method], logits


def images_for(model, n=5, seed=1):
    height, width = model.patch_embed.img_size
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


TARGETS = np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, -0.5, 0, 2], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]], np.float32)


def naive_forward(model, images):
    """Logits, attention matrices and normalised tokens of every block, written from the equations, with their graph."""
    x = model.patch_embed(images)
    prefix = [model.cls_token.expand(len(x), -1, -1)]
    if model.reg_token is not None:
        prefix.append(model.reg_token.expand(len(x), -1, -1))
    if model.no_embed_class:
        x = torch.cat([*prefix, x + model.pos_embed], 1)
    else:
        x = torch.cat([*prefix, x], 1) + model.pos_embed
    x = model.norm_pre(x)
    attentions, normed = [], []
    for block in model.blocks:
        attn = block.attn
        y = block.norm1(x)
        normed.append(y)
        batch, tokens, width = y.shape
        parts = (y @ attn.qkv.weight.T).split(width, dim=-1)
        if attn.qkv.bias is not None:
            parts = [p + b for p, b in zip(parts, attn.qkv.bias.split(width), strict=True)]
        q, k, v = (p.reshape(batch, tokens, attn.num_heads, -1).transpose(1, 2) for p in parts)
        q, k = attn.q_norm(q), attn.k_norm(k)
        scores = torch.exp(q @ k.transpose(2, 3) / math.sqrt(width // attn.num_heads))
        weights = scores / scores.sum(-1, keepdim=True)
        attentions.append(weights)
        out = attn.proj(attn.norm((weights @ v).transpose(1, 2).reshape(batch, tokens, width)))
        x = x + block.ls1(out)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.head(model.norm(x)[:, 0]), attentions, normed


def naive_rollout(attentions):
    """Whole matrices, image by image."""
    rows = []
    for image in range(len(attentions[0])):
        product = np.eye(attentions[0].shape[-1])
        for layer in attentions:
            a = layer[image].detach().double().numpy().mean(0)
            a = a + np.eye(len(a))
            product = a / a.sum(1, keepdims=True) @ product
        rows.append(product[0])
    return np.stack(rows)


def naive_chefer(logits, attentions, targets):
    """Rule R <- R + mean_h((grad A * A)^+) R on whole matrices."""
    gradients = torch.autograd.grad((logits * torch.from_numpy(targets)).sum(), attentions, retain_graph=True)
    tokens = attentions[0].shape[-1]
    relevance = torch.eye(tokens).repeat(len(logits), 1, 1)
    for weights, gradient in zip(attentions, gradients, strict=True):
        relevance = relevance + torch.bmm((gradient * weights).clamp(min=0).mean(1), relevance)
    return relevance[:, 0].detach().numpy()


def naive_grad_cam(logits, tokens, targets, n_prefix):
    """Gradient averaged over the patches, times the tokens, summed over channels."""
    (gradient,) = torch.autograd.grad((logits * torch.from_numpy(targets)).sum(), tokens, retain_graph=True)
    channel = gradient[:, n_prefix:].mean(1, keepdim=True)
    return (channel * tokens[:, n_prefix:]).sum(-1).detach().numpy()


def patches(model, rows):
    return np.asarray(rows)[..., model.num_prefix_tokens :].reshape(*rows.shape[:-1], *model.patch_embed.grid_size)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_method_equals_the_textbook(shape):
    model = build(**SHAPES[shape])
    images = images_for(model)
    logits, attentions, normed = naive_forward(model.eval(), images)
    model.train()
    methods, expected = {}, {}  # of all layers, which share a pass
    for layer in (-1, 0, 1):
        upto = layer % 3 + 1
        rows = attentions[layer][:, :, 0].detach().numpy()
        cam = naive_grad_cam(logits, normed[layer], TARGETS, model.num_prefix_tokens).clip(0)
        expected |= {
            f"attention {layer}": patches(model, rows.mean(1)),
            f"max {layer}": patches(model, rows.max(1)),
            f"rollout {layer}": patches(model, naive_rollout(attentions[:upto])),
            f"chefer {layer}": patches(model, naive_chefer(logits, attentions[:upto], TARGETS)),
            f"grad_cam {layer}": cam.reshape(5, *model.patch_embed.grid_size),
        }
        methods |= {f"{method} {layer}": {"method": method, "layer": layer} for method in METHODS}
        methods[f"max {layer}"] = {"method": "attention", "heads": "max", "layer": layer}
    logits = logits.detach().numpy()
    together, got = saliency_maps(model, images, methods, targets=TARGETS, batch_size=2)
    np.testing.assert_allclose(got, logits, rtol=1e-4, atol=2e-5)
    for name, value in expected.items():
        assert np.ptp(value) > 1e-3, name  # the case can tell right from wrong
        alone, got = saliency_maps(model, images, {name: methods[name]}, targets=TARGETS)
        np.testing.assert_allclose(got, logits, rtol=1e-4, atol=2e-5)
        for found in (together[name], alone[name]):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4 * np.abs(value).max(), err_msg=name)


def test_batches_do_not_matter():
    model = build()
    images, methods = images_for(model, 7), {name: {} for name in METHODS}
    targets = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0, 1]]
    whole, logits = saliency_maps(model, images, methods, targets=targets)
    assert {values.shape for values in whole.values()} == {(7, 4, 4)} and logits.shape == (7, 5)
    for batches in (images.split(1), iter(images.split([2, 4, 1]))):
        again, logits_again = saliency_maps(model, batches, methods, targets=torch.from_numpy(targets))
        np.testing.assert_allclose(logits_again, logits, rtol=1e-5, atol=1e-5)
        for name in METHODS:
            np.testing.assert_allclose(again[name], whole[name], rtol=1e-4, atol=1e-6)


def test_default_targets_are_the_predicted_positives():
    logits = torch.tensor([[1.0, -1, 2], [-3, -1, -2], [0, 0, 0.1], [-1, -1, -1]])
    assert predicted_positives(logits).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    model = build()
    images = images_for(model)
    targets = predicted_positives(torch.from_numpy(one_map(model, images, "attention")[1]))
    assert set(targets.sum(1).tolist()) - {1.0}  # some image has several
    for method in ("chefer", "grad_cam"):
        by_default, given = (one_map(model, images, method, targets=t)[0] for t in (None, targets))
        np.testing.assert_allclose(by_default, given, rtol=1e-5, atol=1e-7)


def state_of(model):
    return (
        [p.requires_grad for p in model.parameters()],
        [p.grad for p in model.parameters()],
        [block.attn.fused_attn for block in model.blocks],
        [len(module._forward_hooks) for module in model.modules()],
    )


EVERYTHING = {**{name: {} for name in METHODS}, "early cam": {"method": "grad_cam", "layer": 0}}


def test_the_model_comes_back_as_it_was():
    model = build(drop_rate=0.5).train()
    model.blocks[1].attn.fused_attn = False
    model.pos_embed.requires_grad_(False)
    images = images_for(model)
    before, weights = state_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    saliency_maps(model, images, EVERYTHING, batch_size=2)
    assert state_of(model) == before and not any(module.training for module in model.modules())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.is_grad_enabled()
    with pytest.raises(AssertionError):
        saliency_maps(model, torch.randn(5, 3, 40, 40), EVERYTHING)
    assert state_of(model) == before

    def breaks():
        yield images
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"):
        saliency_maps(model, breaks(), EVERYTHING)
    assert state_of(model) == before


def test_what_surrounds_the_call_does_not_matter():
    model = build()
    images = images_for(model)
    expected, logits = saliency_maps(model, images, EVERYTHING)
    model.requires_grad_(False)
    bf16 = torch.autocast("cpu", torch.bfloat16)
    for surrounding in (torch.no_grad(), torch.inference_mode(), bf16, torch.enable_grad()):
        with surrounding:
            maps, got = saliency_maps(model, images.clone(), EVERYTHING)
        np.testing.assert_array_equal(got, logits)
        for name in EVERYTHING:
            assert maps[name].dtype == np.float32
            np.testing.assert_array_equal(maps[name], expected[name])
    needy = images.clone().requires_grad_()
    saliency_maps(model, needy, EVERYTHING)
    assert needy.grad is None


def test_half_precision_models():
    model = build()
    images = images_for(model)
    expected, _ = saliency_maps(model, images, EVERYTHING, targets=TARGETS)
    maps, logits = saliency_maps(model.bfloat16(), images.bfloat16(), EVERYTHING, targets=TARGETS)
    assert logits.dtype == np.float32
    for name, values in maps.items():
        assert values.dtype == np.float32
        assert np.corrcoef(values.ravel(), expected[name].ravel())[0, 1] > 0.9


def test_one_forward_pass_for_all():
    model = build()
    passes = []
    model.patch_embed.register_forward_hook(lambda *_: passes.append(1))
    images = images_for(model)
    four = {name: EVERYTHING[name] for name in METHODS}
    saliency_maps(model, images, four)
    assert len(passes) == 1
    saliency_maps(model, images, EVERYTHING)  # a second Grad-CAM costs a pass of its own
    assert len(passes) == 3


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_named_timm_models(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5, img_size=64)
    images = torch.randn(2, 3, 64, 64)
    maps, logits = saliency_maps(model, images, {name: {} for name in METHODS})
    seen, attn = [], model.blocks[-1].attn
    attn.fused_attn = False  # timm's own weights go through attn_drop
    attn.attn_drop.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0][:, :, 0].mean(1)))
    with torch.no_grad():
        np.testing.assert_allclose(model.eval()(images), logits, atol=1e-5)
    np.testing.assert_allclose(maps["attention"], patches(model, seen[0]), atol=1e-6)
    for values in maps.values():
        assert values.shape == (2, 4, 4) and np.isfinite(values).all() and values.max() > 0


def test_dynamic_image_size():
    model = build(dynamic_img_size=True)
    maps, _ = saliency_maps(model, torch.randn(3, 3, 40, 64), EVERYTHING)
    assert {values.shape for values in maps.values()} == {(3, 5, 8)}


@pytest.mark.parametrize(
    ("options", "call", "words"),
    [
        ({"class_token": False, "global_pool": "avg"}, {}, "no class token"),
        ({"global_pool": "avg"}, {}, "pooled by 'avg'"),
        ({}, {"method": "lime"}, "method = 'lime'"),
        ({}, {"layer": 3}, "layer=3 does not exist"),
        ({}, {"layer": -4, "method": "chefer"}, "layer=-4 does not exist"),
        ({}, {"heads": "median"}, "heads = 'median'"),
        ({}, {"start": 1, "method": "rollout"}, "start = 1"),
        ({"attn_layer": "diff", "num_heads": 2, "embed_dim": 32}, {"method": "rollout"}, "DiffAttention"),
        ({"block_fn": ParallelScalingBlock}, {}, "NoneType|ParallelScalingBlock"),
        ({"block_fn": ResPostBlock}, {"method": "grad_cam"}, "ResPostBlock"),
    ],
)
def test_refusals(options, call, words):
    torch.manual_seed(0)
    model = VisionTransformer(**(SMALL | options))
    images = torch.randn(5, 3, 32, 32)
    with pytest.raises(DataError, match=words) as caught:
        one_map(model, images, **{"method": "attention", **call})
    assert "\n" not in str(caught.value)


def test_more_refusals():
    model = build()
    images = images_for(model)
    with pytest.raises(DataError, match="no transformer blocks"):
        one_map(torch.nn.Linear(2, 2), images, "grad_cam")
    images[3, 0, 0, 0] = float("nan")
    for method in METHODS:
        with pytest.raises(DataError, match=f"map {method} of image 3 is not finite"):
            one_map(model, images, method)
