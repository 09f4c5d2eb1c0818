"""`make data-check`: what is here, whole and readable, one sentence a fault, and the exit code."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.mimic_size import write_tree
from pkd_utils.cohorts.inspect import studies
from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs import notebooks
from pkd_utils.runs.parameters import resolve
from tests.cohorts.fixtures import write_inspect
from workflow import data_check

IMAGES = 150


def job(notebook: str, **values) -> notebooks.Described:
    parameters = resolve(notebook, {}) | {"cohort": "mimic_cxr", "run": "paper"} | values
    return notebooks.Described(f"{notebook}.paper", Path(f"{notebook}.yml"), "", parameters)


def prepare(root: Path, **options) -> notebooks.Described:
    roots = dict.fromkeys(("reports_root", "mimic_iv_root", "ms_cxr_root"), str(root))
    return job("mmpkd/01-prepare-data", source="mimic_cxr", data_root=str(root), simulate_patients=0,
               options={**roots, "report_missing": "drop", **options})  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A simulated MIMIC-CXR-JPG with all that belongs to it."""
    return write_tree(tmp_path / "mimic", IMAGES)


def check(capsys, monkeypatch, *jobs: notebooks.Described, arguments=()) -> tuple[int, str]:
    """Exit code and words of the command on these runs."""
    monkeypatch.setattr(notebooks, "described", lambda profile, only: {str(n): one for n, one in enumerate(jobs)})
    code = data_check.main(["paper", *arguments])
    return code, " ".join(capsys.readouterr().out.split())


def replace(file: Path, content: bytes) -> None:
    """Other bytes, not into the file that all names of the tree are links to."""
    file.unlink()
    file.write_bytes(content)


def first_image(root: Path) -> Path:
    """An image that the loader takes: the first frontal one of the table."""
    table = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz")
    name = table.loc[table["ViewPosition"].isin(["AP", "PA"]), "dicom_id"].iloc[0]
    return next((root / "files").rglob(f"{name}.jpg"))


def test_whole_data_are_counted_and_nothing_of_a_patient_is_printed(root, capsys, monkeypatch):
    code, said = check(capsys, monkeypatch, prepare(root))
    found = re.search(r"good (\S+): (.*): (\d+) images, (\d+) rows of privileged information; (\d+) sampled\.", said)
    assert code == 0 and found and found[1] == str(root) and found[3] == found[5]
    table = pd.read_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    assert int(found[3]) == table["ViewPosition"].isin(["AP", "PA"]).sum()
    for name in ("dicom_id", "subject_id", "study_id"):
        assert not [value for value in table[name] if value in said]
    assert said.endswith("1 of 1 runs can be made")


def test_a_release_of_which_rows_are_missing_is_told_by_its_count(root, capsys, monkeypatch):
    (root / "SIMULATED.txt").unlink()  # as the real one would be counted
    code, said = check(capsys, monkeypatch, prepare(root))
    assert code == 0 and f"part {root}: MIMIC-CXR-JPG" in said
    assert f"sampled. Less than the release: images with metadata, {IMAGES} of 377,110; runs take what is here." in said


@pytest.mark.parametrize("empty", [False, True])
def test_a_half_downloaded_release_is_told_by_its_files(root, empty, capsys, monkeypatch):
    file = first_image(root)
    file.unlink()
    if empty:
        file.touch()
    code, said = check(capsys, monkeypatch, prepare(root))
    assert code == 1 and "1 of 1 places are broken" in said
    assert re.search(rf"BROKEN {root}: 1 of \d+ images that its tables list are not there or empty, "
                     rf"first {file.relative_to(root)}\. Fetch the rest\.", said)  # fmt: skip


def test_a_truncated_picture_is_told(root, capsys, monkeypatch):
    file = first_image(root)
    replace(file, file.read_bytes()[:-4])
    code, said = check(capsys, monkeypatch, prepare(root))
    assert code == 1
    sentence = f"{file.relative_to(root)} is cut short; fetch the file again."
    assert re.search(rf"BROKEN {root}: 1 of \d+ files that were looked at cannot be read: {sentence}", said)


