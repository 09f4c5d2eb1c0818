"""A run is whole or it is not a run: killed, exited and failed notebooks are told from finished ones."""

import subprocess
import sys

import nbformat
import pytest

from pkd_utils.runs import files, notebooks, parameters, paths, progress, run
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import write_json
from tests.runs.conftest import PARAMETERS, make_notebook

CHECK = "from pkd_utils.runs import parameters\nfrom pkd_utils.runs.run import Run\n"
CHECK += "P = parameters.check('toy/01-do-things', globals())"
WORK = "run = Run('toy/01-do-things', vars(P))\n(run.path / 'out.txt').write_text(str(P.epochs))"
FINISH = "run.finish(['out.txt'])"


def move_project(folder, patch):
    patch.setattr(paths, "PROJECT_ROOT", folder)
    patch.setenv("PKD_RUNS", str(folder / "runs"))


def start_project(folder):
    """A project folder whose kernels see it as the project root too: what makes its notebooks, and a parameter file."""
    (folder / "pkd_utils").mkdir()
    patch = f"import pathlib\nfrom pkd_utils.runs import paths\npaths.PROJECT_ROOT = pathlib.Path({str(folder)!r})\n"

    def make(*cells, name="toy/01-do-things", more=""):
        cells = [cell.replace("toy/01-do-things", name) for cell in (patch + "del pathlib", CHECK, *cells)]
        make_notebook(folder, name, cells, PARAMETERS + more)

    file = folder / "params" / "p" / "toy" / "01-do-things.yml"
    file.parent.mkdir(parents=True)
    file.write_text("run: kept\nepochs: 4\n")
    return make, file


@pytest.fixture
def toy(tmp_path, monkeypatch):
    move_project(tmp_path, monkeypatch)
    return start_project(tmp_path)


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """A notebook that was run where `python3` is another kernel, and noted which notebooks it saw, and its Python."""
    root = tmp_path_factory.mktemp("project")
    kernel = {"argv": ["/bin/false"], "display_name": "", "language": "python"}
    with pytest.MonkeyPatch.context() as patch:
        move_project(root, patch)
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))
        make, file = start_project(root)
        write_json(root / "jupyter/kernels/python3/kernel.json", kernel)
        see = "import sys\nseen = [sys.executable, *(p.name for p in run.path.parent.rglob('*.ipynb'))]"
        make(f"{WORK}\n{see}\n(run.path / 'seen.txt').write_text('\\n'.join(seen))", FINISH)
        return file, notebooks.execute(file)


@pytest.fixture
def ran(run_once, monkeypatch):
    move_project(run_once[0].parents[3], monkeypatch)
    return run_once


def test_a_whole_run_is_kept_and_not_repeated(ran):
    file, folder = ran
    assert (folder / "out.txt").read_text() == "4"
    assert notebooks.run_problems(folder) == []
    assert run.find_run("toy/toy/01-do-things/kept") == folder
    stamp = (folder / "run.json").stat().st_mtime_ns
    assert notebooks.execute(file) == folder
    assert (folder / "run.json").stat().st_mtime_ns == stamp
    assert notebooks.plan("p")[0].folder == folder, "the plan foresees the folder that the notebook chooses"


def test_a_run_that_goes_on_is_not_called_failed_and_its_kernel_is_this_environments(ran):
    python, *names = (ran[1] / "seen.txt").read_text().splitlines()
    assert python == sys.executable
    assert any(name.endswith(".running.ipynb") for name in names) and not any("failed" in name for name in names)


def test_a_truncated_artefact_makes_the_run_not_whole(ran):
    file, folder = ran
    (folder / "out.txt").write_text("")
    assert "artefact out.txt is not what the run wrote" in notebooks.run_problems(folder)[0]
    assert notebooks.plan("p")[0].state == "damaged"
    with pytest.raises(SystemExit, match=r"artefact out\.txt is not what the run wrote; remove the folder") as left:
        notebooks.main(["run", str(file)])
    assert "\n" not in str(left.value), "one sentence, and so exit code 1"
    (folder / "out.txt").write_text("4")


def test_a_planned_run_says_its_place_and_the_time_left(toy, capsys, monkeypatch):
    make, file = toy
    make(WORK, FINISH)
    file.write_text("base: {epochs: 4}\neach: {run: [one, two]}\n")
    plan = notebooks.plan("p")
    progress.begin(plan)
    monkeypatch.setattr(notebooks, "execute", lambda *arguments: None)
    for job in plan:
        notebooks.main(["run", str(file), job.label, job.identity])
    first, second = capsys.readouterr().out.splitlines()
    assert first == "[1 of 2] toy/01-do-things one: about 1 min left"
    assert second == "[2 of 2] toy/01-do-things two: the last one"
    before = plan[0].folder.with_name("one") / "run.json"  # of a version that did not count processor seconds
    write_json(before, {"seconds": 7.0})
    progress.begin(notebooks.plan("p"))
    expected = files.read_json(paths.runs_dir() / ".index" / "progress.json")["expected"]
    assert set(expected.values()) == {7.0}, "the other takes as long as the usual run"
    assert progress.line("another", "of another plan") == "of another plan"


