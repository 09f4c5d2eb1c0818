"""Indiana University / Open-i chest radiograph reports with MeSH codes, read from `NLMCXR_reports.tgz` (no images).

The archive holds one XML file a report. Human coders gave each report MeSH headings (`<major>`), the finding first and
its site and severity after slashes, e.g. `Opacity/lung/base/left`. Text is CC BY-NC-ND 4.0: read it, never print it.
"""

import re
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.checks import check_unique, require_file
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel, empty_boxes
from pkd_utils.runs.errors import DataError

ARCHIVE = "NLMCXR_reports.tgz"
WHERE = "`python -m pkd_utils fetch openi_reports`, or https://openi.nlm.nih.gov/faq (the reports archive)"
REPORTS_IN_RELEASE = 3955  # as counted in the public release

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

_MEMBER = re.compile(r"ecgen-radiology/(\d+)\.xml")
_MAX_BYTES = 1_000_000  # the longest report of the release has under 10 kB

# Reports only: there is no pixel to show, so a run's figures are plots. The text stays unshared.
INFO = CohortInfo(
    name="openi",
    title="Open-i / Indiana University chest radiograph reports",
    licence="CC BY-NC-ND 4.0",
    citation="Demner-Fushman et al., J Am Med Inform Assoc 23:304-310 (2016), doi 10.1093/jamia/ocv080",
    splits=(),
)


def load(
    root: Path,
    labels: Annotated[tuple[Literal[LABELS], ...], Field(min_length=1)] = LABELS,
    sections: Annotated[tuple[Literal[SECTIONS], ...], Field(min_length=1)] = ("findings", "impression"),
) -> Cohort:
    """Read the reports archive.

    Parameters
    ----------
    root : Path
        Folder that holds `NLMCXR_reports.tgz`.
    labels : tuple of str
        Some of `LABELS`; see `LABEL_HEADINGS` for the MeSH headings behind each.
    sections : tuple of str
        Sections joined, in this order, to the text: of comparison, indication, findings, impression. A report that has
        none of them, as some in the release, is left out and counted.

    Returns
    -------
    Cohort
        One row a report (`image_id` = `study_id` = the report's id, `path` NaN, `split` NaN: there is no official
        split). The release gives no patient number and, to our knowledge, has one study a patient, so `patient_id` is
        the report's id too. `privileged` is indexed by study_id with the column `text`.
    """
    archive = require_file(root / ARCHIVE, WHERE)
    reports = read_reports(archive)
    check_unique(reports, "image_id", ARCHIVE)
    funnel = Funnel()
    funnel.step("reports in the archive", reports, REPORTS_IN_RELEASE)

    reports["text"] = reports[list(sections)].fillna("").agg("\n".join, axis=1).str.strip()
    reports = reports[reports["text"] != ""]
    funnel.step(f"with text in {' or '.join(sections)}", reports)

    coded = [any(heading.split("/")[0] not in UNCODED for heading in headings) for headings in reports["headings"]]
    reports = reports[coded].reset_index(drop=True)
    funnel.step("coded as normal or with a finding", reports, note="others: 'no indexing' or image quality only")

    images = reports[["image_id", "patient_id", "study_id"]].assign(path=np.nan, split=np.nan, view=np.nan)
    images = images.join(label_table(reports["headings"])[list(labels)]).join(reports["n_images"])
    for label in labels:
        funnel.step(f"positive: {label}", images[images[label] == 1])
    return Cohort(
        info=INFO,
        root=root,
        labels=list(labels),
        images=images,
        boxes=empty_boxes(),
        funnel=funnel.table(),
        privileged_source=reports[["study_id", "text"]].set_index("study_id"),
        tables=[archive],
    )


def label_table(headings: pd.Series) -> pd.DataFrame:
    """Turn lists of lower-case MeSH headings into one float column (1 or 0) a label of `LABELS`."""
    rows = []
    for row in headings:
        # Both a finding alone and each of its qualifiers can make a label true.
        said = {(heading.split("/")[0], word) for heading in row for word in (None, *heading.split("/")[1:])}
        found = [not said.isdisjoint(rules) for rules in LABEL_HEADINGS.values()]
        rows.append([*found, any(finding not in NOT_A_FINDING for finding, _ in said)])
    return pd.DataFrame(rows, index=headings.index, columns=list(LABELS)).astype("float64")


def read_reports(archive: Path) -> pd.DataFrame:
    """Read every report of the archive, in numerical order, without writing any file.

    Columns: `image_id, patient_id, study_id` (all the report's id, "CXR1" ...), the sections as text or NaN,
    `headings` (list of lower-case MeSH majors) and `n_images`.
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
    except ElementTree.ParseError as error:
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
    row["n_images"] = len(tree.findall(".//parentImage"))
    return row
