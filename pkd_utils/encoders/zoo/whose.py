"""Whose file is this: recognised by the names of its tensors, also files that no encoder here reads."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIGNATURES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("BioViL-T", ("encoder.backbone_to_vit.", "encoder.encoder."), ("biovil_t",)),
    ("BioViL without time (biovil_image_resnet50)", ("encoder.encoder.conv1.",), ()),
    ("GLoRIA", ("gloria.",), ("gloria",)),
    ("BiomedCLIP", ("visual.trunk.", "text."), ("biomedclip",)),
    ("MRM", ("bert_encoder.",), ("mrm",)),
    ("MRM as BenchX trained it", ("vision_encoder.visual.",), ("mrm",)),
    ("Medical MAE", ("decoder_blocks.7.", "patch_embed."), ("medical_mae",)),
    ("DINOv2 with register tokens", ("register_tokens",), ()),
    ("DINOv2 with register tokens", ("embeddings.register_tokens",), ()),
    ("DINOv2 in a Hugging Face folder", ("embeddings.patch_embeddings.",), ("rad_dino", "dinov2_s14")),
    ("DINOv2", ("blocks.0.ls1.gamma", "patch_embed."), ("rad_dino", "dinov2_s14")),
    ("C2L", ("encoder.module.conv1.",), ("c2l",)),
    ("CXR-BERT or BioViL-T's BERT", ("cls_projection_head.",), ("biovil_t_bert", "cxr_bert_general")),
    ("a BERT text encoder", ("bert.",), ("bio_clinicalbert", "pubmedbert", "cxr_bert_general")),
    (
        "a sentence encoder or a bare BERT",
        ("embeddings.word_embeddings.",),
        ("minilm", "bio_clinicalbert", "pubmedbert", "cxr_bert_general"),
    ),
    ("EfficientNet by its first PyTorch port", ("_conv_stem.",), ("efficientnet_lite0",)),
    (
        "a Vision Transformer with timm's names",
        ("patch_embed.proj.", "blocks.0."),
        ("medical_mae", "mrm"),
    ),
    ("a ResNet with torchvision's names", ("conv1.", "layer1.0."), ("c2l", "gloria")),
)
"""(whose file, beginnings that must all occur, encoders it is right for), the more particular first."""

RECOGNISED = {name for _, _, encoders in SIGNATURES for name in encoders}
"""Encoders whose own files are recognised: one that looks like another's is refused."""


def looks_like(names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Whose file has such names: in words ("" if unknown), and the encoders of ours that read it."""
    names = list(names)
    for title, beginnings, encoders in SIGNATURES:
        if all(any(name.startswith(start) for name in names) for start in beginnings):
            return title, encoders
    return "", ()


def told(names: Iterable[str]) -> bool:
    """Whether such names are one encoder's own, and not those of every network of a kind ("a ResNet ...")."""
    title, _ = looks_like(names)
    return bool(title) and not title.startswith("a ")


def learnt_positions(tensors: "dict[str, Tensor]") -> str:
    """Masked autoencoders never train their table of sines and cosines, in which the class token's place is 0."""
    learnt = bool(tensors["pos_embed"][0, 0].abs().max() > 0)
    return (
        "its position embeddings were trained, as those of an ImageNet ViT or a fine-tuned file are" if learnt else ""
    )


def of_imagenet(tensors: "dict[str, Tensor]") -> str:
    """The first row of the first kernel of torchvision's ResNet-18, as it is printed everywhere, to four digits."""
    row = tensors["conv1.weight"][0, 0, 0].tolist()
    same = all(abs(found - known) < 1e-5 for found, known in zip(row, _RESNET18, strict=True))
    return "its first convolution is that of torchvision's ResNet-18, trained on ImageNet" if same else ""


_RESNET18 = (-1.0419e-02, -6.1356e-03, -1.8098e-03, 7.4841e-02, 5.6615e-02, 1.7083e-02, -1.2694e-02)
