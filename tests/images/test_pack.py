"""Packing: geometry that boxes and masks follow, bit depths, resumption after kill -9, refusals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from pkd_utils.images import decode, pack
from pkd_utils.images import geometry as images
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json
from tests.cohorts.cbis_fixtures import write_dicom

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
    pixels, index = pack.pack_images(files, 32, tmp_path / "p.npy", progress=False)
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


def test_what_is_not_reduced_equals_plain_pil_exactly(files):
    for path in files:
        size = 32 if path.suffix == ".png" else 200
        want = np.asarray(Image.open(path).convert("L").resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(decode.read_image(path, size)[0], want)


def test_jpeg_is_decoded_small(tmp_path, monkeypatch):
    path = tmp_path / "big.jpg"
    picture(801, 1003).save(path, quality=95)
    seen = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: (seen.append(self.size), resize(self, *a, **k))[1])
    decode.read_image(path, 64)
    decode.read_image(path, 600)
    assert seen == [(101, 126), (801, 1003)]


@pytest.fixture
def read_files(monkeypatch):
    """Images that are read, as long as it is done in this process."""
    read, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self), real(self))[1])
    return read


@pytest.mark.parametrize("workers", [1, 2])
def test_result_does_not_depend_on_workers_and_second_call_does_nothing(files, tmp_path, workers, read_files):
    first, _ = pack.pack_images(files, 24, tmp_path / "a.npy", progress=False)
    second, index = pack.pack_images(files, 24, tmp_path / "b.npy", workers, progress=False)
    np.testing.assert_array_equal(first, second)
    read_files.clear()
    again, index_again = pack.pack_images(files, 24, tmp_path / "b.npy", progress=False)
    assert not read_files
    np.testing.assert_array_equal(second, again)
    assert index.equals(index_again)


def test_changed_file_or_option_packs_anew(files, tmp_path):
    target = tmp_path / "p.npy"
    before = np.array(pack.pack_images(files, 16, target, progress=False)[0])
    picture(64, 64, seed=99).save(files[2], quality=95)
    after = np.array(pack.pack_images(files, 16, target, progress=False)[0])
    assert (before[2] != after[2]).any() and (before[[0, 1, 3]] == after[[0, 1, 3]]).all()
    padded, _ = pack.pack_images(files, 16, target, aspect="pad", progress=False)
    np.testing.assert_array_equal(padded[0], decode.read_image(files[0], 16, "pad")[0])


@pytest.mark.parametrize("aspect", images.ASPECTS)
@pytest.mark.parametrize("size", SIZES)
def test_box_and_mask_follow_the_pixels(tmp_path, aspect, size):
    """A white rectangle is drawn, packed, and must be where box and mask say it is."""
    width, height = size
    x0, y0, x1, y1 = (int(v) for v in (0.30 * width, 0.35 * height, 0.65 * width, 0.70 * height))
    stored = np.zeros((height, width), np.uint8)
    stored[y0:y1, x0:x1] = 255
    Image.fromarray(stored).save(tmp_path / "r.png")
    pixels, index = pack.pack_images([tmp_path / "r.png"], 48, tmp_path / "p.npy", aspect=aspect, progress=False)
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


def test_pad_is_black(tmp_path):
    Image.new("L", (100, 50), 10).save(tmp_path / "w.png")
    plain, _ = decode.read_image(tmp_path / "w.png", 40, "pad")
    assert (plain[10:30] == 10).all() and (plain[:10] == 0).all() and (plain[30:] == 0).all()


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
    got, _ = decode.read_image(tmp_path / "sixteen.png", 64)
    assert abs(got.astype(float) - ramp / 257).max() <= 0.51  # PIL's own convert("L") would clip nearly all to 255
    Image.fromarray((ramp // 16).astype(np.uint16)).save(tmp_path / "twelve.png")
    assert decode.read_image(tmp_path / "twelve.png", 64)[0].max() <= 16
    assert decode.read_image(tmp_path / "twelve.png", 64, depth="minmax")[0].max() == 255
    grey = picture(64, 64)
    for mode in ("RGB", "RGBA", "P", "LA", "1"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        got, _ = decode.read_image(tmp_path / f"{mode}.png", 64)
        want = np.asarray(grey.convert(mode).convert("RGB").convert("L"))
        np.testing.assert_array_equal(got, want)


def break_two(files):
    """Cut one JPEG in half and make another no image; return what their bytes were."""
    before = files[0].read_bytes(), files[3].read_bytes()
    files[0].write_bytes(before[0][: len(before[0]) // 2])
    files[3].write_text("not an image")
    return before


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_are_all_named_and_the_rest_is_kept(files, tmp_path, workers):
    break_two(files)
    with pytest.raises(DataError, match="2 of 4 images cannot be read") as error:
        pack.pack_images(files, 16, tmp_path / "p.npy", workers, progress=False)
    assert str(files[0]) in str(error.value) and str(files[3]) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "p.npy").exists()
    listed = pd.read_csv(tmp_path / "p.unreadable.csv")
    assert listed["path"].tolist() == [str(files[0]), str(files[3])] and listed["error"].notna().all()


def test_after_mending_only_the_mended_are_read(files, tmp_path, read_files):
    first, last = break_two(files)
    read_files.clear()
    with pytest.raises(DataError):
        pack.pack_images(files, 16, tmp_path / "p.npy", progress=False)
    assert read_files == files
    read_files.clear()
    files[3].write_bytes(last)
    with pytest.raises(DataError, match="1 of 4"):
        pack.pack_images(files, 16, tmp_path / "p.npy", progress=False)
    assert read_files == [files[0], files[3]]  # the broken one is tried again: a drive may have been away
    read_files.clear()
    files[0].write_bytes(first)
    mended, index = pack.pack_images(files, 16, tmp_path / "p.npy", progress=False)
    assert read_files == [files[0]] and index["readable"].all() and (index["error"] == "").all()
    assert not (tmp_path / "p.unreadable.csv").exists() and not (tmp_path / "p.parts").exists()
    np.testing.assert_array_equal(mended, pack.pack_images(files, 16, tmp_path / "q.npy", progress=False)[0])


def test_a_file_that_changes_between_calls_is_read_again(files, tmp_path, read_files):
    _, last = break_two(files)
    with pytest.raises(DataError):
        pack.pack_images(files, 16, tmp_path / "p.npy", progress=False, max_unreadable=1)
    read_files.clear()
    files[3].write_bytes(last)
    picture(64, 64, seed=99).save(files[2], quality=95)  # was marked already
    pixels, _ = pack.pack_images(files, 16, tmp_path / "p.npy", progress=False, max_unreadable=1)
    assert read_files == [files[0], files[2], files[3]]
    np.testing.assert_array_equal(pixels[2], decode.read_image(files[2], 16)[0])


@pytest.mark.parametrize("allowed", [2, 4])
def test_tolerated_unreadable_images_are_marked_and_black(files, tmp_path, allowed):
    whole = np.array(pack.pack_images(files, 16, tmp_path / "w.npy", progress=False)[0])
    break_two(files)
    pixels, index = pack.pack_images(files, 16, tmp_path / "p.npy", max_unreadable=allowed, progress=False)
    assert index["readable"].tolist() == [False, True, True, False] and index["readable"].dtype == bool
    assert pixels.shape == (4, 16, 16) and (pixels[[0, 3]] == 0).all()
    np.testing.assert_array_equal(pixels[1:3], whole[1:3])
    assert "UnidentifiedImageError" in index["error"][3] and index["error"][1] == ""
    assert index["width"].tolist() == [0, 90, 64, 0] and index["scale_x"].isna().tolist() == [True, False, False, True]
    assert pd.read_csv(tmp_path / "p.unreadable.csv")["path"].tolist() == [str(files[0]), str(files[3])]
    with pytest.raises(DataError, match="max_unreadable allows 1"):  # a stricter call may not get it
        pack.pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1, progress=False)


def test_tolerated_missing_image(files, tmp_path, read_files):
    files[1].unlink()
    _, index = pack.pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1, progress=False)
    assert not index["readable"][1] and index["error"][1].startswith("FileNotFoundError")
    read_files.clear()
    pack.pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1, progress=False)
    assert not read_files
    picture(90, 130).save(files[1])
    _, index = pack.pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1, progress=False)
    assert index["readable"].all() and not (tmp_path / "p.unreadable.csv").exists()


def test_an_image_that_broke_after_it_was_packed_is_black(files, tmp_path):
    files[0].write_text("not an image")
    with pytest.raises(DataError):
        pack.pack_images(files, 16, tmp_path / "p.npy", progress=False)
    files[3].write_text("broken too")
    pixels, index = pack.pack_images(files, 16, tmp_path / "p.npy", max_unreadable=2, progress=False)
    assert (pixels[3] == 0).all() and index["readable"].tolist() == [False, True, True, False]


def test_a_call_that_ended_while_tidying_is_whole(files, tmp_path, read_files):
    target = tmp_path / "p.npy"
    pack.pack_images(files, 16, target, progress=False)
    (tmp_path / "p.parts").mkdir()
    (tmp_path / "p.parts" / "identity.json").write_text("{}")
    read_files.clear()
    pack.pack_images(files, 16, target, progress=False)
    assert not read_files and not (tmp_path / "p.parts").exists()


@pytest.mark.parametrize(
    "change",
    [{"paths": []}, {"size": 0}, {"workers": 0}, {"aspect": "fit"}, {"depth": "auto"}, {"max_unreadable": -1}],
)
def test_bad_requests(files, tmp_path, change):
    with pytest.raises(DataError, match=f"^pack_images: {next(iter(change))} = "):
        pack.pack_images(**({"paths": files, "size": 16, "target": tmp_path / "p.npy", "progress": False} | change))


def test_missing_file_is_named(files, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        pack.pack_images([*files, tmp_path / "gone.png"], 16, tmp_path / "p.npy", progress=False)
    with pytest.raises(FileNotFoundError, match="pack the images again"):
        pack.open_packed(tmp_path / "p.npy")


KILLED = """
import sys, time
from pathlib import Path
from pkd_utils.images import pack
pack.MARK_SECONDS = 0
real = pack.read_image
def slow(*arguments):
    time.sleep(0.05)
    return real(*arguments)
