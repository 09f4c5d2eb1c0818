"""Finished runs: found by reference, and read only while they are what was written, made of what is there today.

`run.json` holds the SHA-256 of every artefact, of a folder that of its list of files (`hashes.json`), the identity and
content of each run that was read, and the content of every file of others. All are compared on each read, by the index
of sizes and times (`index.py`): nothing is hashed that did not change.
"""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pkd_utils.runs import identity, index, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, read_json, write_json

LISTED = "hashes.json"  # in a run's folder: SHA-256 of each file of its artefacts


def find_run(reference: str) -> Path:
    """Folder of the latest finished run with this reference, its artefacts checked.

    Parameters
    ----------
    reference : str
        `study/cohort/step/label`, for example `mmpkd/embedded/01-prepare-data/demo`.

    Raises
    ------
    FileNotFoundError
        If no such run has finished; the message names the notebook to run.
    DataError
        If an artefact is not what the run wrote.
    """
    link = paths.runs_dir() / reference
    if not (link / "run.json").exists():
        raise FileNotFoundError(f"No finished run {reference!r} in {paths.runs_dir()}: {_do(reference)} first.")
    folder = link.resolve()
    check(folder)
    return folder


def _do(reference: str) -> str:
    study, _, step, label = (reference.split("/") + ["?"] * 4)[:4]
    return f"run notebooks/{study}/{step}.ipynb with run = {label!r}"


def record_of(folder: Path) -> dict[str, Any]:
    """`run.json` of a finished run, with the paths of data that moved since as they are now."""
    try:
        record = read_json(folder / "run.json")
    except ValueError:
        raise DataError(f"{folder / 'run.json'} is damaged: remove the folder {folder} and run it again.") from None
    place = _place(record)
    return record | {"parameters": read_json(place)} if place.exists() else record


def _place(record: dict[str, Any]) -> Path:
    return paths.runs_dir() / ".index" / f"{record.get('identity', '')[:16]}.json"


def remember_place(folder: Path, parameters: dict[str, Any]) -> None:
    """Keep where the data of a finished run lie now, if it is not where they lay."""
    record = record_of(folder)
    if identity.input_paths(parameters) != identity.input_paths(record.get("parameters", {})):
        write_json(_place(record), parameters)


def run_identity(folder: Path) -> str:
    """Identity of a finished run."""
    return record_of(folder)["identity"]


def content(folder: Path) -> str:
    """SHA-256 over what a finished run's artefacts are."""
    return hash_params(record_of(folder).get("artefacts", {}))


def artefact_table(folder: Path, artefacts: Iterable[str], final: Path) -> dict[str, Any]:
    """Size and SHA-256 of each artefact, of a folder those of its files; the list of all goes to `hashes.json`."""
    found = _hashes(folder, artefacts, final)
    write_json(folder / LISTED, found)
    table = {}
    for name in artefacts:
        below = _below(name, found)
        size = sum((folder / path).stat().st_size for path in below)
        sha = found[name] if name in found else index.digest(below)
        table[name] = ({} if name in found else {"files": len(below)}) | {"bytes": size, "sha256": sha}
    return table


def _below(name: str, found: dict[str, str]) -> dict[str, str]:
    return {path: sha for path, sha in found.items() if path == name or path.startswith(f"{name}/")}


def _hashes(folder: Path, artefacts: Iterable[str], final: Path) -> dict[str, str]:
    names = [glob.escape(name) for name in artefacts]
    return index.hashes(folder, [*names, *(f"{name}/*" for name in names)], store=index.store_of(final))


def faults(folder: Path) -> list[str]:
    """Say of each artefact of a finished run that is not what the run wrote which file it is."""
    recorded, found = record_of(folder).get("artefacts", {}), []
    hashed = _hashes(folder, recorded, folder)
    for name, facts in recorded.items():
        below = _below(name, hashed)
        if not below:
            found.append(f"artefact {name} is missing")
        elif (hashed.get(name) or index.digest(below)) != facts.get("sha256"):
            listed = _below(name, read_json(folder / LISTED)) if (folder / LISTED).exists() else {}
            changed = sorted(path for path in {**listed, **below} if listed.get(path) != below.get(path))
            found.append(f"artefact {changed[0] if changed else name} is not what the run wrote")
    return found


def check(folder: Path) -> None:
    """DataError unless every artefact of a finished run is what the run wrote."""
    wrong = faults(folder)
    if wrong:
        reference = record_of(folder).get("reference", folder.name)
        raise DataError(f"Run {reference}: {wrong[0]}; remove the folder {folder} and {_do(reference)} again.")


def done(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether the run in this folder is finished, and of the very runs and data that are there now; see `check`."""
    if not (folder / "run.json").exists():
        return False
    check(folder)
    record = record_of(folder)
    for reference, sha in record.get("upstream_content", {}).items():
        if not (paths.runs_dir() / reference / "run.json").exists() or content(find_run(reference)) != sha:
            return False
    # Otherwise the data's content is in the identity.
    return not (parameters.get("simulate_patients") and changed_inputs(record, parameters))


def changed_inputs(record: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """Paths, as the parameters give them, of files of others that are here and not as they were."""
    was = record.get("inputs", {})
    now = identity.inputs(parameters, written=True) if was else {}
    named = identity.input_paths(parameters)
    return [named[name] for name, sha in was.items() if now.get(name) not in (None, sha)]


def check_upstream(references: Iterable[str], seen: set[str] | None = None) -> None:
    """DataError unless the runs that are read were made of the runs and data that are there now, all the way up."""
    seen = set() if seen is None else seen
    for reference in set(references) - seen:
        seen.add(reference)
        record = record_of(find_run(reference))
        made_of = record.get("upstream_content", {})
        here = [name for name in made_of if (paths.runs_dir() / name / "run.json").exists()]
        check_upstream(here, seen)
        for name in here:
            folder = find_run(name)
            if (run_identity(folder), content(folder)) != (record["upstream"][name], made_of[name]):
                raise DataError(f"Run {reference} was made of an earlier run {name}: {_do(reference)} again.")
        for path in changed_inputs(record, record.get("parameters", {})):
            raise DataError(f"Run {reference} was made of other data than {path} holds now: {_do(reference)} again.")


def linked_copy(folder: Path) -> Path:
    """A folder beside a finished run with links to its files: what is written there leaves the run as it is."""
    for old in folder.parent.glob(".again-*"):  # of a process that was killed
        if not Path("/proc", old.name.split("-")[1]).exists():
            shutil.rmtree(old, ignore_errors=True)
    copy = Path(tempfile.mkdtemp(prefix=f".again-{os.getpid()}-", dir=folder.parent))
    for at, _, names in os.walk(folder):
        below = copy / os.path.relpath(at, folder)
        below.mkdir(exist_ok=True)
        for name in names:
            (below / name).symlink_to(os.path.join(at, name))
    return copy


def point_to(folder: Path, label: str) -> None:
    """Make `<label>` beside `folder` a relative link to it, replaced in one step."""
    link = folder.with_name(label)
    temporary = folder.with_name(f".tmp-{os.getpid()}-{label}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    os.replace(temporary, link)
