"""`make mutants`: do the tests notice a changed token? A seeded sample of mutants of the core rooms, each tested alone.

A mutant is one small change of a library file (`<` to `<=`, `1` to `2`, `+` to `-`, `True` to `False`), as cosmic-ray
makes them. Places are drawn first and the change second, so that an addition, which can become ten things, is no
likelier than a comparison. Each mutant runs against its room's tests, those first that import the mutated module, for
60 s of processor time at most, in a copy of the working tree. It is killed if a test fails, or if the tests that import
it, which end within 20 s unchanged, do not end within the 60. Work is kept in `_build/mutants/` and goes on from there.

The score is killed over drawn, less the mutants that `workflow/mutants-equivalent.json` lists with the reason why no
test could see them. Exit code 1 under 0.9.
"""

import argparse
import ast
import contextlib
import difflib
import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from tqdm import tqdm

from pkd_utils.runs.files import Parts, hash_params, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
CORE = ("distillation", "localization", "statistics", "cohorts/tasks", "encoders/tokens", "images/ct")
EQUIVALENT = ROOT / "workflow" / "mutants-equivalent.json"
LIMIT_SECONDS, QUICK_SECONDS, GOAL = 60, 20, 0.9
# Decorators are options and exceptions are words; neither is a number of a result.
WORDS = re.compile("Decorator|Exception|Variable|ZeroIterationForLoop")
OPERATORS = [name for name in plugins.operator_names() if not WORDS.search(name)]


def silent_lines(source: str) -> set[int]:
    """Lines of annotations, of `raise` statements and of string constants: no test of behaviour is asked of them."""
    found: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        parts = [node] if isinstance(node, ast.Raise) else []
        parts += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for part in filter(None, parts):
            found |= set(range(part.lineno, part.end_lineno + 1))
    return found


def sites(path: Path) -> dict[tuple, list[tuple[str, int]]]:
    """Places of a file that can be changed -> the operators that can change them, with their count there."""
    source = path.read_text()
    nodes, silent = list(ast_nodes(get_ast(source))), silent_lines(source)
    found: dict[tuple, list[tuple[str, int]]] = {}
    for name in OPERATORS:
        operator, count = plugins.get_operator(name)(), 0
        for node in nodes:
            for start, stop in operator.mutation_positions(node):
                if start[0] not in silent:
                    found.setdefault((start, stop), []).append((name, count))
                count += 1
    return found


def sample(number: int, seed: int) -> list[dict]:
    """Draw mutants of the core rooms: file, its changed text, and the lines before and after.

    A place's number is a hash of its file, line and column, and the smallest numbers are drawn: a line that does not
    change keeps its mutant when others do.
    """
    places = []
    for path in sorted(path for room in CORE for path in (ROOT / "pkd_utils" / room).rglob("*.py")):
        lines, seen = path.read_text().splitlines(), Counter()
        for (start, stop), operators in sorted(sites(path).items()):
            place = (str(path.relative_to(ROOT)), lines[start[0] - 1], start[1], stop[1])
            seen[place] += 1
            places.append((int(hash_params([seed, *place, seen[place]]), 16), path, operators))
    drawn: list[dict] = []
    for draw, path, operators in sorted(places, key=lambda place: place[0])[:number]:
        name, count = operators[draw % len(operators)]
        before = path.read_text()
        after = mutate_code(before, plugins.get_operator(name)(), count)
        lines = [x for x in difflib.ndiff(before.splitlines(), after.splitlines()) if x[:2] in ("- ", "+ ")]
        change = {sign: " ".join(x[2:].strip() for x in lines if x[0] == sign) for sign in "-+"}
        drawn.append({"file": str(path.relative_to(ROOT)), "line": change["-"], "becomes": change["+"], "text": after})
    return drawn


@functools.cache
def tests_of(file: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The room's test files that are named after a module or import it; and the room's others."""
    module = Path(file).with_suffix("")
    tests = sorted((ROOT / "tests" / module.parts[1]).rglob("test_*.py"))
    package, name = ".".join(module.parts[:-1]), module.parts[-1]
    pattern = rf"{re.escape(package)}\.{name}\b|from {re.escape(package)} import [^#\n]*\b{name}\b"
    pattern += rf"|from {re.escape(package)} import \([^)]*\b{name}\b"
    direct = [test for test in tests if test.stem == f"test_{name}" or re.search(pattern, test.read_text())]
    near = sorted(direct or tests, key=lambda test: name not in test.stem)
    far = [test for test in tests if test not in near]
    return tuple(tuple(str(test.relative_to(ROOT)) for test in part) for part in (near, far))


def run_tests(tree: Path, tests: Sequence[str], limit: float) -> tuple[str, float]:
    """Run tests in a copy of the tree: ("passed", "failed" or "timeout", seconds of processor time).

    What waits for ever is stopped after ten times the limit.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    nobody, until = subprocess.DEVNULL, time.monotonic() + 10 * limit
    process = subprocess.Popen(command, cwd=tree, env=environment, stdout=nobody, stderr=nobody, start_new_session=True)
    resource.prlimit(process.pid, resource.RLIMIT_CPU, (round(limit), round(limit) + 5))
    ended, status, used = 0, 0, None
    while not ended and time.monotonic() < until:
        time.sleep(0.1)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):  # what it started
        os.killpg(process.pid, signal.SIGKILL)
    if not ended:
        process.wait()
    if not ended or os.WIFSIGNALED(status):
        return "timeout", limit
    return ("failed" if os.WEXITSTATUS(status) else "passed"), used.ru_utime + used.ru_stime


