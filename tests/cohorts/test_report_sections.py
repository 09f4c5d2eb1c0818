"""Sections of reports in MIMIC-CXR's format; every text is made up."""

import zipfile

import pandas as pd
import pytest

from pkd_utils.cohorts.report_sections import read_reports, report_text, section_name, split_sections
from pkd_utils.runs.errors import DataError
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


ADDENDUM = HEAD.replace("REPORT", "ADDENDUM")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (f"{HEAD} CONCLUSION:  A.\n", ("A.", "impression")),
        (f"{HEAD} CHEST, TWO VIEWS:  A.\n \n IMPRSSION:  B.\n", ("A.\nB.", "findings+impression")),
        (f"{HEAD} FINDINGS:\n \n IMPRESSION:  B.\n", ("B.", "impression")),  # empty findings
        (f"{HEAD} IMPRESSION: A.\n IMPRESSION: B.\n", ("B.", "impression")),  # the last counts
        (f"{HEAD} INDICATION:  Cough.\n \n Clear.\n \n All is well.\n", ("Clear. All is well.", "last_paragraph")),
        (f"{HEAD} \n Lungs are clear.\n", ("Lungs are clear.", "last_paragraph")),
        (f"{HEAD} INDICATION:  Cough.\n COMPARISON:  None.\n", ("None.", "comparison")),
        (f"{HEAD} INDICATION:  Cough.\n", ("", "")),
        (HEAD, ("", "")),
        ("", ("", "")),
        (f"{HEAD} findings: no capitals, so no header.\n", ("findings: no capitals, so no header.", "last_paragraph")),
        (f"{HEAD} IMPRESSION: In ___:  B.\n".replace("\n", "\r\n"), ("In ___: B.", "impression")),
        # An addendum comes last, and its rule goes.
        (f"{HEAD} IMPRESSION:  A.\n{'_' * 78}\n{ADDENDUM} IMPRESSION:  B ___.\n", ("B ___.", "impression")),
    ],
)
def test_report_text(report, expected):
    assert report_text(report) == expected


@pytest.mark.parametrize(
    ("body", "sections", "expected"),
    [
        ("FINDINGS: A.\n IMPRESSION: B.", ["impression"], ("B.", "impression")),  # it is there
        ("INDICATION: Cough.\n IMPRESSION: B.", ["indication"], ("Cough.", "indication")),
        ("FINDINGS: Clear.\n COMPARISON: None.", ["impression"], ("Clear.", "findings")),
        ("IMPRESSION: Clear.\n COMPARISON: None.", ["findings"], ("Clear.", "impression")),
        ("FINDINGS: Clear.\n COMPARISON: None.", ["indication", "impression"], ("Clear.", "findings")),
        ("COMPARISON: None.\n \n Clear.", ["impression"], ("Clear.", "last_paragraph")),
        # What was written before the film was read has no stand-in: nothing after it may pass for it.
        ("FINDINGS: Clear.\n IMPRESSION: Clear.", ["indication"], ("", "")),
        ("FINDINGS: Clear.\n COMPARISON: None.", ["indication", "comparison"], ("None.", "comparison")),
    ],
)
def test_what_stands_in_for_a_section_that_is_not_there(body, sections, expected):
    assert report_text(f"{HEAD} {body}\n", sections) == expected


@pytest.mark.parametrize(
    ("sections", "words"),
    [(["finding"], "sections = 'finding'"), ("findings", "sections = 'findings'"), ([], "No section is asked for")],
)
def test_sections_that_no_report_has(sections, words):
    with pytest.raises(DataError, match=f"^{words}: give a list of some of impression, findings, "):
        report_text(mimic_report(1), sections)


# Spellings that stand in MIMIC-CXR's reports or are like them, by the section that the public parser or, below the
# comment in each text, only these rules give them.
SPELLINGS = {
    "impression": (
        "IMPRESSION; IMPRESSON; IMPRRESSION; IMORESSION; IMPRESSOIN; IMPRSSION; IMPRESION; IMPERSSION; MPRESSION; "
        "IMPESSION; FIMPRESSION; IMPRESSIONS; FINAL IMPRESSION; CONCLUSION; IMPRESSION AND ADVICE; "
        "IMPRESSION/RECOMMENDATION; IMPRESSION AND PLAN; FINDINGS AND IMPRESSION; FINDINGS/IMPRESSION; FINDINGS/ "
        "IMPRESSION; IMPRESSION (PRELIMINARY); IMPRESSIONAND RECOMMENDATIONS; "
        # beyond it
        "CONCLUSIONS; CONCULSION; OPINION; IMP; FINDINGS/IMPRESION; FINDINGS & IMPRESSION; IMPRESSION #2"
    ),
    "findings": (
        "FINDINGS; FINDING; FINDINS; FINDINDGS; FINDGINGS; FINDNGS; FINDNINGS; FINIDNGS; CHEST FINDINGS; "
        "REFERENCE FINDINGS; CHEST; CHEST, TWO VIEWS; CHEST, PA AND LATERAL; PORTABLE AP CHEST; PORTABLE UPRIGHT "
        "RADIOGRAPH OF THE CHEST; PA AND LATERAL; PA AND LAT; AP AND LATERAL; LEFT RIBS; SINGLE FRONTAL VIEW; ONE "
        "VIEW; FRONTAL SEMI-UPRIGHT PORTABLE CHEST; PORTABLE ABDOMEN; BONE WINDOWS; CHEST RADIOGRAPHS; SUPINE "
        "CHEST; BEDSIDE AP RADIOGRAPH OF THE CHEST; CHEST EXAMINATION; TECHNIQUE PA AND LATERAL VIEWS OF THE "
        "CHEST; "
        # beyond it
        "FINSINGS; FINDIGNS; FINGDINGS; PA & LATERAL VIEW OF THE CHEST; CHEST, 2 VIEWS; CHEST ON ___; AP; AP "
        "SUPINE; UPRIGHT RADIOGRAPH; LORDOTIC POSITIONING; REPORT"
    ),
    "comparison": (
        "COMPARISON; COMPARISONS; COMPARISION; COMPARSION; COMPARRISON; COMPARISIONS; REFERENCE EXAM; COMPARISON "
        "EXAM; COMPARISON CHEST RADIOGRAPH"
    ),
    "indication": (
        "INDICATION; IDICATION; REASON FOR EXAMINATION; REASON FOR EXAM; HISTORY; CLINICAL HISTORY; CLINICAL "
        "INFORMATION; CLINICAL INDICATION; PATIENT HISTORY; "
        # beyond it
        "NDICATION; INDCATION; INDICATIONS; REASON FORE EXAM; REASON FOR CHEST X-RAY"
    ),
    "examination": "EXAMINATION; EXAM; TYPE OF EXAMINATION; TYPE OF THE EXAMINATION; EXAMINTION",
    "technique": "TECHNIQUE; TECHNQUE",
    "recommendation": "RECOMMENDATION; RECOMMENDATIONS; RECOMMENDATION(S)",
    "notification": "NOTIFICATION",
    "addendum": "ADDENDUM",
    "wet read": "WET READ; WETREAD; PFI",
    "compression": "COMPRESSION",
}
SPELLINGS = {section: names.split("; ") for section, names in SPELLINGS.items()}


