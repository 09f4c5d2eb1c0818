"""Packing: what is described, resumption after kill -9, refusals, processes."""

import os
import re
import signal
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pkd_utils.images import decode, pack
from pkd_utils.images.geometry import packed_geometry
from pkd_utils.images.pack import pack_images
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json
from tests.images.conftest import SIZES, kill_when, picture


def test_packs_every_image_and_describes_it(files, tmp_path):
    pixels, index = pack_images(files, 32, tmp_path / "p.npy")
    assert isinstance(pixels, np.memmap) and not pixels.flags.writeable
    assert pixels.shape == (4, 32, 32) and pixels.dtype == np.uint8
    assert list(zip(index.width, index.height, strict=True)) == SIZES
    assert index.bytes.tolist() == [p.stat().st_size for p in files]
    assert index.path.tolist() == [str(p) for p in files]
    assert index.sha256.tolist() == [sha256(p.read_bytes()).hexdigest() for p in files]
    for column, values in packed_geometry(*SIZES[3], 32)._asdict().items():
        assert index[column][3] == values
    for path, got in zip(files, pixels, strict=True):
        want = np.asarray(Image.open(path).convert("L").resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
        assert abs(want - got).mean() < 1 and abs(want - got).max() <= 6  # reduced JPEG decoding differs a little
    assert not (tmp_path / "p.parts").exists()


@pytest.fixture
def read_files(monkeypatch):
    """Images that are read, as long as it is done in this process."""
    read, real = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (read.append(self), real(self))[1])
    return read


@pytest.mark.parametrize("workers", [1, 2])
def test_result_does_not_depend_on_workers_and_second_call_does_nothing(files, tmp_path, workers, read_files):
    first, _ = pack_images(files, 24, tmp_path / "a.npy")
    second, index = pack_images(files, 24, tmp_path / "b.npy", workers)
    np.testing.assert_array_equal(first, second)
    read_files.clear()
    again, index_again = pack_images(files, 24, tmp_path / "b.npy")
    assert not read_files
    np.testing.assert_array_equal(second, again)
    assert index.equals(index_again)


def test_changed_file_or_option_packs_anew(files, tmp_path):
    target = tmp_path / "p.npy"
    before = np.array(pack_images(files, 16, target)[0])
    picture(64, 64, seed=99).save(files[2], quality=95)
    after = np.array(pack_images(files, 16, target)[0])
    assert (before[2] != after[2]).any() and (before[[0, 1, 3]] == after[[0, 1, 3]]).all()
    padded, _ = pack_images(files, 16, target, aspect="pad")
    np.testing.assert_array_equal(padded[0], decode.read_image(files[0], 16, "pad")[0])


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
        pack_images(files, 16, tmp_path / "p.npy", workers)
    assert str(files[0]) in str(error.value) and str(files[3]) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "p.npy").exists()
    listed = pd.read_csv(tmp_path / "p.unreadable.csv")
    assert listed["path"].tolist() == [str(files[0]), str(files[3])] and listed["error"].notna().all()


def test_after_mending_only_the_mended_are_read(files, tmp_path, read_files):
    first, last = break_two(files)
    read_files.clear()
    with pytest.raises(DataError):
        pack_images(files, 16, tmp_path / "p.npy")
    assert read_files == files
    read_files.clear()
    files[3].write_bytes(last)
    with pytest.raises(DataError, match="1 of 4"):
        pack_images(files, 16, tmp_path / "p.npy")
    assert read_files == [files[0], files[3]]  # the broken one is tried again: a drive may have been away
    read_files.clear()
    files[0].write_bytes(first)
    mended, index = pack_images(files, 16, tmp_path / "p.npy")
    assert read_files == [files[0]] and index["readable"].all() and (index["error"] == "").all()
    assert not (tmp_path / "p.unreadable.csv").exists() and not (tmp_path / "p.parts").exists()
    np.testing.assert_array_equal(mended, pack_images(files, 16, tmp_path / "q.npy")[0])


def test_a_file_that_changes_between_calls_is_read_again(files, tmp_path, read_files):
    _, last = break_two(files)
    with pytest.raises(DataError):
        pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1)
    read_files.clear()
    files[3].write_bytes(last)
    picture(64, 64, seed=99).save(files[2], quality=95)  # was marked already
    pixels, _ = pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1)
    assert read_files == [files[0], files[2], files[3]]
    np.testing.assert_array_equal(pixels[2], decode.read_image(files[2], 16)[0])


