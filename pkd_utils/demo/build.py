"""What every embedded cohort is built with: in a folder beside its own, resumable, whole or not at all.

Work happens in `<root>.partial/`; a part file in `parts/`, written last, says that a patient is whole. A killed build
continues there, and the finished folder is renamed to `<root>` last.
"""

import ast
import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from pkd_utils.runs import files, paths
from pkd_utils.runs.errors import DataError


def code_sha256(modules: Iterable[str]) -> str:
    """Hash of the syntax trees of modules of this folder: comments and formatting do not change it."""
    digest = hashlib.sha256()
    for name in modules:
        source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        digest.update(f"{name}\n{ast.dump(ast.parse(source))}\n".encode())
    return digest.hexdigest()


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the libraries that shape the bytes."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in libraries}}


def tree_hashes(root: Path, bulk: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each file, and one over the names and hashes of all files below the folders `bulk` ("files/")."""
    out, digest = {}, hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.relative_to(root).as_posix()
        if name == "cohort.json" or name.startswith("parts/"):
            continue
        sha = files.file_sha256(file)
        if name.startswith(bulk):
            digest.update(f"{name} {sha}\n".encode())
        else:
            out[name] = sha
    return out | {" and ".join(bulk): digest.hexdigest()}


def refuse_foreign(folder: Path) -> None:
    """Never touch a folder that holds anything but a simulated cohort."""
    simulated = (folder / "SIMULATED.txt").is_file()
    if folder.exists() and not (folder.is_dir() and (simulated or not any(folder.iterdir()))):
        raise DataError(f"{folder} exists and is not a simulated cohort (no SIMULATED.txt): choose another root.")


def build(root: Path, wanted: dict, notice: str, make: Callable[[Path], dict]) -> Path:
    """Make sure that `root` holds exactly the cohort of the identity `wanted`.

    Parameters
    ----------
    root : Path
    wanted : dict
        What decides every byte; it stands in `cohort.json`.
    notice : str
        Text of SIMULATED.txt.
    make : callable
        Given the partial folder, writes what is not there yet and returns what else `cohort.json` says (counts,
        versions, sha256).

    Returns
    -------
    Path
        `root`.

    Raises
    ------
    DataError
        `root`, or a folder of the build beside it, holds something that is not a simulated cohort.
    """
    partial_root, old = root.with_name(root.name + ".partial"), root.with_name(root.name + ".old")
    for folder in (root, partial_root, old):
        refuse_foreign(folder)
    if _is_of(root, wanted):
        for leftover in (partial_root, old):
            shutil.rmtree(leftover, ignore_errors=True)
        return root
    _start(partial_root, wanted, notice)
    if not (partial_root / "cohort.json").exists():
        files.write_json(partial_root / "cohort.json", wanted | make(partial_root))
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(partial_root / "parts", ignore_errors=True)
    if root.exists():
        root.rename(old)
    partial_root.rename(root)
    shutil.rmtree(old, ignore_errors=True)
    return root


def changed_files(root, hashes: Callable[[Path], dict[str, str]], generator: str) -> list[str]:
    """Names whose bytes are not those that were written; empty if the cohort is whole.

    Raises
    ------
    FileNotFoundError
        `root` has no cohort.json.
    """
    root = paths.resolve(root)
    described = _description(root)
    if described is None:
        raise FileNotFoundError(f"{root / 'cohort.json'} is missing: build the cohort with `python -m {generator}`.")
    then, now = described["sha256"], hashes(root)
    return sorted(name for name in {*now, *then} if now.get(name) != then.get(name))


def _description(root: Path) -> dict | None:
    file = root / "cohort.json"
    try:
        return json.loads(file.read_text()) if file.is_file() else None
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is not readable JSON: delete the folder {root} to have it built again.") from error


def _is_of(root: Path, wanted: dict) -> bool:
    """Whether a finished cohort of this identity lies there."""
    described = _description(root)
    return described is not None and all(described.get(key) == value for key, value in wanted.items())


def _start(partial_root: Path, wanted: dict, notice: str) -> None:
    """Open the partial folder of this identity; one of another identity is thrown away."""
    file = partial_root / "parts" / "identity.json"
    finished = _is_of(partial_root, wanted)
    if not finished:
        begun = not (partial_root / "cohort.json").exists() and file.is_file() and files.read_json(file) == wanted
        if not begun:
            shutil.rmtree(partial_root, ignore_errors=True)
        partial_root.mkdir(parents=True, exist_ok=True)
        (partial_root / "SIMULATED.txt").write_text(notice)
        files.write_json(file, wanted)
