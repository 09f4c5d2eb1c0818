"""CT to anterior-posterior radiograph as the reports paper made INSPECT's: plastimatch, histogram equalisation, JPEG.

"We perform digital radiograph reconstruction using the Plastimatch software suite to convert the CT volumes to
(anterior-posterior) radiographs [...] follow the preprocessing of Johnson et al. (2019) and apply histogram
equalization using OpenCV, before storing the images in the JPEG format with a 95 quality factor" (Appendix A). The
geometry is not stated; it is `ct.projectors.DrrGeometry`.
"""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import pandas as pd
import SimpleITK as sitk
from pydantic import Field
from scipy import ndimage
from tqdm import tqdm

from pkd_utils.images.ct import checks, plastimatch, projectors
from pkd_utils.images.ct.projectors import DrrGeometry
from pkd_utils.images.ct.volumes import LOWEST, Volume, VolumeError, image_id, read_volume
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Parts, atomic_path, file_sha256, read_json
from pkd_utils.runs.workers import results_of

Projector = Literal["plastimatch", "parallel", "cone"]
Response = Literal["line integral", "absorption"]
Refusable = Literal[tuple(checks.NAMED)]
JPEG_QUALITY = 95
_RECORD = 4  # raise it when the same volume and parameters would give another picture
UNKNOWN = {"problems": "", "message": "", "slices": np.nan, "spacing_mm": "", "orientation": "", "rows": np.nan}
UNKNOWN |= {"columns": np.nan}
COLUMNS = ["image_id", "status", *UNKNOWN, "seconds"]


@checked
def line_integrals(
    volume: Volume, body, geometry: DrrGeometry, projector_name: Projector, threads: int = 1
) -> np.ndarray:
    """Project a volume; (rows, columns) float32.

    What no ray of the frame meets and the air around everything are cut off first, which changes nothing and saves
    tracing; the isocentre stays.
    """
    frame = projectors.frame_of(volume, (body.low, body.high), geometry)
    low, high = projectors.reach(volume, geometry, frame)
    dense = volume.hu.max(axis=0) > plastimatch.AIR  # (y, x)
    for axis in (1, 2):  # one voxel of air stays, where interpolating projectors fade out
        span = np.flatnonzero(dense.any(axis=2 - axis))
        low[axis], high[axis] = max(low[axis], span[0] - 1), min(high[axis], span[-1] + 2)
    part = volume.crop(low, high)
    if projector_name == "plastimatch":
        return plastimatch.drr(part, geometry, frame, volume.centre, threads)
    beam = projectors.parallel_beam if projector_name == "parallel" else projectors.cone_beam
    return beam(part, geometry, frame, volume.centre)


@checked
def to_picture(integrals: np.ndarray, response: Response = "line integral") -> np.ndarray:
    """Line integrals to an 8-bit radiograph, dense is bright, as in MIMIC-CXR-JPG.

    The lowest value becomes 0, the highest 255, the rest whole numbers, which `cv2.equalizeHist` spreads.

    Parameters
    ----------
    integrals : (rows, columns) float array
    response : {"line integral", "absorption"}
        What grey follows before the equalisation: the line integral p, as the logarithm of a digital detector does, or
        the absorbed share 1 - exp(-p); not stated in the paper.
    """
    values = integrals if response == "line integral" else 1 - np.exp(-integrals)
    low, high = float(values.min()), float(values.max())
    if not high > low:
        raise VolumeError("empty", "The projection is the same everywhere: nothing lies in the frame.")
    return cv2.equalizeHist(((values - low) / (high - low) * 255).astype(np.uint8))


