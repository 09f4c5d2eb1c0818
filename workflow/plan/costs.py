"""What one run costs, as a finished run's record says or as a model has it, and the table by notebook."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pkd_utils.runs import absent, files, paths, run
from pkd_utils.runs.parameters import declared, identifying
from workflow.plan.rates import Rates, Seconds

KERNEL_GIB = 0.67  # resident set of a kernel with all that it imports: within 30 % of each smoke run (tests)
NOT_MEASURED = "not measured"
WIDTH = 100


@dataclass
class Cost:
    """What one run costs; None is not measured, and `unknown` says what has no rate: hours are then a part."""

    name: str
    notebook: str
    heads: int = 0
    gpu_hours: float | None = 0.0
    cpu_hours: float | None = 0.0
    gib: float | None = 0.0  # of disk
    memory_gib: float | None = None
    note: str = ""
    unknown: set[str] = field(default_factory=set)
    device: str = ""  # of a finished run

    def spend(self, times: float, seconds: Seconds) -> None:
        """Add `times` x (GPU, CPU) seconds."""
        self.gpu_hours += times * seconds[0] / 3600
        self.cpu_hours += times * seconds[1] / 3600

    def nothing_known(self, why: str) -> None:
        """No number can be given."""
        self.gpu_hours = self.cpu_hours = self.gib = self.memory_gib = None
        self.unknown.add(why)


class Runs(dict[str, dict[str, Any]]):
    """Parameters of runs by reference: those of the plan, and of finished runs that these read."""

    def __missing__(self, reference: str) -> dict[str, Any]:
        self[reference] = run.record_of(run.find_run(reference))["parameters"]
        return self[reference]


def recorded(reference: str, parameters: dict[str, Any], cost: Cost) -> bool:
    """Fill in what a finished run of the same parameters took, if there is one that was made in one go."""
    folder = (paths.runs_dir() / reference).resolve()
    if not (folder / "run.json").exists():
        return False
    record = run.record_of(folder)
    now = identifying(parameters)
    same = {name: now.get(name) for name in absent.places(now)}  # the same data may lie elsewhere
    if record.get("resumed") or {**identifying(record["parameters"]), **same} != now:
        return False
    on_gpu = bool(record.get("gpu_peak_memory_gib"))
    cost.cpu_hours = record.get("cpu_seconds", record["seconds"]) / 3600
    cost.gpu_hours = record["seconds"] / 3600 if on_gpu else 0.0
    cost.gib = own_bytes(folder, record["started"]) / 2**30
    cost.memory_gib, cost.device = record.get("peak_memory_gib"), record["device"]
    cost.note, cost.unknown = "a finished run", set()
    return True


def demonstrated(parameters: dict[str, Any], rates: Rates, cost: Cost) -> bool:
    """Fill in what a run of the demonstration took where `make bench` measured it; its disk was not."""
    wanted = files.hash_params(identifying(parameters))
    for row in rates.demonstration["rows"]:
        if rates.demonstration["parameters"][row["run"]] == wanted:
            cost.cpu_hours, cost.gib, cost.memory_gib = row["cpu_seconds"] / 3600, None, row["peak_gib"]
            cost.note = "as `make bench` measured it"
            return True
    return False


def own_bytes(folder: Path, started: str) -> int:
    """Bytes of a run's folder but for files that are links to those of an earlier run."""
    began = datetime.fromisoformat(started).timestamp()
    sizes = [file.stat() for file in folder.rglob("*") if file.is_file()]
    return sum(size.st_size for size in sizes if size.st_nlink == 1 or size.st_mtime >= began)


def _sum(values: Iterable[float | None], partly: bool = False, digits: int = 1) -> str:
    """A sum in words; ">" where it lacks something."""
    values = list(values)
    known = [value for value in values if value is not None]
    if not known or (partly and not any(known)):
        return NOT_MEASURED
    return f"{'>' if partly or len(known) < len(values) else ''}{sum(known):,.{digits}f}"


def _most(values: Iterable[float | None]) -> str:
    values = list(values)
    known = [value for value in values if value is not None]
    return f"{'>' if len(known) < len(values) else ''}{max(known):,.1f}" if known else NOT_MEASURED


def row(name: str, costs: Sequence[Cost], gpu: bool) -> str:
    """One line of the table: a notebook's runs, or all."""
    partly = any(cost.unknown for cost in costs)
    # Without a measured GPU, the hours of what would compute on one stand in CPU-hours.
    waits = not gpu and any("device" in declared(cost.notebook) and not cost.device for cost in costs)
    hours = NOT_MEASURED if waits else _sum((cost.gpu_hours for cost in costs), partly)
    done = sum(bool(cost.device) for cost in costs)
    numbers = [_sum((cost.cpu_hours for cost in costs), partly), _sum(cost.gib for cost in costs)]
    numbers += [_most(cost.memory_gib for cost in costs)]
    return f"{name:38}{len(costs):>5}{done:>5}" + "".join(f"{number:>13}" for number in [hours, *numbers])


HEAD = (
    f"{'':38}{'':>5}{'':>5}{'':>13}{'':>13}{'disk':>13}{'peak memory':>13}\n"
    f"{'notebook':38}{'runs':>5}{'made':>5}{'GPU-hours':>13}{'CPU-hours':>13}{'GiB':>13}{'GiB':>13}"
)


def table(costs: Sequence[Cost], gpu: bool, runs: bool = False) -> str:
    """The table by notebook; with `runs` two lines a run."""
    steps: dict[str, list[Cost]] = {}
    for cost in sorted(costs, key=lambda one: one.notebook):
        steps.setdefault(cost.notebook, []).append(cost)
    lines = [row(name, some, gpu) for name, some in steps.items()]
    if runs:
        lines = [f"{one.name}: {one.note or NOT_MEASURED}\n{row('', [one], gpu)}" for one in costs]
    return "\n".join([HEAD, *lines, "-" * WIDTH, row("all", costs, gpu)])


def beside_finished(costs: Iterable[tuple[Cost, Cost]]) -> str:
    """Hours of one core and peak memory as the model has them and as finished runs took them, a line a run."""
    lines = [
        f"{'':52}{'CPU-hours':>24}{'peak memory, GiB':>24}",
        f"{'run':52}" + f"{'model':>8}{'took':>8}{'ratio':>8}" * 2,
    ]
    for model, took in costs:
        pairs = ((model.cpu_hours, took.cpu_hours), (model.memory_gib, took.memory_gib))
        cells = [f"{a:8.3f}{b:8.3f}{a / b:8.2f}" if a and b else f"{NOT_MEASURED:>24}" for a, b in pairs]
        lines.append(f"{model.name:52}" + "".join(cells))
    return "\n".join(lines)


def said(sentences: Iterable[str]) -> str:
    """Sentences for a terminal."""
    return "\n".join(textwrap.fill(one, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for one in sentences)
