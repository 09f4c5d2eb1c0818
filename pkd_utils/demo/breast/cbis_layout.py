"""CBIS-DDSM's layout as The Cancer Imaging Archive serves it: tables, folder names, metadata.csv and DICOM files.

Its quirks are kept: the density column is spelled in two ways, one path cell of each row ends in a line break, and the
file that a path calls crop can be the mask.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pkd_utils.demo.breast.cases import Case
from pkd_utils.runs import files

# The cohort's bytes are older than the name of the room that writes them.
COMMENT = "SIMULATED mammogram, not a patient. Made by pkd_utils.demo.mammography."
SPLITS = ("train", "test")
SWAPPED_SHARE = 0.15  # share of cases whose crop and mask lie in each other's file
DATE = "01-01-2000"  # of every simulated study; the real ones' dates are those of the submission


def uid(seed: int, *names: object) -> str:
    """A DICOM identifier under the root of random UUIDs, 2.25, that depends on the seed and the names alone."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big') | 1 << 127}"


def case_uids(case: Case, seed: int) -> dict[str, str]:
    """Study and series identifiers of a case's two folders."""
    what = ("full study", "full series", "roi study", "roi series")
    return {name: uid(seed, case.name, name) for name in what}


def swapped(case: Case, seed: int) -> bool:
    """Whether this case's crop and mask lie in each other's file, as in part of CBIS-DDSM."""
    return int(uid(seed, case.name, "swap")[-6:]) < SWAPPED_SHARE * 1e6


def table_row(case: Case, seed: int) -> dict:
    """The case's row in its case-description table."""
    ids = case_uids(case, seed)
    full = f"{case.name}/{ids['full study']}/{ids['full series']}/000000.dcm"
    roi = f"{case.name}_1/{ids['roi study']}/{ids['roi series']}"
    mass = case.kind == "mass"
    # The file 000001.dcm is the mask of a mass and the crop of a calcification; its cell has the line break.
    crop, mask = (f"{roi}/000000.dcm", f"{roi}/000001.dcm\n") if mass else (f"{roi}/000001.dcm\n", f"{roi}/000000.dcm")
    names = ("mass shape", "mass margins") if mass else ("calc type", "calc distribution")
    row = {
        "patient_id": case.patient_id,
        "breast_density" if mass else "breast density": case.breast_density,
        "left or right breast": case.side,
        "image view": case.view,
        "abnormality id": 1,
        "abnormality type": "mass" if mass else "calcification",
        **dict(zip(names, (word or "NA" for word in case.descriptors), strict=True)),
        "assessment": case.assessment,
        "pathology": case.pathology,
        "subtlety": case.subtlety,
        "image file path": full,
        "cropped image file path": crop,
        "ROI mask file path": mask,
    }
    return row | ({"age": case.age, "mass density": case.mass_density} if mass else {})


def write_tables(root: Path, cases: list[Case], seed: int) -> dict[str, int]:
    """Write the case-description tables of the kinds that `cases` has; returns the rows of each table."""
    counts = {}
    for kind in ("mass", "calc"):
        mine = [case for case in cases if case.kind == kind]
        for split in SPLITS if mine else ():
            rows = [table_row(case, seed) for case in mine if case.split == split]
            columns = list(table_row(mine[0], seed))
            counts[f"{kind} {split}"] = len(rows)
            files.write(root / f"{kind}_case_description_{split}_set.csv", pd.DataFrame(rows, columns=columns))
    return counts


def _dataset(path: Path, pixels: np.ndarray, tags: dict) -> None:
    """Write one secondary capture image: explicit VR little endian, MONOCHROME2 (high is bright)."""
    bits = pixels.dtype.itemsize * 8
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = tags["SOPInstanceUID"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID = SecondaryCaptureImageStorage
    for name, value in tags.items():
        setattr(image, name, value)
    image.PatientName, image.ImageComments = "SIMULATED", COMMENT
    image.StudyDate, image.Modality, image.BodyPartExamined = "20000101", "MG", "BREAST"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit, image.PixelRepresentation = bits - 1, 0
    image.PixelData = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


def crop_box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box, widened by a fifth and at least `margin` pixels on each side."""
    out = []
    for axis, size in ((1, mask.shape[0]), (0, mask.shape[1])):
        at = np.flatnonzero(mask.any(axis=axis))
        wider = max(margin, round(0.2 * (at[-1] - at[0] + 1)))
        out.append(slice(max(0, int(at[0]) - wider), min(size, int(at[-1]) + 1 + wider)))
    return tuple(out)


def write_case(root: Path, case: Case, seed: int, image: np.ndarray, mask: np.ndarray, pixel: float) -> list[dict]:
    """Write mammogram, crop and mask of one case to `<root>/CBIS-DDSM/<case>/<study>/<series>/1-<number>.dcm`.

    Parameters
    ----------
    image : (H, W) uint16, as the film shows it (right breasts at the right edge)
    mask : (H, W) bool
    pixel : float, side of a pixel, mm

    Returns
    -------
    list of dict, the two series' rows of metadata.csv
    """
    ids = case_uids(case, seed)
    crop = image[crop_box(mask, round(4 / pixel))]
    region = mask.astype(np.uint8) * 255
    second = [crop, region] if case.kind == "mass" else [region, crop]
    if swapped(case, seed):
        second.reverse()
    rows = []
    for what, name, words, pictures in (
        ("full", case.name, "full mammogram images", [image]),
        ("roi", f"{case.name}_1", "ROI mask images", second),
    ):
        study, series = ids[f"{what} study"], ids[f"{what} series"]
        folder = f"CBIS-DDSM/{name}/{DATE}-DDSM-NA-{study[-5:]}/1.000000-{words}-{series[-5:]}"
        size = 0
        for number, pixels in enumerate(pictures, 1):
            path = root / folder / f"1-{number}.dcm"
            tags = {
                "SOPInstanceUID": uid(seed, series, number),
                "PatientID": name,
                "StudyInstanceUID": study,
                "SeriesInstanceUID": series,
                "StudyID": "DDSM",
                "SeriesDescription": words,
                "SeriesNumber": 1,
                "InstanceNumber": number,
                "Laterality": case.side[0],
                "PatientOrientation": case.view,  # so in CBIS-DDSM
                "PixelSpacing": [f"{pixel:.6g}"] * 2,
            }
            _dataset(path, pixels, tags)
            size += path.stat().st_size
        row = {
            "Series UID": series,
            "Collection": "CBIS-DDSM",
            "3rd Party Analysis": "SIMULATED",
            "Data Description URI": "",
            "Subject ID": name,
            "Study UID": study,
            "Study Description": "SIMULATED",
            "Study Date": DATE,
            "Series Description": words,
            "Manufacturer": "",
            "Modality": "MG",
            "SOP Class Name": "Secondary Capture Image Storage",
            "SOP Class UID": str(SecondaryCaptureImageStorage),
            "Number of Images": len(pictures),
            "File Size": f"{size / 1000:.2f} KB",
            "File Location": f"./{folder}",
            "Download Timestamp": "2000-01-01T00:00:00.000",
        }
        rows.append(row)
    return rows
