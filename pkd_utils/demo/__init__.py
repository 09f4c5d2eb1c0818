"""The embedded cohorts: simulated images on disk, each in the layout of the real source that its loader reads."""

import argparse
import importlib
import time
from pathlib import Path
from typing import get_args

from pkd_utils.demo import build
from pkd_utils.demo.build import verify
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError

__all__ = ["ensure_source", "main", "verify"]
KINDS = {  # module:class, imported when it is asked for; a run's identity follows these names
    "chest": "pkd_utils.demo.chest.cohort:ChestCohort",
    "breast": "pkd_utils.demo.breast.cohort:BreastCohort",
    "ct": "pkd_utils.demo.ct.cohort:CTCohort",
}
SOURCES = {"mimic_cxr": "chest", "cbis_mass": "breast", "cbis_calc": "breast", "inspect": "ct"}  # read by which loader


def cohort_class(kind: str) -> type[build.Recipe]:
    """The cohort of a kind."""
    module, name = KINDS[kind].split(":")
    return getattr(importlib.import_module(module), name)


def ensure_source(source: str, root: str | Path, size: int, seed: int = 0, workers: int = 1, **options) -> Path:
    """Write the embedded cohort that the loader of `source` reads, unless it is there.

    Parameters
    ----------
    source : str
        A loader: `mimic_cxr` gives chest radiographs, `cbis_mass` and `cbis_calc` the mammograms of both kinds,
        `inspect` CT volumes.
    root : str or Path
        Folder of the cohort; relative paths are relative to the project root.
    size : int
        Patients; of the mammograms, rows of the BI-RADS table (0: all).
    seed : int
        Seed of everything. With the same code, sources and libraries the same seed gives the same bytes.
    workers : int
        Processes; changes nothing but time.
    **options
        Further fields of `ChestCohort`, `BreastCohort` or `CTCohort`.

    Raises
    ------
    DataError
        `root`, or a folder of the build beside it, holds something that is not a simulated cohort.
    FileNotFoundError
        The real files behind the cohort have not been fetched.
    """
    if source not in SOURCES:
        raise DataError(
            f"There is no embedded cohort for the source {source!r}: set simulate_patients to 0 and data_root."
        )
    kind = cohort_class(SOURCES[source])
    return build.ensure(kind(**{kind.size: size, "seed": seed, **options}), root, workers)


def main(arguments: list[str]) -> None:
    """`demo chest | breast | ct [options]`: write an embedded cohort unless it is there, and say what it holds."""
    parser = argparse.ArgumentParser(prog="python -m pkd_utils demo", description=main.__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar=" | ".join(KINDS))
    for kind in KINDS:
        cohort = cohort_class(kind)
        options = kinds.add_parser(kind, description=cohort.__doc__)
        options.add_argument("--root", default=cohort.root, help="folder to write (default %(default)s)")
        options.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
        for name, field in cohort.__pydantic_fields__.items():
            options.add_argument(
                f"--{name.replace('_', '-')}",
                type=type(field.default),
                default=field.default,
                choices=get_args(field.annotation) or None,
                help=f"{field.description} (default %(default)s)",
            )
    given = vars(parser.parse_args(arguments[1:]))
    kind, root, workers = (given.pop(name) for name in ("kind", "root", "workers"))
    start = time.perf_counter()
    folder = build.ensure(cohort_class(kind)(**given), root, workers)
    counts = files.read_json(folder / "cohort.json")["counts"]
    print(f"Simulated cohort in {folder}, {time.perf_counter() - start:.1f} s:", end=" ")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))
