"""Indiana University / Open-i: chest radiograph reports with MeSH codes, `NLMCXR_reports.tgz`, and their pictures.

The archive holds one XML file a report. Human coders gave each report MeSH headings (`<major>`), the finding first and
its site and severity after slashes, e.g. `Opacity/lung/base/left`. Text and pictures are CC BY-NC-ND 4.0: read them,
never show them. Pictures are Open-i's own (`CXR12_IM-0050-1001.png`) or the public Kaggle copy's
(`12_IM-0050-1001.dcm.png`, with their views in `indiana_projections.csv`); the study's number joins them to reports.
"""

import os
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts import checks
from pkd_utils.cohorts.table import IMAGE_COLUMNS, Cohort, CohortInfo, Funnel, empty_boxes
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256

ARCHIVE = "NLMCXR_reports.tgz"
WHERE = "`python -m pkd_utils fetch openi_reports`, or https://openi.nlm.nih.gov/faq (the reports archive)"
WHERE_PICTURES = (
    "https://openi.nlm.nih.gov/faq (NLMCXR_png.tgz) or "
    "https://www.kaggle.com/datasets/raddar/chest-xrays-indiana-university"
)
PROJECTIONS, KAGGLE_REPORTS = "indiana_projections.csv", "indiana_reports.csv"
REPORTS_IN_RELEASE, PICTURES_IN_RELEASE = 3955, 7470  # as counted in the public release

# A label is 1 if any of a report's headings starts with one of these findings and carries the qualifier (None: any).
# Decisions: an enlarged cardiac shadow is how coders wrote cardiomegaly when the report did not name it; fluid with
# air or blood in the pleural space is an effusion; a blunted costophrenic angle alone is not (it may be a scar).
# "Opacity" joins the headings for increased lung attenuation that coders used side by side; nodule, mass and density
# are left out, because they name shapes or bone as often as lung.
LABEL_HEADINGS: dict[str, list[tuple[str, str | None]]] = {
    "Cardiomegaly": [("cardiomegaly", None), ("cardiac shadow", "enlarged")],
    "Atelectasis": [("pulmonary atelectasis", None)],
    "Pleural Effusion": [
        *(("pleural effusion", None), ("hydropneumothorax", None)),
        *(("hemothorax", None), ("hemopneumothorax", None)),
    ],
    "Opacity": [("opacity", None), ("airspace disease", None), ("infiltrate", None), ("consolidation", None)],
}
UNCODED = {"no indexing", "technical quality of image unsatisfactory"}
# "Abnormal" is 1 if any heading but these is there, and 0 if the only heading is "normal".
NOT_A_FINDING = {"normal", *UNCODED}
LABELS = (*LABEL_HEADINGS, "Abnormal")
SECTIONS = ("comparison", "indication", "findings", "impression")
CONTEXT = ("indication", "comparison")
# Findings of lung and pleura that lie somewhere, by their headings. Left out: scars, granulomas and calcinosis, small
# remains of old disease, and density, which coders also used of bone.
SIDED: dict[str, set[str]] = {
    "Opacity": {heading for heading, _ in LABEL_HEADINGS["Opacity"]},
    "Atelectasis": {"pulmonary atelectasis"},
    "Pleural Effusion": {"pleural effusion"},
    "Pneumothorax": {"pneumothorax", "hydropneumothorax"},
    "Pneumonia": {"pneumonia"},
    "Nodule": {"nodule"},
    "Mass": {"mass"},
    "Other": {"volume loss", "pulmonary fibrosis", "cavitation", "cysts", "lung, hyperlucent"},
}

_MEMBER = re.compile(r"ecgen-radiology/(\d+)\.xml")
_MAX_BYTES = 1_000_000  # the longest report of the release has under 10 kB
# Study and film, as file names and reports give them; one study's pictures are also numbered: CXR1_1_IM-0001-3001.
_FILM = r"(?:CXR)?(?P<number>[1-9]\d*)_(?:\d_)?(?P<film>IM-[\d-]+)"
_PICTURE = re.compile(rf"{_FILM}(?:\.dcm)?\.(?:png|jpe?g)")

INFO = CohortInfo(
    name="openi",
    title="Open-i / Indiana University chest radiographs and reports",
    licence="CC BY-NC-ND 4.0",
    citation="Demner-Fushman et al., J Am Med Inform Assoc 23:304-310 (2016), doi 10.1093/jamia/ocv080",
    splits=(),
)


