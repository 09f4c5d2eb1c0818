"""Words that give a label away, and their removal from privileged text.

The paper trains its text teacher on reports "excluding label names"; the list of words is not stated in the paper. This
is ours, in three readings (`Mode`). `names` takes the label itself in all its forms (and usual misspellings),
`names_and_synonyms` also other words and abbreviations for the same finding, and `sentences` every sentence that holds
one of them. Signs that suggest a finding without naming it (a blunted costophrenic angle, Kerley lines, a normal heart
size) stay: a report without them would say nothing. The first two take the words, not the negation or hedge around
them: "There is a moderate right." still says what was there, and `sentences_with_holes` counts such remnants.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from pkd_utils.runs.errors import DataError

Mode = Literal["names", "names_and_synonyms", "sentences"]


class Terms(NamedTuple):
    """Terms of a label, separated by commas, in this notation.

    A space stands for any run of white space, hyphens, slashes or underscores; `~` for such a run or nothing; `*` for
    any letters; `{}` for up to five words within the sentence; `(a|b)` for a choice. Case does not matter, and a
    word may be broken at the end of a line, with or without a hyphen.
    """

    names: str
    synonyms: str = ""  # abbreviations too


_HEART, _CHAMBER = "(heart|cardiac|cardio~mediastinal)", "(lv|rv|la|ra|ventric*|atri*|chamber*)"
_LARGE = (
    "(enlarg*|large|larger|big|bigger|prominent|prominence|increased|dilat*|borderline|top normal|globular|"
    "upper limit|upper limits)"
)
_WIDE, _MEDIASTINUM = (
    "(enlarg*|wide|widen*|broad*|prominen*)",
    "(mediast|mediastin*|cardio~mediast|cardio~mediastin*|cms)",
)
_OPACITY = (
    "infil, infilt, infiltrat*, air~space, consolidat*, consolid*, consol, ground~glass, ggo, ggos, haz(y|e|iness), "
    "alveolar (process|disease), whit(e|ing) ~out, opac, opacs"
)
_NORMAL = (
    "un~remarkable, within {} limits, wnl, nl, no {} (disease|process|change), no active disease, no acute, "
    "(neg|negative) (chest|study|exam|examination|radiograph|cxr)"
)
_DEATH = Terms(
    "death*, die, dies, died, dying, dead, deceased",
    "fatal*, expired, demise, mortal*, passed away, surviv*, succumb*, discharg*, recover*",
)
# With its unit or tube, which alone would tell the label.
_ICU = Terms(
    "icu*, intensive {} (care|therapy|treatment)* unit*, intensive {} (care|therapy|treatment)*, "
    "critical care unit*, critical care",
    "itu, hdu",
)
_LOBE = "(lung|lobe|base|side|sided|upper|lower|mid|middle|apex|apical|basal|basilar|pleural|effusion|perihilar)"

LABEL_TERMS: dict[str, Terms] = {
    "Atelectasis": Terms(
        "*atelect*, *atelec*, *atalect*",
        "atx, atel, collaps*, (vol|volume) loss, loss of {} volume*, sub~segmental volume*",
    ),
    "Cardiomegaly": Terms(
        "*cardio~meg*",
        # Only words that describe size may reach forward: "large effusion beside the heart" is no cardiomegaly.
        f"{_HEART} {{}} {_LARGE}, (enlarg*|large|big|prominent|borderline|increased) {{}} {_HEART}, "
        f"{_CHAMBER} (enlarg*|dilat*), (enlarg*|dilat*) {{}} {_CHAMBER}, mega~cardia, c~megaly, cmg, lve",
    ),
    "Consolidation": Terms(
        "*consolid*, *consoldat*",
        "consol, consols, air~space, air~space (disease|process|*opaci*|density|densities), air~bronchogram*, "
        "hepati(z|s)ation",
    ),
    # Congestion is a step before edema, but CheXpert's labeller takes it, and heart failure, for mentions of edema.
    "Edema": Terms(
        "*edema*, *oedem*, *œdem*, *edmea*",
        "congest*, (fluid|volume) overload*, (heart|cardiac|ventricular) failure, chf, adhf, decompensat*, engorg*, "
        "cephali(z|s)ation, interstitial fluid, (vascular|venous) {} (prominen*|engorg*|indistinct*|redistribut*), "
        "(prominen*|engorg*|indistinct*) {} (vascular*|vasculature|vessels)",
    ),
    "Enlarged Cardiomediastinum": Terms(
        "enlarg* {} cardio~mediastin*, cardio~mediastin* {} enlarg*",
        f"{_WIDE} {{}} {_MEDIASTINUM}, {_MEDIASTINUM} {{}} {_WIDE}",
    ),
    "Fracture": Terms("*fractur*", "fx, fxs, fxd, frx, broken, cortical {} (break|disruption|step~off)"),
    "Lung Lesion": Terms(
        "lung lesion*, *lesion*",
        "*nodul*, nod, nods, spn, spns, mass, masses, mass like, lump*, tumo(r|ur)*, *carcinoma*, neoplas*, malignan*, "
        "cancer*, metasta*, mets, granuloma*, cavit*",
    ),
    # Any effusion goes, a pericardial one too: "pleural" is often left to the reader.
    "Pleural Effusion": Terms(
        "pleural effusion*, *effusion*, *efusion*, *effussion*",
        "pleural {} fluid, fluid {} pleura*, fluid {} fissur*, hydro~thora*, hydro~pneumo~thora*, h(a|)emo~thora*, "
        "h(a|)emo~pneumo~thora*, layering {} fluid, pleural {} collection*, pl fluid, pl~eff*, eff, effs",
    ),
    # Nobody writes this label's name; what CheXpert's labeller takes for it most often stands in its place.
    "Pleural Other": Terms(
        "pleural other*, pleural {} thick*, thick* {} pleur*",
        "pl thick*, *fibro~thora*, fibros*, pleural {} (scar*|plaque*|calcif*), plaque*, pleuro~parenchymal {} scar*, "
        "apical cap*",
    ),
    "Lung Opacity": Terms(
        "lung *opaci*, *opaci*, *opacti*",
        f"{_OPACITY}, reticula*, interstitial {{}} (marking*|pattern*|disease|process)",
    ),
    # For Open-i the label joins four headings (see `openi.LABEL_HEADINGS`), so all four are its names.
    "Opacity": Terms("*opaci*, *opacti*, *consolid*, *infiltrat*, air~space disease*", _OPACITY),
    "Abnormal": Terms("*normal*, no {} finding*", f"{_NORMAL}, abn, abnl, abnorm"),
    "No Finding": Terms("no {} finding*", f"*normal*, {_NORMAL}, nad"),
    "Pneumonia": Terms("*pneumoni*", "pna, pnas, infectio*, infect*, infiltrat*"),
    "Pneumothorax": Terms("*pneumo~thora*", "ptx, ptxs, pnx, pleural {} air, air {} pleural"),
    "Support Devices": Terms(
        "support* {} device*, device*",
        "*tube*, line, lines, catheter*, cath, cannula*, drain*, lead, leads, wire*, stent*, clip*, hardware, screw*, "
        "coil*, valve*, port~a~cath*, mediport*, pace~maker*, pacer*, defib*, balloon pump, swan ganz, arthroplast*, "
        "*intubat*, extubat*, trach, tracheost*, picc*, ett, ngt, ogt, cvc, cvl, icd, aicd, iabp, *vad, ecmo",
    ),
    # With its numbers: "-19", left alone, would tell the label.
    "COVID-19": Terms(
        "*covid* (19|2019), *covid*, *ncov* (19|2019), 2019 *ncov*, *ncov*, corona~virus* {} (19|2019), "
        "corona~virus* 2, 2019 {} corona~virus*, corona~virus*, sars~cov* 2, sars~cov*",
        "rt~pcr, pcr, pandemic, wuhan",
    ),
    "went_icu": _ICU,
    "in_icu": _ICU,
    "intubated": Terms(
        "*intubat*",
        "extubat*, mechanical* *ventilat*, *ventilat*, endo~tracheal tube*, endo~tracheal, et~tube*, ett, "
        "tracheostom* tube*, tracheostom*",
    ),
    "death": _DEATH,
    "survival": _DEATH,
    # No label, but what a text tells of where: `texts.text_variant` takes it out. Some parts are on one side alone.
    "side": Terms(
        f"left*, left sided, right*, right sided, lt, rt, (l|r) {_LOBE}, *bi~lateral*, *uni~lateral*, contra~lateral*, "
        "ipsi~lateral*, both, bi~bas*, bi~apical*, lul, lll, rul, rml, rll, middle lobe, lingula*, "
        "(minor|horizontal) fissure",
    ),
}

# White space, hyphens (soft, Unicode and minus among them), slashes, underscores.
_JOIN = r"\s\-\u00ad\u2010-\u2015\u2212/_\u00a0\u200b"
_LINE_BREAK = r"(?:[\u00ad\u200b]|[-\u2010-\u2015]?[^\S\n]*\n\s*)?"  # inside a word
_FEW_WORDS = rf"(?:[{_JOIN},]+(?:[^\W_]|')+){{0,5}}?[{_JOIN},]+"
# What a sentence may be left with when its only finding was a removed term.
_EMPTY = {
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "definite", "evidence", "for", "from",
    "has", "have", "identified", "in", "is", "it", "no", "nor", "not", "of", "on", "or", "present", "seen",
    "suggest", "suggestion", "that", "the", "there", "this", "to", "was", "were", "with", "without",
}  # fmt: skip


# A sentence ends with a full stop, semicolon, colon, question or exclamation mark that ends a word.
_SENTENCE_END = re.compile(r"(?<=[.;:?!])\s+")
_ITEM = re.compile(r"^\d{1,2}\.+(?!\d)\s*")  # the number of an item of a list
_GONE = re.compile(r"[-\u00ad\u2010-\u2015\u2212/_]*\0[-\u00ad\u2010-\u2015\u2212/_]*")  # a term, and what tied it on
# Words that want a noun behind them: of course and time, which may also stand alone behind a verb, and others.
_COURSE = (
    "stable|unchanged|persist(?:ent|ing)|resolv(?:ed|ing)|improv(?:ed|ing)|increas(?:ed|ing)|decreas(?:ed|ing)|"
    "worsen(?:ed|ing)|new|old|interval|acute|chronic|recurrent|residual|similar"
)
_DEGREE = (
    "tiny|small|minimal|trace|mild(?:ly)?|moderate(?:ly)?|severe(?:ly)?|large|massive|slight(?:ly)?|marked(?:ly)?|"
    "subtle|faint|extensive|significant|definite|possible|probable|likely|questionable|minor|early|overt|frank|gross|"
    "focal|multifocal|diffuse|patchy|linear|streaky|hazy|dense|confluent|loculated|layering|discrete|confluent|active|"
    "left|right|bilateral|unilateral|both|sided|lower|upper|mid|middle|apical|lobar|lobe|bi ?bas(?:al|ilar)|bas(?:al|"
    "ilar)|retrocardiac|perihilar|pleural|pericardial|pulmonary|cardiopulmonary|intrathoracic|interstitial|alveolar|"
    "vascular|venous|osseous|bony|degree"
)
_BEHIND = (
    "at|in|on|of|with|within|without|from|since|over|along|and|or|nor|but|is|are|was|were|has|have|seen|noted|"
    "identified|present|remains?"
)
_RUN = r"(?>(?:{0})\b(?:(?: ?, ?| (?:and|or|to) | )(?:{0})\b)*)"  # as many as there are, and no fewer
_ENDS = r" ?(?:[.;:?!,]|$)"
_STOPS = rf"(?:{_ENDS}| (?:{_BEHIND})\b)"
_HOLE = re.compile(
    rf"\b(?:a|an|no|any|with|without|of|there (?:is|are))(?: {_RUN.format(f'{_COURSE}|{_DEGREE}')})?{_STOPS}"
    rf"|^{_RUN.format(f'{_COURSE}|{_DEGREE}')}{_ENDS}"
    rf"|^(?:(?:{_COURSE}) )*{_RUN.format(_DEGREE)}{_STOPS}"
    rf"|\b(?:and|or|nor)(?: {_RUN.format(_DEGREE)})?{_ENDS}"
)


def _word(term: str) -> str:
    """Turn the letters and marks of a term without spaces into a regular expression."""
    parts = []
    for position, character in enumerate(term):
        if character == "*":
            parts.append(r"[^\W_]*")
        elif character == "~":
            parts.append(f"[{_JOIN}]*")
        elif character in "(|)":
            parts.append("(?:" if character == "(" else character)
        else:
            previous = term[position - 1] if position else " "
            parts.append((_LINE_BREAK if previous.isalpha() else "") + re.escape(character))
    return "".join(parts)


def _expression(term: str) -> str:
    """Turn a term of `Terms`' notation into a regular expression; see there."""
    between = {" {} ": _FEW_WORDS, " ": f"[{_JOIN}]+"}
    return "".join(between[p] if p in between else _word(p) for p in re.split(r"( \{\} | )", term))


