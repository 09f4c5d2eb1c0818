"""`params/local.yml`, the one file that a user edits for a machine or a site: where the data are, and what it has.

Nothing in it is part of a run's identity. git ignores it; `params/local.example.yml` beside it lists every key with its
unit and default. The environment variable `PKD_LOCAL` names another file, for example `/dev/null` for none.
"""

import difflib
import functools
import math
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import pydantic
from pydantic import Field

from pkd_utils.runs import strict_yaml
from pkd_utils.runs.errors import DataError

_ROOT = Path(__file__).resolve().parents[2]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Cluster(pydantic.BaseModel, extra="forbid", strict=True, frozen=True):
    """What a profile's jobs ask Slurm for; what is left open here is said by workflow/profiles/slurm."""

    account: str = ""
    partition: str = ""
    gpu_partition: str = ""
    gres: str = "gpu:1"
    cpus: dict[str, Annotated[int, Field(gt=0)]] = {}
    memory_gib: dict[str, Positive | list[Positive]] = {}
    walltime_hours: dict[str, Positive | list[Positive]] = {}

    def resources(self, notebook: str, gpu: bool) -> dict[str, Any]:
        """Snakemake's resources of the jobs of a notebook, study/step, as far as the file says.

        Memory in MB and walltime in minutes are functions of the attempt: a number grows by itself with each, of a list
        the attempts take one value after the other, and the last from then on. `gpu`: it computes on one if it can.
        """
        asked = {
            "slurm_account": self.account,
            "slurm_partition": (gpu and self.gpu_partition) or self.partition,
            "gres": self.gres if gpu else "",
            "cpus_per_task": _named(self.cpus, notebook),
            "mem_mb": _growing(_named(self.memory_gib, notebook), 1024),
            "runtime": _growing(_named(self.walltime_hours, notebook), 60),
        }
        return {name: value for name, value in asked.items() if value}


def _named(values: dict[str, Any], notebook: str) -> Any:
    """A notebook's value: by its name with or without the study, else that of "*", else None."""
    return next((values[name] for name in (notebook, notebook.split("/")[-1], "*") if name in values), None)


def _growing(steps: float | list[float] | None, unit: int) -> Callable[[Any, int], int] | None:
    """A resource in whole units as a function of the attempt, 1, 2, ...; None: nothing is said."""

    def resource(wildcards: Any, attempt: int) -> int:
        many = steps[min(attempt, len(steps)) - 1] if isinstance(steps, list) else steps * attempt
        return math.ceil(unit * many)

    return resource if steps else None


class Local(pydantic.BaseModel, extra="forbid", strict=True, frozen=True):
    """The keys of `params/local.yml`; what is None is left to each notebook's own default."""

    roots: dict[str, str] = {}
    device: str | None = None
    memory_gib: Positive | None = None
    workers: Count | None = None
    threads: Count | None = None
    encode_batch_size: Count | None = None
    text_batch_size: Annotated[int, Field(gt=0)] | None = None
    cluster: Cluster = Cluster()

    @pydantic.field_validator("roots")
    @classmethod
    def _places(cls, roots: dict[str, str]) -> dict[str, str]:
        for name, folder in roots.items():
            below = PurePosixPath(name).parts[:1] == ("data",) and ".." not in name
            if not (below and Path(folder).expanduser().is_absolute()):
                raise ValueError(f"{name}: {folder} must be data/<name>: <absolute folder>")
        return roots

    @property
    def machine(self) -> dict[str, Any]:
        """Parameters of notebooks that this file sets: `parameters.MACHINE`."""
        return self.model_dump(exclude={"roots", "cluster"}, exclude_none=True)


def read() -> Local:
    """What the file says; nothing if there is none; DataError of an unknown key or a wrong value."""
    file = Path(os.environ.get("PKD_LOCAL") or _ROOT / "params" / "local.yml")
    if not file.exists() and "PKD_LOCAL" not in os.environ:
        return Local()
    return _read(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(file: Path, mtime_ns: int) -> Local:
    try:
        return Local.model_validate(strict_yaml.read(file) or {})
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
    *place, key = [str(part) for part in first["loc"]] or ["it"]
    why = f"{key} = {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    if first["type"] == "extra_forbidden":
        known = list((Cluster if place else Local).model_fields)
        near = difflib.get_close_matches(key, known) or known
        why = f"there is no key {key}; did you mean {' or '.join(near)}"
    raise DataError(f"{file}: {' '.join([*place, why])}.")
