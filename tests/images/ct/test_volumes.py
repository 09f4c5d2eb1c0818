"""Reading CTs in any orientation, and naming what is wrong with them; on a simulated chest of ellipsoids."""

import gzip

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage

from pkd_utils.images.ct import checks, radiograph, volumes
from pkd_utils.images.ct.volumes import Volume, VolumeError
from tests.images.ct.phantom import ORIGIN, SHAPE, SPACING, as_image, phantom, scanned_obliquely, write_series

HU = phantom()
ORIENTATIONS = ["LPS", "RAS", "LAS", "RPI", "SPL", "ASR", "IAL", "PIR"]


def volume(hu=HU, spacing=SPACING, **facts):
    return Volume(hu, spacing, ORIGIN, facts)


def names(found):
    return [problem.name for problem in checks.inspect(found)[1]]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_stored_orientation_gives_the_same_volume(tmp_path, orientation, suffix):
    path = tmp_path / f"case.a{suffix}"
    sitk.WriteImage(sitk.DICOMOrient(as_image(HU), orientation), str(path))
    found = volumes.read_volume(path)
    assert found.facts["orientation"] == orientation
    np.testing.assert_array_equal(found.hu, HU)
    np.testing.assert_allclose(found.spacing, SPACING, rtol=1e-6)
    np.testing.assert_allclose(found.origin, ORIGIN, atol=1e-3)
    middle = np.array(ORIGIN) + (np.array(SHAPE) - 1) / 2 * np.array(SPACING)
    np.testing.assert_allclose(found.centre, middle, atol=1e-3)
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
    back = sitk.Resample(found.image(), as_image(HU), sitk.Transform(), sitk.sitkLinear, -1000.0)
    back = sitk.GetArrayFromImage(back)
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


def test_a_series_with_a_missing_doubled_foreign_or_tilted_slice_is_named(tmp_path):
    image = as_image(HU)
    write_series(tmp_path / "missing", image, drop=[20])
    error = refused(tmp_path / "missing")
    assert error.name == "missing slices" and "1 of 58 steps" in str(error) and "after slice 20" in str(error)
    write_series(tmp_path / "one", image, drop=range(1, 60))
    assert "one slice" in str(refused(tmp_path / "one"))
    write_series(tmp_path / "pet", image, **{"0008_0060": "PT"})
    assert refused(tmp_path / "pet").name == "not CT"
    write_series(tmp_path / "two", image, drop=range(30))
    write_series(tmp_path / "two", image, drop=range(30, 60), **{"0020_000e": "1.2.826.0.1.3680043.2.1125.9"})
    assert refused(tmp_path / "two").name == "several series"
    tilted = tmp_path / "tilted"
    write_series(tilted, image)
    (tilted / "again.dcm").write_bytes((tilted / "slice007.dcm").read_bytes())
    assert "doubled" in str(refused(tilted))
    (tilted / "again.dcm").unlink()
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


def test_files_that_do_not_say_where_left_is_are_refused(tmp_path):
    for spelling, forms in {"none": (0, 0), "sform": (2, 0), "qform": (0, 1)}.items():
        path = tmp_path / f"{spelling}.nii.gz"
        sitk.WriteImage(as_image(HU), str(path))
        stored = bytearray(gzip.decompress(path.read_bytes()))
        stored[252:256] = np.array(forms[::-1], "<i2").tobytes()  # qform_code, sform_code
        path.write_bytes(gzip.compress(stored))
        if any(forms):
            np.testing.assert_array_equal(volumes.read_volume(path).hu, HU)
        else:
            error = refused(path)
            assert error.name == "no orientation" and "does not say where left" in str(error)
            pixels, row = radiograph.make_radiograph(path)
            assert pixels is None and (row["status"], row["problems"]) == ("refused", "no orientation")
    mirrored = nibabel.Nifti1Image(HU, np.diag([1.0, 1, 1, 1]))
    mirrored.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    nibabel.save(mirrored, tmp_path / "two.nii")
    assert "RAS and LAS (sform and qform), 180.0 degrees apart" in str(refused(tmp_path / "two.nii"))


