"""`python -m benchmarks [names]`: measure everything here, or the named ones, into `book/results/benchmark-*.json`."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from pkd_utils.runs import files

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "book" / "results"


def processor() -> str:
    """Family and model, which names like "AMD EPYC" do not tell, and the instructions that torch uses."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    told = [f"{name.split()[-1]} {found[1]}" for name in ("cpu family", "model")
            if (found := re.search(rf"^{name}\s*: (\d+)$", text, re.MULTILINE))]  # fmt: skip
    return ", ".join([*told, torch.backends.cpu.get_cpu_capability()])


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
        report = files.read_json(target)
        report["machine"]["processor"] = processor()
        files.write_json(target, report)


if __name__ == "__main__":
    main()
