"""Many attention heads at once against the textbook head in a plain loop, on the same tokens, in one run.

    python benchmarks/heads.py [--rounds 3] [--threads 1] [--clock cpu] [--json benchmarks.json]
    python benchmarks/heads.py --shapes 196x768 --heads 16

Simulated tokens, kept in half precision in memory; minibatches of 64; a minibatch and its training step, Adam included:

- textbook: `AttentionHead` (layer norm, three projections, attention, mean) in fp32, autograd and torch's fused
  Adam, one head after the other, each reading its tokens, as one writes it down
- ours: an epoch of `fit_heads` of one minibatch, evaluation left out: all heads on it, in fp32, and with the large
  products in bf16; and in fp32 with the products that torch takes by default, as the textbook head does (on a CPU that
  is MKL, ours are oneDNN's), to tell the algorithm's share from the library's
- GEMM peak: (1568 x 768) x (768 x 768) with the same products, measured in the same rounds. The achieved fraction
  counts the least work there is, 4 N D^2 + 4 N^2 D operations an image and head, forward and back

Contestants take turns in every round; ratios are medians of the rounds' ratios, rates those of the best round.
`--clock cpu` counts processor seconds, which a busy machine disturbs less. The textbook loop over H heads takes H times
as long as over one, and is not measured H times.
"""

import argparse
import statistics
import tempfile
import time
import unittest.mock
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pkd_utils.distillation.heads import fused
from pkd_utils.distillation.heads.data import HeadData, MemoryTokens
from pkd_utils.distillation.heads.modules import AttentionHead
from pkd_utils.distillation.heads.results import HeadResults
from pkd_utils.distillation.heads.training import GroupTraining, HeadConfig, HeadSpec
from pkd_utils.runs import files
from pkd_utils.runs.machine import device_name

BATCH, CLASSES = 64, 5
FP32, DEFAULT, BF16 = KINDS = ("fp32", "fp32, default products", "bf16")
ONEDNN = fused.multiplied_by_onednn
NAMES = {(196, 768): "ViT-B/16", (256, 384): "DINOv2-S", (49, 512): "ResNet-18", (16, 320): "EfficientNet-Lite0"}


def simulate(n_tokens: int, width: int) -> tuple[MemoryTokens, np.ndarray]:
    """Simulated tokens of one minibatch, and classes."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, BATCH, n_tokens, width, generator=generator).half()
    return MemoryTokens(tokens), np.arange(BATCH) % CLASSES


def textbook_step(n_tokens: int, width: int, device: str):
    """One head, as one writes it down: a function that reads a minibatch and takes a step."""
    tokens, targets = simulate(n_tokens, width)
    head = AttentionHead(width, CLASSES).to(device)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-4, fused=True)
    rows, views, targets = torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64), torch.from_numpy(targets)

    def step():
        loss = F.cross_entropy(head(tokens.batch(rows, views).to(device).float()), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def with_products(kind: str, run):
    """`run`, with torch's default products if the kind says so."""

    def wrapped():
        rule = (lambda a: False) if kind == DEFAULT else ONEDNN
        with unittest.mock.patch.object(fused, "multiplied_by_onednn", rule):
            run()

    return wrapped


def our_step(n_tokens: int, width: int, n_heads: int, kind: str, device: str, folder: Path):
    """All heads, as `fit_heads` trains them: a function that reads a minibatch and takes a step."""
    tokens, targets = simulate(n_tokens, width)
    rows = np.arange(BATCH)
    specs = [HeadSpec(str(i), "image_only", 0, rows, rows, 1) for i in range(n_heads)]
    build = {"n_classes": CLASSES, "image_width": width, "text_width": None, "dropout": 0.2}
    config = HeadConfig(CLASSES, BATCH, precision=BF16 if kind == BF16 else FP32, device=device)
    data = HeadData(tokens, None, targets, torch.device(device), torch.float32)
    results = HeadResults(specs, build)
    results.keys = {spec.name: "not stored" for spec in specs}
    fit = GroupTraining(specs, data, config, results, folder / "none.safetensors")
    return with_products(kind, fit.train)


def gemm_operations(n_tokens: int, width: int) -> int:
    """Least floating point operations of a minibatch and head: scores forward, their gradient back."""
    return 2 * BATCH * 2 * (n_tokens * width * width + n_tokens * n_tokens * width)


def gemm_peak(kind: str, device: str):
    """A function that multiplies, and its operations."""
    a, b = torch.randn(8 * 196, 768, device=device), torch.randn(768, 768, device=device)
    if kind == BF16:
        a, b = a.bfloat16(), b.bfloat16()

    def multiply():
        for _ in range(10):
            answer = fused.product(a, b)
        answer[0, 0].item()

    return with_products(kind, multiply), 10 * 2 * a.shape[0] * 768 * 768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["x".join(map(str, shape)) for shape in NAMES])
    parser.add_argument("--heads", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="as a notebook has")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    rows, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in args.shapes:
            n_tokens, width = map(int, shape.split("x"))
            contestants, operations = {"textbook": textbook_step(n_tokens, width, args.device)}, {}
            for kind in KINDS:
                contestants[f"peak, {kind}"], operations[kind] = gemm_peak(kind, args.device)
                for n in args.heads:
                    step = our_step(n_tokens, width, n, kind, args.device, Path(folder))
                    contestants[f"{n} heads, {kind}"] = step
            times: dict[str, list[float]] = {name: [] for name in contestants}
            for turn in range(args.rounds + 1):
                for name, step in contestants.items():
                    start = clock()
                    step()
                    if turn:  # the first round warms up
                        times[name].append(clock() - start)
            seconds[shape] = times
            for kind in KINDS:
                peak = operations[kind] / min(times[f"peak, {kind}"])
                for n in args.heads:
                    mine = times[f"{n} heads, {kind}"]
                    ratio = statistics.median(n * y / x for x, y in zip(mine, times["textbook"], strict=True))
                    rows.append({
                        "what": f"{NAMES.get((n_tokens, width), 'tokens')}, N = {n_tokens}, D = {width}: {n} head(s) "
                                "trained against the textbook loop, fp32",
                        "ours": kind, "heads": n, "ratio": ratio,
                        "ours_head_steps_per_s": n / min(mine), "textbook_head_steps_per_s": 1 / min(times["textbook"]),
                        "gemm_peak_gflops": peak / 1e9,
                        "fraction_of_gemm_peak": n * gemm_operations(n_tokens, width) / min(mine) / peak,
                    })  # fmt: skip
                    row = rows[-1]
                    print(f"{shape:8s} {n:3d} heads {kind:23s}{row['ratio']:6.2f} times the textbook, "
                          f"{row['ours_head_steps_per_s']:7.2f} against {row['textbook_head_steps_per_s']:.2f} "
                          f"head-steps/s, {row['fraction_of_gemm_peak']:.2f} of {row['gemm_peak_gflops']:.0f} GFLOP/s",
                          flush=True)  # fmt: skip
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"} | {"batch": BATCH, "classes": CLASSES}
        machine = {"cpu": device_name(), "threads": args.threads, "torch": torch.__version__}
        report = {"name": "heads", "machine": machine, "settings": settings, "rows": rows, "seconds": seconds}
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
