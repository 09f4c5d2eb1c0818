"""An example of a data source: `table.csv` (image_id, patient, set, cyst as yes or no, depth) and `<image_id>.png`."""

from pathlib import Path
from typing import Literal

import pandas as pd

from pkd_utils.cohorts import Cohort, CohortInfo, Funnel
from pkd_utils.cohorts.checks import read_csv
from pkd_utils.cohorts.table import empty_boxes

WHERE = "https://example.org/ultrasound"
INFO = CohortInfo("ultrasound", "Example ultrasound", licence="CC BY 4.0", citation="nobody", shareable_images=True)


def load(root: Path, unclear: Literal["unknown", "negative"] = "unknown") -> Cohort:
    """Read the table; `unclear` says what an empty label becomes."""
    table = read_csv(root / "table.csv", ["image_id", "patient", "set", "cyst", "depth"], WHERE)  # all fields as text
    funnel = Funnel()
    table = table.rename(columns={"patient": "patient_id"})
    funnel.step("rows of table.csv", table)
    table = table[[(root / f"{name}.png").is_file() for name in table["image_id"]]].reset_index(drop=True)
    funnel.step("with a picture", table)
    images = table[["image_id", "patient_id"]].assign(study_id=table["image_id"], path=table["image_id"] + ".png")
    images["split"] = table["set"].map({"training": "train", "validation": "validate", "test": "test"})
    images["view"] = "ultrasound"
    cyst = table["cyst"].map({"yes": 1.0, "no": 0.0}).astype("float64")
    images["cyst"] = cyst.fillna(0.0) if unclear == "negative" else cyst
    return Cohort(
        info=INFO,
        root=root,
        labels=["cyst"],
        images=images,
        boxes=empty_boxes(),
        funnel=funnel.table(),
        privileged_source=pd.DataFrame({"depth": table["depth"].astype(float)}).set_index(table["image_id"]),
        tables=[root / "table.csv"],
    )
