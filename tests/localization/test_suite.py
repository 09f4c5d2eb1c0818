"""The suite's metrics equal slow, independent per-image computations, and chance maps get chance levels."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage
from skimage.measure import label, regionprops

from pkd_utils.localization import arrays
from pkd_utils.localization.metrics import at_thresholds, boxes_from_maps, evaluate_maps, normalize_maps, pixel_auroc
from pkd_utils.localization.suite import (
    COCO_IOUS,
    LOWER_IS_BETTER,
    METRICS,
    THRESHOLDS,
    WEAK_IOUS,
    average_precision,
    box_scores,
    energy_inside,
    pointing_game,
    score_maps,
)
from pkd_utils.runs.errors import DataError
from tests.localization.painted import masks_from_boxes, random_boxes


def blobs(rng, n=12, shape=(24, 30)):
    """Smooth maps with a few components at most thresholds, not scaled."""
    noise = ndimage.gaussian_filter(rng.random((n, *shape)), (0, 3, 3))
    return (0.01 * normalize_maps(noise.astype(np.float32)) * rng.uniform(0.5, 2, (n, 1, 1))).astype(np.float32)


def problem(rng, n=12, shape=(24, 30)):
    boxes = [random_boxes(rng, rng.integers(1, 4), shape) for _ in range(n)]
    return blobs(rng, n, shape), masks_from_boxes(boxes, shape), boxes


# --- pointing game ---------------------------------------------------------------------------------------------------


def test_pointing_game_known_values():
    maps = np.zeros((5, 3, 4), np.float32)
    maps[0, 1, 1] = maps[1, 0, 0] = 2
    maps[2, 0, 0] = maps[2, 1, 1] = maps[2, 2, 3] = -0.5 + 1  # three maxima, one inside
    masks = np.zeros((5, 3, 4), bool)
    masks[:4, 1, 1:3] = True
    np.testing.assert_allclose(pointing_game(maps, masks), [1, 0, 1 / 3, 2 / 12, np.nan])
    assert pointing_game(-np.ones((1, 2, 2)), np.eye(2)[None])[0] == 0.5  # constant: the region's share of the image


@pytest.mark.parametrize("tolerance", [1, 1.5, 3, 15])
def test_pointing_game_tolerance_is_a_distance_between_pixel_centres(tolerance, rng):
    maps, masks, _ = problem(rng, 40)
    maps = np.round(maps, 3)  # ties
    expected = []
    for map, mask in zip(maps, masks, strict=True):
        inside = np.argwhere(mask)
        maxima = np.argwhere(map == map.max())
        distance = np.sqrt(((maxima[:, None] - inside[None]) ** 2).sum(-1)).min(1)
        expected.append((distance <= tolerance).mean())
    np.testing.assert_array_equal(pointing_game(maps, masks, tolerance), expected)
    assert np.mean(expected) > 0


@pytest.mark.parametrize("function", [pixel_auroc, pointing_game, energy_inside])
def test_tensors_are_accepted_and_any_number_of_threads(function, rng, threads, monkeypatch):
    maps, masks, _ = problem(rng)
    threads(1)
    values = function(maps, masks)
    monkeypatch.setattr(arrays, "PART_PIXELS", 1500)
    threads(2)
    np.testing.assert_array_equal(function(torch.from_numpy(maps), torch.from_numpy(masks)), values)
    np.testing.assert_array_equal(function(torch.from_numpy(maps), masks.astype(np.uint8)), values)


# --- energy ----------------------------------------------------------------------------------------------------------


def test_energy_inside_known_values(rng):
    maps = np.array([[[1, 2], [3, 4]], [[5, 5], [5, 5]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]], dtype=np.float64)
    masks = np.array([[[0, 1], [0, 1]], [[1, 0], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(energy_inside(maps, masks), [0.6, 0.25, np.nan, np.nan])
    maps, masks, _ = problem(rng)
    expected = [m[k].astype(np.float64).sum() / m.astype(np.float64).sum() for m, k in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(energy_inside(maps, masks), expected, rtol=1e-12)


# --- curves ----------------------------------------------------------------------------------------------------------


def slow_curves(map, mask, boxes, thresholds, connectivity, min_area, normalize):
    """One image: box IoU and FPR, region IoU and FPR at each threshold, with scikit-image and painted boxes."""
    rows = []
    scaled = (map - map.min()) / (map.max() - map.min()) if normalize else map
    for threshold in thresholds:
        on = scaled >= map.dtype.type(threshold)
        found = [p.bbox for p in regionprops(label(on, connectivity=connectivity)) if p.num_pixels >= min_area]
        predicted = masks_from_boxes([[(x0, y0, x1, y1)] for y0, x0, y1, x1 in found], map.shape)
        reference = masks_from_boxes([[box] for box in boxes], map.shape)
        ious = [(p & r).sum() / (p | r).sum() for p in predicted for r in reference]
        union, truth = predicted.any(0), reference.any(0)
        fpr = (union & ~truth).sum() / union.sum() if union.any() else np.nan
        area = on.sum()
        region = [(on & mask).sum() / (on | mask).sum(), (on & ~mask).sum() / area if area else np.nan]
        rows.append([max(ious, default=0), fpr, *region])
    return rows


@pytest.mark.parametrize("kind", ["smooth", "noise"])
@pytest.mark.parametrize(("connectivity", "min_area", "normalize"), [(1, 1, True), (2, 5, True), (1, 1, False)])
def test_curves_equal_the_slow_way(kind, connectivity, min_area, normalize, rng):
    maps, masks, boxes = problem(rng)
    if kind == "noise":  # many boxes, of both signs
        maps = rng.normal(0, 0.01, maps.shape)
    thresholds = (0.1, 0.45, 0.5, 0.8, 0.97) if normalize else (0.004, 0.008, 0.012, 5)
    boxes_at, _, curves = at_thresholds(maps, masks, boxes, thresholds, connectivity, min_area, normalize)
    assert len(boxes_at) == len(thresholds) and all(counts.sum() == len(found) for found, counts in boxes_at)
    slow = [
        slow_curves(m, k, b, thresholds, connectivity, min_area, normalize)
        for m, k, b in zip(maps, masks, boxes, strict=True)
    ]
    np.testing.assert_allclose(np.stack(list(curves.values()), axis=-1), slow, rtol=0, atol=1e-12)
    assert curves["iou"].shape == (len(maps), len(thresholds))


def test_curves_of_parts_and_threads_are_those_of_the_whole(rng, threads, monkeypatch):
    maps, masks, boxes = problem(rng)
    whole = at_thresholds(maps, masks, boxes, THRESHOLDS).curves
    monkeypatch.setattr(arrays, "PART_PIXELS", 1500)
    for workers in (1, 2):
        threads(workers)
        parts = at_thresholds(maps, masks, boxes, THRESHOLDS).curves
        np.testing.assert_array_equal(list(parts.values()), list(whole.values()))
    maps[7, 3, 3] = np.inf
    with pytest.raises(DataError, match="Map 7 holds values that are not finite"):
        at_thresholds(maps, masks, boxes, THRESHOLDS)


def test_curves_of_a_constant_map_and_of_an_image_without_region():
    maps, masks = np.full((2, 4, 4), 0.5), np.zeros((2, 4, 4), bool)
    masks[0, :2] = True
    curves = at_thresholds(maps, masks, [[[0, 0, 4, 2]], []], (0.2, 0.7)).curves
    assert (curves["iou"][0] == 0).all() and np.isnan(curves["fpr"]).all() and (curves["region_iou"][0] == 0).all()
    assert np.isnan(curves["iou"][1]).all() and np.isnan(curves["region_iou"][1]).all()
    as_it_is = at_thresholds(maps, masks, [[[0, 0, 4, 2]], []], (0.2, 0.7), normalize=False).curves
    np.testing.assert_array_equal(as_it_is["iou"][0], [0.5, 0])  # the whole image, then nothing
    np.testing.assert_array_equal(as_it_is["fpr"][0], [0.5, np.nan])
    np.testing.assert_array_equal(as_it_is["region_fpr"][1], [1, np.nan])
    at_the_threshold = at_thresholds(masks[:1].astype(np.float32), masks[:1], [[[0, 0, 4, 2]]], (0.5, 1.0)).curves
    assert (at_the_threshold["iou"] == 1).all() and (
        at_the_threshold["region_iou"] == 1
    ).all()  # a value equal to it is in


# --- average precision -----------------------------------------------------------------------------------------------


def slow_average_precision(predicted, scores, reference, limit):
    """COCO's evaluation of one category, written image by image; scores without ties."""
    rows = []
    for p, s, r in zip(predicted, scores, reference, strict=True):
        claimed = set()
        for k in np.argsort(-s):
            best, which = limit, None
            for j in range(len(r)):
                if j in claimed:
                    continue
                overlap = max(0, min(p[k][2], r[j][2]) - max(p[k][0], r[j][0])) * max(
                    0, min(p[k][3], r[j][3]) - max(p[k][1], r[j][1])
                )
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (p[k], r[j])]
                iou = overlap / (sum(areas) - overlap)
                if iou >= best and (which is None or iou > best):
                    best, which = iou, j
            rows.append((s[k], which is not None))
            claimed.add(which)
    rows.sort(key=lambda row: -row[0])
    hits = np.array([hit for _, hit in rows])
    recall = np.cumsum(hits) / sum(len(r) for r in reference)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    area, before = 0, 0
    for k in range(len(hits)):
        area += (recall[k] - before) * precision[k:].max()
        before = recall[k]
    return area


