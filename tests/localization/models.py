"""A small vision transformer whose maps are far from flat, for the tests of maps."""

import torch
from timm.models.vision_transformer import VisionTransformer

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


def build(**options):
    """A model of `SMALL` with `options`, in training mode, the same weights for the same options."""
    torch.manual_seed(0)
    model = VisionTransformer(**(SMALL | options))
    with torch.no_grad():  # fresh weights give nearly flat attention, which would hide mistakes
        for block in model.blocks:
            block.attn.qkv.weight.mul_(15)
            if block.attn.qkv.bias is not None:
                block.attn.qkv.bias.normal_()
        model.cls_token.normal_()
    return model
