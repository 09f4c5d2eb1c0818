"""`python -m pkd_utils run | plan | show | fetch | encoders | demo`: the one command line; each room holds its own."""

import importlib
import sys

USE = """\
Use: python -m pkd_utils
  run FILE [NAME]           one run of a parameter file: params/<profile>/<study>/<notebook>.yml
  plan PROFILE [ONLY ...]   the runs of params/<profile>/ in order, done or to run; ONLY: what starts like that
  run, plan ... --verify    read all data and artefacts again, also where size and time are as they were
  show FILE [NAME]          one run's parameters, defaults filled in, as flat YAML for papermill -f
  fetch [NAME ...]          the small real files (CT, reports, encoders), by hash
  encoders list | verify    the table of encoders; whether a download is right
  demo chest | breast | ct  write an embedded cohort to disk"""
ROOMS = {
    "run": "pkd_utils.runs.notebooks",
    "plan": "pkd_utils.runs.notebooks",
    "show": "pkd_utils.runs.notebooks",
    "fetch": "pkd_utils.runs.assets",
    "encoders": "pkd_utils.encoders.command_line",
    "demo": "pkd_utils.demo",
}


def main(arguments: list[str]) -> int | None:
    """Hand the words behind the command to its room's `main`; what it returns is the exit code."""
    if not arguments or arguments[0] not in ROOMS:
        sys.exit(USE)
    return importlib.import_module(ROOMS[arguments[0]]).main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
