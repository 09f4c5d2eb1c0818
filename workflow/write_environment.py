"""One source of pins, `workflow/pins.lock`, and what is written from it: constraints.txt and environment.yml.

`python workflow/write_environment.py` writes both; `--check` only compares (the tests and pre-commit call it).
`--resolve` first lets uv resolve pyproject.toml for Python 3.11 and 3.12 and every platform: pins that still fit stay,
`--upgrade NAME` moves one. pins.lock holds the hashes of every file of a version, but for torch, whose CPU build
comes from another place than its CUDA build. constraints.txt is the same list for pip, without hashes;
environment.yml, for conda users, names the direct dependencies. No CUDA package is named there: pip brings what torch
asks for.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from setup_env import pip_sources

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "workflow" / "pins.lock"
EXTRAS = ("book", "test", "lab")
WITHOUT_HASH = ("torch",)  # its builds for CPU and for CUDA are different files
LOCK_HEADER = "# Written by `python workflow/write_environment.py --resolve` from pyproject.toml.\n"
HEADER = "# Written by workflow/write_environment.py from pyproject.toml and workflow/pins.lock.\n"


def normal(name: str) -> str:
    """Package name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """`torch==2.13.0` -> `torch`."""
    return normal(re.match(r"[A-Za-z0-9._-]+", requirement).group(0))


def entries(lock: str) -> list[str]:
    """Text of each pin: a line `name==version ; marker` and the lines of its hashes."""
    return [entry for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.M) if "==" in entry]


def bare(entry: str) -> str:
    """A pin without its hashes."""
    return entry.splitlines()[0].rstrip(" \\") + "\n"


def without_some_hashes(lock: str) -> str:
    """The lock as uv wrote it, the hashes of `WITHOUT_HASH` taken out."""
    kept = (bare(entry) if requirement_name(entry) in WITHOUT_HASH else entry for entry in entries(lock))
    return LOCK_HEADER + "".join(kept)


def resolve(upgrade: list[str]) -> None:
    """Let uv write pins.lock again.

    Asked is the package index alone, PyPI or its mirror: it has every file of a version, while the further sources that
    pip may be configured with hold those of one machine.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "-q", str(ROOT / "pyproject.toml"), "--all-extras"]
    command += ["--universal", "--generate-hashes", "--no-annotate", "--no-header", "-o", str(LOCK)]
    command += [word for name in upgrade for word in ("--upgrade-package", name)]
    command += [word for url in pip_sources()["index-url"] for word in ("--index-url", url)]
    before = LOCK.read_text()
    # Without the hashes of before, which uv would keep instead of asking the index.
    LOCK.write_text("".join(bare(entry) for entry in entries(before)))
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        LOCK.write_text(before)
        sys.exit("No resolution: uv says above what is wrong; pins.lock is as it was.")
    LOCK.write_text(without_some_hashes(LOCK.read_text()))


def constraints(lock: str) -> str:
    """Text of constraints.txt; ValueError if a package is pinned to two versions."""
    pins = [re.match(r"[^ ;\\\n]+", entry).group(0) for entry in entries(lock)]
    names = [requirement_name(pin) for pin in pins]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        said = f"pins.lock has two versions of {', '.join(twice)}"
        raise ValueError(f"{said}: bound it in pyproject.toml, resolve again.")
    return HEADER + "".join(f"{pin}\n" for pin in pins)


def environment(lock: str) -> str:
    """Text of environment.yml; ValueError if a direct dependency has no pin, or one that contradicts pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]
    pins = {requirement_name(line): line for line in constraints(lock).splitlines() if not line.startswith("#")}
    for requirement in wanted:
        name = requirement_name(requirement)
        if name not in pins:
            todo = "run workflow/write_environment.py --resolve."
            raise ValueError(f"{name} is in pyproject.toml and has no pin: {todo}")
        if "==" in requirement and requirement.split("==")[1] != pins[name].split("==")[1]:
            raise ValueError(f"pyproject.toml wants {requirement}, pins.lock says {pins[name]}: resolve again.")
    listed = sorted({pins[requirement_name(requirement)] for requirement in wanted})
    body = ["# conda env create -f environment.yml && conda activate pkd-utils"]
    body += ["name: pkd-utils", "channels: [conda-forge, nodefaults]", "dependencies:", "  - python>=3.11,<3.13"]
    # The constraints pin what these bring along; pip knows which of it this platform needs.
    body += ["  - pip", "  - make", "  - pip:", "      - -c constraints.txt"]
    body += [f"      - {pin}" for pin in listed]
    body += ["      - -e ."]
    return HEADER + "\n".join(body) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 if a written file is stale")
    parser.add_argument("--resolve", action="store_true", help="let uv resolve pyproject.toml again")
    upgrade = {"action": "append", "default": [], "metavar": "NAME", "help": "a package to move; with --resolve"}
    parser.add_argument("--upgrade", **upgrade)
    given = parser.parse_args()
    if given.resolve:
        resolve(given.upgrade)
    lock, stale = LOCK.read_text(), False
    for name, text in (("constraints.txt", constraints(lock)), ("environment.yml", environment(lock))):
        target = ROOT / name
        if target.exists() and target.read_text() == text:
            continue
        stale = True
        if given.check:
            print(f"{name} is stale: run python workflow/write_environment.py", file=sys.stderr)
            continue
        temporary = target.with_name(f".tmp-{name}")
        temporary.write_text(text)
        temporary.replace(target)
    return int(stale and given.check)


if __name__ == "__main__":
    sys.exit(main())
