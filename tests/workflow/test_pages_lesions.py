"""Stored arms of mmpkd/05: a figure on the page of results, and the home page's paragraph."""

from pkd_utils.runs import files
from workflow.publish.pages import forests, lesions, results

ROW = {"cohort": "breast_usg", "metric": "macro AUROC", "method": "mmpkd", "against": "baseline"}
RESULT = {
    "title": "Lesions",
    "text": "0 of 3.",
    "notes": ["Obj. AUROC: 0.6 to 0.7.", "Prediction: macro AUROC 0.61 to 0.62.", "Another."],
    lesions.ARMS: [ROW | {"estimate": 0.01, "low": -0.02, "high": 0.04}],
}


def test_stored_arms_are_drawn_on_both_pages(tmp_path):
    stored = tmp_path / lesions.STORED
    assert "No result on real lesions" in lesions.finding(stored, tmp_path)
    files.write_json(stored, RESULT)
    files.write_json(tmp_path / "without.json", {"title": "W", lesions.ARMS: []})
    drawn = forests.drawn(sorted(tmp_path.glob("*.json")), tmp_path)
    assert list(drawn) == [stored.stem] and (tmp_path / f"{stored.stem}-arms.png").is_file()
    page = results.results_page("", [stored], drawn)
    figure = page.index("```{image} breast-usg-biopsied-arms.png\n:alt: Lesions")
    assert figure < page.index("- Another.") < page.index("macro AUROC | mmpkd")
    home = lesions.finding(stored, tmp_path)
    assert "**0 of 3.**" in home and "0.61 to 0.62" in home and "Another" not in home
    places = [home.index(words) for words in ("primary endpoint", "Prediction: ", "Obj. AUROC: ", "**0 of 3.**")]
    assert places == sorted(places)
    assert "{image} _generated/breast-usg-biopsied-arms.png" in home
