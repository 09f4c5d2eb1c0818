"""A run is whole or it is not a run: killed, exited and failed notebooks are told from finished ones."""

import json
import subprocess
import sys

import nbformat
import pytest

from pkd_utils.runs import notebooks, parameters, paths, progress, run
from pkd_utils.runs.errors import DataError
from tests.runs.test_run import PARAMETERS, make_notebook

CHECK = "from pkd_utils.runs import parameters\nfrom pkd_utils.runs.run import Run\n"
CHECK += "P = parameters.check('toy/01-do-things', globals())"
WORK = "run = Run('toy/01-do-things', vars(P))\n(run.path / 'out.txt').write_text(str(P.epochs))"
FINISH = "run.finish(['out.txt'])"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A project folder whose kernels see it as the project root too."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    (tmp_path / "pkd_utils").mkdir()
    patch = f"import pathlib\nfrom pkd_utils.runs import paths\npaths.PROJECT_ROOT = pathlib.Path({str(tmp_path)!r})\n"

    def make(*cells, name="toy/01-do-things", more=""):
        cells = [cell.replace("toy/01-do-things", name) for cell in (patch + "del pathlib", CHECK, *cells)]
        return make_notebook(tmp_path, name, cells, PARAMETERS + more)

    file = tmp_path / "params" / "p" / "toy" / "01-do-things.yml"
    file.parent.mkdir(parents=True)
    file.write_text("run: kept\nepochs: 4\n")
    return make, file


def test_a_whole_run_is_kept_and_not_repeated(toy):
    make, file = toy
    make(WORK, FINISH)
    folder = notebooks.execute(file)
    assert (folder / "out.txt").read_text() == "4"
    assert notebooks.run_problems(folder) == []
    assert run.find_run("toy/toy/01-do-things/kept") == folder
    stamp = (folder / "run.json").stat().st_mtime_ns
    assert notebooks.execute(file) == folder
    assert (folder / "run.json").stat().st_mtime_ns == stamp
    job = notebooks.plan("p")[0]
    assert job.folder == folder, "the plan foresees the folder that the notebook chooses"


def test_a_run_that_goes_on_is_not_called_failed(toy):
    make, file = toy
    said = "import pathlib\npathlib.Path('seen').write_text(' '.join(p.name for p in RUNS.rglob('*.ipynb')))"
    make(f"import pathlib\nRUNS = pathlib.Path({str(file.parents[3])!r}) / 'runs'\n{said}\n{WORK}", FINISH)
    notebooks.execute(file)
    (seen,) = file.parents[3].rglob("seen")
    assert "running.ipynb" in seen.read_text() and "failed" not in seen.read_text()


def test_a_planned_run_says_its_place_and_the_time_left(toy, capsys):
    make, file = toy
    make(WORK, FINISH)
    file.write_text("base: {epochs: 4}\neach: {run: [one, two]}\n")
    plan = notebooks.plan("p")
    progress.begin(plan)
    for job in plan:
        notebooks.main(["run", str(file), job.label, job.identity])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "[1 of 2] toy/01-do-things one: about 1 min left"
    assert second == "[2 of 2] toy/01-do-things two: the last one"
    progress.begin(notebooks.plan("p"))
    assert progress.line(plan[0].identity, "of another plan") == "of another plan"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "failed|not complete"),
        ("import sys\nsys.exit(0)", "SystemExit|was not run|did not write"),
        ("pass  # forgets to finish", "run.json"),
    ],
)
def test_a_run_that_ends_early_is_refused_and_leaves_its_log(toy, cell, message):
    make, file = toy
    make(WORK, cell)
    with pytest.raises(DataError, match=message):
        notebooks.execute(file)
    logs = list(file.parents[3].glob("runs/toy/toy/01-do-things/*.failed.ipynb"))
    assert len(logs) == 1 and not list(logs[0].parent.glob("*.running.ipynb"))
    assert not list(file.parents[3].glob("runs/**/notebook.ipynb"))


