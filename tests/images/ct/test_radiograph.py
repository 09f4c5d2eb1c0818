"""Radiographs from CTs: the view, plastimatch against NumPy projectors, many volumes; on a chest of ellipsoids."""

import itertools
import os
import shutil
import subprocess
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from pkd_utils.images.ct import checks, plastimatch, projectors, radiograph, volumes
from pkd_utils.images.ct.projectors import DrrGeometry, Frame
from pkd_utils.images.ct.volumes import Volume, VolumeError
from pkd_utils.runs.errors import DataError
from tests.images.conftest import kill_when
from tests.images.ct.phantom import ORIGIN, SHAPE, SPACING, as_image, phantom, scanned_obliquely, write_series

needs_plastimatch = pytest.mark.skipif(
    shutil.which("plastimatch") is None, reason="plastimatch is not installed (Debian: apt-get install plastimatch)"
)
HU = phantom()
SMALL = DrrGeometry(detector_pixels=(128, 128))
WHOLE = DrrGeometry(detector_pixels=(96, 128), detector_mm=(360.0, 430.0), frame="detector")


@pytest.fixture
def chest(tmp_path):
    """The phantom in a file."""
    sitk.WriteImage(as_image(HU), str(tmp_path / "a.nii.gz"))
    return tmp_path / "a.nii.gz"


def volume(hu=HU):
    return Volume(hu, SPACING, ORIGIN, {"orientation": "LPS"})


def body_of(ct):
    body, _ = checks.inspect(ct)
    return body


CT = volume()
BODY = body_of(CT)


def mean(picture, rows, columns):
    """Mean grey in a part of the picture, given as shares of its height and width."""
    height, width = picture.shape
    return picture[
        round(rows[0] * height) : round(rows[1] * height), round(columns[0] * width) : round(columns[1] * width)
    ].mean()


def assert_is_ap(picture):
    """Head up, the patient's left on the right of the picture: heart low on the right, tumour high on the right."""
    assert mean(picture, (0.55, 0.65), (0.6, 0.7)) > mean(picture, (0.55, 0.65), (0.3, 0.4)) + 20  # the heart
    assert mean(picture, (0.22, 0.26), (0.69, 0.75)) > mean(picture, (0.22, 0.26), (0.25, 0.31)) + 10  # the tumour
    assert mean(picture, (0, 0.08), (0.02, 0.1)) < mean(picture, (0.92, 1), (0.1, 0.18)) - 20  # neck above, belly below


# --- projectors ---------------------------------------------------------------------------------------------------


def test_attenuation_is_linear_above_air():
    hu = np.array([-1024, -1000, -500, 0, 1000], np.int16)
    np.testing.assert_allclose(projectors.attenuation(hu), np.array([0, 0, 0.5, 1, 2]) * projectors.MU_WATER, atol=1e-8)


def test_parallel_beam_measures_the_path_in_water():
    hu = np.full((20, 30, 40), -1000, np.int16)
    hu[5:15, 10:20, 10:30] = 0
    box = Volume(hu, (2.0, 3.0, 4.0), (0.0, 0.0, 0.0), {})
    geometry = DrrGeometry(detector_mm=(60, 200), detector_pixels=(60, 200), frame="detector")
    picture = projectors.parallel_beam(box, geometry, projectors.frame_of(box, None, geometry), box.centre)
    assert picture.max() == pytest.approx(30 * projectors.MU_WATER, rel=1e-5)
    # 20 x 80 mm of water, magnified by sid / sad on each axis.
    assert picture.sum() / picture.max() == pytest.approx(20 * 80 * geometry.magnification**2, rel=0.03)