def load(
    root: Path,
    labels: Annotated[tuple[Literal[LABELS], ...], Field(min_length=1)] = LABELS,
    sections: Annotated[tuple[Literal[SECTIONS], ...], Field(min_length=1)] = ("findings", "impression"),
    images_root: Path | None = None,
    views: Literal["frontal", "all"] = "frontal",
) -> Cohort:
    """Read the reports archive and, if asked for, its pictures.

    Parameters
    ----------
    root : Path
        Folder that holds `NLMCXR_reports.tgz`.
    labels : tuple of str
        Some of `LABELS`; see `LABEL_HEADINGS` for the MeSH headings behind each.
    sections : tuple of str
        Sections joined, in this order, to the text: of comparison, indication, findings, impression. A report that has
        none of them, as some in the release, is left out and counted.
    images_root : Path, optional
        Folder of the pictures, `images/images_normalized/` or `images/` in it; None reads the reports alone.
    views : {"frontal", "all"}
        Pictures to keep. Frontal needs `indiana_projections.csv` in `images_root`; Open-i itself gives no views.

    Returns
    -------
    Cohort
        Without pictures one row a report: `image_id` = `study_id`, the report's id, and `path` NaN. With pictures one
        row a picture that its report lists, `image_id` as there, `root` = `images_root`. Of equal files of one study
        the first name stays, and the column `duplicates` has the others; a file under two studies is left out, since
        its report is not known. `split` is NaN: there is no official one. The release gives no patient number and, to
        our knowledge, has one study a patient, so `patient_id` is the study's id. `privileged` is indexed by study_id
        with the column `text`.
    """
    archive = checks.require_file(root / ARCHIVE, WHERE)
    reports = read_reports(archive)
    checks.check_unique(reports, "image_id", ARCHIVE)
    funnel = Funnel()
    funnel.step("reports in the archive", reports, REPORTS_IN_RELEASE)
    tables = [archive]
    if images_root is not None:
        root = images_root
        tables += [root / name for name in (PROJECTIONS, KAGGLE_REPORTS) if (root / name).is_file()]
        reports = _with_pictures(reports, root, views, funnel)

    for column, parts in (("text", sections), ("context", CONTEXT)):
        reports[column] = reports[list(parts)].fillna("").agg("\n".join, axis=1).str.strip()
    reports = reports[reports["text"] != ""]
    funnel.step(f"with text in {' or '.join(sections)}", reports)

    coded = [any(heading.split("/")[0] not in UNCODED for heading in headings) for headings in reports["headings"]]
    reports = reports[coded].reset_index(drop=True)
    funnel.step("coded as normal or with a finding", reports, note="others: 'no indexing' or image quality only")

    more = ["n_images"] if images_root is None else ["n_images", "duplicates"]
    images = reports.reindex(columns=IMAGE_COLUMNS)  # what a source lacks is NaN
    images = images.join(label_table(reports["headings"])[list(labels)]).join(reports[more])
    images = images.join(side_table(reports["headings"]))
    for label in labels:
        funnel.step(f"positive: {label}", images[images[label] == 1])
    privileged = reports[["study_id", "text", "context"]].drop_duplicates("study_id").set_index("study_id")
    return Cohort(INFO, root, list(labels), images, empty_boxes(), funnel.table(), privileged, tables)


def label_table(headings: pd.Series) -> pd.DataFrame:
    """Turn lists of lower-case MeSH headings into one float column (1 or 0) a label of `LABELS`."""
    rows = []
    for row in headings:
        # Both a finding alone and each of its qualifiers can make a label true.
        said = {(heading.split("/")[0], word) for heading in row for word in (None, *heading.split("/")[1:])}
        found = [not said.isdisjoint(rules) for rules in LABEL_HEADINGS.values()]
        rows.append([*found, any(finding not in NOT_A_FINDING for finding, _ in said)])
    return pd.DataFrame(rows, index=headings.index, columns=list(LABELS)).astype("float64")


