"""The experiment: outer folds over all studies, several partitions, every arm of every setting on the same draws."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm import tqdm

from pkd_utils.cohorts.folds import patient_folds
from pkd_utils.distillation.linear import fit_heads, principal_axes
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import Parts
from pkd_utils.runs.seeds import stream
from pkd_utils.runs.workers import results_of
from pkd_utils.statistics.metrics import column_aurocs
from pkd_utils.studies.transfer import arms
from pkd_utils.studies.transfer.features import Data, standardised
from pkd_utils.studies.transfer.protocol import Protocol, Setting

ANOTHER = "another patient's"
# Purposes of random streams.
_FOLDS, _OUTCOME, _FLIPS, _SIDE, _SUBSET, _TEACHERS, _RANDOM, _PERMUTE, _ANOTHER = range(9)


@dataclass
class Partition:
    """What one partition gave, for every cell (setting, outcome): out-of-fold scores and how they came about."""

    values: dict[tuple[str, str], np.ndarray]  # (arms, N) placement values of the studies, in the fold that tests them
    labels: dict[tuple[str, str], np.ndarray]  # (N,) true labels, NaN where unknown
    choices: pd.DataFrame  # setting, outcome, arm, fold, weight, temperature, l2, dose
    added: pd.DataFrame  # setting, outcome, fold, bits: what the text adds to the image, out of fold


def run_partition(data: Data, protocol: Protocol, number: int) -> Partition:
    """Fit, tune and test every arm of every setting on one partition of the studies."""
    values, labels, choices, added = {}, {}, [], []
    for settings in alike(protocol.settings, "outcomes"):
        outcomes = next(iter(settings.values())).outcomes
        draw = Draw(data, protocol, number, outcomes)
        for cell in product(settings, outcomes):
            labels[cell] = draw.clean[cell[1]].to_numpy()
            values[cell] = np.full((len(arms.ARMS), len(data.patients)), np.nan)
        for same, fold in product(alike(settings, "image", "size"), range(protocol.folds)):
            design = Design(draw, fold, same)
            for cell, tested, chosen in design.cells():
                values[cell][:, design.test] = placements(labels[cell][design.test], tested)
                choices += chosen
            added += design.added
    return Partition(values, labels, pd.DataFrame(choices), pd.DataFrame(added))


def alike(settings: dict[str, Setting], *fields: str) -> Iterator[dict[str, Setting]]:
    """The settings in groups of the same values of these fields."""
    values = attrgetter(*fields)
    for _, group in groupby(sorted(settings.items(), key=lambda item: values(item[1])), lambda item: values(item[1])):
        yield dict(group)


def placements(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Placement values (arms, m) of the studies of one fold; NaN where one class is missing.

    Of a positive the share of negatives that score lower, of a negative the share of positives that score higher, ties
    half: over either class their mean is the AUROC. Labels are (m,) of 1 and 0, scores (arms, m).
    """
    found = np.full(scores.shape, np.nan)
    for label, sign in ((1, 1), (0, -1)):
        rows, others = np.flatnonzero(labels == label), np.sort(sign * scores[:, labels != label], axis=1)
        for arm in range(len(scores)) if len(rows) and others.size else ():
            own = sign * scores[arm, rows]
            below = others[arm].searchsorted(own, "left") + others[arm].searchsorted(own, "right")
            found[arm, rows] = below / (2 * others.shape[1])
    return found


def run_all(data: Data | Sequence[Data], protocol: Protocol, parts: Parts, workers: int) -> list[Partition]:
    """All partitions, each kept as a part as soon as it is there, by so many processes side by side.

    `data` is of all partitions, or several are taken by them in turn.
    """
    each = [data] if isinstance(data, Data) else data
    names = [f"partition-{number:03d}.npz" for number in range(protocol.partitions)]
    jobs = [(each[i % len(each)], protocol, i, parts, name) for i, name in enumerate(names) if name not in parts]
    for _ in tqdm(results_of(_keep_partition, jobs, workers), total=len(jobs), desc="partitions"):
        pass
    return [_read(parts.path(name)) for name in names]


def _keep_partition(data: Data, protocol: Protocol, number: int, parts: Parts, name: str) -> None:
    with parts.write(name) as temporary:
        _write(temporary, run_partition(data, protocol, number))