def test_a_truncated_artefact_makes_the_run_not_whole(toy):
    make, file = toy
    make(WORK, FINISH)
    folder = notebooks.execute(file)
    (folder / "out.txt").write_text("")
    assert "artefact out.txt is not what the run wrote" in notebooks.run_problems(folder)[0]
    assert notebooks.plan("p")[0].state == "damaged"
    with pytest.raises(SystemExit, match=r"artefact out\.txt is not what the run wrote; remove the folder") as left:
        notebooks.main(["run", str(file)])
    assert "\n" not in str(left.value), "one sentence, and so exit code 1"


def test_problems_names_what_was_not_run(tmp_path):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell("text")]
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert notebooks.problems(tmp_path / "n.ipynb") == ["cell 1 was not run"]
    assert "does not exist" in notebooks.problems(tmp_path / "absent.ipynb")[0]


def test_plan_orders_by_what_is_read_and_refuses_circles_and_twins(toy, tmp_path):
    make, file = toy
    make(WORK, FINISH)
    make_notebook(tmp_path, "toy/02-read-things", ["pass"])
    second = file.with_name("02-read-things.yml")
    second.write_text("run: later\nprepared_run: toy/toy/01-do-things/kept\n")
    assert [job.name for job in notebooks.plan("p")] == ["toy/01-do-things", "toy/02-read-things"]
    assert notebooks.plan("p")[1].upstream == ("toy/01-do-things",)
    file.with_name("01-do-things.twin.yml").write_text("run: kept\n")
    with pytest.raises(DataError, match="both describe the run"):
        notebooks.plan("p")
    file.with_name("01-do-things.twin.yml").unlink()
    file.write_text("base: {epochs: 4}\neach: {run: [kept, other]}\n")
    assert [job.name for job in notebooks.plan("p")][-1] == "toy/02-read-things"
    for only in ("toy/02", "toy/toy/02-read-things", "nothing toy/02"):
        assert [job.name for job in notebooks.plan("p", only)] == ["toy/01-do-things.kept", "toy/02-read-things"]
    with pytest.raises(DataError, match="No run of p starts like toy/03: "):
        notebooks.plan("p", "toy/03")
    file.write_text("run: kept\nprepared_run: toy/toy/02-read-things/later\n")
    with pytest.raises(DataError, match="wait for each other"):
        notebooks.plan("p")
    with pytest.raises(DataError, match="no profile"):
        notebooks.plan("absent")


def test_one_run_of_many_is_made_and_shown_with_the_machines_parameters(toy, tmp_path, monkeypatch, capsys):
    make, file = toy
    make(WORK, FINISH)
    file.write_text("base: {epochs: 4}\neach: {run: [kept, other]}\n")
    folder = notebooks.execute(file, "other")
    assert folder.name.startswith("other-") and notebooks.plan("p")[1].folder == folder
    for label in ("", "othr"):
        with pytest.raises(DataError, match=r"has no run '.*'; (did you mean other|it knows: kept, other)"):
            notebooks.execute(file, label)
    notebooks.main(["show", str(file), "other"])
    (tmp_path / "shown.yml").write_text(capsys.readouterr().out)
    assert parameters.read_file(tmp_path / "shown.yml") == {**notebooks.plan("p")[1].parameters}


def test_the_kernel_is_this_environments_whatever_the_user_calls_python3(toy, tmp_path, monkeypatch):
    make, file = toy
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "mine", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    make(WORK + "\nimport sys\n(run.path / 'out.txt').write_text(sys.executable)", FINISH)
    assert (notebooks.execute(file) / "out.txt").read_text() == sys.executable


def test_command_line_stops_with_one_sentence(tmp_path):
    file = tmp_path / "mmpkd" / "01-absent.yml"
    file.parent.mkdir()
    file.write_text("{}")
    answer = subprocess.run([sys.executable, "-m", "pkd_utils", "run", str(file)], capture_output=True, text=True)
    assert answer.returncode == 1 and "There is no notebook" in answer.stderr and "Traceback" not in answer.stderr
    assert PARAMETERS


