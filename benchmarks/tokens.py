"""Keeping tokens and reading them back, measured in one run on one machine.

    python benchmarks/tokens.py [--images 16] [--views 2] [--rows 400] [--workers 1] [--json benchmarks.json]

Reading: minibatches of 64 images at random rows and views out of a store of simulated tokens (256 x 384, half
precision, in the page cache), against a plain copy of as many bytes that lie one after the other in the same store,
into one buffer (the most that memory allows), and against NumPy's indexing of the same memory map. Writing: simulated
JPEGs of 2,000 x 2,500 pixels through C2L (random weights) into a store, against the plain loop, which decodes an image
once a view and encodes views one batch after the other, and against the bare encoder on inputs that lie ready. Ours and
reference take turns; each time is a median.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from packing import simulate
from PIL import Image

from pkd_utils.encoders import load_image_encoder
from pkd_utils.encoders.tokens import encode
from pkd_utils.encoders.tokens.stored import TokenStore
from pkd_utils.encoders.tokens.views import Crops
from pkd_utils.runs import files
from pkd_utils.runs.machine import cores, device_name

TOKENS, WIDTH, BATCH = 256, 384, 64


def simulated_store(folder: Path, rows: int, views: int) -> TokenStore:
    """A store of random numbers, laid out as `encode_images` does."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**14, (views + 1, rows, TOKENS, WIDTH), dtype=np.uint16).view(np.float16)
    np.save(folder / "tokens.npy", values)
    files.write(folder / "index.parquet", pd.DataFrame({"image_id": [str(row) for row in range(rows)]}))
    facts = {"identity": "", "views": views, "grid": [16, 16], "width": WIDTH, "has_cls": False, "encoder": ""}
    facts |= {"storage": "float16"}
    files.write_json(folder / "store.json", facts)
    return TokenStore(folder)


def take_turns(contestants: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; the first round warms up."""
    seconds = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def read(folder: Path, args) -> dict[str, list[float]]:
    store = simulated_store(folder / "tokens", args.rows, args.views)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(args.rows, generator=generator)[: args.rows // BATCH * BATCH].split(BATCH)
    views = [torch.randint(0, args.views + 1, (BATCH,), generator=generator) for _ in rows]
    buffer = np.empty((BATCH, TOKENS, WIDTH), np.float16)
    mapped = np.load(store.folder / "tokens.npy", mmap_mode="r")
    assert np.array_equal(mapped[views[0], rows[0]], store.batch(rows[0], views[0]).numpy())
    return take_turns(
        {
            "reading, ours": lambda: [store.batch(r, v) for r, v in zip(rows, views, strict=True)],
            "plain copy of as many bytes": lambda: [
                np.copyto(buffer, mapped[0, i * BATCH :][:BATCH]) for i in range(len(rows))
            ],
            "NumPy's indexing": lambda: [mapped[v, r] for r, v in zip(rows, views, strict=True)],
        },
        args.rounds * 3,
    )


def write(folder: Path, args) -> dict[str, list[float]]:
    paths = simulate(folder, args.images)
    names = [path.stem for path in paths]
    encoder, crops, count = load_image_encoder("c2l", "random"), Crops(), iter(range(1000))
    ready = torch.zeros(args.images * (args.views + 1), 3, encoder.input_size, encoder.input_size)

    def ours(workers: int):
        target = folder / f"store{next(count)}"
        return encode.encode_images(encoder, names, paths, target, args.views, crops, 16, workers)

    def plain():
        made = []
        for view in range(args.views + 1):
            inputs = []
            for name, path in zip(names, paths, strict=True):
                with Image.open(path) as image:
                    inputs.append(encoder.preprocess(image, crop=crops.box(name, view, image.size)))
            batches = torch.stack(inputs).split(16)
            made.append(torch.cat([encoder.tokens(batch) for batch in batches]))
        return torch.stack(made).half()

    difference = (ours(0).batch(torch.arange(args.images), args.views).float() - plain()[-1].float()).abs().max()
    assert difference < 1e-2, f"ours and the plain loop differ by {difference}"
    return take_turns(
        {
            f"writing, ours, {args.workers} thread(s) decoding": lambda: ours(args.workers),
            "writing, ours, one thread for all": lambda: ours(0),
            "plain loop": plain,
            "bare encoder, inputs ready": lambda: [encoder.tokens(part) for part in ready.split(16)],
        },
        args.rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 16), ("views", 2), ("rows", 400), ("workers", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = read(folder, args) | write(folder, args)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    gigabytes = args.rows // BATCH * BATCH * TOKENS * WIDTH * 2 / 1e9
    rows = []
    for name in ("plain copy of as many bytes", "NumPy's indexing"):
        rows.append({"what": f"reading tokens against {name}", "ratio": median[name] / median["reading, ours"],
                     "ours_gb_per_s": gigabytes / median["reading, ours"],
                     "reference_gb_per_s": gigabytes / median[name]})  # fmt: skip
    for mine in [name for name in median if name.startswith("writing")]:
        for name in ("plain loop", "bare encoder, inputs ready"):
            rows.append({"what": f"encoding against {name}", "ours": mine.removeprefix("writing, ours, "),
                         "ratio": median[name] / median[mine], "ours_images_per_s": args.images / median[mine],
                         "reference_images_per_s": args.images / median[name]})  # fmt: skip
    print(f"{args.rows} simulated images x {args.views + 1} views of {TOKENS} x {WIDTH}; {args.images} simulated JPEGs")
    for row in rows:
        unit = "gb_per_s" if "ours_gb_per_s" in row else "images_per_s"
        print(f"{row['what']:44s} {row.get('ours', ''):22s} {row['ratio']:.2f}x, ours {row['ours_' + unit]:6.1f}, "
              f"reference {row['reference_' + unit]:6.1f} {unit.replace('_per_', '/')}")  # fmt: skip
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        machine = {"cpu": device_name(), "cores": cores(), "threads": torch.get_num_threads()}
        report = {"name": "tokens", "machine": machine, "settings": settings, "rows": rows, "seconds": seconds}
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
