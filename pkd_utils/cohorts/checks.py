"""Refusals shared by all loaders: each raises with one sentence that says what is wrong, where, and what to do."""

import collections
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pkd_utils.cohorts.table import (
    BOX_COLUMNS,
    CORNERS,
    FUNNEL_COLUMNS,
    IMAGE_COLUMNS,
    SPLITS,
    Cohort,
    is_text,
    privileged_problems,
    within,
)
from pkd_utils.images.decode import open_image
from pkd_utils.runs import machine
from pkd_utils.runs.errors import DataError

_NOT_PLAIN = r"^/|//|/$|(?:^|/)\.\.?(?:/|$)|\x00"  # of a path
_LOOKS = 16  # threads that ask for files' sizes
BOX_TOLERANCE = 1.0  # pixels: annotation tools round outwards


def require_file(path: Path, where: str) -> Path:
    """Return `path`, or raise FileNotFoundError that names it and says where to get it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get it from {where}.")
    return path


def require_files(absent: pd.Series, total: int, table: Path, where: str) -> None:
    """Raise FileNotFoundError if there are names in `absent`: of `total` files that a table names, those not here."""
    if len(absent):
        raise FileNotFoundError(
            f"{len(absent)} of {total} files that {table} names are missing, the first is {absent.iloc[0]}; get them "
            f"from {where}, or take their rows out."
        )


def require_columns(table: pd.DataFrame, columns: Sequence[str], file: Path) -> None:
    """Raise DataError if a column is missing from a table that was read from `file`."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"{file.name} has no column {', '.join(map(repr, missing))} (it has {', '.join(table.columns)}); "
            "check that the file is the published one."
        )


def read_csv(path: Path, columns: Sequence[str], where: str, only: bool = False) -> pd.DataFrame:
    """Read a CSV (plain or .gz) or TSV with every field as a string; empty fields are NaN and 'NA' stays text.

    Spaces around the names of columns go. `columns` must be there; with `only` no others are read, to save memory on
    large tables; `where` says in the error message where to get the file.
    """
    require_file(path, where)
    kind, separator = ("TSV", "\t") if path.suffix == ".tsv" else ("CSV", ",")
    wanted = (lambda name: _unquoted(name).strip() in columns) if only else None
    try:
        header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
        names = header.iloc[0].str.strip()
        require_columns(pd.DataFrame(columns=names), columns, path)
        for name in names[names.duplicated() & (names != "")]:
            raise DataError(f"{path.name} has two columns {name!r}; take one of them out.")
        # index_col: else one comma too many at the end of each row would shift all columns by one.
        fields = {"dtype": str, "keep_default_na": False, "na_values": [""], "usecols": wanted, "index_col": False}
        if kind == "TSV" and _a_row_a_line(path):
            table = pd.read_csv(path, sep=separator, quoting=csv.QUOTE_NONE, **fields).rename(columns=_unquoted)
            table = table.apply(lambda values: values.map(_unquoted, na_action="ignore").replace("", np.nan))
        else:
            _check_rows(path, separator, len(names))
            table = pd.read_csv(path, sep=separator, **fields)
        return table.rename(columns=str.strip)
    except DataError:
        raise
    # pandas' and Unicode's errors are ValueErrors
    except (ValueError, EOFError, OSError, zlib.error, csv.Error) as error:
        raise DataError(f"{path} cannot be read as {kind} ({error}); fetch the file again.") from None


def _check_rows(path: Path, separator: str, fields: int) -> None:
    """DataError if a row has fewer or more fields than the header, as pandas does not say; more may be empty ones."""
    # A gzip file read line by line takes a call of Python's for each.
    file = io.StringIO((gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes()).decode(), newline="")
    if set(map(len, csv.reader(file, delimiter=separator))) <= {0, fields}:
        return
    file.seek(0)
    for number, row in enumerate(csv.reader(file, delimiter=separator)):
        if row and (len(row) < fields or any(row[fields:])):
            what = f"data row {number} has {len(row)} field(s), its header {fields}"
            raise DataError(f"{path.name}: {what}; the file is cut short or damaged: fetch it again.")


