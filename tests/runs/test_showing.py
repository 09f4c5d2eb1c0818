"""What a notebook's four calls write, show and refuse."""

import hashlib
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pkd_utils.runs import paths, showing
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.run import Run, find_run, open_notebook
from tests.runs.conftest import open_toy

SIMULATED = {"title": "Toys", "simulated": True, "shareable_text": True, "shareable_images": True}
OPEN = {"title": "Open films", "licence": "CC0", "simulated": False, "shareable_text": True, "shareable_images": True}
CREDENTIALED = {"title": "Real films", "licence": "PhysioNet", "simulated": False, "credentialed": True}
H = showing.HIDDEN


@pytest.fixture
def run(project):
    return open_toy()


@pytest.fixture
def shown(monkeypatch):
    """Figures that a notebook would display."""
    seen = []

    def display(figure, file):
        seen.append(figure)
        return {"sha256": f"{len(seen)}"}

    monkeypatch.setattr(showing, "display_figure", display)
    return seen


def texts(figure):
    return [text.get_text() for text in figure.texts]


def picture():
    figure, ax = plt.subplots()
    ax.imshow(np.zeros((2, 2)))
    return figure


def test_open_notebook_checks_parameters_and_may_be_run_twice(project):
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
    values = {"t.parquet": table, "t.csv": table, "v.json": {"n": 1}, "a.npy": arrays["x"], "b.npz": arrays}
    run.save(values, "masks.bin")
    folder = find_run(run.reference)
    assert pd.read_parquet(folder / "t.parquet").equals(table) and pd.read_csv(folder / "t.csv").equals(table)
    assert json.loads((folder / "v.json").read_text()) == {"n": 1}
    assert np.load(folder / "a.npy").tolist() == np.load(folder / "b.npz")["x"].tolist() == [0, 1, 2]
    assert capsys.readouterr().out == "wrote t.parquet, t.csv, v.json, a.npy, b.npz, masks.bin\n"
    again = Run("toy/01-do-things", run.parameters)
    again.save({"v.json": {"n": 2}}, "t.csv")
    assert json.loads((folder / "v.json").read_text()) == {"n": 1}, "a finished run stays as it is"


def test_save_refuses_an_unknown_suffix_and_a_missing_or_empty_file(run):
    with pytest.raises(DataError, match=r"table.xlsx: end the name in one of .parquet"):
        run.save({"table.xlsx": 1})
    (run.path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"absent.npy, empty.csv missing or empty"):
        run.save({"v.json": {}}, "absent.npy", "empty.csv")
    assert not run.final_path.exists()


def test_figures_of_simulated_data_are_stamped_and_closed(run, shown):
    run.note(cohort=SIMULATED)
    figure, ax = plt.subplots()
    run.show(ax)
    assert shown == [figure] and texts(figure) == ["simulated data"]
    assert not plt.fignum_exists(figure.number) and run.title == "Toys (simulated)"


def test_figures_of_open_data_are_not_stamped_and_their_pictures_are_no_figures_for_everybody(run, shown):
    run.note(cohort=OPEN)
    run.show(picture())
    run.show(plt.figure())
    assert [texts(figure) for figure in shown] == [[], []] and run.title == "Open films"
    assert [figure["sha256"] for figure in run.provenance()["figures"]] == ["2"]


@pytest.mark.parametrize("cohort", [None, CREDENTIALED, {**OPEN, "shareable_images": "yes"}])
def test_pixels_are_hidden_unless_the_cohort_permits(run, shown, capsys, cohort):
    run.note(cohort=cohort)
    run.show(picture())
    run.show(plt.figure(), pixels=True)
    assert shown == [] and capsys.readouterr().out.count("this source's images are not shown") == 2
    run.show(plt.figure())
    run.show(picture(), pixels=False)
    assert len(shown) == 2, "a plot, and a table of numbers drawn in colours"
    assert [figure["sha256"] for figure in run.provenance()["figures"]] == ["1", "2"]


def test_a_run_keeps_what_it_shows_as_png_and_pdf_and_nothing_else(run):
    run.note(cohort={**OPEN, "shareable_images": False})
    for figure in (picture(), plt.subplots()[0]):
        run.show(figure)
    kept = sorted(file.name for file in (run.path / "figures").iterdir())
    assert kept == ["figure-01.pdf", "figure-01.png"]
    png, pdf = (run.path / "figures" / f"figure-01.{kind}" for kind in ("png", "pdf"))
    assert hashlib.sha256(png.read_bytes()).hexdigest() == run.provenance()["figures"][0]["sha256"]
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF") and b"CreationDate" not in first


def test_a_displayed_figure_is_known_again_by_its_hash_and_texts(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: seen.append(data))
    figure, ax = plt.subplots()
    ax.set(xlabel="AUROC", title="Edema")
    marked = showing.display_figure(figure, tmp_path / "one")
    assert marked["sha256"] == hashlib.sha256(seen[0]["image/png"]).hexdigest()
    assert {"AUROC", "Edema"} <= set(marked["texts"]) and seen[0]["text/plain"].startswith("<Figure size")
    assert showing.display_figure(plt.figure(), tmp_path / "none") == {} and not (tmp_path / "none.png").exists()
    plt.close("all")


