"""The synthetic experiments of Lopez-Paz et al. (ICLR 2016), section 4: when does privileged information help?

Features x ~ N(0, I_d), a hyperplane alpha ~ N(0, I_d), a teacher that sees x*, a student that sees x alone; both are
logistic regressions on standardised features. All repetitions of an experiment are fitted at once: arrays have a
leading axis R for repetitions. Every draw depends on (seed, repetition) alone, so that fewer repetitions or another
training size leave what remains as it was. All data here are simulated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.stats import t

from pkd_utils.distillation.loss import distillation_loss, soft_labels
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError

EXPERIMENTS = {
    "1 clean labels": "x* = <alpha, x>, y = [x* + e > 0] with e ~ N(0, 1)",
    "2 clean features": "x* ~ N(0, I), y = [<alpha, x*> > 0], x = x* + N(0, I)",
    "3 relevant features": "x* = three columns of x, the same everywhere, y = [<alpha_3, x*> > 0]",
    "4 columns by sample": "x* = three columns drawn for each sample, y = [<alpha of these columns, x*> > 0] (text)",
    "4 columns by data set": "x* = three columns drawn for each data set, y = [<alpha_3, x*> > median] (code)",
    "4 three largest": "x* = the three largest values of a sample, y = [<alpha_3, x*> > median] (idle code line)",
}
"""Experiments by name. Number 4 has three readings: the paper's text, its code as it runs, and a line that the code
carries but does not run. alpha_3 are the first three entries of alpha; the median is the data set's own."""

_TRUTH, _TRAIN, _TEST = 0, 1, 2  # random streams of a repetition


@dataclass
class Triplets:
    """Standardised training sets of R repetitions, float32, and what was subtracted and divided."""

    x: torch.Tensor  # (R, n, d)
    x_star: torch.Tensor  # (R, n, d*)
    y: torch.Tensor  # (R, n) of 0 and 1
    centre: dict[str, torch.Tensor]  # from "x", "x_star" to (R, 1, d), training mean
    scale: dict[str, torch.Tensor]  # training standard deviation


@dataclass
class Fit:
    """Logistic regressions of R repetitions."""

    coefficients: torch.Tensor  # (R, d)
    intercept: torch.Tensor  # (R,)
    gradient: torch.Tensor  # (R,) largest absolute entry of the loss's gradient: how far the fit is from its optimum
    steps: int  # taken

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Linear scores (R, n) of features (R, n, d)."""
        return torch.einsum("rnd,rd->rn", features, self.coefficients) + self.intercept[:, None]


def draw(
    experiment: str, alpha: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one data set of n samples of an experiment (a key of `EXPERIMENTS`); `alpha` (d,) is the hyperplane.

    Returns
    -------
    x : (n, d) float32, regular features
    x_star : (n, d*) float32, privileged features; d* is 1, d or 3
    y : (n,) bool
    """
    alpha, d = np.asarray(alpha, dtype=np.float32), len(alpha)
    x = rng.standard_normal((n, d), dtype=np.float32)
    if experiment == "1 clean labels":
        score = x @ alpha
        return x, score[:, None], score + rng.standard_normal(n, dtype=np.float32) > 0
    if experiment == "2 clean features":
        return x + rng.standard_normal((n, d), dtype=np.float32), x, x @ alpha > 0
    if experiment == "3 relevant features":
        return x, x[:, :3], x[:, :3] @ alpha[:3] > 0
    if experiment == "4 columns by sample":
        columns = rng.random((n, d), dtype=np.float32).argpartition(3, axis=1)[:, :3]
        x_star = np.take_along_axis(x, columns, axis=1)
        return x, x_star, (x_star * alpha[columns]).sum(axis=1) > 0
    if experiment == "4 columns by data set":
        x_star = x[:, rng.permutation(d)[:3]]
    else:
        x_star = -np.sort(np.partition(-x, 2, axis=1)[:, :3], axis=1)
    score = x_star @ alpha[:3]
    return x, x_star, score > np.median(score)


def training_sets(experiment: str, repetitions: int, n_train: int, dimension: int = 50, seed: int = 0) -> Triplets:
    """Draw the training sets of all repetitions and standardise each by its own mean and standard deviation."""
    sets = [
        draw(experiment, _alpha(seed, r, dimension), n_train, np.random.default_rng([seed, r, _TRAIN]))
        for r in range(repetitions)
    ]
    x, x_star, y = (torch.from_numpy(np.stack([s[i] for s in sets])) for i in range(3))
    features = {"x": x, "x_star": x_star}
    centre = {name: values.mean(1, keepdim=True) for name, values in features.items()}
    scale = {name: values.std(1, keepdim=True, unbiased=False) for name, values in features.items()}
    x, x_star = ((features[name] - centre[name]) / scale[name] for name in ("x", "x_star"))
    return Triplets(x, x_star, y.float(), centre, scale)