def detections(rng, n=30, shape=(24, 30)):
    reference = [random_boxes(rng, rng.integers(0, 4), shape) for _ in range(n)]
    near = [r + rng.integers(-2, 3, r.shape) for r in reference]
    near = [b[(b[:, :2] < b[:, 2:]).all(1)] for b in near]
    predicted = [np.concatenate([b, b, random_boxes(rng, rng.integers(0, 3), shape)]) for b in near]  # doubles
    return predicted, [rng.random(len(p)) for p in predicted], reference


def test_average_precision_equals_coco_written_image_by_image(rng):
    for _ in range(5):
        predicted, scores, reference = detections(rng)
        limits = (*WEAK_IOUS, *COCO_IOUS)
        table = average_precision(predicted, scores, reference, limits)
        slow = [slow_average_precision(predicted, scores, reference, limit) for limit in limits]
        np.testing.assert_allclose(table["ap"], slow, rtol=0, atol=1e-12)
        assert table["ap"].iloc[0] > table["ap"].iloc[-1] and (table["predicted"] == sum(map(len, predicted))).all()


def test_average_precision_by_hand():
    one = [[0, 0, 10, 10]]
    reference = [one, [[0, 0, 4, 4], [20, 20, 30, 30]]]
    # a hit, its double (a false positive), a hit: precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3
    predicted, scores = [one * 2, [[0, 0, 4, 4]]], [[0.9, 0.8], [0.5]]
    table = average_precision(predicted, scores, reference, [0.5])
    assert table["ap"][0] == pytest.approx(1 / 3 + 2 / 9)
    assert table["recall"][0] == pytest.approx(2 / 3)
    # a box claims the open reference it overlaps most, and leaves the other to the next box
    twins = [[[0, 0, 10, 10], [0, 0, 10, 8]]]
    assert average_precision([[[0, 0, 10, 10], [0, 0, 10, 9]]], [[2, 1]], twins, [0.8])["ap"][0] == 1
    assert average_precision([[]], [[]], [one])["ap"].tolist() == [0] * len(WEAK_IOUS)
    assert average_precision([one], [[1]], [[]])["ap"].isna().all()
    assert average_precision([one, one], [[1], [2]], [one, []], [0.5])["ap"][0] == 0.5  # a false positive comes first


