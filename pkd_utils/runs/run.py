"""Runs: where a notebook writes, what identifies what it wrote, and how we know that it is whole.

A run lives in `runs/<study>/<cohort>/<step>/<label>-<hash>/`. The hash is taken of the resolved parameters, of the code
that the notebook uses, of the content of others' files (`identity.py`) and of the identities of the runs that it reads,
so nothing that was computed differently is ever overwritten or mistaken for it. Work happens in
`<label>-<hash>.partial/`, of one process at a time; `Run.finish` checks the named artefacts, writes `run.json` and
renames the folder. `<label>` beside it is a link to the latest finished run. A finished folder is never written into.

A notebook uses four calls: `open_notebook` in its second cell, `run.show` for each figure, `run.save` in its last cell,
and `run.publish` where results go into the repository.
"""

import os
import shutil
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pkd_utils.runs import files, finished, identity, machine, parameters, paths, showing
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json, write_json
from pkd_utils.runs.finished import find_run, point_to, record_of, run_identity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


UPSTREAM_CHECKED = "PKD_UPSTREAM_CHECKED"  # in a kernel: the run whose upstream runs its parent has checked


class Run:
    """One run of one notebook: its folder, its identity, and its end.

    Attributes
    ----------
    path : Path
        The folder to write in: `<label>-<hash>.partial` until `finish`, `<label>-<hash>` after it. If the run was
        finished before, until `finish` a folder of links to what it holds, thrown away afterwards.
    reference : str
        `study/cohort/step/label`, how later notebooks name this run.
    resumed : bool
        True if an earlier, interrupted or finished, session of the same identity left its work here.

    Raises
    ------
    FileNotFoundError
        If a run named by a parameter `*_run` or `*_runs` does not exist.
    """

    def __init__(self, notebook: str, values: dict[str, Any]):
        study, step = notebook.split("/")
        machine.one_thread()
        self.notebook = notebook
        self.parameters = values
        self.upstream = {ref: run_identity(find_run(ref)) for ref in identity.references(values)}
        self.code_hash = identity.code_hash(notebook)
        self.inputs = identity.inputs(values)
        self.identity = identity.run_hash(notebook, values, self.code_hash, self.upstream, self.inputs)
        if os.environ.get(UPSTREAM_CHECKED) != self.identity:
            finished.check_upstream(self.upstream)
        self.reference = f"{study}/{values['cohort']}/{step}/{values['run']}"
        self.final_path = identity.run_folder(notebook, values, self.identity)
        partial = self.final_path.with_name(self.final_path.name + ".partial")
        self.done = finished.done(self.final_path, values)
        if not self.done:
            self._lock = _lock(self.final_path, f"{self.reference} is being computed")
            self.done = finished.done(self.final_path, values)  # by the one that was waited for
        self.resumed = self.done or partial.exists()
        if self.done:
            self._lock = None
            finished.remember_place(self.final_path, values)
            self.path = finished.linked_copy(self.final_path)
            weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        else:
            self.path = partial
            self.path.mkdir(parents=True, exist_ok=True)
            for left in list(self.path.rglob(".tmp-*")):  # by a process that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        self._started = time.time()
        self._notes: dict[str, Any] = {}
        self._figures: list[dict[str, Any]] = []  # shown and without pixels: the gate lets them pass
        self._shown = 0  # figures
        self._inherited: dict[str, dict[str, Any]] = {}

    def note(self, **facts: Any) -> None:
        """Add facts to `run.json`: `data_hash=...`, `cohort={...}`, `device=...`."""
        self._notes.update(facts)

    def note_cohort(self, cohort: Any, hashed: bool = True) -> None:
        """Record what the gate must know of a `cohorts.Cohort`: its name, licence, what may be shown, and its hash."""
        names = ("name", "title", "licence", "citation", "credentialed", *showing.PERMISSIONS)
        self.note(cohort={name: getattr(cohort.info, name) for name in names})
        if hashed:
            self.note(data_hash=cohort.data_hash())

    def inherit(self, reference: str) -> dict[str, Any]:
        """Take cohort facts and data hash over from an upstream run; returns that run's `run.json`.

        A run that inherits from several shows what every one of their cohorts permits.
        """
        record = record_of(find_run(reference))
        self._inherited[reference] = record
        cohorts = [one.get("cohort") for one in self._inherited.values()]
        hashes = {ref: one.get("data_hash") for ref, one in self._inherited.items()}
        same = all(cohort == cohorts[0] for cohort in cohorts)
        self.note(
            cohort=cohorts[0] if same else showing.joint_cohort(cohorts),
            data_hash=hashes[reference] if len(set(hashes.values())) == 1 else files.hash_params(hashes),
        )
        return record

    @property
    def title(self) -> str:
        """What the data are, for a reader: the cohort's title, with "(simulated)" where they are."""
        cohort = self._notes.get("cohort") or {}
        return f"{cohort.get('title', '')}{' (simulated)' if self._simulated else ''}"

    @property
    def _simulated(self) -> bool:
        """Whether any cohort of the run is simulated."""
        cohorts = [self._notes.get("cohort"), *(one.get("cohort") for one in self._inherited.values())]
        return any((cohort or {}).get("simulated") for cohort in cohorts)

    @property
    def shows_images(self) -> bool:
        """Whether pixels of this run's cohort may be shown; not unless its loader said so."""
        return showing.permitted(self._notes.get("cohort"))["shareable_images"]

    def counts(self, table: "pd.DataFrame", *columns: Any, **how: Any) -> "pd.DataFrame":
        """A table of counts to show: small ones are hidden where the cohort is credentialed.

        `columns` and `how` as in `showing.without_small_counts`.
        """
        return showing.without_small_counts(table, columns, **how) if self.credentialed else table

    def count(self, number: int) -> int | str:
        """A count to print; a small one is hidden where the cohort is credentialed."""
        return showing.HIDDEN if self.credentialed and 0 < number < showing.SMALL else number

    @property
    def credentialed(self) -> bool:
        """Whether any cohort of the run is for credentialed people only."""
        return showing.permitted(self._notes.get("cohort"))["credentialed"]

    def show(
        self, figure: "Figure | Axes", *, pixels: bool | None = None, cohort: dict[str, Any] | None = None
    ) -> None:
        """Show a figure as far as the run's cohort permits, stamped where the data are simulated.

        What is shown is kept as PNG and PDF in `figures/` of the run.
        Its alt text stands in the metadata of the cell, `mystnb.image.alt`; the gate refuses a page without.

        Parameters
        ----------
        figure : Figure, or one of its Axes
        pixels : bool, optional
            Whether it shows pixels of patients. By default any array drawn as a picture counts as such; say
            `pixels=False` of a coloured table of numbers.
        cohort : dict, optional
            `cohort` of the `run.json` that the figure shows, where a run shows several.
        """
        import matplotlib.pyplot as plt

        figure = figure.figure
        permitted = self.shows_images if cohort is None else showing.permitted(cohort)["shareable_images"]
        pixels = showing.holds_pixels(figure) if pixels is None else pixels
        if pixels and not permitted:
            print("this source's images are not shown")
        else:
            if self._simulated if cohort is None else cohort.get("simulated"):
                showing.simulated_mark(figure)
            self._shown += 1
            shown = showing.display_figure(figure, self.path / "figures" / f"figure-{self._shown:02d}")
            self._figures += [shown] if shown and not pixels else []
        plt.close(figure)

    def provenance(self) -> dict[str, Any]:
        """Everything `run.json` says except the artefacts."""
        return {
            "reference": self.reference,
            "notebook": self.notebook,
            "parameters": self.parameters,
            "identity": self.identity,
            "upstream": self.upstream,
            "upstream_content": {ref: finished.content(find_run(ref)) for ref in self.upstream},
            "inputs": identity.inputs(self.parameters, written=True),
            "code_hash": self.code_hash,
            **machine.environment(),
            "cohort": None,
            "data_hash": None,
            "resumed": self.resumed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 1),
            **machine.usage(),
            "figures": self._figures,
            **self._notes,
        }

    def finish(self, artefacts: list[str]) -> Path:
        """Check that every artefact, a file or folder in `path`, is there, write `run.json`, give the folder its name.

        Raises
        ------
        DataError
            If an artefact is missing or empty, or the data changed meanwhile: the run then stays partial.
        """
        missing = [name for name in artefacts if not _has_content(self.path / name)]
        if missing:
            what = f"{', '.join(missing)} missing or empty in {self.path.name}"
            raise DataError(f"Run {self.reference} is not complete: {what}; run the notebook again.")
        if self.done:
            finished.check(self.final_path)
        else:
            record = self.provenance()
            changed = [name for name, sha in self.inputs.items() if record["inputs"][name] != sha]
            if changed or record["upstream"] != {ref: run_identity(find_run(ref)) for ref in self.upstream}:
                what = f"the data of {changed[0]}" if changed else "a run that it reads"
                raise DataError(f"Run {self.reference}: {what} changed meanwhile; run the notebook again.")
            record["artefacts"] = finished.artefact_table(self.path, artefacts, self.final_path)
            write_json(self.path / "run.json", record)
            _replace_folder(self.path, self.final_path)
            self._lock.release()
            self.done = True
        self.path = self.final_path
        point_to(self.final_path, self.parameters["run"])
        return self.path

    def save(self, artefacts: dict[str, Any], *written: str) -> None:
        """Write the run's artefacts, finish the run, and say what was written.

        Parameters
        ----------
        artefacts : dict
            File name -> value, as `files.write` takes them.
        written : str
            Files or folders in `path` that are there already.
        """
        for name, value in artefacts.items():
            path = self.path / name
            if not (self.done and path.exists()):  # what a finished run holds stays as it is
                files.write(path, value)
        self.finish([*artefacts, *written])
        print("wrote", ", ".join([*artefacts, *written]))

    def publish(
        self,
        name: str,
        tables: "dict[str, pd.DataFrame]",
        *,
        title: str = "",
        text: str = "",
        notes: Sequence[str] = (),
        csv: "pd.DataFrame | None" = None,
        picture: str | None = None,
    ) -> None:
        """Write aggregate results with the finished run's record to `book/results/<name>.json`; nothing without a name.

        The book reads there what a plain `make book` cannot repeat: means, intervals and counts, no row of any patient.

        Parameters
        ----------
        name : str
            File name without suffix; "" publishes nothing.
        tables : dict
            Caption -> table of results.
        title, text, notes
            Heading (the name by default), one sentence, and what a reader must know.
        csv : DataFrame, optional
            A long table, written beside the JSON as `<name>.csv`.
        picture : str, optional
            A PNG file in `path`, copied beside the JSON, if the cohort's images may be shown.

        Raises
        ------
        DataError
            If a table has rows of patients, or a picture is given, and the cohort's images may not be shown.
        """
        if not name:
            return
        if picture and not self.shows_images:
            raise DataError("The data are not marked shareable_images: set publish to an empty name.")
        target = paths.resolve("book/results") / name
        allowed = self.shows_images
        rows = {caption: showing.records(caption, self.counts(table), allowed) for caption, table in tables.items()}
        record = {"title": title or name, "text": text, "notes": list(notes), **rows}
        write_json(target.with_suffix(".json"), {**record, **read_json(self.path / "run.json")})
        if csv is not None:
            showing.records("csv", csv, allowed)
            files.write(target.with_suffix(".csv"), self.counts(csv))
        if picture:
            with files.atomic_path(target.with_suffix(".png")) as temporary:
                shutil.copyfile(self.path / picture, temporary)


