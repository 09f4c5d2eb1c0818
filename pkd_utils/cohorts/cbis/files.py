"""Find the picture files of CBIS-DDSM's table rows, in the layouts that its sources have had.

A row names its series by their unique identifiers, inside paths that exist in no download as written. What a file shows
is not decided here but in `cbis.pixels`: a file's name says nothing reliable about it.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from pkd_utils.cohorts.checks import read_csv
from pkd_utils.runs.errors import DataError

WHERE = (
    "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY (The Cancer Imaging Archive, DICOM) or "
    "https://www.kaggle.com/datasets/awsaf49/cbis-ddsm-breast-cancer-image-dataset (JPEG)"
)
SUFFIXES = (".dcm", ".jpg", ".jpeg", ".png")
_SUFFIX_LENGTH = 5  # TCIA's folders end in the last five characters of the identifier


def find_files(root: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Path]]:
    """Find the files of every row's mammogram series and of its crop and mask series.

    Parameters
    ----------
    root : Path
        A TCIA download (case folders in `root`, in `root/CBIS-DDSM`, or one level further down beside a manifest's
        `metadata.csv`; folders named by identifiers, or by date and the identifier's end, old spelling or new), or the
        Kaggle data set (`jpeg/<SeriesInstanceUID>/`, `csv/dicom_info.csv`).
    table : DataFrame
        Columns `dicom_path`, `cropped_dicom_path`, `roi_dicom_path`, as the tables give them:
        `<case>/<StudyInstanceUID>/<SeriesInstanceUID>/<file>`. NaN is a row without that file.

    Returns
    -------
    files : DataFrame
        Indexed as `table`; `mammogram_files` and `roi_files` are lists of paths relative to `root`, as text, empty
        where nothing was found. Crop and mask are in `roi_files` together, since the tables mix them up.
    read : list of Path
        The files metadata.csv or dicom_info.csv that took part.
    """
    series = {name: [_series(path, name) for path in table[name]] for name in table.columns if name.endswith("_path")}
    wanted = [key for keys in series.values() for key in keys if key is not None]
    listings = [file for file in (root / "metadata.csv", *sorted(root.glob("*/metadata.csv"))) if file.is_file()]
    bases = [base for base in (root, root / "CBIS-DDSM", *sorted(root.glob("*/CBIS-DDSM"))) if base.is_dir()]
    tcia = bool(listings) or any((base / case).is_dir() for case, _, _ in wanted for base in bases)
    kaggle = (root / "jpeg").is_dir()
    if tcia and kaggle:
        raise DataError(f"{root} holds CBIS-DDSM as DICOM and as JPEG (jpeg/); give each a root of its own.")
    if not tcia and not kaggle:
        raise FileNotFoundError(
            f"{root} holds no pictures of CBIS-DDSM (no metadata.csv, no case folder such as "
            f"{wanted[0][0] if wanted else 'Mass-Training_P_00001_LEFT_CC'}, no jpeg/); get them from {WHERE}, "
            "or load the tables alone with pixels='none'."
        )
    if kaggle:
        listings = [file for file in (root / "csv" / "dicom_info.csv", root / "dicom_info.csv") if file.is_file()][:1]
        found = _kaggle(root, wanted, listings)
    else:
        found = _tcia(root, wanted, listings, bases)
    files = pd.DataFrame(index=table.index)
    files["mammogram_files"] = [found.get(key, []) for key in series["dicom_path"]]
    files["roi_files"] = [
        sorted({*found.get(crop, []), *found.get(mask, [])})
        for crop, mask in zip(series["cropped_dicom_path"], series["roi_dicom_path"], strict=True)
    ]
    return files, listings


def _series(path: str | float, column: str) -> tuple[str, str, str] | None:
    """(case, study, series) of a table's path; None for an empty field."""
    if not isinstance(path, str):
        return None
    parts = path.split("/")
    if len(parts) != 4 or not all(parts):
        raise DataError(f"{column} {path!r} is not <case>/<study>/<series>/<file>; take the published tables.")
    return parts[0], parts[1], parts[2]


def _pictures(folder: Path, root: Path) -> list[str]:
    """The picture files of one folder, relative to `root`."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    return [(file.relative_to(root) if file.is_relative_to(root) else file).as_posix() for file in files]


def _tcia(root: Path, wanted: Iterable[tuple], listings: list[Path], bases: list[Path]) -> dict[tuple, list[str]]:
    """Files of each (case, study, series): by metadata.csv, else by the names of the folders."""
    listed = _metadata_folders(listings)
    found = {}
    for case, study, series in set(wanted):
        folders = listed.get(series) or _named_folders([base / case for base in bases], study, series)
        found[case, study, series] = [file for folder in folders for file in _pictures(folder, root)]
    return found


def _metadata_folders(listings: list[Path]) -> dict[str, list[Path]]:
    """Series identifier -> folder, of all metadata.csv; only folders that are there."""
    folders = {}
    for listing in listings:
        names = ["Series UID", "File Location"]
        for series, location in read_csv(listing, names, WHERE, only=True)[names].dropna().itertuples(index=False):
            parts = PurePosixPath(location.strip().replace("\\", "/")).parts  # Windows writes backslashes
            # The folder beside the listing, or, where its content was moved up, without the first part.
            for candidate in (listing.parent.joinpath(*parts), listing.parent.joinpath(*parts[1:])):
                if candidate.is_dir():
                    folders[series.strip()] = [candidate]
                    break
    return folders


def _named_folders(cases: list[Path], study: str, series: str) -> list[Path]:
    """Series folders whose own name is the identifier or ends in its last characters."""

    def named(folder: Path, identifier: str) -> bool:
        return folder.name == identifier or folder.name.endswith("-" + identifier[-_SUFFIX_LENGTH:])

    studies = [folder for case in cases if case.is_dir() for folder in case.iterdir() if folder.is_dir()]
    matches = [sub for folder in studies for sub in folder.iterdir() if sub.is_dir() and named(sub, series)]
    if len(matches) > 1:  # short endings can coincide
        matches = [folder for folder in matches if named(folder.parent, study)] or matches
    return matches


def _kaggle(root: Path, wanted: Iterable[tuple], listings: list[Path]) -> dict[tuple, list[str]]:
    """Files of each (case, study, series), by the series identifier alone: a study holds crops and masks of many."""
    listed: dict[str, list[str]] = {}
    for listing in listings:
        names = ["image_path", "SeriesInstanceUID"]
        for image, series in read_csv(listing, names, WHERE, only=True)[names].dropna().itertuples(index=False):
            file = PurePosixPath("jpeg", *PurePosixPath(image.strip()).parts[-2:])
            if (root / file).is_file():
                listed.setdefault(series.strip(), []).append(str(file))
    found = {}
    for key in set(wanted):
        folder = root / "jpeg" / key[2]
        found[key] = listed.get(key[2]) or (_pictures(folder, root) if folder.is_dir() else [])
    return found