def test_cone_beam_magnifies_what_is_near_the_source():
    areas = []
    for y in (4, 24):  # front, back
        hu = np.full((40, 30, 40), -1000, np.int16)
        hu[15:25, y : y + 2, 15:25] = 0
        plate = Volume(hu, (4.0, 10.0, 4.0), (0.0, 0.0, 0.0), {})
        geometry = DrrGeometry(
            sad_mm=600, sid_mm=800, detector_mm=(300, 300), detector_pixels=(150, 150), frame="detector"
        )
        picture = projectors.cone_beam(plate, geometry, projectors.frame_of(plate, None, geometry), plate.centre)
        depth = (y + 0.5 - 14.5) * 10
        areas.append(picture.sum() / picture.max() * 4)
        assert areas[-1] == pytest.approx((40 * 800 / (600 + depth)) ** 2, rel=0.06)
    assert areas[0] > areas[1] * 1.5


def test_parallel_and_cone_agree_for_a_distant_source():
    geometry = DrrGeometry(sad_mm=1e6, sid_mm=1e6 + 1, detector_pixels=(128, 128))
    frame = projectors.frame_of(CT, (BODY.low, BODY.high), geometry)
    cone, parallel = (beam(CT, geometry, frame, CT.centre) for beam in (projectors.cone_beam, projectors.parallel_beam))
    np.testing.assert_allclose(cone, parallel, atol=2e-3)


@pytest.mark.parametrize("name", ["parallel", "cone", pytest.param("plastimatch", marks=needs_plastimatch)])
def test_the_view_is_ap(name):
    assert_is_ap(radiograph.to_picture(radiograph.line_integrals(CT, BODY, SMALL, name)))


@pytest.mark.parametrize("name", ["parallel", "cone"])
def test_cutting_air_off_changes_nothing(name):
    beam = projectors.parallel_beam if name == "parallel" else projectors.cone_beam
    whole = beam(CT, SMALL, projectors.frame_of(CT, (BODY.low, BODY.high), SMALL), CT.centre)
    np.testing.assert_allclose(radiograph.line_integrals(CT, BODY, SMALL, name), whole, atol=1e-5)


def test_frame_holds_the_body_and_whole_rays_only():
    frame = projectors.frame_of(CT, (BODY.low, BODY.high), SMALL)
    pitch = SMALL.pixel_mm[0]
    edge = (max(frame.centre_row, frame.rows - 1 - frame.centre_row)) * pitch
    at_the_back = edge * (SMALL.sad_mm + BODY.high[1] - CT.centre[1]) / SMALL.sid_mm
    assert at_the_back <= HU.shape[0] * SPACING[0] / 2 < at_the_back + 2 * pitch
    assert frame.columns * SMALL.pixel_mm[1] == pytest.approx(280 * SMALL.magnification, abs=35)
    picture = radiograph.line_integrals(CT, BODY, SMALL, "cone")
    assert picture[0].max() > 0.5 * picture.max() and picture[:, [0, -1]].max() < 0.5 * picture.max()
    assert projectors.frame_of(CT, None, WHOLE) == Frame(96, 128, 47.5, 63.5)