def test_a_progress_bar_becomes_its_last_line():
    stream = nbformat.v4.new_output
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        stream("stream", name="stderr", text="\r 1/2"),
        stream("stream", name="stderr", text="\r 2/2\ndone\n"),
        stream("stream", name="stdout", text="kept\n"),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("text")])
    outputs = notebooks.with_short_streams(notebook).cells[0].outputs
    assert [(o.name, o.text) for o in outputs] == [("stderr", " 2/2\ndone\n"), ("stdout", "kept\n")]


def test_what_is_not_here_is_left_out_and_the_rest_reads_what_is_left(tmp_path, monkeypatch):
    """MIMIC alone, and two of the encoders: no INSPECT, no CBIS, and nothing to delete."""
    models = ["pubmedbert", "MRM.pth", "vit_tiny_patch16_224.safetensors", "C2L_res18_model.pt", "BiomedVLP-BioViL-T"]
    for there in ("mimic-cxr-jpg", "mimic-cxr", "mimic-iv", "ms-cxr", *(f"models/{name}" for name in models)):
        (tmp_path / "data" / there).mkdir(parents=True)
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks.identity, "code_hash", lambda notebook: "0")
    everything, left_out = notebooks.plan("paper"), {}
    jobs = {job.name: job for job in notebooks.plan("paper", left_out=left_out)}
    assert {job.name for job in everything} == set(jobs) | set(left_out) and not set(jobs) & set(left_out)
    assert {job.parameters["cohort"] for job in jobs.values()} == {"mimic_cxr", "mimic_and_inspect", "paper_cohorts"}
    assert left_out["mmpkd/05-compare.mass"] == "data/cbis-ddsm is not here"
    assert left_out["reports/04-distil-students.mimic-gloria"] == "data/models/chexpert_resnet50.ckpt is not here"
    encoders = [f"reports/mimic_cxr/03-train-teachers/{name}" for name in ("c2l", "mrm")]
    assert jobs["reports/05-sample-efficiency.mimic"].parameters["teacher_runs"] == encoders
    assert jobs["reports/06-distillation-effect.both"].parameters["teacher_runs"] == encoders
    maps = jobs["mmpkd/09-compare-all-maps"].parameters
    assert (maps["map_runs"], maps["paper_datasets"]) == (["mmpkd/mimic_cxr/08-score-all-maps/paper"], ["MIMIC-CXR"])
    told = [line.split(": ") for line in notebooks.said_of(left_out)]
    assert (
        "first reports/00-reconstruct-radiographs.inspect" in dict(told)["left out, because data/inspect is not here"]
    )


def test_a_run_of_a_plan_reads_what_the_plan_left(toy):
    """The notebook gets the shorter list, and the run is the one that the plan foresaw."""
    make, file = toy
    make(WORK, FINISH, more="data_root: str = ''  # data\n")
    file.write_text("each: {run: [kept, gone]}\nexceptions: {gone: {data_root: data/nowhere}}\n")
    joined = file.with_name("02-join-things.yml")
    make(
        WORK.replace("P.epochs", "P.thing_runs"),
        FINISH,
        name="toy/02-join-things",
        more="thing_runs: list[str] = ['']\n",
    )
    joined.write_text("run: both\nthing_runs: [toy/toy/01-do-things/kept, toy/toy/01-do-things/gone]\n")
    first, second = notebooks.plan("p", left_out={})
    notebooks.execute(first.file, first.label, first.identity)
    folder = notebooks.execute(second.file, second.label, second.identity)
    assert folder == second.folder and (folder / "out.txt").read_text() == "['toy/toy/01-do-things/kept']"
    with pytest.raises(FileNotFoundError, match="No finished run 'toy/toy/01-do-things/gone'"):
        notebooks.execute(joined)
