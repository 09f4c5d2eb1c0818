"""No label name may survive removal, in whatever form a report writes it."""

import pytest

from pkd_utils.cohorts import load_cohort, mimic_cxr, openi
from pkd_utils.cohorts.label_terms import (
    LABEL_TERMS,
    remove_label_terms,
    sentences_with_holes,
    surviving_terms,
)
from pkd_utils.cohorts.openi import LABELS as OPENI_LABELS
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures

FIVE = mimic_cxr.LABELS

# Written out by hand, not derived from the list under test.
MENTIONS = {
    "Atelectasis": "atelectasis, atelectases, atelectatic, subsegmental-atelectasis, lobar collapse, volume loss",
    "Cardiomegaly": (
        "cardiomegaly, cardio-megaly, cardiomegalic, enlarged heart, cardiac enlargement, heart is enlarged, "
        "cardiac silhouette is enlarged, enlargement of the cardiac silhouette, heart size is mildly enlarged, "
        "cardiomediastinal silhouette remains moderately enlarged, heart is borderline in size"
    ),
    "Consolidation": (
        "consolidation, consolidations, consolidative, consolidated, non-consolidated, air space disease"
    ),
    "Edema": (
        "edema, oedema, edematous, œdema, vascular congestion, pulmonary venous congestion, CHF, "
        "congestive heart failure, fluid overload, engorgement of the pulmonary vessels"
    ),
    "Pleural Effusion": "pleural effusion, effusions, pleural fluid, fluid in the pleural space, hydropneumothorax",
    "Opacity": "opacity, opacities, opacification, opacified, infiltrates, airspace disease, ground-glass",
    "Abnormal": "abnormal, normal, abnormalities, normally, no acute finding, unremarkable, no findings",
    "No Finding": "no finding, no acute cardiopulmonary findings, within normal limits",
    "COVID-19": "COVID-19, covid19, coronavirus, corona virus, SARS-CoV-2, 2019-nCoV, SARS CoV 2",
    "went_icu": "ICU, intensive care unit, intensive-care, critical care",
    "intubated": "intubated, intubation, reintubated, extubation, mechanical ventilation, endotracheal tube",
    "death": "died, death, deceased, expired, passed away, survived",
}


def _variants(mention):
    """Yield the ways a report may write a mention."""
    yield from (mention, mention.upper(), mention.title(), f"{mention}.")
    yield from (f"({mention})", f"/{mention}/", f"_{mention}_")
    yield from (mention.replace(" ", joint) for joint in ("\n", "\n ", "  ", "-", " - ", "\u00a0", "\u2011", "/"))
    middle = len(mention) // 2
    if mention[middle - 1 : middle + 1].isalpha():
        joints = ("-\n", "- \n ", "\n", "\u00ad", "\u2010\n")
        yield from (mention[:middle] + joint + mention[middle:] for joint in joints)


CASES = [(label, mention) for label, mentions in MENTIONS.items() for mention in mentions.split(", ")]


@pytest.mark.parametrize(("label", "mention"), CASES, ids=[f"{a}: {b}" for a, b in CASES])
def test_no_variant_survives(label, mention):
    for variant in _variants(mention):
        text = f"Stable tubes. There is {variant} on the left, since March."
        assert surviving_terms(text, [label]), f"{variant!r} is not seen"
        cleaned = remove_label_terms(text, [label])
        assert not surviving_terms(cleaned, [label])
        first = " ".join(variant.split())
        assert first.lower() not in cleaned.lower().replace("on the left, since march", "")
        assert "Stable tubes." in cleaned


STAYS = "Heart size is stable. Left basilar density since ___, 3 cm. Cardiac pacemaker. Pleural thickening."
NO_FINDING = "No acute cardiopulmonary findings. No acute disease. Normal chest. Clips in the right axilla."


@pytest.mark.parametrize(
    ("text", "labels", "left"),
    [  # no bare negation is left, and other words stay
        ("No pleural effusion.", FIVE, ""),
        ("No effusion or atelectasis", FIVE, ""),
        ("There is no evidence of edema.", FIVE, ""),
        (NO_FINDING, ["No Finding"], "chest. Clips in the right axilla."),
        (STAYS, FIVE, STAYS),
        ("Small effusion, unchanged; scar.", FIVE, "Small unchanged; scar."),
    ],
)
def test_what_is_left(text, labels, left):
    assert remove_label_terms(text, labels) == left


