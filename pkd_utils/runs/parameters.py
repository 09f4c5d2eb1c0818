"""Strict notebook parameters: files, names and types are checked before anything runs.

papermill only warns of a parameter that the notebook does not have, turns `0012` into 12 and leaves types alone. Each
notebook therefore declares its parameters once, as annotated assignments in its cell tagged `parameters`, and calls
`check` right after: a misspelt name or a value of the wrong type stops the run with one sentence.
"""

import ast
import contextlib
import difflib
import json
import math
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pydantic
import yaml

from pkd_utils.runs import local, paths, strict_yaml
from pkd_utils.runs.errors import DataError

# Parameters that say how a machine does the work, not what is computed: no part of a run's identity, and set for all
# notebooks by params/local.yml.
MACHINE = frozenset(local.Local.model_fields) - {"roots", "cluster"}

# Parts of a parameter file that describes many runs (`profiles.py`); no notebook has parameters of these names.
SECTIONS = ("base", "each", "variants", "exceptions")

# What an annotation may say; evaluated with nothing else in reach.
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict, "None": None}
_LABEL = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.+-]*")


class Declared(NamedTuple):
    """One parameter of a notebook.

    A list may be empty where its default is, or its comment says what `[]:` means (`empty`); where that begins with the
    name of another parameter, as in `[]: grid_run's`, only if that one is given. A run is of a step that the default is
    of or the comment names, in full or by number, where they name any. A number is finite and not below 0 where default
    and comment do not say otherwise (`nan`, `-1`).
    """

    kind: Any
    default: Any
    empty: str
    comment: str


def notebook_path(notebook: str) -> Path:
    """Source notebook of `<study>/<NN-verb-noun>`."""
    return paths.PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb"


def code_cells(path: Path) -> list[dict[str, Any]]:
    """Code cells of a notebook file as dictionaries with `source` joined to one string."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def declared(notebook: str) -> dict[str, Declared]:
    """Parameters of a notebook, from its one cell tagged `parameters`, in lines of the form `name: type = literal`."""
    path = notebook_path(notebook)
    if not path.exists():
        raise FileNotFoundError(f"There is no notebook {notebook!r}: expected the file notebooks/{notebook}.ipynb.")
    cells = [c for c in code_cells(path) if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise DataError(f"notebooks/{notebook}.ipynb has {len(cells)} cells tagged `parameters`; it needs exactly one.")
    found, lines = {}, cells[0]["source"].splitlines()
    for node in ast.parse(cells[0]["source"]).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise DataError(
                f"Line {node.lineno} of the parameters of notebooks/{notebook}.ipynb is not `name: type = value`."
            )
        kind = eval(ast.unparse(node.annotation), {"__builtins__": {}}, dict(_TYPES))
        default = ast.literal_eval(node.value)
        comment = "".join(lines[node.lineno - 1 : node.end_lineno]).partition("#")[2]
        empty = comment.partition("[]: ")[2] or ("none" if default == [] else "")
        comment = comment.replace("this notebook", notebook.split("/")[-1])
        found[node.target.id] = Declared(kind, default, empty, comment)
    return found


def resolve(notebook: str, values: dict[str, Any], source: str = "") -> dict[str, Any]:
    """Fill defaults in and check `values`, for example a parameter file's, against the declaration.

    Returns
    -------
    dict
        Every declared parameter, in the order of declaration; ints given for floats become floats.

    Raises
    ------
    DataError
        Unknown name (with the nearest declared ones), wrong type, or a value that names no folder, no run, nothing or
        the same thing twice; `source`, such as the file, stands before the sentence.
    """
    parameters = declared(notebook)

    def refuse(why: str) -> NoReturn:
        raise DataError(f"{source}: {why}" if source else why) from None

    for name in values:
        if name not in parameters:
            refuse(f"Unknown parameter {name} for {notebook}{nearest(name, parameters)}")
    resolved = {}
    for name, one in parameters.items():
        kind, default, empty, _ = one
        value = values.get(name, default)
        try:
            resolved[name] = pydantic.TypeAdapter(kind).validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            expected = getattr(kind, "__name__", str(kind)) if not hasattr(kind, "__origin__") else str(kind)
            refuse(
                f"Parameter {name} of {notebook} must be {expected}, got {type(value).__name__} {value!r} "
                f"({error.errors()[0]['msg']})." + ("" if source else _for_papermill(name, kind, value))
            )
        instead = empty.partition("'")[0]
        given = instead not in parameters or values.get(instead, parameters[instead].default)
        may_be_empty = bool(empty and given)
        if why := _out_of_reach(name, resolved[name], one) or _unfit(name, resolved[name], one, may_be_empty):
            refuse(f"Parameter {name} of {notebook}: {why}.")
    return resolved


def _for_papermill(name: str, kind: Any, value: Any) -> str:
    """What to write instead of papermill's -p, which passes lists as text and turns 0012 into 12; or nothing."""
    for text in (value, f"[{value}]") if isinstance(value, str) and kind is not str else ():
        with contextlib.suppress(yaml.YAMLError, pydantic.ValidationError):
            pydantic.TypeAdapter(kind).validate_python(yaml.safe_load(text), strict=True)
            return f" papermill's -p passes this as text: write -y '{name}: {text}'."
    if kind is str and isinstance(value, int | float):
        return f""" papermill's -p turns 0012 into 12: write a text as it is, -y '{name}: "{value}"'."""
    return ""


