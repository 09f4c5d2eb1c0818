"""No label name may survive removal, in whatever form a report writes it."""

import pytest

from pkd_utils.cohorts import covid_chestxray, load_cohort, mimic_cxr, openi
from pkd_utils.cohorts.label_terms import LABEL_TERMS, remove_label_terms, sentences_with_holes, surviving_terms
from pkd_utils.runs.errors import DataError
from tests.cohorts import fixtures

FIVE = mimic_cxr.LABELS

# Of every label its name in all forms, and synonyms; written out by hand, not derived from the list under test.
MENTIONS = {
    "Atelectasis": (
        "atelectasis, atelectases, atelectatic, subsegmental-atelectasis",
        "atx, lobar collapse, volume loss",
    ),
    "Cardiomegaly": (
        "cardiomegaly, cardio-megaly, cardiomegalic",
        "LV enlargement, enlarged heart, cardiac enlargement, heart is enlarged, cardiac silhouette is enlarged, "
        "enlargement of the cardiac silhouette, heart size is mildly enlarged, heart is borderline in size, "
        "cardiomediastinal silhouette remains moderately enlarged",
    ),
    "Consolidation": (
        "consolidation, consolidations, consolidative, consolidated, non-consolidated",
        "consol, air space disease, airspace disease",
    ),
    "Edema": (
        "edema, oedema, edematous, œdema",
        "CHF, congestion, vascular congestion, pulmonary venous congestion, congestive heart failure, fluid overload, "
        "engorgement of the pulmonary vessels",
    ),
    "Enlarged Cardiomediastinum": (
        "enlarged cardiomediastinum, cardiomediastinal enlargement",
        "wide mediast, mediastinal widening",
    ),
    "Fracture": ("fracture, fractured", "fx, broken"),
    "Lung Lesion": ("lung lesion, lesions", "SPN, nodule"),
    "Lung Opacity": ("lung opacity, opacified", "GGO, infiltrate"),
    "No Finding": (
        "no finding, no acute findings, no acute cardiopulmonary findings",
        "WNL, unremarkable, within normal limits",
    ),
    "Pleural Effusion": (
        "pleural effusion, effusions",
        "pl eff, pleural fluid, fluid in the pleural space, hydropneumothorax",
    ),
    "Pleural Other": ("pleural thickening, thickened pleura", "pl thickening, fibrothorax"),
    "Pneumonia": ("pneumonia, pneumonic", "PNA, infection"),
    "Pneumothorax": ("pneumothorax, pneumothoraces", "PTX, pleural air"),
    "Support Devices": ("support device, supporting devices", "ETT, pacemaker"),
    "Opacity": (
        "opacity, opacities, opacification, opacified, infiltrates, airspace disease",
        "GGO, ground glass, ground-glass",
    ),
    "Abnormal": ("abnormal, normal, abnormalities, normally, no acute finding, no findings", "WNL, unremarkable"),
    "COVID-19": (
        "COVID-19, covid19, covid 19, COVID-2019, coronavirus, corona virus, coronavirus disease 2019, coronavirus 2, "
        "coronavirus disease-19, 2019 novel coronavirus, SARS-CoV-2, SARS CoV 2, SARSCoV2, 2019-nCoV, nCoV 2019, "
        "nCoV-19",
        "rt-PCR",
    ),
    "went_icu": ("ICU, intensive care unit, intensive-care, critical care", "ITU, HDU"),
    "intubated": ("intubated, intubation, reintubated", "extubation, mechanical ventilation, endotracheal tube"),
    "death": ("died, death, deceased", "expired, passed away, survived, discharge, recovered"),
}
CASES = [
    (label, mention, kind == 0)
    for label, kinds in MENTIONS.items()
    for kind, mentions in enumerate(kinds)
    for mention in mentions.split(", ")
]


def _variants(mention):
    """Yield the ways a report may write a mention."""
    yield from (mention, mention.upper(), mention.title(), f"{mention}.")
    yield from (f"({mention})", f"/{mention}/", f"_{mention}_")
    yield from (mention.replace(" ", joint) for joint in ("\n", "\n ", "  ", "-", " - ", "\u00a0", "\u2011", "/"))
    middle = len(mention) // 2
    if mention[middle - 1 : middle + 1].isalpha():
        joints = ("-\n", "- \n ", "\n", "\u00ad", "\u2010\n")
        yield from (mention[:middle] + joint + mention[middle:] for joint in joints)


