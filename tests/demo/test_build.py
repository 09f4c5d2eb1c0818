"""The builder of the embedded cohorts: the same bytes, resumed, whole or not at all, and nothing foreign touched."""

import gzip
import json
import os
import shutil
import signal
import sys

import pandas as pd
import pytest

from pkd_utils import demo
from pkd_utils.demo import build
from pkd_utils.runs import identity
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import write_json
from tests.demo.conftest import SMALL

KINDS = list(demo.KINDS)
PICTURES = {"chest": "files/p*/p*/s*/*.jpg", "breast": "CBIS-DDSM/*/*/*/*.dcm", "ct": "CTPA/*.nii.gz"}
TRUTH = {"chest": "truth.csv.gz", "breast": "truth.csv", "ct": "truth.csv.gz"}
FOLDER = {"chest": "files/", "breast": "CBIS-DDSM/", "ct": "CTPA/"}


def ensure(kind, root, workers=1, **changes):
    return build.ensure(demo.cohort_class(kind)(**SMALL[kind] | changes), root, workers)


def only(folder):
    return [p.name for p in folder.iterdir()]


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_write_the_same_bytes(small, same_bytes, kind, tmp_path):
    assert same_bytes(small(kind), ensure(kind, tmp_path / "two", workers=2))


@pytest.mark.skipif(sys.platform != "linux", reason="workers inherit the planted fault by fork")
def test_a_worker_that_is_killed_ends_the_build_in_one_sentence_and_the_rest_follows(
    small, same_bytes, tmp_path, monkeypatch
):
    recipe, root = demo.cohort_class("chest"), tmp_path / "cohort"
    render = recipe.render

    def killed(self, patient, folder):
        if patient == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return render(self, patient, folder)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "render", killed)
        with pytest.raises(RuntimeError, match=r"ended from outside.*continues where it was"):
            ensure("chest", root, workers=2)
    assert not root.exists()
    assert same_bytes(small("chest"), ensure("chest", root, workers=2))


