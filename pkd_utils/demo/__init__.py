"""The embedded cohorts: simulated images on disk, each in the layout of the real source that its loader reads."""

import importlib
import sys
from pathlib import Path

from pkd_utils.demo.chest.cohort import ensure, verify
from pkd_utils.runs.errors import DataError

__all__ = ["ensure", "ensure_source", "main", "verify"]


def ensure_source(source: str, root: str | Path, size: int, seed: int = 0, workers: int = 1, **options) -> Path:
    """Write the embedded cohort that the loader of `source` reads, unless it is there.

    Parameters
    ----------
    source : str
        A loader: `mimic_cxr` gives chest radiographs (`ensure`), `cbis_mass` and `cbis_calc` the mammograms of both
        kinds (`breast.cohort.ensure`), `inspect` CT volumes (`ct.cohort.ensure`).
    root : str or Path
    size : int
        Patients; of the mammograms, masses.
    seed, workers : int
    **options
        Further arguments of the cohort's own function.

    Raises
    ------
    DataError
        If there is no embedded cohort for the source.
    """
    if source == "mimic_cxr":
        return ensure(root, size, seed, workers=workers, **options)
    if source in ("cbis_mass", "cbis_calc"):
        from pkd_utils.demo.breast import cohort

        return cohort.ensure(root, seed, workers=workers, mass_rows=size, **options)
    if source == "inspect":
        from pkd_utils.demo.ct import cohort as inspect_cohort

        return inspect_cohort.ensure(root, size, seed, workers=workers, **options)
    raise DataError(f"There is no embedded cohort for the source {source!r}: set simulate_patients to 0 and data_root.")


def main(arguments: list[str]) -> None:
    """`demo chest | breast | ct [options]`: write an embedded cohort unless it is there, and say what it holds."""
    kinds = ("chest", "breast", "ct")
    if len(arguments) < 2 or arguments[1] not in kinds:
        sys.exit(f"Use: python -m pkd_utils demo {' | '.join(kinds)} [--help]")
    importlib.import_module(f"pkd_utils.demo.{arguments[1]}.cohort").main(arguments[2:])