def copy_tree(folder: Path) -> Path:
    """A copy of the files that git knows, with the data beside them as a link."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("book/_static/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "data").mkdir(exist_ok=True)
    for item in (ROOT / "data").iterdir():
        if not (folder / "data" / item.name).exists():
            (folder / "data" / item.name).symlink_to(item.resolve())
    return folder


def outcomes(mutants: list[dict], parts: Parts) -> list[dict]:
    """Test every mutant that was not tested before, one copy of the tree a core."""
    with tempfile.TemporaryDirectory() as scratch:
        trees: SimpleQueue[Path] = SimpleQueue()
        workers = len(os.sched_getaffinity(0))
        for number in range(workers):
            trees.put(copy_tree(Path(scratch) / str(number)))

        def keep(name: str, value: object) -> None:
            with parts.write(name) as path:
                write_json(path, value)

        def unchanged(test: str) -> tuple[str, float]:
            name = f"unchanged-{hash_params(test)[:12]}.json"
            if name not in parts:
                tree = trees.get()
                result, seconds = run_tests(tree, [test], 10 * LIMIT_SECONDS)
                trees.put(tree)
                if result != "passed":
                    sys.exit(f"{test} fails without any change ({result}): mend it first.")
                keep(name, seconds)
            return test, read_json(parts.path(name))

        def one(mutant: dict) -> dict:
            name = f"{hash_params(mutant)[:16]}.json"
            if name not in parts:
                tree, (near, far) = trees.get(), tests_of(mutant["file"])
                original = (tree / mutant["file"]).read_text()
                (tree / mutant["file"]).write_text(mutant["text"])
                result, used = run_tests(tree, near, LIMIT_SECONDS)
                quick = sum(seconds[test] for test in near) < QUICK_SECONDS
                killed = result == "failed" or (result == "timeout" and quick)
                if result == "passed" and far and used < LIMIT_SECONDS - 1:
                    result, _ = run_tests(tree, far, LIMIT_SECONDS - used)
                    killed = result == "failed"
                (tree / mutant["file"]).write_text(original)
                trees.put(tree)
                keep(name, {**mutant, "result": result, "killed": killed})
            return read_json(parts.path(name))

        with ThreadPoolExecutor(workers) as pool:
            tests = sorted({test for mutant in mutants for part in tests_of(mutant["file"]) for test in part})
            seconds = dict(tqdm(pool.map(unchanged, tests), total=len(tests), desc="tests without a change"))
            return list(tqdm(pool.map(one, mutants), total=len(mutants), desc="mutants"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workflow.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, default=200, help="mutants to draw (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    given = parser.parse_args()
    mutants = sample(given.number, given.seed)
    code = {str(p): p.read_text() for room in ("pkd_utils", "tests") for p in sorted((ROOT / room).rglob("*.py"))}
    parts = Parts(ROOT / "_build" / "mutants", {"code": hash_params(code)})
    results = outcomes(mutants, parts)
    known = [(one["file"], one["line"], one["becomes"]) for one in json.loads(EQUIVALENT.read_text())]
    counted = [r for r in results if (r["file"], r["line"], r["becomes"]) not in known]
    for one in counted:
        if not one["killed"]:
            print(f"{one['file']}: survived ({one['result']})\n  - {one['line']}\n  + {one['becomes']}")
    killed = sum(one["killed"] for one in counted)
    rooms = {room: [r["killed"] for r in counted if r["file"].startswith(f"pkd_utils/{room}/")] for room in CORE}
    print("; ".join(f"{room} {sum(of)} of {len(of)}" for room, of in rooms.items()))
    score = killed / max(1, len(counted))
    listed = len(results) - len(counted)
    print(f"{killed} of {len(counted)} mutants were noticed ({score:.3f}; goal {GOAL}); {listed} listed as equivalent")
    return int(score < GOAL)


if __name__ == "__main__":
    sys.exit(main())
