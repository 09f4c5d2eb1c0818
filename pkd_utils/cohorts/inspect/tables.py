"""INSPECT's tables in both published layouts: which files, which columns, which values. `studies.load` joins them.

The files of 2023/24 are CSV tables named `Final_...`, those of 2025 are TSV tables with a date in the name. What a
table and what a column may be called is listed here; anything else is refused with the names that would do.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from pkd_utils.cohorts.checks import as_times, check_filled, read_csv
from pkd_utils.runs.errors import DataError

WHERE = "https://stanfordaimi.azurewebsites.net (INSPECT; access under a data use agreement)"
# For each release: what a table may be called, first choice first; * and [0-9] as in a shell, case does not matter.
RELEASES = {
    "2025": {
        "studies": ("study_mapping_20250611.tsv", "study_mapping_[0-9]*.tsv"),
        "labels": ("labels_20250611.tsv", "labels_[0-9]*.tsv"),
        "splits": ("splits_20250611.tsv", "splits_[0-9]*.tsv"),
        # Impressions of 2023/24 have the same keys; they are often kept beside the newer tables.
        "impressions": ("impressions_20250611.tsv", "impressions_[0-9]*.tsv", "Final_Impressions.csv"),
    },
    "2023": {
        "studies": ("Final_metadata.csv", "Final_metadata*.csv"),
        "labels": ("Final_labels.csv", "Final_labels*.csv"),
        "splits": ("Final_splits.csv", "Final_splits*.csv"),
        "impressions": ("Final_Impressions.csv", "Final_Impressions*.csv"),
    },
}
CROSSWALK = ("image_ehr_crosswalk_20250418.csv", "image_ehr_crosswalk_[0-9]*.csv")  # person_id, image_id
PERSON = ("person_id", "PatientID", "patient_id")
TIMES = ("procedure_DATETIME", "StudyTime", "note_DATETIME")  # the first that a row has
_VALUES = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "censored": np.nan, "censor": np.nan}


def find_tables(root: Path) -> tuple[str, dict[str, Path]]:
    """Find the four tables of the newest release that a folder holds whole: its name, and the files by table."""
    missing = {}
    for candidate in RELEASES:
        files = {table: match(root, accepted) for table, accepted in RELEASES[candidate].items()}
        missing[candidate] = [table for table, file in files.items() if file is None]
        if not missing[candidate]:
            return candidate, files
    nearest = min(missing, key=lambda candidate: len(missing[candidate]))
    listed = "; ".join(f"{table}: {' or '.join(RELEASES[nearest][table])}" for table in missing[nearest])
    raise FileNotFoundError(f"{root} lacks tables of INSPECT's release {nearest} ({listed}); get them from {WHERE}.")


def match(root: Path, accepted: Sequence[str]) -> Path | None:
    """The file of a folder that the first fitting pattern of `accepted` finds; DataError if it finds several."""
    names = sorted(path.name for path in root.iterdir() if path.is_file()) if root.is_dir() else []
    for pattern in accepted:
        found = [name for name in names if fnmatchcase(name.lower(), pattern.lower())]
        if len(found) > 1:
            raise DataError(f"{root} has {len(found)} tables {pattern} ({', '.join(found)}); keep one of them there.")
        if found:
            return root / found[0]
    return None


def read_table(file: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table as `checks.read_csv` does; identifiers are freed of spaces, `.0` and `.nii.gz`.

    `columns` must be there, and `impression_id`, if among them, must be filled in every row.
    """
    table = read_csv(file, columns, WHERE)
    for column in {"impression_id", "image_id", *PERSON} & set(table.columns):
        # Where a table was once written with empty cells in an integer column, 123 has become 123.0.
        table[column] = table[column].str.strip().str.replace(r"^(\d+)\.0+$", r"\1", regex=True)
        table[column] = table[column].mask(table[column] == "")
    if "image_id" in table.columns:
        table["image_id"] = table["image_id"].str.removesuffix(".gz").str.removesuffix(".nii")
    if "impression_id" in columns:
        check_filled(table, ["impression_id"], file)
    return table


def read_outcome(values: pd.Series, column: str) -> pd.Series:
    """Turn True, False and Censored or Censor (text in any case, 1 and 0, or booleans) into 1, 0 and NaN.

    Anything else is refused, empty values included: an outcome that nobody recorded is not a censored one.
    """
    text = values.astype("str").str.strip().str.lower()
    unknown = ~text.isin(_VALUES)
    if unknown.any():
        first = values[unknown].iloc[0]
        raise DataError(
            f"Column {column}: {int(unknown.sum())} value(s) are not True, False or Censored, the first is {first!r}."
        )
    return text.map(_VALUES).astype("float64")


def read_studies(file: Path, crosswalk: Path | None = None) -> tuple[pd.DataFrame, list[Path]]:
    """Read the studies: `study_id`, `image_id`, `patient_id`, `study_datetime`; and from which files.

    `file` is the mapping (2025) or metadata (2023); `crosswalk` is asked where it has no patients.
    """
    table, sources = read_table(file, ["impression_id", "image_id"]), [file]
    person = next((column for column in PERSON if column in table.columns), None)
    if person is None and crosswalk is None:
        raise DataError(
            f"{file.name} has no patients ({' or '.join(PERSON)}), without which no split can keep them apart; put "
            f"{CROSSWALK[0]} beside it."
        )
    if person is None:
        known = read_table(crosswalk, ["person_id", "image_id"]).dropna().drop_duplicates(["image_id", "person_id"])
        if known["image_id"].duplicated().any():
            raise DataError(f"{crosswalk.name} gives one image to several persons; correct the table.")
        table, sources, person = table.merge(known, on="image_id", how="left"), [file, crosswalk], "person_id"
    # The first time that a row has; a date without a time of day is midnight.
    time = table.reindex(columns=TIMES).bfill(axis=1).iloc[:, 0].rename("study time")
    moments = as_times(time.to_frame(), ["study time"], file, "ISO8601")["study time"].astype("datetime64[us]")
    studies = table[["impression_id", "image_id", person]].set_axis(["study_id", "image_id", "patient_id"], axis=1)
    return studies.assign(study_datetime=moments), sources


def unique_rows(table: pd.DataFrame, key: str, file: Path, policy: str) -> tuple[pd.DataFrame, set[str]]:
    """One row a `key`, by the policy of `inspect.studies.load`, and the keys that occurred more than once."""

    def several() -> pd.Series:
        return table[key].duplicated(keep=False) & table[key].notna()

    repeated = set(table[key][several()])
    if policy == "collapse":
        table = table[~(table.duplicated() & several())]
        differing = table[key][several()]
        if len(differing):
            raise DataError(
                f"{file.name}: {differing.nunique()} {key}(s) have rows that differ, the first is "
                f"{differing.iloc[0]!r}; correct them, or pass duplicates='all', 'first' or 'drop'."
            )
    elif policy == "first":
        table = table[~(table[key].duplicated() & table[key].notna())]
    else:
        table = table[~several()]
    return table, repeated
