"""The case-description tables of CBIS-DDSM: mammographic masses and calcifications (tables only, no pixels).

One row is one abnormality on one view. Radiologists' descriptors are the privileged information of the tabular teacher.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.cohorts.checks import check_unique, read_csv, require_columns
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel, empty_boxes
from pkd_utils.errors import DataError

WHERE = "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY (The Cancer Imaging Archive, CBIS-DDSM, csv files)"
PATHOLOGY = ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")
DESCRIPTORS = {"mass": ("mass shape", "mass margins"), "calc": ("calc type", "calc distribution")}
ROWS_PUBLISHED = {("mass", "train"): 1318, ("mass", "test"): 378, ("calc", "train"): 1546, ("calc", "test"): 326}
# One descriptor is spelled in two ways.
DESCRIPTOR_ALIASES = {"LUCENT_CENTERED": "LUCENT_CENTER"}
_ORDINAL = ("breast density", "assessment", "subtlety")
_PATHS = {
    "image file path": "dicom_path",
    "cropped image file path": "cropped_dicom_path",
    "ROI mask file path": "roi_dicom_path",
}


def load_mass(root: Path, target: str = "malignant") -> Cohort:
    """Read the two mass tables; see `load`."""
    return load(root, "mass", target)


def load_calc(root: Path, target: str = "malignant") -> Cohort:
    """Read the two calcification tables; see `load`."""
    return load(root, "calc", target)


def load(root: Path, kind: str, target: str = "malignant") -> Cohort:
    """Read the official training and test tables of one abnormality type.

    Parameters
    ----------
    root : Path
        Folder that holds `{mass,calc}_case_description_{train,test}_set.csv` as TCIA serves them.
    kind : {"mass", "calc"}
    target : {"malignant", "pathology"}
        "malignant": one label, 1 for MALIGNANT and 0 for both benign classes. "pathology": three labels `malignant`,
        `benign`, `benign_without_callback`, of which exactly one is 1.

    Returns
    -------
    Cohort
        `image_id` is kind, patient, side, view and abnormality id; `study_id` the mammogram (patient, side, view);
        `split` the official train or test (there is no validation set); `path` is NaN, the tables' own DICOM paths
        are the columns `dicom_path`, `cropped_dicom_path`, `roi_dicom_path`. `privileged` is indexed by `image_id`
        with float columns: `breast_density`, `assessment` (BI-RADS), `subtlety` as in the table; `side=LEFT`,
        `view=MLO`; and one 0/1 column a descriptor value, e.g. `mass_shape=IRREGULAR`, several of which can be 1
        (values are joined by "-" in the table) and `mass_shape=missing`. The part before "=" is the feature's name.

    Raises
    ------
    FileNotFoundError, DataError
    """
    if kind not in DESCRIPTORS:
        raise DataError(f"CBIS-DDSM has the tables 'mass' and 'calc', not {kind!r}.")
    if target not in ("malignant", "pathology"):
        raise DataError(f"target must be 'malignant' or 'pathology', not {target!r}.")
    files = {split: root / f"{kind}_case_description_{split}_set.csv" for split in ("train", "test")}
    parts = {split: _read_table(file, kind) for split, file in files.items()}
    table = pd.concat([part.assign(split=split) for split, part in parts.items()], ignore_index=True)
    shared_note = _shared_note(root, kind)

    funnel = Funnel()
    funnel.step(
        "rows of both tables",
        table,
        sum(ROWS_PUBLISHED[kind, s] for s in files),
        note="paper = rows of the published tables",
    )
    for split, part in parts.items():
        funnel.step(f"{split} table", part, ROWS_PUBLISHED[kind, split], note=shared_note[split])

    key = table["patient_id"] + "_" + table["side"] + "_" + table["view"]
    table["image_id"] = f"{kind}_" + key + "_" + table["abnormality id"]
    check_unique(table, "image_id", f"the {kind} tables")
    images = table[["image_id", "patient_id"]].assign(study_id=key, path=np.nan, split=table["split"])
    images["view"] = table["view"]
    names = ["MALIGNANT"] if target == "malignant" else list(PATHOLOGY)
    for name in names:
        images[name.lower()] = (table["pathology"] == name).astype(float)
    images["side"], images["pathology"] = table["side"], table["pathology"]
    for column, name in _PATHS.items():
        images[name] = table[column].str.strip()
    for name in PATHOLOGY:
        funnel.step(f"pathology {name}", table[table["pathology"] == name])
    return Cohort(
        info=CohortInfo(
            name=f"cbis_{kind}",
            title=f"CBIS-DDSM {'mass' if kind == 'mass' else 'calcification'} descriptions",
            licence="CC BY 3.0",
            citation="Lee et al., Sci Data 4:170177 (2017), doi 10.7937/K9/TCIA.2016.7O02S9CY",
            simulated=(root / "SIMULATED.txt").exists(),
            shareable_text=True,
            shareable_images=True,
        ),
        root=root,
        labels=[name.lower() for name in names],
        images=images,
        boxes=empty_boxes(),
        funnel=funnel.table(),
        privileged_source=_features(table, kind),
        tables=list(files.values()),
    )


def shared_patients(root: Path) -> pd.DataFrame:
    """Count the patients that two of the four official tables have in common.

    Returns
    -------
    DataFrame
        Four by four, names like "mass train"; the diagonal is the table's own number of patients. A model that uses
        masses and calcifications together must not train on one table's patients and test on the other's.
    """
    ids = {}
    for kind in DESCRIPTORS:
        for split in ("train", "test"):
            file = root / f"{kind}_case_description_{split}_set.csv"
            ids[f"{kind} {split}"] = set(_read_table(file, kind)["patient_id"])
    rows = [[len(ids[a] & ids[b]) for b in ids] for a in ids]
    return pd.DataFrame(rows, index=list(ids), columns=list(ids))


def _shared_note(root: Path, kind: str) -> dict[str, str]:
    """For each split, say how many patients the other type's tables share with it ("" where they are not here)."""
    other = "calc" if kind == "mass" else "mass"
    if not all((root / f"{other}_case_description_{split}_set.csv").is_file() for split in ("train", "test")):
        return {"train": "", "test": ""}
    shared = shared_patients(root)
    note = {}
    for split, opposite in (("train", "test"), ("test", "train")):
        count = shared.loc[f"{kind} {split}", f"{other} {opposite}"]
        note[split] = f"{count} patients are also in the {other} {opposite} table"
    return note


