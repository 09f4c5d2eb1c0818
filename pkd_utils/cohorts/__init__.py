"""Data sources as the same three tables: `load_cohort(name, root)` gives images, privileged information and boxes.

Arrows point downward: a cohort knows its files and nothing about a study. See `table.Cohort` for the contract. A new
source is one file with a function `load(root, ...) -> Cohort`, and one line in `SOURCES`.
"""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from pkd_utils.cohorts.checks import check_cohort
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.paths import resolve


class Source(NamedTuple):
    """One line of `SOURCES`."""

    load: str  # module:function, imported when it is asked for, so that one source's needs never stop another
    files: tuple[str, ...] = ("*",)  # what is read below its roots, for the identity of runs; * also crosses folders


_CBIS = ("*_case_description_*_set.csv", "*metadata.csv", "*dicom_info.csv", "*.dcm", "*.jpg", "*.jpeg", "*.png")
SOURCES = {
    "mimic_cxr": Source(
        "pkd_utils.cohorts.mimic_cxr:load",
        ("mimic-cxr-*.csv.gz", "mimic-cxr-reports.zip", "files/*.jpg", "files/*.txt", "hosp/patients.csv.gz",
         "hosp/admissions.csv.gz", "MS_CXR_*", "ms-cxr/*MS_CXR_*", "masks/*.png"),
    ),
    "covid_chestxray": Source(
        "pkd_utils.cohorts.covid_chestxray:load", ("metadata.csv", "images/*", "annotations/*", "segmentations/*")
    ),
    "cbis_mass": Source("pkd_utils.cohorts.cbis.cases:load_mass", _CBIS),
    "cbis_calc": Source("pkd_utils.cohorts.cbis.cases:load_calc", _CBIS),
    "breast_usg": Source("pkd_utils.cohorts.breast_usg:load", ("*.xlsx", "*images_and_masks*/*.png")),
    "openi": Source(
        "pkd_utils.cohorts.openi:load", ("NLMCXR_reports.tgz", "indiana_*.csv", "*IM-*.png", "*IM-*.jpg", "*IM-*.jpeg")
    ),
    "inspect": Source("pkd_utils.cohorts.inspect.studies:load", ("*.csv", "*.tsv", "CTPA/*", "radiographs/*")),
}  # fmt: skip

__all__ = ["SOURCES", "Cohort", "CohortInfo", "Funnel", "load_cohort"]


def load_cohort(name: str, root: str | Path, **options) -> Cohort:
    """Read a data source and check it.

    Parameters
    ----------
    name : str
        One of `SOURCES`.
    root : str or Path
        Folder that holds the source in its published layout; a relative path starts at the project root.
    **options
        The keyword arguments of the source's own `load` function, e.g. `load_cohort("mimic_cxr", root,
        uncertain="zero")`; see `pkd_utils.cohorts.mimic_cxr.load` and its neighbours. They are checked against its
        annotations; those that end in `_root` are paths like `root`.

    Returns
    -------
    Cohort
        Tables that passed `checks.check_cohort`; what breaks the contract is a DataError of one sentence.
    """
    if name not in SOURCES:
        raise DataError(f"There is no cohort named {name!r}; choose one of {', '.join(SOURCES)}.")
    module, function = SOURCES[name].load.split(":")
    load = checked(getattr(import_module(module), function), label=name)
    for key, value in options.items():
        if isinstance(value, list | tuple) and len(set(map(repr, value))) < len(value):
            raise DataError(f"{name}: {key} = {value!r}: a value stands twice.")
        # MIMIC comes in several downloads: their roots are parameters too, relative to the project like the first.
        if key.endswith("_root") and value and isinstance(value, str | Path):
            options[key] = resolve(value)
    cohort = load(resolve(root), **options)
    check_cohort(cohort)
    return cohort
