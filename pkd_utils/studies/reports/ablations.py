"""The paper's ablations (appendix C, Figures 15 to 20), and lambda of equation (2): gains of heads along one setting.

Each difference is paired within seeds, as in `claims.compare_methods`: a seed draws patients and trainings at once, and
the variance is Nadeau and Bengio's. Beside the gain of a student stand that of self-distillation with the same setting,
and what the report's student has beyond it; the paper's figures show the first alone.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from pkd_utils.distillation.heads.modules import PROBES
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.comparisons import holm, paired_seeds
from pkd_utils.statistics.power import detectable_differences
from pkd_utils.studies.reports.claims import POWER
from pkd_utils.studies.reports.contrasts import METHOD_NAMES, Scores
from pkd_utils.studies.reports.figures import READINGS

PAIRS = (("self_distilled", "image_only"), ("report_distilled", "image_only"), ("report_distilled", "self_distilled"))


class Axis(NamedTuple):
    """What one ablation varies."""

    title: str
    where: str  # in the paper
    needs: str


AXES = {
    "method": Axis("head", "Figures 15 and 16", "a run of 03-train-teachers with mean_probe or cls_probe"),
    "temperature": Axis("temperature τ", "Figures 17 and 18", "a run of 04-distil-students with several temperatures"),
    "reader": Axis("text encoder", "Figures 19 and 20", "runs of 04-distil-students of several text encoders"),
    "weight": Axis("weight λ", "equation (2)", "a run of 04-distil-students with several weights"),
}
"""The ablations, by the column of `heads.read_scores` that varies."""


class Held(NamedTuple):
    """Settings that stay where they are while another varies; the text encoder stays the first run's."""

    weight: float
    temperature: float
    temperatures_of: dict[str, float]  # of single tasks


def held_rows(scores: Scores, axis: str, held: Held) -> pd.DataFrame:
    """The image-only heads, and those that an ablation holds against them: probes, or students alike in all but it."""
    rows = scores.rows
    plain = rows["method"] == "image_only"
    if axis == "method":
        return rows[plain | rows["method"].isin(PROBES)]
    reader = next(iter(rows.loc[rows["method"] == "report_distilled", "reader"]), "")
    tau = rows["task"].map(held.temperatures_of).fillna(held.temperature)
    at = {"weight": rows["weight"] == held.weight, "temperature": rows["temperature"] == tau,
          "reader": rows["reader"].isin((reader, ""))}  # fmt: skip
    alike = np.logical_and.reduce([same for name, same in at.items() if name != axis])
    return rows[plain | (rows["method"].isin(("self_distilled", "report_distilled")) & alike)]


def compare(scores: Scores, held: Held, level: float = 0.95) -> pd.DataFrame:
    """Gains along every setting, by task, encoder and size, where it varies.

    Parameters
    ----------
    scores : of `heads.read_scores` with the axes weight, temperature and reader
    held : where the others stay while one varies
    level : of the intervals

    Returns
    -------
    DataFrame
        axis, column (of `figures.READINGS`; one that no head has is left out), task, encoder, size, value (of the
        setting), method, against, what (both in words), auc (mean of the method), the fields of `PairedSeeds`, p_holm
        (of p_corrected, over all differences of one axis, column and task), told: the size that a difference must have
        to be told with a power of `claims.POWER` where those share the level, NaN if more than there can be.

    Raises
    ------
    DataError
        If nothing varies.
    """
    rows = []
    for axis, column in itertools.product(AXES, READINGS):
        known = held_rows(scores, axis, held).dropna(subset=column)
        for (task, encoder, size), group in known.groupby(["task", "encoder", "size"], sort=False):
            where = {"axis": axis, "column": column, "task": task, "encoder": encoder, "size": size}
            for value, (method, against), one, other in _pairs(group, axis, column):
                both = pd.concat([one, other], axis=1, keys=["one", "other"]).dropna()
                if len(both) > 1:
                    pair = paired_seeds(both["other"], both["one"], scores.shares[task], level)
                    words = ("probe", "attention head") if axis == "method" else (
                        METHOD_NAMES[method], METHOD_NAMES[against])  # fmt: skip
                    names = dict(zip(("what", "against"), words, strict=True))
                    rows.append(where | {"value": value, "method": method, **names, "auc": both["one"].mean()}
                                | vars(pair))  # fmt: skip
    table = pd.DataFrame(rows, columns=None if rows else ["axis", "task", "encoder", "size", "value"])
    values = table.groupby(["axis", "task", "encoder", "size"])["value"].transform("nunique")
    varies = (values > 1) | (table["axis"] == "method")  # one probe is beside the attention head already
    table = table[varies].reset_index(drop=True)
    if table.empty:
        raise DataError(f"Nothing varies over two seeds: give {'; or '.join(axis.needs for axis in AXES.values())}.")
    for _, family in table.groupby(["axis", "column", "task"]):
        table.loc[family.index, "p_holm"] = holm(family["p_corrected"])
        facts = pd.DataFrame({"error": family["error_corrected"], "freedom": family["seeds"] - 1})
        told = detectable_differences(facts, (1 - level) / len(family), POWER)
        table.loc[family.index, "told"] = np.where(told < 1, told, np.nan)
    return table


