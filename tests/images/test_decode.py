"""From a file to pixels: reduced JPEGs, bit depths, colour, DICOM; and geometry that boxes and masks follow."""

from typing import get_args

import numpy as np
import pytest
from PIL import Image

from pkd_utils.images import decode
from pkd_utils.images.geometry import Aspect, packed_geometry, transform_boxes, transform_mask
from pkd_utils.runs.errors import DataError
from tests.cohorts.cbis_fixtures import write_dicom
from tests.images.conftest import SIZES, picture


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


@pytest.mark.parametrize("aspect", get_args(Aspect))
@pytest.mark.parametrize("size", SIZES)
def test_box_and_mask_follow_the_pixels(tmp_path, aspect, size):
    """A white rectangle is drawn, packed, and must be where box and mask say it is."""
    width, height = size
    x0, y0, x1, y1 = (int(v) for v in (0.30 * width, 0.35 * height, 0.65 * width, 0.70 * height))
    stored = np.zeros((height, width), np.uint8)
    stored[y0:y1, x0:x1] = 255
    Image.fromarray(stored).save(tmp_path / "r.png")
    white = decode.read_image(tmp_path / "r.png", 48, aspect)[0] > 127
    bx0, by0, bx1, by1 = transform_boxes([[x0, y0, x1, y1]], packed_geometry(width, height, 48, aspect), 48)[0]
    ys, xs = np.nonzero(white)
    found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    np.testing.assert_allclose(found, (bx0, by0, bx1, by1), atol=0.75)
    mask = transform_mask(stored > 0, 48, aspect)
    assert mask.dtype == bool and mask.shape == (48, 48)
    assert (mask & white).sum() / (mask | white).sum() > 0.9
    assert mask.sum() == pytest.approx((bx1 - bx0) * (by1 - by0), rel=0.12)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stored_turned_is_read_upright(tmp_path, orientation, suffix):
    """By every way to a picture, JPEGs at a fraction of their size too, and by the header's size."""
    upright = (397, 803) if suffix == ".jpg" else (199, 403)
    whole = picture(*upright).convert("L")
    kinds = ["FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]
    turned = whole.transpose(Image.Transpose[kinds[orientation - 2]]) if orientation > 1 else whole
    path, plain, exif = tmp_path / f"turned{suffix}", tmp_path / f"plain{suffix}", Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"quality": 95}, ".webp": {"lossless": True}}.get(suffix, {})
    turned.save(path, exif=exif, **options)
    whole.save(plain, **options)
    assert decode.image_size(path) == decode.open_image(path).size == decode.open_grey(path).size == upright
    for size, aspect in ((64, "squash"), (64, "pad"), (64, "crop"), (600, "squash")):
        pixels, stored = decode.read_image(path.read_bytes(), size, aspect)
        assert stored == upright
        difference = pixels.astype(float) - decode.read_image(plain, size, aspect)[0]
        assert np.abs(difference).mean() < 1.5, (size, aspect)  # blocks of the JPEG lie elsewhere
    if orientation > 1:
        turned.save(tmp_path / "turned.tif", exif=exif)
        for read in (decode.image_size, decode.open_image):
            with pytest.raises(DataError, match=f"TIFF stored turned, orientation {orientation}: save it upright"):
                read(tmp_path / "turned.tif")


def test_pad_is_black(tmp_path):
    Image.new("L", (100, 50), 10).save(tmp_path / "w.png")
    plain, _ = decode.read_image(tmp_path / "w.png", 40, "pad")
    assert (plain[10:30] == 10).all() and (plain[:10] == 0).all() and (plain[30:] == 0).all()


def test_box_that_crop_cuts_off_has_no_area():
    geometry = packed_geometry(200, 100, 50, "crop")
    box = transform_boxes([[0, 0, 40, 100], [100, 0, 150, 100]], geometry, 50)
    assert box[0, 2] - box[0, 0] == 0 and box[1].tolist() == [25, 0, 50, 50]


@pytest.mark.parametrize("width", [611, 612, 751, 2544])
def test_crop_of_a_side_that_binary_numbers_do_not_divide(tmp_path, width):
    Image.new("L", (width, 3056), 200).save(tmp_path / "film.jpg")
    for size in (64, 96, 224):
        assert (decode.read_image(tmp_path / "film.jpg", size, "crop")[0] == 200).all()
        geometry = packed_geometry(width, 3056, size, "crop")
        assert geometry.offset_x == pytest.approx(0, abs=1e-9) and geometry.offset_y < 0