@pytest.mark.parametrize("allowed", [2, 4])
def test_tolerated_unreadable_images_are_marked_and_black(files, tmp_path, allowed):
    whole = np.array(pack_images(files, 16, tmp_path / "w.npy")[0])
    break_two(files)
    pixels, index = pack_images(files, 16, tmp_path / "p.npy", max_unreadable=allowed)
    assert index["readable"].tolist() == [False, True, True, False] and index["readable"].dtype == bool
    assert pixels.shape == (4, 16, 16) and (pixels[[0, 3]] == 0).all()
    np.testing.assert_array_equal(pixels[1:3], whole[1:3])
    assert "UnidentifiedImageError" in index["error"][3] and index["error"][1] == ""
    assert index["width"].tolist() == [0, 90, 64, 0] and index["scale_x"].isna().tolist() == [True, False, False, True]
    assert pd.read_csv(tmp_path / "p.unreadable.csv")["path"].tolist() == [str(files[0]), str(files[3])]
    with pytest.raises(DataError, match="max_unreadable allows 1"):  # a stricter call may not get it
        pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1)


def test_tolerated_missing_image(files, tmp_path, read_files):
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 4 .*{files[1].name}"):
        pack_images(files, 16, tmp_path / "p.npy")
    _, index = pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1)
    assert not index["readable"][1] and index["error"][1].startswith("FileNotFoundError")
    read_files.clear()
    pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1)
    assert not read_files
    picture(90, 130).save(files[1])
    _, index = pack_images(files, 16, tmp_path / "p.npy", max_unreadable=1)
    assert index["readable"].all() and not (tmp_path / "p.unreadable.csv").exists()


def test_an_image_that_broke_after_it_was_packed_is_black(files, tmp_path):
    files[0].write_text("not an image")
    with pytest.raises(DataError):
        pack_images(files, 16, tmp_path / "p.npy")
    files[3].write_text("broken too")
    pixels, index = pack_images(files, 16, tmp_path / "p.npy", max_unreadable=2)
    assert (pixels[3] == 0).all() and index["readable"].tolist() == [False, True, True, False]


def test_a_call_that_ended_while_tidying_is_whole(files, tmp_path, read_files):
    target = tmp_path / "p.npy"
    pack_images(files, 16, target)
    (tmp_path / "p.parts").mkdir()
    (tmp_path / "p.parts" / "identity.json").write_text("{}")
    read_files.clear()
    pack_images(files, 16, target)
    assert not read_files and not (tmp_path / "p.parts").exists()


@pytest.mark.parametrize(
    "change",
    [{"paths": []}, {"size": 0}, {"workers": 0}, {"aspect": "fit"}, {"max_unreadable": -1}],
)
def test_bad_requests(files, tmp_path, change):
    with pytest.raises(DataError, match=f"^pack_images: {next(iter(change))} = "):
        pack_images(**({"paths": files, "size": 16, "target": tmp_path / "p.npy"} | change))


def pack_slowly(folder, workers):
    pack.MARK_SECONDS = 0
    pack.read_image = lambda *arguments, real=pack.read_image: (time.sleep(0.05), real(*arguments))[1]
    pack_images(sorted(folder.glob("k*.png")), 16, folder / "p.npy", workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_continues_where_it_was(tmp_path, read_files, workers):
    for i in range(20):
        picture(50, 40, seed=i).save(tmp_path / f"k{i:02d}.png")
    paths = sorted(tmp_path.glob("k*.png"))
    kill_when(lambda: list((tmp_path / "p.parts").glob("0*.json")), pack_slowly, tmp_path, workers)
    assert not (tmp_path / "p.npy").exists()
    marks = [read_json(mark) for mark in sorted((tmp_path / "p.parts").glob("0*.json"))]
    done = {row["path"] for mark in marks for row in mark}
    assert 0 < len(done) < 20
    read_files.clear()
    resumed, index = pack_images(paths, 16, tmp_path / "p.npy")
    assert read_files == [path for path in paths if str(path) not in done]
    whole, index_of_whole = pack_images(paths, 16, tmp_path / "q.npy")
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
        pack_images(paths, 16, tmp_path / "p.npy", workers)
    assert "100%" in capsys.readouterr().err
    for path in paths[36:]:
        path.write_bytes(good)
    monkeypatch.setattr(pack, "read_image", lambda *a, real=pack.read_image, **k: (time.sleep(0.2), real(*a, **k))[1])
    pack_images(paths, 16, tmp_path / "p.npy", workers)
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
    _, index = pack_images(small_files, 8, tmp_path / "p.npy", 2)
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
        pack_images(small_files, 8, tmp_path / "p.npy", 2)
    assert len(read_json(tmp_path / "p.parts" / "00000000.json")) == 7
    assert pack_images(small_files, 8, tmp_path / "p.npy")[1]["readable"].all()


def test_a_pixel_that_flips_in_an_interrupted_call_is_packed_anew(small_files, tmp_path, monkeypatch, read_files):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pack, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        pack_images(small_files, 16, tmp_path / "p.npy")
    array = tmp_path / "p.parts" / pack.ARRAY
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    read_files.clear()
    resumed, _ = pack_images(small_files, 16, tmp_path / "p.npy")
    assert read_files == [small_files[-1]]
    np.testing.assert_array_equal(resumed, pack_images(small_files, 16, tmp_path / "q.npy")[0])
