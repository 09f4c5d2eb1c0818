"""What a line of `paper_claims` stands for among the heads that were run: differences of AUCs, one value a seed.

A `Line` becomes differences, joined by "every" and "some". Each is taken within a seed, so that split, subset and
initialisation are the same on both sides. What was not run raises `NotRun`, with what is missing.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations, permutations
from typing import NamedTuple

import pandas as pd

from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.studies.reports.paper_claims import PANELS, TEXT, Line

GROUPS = ("image self-supervision", "image-text alignment", "masked image and text")
METHOD_NAMES = {
    "image_only": "image only",
    "image_restart": "image only, restarted",
    "self_distilled": "self-distilled",
    "self_restart": "self-distilled, restarted",
    "permuted_distilled": "soft labels permuted within the class",
    "report_distilled": "distilled from reports",
    "teacher": "teacher (image and report)",
    "text_only": "report only",
    "mean_probe": "mean, linear probe",
    "cls_probe": "class token, linear probe",
}


class Scores(NamedTuple):
    """Scores of the heads of one or several cohorts, as `heads.read_scores` gives them."""

    rows: pd.DataFrame  # one temperature and weight a method
    titles: dict[str, str]  # of each task
    shares: dict[str, float]  # evaluation images over all images of a split, by task
    cohorts: dict[str, str]  # which run prepared each task: seeds of two runs are drawn independently


class NotRun(Exception):
    """What a claim needs and the scores lack."""


def need(there: object, what: str) -> None:
    """Raise `NotRun` where something is not there."""
    if not there:
        raise NotRun(what)


class Difference(NamedTuple):
    """A difference of AUCs: one value a seed for each task that it draws on, to be added up."""

    label: str
    by_task: dict[str, pd.Series]
    reach: float = 1.0  # it is never larger

    def minus(self, other: "Difference") -> "Difference":
        """This difference less another: on each task by itself."""
        tasks = dict.fromkeys([*self.by_task, *other.by_task])
        left = {task: self.by_task.get(task, 0.0) - other.by_task.get(task, 0.0) for task in tasks}
        return Difference(f"{self.label}, less {other.label}", left, self.reach + other.reach)


class Joined(NamedTuple):
    """Differences of which "every" one or "some" one is to lie beyond its bound."""

    how: str
    parts: list["Difference | Joined"]


def encoder_group(encoder: str) -> str:
    """Which of the paper's three kinds of pretraining (Figure 2) an encoder had; "" for others, such as ImageNet."""
    seen = IMAGE_ENCODERS[encoder].pretraining
    if seen.aligned:
        return GROUPS[1]
    if seen.text:
        return GROUPS[2]
    return GROUPS[0] if seen.image_ssl else ""


