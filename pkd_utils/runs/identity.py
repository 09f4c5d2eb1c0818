"""What identifies a run: parameters, code, the content of the files and the runs that it reads.

The code of a run is its notebook's code cells and the `pkd_utils` modules they import, directly or through others,
compared as syntax trees without docstrings: a comment or a sentence may change, a result may not. Parameters that
name files made by others count by the content of those files (`index.py`), not by where they lie.
"""

import ast
import functools
import glob
import hashlib
import importlib
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from pkd_utils.runs import index, paths
from pkd_utils.runs.files import hash_params
from pkd_utils.runs.parameters import code_cells, identifying, notebook_path, runs_of

_FILES = ("outcomes", "protocol", "text_vocabulary")  # parameters that name files, beside those whose end says so
_ENTRY = re.compile(r"pkd_utils(\.\w+)+:\w+")


def _without_docstrings(source: str) -> str:
    """Syntax tree of `source` as text, docstrings removed."""
    tree, documented = ast.parse(source), ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _module_file(module: str) -> Path | None:
    """File of a `pkd_utils` module, or None if the name is not one."""
    base = paths.PROJECT_ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


@functools.cache
def _imports(source: str) -> frozenset[str]:
    """`pkd_utils` modules that `source` imports anywhere in it, or names in a text "module:function" for later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _ENTRY.fullmatch(node.value):
            found.add(node.value.split(":")[0])
    return frozenset(name for name in found if name.split(".")[0] == "pkd_utils" and _module_file(name))


def modules_used(source: str, but: Set[str] = frozenset()) -> list[str]:
    """`pkd_utils` modules that `source` reaches, sorted, `but` some and what only they reach."""
    reached: set[str] = set(but)
    waiting = set(_imports(source))
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        # Importing a submodule runs its packages' __init__ too.
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
        file = _module_file(module)
        waiting |= (parents | _imports_of(file, file.stat().st_mtime_ns)) - reached
    return sorted(reached - but)


@functools.cache
def _imports_of(path: Path, mtime_ns: int) -> set[str]:
    return _imports(path.read_text())


@functools.cache
def _tree_of(path: Path, mtime_ns: int) -> str:
    return _without_docstrings(path.read_text())


def hash_modules(modules: Iterable[str], start: str = "") -> str:
    """SHA-256 of library modules as syntax trees without docstrings, after the text `start`."""
    digest = hashlib.sha256(start.encode())
    for module in modules:
        path = _module_file(module)
        digest.update(f"\n{module}\n{_tree_of(path, path.stat().st_mtime_ns)}".encode())
    return digest.hexdigest()


def code_hash(notebook: str) -> str:
    """SHA-256 of the notebook's code (without its parameters cell) and of the library modules it reaches."""
    cells = code_cells(notebook_path(notebook))
    cells = [cell for cell in cells if "parameters" not in cell.get("metadata", {}).get("tags", [])]
    source = "\n".join(cell["source"] for cell in cells)
    return hash_modules(modules_used(source), _without_docstrings(source))


def references(parameters: dict[str, Any]) -> list[str]:
    """Runs that these parameters name: values of `*_run` (one) and `*_runs` (a list); empty means none."""
    return [reference for name, value in parameters.items() for reference in runs_of(name, value)]


def input_paths(parameters: dict[str, Any]) -> dict[str, str]:
    """Files and folders of others that these parameters name, also one level down in options ("options.ct_root").

    They are the values of `*_root`, `*_weights`, `outcomes`, `protocol`, `text_vocabulary`, and a `text_encoder` that
    is a path; the words "", "random" and "simulated" name none.
    """
    found = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": path for inner, path in input_paths(value).items()}
        elif not isinstance(value, str) or value in ("", "random", "simulated"):
            continue
        elif name.endswith(("_root", "_weights")) or name in _FILES or (name == "text_encoder" and "/" in value):
            found[name] = value
    return found


def foreign_paths(parameters: dict[str, Any]) -> dict[str, str]:
    """`input_paths` without the root of a simulated cohort, which the run itself writes first."""
    own = parameters.get("simulate_patients")
    return {name: value for name, value in input_paths(parameters).items() if not (own and name.endswith("_root"))}


def _patterns(name: str, parameters: dict[str, Any]) -> tuple[str, ...]:
    """Which files below a folder that a parameter names are read: what the source says; of weights and others all."""
    if not name.endswith("_root"):
        return ("*",)
    if parameters.get("volumes"):
        return (f"{glob.escape(parameters['volumes'])}/*", "SIMULATED.txt")
    sources = importlib.import_module("pkd_utils.cohorts").SOURCES  # by its name: rooms below do not import it
    source = sources.get(parameters.get("source", parameters["cohort"]))
    patterns = source.files if source else ("*",)
    if parameters.get("radiographs_run"):  # then they are that run's
        patterns = tuple(pattern for pattern in patterns if not pattern.startswith("radiographs/"))
    return (*patterns, "SIMULATED.txt")


def inputs(parameters: dict[str, Any], *, written: bool = False) -> dict[str, str | None]:
    """Content of the files of others that a run reads: parameter -> SHA-256 over paths and hashes, None if not here.

    `written` adds the root of a simulated cohort, whose recipe identifies it.
    """
    found: dict[str, str | None] = {}
    for name, value in (input_paths if written else foreign_paths)(parameters).items():
        path = paths.resolve(value)
        hashed = index.hashes(path, _patterns(name, parameters))
        whole = next(iter(hashed.values())) if path.is_file() else index.digest(hashed)
        found[name] = whole if hashed else None
    return found


def run_hash(
    notebook: str, parameters: dict[str, Any], code: str, upstream: dict[str, str], read: dict[str, str | None]
) -> str:
    """Identity of a run (64 hex digits).

    It follows its notebook's name, its resolved parameters but for the machine's, its `code_hash`, the identity of each
    run that it reads (`upstream`, by reference) and, in place of the paths, its `inputs` (`read`).
    """
    facts = {"notebook": notebook, "code": code, "upstream": upstream, "inputs": read}
    return hash_params(facts | {"parameters": _without_paths(identifying(parameters))})


def _without_paths(parameters: dict[str, Any]) -> dict[str, Any]:
    named = input_paths(parameters)
    plain = {name: value for name, value in parameters.items() if name not in named}
    return {name: _without_paths(value) if isinstance(value, dict) else value for name, value in plain.items()}


def run_folder(notebook: str, parameters: dict[str, Any], run_identity: str) -> Path:
    """Folder of a finished run: `<runs>/<study>/<cohort>/<step>/<label>-<first 10 digits>`."""
    study, step = notebook.split("/")
    return paths.runs_dir() / study / parameters["cohort"] / step / f"{parameters['run']}-{run_identity[:10]}"