def test_average_precision_of_tied_scores_does_not_depend_on_the_order_of_images(rng):
    predicted, scores, reference = detections(rng)
    scores = [np.round(s, 1) for s in scores]
    order = rng.permutation(len(predicted))
    turned = [[values[i] for i in order] for values in (predicted, scores, reference)]
    pd.testing.assert_frame_equal(average_precision(predicted, scores, reference), average_precision(*turned))
    # one tied group: precision and recall are those of all boxes together
    half = average_precision([[[0, 0, 2, 2]], [[0, 0, 2, 2]]], [[1], [1]], [[[0, 0, 2, 2]], []], [0.5])
    assert half["ap"][0] == 0.5


def test_box_scores():
    map = np.arange(12.0).reshape(1, 3, 4)
    boxes = [[[0, 0, 2, 2], [2, 1, 4, 3]]]
    assert box_scores(map, boxes)[0].tolist() == [5, 11]
    assert [len(s) for s in box_scores(np.zeros((2, 3, 4)), [[], [[0, 0, 1, 1]]])] == [0, 1]


# --- the whole suite -------------------------------------------------------------------------------------------------


def test_score_maps_agrees_with_its_parts(rng):
    maps, masks, boxes = problem(rng)
    thresholds = (0.2, 0.4, 0.6, 0.8)
    suite = score_maps(maps, masks, boxes, 0.5, thresholds, tolerance=2, iou_thresholds=(0.2, 0.5))
    table = suite.per_image
    assert [*METRICS, "region_iou_all", "predicted_boxes", "region_share"] == list(table)
    old = evaluate_maps(maps, masks, boxes, 0.5)
    np.testing.assert_array_equal(
        table[["pixel_auroc", "iou", "fpr", "predicted_boxes"]], old[["auroc", "iou", "fpr", "predicted_boxes"]]
    )
    curves = at_thresholds(maps, masks, boxes, thresholds).curves
    np.testing.assert_allclose(table["iou_all"], curves["iou"].mean(1))
    np.testing.assert_allclose(table["fpr_all"], np.nanmean(curves["fpr"], axis=1))
    np.testing.assert_allclose(table["best_iou"], curves["iou"].max(1))
    np.testing.assert_allclose(table["region_iou_all"], curves["region_iou"].mean(1))
    np.testing.assert_array_equal(table["pointing_game"], pointing_game(maps, masks, 2))
    assert suite.curves["threshold"].tolist() == list(thresholds)
    np.testing.assert_allclose(suite.curves["fpr"], np.nanmean(curves["fpr"], axis=0))
    found = boxes_from_maps(normalize_maps(maps), 0.5)
    expected = average_precision(found, box_scores(maps, found), boxes, (0.2, 0.5))
    pd.testing.assert_frame_equal(suite.average_precision, expected)
    # the chosen threshold may be one of the grid
    again = score_maps(maps, masks, boxes, 0.4, thresholds).per_image
    np.testing.assert_array_equal(again["iou"], curves["iou"][:, 1])
    assert (again["best_iou"] >= again["iou"]).all()


