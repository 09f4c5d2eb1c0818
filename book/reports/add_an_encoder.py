"""ViT-Tiny of ImageNet: this file is pkd_utils/encoders/zoo/vit_tiny.py."""

from pkd_utils.encoders.facts import HALF, ImageFacts, Preprocessing, Pretraining
from pkd_utils.encoders.zoo import vits

VIT_TINY = ImageFacts(
    name="vit_tiny",
    title="ViT-Tiny",
    architecture="ViT-Ti/16",
    backbone="vit_tiny_patch16_224",  # its name in timm
    network=vits.network,
    tokens=vits.tokens,
    files=("vit_tiny.safetensors",),
    source="huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    licence="Apache-2.0",
    cite="dosovitskiy2021",  # a key of book/references.bib
    preprocessing={"native": Preprocessing(248, 224, HALF, "bicubic")},
    features=vits.features(14, 192),  # 14 x 14 tokens of 192 numbers
    class_token=True,
    parameters=5_524_416,
    prefixes=("",),  # names in the file have no prefix ...
    dropped=("head.",),  # ... and these belong to a classifier
    pretraining=Pretraining("ImageNet labels", other=True),  # on no chest film
)

# And one line in pkd_utils/encoders/zoo/__init__.py, among the image encoders:
#        vit_tiny.VIT_TINY,