def test_only_all_decodes_what_is_damaged_in_the_middle(root, capsys, monkeypatch):
    file = first_image(root)
    Image.effect_noise((64, 64), 80).save(file.with_name("noise.png"))
    content = bytearray(file.with_name("noise.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    replace(file, bytes(content))
    assert check(capsys, monkeypatch, prepare(root))[0] == 0
    code, said = check(capsys, monkeypatch, prepare(root), arguments=["--all"])
    assert code == 1 and f"cannot be read: {file.relative_to(root)} cannot be read as an image" in said


def test_a_missing_root_leaves_runs_out_and_a_missing_table_is_broken(root, tmp_path, capsys, monkeypatch):
    away = prepare(tmp_path / "nothing")
    code, said = check(capsys, monkeypatch, prepare(root), away)
    assert code == 0 and f"missing {tmp_path}/nothing: is not here; runs left out: 1, first {away.name}." in said
    assert "1 of 2 runs can be made" in said
    assert check(capsys, monkeypatch, away)[0] == 1  # nothing can be made
    (root / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    code, said = check(capsys, monkeypatch, prepare(root))
    assert code == 1 and f"BROKEN {root}:" in said and "mimic-cxr-2.0.0-split.csv.gz is missing; get it from" in said


def test_a_root_of_several_that_is_missing_is_named(root, tmp_path, capsys, monkeypatch):
    boxes = str(tmp_path / "ms-cxr")
    _, said = check(capsys, monkeypatch, prepare(root, ms_cxr_root=boxes))
    assert f"missing {root}: is here, but is read together with {boxes}." in said


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
WEIGHTS = [
    ("a.safetensors", LFS, "it is a git-lfs pointer: run `git lfs pull` there"),
    ("a.pth", b"<!DOCTYPE html><title>Sign in</title>", "it is a web page"),
    ("a.pt", b"", "it is empty: download it again"),
    ("a.h5", b"\x89HDF", "it is no weight file: its name should end in"),
    ("a.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "it cannot be read as safetensors"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), WEIGHTS)
def test_weights_that_are_none_are_told(name, content, sentence, tmp_path, capsys, monkeypatch):
    file = tmp_path / name
    file.write_bytes(content)
    one = job("mmpkd/03-distil-student", student_weights=str(file))
    code, said = check(capsys, monkeypatch, one)
    assert code == 1 and f"BROKEN {file}: {sentence}" in said


def test_all_loads_weights_into_their_network(tmp_path, capsys, monkeypatch):
    file = tmp_path / "c2l.safetensors"
    save_file({"of_another_network": torch.zeros(2)}, file)
    one = job("reports/02-encode", image_encoder="c2l", image_weights=str(file), text_encoder="", text_weights="")
    code, said = check(capsys, monkeypatch, one)
    assert code == 0 and f"good {file}: {IMAGE_ENCODERS['c2l'].title}, 1 tensors." in said
    code, said = check(capsys, monkeypatch, one, arguments=["--all"])
    assert code == 1 and f"BROKEN {file}:" in said


def test_a_profile_that_is_not_there_is_one_sentence():
    with pytest.raises(SystemExit, match=r"^There is no profile 'papers'"):
        data_check.main(["papers"])


def test_a_release_of_which_volumes_are_missing_is_broken(tmp_path, capsys, monkeypatch):
    exams = write_inspect(tmp_path / "inspect")
    for volume in (exams / "CTPA").iterdir():
        volume.write_bytes(b"no volume")
    one = job("reports/00-reconstruct-radiographs", data_root=str(exams), volumes="CTPA", cohort="inspect")
    two = job("reports/01-prepare-tasks", source="inspect", data_root=str(exams), simulate_patients=0, options={},
              radiographs_run="reports/inspect/00-reconstruct-radiographs/paper", cohort="inspect")  # fmt: skip
    monkeypatch.setattr(studies, "RELEASED", dict.fromkeys(studies.RELEASED, 2))
    monkeypatch.setattr(data_check.volumes, "check_whole", lambda path: None)
    code, said = check(capsys, monkeypatch, one, two)
    assert code == 0, said
    monkeypatch.setattr(studies, "RELEASED", dict.fromkeys(studies.RELEASED, 2) | {"volumes": 200})
    code, said = check(capsys, monkeypatch, one, two)
    assert code == 1 and re.search(rf"BROKEN {exams}: CT volume there: \d+ of the release's 200\. Fetch the rest", said)
