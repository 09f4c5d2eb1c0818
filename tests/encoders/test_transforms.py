"""Preprocessing: pixel by pixel what the paper and the encoders' authors state, written out again here."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision import transforms as tv
from torchvision.transforms import functional as tvf
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from pkd_utils.encoders.facts import IMAGENET, Preprocessing
from pkd_utils.encoders.transforms import eight_bit, preprocess, random_resized_crop
from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.images.decode import read_image
from pkd_utils.images.depth import eight_bit_range
from pkd_utils.runs.errors import DataError

BICUBIC = tv.InterpolationMode.BICUBIC
IMAGENET_STATS = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP_STATS = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def twelve_bit(height: int = 431, width: int = 350, seed: int = 0) -> np.ndarray:
    """A non-square grey image of 12 bits in 16: smooth, with noise; 37 ... 4094."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    values = 1800 + 1500 * np.sin(x / 31) * np.cos(y / 43) + rng.normal(0, 250, (height, width))
    values = np.clip(values, 37, 4094).astype(np.uint16)
    values[0, 0], values[-1, -1] = 37, 4094
    return values


def by_hand(values: np.ndarray) -> Image.Image:
    """The one rule for more than 8 bits, in double precision."""
    values = values.astype(np.float64)
    return Image.fromarray(np.rint((values - values.min()) * 255 / (values.max() - values.min())).astype(np.uint8))


def torchvision_steps(resize, crop, statistics=None, interpolation=tv.InterpolationMode.BILINEAR, grey=False):
    steps = [tv.Resize(resize, interpolation), tv.CenterCrop(crop)] + [tv.Grayscale(3)] * grey + [tv.ToTensor()]
    return tv.Compose(steps + ([tv.Normalize(*statistics)] if statistics else []))


def padded(side):
    """Longer side to `side`, black around the rest, 0.5 and 0.25."""

    def steps(image: Image.Image) -> torch.Tensor:
        scale = side / max(image.size)
        width, height = (max(1, int(length * scale)) for length in image.size)
        canvas = Image.new("RGB", (side, side))
        small = image.resize((width, height), Image.Resampling.BILINEAR)
        canvas.paste(small, ((side - width) // 2, (side - height) // 2))
        return tv.Compose([tv.ToTensor(), tv.Normalize([0.5] * 3, [0.25] * 3)])(canvas)

    return steps


def huggingface_rad_dino():
    processor = BitImageProcessorPil(
        do_convert_rgb=True, size={"shortest_edge": 518}, resample=3, crop_size={"height": 518, "width": 518},
        do_rescale=True, rescale_factor=1 / 255, image_mean=[0.5307] * 3, image_std=[0.2583] * 3,
    )  # fmt: skip
    return lambda image: torch.as_tensor(np.asarray(processor(image)["pixel_values"][0]))


STATED = {
    ("rad_dino", "paper"): huggingface_rad_dino(),
    ("medical_mae", "paper"): torchvision_steps(238, 224, IMAGENET_STATS),
    ("medical_mae", "native"): torchvision_steps(256, 224, ([0.5056] * 3, [0.252] * 3), BICUBIC),
    ("mrm", "paper"): torchvision_steps(224, 224, ([0.4978] * 3, [0.2449] * 3), grey=True),
    ("c2l", "paper"): torchvision_steps(224, 224, IMAGENET_STATS),
    ("biovil_t", "paper"): torchvision_steps(512, 448),
    ("gloria", "paper"): torchvision_steps(238, 224, IMAGENET_STATS),
    ("biomedclip", "paper"): torchvision_steps(224, 224, CLIP_STATS, BICUBIC),
    ("dinov2_s14", "native"): torchvision_steps(224, 224, IMAGENET_STATS, BICUBIC),
    ("efficientnet_lite0", "native"): torchvision_steps(256, 224, ([0.5] * 3, [0.5] * 3), BICUBIC),
}
STATED |= {(f"simulated_{kind}", "native"): padded(64) for kind in ("image_ssl", "alignment", "masked")}
# Written out in tests of their own: a stretch and an area mean are no steps of torchvision.
OWN_TESTS = {("biovil_t", "native"), ("gloria", "native")}


def test_every_preprocessing_is_tested():
    listed = {(name, kind) for name, facts in IMAGE_ENCODERS.items() for kind in facts.preprocessing}
    assert listed == set(STATED) | OWN_TESTS


@pytest.mark.parametrize(("name", "kind"), STATED)
@pytest.mark.parametrize("shape", [(431, 350), (350, 523), (301, 377, 3)], ids=["tall", "wide", "colour"])
def test_images_equal_the_stated_steps_pixel_by_pixel(name, kind, shape):
    """Grey of 12 bits, or colour."""
    values = twelve_bit(*shape) if len(shape) == 2 else np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    image = by_hand(values) if len(shape) == 2 else Image.fromarray(values)
    ours = preprocess(Image.fromarray(values), IMAGE_ENCODERS[name].preprocessing[kind])
    assert ours.dtype == torch.float32 and ours.is_contiguous()
    assert torch.equal(ours, STATED[name, kind](image.convert("RGB")).float())


@pytest.mark.parametrize("more", range(1, 9))
def test_centre_crop_of_odd_sizes(more):
    """torchvision rounds half to even; transformers rounds down; they part where 3, 7 ... pixels are cut off."""
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64 + more), np.uint8)
    steps = Preprocessing(64, 64, IMAGENET)
    theirs = torchvision_steps(64, 64, IMAGENET_STATS)(Image.fromarray(pixels).convert("RGB"))
    assert torch.equal(preprocess(Image.fromarray(pixels), steps), theirs)
    floor = preprocess(Image.fromarray(pixels), dataclasses.replace(steps, centre="floor"))
    assert torch.equal(floor, theirs) == (more % 4 != 3)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=IMAGENET[0], image_std=IMAGENET[1]
    )
    theirs = processor(Image.fromarray(pixels).convert("RGB"))["pixel_values"][0]
    assert np.abs(floor.numpy() - theirs).max() < 1e-6


