"""Packing: geometry that boxes and masks follow, bit depths, resumption after kill -9, refusals."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pkd_utils import images
from pkd_utils.errors import DataError

SIZES = [(200, 160), (90, 130), (64, 64), (331, 517)]


def picture(width, height, seed=0):
    """Smooth picture, so that resampling filters agree."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    paths = []
    for i, size in enumerate(SIZES):
        path = tmp_path / f"image{i}.{'jpg' if i % 2 == 0 else 'png'}"
        picture(*size, seed=i).save(path, quality=95)
        paths.append(path)
    return paths


def test_packs_every_image_and_describes_it(files, tmp_path):
    pixels, index = images.pack_images(files, 32, tmp_path / "p.npy", progress=False)
    assert isinstance(pixels, np.memmap) and not pixels.flags.writeable
    assert pixels.shape == (4, 32, 32) and pixels.dtype == np.uint8
    assert list(zip(index.width, index.height, strict=True)) == SIZES
    assert index.bytes.tolist() == [p.stat().st_size for p in files]
    assert index.path.tolist() == [str(p) for p in files]
    from hashlib import sha256

    assert index.sha256.tolist() == [sha256(p.read_bytes()).hexdigest() for p in files]
    for path, got in zip(files, pixels, strict=True):
        want = np.asarray(Image.open(path).convert("L").resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        assert abs(want - got).mean() < 1 and abs(want - got).max() <= 6  # reduced JPEG decoding differs a little
    assert not (tmp_path / "p.parts").exists()


def test_full_detail_equals_plain_pil_exactly(files):
    for path in files:
        want = np.asarray(Image.open(path).convert("L").resize((32, 32), Image.Resampling.LANCZOS))
        got, _ = images.read_image(path, 32, resample="lanczos", detail=float("inf"))
        np.testing.assert_array_equal(got, want)


def test_jpeg_is_decoded_small(tmp_path, monkeypatch):
    path = tmp_path / "big.jpg"
    picture(801, 1003).save(path, quality=95)
    seen = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: (seen.append(self.size), resize(self, *a, **k))[1])
    images.read_image(path, 64)
    images.read_image(path, 64, detail=2.0)
    images.read_image(path, 64, detail=float("inf"))
    assert seen == [(101, 126), (201, 251), (801, 1003)]


@pytest.mark.parametrize("workers", [1, 2])
def test_result_does_not_depend_on_workers_and_second_call_does_nothing(files, tmp_path, workers, monkeypatch):
    first, _ = images.pack_images(files, 24, tmp_path / "a.npy", progress=False, chunk=3)
    second, index = images.pack_images(files, 24, tmp_path / "b.npy", workers, progress=False, chunk=3)
    np.testing.assert_array_equal(first, second)
    monkeypatch.setattr(images, "_pack_one", None)  # a second call must not read any image
    again, index_again = images.pack_images(files, 24, tmp_path / "b.npy", workers, progress=False, chunk=3)
    np.testing.assert_array_equal(second, again)
    assert index.equals(index_again)


def test_changed_file_or_option_packs_anew(files, tmp_path):
    target = tmp_path / "p.npy"
    before = np.array(images.pack_images(files, 16, target, progress=False)[0])
    picture(64, 64, seed=99).save(files[2], quality=95)
    after = np.array(images.pack_images(files, 16, target, progress=False)[0])
    assert (before[2] != after[2]).any() and (before[[0, 1, 3]] == after[[0, 1, 3]]).all()
    inverted = np.array(images.pack_images(files, 16, target, invert=[False, True, False, False], progress=False)[0])
    np.testing.assert_array_equal(inverted[1], 255 - after[1])
    np.testing.assert_array_equal(inverted[[0, 2, 3]], after[[0, 2, 3]])


@pytest.mark.parametrize("aspect", images.ASPECTS)
@pytest.mark.parametrize("size", SIZES)
def test_box_and_mask_follow_the_pixels(tmp_path, aspect, size):
    """A white rectangle is drawn, packed, and must be where box and mask say it is."""
    width, height = size
    x0, y0, x1, y1 = (int(v) for v in (0.30 * width, 0.35 * height, 0.65 * width, 0.70 * height))
    stored = np.zeros((height, width), np.uint8)
    stored[y0:y1, x0:x1] = 255
    Image.fromarray(stored).save(tmp_path / "r.png")
    pixels, index = images.pack_images([tmp_path / "r.png"], 48, tmp_path / "p.npy", aspect=aspect, progress=False)
    row = index.iloc[0]
    bx0, by0, bx1, by1 = images.transform_boxes([[x0, y0, x1, y1]], row, 48)[0]
    ys, xs = np.nonzero(pixels[0] > 127)
    found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    np.testing.assert_allclose(found, (bx0, by0, bx1, by1), atol=0.75)
    mask = images.transform_mask(stored > 0, 48, aspect)
    assert mask.dtype == bool and mask.shape == (48, 48)
    box_mask, white = mask, pixels[0] > 127
    assert (box_mask & white).sum() / (box_mask | white).sum() > 0.9
    assert mask.sum() == pytest.approx((bx1 - bx0) * (by1 - by0), rel=0.12)


