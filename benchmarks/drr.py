"""CT to radiograph, reading and writing included, against a bare loop of `plastimatch drr` on the same volumes.

    python benchmarks/drr.py [--volumes 4] [--rounds 3] [--workers 2] [--data DIR] [--json FILE]

The bare loop is what one would type: `plastimatch drr` once a volume, with the geometry that ours computes (the same
pixels, the same rays), from the .nii.gz to a PFM file; it neither looks at a volume, nor orients it, nor writes a JPEG.
It runs both with one process of two threads and with two processes of one thread, and the faster counts. The volumes
are copies of the chest CT of the assets (512 x 512 x 133) or, with `--data`, of every NIfTI file in a folder, stored in
LPS order: plastimatch ignores direction cosines, and may trace no voxel at all of a volume stored another way. Wall
seconds need a quiet machine; CPU seconds (all processes, user and system) depend less on who else computes.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import SimpleITK as sitk

from pkd_utils.images.ct import checks, plastimatch, projectors, radiograph, volumes
from pkd_utils.runs import assets, files
from pkd_utils.runs.machine import cores, device_name


def bare(paths: list[Path], arguments: dict[str, list[str]], target: Path, processes: int, threads: int) -> None:
    """`plastimatch drr` once a volume, so many at a time."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def one(path: Path) -> None:
        command = ["plastimatch", "drr", *arguments[path.name], "-O", str(target / path.stem), "-I", str(path)]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, paths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("volumes", 4), ("rounds", 3), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--data", type=Path, help="folder of .nii.gz volumes; default: the chest CT of the assets")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    geometry = radiograph.DrrGeometry()
    with tempfile.TemporaryDirectory() as name:
        folder, scratch = Path(name) / "volumes", Path(name) / "bare"
        folder.mkdir()
        scratch.mkdir()
        sources = sorted(args.data.glob("*.nii*")) if args.data else [assets.path("chest_ct") / "cxr.nii.gz"]
        paths, arguments, shapes = [], {}, set()
        for i in range(args.volumes):
            source = sources[i % len(sources)]
            paths.append(folder / f"v{i:03d}.nii.gz")
            volume = volumes.read_volume(source)
            sitk.WriteImage(volume.image(), str(paths[-1]))
            body, _ = checks.inspect(volume)
            frame = projectors.frame_of(volume, (body.low, body.high), geometry)
            arguments[paths[-1].name] = plastimatch.arguments(geometry, frame, volume.centre)
            shapes.add(" x ".join(str(n) for n in volume.hu.shape[::-1]))

        def ours(workers: int, threads: int) -> None:
            target = Path(name) / f"ours-{time.monotonic_ns()}"
            table = radiograph.reconstruct(paths, target, geometry, workers, threads=threads)
            if set(table["status"]) != {"done"}:
                raise SystemExit(f"Some volumes gave no radiograph: {table['message'].tolist()}")

        n = args.workers
        contestants = {
            f"bare loop, 1 process of {n} threads": lambda: bare(paths, arguments, scratch, 1, n),
            f"bare loop, {n} processes of 1 thread": lambda: bare(paths, arguments, scratch, n, 1),
            f"ours, 1 process, plastimatch with {n} threads": lambda: ours(1, n),
            f"ours, {n} processes, plastimatch with 1 thread": lambda: ours(n, 1),
        }
        seconds = {label: {"wall": [], "cpu": []} for label in contestants}
        for turn in range(args.rounds + 1):
            for label, work in contestants.items():
                wall, cpu = time.perf_counter(), sum(os.times()[:4])
                work()
                if turn:  # the first round warms up
                    seconds[label]["wall"].append(time.perf_counter() - wall)
                    seconds[label]["cpu"].append(sum(os.times()[:4]) - cpu)

    rate = {k: 3600 * args.volumes / statistics.median(v["wall"]) for k, v in seconds.items()}
    reference = max((label for label in rate if label.startswith("bare")), key=rate.get)
    rows = []
    for label in contestants:
        ratios = {
            clock: statistics.median(
                b / a for a, b in zip(seconds[label][clock], seconds[reference][clock], strict=True)
            )
            for clock in ("wall", "cpu")
        }
        rows.append(
            {
                "what": label,
                "volumes_per_hour": rate[label],
                "ratio": ratios["wall"],
                "cpu_seconds_a_volume": statistics.median(seconds[label]["cpu"]) / args.volumes,
                "cpu_ratio": ratios["cpu"],
            }
        )
    print(f"{args.volumes} volumes of {', '.join(sorted(shapes))} voxels; ratios to: {reference}")
    for row in rows:
        print(f"{row['what']:48s} {row['volumes_per_hour']:7.0f} volumes/h, ratio {row['ratio']:.2f}; "
              f"{row['cpu_seconds_a_volume']:.2f} CPU s a volume, ratio {row['cpu_ratio']:.2f}")  # fmt: skip
    if args.json:
        settings = {"volumes": args.volumes, "rounds": args.rounds, "voxels": sorted(shapes), "reference": reference,
                    "frame": f"{frame.rows} x {frame.columns} pixels"}  # fmt: skip
        load = round(os.getloadavg()[2], 1)  # of 15 minutes: how quiet the machine was
        machine = {"cpu": device_name(), "cores": cores(), "load": load}
        machine["plastimatch"] = plastimatch.version()
        text = (
            "Reading, checks, plastimatch, equalisation and JPEG against plastimatch alone, with the same rays through "
            "the same volumes. Cutting off what no ray meets pays for a part of the rest. `ratio`: rate (wall seconds) "
            "over that of the faster bare loop, median of rounds; `cpu_ratio` the same in CPU seconds of all processes."
        )
        report = {"name": "drr", "title": "CT to radiograph", "text": text, "machine": machine, "settings": settings,
                  "rows": rows, "seconds": seconds}  # fmt: skip
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
