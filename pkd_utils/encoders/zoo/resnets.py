"""ResNets: C2L, BioViL-T without a prior image, and GLoRIA, all of them torchvision's networks."""

from typing import TYPE_CHECKING

from pkd_utils.encoders.facts import (
    CLASSIFIERS,
    HALF,
    IMAGENET,
    UNIT_RANGE,
    Feature,
    ImageFacts,
    Preprocessing,
    Pretraining,
    Sources,
)
from pkd_utils.encoders.zoo.whose import of_imagenet

if TYPE_CHECKING:
    from torch import Tensor, nn


def resnet(facts: ImageFacts, feature: str) -> "nn.Module":
    """torchvision's ResNet without its classifier."""
    import torchvision
    from torch import nn

    network = torchvision.models.get_model(facts.backbone, weights=None)
    network.fc = nn.Identity()
    return network


def stages(resnet: "nn.Module", x: "Tensor", last: int) -> "Tensor":
    """(B, D, rows, columns) after the stem and the first `last` residual stages."""
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)[:last]:
        x = stage(x)
    return x


def row_major(x: "Tensor") -> "Tensor":
    """(B, D, rows, columns) as tokens (B, N, D)."""
    return x.flatten(2).transpose(1, 2)


def tokens(network: "nn.Module", feature: str, x: "Tensor", enlarge: bool = False) -> "Tensor":
    """Tokens of the stage that the feature names: "layer3", "layer4"."""
    return row_major(stages(network, x, int(feature.removeprefix("layer"))))


# --- C2L --------------------------------------------------------------------------------------------------------------

C2L = ImageFacts(
    name="c2l",
    title="C2L",
    architecture="ResNet-18",
    backbone="resnet18",
    network=resnet,
    tokens=tokens,
    files=("ckpt_epoch_*.pth", "current.pth", "C2L_res18_model.pt"),
    source="github.com/funnyzhou/C2L_MICCAI2020",
    licence="MIT (code)",
    cite="zhou2020",
    native="not published: it trains on random crops of 224 with the same numbers",
    preprocessing={"paper": Preprocessing(224, 224, IMAGENET)},
    features={
        "layer4": Feature((7, 7), 512, "last residual stage"),
        "layer3": Feature((14, 14), 256, "third residual stage"),
    },
    parameters=11_176_512,
    prefixes=("encoder.module.", "module.encoder.", "encoder.", ""),
    dropped=("fc.",),
    outputs={"fc.weight": 128},
    foreign=of_imagenet,
    pretraining=Pretraining("image contrast (C2L)", True, False, False, True, True, True, True),
)

# --- BioViL-T ---------------------------------------------------------------------------------------------------------


def biovil_t_network(facts: ImageFacts, feature: str) -> "nn.Module":
    """A ResNet-50, 256 channels of it, and the learnt stand-in for the prior; hi-ml's projection where asked for."""
    import torch
    from torch import nn

    network = nn.Module()
    network.encoder = resnet(facts, feature)
    network.backbone_to_vit = nn.Conv2d(2048, 256, 1, bias=False)
    network.missing_previous_emb = nn.Parameter(torch.zeros(1, 256, 1, 1))
    nn.init.trunc_normal_(network.missing_previous_emb, std=0.02)
    network.projector = None
    if feature == "projected":
        network.projector = nn.Module()
        layers = nn.Conv2d(512, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True), nn.Conv2d(128, 128, 1)
        network.projector.model = nn.Sequential(*layers)
    return network


def biovil_t_tokens(network: "nn.Module", feature: str, x: "Tensor", enlarge: bool = False) -> "Tensor":
    """As hi-ml's image model without a prior image computes them."""
    import torch

    x = stages(network.encoder, x, 4)
    if feature == "resnet":
        return row_major(x)
    x = network.backbone_to_vit(x)
    if feature == "current":
        return row_major(x)
    prior = network.missing_previous_emb.to(x.dtype).expand(x.shape[0], -1, *x.shape[2:])
    x = torch.cat([x, prior], dim=1)
    return row_major(network.projector.model(x) if feature == "projected" else x)