def _write(path: Path, partition: Partition) -> None:
    arrays = {f"values {i}": v.astype(np.float32) for i, v in enumerate(partition.values.values())}
    arrays |= {f"labels {i}": v.astype(np.float32) for i, v in enumerate(partition.labels.values())}
    tables = [partition.choices.to_dict("list"), partition.added.to_dict("list")]
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays, cells=json.dumps([*map(list, partition.values)]), tables=json.dumps(tables))


def _read(path: Path) -> Partition:
    with np.load(path, allow_pickle=False) as stored:
        cells = [tuple(cell) for cell in json.loads(str(stored["cells"]))]
        read = {what: {cell: stored[f"{what} {i}"] for i, cell in enumerate(cells)} for what in ("values", "labels")}
        return Partition(
            **read, **dict(zip(("choices", "added"), map(pd.DataFrame, json.loads(str(stored["tables"]))), strict=True))
        )


def true_labels(data: Data, outcome: str, rng: np.random.Generator) -> np.ndarray:
    """Labels (N,) of an outcome: as coded, or drawn from its known probability."""
    if outcome in data.states:
        return (rng.random(len(data.patients)) < expit(data.states[outcome])).astype(np.float64)
    if outcome not in data.outcomes:
        raise DataError(f"The data have no outcome {outcome!r}; they have {', '.join([*data.outcomes, *data.states])}.")
    return data.outcomes[outcome].to_numpy(np.float64)


def flip_chance(flips: float, side: np.ndarray | None, n: int) -> np.ndarray:
    """Chance (n,) that a label is flipped: the same for all, or from half to one and a half of it along `side` (n,)."""
    if side is None:
        return np.full(n, flips)
    return flips * (0.5 + side.argsort().argsort() / max(n - 1, 1))


class Draw:
    """True labels, folds and flips of one partition, for the settings that share their outcomes."""

    def __init__(self, data: Data, protocol: Protocol, number: int, outcomes: tuple[str, ...]):
        self.data, self.protocol, self.number, self.outcomes = data, protocol, number, outcomes
        clean = {o: true_labels(data, o, self.rng(_OUTCOME, i)) for i, o in enumerate(outcomes)}
        self.clean = pd.DataFrame(clean)
        ids = pd.DataFrame({"image_id": np.arange(len(self.clean)).astype(str), "patient_id": data.patients})
        seed = stream(protocol.seed, number, _FOLDS) % 2**32
        folds = patient_folds(ids.join(self.clean), list(outcomes), protocol.folds, seed)
        self.parts = [
            {part: rows["image_id"].astype(int).to_numpy() for part, rows in one.groupby("split")}
            for _, one in folds.groupby("fold")
        ]
        self.other = self.rng(_ANOTHER).permutation(len(self.clean))  # another patient's text

    def rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(stream(self.protocol.seed, self.number, *key))

    def observed(self, setting: Setting) -> np.ndarray:
        """Labels (N, outcomes) with their flips; a larger share flips those of a smaller one, too."""
        side = None
        if setting.kind == "image":
            features = standardised(self.data.images[setting.image])
            side = features @ self.rng(_SIDE).standard_normal(features.shape[1])
        chance = flip_chance(setting.flips, side, len(self.clean))
        drawn = self.rng(_FLIPS).random(self.clean.shape)
        return np.where(drawn < chance[:, None], 1 - self.clean, self.clean)

    def subset(self, fold: int, size: int) -> np.ndarray:
        """Training rows of a fold, every pattern of true labels in its share; smaller sizes are part of larger ones."""
        rows = self.parts[fold]["train"]
        if size > len(rows):
            raise DataError(f"A fold has {len(rows)} training studies, fewer than {size}: leave that size out.")
        shuffled = self.rng(_SUBSET, fold).permutation(rows)
        pattern = self.clean.to_numpy()[shuffled] @ 2.0 ** np.arange(len(self.outcomes))
        table = pd.DataFrame({"row": shuffled, "pattern": pattern})
        count = table.groupby("pattern")["row"].transform("size")
        table["place"] = (table.groupby("pattern").cumcount() + 0.5) / count
        return np.sort(table.sort_values("place", kind="stable")["row"].to_numpy()[:size])


