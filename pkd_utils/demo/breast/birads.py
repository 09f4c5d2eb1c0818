"""The real BI-RADS table behind the simulated mammograms: 830 masses with descriptors, age and proven severity.

Mammographic Mass of the UCI repository (Elter, Schulz-Wendtland and Wittenberg 2007: 961 masses, full-field digital
mammograms, Erlangen 2003 to 2006), in the version of KEEL without the 131 rows that lack a value.
"""

from pathlib import Path

import pandas as pd

from pkd_utils.runs import assets
from pkd_utils.runs.errors import DataError

ROWS = 830
COLUMNS = ("BI-RADS", "Age", "Shape", "Margin", "Density", "Severity")  # as the file's own header names them
SHAPES = {1: "ROUND", 2: "OVAL", 3: "LOBULATED", 4: "IRREGULAR"}  # UCI's "lobular" is CBIS-DDSM's LOBULATED
MARGINS = {1: "CIRCUMSCRIBED", 2: "MICROLOBULATED", 3: "OBSCURED", 4: "ILL_DEFINED", 5: "SPICULATED"}
MASS_DENSITIES = {1: "high", 2: "iso", 3: "low", 4: "fat-containing"}  # of the mass, not of the breast
# The documentation knows assessments 1 to 5, the file also holds 0 (incomplete, which CBIS-DDSM has too), 6 (known
# cancer; 2 of its 9 rows are benign) and once 55, a slip of the key. CBIS-DDSM's tables have 0 to 5.
ASSESSMENTS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 5, 55: 5}
_CODES = {
    "BI-RADS": ASSESSMENTS,
    "Age": range(15, 111),
    "Shape": SHAPES,
    "Margin": MARGINS,
    "Density": MASS_DENSITIES,
    "Severity": {0: "benign", 1: "malignant"},
}


def table_file() -> Path:
    """The fetched table; raises FileNotFoundError with the command that fetches it."""
    return assets.path("birads_table") / "mammographic.dat"


def read(file: Path | None = None) -> pd.DataFrame:
    """Read the table in KEEL's format, check every code, and add CBIS-DDSM's words.

    Returns
    -------
    DataFrame
        Index `row`, 1 for the first data row. Integers as in the file: `birads`, `age` (years), `shape_code`,
        `margin_code`, `mass_density`, `severity` (1 malignant); and `shape`, `margin` (words), `assessment` (0 to 5:
        6 and 55 become 5).

    Raises
    ------
    DataError
        The header names other columns, a value is missing or not a whole number, or a code or age is unknown.
    """
    file = file or table_file()
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    header = [line for line in lines if line.startswith("@")]
    # KEEL names an attribute as `@attribute BI-RADS integer [0,55]`.
    names = [line.split()[1].split("{")[0] for line in header if line.lower().startswith("@attribute")]
    if names != list(COLUMNS):
        raise DataError(f"{file.name} has the columns {', '.join(names)}, expected {', '.join(COLUMNS)}.")
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if not line.startswith("@")]
    for row, cells in enumerate(rows, 1):
        if len(cells) != len(COLUMNS):
            raise DataError(f"{file.name}: data row {row} has {len(cells)} values, expected {len(COLUMNS)}.")
    table = pd.DataFrame(rows, columns=COLUMNS, index=pd.RangeIndex(1, len(rows) + 1, name="row"))
    for column, codes in _CODES.items():
        wrong = ~table[column].isin([str(code) for code in codes])
        if wrong.any():
            row, known = wrong.idxmax(), f"one of {', '.join(map(str, codes))}"
            known = "between 15 and 110" if column == "Age" else known
            raise DataError(
                f"{file.name}: data row {row} has {column} = {table.at[row, column]}; it must be {known}. "
                "Use the version without missing values, or remove the row."
            )
    table = table.astype(int)
    table.columns = ["birads", "age", "shape_code", "margin_code", "mass_density", "severity"]
    table["shape"] = table["shape_code"].map(SHAPES)
    table["margin"] = table["margin_code"].map(MARGINS)
    table["assessment"] = table["birads"].map(ASSESSMENTS)
    return table
