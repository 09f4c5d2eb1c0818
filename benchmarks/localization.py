"""Localization metrics and attention maps against the per-image way, measured in one run on one machine.

    python benchmarks/localization.py [--images 1000] [--size 224] [--workers 2] [--clock cpu] [--json benchmarks.json]

Simulated maps: random 14 x 14 attention, upsampled bilinearly; one or two reference boxes an image. The reference is
what one would write with the usual libraries, image by image on one core: scikit-learn's roc_auc_score, scikit-image's
label and regionprops, painted boxes for the areas. Ours runs on the same images with one thread and with `--workers`.
Ours and reference take turns, and each time is the median of the repeats. Both must give the same numbers, or the
script stops. Both ways to sort pixels are measured, whichever this processor is given (`ranks.fastest_sort`). `--clock
cpu` counts processor seconds, which a busy machine disturbs less; threads gain nothing by that clock. Attention maps
are compared with one forward pass whose last layer is not fused and gives its weights to a hook: nearly all of either
time is the forward pass itself.
"""

import argparse
import os
import platform
import time
import unittest.mock
from pathlib import Path

import numpy as np
import torch
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score, roc_auc_score

# isort: split
from pkd_utils.localization import metrics, ranks
from pkd_utils.localization.attention import upsample_maps
from pkd_utils.localization.metrics import boxes_from_maps, evaluate_maps, normalize_maps, pixel_auroc, pixel_ranks
from pkd_utils.localization.saliency import saliency_maps
from pkd_utils.runs import files  # before timm: see pkd_utils.runs.torchvision_cpu
from pkd_utils.runs.machine import cores

# isort: split
import timm

THRESHOLD = 0.5


