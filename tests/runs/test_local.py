"""`params/local.yml`: where the data of a site are, and what its machine has."""

import os
import re

import pytest
import yaml

from pkd_utils.runs import local, parameters, paths
from pkd_utils.runs.errors import DataError


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write the user's file."""
    file = tmp_path / "local.yml"
    monkeypatch.setenv("PKD_LOCAL", str(file))

    def write(text: str) -> None:
        file.write_text(text)
        os.utime(file, ns=(0, hash(text) % 10**9))  # read anew, whatever the clock's steps

    return write


def test_tests_do_not_read_the_users_copy():
    assert os.environ["PKD_LOCAL"] == os.devnull and local.read() == local.Local()


def test_roots_move_single_data_sets_and_the_rest_follows_pkd_data(mine, tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "inputs"))
    mine(f"roots:\n  data/mimic-cxr: {tmp_path}/cxr\n  data/models/rad-dino: ~/rad\n")
    assert paths.resolve("data/mimic-cxr/files/p10") == tmp_path / "cxr/files/p10"
    assert paths.resolve("data/mimic-cxr") == tmp_path / "cxr"
    assert paths.resolve("data/mimic-cxr-jpg/files") == tmp_path / "inputs/mimic-cxr-jpg/files"
    assert paths.resolve("data/models/rad-dino") == paths.Path("~/rad").expanduser()
    assert paths.resolve("/else/data/mimic-cxr") == paths.Path("/else/data/mimic-cxr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("devise: cuda", "local.yml: there is no key devise; did you mean device"),
        ("cluster: {acount: x}", "local.yml: cluster there is no key acount; did you mean account"),
        ("workers: many", "local.yml: workers = 'many': input should be a valid integer"),
        ("workers: -1", "local.yml: workers = -1"),
        ("memory_gib: 0", "local.yml: memory_gib = 0"),
        ("roots: {mimic: /x}", "mimic: /x must be data/<name>: <absolute folder>"),
        ("roots: {data/mimic: x}", "data/mimic: x must be data/<name>: <absolute folder>"),
        ("device: cuda\ndevice: cpu", "local.yml, line 2: the key device stands twice"),
        ("- device", "local.yml: it = "),
    ],
)
def test_what_is_wrong_in_it_is_one_sentence(mine, text, message):
    mine(text)
    with pytest.raises(DataError) as refused:
        paths.resolve("data/x")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_named_and_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PKD_LOCAL", str(tmp_path / "absent.yml"))
    with pytest.raises(FileNotFoundError, match=r"absent\.yml"):
        local.read()


def test_no_workers_mean_one_a_core_in_every_notebook_that_takes_them():
    used = {}
    for file in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb"):
        code = "\n".join(cell["source"] for cell in parameters.code_cells(file))
        used[file.stem] = re.findall(r"P\.workers\b(?: or )?(?:machine\.)?(.{7}|)", code)
    assert sum(map(len, used.values())) >= 6
    assert {after for found in used.values() for after in found} == {"cores()"}, used


def test_the_example_lists_every_key_with_its_default():
    text = (paths.PROJECT_ROOT / "params" / "local.example.yml").read_text()
    keys = yaml.safe_load(re.sub(r"^#(?=( {2}[\w/-]+|\w+):)", "", text, flags=re.M))
    example = local.Local(**keys)
    assert set(keys) == set(local.Local.model_fields) and example.cluster == local.Local().cluster
    assert set(keys["cluster"]) == set(local.Cluster.model_fields)
    defaults: dict[str, set] = {}
    for file in (paths.PROJECT_ROOT / "notebooks").glob("*/*.ipynb"):
        for name, declared in parameters.declared(f"{file.parent.name}/{file.stem}").items():
            defaults.setdefault(name, set()).add(repr(declared.default))
    assert set(example.machine) == parameters.MACHINE
    for name, value in example.machine.items():
        assert repr(value) in defaults[name] and (len(defaults[name]) == 1 or name == "workers"), name