_locks: weakref.WeakValueDictionary[Path, files.Lock] = weakref.WeakValueDictionary()


def _lock(folder: Path, busy: str) -> files.Lock:
    """The lock of the process that computes the run of this folder; one process may open a run twice."""
    path = folder.with_name(f".lock-{folder.name}")
    lock = _locks.get(path)
    if lock is None:
        try:
            lock = _locks[path] = files.Lock(path, busy)
        except OSError as error:
            said = f"Runs cannot be written to {paths.runs_dir()} ({error.strerror}: {error.filename})"
            raise DataError(f"{said}: set PKD_RUNS to a folder.") from None
    return lock


def _replace_folder(folder: Path, final: Path) -> None:
    """Give a folder its final name; what had it, empty or made of other runs than those that are there now, goes."""
    old = final.with_name(f".tmp-{os.getpid()}-{final.name}")
    if final.exists():
        os.replace(final, old)
    os.replace(folder, final)
    shutil.rmtree(old, ignore_errors=True)


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def open_notebook(notebook: str, namespace: dict[str, Any]) -> tuple[SimpleNamespace, Run]:
    """Check a notebook's parameters and open the run that they identify: `P, run = open_notebook(NAME, globals())`.

    `notebook` is the file's `<study>/<NN-verb-noun>` under `notebooks/`; the parameters come checked.
    """
    label = namespace.get("run")
    if isinstance(label, Run):  # the cell ran before
        namespace = {**namespace, "run": label.parameters["run"]}
    values = parameters.check(notebook, namespace)
    return values, Run(notebook, vars(values))