pack.read_image = slow
folder = Path(sys.argv[1])
pack.pack_images(sorted(folder.glob("k*.png")), 16, folder / "p.npy", int(sys.argv[2]), progress=False)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_continues_where_it_was(tmp_path, read_files, workers):
    for i in range(20):
        picture(50, 40, seed=i).save(tmp_path / f"k{i:02d}.png")
    paths = sorted(tmp_path.glob("k*.png"))
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(workers)])
    deadline = time.time() + 60
    while not list((tmp_path / "p.parts").glob("0*.json")) and time.time() < deadline:
        time.sleep(0.005)
    family = psutil.Process(child.pid).children(recursive=True)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not psutil.wait_procs(family, timeout=20)[1], "workers must not outlive their parent"
    assert not (tmp_path / "p.npy").exists()
    marks = [read_json(mark) for mark in sorted((tmp_path / "p.parts").glob("0*.json"))]
    done = {row["path"] for mark in marks for row in mark}
    assert 0 < len(done) < 20
    read_files.clear()
    resumed, index = pack.pack_images(paths, 16, tmp_path / "p.npy", progress=False)
    assert read_files == [path for path in paths if str(path) not in done]
    whole, index_of_whole = pack.pack_images(paths, 16, tmp_path / "q.npy", progress=False)
    np.testing.assert_array_equal(resumed, whole)
    assert index.equals(index_of_whole)