def test_before_anything_has_run_the_time_left_is_the_demonstrations(toy, monkeypatch):
    make, file = toy
    make(WORK, FINISH)
    file.write_text("base: {epochs: 4}\neach: {run: [one, two, three]}\n")
    plan = notebooks.plan("p")
    hashes = [files.hash_params(parameters.identifying(job.parameters)) for job in plan]
    monkeypatch.setattr(progress, "demonstrated", lambda: {hashes[0]: 100.0, hashes[1]: 900.0})  # the third: 500
    progress.begin(plan)
    started = files.read_json(paths.runs_dir() / ".index" / "progress.json")["started"]
    monkeypatch.setattr(progress.time, "time", lambda: started + 60)  # two cores did 100 s in a minute
    assert progress.line(plan[0].identity, "one") == "[1 of 3] one: about 14 min left"


def test_the_stored_demonstration_is_todays():
    """`make book` knows the time left from its first run, and `make plan` what it will take."""
    known = progress.demonstrated()
    jobs = notebooks.described("demo")
    hashes = {files.hash_params(parameters.identifying(job.parameters)) for job in jobs.values()}
    assert len(hashes & known.keys()) > len(jobs) / 2, "make bench measures the demonstration's runs"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "its kernel was killed.* memory ran out: run it"),
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


def test_command_line_stops_with_one_sentence(tmp_path):
    file = tmp_path / "mmpkd" / "01-absent.yml"
    file.parent.mkdir()
    file.write_text("{}")
    answer = subprocess.run([sys.executable, "-m", "pkd_utils", "run", str(file)], capture_output=True, text=True)
    assert answer.returncode == 1 and "There is no notebook" in answer.stderr and "Traceback" not in answer.stderr


def test_a_progress_bar_becomes_its_last_line():
    cell = nbformat.v4.new_code_cell("x")
    said = [("stderr", "\r 1/2"), ("stderr", "\r 2/2\ndone\n"), ("stdout", "kept\n")]
    cell.outputs = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in said]
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
    told = dict(line.split(": ") for line in notebooks.said_of(left_out))["left out, because data/inspect is not here"]
    assert "first reports/00-reconstruct-radiographs.inspect" in told


@pytest.mark.parametrize("profile", ["open-data", "embedded-inspect", "paper"])
def test_a_program_that_is_not_installed_leaves_its_runs_out(profile, tmp_path, monkeypatch):
    for there in ("open/lung-pet-ct-dx/ct-1_3-1.nii.gz", "inspect"):
        (tmp_path / "data" / there).mkdir(parents=True)
    monkeypatch.setenv("PKD_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(notebooks.absent.shutil, "which", lambda program: None)
    runs = {ref: job for ref, job in notebooks.described(profile).items() if "/00-reconstruct-radiographs/" in ref}
    left, gone = notebooks.that_can_run(runs)
    install = "(Debian and Ubuntu: `apt-get install plastimatch`)"
    assert runs and not left
    assert set(gone.values()) == {f"the program plastimatch is not installed {install}"}


def test_a_run_of_a_plan_reads_what_the_plan_left(toy):
    """The notebook gets the shorter list, and the run is the one that the plan foresaw."""
    make, file = toy
    make(WORK, FINISH, more="data_root: str = ''  # data\n")
    file.write_text("each: {run: [kept, gone]}\nexceptions: {gone: {data_root: data/nowhere}}\n")
    joined, more = file.with_name("02-join-things.yml"), "thing_runs: list[str] = ['']\n"
    make(WORK.replace("P.epochs", "P.thing_runs"), FINISH, name="toy/02-join-things", more=more)
    joined.write_text("run: both\nthing_runs: [toy/toy/01-do-things/kept, toy/toy/01-do-things/gone]\n")
    first, second = notebooks.plan("p", left_out={})
    one = run.Run(first.notebook, first.parameters)
    one.save({"out.json": {}})
    assert one.final_path == first.folder
    folder = notebooks.execute(second.file, second.label, second.identity)
    assert folder == second.folder and (folder / "out.txt").read_text() == "['toy/toy/01-do-things/kept']"
    with pytest.raises(FileNotFoundError, match="No finished run 'toy/toy/01-do-things/gone'"):
        notebooks.execute(joined)
