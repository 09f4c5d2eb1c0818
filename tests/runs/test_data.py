"""A run knows its data: other content is another run, damage and staleness are said, and what is finished stays."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pkd_utils.runs import files, finished, identity, index, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.run import Run, find_run
from tests.runs.conftest import change_keeping_size_and_time, make_notebook, put

ROOT = paths.PROJECT_ROOT
PREPARED = "toy/toy/01-do-things/smoke"
TEACHER = "toy/toy/02-read-things/smoke"


@pytest.fixture
def project(project, monkeypatch):
    """A third notebook, which reads the other two; data and weights of ten seconds ago."""
    monkeypatch.setattr(index, "verified", [])
    monkeypatch.setenv("PKD_DATA", str(project / "data"))
    make_notebook(project, "toy/03-read-both", ["pass"])
    put(project / "data/real/metadata.csv", b"label\n0\n1\n")
    put(project / "data/real/images/1.png", b"pixels")
    put(project / "data/models/net.pth", b"weights")
    return project


def opened(step, values):
    return Run(f"toy/{step}", {"cohort": "toy", "run": "smoke", **values})


def first(**values):
    return opened("01-do-things", {"source": "covid_chestxray", "data_root": "data/real", **values})


def second():
    return opened("02-read-things", {"prepared_run": PREPARED, "image_weights": "data/models/net.pth"})


def third():
    return opened("03-read-both", {"prepared_run": PREPARED, "teacher_run": TEACHER})


def write(run, content="x"):
    """The artefacts of a run: a file and a folder of two students."""
    (run.path / "pixels.npy").write_text(content * 9)
    for name in "ab":
        files.write_json(run.path / "students" / name / "model.json", [name, content])
    return run.finish(["pixels.npy", "students"])


def is_done(run):
    return finished.done(run.final_path, run.parameters)


CHANGES = {
    "labels": lambda p: put(p / "data/real/metadata.csv", b"label\n1\n0\n", 5),
    "pixels": lambda p: put(p / "data/real/images/1.png", b"PIXELS", 5),
    "an image more": lambda p: put(p / "data/real/images/2.png", b"pixels"),
    "an image gone": lambda p: (p / "data/real/images/1.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_data_are_another_run_and_so_all_that_follows(project, change):
    write(first())
    write(second())
    assert is_done(first()) and is_done(second())
    change(project)
    with pytest.raises(DataError, match=rf"{PREPARED} was made of other data than data/real holds now: run"):
        second()
    again = first()
    assert not is_done(again)
    write(again, "y")
    assert not is_done(second())


def test_weights_belong_to_the_run_that_reads_them(project):
    write(first())
    write(second())
    put(project / "data/models/net.pth", b"WEIGHTS", 5)
    assert is_done(first()) and not is_done(second())
    with pytest.raises(DataError, match=rf"{TEACHER} was made of other data than data/models/net\.pth holds"):
        third()


def test_what_the_source_does_not_read_changes_nothing_and_a_root_may_move(project):
    write(first())
    put(project / "data/real/notes.txt", b"unrelated")
    put(project / "data/real/.cache/facts", b"unrelated")
    assert is_done(first())
    shutil.move(project / "data/real", project / "data/moved")
    moved = first(data_root="data/moved")
    assert is_done(moved)
    later = second()
    assert later.inherit(PREPARED)["parameters"]["data_root"] == "data/moved", "who follows finds the data"


def test_a_flipped_pixel_with_size_and_time_kept_is_found_by_verify(project):
    write(first())
    change_keeping_size_and_time(project / "data/real/images/1.png")
    assert is_done(first())
    index.verify_all()
    assert not is_done(first())


def test_inputs_are_named_by_one_rule(project):
    named = {"data_root": "a", "options.ct_root": "b", "image_weights": "c", "outcomes": "d"}
    named |= {"text_encoder": "data/bert", "text_vocabulary": "data/words"}
    values = {"data_root": "a", "options": {"ct_root": "b", "views": ["PA"]}, "image_weights": "c", "outcomes": "d"}
    values |= {"text_encoder": "data/bert", "text_weights": "random", "text_vocabulary": "data/words"}
    values |= {"student_weights": "", "sweep_weights": [0.5]}
    assert identity.input_paths(values) == named
    assert identity.input_paths({"outcomes": "simulated", "text_encoder": "minilm"}) == {}
    assert identity.inputs({"cohort": "toy", "data_root": "data/absent"}) == {"data_root": None}


def test_data_that_change_while_the_notebook_runs_are_refused(project):
    run = first()
    put(project / "data/real/metadata.csv", b"label\n1\n1\n", 5)
    with pytest.raises(DataError, match="the data of data_root changed meanwhile; run the notebook again"):
        write(run)
    assert not run.final_path.exists()


def test_simulated_data_that_were_edited_are_not_done(project):
    run = first(simulate_patients=3)
    assert run.inputs == {}, "their recipe identifies them"
    write(run)
    assert is_done(run)
    put(project / "data/real/metadata.csv", b"label\n1\n1\n", 5)
    assert not is_done(run)
    shutil.rmtree(project / "data/real")
    assert is_done(run), "data that were removed are no other data"


DAMAGE = {
    "flipped": ("pixels.npy", lambda f: change_keeping_size_and_time(f / "pixels.npy")),
    "truncated": ("pixels.npy", lambda f: (f / "pixels.npy").write_text("x")),
    "in a folder": ("students/a/model.json", lambda f: (f / "students/a/model.json").write_text("{}")),
    "one too many": ("students/c.json", lambda f: (f / "students/c.json").write_text("{}")),
    "a student deleted": ("students/b/model.json", lambda f: shutil.rmtree(f / "students/b")),
    "all deleted": ("students", lambda f: shutil.rmtree(f / "students")),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_artefacts_are_checked_on_every_read(project, name, damage):
    folder = write(first())
    damage(folder)
    wrong = rf"{PREPARED}: artefact {name} is (not what the run wrote|missing); remove the folder \S+ and run notebooks"
    for read in (lambda: find_run(PREPARED), first, second):
        with pytest.raises(DataError, match=wrong):
            read()


def test_a_run_made_of_an_earlier_run_is_not_mixed_with_the_new_one(project):
    write(first())
    write(second())
    write(first(epochs=9))
    with pytest.raises(DataError, match=f"Run {TEACHER} was made of an earlier run {PREPARED}: run notebooks/toy/02"):
        third()


def test_a_finished_run_runs_again_by_hand_and_stays_as_it_is(project):
    folder = write(first())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = first()
    assert again.path != folder and (again.path / "pixels.npy").read_text() == "x" * 9, "what is there need not be made"
    scratch = again.path
    files.write(again.path / "table.json", [1])
    files.write_json(again.path / "students/a/model.json", "other")
    again.save({"note.json": {}}, "pixels.npy", "students")
    assert again.path == folder and {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    del again
    assert not scratch.exists()


def test_a_removed_run_is_made_anew_with_what_follows_it(project):
    folder = write(first())
    later = write(second())
    shutil.rmtree(folder)
    assert not finished.done(folder, {}) and not finished.done(later, {})
    write(first())
    assert is_done(second()), "the same content: nothing changed for what follows"
    shutil.rmtree(folder)
    write(first(), "y")
    again = second()
    assert not again.done and again.final_path == later
    write(again, "z")
    assert (later / "pixels.npy").read_text() == "z" * 9 and is_done(second())
    assert sorted(path.name for path in later.parent.iterdir()) == ["smoke", later.name], "no leftovers"


def compute(pipe):
    """In a process of its own: open the first run, say how it was found and what is printed, work when told, write."""
    sys.stderr = SimpleNamespace(write=lambda text: text.strip() and pipe.send(text), flush=lambda: None)
    run = first()
    pipe.send(("open", run.resumed, run.done))
    if not run.done:
        (run.path / "half").write_text("work")
        (run.path / ".tmp-1-half").write_text("half")
        pipe.recv()
    pipe.send(write(run).name)


def start():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=compute, args=(theirs,), daemon=True)
    process.start()
    return process, ours


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_processes_the_second_waits_and_nothing_is_lost(project, killed):
    one, to_one = start()
    assert to_one.recv() == ("open", False, False)
    two, to_two = start()
    assert to_two.recv().startswith(f"{PREPARED} is being computed (process {one.pid} on ")
    if killed:
        one.kill()
        assert to_two.recv() == ("open", True, False), "it goes on with the work of the dead one"
        to_two.send("go on")
    else:
        to_one.send("go on")
        assert to_two.recv() == ("open", True, True), "it takes the finished run"
    said = to_two.recv()
    two.join(60)
    folder = find_run(PREPARED)
    assert two.exitcode == 0 and said == folder.name
    assert (folder / "half").read_text() == "work"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["smoke", folder.name], "no leftovers"
    assert killed or (folder / ".tmp-1-half").exists()


THREADS = """
import sys, pathlib
from pkd_utils.runs import paths
paths.PROJECT_ROOT = pathlib.Path(sys.argv[1])
import numpy as np, torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from tests.runs.test_data import first
run = first(run=sys.argv[2])
rng = np.random.default_rng(0)
x = rng.standard_normal((3000, 700))
y = x[:, 0] + rng.standard_normal(3000) > 0
small = PCA(50, svd_solver="full").fit_transform(x)
fit = LogisticRegression(max_iter=200).fit(small, y)
t = torch.from_numpy(x).float()
np.savez(run.path / "numbers.npz", small=small, p=fit.predict_proba(small), product=x.T @ x, sum=x.sum(),
         t=(t.T @ t).numpy(), s=t.sum().numpy(), c=torch.nn.functional.linear(t, t[:64]).softmax(0).mean().numpy())
run.finish(["numbers.npz"])
"""


def test_numbers_do_not_follow_the_number_of_threads(project):
    for threads in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", THREADS, str(project), f"threads-{threads}"]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
    runs = [find_run(f"toy/toy/01-do-things/threads-{threads}") for threads in (1, 2)]
    assert len({(folder / "numbers.npz").read_bytes() for folder in runs}) == 1
    assert [files.read_json(folder / "run.json")["threads"] for folder in runs] == [1, 1]
