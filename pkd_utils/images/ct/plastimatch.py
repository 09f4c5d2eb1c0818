"""The program `plastimatch drr` (Sharp et al. 2010), called once a volume for an anterior-posterior view.

What `plastimatch drr` 1.9.4 does, measured: HU become 0.022 (1 + HU / 1000) per mm, 0 up to -800 HU; a pixel v is a
tenth of the line integral, so that the transmission is exp(-10 v); PFM rows run from the top of the detector; and
its options `-r`, `-z`, `-c` take the column's number first, although its help says "row col".
"""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from pkd_utils.images.ct.projectors import DrrGeometry, Frame
from pkd_utils.images.ct.volumes import Volume

AIR = -800  # HU up to which plastimatch takes a voxel for air
MU_WATER = 0.022  # its attenuation of water, 1/mm, at 50 keV
TIMEOUT = 900  # seconds that it may take for one volume


@functools.cache
def version() -> str:
    """Version that the installed `plastimatch` states; FileNotFoundError, which says how to get it, where it is not."""
    if shutil.which("plastimatch") is None:
        raise FileNotFoundError(
            "plastimatch is not installed: `apt-get install plastimatch` on Debian or Ubuntu, or choose the projector "
            "'parallel', which needs nothing but is not the paper's."
        )
    answer = subprocess.run(["plastimatch", "--version"], capture_output=True, text=True, timeout=60)
    return (answer.stdout + answer.stderr).strip().removeprefix("plastimatch version ")


def arguments(geometry: DrrGeometry, frame: Frame, isocentre: np.ndarray) -> list[str]:
    """Arguments of `plastimatch drr` for an AP view: `isocentre` is LPS mm in the order z, y, x."""
    pitch_v, pitch_u = geometry.pixel_mm
    z, y, x = isocentre
    return [
        "-t", "pfm", "-i", "exact", "-P", "preprocess", "-n", "0 -1 0", "--vup", "0 0 1",
        "--sad", f"{geometry.sad_mm:.10g}", "--sid", f"{geometry.sid_mm:.10g}",
        "-r", f"{frame.columns} {frame.rows}", "-z", f"{frame.columns * pitch_u:.10g} {frame.rows * pitch_v:.10g}",
        "-c", f"{frame.centre_column:.10g} {frame.centre_row:.10g}", "-o", f"{x:.10g} {y:.10g} {z:.10g}",
    ]  # fmt: skip


def drr(volume: Volume, geometry: DrrGeometry, frame: Frame, centre: np.ndarray, threads: int = 1) -> np.ndarray:
    """Line integrals of attenuation (0.022 / mm for water) by `plastimatch drr`, Siddon's exact ray tracing.

    `threads` are OpenMP's; otherwise as `ct.projectors.parallel_beam`.

    Returns
    -------
    (rows, columns) float32 array, ten times what plastimatch writes; 0 is air

    Raises
    ------
    RuntimeError
        It failed, or took longer than `TIMEOUT`.
    """
    version()
    with tempfile.TemporaryDirectory(prefix="drr-") as name:
        source, prefix = Path(name) / "volume.mha", Path(name) / "drr"
        sitk.WriteImage(volume.image(), str(source))
        command = ["plastimatch", "drr", *arguments(geometry, frame, centre)]
        try:
            answer = subprocess.run(
                [*command, "-O", str(prefix), "-I", str(source)],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"plastimatch took longer than {TIMEOUT} s") from None
        picture = Path(f"{prefix}0000.pfm")
        if answer.returncode or not picture.exists():
            said = (answer.stderr or answer.stdout).strip().splitlines()
            raise RuntimeError(f"plastimatch ended with code {answer.returncode}: {said[-1][:200] if said else ''}")
        values = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)  # from below, as PFM is meant
    drawn = "no whole picture" if values is None else " x ".join(str(n) for n in values.shape)
    if drawn != f"{frame.rows} x {frame.columns}":
        raise RuntimeError(
            f"plastimatch {version()} drew {drawn} where {frame.rows} x {frame.columns} pixels were asked for: it was "
            "interrupted, or this version orders its arguments differently"
        )
    return values[::-1] * 10