def _a_row_a_line(path: Path) -> bool:
    """True if no quotation marks of a TSV file hold lines together: each has as many tabs, or the marks do not pair."""
    with open(path, encoding="utf-8", newline="\n") as file:
        if len({line.count("\t") for line in file if line.strip("\r\n")}) == 1:
            return True
    with open(path, encoding="utf-8", newline="") as file:
        try:
            collections.deque(csv.reader(file, delimiter="\t", strict=True), maxlen=0)
        except csv.Error:
            return True
    return False


def _unquoted(field: str) -> str:
    """A field out of its quotation marks, if it is quoted as a whole; a text may begin with one of its own."""
    quoted = re.fullmatch(r'"((?:[^"]|"")*)"', field)
    return quoted[1].replace('""', '"') if quoted else field


def refuse(table: pd.DataFrame, column: str, wrong: pd.Series, file: Path, what: str) -> None:
    """Raise DataError for the first wrong value of a column, if there is one."""
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = table[column].iloc[row]
        said = f"no {column}" if pd.isna(value) else f"{column} {value!r}, which {what}"
        raise DataError(f"{file.name}: data row {row + 1} has {said}; correct it or remove the row.")


def check_filled(table: pd.DataFrame, columns: Sequence[str], file: Path) -> None:
    """Raise DataError if a field of these columns is empty."""
    for column in columns:
        refuse(table, column, table[column].isna(), file, "is empty")


def check_values(table: pd.DataFrame, column: str, values: Sequence[str], file: Path) -> None:
    """Raise DataError if a field is not one of the values that the published table has."""
    refuse(table, column, ~table[column].isin(values), file, f"is not one of {', '.join(values)}")


def as_numbers(table: pd.DataFrame, columns: Sequence[str], file: Path) -> pd.DataFrame:
    """The table with these columns as floats; an empty field is NaN."""
    try:
        return table.astype(dict.fromkeys(columns, "float64"))
    except ValueError:
        for column in columns:
            wrong = pd.to_numeric(table[column], errors="coerce").isna() & table[column].notna()
            refuse(table, column, wrong, file, "is not a number")
        raise


def as_times(table: pd.DataFrame, columns: Sequence[str], file: Path, form: str) -> pd.DataFrame:
    """The table with these columns as timestamps of one form (see `pandas.to_datetime`); an empty field is NaT.

    Times with an offset from UTC (`Z`, `-08:00`) become UTC's; a column may not have times with and without one.
    """
    times = {}
    for column in columns:
        values = pd.to_datetime(table[column], format=form, errors="coerce", utc=True).dt.tz_localize(None)
        refuse(table, column, values.isna() & table[column].notna(), file, "is not a time")
        offset = table[column].dropna().astype("str").str.fullmatch(r".*(?:[Zz]|[T ].*[+-]\d\d(?::?\d\d)?)\s*")
        if offset.nunique() > 1:
            what = f"{int(offset.sum())} of {len(offset)} times with an offset from UTC"
            raise DataError(f"{file.name}: {column} cannot be read as times ({what}); give all one, or none.")
        times[column] = values
    return table.assign(**times)


def check_unique(table: pd.DataFrame, column: str, source: str) -> None:
    """Raise DataError if two rows carry the same identifier."""
    repeated = table[column][table[column].duplicated(keep=False)]
    if len(repeated):
        raise DataError(
            f"{source}: {column} {repeated.iloc[0]!r} occurs more than once ({len(repeated)} such rows); "
            "remove the duplicate rows."
        )


def _is_empty(values: pd.Series) -> pd.Series:
    return values.isna() | (values.astype("str").str.strip() == "")


def check_text(privileged: pd.DataFrame, source: str) -> None:
    """Raise DataError if a report has no text."""
    empty = privileged.index[_is_empty(privileged["text"])]
    if len(empty):
        raise DataError(
            f"{source}: {len(empty)} report(s) have no text, the first is {empty[0]!r}; "
            "remove them, or pass report_missing='drop' to leave them out and count them in the funnel."
        )


