"""A metric and its test, as CONTRIBUTING.md shows it: the function goes into pkd_utils/statistics/metrics.py."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from pkd_utils.statistics.intervals import bootstrap_interval


def brier(targets, probabilities, weights=None):
    """Brier score (p - y)^2, averaged over the cases whose target is known; 0 is best.

    Parameters
    ----------
    targets : (N,), 1, 0 or NaN (unknown: left out)
    probabilities : (N,), in [0, 1]
    weights : (B, N), optional; counts of a bootstrap

    Returns
    -------
    float, or float64 (B,) with weights
    """
    known = ~np.isnan(targets)
    error = np.where(known, (probabilities - targets) ** 2, 0.0)
    sets = np.ones((1, len(targets))) if weights is None else weights
    mean = (sets @ error) / (sets @ known)
    return float(mean[0]) if weights is None else mean


def test_brier_is_scikit_learns_and_leaves_unknown_targets_out():
    rng = np.random.default_rng(0)
    targets, probabilities = rng.integers(0, 2, 50).astype(float), rng.random(50)
    assert brier(targets, probabilities) == pytest.approx(brier_score_loss(targets, probabilities), abs=1e-12)
    targets[:5] = np.nan
    assert brier(targets, probabilities) == pytest.approx(brier_score_loss(targets[5:], probabilities[5:]), abs=1e-12)
    interval = bootstrap_interval(lambda w: brier(targets, probabilities, w), n=50, resamples=200)
    assert interval.low < brier(targets, probabilities) < interval.high