def test_small_lesion_survives_and_empty_mask_stays_empty():
    mask = np.zeros((500, 400), bool)
    assert not transform_mask(mask, 32).any()
    mask[200:203, 100:103] = True
    packed = transform_mask(mask, 32)
    assert packed.sum() == 1 and packed[200 * 32 // 500, 100 * 32 // 400]
    for height, width, size in ((31, 883, 96), (223, 67, 96), (9, 289, 48)):
        mask = np.zeros((height, width), bool)
        mask[height // 2, width // 2] = True  # on the border of two packed pixels
        y, x = np.nonzero(transform_mask(mask, size))
        assert len(y) and max(abs(y + 0.5 - size / 2).max(), abs(x + 0.5 - size / 2).max()) <= size / (2 * height) + 1


def test_sixteen_bits_colour_palette_and_transparency(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "sixteen.png")
    got, _ = decode.read_image(tmp_path / "sixteen.png", 64)
    assert abs(got.astype(float) - ramp / 257).max() <= 0.51  # PIL's own convert("L") would clip nearly all to 255
    np.testing.assert_array_equal(np.asarray(decode.open_grey(tmp_path / "sixteen.png")), got)
    Image.fromarray((ramp // 16).astype(np.uint16)).save(tmp_path / "twelve.png")
    assert decode.read_image(tmp_path / "twelve.png", 64)[0].max() <= 16
    assert decode.open_image(tmp_path / "twelve.png").mode == "I;16"
    grey = picture(64, 64)
    for mode in ("RGB", "RGBA", "P", "LA", "1"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        got, _ = decode.read_image(tmp_path / f"{mode}.png", 64)
        want = np.asarray(grey.convert(mode).convert("RGB").convert("L"))
        np.testing.assert_array_equal(got, want)
        assert decode.open_image(tmp_path / f"{mode}.png").mode == mode


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_dicom_like_the_same_picture_as_png(tmp_path, photometric):
    ramp = np.linspace(0, 4095, 60 * 80).reshape(60, 80).astype(np.uint16)
    stored = ramp if photometric == "MONOCHROME2" else 4095 - ramp
    dicom = write_dicom(tmp_path / "a.dcm", stored, 12, PhotometricInterpretation=photometric)
    Image.fromarray(np.rint(ramp / 4095 * 65535).astype(np.uint16)).save(tmp_path / "a.png")
    for aspect in get_args(Aspect):
        got, size = decode.read_image(dicom, 32, aspect)
        want, _ = decode.read_image(tmp_path / "a.png", 32, aspect)
        assert size == (80, 60)
        assert abs(got.astype(int) - want).max() <= 1
    np.testing.assert_array_equal(decode.read_image(dicom.read_bytes(), 32)[0], decode.read_image(dicom, 32)[0])
    faint = write_dicom(tmp_path / "b.dcm", (ramp // 16).astype(np.uint16), bits=12)
    assert decode.read_image(faint, 64)[0].max() <= 16
    eight = write_dicom(tmp_path / "c.dcm", (ramp // 17).astype(np.uint8), bits=8)
    np.testing.assert_array_equal(np.asarray(decode.open_grey(eight)), (ramp // 17).astype(np.uint8))


@pytest.mark.parametrize("content", [b"<html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(40), b""])
def test_what_is_no_image_is_one_sentence(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    for read in (decode.open_image, decode.image_size, lambda path: decode.read_image(path, 8)):
        with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(\w+.*\); fetch the file again\.$"):
            read(tmp_path / "a.png")
        with pytest.raises(FileNotFoundError, match=r"b\.png is missing"):
            read(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".dcm"])
def test_a_file_that_is_cut_short_is_told_by_its_end(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
    file = tmp_path / f"a{suffix}"
    if suffix == ".dcm":
        write_dicom(file, pixels, bits=8)
    else:
        Image.fromarray(pixels).save(file)
    decode.check_ends(file)
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(1000))  # padded
    decode.check_ends(file)
    file.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(DataError, match=rf"^\S+a\{suffix} is cut short; fetch the file again\.$"):
        decode.check_ends(file)
    file.write_text("no picture")
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode.check_ends(file)
