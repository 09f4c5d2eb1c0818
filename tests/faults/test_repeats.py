"""One picture under two patients: found by content, or by its looks if it was coded, sized or lit anew."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pkd_utils.cohorts import load_cohort
from pkd_utils.cohorts.repeats import repeated_pictures
from pkd_utils.images.decode import open_grey, read_image
from pkd_utils.runs.errors import DataError
from tests.cohorts.fixtures import write_covid_chestxray


def coded_anew(picture):
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=50)
    return Image.open(content).convert("L")


CHANGES = {
    "not at all": lambda picture: picture,
    "JPEG": coded_anew,
    "half the size": lambda picture: picture.resize((128, 128)),
    "brighter": lambda picture: picture.point(lambda value: min(255, int(1.05 * value + 5))),
}


@pytest.fixture
def cohort(tmp_path):
    """Images of random clouds; those of the first two patients are film-0 to film-3, two each."""
    whole = load_cohort("covid_chestxray", write_covid_chestxray(tmp_path), boxes=False)
    for seed, path in enumerate(whole.images["path"]):
        noise = np.random.default_rng(seed).integers(0, 256, (256, 256), dtype=np.uint8)
        cloud = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(24)), dtype=float)
        cloud = 255 * (cloud - cloud.min()) / np.ptp(cloud)
        Image.fromarray(cloud.astype(np.uint8)).save(tmp_path / path)
    return whole


def packed(cohort):
    return np.stack([read_image(cohort.root / path, 64)[0] for path in cohort.images["path"]])


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("film", [1, 2])
def test_a_picture_of_another_patient_is_found_in_every_coding(cohort, change, film):
    first = cohort.root / "images" / "film-0.png"
    CHANGES[change](open_grey(first)).save(cohort.root / "images" / f"film-{film}.png")
    pairs, out = repeated_pictures(cohort, packed(cohort), "leave_out")
    if film == 1:  # of the same patient, who is on one side of a split anyway
        assert pairs.empty and not out
        return
    assert pairs.to_numpy().tolist() == [["film-0.png", "film-2.png"]] and out == ["film-0.png", "film-2.png"]
    said = r"images 'film-0.png' and 'film-2.png' of two patients are one picture \(1 such"
    with pytest.raises(DataError, match=said):
        repeated_pictures(cohort, packed(cohort))
    assert repeated_pictures(cohort, packed(cohort), "keep")[1] == []


def test_other_pictures_and_even_ones_are_none(cohort):
    pixels = packed(cohort)
    pixels[[0, 4, 6]] = 0  # unreadable ones are packed black
    assert repeated_pictures(cohort, pixels)[0].empty


def test_bars_beside_pictures_make_no_two_of_them_one(cohort):
    pixels = np.full((len(cohort.images), 64, 64), 90, dtype=np.uint8)
    pixels += np.random.default_rng(0).integers(0, 3, pixels.shape, dtype=np.uint8)  # hardly anything is to be seen
    pixels[:, :, :8] = pixels[:, :, 56:] = 0
    assert repeated_pictures(cohort, pixels)[0].empty
    pixels[4] = pixels[0]
    assert len(repeated_pictures(cohort, pixels, "keep")[0]) == 1


def test_equal_files_are_found_by_content(cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))  # where the index of hashes lies
    images = cohort.root / "images"
    assert repeated_pictures(cohort)[0].empty
    shutil.copy(images / "film-0.png", images / "film-1.png")
    assert repeated_pictures(cohort)[0].empty
    for name in ("film-2.png", "film-3.png", "film-8.png"):
        shutil.copy(images / "film-0.png", images / name)
    pairs, out = repeated_pictures(cohort, policy="leave_out")
    assert len(pairs) == 4 + 2 + 2  # two patients with two films each, one with one
    assert out == ["film-0.png", "film-1.png", "film-2.png", "film-3.png", "film-8.png"]


def test_a_source_without_pictures_has_none(cohort):
    assert repeated_pictures(replace(cohort, images=cohort.images.assign(path=np.nan)))[0].empty