def test_a_perfect_map_is_perfect_and_a_uniform_map_is_chance(rng):
    shape = (20, 20)
    boxes = [random_boxes(rng, 1, shape) for _ in range(6)]
    masks = masks_from_boxes(boxes, shape)
    perfect = score_maps(masks.astype(np.float32), masks, boxes, 0.5)
    assert (
        perfect.per_image[["pixel_auroc", "pointing_game", "energy_inside", "iou", "iou_all", "best_iou"]] == 1
    ).all(None)
    assert (perfect.per_image[["fpr", "fpr_all"]] == 0).all(None)
    assert (perfect.average_precision["ap"] == 1).all()
    uniform = score_maps(np.ones((6, *shape), np.float32), masks, boxes, 0.5, normalize=False).per_image
    share = masks.mean((1, 2))
    assert (uniform["pixel_auroc"] == 0.5).all()
    for column in ("pointing_game", "energy_inside", "iou", "iou_all", "best_iou", "region_iou_all"):
        np.testing.assert_allclose(uniform[column], share)
    np.testing.assert_allclose(uniform["fpr_all"], 1 - share)


def test_constants():
    assert pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]) == COCO_IOUS
    assert LOWER_IS_BETTER == ("fpr", "fpr_all")


def test_the_suite_counts_the_picture_alone(rng):
    """Of padded images every metric but the pixels above a threshold and IoU is that of the picture cut out."""
    maps, masks, boxes = problem(rng)
    wide = [np.pad(a, ((0, 0), (0, 0), (7, 5))) for a in (maps, masks)]
    wide[0][:, :, :7] = maps.max()
    valid = np.pad(np.ones(maps.shape[1:], dtype=bool), ((0, 0), (7, 5)))
    moved = [np.add(b, [7, 0, 7, 0]) for b in boxes]
    scale = {"threshold": float(np.median(maps)), "thresholds": (float(np.median(maps)),), "normalize": False}
    got = score_maps(*wide, moved, **scale, valid=valid).per_image
    plain = score_maps(maps, masks, boxes, **scale).per_image
    for name in ("pixel_auroc", "pointing_game", "energy_inside"):
        np.testing.assert_allclose(got[name], plain[name], err_msg=name)
    assert (score_maps(*wide, moved, **scale).per_image["fpr"] >= got["fpr"]).all()
    empty = score_maps(np.zeros_like(wide[0]), wide[1], moved, 0.5, valid=valid).per_image
    np.testing.assert_array_equal(empty["pointing_game"], empty["region_share"])  # zeros, as of Grad-CAM


def test_boxes_in_the_padding_alone_are_no_predictions():
    maps, valid = np.zeros((2, 8, 12)), np.zeros((8, 12), dtype=bool)
    valid[:, 4:] = True
    maps[:, 2:4, 6:8] = 0.9
    maps[1, 2, 0] = 1  # the brightest of all
    truth = [[[6, 2, 8, 4]]] * 2
    suite = score_maps(maps, maps > 0.8, truth, 0.5, valid=valid)
    assert suite.per_image["predicted_boxes"].tolist() == [1, 1] and (suite.average_precision["ap"] == 1).all()
    assert score_maps(maps, maps > 0.8, truth, 0.5).average_precision["ap"].max() < 0.8