def test_crop_larger_than_the_resized_image_is_padded_as_torchvision_pads():
    image = Image.fromarray(twelve_bit(80, 61).astype(np.uint8))
    ours = preprocess(image, Preprocessing(40, 64, IMAGENET))
    assert torch.equal(ours, torchvision_steps(40, 64, IMAGENET_STATS)(image.convert("RGB")))


@pytest.mark.parametrize("shape", [(200, 150), (97, 255), (30, 20), (128, 128), (320, 64)])
def test_gloria_native_resizes_as_its_authors_whether_it_shrinks_or_enlarges(shape):
    values = np.random.default_rng(8).integers(0, 256, shape, np.uint8)
    long = max(shape)
    rows, columns = (256 if side == long else int(side * (256 / long)) for side in shape)
    small = cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA)
    top, left = (256 - rows) // 2, (256 - columns) // 2
    square = np.pad(small, [(top, 256 - rows - top), (left, 256 - columns - left)])
    stated = (square[16:240, 16:240].astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    ours = preprocess(Image.fromarray(values), IMAGE_ENCODERS["gloria"].preprocessing["native"])
    assert np.array_equal(ours[0], stated)


def test_biovil_native_stretches_and_cuts_to_whole_numbers():
    values = np.random.default_rng(4).integers(30, 181, (560, 530), np.uint8)
    values[0, :2] = 30, 180
    stretched = ((values.astype(float) - 30) / 150 * 255).astype(np.uint8)
    ours = preprocess(Image.fromarray(values), IMAGE_ENCODERS["biovil_t"].preprocessing["native"])
    stated = torchvision_steps(512, 448)(Image.fromarray(stretched))
    assert torch.equal(ours, stated.expand(3, -1, -1))
    for more in (twelve_bit(560, 530), twelve_bit(560, 530).astype(np.float32) / 8192):  # rounded once, not twice
        array = more.astype(float)  # as hi-ml's `remap_to_uint8`, line by line
        array -= array.min()
        array /= array.max()
        array *= 255
        stated = torchvision_steps(512, 448)(Image.fromarray(array.astype(np.uint8)))
        for depth in ("minmax", "full", 16)[: 3 if more.dtype == np.uint16 else 2]:
            ours = preprocess(Image.fromarray(more), IMAGE_ENCODERS["biovil_t"].preprocessing["native"], depth=depth)
            assert torch.equal(ours, stated.expand(3, -1, -1))
    flat = preprocess(Image.new("L", (560, 530), 77), IMAGE_ENCODERS["biovil_t"].preprocessing["native"])
    assert flat.abs().max() == 0


# --- image modes and more than 8 bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_8_bit_mode(mode):
    grey = Image.fromarray(np.random.default_rng(5).integers(0, 256, (20, 30), np.uint8)).convert("RGB")
    image = grey.convert("P").convert("PA") if mode == "PA" else grey.convert(mode)
    out = eight_bit(image)
    assert out.mode == ("L" if mode in ("1", "L", "LA") else "RGB") and out.size == (30, 20)
    if mode in ("RGB", "RGBA", "L", "LA"):
        assert np.array_equal(np.asarray(out.convert("L")), np.asarray(grey.convert("L")))
    assert preprocess(image, Preprocessing(16, 16, IMAGENET)).shape == (3, 16, 16)


def test_8_bit_values_are_never_changed():
    image = Image.fromarray(np.full((8, 8), 77, np.uint8))
    for depth in ("minmax", "full", 12):
        assert np.asarray(eight_bit(image, depth)).tolist() == [[77] * 8] * 8


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I", "F"])
def test_deep_modes_follow_one_rule(kind):
    values = 37 + np.arange(255 * 6 + 1, dtype=np.uint16)[None]  # every third lies half way between two grey levels
    if kind == "I;16B":
        image = Image.frombytes(kind, values.shape[::-1], values.astype(">u2").tobytes())
    else:
        image = Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind]))
    assert image.mode == kind
    assert np.array_equal(np.asarray(eight_bit(image)), np.asarray(by_hand(values)))


