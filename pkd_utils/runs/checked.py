"""Options and arguments checked by their types: a wrong value is one sentence that names it, not a dump of fields.

`config` makes a frozen dataclass of a class, `checked` checks a function's arguments; both through pydantic, so that
`int`, `Literal["a", "b"]` or `Annotated[float, Field(gt=0)]` say what is allowed where a reader looks for it.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import pydantic
from pydantic.dataclasses import dataclass

from pkd_utils.runs.errors import DataError

T = TypeVar("T")
SETTINGS = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid", allow_inf_nan=False)


def ordered(pair: tuple[float, float]) -> tuple[float, float]:
    """A range (low, high) as it is; DataError if it is reversed."""
    if pair[0] > pair[1]:
        raise DataError("give (low, high) with low <= high.")
    return pair


def sentence(owner: Callable, error: pydantic.ValidationError, label: str = "") -> DataError:
    """The first violation as one sentence: `StudentConfig: epochs = 0: input should be greater than or equal to 1.`

    `label` stands in place of the owner's name; an unknown option is then answered with those that it has.
    """
    first = error.errors(include_url=False)[0]
    place, said = list(first["loc"]), first["msg"][:1].lower() + first["msg"][1:] + "."
    if first["type"] == "value_error":  # in the words of our own: of a `__post_init__`, or of one field's check
        said = str(first["ctx"]["error"])
        if not place:
            return DataError(said)
    names = list(inspect.signature(owner).parameters)
    if place and isinstance(place[0], int) and place[0] < len(names):  # pydantic numbers what was given by position
        place[0] = names[place[0]]
    if label and first["type"] == "unexpected_keyword_argument":
        return DataError(f"{label} has no option {place[0]!r}; it has {', '.join(names[1:])}.")
    place = ".".join(str(part) for part in place) or "value"
    given = "" if first["type"] in ("missing", "missing_argument") else f" = {first['input']!r}"
    return DataError(f"{label or owner.__name__}: {place}{given}: {said}")


def config(cls: type[T]) -> type[T]:
    """A frozen dataclass whose fields are checked when it is made: DataError of an unknown name or a wrong value."""
    made = dataclass(frozen=True, config=SETTINGS)(cls)
    construct = made.__init__

    @functools.wraps(construct)
    def init(self, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise sentence(cls, error) from None

    made.__init__ = init
    return made


def checked(function: Callable[..., T], label: str = "") -> Callable[..., T]:
    """The function with its arguments checked against their annotations at every call; not for hot inner functions.

    What an annotation does not allow is a DataError, in which `label` names the function; see `sentence`.
    """
    call = pydantic.validate_call(config=SETTINGS)(function)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        try:
            return call(*args, **kwargs)
        except pydantic.ValidationError as error:
            raise sentence(function, error, label) from None

    return wrapped
