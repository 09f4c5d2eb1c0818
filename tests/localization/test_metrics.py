"""Localization metrics equal per-image scikit-learn, scikit-image and painted areas, whatever the maps look like."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from skimage.measure import label, regionprops
from sklearn.metrics import average_precision_score, roc_auc_score

from pkd_utils.localization.attention import upsample_maps
from pkd_utils.localization.metrics import (
    at_thresholds,
    best_iou,
    boxes_from_map,
    boxes_from_maps,
    choose_threshold,
    evaluate_maps,
    false_positive_rate,
    normalize_maps,
    pixel_auroc,
    pixel_ranks,
    pooled_auroc,
    region_shares,
)
from pkd_utils.localization.sides import side_scores
from pkd_utils.localization.suite import energy_inside, pointing_game, score_maps
from pkd_utils.runs.errors import DataError
from tests.localization.painted import masks_from_boxes, random_boxes


def exact_auroc(values, mask):
    """Counts of pairs as whole numbers, from the definition."""
    inside, outside = np.sort(values[mask]), np.sort(values[~mask])
    below = np.searchsorted(outside, inside, side="left").sum()
    upto = np.searchsorted(outside, inside, side="right").sum()
    return float(Fraction(int(below + upto), 2 * len(inside) * len(outside)))


def skimage_boxes(binary, connectivity):
    found = [p.bbox for p in regionprops(label(binary, connectivity=connectivity))]
    return np.array([(x0, y0, x1, y1) for y0, x0, y1, x1 in found], dtype=np.int64).reshape(-1, 4)


KINDS = {
    "attention": lambda r, s: upsample_maps(r.dirichlet(np.ones(196) / 4, s[0]).reshape(-1, 14, 14), s[1:]),
    "uniform float32": lambda r, s: r.random(s, dtype=np.float32),
    "signed float32": lambda r, s: r.standard_normal(s).astype(np.float32),
    "uniform float64": lambda r, s: r.random(s),
    "signed float64": lambda r, s: r.standard_normal(s) * 10.0 ** r.integers(-300, 300, s),
    "ties": lambda r, s: r.integers(0, 4, s).astype(np.float32),
    "signed ties": lambda r, s: r.integers(-2, 3, s).astype(np.float64),
    "signed zeros": lambda r, s: np.where(r.random(s) < 0.5, 0.0, -0.0).astype(np.float32),
    "neighbours": lambda r, s: np.nextafter(np.float32(0.3), r.integers(0, 2, s).astype(np.float32)),
    "subnormal": lambda r, s: (r.integers(0, 9, s) * np.float32(1e-45)).astype(np.float32),
    "constant": lambda r, s: np.full(s, 0.25, np.float32),
    "uint8": lambda r, s: r.integers(0, 256, s).astype(np.uint8),
    "float16": lambda r, s: r.random(s).astype(np.float16),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6, 23, 17), (3, 1, 40), (3, 40, 1), (4, 1, 2), (30, 56, 56)])
def test_pixel_auroc_and_auprc_equal_the_definition_and_scikit_learn(kind, shape, rng):
    maps = KINDS[kind](rng, shape)
    masks = rng.random(shape) < rng.choice([0.02, 0.3, 0.9], (shape[0], 1, 1))
    masks[:, 0, 0], masks[:, -1, -1] = True, False
    got = pixel_auroc(maps, masks)
    assert got.dtype == np.float64
    assert got.tolist() == [exact_auroc(a, m) for a, m in zip(maps, masks, strict=True)]
    both = pixel_ranks(maps, masks)
    np.testing.assert_array_equal(both[:, 0], got)
    for ours, score in zip(both.T, (roc_auc_score, average_precision_score), strict=True):
        reference = [score(m.ravel(), a.ravel()) for a, m in zip(maps, masks, strict=True)]
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)


def test_pixel_auroc_full_size_and_threads(rng, threads):
    maps = KINDS["attention"](rng, (45, 224, 224))
    masks = masks_from_boxes([random_boxes(rng, 2, (224, 224)) for _ in maps], (224, 224))
    one = pixel_auroc(maps, masks)
    threads(3)
    np.testing.assert_array_equal(one, pixel_auroc(maps, masks))
    assert one[:5].tolist() == [exact_auroc(a, m) for a, m in zip(maps[:5], masks[:5], strict=True)]


def test_pixel_auroc_known_values_and_undefined():
    maps = np.array([[[0.1, 0.2, 0.3, 0.4]]] * 5, dtype=np.float32)
    masks = np.array([[[0, 0, 1, 1]], [[1, 1, 0, 0]], [[0, 1, 0, 1]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    np.testing.assert_array_equal(pixel_auroc(maps, masks), [1, 0, 0.75, np.nan, np.nan])
    np.testing.assert_array_equal(pixel_auroc(np.zeros((1, 1, 1)), np.ones((1, 1, 1))), [np.nan])
    assert pixel_auroc(torch.ones(1, 2, 2).bfloat16(), torch.eye(2)[None])[0] == 0.5


def test_pixel_auprc_by_hand_and_within_the_picture(rng):
    masks = masks_from_boxes([random_boxes(rng, 2, (23, 17)) for _ in range(6)], (23, 17))
    np.testing.assert_allclose(pixel_ranks(np.ones(masks.shape), masks)[:, 1], region_shares(masks), atol=1e-12)
    np.testing.assert_allclose(pixel_ranks(masks.astype(float), masks)[:, 1], 1)
    maps = np.array([[[0.4, 0.3, 0.2, 0.1]]] * 4)
    masks = np.array([[[1, 0, 1, 0]], [[0, 0, 0, 1]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    np.testing.assert_allclose(pixel_ranks(maps, masks)[:, 1], [(1 + 2 / 3) / 2, 1 / 4, np.nan, np.nan])
    valid = np.array([[0, 0, 1, 1]])
    np.testing.assert_allclose(pixel_ranks(maps, masks, valid)[:, 1], [1, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(region_shares(masks, valid), [1 / 2, 1 / 2, 0, 1])


@pytest.mark.parametrize("negative", [0.0, 0.5])
def test_padding_is_neither_inside_nor_outside(negative, rng):
    """A map that only tells picture from padding says nothing; a whole image is what it was before."""
    valid = np.zeros((3, 20, 30), dtype=bool)
    valid[0, :, 6:24], valid[1, 3:18], valid[2] = True, True, True
    maps = (np.round(rng.random(valid.shape), 1) - negative).astype(np.float32)
    masks = (rng.random(valid.shape) < 0.2) & valid
    got = pixel_auroc(maps, masks, valid)
    assert got == pytest.approx([exact_auroc(m[v], r[v]) for m, r, v in zip(maps, masks, valid, strict=True)])
    np.testing.assert_array_equal(pixel_auroc(valid.astype(np.float32), masks, valid), 0.5)
    assert pixel_auroc(valid[:2].astype(np.float32), masks[:2]).min() > 0.55, "what padding gave away before"
    np.testing.assert_array_equal(pixel_auroc(maps, masks, torch.ones(20, 30)), pixel_auroc(maps, masks))
    assert np.isnan(pixel_auroc(maps[:1], valid[:1], valid[:1])[0]), "the region is the whole picture"


def test_pooled_auroc_is_that_of_all_pixels_together(rng):
    maps = np.round(rng.random((3, 6, 7)), 1) * np.array([1, 10, 3])[:, None, None]  # ties, and scales of their own
    masks, valid = rng.random(maps.shape) < 0.3, np.ones(maps.shape, bool)
    valid[1, :, 4:] = False
    masks[2] = False  # an image without a region still has an outside
    assert pooled_auroc(maps, masks) == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    expected = roc_auc_score(masks[valid], maps[valid])
    assert pooled_auroc(maps, masks, valid) == pytest.approx(expected, abs=1e-12)
    assert pooled_auroc(maps[:1], masks[:1]) == pixel_auroc(maps[:1], masks[:1])[0]
    assert np.isnan(pooled_auroc(maps, np.zeros_like(masks)))


def test_boxes_in_the_padding_are_no_false_positives(rng):
    valid = np.zeros((10, 20), dtype=bool)
    valid[:, 5:15] = True
    reference = [[5, 0, 10, 10]]
    maps, masks = rng.random((2, 10, 20)), np.zeros((2, 10, 20), dtype=bool)
    masks[:, :, 5:10] = True
    padded = evaluate_maps(maps, masks, [reference] * 2, 0.9, valid=valid)
    inside = boxes_from_maps(normalize_maps(maps), 0.9)
    for row, boxes in zip(padded.itertuples(), inside, strict=True):
        painted = masks_from_boxes([boxes], (10, 20))[0]
        assert row.fpr == pytest.approx((painted & valid & ~masks[0]).sum() / (painted & valid).sum())
        assert row.predicted_share == pytest.approx((painted & valid).sum() / 100)
    np.testing.assert_array_equal(padded["auroc"], pixel_auroc(maps, masks, valid))
    table = choose_threshold(maps, [reference] * 2, [0.9], valid=valid)[1]
    assert table["fpr"][0] == pytest.approx(padded["fpr"].mean())
    for wrong, words in ((valid[:, :9], "valid has shape"), (np.eye(10, 20), "is no rectangle")):
        with pytest.raises(DataError, match=words):
            evaluate_maps(maps, masks, [reference] * 2, 0.9, valid=wrong)


def test_upsampling():
    grid = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    smooth = upsample_maps(torch.from_numpy(grid).double(), (6, 9))
    assert smooth.dtype == np.float32 and smooth.shape == (1, 6, 9)
    np.testing.assert_allclose(smooth[0, 1::3, 1::3], grid[0], atol=1e-6)  # a patch's value stands at its centre
    assert smooth[0, 0, 0] == 0 and smooth[0, -1, -1] == 5  # border values are kept outside the centres


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("shape", [(40, 9, 11), (5, 1, 30), (5, 30, 1), (3, 1, 1), (25, 64, 48), (2, 224, 224)])
def test_boxes_equal_scikit_image(connectivity, shape, rng):
    for density in (0.05, 0.35, 0.6, 0.95):
        maps = rng.random(shape, dtype=np.float32)
        boxes = boxes_from_maps(maps, 1 - density, connectivity)
        for got, a in zip(boxes, maps, strict=True):
            np.testing.assert_array_equal(got, skimage_boxes(a >= np.float32(1 - density), connectivity))
            assert got.dtype == np.int64 and got.shape[1:] == (4,)


def test_boxes_of_shapes():
    ring = np.zeros((7, 9))
    ring[1:6, 2:8] = 1
    ring[2:5, 3:7] = 0
    ring[3, 4] = 1  # a component inside another one
    assert boxes_from_map(ring, 0.5).tolist() == [[2, 1, 8, 6], [4, 3, 5, 4]]
    assert boxes_from_map(ring, 0.5, min_area=2).tolist() == [[2, 1, 8, 6]]
    assert [len(boxes_from_map(ring, 0.5, min_area=area)) for area in (18, 19)] == [1, 0]  # pixels, not the box's area
    assert boxes_from_map(ring, 2).shape == (0, 4)
    assert boxes_from_map(np.ones((3, 5)), 1).tolist() == [[0, 0, 5, 3]]  # the threshold itself is inside
    corner = np.eye(3, dtype=bool)
    assert boxes_from_map(corner, 0.5, connectivity=2).tolist() == [[0, 0, 3, 3]]
    assert len(boxes_from_map(corner, 0.5, connectivity=1)) == 3
    comb = np.array([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])  # runs that join only one row later
    assert boxes_from_map(comb, 0.5).tolist() == [[0, 0, 5, 2]]
    stacked = boxes_from_maps(np.ones((3, 2, 2)), 0.5)  # maps do not touch each other
    assert [b.tolist() for b in stacked] == [[[0, 0, 2, 2]]] * 3


def test_normalize_maps(rng):
    maps = np.concatenate([rng.normal(size=(4, 5, 6)), np.full((1, 5, 6), 3.0)]).astype(np.float32)
    scaled = normalize_maps(maps)
    assert scaled.dtype == np.float32
    assert (scaled[:4].min((1, 2)) == 0).all() and (scaled[:4].max((1, 2)) == 1).all() and (scaled[4] == 0).all()
    for a, s in zip(maps[:4], scaled[:4], strict=True):
        np.testing.assert_array_equal(s, (a - a.min()) / (a.max() - a.min()))


def test_best_iou():
    reference = [[0, 0, 10, 10], [20, 20, 24, 24]]
    assert best_iou([[0, 0, 10, 10]], reference) == 1
    assert best_iou([[0, 0, 5, 10], [20, 20, 24, 23]], reference) == 0.75
    assert best_iou([[10, 0, 20, 10]], reference) == 0  # touching sides share no area
    assert best_iou([[0.5, 0, 10.5, 10]], reference) == pytest.approx(9.5 / 10.5)
    assert best_iou(np.zeros((0, 4)), reference) == 0
    assert np.isnan(best_iou([[0, 0, 1, 1]], []))


def test_false_positive_rate_known_values():
    assert false_positive_rate([[0, 0, 4, 4]], [[0, 0, 2, 4]], (8, 8)) == 0.5
    assert false_positive_rate([[0, 0, 4, 4], [0, 0, 4, 4], [1, 1, 2, 2]], [[0, 0, 2, 4]], (8, 8)) == 0.5  # a union
    assert false_positive_rate([[0, 0, 4, 4]], [[0, 0, 3, 4], [1, 0, 4, 4]], (8, 8)) == 0
    assert false_positive_rate([[-4, 0, 4, 4]], [[0, 0, 4, 2]], (8, 8)) == 0.5  # clipped to the image
    assert false_positive_rate([[0, 0, 4, 4]], [], (8, 8)) == 1
    assert np.isnan(false_positive_rate([], [[0, 0, 4, 4]], (8, 8)))


@pytest.mark.parametrize("fine", [1, 4])
def test_areas_equal_painted_boxes(fine, rng):
    shape = (23 * fine, 31 * fine)
    for count in (1, 2, 5, 40):
        predicted, reference = random_boxes(rng, count, shape), random_boxes(rng, 3, shape)
        p, r = masks_from_boxes([predicted, reference], shape)
        share = false_positive_rate(predicted / fine, reference / fine, (23, 31))
        assert share == pytest.approx((p & ~r).sum() / p.sum(), abs=1e-12)


def test_evaluate_maps_is_one_threshold_and_the_auroc(rng):
    maps = KINDS["uniform float32"](rng, (30, 28, 36))
    boxes = [random_boxes(rng, rng.integers(1, 4), maps.shape[1:]) for _ in maps]
    masks = masks_from_boxes(boxes, maps.shape[1:])
    table = evaluate_maps(maps, masks, boxes, 0.6)
    predicted = boxes_from_maps(normalize_maps(maps), 0.6)
    curves = at_thresholds(maps, None, boxes, [0.6]).curves
    expected = [
        pixel_auroc(maps, masks), curves["iou"][:, 0], curves["fpr"][:, 0], [len(some) for some in predicted],
        [len(some) for some in boxes], masks_from_boxes(predicted, maps.shape[1:]).mean((1, 2)),
    ]  # fmt: skip
    np.testing.assert_allclose(table.to_numpy(), np.transpose(expected), rtol=0, atol=1e-12)
    assert list(table) == ["auroc", "iou", "fpr", "predicted_boxes", "reference_boxes", "predicted_share"]


def test_evaluate_maps_edges():
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0, 1, 1] = 2
    masks = np.zeros((3, 4, 4), bool)
    masks[:2, :2, :2] = True
    table = evaluate_maps(maps, masks, [[[0, 0, 2, 2]], [[0, 0, 2, 2]], []], 0.5)
    np.testing.assert_array_equal(table["auroc"], [0.625, 0.5, np.nan])
    np.testing.assert_array_equal(table["iou"], [0.25, 0, np.nan])  # the constant map predicts nothing
    np.testing.assert_array_equal(table["fpr"], [0, np.nan, np.nan])
    assert table["predicted_boxes"].tolist() == [1, 0, 0]
    assert evaluate_maps(maps, masks, [[], [], []], 0)["predicted_boxes"].tolist() == [1, 1, 1]  # 0 >= 0 everywhere
    raw = evaluate_maps(maps, masks, [[[0, 0, 2, 2]]] * 3, 3, normalize=False)
    assert raw["predicted_boxes"].tolist() == [0, 0, 0]


def test_choose_threshold(rng):
    maps = upsample_maps(rng.random((20, 7, 7)), (42, 42))
    boxes = [random_boxes(rng, 2, (42, 42)) for _ in maps]
    masks = masks_from_boxes(boxes, (42, 42))
    thresholds = np.linspace(0.1, 1, 10)
    best, table = choose_threshold(maps, boxes, thresholds)
    for row in table.itertuples():
        expected = evaluate_maps(maps, masks, boxes, row.threshold)
        assert row.iou == expected["iou"].mean() and row.fpr == expected["fpr"].mean()
        assert row.predicted_boxes == expected["predicted_boxes"].mean()
    assert best == table["threshold"][table["iou"].argmax()]
    assert choose_threshold(maps, boxes, thresholds, "fpr")[0] == table["threshold"][table["fpr"].argmin()]
    flat = np.tile(np.eye(8)[None], (2, 1, 1))
    assert choose_threshold(flat, [[[0, 0, 8, 8]]] * 2, [0.2, 0.5])[0] == 0.2  # equally good: the lowest
    assert choose_threshold(np.ones((1, 4, 4)), [[[0, 0, 2, 2]]], [0.5])[1]["images_without_boxes"].tolist() == [1]


def test_a_threshold_whose_boxes_lie_in_the_padding_of_one_map_is_judged_on_the_others():
    maps, valid = np.zeros((2, 8, 12)), np.zeros((8, 12), dtype=bool)
    valid[:, 4:] = True
    maps[0, 2, 1] = maps[1, 2, 6] = 1
    maps[0, 2, 10], maps[1, 2, 10] = 0.6, 0.4
    best, table = choose_threshold(maps, [[[6, 2, 7, 3]]] * 2, [0.3, 0.5, 0.8], "fpr", valid=valid)
    assert table["fpr"].tolist() == [0.75, 0.5, 0] and table["images_without_boxes"].tolist() == [0, 0, 1]
    assert best == 0.8, "it was left out, as if it gave no box on any map"


def test_threshold_is_compared_in_the_precision_of_the_map():
    map = np.array([[0.0, 0.3, 1.0]], dtype=np.float32)
    above = 0.300000012  # above float32(0.3) as float64, but the same number in float32
    assert above > float(map[0, 1]) and np.float32(above) == map[0, 1]
    for threshold in (0.3, above, np.float64(above)):
        assert boxes_from_map(map, threshold).tolist() == [[1, 0, 3, 1]]


GOOD = np.zeros((2, 4, 4), np.float32), np.zeros((2, 4, 4), bool), [[[0, 0, 2, 2]]] * 2
BROKEN, NEGATIVE = (np.where(np.arange(2)[:, None, None] == 1, value, GOOD[0]) for value in (np.nan, -1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pixel_auroc(GOOD[0], GOOD[1][:, :3]), "differ in shape"),
        (lambda: pixel_auroc(GOOD[0], np.full((2, 4, 4), 255)), "other values than 0 and 1"),
        (lambda: pixel_auroc(BROKEN, GOOD[1]), "Map 1 holds values that are not finite"),
        (lambda: pointing_game(BROKEN, GOOD[1]), "Map 1 holds values that are not finite"),
        (lambda: energy_inside(BROKEN, GOOD[1]), "Map 1 holds values that are not finite"),
        (lambda: side_scores(BROKEN), "Map 1 holds values that are not finite"),
        (lambda: energy_inside(NEGATIVE, GOOD[1]), "Map 1 holds negative values"),
        (lambda: side_scores(NEGATIVE), "negative values"),
        (lambda: pointing_game(*GOOD[:2], -1), "tolerance = -1"),
        (lambda: score_maps(GOOD[0], GOOD[1][:1], GOOD[2], 0.5), "differ in shape"),
        (lambda: boxes_from_maps(np.array([[[np.inf, 0]]]), 0.5), "Map 0 holds"),
        (lambda: normalize_maps(np.array([[[3e38, -3e38]]], np.float32)), "too far apart"),
        (lambda: pixel_auroc(np.zeros((4, 4)), np.zeros((4, 4))), r"shape \(4, 4\)"),
        (lambda: pixel_auroc(np.zeros((0, 4, 4)), np.zeros((0, 4, 4))), "at least one map"),
        (lambda: pixel_auroc(np.zeros((2, 4, 4), complex), GOOD[1]), "complex"),
        (lambda: boxes_from_map(GOOD[0], 0.5), "Maps have shape"),
        (lambda: boxes_from_maps(GOOD[0], 0.5, connectivity=4), "connectivity=4"),
        (lambda: best_iou([[0, 0, 0, 5]], [[0, 0, 1, 1]]), "x0 < x1"),
        (lambda: best_iou([[0, 0, 1, np.nan]], [[0, 0, 1, 1]]), "finite"),
        (lambda: best_iou([0, 0, 1, 1], [[0, 0, 1, 1]]), r"shape \(4,\)"),
        (lambda: evaluate_maps(*GOOD[:2], [[], GOOD[0][:1]], 0.5), r"image 1 have shape \(1, 4, 4\): give \(K, 4\)"),
        (lambda: evaluate_maps(*GOOD[:2], GOOD[2][:1], 0.5), "1 lists of boxes for 2 maps"),
        *(
            (lambda box=box: evaluate_maps(*GOOD[:2], [[], [box]], 0.5), "Image 1 .* outside its map of height 4 and")
            for box in ([0, 0, 9, 3], [0, 0, 3, 9])
        ),
        (lambda: choose_threshold(GOOD[0], GOOD[2], [0.5], "dice"), "criterion = 'dice'"),
        (lambda: choose_threshold(GOOD[0], GOOD[2], [0.5, 0.5]), "not an increasing list"),
        (lambda: choose_threshold(GOOD[0], GOOD[2], [0.5, 0.3]), "not an increasing list"),
        (lambda: choose_threshold(GOOD[0], GOOD[2], []), "not an increasing list"),
        (lambda: choose_threshold(GOOD[0], [[[0, 0, 2, 2]], []], [0.5]), "Image 1 has no reference box"),
        (lambda: choose_threshold(GOOD[0], GOOD[2], [0.5], "fpr"), "No threshold gives any box"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(DataError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
