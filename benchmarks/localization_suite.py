"""The whole localization suite against the per-image way, measured in one run on one machine.

    python benchmarks/localization_suite.py [--images 1000] [--size 224] [--workers 2] [--clock cpu] [--json out.json]

Simulated maps: random 14 x 14 attention, upsampled bilinearly; one or two reference boxes an image. The reference is
what one would write with the usual libraries, image by image on one core: scikit-learn's roc_auc_score and
average_precision_score, scikit-image's label and regionprops at every threshold, painted boxes for the areas, boxes
matched in loops. Ours runs on the same images with one thread and with `--workers`, and takes turns with the reference;
each time is the median of the repeats. Both must give the same numbers, or the script stops. `--clock cpu` counts
processor seconds, which a busy machine disturbs less; threads gain nothing by that clock.
"""

import argparse
import time

import numpy as np
import torch
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score, roc_auc_score

# isort: split
from pkd_utils.localization.suite import THRESHOLDS, WEAK_IOUS, score_maps
from pkd_utils.runs import files
from pkd_utils.runs.machine import cores

# isort: split
from localization import machine, simulate, with_threads  # the script beside this one

THRESHOLD = 0.5  # of the boxes whose precision is measured


def pair_ious(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    """IoU of every predicted with every reference box, (K, M)."""
    p, r = p[:, None], r[None]
    overlap = np.clip(np.minimum(p[..., 2:], r[..., 2:]) - np.maximum(p[..., :2], r[..., :2]), 0, None).prod(-1)
    return overlap / ((p[..., 2:] - p[..., :2]).prod(-1) + (r[..., 2:] - r[..., :2]).prod(-1) - overlap)


def reference_image(map: np.ndarray, mask: np.ndarray, boxes: np.ndarray) -> tuple[list[float], tuple]:
    """The suite's columns for one image, and its boxes at THRESHOLD: scores and IoUs with the reference boxes."""
    scaled = (map - map.min()) / (map.max() - map.min())
    painted_reference = np.zeros(map.shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        painted_reference[y0:y1, x0:x1] = True
    iou, fpr, region_iou, at = [], [], [], None
    for threshold in THRESHOLDS:
        on = scaled >= scaled.dtype.type(threshold)
        found = [region.bbox for region in regionprops(label(on, connectivity=1))]
        predicted = np.array([(x0, y0, x1, y1) for y0, x0, y1, x1 in found])
        ious = pair_ious(predicted, boxes)
        painted = np.zeros(map.shape, dtype=bool)
        for x0, y0, x1, y1 in predicted:
            painted[y0:y1, x0:x1] = True
        iou.append(ious.max())
        fpr.append((painted & ~painted_reference).sum() / painted.sum())
        region_iou.append((on & mask).sum() / (on | mask).sum())
        if threshold == THRESHOLD:
            at = ([map[y0:y1, x0:x1].max() for x0, y0, x1, y1 in predicted], ious)
    k = THRESHOLDS.index(THRESHOLD)
    pointing = mask[map == map.max()].mean()
    energy = map[mask].sum(dtype=np.float64) / map.sum(dtype=np.float64)
    means = [np.mean(iou), np.mean(fpr), max(iou), np.mean(region_iou)]
    ranks = [score(mask.ravel(), map.ravel()) for score in (roc_auc_score, average_precision_score)]
    return [*ranks, pointing, energy, iou[k], fpr[k], *means, len(at[0]), mask.mean()], at


def reference_precision(at: list[tuple], limit: float) -> float:
    """Average precision at one IoU threshold: boxes matched image by image, then the area of the interpolated curve."""
    scored, total = [], 0
    for scores, ious in at:
        total += ious.shape[1]
        claimed = np.zeros(ious.shape[1], dtype=bool)
        for k in np.argsort(-np.array(scores), kind="stable"):
            open_ious = np.where(claimed, -1, ious[k])
            best = int(open_ious.argmax())
            hit = open_ious[best] >= limit
            claimed[best] |= hit
            scored.append((scores[k], hit))
    scored = sorted(scored, key=lambda pair: -pair[0])
    values, hits = np.array([score for score, _ in scored]), np.array([hit for _, hit in scored])
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    found = hits.cumsum()[ends]
    precision, recall = found / (ends + 1), found / total
    area, before = 0.0, 0.0
    for k in range(len(ends)):
        area += (recall[k] - before) * precision[k:].max()
        before = recall[k]
    return area


def reference_suite(maps, masks, boxes) -> tuple[np.ndarray, list[float]]:
    """Per-image columns (N, 12) and the average precision at each of WEAK_IOUS."""
    rows, at = zip(*[reference_image(*image) for image in zip(maps, masks, boxes, strict=True)], strict=True)
    return np.array(rows), [reference_precision(list(at), limit) for limit in WEAK_IOUS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="maps that ours measures at once")
    parser.add_argument("--reference-images", type=int, default=50, help="how many of them the reference measures")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--workers", type=int, default=cores(), help="threads of ours, beside one thread")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", help="write the table and the machine's description to this file")
    args = parser.parse_args()
    info = machine()
    torch.set_num_threads(args.workers)
    maps, masks, boxes = simulate(args.images, args.size)
    few = slice(min(args.reference_images, args.images))

    ours = score_maps(maps[few], masks[few], boxes[few], THRESHOLD)
    columns, precision = reference_suite(maps[few], masks[few], boxes[few])
    np.testing.assert_allclose(ours.per_image.to_numpy(), columns, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.average_precision["ap"], precision, rtol=0, atol=1e-12)

    clock = {"wall": time.perf_counter, "cpu": time.process_time}[args.clock]
    counts = sorted({1, args.workers}) if args.clock == "wall" else [1]
    seconds = {name: [] for name in (*counts, "reference")}
    for _ in range(args.repeats):
        for n in counts:
            start = clock()
            with_threads(n, lambda: score_maps(maps, masks, boxes, THRESHOLD))
            seconds[n].append((clock() - start) * 1000 / args.images)
        start = clock()
        reference_suite(maps[few], masks[few], boxes[few])
        seconds["reference"].append((clock() - start) * 1000 / len(maps[few]))
    slow = float(np.median(seconds["reference"]))
    rows = []
    for n in counts:
        fast = float(np.median(seconds[n]))
        name = f"{n} thread{'s'[: n > 1]}"
        times = {"ours_s_per_1000_images": fast, "reference_s_per_1000_images": slow, "ratio": slow / fast}
        rows.append({"what": f"whole suite, {len(THRESHOLDS)} thresholds", "ours": name, **times})

    print(
        f"{info['cpu']}, {info['cores']} cores, torch {info['torch']}; "
        f"{args.images} simulated maps of {args.size} x {args.size}"
    )
    for r in rows:
        print(
            f"{r['what']}, {r['ours']}: {r['ours_s_per_1000_images']:.2f} s per 1,000 images, "
            f"per-image reference {r['reference_s_per_1000_images']:.1f} s, ratio {r['ratio']:.1f}"
        )
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        record = {"name": "localization-suite", "machine": info, "settings": settings, "rows": rows}
        files.write_json(args.json, record)


if __name__ == "__main__":
    main()
