"""Reports in MIMIC-CXR's format from a study's state, and labels that a noisy labeller reads off the report.

Two things are drawn apart. *What is asserted* (positive, uncertain, negative or not mentioned, per label) depends on
the state, never on `informativeness`: the labels of a cohort are the same for every value. *How much is told about it*
(severity, side, lobe, supporting signs, change, traces below the threshold, clinical history) grows with
`informativeness`: each such detail is told with that probability.
"""

import re
import textwrap
from dataclasses import dataclass

import numpy as np

from pkd_utils.demo.chest.causal import Patient, Study, visible
from pkd_utils.demo.chest.findings import FINDINGS

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
_STREAM_ASSERT, _STREAM_WORDS, _STREAM_LABELLER = 11, 12, 13
_NEGATED = {  # how often an absent finding is denied rather than passed over
    "Atelectasis": 0.10,
    "Cardiomegaly": 0.65,
    "Consolidation": 0.65,
    "Edema": 0.45,
    "Pleural Effusion": 0.80,
}
_NOUNS = {
    "Atelectasis": ("{sev}{site}atelectasis", "{sev}{site}linear atelectasis", "{sev}volume loss and atelectasis{at}"),
    "Cardiomegaly": ("{sev}cardiomegaly", "{sev}enlargement of the cardiac silhouette", "{sev}cardiac enlargement"),
    "Consolidation": ("{sev}{site}consolidation", "{sev}focal consolidation{at}", "{sev}airspace consolidation{at}"),
    "Edema": ("{sev}pulmonary edema", "{sev}interstitial edema", "{sev}pulmonary vascular congestion and edema"),
    "Pleural Effusion": ("{sev}{site}pleural effusion", "{sev}pleural effusion{at}", "{sev}{site}pleural fluid"),
}
_OPACITY = {
    "Atelectasis": "{sev}{site}basilar opacity reflecting atelectasis",
    "Consolidation": "{sev}opacity{at} consistent with consolidation",
    "Edema": "{sev}hazy bilateral opacities consistent with pulmonary edema",
}
_POSITIVE = ("{np}.", "There is {np}.", "{np} is present.", "{np} is seen.", "Findings are notable for {np}.")
_UNCERTAIN = (
    "Possible {np}.",
    "{np} cannot be excluded.",
    "There may be {np}.",
    "Appearance raises the possibility of {np}.",
    "Questionable {np}.",
)
_DENIED = {
    "Atelectasis": ("No atelectasis.", "There is no evidence of atelectasis."),
    "Cardiomegaly": ("Heart size is normal.", "The cardiac silhouette is not enlarged.", "No cardiomegaly."),
    "Edema": ("No pulmonary edema.", "There is no evidence of edema.", "Pulmonary vasculature is normal; no edema."),
}
_SIGNS = {  # supporting signs, without the finding's name: what remains for a reader when names are removed
    "Atelectasis": (
        "Thin bands cross the {base} base, and the {side} hemidiaphragm is elevated.",
        "Lung volumes are low with crowding of the bronchovascular markings at the {base} base.",
        "Plate-like densities are noted above the {side} hemidiaphragm.",
    ),
    "Cardiomegaly": (
        "The cardiothoracic ratio is increased.",
        "The left ventricular contour is prominent and the apex is displaced laterally.",
        "The transverse diameter of the heart is above normal.",
    ),
    "Consolidation": (
        "Air bronchograms are present{at}.",
        "The confluent density{at} obscures the underlying vessels.",
        "A focal dense area is noted{at}.",
    ),
    "Edema": (
        "The pulmonary vessels are indistinct with cephalization and Kerley B lines.",
        "Perihilar haziness and interstitial thickening are noted on both sides.",
        "The vascular pedicle is widened and peribronchial cuffing is present.",
    ),
    "Pleural Effusion": (
        "The {side} costophrenic angle is blunted.",
        "A meniscus obscures the {side} hemidiaphragm.",
        "Layering density veils the {side} lower hemithorax.",
    ),
}
_BOTH = {  # plural of what is said about one side
    "The bilateral costophrenic angle is": "Both costophrenic angles are",
    "the bilateral hemidiaphragm is": "both hemidiaphragms are",
    "the bilateral hemidiaphragm": "both hemidiaphragms",
    "the bilateral lower hemithorax": "both lower hemithoraces",
    "the bilateral base": "both bases",
}
_TRACES = {  # traces below the threshold: told at high informativeness, asserted never
    "Atelectasis": "A few faint streaks are noted at the {base} base.",
    "Cardiomegaly": "The cardiothoracic ratio is at the upper limit of normal.",
    "Consolidation": "Subtle patchy density{at}, likely of no significance.",
    "Edema": "Interstitial markings are slightly prominent.",
    "Pleural Effusion": "The {side} costophrenic angle is not perfectly sharp.",
}
_HISTORY = {
    "heart_failure": ("history of CHF", "worsening dyspnea and leg swelling", "orthopnea", "volume overload"),
    "infection": ("fever and cough", "leukocytosis, productive cough", "sepsis", "hypoxia and fever"),
    "immobility": (
        "status post abdominal surgery",
        "post-operative day ___",
        "prolonged bed rest",
        "shallow breathing",
    ),
}
_VAGUE = ("chest pain", "shortness of breath", "altered mental status", "weakness", "pre-operative evaluation", "cough")
_QUESTIONS = ("evaluate for acute process", "interval change?", "please evaluate", "rule out acute disease")
_NO_PRIOR = ("None.", "None available.", "No prior chest radiographs.")
_PRIOR = ("Chest radiograph from ___.", "Prior chest radiographs ___ through ___.", "___.")
_NORMAL = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "No evidence of acute cardiopulmonary disease.",
    "Normal chest radiograph.",
)
_DEVICE_TEXT = {
    "pacemaker": "Left-sided pacemaker leads terminate in the expected positions.",
    "endotracheal tube": "Endotracheal tube ends ___ cm above the carina.",
    "central line": "Right central venous catheter tip projects over the SVC.",
    "wires": "Overlying monitoring wires are noted.",
}


