"""No label name may survive removal, in whatever form a report writes it."""

import pytest

from pkd_utils.cohorts import load_cohort, mimic_cxr, openi
from pkd_utils.cohorts.label_terms import LABEL_TERMS, remove_label_terms, surviving_terms
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
        for replacement in ("", "[MASK]"):
            cleaned = remove_label_terms(text, [label], replacement)
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


def test_names_only_keeps_synonyms():
    text = "Cardiomegaly. The heart is enlarged."
    assert remove_label_terms(text, ["Cardiomegaly"], synonyms=False) == "The heart is enlarged."
    assert remove_label_terms(text, ["Cardiomegaly"]) == ""
    assert surviving_terms("The heart is enlarged.", ["Cardiomegaly"], synonyms=False) == []


def test_removal_may_bring_a_term_together():
    text = "enlarged effusion heart, cardio atelectasis megaly"
    assert surviving_terms(remove_label_terms(text, FIVE), FIVE) == []


def test_replacement_and_refusals():
    assert remove_label_terms("Mild edema is seen.", ["Edema"], "[MASK]") == "Mild [MASK] is seen."
    with pytest.raises(DataError, match="is itself a term"):
        remove_label_terms("Mild edema.", ["Edema"], "EDEMA")
    with pytest.raises(DataError, match="No terms are listed for label Hernia"):
        surviving_terms("text", ["Hernia"])


def test_every_label_of_the_text_sources_is_listed():
    assert set(FIVE) | set(OPENI_LABELS) | {"No Finding", "Lung Opacity"} <= set(LABEL_TERMS)
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
