"""The embedded cohorts: simulated images on disk, each in the layout of the real source that its loader reads."""

from pathlib import Path

from pkd_utils.demo.write import ensure, verify
from pkd_utils.errors import DataError

__all__ = ["ensure", "ensure_source", "verify"]


def ensure_source(source: str, root: str | Path, size: int, seed: int = 0, workers: int = 1, **options) -> Path:
    """Write the embedded cohort that the loader of `source` reads, unless it is there.

    Parameters
    ----------
    source : str
        A loader: `mimic_cxr` gives chest radiographs (`ensure`), `cbis_mass` and `cbis_calc` the mammograms of both
        kinds (`mammography.ensure`), `inspect` CT volumes (`inspect_cohort.ensure`).
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
        from pkd_utils.demo import mammography

        return mammography.ensure(root, seed, workers=workers, mass_rows=size, **options)
    if source == "inspect":
        from pkd_utils.demo import inspect_cohort

        return inspect_cohort.ensure(root, size, seed, workers=workers, **options)
    raise DataError(f"There is no embedded cohort for the source {source!r}: set simulate_patients to 0 and data_root.")
