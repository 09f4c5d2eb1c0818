"""The real BI-RADS table behind the simulated mammograms: 830 masses with descriptors, age and proven severity.

Mammographic Mass of the UCI repository (Elter, Schulz-Wendtland and Wittenberg 2007: 961 masses, full-field digital
mammograms, Erlangen 2003 to 2006), in the version of KEEL without the 131 rows that lack a value.
"""

from pathlib import Path

import pandas as pd

from pkd_utils.runs import assets

ROWS = 830
SHAPES = {1: "ROUND", 2: "OVAL", 3: "LOBULATED", 4: "IRREGULAR"}  # UCI's "lobular" is CBIS-DDSM's LOBULATED
MARGINS = {1: "CIRCUMSCRIBED", 2: "MICROLOBULATED", 3: "OBSCURED", 4: "ILL_DEFINED", 5: "SPICULATED"}
# The documentation knows assessments 1 to 5, the file also holds 0 (incomplete, which CBIS-DDSM has too), 6 (known
# cancer; 2 of its 9 rows are benign) and once 55, a slip of the key. CBIS-DDSM's tables have 0 to 5.
ASSESSMENTS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 5, 55: 5}


def table_file() -> Path:
    """The fetched table; raises FileNotFoundError with the command that fetches it."""
    return assets.path("birads_table") / "mammographic.dat"


def read() -> pd.DataFrame:
    """Read the table, in KEEL's format, and add CBIS-DDSM's words; `assets` vouches for the file by its hash.

    Returns
    -------
    DataFrame
        Index `row`, 1 for the first data row. Integers as in the file: `birads`, `age` (years), `shape_code`,
        `margin_code`, `mass_density` (1 high, 2 iso, 3 low, 4 fat-containing), `severity` (1 malignant); and `shape`,
        `margin` (words), `assessment` (0 to 5: 6 and 55 become 5).
    """
    names = ["birads", "age", "shape_code", "margin_code", "mass_density", "severity"]
    table = pd.read_csv(table_file(), comment="@", header=None, names=names)
    table.index = pd.RangeIndex(1, len(table) + 1, name="row")
    words = {"shape": table["shape_code"].map(SHAPES), "margin": table["margin_code"].map(MARGINS)}
    return table.assign(**words, assessment=table["birads"].map(ASSESSMENTS))
