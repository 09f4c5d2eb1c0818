"""Run the committed notebooks with their default (smoke) parameters and keep the outputs: `make notebooks NAMES="..."`.

Each is executed in its own folder, in order, with runs of their own (`_build/smoke-runs`), and written back whole
without the metadata that changes from run to run.
"""

import os
import shutil
import sys
from pathlib import Path

import nbclient
import nbformat
from run_tests import ENVIRONMENT, ROOT, SMOKE_RUNS

from pkd_utils.runs import files
from pkd_utils.runs.kernel import OwnKernel


def refresh(path: Path) -> None:
    """Execute one notebook in place."""
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_manager_class=OwnKernel,
        coalesce_streams=True,  # one line a progress bar, not one a step
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
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
    chosen = sys.argv[1:]
    if not chosen:
        shutil.rmtree(SMOKE_RUNS, ignore_errors=True)
    for source in sorted((ROOT / "notebooks").glob("*/*.ipynb")):
        if not chosen or any(name in str(source) for name in chosen):
            refresh(source)
