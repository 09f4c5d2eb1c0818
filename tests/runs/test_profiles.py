"""One parameter file describes many runs."""

import pytest

from pkd_utils.runs import notebooks, paths, profiles
from pkd_utils.runs.errors import DataError
from tests.runs.conftest import make_notebook

CELL = """cohort: str = "toy"  # data
run: str = "smoke"  # label
epochs: int = 2  # passes
weights: list[float] = [0.5]  # lambda
options: dict = {}  # more
device: str = "auto"  # machine
prepared_runs: list[str] = []  # upstream
"""


@pytest.fixture
def write(project):
    """Write the parameter file of a toy notebook, and read its runs."""
    make_notebook(project, "toy/01-do-things", [], parameters=CELL)
    file = project / "params" / "p" / "toy" / "01-do-things.yml"
    file.parent.mkdir(parents=True)

    def read(text: str):
        file.write_text(text)
        return profiles.read_runs(file)

    return read


def test_a_flat_file_is_one_run(write):
    assert write("run: a\nepochs: 3\n") == {"": {"run": "a", "epochs": 3}}
    assert write("") == {"": {}}


def test_axes_variants_and_exceptions(write):
    runs = write("""
base: {run: "{encoder}{ending}", epochs: 3, ending: ""}
each:
  cohort:
    "": {cohort: mimic}
    ct: {cohort: inspect, epochs: 9}
  encoder: [rad_dino, mrm]
variants:
  short: {epochs: 1, ending: _short}
exceptions:
  "*rad-dino-short": null
  ct-mrm*: {weights: [1.0]}
""")
    assert list(runs) == ["rad-dino", "mrm", "mrm-short", "ct-rad-dino", "ct-mrm", "ct-mrm-short"]
    assert runs["rad-dino"] == {"run": "rad_dino", "epochs": 3, "cohort": "mimic"}
    assert runs["mrm-short"] == {"run": "mrm_short", "epochs": 1, "cohort": "mimic"}
    assert runs["ct-mrm"] == {"run": "mrm", "epochs": 9, "cohort": "inspect", "weights": [1.0]}


def test_braces_stand_for_values_of_the_same_run(write):
    runs = write("""
base:
  cohort: mimic
  run: "{cohort}-x"
  names: [a, b]
  epochs: "{passes}"
  passes: 7
  options: {"{cohort}": ["{passes}"]}
  prepared_runs: ["toy/{cohort}/01/{names}", "toy/{cohort}/02/c"]
""")
    prepared = ["toy/mimic/01/a", "toy/mimic/01/b", "toy/mimic/02/c"]
    known = {"cohort": "mimic", "run": "mimic-x", "epochs": 7, "options": {"mimic": [7]}, "prepared_runs": prepared}
    assert runs[""] == known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "01-do-things.yml: unknown parameter epoch for toy/01-do-things; did you mean epochs?"),
        ("base: {epochs: 3}\nvariants: {a: {epoch: 1}}", "unknown parameter epoch"),
        ("base: {run: '{cohrt}', cohort: x}", "unknown {cohrt}; did you mean cohort?"),
        ("base: {run: '{a}', a: '{b}', b: '{a}'}", "lead in a circle"),
        ("base: {run: 'x{a}', a: [1]}", "lead in a circle or to no text"),
        ("base: {run: x}\nepochs: 3", "epochs stands beside base, each, variants, exceptions: put it under base"),
        ("base: 3", "base must hold `name: value` lines"),
        ("each: {epochs: 3}", "epochs must be a list of values, or labels"),
        ("each: {epochs: []}", "epochs must be a list of values, or labels"),
        ("each: {a: {x: 3}}", "a must be a list of values, or labels"),
        ("each: {run: [a_b, a-b]}", "'a-b' names two runs"),
        ("each: {run: [a/b]}", "'a/b' names two runs, or is no name"),
        ("each: {run: [a]}\nexceptions: {b: null}", "there is no run 'b' for exceptions"),
        ("each: {run: [a]}\nexceptions: {a: 3}", "exceptions: 'a' must hold"),
        ("base: {device: cuda}", "device belongs to the machine: put it into params/local.yml"),
        ("- 1", "one a parameter"),
        ("run: a\nrun: b", "line 2: the key run stands twice"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_sentence(write, text, message):
    with pytest.raises(DataError) as refused:
        write(text)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_parameter_files_are_few_and_short():
    """That they resolve: tests/workflow/test_order.py, which plans every profile."""
    files = list((paths.PROJECT_ROOT / "params").glob("*/*/*.yml"))
    assert len(files) <= 70 and sum(len(file.read_text().splitlines()) for file in files) <= 1000


def test_breast_students_take_every_partition_and_have_a_teacher_of_another_seed():
    """By the protocol of BrEaST: two partitions, each of several seeds, so that no student teaches itself."""
    folder = paths.PROJECT_ROOT / "params/open-data/mmpkd"
    steps = ("01-prepare-data", "03-distil-student", "04-evaluate-attention", "05-compare")
    runs = {step: profiles.read_runs(folder / f"{step}.yml") for step in steps}
    repeats = {values["run"]: values["repeats"] for values in runs[steps[0]].values() if "repeats" in values}
    students = {name: values for name, values in runs[steps[1]].items() if name.startswith("breast-")}
    arms = [f"breast-biopsied-{method}" for method in ("baseline", "mmpkd", "permuted", "self")]
    assert list(students) == [*arms, "breast-birads-mmpkd", "breast-lesions-baseline", "breast-lesions-mmpkd"]
    assert set(students) == {name for name in runs[steps[2]] if name.startswith("breast-")}
    for values in students.values():
        cut = repeats[values["prepared_run"].rsplit("/", 1)[1]]
        assert len(values["seeds"]) % cut == 0 and len(values["seeds"]) // cut > 1
    for values in runs[steps[3]].values():
        assert len(values["student_runs"]) == len(values["attention_runs"])


@pytest.mark.parametrize(
    "profile", sorted(path.name for path in (paths.PROJECT_ROOT / "params").iterdir() if path.is_dir())
)
def test_no_run_multiplies_in_bfloat16_where_the_processor_does_not_but_by_a_protocol(profile):
    """There it takes up to thirty times as long as float32."""
    for reference, job in notebooks.described(profile).items():
        assert job.parameters.get("precision") != "bf16" or job.parameters.get("protocol"), reference
