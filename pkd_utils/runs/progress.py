"""Where a plan stands: a line a finished run, with its place and the time left, whatever process made it."""

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pkd_utils.runs import files, paths
from pkd_utils.runs.parameters import identifying

if TYPE_CHECKING:
    from pkd_utils.runs.notebooks import Job


def _place() -> Path:
    return paths.runs_dir() / ".index" / "progress.json"


def demonstrated() -> dict[str, float]:
    """Processor seconds of the demonstration's runs as `make bench` stored them, by the hash of their parameters."""
    stored = paths.PROJECT_ROOT / "book" / "results" / "benchmark-demonstration.json"
    report = files.read_json(stored) if stored.exists() else {"rows": []}
    return {report["parameters"][row["run"]]: row["cpu_seconds"] for row in report["rows"]}


def begin(jobs: "Iterable[Job]") -> None:
    """Note the runs that a plan has to make, and the processor seconds that each took when it was made last.

    Of one that was never made here they are those of `demonstrated`, or of a usual run.
    """
    took, stored = {}, demonstrated()
    for job in jobs:
        if job.state != "done":
            before = job.folder.with_name(job.parameters["run"]) / "run.json"
            own = files.read_json(before) if before.exists() else {}
            took[job.identity] = own.get("cpu_seconds", own.get("seconds")) or stored.get(
                files.hash_params(identifying(job.parameters))
            )
    usual = median([seconds for seconds in took.values() if seconds] or [60.0])
    _place().parent.mkdir(parents=True, exist_ok=True)
    _place().with_suffix(".done").unlink(missing_ok=True)
    expected = {identity: seconds or usual for identity, seconds in took.items()}
    files.write_json(_place(), {"started": time.time(), "expected": expected})


def line(identity: str, name: str) -> str:
    """What to print when a run has ended: its place in the plan that `begin` noted last, and the time left.

    The time is that of the runs left when they were made last, or of a usual run, at the pace of those made since. A
    run of another plan is only named.
    """
    plan = files.read_json(_place()) if _place().exists() else {"expected": {}}
    expected = plan["expected"]
    if identity not in expected:
        return name
    with open(_place().with_suffix(".done"), "a") as done:
        done.write(f"{identity}\n")
    made = set(_place().with_suffix(".done").read_text().split()) & set(expected)
    left = sum(seconds for run, seconds in expected.items() if run not in made)
    pace = (time.time() - plan["started"]) / max(1e-9, sum(expected[run] for run in made))
    told = f"about {max(1, round(left * pace / 60))} min left" if left else "the last one"
    return f"[{len(made)} of {len(expected)}] {name}: {told}"
