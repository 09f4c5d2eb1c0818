"""Reading CTs in any orientation, and naming what is wrong with them; on a simulated chest of ellipsoids."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from pkd_utils.images.ct import checks, volumes
from pkd_utils.images.ct.volumes import Volume, VolumeError
from tests.images.ct.phantom import ORIGIN, SHAPE, SPACING, as_image, phantom, scanned_obliquely, write_series

HU = phantom()
ORIENTATIONS = ["LPS", "RAS", "LAS", "RPI", "SPL", "ASR", "IAL", "PIR"]


def volume(hu=HU, spacing=SPACING, **facts):
    return Volume(hu, spacing, ORIGIN, facts)


def names(found):
    return [problem.name for problem in checks.inspect(found)[1]]


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_stored_orientation_gives_the_same_volume(tmp_path, orientation, suffix):
    path = tmp_path / f"case.a{suffix}"
    sitk.WriteImage(sitk.DICOMOrient(as_image(HU), orientation), str(path))
    found = volumes.read_volume(path)
    assert found.facts["orientation"] == orientation
    np.testing.assert_array_equal(found.hu, HU)
    np.testing.assert_allclose(found.spacing, SPACING, rtol=1e-6)
    np.testing.assert_allclose(found.origin, ORIGIN, atol=1e-3)
    np.testing.assert_allclose(
        found.centre, np.array(ORIGIN) + (np.array(SHAPE) - 1) / 2 * np.array(SPACING), atol=1e-3
    )
    assert volumes.image_id(path) == "case.a"


@pytest.mark.parametrize("orientation", ["LPS", "RPI", "ASL"])
def test_dicom_series_in_any_order_of_files(tmp_path, orientation):
    image = sitk.DICOMOrient(as_image(HU), orientation)
    shuffled = np.random.default_rng(0).permutation(image.GetSize()[2])
    write_series(tmp_path / "series", image, names=[f"IM{n:04d}" for n in shuffled])
    (tmp_path / "series" / "readme.txt").write_text("not DICOM")
    found = volumes.read_volume(tmp_path / "series")
    np.testing.assert_array_equal(found.hu, HU)
    np.testing.assert_allclose(found.origin, ORIGIN, atol=1e-3)
    assert found.facts["patient_position"] == "HFS"


@pytest.mark.parametrize(("degrees", "axis"), [(12, "z"), (-20, "x"), (15, "y")])
def test_oblique_grids_are_resampled_and_named(degrees, axis):
    found = volumes.to_lps(scanned_obliquely(as_image(HU), degrees, axis))
    assert found.facts["oblique_degrees"] == pytest.approx(abs(degrees), abs=0.1)
    back = sitk.GetArrayFromImage(
        sitk.Resample(found.image(), as_image(HU), sitk.Transform(), sitk.sitkLinear, -1000.0)
    )
    core = (slice(15, -15), slice(15, -15), slice(20, -20))
    assert np.corrcoef(back[core].ravel(), HU[core].ravel())[0, 1] > 0.97
    assert "oblique" in names(found)
    assert names(volumes.to_lps(scanned_obliquely(as_image(HU), 0.2, axis))) == []


def test_values_are_clamped_and_remembered():
    hu = HU.astype(np.int32)
    hu[0, 0, 0], hu[0, 0, 1] = -3024, 30000
    found = volumes.to_lps(as_image(hu))
    assert (found.hu.min(), found.hu.max()) == (-1024, 3071)
    assert (found.facts["stored_low"], found.facts["stored_high"]) == (-3024, 30000)
    floats = volumes.to_lps(as_image(HU.astype(np.float32) + 0.4))
    np.testing.assert_array_equal(floats.hu, HU)


def test_crop_keeps_its_place():
    part = volume().crop((2, 3, 4), (50, 60, 70))
    np.testing.assert_array_equal(part.hu, HU[2:50, 3:60, 4:70])
    assert part.origin == (ORIGIN[0] + 10, ORIGIN[1] + 12, ORIGIN[2] + 16)


def refused(path):
    with pytest.raises(VolumeError) as error:
        volumes.read_volume(path)
    assert error.value.name in volumes.READ_PROBLEMS and str(error.value).count("\n") == 0
    return error.value


def test_a_missing_or_doubled_slice_is_named_with_its_place(tmp_path):
    image = as_image(HU)
    write_series(tmp_path / "missing", image, drop=[20])
    error = refused(tmp_path / "missing")
    assert error.name == "missing slices" and "1 of 58 steps" in str(error) and "after slice 20" in str(error)
    write_series(tmp_path / "double", image)
    (tmp_path / "double" / "again.dcm").write_bytes((tmp_path / "double" / "slice007.dcm").read_bytes())
    assert "doubled" in str(refused(tmp_path / "double"))
    write_series(tmp_path / "one", image, drop=range(1, 60))
    assert "one slice" in str(refused(tmp_path / "one"))


def test_other_series_modalities_and_tilts_are_named(tmp_path):
    image = as_image(HU)
    write_series(tmp_path / "pet", image, **{"0008_0060": "PT"})
    assert refused(tmp_path / "pet").name == "not CT"
    write_series(tmp_path / "two", image, drop=range(30))
    write_series(tmp_path / "two", image, drop=range(30, 60), **{"0020_000e": "1.2.826.0.1.3680043.2.1125.9"})
    assert refused(tmp_path / "two").name == "several series"
    tilted = tmp_path / "tilted"
    write_series(tilted, image)
    import pydicom

    for i, file in enumerate(sorted(tilted.iterdir())):
        head = pydicom.dcmread(file)
        head.ImagePositionPatient[1] += 0.9 * i  # 0.9 mm to the back every 5 mm: about 10 degrees
        head.save_as(file)
    error = refused(tilted)
    assert error.name == "tilted gantry" and "10.2 degrees" in str(error)


def test_what_is_no_volume_is_unreadable(tmp_path):
    (tmp_path / "torn.nii.gz").write_bytes(b"\x1f\x8b not gzip")
    assert refused(tmp_path / "torn.nii.gz").name == "unreadable"
    good = tmp_path / "good.nii.gz"
    sitk.WriteImage(as_image(HU), str(good))
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:4000])
    assert "ends early" in str(refused(tmp_path / "cut.nii.gz"))
    sitk.WriteImage(as_image(HU), str(tmp_path / "plain.nii"))
    (tmp_path / "plain.nii").write_bytes((tmp_path / "plain.nii").read_bytes()[:-1])
    assert refused(tmp_path / "plain.nii").name == "unreadable"
    plain = gzip.decompress(good.read_bytes())  # whole, but in two members
    (tmp_path / "parts.nii.gz").write_bytes(gzip.compress(plain[:9999]) + gzip.compress(plain[9999:]))
    np.testing.assert_array_equal(volumes.read_volume(tmp_path / "parts.nii.gz").hu, HU)
    four = sitk.JoinSeries([as_image(HU[:20]), as_image(HU[:20])])
    sitk.WriteImage(four, str(tmp_path / "four.nii.gz"))
    assert "no volume" in str(refused(tmp_path / "four.nii.gz"))
    holes = HU.astype(np.float32)
    holes[3, 3, 3] = np.nan
    sitk.WriteImage(as_image(holes), str(tmp_path / "nan.nii.gz"))
    assert "NaN" in str(refused(tmp_path / "nan.nii.gz"))
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").name == "unreadable"
    with pytest.raises(FileNotFoundError, match="no volume"):
        volumes.read_volume(tmp_path / "absent.nii.gz")


def test_find_volumes(tmp_path):
    sitk.WriteImage(as_image(HU[:20]), str(tmp_path / "b.nii.gz"))
    write_series(tmp_path / "deep" / "a", as_image(HU[:20]))
    (tmp_path / "notes.txt").write_text("x")
    assert volumes.find_volumes(tmp_path) == [tmp_path / "b.nii.gz", tmp_path / "deep" / "a"]
    with pytest.raises(FileNotFoundError, match="no folder"):
        volumes.find_volumes(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="no CT volume"):
        volumes.find_volumes(tmp_path / "bare")


def test_an_ordinary_chest_has_no_problem():
    body, found = checks.inspect(volume())
    assert found == []
    # The body, not the table: 280 mm wide, and it ends before the table begins.
    assert body.high[2] - body.low[2] == pytest.approx(280, abs=10)
    assert body.high[1] < ORIGIN[1] + (SHAPE[1] - 1) / 2 * SPACING[1] + 96


@pytest.mark.parametrize(("quarters", "name"), [(1, "decubitus"), (2, "prone"), (3, "decubitus")])
def test_a_patient_who_is_turned_against_the_header(quarters, name):
    turned = np.ascontiguousarray(np.rot90(HU, quarters, axes=(1, 2)))
    _, found = checks.inspect(volume(turned))
    assert [problem.name for problem in found] == [name] and "is not AP" in found[0].message


def test_a_patient_who_is_rotated():
    from scipy import ndimage

    turned = ndimage.rotate(HU, 45, axes=(1, 2), reshape=False, order=1, mode="constant", cval=-1000)
    assert "rotated" in names(volume(turned))
    little = ndimage.rotate(HU, 12, axes=(1, 2), reshape=False, order=1, mode="constant", cval=-1000)
    assert "rotated" not in names(volume(little))


@pytest.mark.parametrize(
    ("position", "name"),
    [("HFP", "prone"), ("FFP", "prone"), ("HFDL", "decubitus"), ("FFDR", "decubitus"), ("FFS", "")],
)
def test_the_header_says_how_the_patient_lies(position, name):
    assert names(volume(patient_position=position)) == ([name] if name else [])


def test_the_table_says_how_the_patient_lies():
    hu = HU.copy()
    table = hu[:, 60:].copy()
    hu[:, 60:] = -1000
    assert names(volume(hu)) == []  # no table, no word
    hu[:, :12] = table[:, ::-1]
    assert names(volume(hu)) == ["prone"]
    beside = HU.copy()
    beside[:, 60:] = -1000
    beside[:, 10:60, 2:4] = 0
    assert names(volume(beside)) == ["decubitus"]


def test_empty_and_constant_and_short_volumes():
    assert names(volume(np.full(SHAPE, -1000, np.int16))) == ["empty"]
    noise = np.random.default_rng(0).normal(-1000, 20, SHAPE).astype(np.int16)
    assert names(volume(noise)) == ["empty"]
    small = np.where(np.arange(SHAPE[2]) < 8, HU[:, :, 44:52].repeat(12, axis=2), -1000).astype(np.int16)
    assert names(volume(small)) == ["empty"]
    assert names(volume(HU[:15])) == ["few slices"]


def test_values_that_are_not_hounsfield_units():
    assert names(volume((HU + 1024).astype(np.int16))) == ["not HU"]
    assert names(volume(((HU + 1000) // 6).astype(np.int16))) == ["not HU"]
    assert names(volume((HU - 1024).clip(-1024).astype(np.int16))) == ["not HU"]


def test_cropped_fields_of_view():
    cut = volume().crop((0, 10, 20), (SHAPE[0], 52, 76))
    assert names(cut) == ["cropped sides"]
    y, x = (np.arange(n) - (n - 1) / 2 for n in SHAPE[1:])
    outside = np.hypot(y[:, None], x[None]) > 30  # a scanner's circle of 120 mm in a field of view of 240 mm
    circle = np.where(outside, -1024, HU).astype(np.int16)[:, 6:-6, 18:-18]
    assert names(volume(circle)) == ["cropped sides"]
    assert names(volume().crop((0, 0, 0), (40, *SHAPE[1:]))) == ["cropped lungs"]
    found = checks.inspect(volume().crop((25, 0, 0), SHAPE))[1]
    assert [problem.name for problem in found] == ["cropped lungs"] and "first (lowest)" in found[0].message


def test_thick_slices():
    assert names(volume(HU[::2], spacing=(10.0, *SPACING[1:]))) == ["thick slices"]


def test_every_name_is_explained():
    assert {"rotated", "cropped sides", "decubitus", "thick slices", "empty", "missing slices"} <= set(checks.PROBLEMS)


@pytest.mark.shared
def test_the_real_ct_has_no_problem(shared_data):
    path = shared_data / "lung-pet-ct-dx" / "Lung_Dx-A0001.nii.gz"
    if not path.exists():
        pytest.skip("the CT of Lung-PET-CT-Dx is not in the folder of open data")
    found = volumes.read_volume(path)
    assert found.hu.shape == (64, 512, 512) and found.spacing == pytest.approx((5.0, 0.8418, 0.8418), abs=1e-3)
    assert names(found) == []
    sideways = Volume(np.ascontiguousarray(np.rot90(found.hu, 1, axes=(1, 2))), found.spacing, found.origin, {})
    assert names(sideways) == ["decubitus"]
