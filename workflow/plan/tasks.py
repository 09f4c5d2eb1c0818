"""How many images the tasks of the reports study have: of a finished run, or as the paper counts them."""

import contextlib
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pkd_utils.cohorts.tasks import age, mimic
from pkd_utils.cohorts.tasks.base import PAPER_COUNTS
from pkd_utils.cohorts.tasks.build import INSPECT_TASKS
from pkd_utils.cohorts.tasks.outcomes import outcome
from pkd_utils.cohorts.tasks.splits import training_sizes
from pkd_utils.images.decode import image_size
from pkd_utils.runs import files, paths, run
from pkd_utils.runs.errors import DataError
from workflow.plan.rates import ENCODED

HEADERS = 50  # images of a finished run whose size is read
_BUILDERS = {"mimic_5x1200": mimic.five_findings, "discharge_3_day": mimic.discharge, "age": age.age}
_BUILDERS |= dict.fromkeys(INSPECT_TASKS, outcome)


@dataclass(frozen=True)
class TaskCount:
    """Images of one task: classes, seeds, evaluation images a seed, and (training images, epochs) of each size.

    `pool` is the number of images that every seed draws its own from; None where all draws are counted as different.
    """

    classes: int
    seeds: tuple[int, ...]
    evaluation: int
    sizes: tuple[tuple[int, int], ...]
    pool: float | None = None

    def together(self, images: int, seeds: float) -> float:
        """Different images, as expected, where each of some seeds has so many."""
        if self.pool is None:
            return seeds * images
        return self.pool * (1 - max(0.0, 1 - images / self.pool) ** seeds)

    def fresh_passes(self, sizes: Sequence[tuple[int, int]], seeds: int, waves: int) -> float:
        """Training images that are encoded in all epochs: in each, those of the largest subset still in training.

        Subsets of a seed are nested. The seeds are spread over the waves, of which each has passes of its own.
        """
        passes, done = 0.0, 0
        for epochs in sorted({epochs for _, epochs in sizes}):
            largest = max(samples for samples, longer in sizes if longer >= epochs)
            passes += (epochs - done) * waves * self.together(largest, max(1.0, seeds / waves))
            done = epochs
        return passes


class NotKnown(DataError):
    """What a run costs cannot be told before another has run, or was never measured: what of it."""


class Prepared(NamedTuple):  # by a run of 01-prepare-tasks, finished or to come; images: those to encode
    tasks: dict[str, TaskCount]
    images: int
    source: str
    pixels: float = ENCODED  # of an image as it is stored


def count_tasks(reference: str, parameters: dict[str, Any]) -> Prepared:
    """Images of every task: of the finished run, or, for MIMIC-CXR and INSPECT, as the paper counts them.

    Without a run, images to encode are what the seeds' draws are expected to cover. Images of two tasks count twice.
    """
    if (paths.runs_dir() / reference / "run.json").exists():
        return _count_finished(run.find_run(reference), paths.resolve(parameters["data_root"]))
    counted = set(parameters["tasks"]) <= set(PAPER_COUNTS) and parameters["source"] in ("mimic_cxr", "inspect")
    if parameters["simulate_patients"] or not counted:
        raise NotKnown(f"the images of {reference}, which are known when it has run")
    tasks = {name: _count_as_paper(name, parameters) for name in parameters["tasks"]}
    images = sum(t.together(t.evaluation + max(n for n, _ in t.sizes), len(t.seeds)) for t in tasks.values())
    return Prepared(tasks, round(images), "the paper's counts")


def _count_as_paper(name: str, parameters: dict[str, Any]) -> TaskCount:
    options = {n: p.default for n, p in inspect.signature(_BUILDERS[name]).parameters.items()}
    options |= parameters["task_options"].get(name, {})
    if "train_per_class" in options:
        classes = len(options["findings"])
        train, evaluation = classes * options["train_per_class"], classes * options["evaluate_per_class"]
        pool = train + evaluation if options["drawn"] == "once" else None
    else:
        pool, classes = options.get("at_most", PAPER_COUNTS[name]), options.get("bins", 2)
        evaluation = round(pool * options["evaluate"])
        train = pool - evaluation
    chosen = parameters["sizes"].get(name, parameters["sizes"].get("*", []))
    epochs = parameters["epochs_of"].get(name, [parameters["epochs"]] * len(chosen))
    sizes = [(int(n * train) if n <= 1 else int(n), own) for n, own in zip(chosen, epochs, strict=True)]
    sizes = sizes or [(int(row.samples), int(row.epochs)) for row in training_sizes(name).itertuples()]
    return TaskCount(classes, tuple(parameters["seeds"]), evaluation, tuple(sizes), pool)


def _count_finished(folder: Path, root: Path) -> Prepared:
    splits = pd.read_parquet(folder / "splits.parquet", columns=["task", "seed", "part", "image_id"])
    sizes, facts = pd.read_csv(folder / "sizes.csv"), files.read_json(folder / "tasks.json")
    tasks = {}
    for name, rows in splits.groupby("task", sort=False):
        seeds = tuple(int(seed) for seed in rows["seed"].unique())
        pairs = tuple((int(row.samples), int(row.epochs)) for row in sizes[sizes["task"] == name].itertuples())
        evaluation = round((rows["part"] == "evaluate").sum() / len(seeds))
        different = rows["image_id"].nunique()  # the pool, as far as the seeds have drawn from it
        pool = different if different < len(rows) else None
        tasks[name] = TaskCount(len(facts[name]["classes"]), seeds, evaluation, pairs, pool)
    files_of = pd.read_parquet(folder / "images.parquet", columns=["path"])["path"]
    return Prepared(tasks, len(files_of), "a finished run", _mean_pixels([root / path for path in files_of.dropna()]))


def _mean_pixels(paths_of: Sequence[Path]) -> float:
    """Pixels of an image as it is stored, by the headers of some; as the benchmarks' where none can be read."""
    found = []
    for path in paths_of[:: max(1, len(paths_of) // HEADERS)]:
        with contextlib.suppress(DataError, FileNotFoundError):  # a volume, or not here: `make data-check` says so
            found.append(math.prod(image_size(path)))
    return float(np.mean(found)) if found else ENCODED