# Of every label: its name, a plural or adjective, an abbreviation, a synonym. The first two are its own words.
TABLE = {
    "Atelectasis": ("atelectasis", "atelectatic", "atx", "volume loss"),
    "Cardiomegaly": ("cardiomegaly", "cardiomegalic", "LV enlargement", "enlarged heart"),
    "Consolidation": ("consolidation", "consolidative", "consol", "airspace disease"),
    "Edema": ("edema", "edematous", "CHF", "congestion"),
    "Enlarged Cardiomediastinum": (
        *("enlarged cardiomediastinum", "cardiomediastinal enlargement", "wide mediast", "mediastinal widening"),
    ),
    "Fracture": ("fracture", "fractured", "fx", "broken"),
    "Lung Lesion": ("lung lesion", "lesions", "SPN", "nodule"),
    "Lung Opacity": ("lung opacity", "opacified", "GGO", "infiltrate"),
    "No Finding": ("no finding", "no acute findings", "WNL", "unremarkable"),
    "Pleural Effusion": ("pleural effusion", "effusions", "pl eff", "pleural fluid"),
    "Pleural Other": ("pleural thickening", "thickened pleura", "pl thickening", "fibrothorax"),
    "Pneumonia": ("pneumonia", "pneumonic", "PNA", "infection"),
    "Pneumothorax": ("pneumothorax", "pneumothoraces", "PTX", "pleural air"),
    "Support Devices": ("support device", "supporting devices", "ETT", "pacemaker"),
    "Opacity": ("opacity", "infiltrates", "GGO", "ground glass"),
    "Abnormal": ("abnormal", "abnormalities", "WNL", "unremarkable"),
}


@pytest.mark.parametrize("label", TABLE)
def test_every_mode_takes_what_it_says(label):
    for kind, mention in enumerate(TABLE[label]):
        text = f"Made up. Mild {mention} on the left. More words."
        assert bool(surviving_terms(text, [label], "names")) == (kind < 2), mention
        left = remove_label_terms(text, [label], mode="names")
        assert left == (remove_label_terms(text, [label]) if kind < 2 else text), mention
        assert remove_label_terms(text, [label]) == "Made up. Mild on the left. More words."
        assert remove_label_terms(text, [label], mode="sentences") == "Made up. More words."


def test_all_of_chexpert_is_in_the_table():
    assert set(mimic_cxr.ALL_LABELS) | set(OPENI_LABELS) == set(TABLE) and set(TABLE) <= set(LABEL_TERMS)


@pytest.mark.parametrize(
    "remnant",
    [
        *("There is a moderate right.", "No .", "Stable mild .", "No or pneumothorax.", "Mild in the lower lobes."),
        *("Clips. There is small at the base.", "evidence of in the lungs", "A small left-sided and a nodule."),
        *("No acute cardiopulmonary.", "Clear of or.", "Small, unchanged; clips."),
    ],
)
def test_a_qualifier_without_its_noun_is_a_hole(remnant):
    assert sentences_with_holes(remnant) == 1
    assert sentences_with_holes(f"{remnant} Heart size is stable. {remnant}") == 2


@pytest.mark.parametrize(
    "whole",
    [
        *("", "The heart size is mildly enlarged.", "Left and right lungs are clear.", "No pleural effusion."),
        *(
            "On the right, there is scarring.",
            "Stable in appearance.",
            "Unchanged from prior.",
            "A small nodule, 3 mm.",
        ),
        *("There is a moderate right pleural effusion.", "Lungs are clear bilaterally."),
    ],
)
def test_a_whole_sentence_has_no_hole(whole):
    assert sentences_with_holes(whole) == 0


def test_removal_may_bring_a_term_together():
    text = "enlarged effusion heart, cardio atelectasis megaly"
    assert surviving_terms(remove_label_terms(text, FIVE), FIVE) == []


def test_refusals():
    with pytest.raises(DataError, match="No terms are listed for label Hernia"):
        surviving_terms("text", ["Hernia"])
    with pytest.raises(DataError, match=r"No terms are listed for label \(none given\)"):
        surviving_terms("text", [])
    with pytest.raises(DataError, match="not removed by 'words'; choose one of names, names_and_synonyms, sentences"):
        remove_label_terms("text", ["Edema"], mode="words")


def test_every_label_of_the_notes_is_listed():
    assert {"went_icu", "in_icu", "intubated", "death", "survival", "COVID-19"} <= set(LABEL_TERMS)


def test_headings_of_openi_do_not_survive_in_text(tmp_path):
    # A coder's heading that stands in the text verbatim must go as well.
    for label, rules in openi.LABEL_HEADINGS.items():
        for heading, qualifier in rules:
            text = f"Mild {heading} {qualifier or ''} is seen."
            assert heading not in remove_label_terms(text, [label])
    cohort = load_cohort("openi", fixtures.write_openi(tmp_path))
    assert all(
        not surviving_terms(remove_label_terms(t, cohort.labels), cohort.labels) for t in cohort.privileged["text"]
    )