def _without_table(volume: Volume, body) -> Volume:
    """Everything more than two blocks off the body becomes air: table, blankets, wires."""
    keep = ndimage.binary_dilation(body.mask, iterations=2)
    # Blocks end before the volume does; the last ones are continued.
    blocks = [np.arange(n) // b for n, b in zip(volume.hu.shape, body.block, strict=True)]
    keep = keep[np.ix_(*(np.minimum(i, n - 1) for i, n in zip(blocks, keep.shape, strict=True)))]
    return Volume(np.where(keep, volume.hu, LOWEST), volume.spacing, volume.origin, volume.facts)


@checked
def make_radiograph(
    path: str | Path,
    geometry: DrrGeometry | None = None,
    projector_name: Projector = "plastimatch",
    response: Response = "line integral",
    remove_table: bool = False,
    refuse: Sequence[Refusable] = (),
    threads: int = 1,
) -> tuple[np.ndarray | None, dict]:
    """One volume (see `volumes.read_volume`) to one radiograph.

    Parameters
    ----------
    projector_name : {"plastimatch", "parallel", "cone"}
        Only plastimatch is the paper's.
    remove_table : bool
        Leave out what is not connected to the body; not stated in the paper.
    refuse : sequence of str
        Names of `ct.checks.NAMED` that keep a volume from becoming a radiograph.
    threads : int
        OpenMP threads of plastimatch.

    Returns
    -------
    pixels : (rows, columns) uint8 array or None
        None where the volume is refused.
    row : dict
        The columns of `COLUMNS` but `seconds`. `status` is "done" or "refused"; `problems` are names of
        `ct.checks.PROBLEMS`, joined by "; ", `message` says more.
    """
    row = {"image_id": image_id(path), "status": "refused"} | UNKNOWN
    try:
        volume = read_volume(path)
        body, problems = checks.inspect(volume)
        row |= {
            "problems": "; ".join(dict.fromkeys(problem.name for problem in problems)),
            "message": "; ".join(problem.message for problem in problems),
            "slices": volume.hu.shape[0],
            "spacing_mm": " x ".join(f"{step:.3g}" for step in volume.spacing[::-1]),
            "orientation": volume.facts["orientation"],
        }
        if body is None or {problem.name for problem in problems} & set(refuse):
            return None, row
        if remove_table:
            volume = _without_table(volume, body)
        pixels = to_picture(line_integrals(volume, body, geometry or DrrGeometry(), projector_name, threads), response)
    except VolumeError as error:
        return None, row | {"problems": error.name, "message": str(error)}
    return pixels, row | {"status": "done", "rows": pixels.shape[0], "columns": pixels.shape[1]}


def _stamp(path: Path) -> list:
    """A volume as it is on disk: names, bytes, times of change."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _work(path: Path, target: Path, records: Parts, options: dict) -> dict:
    """Make, write and record one radiograph; an unforeseen failure is a row too, but none that is kept."""
    start = time.perf_counter()
    name, file = image_id(path), target / f"{image_id(path)}.jpg"
    try:
        stamp = _stamp(path)
        pixels, row = make_radiograph(path, **options)
        if pixels is None:
            file.unlink(missing_ok=True)  # of an earlier version of the volume
        else:
            with atomic_path(file) as temporary:
                # Written here: of a full disk cv2 says no more than that it failed.
                _, coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                temporary.write_bytes(coded)
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        row = {"image_id": name, "status": "failed"} | UNKNOWN | {"problems": "failed", "message": message}
        return row | {"seconds": round(time.perf_counter() - start, 3)}
    row["seconds"] = round(time.perf_counter() - start, 3)
    made = {"stamp": stamp, "row": row, "sha256": file_sha256(file) if file.exists() else ""}
    with records.write(f"{name}.json") as record:
        record.write_text(json.dumps(made))
    return row


def _finished(path: Path, target: Path, records: Parts) -> dict | None:
    """The row of an earlier call, if it was about this very volume and its picture is there."""
    name = image_id(path)
    if f"{name}.json" not in records:
        return None
    known = read_json(records.path(f"{name}.json"))
    picture = target / f"{name}.jpg"
    whole = known["row"]["status"] == "refused" or (picture.exists() and file_sha256(picture) == known["sha256"])
    return known["row"] if whole and known["stamp"] == _stamp(path) else None


def _one_thread() -> None:
    """A forked worker has none of its parent's threads: ITK and OpenCV must not wait for them."""
    sitk.ProcessObject.SetGlobalDefaultThreader("PLATFORM")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    cv2.setNumThreads(1)


@checked
def reconstruct(
    volumes: Annotated[Sequence[str | Path], Field(min_length=1)],
    target: str | Path,
    geometry: DrrGeometry | None = None,
    workers: Annotated[int, Field(ge=1)] = 1,
    projector_name: Projector = "plastimatch",
    response: Response = "line integral",
    remove_table: bool = False,
    refuse: Sequence[Refusable] = (),
    threads: int = 1,
) -> pd.DataFrame:
    """Radiographs of many volumes as `<target>/<image_id>.jpg`; continues where an earlier call was killed.

    A radiograph whose record (`<target>/records/<image_id>.json`) names the same volume is not made again; nor is a
    volume refused again. One that failed for another reason (no memory, a full disk) is tried again. Records of other
    parameters are thrown away.

    Parameters
    ----------
    volumes : sequence of paths
        Image files, or folders of one DICOM series each; `volumes.find_volumes` lists them.
    workers : int
        Processes. Measured on two cores, one thread in each of two processes is faster than two threads in one.

    Returns
    -------
    DataFrame
        `COLUMNS`, one row a volume in the order given; `failures` selects those with a problem.
    """
    volumes, target, geometry = [Path(path) for path in volumes], Path(target), geometry or DrrGeometry()
    _check_names(volumes)
    version = plastimatch.version() if projector_name == "plastimatch" else ""
    options = {"geometry": geometry, "projector_name": projector_name, "response": response,
               "remove_table": remove_table, "refuse": sorted(refuse)}  # fmt: skip
    target.mkdir(parents=True, exist_ok=True)
    records = Parts(target / "records", [_RECORD, options | {"geometry": asdict(geometry), "version": version}])
    rows = {image_id(path): _finished(path, target, records) for path in volumes}
    jobs = [(path, target, records, options | {"threads": threads}) for path in volumes if not rows[image_id(path)]]
    with (
        tqdm(total=len(volumes), initial=len(volumes) - len(jobs), desc="radiographs") as bar,
        contextlib.closing(results_of(_work, jobs, min(workers, len(jobs)) or 1, _one_thread)) as made,
    ):
        for row in made:
            rows[row["image_id"]] = row
            bar.update()
    return pd.DataFrame(list(rows.values()), columns=COLUMNS)


def failures(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `reconstruct` with a problem, refused or failed ones first."""
    chosen = table[(table["status"] != "done") | (table["problems"] != "")]
    order = {"failed": 0, "refused": 1, "done": 2}
    return chosen.sort_values("status", key=lambda s: s.map(order), kind="stable", ignore_index=True)


def _check_names(volumes: Sequence[Path]) -> None:
    if missing := [path for path in volumes if not path.exists()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(volumes)} volumes do not exist, the first is {missing[0]}: check the data root."
        )
    names = pd.Series([image_id(path) for path in volumes])
    for name in names[names.duplicated()]:
        raise DataError(f"Two volumes have the name {name!r}, which names their picture: rename one.")