@dataclass
class Report:
    """A report in the format of MIMIC-CXR 2.1.0, and what it asserts."""

    text: str
    assertions: dict[str, float]  # by label that the text mentions: 1 positive, -1 uncertain, 0 negative
    phrases: dict[str, str]  # by finding called positive or uncertain: the words that say so


def assertions(study: Study, seed: int) -> dict[str, float]:
    """What the radiologist says about each label, a draw given the state; independent of the wording."""
    rng = np.random.default_rng([seed, _STREAM_ASSERT, study.study_id])
    said = {}
    for finding in FINDINGS:
        severity, u = study.severity[finding], rng.random()
        denied = rng.random() < _NEGATED[finding]
        if visible(study, finding):
            missed = 0.16 * (1 - severity) ** 2
            hedged = missed + 0.28 * max(0.0, 0.6 - severity)
            if u >= missed:
                said[finding] = -1.0 if u < hedged else 1.0
        elif severity > 0 and u < 0.10:
            said[finding] = -1.0
        elif u > 0.985:
            said[finding] = 1.0  # a false alarm
        elif denied:
            said[finding] = 0.0
    u = rng.random(8)
    called = [f for f in ("Atelectasis", "Consolidation", "Edema") if said.get(f) == 1.0]
    if called and u[0] < 0.35:
        said["Lung Opacity"] = 1.0
    if said.get("Consolidation") == 1.0:
        if u[1] < 0.55:
            said["Pneumonia"] = -1.0 if u[1] < 0.35 else 1.0
    elif u[1] < 0.12:
        said["Pneumonia"] = 0.0
    if u[2] < 0.75:
        said["Pneumothorax"] = 0.0
    if study.devices and u[3] < 0.9:
        said["Support Devices"] = 1.0
    if u[4] < 0.25:
        said["Enlarged Cardiomediastinum"] = 0.0
    if u[5] < 0.05:
        said["Fracture"] = 0.0
    if u[6] < 0.03:
        said["Lung Lesion"] = 0.0
    if u[7] < 0.012:
        said["Pleural Other"] = 1.0
    return said


def tidy(sentence: str) -> str:
    """One space between words, a capital first, and the plural where both sides are meant."""
    sentence = re.sub(r"\s+", " ", sentence).replace(" .", ".").strip()
    for one, both in _BOTH.items():
        sentence = sentence.replace(one, both)
    return sentence[:1].upper() + sentence[1:]


