"""Simulated CBIS-DDSM tables are read by the ordinary loader and have the real tables' peculiarities."""

import pandas as pd
import pytest

from pkd_utils.cohorts import load_cohort
from pkd_utils.demo.cbis_tables import write_cbis_tables


@pytest.mark.parametrize("kind", ["mass", "calc"])
def test_ordinary_loader_reads_them(tmp_path, kind):
    cohort = load_cohort(f"cbis_{kind}", write_cbis_tables(tmp_path, patients=40, seed=1))
    assert cohort.images["split"].value_counts().index.tolist() == ["train", "test"]
    assert cohort.images["patient_id"].nunique() == 50
    assert len(cohort.images) > cohort.images["patient_id"].nunique()  # two views of one lesion
    assert set(cohort.images["pathology"]) == {"MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK"}
    assert any(column.endswith("=missing") for column in cohort.privileged.columns)
    assert "SIMULATED" in (tmp_path / "SIMULATED.txt").read_text()


def test_same_seed_same_bytes(tmp_path):
    one, two, other = (write_cbis_tables(tmp_path / name, 20, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    files = sorted(path.name for path in one.glob("*.csv"))
    assert len(files) == 4
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert any((one / name).read_bytes() != (other / name).read_bytes() for name in files)
    cells = pd.concat([pd.read_csv(one / name) for name in files if name.startswith("mass")])
    assert cells["mass shape"].str.contains("-").any() and cells["mass margins"].isna().any()


@pytest.mark.shared
def test_columns_are_those_of_the_real_tables(shared_data, tmp_path):
    write_cbis_tables(tmp_path, 10)
    for path in tmp_path.glob("*.csv"):
        real = pd.read_csv(shared_data / "cbis-ddsm" / path.name, nrows=1)
        assert list(pd.read_csv(path).columns) == list(real.columns)
