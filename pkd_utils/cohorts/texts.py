"""The privileged text of a cohort made poorer: from a report that gives the label away to one that says nothing.

The task, its images and its splits stay the same, so that what changes a student is what its teacher could read.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.label_terms import Mode, remove_label_terms
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.seeds import stream

Variant = Literal[
    "whole", "names_removed", "synonyms_removed", "sentences_removed", "sides_removed", "indication", "other_patient"
]
_MODES: dict[str, Mode] = dict(zip(get_args(Variant)[1:4], get_args(Mode), strict=True))


@checked
def text_variant(
    privileged: pd.DataFrame,
    variant: Variant,
    labels: Sequence[str] = (),
    patients: pd.Series | None = None,
    within: pd.Series | None = None,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> pd.Series:
    """The text of each report under a variant.

    Parameters
    ----------
    privileged : DataFrame
        A cohort's table: column `text`, and for `indication` column `context` (as the loader `openi` gives it).
    variant : str
        - `whole`: as it is.
        - `names_removed`, `synonyms_removed`, `sentences_removed`: without the labels' names; without synonyms and
          abbreviations either; without every sentence that has one. See `label_terms.remove_label_terms`.
        - `sides_removed`: without words for left, right and both sides, and for parts that are on one side alone.
        - `indication`: indication and comparison only, written before the film was read; "" where there are none.
        - `other_patient`: another patient's report. Every report goes to exactly one other place, so the texts as a
          whole stay the same, and nobody gets one of their own.
    labels : sequence of str
        Keys of `label_terms.LABEL_TERMS`, for what is removed.
    patients, within : Series, optional
        For `other_patient`, indexed as `privileged`: the patient of each report (its own index where there is none),
        and the part of the split inside which reports are exchanged (all together where there is none).
    seed : int
        Of the exchange.

    Returns
    -------
    Series of str, named `text`, indexed as `privileged`.

    Raises
    ------
    DataError
        No column `context`; labels without listed terms; or a part in which one patient has more than half of the
        reports, so that not everybody can get another's.
    """
    text = privileged["text"]
    if variant in _MODES:
        return text.map(lambda words: remove_label_terms(words, labels, mode=_MODES[variant]))
    if variant == "sides_removed":
        return text.map(lambda words: remove_label_terms(words, ["side"]))
    if variant == "indication":
        if "context" not in privileged:
            raise DataError("The reports have no column context (indication and comparison); load Open-i's.")
        return privileged["context"].rename("text")
    if variant == "other_patient":
        index = privileged.index
        patients = index.to_series() if patients is None else patients.loc[index]
        within = pd.Series("all reports", index) if within is None else within.loc[index]
        return pd.Series(text.to_numpy()[_others(patients.to_numpy(), within, seed)], index, name="text")
    return text


def _others(patients: np.ndarray, within: pd.Series, seed: int) -> np.ndarray:
    """Position of the report that each one (N,) gets: a permutation inside each part, never within a patient.

    In a random order of patients, each with all their reports side by side, everyone takes the report that stands as
    many places on as the largest patient has reports.
    """
    rng, source = np.random.default_rng(stream(seed)), np.empty(len(patients), dtype=np.int64)
    for part, rows in sorted(within.reset_index(drop=True).groupby(within.to_numpy()).groups.items()):
        rows = rng.permutation(rows)
        counts = pd.Series(patients[rows]).value_counts(sort=False)  # in the order of appearance, which is random
        rows = rows[np.argsort(counts.index.get_indexer(patients[rows]), kind="stable")]
        most = counts.max()
        if 2 * most > len(rows):
            raise DataError(
                f"Part {part!r} has {len(rows)} report(s), {most} of one patient, so not everybody can get another's; "
                "exchange reports inside larger parts, for example of a split that holds out the same for all seeds."
            )
        source[rows] = np.roll(rows, -most)
    return source


def same_parts(splits: pd.DataFrame, study_of: pd.Series) -> pd.Series:
    """What `within` of `text_variant` is for several splits at once: reports of one value share their part in each.

    Parameters
    ----------
    splits : DataFrame
        `task, seed, image_id, part`, of `tasks.splits.split_seeds`.
    study_of : Series
        The report's key of each image, indexed by `image_id`.

    Returns
    -------
    Series of str, indexed by the report's key, such as "train/evaluate".

    Raises
    ------
    DataError
        A report has a part in one task and none in another: whether it has tells of its labels, and so would the texts
        that change places among such reports.
    """
    parts = splits.pivot(index="image_id", columns=["task", "seed"], values="part").fillna("-")
    # "-" sorts before the parts' names, so a study is where any of its images is.
    parts = parts.groupby(study_of.loc[parts.index]).max()
    if (absent := (parts == "-").any()).any():
        task, seed = absent.index[absent.to_numpy().argmax()]
        raise DataError(
            f"{int((parts[task, seed] == '-').sum())} reports of other tasks have no part in {task} (seed {seed}), "
            "which tells of their labels: prepare and encode each task alone to exchange its reports."
        )
    return parts.agg("/".join, axis=1)