@pytest.mark.parametrize("section", SPELLINGS)
def test_spellings_of_headers(section):
    assert sum(map(len, SPELLINGS.values())) > 100
    for header in SPELLINGS[section]:
        assert section_name(header)[0] == section, header
        sections = split_sections(f"{HEAD} {header}:  Clear.\n \n COMPARISON: Old.\n")
        assert sections[section] == ("Old." if section == "comparison" else "Clear."), header
        if section in ("findings", "impression"):
            assert report_text(f"{HEAD} {header}:\n \n Lungs are\n clear.\n") == ("Lungs are clear.", section), header


LOST = {
    "no header at all": " Lungs are clear.\n \n Heart is normal.\n \n Dr. ___ was called at 9 p.m.\n",
    "only an indication": " INDICATION: Cough.\n \n Lungs are clear.\n \n Heart is normal.\n \n Dr. ___ was called.\n",
    "a call with a header": " Lungs are clear. Heart is normal.\n \n NOTIFICATION: Dr. ___ was called.\n",
    "before a call": " INDICATION: Cough.\n \n Lungs are clear. Heart is normal.\n \n NOTIFICATION: Dr.\n",
    "an unknown name": " INDICATION: Cough.\n \n PAINTING: Lungs are clear. Heart is normal.\n",
    "unknown names in findings": " FINDINGS:\n \n LUNGS: Lungs are clear.\n HEART: Heart is normal.\n",
    "unknown names in findings with a text": " FINDINGS: Lungs are clear.\n \n HEART: Heart is normal.\n",
    "unknown names in an impression": " IMPRESSION: Lungs are clear.\n COMMENT: Heart is normal.\n",
    "two titles": " CHEST, TWO VIEWS: Lungs are clear.\n \n LEFT RIBS: Heart is normal.\n",
    "a title after findings": " FINDINGS: Lungs are clear.\n \n LATERAL VIEW: Heart is normal.\n",
    "line by line": " CHEST:\n INDICATION: Cough.\n FINDINGS:\n IMPRESSION:\n Lungs are clear. Heart is normal.\n",
    "no space after the colon": " INDICATION:Cough.\n IMPRESSION:Lungs are clear. Heart is normal.\n",
    "no space or more before the header": "INDICATION: Cough.\n   IMPRESSION: Lungs are clear. Heart is normal.\n",
    "an addendum alone": " ADDENDUM: Lungs are clear. Heart is normal.\n",
    "a title above a comparison": " AP CHEST, 9:42 A.M.\n \n COMPARISON: Lungs are clear. Heart is normal.\n",
}


@pytest.mark.parametrize("case", LOST)
def test_no_text_is_lost(case):
    text, _ = report_text(HEAD + LOST[case])
    assert "Lungs are clear." in text and "Heart is normal." in text, text
    assert "Cough" not in text and "A.M." not in text


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_archive_is_seen_beside_the_pictures(tmp_path, elsewhere):
    studies = pd.DataFrame({"study_id": ["50000001", "50000002"], "patient_id": ["10000032", "10000032"]})
    folder = "files/p10/p10000032"
    (tmp_path / folder / "s50000001").mkdir(parents=True)  # of the pictures
    with zipfile.ZipFile(tmp_path / "mimic-cxr-reports.zip", "w") as archive:
        for study in studies["study_id"]:
            archive.writestr(f"{folder}/s{study}.txt", mimic_report(7))
    if elsewhere:  # unpacked ones come first
        for study in studies["study_id"]:
            (tmp_path / folder / f"s{study}.txt").write_text(mimic_report(8))
    texts = read_reports(tmp_path, studies, ("findings",))["text"]
    assert texts.tolist() == [f"Made-up finding number {8 if elsewhere else 7}. Lungs are clear."] * 2
