"""Frozen encoders of radiographs and of their reports.

`load_image_encoder`, `load_text_encoder` and the tables `IMAGE_ENCODERS`, `TEXT_ENCODERS`; the loaders, and with them
torch, timm and transformers, are imported when they are first asked for.
"""

from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS

__all__ = ["IMAGE_ENCODERS", "TEXT_ENCODERS", "load_image_encoder", "load_text_encoder"]


def __getattr__(name: str):
    if name == "load_image_encoder":
        from pkd_utils.encoders.image import load_image_encoder

        return load_image_encoder
    if name == "load_text_encoder":
        from pkd_utils.encoders.text import load_text_encoder

        return load_text_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
