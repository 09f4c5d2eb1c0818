"""Options and arguments checked by their types say what is wrong in one sentence."""

from dataclasses import FrozenInstanceError, asdict, replace
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field

from pkd_utils.runs.checked import checked, config
from pkd_utils.runs.errors import DataError


@config
class Options:
    epochs: int = Field(20, ge=1)
    rule: Literal["mean", "max"] = "mean"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5


@checked
def scale(values: np.ndarray, by: Annotated[float, Field(gt=0)] = 1.0) -> np.ndarray:
    """Multiply."""
    return values * by


def test_defaults_and_values_that_are_allowed():
    assert asdict(Options(share=1)) == {"epochs": 20, "rule": "mean", "share": 1.0}
    assert replace(Options(), rule="max").rule == "max" and hash(Options()) == hash(Options())
    assert scale(np.arange(3), by=2).tolist() == [0, 2, 4] and scale.__doc__ == "Multiply."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 0}, r"^Options: epochs = 0: input should be greater than or equal to 1\.$"),
        ({"epochs": "many"}, r"^Options: epochs = 'many': input should be a valid integer"),
        ({"epochs": 1.5}, r"^Options: epochs = 1.5: "),
        ({"rule": "median"}, r"^Options: rule = 'median': input should be 'mean' or 'max'\.$"),
        ({"share": float("nan")}, r"^Options: share = nan: "),
        ({"epoch": 3}, r"^Options: epoch = 3: unexpected keyword argument\.$"),
    ],
)
def test_a_wrong_option_is_one_sentence(given, words):
    with pytest.raises(DataError, match=words):
        Options(**given)


def test_a_wrong_argument_is_one_sentence_and_options_are_frozen():
    with pytest.raises(DataError, match=r"^scale: by = 0: input should be greater than 0\.$"):
        scale(np.ones(2), by=0)
    with pytest.raises(DataError, match=r"^scale: by = 0: input should be greater than 0\.$"):
        scale(np.ones(2), 0)  # given by position, named all the same
    with pytest.raises(DataError, match=r"^scale: values: missing required argument\.$"):
        scale()
    with pytest.raises(FrozenInstanceError):
        Options().epochs = 3


def test_a_label_names_the_options():
    with pytest.raises(DataError, match=r"^Scaling has no option 'times'; it has by\.$"):
        checked(scale, label="Scaling")(np.ones(2), times=3)