class Heads:
    """The heads that were run, and what the words of a `Line` stand for among them."""

    def __init__(self, scores: Scores, column: str = "auc"):
        self.scores = scores
        kept = scores.rows.dropna(subset=column).groupby(["task", "size", "method"])
        self.found = {key: rows.pivot(index="seed", columns="encoder", values=column) for key, rows in kept}

    def sizes(self, task: str, rule: str) -> list[list[int]]:
        """Training sizes of a task, those that are averaged together."""
        found = sorted({size for one, size, _ in self.found if one == task})
        need(found, f"task {task}")
        if rule == "each":
            return [[n] for n in found]
        ends = {"smallest": found[:1], "largest": found[-1:], "all": found}
        few, many = [n for n in found if n <= 1000], [n for n in found if n > 1000]
        chosen = (ends | {"up to 1000": few, "above 1000": many})[rule]
        need(chosen, f"training sizes {rule} images of {task}")
        return [chosen]

    def auc(self, task: str, sizes: Sequence[int], method: str) -> pd.DataFrame:
        """AUC (seeds, encoders), averaged over sizes; the text-only head, which sees no image, beside every encoder."""
        frames = [self.found.get((task, size, method)) for size in sizes]
        need(all(frame is not None for frame in frames), f"method {method} on {task}")
        found = sum(frames) / len(frames)
        if method != "text_only":
            return found
        return pd.DataFrame({e: found.mean(axis=1) for e in self.auc(task, sizes, "image_only")})

    def gains(self, line: Line, task: str, sizes: Sequence[int]) -> pd.DataFrame:
        """Method `high` minus method `low` (seeds, encoders)."""
        gains = (self.auc(task, sizes, line.high) - self.auc(task, sizes, line.low)).dropna(axis=1, how="all")
        missing = [e for e in line.encoders if e not in gains] if isinstance(line.encoders, tuple) else []
        need(not missing, f"encoder {', '.join(missing)} on {task}")
        need(not gains.empty, f"one encoder with {line.high} and {line.low} on {task}")
        return gains

    def panel(self, tasks: Sequence[str], *methods: str) -> Iterator[dict[str, list[str]]]:
        """Encoders of each panel by kind, as far as they have these heads on all of these tasks."""
        ran = [set(self.auc(t, s, m)) for t in tasks for s in self.sizes(t, "each") for m in methods]
        for kinds in PANELS.values():
            yield {kind: [e for e in names if all(e in one for one in ran)] for kind, names in kinds.items()}

    def comparable(self, tasks: Sequence[str], *methods: str) -> list[str]:
        """Encoders of the first panel that has two or more."""
        panels = [[e for names in kinds.values() for e in names] for kinds in self.panel(tasks, *methods)]
        several = [names for names in panels if len(names) > 1]
        need(several, "two encoders that may be held against each other")
        return several[0]

    def sides(self, line: Line) -> list[tuple[list[str], list[str]]]:
        """Encoders of both sides of a line on image-only heads, in the first panel that has them; a kind is whole."""
        found = []
        for ran, whole in zip(self.panel((*line.tasks, *line.than), "image_only"), PANELS.values(), strict=True):
            everyone = [e for names in ran.values() for e in names]
            kinds = {kind: names if len(names) == len(whole[kind]) else [] for kind, names in ran.items()}
            kinds[TEXT] = kinds["aligned"] + kinds["masked"] if kinds["aligned"] and kinds["masked"] else []
            highs = _chosen(line.high, kinds, everyone)
            others = [e for e in everyone if not any(e in high for high in highs)]
            lows = _chosen(line.low, kinds | {"others": others}, everyone)
            lows = [[e] for e in others] if line.low == "each other" else lows
            if all(highs) and lows and all(lows):
                found.append([(high, low) for high in highs for low in lows])
        named = [side for side in (line.high, line.low) if isinstance(side, tuple)]
        wanted = ", ".join(e for side in named for e in side) or f"{line.high} and {line.low}"
        need(found, f"encoders of one panel: {wanted}")
        return found[0]

    def differences(self, line: Line, task: str, sizes: Sequence[int]) -> list[Difference]:
        """The differences of a line on one task and size, one a pair of sides or an encoder."""
        place = self.place(task, sizes)
        if line.high not in METHOD_NAMES:
            auc = self.auc(task, sizes, "image_only")
            return [Difference(f"{place}: {against(high, low)}",
                               {task: auc[high].mean(axis=1, skipna=False) - auc[low].mean(axis=1, skipna=False)})
                    for high, low in self.sides(line)]  # fmt: skip
        gains = self.gains(line, task, sizes)
        if line.encoders == "mean":
            who = f"mean of {n} encoders" if (n := gains.shape[1]) > 1 else IMAGE_ENCODERS[gains.columns[0]].title
            return [Difference(f"{place}: {who}", {task: gains.mean(axis=1, skipna=False)})]
        names = line.encoders if isinstance(line.encoders, tuple) else list(gains)
        return [Difference(f"{place}: {IMAGE_ENCODERS[e].title}", {task: gains[e]}) for e in names]

    def place(self, task: str, sizes: Sequence[int]) -> str:
        return f"{self.scores.titles[task]}, {', '.join(map(str, sizes))} images"


def _chosen(side: str | tuple[str, ...], kinds: dict[str, list[str]], everyone: list[str]) -> list[list[str]]:
    """The encoders of a side, each named one for itself; an empty list where one is missing."""
    if isinstance(side, tuple):
        return [[e] if e in everyone else [] for e in side]
    return [kinds.get(side, [])]


def against(high: str | Sequence[str], low: str | Sequence[str]) -> str:
    """Encoders of two sides as in text."""
    sides = [[side] if isinstance(side, str) else side for side in (high, low)]
    return " against ".join(" and ".join(IMAGE_ENCODERS[e].title for e in side) for side in sides)


def difference(heads: Heads, line: Line) -> Joined:
    """On every task, and size if each counts, of every side or encoder; of "some" encoder if the line says so."""
    found = []
    for task in line.tasks:
        for sizes in heads.sizes(task, line.sizes):
            parts = heads.differences(line, task, sizes)
            if line.than:
                others = [(other, sizes) for other in line.than for sizes in heads.sizes(other, line.sizes)]
                less = [one for place in others for one in heads.differences(line, *place)]
                parts = [Joined("every", [part.minus(one) for one in less]) for part in parts]
            found.append(Joined("some" if line.encoders == "some" else "every", parts))
    return Joined("every", found)