def lacking_files(cohort: Cohort) -> list[str]:
    """Paths below the root of the images that are not there or empty; one look at each, by many threads."""

    def lacking(some: list[str]) -> list[str]:
        return [path for path in some if not _size(f"{cohort.root}/{path}")]

    listed = cohort.images["path"].tolist()
    parts = [listed[start : start + 2000] for start in range(0, len(listed), 2000)]
    with ThreadPoolExecutor(_LOOKS) as pool:  # a network drive answers many at a time
        return [path for found in pool.map(lacking, parts) for path in found]


def _size(path: str) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def unreadable(
    root: Path, names: Sequence[str], look: Callable[[Path], object] = open_image
) -> Iterator[tuple[str, Exception]]:
    """Those of some files below a root that `look` refuses, in order, and why. Shows progress where it takes long."""

    def one(name: str) -> Exception | None:
        try:
            look(root / name)
        except (DataError, OSError) as error:
            return error
        return None

    with ThreadPoolExecutor(machine.cores()) as pool:  # threads: PIL's decoders let each other run
        said = tqdm(pool.map(one, names), "reading images", len(names), unit="image", delay=5)
        yield from ((name, error) for name, error in zip(names, said, strict=True) if error)


def check_cohort(cohort: Cohort) -> None:
    """Raise DataError with one sentence if a cohort breaks the contract of `Cohort`; reads headers of boxed images."""
    for problem in _problems(cohort):
        raise DataError(f"{cohort.info.name}: {problem}")


def _problems(cohort: Cohort) -> Iterator[str]:
    """What breaks the contract, the most basic first; the later ones rely on the earlier ones being absent."""
    images, boxes = cohort.images, cohort.boxes
    wanted = {"images": [*IMAGE_COLUMNS, *cohort.labels], "boxes": BOX_COLUMNS, "funnel": FUNNEL_COLUMNS}
    for table, columns in wanted.items():
        if missing := [column for column in columns if column not in getattr(cohort, table).columns]:
            yield f"the table {table} has no column {', '.join(missing)}; the loader must give it."
    if images.empty:
        yield "no image is left after the filters; cohort options and the files do not fit."
    yield from _column_problems(cohort)
    nobody = images["image_id"][_is_empty(images["patient_id"])]  # no split could keep them apart
    for image in nobody:
        yield f"{len(nobody)} row(s) have no patient id, the first is image {image!r}; add the id or remove the row."
    for image in images["image_id"][images["study_id"].isna()]:
        yield f"image {image!r} has no study_id; give it one."
    check_unique(images, "image_id", cohort.info.name)
    yield from _identifier_problems(images)
    yield from _path_problems(images)
    yield from _split_problems(images, cohort.info.splits)
    if isinstance(cohort.privileged_source, pd.DataFrame):  # what is read late is checked when it is read
        yield from privileged_problems(cohort.privileged_source, images)
    if len(boxes):
        yield from _box_problems(cohort)


def _column_problems(cohort: Cohort) -> Iterator[str]:
    """Columns of another type than the contract's."""
    images, boxes = cohort.images, cohort.boxes
    for column in ("image_id", "patient_id", "study_id"):
        if not is_text(images[column]):
            yield f"{column} holds {images[column].dtype}, not text; read identifiers as strings (dtype=str)."
    for column in ("path", "split", "view"):
        if not (images[column].isna().all() or is_text(images[column])):
            yield f"{column} holds {images[column].dtype}, not text; give text, or NaN where the source has none."
    for image in images["image_id"][images["path"].isna() & images["path"].notna().any()]:
        yield f"image {image!r} has no path while others have one; leave it out and count it in the funnel."
    for label in cohort.labels:
        if images[label].dtype != "float64" or not (images[label].isna() | images[label].isin([0.0, 1.0])).all():
            yield f"label {label!r} must be a float column of 1, 0 and NaN (unknown), not {images[label].dtype}."
    for column in BOX_COLUMNS:
        if len(boxes) and not (boxes[column].dtype == "float64" if column in CORNERS else is_text(boxes[column])):
            yield f"column {column} of the boxes holds {boxes[column].dtype}; corners are floats, names are text."