def fit_logistic(
    features: torch.Tensor,
    targets: torch.Tensor,
    soft_targets: torch.Tensor | None = None,
    weight: float = 0.0,
    steps: int = 300,
    learning_rate: float = 1.0,
    tolerance: float = 1e-4,
) -> Fit:
    """Fit R logistic regressions at once by full-batch descent of equation (1), from zero coefficients.

    Parameters
    ----------
    features : float tensor (R, n, d), standardised
    targets, soft_targets, weight : of `distillation_loss`; (R, n) tensors, lambda in [0, 1]
    steps : most steps taken; not stated in the paper
        Classes that a hyperplane separates (n = 200 in d = 50 often are) have no finite optimum, so that this number is
        then part of the method. The published code takes 1,000 epochs of RMSprop.
    learning_rate : below 2 / L, L the largest eigenvalue of features' features / 4n, the descent converges
    tolerance : stop when the gradient's largest absolute entry is below it everywhere (looked at each 10 steps)
    """
    repetitions, _, dimension = features.shape
    coefficients = torch.zeros(repetitions, dimension, 1, requires_grad=True)
    intercept = torch.zeros(repetitions, 1, 1, requires_grad=True)
    for step in range(1, steps + 1):
        logits = torch.baddbmm(intercept, features, coefficients)[..., 0]
        loss = distillation_loss(logits, targets, soft_targets, weight, validate=False)
        # The loss is a mean over repetitions too: times R, each repetition gets its own gradient.
        slopes = torch.autograd.grad(loss * repetitions, (coefficients, intercept))
        gradient = torch.cat(slopes, dim=1).abs().amax((1, 2))
        if step % 10 == 0 and float(gradient.max()) < tolerance:
            break
        with torch.no_grad():
            coefficients -= learning_rate * slopes[0]
            intercept -= learning_rate * slopes[1]
    return Fit(coefficients.detach()[..., 0], intercept.detach()[:, 0, 0], gradient, step)


@checked
def compare(
    experiment: str,
    repetitions: Annotated[int, Field(ge=1)] = 100,
    n_train: Annotated[int, Field(ge=2)] = 200,
    n_test: Annotated[int, Field(ge=1)] = 10_000,
    dimension: Annotated[int, Field(ge=3)] = 50,
    settings: Sequence[tuple[float, float]] = ((1.0, 1.0),),
    seed: int = 0,
    steps: Annotated[int, Field(ge=1)] = 300,
    learning_rate: Annotated[float, Field(gt=0)] = 1.0,
    tolerance: Annotated[float, Field(ge=0)] = 1e-4,
) -> pd.DataFrame:
    """Test accuracy of the privileged, the regular and the distilled classifier in every repetition.

    Parameters
    ----------
    experiment : str, a key of `EXPERIMENTS`
    settings : sequence of (lambda, T), one distilled classifier each
    steps, learning_rate, tolerance : of `fit_logistic`

    Returns
    -------
    DataFrame
        One row a repetition and classifier: experiment, repetition, n_train, classifier ("privileged", "regular",
        "distilled"), weight and temperature (NaN unless distilled), accuracy in [0, 1], gradient at the last step.
    """
    train = training_sets(experiment, repetitions, n_train, dimension, seed)
    how = {"steps": steps, "learning_rate": learning_rate, "tolerance": tolerance}
    teacher = fit_logistic(train.x_star, train.y, **how)
    regular = fit_logistic(train.x, train.y, **how)
    fits = [("privileged", np.nan, np.nan, teacher), ("regular", np.nan, np.nan, regular)]
    teacher_logits = teacher.logits(train.x_star)
    for weight, temperature in settings:
        soft = soft_labels(teacher_logits, temperature)
        fits.append(("distilled", weight, temperature, fit_logistic(train.x, train.y, soft, weight, **how)))

    rows = []
    for r in range(repetitions):  # test sets are drawn one at a time: 100 of 10,000 x 50 would fill 200 MB twice
        rng = np.random.default_rng([seed, r, _TEST])
        x, x_star, y = draw(experiment, _alpha(seed, r, dimension), n_test, rng)
        test = {"x": x, "x_star": x_star}
        for name in test:
            test[name] = (test[name] - train.centre[name][r].numpy()) / train.scale[name][r].numpy()
        for classifier, weight, temperature, fit in fits:
            features = test["x_star" if classifier == "privileged" else "x"]
            predicted = features @ fit.coefficients[r].numpy() + float(fit.intercept[r]) > 0
            accuracy = float((predicted == y).mean())
            rows.append((experiment, r, n_train, classifier, weight, temperature, accuracy, float(fit.gradient[r])))
    columns = ["experiment", "repetition", "n_train", "classifier", "weight", "temperature", "accuracy", "gradient"]
    return pd.DataFrame(rows, columns=columns)


def summarise(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean, standard deviation and 95 % interval of the accuracy over repetitions, for each group of columns `by`.

    Returns
    -------
    DataFrame: the columns of `by`, repetitions, mean, sd, low, high; the interval is Student's t for the mean
    """
    groups = rows.groupby(list(by), dropna=False, sort=False)["accuracy"]
    table = groups.agg(repetitions="count", mean="mean", sd="std").reset_index()
    if (table["repetitions"] < 2).any():
        raise DataError("An interval needs at least 2 repetitions of every group; raise `repetitions`.")
    half = t.ppf(0.975, table["repetitions"] - 1) * table["sd"] / np.sqrt(table["repetitions"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def _alpha(seed: int, repetition: int, dimension: int) -> np.ndarray:
    return np.random.default_rng([seed, repetition, _TRUTH]).standard_normal(dimension, dtype=np.float32)