def some_task(heads: Heads, line: Line) -> Joined:
    """On some task."""
    return Joined("some", [part for t in line.tasks for s in heads.sizes(t, line.sizes)
                           for part in heads.differences(line, t, s)])  # fmt: skip


def along_the_gap(heads: Heads, line: Line) -> Joined:
    """Slope of the difference over tasks along the gap of image-only and text-only AUC, which is taken as known."""
    places = {task: heads.sizes(task, line.sizes)[0] for task in line.tasks}
    compared = [encoder for side in heads.sides(line)[0] for encoder in side]
    gaps = {task: heads.auc(task, sizes, "image_only") - heads.auc(task, sizes, "text_only")
            for task, sizes in places.items()}  # fmt: skip
    gap = pd.Series({task: values[compared].mean(axis=None) for task, values in gaps.items()})
    weights = (gap - gap.mean()) / ((gap - gap.mean()) ** 2).sum()
    parts = {task: heads.differences(line, task, sizes)[0].by_task[task] for task, sizes in places.items()}
    label = f"slope over {len(gap)} tasks, whose gaps are {gap.min():+.2f} to {gap.max():+.2f}"
    return Joined("every", [Difference(label, {t: weights[t] * part for t, part in parts.items()}, float("inf"))])


def _gains(heads: Heads, line: Line) -> tuple[str, str, list[int], pd.DataFrame]:
    (task,) = line.tasks
    (sizes,) = heads.sizes(task, line.sizes)
    return heads.place(task, sizes), task, sizes, heads.gains(line, task, sizes)


def beyond_encoders(heads: Heads, line: Line) -> Joined:
    """The mean gain is larger than the difference of every two image-only heads of a panel."""
    place, task, sizes, gains = _gains(heads, line)
    names = heads.comparable(line.tasks, line.high, line.low)
    mean, plain = gains[names].mean(axis=1, skipna=False), heads.auc(task, sizes, "image_only")
    label = f"{place}: mean gain of {len(names)} encoders, less "
    return Joined("every", [Difference(label + against(a, b), {task: mean - (plain[a] - plain[b])}, 2.0)
                            for a, b in permutations(names, 2)])  # fmt: skip


def between_encoders(heads: Heads, line: Line, how: str) -> Joined:
    """The named encoder gains more than "every" other; or some encoder more than "some" other, where none is named."""
    place, task, _, gains = _gains(heads, line)
    need(gains.shape[1] > 1, "a second encoder")
    named = line.encoders if isinstance(line.encoders, tuple) else gains
    return Joined(how, [Difference(f"{place}: gains of {against(a, b)}", {task: gains[a] - gains[b]}, 2.0)
                        for a in named for b in gains if a != b])  # fmt: skip


def widening(heads: Heads, line: Line) -> Joined:
    """Some two encoders differ more at the largest size than every two do at the smallest."""
    (task,) = line.tasks
    names = heads.comparable(line.tasks, line.high)
    ends = [heads.sizes(task, rule)[0] for rule in ("smallest", "largest")]
    need(ends[0] != ends[1], f"two training sizes of {task}")
    small, large = (heads.auc(task, sizes, line.high) for sizes in ends)
    pairs = list(permutations(names, 2))
    return Joined("some", [Joined("every", [
        Difference(f"{heads.place(task, ends[1])}: {against(a, b)}, less {against(c, d)} at {ends[0][0]}",
                   {task: large[a] - large[b] - (small[c] - small[d])}, 2.0)
        for c, d in pairs]) for a, b in pairs])  # fmt: skip


def order(heads: Heads, line: Line) -> Joined:
    """Some two encoders are in one order on one task and in the other on another."""
    names = heads.comparable(line.tasks, line.high)
    auc = {(t, heads.place(t, s)): heads.auc(t, s, line.high) for t in line.tasks for s in heads.sizes(t, line.sizes)}

    def ahead(where, a, b):
        return Difference(f"{where[1]}: {against(a, b)}", {where[0]: auc[where][a] - auc[where][b]})

    return Joined("some", [Joined("every", [ahead(one, a, b), ahead(other, b, a)])
                           for a, b in combinations(names, 2) for one, other in permutations(auc, 2)])  # fmt: skip


KINDS: dict[str, Callable[[Heads, Line], Joined]] = {
    "difference": difference,
    "some task": some_task,
    "along the gap": along_the_gap,
    "beyond encoders": beyond_encoders,
    "most of encoders": partial(between_encoders, how="every"),
    "unlike encoders": partial(between_encoders, how="some"),
    "widening": widening,
    "order": order,
}
"""How the differences of a line are made and joined, by `Line.kind`."""