def biovil_names(names: list[str], prefix: str) -> Sources:
    """hi-ml's ImageModel, whose `encoder` holds a ResNet that is called `encoder` as well."""
    return {name: (prefix + (name if name.startswith("projector.") else f"encoder.{name}"),) for name in names}


BIOVIL_T = ImageFacts(
    name="biovil_t",
    title="BioViL-T",
    architecture="ResNet-50 and temporal pooler",
    backbone="resnet50",
    network=biovil_t_network,
    tokens=biovil_t_tokens,
    files=("biovil_t_image_model_proj_size_128.pt",),
    source="huggingface.co/microsoft/BiomedVLP-BioViL-T",
    hub="microsoft/BiomedVLP-BioViL-T",
    licence="MIT",
    cite="bannur2023",
    preprocessing={
        "paper": Preprocessing(512, 448, UNIT_RANGE),
        "native": Preprocessing(512, 448, UNIT_RANGE, grey="first", stretch=True),
    },
    features={
        "fused": Feature((14, 14), 512, "as hi-ml returns `patch_embeddings`; channels 256 to 511 are constant"),
        "current": Feature((14, 14), 256, "the 256 channels that depend on the image"),
        "resnet": Feature((14, 14), 2048, "last residual stage"),
        "projected": Feature((14, 14), 128, "joint image and text space"),
    },
    parameters=24_032_576,
    dropped=("encoder.encoder.fc.", "encoder.vit_pooler.", "projector."),
    pretraining=Pretraining("image-text alignment over time", False, True, True, True, False, False, False),
    notes="No prior image is given, so the temporal pooler is not called and its weights are not loaded.",
    revision="v1.0",
    md5={"biovil_t_image_model_proj_size_128.pt": "a83080e2f23aa584a4f2b24c39b1bb64"},
    layouts=(biovil_names,),
)

# --- GLoRIA -----------------------------------------------------------------------------------------------------------


GLORIA_SIDE = 299  # pixels


def gloria_network(facts: ImageFacts, feature: str) -> "nn.Module":
    """A ResNet-50 at `model` and, for "projected", the projection of its local features."""
    from torch import nn

    network = nn.Module()
    network.model = resnet(facts, feature)
    network.local_embedder = nn.Conv2d(1024, 768, 1, bias=False) if feature == "projected" else None
    return network


def gloria_tokens(network: "nn.Module", feature: str, x: "Tensor", enlarge: bool = True) -> "Tensor":
    """As the authors' encoder computes them, which enlarges its input first."""
    import torch.nn.functional as F

    if enlarge:
        x = F.interpolate(x, size=(GLORIA_SIDE, GLORIA_SIDE), mode="bilinear", align_corners=True)
    x = stages(network.model, x, 4 if feature == "layer4" else 3)
    return row_major(network.local_embedder(x) if feature == "projected" else x)


GLORIA = ImageFacts(
    name="gloria",
    title="GLoRIA",
    architecture="ResNet-50",
    backbone="resnet50",
    network=gloria_network,
    tokens=gloria_tokens,
    files=("chexpert_resnet50.ckpt",),
    source="github.com/marshuang80/gloria",
    licence="Apache-2.0 (code)",
    cite="huang2021gloria",
    preprocessing={
        "paper": Preprocessing(238, 224, IMAGENET),
        "native": Preprocessing(256, 224, HALF, "area", rule="pad_longest", grey="first"),
    },
    features={
        "local": Feature((19, 19), 1024, "third residual stage, the authors' local features", stride=16),
        "layer4": Feature((10, 10), 2048, "last residual stage", stride=32),
        "projected": Feature((19, 19), 768, "local features in the joint image and text space", stride=16),
    },
    parameters=23_508_032,
    prefixes=("gloria.img_encoder.", "img_encoder.", ""),
    never=(*CLASSIFIERS, "model.fc."),
    dropped=("gloria.text_encoder.", "text_encoder.", "global_embedder.", "local_embedder."),
    pretraining=Pretraining("image-text alignment, global and local", False, True, True, False, True, False, False),
    notes="The authors' encoder enlarges its input to 299 x 299; `upsample=False` leaves it at 224.",
    enlarges=GLORIA_SIDE,
)
