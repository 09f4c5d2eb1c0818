"""Run notebooks with papermill, and know whether a run is whole.

`python -m pkd_utils run params/demo/mmpkd/03-distil-student.yml grid` makes one run of a parameter file,
`python -m pkd_utils plan demo` lists a profile's runs in order.

papermill's own word is not enough: a killed kernel leaves a notebook whose cells all say "completed", and
`sys.exit(0)` ends with code 0 and half of the cells not run. A run counts only if every code cell has an execution
count, no cell holds an error, and `run.json`, which `Run.finish` writes last, is there with every artefact.
"""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# jsonschema, which nbformat imports, would build a parser of international addresses: seconds that no notebook needs.
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat  # noqa: E402
import yaml  # noqa: E402

from pkd_utils.runs import absent, finished, identity, index, local, paths, progress, run  # noqa: E402
from pkd_utils.runs.errors import DataError  # noqa: E402
from pkd_utils.runs.files import Lock, atomic_path  # noqa: E402
from pkd_utils.runs.parameters import declared, nearest, notebook_path, resolve  # noqa: E402
from pkd_utils.runs.profiles import files_of, notebook_of, read_runs, shown  # noqa: E402

# One thread a notebook: runs stay the same whatever runs beside them, and two notebooks use two cores better than one.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_MININTERVAL": "2",
    "PYTHONHASHSEED": "0",
}


@dataclass(frozen=True)
class Described:
    """One run that a parameter file describes, before its data and what it reads are looked at."""

    name: str  # study/step[.label]
    file: Path
    label: str  # its name in the file, "" where the file has one run or this is the plain one
    parameters: dict[str, Any]

    @property
    def notebook(self) -> str:
        """study/step"""
        return notebook_of(self.file)


@dataclass(frozen=True)
class Job(Described):
    """One run of a plan: what it resolves to, and the folder it will fill."""

    identity: str
    folder: Path
    upstream: tuple[str, ...]  # names of the jobs that must run before
    state: str  # "to run", "done", or "damaged": running it says what is

    @property
    def executed(self) -> Path:
        """The executed notebook, written last of all."""
        return self.folder / "notebook.ipynb"


def problems(path: Path) -> list[str]:
    """Say what is not whole about an executed notebook; an empty list means nothing."""
    if not path.exists():
        return [f"{path} does not exist"]
    found = []
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells, start=1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            found.append(f"cell {number} was not run")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} ended in {output.ename}: {output.evalue[:300]}")
    return found


def run_problems(folder: Path) -> list[str]:
    """Say what is not whole about a finished run's folder: `run.json`, its artefacts, its executed notebook."""
    if not (folder / "run.json").exists():
        return [f"{folder} has no run.json: the notebook's last cell did not end"]
    return finished.faults(folder) + problems(folder / "notebook.ipynb")


