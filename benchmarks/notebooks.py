"""What every notebook takes of the processor before its work has a size: its run with the parameters of its tests.

    python benchmarks/notebooks.py [--rounds 2] [--json benchmarks.json]

The profile `quick`, each round in a folder of runs of its own: a small cohort and few epochs, so that what is left is
opening the run, reading tables, bootstraps of few resamples, and drawing. Kernels are forked from a process that has
imported the large libraries, as for any run of a profile, so that imports are no part of it. A row is the better round.
`python -m workflow.plan` adds their lower quartile to what it models of a run: the others' work has a size even here.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pkd_utils.runs import files, paths
from pkd_utils.runs.machine import cores, device_name

TEXT = (
    "Processor seconds and peak memory of every notebook with the parameters of its tests: what a run costs before its "
    "work has a size."
)


def make(folder: Path, profile: str) -> None:
    """Make all runs of a profile in this folder of runs."""
    command = ["snakemake", "-s", "workflow/Snakefile", "--workflow-profile", "workflow/profiles/local", "--quiet"]
    subprocess.run([sys.executable, "-m", *command, "--config", f"profile={profile}"], cwd=paths.PROJECT_ROOT,
                   check=True, env={**os.environ, "PKD_RUNS": str(folder), "PKD_LOCAL": os.devnull})  # fmt: skip


def finished(folder: Path) -> dict[str, dict]:
    """Notebook -> record of its run in this folder of runs, made now."""
    make(folder, "quick")
    records = [files.read_json(file) for file in folder.glob("*/*/*/*/run.json") if not file.parent.is_symlink()]
    return {record["notebook"]: record for record in records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append(finished(Path(folder)))
    rows = []
    for name in sorted(rounds[0]):
        best = min((made[name] for made in rounds), key=lambda record: record["cpu_seconds"])
        rows.append({"notebook": name, "cpu_seconds": best["cpu_seconds"], "peak_gib": best["peak_memory_gib"]})
        print(f"{name:40s}{best['cpu_seconds']:8.1f} s of a core{best['peak_memory_gib']:8.2f} GiB")
    if args.json:
        machine = {"cpu": device_name(), "cores": cores()}
        report = {"name": "notebooks", "title": "Notebooks at the size of their tests", "text": TEXT,
                  "machine": machine, "settings": {"rounds": args.rounds}, "rows": rows}  # fmt: skip
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
