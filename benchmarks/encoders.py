"""Frozen encoders: our wrapper against the bare network's forward, measured in one run on one machine.

    python benchmarks/encoders.py [--threads 2] [--rounds 5] [--only c2l,minilm] [--json benchmarks.json]

Random weights: speed does not depend on them. The wrapper's `tokens` takes a preprocessed batch and gives float32
tokens; the reference is what one would write with the library alone: `forward_features` of timm's network, or
torchvision's trunk up to the same stage, in inference mode, on the same batch with the same threads. In bf16 the
reference runs twice: under autocast, and with the whole network cast to bfloat16, which also rounds norms and residuals
and so is not the same precision as ours. Ours and references take turns; a ratio is the median over the rounds, above
1 where ours is faster. Shares of the matrix peak are operations (torch.utils.flop_counter) per second over those of a
large product, measured here. Text encoders are compared from the texts on: tokenizer, padding, forward. With a GPU:
images per second in bf16 for the best of some batch sizes, the batch already on the GPU.
"""

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# isort: split
from pkd_utils.distillation.heads import fused
from pkd_utils.encoders.image import load_image_encoder
from pkd_utils.encoders.text import load_text_encoder
from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.runs import assets, files
from pkd_utils.runs.machine import cores, device_name

# isort: split
import timm
import torchvision
from transformers import AutoTokenizer, BertConfig, BertModel
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()

STAGES = {"c2l": 4, "biovil_t": 4, "gloria": 3}  # residual stages that the default feature needs
ENLARGED = {"gloria": 299}  # pixels a side of what the trunk sees
WORDS = ("the", "heart", "and", "both", "lungs", "are", "of", "normal", "size", "without", "fluid", "or", "air")
TEXT_TOKENS = 128
TEXTS = ("minilm", "biovil_t_bert")  # the paper's other text encoders are of the same size as the second


class Trunk(nn.Module):
    """torchvision's ResNet up to a stage, as one would write it."""

    def __init__(self, architecture: str, stages: int):
        super().__init__()
        resnet = torchvision.models.get_model(architecture)
        layers = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool]
        self.layers = nn.Sequential(*layers, *[getattr(resnet, f"layer{i + 1}") for i in range(stages)])

    def forward(self, x):
        return self.layers(x)


class Features(nn.Module):
    """timm's network without its head."""

    def __init__(self, architecture: str, side: int):
        super().__init__()
        size = {"img_size": side} if architecture.startswith("vit") else {}
        self.network = timm.create_model(architecture, num_classes=0, **size)

    def forward(self, x):
        return self.network.forward_features(x)


def bare(name: str) -> tuple[nn.Module, int]:
    """The reference network of an encoder and the side of its input in pixels."""
    facts = IMAGE_ENCODERS[name]
    side = next(iter(facts.preprocessing.values())).crop
    if name in STAGES:
        return Trunk(facts.backbone, STAGES[name]).eval(), ENLARGED.get(name, side)
    return Features(facts.backbone, side).eval(), side


def gflop(name: str) -> float:
    """Billions of operations of the bare network for one image."""
    network, side = bare(name)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.to("meta")(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 1e9


def matrix_peak(device: str, precision: torch.dtype, side: int, rounds: int = 8) -> float:
    """Billions of operations per second of a product of two side x side matrices, the best of some rounds.

    On a CPU the faster of torch's product and oneDNN's, because convolutions use the latter.
    """
    a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))
    best = 0.0
    for turn in range(2 * rounds):
        start = time.perf_counter()
        (torch.matmul if turn % 2 else fused.product)(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2e-9 * side**3 / (time.perf_counter() - start))
    return best