@pytest.mark.parametrize(("label", "mention", "name"), CASES)
def test_no_variant_survives_and_every_mode_takes_what_it_says(label, mention, name):
    for variant in _variants(mention):
        text = f"Stable lungs. There is {variant} on the left, since March."
        assert surviving_terms(text, [label]), f"{variant!r} is not seen"
        cleaned = remove_label_terms(text, [label])
        assert not surviving_terms(cleaned, [label])
        first = " ".join(variant.split())
        assert first.lower() not in cleaned.lower().replace("on the left, since march", "")
        assert not any(character.isdigit() for character in cleaned)  # a number of the name tells the label
        assert "Stable lungs." in cleaned
    text = f"Made up. Mild {mention} on the left. More words."
    assert bool(surviving_terms(text, [label], "names")) == name
    left = remove_label_terms(text, [label])
    assert remove_label_terms(text, [label], mode="names") == (left if name else text)
    assert remove_label_terms(text, [label], mode="sentences") == "Made up. More words."
    outcome = label in covid_chestxray.DEFAULT_LABELS  # "unit" or "tube" alone still tells it
    if outcome or surviving_terms(mention, [label]) == [mention]:  # it is one term, and nothing else
        assert left == "Made up. Mild on the left. More words."


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


LIST = "1. No effusion. 2. Stable scar. 3. Crowding, atelectasis. . 4.Nodule of 1.5 cm."


@pytest.mark.parametrize(
    ("text", "mode", "left"),
    [  # neither numbers nor marks tell that a term stood there
        (LIST, "sentences", "Stable scar. Nodule of 1.5 cm."),
        (LIST, "names", "Stable scar. Crowding. Nodule of 1.5 cm."),
        ("Clear. . 1. Stable scar.\n2. Clips (Fig. 3).", "names", "Clear. Stable scar. Clips (Fig. 3)."),
        ("No bony change. 1. No effusion.", "sentences", "No bony change."),
        ("1. No effusion. .", "sentences", ""),
        ("Subsegmental atelectasis/scarring, non-edematous.", "names", "Subsegmental scarring, non."),
        ("RT-PCR -ve; left-to-right shunt.", "names", "RT-PCR -ve; left-to-right shunt."),
    ],
)
def test_what_is_left_has_no_gap_that_tells(text, mode, left):
    assert remove_label_terms(text, FIVE, mode) == left


def test_every_label_has_terms():
    every = {*mimic_cxr.ALL_LABELS, *openi.LABELS}
    assert every <= set(MENTIONS) and every | {*covid_chestxray.DEFAULT_LABELS, "survival"} <= set(LABEL_TERMS)


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
        *("On the right, there is scarring.", "Stable in appearance.", "Unchanged from prior."),
        *("A small nodule, 3 mm.", "There is a moderate right pleural effusion.", "Lungs are clear bilaterally."),
    ],
)
def test_a_whole_sentence_has_no_hole(whole):
    assert sentences_with_holes(whole) == 0


def test_removal_may_bring_a_term_together():
    text = "enlarged effusion heart, cardio atelectasis megaly"
    assert surviving_terms(remove_label_terms(text, FIVE), FIVE) == []


def test_refusals():
    with pytest.raises(
        DataError,
        match=r"No terms are listed for label Hernia; list them in LABEL_TERMS of .*, or .* \(label_names: kept\)",
    ):
        surviving_terms("text", ["Hernia"])
    with pytest.raises(DataError, match=r"No terms are listed for label \(none given\)"):
        surviving_terms("text", [])
    with pytest.raises(DataError, match="not removed by 'words'; choose one of names, names_and_synonyms, sentences"):
        remove_label_terms("text", ["Edema"], mode="words")


def test_headings_of_openi_do_not_survive_in_text(tmp_path):
    # A coder's heading that stands in the text verbatim must go as well.
    for label, rules in openi.LABEL_HEADINGS.items():
        for heading, qualifier in rules:
            text = f"Mild {heading} {qualifier or ''} is seen."
            assert heading not in remove_label_terms(text, [label])
    cohort = load_cohort("openi", fixtures.write_openi(tmp_path))
    texts = [remove_label_terms(text, cohort.labels) for text in cohort.privileged["text"]]
    assert not any(surviving_terms(text, cohort.labels) for text in texts)