# --- small counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([40, 50], {}, [40, 50]),
        ([0, 50], {}, [0, 50]),
        ([4, 50, 12], {}, [H, 50, H]),  # the whole minus 50 and 12 would be 4
        ([1, 1, 50, 70], {}, [H, H, H, 70]),  # two hidden ones that sum to 2 are both 1
        ([4, 5, 6, 50], {}, [H, H, H, 50]),
        ([4, 95], {"of": 104}, [H, H]),  # 95 of 104 says 9
        ([0, 104, 50], {"of": 104}, [0, 104, 50]),
        ([100, 95, 80, 3], {"steps": True}, [100, H, 80, H]),
        ([100, 92, 91], {"steps": True}, [100, H, H]),  # both are told by the first
        ([5], {}, [H]),
    ],
)
def test_small_counts_are_hidden_with_those_that_tell_them(values, how, expected):
    table = pd.DataFrame({"patients": values, "share": 0.5})
    shown = showing.without_small_counts(table, derived=["share"], **how)
    assert shown["patients"].tolist() == expected
    assert shown["share"].tolist() == [H if value == H else 0.5 for value in expected]
    assert table["patients"].tolist() == values, "the table itself stays as it is"


def test_small_counts_within_groups_by_the_names_of_columns():
    table = pd.DataFrame({"task": ["a", "a", "b", "b"], "images": [3, 40, 50, 60], "test_rows_auroc": [0.1, 2, 3, 4]})
    shown = showing.without_small_counts(table.set_index("task"), by=["task"])
    assert shown["images"].tolist() == [H, H, 50, 60] and shown["test_rows_auroc"].tolist() == [0.1, 2, 3, 4]
    grouped = pd.DataFrame({("images", "train"): [3, 40, 50], ("auroc", "train"): [1, 2, 3]})
    assert showing.without_small_counts(grouped)["images", "train"].tolist() == [H, H, 50]


@pytest.mark.parametrize(("cohort", "hidden"), [(CREDENTIALED, True), (OPEN, False), (SIMULATED, False), (None, True)])
def test_counts_of_a_run_are_hidden_where_its_cohort_is_credentialed(run, cohort, hidden):
    run.note(cohort=cohort)
    table = pd.DataFrame({"patients": [4, 50, 60]})
    assert (run.counts(table)["patients"].tolist() == [H, H, 60]) is hidden
    assert (run.count(4), run.count(10)) == ((H if hidden else 4), 10)


def test_a_joint_cohort_permits_what_all_say_and_a_credentialed_one_nothing():
    for facts in (OPEN, SIMULATED):
        permitted = showing.permitted(facts | {"credentialed": True})
        assert permitted == {"credentialed": True} | dict.fromkeys(showing.PERMISSIONS, False)
        assert showing.joint_cohort([facts, {**facts, "credentialed": True}])["credentialed"] is True
        assert showing.joint_cohort([facts, facts])["credentialed"] is False
    assert showing.joint_cohort([SIMULATED])["simulated"] is True
    assert showing.joint_cohort([{}, None])["shareable_images"] is False
    assert showing.joint_cohort([OPEN, {**OPEN, "title": "More"}])["title"] == "Open films; More"


def test_a_run_of_several_cohorts_shows_what_all_permit(project, shown):
    references = []
    for label, cohort in (("one", SIMULATED), ("two", CREDENTIALED)):
        upstream = open_toy(run=label)
        upstream.note(cohort=cohort, data_hash=label)
        upstream.save({"v.json": {}})
        references.append(upstream.reference)
    run = open_toy("02-read-things", run="both")
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


def test_publish_writes_results_with_their_record(run):
    run.note(cohort=OPEN)
    (run.path / "pair.png").write_bytes(b"png")
    run.save({"v.json": {}}, "pair.png")
    scores = pd.DataFrame({"label": ["a", "a"], "auc": [0.5, 0.7]}).groupby("label").agg(["mean", "count"])
    run.publish("", {"never": scores})
    table = pd.DataFrame({"x": [1]})
    run.publish("toy", {"by label": scores}, text="Well.", notes=["few"], csv=table, picture="pair.png")
    results = paths.resolve("book/results")
    assert sorted(path.name for path in results.iterdir()) == ["toy.csv", "toy.json", "toy.png"]
    record = json.loads((results / "toy.json").read_text())
    assert record["title"] == "toy" and record["reference"] == run.reference and record["notes"] == ["few"]
    assert record["by label"] == [{"label": "a", "auc_mean": 0.6, "auc_count": 2}]


def test_publishing_of_credentialed_cohorts_hides_small_counts_and_refuses_rows_of_patients_and_pictures(run):
    run.note(cohort=CREDENTIALED)
    run.save({"v.json": {}})
    results = paths.resolve("book/results")
    with pytest.raises(DataError, match="holds patient_id"):
        run.publish("toy", {"rows": pd.DataFrame({"patient_id": ["1"]})})
    with pytest.raises(DataError, match="not marked shareable_images"):
        run.publish("toy", {}, picture="pair.png")
    assert not results.exists()
    run.publish("toy", {"by label": pd.DataFrame({"patients": [4, 20, 30]})}, csv=pd.DataFrame({"images": [3, 90]}))
    record = json.loads((results / "toy.json").read_text())
    assert [row["patients"] for row in record["by label"]] == [H, H, 30]
    assert pd.read_csv(results / "toy.csv")["images"].tolist() == [H, H]