def test_a_nifti_whose_slices_lean_or_that_says_two_things_is_refused(tmp_path):
    """SimpleITK reads all of these, by the qform alone where the sform is sheared or of other steps."""
    straight, sheared, turned, doubled = (np.diag([4.0, 4, 5, 1]) for _ in range(4))
    sheared[1, 2] = 5 * np.tan(np.radians(15))
    turned[:2, :2] = 4 * np.array([[0.8, -0.6], [0.6, 0.8]])
    doubled[:3] *= 2
    cases = {
        "lean": (sheared, None, "tilted gantry", "stacked 15.0 degrees off"),
        "turned": (turned, straight, "no orientation", "36.9 degrees apart"),
        "doubled": (doubled, straight, "no orientation", "voxels of 8 x 8 x 10 and 4 x 4 x 5 mm"),
    }
    for name, (sform, qform, problem, words) in cases.items():
        image = nibabel.Nifti1Image(HU.transpose(2, 1, 0), sform)  # with a qform that is sheared no more
        image.set_sform(sform, 1)
        image.set_qform(sform if qform is None else qform, 1)
        nibabel.save(image, tmp_path / f"{name}.nii")
        error = refused(tmp_path / f"{name}.nii")
        assert error.name == problem and words in str(error)
    image.set_sform(turned, 1)
    image.set_qform(turned, 1)
    nibabel.save(image, tmp_path / "agreed.nii")
    assert volumes.read_volume(tmp_path / "agreed.nii").facts["oblique_degrees"] == pytest.approx(36.87, abs=0.01)


def test_names_that_deny_the_compression_are_told(tmp_path):
    sitk.WriteImage(as_image(HU), str(tmp_path / "good.nii"))
    plain = (tmp_path / "good.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(plain)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain))
    for name, what in (("plain.nii.gz", "is not compressed"), ("packed.nii", "is compressed")):
        end = ".nii" if name.endswith(".gz") else ".nii.gz"
        assert f"{what} (gzip), which its name denies; let it end in {end}." in str(refused(tmp_path / name))


def edit_slices(folder, change):
    for i, file in enumerate(sorted(folder.iterdir())):
        head = pydicom.dcmread(file)
        change(head, i)
        head.save_as(file)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda head, i: delattr(head, "PixelSpacing"),
        lambda head, i: delattr(head, "PixelSpacing") if i == 7 else None,
        lambda head, i: setattr(head, "PixelSpacing", None),
        lambda head, i: setattr(head, "PixelSpacing", [0, 0]),
        lambda head, i: setattr(head, "PixelSpacing", [3.0, 3.0 + (i == 7)]),
        lambda head, i: setattr(head, "PixelSpacing", [3.0 + 0.5 * (i > 12)] * 2),
    ],
)
def test_slices_without_one_spacing_are_refused(tmp_path, change):
    write_series(tmp_path / "series", as_image(HU[:20]))
    assert refused(edit_slices(tmp_path / "series", change)).name == "no spacing"