def _read_table(file: Path, kind: str) -> pd.DataFrame:
    """Read one table, bring the column spellings together, and check the coded columns."""
    table = read_csv(file, [], WHERE)
    table.columns = [name.strip() for name in table.columns]
    table = table.rename(columns={"breast_density": "breast density"})
    descriptors = DESCRIPTORS[kind]
    required = ["patient_id", "left or right breast", "image view", "abnormality id", "pathology"]
    require_columns(table, [*required, *_ORDINAL, *descriptors, *_PATHS], file)
    table = table.rename(columns={"left or right breast": "side", "image view": "view"})
    for column in ("patient_id", "side", "view", "abnormality id", "pathology", *_ORDINAL):
        table[column] = table[column].str.strip()
        if table[column].isna().any():
            row = int(table.index[table[column].isna()][0]) + 1
            raise DataError(f"{file.name}: data row {row} has no {column!r}; correct it or remove the row.")
    allowed = {"side": ["LEFT", "RIGHT"], "view": ["CC", "MLO"], "pathology": list(PATHOLOGY)}
    for column, values in allowed.items():
        wrong = ~table[column].isin(values)
        if wrong.any():
            raise DataError(
                f"{file.name}: {column} is {table[column][wrong].iloc[0]!r} for patient "
                f"{table['patient_id'][wrong].iloc[0]}; it must be one of {', '.join(values)}."
            )
    for column in _ORDINAL:
        wrong = ~table[column].str.fullmatch(r"[0-5]")
        if wrong.any():
            raise DataError(
                f"{file.name}: {column} is {table[column][wrong].iloc[0]!r} for patient "
                f"{table['patient_id'][wrong].iloc[0]}; it must be a whole number from 0 to 5."
            )
    return table


def _features(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Turn descriptors into named float columns, indexed by image_id."""
    columns = {name.replace(" ", "_"): table[name].astype(float) for name in _ORDINAL}
    columns["side=LEFT"] = (table["side"] == "LEFT").astype(float)
    columns["view=MLO"] = (table["view"] == "MLO").astype(float)
    for name in DESCRIPTORS[kind]:
        values = table[name].mask(table[name].isin(["N/A", "NA"])).fillna("missing").str.strip().str.split("-")
        values = values.map(lambda words: {DESCRIPTOR_ALIASES.get(word, word) for word in words})
        for word in sorted(set().union(*values)):
            columns[f"{name.replace(' ', '_')}={word}"] = values.map(lambda words, w=word: float(w in words))
    return pd.DataFrame(columns).set_index(table["image_id"])