def _pairs(group: pd.DataFrame, axis: str, column: str) -> Iterator[tuple]:
    """Values of the setting with two methods each, and the scores of both by seed."""

    def of(method: str, value: float | str | None = None) -> pd.Series:
        rows = group[group["method"] == method]
        rows = rows if value is None else rows[rows[axis].isin((value, ""))]  # "": what reads no report
        return rows.set_index("seed")[column]

    if axis == "method":
        for probe in PROBES:
            yield probe, (probe, "image_only"), of(probe), of("image_only")
        return
    values = group.loc[group["method"] == "report_distilled", axis].unique()
    for value in values if axis == "reader" else sorted(values):
        for one, other in PAIRS:
            yield value, (one, other), of(one, value), of(other, None if other == "image_only" else value)


def lacking(table: pd.DataFrame, axis: str) -> str:
    """What a setting that `compare` found nowhere to vary needs, in a sentence; "" where it varies."""
    title, where, needs = AXES[axis]
    return "" if axis in set(table["axis"]) else f"The {title} ({where}) varies in none of these runs: give {needs}."


def sentences(table: pd.DataFrame, titles: dict[str, str], level: float = 0.95) -> list[str]:
    """One sentence a setting and task, of one column of `compare`: how many gain, and what could have been told.

    A probe gains over the attention head; a student gains if it is above the image-only and the self-distilled head.
    """
    said = []
    for (axis, task), rows in table[table["method"] != "self_distilled"].groupby(["axis", "task"], sort=False):
        clear = rows["p_holm"] <= 1 - level
        signs = rows.assign(up=clear & (rows["difference"] > 0), down=clear & (rows["difference"] < 0))
        each = signs.groupby(["encoder", "size", "value"], sort=False)
        up, down = each["up"].all(), each["down"].any()
        above, below = ("the attention head", "it") if axis == "method" else (
            "both the image-only and the self-distilled head", "one of them")  # fmt: skip
        kind = "probes" if axis == "method" else "students"
        named = f" ({'; '.join(rows['value'].unique())})" if axis == "reader" else ""
        text = f"{AXES[axis].title}{named}, {titles[task]}: {up.sum()} of {len(up)} {kind} lie above {above}, "
        text += f"{down.sum()} below {below}"
        if not (up | down).all():
            told = rows.loc[~clear, "told"].dropna()
            ends = f"{told.min():.3f}" if len(set(told.round(3))) == 1 else f"{told.min():.3f} to {told.max():.3f}"
            could = f"differences of {ends}" if len(told) else "no difference that there can be"
            text += f"; of the others we cannot tell ({could} would have been told with a power of {POWER:.0%})"
        said.append(text[0].upper() + text[1:] + ".")
    return said
