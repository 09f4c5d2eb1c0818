"""Preprocessing: from a stored image to an encoder's input, pixel by pixel what `facts.Preprocessing` states.

8-bit images take PIL's resize, which works on whole grey levels, as torchvision's transforms do on PIL images and as
transformers' PIL image processors do. A grey image is resized once, not three times: the numbers are the same.
"""

import math

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from pkd_utils.encoders.facts import Preprocessing
from pkd_utils.images.depth import eight_bit_range, is_deep


def eight_bit(image: Image.Image, depth: str | int = "minmax") -> Image.Image:
    """The image with 8 bits a channel: mode "L" if it is grey, else "RGB".

    Transparency is ignored, palettes are resolved, EXIF orientation is not applied. `depth` says how more than 8 bits
    become 8, by the rule of `depth.eight_bit_range`, then rounded. The default stretches the image's own range, so that
    12 bits stored in 16 do not come out black; radiographs in JPEG were stretched so by whoever wrote them. Of 8-bit
    images no value changes.
    """
    if is_deep(image):
        return Image.fromarray(np.rint(eight_bit_range(np.asarray(image), depth)).astype(np.uint8))
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    return image.convert("RGB")


def preprocess(
    image: Image.Image,
    steps: Preprocessing,
    crop: tuple[int, int, int, int] | None = None,
    depth: str | int = "minmax",
) -> torch.Tensor:
    """An encoder's input from a stored image.

    Parameters
    ----------
    image : PIL image of any mode and size
    crop : (left, top, width, height) in pixels of the stored image, optional
        That rectangle alone, resized to the input's size with the same interpolation (the aspect ratio may change),
        replaces resize and centre crop: an augmented view, see `random_resized_crop`.
    depth : see `eight_bit`

    Returns
    -------
    (3, S, S) float32 tensor, S = `steps.crop`
    """
    whole, image = image, eight_bit(image, depth)
    if steps.stretch:
        image = _stretch(whole if is_deep(whole) else image)
    if steps.grey == "first":
        image = image.convert("L")
    if crop is not None:
        left, top, width, height = crop
        image = _resize(image.crop((left, top, left + width, top + height)), steps.crop, steps.crop, steps)
    else:
        image = _centre_crop(_resize_whole(image, steps), steps)
    if steps.grey == "last":
        image = image.convert("L")
    pixels = tv.to_tensor(image).expand(3, -1, -1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in steps.statistics)
    return (pixels - mean) / std


def random_resized_crop(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """(left, top, width, height) in pixels, as torchvision's RandomResizedCrop draws it, from a numpy generator.

    `scale` is a share of the image's area, `ratio` is width over height, uniform on a logarithmic scale. After ten
    draws that do not fit it is the largest centred rectangle within `ratio`.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
    fitting = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * fitting)), min(height, round(width / fitting))
    return (width - w) // 2, (height - h) // 2, w, h


def _stretch(image: Image.Image) -> Image.Image:
    """Own minimum and maximum to 0 and 255, cut to whole numbers once, of any depth (hi-ml's `remap_to_uint8`)."""
    values = np.asarray(image).astype(np.float64)
    values -= values.min()
    return Image.fromarray((values / (values.max() or 1.0) * 255).astype(np.uint8))


def _resize_whole(image: Image.Image, steps: Preprocessing) -> Image.Image:
    width, height = image.size
    if steps.rule == "shorter":
        short = min(width, height)  # the longer side is cut to a whole number, as torchvision and transformers do
        return _resize(image, int(steps.resize * width / short), int(steps.resize * height / short), steps)
    side, long = steps.resize, max(width, height)
    image = _resize(image, *(side if n == long else max(1, int(n * (side / long))) for n in (width, height)), steps)
    canvas = Image.new(image.mode, (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def _resize(image: Image.Image, width: int, height: int, steps: Preprocessing) -> Image.Image:
    if steps.interpolation != "area":
        return tv.resize(image, [height, width], InterpolationMode(steps.interpolation))
    return Image.fromarray(cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_AREA))


def _centre_crop(image: Image.Image, steps: Preprocessing) -> Image.Image:
    side = steps.crop
    if steps.centre == "round" or min(image.size) < side:
        return tv.center_crop(image, [side, side])
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
