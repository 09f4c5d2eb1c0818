"""What to train: one `HeadSpec` a head, checked, and sorted into groups of heads that see the same minibatches."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from pkd_utils.distillation.heads.modules import DISTILLED, PROBES, READS_TEXT, Method
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.seeds import stream

Rows = Annotated[np.ndarray, BeforeValidator(lambda rows: np.asarray(rows, np.int64).reshape(-1))]


@config
class HeadSpec:
    """One head to train. Rows are numbers of rows of the tokens.

    After every epoch the head is evaluated on the validation rows. In the paper these are also the rows that are
    reported, and a teacher's epoch is the best on them; which epoch of other heads is reported is not stated in the
    paper. With test rows the split is nested: those are reported, and the epoch is chosen on the validation rows.
    """

    name: str  # of its own
    method: Method
    # Of initialisation, order, views and dropout, whatever the method; "image_restart" draws others from it.
    seed: Annotated[int, Field(ge=0)]
    train_rows: Rows
    validation_rows: Rows
    epochs: Annotated[int, Field(ge=1)]  # tables 3 to 7 of the paper
    test_rows: Rows | None = None
    # Of distilled students the head they learn from, by name: `modules.TEACHER_OF` says of which method. It speaks
    # with its best epoch on its validation rows.
    teacher: str | None = None
    weight: float = Field(0.75, ge=0, le=1)  # lambda of equation (2), for distilled students
    temperature: float = Field(0.25, gt=0)  # tau likewise; the paper takes 2.5 on MIMIC 5x1200
    learning_rate: float | None = Field(None, gt=0)  # default 1e-4, of probes 1e-3, as in the paper

    @property
    def draw(self) -> int:
        """What initialisation, order, views and dropout follow from: the seed, of a restart a stream of it."""
        return stream(self.seed, 2) if self.method == "image_restart" else self.seed

    @property
    def rate(self) -> float:
        return self.learning_rate if self.learning_rate is not None else 1e-3 if self.method in PROBES else 1e-4

    @property
    def evaluation_rows(self) -> np.ndarray:
        """Validation rows, then test rows."""
        return np.concatenate([self.validation_rows, *([] if self.test_rows is None else [self.test_rows])])

    def facts(self) -> dict[str, Any]:
        """What identifies this head, with hashes in the place of rows."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in facts.items():
            facts[name] = hashlib.sha256(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else value
        if self.method not in DISTILLED:
            facts["weight"] = facts["temperature"] = None
        return {**facts, "learning_rate": self.rate}


def check_specs(specs: Sequence[HeadSpec], targets: np.ndarray, has_text: bool) -> None:
    """Refuse heads that do not fit the data or each other."""
    by_name = {spec.name: spec for spec in specs}
    if not 0 < len(specs) == len(by_name):
        raise DataError(f"{len(specs)} heads have {len(by_name)} names: give one or more, each a name of its own.")
    for spec in specs:
        if spec.method in READS_TEXT and not has_text:
            raise DataError(f"Head {spec.name!r}: it reads report tokens, but there are none: give text.")
        for part, rows in (("validation", spec.validation_rows), ("test", spec.test_rows)):
            if rows is not None and len(np.unique(targets[rows])) < 2:
                raise DataError(
                    f"Head {spec.name!r}: its {part} rows are all of one class, so there is no AUC: draw another split."
                )
        if spec.teacher and np.isin(by_name[spec.teacher].train_rows, spec.evaluation_rows).any():
            raise DataError(
                f"Head {spec.name!r}: its teacher {spec.teacher!r} was trained on rows that it is evaluated on."
            )


def group_specs(specs: Sequence[HeadSpec], costs: dict[str, int], budget: int) -> list[list[HeadSpec]]:
    """Groups of heads that share draw, rows and epochs, teachers' groups first, none costlier than `budget` bytes.

    `costs`: bytes of each head, by name.
    """
    shared = {}
    for spec in specs:
        facts = spec.facts()
        names = ("epochs", "train_rows", "validation_rows", "test_rows")
        shared[spec.name] = (spec.method in DISTILLED, spec.draw, *(facts[name] for name in names))
    ordered = sorted(specs, key=lambda spec: spec.method in DISTILLED)
    return _filled(ordered, lambda spec: costs[spec.name], budget, lambda spec: shared[spec.name])


def plan_waves(groups: Sequence[list[HeadSpec]], costs: dict[str, int], budget: int) -> list[list[list[HeadSpec]]]:
    """Groups that are trained at the same time: teachers' before their students', in few waves within `budget` bytes.

    Finished groups count too, so that a run that was stopped continues with the same waves.
    """
    return _filled(groups, lambda group: sum(costs[spec.name] for spec in group), budget,
                   lambda group: group[0].method in DISTILLED)  # fmt: skip


def _filled(items: Sequence, cost: Callable[[Any], int], budget: int, kind: Callable[[Any], Any]) -> list[list]:
    """Items in few lists, each of one kind and within the budget (first fit); a costlier item is a list of its own."""
    filled: list[list] = []
    for item in items:
        for some in filled:
            if kind(some[0]) == kind(item) and sum(map(cost, some)) + cost(item) <= budget:
                some.append(item)
                break
        else:
            filled.append([item])
    return filled
