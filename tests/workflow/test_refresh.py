"""`make notebooks NAMES=...` runs what the named ones read, too, and writes back the named ones alone."""

import importlib

import pytest

from pkd_utils.runs import files, paths

ROOT = paths.PROJECT_ROOT


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "workflow"))
    refresh = importlib.import_module("refresh_notebooks")
    monkeypatch.setattr(refresh, "SMOKE_RUNS", tmp_path)
    return lambda *names: {path.stem: kept for path, kept in refresh.chosen(names).items()}


def test_what_a_named_notebook_reads_is_run_first_unless_it_has_been(chosen, tmp_path):
    assert chosen("02-train-teacher") == {"01-prepare-data": False, "02-train-teacher": True}
    assert list(chosen("08-score-all-maps").values()) == [False, False, False, True]
    (tmp_path / "mmpkd/embedded/01-prepare-data/smoke").mkdir(parents=True)
    files.write_json(tmp_path / "mmpkd/embedded/01-prepare-data/smoke/run.json", {})
    assert chosen("02-train-teacher") == {"02-train-teacher": True}


def test_a_name_that_no_notebook_has_is_one_sentence(chosen):
    with pytest.raises(SystemExit, match="No notebook is named like 02-trian; notebooks/README"):
        chosen("02-trian")