@pytest.mark.parametrize(("degrees", "axis"), [(0, "x"), (10, "x"), (-10, "x"), (10, "y")])
def test_every_ray_of_the_frame_passes_between_the_first_and_the_last_slice(degrees, axis):
    """A pillar of water much longer than the stack, scanned obliquely: the tilted ends must not be in the frame."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 14:60, 30:66] = 0
    ct = volumes.to_lps(scanned_obliquely(as_image(hu, spacing=(30.0, *SPACING[1:])), degrees, axis))
    pillar = [np.array([0, (rows - 35.5) * 4.0, (columns - 47.5) * 4.0]) for rows, columns in ((14, 30), (60, 66))]
    frame = projectors.frame_of(ct, tuple(ct.centre + corner for corner in pillar), SMALL)
    picture = projectors.cone_beam(ct, SMALL, frame, ct.centre)[:, 8:-8]
    np.testing.assert_allclose(picture, np.broadcast_to(np.median(picture, axis=0), picture.shape), rtol=0.04)
    # And not much of what could be there is given away: half a frame higher, rays leave through the last slice.
    taller = Frame(frame.rows + 16, frame.columns, frame.centre_row + 8, frame.centre_column)
    beyond = projectors.cone_beam(ct, SMALL, taller, ct.centre)[:, 8:-8]
    assert beyond[3].min() < 0.9 * np.median(picture) and beyond[-4].min() < 0.9 * np.median(picture)


def test_rays_of_a_frame_beside_the_centre_meet_the_front_nearest_to_it():
    """The front of a volume of 400 mm a side lies 800 mm from the source, the detector 1,500."""
    ct = Volume(np.zeros((40, 40, 40), np.int16), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0), {})
    geometry = DrrGeometry(sad_mm=1000, sid_mm=1500, detector_mm=(100, 100), detector_pixels=(10, 10))
    low, high = projectors.reach(ct, geometry, Frame(8, 8, 3.5, -20.0))  # pixels of 10 mm, the first at 200
    # 200 mm * 800 / 1500 = 106.7 mm: voxel 30.2 of 39, and one more is kept; the last ray leaves through the side.
    assert (low[2], high[2]) == (29, 40)


def test_a_patient_off_the_centre_stays_in_the_frame():
    hu = np.roll(HU, 8, axis=2)
    ct = volume(hu)
    frame = projectors.frame_of(ct, (body_of(ct).low, body_of(ct).high), SMALL)
    assert frame.centre_column < frame.columns / 2 - 5
    assert_is_ap(radiograph.to_picture(radiograph.line_integrals(ct, body_of(ct), SMALL, "parallel")))
    with pytest.raises(DataError, match="detector pixels"):
        projectors.frame_of(ct, (np.array([-700, 0, 3000.0]), np.array([-400, 100, 3300.0])), SMALL)


@pytest.mark.parametrize(
    "wrong",
    [{"sad_mm": 0}, {"sad_mm": 1800}, {"detector_mm": (0, 4)}, {"detector_pixels": (4, 4)}, {"frame": "none"}],
)
def test_geometry_refuses_nonsense(wrong):
    with pytest.raises(DataError, match=f"^(DrrGeometry: )?{next(iter(wrong))}"):
        DrrGeometry(**wrong)


# --- plastimatch --------------------------------------------------------------------------------------------------


@needs_plastimatch
def test_plastimatch_agrees_with_the_independent_projectors():
    """On a frame that is neither square nor centred, so that no exchange of rows and columns can pass."""
    ct = volume(np.roll(HU, 5, axis=2))
    body = body_of(ct)
    found = radiograph.line_integrals(ct, body, SMALL, "plastimatch")
    for name in ("cone", "parallel"):
        other = radiograph.line_integrals(ct, body, SMALL, name)
        assert other.shape == found.shape and other.shape[0] != other.shape[1]
        r = np.corrcoef(found.ravel(), other.ravel())[0, 1]
        wrong = [np.corrcoef(found.ravel(), view.ravel())[0, 1] for view in (other[::-1], other[:, ::-1])]
        assert r > 0.97 and r > max(wrong) + 0.02
    # Registered in scale: water is 0.022 / mm there and 0.02 / mm here.
    assert (found @ found.T).trace() / (found @ other.T).trace() == pytest.approx(
        plastimatch.MU_WATER / projectors.MU_WATER, rel=0.03
    )


@needs_plastimatch
def test_plastimatch_takes_a_tenth_and_air_below_800():
    hu = np.full((20, 20, 20), -1000, np.int16)
    hu[5:15, 5:15, 5:10] = 0
    hu[5:15, 5:15, 10:15] = -800
    box = Volume(hu, (10.0, 10.0, 10.0), (0.0, 0.0, 0.0), {})
    geometry = DrrGeometry(
        detector_mm=(100, 100), detector_pixels=(32, 32), sad_mm=1e6, sid_mm=1e6 + 1, frame="detector"
    )
    picture = plastimatch.drr(box, geometry, projectors.frame_of(box, None, geometry), box.centre)
    assert picture[16, 4] == pytest.approx(100 * plastimatch.MU_WATER, rel=1e-3) and picture[16, 28] == 0


@needs_plastimatch
def test_plastimatch_ignores_direction_cosines_which_is_why_we_do_not(tmp_path):
    path = tmp_path / "mirrored.nii.gz"
    image = sitk.DICOMOrient(as_image(HU), "RPI")  # x to the right, z to the feet
    sitk.WriteImage(image, str(path))
    pixels, row = radiograph.make_radiograph(path, SMALL)
    assert row["orientation"] == "RPI"
    assert_is_ap(pixels)

    ct = volumes.read_volume(path)
    frame = projectors.frame_of(ct, None, WHOLE)
    half = (np.array(HU.shape) - 1) / 2 * SPACING
    believed = np.array(image.GetOrigin())[::-1] + half  # where it takes the centre to be, axes growing as in LPS
    command = ["plastimatch", "drr", *plastimatch.arguments(WHOLE, frame, believed)]
    subprocess.run([*command, "-O", str(tmp_path / "bare"), "-I", str(path)], check=True, capture_output=True)
    bare = cv2.imread(str(tmp_path / "bare0000.pfm"), cv2.IMREAD_UNCHANGED)[::-1] * 10
    ours = plastimatch.drr(ct, WHOLE, frame, ct.centre)
    np.testing.assert_allclose(bare, ours[::-1, ::-1], atol=2e-3)
    assert np.abs(bare - ours).max() > 1


def test_without_plastimatch_one_sentence_says_how_to_get_it(chest, monkeypatch, tmp_path):
    monkeypatch.setattr(plastimatch.shutil, "which", lambda name: None)
    plastimatch.version.cache_clear()
    with pytest.raises(FileNotFoundError, match="apt-get install plastimatch"):
        radiograph.reconstruct([chest], tmp_path / "out")
    plastimatch.version.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo broken >&2; exit 3", "code 3: broken"),
        ("exit 0", "code 0"),
        ("sleep 30", "longer than"),
        ('while [ "$1" != -O ]; do shift; done; printf "Pf\\n2 1\\n-1\\nabc" > "$2"0000.pfm', "no whole picture"),
        ('while [ "$1" != -O ]; do shift; done; printf "Pf\\n2 1\\n-1\\nabcdabcd" > "$2"0000.pfm', "drew 1 x 2"),
    ],
)
def test_a_failing_plastimatch_is_a_row_and_is_tried_again(chest, tmp_path, monkeypatch, text, message):
    tool = tmp_path / "bin" / "plastimatch"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo plastimatch version 0; exit; fi\n{text}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(plastimatch, "TIMEOUT", 0.5)
    plastimatch.version.cache_clear()
    for _ in range(2):
        table = radiograph.reconstruct([chest], tmp_path / "out", SMALL)
        assert table["status"].tolist() == ["failed"] and message in table["message"][0]
    assert not list((tmp_path / "out").rglob("*.*"))
    plastimatch.version.cache_clear()


# --- the picture --------------------------------------------------------------------------------------------------


def test_picture_follows_the_recipe_of_mimic_cxr_jpg():
    values = np.random.default_rng(0).gamma(2.0, 1.5, (60, 80)).astype(np.float32)
    shifted = values - values.min()
    eight = (shifted / shifted.max() * 255).astype(np.uint8)
    np.testing.assert_array_equal(radiograph.to_picture(values), cv2.equalizeHist(eight))
    # Dense stays bright, and both ends are reached.
    order = np.argsort(values.ravel())
    assert (np.diff(radiograph.to_picture(values).ravel()[order].astype(int)) >= 0).all()
    assert radiograph.to_picture(values).min() == 0 and radiograph.to_picture(values).max() == 255
    absorbed = radiograph.to_picture(values, "absorption")
    assert (np.diff(absorbed.ravel()[order].astype(int)) >= 0).all()
    assert (absorbed != radiograph.to_picture(values)).any()
    with pytest.raises(DataError, match="response"):
        radiograph.to_picture(values, "film")
    with pytest.raises(VolumeError, match="same everywhere"):
        radiograph.to_picture(np.zeros((9, 9)))


def test_the_table_can_be_left_out(chest, tmp_path):
    bare = HU.copy()
    bare[:, 57:] = -1000  # behind the phantom's back lies only the table
    sitk.WriteImage(as_image(bare), str(tmp_path / "b.nii.gz"))
    kept, removed, none = (
        radiograph.make_radiograph(path, SMALL, "cone", remove_table=flag)[0]
        for path, flag in ((chest, False), (chest, True), (tmp_path / "b.nii.gz", False))
    )
    assert np.abs(removed.astype(int) - none).mean() < 1 < np.abs(kept.astype(int) - none).mean()
    bare[-1, 26:40, 4:92] = 40  # shoulders in the last slice alone belong to the body
    sitk.WriteImage(as_image(bare), str(tmp_path / "c.nii.gz"))
    kept, same = (
        radiograph.make_radiograph(tmp_path / "c.nii.gz", WHOLE, "parallel", remove_table=flag)[0]
        for flag in (False, True)
    )
    np.testing.assert_array_equal(kept, same)


def test_seconds_are_those_of_the_work(chest, tmp_path, monkeypatch):
    clock = SimpleNamespace(perf_counter=itertools.cycle([10.0, 12.5]).__next__)
    monkeypatch.setattr(radiograph, "time", clock)
    for name, status in (("made", "done"), ("fails", "failed")):
        table = radiograph.reconstruct([chest], tmp_path / name, SMALL, 1, "parallel")
        assert table[["status", "seconds"]].values.tolist() == [[status, 2.5]]
        monkeypatch.setattr(radiograph, "make_radiograph", lambda path, **options: 1 / 0)


# --- many volumes -------------------------------------------------------------------------------------------------


@pytest.fixture
def cases(tmp_path):
    """Five volumes: good, another orientation, a DICOM series, empty, lying on the side."""
    folder = tmp_path / "CTPA"
    folder.mkdir()
    sitk.WriteImage(as_image(HU), str(folder / "good.nii.gz"))
    sitk.WriteImage(sitk.DICOMOrient(as_image(HU), "RAS"), str(folder / "other.nii.gz"))
    write_series(folder / "series", as_image(HU))
    sitk.WriteImage(as_image(np.full_like(HU, -1000)), str(folder / "void.nii.gz"))
    side = np.ascontiguousarray(np.rot90(HU, 1, axes=(1, 2)))
    sitk.WriteImage(as_image(side), str(folder / "side.nii.gz"))
    return volumes.find_volumes(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_many_volumes(cases, tmp_path, workers):
    target = tmp_path / "radiographs"
    table = radiograph.reconstruct(cases, target, SMALL, workers, "parallel")
    assert table["image_id"].tolist() == ["good", "other", "series", "side", "void"]
    assert table["status"].tolist() == ["done", "done", "done", "done", "refused"]
    assert table["problems"].tolist() == ["", "", "", "decubitus", "empty"]
    assert set(table["spacing_mm"]) == {"4 x 4 x 5"}
    assert radiograph.failures(table)["image_id"].tolist() == ["void", "side"]
    pictures = {file.stem: cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in target.glob("*.jpg")}
    assert sorted(pictures) == ["good", "other", "series", "side"]
    assert pictures["good"].shape == radiograph.line_integrals(CT, BODY, SMALL, "parallel").shape
    for name in ("good", "other", "series"):
        assert pictures[name].ndim == 2 and pictures[name].shape == tuple(table.loc[0, ["rows", "columns"]])
        assert_is_ap(pictures[name])
        np.testing.assert_array_equal(pictures[name], pictures["good"])
    data = (target / "good.jpg").read_bytes()
    made = radiograph.make_radiograph(cases[0], SMALL, "parallel")[0]
    assert data == cv2.imencode(".jpg", made, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def test_a_second_call_makes_only_what_changed(cases, tmp_path, monkeypatch):
    target = tmp_path / "radiographs"
    first = radiograph.reconstruct(cases, target, SMALL, 1, "parallel")
    made = []
    real = radiograph.make_radiograph
    monkeypatch.setattr(radiograph, "make_radiograph", lambda path, **o: (made.append(path.name), real(path, **o))[1])
    again = radiograph.reconstruct(cases, target, SMALL, 1, "parallel")
    assert made == [] and again.equals(first)
    (target / "other.jpg").unlink()
    sitk.WriteImage(as_image(HU), str(cases[-1]))  # the empty one is mended
    os.utime(cases[2] / "slice003.dcm", ns=(1, 1))
    table = radiograph.reconstruct(cases, target, SMALL, 1, "parallel")
    assert sorted(made) == ["other.nii.gz", "series", "void.nii.gz"] and set(table["status"]) == {"done"}
    made.clear()
    radiograph.reconstruct(cases, target, DrrGeometry(detector_pixels=(64, 64)), 1, "parallel")
    assert len(made) == 5
    made.clear()
    geometry = DrrGeometry(detector_pixels=(64, 64))
    refused = radiograph.reconstruct(cases, target, geometry, 1, "parallel", refuse=["decubitus"])
    assert len(made) == 5 and refused["status"].tolist().count("refused") == 1
    assert not (target / "side.jpg").exists()  # a refused volume leaves no picture of another policy behind


def reconstruct_slowly(cases, target):
    real = radiograph.make_radiograph
    # The first is made at once; the others are still under way when this process is killed.
    radiograph.make_radiograph = lambda path, **options: (time.sleep(30 * (path != cases[0])), real(path, **options))[1]
    radiograph.reconstruct(cases, target, SMALL, 2, "parallel")


def test_continues_after_a_kill(cases, tmp_path):
    target = tmp_path / "radiographs"
    kill_when(lambda: len(list(target.glob("records/*.json"))) > 1, reconstruct_slowly, cases, target)
    kept = {file: file.stat().st_mtime_ns for file in target.glob("records/*.json") if file.stem != "identity"}
    assert 0 < len(kept) < len(cases)
    table = radiograph.reconstruct(cases, target, SMALL, 1, "parallel")
    assert table["status"].tolist() == ["done", "done", "done", "done", "refused"]
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in kept.items())


def test_requests_that_cannot_be_met(cases, tmp_path):
    with pytest.raises(DataError, match="volumes = "):
        radiograph.reconstruct([], tmp_path)
    with pytest.raises(FileNotFoundError, match="1 of 2 volumes do not exist"):
        radiograph.reconstruct([cases[0], tmp_path / "absent.nii"], tmp_path)
    shutil.copytree(cases[0].parent, tmp_path / "copy")
    with pytest.raises(DataError, match="Two volumes have the name 'good'"):
        radiograph.reconstruct([cases[0], tmp_path / "copy" / "good.nii.gz"], tmp_path)
    for wrong in ({"projector_name": "x"}, {"response": "x"}, {"refuse": ["empty"]}, {"workers": 0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            radiograph.reconstruct(cases, tmp_path, **wrong)
    with pytest.raises(DataError, match="projector_name = 'x'"):
        radiograph.line_integrals(CT, BODY, SMALL, "x")


@pytest.mark.shared
@needs_plastimatch
def test_the_real_ct_against_the_independent_projectors(shared_data):
    path = shared_data / "lung-pet-ct-dx" / "Lung_Dx-A0001.nii.gz"
    if not path.exists():
        pytest.skip("the CT of Lung-PET-CT-Dx is not in the folder of open data")
    ct = volumes.read_volume(path)
    geometry = DrrGeometry(detector_pixels=(256, 256))
    found = radiograph.line_integrals(ct, body_of(ct), geometry, "plastimatch")
    cone, parallel = (radiograph.line_integrals(ct, body_of(ct), geometry, name) for name in ("cone", "parallel"))
    assert np.corrcoef(found.ravel(), cone.ravel())[0, 1] > 0.99
    assert np.corrcoef(found.ravel(), parallel.ravel())[0, 1] > 0.97
    # The tumour lies in the left upper lobe: brighter than the same place on the right.
    picture = radiograph.to_picture(found)
    assert mean(picture, (0.16, 0.24), (0.62, 0.7)) > mean(picture, (0.16, 0.24), (0.33, 0.41)) + 10
