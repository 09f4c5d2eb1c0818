"""What Bergström et al. say they found, sentence by sentence, as a table; `claims.py` tests it.

The paper tests none of its sentences: which heads a sentence speaks of, and what would make it true, is our reading.
"""

from dataclasses import dataclass

PANELS = {
    "the paper's encoders": {
        "self-supervised": ("rad_dino", "c2l", "medical_mae"),
        "aligned": ("gloria", "biovil_t"),
        "masked": ("mrm",),
        "": ("biomedclip",),  # aligned, but on other images; the paper speaks of it by name
    },
    "matched stand-ins": {
        "self-supervised": ("simulated_image_ssl",),
        "aligned": ("simulated_alignment",),
        "masked": ("simulated_masked",),
    },
}
"""Encoders that may be held against each other, by kind of pretraining (Figure 2).

What is said of pretraining is tested within one panel, the first that was run: the encoders that the sentences speak
of, or the stand-ins, which differ in their objective alone. An encoder of neither panel decides nothing about
pretraining.
"""

MIMIC, AGE, STAY, PH = "mimic_5x1200", "age", "discharge_3_day", "ph_12_month"
READMITTED, EMBOLISM = "readmission_12_month", "pulmonary_embolism"
PROGNOSES = (STAY, PH, READMITTED)
FIVE = (MIMIC, AGE, *PROGNOSES)
SSL, ALIGNED, MASKED, TEXT = "self-supervised", "aligned", "masked", "pretrained with reports"
DIRECTIONS = {"above": (1, 0), "below": (-1, 0), "not above": (-1, 1), "not below": (1, -1), "well above": (1, 1)}
"""Direction -> the side of its bound on which a difference is as the paper says, and the bound in margins.

"not above" is non-inferiority: no gain beyond the margin; "not below": no loss beyond it; "well above": more than it.
"""


