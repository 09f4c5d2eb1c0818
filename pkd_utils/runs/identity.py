"""What identifies a run: parameters, code, and the runs it reads; and what describes the machine it ran on.

The code of a run is its notebook's code cells and the `pkd_utils` modules they import, directly or through others,
compared as syntax trees without docstrings: a comment or a sentence may change, a result may not.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from pkd_utils.runs import paths
from pkd_utils.runs.files import hash_params
from pkd_utils.runs.parameters import code_cells, identifying, notebook_path

_ENTRY = re.compile(r"pkd_utils(\.\w+)+:\w+")


def _without_docstrings(source: str) -> str:
    """Syntax tree of `source` as text, docstrings removed."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return ast.dump(tree)


def _module_file(module: str) -> Path | None:
    """File of a `pkd_utils` module, or None if the name is not one."""
    base = paths.PROJECT_ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def _imports(source: str) -> set[str]:
    """`pkd_utils` modules that `source` imports anywhere in it, or names in a text "module:function" for later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _ENTRY.fullmatch(node.value):
            found.add(node.value.split(":")[0])
    return {name for name in found if name.split(".")[0] == "pkd_utils" and _module_file(name)}


def modules_used(source: str, but: Set[str] = frozenset()) -> list[str]:
    """`pkd_utils` modules that `source` reaches, sorted, `but` some and what only they reach."""
    reached: set[str] = set(but)
    waiting = _imports(source)
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        # Importing a submodule runs its packages' __init__ too.
        parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
        waiting |= (parents | _imports(_module_file(module).read_text())) - reached
    return sorted(reached - but)


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
    found: list[str] = []
    for name, value in parameters.items():
        if name.endswith("_run") and value:
            found.append(value)
        elif name.endswith("_runs"):
            found += [item for item in value if item]
    return found


def run_hash(notebook: str, parameters: dict[str, Any], code: str, upstream: dict[str, str]) -> str:
    """Identity of a run (64 hex digits)."""
    return hash_params(
        {"notebook": notebook, "parameters": identifying(parameters), "code": code, "upstream": upstream}
    )


def run_folder(notebook: str, parameters: dict[str, Any], run_identity: str) -> Path:
    """Folder of a run relative to the runs folder: `<study>/<cohort>/<step>/<label>-<first 10 digits>`."""
    study, step = notebook.split("/")
    return Path(study, parameters["cohort"], step, f"{parameters['run']}-{run_identity[:10]}")
