"""Add an encoder: python add_an_encoder.py vit_tiny.safetensors radiograph.png"""

import sys

from PIL import Image

from pkd_utils.encoders import load_image_encoder
from pkd_utils.encoders.facts import HALF, Feature, ImageFacts, Preprocessing, Pretraining
from pkd_utils.encoders.image_facts import IMAGE_ENCODERS

IMAGE_ENCODERS["vit_tiny"] = ImageFacts(
    name="vit_tiny",
    title="ViT-Tiny",
    architecture="ViT-Ti/16",
    backbone="timm:vit_tiny_patch16_224",  # or "torchvision:resnet34"
    files=("vit_tiny.safetensors",),
    source="huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    licence="Apache-2.0",
    cite="dosovitskiy2021",
    preprocessing={"native": Preprocessing(248, 224, HALF, "bicubic")},
    features={"norm": Feature((14, 14), 192, "patch tokens after the final layer norm")},
    class_token=True,
    parameters=5_524_416,
    prefixes=("",),  # names in the file have no prefix ...
    dropped=("head.",),  # ... and these belong to a classifier
    pretraining=Pretraining("ImageNet labels", False, False, False, False, False, False, True),
)

if __name__ == "__main__":
    weights, picture = sys.argv[1:]
    encoder = load_image_encoder("vit_tiny", weights)
    tokens = encoder.tokens(encoder.preprocess(Image.open(picture))[None])
    print(f"{len(encoder.keys.found)} tensors found, {len(encoder.keys.dropped)} dropped; tokens {tuple(tokens.shape)}")