def test_several_stacks_in_one_series_are_not_missing_slices(tmp_path):
    image = as_image(HU)

    def two(name, second, first=image, number="2", **tags):
        write_series(tmp_path / name, first, **{"0020_0012": "1"})
        more = [f"more{i:03d}" for i in range(second.GetSize()[2])]
        write_series(tmp_path / name, second, names=more, **{"0020_0012": number}, **tags)
        return tmp_path / name

    shifted = sitk.Image(image)
    shifted.SetOrigin((*image.GetOrigin()[:2], image.GetOrigin()[2] + 1.5))
    for folder in (
        two("two phases", image),
        two("two phases without a number", image, number="1"),
        two("between the slices of the first", shifted),
        two("thin slices after thick ones", image[:, :, 30:], first=image[:, :, :30:2]),
        two("one above the other", image[:, :, 40:], first=image[:, :, :30]),
        two("a localizer", scanned_obliquely(image, 90, "x")[:, :, :1]),
    ):
        assert refused(folder).name == "several acquisitions", folder.name
    # Every rotation may have a number of its own: what is missing there is a slice.
    write_series(tmp_path / "rotations", image, drop=[20])
    for many in (4, 20):  # slices a rotation; of 20, the missing one lies between the first two
        edit_slices(tmp_path / "rotations", lambda head, i, many=many: setattr(head, "AcquisitionNumber", i // many))
        assert refused(tmp_path / "rotations").name == "missing slices"


def test_bright_padding_is_air(tmp_path):
    """Words without a sign hold -2000 as 63536, which is 62512 HU."""

    def pad(head, i):
        stored = (HU[i] + 1024).astype(np.uint16)
        stored[:, :5] = 63536
        head.PixelRepresentation, head.BitsStored, head.HighBit = 0, 16, 15
        head.add_new("PixelPaddingValue", "US", 63536)
        head.RescaleIntercept, head.RescaleSlope, head.PixelData = -1024, 1, stored.tobytes()

    write_series(tmp_path / "series", as_image(HU[:20]))
    found = volumes.read_volume(edit_slices(tmp_path / "series", pad))
    assert (found.hu[:, :, :5] == -1024).all()
    np.testing.assert_array_equal(found.hu[:, :, 5:], HU[:20, :, 5:])


@pytest.mark.parametrize("name", ["LICENSE", "readme.txt", "zz", "DICOMDIR", "AAA"])
def test_other_files_beside_the_slices_hide_no_series(tmp_path, name):
    write_series(tmp_path / "deep" / "a", as_image(HU[:20]))
    (tmp_path / "deep" / "a" / name).write_text("text")
    write_series(tmp_path / "b" / "c", as_image(HU[:20]))
    slices = sorted((tmp_path / "b" / "c").iterdir())
    (tmp_path / "b" / "DICOMDIR").write_bytes(slices[0].read_bytes())  # a directory of what lies below is no series
    assert volumes.find_volumes(tmp_path) == [tmp_path / "b" / "c", tmp_path / "deep" / "a"]
    np.testing.assert_array_equal(volumes.read_volume(tmp_path / "deep" / "a").hu, HU[:20])


@pytest.mark.parametrize("with_meta", [False, True])
def test_a_series_without_preamble_is_read_or_named_never_lost(tmp_path, with_meta):
    write_series(tmp_path / "old", as_image(HU[:20]))
    for file in (tmp_path / "old").iterdir():
        content = file.read_bytes()
        bare = 132 if with_meta else 144 + int.from_bytes(content[140:144], "little")
        file.write_bytes(content[bare:])
    assert volumes.find_volumes(tmp_path) == [tmp_path / "old"]
    if with_meta:  # what GDCM does not read
        assert refused(tmp_path / "old").name == "unreadable"
    else:
        np.testing.assert_array_equal(volumes.read_volume(tmp_path / "old").hu, HU[:20])


def test_a_slice_whose_header_is_damaged_is_named(tmp_path):
    write_series(tmp_path / "cut", as_image(HU[:20]))
    file = tmp_path / "cut" / "slice000.dcm"
    file.write_bytes(file.read_bytes()[:142])  # in the length of its first element
    assert "slice000.dcm in cut cannot be read as DICOM" in str(refused(tmp_path / "cut"))


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


def turned(degrees):
    return volume(ndimage.rotate(HU, degrees, axes=(1, 2), reshape=False, order=1, mode="constant", cval=-1000))


def lying_on(*table):
    """The phantom without its table, but with one at these rows and columns."""
    hu = HU.copy()
    hu[:, 60:] = -1000
    for rows, columns in table:
        hu[:, rows, columns] = 0
    return volume(hu)


def in_a_circle():
    """A scanner's circle of 120 mm in a field of view of 240 mm."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in SHAPE[1:])
    outside = np.hypot(y[:, None], x[None]) > 30
    return volume(np.where(outside, -1024, HU).astype(np.int16)[:, 6:-6, 18:-18])


def a_thin_thing():
    return volume(np.where(np.arange(SHAPE[2]) < 8, HU[:, :, 44:52].repeat(12, axis=2), -1000).astype(np.int16))


ODD = {
    "turned by a quarter": (lambda: volume(np.ascontiguousarray(np.rot90(HU, 1, axes=(1, 2)))), "decubitus", "not AP"),
    "by two quarters": (lambda: volume(np.ascontiguousarray(np.rot90(HU, 2, axes=(1, 2)))), "prone", "is not AP"),
    "by three": (lambda: volume(np.ascontiguousarray(np.rot90(HU, 3, axes=(1, 2)))), "decubitus", "is not AP"),
    "by 45 degrees": (lambda: turned(45), "rotated", "is not AP"),
    "by 12 degrees": (lambda: turned(12), "", ""),
    **{
        f"header says {position}": (lambda position=position: volume(patient_position=position), name, position)
        for position, name in zip(
            ("HFP", "FFP", "HFDL", "FFDR", "FFS"), ("prone", "prone", "decubitus", "decubitus", ""), strict=True
        )
    },
    "no table": (lambda: lying_on(), "", ""),
    "table in front": (lambda: lying_on((slice(5, 8), slice(12, 84))), "prone", "the table lies"),
    "table beside": (lambda: lying_on((slice(10, 60), slice(2, 4))), "decubitus", "the table lies"),
    "air": (lambda: volume(np.full(SHAPE, -1000, np.int16)), "empty", "every voxel"),
    "noise": (
        lambda: volume(np.random.default_rng(0).normal(-1000, 20, SHAPE).astype(np.int16)),
        *("empty", "of it is air"),
    ),
    "a thin thing": (a_thin_thing, "empty", "litres"),
    "short": (lambda: volume(HU[:15]), "few slices", "15 slices"),
    "shifted": (lambda: volume((HU + 1024).astype(np.int16)), "not HU", "of it is air"),
    "eight bits": (lambda: volume(((HU + 1000) // 6).astype(np.int16)), "not HU", "of it is air"),
    "too dark": (lambda: volume((HU - 1024).clip(-1024).astype(np.int16)), "not HU", "soft tissue"),
    "sides cut": (lambda: volume().crop((0, 10, 20), (SHAPE[0], 52, 76)), "cropped sides", "of its outline"),
    "left side cut": (lambda: volume().crop((0, 0, 32), SHAPE), "cropped sides", "of its outline"),
    "right side cut": (lambda: volume().crop((0, 0, 0), (*SHAPE[:2], 64)), "cropped sides", "of its outline"),
    "circle": (in_a_circle, "cropped sides", "of its outline"),
    "top cut": (lambda: volume().crop((0, 0, 0), (40, *SHAPE[1:])), "cropped lungs", "last (highest)"),
    "bottom cut": (lambda: volume().crop((25, 0, 0), SHAPE), "cropped lungs", "first (lowest)"),
    "thick": (lambda: volume(HU[::2], spacing=(10.0, *SPACING[1:])), "thick slices", "10.0 mm"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_about_a_volume_is_named(case):
    make, name, message = ODD[case]
    _, found = checks.inspect(make())
    assert [problem.name for problem in found] == ([name] if name else [])
    assert all(message in problem.message and problem.name in checks.PROBLEMS for problem in found)


def test_the_cut_outline_is_told_in_millimetres_whatever_the_voxels():
    """The same picture, half as large again: so is the length of what is cut."""
    told = []
    for pixel in (4.0, 6.0):
        (problem,) = checks.inspect(volume(HU[:, :, :64], spacing=(5.0, pixel, pixel)))[1]
        told.append(int(problem.message.partition(" mm ")[0]))
    assert told[1] == pytest.approx(1.5 * told[0], abs=1) and told[0] > checks.CUT_MM


@pytest.mark.parametrize(("voxels", "named"), [(250, []), (251, ["cropped lungs"])])
def test_more_than_40_square_centimetres_of_lung_in_the_first_slice_are_named(voxels, named):
    hu = HU.copy()
    lung = np.zeros((16, 16), np.int16)
    lung.flat[:voxels] = -890  # of 4 x 4 mm each, in 40
    hu[0, 24:40, 40:56] = 40 + lung
    assert names(volume(hu)) == named


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
