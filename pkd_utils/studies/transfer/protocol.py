"""The protocol of the experiment: a committed file that says everything before anything is computed."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pkd_utils.runs import strict_yaml
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256
from pkd_utils.statistics.intervals import Count, Level

Share = Annotated[float, Field(ge=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, le=1)]
Least2 = Annotated[int, Field(ge=2)]


@config
class Setting:
    """One row of the experiment: what is trained on what."""

    image: str  # key of `Data.images`
    text: str  # key of `Data.texts`; "another patient's": the whole text of a study drawn at random
    outcomes: tuple[str, ...]  # keys of `Data.outcomes` or of `Data.states`
    size: Least2  # training studies
    flips: Share = 0.0  # share of the training and validation labels that are flipped
    kind: Literal["random", "image"] = "random"  # which: at random, or more of those on one side of the image space


@config
class Protocol:
    """What a protocol file fixes; its other entries are prose."""

    settings: dict[str, Setting]
    primary: str  # the setting whose mean over outcomes is the primary endpoint
    folds: Annotated[int, Field(ge=3)]  # outer folds, by patient: one tests, the next one validates, the rest trains
    partitions: Least2  # cuts into folds, each with its own subsets, flips and permutations
    teacher_folds: Least2  # of the cross-fitting within the training studies
    components: Count  # principal components of each view's training features
    l2: tuple[Positive, ...]  # penalties, of heads and of teachers
    weights: tuple[Weight, ...]  # lambda
    temperatures: tuple[Positive, ...]  # T
    tolerance: Positive  # norm of the gradient at which a head is done
    margin: Positive  # AUROC; a gain below it is not useful
    level: Level  # of two-sided intervals
    power: Level  # at which a detectable effect is stated
    resamples: Count  # of the crossed bootstrap
    slope: Positive  # of the semi-synthetic outcome's log-odds
    seed: Annotated[int, Field(ge=0)]  # of every draw


def read(path: str | Path) -> tuple[Protocol, dict[str, Any], str]:
    """A protocol file: what it fixes, all that it says, and its SHA-256.

    `base` holds what all settings share, `settings` what differs in each; `fixed` the rest of `Protocol`.
    """
    said = strict_yaml.read(path)
    missing = [name for name in ("base", "settings", "primary", "fixed") if name not in said]
    if missing:
        raise DataError(f"{path}: a protocol needs {', '.join(missing)}; see the protocols in book/protocols/.")
    settings = {name: Setting(**{**said["base"], **(changes or {})}) for name, changes in said["settings"].items()}
    protocol = Protocol(settings=settings, primary=said["primary"], **said["fixed"])
    if protocol.primary not in settings:
        raise DataError(f"{path}: the primary setting {protocol.primary!r} is none of {', '.join(settings)}.")
    if 0 not in protocol.weights:
        raise DataError(f"{path}: weights need 0, so that no arm is made to follow its soft labels.")
    return protocol, said, file_sha256(path)
