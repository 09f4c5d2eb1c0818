"""Nothing that is planted into a notebook, a site or a committed file leaves the house, and what is ours does."""

import copy
import shutil

import pytest

from pkd_utils.runs import paths
from tests.workflow.canaries import COHORTS, Stage, canaries
from workflow.publish import leaks


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Stages by cohort, each with its clean notebook and site put by."""
    made = {}

    def stage_of(cohort):
        if cohort not in made:
            stage = Stage(tmp_path_factory.mktemp("a stage"), COHORTS[cohort])
            made[cohort] = stage, copy.deepcopy((stage.notebook, stage.record))
        return made[cohort]

    return stage_of


@pytest.fixture
def clean(built, monkeypatch, tmp_path):
    """A stage as nobody has planted anything into it."""

    def stage_of(cohort, place):
        if place == "committed":
            stage = Stage(tmp_path / "a project", COHORTS[cohort])
        else:
            stage, kept = built(cohort)
            stage.notebook, stage.record = copy.deepcopy(kept)
        monkeypatch.setattr(paths, "PROJECT_ROOT", stage.root)
        monkeypatch.setenv("PKD_RUNS", str(stage.root / "runs"))
        if place == "site":
            put_by = stage.root / "clean-html"
            if not put_by.exists():
                stage.build().rename(put_by)
            shutil.rmtree(stage.root / "html", ignore_errors=True)
            shutil.copytree(put_by, stage.root / "html")
        return stage

    return stage_of


@pytest.mark.parametrize("canary", canaries(), ids=lambda canary: canary.name)
def test_canary_is_refused_and_not_repeated(canary, clean):
    stage = clean(canary.cohort, canary.place)
    canary.plant(stage)
    found = stage.look(canary.place)
    assert found
    assert not canary.secret or canary.secret.lower() not in " ".join(found).lower()


def test_there_are_enough_canaries():
    names = [canary.name for canary in canaries()]
    assert len(set(names)) == len(names) >= 150
    assert {canary.place for canary in canaries()} == {"notebook", "site", "committed"}


@pytest.mark.parametrize("cohort", COHORTS)
@pytest.mark.parametrize("place", ["notebook", "site", "committed"])
def test_what_is_ours_passes(cohort, place, clean):
    assert clean(cohort, place).look(place) == []


def test_findings_say_where_and_what_kind(clean):
    stage = clean("credentialed", "notebook")
    stage.cell("limits").source += " Tiny apical pneumothorax persists."
    stage.cell("table").outputs[0].data["application/pdf"] = "x"
    assert stage.look("notebook") == [
        "cell 5 has output of type application/pdf, which cannot be checked",
        "cell 8 is not as the committed notebook has it",
    ]


def test_a_run_whose_upstream_is_not_here_is_refused(clean):
    stage = clean("credentialed", "notebook")
    stage.record["upstream"] = {"toy/x/99-gone/smoke": "a"}
    assert any("a run that it read is not here" in line for line in stage.look("notebook"))


def test_figures_of_all_kinds_pass_where_the_images_may_be_shown(clean):
    stage = clean("no text", "notebook")
    next(c for c in canaries() if c.name == "notebook: unmarked PNG (no images)").plant(stage)
    assert stage.look("notebook") == []


def test_reports_may_be_shown_where_the_text_is_free(clean):
    stage = clean("no images", "notebook")
    next(c for c in canaries() if c.name == "notebook: report in stdout (no text)").plant(stage)
    assert stage.look("notebook") == []


def test_a_page_without_a_committed_notebook_is_refused(clean):
    stage = clean("credentialed", "notebook")
    stage.record["notebook"] = "toy/99-nobody-knows"
    assert stage.look("notebook") == ["the notebook toy/99-nobody-knows is not among the committed ones"]


def test_units_of_a_page_keep_words_and_digits_together():
    page = leaks.Units('<p title="a &amp; b">one <b>1000</b>4242</p><td>x</td><td>y</td><!-- c -->')
    assert ("p@title", "a & b") in page.found and ("p", "one 10004242") in page.found
    assert ("td", "x") in page.found and ("comment", " c ") in page.found
