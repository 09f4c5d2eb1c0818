"""Simulated case descriptions in the layout of CBIS-DDSM's four tables, so that their notebooks run without them.

Descriptors, assessment and pathology are drawn from invented probabilities: the tables have the real ones' columns,
spellings, repeated views, several values in one cell and empty cells, and nothing of their medicine.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils import runs

PATHOLOGY = ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")
# For each descriptor: its values, and how likely each is in the three pathologies, in arbitrary units.
DESCRIPTORS = {
    "mass": {
        "mass shape": {"IRREGULAR": (6, 2, 1), "OVAL": (1, 4, 4), "LOBULATED": (2, 3, 2), "ROUND": (1, 2, 3)},
        "mass margins": {"SPICULATED": (6, 1, 1), "ILL_DEFINED": (4, 3, 1), "CIRCUMSCRIBED": (1, 5, 6), "": (1, 1, 3)},
    },
    "calc": {
        "calc type": {"PLEOMORPHIC": (6, 4, 1), "AMORPHOUS": (2, 3, 1), "PUNCTATE": (1, 3, 2), "VASCULAR": (0, 1, 6)},
        "calc distribution": {"CLUSTERED": (5, 5, 1), "LINEAR": (3, 1, 1), "SEGMENTAL": (3, 2, 1), "": (0, 1, 7)},
    },
}
ASSESSMENT = {4: (5, 5, 1), 5: (5, 1, 0), 3: (1, 2, 1), 2: (0, 1, 8), 0: (1, 1, 1)}
NOTICE = "SIMULATED tables in the layout of CBIS-DDSM. No row describes a patient.\n"


def write_cbis_tables(root: Path, patients: int = 80, seed: int = 0) -> Path:
    """Write `{mass,calc}_case_description_{train,test}_set.csv` and SIMULATED.txt into `root`.

    Parameters
    ----------
    root : Path
        Made if missing; files in it are replaced whole.
    patients : int
        Patients a training table; a test table has a quarter as many, and other, patients.
    seed : int

    Returns
    -------
    Path
        `root`.
    """
    for stream, kind in enumerate(DESCRIPTORS):
        for part, (split, count) in enumerate((("train", patients), ("test", max(4, patients // 4)))):
            rng = np.random.default_rng([seed, stream, part])
            first = 1 if split == "train" else patients + 1
            rows = [row for number in range(first, first + count) for row in _patient(rng, kind, split, number)]
            runs.write_csv(Path(root) / f"{kind}_case_description_{split}_set.csv", pd.DataFrame(rows))
    with runs.atomic_path(Path(root) / "SIMULATED.txt") as temporary:
        temporary.write_text(NOTICE)
    return Path(root)


def _draw(rng: np.random.Generator, values: dict, pathology: int) -> str | int:
    weights = np.array([weight[pathology] for weight in values.values()], dtype=float)
    return list(values)[rng.choice(len(weights), p=weights / weights.sum())]


def _patient(rng: np.random.Generator, kind: str, split: str, number: int) -> list[dict]:
    """One lesion of one patient on one or two views; the views share the descriptors, as the real ones do."""
    pathology = int(rng.choice(3, p=(0.4, 0.4, 0.2)))
    side = str(rng.choice(["LEFT", "RIGHT"]))
    words = {}
    for name, values in DESCRIPTORS[kind].items():
        word = _draw(rng, values, pathology)
        other = _draw(rng, values, pathology)
        words[name] = f"{word}-{other}" if word and other and other != word and rng.random() < 0.2 else word
    density, assessment, subtlety = int(rng.integers(1, 5)), _draw(rng, ASSESSMENT, pathology), int(rng.integers(1, 6))
    rows = []
    for view in ("CC", "MLO")[: 1 + int(rng.random() < 0.8)]:
        case = f"{kind.title()}-{'Training' if split == 'train' else 'Test'}_P_{number:05d}_{side}_{view}"
        rows.append(
            {
                "patient_id": f"P_{number:05d}",
                "breast_density" if kind == "mass" else "breast density": density,
                "left or right breast": side,
                "image view": view,
                "abnormality id": 1,
                "abnormality type": "mass" if kind == "mass" else "calcification",
                **words,
                "assessment": assessment,
                "pathology": PATHOLOGY[pathology],
                "subtlety": subtlety,
                "image file path": f"{case}/1.2.3.{number}/1.2.4.{number}/000000.dcm",
                "cropped image file path": f"{case}_1/1.2.5.{number}/1.2.6.{number}/000000.dcm",
                "ROI mask file path": f"{case}_1/1.2.5.{number}/1.2.6.{number}/000001.dcm\n",
            }
        )
    return rows