def _misplaced(notebook: str, name: str, value: Any) -> None:
    """Refuse a relative path that exists below the caller's folder alone: notebooks read it from the project's."""
    if not name.endswith(("_root", "_file", "_folder", "_weights")) or not isinstance(value, str) or not value:
        return
    elsewhere = Path.cwd() != paths.PROJECT_ROOT
    if elsewhere and Path(value).exists() and not (there := paths.resolve(value)).exists():
        raise DataError(
            f"Parameter {name} of {notebook}: there is no {there}. A relative path is read from the project's folder, "
            f"data/ and runs/ from PKD_DATA and PKD_RUNS where they are set, from whichever folder papermill is "
            f"called; what you mean is {Path(value).resolve()}: write that."
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name."""
    names = sorted(filter(None, known))
    plain = {other.lower().replace("_", ""): other for other in names}
    near = [plain[other] for other in difflib.get_close_matches(name.lower().replace("_", ""), plain)]
    all_names = names or ["none by name"]
    some = all_names if len(all_names) < 50 else [*all_names[:10], f"... ({len(all_names)} in all)"]
    return f"; did you mean {' or '.join(near)}?" if near else f"; it knows: {', '.join(some)}."


def runs_of(name: str, value: Any) -> list[str]:
    """The references to runs in the value of a parameter; none of one that names no run."""
    values = [] if not name.endswith(("_run", "_runs")) else [value] if isinstance(value, str) else value
    return list(filter(None, values))


def _out_of_reach(name: str, value: Any, declared: Declared) -> str:
    """Why a number, or one of a list, is none to compute with, or nothing."""
    said = f"{declared.default} {declared.comment}"
    for number in value if isinstance(value, list) else [value]:
        least = 1 if name.endswith("batch_size") else 0 if isinstance(number, int) or name in MACHINE else -math.inf
        if isinstance(number, float) and not math.isfinite(number) and str(number) not in said.split():
            return f"{number} is not a finite number"
        if isinstance(number, int | float) and number < least and "-1" not in said:
            return f"{number} is less than {least}"
    return ""


def _unfit(name: str, value: Any, declared: Declared, may_be_empty: bool) -> str:
    """Why a value of the right type is not to be used, or nothing."""
    if name in ("run", "cohort") and not _LABEL.fullmatch(value):
        return f"{value!r} is to name a folder: letters, digits, and . _ + - within"
    if isinstance(value, list):
        if not value and not may_be_empty:
            return "the list is empty"
        told = [repr(item) for item in value]
        usual = declared.default or []
        if len(set(told)) < len(told) and len(set(usual)) == len(usual):
            return f"{next(item for item in told if told.count(item) > 1)} stands twice"
    steps = [reference.split("/")[2] for reference in runs_of(name, declared.default)]
    steps += re.findall(r"\b\d\d(?:-[a-z]+)*\b", declared.comment)
    for reference in runs_of(name, value):
        parts = reference.split("/")
        if not (len(parts) == 4 and all(map(_LABEL.fullmatch, parts))):
            return f"{reference!r} is to name a run: study/cohort/step/label"
        if steps and not any(f"{parts[2]}-".startswith(f"{step}-") for step in steps):
            return f"{reference!r} is to name a run of {' or '.join(dict.fromkeys(steps))}"
    return ""


def identifying(values: dict[str, Any]) -> dict[str, Any]:
    """The values that a run's result depends on: all but those of the machine."""
    return {name: value for name, value in values.items() if name not in MACHINE}


def check(notebook: str, namespace: dict[str, Any]) -> types.SimpleNamespace:
    """The parameters in a notebook's namespace, its `globals()` after papermill's injection, checked by `resolve`.

    A machine's parameter that neither papermill nor the reader has set is that of `params/local.yml`.
    """
    known = declared(notebook)
    injected = _injected(namespace.get("In", []))
    unknown = injected - set(known)
    if unknown & set(SECTIONS):
        raise DataError(
            "This parameter file describes several runs: `python -m pkd_utils run FILE NAME` makes one, and "
            "`python -m pkd_utils show FILE NAME` prints what papermill takes."
        )
    if unknown:
        resolve(notebook, dict.fromkeys(unknown))  # refuses, naming them
    values = {name: namespace[name] for name in known if name in namespace}
    for name in injected:
        _misplaced(notebook, name, values.get(name))
    values |= {
        name: value
        for name, value in local.read().machine.items()
        if name in known and name not in injected and values.get(name) in (None, known[name].default)
    }
    return types.SimpleNamespace(**resolve(notebook, values))


def _injected(history: list[str]) -> set[str]:
    """Names that papermill set, from the cell that it adds: it starts with the comment `# Parameters`."""
    names = set()
    for source in history:
        if source.startswith("# Parameters\n"):
            for node in ast.parse(source).body:
                if isinstance(node, ast.Assign):
                    names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def read_file(path: str | Path) -> dict[str, Any]:
    """What a parameter file holds: `name: value` lines of strict YAML."""
    values = strict_yaml.read(path) or {}
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold `name: value` lines, one a parameter.")
    return values
