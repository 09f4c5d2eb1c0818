"""`make test`: pytest in two halves and nbval side by side, then the numbers that nbval's notebooks wrote.

The committed notebooks are run from scratch in their own folder of runs, in order, because each reads what the one
before wrote. Their text is compared with the committed outputs by nbval; their numbers, which differ in the last
digits from machine to machine, by tests/notebooks/test_written_numbers.py. One closing line counts all of it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pkd_utils.runs import warm
from pkd_utils.runs.files import write_json
from pkd_utils.runs.kernel import OwnKernel

ROOT = Path(__file__).resolve().parents[1]
SMOKE_RUNS = ROOT / "_build" / "smoke-runs"
# These take about as long as the rest.
HALF = [f"tests/{room}" for room in ("cohorts", "demo", "distillation", "encoders", "faults", "images", "studies")]
# These read what the notebooks wrote, so they run after nbval.
AFTERWARDS = ["tests/notebooks/test_written_numbers.py", "tests/runs/test_kill_and_continue.py"]
AFTERWARDS += ["tests/workflow/test_plan_finished.py"]


ENVIRONMENT = {
    "PKD_RUNS": str(SMOKE_RUNS),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PKD_LOCAL": os.devnull,  # the committed outputs are those of the defaults
}


def nbval_kernel(folder: Path) -> None:
    """Make this environment's kernel nbval's, on Linux forked from a process that has imported the large libraries."""
    spec = {**OwnKernel().kernel_spec.to_dict(), "name": "ours"}
    write_json(folder / "kernels" / "ours" / "kernel.json", spec)
    os.environ["JUPYTER_PATH"] = str(folder)


def start(arguments: list[str], report: Path) -> subprocess.Popen:
    """Start one pytest, its output kept in a file so that two do not write into each other."""
    environment = os.environ | ENVIRONMENT
    command = [sys.executable, "-m", "pytest", "--color=no", "-p", "no:cacheprovider", f"--junitxml={report}"]
    with open(report.with_suffix(".log"), "w") as log:
        return subprocess.Popen(command + arguments, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


def finish(name: str, process: subprocess.Popen, report: Path) -> dict[str, int]:
    """Wait, print what was said, and count."""
    code = process.wait()
    print(f"== {name}\n{report.with_suffix('.log').read_text()}", flush=True)
    if not report.exists():
        return {"passed": 0, "failed": 1, "skipped": 0}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failed = int(suite.get("tests")), int(suite.get("failures")) + int(suite.get("errors"))
    skipped = int(suite.get("skipped"))
    return {"passed": total - failed - skipped, "failed": max(failed, int(code not in (0, 1))), "skipped": skipped}


def main() -> None:
    shutil.rmtree(SMOKE_RUNS, ignore_errors=True)
    started = time.time()
    notebooks = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "notebooks").glob("*/*.ipynb"))]
    with tempfile.TemporaryDirectory() as scratch:
        reports = {name: Path(scratch) / f"{name}.xml" for name in ("pytest", "pytest, half", "nbval", "numbers")}
        server = warm.start(os.environ | ENVIRONMENT) if sys.platform == "linux" else None
        nbval_kernel(Path(scratch))
        os.environ.pop(warm.SOCKET, None)  # the kernels of tests start as they would alone
        apart = [f"--ignore={name}" for name in AFTERWARDS + HALF]
        tests = {
            "nbval": ["--nbval", "--nbval-kernel-name=ours", "--nbval-cell-timeout=300", *notebooks],
            "pytest": ["tests", "-m", "not faults", "--durations=8", *apart],
            "pytest, half": [*HALF, "-m", "not faults", "--durations=8"],
        }
        running = {name: start(arguments, reports[name]) for name, arguments in tests.items()}
        counts = [finish(name, process, reports[name]) for name, process in running.items()]
        if server:
            server.communicate()
        counts.append(finish("numbers", start(AFTERWARDS, reports["numbers"]), reports["numbers"]))
    total = {key: sum(count[key] for count in counts) for key in counts[0]}
    print(f"pytest, nbval and written numbers in {time.time() - started:.0f} s")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    sys.exit(1 if total["failed"] or not total["passed"] else 0)


if __name__ == "__main__":
    main()
