"""`python -m pkd_utils.demo --root data/embedded --patients 860 --seed 0 --workers 2`."""

import argparse
import time

from pkd_utils.demo import write
from pkd_utils.runs import read_json


def main(arguments: list[str] | None = None) -> None:
    """Build the simulated cohort if it is not there, and say what it holds."""
    parser = argparse.ArgumentParser(prog=f"python -m {write.GENERATOR}", description=main.__doc__)
    parser.add_argument("--root", default="data/embedded", help="folder to write (default %(default)s)")
    parser.add_argument("--patients", type=int, default=write.DEFAULT_PATIENTS, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes; changes only the time (default %(default)s)")
    for name, value in write.DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help="default %(default)s")
    given = vars(parser.parse_args(arguments))
    start = time.perf_counter()
    root = write.ensure(**given)
    counts = read_json(root / "cohort.json")["counts"]
    print(f"Simulated cohort in {root}, {time.perf_counter() - start:.1f} s:", end=" ")
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
