"""Sections of reports in MIMIC-CXR's format; every text is made up."""

import pytest

from pkd_utils.cohorts.report_sections import SECTION_NAMES, report_text, split_sections
from tests.cohorts.fixtures import mimic_report

HEAD = "                                 FINAL REPORT\n"


def test_sections_of_a_common_report():
    sections = split_sections(mimic_report(7))
    assert sections == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "___F with cough // ? pneumonia",
        "comparison": "None.",
        "findings": "Made-up finding number 7. Lungs are clear.",
        "impression": "No acute cardiopulmonary process.",
    }


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (f"{HEAD} CONCLUSION:  A.\n", ("A.", "impression")),
        (f"{HEAD} CHEST, TWO VIEWS:  A.\n \n IMPRSSION:  B.\n", ("A.\nB.", "findings+impression")),
        (f"{HEAD} FINDINGS:\n \n IMPRESSION:  B.\n", ("B.", "impression")),  # empty findings
        (f"{HEAD} IMPRESSION: A.\n IMPRESSION: B.\n", ("B.", "impression")),  # the last counts
        (f"{HEAD} INDICATION:  Cough.\n \n Lungs are clear.\n \n All is well.\n", ("All is well.", "last_paragraph")),
        (f"{HEAD} \n Lungs are clear.\n", ("Lungs are clear.", "last_paragraph")),
        (f"{HEAD} INDICATION:  Cough.\n COMPARISON:  None.\n", ("None.", "comparison")),
        (f"{HEAD} INDICATION:  Cough.\n", ("", "")),
        (HEAD, ("", "")),
        ("", ("", "")),
        (f"{HEAD} findings: no capitals, so no header.\n", ("findings: no capitals, so no header.", "last_paragraph")),
        (f"{HEAD} IMPRESSION: In ___:  B.\n".replace("\n", "\r\n"), ("In ___: B.", "impression")),
    ],
)
def test_report_text(report, expected):
    assert report_text(report) == expected


def test_addendum_comes_last_and_its_rule_goes():
    addendum = HEAD.replace("REPORT", "ADDENDUM")
    report = f"{HEAD} IMPRESSION:  First.\n{'_' * 78}\n{addendum} IMPRESSION:  Second ___.\n"
    assert report_text(report) == ("Second ___.", "impression")


def test_only_the_wanted_sections():
    assert report_text(mimic_report(1), ("impression",)) == ("No acute cardiopulmonary process.", "impression")
    assert report_text(mimic_report(1), ("indication",))[1] == "indication"


def test_names_are_in_the_form_that_is_looked_up():
    assert all(name == " ".join(name.lower().split()) for name in SECTION_NAMES)