def _words(study: Study, finding: str, tell, rng) -> dict[str, str]:
    """Severity, side and place of a finding in words, or nothing where the report does not tell them."""
    severity = study.severity[finding]
    noisy = severity + rng.normal(0, 0.04)
    fluid = finding == "Pleural Effusion"
    scale = ("trace ", "small ", "moderate ", "large ") if fluid else ("minimal ", "mild ", "moderate ", "severe ")
    sev = scale[np.searchsorted((0.25, 0.45, 0.70), noisy, side="right")]
    lesions = [lesion for lesion in study.lesions if lesion.finding == finding]
    sides = {lesion.side for lesion in lesions if lesion.severity >= 0.5 * severity}
    side = "bilateral" if len(sides) > 1 or "bilateral" in sides else next(iter(sides), "left")
    told_sev, told_side = tell(), tell()
    place = next((lesion.lobe_name for lesion in lesions if lesion.lobe), "")
    words = {"sev": sev if told_sev else "", "site": "", "at": "", "side": side, "base": side}
    if told_side and place:
        words |= {"site": f"{place} ", "at": f" in the {place}"}
    elif told_side:
        words |= {"site": f"{side} ", "at": " on both sides" if side == "bilateral" else f" on the {side}"}
    if finding in ("Edema", "Cardiomegaly"):
        words |= {"site": "", "at": ""}
    return words


def _change(study: Study, previous: Study | None, finding: str) -> str:
    if previous is None:
        return ""
    difference = study.severity[finding] - previous.severity[finding]
    word = "increased" if difference > 0.10 else "improved" if difference < -0.10 else "unchanged"
    return f", {word} since ___"


def finding_sentences(study, previous, said, tell, rng):
    """Sentences on the five findings, in a random order; and the asserted phrase and short form of each call."""
    sentences, phrases, short = [], {}, []
    opacity_for = next((f for f in _OPACITY if said.get(f) == 1.0), None) if "Lung Opacity" in said else None
    for finding in rng.permutation(FINDINGS).tolist():
        words = _words(study, finding, tell, rng)
        call = said.get(finding)
        if call in (1.0, -1.0):
            noun = _OPACITY[finding] if finding == opacity_for else str(rng.choice(_NOUNS[finding]))
            if call == -1.0:
                words["sev"] = ""
            noun = tidy(noun.format(**words))
            frame = str(rng.choice(_POSITIVE if call == 1.0 else _UNCERTAIN))
            start = frame.startswith("{np}")
            sentence = tidy(frame.format(np=noun if start else noun[0].lower() + noun[1:]))
            phrases[finding] = sentence.rstrip(".")
            if call == 1.0 and previous is not None and tell():
                sentence = sentence.rstrip(".") + _change(study, previous, finding) + "."
            sentences.append(sentence)
            short.append(sentence if call == -1.0 else f"{noun}.")
            if visible(study, finding) and tell():
                sentences.append(tidy(str(rng.choice(_SIGNS[finding])).format(**words)))
        elif call == 0.0 and finding in _DENIED:
            sentences.append(str(rng.choice(_DENIED[finding])))
        elif study.severity[finding] > 0 and not visible(study, finding) and call is None and tell():
            sentences.append(tidy(_TRACES[finding].format(**words)))
    return sentences, phrases, short


def _other_sentences(study, said, rng):
    """Denials in one breath, devices, and what is said about labels that the image does not simulate."""
    names = {
        "Consolidation": "focal consolidation",
        "Pleural Effusion": "pleural effusion",
        "Pneumothorax": "pneumothorax",
    }
    denied = [name for label, name in names.items() if said.get(label) == 0.0]
    out = []
    if denied:
        listed = denied[0] if len(denied) == 1 else ", ".join(denied[:-1]) + " or " + denied[-1]
        out.append(("There is no " if rng.random() < 0.5 else "No ") + listed + ".")
    if said.get("Support Devices") == 1.0:
        out += [_DEVICE_TEXT[name] for name in study.devices]
    extra = {
        "Enlarged Cardiomediastinum": "The cardiomediastinal contours are unremarkable.",
        "Fracture": "No displaced rib fracture.",
        "Lung Lesion": "No suspicious pulmonary nodule.",
        "Pleural Other": "Mild biapical pleural thickening.",
    }
    out += [text for label, text in extra.items() if label in said]
    return out