def values_of(file: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name -> what papermill injects (the file's values and the machine's), and what that resolves to, of every run."""
    notebook, found = notebook_of(file), {}
    machine = {name: value for name, value in local.read().machine.items() if name in declared(notebook)}
    for label, values in read_runs(file).items():
        place = shown(file) + (f", run {label!r}" if label else "")
        found[label] = {**values, **machine}, resolve(notebook, {**values, **machine}, place)
    return found


def described(profile: str, only: str = "") -> dict[str, Described]:
    """All runs of `params/<profile>/` by reference; nothing of their data is read.

    `profile`, `only` and errors as in `plan`.
    """
    found: dict[str, Described] = {}
    for file in files_of(profile):
        study, step = notebook_of(file).split("/")
        for label, (_, values) in values_of(file).items():
            reference = f"{study}/{values['cohort']}/{step}/{values['run']}"
            name = ".".join(filter(None, (f"{study}/{file.stem}", label)))
            if reference in found:
                raise DataError(f"{name} and {found[reference].name} both describe the run {reference}: rename one.")
            found[reference] = Described(name, file, label, values)
    if not only:
        return found
    words = tuple(only.split())
    wanted = [ref for ref, job in found.items() if ref.startswith(words) or job.name.startswith(words)]
    if not wanted:
        raise DataError(f"No run of {profile} starts like {only}: `python -m pkd_utils plan {profile}` lists them.")
    for reference in wanted:  # grows by what they read
        wanted += [r for r in identity.references(found[reference].parameters) if r in found and r not in wanted]
    return {reference: found[reference] for reference in found if reference in wanted}


def that_can_run(waiting: dict[str, Described]) -> tuple[dict[str, Described], dict[str, str]]:
    """What is left of the runs where data and weights are not all here, and name -> why of the others."""
    gone: dict[str, str] = {}
    left = dict(waiting)
    while new := {ref: why for ref, job in left.items() if (why := absent.why_not(job.parameters, gone))}:
        gone |= new
        left = {ref: job for ref, job in left.items() if ref not in gone}
    left = {ref: replace(job, parameters=absent.without(job.parameters, gone)) for ref, job in left.items()}
    return left, {waiting[reference].name: why for reference, why in gone.items()}


def plan(profile: str, only: str = "", left_out: dict[str, str] | None = None) -> list[Job]:
    """All runs of `params/<profile>/`, each after the runs that it reads.

    Parameters
    ----------
    profile : str
        A folder of `params/`, or `quick`: every notebook once, with its defaults.
    only : str
        Plan a part: what starts like one of these words, for example `reports/mimic_cxr` or
        `reports/03-train-teachers.mimic`, and what it reads.
    left_out : dict, optional
        Leave out what cannot run because data or weights are not here, and fill this with name -> why. Lists of runs
        lose what is left out. Without it everything is planned.

    Raises
    ------
    DataError
        If a parameter file is wrong, two name the same run, runs wait for each other, or `only` fits none.
    FileNotFoundError
        If a run that is read is neither planned nor finished.
    """
    waiting = described(profile, only)
    if left_out is not None:
        waiting, gone = that_can_run(waiting)
        left_out.update(gone)

    jobs: dict[str, Job] = {}
    codes = {notebook: identity.code_hash(notebook) for notebook in {job.notebook for job in waiting.values()}}
    while waiting:
        ready = {ref: job for ref, job in waiting.items() if not waiting.keys() & identity.references(job.parameters)}
        if not ready:
            raise DataError(f"These runs of {profile} wait for each other: {', '.join(sorted(waiting))}.")
        for reference, job in ready.items():
            del waiting[reference]
            notebook, values, read = job.notebook, job.parameters, identity.references(job.parameters)
            known = {r: jobs[r].identity if r in jobs else run.run_identity(run.find_run(r)) for r in read}
            run_hash = identity.run_hash(notebook, values, codes[notebook], known, identity.inputs(values))
            folder = identity.run_folder(notebook, values, run_hash)
            before = {jobs[r].name: jobs[r].state for r in read if r in jobs}
            state = _state(folder, values, set(before.values()))
            jobs[reference] = Job(**vars(job), identity=run_hash, folder=folder, upstream=tuple(before), state=state)
    return list(jobs.values())


def said_of(left_out: dict[str, str]) -> list[str]:
    """Lines about what was left out, one a reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in left_out.items():
        reasons.setdefault(why, []).append(name)
    return [f"left out, because {why}: {len(names)} runs, first {names[0]}" for why, names in reasons.items()]


def _state(folder: Path, values: dict[str, Any], before: set[str]) -> str:
    """State of a run, given those of the runs that it reads."""
    try:
        whole = (folder / "notebook.ipynb").exists() and finished.done(folder, values)
    except DataError:
        return "damaged"
    return "done" if whole and before <= {"done"} else "to run"


def with_short_streams(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Join pieces of one stream and keep, as a terminal would, what a progress bar's last carriage return left."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        joined: list[nbformat.NotebookNode] = []
        for output in cell.outputs:
            if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        for output in joined:
            if output.output_type == "stream":
                lines = output.text.split("\n")
                output.text = "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)
        cell.outputs = joined
    return notebook


def one_of(file: Path, label: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `values_of` gives for one run of a file; DataError, with the names that it has, if there is no such run."""
    runs = values_of(file)
    if len(runs) == 1 and not label:
        label = next(iter(runs))
    if label not in runs:
        raise DataError(f"{shown(file)} has no run {label!r}{nearest(label, runs)}")
    return runs[label]


def execute(file: str | Path, label: str = "", expect: str | None = None) -> Path:
    """Run the notebook of a parameter file with one of its runs' values, unless this very run is already whole.

    Parameters
    ----------
    file : str or Path
        `params/<profile>/<study>/<NN-verb-noun>.yml`.
    label : str
        The run's name in the file.
    expect : str, optional
        The identity that a plan foresaw; a difference stops the run.

    Returns
    -------
    Path
        The run's folder, with `notebook.ipynb` in it.

    Raises
    ------
    DataError
        If the run did not end whole. The notebook, as far as it came, stays beside the folder as
        `<label>-<hash>.failed.ipynb`, with its traceback; while it runs it is `.running.ipynb`.
    """
    file = Path(file).resolve()
    notebook = notebook_of(file)
    injected, parameters = one_of(file, label)
    if expect:  # its plan left out what is not here, and all that it kept has run
        runs = identity.references(parameters)
        gone = {reference for reference in runs if not (paths.runs_dir() / reference / "run.json").exists()}
        injected, parameters = absent.without(injected, gone), absent.without(parameters, gone)
    said = f"{notebook} with {shown(file)} {label}".rstrip()
    known = {ref: run.run_identity(run.find_run(ref)) for ref in identity.references(parameters)}
    if not expect:  # who planned has seen to it
        finished.check_upstream(known)
    code, read = identity.code_hash(notebook), identity.inputs(parameters)
    run_hash = identity.run_hash(notebook, parameters, code, known, read)
    if expect and expect != run_hash:
        raise DataError(f"{said}: the code or an upstream run changed since this run was planned; start again.")
    folder = identity.run_folder(notebook, parameters, run_hash)
    executed = folder / "notebook.ipynb"
    with Lock(folder.with_name(f".lock-{folder.name}.ipynb"), f"{said} is being run"):
        if finished.done(folder, parameters) and not problems(executed):
            run.point_to(folder, parameters["run"])
            finished.remember_place(folder, parameters)
            executed.touch()
        else:
            os.environ[run.UPSTREAM_CHECKED] = run_hash
            _run_notebook(notebook, injected, folder, said)
    return folder


def environment() -> dict[str, str]:
    """Variables of a kernel, as they are set here or else as they should be."""
    return {name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()}


def _run_notebook(notebook: str, injected: dict[str, Any], folder: Path, said: str) -> None:
    """Run the notebook in a kernel of its own, and put it, executed, into the run's folder."""
    import papermill

    from pkd_utils.runs.kernel import OwnKernel

    executed = folder / "notebook.ipynb"
    log, failed = (folder.with_name(f"{folder.name}.{state}.ipynb") for state in ("running", "failed"))
    failed.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    os.environ.update(environment())
    try:
        papermill.execute_notebook(
            str(notebook_path(notebook)),
            str(log),
            parameters=injected,
            kernel_name="python3",  # for papermill's own record
            kernel_manager_class=OwnKernel,
            progress_bar=False,
            cwd=str(paths.PROJECT_ROOT),
        )
    except Exception as error:
        reason = str(error).strip().splitlines()
        if log.exists():
            log.replace(failed)
        if str(error).startswith("Kernel died"):  # nbclient's and jupyter_client's only word
            why = "its kernel was killed, most often because memory ran out: run it again where there is more"
            raise DataError(f"{said} failed: {why}. See {failed}") from error
        raise DataError(f"{said} failed: {reason[-1] if reason else error!r}. See {failed}") from error
    found = problems(log)
    if found or not (folder / "run.json").exists():
        found = found or ["its last cell did not write run.json"]
        log.replace(failed)
        raise DataError(f"{said} is not complete: {'; '.join(found)}. See {failed}")
    with atomic_path(executed) as temporary:
        nbformat.write(with_short_streams(nbformat.read(log, as_version=4)), temporary)
    log.unlink()


def main(arguments: list[str]) -> None:
    """`run FILE [NAME [IDENTITY]]`, `plan PROFILE [ONLY ...]` or `show FILE [NAME]`."""
    if "--verify" in arguments:
        index.verify_all()
    try:
        match [argument for argument in arguments if argument != "--verify"]:
            case ["run", file, label, planned]:
                execute(file, label, planned)
                print(progress.line(planned, f"{notebook_of(Path(file).resolve())} {label}".rstrip()), flush=True)
            case ["run", file, *rest] if len(rest) < 2:
                print(execute(file, *rest))
            case ["plan", profile, *only]:
                left_out: dict[str, str] = {}
                for job in plan(profile, " ".join(only), left_out):
                    print(f"{job.state:7} {job.name:45} {job.folder.relative_to(paths.runs_dir())}")
                print("\n".join(said_of(left_out)))
            case ["show", file, *rest] if len(rest) < 2:
                _, values = one_of(Path(file).resolve(), *(rest or [""]))
                print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
            case _:
                sys.exit("Use: python -m pkd_utils run FILE [NAME] | plan PROFILE [ONLY ...] | show FILE [NAME]")
    except (DataError, FileNotFoundError) as error:
        sys.exit(str(error))
