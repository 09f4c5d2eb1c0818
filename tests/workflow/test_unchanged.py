"""A book is built again as soon as anything that it shows is not what it was."""

from types import SimpleNamespace

import pytest

from workflow.publish import unchanged


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with one finished run and a built page."""
    run = tmp_path / "runs" / "one"
    for name in ("runs/one/run.json", "runs/one/notebook.ipynb", "README.md", "book/a.md", "_build/html/a.html"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    for name in unchanged.SOURCES:
        (tmp_path / name).mkdir(exist_ok=True)
    jobs = [SimpleNamespace(folder=run, state="done")]
    monkeypatch.setattr(unchanged.notebooks, "plan", lambda profile, left_out: jobs)
    monkeypatch.setattr(unchanged.paths, "PROJECT_ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["runs/one/run.json", "runs/one/notebook.ipynb", "README.md", "book/a.md", "_build/html/a.html"]
)
def test_a_changed_file_is_seen(root, name):
    before = unchanged.state("demo")
    assert unchanged.state("demo") == before != unchanged.state("quick")
    (root / name).write_text("other text")
    assert unchanged.state("demo") != before


def test_new_and_missing_files_are_seen_and_what_a_build_writes_is_not(root):
    before = unchanged.state("demo")
    (root / "book" / "_generated").mkdir()
    (root / "book" / "_generated" / "b.md").write_text("made by the build")
    assert unchanged.state("demo") == before
    (root / "workflow" / "b.py").write_text("")
    assert unchanged.state("demo")["made_of"] != before["made_of"]
    (root / "_build" / "html" / "a.html").unlink()
    assert unchanged.state("demo")["built"] != before["built"]


def test_while_a_run_is_to_be_made_nothing_is_as_it_was(root):
    unchanged.notebooks.plan("demo", {})[0].state = "to run"
    assert unchanged.state("demo") is None
