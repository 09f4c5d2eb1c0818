"""Who is in the embedded mammography cohort: one case per row of the real BI-RADS table, and drawn calcifications.

A case is one lesion on one view. Masses: shape, margin, mass density, age, assessment and severity are the real row's;
patient, side, view, breast density, size and contrast are drawn. Calcifications: all is drawn, from `CALC_SHARES`.
Nothing here makes a picture, so the tables alone take no time.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

PATHOLOGY = ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")
TRAIN_SHARE = 0.78  # of patients; CBIS-DDSM's official tables: 78 % of mass rows, 83 % of calcification rows
MLO_SHARE = 0.54  # of masses, as in CBIS-DDSM
TWO_VIEWS = 0.83  # share of calcification patients with both views, as in CBIS-DDSM
FIRST_CALC_PATIENT = 2001  # masses are P_00001 to P_00830, the number being the row of the BI-RADS table
# Ours. log-odds of a breast density of at least 2, 3 and 4 at 55 years, and their fall with each year of age.
DENSITY_LOG_ODDS = (2.1, 0.3, -2.1)
DENSITY_PER_YEAR = -0.055
# Ours. Usual radius (mm) and contrast of a mass of each shape, and of a group of calcifications of each first type: a
# network of a few hundred small pictures finds nothing where only the outline differs.
USUAL_MASS = {"ROUND": (7.0, 0.65), "OVAL": (7.0, 0.65), "LOBULATED": (9.5, 1.0), "IRREGULAR": (13.5, 1.45)}
USUAL_CALC = {"PLEOMORPHIC": (12.0, 2.3), "FINE_LINEAR_BRANCHING": (14.0, 2.4), "AMORPHOUS": (8.0, 1.4)}
USUAL_CALC_OTHER = (6.0, 0.5)
CALC_DENSITY = (0.10, 0.33, 0.35, 0.22)
# Shares in (MALIGNANT, BENIGN, BENIGN_WITHOUT_CALLBACK), rounded and simplified by us from the counts in CBIS-DDSM's
# four public tables (CC BY 3.0). Rare values are left out; type and distribution are drawn independently.
CALC_SHARES = {
    "pathology": dict(zip(PATHOLOGY, (0.36, 0.35, 0.29), strict=True)),
    "calc type": {
        "PLEOMORPHIC": (0.63, 0.57, 0.02),
        "AMORPHOUS": (0.11, 0.19, 0.02),
        "PUNCTATE": (0.05, 0.11, 0.08),
        "FINE_LINEAR_BRANCHING": (0.13, 0.04, 0.00),
        "PLEOMORPHIC-FINE_LINEAR_BRANCHING": (0.05, 0.01, 0.00),
        "PUNCTATE-PLEOMORPHIC": (0.03, 0.04, 0.00),
        "ROUND_AND_REGULAR": (0.00, 0.03, 0.10),
        "LUCENT_CENTER": (0.00, 0.00, 0.27),
        "ROUND_AND_REGULAR-LUCENT_CENTER": (0.00, 0.00, 0.13),
        "EGGSHELL": (0.00, 0.00, 0.08),
        "COARSE": (0.00, 0.01, 0.12),
        "VASCULAR": (0.00, 0.00, 0.18),
    },
    "calc distribution": {
        "CLUSTERED": (0.62, 0.79, 0.04),
        "SEGMENTAL": (0.18, 0.12, 0.02),
        "LINEAR": (0.13, 0.04, 0.02),
        "REGIONAL": (0.06, 0.03, 0.08),
        "DIFFUSELY_SCATTERED": (0.01, 0.02, 0.05),
        "": (0.00, 0.00, 0.79),
    },
    "assessment": {
        5: (0.29, 0.01, 0.00),
        4: (0.57, 0.82, 0.01),
        3: (0.08, 0.08, 0.01),
        2: (0.00, 0.03, 0.98),
        0: (0.06, 0.06, 0.00),
    },
}
_STREAM_MASS, _STREAM_CALC, _STREAM_ORDER, _STREAM_SPLIT = 71, 52, 33, 34


@dataclass(frozen=True)
class Case:
    """One lesion on one view."""

    kind: str  # "mass" or "calc"
    number: int  # of the patient; with `kind` and the cohort's seed it decides the picture
    split: str
    side: str
    view: str
    breast_density: int
    descriptors: tuple[str, str]  # shape and margin, or type and distribution ("" if not given)
    assessment: int
    pathology: str
    subtlety: int
    radius: float  # mm; of a calcification, the scale of its group
    contrast: float  # multiple of the lesion's usual attenuation
    age: int | None = None  # years; masses only, as the four below
    mass_density: int | None = None
    table_row: int | None = None
    birads: int | None = None  # the table's own, before 6 and 55 became 5

    @property
    def patient_id(self) -> str:
        return f"P_{self.number:05d}"

    @property
    def name(self) -> str:
        """Folder of the mammogram, as CBIS-DDSM names it."""
        part = "Training" if self.split == "train" else "Test"
        return f"{self.kind.title()}-{part}_{self.patient_id}_{self.side}_{self.view}"


def _draw(rng: np.random.Generator, shares: dict, column: int | None = None):
    """One key of `shares`, with the probabilities of `column`."""
    weights = np.array([share if column is None else share[column] for share in shares.values()], dtype=float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _density(rng: np.random.Generator, age: int) -> int:
    """BI-RADS density of the breast, 1 to 4: ordered logit in age, logit P(density > k) = a_k - 0.055 (age - 55)."""
    odds = np.array(DENSITY_LOG_ODDS) + DENSITY_PER_YEAR * (age - 55)
    return 1 + int((rng.random() < 1 / (1 + np.exp(-odds))).sum())


def _visibility(rng: np.random.Generator, usual: tuple[float, float], largest: float) -> tuple[float, float, int]:
    """Radius (mm), contrast, and a subtlety (1 subtle to 5 obvious) that compares them with the usual ones.

    None knows the pathology beyond the words that decide what is usual.
    """
    size = float(np.clip(np.exp(rng.normal(0, 0.32)), 0.5, largest / usual[0]))
    contrast = float(np.clip(np.exp(rng.normal(0, 0.38)), 0.4, 2.4))
    seen = np.log(contrast) + 0.6 * np.log(size) + rng.normal(0, 0.12)
    return usual[0] * size, usual[1] * contrast, 1 + int(np.searchsorted((-0.62, -0.34, -0.02, 0.28), seen))


def _split(patients: dict[int, str], seed: int, stream: int) -> dict[int, str]:
    """Divide patients 78 to 22, within each pathology."""
    rng = np.random.default_rng([seed, _STREAM_SPLIT, stream])
    out = {}
    for pathology in PATHOLOGY:
        numbers = [number for number, found in patients.items() if found == pathology]
        order = rng.permutation(len(numbers))
        train = round(TRAIN_SHARE * len(numbers))
        out |= {numbers[at]: "train" if place < train else "test" for place, at in enumerate(order)}
    return out


def mass_cases(table: pd.DataFrame, seed: int, rows: int = 0) -> list[Case]:
    """One case per row of the BI-RADS table, in its order.

    With `rows`, that many chosen at random by the seed: the same persons as in the whole cohort of that seed, but the
    split is drawn anew.
    """
    order = np.random.default_rng([seed, _STREAM_ORDER]).permutation(len(table))
    chosen = table.iloc[np.sort(order[: rows or len(table)])]
    # A biopsy is benign or malignant; without callback are those that the assessment would not have called back.
    called = np.where(chosen["assessment"].isin([1, 2, 3]), "BENIGN_WITHOUT_CALLBACK", "BENIGN")
    pathology = dict(zip(chosen.index, np.where(chosen["severity"] == 1, "MALIGNANT", called), strict=True))
    split = _split(pathology, seed, _STREAM_MASS)
    cases = []
    for row in chosen.itertuples():
        rng = np.random.default_rng([seed, _STREAM_MASS, row.Index])
        side = "LEFT" if rng.random() < 0.5 else "RIGHT"
        view = "MLO" if rng.random() < MLO_SHARE else "CC"
        density = _density(rng, row.age)
        radius, contrast, subtlety = _visibility(rng, USUAL_MASS[row.shape], 22.0)
        cases.append(
            Case(
                kind="mass",
                number=int(row.Index),
                split=split[row.Index],
                side=side,
                view=view,
                breast_density=density,
                descriptors=(row.shape, row.margin),
                assessment=int(row.assessment),
                pathology=str(pathology[row.Index]),
                subtlety=subtlety,
                radius=radius,
                contrast=contrast,
                age=int(row.age),
                mass_density=int(row.mass_density),
                table_row=int(row.Index),
                birads=int(row.birads),
            )
        )
    return cases


def _calc_patient(number: int, seed: int) -> list[Case]:
    """Both views of one patient, or one; they share everything but the contrast. The split is set later."""
    rng = np.random.default_rng([seed, _STREAM_CALC, number])
    side = "LEFT" if rng.random() < 0.5 else "RIGHT"
    views = ["CC", "MLO"] if rng.random() < TWO_VIEWS else [str(rng.choice(["CC", "MLO"], p=(0.23, 0.77)))]
    pathology = _draw(rng, CALC_SHARES["pathology"])
    column = PATHOLOGY.index(pathology)
    kind = _draw(rng, CALC_SHARES["calc type"], column)
    distribution = _draw(rng, CALC_SHARES["calc distribution"], column)
    density = 1 + int(rng.choice(4, p=CALC_DENSITY))
    assessment = int(_draw(rng, CALC_SHARES["assessment"], column))
    radius, contrast, subtlety = _visibility(rng, USUAL_CALC.get(kind.split("-")[0], USUAL_CALC_OTHER), 16.0)
    return [
        Case(
            kind="calc",
            number=number,
            split="",
            side=side,
            view=view,
            breast_density=density,
            descriptors=(kind, "" if kind == "VASCULAR" else distribution),
            assessment=assessment,
            pathology=pathology,
            subtlety=subtlety,
            radius=radius,
            contrast=contrast * float(np.exp(rng.normal(0, 0.1))),
        )
        for view in views
    ]


def calc_cases(seed: int, cases: int) -> list[Case]:
    """Draw `cases` calcification cases (rows) of as many patients as that takes."""
    drawn, number = [], FIRST_CALC_PATIENT
    while len(drawn) < cases:
        drawn += _calc_patient(number, seed)
        number += 1
    drawn = drawn[:cases]  # the last patient may lose the second view
    split = _split({case.number: case.pathology for case in drawn}, seed, _STREAM_CALC)
    return [replace(case, split=split[case.number]) for case in drawn]
