"""What a run may show and publish: what its cohort permits, and the stamp on figures of simulated data.

What is not said is not allowed. `workflow.publish.gate` asks the same of every executed notebook once more.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pkd_utils.runs.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PERMISSIONS = ("simulated", "shareable_text", "shareable_images")
IDENTIFIERS = {"image_id", "study_id", "patient_id", "subject_id", "dicom_id"}
"""Columns that make a table one of patients' rows, not of results."""


def joint_cohort(cohorts: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Facts of several cohorts shown together: they may show what every one of them permits.

    Parameters
    ----------
    cohorts : `cohort` of each run's `run.json`

    Returns
    -------
    dict: name, title, licence, citation (joined), simulated (all are), shareable_text, shareable_images (all permit)
    """
    parts = [cohort or {} for cohort in cohorts]
    joined = {
        key: "; ".join(dict.fromkeys(str(part[key]) for part in parts if part.get(key)))
        for key in ("name", "title", "licence", "citation")
    }
    return joined | {key: bool(parts) and all(part.get(key) is True for part in parts) for key in PERMISSIONS}


def simulated_mark(figure: "Figure") -> "Figure":
    """Stamp "simulated data" on a figure; every figure of simulated data carries it."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = figure.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):  # keep a strip free, so that the stamp hides no title
        layout.set(rect=(0, 0, 1, 1 - 0.22 / figure.get_figheight()))
    box = {"facecolor": "white", "edgecolor": "0.6", "linewidth": 0.6, "pad": 2}
    place = {"x": 0.99, "y": 1 - 0.06 / figure.get_figheight(), "ha": "right", "va": "top"}
    figure.text(**place, s="simulated data", fontsize=8.5, color="0.25", style="italic", bbox=box)
    return figure


def holds_pixels(figure: "Figure") -> bool:
    """Whether a figure draws an array as a picture, which could be a patient's."""
    from matplotlib.collections import QuadMesh
    from matplotlib.image import AxesImage, BboxImage, FigureImage

    kinds = (AxesImage, BboxImage, FigureImage, QuadMesh)
    return bool(figure.findobj(lambda artist: isinstance(artist, kinds)))


def records(name: str, table: "pd.DataFrame", rows_allowed: bool) -> list[dict[str, Any]]:
    """A table of results as JSON rows; two levels of columns become `auroc_mean`, and the index a column.

    Raises
    ------
    DataError
        If the table has a row an image or a patient, and `rows_allowed` is false.
    """
    if table.columns.nlevels > 1:
        table = table.set_axis(["_".join(column) for column in table.columns], axis=1).reset_index()
    found = sorted(IDENTIFIERS & {*table.columns, *table.index.names})
    if found and not rows_allowed:
        raise DataError(
            f"The table {name!r} holds {', '.join(found)}: publish means and counts, no row of any patient."
        )
    return table.to_dict("records")
