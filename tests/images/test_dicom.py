"""Grey DICOM pictures: values worked out by hand, and files that are broken."""

import numpy as np
import pydicom
import pytest

from pkd_utils.images import dicom
from pkd_utils.runs.errors import DataError
from tests.cohorts.cbis_fixtures import write_dicom


@pytest.fixture
def ramp():
    """0 ... 4095 in 64 x 64 pixels, 12 of 16 bits."""
    return np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_full_is_the_range_of_the_stored_bits(tmp_path, ramp):
    grey = dicom.read_grey(write_dicom(tmp_path / "a.dcm", ramp, bits=12))
    assert grey.dtype == np.uint16
    np.testing.assert_allclose(grey, ramp * (65535 / 4095), atol=0.51)
    same = dicom.read_grey(write_dicom(tmp_path / "b.dcm", ramp))  # 16 bits: as stored
    np.testing.assert_array_equal(same, ramp)
    small = (ramp % 200).astype(np.uint8)
    eight = dicom.read_grey(write_dicom(tmp_path / "c.dcm", small))
    assert eight.dtype == np.uint8
    np.testing.assert_array_equal(eight, small)


@pytest.mark.parametrize("bits", [12, 16])
def test_monochrome1_is_inverted(tmp_path, ramp, bits):
    plain = dicom.read_grey(write_dicom(tmp_path / "a.dcm", ramp, bits))
    windowed = {"WindowCenter": 2000, "WindowWidth": 500}  # is not applied
    file = write_dicom(tmp_path / "b.dcm", ramp, bits, PhotometricInterpretation="MONOCHROME1", **windowed)
    inverted = dicom.read_grey(file)
    np.testing.assert_array_equal(inverted, 65535 - plain)
    assert inverted[0, 0] > inverted[-1, -1]


def test_signed_values_and_negative_slopes(tmp_path):
    values = np.array([[-2048, 0, 2047, 100]], np.int16)
    path = write_dicom(tmp_path / "a.dcm", values, 12)
    np.testing.assert_array_equal(dicom.read_grey(path)[0, :3], [0, round(2048 / 4095 * 65535), 65535])
    path = write_dicom(tmp_path / "b.dcm", values, 12, RescaleSlope=-1, RescaleIntercept=5)
    np.testing.assert_array_equal(dicom.read_grey(path)[0, [0, 2]], [65535, 0])
    path = write_dicom(tmp_path / "d.dcm", np.array([[-32768, 0, 32767]], np.int16))
    np.testing.assert_array_equal(dicom.read_grey(path), [[0, 32768, 65535]])
    # High stored values are dark after the rescale: 16 bits may not be passed through either.
    stored = write_dicom(tmp_path / "c.dcm", np.array([[0, 65535]], np.uint16), RescaleSlope=-1, RescaleIntercept=0)
    np.testing.assert_array_equal(dicom.read_grey(stored), [[65535, 0]])


def test_modality_table(tmp_path):
    item = pydicom.Dataset()
    table = np.array([65535, 0, 32768, 4], "<u2")
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4, 0, 16], table.tobytes(), "US"
    picture = np.array([[0, 1, 2, 3]], np.uint8)
    path = write_dicom(tmp_path / "a.dcm", picture, ModalityLUTSequence=[item])
    np.testing.assert_array_equal(dicom.read_grey(path), [[255, 0, 128, 0]])
    item.LUTDescriptor = [4, 0, 10]  # more than pydicom knows
    with pytest.raises(DataError, match=r"a\.dcm: its rescale cannot be applied"):
        dicom.read_grey(write_dicom(path, picture, ModalityLUTSequence=[item]))
    with pytest.raises(DataError, match="its rescale cannot be applied"):
        dicom.read_grey(write_dicom(path, picture, 6, RescaleSlope="", RescaleIntercept=0))


def test_bits_above_the_stored_ones_are_no_brightness(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.array([[0x8000 + 4095, 0x1000, 7]], np.uint16), 12)
    np.testing.assert_array_equal(dicom.read_grey(path), [[65535, 0, 112]])


def test_bytes_and_paths_are_the_same(tmp_path, ramp):
    path = write_dicom(tmp_path / "a.dcm", ramp, 12)
    data = path.read_bytes()
    np.testing.assert_array_equal(dicom.read_grey(data), dicom.read_grey(str(path)))
    assert dicom.is_dicom(path)
    assert dicom.is_dicom(data)
    assert dicom.read_header(data) == dicom.read_header(path) == (64, 64, True)


