"""Strict notebook parameters: names and types are checked before anything runs.

papermill only warns of a parameter that the notebook does not have, turns `0012` into 12 and leaves types alone. Each
notebook therefore declares its parameters once, as annotated assignments in its cell tagged `parameters`, and calls
`check` right after: a misspelt name or a value of the wrong type stops the run with one sentence.
"""

import ast
import json
import types
from pathlib import Path
from typing import Any

import pydantic

from pkd_utils.runs import paths
from pkd_utils.runs.errors import DataError

# Parameters that say how a machine does the work, not what is computed: no part of a run's identity.
MACHINE = frozenset({"device", "memory_gib", "workers", "threads", "encode_batch_size", "text_batch_size"})

# What an annotation may say; evaluated with nothing else in reach.
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict, "None": None}


def notebook_path(notebook: str) -> Path:
    """Source notebook of `<study>/<NN-verb-noun>`."""
    return paths.PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb"


def code_cells(path: Path) -> list[dict[str, Any]]:
    """Code cells of a notebook file as dictionaries with `source` joined to one string."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def declared(notebook: str) -> dict[str, tuple[Any, Any]]:
    """Parameters of a notebook: name -> (type, default), from its cell tagged `parameters`.

    Raises
    ------
    DataError
        If the notebook has not exactly one such cell, or a line of it is not `name: type = literal`.
    """
    path = notebook_path(notebook)
    if not path.exists():
        raise FileNotFoundError(f"There is no notebook {notebook!r}: expected the file notebooks/{notebook}.ipynb.")
    cells = [c for c in code_cells(path) if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(cells) != 1:
        raise DataError(f"notebooks/{notebook}.ipynb has {len(cells)} cells tagged `parameters`; it needs exactly one.")
    found = {}
    for node in ast.parse(cells[0]["source"]).body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise DataError(
                f"Line {node.lineno} of the parameters of notebooks/{notebook}.ipynb is not `name: type = value`."
            )
        kind = eval(ast.unparse(node.annotation), {"__builtins__": {}}, dict(_TYPES))
        found[node.target.id] = (kind, ast.literal_eval(node.value))
    return found


def resolve(notebook: str, values: dict[str, Any]) -> dict[str, Any]:
    """Fill defaults in and check `values`, for example a parameter file's, against the declaration.

    Returns
    -------
    dict
        Every declared parameter, in the order of declaration; ints given for floats become floats.

    Raises
    ------
    DataError
        Unknown name (with the nearest declared ones) or wrong type.
    """
    parameters = declared(notebook)
    unknown = sorted(set(values) - set(parameters))
    if unknown:
        raise DataError(
            f"Unknown parameter {', '.join(unknown)} for {notebook}; it knows: {', '.join(sorted(parameters))}."
        )
    resolved = {}
    for name, (kind, default) in parameters.items():
        value = values.get(name, default)
        try:
            resolved[name] = pydantic.TypeAdapter(kind).validate_python(value, strict=True)
        except pydantic.ValidationError as error:
            expected = getattr(kind, "__name__", str(kind)) if not hasattr(kind, "__origin__") else str(kind)
            raise DataError(
                f"Parameter {name} of {notebook} must be {expected}, got {type(value).__name__} {value!r} "
                f"({error.errors()[0]['msg']})."
            ) from None
    return resolved


def identifying(values: dict[str, Any]) -> dict[str, Any]:
    """The values that a run's result depends on: all but those of the machine."""
    return {name: value for name, value in values.items() if name not in MACHINE}


def check(notebook: str, namespace: dict[str, Any]) -> types.SimpleNamespace:
    """Check the parameters in a notebook's namespace, after papermill's injection.

    Parameters
    ----------
    notebook : str
        `<study>/<NN-verb-noun>`, the file under `notebooks/`.
    namespace : dict
        `globals()` of the notebook.

    Returns
    -------
    types.SimpleNamespace
        The checked values, one attribute a parameter.
    """
    known = declared(notebook)
    injected = _injected(namespace.get("In", []))
    unknown = injected - set(known)
    if unknown:
        resolve(notebook, dict.fromkeys(unknown))  # refuses, naming them
    return types.SimpleNamespace(**resolve(notebook, {name: namespace[name] for name in known if name in namespace}))


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
    """Read a flat YAML parameter file as papermill would."""
    import yaml

    values = yaml.safe_load(Path(path).read_text()) or {}
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold `name: value` lines, one a parameter.")
    return values
