"""The builder of every embedded cohort: in parallel, resumable, whole or not at all, the same bytes for a seed.

Work happens in `<root>.partial/`, one part a patient (`runs.files.Parts`); a killed build continues there, and the
finished folder is renamed to `<root>` last. Neither the number of workers nor an interruption changes a byte.
"""

import abc
import dataclasses
import functools
import hashlib
import json
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from pkd_utils.runs import files, identity, index, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.workers import results_of


class Recipe(abc.ABC):
    """What the builder asks of an embedded cohort.

    A cohort is a `runs.checked.config` whose fields are its size, `seed` and parameters, with default, range and
    description; together with code and sources they decide every byte.
    """

    root: ClassVar[str]  # folder that the command line writes
    size: ClassVar[str] = "patients"  # the field that says how many patients there are
    notice: ClassVar[str]  # text of SIMULATED.txt
    folders: ClassVar[tuple[str, ...]]  # top folders of many files, which get one hash each
    libraries: ClassVar[tuple[str, ...]]  # whose versions shape the bytes

    @abc.abstractmethod
    def sources(self) -> dict[str, Any]:
        """Hashes of the real files behind the simulation; FileNotFoundError names the command that fetches them."""

    @functools.cached_property
    @abc.abstractmethod
    def patients_drawn(self) -> list:
        """What is drawn of each patient before anything is rendered."""

    @functools.cached_property
    def scene(self) -> Any:
        """What rendering needs once a process."""
        return None

    @abc.abstractmethod
    def render(self, i: int, root: Path) -> dict:
        """Write all files of patient `i` below `root`; what the tables need of them comes back, fit for JSON."""

    @abc.abstractmethod
    def tables(self, root: Path, parts: list[dict]) -> dict[str, int]:
        """Write every table, given what `render` returned for each patient; counts of rows come back."""


def code_sha256(module: str) -> str:
    """Hash of the code that decides what `module` makes: itself, and what it imports from the cohorts' folders."""
    # Not by way of the room's own file, which names every cohort.
    reached = identity.modules_used(f"import {module}", but={"pkd_utils.demo"})
    return identity.hash_modules(name for name in reached if name.startswith("pkd_utils.demo.") and name.count(".") > 2)


def describe(cohort: Recipe) -> dict[str, Any]:
    """What decides every byte of a cohort on one machine: seed, parameters, code and sources."""
    module = type(cohort).__module__
    parameters = {field.name: getattr(cohort, field.name) for field in dataclasses.fields(cohort)}
    return {
        "simulated": True,
        "generator": f"pkd_utils demo {module.split('.')[-2]}",
        "seed": parameters.pop("seed"),
        "parameters": parameters,
        "code_sha256": code_sha256(module),
        **cohort.sources(),
    }


def ensure(cohort: Recipe, root: str | Path, workers: int = 1) -> Path:
    """Make sure that `root` holds exactly this cohort, and return it; see `demo.ensure_source`."""
    root, wanted = paths.resolve(root), describe(cohort)
    partial, old = root.with_name(root.name + ".partial"), root.with_name(root.name + ".old")
    for folder in (root, partial, old):
        refuse_foreign(folder)
    with files.Lock(root.with_name(f".lock-{root.name}"), f"{root.name}/ is being written"):
        if not _is_of(root, wanted):
            if not _is_of(partial, wanted):
                _build(cohort, partial, wanted, workers, index.store_of(root))
            shutil.rmtree(partial / "parts", ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
            if root.exists():
                root.rename(old)
            partial.rename(root)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
    changed = verify(root)
    if changed:
        raise DataError(
            f"{root} is not as it was written ({changed[0]} was changed): remove the folder to have it written anew, "
            "or set simulate_patients to 0 to read it as it is."
        )
    return root


def verify(root: str | Path) -> list[str]:
    """Names of tables, or of folders of many files ("files/"), whose bytes are not those written; empty if whole.

    What was made of the cohort later is no part of it.
    """
    root = paths.resolve(root)
    described = _description(root)
    if described is None:
        raise FileNotFoundError(f"{root / 'cohort.json'} is missing: build the cohort with `python -m pkd_utils demo`.")
    hashed = index.hashes(root)
    return sorted(name for name, sha in described["sha256"].items() if _hash(root, name, hashed) != sha)


def refuse_foreign(folder: Path) -> None:
    """Never touch a folder that holds anything but a simulated cohort."""
    simulated = (folder / "SIMULATED.txt").is_file()
    if folder.exists() and not (folder.is_dir() and (simulated or not any(folder.iterdir()))):
        raise DataError(f"{folder} exists and is not a simulated cohort (no SIMULATED.txt): choose another root.")


def _build(cohort: Recipe, root: Path, wanted: dict, workers: int, store: Path) -> None:
    """Write the whole cohort below `root`, continuing what a killed build of the same identity left there."""
    parts = files.Parts(root / "parts", wanted)
    if not parts.names():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        (root / "SIMULATED.txt").write_text(cohort.notice)
    for left in root.rglob(".tmp-*"):  # by a process that was killed
        left.unlink()
    names = [f"{i}.json" for i in range(len(cohort.patients_drawn))]
    _render_all(cohort, [i for i, name in enumerate(names) if name not in parts], root, parts, workers)
    counts = cohort.tables(root, [files.read_json(parts.path(name)) for name in names])
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in cohort.libraries}}
    hashed = index.hashes(root, store=store)
    tables = [name for name in hashed if not name.startswith((*cohort.folders, "parts/"))]
    hashes = {name: _hash(root, name, hashed) for name in (*tables, *cohort.folders)}
    files.write_json(root / "cohort.json", wanted | {"counts": counts, "versions": versions, "sha256": hashes})


def _render_all(cohort: Recipe, todo: list[int], root: Path, parts: files.Parts, workers: int) -> None:
    if not todo:
        return
    begin = functools.partial(_start_worker, cohort, root, parts)
    begin()
    _ = cohort.scene  # before the workers start, so that they find it instead of each making it
    rendered = results_of(_render, [(patient,) for patient in todo], min(workers, len(todo)), begin)
    for _ in tqdm(rendered, "simulated patients", len(todo), disable=len(todo) < 20, unit="patient"):
        pass


_work: dict[str, Any] = {}  # of this process: the cohort, its folder and its parts


def _start_worker(cohort: Recipe, root: Path, parts: files.Parts) -> None:
    _work.update(cohort=cohort, root=root, parts=parts)


def _render(i: int) -> None:
    """Render one patient; the part, written last, says that its files are whole."""
    part = _work["cohort"].render(i, _work["root"])
    with _work["parts"].write(f"{i}.json") as path:
        files.write_json(path, part)


def _hash(root: Path, name: str, hashed: dict[str, str]) -> str | None:
    """SHA-256 of a file, or over the names and hashes of all files below a folder; None if there is nothing."""
    if not (root / name).is_dir():
        return hashed.get(name)
    digest = hashlib.sha256()
    below = [path.removeprefix(name) for path in hashed if path.startswith(name)]
    for path in sorted(below, key=lambda path: path.split("/")):
        digest.update(f"{path} {hashed[name + path]}\n".encode())
    return digest.hexdigest()


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