def _identifier_problems(images: pd.DataFrame) -> Iterator[str]:
    """Two spellings of one identifier, and studies of two patients: both would put one person on two sides."""
    for column in ("image_id", "patient_id", "study_id"):
        for name in images[column][images[column] != images[column].str.strip()]:
            yield f"{column} {name!r} has spaces around it; take them out of the table."
    patients = pd.Series(images["patient_id"].unique())
    folded = patients.str.replace(r"\s+", " ", regex=True).str.lower()
    alike = folded[folded.duplicated(keep=False)]
    for spelling in alike[:1]:
        one, other = patients[folded == spelling][:2]
        yield (
            f"patients {one!r} and {other!r} differ in nothing but case or spaces ({len(alike)} such names); "
            "give one person one name, and two persons names that cannot be mistaken."
        )
    pairs = images[["study_id", "patient_id"]].drop_duplicates()
    shared = pairs[pairs["study_id"].duplicated(keep=False)]
    for study in shared["study_id"][:1]:
        both = " and ".join(map(repr, shared["patient_id"][shared["study_id"] == study]))
        count = shared["study_id"].nunique()
        yield f"study {study!r} is of patients {both} ({count} such studies); correct the table."


def _path_problems(images: pd.DataFrame) -> Iterator[str]:
    """Paths that leave the root, that are spelt in a roundabout way, or that stand in two rows."""
    paths = images["path"].dropna().astype("str")
    # A loader that was given a folder beside the root reaches all its images by a way up.
    start = r"^(\.\./)*" if paths.str.startswith("../").all() else "^"
    for path in paths[paths.str.replace(start, "", regex=True).str.contains(_NOT_PLAIN)]:
        yield f"path {path!r} is not plain and below the folder of the data; correct the file's name in the table."
    for path in paths[paths.duplicated()]:
        one, other = images["image_id"][images["path"] == path][:2]
        yield f"images {one!r} and {other!r} are one file, {path}; keep one of the rows."


def _split_problems(images: pd.DataFrame, splits: Sequence[str]) -> Iterator[str]:
    """Unknown splits, absent ones, and patients in two of them."""
    found = set(images["split"].dropna().unique())
    for name in sorted(found - set(splits) | set(splits) - set(SPLITS)):
        yield f"split {name!r} is not one of {', '.join(splits) or 'none, as info.splits says'}; rename it."
    for name in splits:
        if name not in found:
            yield f"no image is in split {name}; relax the options, or name in info.splits what the source has."
    counts = images.dropna(subset=["split"]).groupby("patient_id")["split"].nunique()
    shared = counts.index[counts > 1]
    for patient in shared[:1]:
        both = sorted(images["split"][images["patient_id"] == patient].dropna().unique())
        yield f"patient {patient!r} is in splits {' and '.join(both)} ({len(shared)} such patients); move each to one."


def _box_problems(cohort: Cohort) -> Iterator[str]:
    """Boxes without area, without an image, or that leave their stored image by more than a pixel."""
    boxes = cohort.boxes
    low, high = boxes[CORNERS[:2]].to_numpy(), boxes[CORNERS[2:]].to_numpy()
    bad = ~(np.isfinite(low) & np.isfinite(high) & (high > low)).all(axis=1)
    for image in boxes["image_id"][bad]:
        yield f"a box of image {image!r} has no area or is not a number; correct it in the annotation file."
    for image in boxes["image_id"][~within(boxes["image_id"], pd.Index(cohort.images["image_id"]))]:
        yield f"a box names image {image!r}, which is not in the images."
    if not cohort.has_images:  # no sizes to compare with
        return
    ids = boxes["image_id"].unique()
    sizes = pd.DataFrame([cohort.image_size(i) for i in ids], index=ids, columns=["w", "h"], dtype=float)
    sizes = sizes.loc[boxes["image_id"]].to_numpy().reshape(-1, 2)
    outside = (low < -BOX_TOLERANCE).any(axis=1) | (high > sizes + BOX_TOLERANCE).any(axis=1)
    for row in np.flatnonzero(outside):
        box, (width, height) = boxes.iloc[row], sizes[row]
        yield (
            f"box {box['label']!r} of image {box['image_id']!r} ({', '.join(f'{c} {box[c]:g}' for c in CORNERS)}) "
            f"lies outside its image of {width:g}x{height:g} pixels; correct it in the annotation file."
        )
