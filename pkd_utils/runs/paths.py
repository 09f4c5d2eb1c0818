"""Where things are: the project root, the data folder and the runs folder.

papermill runs a notebook in the caller's folder, nbval and myst-nb in the notebook's own, so no path may depend on
the current directory: every path in a parameter is relative to the project root. `roots:` of `params/local.yml` says
where single data sets and weights are; two environment variables move the big folders as a whole: `PKD_DATA` (default
`<root>/data`) and `PKD_RUNS` (default `<root>/runs`).
"""

import os
from pathlib import Path

from pkd_utils.runs import local

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def data_dir() -> Path:
    """Folder of inputs that were fetched or made; `PKD_DATA` or `<root>/data`."""
    return Path(os.environ.get("PKD_DATA") or PROJECT_ROOT / "data")


def runs_dir() -> Path:
    """Folder of run outputs; `PKD_RUNS` or `<root>/runs`."""
    return Path(os.environ.get("PKD_RUNS") or PROJECT_ROOT / "runs")


def resolve(path: str | Path) -> Path:
    """Turn a path from a parameter into an absolute one, which need not exist.

    Parameters
    ----------
    path : str or Path
        Absolute, starting with `~`, or relative to the project root. `data/<name>` follows the longest of the `roots`
        of `params/local.yml` that it lies in, else `PKD_DATA`; a leading `runs/` follows `PKD_RUNS`.
    """
    path = Path(path).expanduser()
    if path.is_absolute():
        return path
    roots = {Path(name): folder for name, folder in local.read().roots.items()} if path.parts[:1] == ("data",) else {}
    for name in (path, *path.parents):
        if name in roots:
            return Path(roots[name]).expanduser() / path.relative_to(name)
    if path.parts[:1] == ("data",):
        return data_dir().joinpath(*path.parts[1:])
    if path.parts[:1] == ("runs",):
        return runs_dir().joinpath(*path.parts[1:])
    return PROJECT_ROOT / path