def side_table(headings: pd.Series) -> pd.DataFrame:
    """Where each finding of `SIDED` is, "left" or "right" of the patient, from lists of lower-case MeSH headings.

    Columns `side_opacity` and so on: the side that all headings of the finding name; NaN for both sides, for none, and
    for "bilateral". `side`: the one side of all one-sided findings, NaN where they differ or there is none.
    """
    columns = {}
    for finding, names in SIDED.items():
        said = (
            {word for heading in row if heading.split("/")[0] in names for word in heading.split("/")[1:]}
            for row in headings
        )
        sides = [words & {"left", "right", "bilateral"} for words in said]
        columns[f"side_{finding.lower().replace(' ', '_')}"] = [_only_side(named) for named in sides]
    table = pd.DataFrame(columns, index=headings.index, dtype="str")
    return table.assign(side=[_only_side(set(row.dropna())) for _, row in table.iterrows()]).astype("str")


def _only_side(named: set[str]) -> str | float:
    return next(iter(named)) if len(named) == 1 and "bilateral" not in named else np.nan


def read_reports(archive: Path) -> pd.DataFrame:
    """Read every report of the archive, in numerical order, without writing any file.

    Columns: `image_id, patient_id, study_id` (all the report's id, "CXR1" ...), the sections as text or NaN,
    `headings` (list of lower-case MeSH majors), `listed` (ids of its pictures) and `n_images`.
    """
    rows = []
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isdir():
                    continue
                name = _MEMBER.fullmatch(member.name)
                if name is None or not member.isreg() or member.size > _MAX_BYTES:
                    raise DataError(
                        f"{archive.name}: member {member.name!r} is not a report file ecgen-radiology/<number>.xml; "
                        "use the published archive."
                    )
                rows.append((int(name[1]), _read_report(tar.extractfile(member).read(), member.name)))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive} is not a readable .tgz archive ({error}); fetch it again.") from None
    if not rows:
        raise DataError(f"{archive} holds no report; fetch it again.")
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda item: item[0])])


def _read_report(content: bytes, name: str) -> dict:
    """Parse one report's XML; DTDs are refused, since they could expand without bound and no report has one."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise DataError(f"{ARCHIVE}: {name} declares a document type; use the published archive.")
    try:
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two of encodings
        raise DataError(f"{ARCHIVE}: {name} is not valid XML ({error}); fetch the archive again.") from None
    element = tree.find("uId")
    identifier = None if element is None else element.get("id")
    if not identifier:
        raise DataError(f"{ARCHIVE}: {name} has no identifier (uId); use the published archive.")
    row = dict.fromkeys(("image_id", "patient_id", "study_id"), identifier) | dict.fromkeys(SECTIONS, np.nan)
    for section in tree.iter("AbstractText"):
        text = (section.text or "").strip()
        if text:
            row[section.get("Label", "").lower()] = text
    row["headings"] = [heading.text.strip().lower() for heading in tree.iter("major") if heading.text]
    row["listed"] = [picture.get("id", "") for picture in tree.iter("parentImage")]
    row["n_images"] = len(row["listed"])
    return row


def _with_pictures(reports: pd.DataFrame, root: Path, views: str, funnel: Funnel) -> pd.DataFrame:
    """One row a picture with all that its study's report says; every picture that has to go is counted."""
    pictures, note = _read_pictures(root, views)
    funnel.step("pictures", pictures, PICTURES_IN_RELEASE, note=note)
    if views == "frontal":
        pictures = pictures[pictures["view"] == "frontal"]
        funnel.step("view frontal", pictures)
    checks.require_files(
        pictures["filename"][pictures["path"].isna()], len(pictures), root / PROJECTIONS, WHERE_PICTURES
    )
    if (root / KAGGLE_REPORTS).is_file():
        _check_numbering(root / KAGGLE_REPORTS, reports)

    listed = reports.explode("listed").reset_index(drop=True)
    listed["image_id"] = listed["listed"]
    listed["film"] = listed["listed"].str.extract(_FILM)["film"]
    known = int(pictures["patient_id"].isin(reports["patient_id"]).sum())
    joined = pictures.merge(listed.dropna(subset="film"), on=["patient_id", "film"])
    note = f"{len(pictures) - known} without a report, {known - len(joined)} not listed by theirs"
    funnel.step("with a report that lists it", joined, note=note)
    if joined.empty:
        raise DataError(f"No report of {ARCHIVE} lists a picture of {root} ({note}); use files of one release.")

    # Equal files have equal sizes: only those are read.
    sizes = joined["path"].map(lambda path: (root / path).stat().st_size)
    same = joined[sizes.duplicated(keep=False)]
    content = same["path"].map(lambda path: file_sha256(root / path)).reindex(joined.index)
    content = content.fillna(joined["image_id"])
    by_content = joined.groupby(content, sort=False)
    joined["duplicates"] = by_content["path"].transform(lambda paths: " ".join(paths.iloc[1:]) or np.nan)
    shared = by_content["study_id"].transform("nunique") > 1
    again = content.duplicated() & ~shared
    note = f"{int(again.sum())} the same as another of their study, {int(shared.sum())} under two studies"
    joined = joined[~(shared | again)]
    funnel.step("each file once", joined, note=note)
    return joined.drop(columns=["film", "filename"])


