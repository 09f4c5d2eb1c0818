"""`check_cohort` holds every loader, ours or a user's, to the contract of `table.Cohort`: one sentence a breach."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pkd_utils.cohorts.checks import check_cohort
from pkd_utils.cohorts.table import Cohort, CohortInfo, Funnel, empty_boxes
from pkd_utils.runs.errors import DataError
from tests.cohorts.fixtures import write_image

BOX = {"image_id": "i1", "label": "mass", "x0": 2.0, "y0": 3.0, "x1": 10.0, "y1": 12.0}


def cohort(root: Path = Path("."), **changes) -> Cohort:
    """Four images of three patients without image files; `changes` replace columns of `images` or attributes."""
    images = pd.DataFrame({"image_id": ["i1", "i2", "i3", "i4"], "patient_id": ["p1", "p1", "p2", "p3"]})
    images = images.assign(study_id=["s1", "s1", "s2", "s3"], path=np.nan)
    images = images.assign(split=["train", "train", "validate", "test"], view=np.nan, mass=[1.0, 0.0, np.nan, 1.0])
    images = images.assign(**{name: value for name, value in changes.items() if name in images})
    funnel = Funnel()
    funnel.step("all", images)
    made = Cohort(
        info=CohortInfo("made", "Made up", "none", "none"),
        root=root,
        labels=["mass"],
        images=images,
        boxes=empty_boxes(),
        funnel=funnel.table(),
        privileged_source=texts(["s1", "s2", "s3"]),
    )
    return replace(made, **{name: value for name, value in changes.items() if name not in images})


def texts(studies, name="study_id") -> pd.DataFrame:
    return pd.DataFrame({"text": "Made up."}, index=pd.Index(studies, name=name))


def boxes(**changes) -> pd.DataFrame:
    return pd.DataFrame([BOX | changes])


def info(*splits) -> CohortInfo:
    return CohortInfo("made", "Made up", "none", "none", splits=splits)


def test_a_sound_cohort_passes(tmp_path):
    check_cohort(cohort())
    check_cohort(cohort(split=np.nan, info=info()))
    check_cohort(cohort(split=["train", "train", "test", "test"], info=info("train", "test")))
    check_cohort(cohort(split=["train", np.nan, "validate", "test"]))  # an image that takes part in no split
    check_cohort(cohort(boxes=boxes()))  # no picture, so no size to compare with
    features = pd.DataFrame({"depth": [1.0, np.nan]}, index=pd.Index(["i1", "i4"], name="image_id"))
    check_cohort(cohort(privileged_source=features))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["mass", "cyst"]}, "the table images has no column cyst"),
        ({"boxes": boxes().drop(columns="x1")}, "the table boxes has no column x1"),
        ({"funnel": pd.DataFrame({"step": []})}, "the table funnel has no column rows, patients, paper, note"),
        ({"image_id": [1, 2, 3, 4]}, "image_id holds int64, not text; read identifiers as strings"),
        ({"patient_id": [1.0, 1.0, 2.0, 3.0]}, "patient_id holds float64, not text"),
        ({"study_id": ["s1", 2, "s2", "s3"]}, "study_id holds object, not text"),
        ({"study_id": ["s1", None, "s2", "s3"]}, "image 'i2' has no study_id"),
        ({"patient_id": ["p1", " ", "p2", "p3"]}, r"1 row\(s\) have no patient id, the first is image 'i2'"),
        ({"image_id": ["i1", "i1", "i3", "i4"]}, "image_id 'i1' occurs more than once"),
        ({"path": ["a.png", np.nan, "b.png", "c.png"]}, "image 'i2' has no path while others have one"),
        ({"view": [1, 2, 3, 4]}, "view holds int64, not text"),
        ({"split": ["train", "train", "val", "test"]}, "split 'val' is not one of train, validate, test; rename it"),
        ({"split": ["train", "train", "train", "test"]}, "no image is in split validate; relax"),
        ({"split": np.nan}, "no image is in split train"),
        ({"info": info()}, "split 'test' is not one of none, as info.splits says"),
        ({"info": info("train", "validate", "test", "extra")}, "split 'extra' is not one of"),
        ({"split": ["train", "test", "validate", "test"]}, "patient 'p1' is in splits test and train"),
        ({"mass": [1, 0, 1, 0]}, "label 'mass' must be a float column of 1, 0 and NaN .*not int64"),
        ({"mass": [1.0, 0.0, -1.0, 0.0]}, "label 'mass' must be a float column of 1, 0 and NaN"),
        ({"privileged_source": texts(["s1"], name=None)}, "the privileged table's index is named None; name it"),
        ({"privileged_source": texts([1, 2, 3])}, "the privileged table must have one row a study_id"),
        ({"privileged_source": texts(["s1", "s1"])}, "the privileged table must have one row a study_id"),
        ({"privileged_source": texts(["s1", "s02"])}, r"1 of 2 privileged rows belong to no image.*study_id 's02'"),
        ({"privileged_source": texts(["s1"]).add_prefix("a ")}, "privileged column 'a text' holds .*; give floats, or"),
        ({"boxes": boxes(x0="2")}, "column x0 of the boxes holds"),
        ({"boxes": boxes(image_id=1)}, "column image_id of the boxes holds int64"),
        ({"boxes": boxes(x1=2.0)}, "a box of image 'i1' has no area or is not a number"),
        ({"boxes": boxes(y1=np.inf)}, "a box of image 'i1' has no area or is not a number"),
        ({"boxes": boxes(image_id="i9")}, "a box names image 'i9', which is not in the images"),
    ],
)
def test_each_breach_is_one_sentence(changes, message):
    with pytest.raises(DataError, match=rf"^made: {message}") as error:
        check_cohort(cohort(**changes))
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_nothing_left_and_privileged_tables_that_are_read_late():
    empty = cohort()
    with pytest.raises(DataError, match="no image is left after the filters"):
        check_cohort(replace(empty, images=empty.images[:0]))
    late = cohort(privileged_source=lambda images: texts(["s7"]))
    check_cohort(late)
    with pytest.raises(DataError, match="1 of 1 privileged rows belong to no image"):
        _ = late.privileged


@pytest.mark.parametrize(
    ("box", "inside"), [({}, True), ({"x1": 40.9}, True), ({"y1": 34.0}, False), ({"x0": -2.0}, False)]
)
def test_boxes_lie_in_their_pictures(tmp_path, box, inside):
    names = ["i1.png", "i2.png", "i3.png", "i4.png"]
    for name in names:
        write_image(tmp_path / name)  # 40 x 32
    boxed = cohort(tmp_path, path=names, boxes=boxes(**box))
    if inside:
        check_cohort(boxed)
    else:
        with pytest.raises(DataError, match=r"box 'mass' of image 'i1' \(x0 .*\) lies outside its image of 40x32"):
            check_cohort(boxed)