@dataclass(frozen=True)
class Line:
    """`high` minus `low`, AUC within a seed, on every one of the `tasks`.

    `high` and `low` are methods, compared within encoders; or image-only heads: of a kind of `PANELS`, averaged (also
    "pretrained with reports", aligned or masked; "others", all but `high`; "each other"), or of encoders by name, each
    for itself.
    """

    high: str | tuple[str, ...]
    low: str | tuple[str, ...]
    tasks: tuple[str, ...]
    sizes: str = "smallest"  # "largest", "all" (averaged), "each", "above 1000", "up to 1000" training images
    direction: str = "above"  # of `DIRECTIONS`
    encoders: str | tuple[str, ...] = "mean"  # of methods: "every", "some", or names, every one of them
    than: tuple[str, ...] = ()  # tasks on which the same difference is to be smaller (with "below": larger)
    kind: str = "difference"  # a name of `contrasts.KINDS`


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper: it holds if every one of its lines does."""

    name: str
    said: str  # the paper's words, shortened
    where: str
    family: str  # claims that Holm's method corrects together
    lines: tuple[Line, ...] = ()
    needs: str = ""  # of a sentence that these scores cannot test: what could


PRE, STUDENTS, TEACHERS, REPORTS, HEADS = "pretraining", "students", "teachers", "reports alone", "heads"
DISTILLED, PLAIN, TAUGHT, TEACHER = "report_distilled", "image_only", "self_distilled", "teacher"
TEMPERATURES = "students of several temperatures, which 07-ablations holds against each other"
READERS = "students of three text encoders, which 07-ablations holds against each other"

CLAIMS = (
    Claim("Reports in pretraining help a diagnosis",
          "we observe the highest relative performance of GLoRIA and BioViL ... in the MIMIC 5x1200 experiment ..., "
          "mainly evident in the low sample regime", "5.1, Figure 4a", PRE,
          (Line(ALIGNED, SSL, (MIMIC,)),)),
    Claim("Reports in pretraining help where they tell the label",
          "leveraging reports during pre-training is beneficial ... where the label is well-represented in the text",
          "abstract, 1", PRE,
          (Line(TEXT, SSL, (MIMIC, EMBOLISM), "all"),)),
    Claim("They help diagnostic labels most",
          "pre-training with text shows the greatest benefit for diagnostic labels", "6", PRE,
          (Line(TEXT, SSL, (MIMIC,), than=(AGE, *PROGNOSES)),)),
    Claim("RAD-DINO overtakes above 1,000 images",
          "RAD-DINO overtakes both when the number of samples increases to over 1,000", "5.1, Figure 4a", PRE,
          (Line(("rad_dino",), ("gloria", "biovil_t"), (MIMIC,), "above 1000"),
           Line(("rad_dino",), ("gloria", "biovil_t"), (MIMIC,), "up to 1000", "below"))),
    Claim("Alignment costs what reports leave out",
          "pre-training through explicit image-text alignment can be detrimental in settings where it's not",
          "abstract, 1; 5.1, Figure 4b", PRE,
          (Line(ALIGNED, SSL, (AGE,), "all", "below"),)),
    Claim("Aligned encoders fall back from diagnosis to age",
          "the relative performance of these algorithms decreases significantly compared to backbones pre-trained with "
          "self-supervision", "5.1, Figure 4b", PRE,
          (Line(ALIGNED, SSL, (AGE,), "all", "below", than=(MIMIC,)),)),
    Claim("Three encoders lead on age",
          "Medical MAE, MRM, and RAD-DINO perform the best", "5.1, Figure 4b", PRE,
          (Line(("medical_mae", "mrm", "rad_dino"), ("c2l", "biovil_t", "gloria", "biomedclip"), (AGE,), "all"),)),
    Claim("C2L passes BioViL on age",
          "C2L achieving a higher AUC than BioViL", "5.1, Figure 4b", PRE,
          (Line(("c2l",), ("biovil_t",), (AGE,), "all"),)),
    Claim("C2L is close to GLoRIA on age",
          "and only slightly lower than GLoRIA", "5.1, Figure 4b", PRE,
          (Line(("c2l",), ("gloria",), (AGE,), "all", "not below"),)),
    Claim("BiomedCLIP is poor in both settings",
          "BiomedCLIP, which has been trained on more general biomedical images and their captions, performs poorly in "
          "both settings", "5.1, Figure 4a, b", PRE,
          (Line(("biomedclip",), "others", (MIMIC, AGE), "all", "below"),)),
    Claim("The gap of image and report is the cost of alignment",
          "the largest gap between image-only and text-only performance ..., which offers a possible explanation as to "
          "why aligning with reports is not beneficial for this task", "5.1, Table 2", PRE,
          (Line(SSL, ALIGNED, FIVE, "all", kind="along the gap"),)),
    Claim("Masked modelling avoids that cost",
          "methods relying on text supervision in addition to self-supervision avoid this pitfall", "1, 2", PRE,
          (Line(MASKED, ALIGNED, (AGE,), "all"),)),
    Claim("Masked modelling serves the diagnosis too",
          "MIMIC 5x1200, fraction 5 %: image model MRM", "Table 2", PRE,
          (Line(MASKED, SSL, (MIMIC,)),)),
    Claim("Reports in pretraining help a near prognosis",
          "in 3-Day Discharge ..., GLoRIA, BioViL, and MRM (all pre-trained with text supervision) perform well in the "
          "low sample regime", "5.1, Figure 4c", PRE,
          (Line(TEXT, SSL, (STAY,)),)),
    Claim("That benefit is gone a year ahead",
          "yet, in the 12-Month PH experiment ..., GLoRIA and BioViL do not see the same benefits", "5.1, Figure 4d",
          PRE, (Line(ALIGNED, SSL, (STAY,), than=(PH,)),)),
    Claim("Self-supervision serves a distant prognosis",
          "image self-supervision is usually beneficial for prognostic tasks", "5.1, Figure 4d", PRE,
          (Line(ALIGNED, SSL, (PH,), "all", "below"),)),
    Claim("BioViL is the worst a year ahead",
          "with BioViL performing the worst in all sample sizes", "5.1, Figure 4d", PRE,
          (Line(("biovil_t",), "each other", (PH,), "each", "below"),)),
    Claim("So it is with readmission",
          "the trend is similar in Readmission", "5.1, Figure 4e", PRE,
          (Line(ALIGNED, SSL, (READMITTED,), "all", "below"),)),
    Claim("The order of encoders varies over prognoses",
          "for the prognostic tasks, the order of performance varies", "5.1, Figure 4c to e", PRE,
          (Line(PLAIN, PLAIN, PROGNOSES, "all", kind="order"),)),
    Claim("Masked modelling needs few images everywhere",
          "the high sample efficiency of MRM in all experiments", "5.1, Figure 4", PRE,
          (Line(MASKED, "others", FIVE),)),
    Claim("Discharge is nearer to a coded diagnosis",
          "whether or not a patient is discharged in the coming days may be more closely correlated to a diagnostic "
          "label discussed in the radiology reports", "5.1", PRE,
          needs="diagnostic labels of INSPECT's reports, to hold against each outcome beside MIMIC's"),
    Claim("Distillation helps a prognosis",
          "distillation from a teacher with access to the text report consistently increases the AUC across seeds",
          "5.2, Figure 5a", STUDENTS,
          (Line(DISTILLED, PLAIN, (READMITTED,)),)),
    Claim("It is the report that helps",
          "something that is not observed when applying self-distillation from an image-only model", "5.2, Figure 5a",
          STUDENTS, (Line(DISTILLED, TAUGHT, (READMITTED,)),)),
    Claim("Self-distillation does not help",
          "something that is not observed when applying self-distillation from an image-only model", "5.2, Figure 5a",
          STUDENTS, (Line(TAUGHT, PLAIN, (READMITTED,), direction="not above"),)),
    Claim("Distillation matters more than the encoder",
          "distillation has a higher impact on the AUC than the choice of pre-training method when predicting 12-Month "
          "Readmission in the small-sample domain", "abstract, 2; 5.2, Figure 5a", STUDENTS,
          (Line(DISTILLED, PLAIN, (READMITTED,), kind="beyond encoders"),)),
    Claim("With more images distillation still helps",
          "as the number of samples grows ..., distillation still leads to a meaningful performance increase",
          "5.2, Figure 5b", STUDENTS, (Line(DISTILLED, PLAIN, (READMITTED,), "largest"),)),
    Claim("With more images encoders differ more",
          "but the gap between different image backbones widens", "5.2, Figure 5b", STUDENTS,
          (Line(PLAIN, PLAIN, (READMITTED,), "each", kind="widening"),)),
    Claim("A report that says the label does not help",
          "the student sees no more benefit in distilling from the significantly more accurate teacher as opposed to "
          "performing self-distillation", "5.2, Figure 5c", STUDENTS,
          (Line(DISTILLED, TAUGHT, (MIMIC,), direction="not above"),)),
    Claim("Nor does one that says the embolism",
          "the results ... again indicate poor distillation performance when the text is too predictive of the label",
          "B.2, Figure 9", STUDENTS, (Line(DISTILLED, TAUGHT, (EMBOLISM,), direction="not above"),)),
    Claim("Not every prognosis gains",
          "we don't always benefit from applying distillation, even in the prognostic setting", "5.2", STUDENTS,
          (Line(DISTILLED, PLAIN, PROGNOSES, direction="not above", kind="some task"),)),
    Claim("Encoders gain differently",
          "not all encoders benefit the same when fine-tuning with PI", "5.2, Figure 5a", STUDENTS,
          (Line(DISTILLED, PLAIN, (READMITTED,), direction="well above", kind="unlike encoders"),)),
    Claim("Four encoders gain on readmission, two do not",
          "Medical MAE, RAD-DINO, MRM and GLoRIA see large performance increases ..., while BioViL and C2L do not "
          "improve", "5.2, Figure 5a", STUDENTS,
          (Line(DISTILLED, PLAIN, (READMITTED,), encoders=("medical_mae", "rad_dino", "mrm", "gloria")),
           Line(DISTILLED, PLAIN, (READMITTED,), direction="not above", encoders=("biovil_t", "c2l")))),
    Claim("RAD-DINO gains most on discharge",
          "RAD-DINO benefits more than any other model in the 3-Day Discharge setting", "5.2, Figure 6", STUDENTS,
          (Line(DISTILLED, PLAIN, (STAY,), "all", encoders=("rad_dino",), kind="most of encoders"),)),
    Claim("GLoRIA does not gain on discharge",
          "and GLoRIA does not seem to benefit at all", "5.2, Figure 6", STUDENTS,
          (Line(DISTILLED, PLAIN, (STAY,), "all", "not above", ("gloria",)),)),
    Claim("The gain follows the relation of V(x) and T(z)",
          "the performance will depend on the relation between V(x) and T(z)", "5.2", STUDENTS,
          needs="a measure of that relation for every encoder, and more encoders than these to hold it against"),
    Claim("A student can pass its teacher",
          "the student can outperform the teacher it is distilling from", "5.2, Figure 6b", STUDENTS,
          (Line(DISTILLED, TEACHER, (STAY,), "largest", encoders="some"),)),
    Claim("RAD-DINO's student passes its teacher",
          "RAD-DINO consistently outperforms the multi-modal model with distillation", "5.2, Figure 6b; B.4, Figure 12",
          STUDENTS, (Line(DISTILLED, TEACHER, (STAY,), "largest", encoders=("rad_dino",)),)),
    Claim("Readmission gains at every temperature",
          "the distillation models consistently outperform the image-only baseline, regardless of temperature",
          "C.2, Figure 17", STUDENTS, needs=TEMPERATURES),
    Claim("The temperature matters little for a diagnosis",
          "on MIMIC 5x1200, the choice of τ seems to have a modest impact (except for RAD-DINO in Figure 18a)",
          "C.2, Figure 18", STUDENTS, needs=TEMPERATURES),
    Claim("Readmission gains with every text encoder",
          "benefits are observed for all three on the Readmission dataset", "C.3, Figure 19", STUDENTS, needs=READERS),
    Claim("The text encoder matters",
          "the choice of text model impacts distillation quality", "C.3, Figures 19, 20", STUDENTS, needs=READERS),
    Claim("With the report the teacher is far better",
          "the significantly more accurate teacher", "5.2, Figure 5c, d", TEACHERS,
          (Line(TEACHER, PLAIN, (MIMIC,), "all"),)),
    Claim("The report can be a burden",
          "the multi-modal teacher can perform worse than the image-only baseline ... in the low sample regime",
          "5.2, Figure 6a", TEACHERS, (Line(TEACHER, PLAIN, (STAY,), direction="below", encoders="some"),)),
    Claim("The burden is one of capacity",
          "possibly a result of the increase in the number of features and model complexity", "5.2", TEACHERS,
          needs="teachers of the same capacity that read the reports of other patients"),
    Claim("Age is in the image",
          "the teacher performs worse on average for every backbone (even with more than 3,000 training samples)",
          "B.3, Figure 11", TEACHERS, (Line(TEACHER, PLAIN, (AGE,), "all", "below", "every"),)),
    Claim("Reports tell a diagnosis better than images",
          "the target label ... is determined almost completely by the radiology report", "3.1, Table 2", REPORTS,
          (Line("text_only", PLAIN, (MIMIC,), "all", encoders="every"),)),
    Claim("Age is what reports tell least",
          "the Age experiment has the largest gap between image-only and text-only performance in Table 2",
          "5.1, Table 2", REPORTS,
          (Line(PLAIN, "text_only", (AGE,), "all", encoders="some", than=(MIMIC, *PROGNOSES)),)),
    Claim("Attention pays with more images",
          "the self-attention head performs noticeably better as the number of samples increases",
          "C.1, Figures 15, 16", HEADS, (Line(PLAIN, "mean_probe", (READMITTED, MIMIC), "largest"),)),
    Claim("Attention pays most for RAD-DINO",
          "especially in the case of RAD-DINO", "C.1, Figures 15, 16", HEADS,
          tuple(Line(PLAIN, "mean_probe", (task,), "largest", encoders=("rad_dino",), kind="most of encoders")
                for task in (READMITTED, MIMIC))),
    Claim("A class token is not enough",
          "Figure 16 highlights the limitations of only using the CLS token", "C.1, Figure 16", HEADS,
          (Line("mean_probe", "cls_probe", (MIMIC,), "largest", encoders=("rad_dino",)),)),
)  # fmt: skip
