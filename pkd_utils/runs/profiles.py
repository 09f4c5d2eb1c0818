"""Parameter files: one a notebook and profile, each describing one run or many.

`params/<profile>/<study>/<NN-verb-noun>.yml` holds the values of one run as `name: value` lines, or these sections:

- `base`: values that all runs share;
- `each`: axes, whose product is the runs, in this order; an axis maps labels to the values that differ, or is a list
  of values, whose label is the value with `-` for `_`. A run is named by its labels joined by `-`; "" adds nothing;
- `variants`: labels, each with the values that differ; every run of the product is also made as each of these;
- `exceptions`: names (with `*`), each with the values that differ there, or null where there is no such run.

What comes later in this list wins. `{name}` in a text stands for another value of the same run, which need not be a
parameter; as the whole text it keeps its type, and a list in braces within an item of a list makes one item of each.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from pkd_utils.runs import paths
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.parameters import MACHINE, SECTIONS, declared, nearest, read_file

QUICK = "quick"  # the profile whose runs are the notebooks themselves, with their defaults
_BRACES = re.compile(r"\{(\w+)\}")


def files_of(profile: str) -> list[Path]:
    """The files that describe a profile's runs: `params/<profile>/*/*.yml`; of `quick` the notebooks."""
    quick = profile == QUICK
    folder = paths.PROJECT_ROOT.joinpath(*(["notebooks"] if quick else ["params", profile]))
    files = sorted(folder.glob("*/*.ipynb" if quick else "*/*.yml"))
    if not files:
        raise DataError(f"There is no profile {profile!r}: {folder} holds no parameter files.")
    return files


def notebook_of(file: Path) -> str:
    """`params/demo/mmpkd/03-distil-student.yml` -> `mmpkd/03-distil-student`; `.<word>` may stand before `.yml`.

    A notebook's own path gives its name too.
    """
    return f"{file.parent.name}/{file.name.split('.')[0]}"


def shown(file: Path) -> str:
    """A file's path as a sentence names it: relative to the project where it lies in it."""
    return str(file.relative_to(paths.PROJECT_ROOT) if file.is_relative_to(paths.PROJECT_ROOT) else file)


def _refuse(file: Path, why: str) -> NoReturn:
    raise DataError(f"{shown(file)}: {why}") from None


def read_runs(file: Path) -> dict[str, dict[str, Any]]:
    """The runs that a parameter file describes, in order: name -> values, without the notebook's defaults.

    A notebook in place of the file describes one run, of nothing but its defaults.

    Raises
    ------
    DataError
        If the file is not strict YAML of the form that this module describes, or has a name that is no parameter of the
        notebook, one of the machine, or one that nothing explains.
    """
    if file.suffix == ".ipynb":
        return {"": {}}
    content = read_file(file)
    known, used, given = declared(notebook_of(file)), set(), set()
    if not set(content) & set(SECTIONS):
        content = {"base": content}
    for name, section in content.items():
        if name not in SECTIONS:
            _refuse(file, f"{name} stands beside {', '.join(SECTIONS)}: put it under base.")
        if not isinstance(section, dict):
            _refuse(file, f"{name} must hold `name: value` lines.")
    runs: dict[str, dict[str, Any]] = {}
    for label, words in _product(file, content):
        if label in runs or not re.fullmatch(r"[\w.-]*", label):
            _refuse(file, f"{label!r} names two runs, or is no name of letters, digits, _ . and -.")
        given |= set(words)
        try:
            runs[label] = {name: _filled(words[name], words, used) for name in words if name in known}
        except KeyError as error:
            _refuse(file, f"unknown {{{error.args[0]}}}{nearest(error.args[0], words)}")
        except (RecursionError, TypeError):
            _refuse(file, f"run {label!r}: names in braces lead in a circle or to no text.")
    for name in sorted(given - set(known) - used):
        _refuse(file, f"unknown parameter {name} for {notebook_of(file)}{nearest(name, known)}")
    for name in sorted(given & MACHINE):
        _refuse(file, f"{name} belongs to the machine: put it into params/local.yml.")
    return runs


def _product(file: Path, content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and words, braces not yet filled, of every run."""
    base, each, variants, excepted = (content.get(name, {}) for name in SECTIONS)
    axes = []
    for axis, entries in [*each.items(), ("variants", {"": {}, **variants})]:
        pairs = list(entries.items()) if isinstance(entries, dict) else []
        if isinstance(entries, list):
            pairs = [(str(value).replace("_", "-"), {axis: value}) for value in entries]
        if not pairs or not all(isinstance(values, dict) for _, values in pairs):
            _refuse(file, f"{axis} must be a list of values, or labels with the values that differ.")
        axes.append(pairs)
    unmet = set(excepted)
    for chosen in itertools.product(*axes):
        label = "-".join(label for label, _ in chosen if label)
        changes = {pattern: change for pattern, change in excepted.items() if fnmatchcase(label, pattern)}
        if not all(isinstance(change, dict | None) for change in changes.values()):
            _refuse(file, f"exceptions: {label!r} must hold `name: value` lines, or be null.")
        unmet -= set(changes)
        if None not in changes.values():
            yield label, functools.reduce(dict.__or__, [base, *(values for _, values in chosen), *changes.values()])
    for pattern in unmet:
        _refuse(file, f"there is no run {pattern!r} for exceptions.")


def _filled(value: Any, words: dict[str, Any], used: set[str]) -> Any:
    """A value with each `{name}` replaced; the names go into `used`."""
    if isinstance(value, dict):
        return {_filled(key, words, used): _filled(item, words, used) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, one, used) for item in value for one in _words_of_items(item, words)]
    if not isinstance(value, str):
        return value
    used |= set(_BRACES.findall(value))
    if whole := _BRACES.fullmatch(value):
        return _filled(words[whole[1]], words, used)
    return _BRACES.sub(lambda found: "" + _filled(words[found[1]], words, used), value)  # a text, or a TypeError


def _words_of_items(item: Any, words: dict[str, Any]) -> list[dict[str, Any]]:
    """The words of each of the items that one item of a list stands for."""
    names = _BRACES.findall(item) if isinstance(item, str) else []
    lists = [name for name in names if isinstance(words.get(name), list)]
    return [{**words, name: one} for name in lists for one in words[name]] or [words]
