"""Text teacher: what keeping the frozen blocks' states saves against plain fine-tuning, on one machine in one run.

    python benchmarks/text_teacher.py [--reports 192] [--encoder data/assets/minilm] [--json benchmarks.json]

Simulated reports: words drawn from the encoder's vocabulary, lengths log-normal with a mean near that of Open-i reports
(53 tokens). The reference is the usual loop: random batches, padded, every step through the whole encoder. Each way
trains one pass in the same precision; times are medians of the repeats, per report. The last lines are a whole study of
several seeds and epochs, with tokenizing and keeping states paid once.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

# isort: split
from pkd_utils.distillation.loss import masked_bce
from pkd_utils.distillation.text_teacher import TextTeacher, TextTeacherConfig, length_bucketed_batches
from pkd_utils.encoders.texts import lower_states
from pkd_utils.runs import files  # before transformers: see pkd_utils.runs.torchvision_cpu
from pkd_utils.runs.machine import cores, device_name, resolve_precision
from pkd_utils.runs.paths import resolve

# isort: split
from transformers import AutoTokenizer

LABELS = 5


def simulated_reports(encoder: Path, count: int) -> list[str]:
    """Meaningless reports of realistic length."""
    rng = np.random.default_rng(0)
    vocabulary = sorted(word for word in AutoTokenizer.from_pretrained(encoder).get_vocab() if word.isalpha())
    lengths = np.clip(rng.lognormal(3.8, 0.5, count).astype(int), 5, 200)
    return [" ".join(rng.choice(vocabulary, length)) for length in lengths]


def one_pass(model, optimizer, encoded, targets, batches, precision: str) -> None:
    """Train on every batch once."""
    model.train()
    for rows in batches:
        inputs, mask = encoded.batch(rows, torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = masked_bce(model(inputs, mask), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def seconds(function, repeats: int) -> float:
    """Median seconds of a call, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=int, default=192)
    parser.add_argument("--encoder", default="data/assets/minilm")
    parser.add_argument("--precision", default=resolve_precision("auto", "cpu"), choices=("fp32", "bf16"))
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5, help="of the study in the last lines")
    parser.add_argument("--epochs", type=int, default=4, help="of the study in the last lines")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="as a notebook has")
    parser.add_argument("--json", help="write the table and the machine's description to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    encoder = resolve(args.encoder)
    texts = simulated_reports(encoder, args.reports)
    common = {"max_tokens": args.max_tokens, "precision": args.precision}
    tokens = lower_states(texts, encoder, -1, **common)
    targets = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (args.reports, LABELS)).astype(np.float32))
    shuffled = np.array_split(np.random.default_rng(2).permutation(args.reports), max(1, args.reports // 32))
    bucketed = length_bucketed_batches(tokens.lengths, 32, np.random.default_rng(2))

    def way(layers: int, pooling: str, kept: bool, batches) -> float:
        """Seconds of one training pass."""
        encoded = lower_states(texts, encoder, layers, **common) if kept else tokens
        config = TextTeacherConfig(str(encoder), layers, pooling, device="cpu", **common)
        model = TextTeacher(config, LABELS)
        trained = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
        return seconds(lambda: one_pass(model, optimizer, encoded, targets, batches, args.precision), args.repeats)

    once = {
        "tokenizing": seconds(lambda: lower_states(texts, encoder, -1, **common), args.repeats),
        "tokenizing and keeping states, all but the last block": seconds(
            lambda: lower_states(texts, encoder, 1, **common), args.repeats
        ),
    }
    passes = {
        "all blocks, random batches (reference)": way(-1, "mean", False, shuffled),
        "all blocks, bucketed by length": way(-1, "mean", False, bucketed),
        "last block, whole encoder every step": way(1, "mean", False, bucketed),
        "last block, kept states, mean of tokens": way(1, "mean", True, bucketed),
        "last block, kept states, first token": way(1, "cls", True, bucketed),
    }
    reference = passes["all blocks, random batches (reference)"]
    rows = [{"what": f"once: {name}", "ms_per_report": 1000 * t / args.reports} for name, t in once.items()]
    rows += [
        {"what": f"a pass: {name}", "ms_per_report": 1000 * t / args.reports, "ratio": reference / t}
        for name, t in passes.items()
    ]
    count = args.seeds * args.epochs
    tokenizing, keeping = once.values()
    whole = {name: count * t + (keeping if "kept" in name else tokenizing) for name, t in passes.items()}
    study = f"{args.seeds} seeds x {args.epochs} epochs"
    rows += [
        {
            "what": f"{study}: {name}",
            "ms_per_report": 1000 * t / args.reports,
            "ratio": whole["all blocks, random batches (reference)"] / t,
        }
        for name, t in whole.items()
    ]
    machine = {
        "cpu": device_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(f"{machine['cpu']}, {machine['threads']} thread(s), torch {machine['torch']}; simulated reports")
    print(f"{'what':<75}{'ms a report':>12}{'ratio':>8}")
    for row in rows:
        print(f"{row['what']:<75}{row['ms_per_report']:>12.2f}{row.get('ratio', float('nan')):>8.1f}")
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        report = {"name": "text_teacher", "machine": machine, "settings": settings, "rows": rows}
        files.write_json(args.json, {**report, "seconds": round(time.perf_counter() - started, 1)})


if __name__ == "__main__":
    main()
