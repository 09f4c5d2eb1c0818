"""Student training against the pure compute limit, and against torchdistill doing the same distillation, in one run.

    python benchmarks/training.py [--images 512] [--width 64 --depth 4 --heads 2] [--rounds 5] [--json benchmarks.json]
    python benchmarks/training.py --model vit_tiny_patch16_224 --size 224 --patch 16 --images 64 --batch 32

Simulated pixels and teacher. All run the same model, batch size, loss (equation 1), optimizer and gradient clipping:

- limit: float images already in memory, one batch again and again; forward, backward, clipping, AdamW, nothing else
- ours: an epoch of `fit_student`: packed uint8, shuffling, affine and intensity augmentation, teacher's soft labels
- torchdistill 1.1.5: its DistillationBox; a data set over the same packed uint8 with the torchvision transforms of the
  same augmentation; its teacher looks the logits up by the sample's index, as cheap as a teacher can be; no workers, as
  we have none either. It offers no autocast, so it runs in fp32 and is compared with ours in fp32 and in ours' best
- together: the limit's steps for five seeds as one model with a seed axis (`torch.func.vmap`), each on its own images;
  the time is that of one seed of the five

Contestants take turns in every round; the table holds the median round, and ratios are medians of the rounds' ratios.
One thread each (`--threads`). `--clock cpu` counts processor seconds, which a busy machine disturbs less.
"""

import argparse
import dataclasses
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pkd_utils.distillation.loop import GRADIENT_CLIP
from pkd_utils.distillation.loss import distillation_loss, soft_labels
from pkd_utils.distillation.student_training import StudentConfig, StudentTraining, check_student_data
from pkd_utils.distillation.students import build_student, class_token_logits
from pkd_utils.images.augment import normalise
from pkd_utils.runs import files
from pkd_utils.runs.machine import autocast, device_name, resolve_precision

N_LABELS, TEMPERATURE, SEEDS = 5, 2.0, 5


