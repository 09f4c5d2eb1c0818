"""Boxes drawn and painted as masks, for the slow ways that the metrics are held against."""

import numpy as np


def masks_from_boxes(boxes, shape):
    """Fill boxes: a pixel belongs to the mask if its centre lies in a box. Returns bool (N, H, W)."""
    masks = np.zeros((len(boxes), *shape), dtype=bool)
    for mask, some in zip(masks, boxes, strict=True):
        for x0, y0, x1, y1 in np.ceil(np.maximum(np.reshape(some, (-1, 4)), 0) - 0.5).astype(int):
            mask[y0:y1, x0:x1] = True
    return masks


def random_boxes(rng, count, shape):
    """Boxes (count, 4) of whole pixels within an image of (H, W), sides of at most 13."""
    corner = np.column_stack([rng.integers(0, shape[1] - 4, count), rng.integers(0, shape[0] - 4, count)])
    return np.concatenate([corner, np.minimum(corner + rng.integers(3, 14, (count, 2)), shape[::-1])], axis=1)
