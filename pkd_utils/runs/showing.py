"""What a run may show and publish: what its cohort permits, counts that are too small, and figures.

What is not said is not allowed. `workflow.publish.gate` asks the same of every executed notebook once more.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

PERMISSIONS = ("simulated", "shareable_text", "shareable_images")
IDENTIFIERS = {"image_id", "study_id", "patient_id", "subject_id", "dicom_id"}
"""Columns that make a table one of patients' rows, not of results."""
SMALL, HIDDEN = 10, "hidden"
COUNTED = {"images", "patients", "studies", "reports", "rows", "cases", "lesions", "volumes", "boxes", "known"}
COUNTED |= {"positive", "positives", "negative", "truncated", "empty", "unlabelled"}
"""Words in the names of columns that count people or what belongs to them; so do columns named by a split alone."""
SPLITS = {"train", "validate", "test", "evaluate", "available"}


def permitted(cohort: dict[str, Any] | None) -> dict[str, bool]:
    """What the facts of a cohort permit: `credentialed`, and `PERMISSIONS`, none of them where it is credentialed.

    A cohort that says nothing at all is held to be credentialed.
    """
    said = {name: (cohort or {}).get(name) is True for name in PERMISSIONS}
    credentialed = (cohort or {}).get("credentialed", not any(said.values())) is not False
    return {"credentialed": credentialed} | {name: value and not credentialed for name, value in said.items()}


def joint_cohort(cohorts: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Facts of several cohorts, `cohort` of each `run.json`, shown together: what every one of them permits.

    Names, titles, licences and citations are joined; credentialed is what any is, simulated what all are.
    """
    parts = [cohort or {} for cohort in cohorts]
    joined = {
        key: "; ".join(dict.fromkeys(str(part[key]) for part in parts if part.get(key)))
        for key in ("name", "title", "licence", "citation")
    }
    allowed = [permitted(part) for part in parts]
    joined["credentialed"] = any(one["credentialed"] for one in allowed)
    return joined | {key: bool(parts) and all(one[key] for one in allowed) for key in PERMISSIONS}


def is_count(name: Any) -> bool:
    """Whether a column of this name counts people or what belongs to them."""
    words = set(re.findall("[a-z]+", str(name).lower()))
    return bool(COUNTED & words or (words and words <= SPLITS))


def _to_hide(values: "np.ndarray", of: "np.ndarray | None", steps: bool) -> "np.ndarray":
    """Which counts of one column tell of fewer than `SMALL`, themselves or by a difference to what is shown."""
    import numpy as np

    hide = (values > 0) & (values < SMALL)
    if of is not None:
        return hide | ((of - values > 0) & (of - values < SMALL))
    if steps:
        seen: list[float] = []
        for row, value in enumerate(values):
            hide[row] |= any(0 < abs(value - other) < SMALL for other in seen)
            seen += [] if hide[row] else [value]
        return hide
    # The whole is known: what is hidden must stay at least two, and large.
    for row in np.argsort(values, kind="stable"):
        if hide.any() and (hide.sum() < 2 or values[hide].sum() < SMALL) and values[row] > 0:
            hide[row] = True
    return hide


def without_small_counts(
    table: "pd.DataFrame",
    columns: Sequence[Any] = (),
    *,
    by: Sequence[str] = (),
    of: Any = None,
    steps: bool = False,
    derived: Sequence[str] = (),
) -> "pd.DataFrame":
    """A table for people to read, with `HIDDEN` in place of counts below `SMALL` and of those that would tell them.

    Parameters
    ----------
    columns : list, optional
        Columns of counts; by default those that `is_count` knows by their names.
    by : list of str
        Columns or index levels within which the rows are the parts of a whole: where one count is hidden, the next
        larger ones are too, until the whole tells no small count.
    of : number or column, optional
        Instead, what every single count is a part of: the rest is a count as well.
    steps : bool
        Instead, rows are the steps of a funnel, and a small difference to any step above is a count as well.
    derived : list of str
        Columns computed from the counts, hidden wherever a count of the row is.
    """
    import numpy as np

    whole = table.select_dtypes("number").apply(lambda values: bool((values.dropna() % 1 == 0).all()))
    names = list(columns) or [name for name in whole.index[whole.astype(bool)] if is_count(name)]
    keys = [table[key] if key in table else table.index.get_level_values(key) for key in by]
    group = table.groupby(keys, sort=False).ngroup().to_numpy() if keys else np.zeros(len(table), int)
    hidden = np.zeros((len(table), len(names)), dtype=bool)
    for part in np.unique(group):
        for at, name in enumerate(names):
            whole = None if of is None else np.broadcast_to(table.get(of, of), len(table))[group == part]
            values = table[name].to_numpy(float)[group == part]
            hidden[group == part, at] = _to_hide(values, whole, steps)
    shown = table.copy()
    for name, hide in [*zip(names, hidden.T, strict=True), *((name, hidden.any(axis=1)) for name in derived)]:
        if hide.any():
            shown[name] = [HIDDEN if gone else value for gone, value in zip(hide, table[name], strict=True)]
    return shown


def display_figure(figure: "Figure", file: Path) -> dict[str, Any]:
    """Display a figure as a PNG and keep it as `file` with .png and .pdf, unless these are there.

    Returns the PNG's SHA-256 and the texts in it, by which the gate knows it again.
    """
    from IPython.core.pylabtools import print_figure
    from IPython.display import display
    from matplotlib.text import Text
    from PIL import Image

    png = print_figure(figure, "png", bbox_inches="tight")
    if png is None:  # an empty figure
        return {}
    without_alpha = io.BytesIO()  # an eighth smaller; the ground is white
    Image.open(io.BytesIO(png)).convert("RGB").save(without_alpha, "png", optimize=True)
    png = without_alpha.getvalue()
    display({"image/png": png, "text/plain": repr(figure)}, raw=True)
    if not file.with_suffix(".pdf").exists():
        file.parent.mkdir(exist_ok=True)
        pdf = print_figure(figure, "pdf", bbox_inches="tight", metadata={"CreationDate": None})
        for kind, content in {".png": png, ".pdf": pdf}.items():
            with files.atomic_path(file.with_suffix(kind)) as temporary:
                temporary.write_bytes(content)
    texts = sorted({text.get_text() for text in figure.findobj(Text) if text.get_text()})
    return {"sha256": hashlib.sha256(png).hexdigest(), "texts": texts}


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

    DataError if the table has a row an image or a patient, and `rows_allowed` is false.
    """
    if table.columns.nlevels > 1:
        table = table.set_axis(["_".join(column) for column in table.columns], axis=1).reset_index()
    found = sorted(IDENTIFIERS & {*table.columns, *table.index.names})
    if found and not rows_allowed:
        raise DataError(
            f"The table {name!r} holds {', '.join(found)}: publish means and counts, no row of any patient."
        )
    return table.to_dict("records")
