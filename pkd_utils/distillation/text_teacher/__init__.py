"""The text teacher: a BERT-type encoder fine-tuned on reports to predict the image's labels (f_t of equation (1)).

Baur et al. fine-tune PubMedBERT on MIMIC-CXR reports "excluding label names" (AUROC 0.99). Here the encoder is any
local folder in Hugging Face layout, and `trainable_layers` says how much moves: all of it as in the paper (-1), or the
last k blocks, in which case the frozen blocks below run once per report and every seed reuses what they produced.
"""

from pkd_utils.distillation.text_teacher.fit import (
    TextTeacherResult,
    check_label_names_removed,
    encode_teacher_texts,
    fit_text_teacher,
)
from pkd_utils.distillation.text_teacher.model import TextTeacherConfig

__all__ = [
    "TextTeacherConfig",
    "TextTeacherResult",
    "check_label_names_removed",
    "encode_teacher_texts",
    "fit_text_teacher",
]
