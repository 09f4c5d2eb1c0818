"""What a notebook's four calls write, show and refuse."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import paths, showing
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.run import find_run, open_notebook, open_run
from tests.runs.test_run import given, project  # noqa: F401  (a fixture)

SIMULATED = {"title": "Toys", "simulated": True, "shareable_text": True, "shareable_images": True}
OPEN = {"title": "Open films", "licence": "CC0", "simulated": False, "shareable_text": True, "shareable_images": True}
CREDENTIALED = {"title": "Real films", "licence": "PhysioNet", "simulated": False}


@pytest.fixture
def run(project):  # noqa: F811
    return open_run("toy/01-do-things", given())


@pytest.fixture
def shown(monkeypatch):
    """Figures that a notebook would display."""
    seen = []
    monkeypatch.setattr("IPython.display.display", seen.append)
    return seen


def texts(figure):
    return [text.get_text() for text in figure.texts]


def picture():
    figure, ax = plt.subplots()
    ax.imshow(np.zeros((2, 2)))
    return figure


def test_open_notebook_checks_parameters_and_may_be_run_twice(project):  # noqa: F811
    namespace = {"cohort": "toy", "run": "smoke", "epochs": 3}
    P, run = open_notebook("toy/01-do-things", namespace)
    assert P.epochs == run.parameters["epochs"] == 3
    _, again = open_notebook("toy/01-do-things", {**namespace, "run": run})
    assert again.identity == run.identity
    with pytest.raises(DataError, match="Parameter epochs"):
        open_notebook("toy/01-do-things", {**namespace, "epochs": "3"})


def test_save_writes_by_suffix_and_finishes(run, capsys):
    (run.path / "masks.bin").write_bytes(b"1")
    table = pd.DataFrame({"a": [1.5, 2.0]})
    arrays = {"x": np.arange(3)}
    run.save(
        {"t.parquet": table, "t.csv": table, "v.json": {"n": 1}, "a.npy": arrays["x"], "b.npz": arrays}, "masks.bin"
    )
    folder = find_run(run.reference)
    assert pd.read_parquet(folder / "t.parquet").equals(table) and pd.read_csv(folder / "t.csv").equals(table)
    assert json.loads((folder / "v.json").read_text()) == {"n": 1}
    assert np.load(folder / "a.npy").tolist() == np.load(folder / "b.npz")["x"].tolist() == [0, 1, 2]
    assert capsys.readouterr().out == "wrote t.parquet, t.csv, v.json, a.npy, b.npz, masks.bin\n"
    again = open_run("toy/01-do-things", run.parameters)
    again.save({"v.json": {"n": 2}}, "t.csv")
    assert json.loads((folder / "v.json").read_text()) == {"n": 1}, "a finished run stays as it is"


def test_save_refuses_an_unknown_suffix_and_a_missing_file(run):
    with pytest.raises(DataError, match=r"table.xlsx: end the name in one of .parquet"):
        run.save({"table.xlsx": 1})
    with pytest.raises(DataError, match=r"absent.npy missing or empty"):
        run.save({"v.json": {}}, "absent.npy")
    assert not run.final_path.exists()


def test_figures_of_simulated_data_are_stamped_and_closed(run, shown):
    run.note(cohort=SIMULATED)
    figure, ax = plt.subplots()
    run.show(ax)
    assert shown == [figure] and texts(figure) == ["simulated data"]
    assert not plt.fignum_exists(figure.number) and run.title == "Toys (simulated)"


def test_figures_of_real_data_are_not_stamped(run, shown):
    run.note(cohort=OPEN)
    run.show(picture())
    assert len(shown) == 1 and texts(shown[0]) == [] and run.title == "Open films"


@pytest.mark.parametrize("cohort", [None, CREDENTIALED, {**OPEN, "shareable_images": "yes"}])
def test_pixels_are_hidden_unless_the_cohort_permits(run, shown, capsys, cohort):
    run.note(cohort=cohort)
    run.show(picture())
    plot = plt.figure()
    run.show(plot, pixels=True)
    assert shown == [] and capsys.readouterr().out.count("this source's images are not shown") == 2
    run.show(plt.figure())
    run.show(picture(), pixels=False)
    assert len(shown) == 2, "a plot, and a table of numbers drawn in colours"


def test_a_run_of_several_cohorts_shows_what_all_permit(project, shown):  # noqa: F811
    references = []
    for label, cohort in (("one", SIMULATED), ("two", CREDENTIALED)):
        upstream = open_run("toy/01-do-things", given(run=label))
        upstream.note(cohort=cohort, data_hash=label)
        upstream.save({"v.json": {}})
        references.append(upstream.reference)
    run = open_run("toy/02-read-things", given(run="both"))
    assert run.inherit(references[0])["cohort"]["title"] == "Toys" and run.shows_images
    run.inherit(references[1])
    facts = run.provenance()
    assert facts["cohort"]["title"] == "Toys; Real films" and facts["data_hash"] not in ("one", "two")
    assert not run.shows_images and facts["cohort"]["simulated"] is False
    run.show(plt.figure())
    assert texts(shown[0]) == ["simulated data"], "a part of it is simulated"
    run.show(picture(), cohort=SIMULATED)
    run.show(plt.figure(), cohort=CREDENTIALED)
    assert texts(shown[1]) == ["simulated data"] and texts(shown[2]) == []


def test_joint_cohort_permits_only_what_all_say():
    assert showing.joint_cohort([SIMULATED])["simulated"] is True
    assert showing.joint_cohort([{}, None])["shareable_images"] is False
    assert showing.joint_cohort([OPEN, {**OPEN, "title": "More"}])["title"] == "Open films; More"


def test_publish_writes_results_with_their_record(run):
    run.note(cohort=OPEN)
    (run.path / "pair.png").write_bytes(b"png")
    run.save({"v.json": {}}, "pair.png")
    scores = pd.DataFrame({"label": ["a", "a"], "auc": [0.5, 0.7]}).groupby("label").agg(["mean", "count"])
    run.publish("", {"never": scores})
    run.publish(
        "toy", {"by label": scores}, text="Well.", notes=["few"], csv=pd.DataFrame({"x": [1]}), picture="pair.png"
    )
    results = paths.resolve("book/results")
    assert sorted(path.name for path in results.iterdir()) == ["toy.csv", "toy.json", "toy.png"]
    record = json.loads((results / "toy.json").read_text())
    assert record["title"] == "toy" and record["reference"] == run.reference and record["notes"] == ["few"]
    assert record["by label"] == [{"label": "a", "auc_mean": 0.6, "auc_count": 2}]


def test_publish_refuses_rows_of_patients_and_pictures(run):
    run.note(cohort=CREDENTIALED)
    run.save({"v.json": {}})
    with pytest.raises(DataError, match="holds patient_id"):
        run.publish("toy", {"rows": pd.DataFrame({"patient_id": ["1"]})})
    with pytest.raises(DataError, match="not marked shareable_images"):
        run.publish("toy", {}, picture="pair.png")
    assert not paths.resolve("book/results").exists()