def test_pad_is_black_even_when_inverted(tmp_path):
    Image.new("L", (100, 50), 10).save(tmp_path / "w.png")
    plain, _ = images.read_image(tmp_path / "w.png", 40, "pad")
    inverted, _ = images.read_image(tmp_path / "w.png", 40, "pad", invert=True)
    assert (plain[10:30] == 10).all() and (plain[:10] == 0).all() and (plain[30:] == 0).all()
    assert (inverted[10:30] == 245).all() and (inverted[:10] == 0).all() and (inverted[30:] == 0).all()


def test_box_that_crop_cuts_off_has_no_area():
    geometry = images.packed_geometry(200, 100, 50, "crop")
    box = images.transform_boxes([[0, 0, 40, 100], [100, 0, 150, 100]], geometry, 50)
    assert box[0, 2] - box[0, 0] == 0 and box[1].tolist() == [25, 0, 50, 50]


def test_small_lesion_survives_and_empty_mask_stays_empty():
    mask = np.zeros((500, 400), bool)
    assert not images.transform_mask(mask, 32).any()
    mask[200:203, 100:103] = True
    packed = images.transform_mask(mask, 32)
    assert packed.sum() == 1 and packed[200 * 32 // 500, 100 * 32 // 400]


def test_sixteen_bits_colour_palette_and_transparency(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "sixteen.png")
    got, _ = images.read_image(tmp_path / "sixteen.png", 64)
    assert abs(got.astype(float) - ramp / 257).max() <= 0.51  # PIL's own convert("L") would clip nearly all to 255
    Image.fromarray((ramp // 16).astype(np.uint16)).save(tmp_path / "twelve.png")
    assert images.read_image(tmp_path / "twelve.png", 64)[0].max() <= 16
    assert images.read_image(tmp_path / "twelve.png", 64, depth="minmax")[0].max() == 255
    grey = picture(64, 64)
    for mode in ("RGB", "RGBA", "P", "LA", "1"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        got, _ = images.read_image(tmp_path / f"{mode}.png", 64)
        want = np.asarray(grey.convert(mode).convert("RGB").convert("L"))
        np.testing.assert_array_equal(got, want)


def test_unreadable_images_are_all_named_and_the_rest_is_kept(files, tmp_path):
    data = files[0].read_bytes()
    files[0].write_bytes(data[: len(data) // 2])
    files[3].write_text("not an image")
    with pytest.raises(DataError, match="2 of 4 images cannot be read") as error:
        images.pack_images(files, 16, tmp_path / "p.npy", chunk=1, progress=False)
    assert str(files[0]) in str(error.value) and str(files[3]) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "p.npy").exists()
    assert len(list((tmp_path / "p.parts").glob("0*.json"))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": []}, "no images"),
        ({"size": 0}, "size must be"),
        ({"target": "p.npz"}, "is a .npy file"),
        ({"aspect": "fit"}, "aspect must be"),
        ({"resample": "nearest"}, "resample must be"),
        ({"depth": "auto"}, "depth must be"),
        ({"invert": [True]}, "1 flags for 4"),
    ],
)
def test_bad_requests(files, tmp_path, change, message):
    arguments = {"paths": files, "size": 16, "target": "p.npy", **change}
    arguments["target"] = tmp_path / arguments["target"]
    with pytest.raises(DataError, match=message):
        images.pack_images(progress=False, **arguments)


def test_missing_file_is_named(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        images.pack_images([*files, tmp_path / "gone.png"], 16, tmp_path / "p.npy", progress=False)
    with pytest.raises(FileNotFoundError, match="pack the images again"):
        images.open_packed(tmp_path / "p.npy")


KILLED = """
import sys, time
from pathlib import Path
from pkd_utils import images
real = images._pack_one
def slow(task):
    time.sleep(0.05)
    return real(task)
images._pack_one = slow
folder = Path(sys.argv[1])
images.pack_images(sorted(folder.glob("k*.png")), 16, folder / "p.npy", chunk=2, progress=False)
"""


def test_kill_9_continues_where_it_was(tmp_path, monkeypatch):
    for i in range(20):
        picture(50, 40, seed=i).save(tmp_path / f"k{i:02d}.png")
    paths = sorted(tmp_path.glob("k*.png"))
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    deadline = time.time() + 60
    while len(list((tmp_path / "p.parts").glob("0*.json"))) < 3 and time.time() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "p.npy").exists()
    done = len(list((tmp_path / "p.parts").glob("0*.json")))
    assert 3 <= done < 10
    read = []
    real = images._pack_one
    monkeypatch.setattr(images, "_pack_one", lambda task: (read.append(task[0]), real(task))[1])
    resumed, _ = images.pack_images(paths, 16, tmp_path / "p.npy", chunk=2, progress=False)
    assert read == paths[2 * done :]
    whole, _ = images.pack_images(paths, 16, tmp_path / "q.npy", chunk=2, progress=False)
    np.testing.assert_array_equal(resumed, whole)
