"""Data sources as the same three tables: `load_cohort(name, root)` gives images, privileged information and boxes.

Arrows point downward: a cohort knows its files and nothing about a study. See `table.Cohort` for the contract.
"""

from pathlib import Path

from pkd_utils.cohorts.checks import check_cohort
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.paths import resolve

COHORTS = ("mimic_cxr", "covid_chestxray", "cbis_mass", "cbis_calc", "openi", "inspect")

__all__ = ["COHORTS", "Cohort", "CohortInfo", "Funnel", "load_cohort"]


def load_cohort(name: str, root: str | Path, **options) -> Cohort:
    """Read a data source and check it.

    Parameters
    ----------
    name : str
        One of `mimic_cxr`, `covid_chestxray`, `cbis_mass`, `cbis_calc`, `openi`, `inspect`.
    root : str or Path
        Folder that holds the source in its published layout; a relative path starts at the project root.
    **options
        The keyword arguments of the source's own `load` function, e.g. `load_cohort("mimic_cxr", root,
        uncertain="zero")`; see `pkd_utils.cohorts.mimic_cxr.load` and its neighbours.

    Returns
    -------
    Cohort
        Tables that passed `checks.check_cohort`.

    Raises
    ------
    FileNotFoundError
        The root or a file that the loader needs is missing; the message says where to get it.
    DataError
        Unknown cohort name, missing column, duplicate identifier, missing patient id, a patient in two splits, a box
        outside its image, a report without text, an unreadable image.
    """
    root = resolve(root)
    # MIMIC comes in several downloads: their roots are parameters too, relative to the project like the first.
    options = {key: resolve(value) if key.endswith("_root") and value else value for key, value in options.items()}
    # Imported where used, so that one source's needs never stop another from loading.
    if name == "mimic_cxr":
        from pkd_utils.cohorts.mimic_cxr import load
    elif name == "covid_chestxray":
        from pkd_utils.cohorts.covid_chestxray import load
    elif name == "cbis_mass":
        from pkd_utils.cohorts.cbis.cases import load_mass as load
    elif name == "cbis_calc":
        from pkd_utils.cohorts.cbis.cases import load_calc as load
    elif name == "openi":
        from pkd_utils.cohorts.openi import load
    elif name == "inspect":
        from pkd_utils.cohorts.inspect.studies import load
    else:
        raise DataError(f"There is no cohort named {name!r}; choose one of {', '.join(COHORTS)}.")
    cohort = load(root, **options)
    check_cohort(cohort)
    return cohort
