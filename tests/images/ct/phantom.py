"""A simulated chest of ellipsoids: body, lungs, heart on the left, spine at the back, tumour left above, on a table."""

import locale

import numpy as np
import SimpleITK as sitk

SPACING = (5.0, 4.0, 4.0)  # z, y, x, mm
SHAPE = (60, 72, 96)
ORIGIN = (-700.0, -120.0, -150.0)


def phantom(lung: bool = True) -> np.ndarray:
    """(Z, Y, X) int16 Hounsfield units on LPS axes: z to the head, y to the back, x to the left."""
    z, y, x = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij"
    )
    hu = np.full(SHAPE, -1000, np.int16)
    width = np.where(z > 100, 105, 140)  # a narrower neck says which end is up
    hu[(x / width) ** 2 + ((y + 15) / 95) ** 2 < 1] = 40
    if lung:
        for side in (-65, 65):
            hu[((x - side) / 48) ** 2 + ((y + 15) / 65) ** 2 + ((z - 20) / 95) ** 2 < 1] = -850
    hu[((x - 35) / 50) ** 2 + ((y + 40) / 40) ** 2 + ((z + 30) / 45) ** 2 < 1] = 40
    hu[((x - 70) / 14) ** 2 + ((y + 10) / 14) ** 2 + ((z - 70) / 14) ** 2 < 1] = 60
    hu[(x / 18) ** 2 + ((y - 48) / 18) ** 2 < 1] = 400
    hu[(np.abs(y - 104) < 4) & (np.abs(x) < 140)] = 0
    return hu


def as_image(hu: np.ndarray, spacing=SPACING, origin=ORIGIN) -> sitk.Image:
    """The phantom as an image with LPS axes."""
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin[::-1])
    return image


def scanned_obliquely(image: sitk.Image, degrees: float, axis: str, spacing=SPACING) -> sitk.Image:
    """The same patient on a grid of the phantom's size turned about one of the patient's axes, through the middle."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*[np.radians(degrees) * (a == axis) for a in "xyz"])
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    matrix = np.array(turn.GetMatrix()).reshape(3, 3)
    half = (np.array(SHAPE[::-1]) - 1) / 2 * np.array(spacing[::-1])
    origin = (np.array(centre) - matrix @ half).tolist()
    return sitk.Resample(
        image, SHAPE[::-1], sitk.Transform(), sitk.sitkLinear, origin, spacing[::-1], matrix.ravel().tolist(), -1000
    )


def write_series(folder, image: sitk.Image, names=None, position: str = "HFS", drop=(), **tags) -> None:
    """Write an image as one DICOM CT series, one file a slice along its third axis, leaving out the slices `drop`."""
    folder.mkdir(parents=True, exist_ok=True)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    common = {
        "0008|0060": "CT",
        "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
        "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
        "0018|5100": position,
        "0020|0037": "\\".join(f"{v:.9g}" for v in direction[:, :2].T.ravel()),
        "0028|1052": "-1024",
        "0028|1053": "1",
    } | {name.replace("_", "|"): value for name, value in tags.items()}
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    for i in range(image.GetSize()[2]):
        if i in drop:
            continue
        plane = image[:, :, i]
        for key, value in common.items():
            plane.SetMetaData(key, value)
        place = image.TransformIndexToPhysicalPoint((0, 0, i))
        plane.SetMetaData("0020|0032", "\\".join(f"{v:.9g}" for v in place))
        plane.SetMetaData("0008|0018", f"1.2.826.0.1.3680043.2.1125.3.{i + 1}")
        plane.SetMetaData("0020|0013", str(i))
        name = names[i] if names is not None else f"slice{i:03d}.dcm"
        writer.SetFileName(str(folder / name))
        writer.Execute(plane)
    locale.setlocale(locale.LC_ALL, before)  # GDCM sets it to C when it writes, and text files would then be ASCII