def _read_pictures(root: Path, views: str) -> tuple[pd.DataFrame, str]:
    """Pictures of the projections table, else of the folder: `patient_id, film, filename, path, view`; and a note."""
    folders = [root / "images" / "images_normalized", root / "images", root]
    found = [[f for f in os.listdir(folder) if _PICTURE.fullmatch(f)] if folder.is_dir() else [] for folder in folders]
    folder, names = next(((f, n) for f, n in zip(folders, found, strict=True) if n), (root, []))
    if not names:
        raise FileNotFoundError(
            f"{root} holds no pictures such as CXR12_IM-0050-1001.png or 12_IM-0050-1001.dcm.png, also not in images/; "
            f"get them from {WHERE_PICTURES}."
        )
    files = pd.DataFrame({"filename": sorted(names)})
    files[["number", "film"]] = files["filename"].str.extract(_PICTURE)
    files["path"] = (folder.relative_to(root) / "_").as_posix()[:-1] + files["filename"]
    twice = files.duplicated(["number", "film"])
    if twice.any():
        raise DataError(f"{folder} holds the picture {files['filename'][twice].iloc[0]} under two names; keep one.")
    table, view, note = files, np.nan, f"no {PROJECTIONS}, so views are unknown"
    file = root / PROJECTIONS
    if file.is_file() or views == "frontal":
        table = checks.read_csv(file, ["uid", "filename", "projection"], f"{WHERE_PICTURES}, or pass views='all'")
        checks.check_filled(table, ["uid", "filename"], file)
        checks.check_values(table, "projection", ("Frontal", "Lateral"), file)
        rows = len(table)
        table = table.drop_duplicates().reset_index(drop=True)
        table[["number", "film"]] = table["filename"].str.extract(rf"^{_PICTURE.pattern}$")
        checks.refuse(table, "filename", table["film"].isna(), file, "names no picture such as 12_IM-0050-1001.dcm.png")
        checks.refuse(table, "uid", table["uid"] != table["number"], file, "is not the study that its filename names")
        twice = table.duplicated(["number", "film"])
        checks.refuse(table, "filename", twice, file, "stands in an earlier row with another name or view")
        table = table.merge(files[["number", "film", "path"]], how="left", on=["number", "film"])
        view = table["projection"].str.lower()
        unnamed = len(files) - int(table["path"].notna().sum())
        note = f"{rows - len(table)} repeated rows; {unnamed} files without a row are left out"
    table = table.assign(patient_id="CXR" + table["number"], view=view)
    table = table.sort_values("number", key=lambda number: number.astype(int), kind="stable")
    return table[["patient_id", "film", "filename", "path", "view"]], note


def _check_numbering(file: Path, reports: pd.DataFrame) -> None:
    """DataError if `uid` of the Kaggle copy's reports numbers other studies: most MeSH headings then differ."""
    table = checks.read_csv(file, ["uid", "MeSH"], WHERE_PICTURES).dropna(subset=["uid", "MeSH"])
    theirs = table["MeSH"].str.lower().str.split(";").map(lambda words: {word.strip() for word in words})
    ours = reports.set_index("study_id")["headings"].map(set).reindex("CXR" + table["uid"]).to_list()
    equal = sum(one == other for one, other in zip(theirs, ours, strict=True))
    if equal < len(table) / 2:
        raise DataError(
            f"{file.name}: the MeSH headings of {len(table) - equal} of {len(table)} studies are not those of "
            f"{ARCHIVE}, so uid numbers other studies; use the published files."
        )