def test_compressed_pictures(tmp_path, ramp):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", ramp, 12))
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    dataset.save_as(tmp_path / "b.dcm")
    np.testing.assert_array_equal(dicom.read_grey(tmp_path / "b.dcm"), dicom.read_grey(tmp_path / "a.dcm"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless  # no decoder for it is pinned
    dataset.save_as(tmp_path / "c.dcm")
    with pytest.raises(DataError, match=r"c.dcm: the pixels \(JPEG-LS.*decoder for that compression"):
        dicom.read_grey(tmp_path / "c.dcm")


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_a_file_cut_short_is_noticed_from_its_header(tmp_path, ramp, syntax):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", ramp, 12))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=syntax.is_implicit_VR, little_endian=True)
    data = (tmp_path / "a.dcm").read_bytes()
    assert dicom.read_header(data).complete
    assert not dicom.read_header(data[:-1]).complete
    with pytest.raises(DataError, match=r"The DICOM file: .* cannot be decoded .*; fetch the file again"):
        dicom.read_grey(data[:-100])
    with pytest.raises(DataError, match=r"\.$"):
        dicom.read_header(data[:200])


def test_what_is_no_grey_picture(tmp_path, ramp):
    (tmp_path / "a.dcm").write_bytes(b"\xff\xd8\xff" + bytes(500))
    assert not dicom.is_dicom(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=r"a\.dcm is no DICOM file; fetch it again"):
        dicom.read_grey(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(write_dicom(tmp_path / "b.dcm", ramp))
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "RGB", 3
    dataset.save_as(tmp_path / "b.dcm")
    with pytest.raises(DataError, match=r"b.dcm is no single grey picture \(RGB, 1 frame\(s\)\)"):
        dicom.read_header(tmp_path / "b.dcm")
    with pytest.raises(DataError, match="3 frame"):
        dicom.read_grey(write_dicom(tmp_path / "c.dcm", ramp, NumberOfFrames=3))
    del dataset.Rows
    dataset.save_as(tmp_path / "d.dcm")
    with pytest.raises(DataError, match=r"holds no picture \(no Rows\)"):
        dicom.read_grey(tmp_path / "d.dcm")
    with pytest.raises(FileNotFoundError):
        dicom.is_dicom(tmp_path / "absent.dcm")


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("values", "bits", "elements"),
    [
        ([0, 0, 500, 3000], 12, {"PixelPaddingValue": 0}),
        ([4095, 4095, 500, 3000], 12, {"PixelPaddingValue": 4095}),
        ([0, 0, 500, 3000], 16, {"PixelPaddingValue": 0}),
        ([65535, 65535, 500, 3000], 16, {"PixelPaddingValue": 65535}),
        ([4000, 4095, 500, 3000], 12, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}),
        ([0, 20, 500, 3000], 12, {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 20}),
        ([-2000, -2000, -500, 300], 12, {"PixelPaddingValue": -2000}),
        ([-2000, -2000, -500, 300], 16, {"PixelPaddingValue": -2000, "RescaleSlope": 1, "RescaleIntercept": -1024}),
        ([-2000, -2000, -500, 300], 16, {"PixelPaddingValue": -2000, "RescaleSlope": -1, "RescaleIntercept": 0}),
        ([255, 255, 50, 90], 8, {"PixelPaddingValue": 255}),
    ],
)
def test_padding_is_dark_and_no_part_of_the_window(tmp_path, kind, values, bits, elements):
    dtype = np.int16 if min(values) < 0 else np.uint8 if bits == 8 else np.uint16
    picture = np.array([values], dtype)
    plain = {name: value for name, value in elements.items() if not name.startswith("PixelPadding")}
    whole = dicom.read_grey(write_dicom(tmp_path / "whole.dcm", picture, bits, PhotometricInterpretation=kind, **plain))
    file = write_dicom(tmp_path / "padded.dcm", picture, bits, PhotometricInterpretation=kind, **elements)
    grey = dicom.read_grey(file)
    np.testing.assert_array_equal(grey[0, 2:], whole[0, 2:])  # the picture itself is as before
    assert set(grey[0, :2]) == {whole[0, 2:].min()}
    alone = write_dicom(tmp_path / "alone.dcm", np.full((1, 4), values[0], dtype), bits, **elements)
    assert len(np.unique(dicom.read_grey(alone))) == 1  # nothing but padding


def test_padding_that_is_no_number(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", np.array([[0, 9]], np.uint16), PixelPaddingValue=[1, 2])
    with pytest.raises(DataError, match=r"a\.dcm: its padding value cannot be read"):
        dicom.read_grey(file)


def test_a_mask_on_black_padding_stays_a_mask(tmp_path):
    drawn = np.array([[0, 0, 255, 255]], np.uint8)
    np.testing.assert_array_equal(dicom.read_grey(write_dicom(tmp_path / "a.dcm", drawn, PixelPaddingValue=0)), drawn)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("high_bit", [11, 13, 15])
def test_values_may_lie_high_in_their_words(tmp_path, dtype, high_bit):
    values = np.array([[0, 1, 2047, 1000]], dtype) - (1024 if dtype == np.int16 else 0)
    usual = dicom.read_grey(write_dicom(tmp_path / "a.dcm", values.astype(dtype), 12))
    words = (values.astype(np.uint16) & 0xFFF) << (high_bit - 11)
    words |= np.uint16(2**16 - 2 ** (high_bit + 1)) | np.uint16(2 ** (high_bit - 11) - 1)  # overlays around them
    file = write_dicom(tmp_path / "b.dcm", words.view(dtype), 12, HighBit=high_bit)
    np.testing.assert_array_equal(dicom.read_grey(file), usual)


def test_deflated_files_are_whole_unless_cut(tmp_path, ramp):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", ramp, 12))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "b.dcm", implicit_vr=False, little_endian=True)
    assert dicom.read_header(tmp_path / "b.dcm") == (64, 64, True)
    np.testing.assert_array_equal(dicom.read_grey(tmp_path / "b.dcm"), dicom.read_grey(tmp_path / "a.dcm"))
    data = (tmp_path / "b.dcm").read_bytes()
    for read in (dicom.read_header, dicom.read_grey):
        with pytest.raises(DataError, match=r"\.$"):
            read(data[:-100])