def take_turns(contestants: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round; each round begins with another one, and the first warms up."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            contestants[name]()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], reference: str) -> float:
    """How many times as fast as the reference ours is: the median over the rounds."""
    return statistics.median(r / o for r, o in zip(seconds[reference], seconds["ours"], strict=True))


def under_inference(function):
    """The same call without gradients."""

    def call():
        with torch.inference_mode():
            return function()

    return call


def under_autocast(function):
    """The same call in bf16 autocast without gradients."""

    def call():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return function()

    return call


def image_rows(name: str, precision: str, batch: int, operations: float, peak: float, rounds: int) -> list[dict]:
    """One image encoder in one precision against its references on the CPU."""
    encoder = load_image_encoder(name, "random", precision=precision)
    network, side = bare(name)
    x = torch.rand(batch, 3, encoder.input_size, encoder.input_size)
    reference = torch.rand(batch, 3, side, side)
    contestants = {"ours": lambda: encoder.tokens(x)}
    if precision == "fp32":
        contestants["fp32"] = under_inference(lambda: network(reference))
    else:
        cast = bare(name)[0].to(torch.bfloat16)
        contestants["autocast"] = under_autocast(lambda: network(reference))
        contestants["all bf16"] = under_inference(lambda: cast(reference.bfloat16()).float())
    seconds = take_turns(contestants, rounds)
    count = encoder.grid[0] * encoder.grid[1]
    speed = {what: batch / statistics.median(times) for what, times in seconds.items()}
    return [{
        "encoder": name,
        "precision": precision,
        "batch": batch,
        "tokens_per_s": speed["ours"] * count,
        "images_per_s": speed["ours"],
        "reference": what,
        "reference_images_per_s": speed[what],
        "ratio": ratio(seconds, what),
        "share_of_peak": speed["ours"] * operations / peak,
    } for what in contestants if what != "ours"]  # fmt: skip


def text_row(name: str, precision: str, batch: int, rounds: int) -> dict:
    """One text encoder in one precision against transformers' own way, from texts to states."""
    folder = assets.path("minilm")
    if name == "minilm":
        encoder, network = load_text_encoder(name, folder, precision=precision), BertModel.from_pretrained(folder)
    else:  # MiniLM's vocabulary is that of every uncased BERT
        encoder = load_text_encoder(name, "random", precision=precision, vocabulary=folder)
        network = BertModel(BertConfig())
    tokenizer, network = AutoTokenizer.from_pretrained(folder), network.eval()
    words = itertools.cycle(WORDS)
    texts = [" ".join(next(words) for _ in range(TEXT_TOKENS - 2 - 8 * (i % 4))) for i in range(batch)]

    def reference():
        return network(**tokenizer(texts, padding=True, return_tensors="pt")).last_hidden_state

    wrapped = under_inference(reference) if precision == "fp32" else under_autocast(reference)
    seconds = take_turns({"ours": lambda: encoder.tokens(texts), "reference": wrapped}, rounds)
    count = int(encoder.tokens(texts)[1].sum())
    middle = {what: statistics.median(times) for what, times in seconds.items()}
    return {
        "encoder": name,
        "precision": precision,
        "batch": batch,
        "tokens_per_s": count / middle["ours"],
        "texts_per_s": batch / middle["ours"],
        "reference_texts_per_s": batch / middle["reference"],
        "ratio": ratio(seconds, "reference"),
    }


def preprocessing_row(name: str, rounds: int) -> dict:
    """Milliseconds from a decoded 8-bit radiograph of 2,000 x 2,500 simulated pixels to the network's input."""
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 2000), dtype=np.uint8)
    image = Image.fromarray(pixels)
    encoder = load_image_encoder(name, "random")
    seconds = take_turns({"ours": lambda: encoder.preprocess(image)}, rounds)["ours"]
    return {"encoder": name, "steps": str(encoder.preprocessing), "ms_per_image": 1e3 * statistics.median(seconds)}


