"""The arms: what each puts in the place of the label. All share features, grid, folds and noise.

Each arm is a list of candidates (lambda, T, target); a candidate's target is (1 - lambda) y + lambda s, with y the
label as observed and s = sigmoid(teacher's logit / T). TRAM (Collier et al., 2022) has no row: its privileged head
shapes what is learned below it, and where nothing below is learned its other head is the image-only one, exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from pkd_utils.distillation.linear import fit_heads
from pkd_utils.distillation.rows import permute_within

IMAGE_ONLY, SELF, TEXT, JOINT = "image only", "self-distilled", "text teacher", "joint teacher"
SMOOTHED, RANDOM, IN_SAMPLE, ORACLE = "label smoothing", "random text", "text teacher, in sample", "oracle"
PERMUTED, JOINT_PERMUTED = "text, permuted in observed class", "joint, permuted in observed class"
AGAIN, CLEAN_PERMUTED = "text, permuted again", "text, permuted in clean class"
ARMS = {
    IMAGE_ONLY: "the labels, nothing else (lambda = 0)",
    SMOOTHED: "one half in place of s",
    SELF: "a teacher that sees the image: one more image-only head, on other folds",
    TEXT: "a teacher that reads the text alone (Baur et al.)",
    JOINT: "a teacher that sees the image and reads the text (Bergström et al.)",
    PERMUTED: "the text teacher's soft labels, shuffled among training studies of one observed label",
    AGAIN: "shuffled once more: placebo against placebo",
    CLEAN_PERMUTED: "the text teacher's soft labels, shuffled among training studies of one true label",
    JOINT_PERMUTED: "the joint teacher's soft labels, shuffled among training studies of one observed label",
    RANDOM: "a teacher that sees the image and random numbers as wide as the text",
    IN_SAMPLE: "the text teacher asked about the studies that it learned from, as the papers do",
    ORACLE: "the true label, or the true probability where it is known, in place of s",
}
REPORT_ARMS = {TEXT: PERMUTED, JOINT: JOINT_PERMUTED}  # each with its permuted control


@dataclass
class Teacher:
    """Logits of a teacher about its training studies, (n, cells) each."""

    crossed: np.ndarray  # of the model that has not seen the study's label
    seen: np.ndarray  # of the model that was fitted on it, too
    loss: np.ndarray  # (cells,) cross-entropy of `crossed` with the observed labels, nats


def teach(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    l2: Sequence[float],
    in_sample: bool,
    tolerance: float = 1e-5,
) -> Teacher:
    """Fit teachers of several cells on the same features and ask them about their own training studies.

    Parameters
    ----------
    features : (n, d)
    labels : (n, cells), as observed
    folds : (n,) part of each study; its logits come from models fitted on the other parts
    l2 : penalties; each cell takes that whose crossed logits have the smallest cross-entropy with the observed labels
    in_sample : also fit on all studies; else `seen` is `crossed`
    """
    penalties = np.repeat(l2, labels.shape[1])
    tiled = np.tile(labels, len(l2))
    crossed = np.empty_like(tiled)
    for part in np.unique(folds):
        held = folds == part
        crossed[held] = fit_heads(features[~held], tiled[~held], penalties, tolerance).logits(features[held])
    losses = (np.logaddexp(0, crossed) - tiled * crossed).mean(0).reshape(len(l2), -1)
    best, cells = losses.argmin(0), np.arange(labels.shape[1])
    chosen = crossed.reshape(len(labels), len(l2), -1)[:, best, cells]
    seen = fit_heads(features, labels, np.asarray(l2)[best], tolerance).logits(features) if in_sample else chosen
    return Teacher(chosen, seen, losses[best, cells])


def cross_folds(patients: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """A part (0 to count - 1) for each study, patients kept together."""
    names, index = np.unique(patients, return_inverse=True)
    return (rng.permutation(len(names)) % count)[index]


def soft_logits(
    teachers: dict[str, Teacher],
    cell: int,
    observed: np.ndarray,
    clean: np.ndarray,
    rng: Callable[[int], np.random.Generator],
) -> dict[str, np.ndarray]:
    """Teacher's logit for each training study, (n,) by arm; for those arms that have a teacher."""
    text, joint = teachers[TEXT].crossed[:, cell], teachers[JOINT].crossed[:, cell]
    return {
        SELF: teachers[SELF].crossed[:, cell],
        TEXT: text,
        JOINT: joint,
        PERMUTED: permute_within(text, observed, rng(0)),
        AGAIN: permute_within(text, observed, rng(1)),
        CLEAN_PERMUTED: permute_within(text, clean, rng(2)),
        JOINT_PERMUTED: permute_within(joint, observed, rng(3)),
        RANDOM: teachers[RANDOM].crossed[:, cell],
        IN_SAMPLE: teachers[TEXT].seen[:, cell],
    }


def candidates(
    observed: np.ndarray,
    truth: np.ndarray,
    logits: dict[str, np.ndarray],
    weights: Sequence[float],
    temperatures: Sequence[float],
) -> Iterator[tuple[str, float, float, np.ndarray, float]]:
    """Arm, lambda, T, target (n,) and dose mean |s - y| of every candidate but lambda = 0, which is `IMAGE_ONLY`'s.

    Without a teacher T has no meaning and is 1. Smoothing by lambda = 1 would leave no label, and is left out.
    """
    yield IMAGE_ONLY, 0.0, 1.0, observed, 0.0
    for weight in (w for w in weights if w > 0):
        fixed = {ORACLE: truth} | ({SMOOTHED: np.full_like(observed, 0.5)} if weight < 1 else {})
        softened = [(arm, t, expit(logit / t)) for arm, logit in logits.items() for t in temperatures]
        for arm, temperature, soft in [*((arm, 1.0, s) for arm, s in fixed.items()), *softened]:
            dose = float(np.abs(soft - observed).mean())
            yield arm, weight, temperature, (1 - weight) * observed + weight * soft, dose