@lru_cache(maxsize=64)
def _pattern(labels: tuple[str, ...], mode: Mode) -> re.Pattern:
    """Compile all terms of the labels, long ones first so that a phrase goes before a word of it."""
    unknown = [label for label in labels if label not in LABEL_TERMS]
    if unknown or not labels:
        named = ", ".join(unknown) or "(none given)"
        raise DataError(
            f"No terms are listed for label {named}; list them in LABEL_TERMS of pkd_utils/cohorts/label_terms.py, or "
            "leave the texts as they are (label_names: kept)."
        )
    if mode not in get_args(Mode):
        raise DataError(f"Labels are not removed by {mode!r}; choose one of {', '.join(get_args(Mode))}.")
    chosen = [LABEL_TERMS[label] for label in labels]
    lists = [one.names for one in chosen] + [one.synonyms for one in chosen if one.synonyms and mode != "names"]
    terms = set(", ".join(lists).split(", "))
    choices = "|".join(_expression(term) for term in sorted(terms, key=lambda term: (-len(term), term)))
    return re.compile(rf"(?<![^\W_])(?:{choices})(?![^\W_])", re.IGNORECASE)


def surviving_terms(text: str, labels: Sequence[str], mode: Mode = "names_and_synonyms") -> list[str]:
    """Return the passages of `text` that name one of the labels (keys of `LABEL_TERMS`), in order; [] if none does."""
    return [match[0] for match in _pattern(tuple(labels), mode).finditer(text)]


