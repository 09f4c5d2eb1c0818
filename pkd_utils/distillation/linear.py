"""Linear heads by the hundred: L2-regularised logistic regressions that share features and differ in their targets.

With one label, equation (1) of either paper is linear in its targets: (1 - lambda) CE(y, p) + lambda CE(s, p) is
CE((1 - lambda) y + lambda s, p). So every arm of an experiment on frozen features, every lambda, every temperature and
every noise draw is one column of targets, and all of them are fitted together.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pkd_utils.runs.errors import DataError

COLUMNS = 1024  # columns that are iterated together: their logits stay in the processor's cache
STEPS = 2000  # at most; a column that is not done by then is refused


@dataclass
class LinearHeads:
    """K logistic regressions on d features."""

    coefficients: np.ndarray  # (d, K)
    intercepts: np.ndarray  # (K,)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Linear scores (m, K) of features (m, d)."""
        return features @ self.coefficients + self.intercepts


def fit_heads(features: np.ndarray, targets: np.ndarray, l2: float | np.ndarray, tolerance: float) -> LinearHeads:
    """Minimise, for each column k, mean_i CE(t_ik, sigmoid(x_i w_k + b_k)) + l2_k |w_k|^2 / 2; intercepts go free.

    The curvature of the cross-entropy is at most 1/4 (Böhning, 1992), so X'X / 4n + l2 bounds it for every target. In
    the features' principal axes that bound is diagonal: one decomposition serves all columns and penalties. Steps of
    its inverse are accelerated (Nesterov) and, column by column, started again where they turn uphill (O'Donoghue and
    Candès, 2015).

    Parameters
    ----------
    features : (n, d) float32 or float64, which is the precision of the fit
    targets : (n, K) in [0, 1]; hard, soft or mixed
    l2 : float or (K,), above 0
        Penalty beside the mean loss: scikit-learn's `C` is 1 / (n l2).
    tolerance : a column is done when the norm of its gradient is below it

    Returns
    -------
    LinearHeads
        A column of one value only (0 or 1) has no finite optimum: its slope is 0 and its intercept that of half a case
        of the other class.

    """
    dtype = torch.float32 if features.dtype == np.float32 else torch.float64
    count = targets.shape[1]
    l2 = np.broadcast_to(np.asarray(l2, dtype=np.float64), count)
    centre = features.mean(0, dtype=np.float64)
    centred = features - centre
    axes = principal_axes(centred)
    scores = torch.from_numpy(centred @ axes).to(dtype)  # (n, r)
    found = np.empty((scores.shape[1] + 1, count))
    for start in range(0, count, COLUMNS):
        part = slice(start, start + COLUMNS)
        found[:, part] = _descend(scores, targets[:, part], l2[part], tolerance)
    coefficients = axes @ found[1:]
    kind = features.dtype
    intercepts = found[0] - centre @ coefficients
    return LinearHeads(coefficients.astype(kind), intercepts.astype(kind))


def principal_axes(centred: np.ndarray) -> np.ndarray:
    """Principal axes (d, r) of centred features (n, d), the longest first."""
    tall = len(centred) > centred.shape[1]
    values, vectors = np.linalg.eigh(centred.T @ centred if tall else centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = (values > values[0] * 1e-10) & (values > 0)
    return vectors[:, kept] if tall else centred.T @ (vectors[:, kept] / np.sqrt(values[kept]))


def _descend(scores, targets, l2, tolerance):
    """Coefficients (1 + r, K), intercepts first, in the axes of `scores` (n, r)."""
    n, dtype = len(scores), scores.dtype
    mean = targets.mean(0, dtype=np.float64)
    flat = (mean == 0) | (mean == 1)
    share = np.clip(mean, 0.5 / n, 1 - 0.5 / n)
    design = torch.cat([torch.ones(n, 1, dtype=dtype), scores], 1)
    wanted = design.T @ torch.from_numpy(np.ascontiguousarray(targets)).to(dtype) / n  # what X'p / n is to become
    penalty = torch.from_numpy(l2.copy()).to(dtype).repeat(design.shape[1], 1)
    penalty[0] = 0
    bound = (design**2).sum(0)[:, None] / (4 * n) + penalty
    result = torch.zeros(design.shape[1], len(l2), dtype=dtype)
    result[0] = torch.from_numpy(np.log(share / (1 - share)))
    active = torch.from_numpy(np.flatnonzero(~flat))
    before = now = result[:, active].clone()
    momentum = torch.ones(len(active), dtype=dtype)
    wanted, penalty, bound = wanted[:, active], penalty[:, active], bound[:, active]
    for step in range(1, STEPS + 1):
        following = (1 + (1 + 4 * momentum**2).sqrt()) / 2
        ahead = now + (momentum - 1) / following * (now - before)
        logits = design @ ahead
        gradient = design.T @ logits.sigmoid_()
        gradient.div_(n).sub_(wanted).addcmul_(penalty, ahead)
        before, now = now, ahead - gradient / bound
        uphill = (gradient * (now - before)).sum(0) > 0
        momentum = torch.where(uphill, 1.0, following)
        if step % 5 == 0:
            done = gradient.norm(dim=0) < tolerance
            if done.any():
                result[:, active[done]] = ahead[:, done]
                more = ~done
                active, momentum = active[more], momentum[more]
                before, now, wanted, penalty, bound = (x[:, more] for x in (before, now, wanted, penalty, bound))
            if not len(active):
                return result.numpy()
    raise DataError(
        f"{len(active)} of {len(l2)} heads have a gradient above {tolerance:g} after {STEPS} steps: raise l2."
    )
