"""Parameters are refused by name and by type, before anything runs."""

import pytest

from pkd_utils.runs import identity, parameters, paths
from pkd_utils.runs.errors import DataError
from tests.runs.test_run import (
    make_notebook,
    project,  # noqa: F401  (fixture)
)


def test_defaults_and_given_values(project):  # noqa: F811
    values = parameters.resolve("toy/01-do-things", {"epochs": 5, "weight": 1})
    assert values["epochs"] == 5 and values["run"] == "smoke" and next(iter(values)) == "cohort"
    assert values["weight"] == 1.0 and isinstance(values["weight"], float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 5}, "Unknown parameter epoch for toy/01-do-things; it knows: cohort, epochs"),
        ({"run": 12}, "Parameter run of toy/01-do-things must be str, got int 12"),
        ({"epochs": 2.5}, "Parameter epochs"),
        ({"epochs": True}, "Parameter epochs"),
        ({"seeds": (0, 1)}, r"Parameter seeds of toy/01-do-things must be list\[int\], got tuple"),
        ({"seeds": ["0"]}, "Parameter seeds"),
        ({"weight": "0.5"}, "Parameter weight"),
    ],
)
def test_wrong_values_stop_with_one_sentence(project, values, message):  # noqa: F811
    with pytest.raises(DataError, match=message):
        parameters.resolve("toy/01-do-things", values)


def test_check_takes_the_namespace_and_refuses_what_papermill_injected_in_vain(project):  # noqa: F811
    namespace = {"In": ["", "epochs: int = 2", "# Parameters\nepochs = 7\n"], "epochs": 7, "table": object()}
    assert parameters.check("toy/01-do-things", namespace).epochs == 7
    namespace["In"].append("# Parameters\nepochs = 7\nepoch = 7\n")
    with pytest.raises(DataError, match="Unknown parameter epoch"):
        parameters.check("toy/01-do-things", namespace)


@pytest.mark.parametrize("cell", ["epochs = 2", "epochs: int", "import os"])
def test_a_parameters_cell_holds_only_typed_literals(project, cell):  # noqa: F811
    make_notebook(project, "toy/03-wrong", [], parameters=cell)
    with pytest.raises(DataError, match="is not `name: type = value`"):
        parameters.declared("toy/03-wrong")


def test_unknown_notebook(project):  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"notebooks/toy/09-none.ipynb"):
        parameters.declared("toy/09-none")


def test_parameter_files_must_be_flat(tmp_path):
    (tmp_path / "p.yml").write_text("- 1\n- 2\n")
    with pytest.raises(DataError, match="one a parameter"):
        parameters.read_file(tmp_path / "p.yml")


def test_every_committed_parameter_file_fits_its_notebook():
    from pkd_utils.runs import notebooks

    files = sorted((paths.PROJECT_ROOT / "params").glob("*/*/*.yml"))
    assert files
    for file in files:
        parameters.resolve(notebooks.notebook_of(file), parameters.read_file(file))


def test_what_belongs_to_the_machine_is_no_part_of_an_identity():
    values = {"epochs": 3, "batch_size": 8, "device": "cuda", "memory_gib": 4.0, "encode_batch_size": 64, "workers": 2}
    told = identity.run_hash("toy/01-do-things", values, "code", {}, {})
    assert parameters.identifying(values) == {"epochs": 3, "batch_size": 8}
    assert told == identity.run_hash("toy/01-do-things", values | {"device": "cpu", "workers": 9}, "code", {}, {})
    assert told != identity.run_hash("toy/01-do-things", values | {"batch_size": 9}, "code", {}, {})
