"""Words that give a label away, and their removal from privileged text.

The paper trains its text teacher on reports "excluding label names"; the list of words is not stated in the paper. This
is ours. `names` is the label itself in all its forms (and usual misspellings); `synonyms` are other words for the same
finding. Signs that suggest a finding without naming it (a blunted costophrenic angle, Kerley lines, a normal heart
size) stay: a report without them would say nothing. Removal takes the words, not the negation or hedge around them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from pkd_utils.runs.errors import DataError


class Terms(NamedTuple):
    """Terms of a label, in this notation.

    A space stands for any run of white space, hyphens, slashes or underscores; `~` for such a run or nothing; `*` for
    any letters; `{}` for up to five words within the sentence; `(a|b)` for a choice. Case does not matter, and a
    word may be broken at the end of a line, with or without a hyphen.
    """

    names: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


_HEART = "(heart|cardiac|cardio~mediastinal)"
_LARGE = (
    "(enlarg*|large|larger|big|bigger|prominent|prominence|increased|dilat*|borderline|top normal|globular|"
    "upper limit|upper limits)"
)
_OPACITY = (
    *("infiltrat*", "air~space", "consolidat*", "consolid*", "ground~glass", "haz(y|e|iness)"),
    *("alveolar (process|disease)", "whit(e|ing) ~out"),
)
_NORMAL = (
    *("un~remarkable", "within {} limits", "wnl", "no {} (disease|process|change)", "no active disease"),
    *("no acute", "negative (chest|study|exam|examination|radiograph)"),
)

LABEL_TERMS: dict[str, Terms] = {
    "Atelectasis": Terms(
        names=("*atelect*", "*atelec*", "*atalect*"),
        synonyms=("collaps*", "volume loss", "loss of {} volume*", "sub~segmental volume*"),
    ),
    "Cardiomegaly": Terms(
        names=("*cardio~meg*",),
        synonyms=(
            f"{_HEART} {{}} {_LARGE}",
            # Only words that describe size may reach forward: "large effusion beside the heart" is no cardiomegaly.
            f"(enlarg*|large|big|prominent|borderline|increased) {{}} {_HEART}",
            "mega~cardia",
        ),
    ),
    "Consolidation": Terms(
        names=("*consolid*", "*consoldat*"),
        synonyms=(
            "air~space",
            "air~space (disease|process|*opaci*|density|densities)",
            "air~bronchogram*",
            "hepati(z|s)ation",
        ),
    ),
    # Congestion is a step before edema, but CheXpert's labeller takes it, and heart failure, for mentions of edema.
    "Edema": Terms(
        names=("*edema*", "*oedem*", "*œdem*", "*edmea*"),
        synonyms=(
            *("congest*", "(fluid|volume) overload*", "(heart|cardiac|ventricular) failure", "chf", "decompensat*"),
            *("(vascular|venous) {} (prominen*|engorg*|indistinct*|redistribut*)", "engorg*", "cephali(z|s)ation"),
            *("(prominen*|engorg*|indistinct*) {} (vascular*|vasculature|vessels)", "interstitial fluid"),
        ),
    ),
    # Any effusion goes, a pericardial one too: "pleural" is often left to the reader.
    "Pleural Effusion": Terms(
        names=("pleural effusion*", "*effusion*", "*efusion*", "*effussion*"),
        synonyms=(
            *("pleural {} fluid", "fluid {} pleura*", "fluid {} fissur*", "hydro~thora*", "hydro~pneumo~thora*"),
            *("h(a|)emo~thora*", "h(a|)emo~pneumo~thora*", "layering {} fluid", "pleural {} collection*"),
        ),
    ),
    "Lung Opacity": Terms(names=("*opaci*", "*opacti*"), synonyms=_OPACITY),
    # For Open-i the label joins four headings (see `openi.LABEL_HEADINGS`), so all four are its names.
    "Opacity": Terms(
        names=("*opaci*", "*opacti*", "*consolid*", "*infiltrat*", "air~space disease*"), synonyms=_OPACITY
    ),
    "Abnormal": Terms(names=("*normal*", "no {} finding*"), synonyms=_NORMAL),
    "No Finding": Terms(names=("no {} finding*",), synonyms=("*normal*", *_NORMAL)),
    "Pneumonia": Terms(names=("*pneumoni*",), synonyms=("infectio*", "infective", "infiltrat*")),
    "Pneumothorax": Terms(names=("*pneumo~thora*",), synonyms=("ptx", "pleural {} air", "air {} pleural")),
    "COVID-19": Terms(
        names=("*covid*", "corona~virus*", "sars ~cov*", "*ncov*"), synonyms=("rt~pcr", "pcr", "pandemic", "wuhan")
    ),
    "went_icu": Terms(names=("icu*", "intensive {} (care|therapy|treatment)*", "critical care"), synonyms=("itu",)),
    "in_icu": Terms(names=("icu*", "intensive {} (care|therapy|treatment)*", "critical care"), synonyms=("itu",)),
    "intubated": Terms(
        names=("*intubat*",),
        synonyms=("extubat*", "*ventilat*", "endo~tracheal", "et~tube*", "ett", "tracheostom*"),
    ),
    "death": Terms(
        names=("death*", "die", "dies", "died", "dying", "dead", "deceased"),
        synonyms=("fatal*", "expired", "demise", "mortal*", "passed away", "surviv*", "succumb*", "discharged"),
    ),
}
LABEL_TERMS["survival"] = LABEL_TERMS["death"]

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
def _pattern(labels: tuple[str, ...], synonyms: bool) -> re.Pattern:
    """Compile all terms of the labels, long ones first so that a phrase goes before a word of it."""
    unknown = [label for label in labels if label not in LABEL_TERMS]
    if unknown or not labels:
        raise DataError(f"No terms are listed for label {', '.join(unknown)}; listed are {', '.join(LABEL_TERMS)}.")
    chosen = [LABEL_TERMS[label] for label in labels]
    terms = {term for of_label in chosen for term in of_label.names + (of_label.synonyms if synonyms else ())}
    choices = "|".join(_expression(term) for term in sorted(terms, key=lambda term: (-len(term), term)))
    return re.compile(rf"(?<![^\W_])(?:{choices})(?![^\W_])", re.IGNORECASE)


def surviving_terms(text: str, labels: Sequence[str], synonyms: bool = True) -> list[str]:
    """Return the passages of `text` that name one of the labels (keys of `LABEL_TERMS`), in order; [] if none does."""
    return [match[0] for match in _pattern(tuple(labels), synonyms).finditer(text)]


def remove_label_terms(text: str, labels: Sequence[str], replacement: str = "", synonyms: bool = True) -> str:
    """Remove every term of the labels from a text, so that `surviving_terms` finds none.

    Parameters
    ----------
    text : str
    labels : sequence of str
        Keys of `LABEL_TERMS`. Which labels the paper's list covered is not stated in the paper.
    replacement : str
        Put in a term's place, e.g. "[MASK]"; with the default "", a sentence that keeps no word of content ("No ."
        after "No pleural effusion.") is dropped whole.
    synonyms : bool
        Remove names and synonyms, or names only.

    Returns
    -------
    str
        The text with single spaces; "" if nothing is left.
    """
    pattern = _pattern(tuple(labels), synonyms)
    if pattern.search(replacement):
        raise DataError(f"The replacement {replacement!r} is itself a term of the labels; use another.")
    # Removing a term can bring the two halves of another together, so repeat until none is left.
    while pattern.search(text):
        text = pattern.sub(f" {replacement} ", text)
        if not replacement:
            # A sentence ends with a full stop, semicolon, colon, question or exclamation mark that ends a word.
            text = " ".join(sentence for sentence in re.split(r"(?<=[.;:?!])\s+", text) if not _is_empty(sentence))
    text = re.sub(r"(?<!\S)[/,;:\-\u2010-\u2015]+(?!\S)", " ", text)  # marks that stood between two terms
    text = re.sub(r"\s+([.,;:])", r"\1", " ".join(text.split()))
    return text if not pattern.search(text) else remove_label_terms(text, labels, replacement, synonyms)


def _is_empty(sentence: str) -> bool:
    """True if a sentence has no word of content."""
    return all(word.lower() in _EMPTY for word in re.findall(r"[^\W\d_]+", sentence)) and not re.search(r"\d", sentence)