def gpu_row(name: str, operations: float, peak: float, batches=(16, 64, 256, 512), rounds: int = 5) -> dict:
    """Images per second of one encoder in bf16 on the GPU, the best of some batch sizes."""
    encoder = load_image_encoder(name, "random", device="cuda", precision="bf16")
    best: dict = {}
    for batch in batches:
        try:
            x = torch.rand(batch, 3, encoder.input_size, encoder.input_size, device="cuda")
            times = []
            for turn in range(rounds + 2):
                torch.cuda.synchronize()
                start = time.perf_counter()
                encoder.tokens(x)
                torch.cuda.synchronize()
                if turn > 1:  # the first two choose kernels
                    times.append(time.perf_counter() - start)
        except torch.cuda.OutOfMemoryError:
            break
        speed = batch / statistics.median(times)
        if speed > best.get("images_per_s", 0):
            best = {"encoder": name, "input": encoder.input_size, "batch": batch, "images_per_s": speed,
                    "gflop_per_image": operations, "share_of_peak": speed * operations / peak}  # fmt: skip
    return best


def measure(args: argparse.Namespace, image_names: list[str], text_names: list[str]) -> dict:
    """Everything, as written to the JSON file."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    peak = {name: matrix_peak("cpu", dtype, args.matrix) for name, dtype in types.items()}
    machine = {"cpu": device_name(), "cores": cores(), "threads": args.threads, "torch": torch.__version__,
               "load_before": args.load}  # fmt: skip
    machine["peak"] = [{"precision": name, "gflop_per_s": value} for name, value in peak.items()]
    report = {"name": "encoders", "machine": machine, "rows": [], "text_rows": [], "preprocessing": [], "gpu": []}
    operations = {name: gflop(name) for name in image_names}
    for name, precision in itertools.product(image_names, types):
        batch = max(1, min(16, round(args.gflop / operations[name])))
        rows = image_rows(name, precision, batch, operations[name], peak[precision], args.rounds)
        report["rows"] += rows
        for row in rows:
            print(f"{name:20s}{precision}  batch {batch:2d} {row['images_per_s']:8.1f} images/s {row['ratio']:6.3f} "
                  f"times {row['reference']:14s}{row['share_of_peak']:6.0%} of peak", flush=True)  # fmt: skip
    for name, precision in itertools.product(text_names, types):
        row = text_row(name, precision, args.texts, args.rounds)
        report["text_rows"].append(row)
        print(f"{name:20s}{precision}  {row['tokens_per_s']:8.0f} tokens/s {row['ratio']:6.3f} times transformers")
    for name in image_names:
        report["preprocessing"].append(preprocessing_row(name, args.rounds))
        print(f"{name:20s}preprocessing {report['preprocessing'][-1]['ms_per_image']:6.1f} ms/image", flush=True)
    if torch.cuda.is_available():
        top = matrix_peak("cuda", torch.bfloat16, 8192, rounds=30)
        machine["gpu"] = torch.cuda.get_device_name(0)
        machine["peak"].append({"precision": "bf16 on the GPU", "gflop_per_s": top})
        for name in image_names:
            report["gpu"].append(gpu_row(name, operations[name], top))
            print(f"{name:20s}GPU {report['gpu'][-1]}", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gflop", type=float, default=70, help="billions of operations a batch has, about")
    parser.add_argument("--matrix", type=int, default=3072, help="side of the matrices of the measured peak")
    parser.add_argument("--texts", type=int, default=8, help="texts a batch")
    parser.add_argument("--only", help="names of encoders, separated by commas")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    torch.set_num_threads(args.threads)
    real = [name for name in IMAGE_ENCODERS if not name.startswith("simulated")]  # the demonstration's are tiny
    chosen = args.only.split(",") if args.only else [*real, *TEXTS]
    started = time.perf_counter()
    report = measure(args, [n for n in real if n in chosen], [n for n in TEXTS if n in chosen])
    print(f"{time.perf_counter() - started:.0f} s; peak " + ", ".join(
        f"{row['gflop_per_s']:.0f} GFLOP/s in {row['precision']}" for row in report["machine"]["peak"]))  # fmt: skip
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k not in ("json", "load")}
        files.write_json(args.json, {**report, "settings": settings})


if __name__ == "__main__":
    main()
