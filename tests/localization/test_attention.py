"""Attention maps equal what timm's own unfused attention holds, for the shapes of model that we use."""

import numpy as np
import pytest
import torch

# isort: split
from pkd_utils.localization.attention import (
    attention_maps,
    upsample_maps,  # before timm: see pkd_utils.runs.torchvision_cpu
)
from pkd_utils.runs.errors import DataError
from tests.localization.models import SMALL, build

# isort: split
import timm
from timm.models.vision_transformer import VisionTransformer


def images_for(n=5, size=(32, 32)):
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def hooked_attention(model, images, layer):
    """What goes into attn_drop when attention is not fused: (B, heads, tokens, tokens)."""
    seen = []
    model.eval()
    for block in model.blocks:
        block.attn.fused_attn = False
    handle = model.blocks[layer].attn.attn_drop.register_forward_hook(lambda m, i, o: seen.append(i[0]))
    with torch.no_grad():
        logits = model(images)
    handle.remove()
    for block in model.blocks:
        block.attn.fused_attn = True
    return seen[0], logits


CONFIGS = {
    "plain": {},
    "no qkv bias": {"qkv_bias": False},
    "qk norm": {"qk_norm": True},
    "registers": {"reg_tokens": 4, "no_embed_class": True},
    "everything": {"reg_tokens": 2, "qk_norm": True, "init_values": 0.1, "pre_norm": True, "scale_attn_norm": True},
    "oblong": {"img_size": (32, 48)},
    "dropout": {"attn_drop_rate": 0.5, "proj_drop_rate": 0.5, "drop_path_rate": 0.5, "patch_drop_rate": 0.0},
}


@pytest.mark.parametrize("layer", [-1, 0, 1])
@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_unfused_attention(config, layer):
    model = build(**CONFIGS[config])
    grid = model.patch_embed.grid_size
    images = images_for(size=(grid[0] * 8, grid[1] * 8))
    full, logits = hooked_attention(model, images, layer)
    expected = full[:, :, 0, model.num_prefix_tokens :].unflatten(-1, grid).numpy()
    assert np.ptp(expected) > 0.05
    each, got_logits = attention_maps(model, images, layer, heads="each", batch_size=2)
    assert each.dtype == np.float32 and each.shape == (5, 3, *grid)
    np.testing.assert_allclose(each, expected, atol=1e-6)
    np.testing.assert_allclose(got_logits, logits.numpy(), atol=2e-6)
    np.testing.assert_allclose(attention_maps(model, images, layer)[0], expected.mean(1), atol=1e-6)
    np.testing.assert_allclose(attention_maps(model, images, layer, "max")[0], expected.max(1), atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_named_timm_models(name):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5, img_size=64)
    images = images_for(2, (64, 64))
    full, _ = hooked_attention(model, images, -1)
    maps, _ = attention_maps(model, images)
    np.testing.assert_allclose(maps.reshape(2, -1), full[:, :, 0, model.num_prefix_tokens :].mean(1), atol=1e-6)


def test_dynamic_image_size():
    model = build(dynamic_img_size=True)
    assert attention_maps(model, images_for(size=(40, 64)))[0].shape == (5, 5, 8)


def test_batches_iterables_and_mode():
    model = build(drop_rate=0.5, drop_path_rate=0.5).train()
    images = images_for(7)
    maps, logits = attention_maps(model, images, batch_size=3)
    assert model.training
    again, logits_again = attention_maps(model, iter(images.split(4)))
    np.testing.assert_allclose(maps, again, atol=1e-6)
    np.testing.assert_allclose(logits, logits_again, atol=1e-5)
    assert not model.blocks[-1].attn.qkv._forward_hooks  # the hook is gone


def test_half_precision_around_the_call_leaves_weights_in_float32():
    with torch.autocast("cpu", torch.bfloat16):
        maps, _ = attention_maps(build(), images_for(), heads="each")
    exact, _ = attention_maps(build(), images_for(), heads="each")
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, exact, atol=0.05)  # queries and keys were rounded, the softmax was not
    assert len(np.unique(maps)) > 0.9 * maps.size  # rounded weights would tie


def test_hook_is_removed_after_an_error():
    model = build()
    with pytest.raises(AssertionError):
        attention_maps(model, images_for(size=(40, 40)))
    assert not model.blocks[-1].attn.qkv._forward_hooks


def test_prefix_share_is_left_out():
    model = build(reg_tokens=4)
    sums = attention_maps(model, images_for(), heads="each")[0].sum((-1, -2))
    assert (sums < 1).all() and (sums > 0).all()


@pytest.mark.parametrize(
    ("options", "call", "words"),
    [
        ({"class_token": False, "global_pool": "avg"}, {}, "no class token"),
        ({"global_pool": "avg"}, {}, "pooled by 'avg'"),
        ({}, {"layer": 3}, "layer=3 does not exist"),
        ({}, {"layer": -4}, "layer=-4 does not exist"),
        ({}, {"heads": "median"}, "heads = 'median'"),
        ({}, {"batch_size": 0}, "batch_size = 0"),
        ({"attn_layer": "diff", "num_heads": 2, "embed_dim": 32}, {}, "DiffAttention"),
    ],
)
def test_refusals(options, call, words):
    torch.manual_seed(0)
    model = VisionTransformer(**(SMALL | options))
    with pytest.raises(DataError, match=words) as caught:
        attention_maps(model, images_for(), **call)
    assert "\n" not in str(caught.value)


def test_refuses_no_images_other_models_and_broken_weights():
    with pytest.raises(DataError, match="no images"):
        attention_maps(build(), images_for(0))
    with pytest.raises(DataError, match="no transformer blocks"):
        attention_maps(torch.nn.Linear(2, 2), images_for())
    model = build()
    with torch.no_grad():
        model.cls_token[0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="do not sum to 1"):
        attention_maps(model, images_for())


def test_upsampling():
    grid = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    smooth = upsample_maps(torch.from_numpy(grid).double(), (6, 9))
    assert smooth.dtype == np.float32 and smooth.shape == (1, 6, 9)
    np.testing.assert_allclose(smooth[0, 1::3, 1::3], grid[0], atol=1e-6)  # a patch's value stands at its centre
    assert smooth[0, 0, 0] == 0 and smooth[0, -1, -1] == 5  # border values are kept outside the centres
