"""CBIS-DDSM in small, in the layouts of its sources: made-up pictures under the real names, spellings and traps.

Five abnormalities a type: P_00001 has one mass on both views of a breast, P_00002 two masses on one mammogram, P_00003
is the test table's. Pictures have some thousand pixels; everything else is as downloaded.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

# split, patient, side, view, abnormality id, pathology, (width, height) of the mammogram, box x0, y0, x1, y1
ROWS = [
    ("train", "P_00001", "LEFT", "CC", 1, "MALIGNANT", (120, 200), (30, 40, 70, 70)),
    ("train", "P_00001", "LEFT", "MLO", 1, "MALIGNANT", (110, 210), (20, 90, 50, 130)),
    ("train", "P_00002", "RIGHT", "CC", 1, "BENIGN", (130, 190), (60, 20, 90, 50)),
    ("train", "P_00002", "RIGHT", "CC", 2, "BENIGN_WITHOUT_CALLBACK", (130, 190), (10, 140, 40, 180)),
    ("test", "P_00003", "LEFT", "MLO", 1, "BENIGN", (125, 205), (50, 60, 80, 100)),
]


def uid(*words) -> str:
    """An identifier with the root of the collection, long and fixed by `words`."""
    digits = int(hashlib.sha256("/".join(map(str, words)).encode()).hexdigest(), 16) % 10**36
    return f"1.3.6.1.4.1.9590.100.1.2.1{digits:036d}"


def write_dicom(path: Path, pixels: np.ndarray, bits: int | None = None, **elements) -> Path:
    """Write one grey picture, uncompressed; `elements` are further DICOM attributes by keyword."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(path.name, pixels.sum())
    dataset.set_pixel_data(pixels, "MONOCHROME2", 8 * pixels.dtype.itemsize, generate_instance_uid=False)
    if bits:  # values may have more
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
    for name, value in elements.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def mammogram(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Grey tones in half of a black picture, (H, W) uint16."""
    width, height = size
    pixels = np.zeros((height, width), np.uint16)
    pixels[:, : width // 2] = np.random.default_rng(seed).integers(8_000, 60_000, (height, width // 2))
    return pixels


def mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    """White box without one corner on black, (H, W) uint8."""
    pixels = np.zeros(size[::-1], np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    pixels[y0 : y0 + 5, x0 : x0 + 5] = 0
    return pixels


def crop(box: tuple[int, int, int, int], margin: int = 0) -> np.ndarray:
    """Grey tones of the box's size and a margin, (H, W) uint16."""
    x0, y0, x1, y1 = box
    return np.random.default_rng(x0).integers(9_000, 60_000, (y1 - y0 + 2 * margin, x1 - x0 + 2 * margin), np.uint16)


def case_names(row: tuple, kind: str) -> tuple[str, str]:
    """Folder names of a row's mammogram and of its abnormality."""
    split, patient, side, view, number = row[:5]
    case = f"{kind.title()}-{'Training' if split == 'train' else 'Test'}_{patient}_{side}_{view}"
    return case, f"{case}_{number}"


def csv_paths(row: tuple, kind: str, swapped: bool = False) -> dict[str, str]:
    """The three path fields, crop and mask in one series; every crop field ends in a line break, as some real ones."""
    case, roi = case_names(row, kind)
    series = f"{roi}/{uid('study', roi)}/{uid('series', roi)}"
    names = ("000001.dcm", "000000.dcm") if swapped else ("000000.dcm", "000001.dcm")
    return {
        "image file path": f"{case}/{uid('study', case)}/{uid('series', case)}/000000.dcm",
        "cropped image file path": f"{series}/{names[0]}\n",
        "ROI mask file path": f"{series}/{names[1]}",
    }


def write_tables(folder: Path, extra: dict | None = None) -> None:
    """The four tables; crop and mask paths are swapped for calcifications. `extra`: further columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, density, names in (
        ("mass", "breast_density", ("mass shape", "mass margins")),
        ("calc", "breast density", ("calc type", "calc distribution")),  # with a space, as published
    ):
        for split in ("train", "test"):
            rows = []
            for row in (r for r in ROWS if r[0] == split):
                entry = {"patient_id": row[1], density: 2, "left or right breast": row[2], "image view": row[3]}
                entry |= {"abnormality id": row[4], "abnormality type": kind, names[0]: "ROUND", names[1]: "LINEAR"}
                entry |= {"assessment": 4, "pathology": row[5], "subtlety": 3}
                rows.append(entry | csv_paths(row, kind, swapped=kind == "calc") | (extra or {}))
            pd.DataFrame(rows).to_csv(folder / f"{kind}_case_description_{split}_set.csv", index=False)


def series_folders(row: tuple, kind: str, style: str) -> tuple[str, str]:
    """Folders of the mammogram's series and of the abnormality's, below the case folders' parent."""
    case, roi = case_names(row, kind)
    parts = []
    for name, what in ((case, "full mammogram images"), (roi, "ROI mask images")):
        study, series = uid("study", name), uid("series", name)
        if style == "uid":
            parts.append(f"{name}/{study}/{series}")
        elif style == "old":
            parts.append(f"{name}/08-29-2017-ddsm-{study[-5:]}/1-{what}-{series[-5:]}")
        else:
            parts.append(f"{name}/08-29-2017-DDSM-NA-{study[-5:]}/1.000000-{what}-{series[-5:]}")
    return parts[0], parts[1]


def write_tcia(root: Path, style: str = "new", metadata: bool = False, kinds: tuple[str, ...] = ("mass",)) -> Path:
    """A TCIA download, `style` one of uid, old, new; mask and crop are 1-1 and 1-2 in turn, whatever the tables say.

    With `metadata` the folders of the series have names that only metadata.csv explains.
    """
    write_tables(root)
    base = "manifest-1617905855234/CBIS-DDSM" if metadata else "CBIS-DDSM"
    listing = []
    for kind in kinds:
        for i, row in enumerate(ROWS):
            size, box = row[6:]
            names = [uid("series", case) for case in case_names(row, kind)]
            folders = series_folders(row, kind, style)
            if metadata:
                folders = [f"{folder.rsplit('/', 1)[0]}/scan {j}" for j, folder in enumerate(folders)]
            first, second = ("000000.dcm", "000001.dcm") if style == "old" else ("1-1.dcm", "1-2.dcm")
            write_dicom(root / base / folders[0] / first, mammogram(size, i))
            pair = [mask(size, box), crop(box)]
            for name, pixels in zip((first, second), pair if i % 2 else pair[::-1], strict=True):
                write_dicom(root / base / folders[1] / name, pixels)
            listing += [(name, f".\\CBIS-DDSM\\{f}".replace("/", "\\")) for name, f in zip(names, folders, strict=True)]
    if metadata:
        table = pd.DataFrame(listing, columns=["Series UID", "File Location"])
        table.insert(1, "Collection", "CBIS-DDSM")
        table.to_csv(root / base.split("/")[0] / "metadata.csv", index=False)
    return root


def write_kaggle(root: Path, listing: bool = True) -> Path:
    """The JPEG data set: numbered files in folders named by series, some without a SeriesDescription."""
    write_tables(root / "csv")
    rows = []
    for i, row in enumerate(ROWS):
        size, box = row[6:]
        case, roi = case_names(row, "mass")
        pictures = [(case, mammogram(size, i) // 257), (roi, crop(box) // 257), (roi, mask(size, box))]
        for j, (name, pixels) in enumerate(pictures if i % 2 else pictures[::-1]):
            series = uid("series", name)
            if name == case and (root / "jpeg" / series).exists():  # the other abnormality's mammogram
                continue
            file = root / "jpeg" / series / f"{1 + j}-{(37 * i + 11 * j) % 250:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(file, quality=50)
            # The description is wrong or absent for some; one study holds the crops and masks of a patient.
            description = ["ROI mask images", "cropped images", ""][(i + j) % 3]
            rows.append((f"CBIS-DDSM/jpeg/{series}/{file.name}", description, series, uid("study", row[1])))
    if listing:
        columns = ["image_path", "SeriesDescription", "SeriesInstanceUID", "StudyInstanceUID"]
        pd.DataFrame(rows, columns=columns).to_csv(root / "csv" / "dicom_info.csv", index=False)
    return root
