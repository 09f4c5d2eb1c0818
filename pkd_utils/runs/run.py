"""Runs: where a notebook writes, what identifies what it wrote, and how we know that it is whole.

A run lives in `runs/<study>/<cohort>/<step>/<label>-<hash>/`. The hash is taken of the resolved parameters, of the code
that the notebook uses (`identity.py`) and of the identities of the runs it reads, so nothing that was computed
differently is ever overwritten or mistaken for it. Work happens in `<label>-<hash>.partial/`; `Run.finish` checks the
named artefacts, writes `run.json` and renames the folder. `<label>` beside it is a link to the latest finished run.
"""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pkd_utils.runs import files, identity, machine, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json, write_json


def _split_name(notebook: str) -> tuple[str, str]:
    """`mmpkd/01-prepare-data` -> (`mmpkd`, `01-prepare-data`)."""
    parts = notebook.split("/")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"A notebook is named <study>/<NN-verb-noun>, not {notebook!r}.")
    return parts[0], parts[1]


class Run:
    """One run of one notebook: its folder, its identity, and its end.

    Attributes
    ----------
    path : Path
        The folder to write in: `<label>-<hash>.partial` until `finish`, `<label>-<hash>` after it.
    reference : str
        `study/cohort/step/label`, how later notebooks name this run.
    resumed : bool
        True if an earlier, interrupted or finished, session of the same identity left its work here.
    """

    def __init__(self, notebook: str, parameters: dict[str, Any]):
        study, step = _split_name(notebook)
        self.notebook = notebook
        self.parameters = parameters
        self.upstream = {ref: run_identity(find_run(ref)) for ref in identity.references(parameters)}
        self.code_hash = identity.code_hash(notebook)
        self.identity = identity.run_hash(notebook, parameters, self.code_hash, self.upstream)
        self.reference = f"{study}/{parameters['cohort']}/{step}/{parameters['run']}"
        self.final_path = paths.runs_dir() / identity.run_folder(notebook, parameters, self.identity)
        partial = self.final_path.with_name(self.final_path.name + ".partial")
        # A workflow may have made the final folder, empty, beforehand: only run.json says finished.
        finished = (self.final_path / "run.json").exists()
        self.resumed = finished or partial.exists()
        self.path = self.final_path if finished else partial
        self.path.mkdir(parents=True, exist_ok=True)
        self._started = time.time()
        self._notes: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        """Add facts to `run.json`: `data_hash=...`, `cohort={...}`, `device=...`."""
        self._notes.update(facts)

    def note_cohort(self, cohort: Any) -> None:
        """Record what the gate must know of a `cohorts.Cohort`: its name, licence and what may be shown."""
        info = cohort.info
        names = ("name", "title", "licence", "citation", "simulated", "shareable_text", "shareable_images")
        self.note(cohort={name: getattr(info, name) for name in names}, data_hash=cohort.data_hash())

    def inherit(self, reference: str) -> dict[str, Any]:
        """Take cohort facts and data hash over from an upstream run; returns that run's `run.json`."""
        upstream = read_json(find_run(reference) / "run.json")
        self.note(cohort=upstream.get("cohort"), data_hash=upstream.get("data_hash"))
        return upstream

    def provenance(self) -> dict[str, Any]:
        """Everything `run.json` says except the artefacts."""
        return {
            "reference": self.reference,
            "notebook": self.notebook,
            "parameters": self.parameters,
            "identity": self.identity,
            "upstream": self.upstream,
            "code_hash": self.code_hash,
            **machine.environment(),
            "cohort": None,
            "data_hash": None,
            "resumed": self.resumed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 1),
            **self._notes,
        }

    def finish(self, artefacts: list[str]) -> Path:
        """Check that every artefact is there, write `run.json`, and give the folder its final name.

        Parameters
        ----------
        artefacts : list of str
            Files (or folders) in `path` that this run promises.

        Returns
        -------
        Path
            The final folder.

        Raises
        ------
        DataError
            If an artefact is missing or empty: the run then stays partial.
        """
        missing = [name for name in artefacts if not _has_content(self.path / name)]
        if missing:
            raise DataError(
                f"Run {self.reference} is not complete: {', '.join(missing)} missing or empty in {self.path.name}; "
                "run the notebook again."
            )
        if self.path != self.final_path:
            record = {**self.provenance(), "artefacts": _artefact_table(self.path, artefacts)}
            write_json(self.path / "run.json", record)
            os.replace(self.path, self.final_path)
            self.path = self.final_path
        point_to(self.final_path, self.parameters["run"])
        return self.path


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def _artefact_table(folder: Path, artefacts: list[str]) -> dict[str, Any]:
    """Size and, for files, SHA-256 of each artefact."""
    table = {}
    for name in artefacts:
        path = folder / name
        if path.is_dir():
            table[name] = {"files": sum(1 for item in path.rglob("*") if item.is_file())}
        else:
            table[name] = {"bytes": path.stat().st_size, "sha256": files.file_sha256(path)}
    return table


def point_to(folder: Path, label: str) -> None:
    """Make `<label>` beside `folder` a relative link to it, replaced in one step."""
    link = folder.with_name(label)
    temporary = folder.with_name(f".tmp-{os.getpid()}-{label}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name, target_is_directory=True)
    os.replace(temporary, link)


def open_run(notebook: str, parameters: SimpleNamespace | dict[str, Any]) -> Run:
    """Open the run that these parameters identify, new, interrupted or finished.

    Parameters
    ----------
    notebook : str
        `<study>/<NN-verb-noun>`.
    parameters : SimpleNamespace or dict
        What `parameters.check` returned; `cohort` and `run` (the label) are required.

    Raises
    ------
    FileNotFoundError
        If a run named by a parameter `*_run` or `*_runs` does not exist.
    """
    if not isinstance(parameters, dict):
        parameters = vars(parameters)
    return Run(notebook, dict(parameters))


def find_run(reference: str) -> Path:
    """Folder of the latest finished run with this reference.

    Parameters
    ----------
    reference : str
        `study/cohort/step/label`, for example `mmpkd/embedded/01-prepare-data/demo`.

    Raises
    ------
    FileNotFoundError
        If no such run has finished; the message names the notebook to run.
    """
    link = paths.runs_dir() / reference
    if not (link / "run.json").exists():
        study, _, step, label = (reference.split("/") + ["?"] * 4)[:4]
        raise FileNotFoundError(
            f"No finished run {reference!r} in {paths.runs_dir()}: run notebooks/{study}/{step}.ipynb "
            f"with run = {label!r} first."
        )
    return link.resolve()


def run_identity(folder: Path) -> str:
    """Identity of a finished run."""
    return read_json(folder / "run.json")["identity"]