@pytest.mark.parametrize("workers", [1, 2])
def test_bar_counts_what_was_there_but_not_as_speed(files, tmp_path, monkeypatch, capsys, workers):
    """A resumed bar starts where the work stands, and its images a second are those of this call."""
    for i in range(40):
        picture(20, 20, seed=i).save(tmp_path / f"k{i:02d}.png")
    paths = sorted(tmp_path.glob("k*.png"))
    good = paths[38].read_bytes()
    for path in paths[36:]:
        path.write_text("not an image")
    with pytest.raises(DataError):
        pack.pack_images(paths, 16, tmp_path / "p.npy", workers)
    assert "100%" in capsys.readouterr().err
    for path in paths[36:]:
        path.write_bytes(good)
    monkeypatch.setattr(pack, "read_image", lambda *a, real=pack.read_image, **k: (time.sleep(0.2), real(*a, **k))[1])
    pack.pack_images(paths, 16, tmp_path / "p.npy", workers)
    shown = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    assert "36/40" in shown[0] and "40/40" in shown[-1]
    speed = re.search(r"([\d.]+)(img/s|s/img)", shown[-1])
    rate = float(speed[1]) if speed[2] == "img/s" else 1 / float(speed[1])
    assert rate <= 5.5 * workers  # 4 images of 0.2 s; all 40 in that time would be 50 a second and worker


