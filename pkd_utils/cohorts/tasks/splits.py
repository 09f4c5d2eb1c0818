"""How a task is divided, seed by seed: training and evaluation parts, nested training subsets, and files to publish.

The paper samples 90 % (age, discharge), 75 % (INSPECT) or 1,000 of each class (5x1200) for training and evaluates on
the rest, on which it also selects its teachers' epochs: `half` cuts that part in two, so that one half can select and
the other report. It does not say whether a patient may be on both sides; here none is, unless `group` is off.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from pkd_utils.cohorts.tasks.age import Edges, rebin
from pkd_utils.cohorts.tasks.base import Balance, Task
from pkd_utils.runs import files, paths
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

_COLUMNS = ["part", "target", "rank", "half"]
SPLIT_COLUMNS, PUBLIC_COLUMNS = ["image_id", *_COLUMNS], ["image_sha256", *_COLUMNS]
TRAINING_SIZES = "book/reported/bergstrom2025-table3-7.csv"
_PARTS = ("train", "evaluate")
Seed = Annotated[int, Field(ge=0)]
_STREAM_BALANCE, _STREAM_HOLD, _STREAM_DRAW, _STREAM_RANK, _STREAM_HALF = 0, 1, 2, 3, 5  # of finished splits


@checked
def split_task(
    task: Task,
    seed: Seed,
    group: bool = True,
    evaluation_seed: Seed | None = None,
    refit_edges: Edges | None = None,
) -> pd.DataFrame:
    """Divide a task for one seed, following its `SplitRule`.

    Parameters
    ----------
    seed : int
        Every draw comes from its own stream of `numpy.random.default_rng([seed, stream])`.
    group : bool
        Keep all images of a patient on one side. Not stated in the paper.
    evaluation_seed : int, optional
        Hold out the same images whatever `seed`; None draws them anew, unless the rule is `fixed` by class. The paper
        says "for each seed" of the tasks that are divided by share.
    refit_edges : str, optional
        For age tasks: fix the bins' edges ("equal_width" or "quantile") on this seed's training part.

    Returns
    -------
    DataFrame
        One row an image that takes part, in the task's order: `image_id`; `part` (train, evaluate); `target` (int64);
        `rank` (int64, place of a training image in the nested subsets: the subset of n images holds ranks 0 to n - 1,
        for tasks drawn by class in the proportions of the whole; -1 in the evaluation part);
        `half` (int64, 0 or 1 in the evaluation part by patient, -1 in training).
    """
    hold_seed = seed if evaluation_seed is None else evaluation_seed
    set_seed = 0 if task.split.fixed and evaluation_seed is None else hold_seed
    hold_seed = set_seed if task.split.per_class else hold_seed
    rng, table = np.random.default_rng, task.table
    if task.split.balance:
        table = _balanced(table, rng([set_seed, _STREAM_BALANCE]), task.split.balance)
    units = table["patient_id"] if group else table["image_id"]
    if task.split.per_class is not None:
        draw = rng([hold_seed if task.split.fixed else seed, _STREAM_DRAW])
        part = _by_class(table, units, *task.split.per_class, rng([hold_seed, _STREAM_HOLD]), draw, task)
    else:
        part = _by_share(table, units, task.split.evaluate, rng([hold_seed, _STREAM_HOLD]), task.split.stratify)
    table, part = table[part != ""], part[part != ""]
    split = table[["image_id", "target"]].assign(part=part)
    if refit_edges is not None:
        train = split.loc[split["part"] == "train", "image_id"]
        split["target"] = rebin(task, train, refit_edges).loc[split.index]
    for name in _PARTS:
        found = set(split["target"][split["part"] == name])
        absent = [label for k, label in enumerate(task.classes) if k not in found]
        if absent:
            raise DataError(
                f"Task {task.name}: the {name} part has no image of class {absent[0]}; "
                "hold out another share, stratify, or use another seed."
            )
    is_train = split["part"].to_numpy() == "train"
    rank, by_class = np.full(len(split), -1), task.split.per_class is not None
    rank[is_train] = _ranks(split["target"].to_numpy()[is_train], rng([seed, _STREAM_RANK]), by_class)
    names = table["patient_id"][~is_train].unique()
    half_patients = rng([hold_seed, _STREAM_HALF]).permutation(names)[: round(0.5 * len(names))]
    half = np.where(is_train, -1, table["patient_id"].isin(half_patients).astype(int))
    return split.assign(rank=rank, half=half)[SPLIT_COLUMNS].reset_index(drop=True)


def split_seeds(task: Task, seeds: Iterable[int], **options) -> pd.DataFrame:
    """Splits of several seeds below each other, with columns `task` and `seed` first; options of `split_task`."""
    parts = [split_task(task, seed, **options).assign(task=task.name, seed=seed) for seed in seeds]
    return pd.concat(parts, ignore_index=True)[["task", "seed", *SPLIT_COLUMNS]]


def subset(split: pd.DataFrame, size: int) -> pd.DataFrame:
    """Training images of the nested subset of `size` images, in their order; smaller ones are parts of larger ones."""
    chosen = split[(split["rank"] >= 0) & (split["rank"] < size)]
    return chosen.sort_values("rank").reset_index(drop=True)


def training_sizes(task: str) -> pd.DataFrame:
    """Training sizes and epochs of a task as Tables 3 to 7 give them: `fraction, samples, epochs, source`."""
    table = pd.read_csv(paths.resolve(TRAINING_SIZES))
    rows = table[table["task"] == task].drop(columns="task").reset_index(drop=True)
    if rows.empty:
        raise DataError(f"Tables 3 to 7 have no training sizes for task {task!r}; give sizes and epochs yourself.")
    return rows


def choose_sizes(
    task: str, splits: pd.DataFrame, sizes: Sequence[float] = (), epochs: int | Sequence[int] = 0
) -> pd.DataFrame:
    """Training sizes of a task, smallest first, with columns `task, fraction, samples, epochs, source`.

    Parameters
    ----------
    splits : DataFrame
        From `split_seeds`: a size must fit the smallest training part of all seeds.
    sizes : sequence of numbers
        Numbers of images, or, up to 1, fractions of the smallest training part (rounded down). Empty: Tables 3 to 7.
    epochs : int, or one a size
        Training epochs of one's own sizes, at least 1.
    """
    smallest = int(splits.query("task == @task and part == 'train'").groupby("seed").size().min())
    if not len(sizes):
        table = training_sizes(task)
    else:
        each = [epochs] * len(sizes) if isinstance(epochs, int) else list(epochs)
        if len(each) != len(sizes) or min(each) < 1:
            raise DataError(f"Task {task}: sizes of your own need epochs of your own, at least 1, one or one a size.")
        pairs = {int(n * smallest) if n <= 1 else int(n): e for n, e in zip(sizes, each, strict=True)}
        rows = [(number / smallest, number, pairs[number], "chosen here") for number in sorted(pairs)]
        table = pd.DataFrame(rows, columns=["fraction", "samples", "epochs", "source"])
    wrong = table[(table["samples"] > smallest) | (table["samples"] < 1)]
    if len(wrong):
        raise DataError(
            f"Task {task}: {wrong['samples'].iloc[-1]} training images are asked for, and the smallest training part "
            f"of the seeds has {smallest}; give sizes from 1 to that."
        )
    table.insert(0, "task", task)
    return table


def check_split(split: pd.DataFrame, task: Task) -> None:
    """Raise DataError if a patient is on both sides, or in both halves of the evaluation."""
    patients = split["image_id"].map(task.table.set_index("image_id")["patient_id"])
    sides = {"training and evaluation": split["part"], "halves of the evaluation": split["half"]}
    for name, side in sides.items():
        crossing = int((side.groupby(patients).nunique() > 1).sum())
        if crossing:
            raise DataError(f"Task {task.name}: {crossing} patient(s) are in both {name}; split by patient.")


def write_public_splits(
    folder: Path, splits: pd.DataFrame, task_tables: Sequence[pd.DataFrame], salt: str = ""
) -> list:
    """Write `splits-<task>-seed<k>.csv` files that name images by a keyed hash, and nothing else that identifies.

    Nobody without access to MIMIC can list candidates for an image_id of 160 random bits; patient and study ids have
    eight digits, so that a hash hides nothing, and are never written. A salt that stays secret makes the files useless
    to everybody else; a published one only keeps tables of hashes made for other projects from fitting.

    Parameters
    ----------
    splits : DataFrame
        From `split_seeds`.
    task_tables : sequence of DataFrame
        Tables of the tasks: the identifiers that must not appear.
    salt : str
        Key of the hash; see `hash_id`.
    """
    ids = {name for table in task_tables for name in table[["image_id", "patient_id", "study_id"]].to_numpy().flat}
    hashed = {image_id: hash_id(image_id, salt) for image_id in splits["image_id"].unique()}
    written = []
    for (task, seed), rows in splits.groupby(["task", "seed"], sort=False):
        table = rows.assign(image_sha256=rows["image_id"].map(hashed))[PUBLIC_COLUMNS]
        # Sorted by hash: the order of rows must not tell the order of identifiers either.
        table = table.sort_values("image_sha256").reset_index(drop=True)
        check_public(table, ids)
        path = Path(folder) / f"splits-{task}-seed{int(seed)}.csv"
        files.write(path, table)
        written.append(path)
    return written


def hash_id(image_id: str, salt: str = "") -> str:
    """SHA-256 of an identifier as 64 hex digits; keyed (HMAC) where there is a salt."""
    if not salt:
        return hashlib.sha256(image_id.encode()).hexdigest()
    return hmac.new(salt.encode(), image_id.encode(), hashlib.sha256).hexdigest()


def check_public(table: pd.DataFrame, identifiers: set[str]) -> None:
    """Raise DataError unless a table may be published: only hashes, parts and whole numbers, and no identifier."""
    for problem in _public_problems(table, identifiers):
        raise DataError(f"Public splits: {problem}")


def _public_problems(table: pd.DataFrame, identifiers: set[str]) -> Iterator[str]:
    if list(table.columns) != PUBLIC_COLUMNS:
        yield f"the columns must be {', '.join(PUBLIC_COLUMNS)} and no others; remove the rest."
    hashes = table["image_sha256"].astype(str)
    if not hashes.str.fullmatch("[0-9a-f]{64}").all() or not identifiers.isdisjoint(hashes):
        yield "a value of image_sha256 is no SHA-256 hash of an identifier; hash it."
    if not table["part"].isin(_PARTS).all():
        yield "part must be train or evaluate; correct the table."
    for column in ("target", "rank", "half"):
        values = table[column]
        # No class, place or half comes near the eight digits of a patient or study.
        if not pd.api.types.is_integer_dtype(values) or values.min() < -1 or values.max() >= 10_000_000:
            yield f"{column} holds something other than small whole numbers; correct it."


def _balanced(table: pd.DataFrame, rng: np.random.Generator, unit: Balance) -> pd.DataFrame:
    """The larger class sampled down to the smaller, by `SplitRule.balance`; rows keep their order."""
    positions = [np.flatnonzero(table["target"] == value) for value in (0, 1)]
    size = min(map(len, positions))
    if unit == "image":
        kept = [rows if len(rows) == size else rng.choice(rows, size, replace=False) for rows in positions]
        return table.iloc[np.sort(np.concatenate(kept))]
    larger = (table["target"] == int(len(positions[1]) > size)).to_numpy()
    codes, names = pd.factorize(table["patient_id"])
    count = np.bincount(codes, weights=larger, minlength=len(names)).astype(np.int64)  # images of the larger class
    other = count < np.bincount(codes, minlength=len(names))  # has one of the smaller class, too
    order = rng.permutation(np.flatnonzero(~other))
    total = count[other].sum() + np.append(0, np.cumsum(count[order]))
    kept = np.append(np.flatnonzero(other), order[: int(np.abs(total - size).argmin())])
    return table[np.isin(codes, kept)]


def _by_share(table, units, share: float, rng: np.random.Generator, stratify: bool) -> np.ndarray:
    """Part of each row: whole units are held out, in random order, until their images come nearest to the share."""
    codes, names = pd.factorize(units)
    sizes = np.bincount(codes)
    # A patient with several classes counts for the highest: positives are the rare ones.
    stratum = np.zeros(len(names), dtype=np.int64)
    if stratify:
        np.maximum.at(stratum, codes, table["target"].to_numpy())
    held = np.zeros(len(names), dtype=bool)
    for value in np.unique(stratum):
        order = rng.permutation(np.flatnonzero(stratum == value))
        total = np.cumsum(sizes[order])
        count = int(np.abs(np.append(0, total) - share * total[-1]).argmin())
        held[order[:count]] = True
    return np.where(held[codes], "evaluate", "train").astype(object)


def _by_class(table, units, train: int, evaluate: int, rng, draw, task: Task) -> np.ndarray:
    """Part of each row ("" for none): whole units fill the evaluation pool until each class has enough."""
    codes, names = pd.factorize(units)
    target = table["target"].to_numpy()
    per_unit = np.zeros((len(names), len(task.classes)), dtype=np.int64)
    np.add.at(per_unit, (codes, target), 1)
    held = np.zeros(len(names), dtype=bool)
    order = rng.permutation(len(names))
    # Rarest class first, and for the others those patients last who hold images of a rarer one: its few patients should
    # not be spent on classes that have plenty.
    served = np.zeros(len(task.classes), dtype=bool)
    for value in np.argsort(per_unit.sum(axis=0), kind="stable"):
        lacking = evaluate - int(per_unit[held, value].sum())
        holders = order[(per_unit[order, value] > 0) & ~held[order]]
        holders = holders[np.argsort(per_unit[holders][:, served].any(axis=1), kind="stable")]
        enough = int(np.searchsorted(np.cumsum(per_unit[holders, value]), max(lacking, 0)))
        held[holders[: enough + 1 if lacking > 0 else 0]] = True
        served[value] = True
    part = np.full(len(table), "", dtype=object)
    for name, count, pool, chooser in (("evaluate", evaluate, held[codes], rng), ("train", train, ~held[codes], draw)):
        for value, label in enumerate(task.classes):
            rows = np.flatnonzero(pool & (target == value))
            if len(rows) < count:
                raise DataError(
                    f"Task {task.name}: class {label} has {len(rows)} images for the {name} part of {count}; "
                    "ask for fewer of each class or use more data."
                )
            part[chooser.choice(rows, count, replace=False)] = name
    return part


def _ranks(target: np.ndarray, rng: np.random.Generator, stratified: bool) -> np.ndarray:
    """Place of each image in a random order; stratified, every prefix has the classes in proportion."""
    shuffled = rng.permutation(len(target))
    rank = np.empty(len(target), dtype=np.int64)
    if not stratified:
        rank[shuffled] = np.arange(len(target))
        return rank
    # The k-th image of a class of n is due at (k + 1/2) / n of the whole; ties go in random order.
    due = np.empty(len(target))
    for value in np.unique(target):
        rows = shuffled[target[shuffled] == value]
        due[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    rank[np.lexsort((rng.permutation(len(target)), due))] = np.arange(len(target))
    return rank
