"""Three small ViTs that were pretrained here on simulated radiographs, one for each kind of pretraining."""

from pkd_utils.encoders.facts import ImageFacts, Preprocessing, Pretraining
from pkd_utils.encoders.zoo import vits


def _stand_in(objective: str, title: str, words: str, **seen: bool) -> ImageFacts:
    """A small ViT of notebooks/reports/00-pretrain-stand-ins: the three differ in nothing but the objective."""
    return ImageFacts(
        name=f"simulated_{objective}",
        title=title,
        architecture="ViT, 4 blocks of width 96, patches of 8",
        backbone="vit_tiny_patch16_224",
        network=vits.network,
        tokens=vits.tokens,
        options={"img_size": 64, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3},
        files=(f"simulated_{objective}.safetensors",),
        source="the package: pkd_utils/encoders/stand_ins",
        licence="MIT",
        cite="bergstrom2025",
        preprocessing={"native": Preprocessing(64, 64, ((0.5,) * 3, (0.25,) * 3), rule="pad_longest")},
        features=vits.features(8, 96),
        class_token=True,
        parameters=472_416,
        pretraining=Pretraining(f"simulated radiographs: {words}", **seen, other=True),
        notes="Not in the paper: pretrained here on simulated radiographs by one objective of the paper's Figure 2, "
        "in notebooks/reports/00-pretrain-stand-ins.",
    )


STAND_INS = (
    _stand_in("image_ssl", "Simulated SSL", "masked images", image_ssl=True),
    _stand_in("alignment", "Simulated alignment", "images aligned with reports", text=True, aligned=True),
    _stand_in("masked", "Simulated masked", "masked images and reports", image_ssl=True, text=True),
)
