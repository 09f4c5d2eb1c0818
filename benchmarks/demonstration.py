"""What every run of the demonstration takes of the processor.

    python benchmarks/demonstration.py [--profile demo] [--json benchmarks.json]

Runs that are done in the folder of runs are taken as they are, the others are made first: half an hour after `make
clean`, seconds after `make book`. By these numbers `make book` says how much time is left before it has ever run, and
`python -m workflow.plan` what a run costs that it has no model of.
"""

import argparse
from pathlib import Path

from notebooks import make
from pkd_utils.runs import files, paths
from pkd_utils.runs.machine import cores
from pkd_utils.runs.notebooks import plan
from pkd_utils.runs.parameters import identifying

TEXT = "Processor seconds and peak memory of the runs that `make book` makes: where its time goes."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    make(paths.runs_dir(), args.profile)
    rows, parameters, devices = [], {}, set()
    for job in plan(args.profile):
        record = files.read_json(job.folder / "run.json")
        if record["resumed"]:
            print(f"{job.name}: left out, its time was counted in pieces")
            continue
        took = {"cpu_seconds": record["cpu_seconds"], "peak_gib": record["peak_memory_gib"]}
        rows.append({"notebook": job.notebook, "run": job.name, **took})
        parameters[job.name] = files.hash_params(identifying(job.parameters))
        devices.add(record["device"])
        print(f"{job.name:60s}{took['cpu_seconds']:8.1f} s of a core{took['peak_gib']:8.2f} GiB")
    if args.json:
        report = {"name": "demonstration", "title": "Runs of the demonstration", "text": TEXT,
                  "machine": {"cpu": "; ".join(sorted(devices)), "cores": cores()},
                  "settings": {"profile": args.profile}, "rows": rows, "parameters": parameters}  # fmt: skip
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
