"""Parameters are refused by name and by type, before anything runs."""

import pytest

from pkd_utils.runs import identity, parameters
from pkd_utils.runs.errors import DataError
from tests.runs.conftest import make_notebook


def test_defaults_and_given_values(project):
    values = parameters.resolve("toy/01-do-things", {"epochs": 5, "weight": 1})
    assert values["epochs"] == 5 and values["run"] == "smoke" and next(iter(values)) == "cohort"
    assert values["weight"] == 1.0 and isinstance(values["weight"], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 5}, "Unknown parameter epoch for toy/01-do-things; did you mean epochs?"),
        ({"E_pochs": 5}, "did you mean epochs?"),
        ({"zzz": 5}, "Unknown parameter zzz for toy/01-do-things; it knows: cohort, epochs"),
        ({"run": "a/b"}, "Parameter run of toy/01-do-things: 'a/b' is to name a folder"),
        ({"run": ".."}, "is to name a folder"),
        ({"run": "a..b"}, "is to name a folder"),
        ({"run": ""}, "is to name a folder"),
        ({"cohort": "../x"}, "is to name a folder"),
        ({"seeds": [0, 0]}, "Parameter seeds of toy/01-do-things: 0 stands twice"),
        ({"prepared_run": "toy/../01/x"}, "Parameter prepared_run of toy/01-do-things: 'toy/../01/x' is to name a run"),
        ({"prepared_run": "smoke"}, "study/cohort/step/label"),
        ({"run": 12}, "Parameter run of toy/01-do-things must be str, got int 12"),
        ({"epochs": 2.5}, "Parameter epochs"),
        ({"epochs": True}, "Parameter epochs"),
        ({"seeds": (0, 1)}, r"Parameter seeds of toy/01-do-things must be list\[int\], got tuple"),
        ({"seeds": ["0"]}, "Parameter seeds"),
        ({"weight": "0.5"}, "Parameter weight"),
    ],
)
def test_wrong_values_stop_with_one_sentence(project, values, message):
    with pytest.raises(DataError, match=message):
        parameters.resolve("toy/01-do-things", values)


def test_check_takes_the_namespace_and_refuses_what_papermill_injected_in_vain(project):
    namespace = {"In": ["", "epochs: int = 2", "# Parameters\nepochs = 7\n"], "epochs": 7, "table": object()}
    assert parameters.check("toy/01-do-things", namespace).epochs == 7
    namespace["In"].append("# Parameters\nepochs = 7\nepoch = 7\n")
    with pytest.raises(DataError, match="Unknown parameter epoch"):
        parameters.check("toy/01-do-things", namespace)
    namespace["In"].append("# Parameters\nbase = {}\neach = {}\n")
    with pytest.raises(DataError, match=r"describes several runs: .* show FILE NAME"):
        parameters.check("toy/01-do-things", namespace)


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("seeds = '[0, 1]'", r"got str '\[0, 1\]' .* write -y 'seeds: \[0, 1\]'"),
        ("seeds = '3, 4'", r"write -y 'seeds: \[3, 4\]'"),
        ("seeds = 'many'", r"got str 'many' \(Input should be a valid list\)\.$"),
        ("run = 12", r"turns 0012 into 12: write a text as it is, -y 'run: \"12\"'"),
        ("data_root = 'here'", r"there is no .*/here\. A relative path is read .* what you mean is .*/caller/here"),
    ],
)
def test_papermills_command_line_is_told_what_to_write(project, tmp_path, monkeypatch, injected, message):
    cell = 'run: str = "a"\nseeds: list[int] = [0]\ndata_root: str = ""'
    make_notebook(project, "toy/03-given", [], parameters=cell)
    (tmp_path / "caller" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "caller")
    namespace = {"run": "a", "seeds": [0], "data_root": "", "In": [cell, f"# Parameters\n{injected}\n"]}
    exec(injected, namespace)
    with pytest.raises(DataError, match=message):
        parameters.check("toy/03-given", namespace)
    (tmp_path / "here").mkdir()
    if "here" in injected:
        assert parameters.check("toy/03-given", namespace).data_root == "here"


@pytest.mark.parametrize("cell", ["epochs = 2", "epochs: int", "import os"])
def test_a_parameters_cell_holds_only_typed_literals(project, cell):
    make_notebook(project, "toy/03-wrong", [], parameters=cell)
    with pytest.raises(DataError, match="is not `name: type = value`"):
        parameters.declared("toy/03-wrong")


def test_unknown_notebook(project):
    with pytest.raises(FileNotFoundError, match=r"notebooks/toy/09-none.ipynb"):
        parameters.declared("toy/09-none")


def test_what_belongs_to_the_machine_is_no_part_of_an_identity():
    values = {"epochs": 3, "batch_size": 8, "device": "cuda", "memory_gib": 4.0, "encode_batch_size": 64, "workers": 2}
    told = identity.run_hash("toy/01-do-things", values, "code", {}, {})
    assert parameters.identifying(values) == {"epochs": 3, "batch_size": 8}
    assert told == identity.run_hash("toy/01-do-things", values | {"device": "cpu", "workers": 9}, "code", {}, {})
    assert told != identity.run_hash("toy/01-do-things", values | {"batch_size": 9}, "code", {}, {})


def test_a_list_may_be_empty_where_its_comment_says_what_that_means_and_repeat_where_its_default_does(project):
    cell = "a: list[int] = [1]  # seeds; []: all\nb: list[str] = []  # notes\nc: list[int] = [5, 5]  # height, width"
    make_notebook(project, "toy/03-lists", [], parameters=cell)
    assert parameters.resolve("toy/03-lists", {"a": [], "c": [7, 7]}) == {"a": [], "b": [], "c": [7, 7]}
    with pytest.raises(DataError, match="c of toy/03-lists: the list is empty"):
        parameters.resolve("toy/03-lists", {"c": []})
    cell = "a: list[int] = [1]  # lambda, []: b_run's; not stated\nb_run: str = ''  # grid"
    make_notebook(project, "toy/03-lists", [], parameters=cell)
    assert parameters.resolve("toy/03-lists", {"a": [], "b_run": "x/y/z/w"})["a"] == []
    with pytest.raises(DataError, match="a of toy/03-lists: the list is empty"):
        parameters.resolve("toy/03-lists", {"a": []})


def test_a_notebook_run_by_hand_takes_the_machines_parameters_from_the_users_file(project, monkeypatch):
    cell = 'device: str = "cpu"  # machine\nworkers: int = 1  # machine\nepochs: int = 2  # passes'
    make_notebook(project, "toy/03-work", [], parameters=cell)
    namespace = {"In": [cell], "device": "cpu", "workers": 1, "epochs": 2}
    assert vars(parameters.check("toy/03-work", namespace)) == {"device": "cpu", "workers": 1, "epochs": 2}
    (project / "mine.yml").write_text("device: cuda\nworkers: 8\nmemory_gib: 2\n")
    monkeypatch.setenv("PKD_LOCAL", str(project / "mine.yml"))
    assert vars(parameters.check("toy/03-work", namespace)) == {"device": "cuda", "workers": 8, "epochs": 2}
    by_papermill = {**namespace, "In": [cell, '# Parameters\ndevice = "cpu"\n']}
    assert parameters.check("toy/03-work", by_papermill).device == "cpu", "papermill's word stands"
    assert parameters.check("toy/03-work", namespace | {"workers": 3}).workers == 3, "so does the reader's"
