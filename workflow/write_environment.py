"""Write environment.yml for conda users from pyproject.toml and constraints.txt: the same pins, one source.

`python workflow/write_environment.py` writes; `--check` only compares (the tests call it). It names the direct
dependencies with their pins; constraints.txt pins the rest. No CUDA package is named: pip brings what torch asks for.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("book", "test", "lab")
HEADER = """\
# Written by workflow/write_environment.py from pyproject.toml and constraints.txt: change those, then run it again.
# conda env create -f environment.yml && conda activate pkd-utils
"""


def normal(name: str) -> str:
    """Package name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """`torch==2.13.0` -> `torch`."""
    return normal(re.match(r"[A-Za-z0-9._-]+", requirement).group(0))


def environment() -> str:
    """Text of environment.yml.

    Raises
    ------
    ValueError
        If a direct dependency has no pin in constraints.txt, or a pin there contradicts pyproject.toml.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {requirement_name(line): line for line in lines if line}
    for requirement in wanted:
        name = requirement_name(requirement)
        if name not in pins:
            raise ValueError(f"{name} is in pyproject.toml and has no pin in constraints.txt: add one.")
        if "==" in requirement and requirement.split("==")[1] != pins[name].split("==")[1]:
            raise ValueError(f"pyproject.toml wants {requirement}, constraints.txt says {pins[name]}: make them equal.")
    listed = sorted({pins[requirement_name(requirement)] for requirement in wanted})
    body = ["name: pkd-utils", "channels: [conda-forge, nodefaults]", "dependencies:", "  - python>=3.11,<3.13"]
    # The constraints pin what these bring along; pip knows which of it this platform needs.
    body += ["  - pip", "  - make", "  - pip:", "      - -c constraints.txt"]
    body += [f"      - {pin}" for pin in listed]
    body += ["      - -e ."]
    return HEADER + "\n".join(body) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 if environment.yml is stale")
    target = ROOT / "environment.yml"
    text = environment()
    if parser.parse_args().check:
        if target.exists() and target.read_text() == text:
            return 0
        print("environment.yml is stale: run python workflow/write_environment.py", file=sys.stderr)
        return 1
    temporary = target.with_name(".tmp-environment.yml")
    temporary.write_text(text)
    temporary.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