@pytest.fixture
def small_files(tmp_path):
    """Eight images, of 1 to 8 pixels a side."""
    paths = [tmp_path / f"s{side}.png" for side in range(1, 9)]
    for side, path in enumerate(paths, start=1):
        picture(side, side).save(path)
    return paths


def test_few_files_are_spread_over_the_workers(small_files, tmp_path, monkeypatch):
    """While the first image is still being read, all others are."""

    def waiting(data, size, *options, real=pack.read_image):
        pixels, stored = real(data, size, *options)
        (tmp_path / f"began{stored[0]}").touch()
        deadline = time.time() + 20
        while stored[0] == 1 and not (tmp_path / "began8").exists() and time.time() < deadline:
            time.sleep(0.01)
        assert stored[0] > 1 or (tmp_path / "began8").exists(), "image 1 waited for image 8, which never began"
        return pixels, stored

    monkeypatch.setattr(pack, "read_image", waiting)
    _, index = pack.pack_images(small_files, 8, tmp_path / "p.npy", 2, progress=False)
    assert index["width"].tolist() == list(range(1, 9))


def test_a_worker_that_is_killed_is_told_in_one_sentence_and_costs_little(small_files, tmp_path, monkeypatch):
    def dying(data, size, *options, real=pack.read_image):
        pixels, stored = real(data, size, *options)
        if stored[0] == 8:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels, stored

    with (
        monkeypatch.context() as patch,
        pytest.raises(RuntimeError, match=r"ended from outside.*continues where it was"),
    ):
        patch.setattr(pack, "read_image", dying)
        pack.pack_images(small_files, 8, tmp_path / "p.npy", 2, progress=False)
    assert len(read_json(tmp_path / "p.parts" / "00000000.json")) == 7
    assert pack.pack_images(small_files, 8, tmp_path / "p.npy", progress=False)[1]["readable"].all()


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_dicom_like_the_same_picture_as_png(tmp_path, photometric):
    ramp = np.linspace(0, 4095, 60 * 80).reshape(60, 80).astype(np.uint16)
    stored = ramp if photometric == "MONOCHROME2" else 4095 - ramp
    dicom = write_dicom(tmp_path / "a.dcm", stored, 12, PhotometricInterpretation=photometric)
    Image.fromarray(np.rint(ramp / 4095 * 65535).astype(np.uint16)).save(tmp_path / "a.png")
    for aspect in images.ASPECTS:
        got, size = decode.read_image(dicom, 32, aspect)
        want, _ = decode.read_image(tmp_path / "a.png", 32, aspect)
        assert size == (80, 60)
        assert abs(got.astype(int) - want).max() <= 1
    pixels, index = pack.pack_images([dicom], 32, tmp_path / "p.npy", progress=False)  # from bytes
    assert index.loc[0, ["width", "height"]].tolist() == [80, 60]
    np.testing.assert_array_equal(pixels[0], decode.read_image(dicom, 32)[0])
    faint = write_dicom(tmp_path / "b.dcm", (ramp // 16).astype(np.uint16), bits=12)
    assert decode.read_image(faint, 64)[0].max() <= 16
    assert decode.read_image(faint, 64, depth="minmax")[0].max() >= 254
    eight = write_dicom(tmp_path / "c.dcm", (ramp // 17).astype(np.uint8), bits=8)
    np.testing.assert_array_equal(np.asarray(decode.open_grey(eight)), (ramp // 17).astype(np.uint8))


def test_broken_dicom_is_unreadable(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((60, 80), np.uint16))
    path.write_bytes(path.read_bytes()[:2000])
    _, index = pack.pack_images([path], 16, tmp_path / "p.npy", max_unreadable=1, progress=False)
    assert not index["readable"][0] and index["error"][0]


def test_open_grey_is_the_whole_image_in_eight_bits(files, tmp_path):
    for path, size in zip(files, SIZES, strict=True):
        shown = decode.open_grey(path)
        assert shown.mode == "L" and shown.size == size
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(Image.open(path).convert("L")))
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "sixteen.png")
    assert abs(np.asarray(decode.open_grey(tmp_path / "sixteen.png")) - ramp / 257).max() <= 0.51
