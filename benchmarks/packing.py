"""Packing radiographs against the plain PIL way and against libjpeg alone, measured in one run on one machine.

    python benchmarks/packing.py [--images 64] [--size 224] [--workers 2] [--json benchmarks.json]

Simulated JPEGs like MIMIC-CXR-JPG's: 2,544 x 3,056 pixels, grey, quality 95, about 1.5 MB. The plain way is
`Image.open(path).convert("L").resize((S, S), filter)` in a loop, with PIL's default filter (bicubic), with bilinear,
the filter that we use, and as `.convert("RGB")`, which most training scripts do; all decode all 8 million pixels. The
limit is libjpeg: files read and decoded, nothing else, whole or at the reduced size that packing asks for, by as many
processes. Packing also resizes, hashes every file, and writes pixels, marks and index. Pixel differences are to the
plain way with the same (bilinear) filter.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from pkd_utils.images.pack import pack_images
from pkd_utils.runs import files
from pkd_utils.runs.machine import cores, device_name
from pkd_utils.runs.workers import results_of

WIDTH, HEIGHT = 2544, 3056
DIFFERENT = 8


def simulate(folder: Path, n: int) -> list[Path]:
    """Write n simulated JPEGs: smooth shapes, fine texture; after the first `DIFFERENT`, links to those."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n):
        if i >= DIFFERENT:
            paths.append(folder / f"simulated{i:04d}.jpg")
            os.link(paths[i % DIFFERENT], paths[-1])
            continue
        coarse = Image.fromarray(rng.integers(0, 256, (40, 32), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
        noise = rng.normal(128, 30, (HEIGHT // 2, WIDTH // 2)).clip(0, 255).astype(np.uint8)
        texture = np.asarray(Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.BILINEAR), np.float32) - 128
        pixels = np.clip(0.7 * np.asarray(coarse, np.float32) + 40 + 0.15 * texture, 0, 255).astype(np.uint8)
        paths.append(folder / f"simulated{i:04d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=95)
    return paths


def plain(paths: list[Path], size: int, resample: Image.Resampling, mode: str = "L") -> np.ndarray:
    return np.stack([np.asarray(Image.open(p).convert(mode).resize((size, size), resample)) for p in paths])


def decode(path: Path, size: int | None) -> None:
    """What libjpeg must do: all pixels, or at the smallest of its sizes that still has `size` pixels a side."""
    with Image.open(path) as image:
        if size:
            image.draft("L", (size, size))
        image.load()


def decode_all(paths: list[Path], size: int | None, workers: int) -> None:
    list(results_of(decode, [(path, size) for path in paths], workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 64), ("size", 224), ("workers", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    # os.times: user, system, and both of ended children; what is saved by a second core shows in wall seconds only.
    clock = time.perf_counter if args.clock == "wall" else lambda: sum(os.times()[:4])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = simulate(folder, args.images)
        megabytes = sum(p.stat().st_size for p in paths) / 1e6

        def pack(workers: int) -> np.ndarray:
            (folder / "packed.npy").unlink(missing_ok=True)
            return np.array(pack_images(paths, args.size, folder / "packed.npy", workers)[0])

        contestants = {
            "libjpeg, whole, 1 process": lambda: decode_all(paths, None, 1),
            "libjpeg, reduced, 1 process": lambda: decode_all(paths, args.size, 1),
            f"libjpeg, reduced, {args.workers} processes": lambda: decode_all(paths, args.size, args.workers),
            "plain PIL, bicubic (its default)": lambda: plain(paths, args.size, Image.Resampling.BICUBIC),
            "plain PIL, bilinear": lambda: plain(paths, args.size, Image.Resampling.BILINEAR),
            "plain PIL, RGB, bilinear": lambda: plain(paths, args.size, Image.Resampling.BILINEAR, "RGB"),
            "ours, 1 process": lambda: pack(1),
            f"ours, {args.workers} processes": lambda: pack(args.workers),
        }
        seconds = {name: [] for name in contestants}
        for turn in range(args.rounds + 1):
            for name, run in contestants.items():
                start = clock()
                run()
                if turn:  # the first round warms up
                    seconds[name].append(clock() - start)
        reference = plain(paths, args.size, Image.Resampling.BILINEAR).astype(int)
        apart = np.abs(pack(1) - reference)
        difference = {"mean": float(apart.mean()), "largest": int(apart.max())}
    rate = {name: args.images / statistics.median(times) for name, times in seconds.items()}

    # CPU seconds are those of all cores together.
    used = {"ours, 1 process": 1, f"ours, {args.workers} processes": args.workers if args.clock == "wall" else 1}
    rows = []
    for mine in used:
        limits = ("libjpeg, whole, 1 process", mine.replace("ours", "libjpeg, reduced"))
        plain_ways = ("plain PIL, bicubic (its default)", "plain PIL, bilinear", "plain PIL, RGB, bilinear")
        for reference in limits + plain_ways:
            ratio = statistics.median(y / x for x, y in zip(seconds[mine], seconds[reference], strict=True))
            rows.append({"what": f"packing against {reference}", "ours": mine, "ratio": ratio,
                         "ours_images_per_s": rate[mine], "reference_images_per_s": rate[reference],
                         "ours_images_per_s_a_core": rate[mine] / used[mine]})  # fmt: skip
    print(f"{args.images} simulated JPEGs, {megabytes / args.images:.2f} MB each, to {args.size} x {args.size}, "
          f"{args.clock} seconds")  # fmt: skip
    for name, value in rate.items():
        print(f"{name:35s} {value:8.1f} images/s")
    whole = rate["libjpeg, whole, 1 process"]
    print(f"{'libjpeg, whole, 1 process':35s} {whole * WIDTH * HEIGHT / 1e6:8.0f} megapixels/s")
    for row in rows:
        print(f"{row['ours']:18s} {row['ratio']:6.2f} times {row['what'].removeprefix('packing against ')}")
    print(f"difference: mean {difference['mean']:.2f}, largest {difference['largest']} of 255 grey levels")
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"} | {"megabytes": megabytes / args.images}
        cpu = device_name()
        machine = {"cpu": cpu, "cores": cores(), "pillow": PIL.__version__}
        report = {"name": "packing", "machine": machine, "settings": settings, "rows": rows, "seconds": seconds,
                  "difference": difference}  # fmt: skip
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
