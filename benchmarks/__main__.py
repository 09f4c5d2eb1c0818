"""`python -m benchmarks [names]`: measure everything here, or the named ones, into `book/results/benchmark-*.json`."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "book" / "results"


def main() -> None:
    names = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    chosen = sys.argv[1:] or names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(names)}.")
    for name in chosen:
        print(f"== {name}", flush=True)
        target = RESULTS / f"benchmark-{name.replace('_', '-')}.json"
        subprocess.run([sys.executable, str(HERE / f"{name}.py"), "--json", str(target)], check=True)


if __name__ == "__main__":
    main()
