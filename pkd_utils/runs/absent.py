"""What of a profile cannot run here for want of data, weights or a program, and what is left of runs that read several.

Nobody has to delete parameter files: whoever has no INSPECT, or three of seven encoders, gets the runs of the others,
and figures and tables over them. What `make assets` fetches and cohorts that a run writes itself are never absent.
"""

import shutil
from collections.abc import Collection
from typing import Any

from pkd_utils.runs import identity, paths

# Lists with one entry a run of another list; an entry goes with its run.
_BESIDE = {"map_runs": ("paper_datasets",)}


def places(parameters: dict[str, Any]) -> dict[str, str]:
    """Parameter -> file or folder of others that a run needs and that nothing here makes, as the parameters say it."""
    found = identity.foreign_paths(parameters)
    return {name: value for name, value in found.items() if not value.startswith("data/assets")}


def why_not(parameters: dict[str, Any], gone: dict[str, str]) -> str:
    """Why a run cannot be made, given references of runs that cannot and why; "" if it can."""
    for value in places(parameters).values():
        if not paths.resolve(value).exists():
            return f"{value} is not here"
    program = parameters.get("projector")
    if program == "plastimatch" and shutil.which(program) is None:
        return f"the program {program} is not installed (Debian and Ubuntu: `apt-get install {program}`)"
    for name, value in parameters.items():
        if name.endswith("_run") and value in gone:
            return gone[value]
        if name.endswith("_runs") and value and not set(value) - set(gone):
            return gone[value[0]]
    return ""


def without(parameters: dict[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """Parameters whose lists of runs name none of those that are gone."""
    left = dict(parameters)
    for name, value in parameters.items():
        if name.endswith("_runs") and set(value) & set(gone):
            kept = [number for number, reference in enumerate(value) if reference not in gone]
            for one in (name, *_BESIDE.get(name, ())):
                left[one] = [parameters[one][number] for number in kept]
    return left