def test_the_default_stretches_and_a_number_of_bits_keeps_images_comparable():
    image = Image.fromarray(twelve_bit())  # 12 bits in 16
    assert np.asarray(eight_bit(image)).mean() > 80 > 17 > np.asarray(eight_bit(image, "full")).max()
    values = np.array([[0, 2048, 4095]], np.uint16)
    assert np.asarray(eight_bit(Image.fromarray(values), 12)).tolist() == [[0, 128, 255]]
    assert np.asarray(eight_bit(Image.fromarray(values // 2), 12)).tolist() == [[0, 64, 127]]
    with pytest.raises(DataError, match="0 to 4095, do not fit into 10 bits"):
        eight_bit(Image.fromarray(values), 10)


@pytest.mark.parametrize("depth", ["12", "auto", 7, 33, True])
def test_unknown_depth(depth):
    with pytest.raises(DataError, match="depth must be full, minmax or a number of bits"):
        eight_bit(Image.fromarray(twelve_bit(8, 8)), depth)


def test_values_that_are_not_finite_and_constant_images():
    with pytest.raises(DataError, match="not finite"):
        eight_bit(Image.fromarray(np.array([[0.0, np.nan]], np.float32)))
    assert np.asarray(eight_bit(Image.fromarray(np.full((2, 2), 900, np.uint16)))).max() == 0


def test_wide_integers_keep_their_last_bits():
    values = 2**30 + np.arange(256, dtype=np.int32)[None]
    assert np.array_equal(eight_bit_range(values, "minmax"), np.arange(256, dtype=np.float32)[None])


def test_packed_images_follow_the_same_rule(tmp_path):
    Image.fromarray(twelve_bit(64, 64)).save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        packed, _ = read_image(tmp_path / "image.png", 64)
        assert np.array_equal(packed, np.asarray(eight_bit(image, "full")))


# --- augmented views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["medical_mae", "rad_dino", "biomedclip"])
def test_a_crop_is_resized_as_torchvision_resizes_it(name):
    values, (left, top, width, height) = twelve_bit(), (31, 57, 203, 150)
    steps = next(iter(IMAGE_ENCODERS[name].preprocessing.values()))
    interpolation = {"bilinear": tv.InterpolationMode.BILINEAR, "bicubic": BICUBIC}[steps.interpolation]
    side = [steps.crop, steps.crop]
    view = tvf.resized_crop(by_hand(values).convert("RGB"), top, left, height, width, side, interpolation)
    stated = tvf.normalize(tvf.to_tensor(view), *steps.statistics)
    assert torch.equal(preprocess(Image.fromarray(values), steps, (left, top, width, height)), stated)


RANGES = (0.4, 0.9), (3 / 4, 4 / 3)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (1000, 400), (90, 310)])
def test_random_crops_have_torchvisions_distribution(width, height):
    rng, image = np.random.default_rng(6), torch.zeros(1, height, width)
    torch.manual_seed(6)
    ours = np.array([random_resized_crop(width, height, rng, *RANGES) for _ in range(2000)])
    theirs = np.array([tv.RandomResizedCrop.get_params(image, *map(list, RANGES)) for _ in range(2000)])
    theirs = theirs[:, [1, 0, 3, 2]]  # torchvision says top, left, height, width
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= (width, height)).all()
    for of in (lambda c: c[:, 0], lambda c: c[:, 1], lambda c: c[:, 2] * c[:, 3], lambda c: c[:, 2] / c[:, 3]):
        assert stats.ks_2samp(of(ours), of(theirs)).pvalue > 1e-3


def test_random_crops_keep_scale_and_ratio():
    rng = np.random.default_rng(7)
    crops = np.array([random_resized_crop(400, 400, rng, (0.1, 0.2), (0.5, 2.0)) for _ in range(300)])
    share, ratio = crops[:, 2] * crops[:, 3] / 400**2, crops[:, 2] / crops[:, 3]
    assert share.min() > 0.098 and share.max() < 0.202 and ratio.min() > 0.49 and ratio.max() < 2.05


@pytest.mark.parametrize(("width", "height"), [(2000, 100), (100, 2000), (7, 9000)])
def test_random_crop_of_an_image_too_long_is_centred(width, height):
    theirs = tv.RandomResizedCrop.get_params(torch.zeros(1, height, width), *map(list, RANGES))
    left, top, w, h = random_resized_crop(width, height, np.random.default_rng(0), *RANGES)
    assert (top, left, h, w) == tuple(theirs)
    assert math.isclose(max(w / h, h / w), 4 / 3, rel_tol=0.1)