@pytest.mark.parametrize("kind", KINDS)
def test_ensure_builds_once_keeps_what_was_made_of_it_and_verify_names_what_changed(small, kind, tmp_path):
    copy = shutil.copytree(small(kind), tmp_path / "copy")
    before = (copy / "cohort.json").stat().st_mtime_ns
    (copy / "radiographs").mkdir()
    (copy / "radiographs" / "made.jpg").write_bytes(b"later")
    assert ensure(kind, copy) == copy and (copy / "cohort.json").stat().st_mtime_ns == before
    assert demo.verify(copy) == []  # what was made of the cohort is no part of it
    picture = next(copy.glob(PICTURES[kind]))
    picture.write_bytes(picture.read_bytes()[:-1] + b"x")
    (copy / TRUTH[kind]).unlink()
    assert demo.verify(copy) == [FOLDER[kind], TRUTH[kind]]
    with pytest.raises(DataError, match=f"copy is not as it was written \\({FOLDER[kind]} was changed\\)"):
        ensure(kind, copy)
    assert only(tmp_path) == ["copy"], "no lock is left"
    with pytest.raises(FileNotFoundError, match=r"cohort\.json is missing"):
        demo.verify(tmp_path)
    (copy / "cohort.json").write_text("{")
    with pytest.raises(DataError, match="not readable JSON: delete the folder"):
        demo.verify(copy)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_says_simulated(small, kind):
    root = small(kind)
    assert "SIMULATED" in (root / "SIMULATED.txt").read_text()
    assert json.loads((root / "cohort.json").read_text())["simulated"] is True
    assert pd.read_csv(root / TRUTH[kind])["simulated"].all()
    for file in root.glob(PICTURES[kind]):
        data = file.read_bytes()
        assert b"SIMULATED" in (gzip.decompress(data) if kind == "ct" else data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_build_continues_to_the_same_bytes(small, same_bytes, kind, tmp_path, monkeypatch):
    root, cohort, made, again = tmp_path / "killed", demo.cohort_class(kind), [], []
    expected, real = small(kind), cohort.render

    def dies(self, i, folder):
        if len(made) == 3:
            # A patient half written: a file of it is broken, and no part calls it whole.
            before = set(folder.glob(PICTURES[kind]))
            real(self, i, folder)
            next(p for p in folder.glob(PICTURES[kind]) if p not in before).write_bytes(b"half a pic")
            raise KeyboardInterrupt
        made.append(i)
        return real(self, i, folder)

    monkeypatch.setattr(cohort, "render", dies)
    with pytest.raises(KeyboardInterrupt):
        ensure(kind, root)
    assert not root.exists()
    assert (tmp_path / "killed.partial" / "SIMULATED.txt").read_text().startswith("SIMULATED DATA")
    monkeypatch.setattr(cohort, "render", lambda self, i, folder: (again.append(i), real(self, i, folder))[1])
    ensure(kind, root)
    assert made == [0, 1, 2] and again and not set(again) & set(made)
    assert same_bytes(expected, root) and only(tmp_path) == ["killed"]


def test_parts_of_another_cohort_are_thrown_away(small, same_bytes, tmp_path, monkeypatch):
    small("breast")
    with monkeypatch.context() as patched:
        patched.setattr(demo.cohort_class("breast"), "tables", lambda self, root, parts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ensure("breast", tmp_path / "c", seed=4)
    assert len(list((tmp_path / "c.partial" / "parts").glob("[0-9]*.json"))) > 8
    assert same_bytes(small("breast"), ensure("breast", tmp_path / "c"))


def test_killed_just_before_the_renames(small, same_bytes, tmp_path):
    """Complete in the partial folder, the old cohort moved away or not: one more call ends in the right place."""
    shutil.copytree(small("chest"), tmp_path / "c.partial")
    write_json(tmp_path / "c.partial" / "parts" / "0.json", {})
    (tmp_path / "c.old").mkdir()
    (tmp_path / "c.old" / "SIMULATED.txt").write_text("old")
    assert same_bytes(small("chest"), ensure("chest", tmp_path / "c")) and only(tmp_path) == ["c"]


@pytest.mark.parametrize("kind", KINDS)
def test_other_parameters_replace_a_simulated_cohort(small, kind, tmp_path):
    size = {demo.cohort_class(kind).size: 1} | ({"calc_cases": 1} if kind == "breast" else {})
    small(kind)
    first, found = (
        json.loads((ensure(kind, tmp_path / "c", **size, noise=noise) / "cohort.json").read_text()) for noise in (1, 5)
    )
    assert first["simulated"] and found["parameters"]["noise"] == 5.0 and found["sha256"] != first["sha256"]
    assert demo.verify(tmp_path / "c") == []


@pytest.mark.parametrize("where", ["", ".partial", ".old"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_simulated_is_never_touched(small, kind, tmp_path, where):
    small(kind)
    foreign = tmp_path / f"real{where}"
    foreign.mkdir()
    (foreign / "metadata.csv").write_bytes(b"real")
    with pytest.raises(DataError, match="not a simulated cohort"):
        ensure(kind, tmp_path / "real")
    assert (foreign / "metadata.csv").read_bytes() == b"real"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("mimic_cxr", {"size": 0}, "ChestCohort: patients = 0: input should be greater than or equal to 1"),
        ("mimic_cxr", {"seed": -1}, "ChestCohort: seed = -1"),
        ("mimic_cxr", {"informativeness": 1}, "ChestCohort: informativeness = 1: unexpected keyword"),
        ("mimic_cxr", {"noise": float("nan")}, "ChestCohort: noise = nan"),
        ("cbis_mass", {"size": 831}, "BreastCohort: mass_rows = 831: input should be less than or equal to 830"),
        ("cbis_calc", {"calc_cases": -1}, "BreastCohort: calc_cases = -1"),
        ("cbis_calc", {"image_height": 8}, "BreastCohort: image_height = 8"),
        ("inspect", {"voxel": 1.0}, r"CTCohort: voxel = 1\.0: input should be greater than or equal to 2\.5"),
        ("inspect", {"release": "2024"}, "CTCohort: release = '2024': input should be '2025' or '2023'"),
        ("openi", {}, "no embedded cohort for the source 'openi': set simulate_patients to 0"),
    ],
)
def test_bad_parameters(tmp_path, source, options, message):
    with pytest.raises(DataError, match=message):
        demo.ensure_source(source, tmp_path / "c", **{"size": 1} | options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_command_line(small, kind, capsys):
    root = small(kind)
    options = [word for name, value in SMALL[kind].items() for word in (f"--{name.replace('_', '-')}", str(value))]
    demo.main(["demo", kind, "--root", str(root), *options])
    said = capsys.readouterr().out
    assert f"Simulated cohort in {root}" in said and "patients" in said
    with pytest.raises(SystemExit):
        demo.main(["demo", "abdomen"])
    assert "invalid choice: 'abdomen'" in capsys.readouterr().err


def test_code_that_decides_the_bytes(monkeypatch):
    """A cohort is rebuilt when its own code changes, not when another's does; a notebook's run when any does."""
    monkeypatch.setattr(identity, "hash_modules", list)
    assert {name.split(".")[2] for name in build.code_sha256("pkd_utils.demo.breast.cohort")} == {"breast"}
    assert {name.split(".")[2] for name in build.code_sha256("pkd_utils.demo.ct.cohort")} == {"chest", "ct"}
    used = identity.modules_used("from pkd_utils import demo")
    assert {f"pkd_utils.demo.{name}" for name in ("chest.film", "breast.lesions", "ct.volumes")} <= set(used)