def _section(name: str, body: str, own_line: bool) -> str:
    first = "" if own_line else f"{name}:  "
    lines = textwrap.wrap(first + body, 76, break_long_words=False, break_on_hyphens=False)
    head = f" {name}: \n \n" if own_line else ""
    return head + "".join(f" {line}\n" for line in lines) + " \n"


def compose(patient: Patient, study: Study, previous: Study | None, informativeness: float, seed: int) -> Report:
    """Write the report of a study; `informativeness` is the probability that a detail beyond the bare call is told."""
    said = assertions(study, seed)
    rng = np.random.default_rng([seed, _STREAM_WORDS, study.study_id])

    def tell():
        return bool(rng.random() < informativeness)

    history = [str(rng.choice(texts)) for cause, texts in _HISTORY.items() if getattr(study, cause) > 0.4 and tell()]
    history = history or [str(rng.choice(_VAGUE))]
    who = "woman" if patient.sex == "F" else "man"
    question = str(rng.choice(_QUESTIONS))
    indication = f"___ year old {who} with {', '.join(history)} // {question}"
    sentences, phrases, short = finding_sentences(study, previous, said, tell, rng)
    others = _other_sentences(study, said, rng)
    sentences = sentences + others if rng.random() < 0.5 else others + sentences
    pneumonia = {
        1.0: "Findings are compatible with pneumonia.",
        -1.0: "Findings may represent pneumonia.",
        0.0: "No evidence of pneumonia.",
    }.get(said.get("Pneumonia"))
    layout = rng.random()
    last = [pneumonia] if pneumonia else []
    normal = [str(rng.choice(_NORMAL[:3] if study.devices else _NORMAL))]
    impression = [*short, *last] or normal
    views = {film.view for film in study.films}
    examination = "CHEST (PORTABLE AP)" if "AP" in views else "CHEST (PA AND LAT)" if len(views) > 1 else "CHEST (PA)"
    comparison = str(rng.choice(_NO_PRIOR if previous is None else _PRIOR))
    text = " " * 33 + "FINAL REPORT\n"
    if rng.random() < 0.85:
        text += _section("EXAMINATION", examination, False)
    text += _section("INDICATION", indication, False)
    if rng.random() < 0.35:
        technique = "Single frontal view of the chest." if len(views) == 1 else "Frontal and lateral."
        text += _section("TECHNIQUE", technique, False)
    text += _section("COMPARISON", comparison, False)
    if layout < 0.12:
        text += _section("IMPRESSION", " ".join([*sentences, *last] if short else [*normal, *sentences, *last]), True)
    elif layout < 0.18:
        text += _section("FINDINGS", " ".join([*sentences, *last] or normal), True)
    else:
        text += _section("FINDINGS", " ".join(sentences or ["The lungs are clear."]), True)
        text += _section("IMPRESSION", " ".join(impression), True)
    return Report(text=text, assertions=said, phrases=phrases)


def read_labels(said: dict[str, float], noise: float, seed: int, study_id: int, labeller: str) -> dict[str, float]:
    """Labels as an automatic labeller would read them off a report that asserts `said`; NaN means not mentioned.

    With probability `noise` a mention is overlooked or misread (a half of the time each); NegBio errs 1.5 times as
    often as CheXpert, independently. `No Finding` is 1 where nothing but devices is positive or uncertain.
    """
    stream = {"chexpert": 0, "negbio": 1}[labeller]
    rng = np.random.default_rng([seed, _STREAM_LABELLER, stream, study_id])
    rate = noise * (1.0, 1.5)[stream]
    out = dict.fromkeys(LABELS, np.nan)
    for label in LABELS:
        u, kind = rng.random(2)
        value = said.get(label, np.nan)
        if not np.isnan(value) and u < rate:
            value = np.nan if kind < 0.5 else {1.0: -1.0, -1.0: 1.0, 0.0: 1.0 if kind < 0.75 else -1.0}[value]
        out[label] = value
    abnormal = [out[label] for label in LABELS if label not in ("No Finding", "Support Devices")]
    out["No Finding"] = np.nan if any(v in (1.0, -1.0) for v in abnormal) else 1.0
    return out