def simulate(n: int, size: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Maps (n, size, size), masks and reference boxes."""
    rng = np.random.default_rng(0)
    maps = upsample_maps(rng.dirichlet(np.ones(196), n).reshape(n, 14, 14), (size, size))
    boxes = []
    for _ in range(n):
        sides = rng.integers(size // 8, size // 2, (rng.integers(1, 3), 2))
        corner = (rng.random(sides.shape) * (size - sides)).astype(int)
        boxes.append(np.concatenate([corner, corner + sides], axis=1))
    masks = np.zeros(maps.shape, dtype=bool)
    for mask, some in zip(masks, boxes, strict=True):
        for x0, y0, x1, y1 in some:
            mask[y0:y1, x0:x1] = True
    return maps, masks, boxes


def reference_boxes(scaled: np.ndarray) -> np.ndarray:
    found = [region.bbox for region in regionprops(label(scaled >= scaled.dtype.type(THRESHOLD), connectivity=1))]
    return np.array([(x0, y0, x1, y1) for y0, x0, y1, x1 in found])


def reference_image(map: np.ndarray, mask: np.ndarray, boxes: np.ndarray) -> tuple[float, float, float]:
    """AUROC, best IoU and false positive rate of one image with the usual libraries."""
    auroc = roc_auc_score(mask.ravel(), map.ravel())
    predicted = reference_boxes((map - map.min()) / (map.max() - map.min()))
    p, r = predicted[:, None], boxes[None]
    overlap = np.clip(np.minimum(p[..., 2:], r[..., 2:]) - np.maximum(p[..., :2], r[..., :2]), 0, None).prod(-1)
    union = (p[..., 2:] - p[..., :2]).prod(-1) + (r[..., 2:] - r[..., :2]).prod(-1) - overlap
    painted = np.zeros((2, *map.shape), dtype=bool)
    for layer, some in zip(painted, (predicted, boxes), strict=True):
        for x0, y0, x1, y1 in some:
            layer[y0:y1, x0:x1] = True
    return auroc, (overlap / union).max(), (painted[0] & ~painted[1]).sum() / painted[0].sum()


def hooked_attention(model, images: torch.Tensor) -> np.ndarray:
    """Mean attention map as usually taken: attention not fused, every weight of the last layer out of a hook."""
    seen = []
    attn = model.blocks[-1].attn
    attn.fused_attn = False
    handle = attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        model(images)
    handle.remove()
    attn.fused_attn = True
    return seen[0][:, :, 0, model.num_prefix_tokens :].mean(1).reshape(len(images), 14, 14).numpy()


def attention_maps(model, images: torch.Tensor) -> np.ndarray:
    """Ours."""
    return saliency_maps(model, images, {"attention": {}})[0]["attention"]


def compare(what: str, repeats: int, ours: dict, reference, clock=time.perf_counter) -> list[dict]:
    """Images per second of every one of `ours` and of the reference, run in turns; each is (function, images)."""
    seconds: dict[str, list[float]] = {name: [] for name in [*ours, "reference"]}
    for _ in range(repeats):
        for name, (function, images) in {**ours, "reference": reference}.items():
            start = clock()
            function()
            seconds[name].append((clock() - start) / images)
    speed = {name: 1 / float(np.median(values)) for name, values in seconds.items()}
    return [
        {
            "what": what,
            "ours": name,
            "ours_images_per_s": speed[name],
            "reference_images_per_s": speed["reference"],
            "ratio": speed[name] / speed["reference"],
        }
        for name in ours
    ]


def sorting(sort, function):
    """The function's value, with one of the two ways to sort pixels, on one thread."""
    with unittest.mock.patch.object(metrics, "fastest_sort", lambda: sort):
        return with_threads(1, function)


def with_threads(n: int, function):
    """The function's value, computed by n threads."""
    torch.set_num_threads(n)
    return function()


def machine() -> dict:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"cpu": model, "cores": cores(), "load_before": load, **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="maps that ours measures at once")
    parser.add_argument("--reference-images", type=int, default=100, help="how many of them the reference measures")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--workers", type=int, default=cores(), help="threads of ours, beside one thread")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", help="write the table and the machine's description to this file")
    args = parser.parse_args()
    info = machine() | {
        "pixels_sorted": {"sort_directly": "directly", "sort_by_radix": "by radix"}[ranks.fastest_sort().__name__]
    }
    torch.set_num_threads(args.workers)
    maps, masks, boxes = simulate(args.images, args.size)
    few = range(min(args.reference_images, args.images))
    scaled = normalize_maps(maps)

    table = evaluate_maps(maps, masks, boxes, THRESHOLD)
    slow = [reference_image(maps[i], masks[i], boxes[i]) for i in few]
    np.testing.assert_allclose(table[["auroc", "iou", "fpr"]].to_numpy()[: len(few)], slow, rtol=0, atol=1e-12)

    def threads(function) -> dict:
        counts = sorted({1, args.workers}) if args.clock == "wall" else [1]
        return {f"{n} thread{'s'[: n > 1]}": (lambda n=n: with_threads(n, function), args.images) for n in counts}

    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    ways = {"sorted directly": ranks.sort_directly, "sorted by radix": ranks.sort_by_radix}
    rows = compare(
        "pixel AUROC",
        args.repeats,
        threads(lambda: pixel_auroc(maps, masks))
        | {
            f"{name}, 1 thread": (lambda sort=sort: sorting(sort, lambda: pixel_auroc(maps, masks)), args.images)
            for name, sort in ways.items()
        },
        (lambda: [roc_auc_score(masks[i].ravel(), maps[i].ravel()) for i in few], len(few)),
        clock,
    )
    rows += compare(
        "pixel AUROC and AUPRC",
        args.repeats,
        threads(lambda: pixel_ranks(maps, masks)),
        (
            lambda: [
                score(masks[i].ravel(), maps[i].ravel())
                for i in few
                for score in (roc_auc_score, average_precision_score)
            ],
            len(few),
        ),
        clock,
    )
    rows += compare(
        "boxes of components",
        args.repeats,
        threads(lambda: boxes_from_maps(scaled, THRESHOLD)),
        (lambda: [reference_boxes(scaled[i]) for i in few], len(few)),
        clock,
    )
    rows += compare(
        "all three metrics",
        args.repeats,
        threads(lambda: evaluate_maps(maps, masks, boxes, THRESHOLD)),
        (lambda: [reference_image(maps[i], masks[i], boxes[i]) for i in few], len(few)),
        clock,
    )
    torch.set_num_threads(args.workers)
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    images = torch.randn(32, 3, 224, 224)
    np.testing.assert_allclose(attention_maps(vit, images), hooked_attention(vit, images), rtol=0, atol=1e-6)
    name = f"{args.workers} thread{'s'[: args.workers > 1]}"
    rows += compare(
        "attention maps, ViT-Tiny",
        args.repeats,
        {name: (lambda: attention_maps(vit, images), len(images))},
        (lambda: hooked_attention(vit, images), len(images)),
        clock,
    )

    print(
        f"{info['cpu']}, {info['cores']} cores, torch {info['torch']}; "
        f"{args.images} simulated maps of {args.size} x {args.size}"
    )
    print(f"{'what':<26}{'ours':<26}{'ours/s':>10}{'reference/s':>13}{'ratio':>8}")
    for r in rows:
        print(
            f"{r['what']:<26}{r['ours']:<26}{r['ours_images_per_s']:>10.0f}{r['reference_images_per_s']:>13.0f}{r['ratio']:>8.1f}"
        )
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        files.write_json(args.json, {"name": "localization", "machine": info, "settings": settings, "rows": rows})


if __name__ == "__main__":
    main()