class Design:
    """One fold, one image encoder, one size: the features that all its cells share."""

    def __init__(self, draw: Draw, fold: int, settings: dict[str, Setting]):
        self.draw, self.fold, self.settings, self.added = draw, fold, settings, []
        first = next(iter(settings.values()))
        self.train, self.test = draw.subset(fold, first.size), draw.parts[fold]["test"]
        self.validate = draw.parts[fold]["validate"]
        self.pictures = components(draw.data.images[first.image], self.train, draw.protocol.components)

    def cells(self) -> Iterable[tuple[tuple[str, str], np.ndarray, list[dict]]]:
        """Key, (arms, tested) logits, and choices of every cell."""
        for same in alike(self.settings, "text"):
            labels = np.concatenate([self.draw.observed(setting) for setting in same.values()], axis=1)
            teachers = self._teachers(next(iter(same.values())), labels[self.train])
            for at, (name, (j, outcome)) in enumerate(product(same, enumerate(self.draw.outcomes))):
                yield self._cell((name, outcome), j, labels[:, at].astype(np.float32), teachers, at)

    def _teachers(self, setting: Setting, labels: np.ndarray) -> dict[str, arms.Teacher]:
        draw, protocol, train = self.draw, self.draw.protocol, self.train
        text = draw.data.texts["whole"][draw.other] if setting.text == ANOTHER else draw.data.texts[setting.text]
        read = components(text, train, protocol.components)[train]
        seen = self.pictures[train]
        noise = draw.rng(_RANDOM, self.fold).standard_normal(read.shape).astype(np.float32)
        views = {
            arms.SELF: seen,
            arms.TEXT: read,
            arms.JOINT: np.concatenate([seen, read], axis=1),
            arms.RANDOM: np.concatenate([seen, noise], axis=1),
        }
        folds = arms.cross_folds(
            draw.data.patients[train], protocol.teacher_folds, draw.rng(_TEACHERS, self.fold, len(train))
        )
        labels = labels.astype(np.float32)
        return {
            name: arms.teach(features, labels, folds, protocol.l2, name == arms.TEXT, protocol.tolerance)
            for name, features in views.items()
        }

    def _cell(self, key, outcome: int, labels: np.ndarray, teachers: dict[str, arms.Teacher], at: int):
        draw, protocol = self.draw, self.draw.protocol
        clean = draw.clean.iloc[:, outcome].to_numpy(np.float32)
        state = draw.data.states.get(key[1])
        truth = clean if state is None else expit(state).astype(np.float32)

        def rng(purpose):
            return draw.rng(_PERMUTE, self.fold, len(self.train), outcome, purpose)

        observed = labels[self.train]
        logits = arms.soft_logits(teachers, at, observed, clean[self.train], rng)
        made = list(arms.candidates(observed, truth[self.train], logits, protocol.weights, protocol.temperatures))
        grid = [(i, l2) for i in range(len(made)) for l2 in protocol.l2]
        targets = np.stack([made[i][3] for i, _ in grid], axis=1).astype(np.float32)
        heads = fit_heads(self.pictures[self.train], targets, np.array([l2 for _, l2 in grid]), protocol.tolerance)
        validated = column_aurocs(labels[self.validate], heads.logits(self.pictures[self.validate]))
        tested = heads.logits(self.pictures[self.test])
        rows, scores = [], np.empty((len(arms.ARMS), len(self.test)))
        for row, arm in enumerate(arms.ARMS):
            own = [g for g, (i, _) in enumerate(grid) if made[i][0] in (arm, arms.IMAGE_ONLY)]
            best = own[int(np.argmax(validated[own]))]  # of equal (or undefined) ones the first: the smaller lambda
            (_, weight, temperature, _, dose), l2 = made[grid[best][0]], grid[best][1]
            scores[row] = tested[:, best]
            chosen = {"weight": weight, "temperature": temperature, "l2": l2, "dose": dose}
            rows.append({"setting": key[0], "outcome": key[1], "arm": arm, "fold": self.fold, **chosen})
        bits = (teachers[arms.SELF].loss[at] - teachers[arms.JOINT].loss[at]) / np.log(2)
        self.added.append({"setting": key[0], "outcome": key[1], "fold": self.fold, "bits": float(bits)})
        return key, scores, rows


def components(features: np.ndarray, train: np.ndarray, most: int) -> np.ndarray:
    """Principal components (N, at most `most`) float32 of all studies' features, standardised and fitted on `train`."""
    seen = features[train].astype(np.float64)
    scale = seen.std(0)
    scale[scale == 0] = 1
    scaled = (features - seen.mean(0)) / scale
    axes = principal_axes(scaled[train])[:, : min(most, len(train) - 1)]
    return (scaled @ axes).astype(np.float32)
