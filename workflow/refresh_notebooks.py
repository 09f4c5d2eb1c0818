"""Run the committed notebooks with their default (smoke) parameters and keep the outputs: `make notebooks NAMES="..."`.

Each is executed in its own folder, in order, with runs of their own (`_build/smoke-runs`), and written back whole
without the metadata that changes from run to run. Where names are given, what they read is run first if it
has not been, and not written back.
"""

import os
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
from run_tests import ENVIRONMENT, ROOT, SMOKE_RUNS

from pkd_utils.runs import files, identity
from pkd_utils.runs.kernel import OwnKernel
from pkd_utils.runs.parameters import resolve


def chosen(names: list[str]) -> dict[Path, bool]:
    """Notebooks to run, in order, and whether each is written back: those named, and what they read that has no run."""
    every = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
    named = [path for path in every if any(name in str(path.relative_to(ROOT)) for name in names)]
    if not named:
        sys.exit(f"No notebook is named like {' or '.join(names)}; notebooks/README.md lists them.")
    found = set(named)
    waiting = list(named)
    while waiting:
        path = waiting.pop()
        for reference in identity.references(resolve(f"{path.parent.name}/{path.stem}", {})):
            study, _, step, _ = reference.split("/")
            source = ROOT / "notebooks" / study / f"{step}.ipynb"
            if source not in found and not (SMOKE_RUNS / reference / "run.json").exists():
                found.add(source)
                waiting.append(source)
    return {path: path in named for path in sorted(found)}


def refresh(path: Path, keep: bool = True) -> None:
    """Execute one notebook, and write it back with its outputs if asked to."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_manager_class=OwnKernel,
        coalesce_streams=True,  # one line a progress bar, not one a step
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    if not keep:
        return
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    with files.atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > 600_000:
        sys.exit(f"{path.name} is larger than 600 kB: draw fewer or smaller figures in the smoke profile.")


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    if not sys.argv[1:]:
        shutil.rmtree(SMOKE_RUNS, ignore_errors=True)
    for source, written in chosen(sys.argv[1:] or [".ipynb"]).items():
        refresh(source, written)
