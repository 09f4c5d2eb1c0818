"""Adding a source as CONTRIBUTING.md says: one file (`example_source.py`) and one line in `SOURCES`."""

from pathlib import Path

import pandas as pd
import pytest

from pkd_utils.cohorts import SOURCES, Source, load_cohort
from pkd_utils.runs.errors import DataError
from tests.cohorts import example_source
from tests.cohorts.fixtures import write_image

ROWS = [("a", "p1", "training", "yes", 3.5), ("b", "p1", "training", "", 2), ("c", "p2", "validation", "no", 4)]
ROWS += [("d", "p3", "test", "yes", 1), ("e", "p4", "test", "no", 9)]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "ultrasound", Source("tests.cohorts.example_source:load", ("*.csv", "*.png")))
    columns = ["image_id", "patient", "set", "cyst", "depth"]
    pd.DataFrame(ROWS, columns=columns).to_csv(tmp_path / "table.csv", index=False)
    for name in "abcd":
        write_image(tmp_path / f"{name}.png")
    return tmp_path


def test_the_example_is_a_checked_cohort(root):
    cohort = load_cohort("ultrasound", root)
    assert cohort.images["image_id"].tolist() == ["a", "b", "c", "d"] and cohort.has_images
    assert cohort.images["split"].tolist() == ["train", "train", "validate", "test"]
    assert cohort.images["cyst"].isna().tolist() == [False, True, False, False]
    assert load_cohort("ultrasound", root, unclear="negative").images["cyst"].tolist() == [1, 0, 0, 1]
    assert cohort.privileged["depth"].tolist() == [3.5, 2, 4, 1] and cohort.funnel["rows"].tolist() == [5, 4]
    assert cohort.image_size("a") == (40, 32) and len(cohort.data_hash()) == 64


def test_what_it_gets_for_nothing(root):
    with pytest.raises(DataError, match=r"^ultrasound: unclear = 'positive': input should be 'unknown' or 'negative'"):
        load_cohort("ultrasound", root, unclear="positive")
    with pytest.raises(DataError, match=r"^ultrasound has no option 'unclaer'; it has unclear\.$"):
        load_cohort("ultrasound", root, unclaer="negative")
    (root / "c.png").unlink()
    with pytest.raises(DataError, match=r"^ultrasound: no image is in split validate; "):
        load_cohort("ultrasound", root)
    (root / "table.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"table\.csv is missing; get it from https://example\.org"):
        load_cohort("ultrasound", root)


def test_it_is_short_enough_to_read():
    assert len(Path(example_source.__file__).read_text().splitlines()) <= 40