def simulate(n: int, size: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Simulated pixels (n, size, size), targets with some NaN, teacher logits."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
    targets = (rng.random((n, N_LABELS)) < 0.4).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    return pixels, targets, torch.from_numpy(rng.normal(0, 2, targets.shape).astype(np.float32))


def limit_epoch(config: StudentConfig, n: int, whole_model: bool):
    """The pure compute limit: a function that runs n images through training steps on tensors already in memory."""
    build = {"name": config.name, "image_size": config.image_size, "patch_size": config.patch_size,
             "n_labels": N_LABELS, "width": config.width, "depth": config.depth, "heads": config.heads}  # fmt: skip
    model = build_student(**build).to(config.device)
    for block in model.blocks:
        block.attn.fused_attn = whole_model or config.device != "cpu"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pixels, _, logits = simulate(config.batch_size, config.image_size)
    images = normalise(torch.from_numpy(pixels)).to(config.device)
    mixed = torch.sigmoid(logits).to(config.device)
    precision = resolve_precision(config.precision, config.device)
    parameters = list(model.parameters())

    def epoch():
        for _ in range(n // config.batch_size):
            with autocast(torch.device(config.device), precision):
                out = model(images) if whole_model else class_token_logits(model, images)
            loss = F.binary_cross_entropy_with_logits(out.float(), mixed)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
            optimizer.step()
        loss.item()

    return epoch


def together_epoch(config: StudentConfig, n: int, seeds: int = SEEDS):
    """The compute limit of `seeds` students as one: every parameter and product has a seed axis."""
    students = [
        build_student(
            config.name, config.image_size, config.patch_size, N_LABELS, config.width, config.depth, config.heads
        )
        for _ in range(seeds)
    ]
    for block in (block for student in students for block in student.blocks):
        block.attn.fused_attn = config.device != "cpu"
    state, _ = torch.func.stack_module_state([ClassToken(student).to(config.device) for student in students])
    pixels, _, logits = simulate(seeds * config.batch_size, config.image_size)
    images = normalise(torch.from_numpy(pixels)).to(config.device).unflatten(0, (seeds, -1))
    mixed = torch.sigmoid(logits).to(config.device).unflatten(0, (seeds, -1))
    precision, network = resolve_precision(config.precision, config.device), ClassToken(students[0])
    optimizer = torch.optim.AdamW(state.values(), lr=1e-4, fused=True)
    forward = torch.func.vmap(lambda parameters, x: torch.func.functional_call(network, parameters, (x,)))

    def epoch():
        for _ in range(n // config.batch_size):
            with autocast(torch.device(config.device), precision):
                out = forward(state, images)
            loss = seeds * F.binary_cross_entropy_with_logits(out.float(), mixed)  # the sum of the students' losses
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            squares = sum(p.grad.flatten(1).square().sum(1) for p in state.values())
            shrink = (GRADIENT_CLIP / (squares.sqrt() + 1e-6)).clamp(max=1)  # each student's own norm
            for p in state.values():
                p.grad.mul_(shrink.view(-1, *[1] * (p.dim() - 1)))
            optimizer.step()
        loss.item()

    return epoch


class ClassToken(torch.nn.Module):
    """A student as `class_token_logits` runs it."""

    def __init__(self, student: torch.nn.Module):
        super().__init__()
        self.student = student

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return class_token_logits(self.student, images)


def our_epoch(config: StudentConfig, n: int, folder: Path):
    """An epoch of fit_student as it is, validation left out."""
    pixels, targets, logits = simulate(n + 16, config.image_size)
    targets[n:, :] = np.arange(16)[:, None] % 2
    splits = ["train"] * n + ["validate"] * 16
    soft = soft_labels(logits, TEMPERATURE).numpy()
    ids, labels = list(map(str, range(n + 16))), list(map(str, range(targets.shape[1])))
    data = check_student_data(pixels, targets, soft, splits, config, ids, labels)
    fit = StudentTraining(data, config, folder, 0, "benchmark", torch.device(config.device))
    return lambda: fit.loop.train_epoch(fit.batches(1), fit.losses)


def torchdistill_epoch(config: StudentConfig, n: int):
    """An epoch of torchdistill's DistillationBox with the same model, data, loss and optimizer."""
    from torch.utils.data import Dataset, RandomSampler
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.core.interfaces import forward_proc  # noqa: F401  (registers forward_batch_supp_dict)
    from torchdistill.losses import util  # noqa: F401  (registers the default function of the loss)
    from torchvision import transforms

    pixels, targets, logits = simulate(n, config.image_size)
    transform = transforms.Compose([
        transforms.ToPILImage(),
        transforms.RandomAffine(config.degrees, (config.translate,) * 2, config.scale,
                                interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.ColorJitter(config.brightness, config.contrast),
        transforms.ToTensor(),
        transforms.Normalize([0.5], [0.25]),
    ])  # fmt: skip

    class Images(Dataset):
        def __len__(self):
            return n

        def __getitem__(self, i):
            return transform(pixels[i]), torch.from_numpy(targets[i]), {"index": i}

    class Teacher(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = torch.nn.Parameter(logits, requires_grad=False)

        def forward(self, images, supplement):
            return self.logits[supplement["index"]]

    class Loss(torch.nn.Module):
        def forward(self, student_io, teacher_io, targets):
            soft = soft_labels(teacher_io["."]["output"], TEMPERATURE)
            return distillation_loss(student_io["."]["output"], targets, soft, config.weight, validate=False)

    student = build_student(config.name, config.image_size, config.patch_size, N_LABELS, config.width, config.depth,
                            config.heads)  # fmt: skip
    loader = {"requires_supp": False, "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
              "kwargs": {"batch_size": config.batch_size, "num_workers": 0}}  # fmt: skip
    box = DistillationBox(
        Teacher(), student, {"train": Images()},
        {
            "num_epochs": 1,
            "train_data_loader": {**loader, "dataset_id": "train"},
            "teacher": {"forward_proc": "forward_batch_supp_dict", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "criterion": {"key": "WeightedSumLoss",
                          "kwargs": {"sub_terms": {"distillation": {"criterion": Loss(), "weight": 1.0}}}},
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-4, "fused": True},
                          "max_grad_norm": GRADIENT_CLIP},
        },
        torch.device(config.device), None, False, 1,
    )  # fmt: skip

    def epoch():
        box.pre_epoch_process(epoch=0)
        for images, labels, supplement in box.train_data_loader:
            loss = box.forward_process(images.to(config.device), labels.to(config.device), supplement)
            box.post_forward_process(loss)
        loss.item()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit")
    for name, value in (("size", 64), ("patch", 8), ("width", 64), ("depth", 4), ("heads", 2), ("images", 512),
                        ("batch", 64), ("rounds", 5), ("threads", 1)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    n = args.images // args.batch * args.batch
    base = StudentConfig(
        name=args.model, image_size=args.size, patch_size=args.patch, width=args.width, depth=args.depth,
        heads=args.heads, epochs=10_000, batch_size=args.batch, device=args.device,
    )  # fmt: skip
    fp32 = dataclasses.replace(base, precision="fp32")
    best = dataclasses.replace(base, precision=resolve_precision("auto", args.device))
    with tempfile.TemporaryDirectory() as folder:
        contestants = {
            "limit, fp32": limit_epoch(fp32, n, whole_model=False),
            "ours, fp32": our_epoch(fp32, n, Path(folder) / "a"),
            "limit of the unchanged model, fp32": limit_epoch(fp32, n, whole_model=True),
            "together, fp32": together_epoch(fp32, n),
        }
        if best.precision != "fp32":
            contestants["limit, bf16"] = limit_epoch(best, n, whole_model=False)
            contestants["ours, bf16"] = our_epoch(best, n, Path(folder) / "b")
            contestants["together, bf16"] = together_epoch(best, n)
        if importlib.util.find_spec("torchdistill"):
            contestants["torchdistill, fp32"] = torchdistill_epoch(fp32, n)
        else:
            print("torchdistill is not installed (pip install -e .[bench]): its row is left out")
        seconds = {name: [] for name in contestants}
        for turn in range(args.rounds + 1):
            for name, epoch in contestants.items():
                start = clock()
                epoch()
                if turn:  # the first round warms up
                    seconds[name].append(clock() - start)
    for name in seconds:  # of one seed
        seconds[name] = [time / SEEDS if name.startswith("together") else time for time in seconds[name]]
    rate = {name: n / statistics.median(times) for name, times in seconds.items()}

    ours = "ours, bf16" if "ours, bf16" in seconds else "ours, fp32"
    unchanged, other = "limit of the unchanged model, fp32", "torchdistill, fp32"
    pairs = [("ours, fp32", "limit, fp32"), (ours, ours.replace("ours", "limit")), (ours, unchanged)]
    pairs += [("ours, fp32", other), (ours, other)]
    pairs += [(f"together, {name}", f"limit, {name}") for name in ("fp32", "bf16")]
    rows = []
    for mine, reference in dict.fromkeys(pairs):
        if {mine, reference} <= set(seconds):
            ratio = statistics.median(y / x for x, y in zip(seconds[mine], seconds[reference], strict=True))
            what = f"student training against {reference}"
            if mine.startswith("together"):  # its limit is that of one student after the other
                what = f"{SEEDS} seeds as one model against one by one, {reference.removeprefix('limit, ')}"
            rows.append({"what": what, "ours": mine, "ratio": ratio,
                         "ours_images_per_s": rate[mine], "reference_images_per_s": rate[reference]})  # fmt: skip
    print(
        f"{args.model}, {args.size} x {args.size}, batch {args.batch}, {args.threads} thread(s), {args.clock} seconds"
    )
    for row in rows:
        print(f"{row['what']}: {row['ours']} {row['ours_images_per_s']:.0f} images/s, {row['ratio']:.3f} times the "
              f"reference ({row['reference_images_per_s']:.0f})")  # fmt: skip
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        machine = {"cpu": device_name(), "threads": args.threads,
                   "torch": torch.__version__, "best_precision": best.precision}  # fmt: skip
        report = {"name": "training", "machine": machine, "settings": settings, "rows": rows, "seconds": seconds}
        files.write_json(args.json, report)


if __name__ == "__main__":
    main()