def remove_label_terms(text: str, labels: Sequence[str], mode: Mode = "names_and_synonyms") -> str:
    """Remove every term of the labels from a text, so that `surviving_terms` finds none.

    A sentence that keeps no word of content ("No ." after "No pleural effusion.") is dropped whole. Numbers of lists
    go from every text: "1. 3." would tell that the second item named a label.

    Parameters
    ----------
    text : str
    labels : sequence of str
        Keys of `LABEL_TERMS`. Which labels the paper's list covered is not stated in the paper.
    mode : {"names", "names_and_synonyms", "sentences"}
        What goes: the label's name in all its forms (the paper's "excluding label names", read by its words), also
        synonyms and abbreviations, or every sentence that has any of these.

    Returns
    -------
    str
        The text with single spaces; "" if nothing is left.
    """
    pattern = _pattern(tuple(labels), mode)
    sentences = [_ITEM.sub("", sentence) for sentence in _SENTENCE_END.split(text.strip())]
    if mode == "sentences":
        sentences = [sentence for sentence in sentences if not pattern.search(sentence)]
    text = _filled(sentences)
    # Removing a term can bring the two halves of another together, so repeat until none is left.
    while pattern.search(text):
        text = _filled(_SENTENCE_END.split(_GONE.sub(" ", pattern.sub("\0", text))))
    text = re.sub(r"(?<!\S)[/,;:\-\u2010-\u2015]+(?!\S)", " ", text)  # marks that stood between two terms
    text = re.sub(r"[\s,]+([.,;:])", r"\1", " ".join(text.split()))
    return text if not pattern.search(text) else remove_label_terms(text, labels, mode)


def sentences_with_holes(text: str) -> int:
    """Count the sentences in which qualifiers, an article or a negation are left without their noun.

    "There is a moderate right.", "Stable mild .", "No or pneumothorax.": what removal by words leaves, and what often
    still tells the label. A rule of thumb by word lists, no parser: a telegraphic original ("Stable.") counts too, so
    compare with the count before removal.
    """
    plain = [" ".join(re.split(rf"[{_JOIN}]+", part.lower())).strip() for part in _SENTENCE_END.split(text)]
    return sum(bool(_HOLE.search(sentence)) for sentence in plain)


def _filled(sentences: Sequence[str]) -> str:
    """Join the sentences that have a word of content, or a digit."""
    words = (re.findall(r"[^\W_]+", sentence.lower()) for sentence in sentences)
    return " ".join(s for s, found in zip(sentences, words, strict=True) if not _EMPTY.issuperset(found))
