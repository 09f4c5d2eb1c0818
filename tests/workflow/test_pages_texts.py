"""Stored results of the reports study on Open-i, one a text: one figure, one section."""

import pandas as pd
import pytest

from pkd_utils.runs import files
from workflow.publish.pages import texts


def result(gain: float) -> dict:
    scores = [{"task": "five", "method": method, "mean": 0.7 + gain} for method in texts.ALONE]
    ends = {"low": 0.0, "high": 0.0, "low_corrected": gain - 0.01, "high_corrected": gain + 0.01}
    row = {"task": "five", "p_holm": 0.01 if gain > 0 else 1.0, "seeds": 5, **ends}
    rows = [row | {"method": "report_distilled", "against": c, "difference": gain} for c in texts.CONTROLS]
    rows.append(row | {"method": "teacher", "against": "image_only", "difference": 0.3})
    return {"scores": scores, "differences": rows, "parameters": {"notes": ["Seen before."]}, "commit": "abc"}


def test_texts_are_told_in_one_section_from_whole_to_another_patients(tmp_path):
    assert texts.section([], tmp_path) == ""
    for text, gain in (("other_patient", -0.02), ("whole", 0.05)):
        files.write_json(tmp_path / f"{texts.PREFIX}{text}.json", result(gain))
    row = {"title": "Five", "source": "report", "auc": 0.99, "chance": 0.861, "bits": 1.0}
    row |= {f"{name}_{end}": 0.0 for name in ("auc", "bits") for end in ("low", "high")}
    files.write_json(tmp_path / texts.RELATIONS, {"relations": [row]})
    page = texts.section(sorted(tmp_path.glob("*.json")), tmp_path)
    assert "of 8 differences 4 lie above zero" in page and "- Seen before." in page and "abc" in page
    assert "No result is stored of: names removed" in page and "{image} openi-reports.png" in page
    assert page.index("| whole ") < page.index("| other_patient ")
    assert "guessing by frequency has Five 0.861" in page
    assert (tmp_path / "openi-reports.png").is_file()


def test_every_mark_stands_at_its_text_and_difference(tmp_path):
    table = texts.gains({"whole": result(0.05), "indication": result(-0.02)})
    (ax,) = texts.gain_figure(table).axes
    marks = pd.DataFrame({line.get_label(): line.get_xdata() for line in ax.lines if "minus" in line.get_label()})
    assert len(marks.columns) == 4 and (marks.iloc[0] == 0.05).all() and (marks.iloc[1] == -0.02).all()
    ends = [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()]
    assert ends == [pytest.approx([0.04, 0.06]), pytest.approx([-0.03, -0.01])]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["whole", "indication"]


def test_a_note_that_some_texts_lack_names_those_that_have_it():
    notes = {"whole": ["all", "ten"], "names_removed": ["all", "five"]}
    results = {name: {"parameters": {"notes": said}} for name, said in notes.items()}
    assert texts.notes_of(results) == ["all", "whole: ten", "names removed: five"]
