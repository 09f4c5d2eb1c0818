"""Soft labels and the distillation loss of both papers.

A teacher f_t that has seen the privileged input x* turns into soft labels (equation 2 of Baur et al.)

    s_i = sigma(f_t(x_i*) / T)                                                        (2)

and the student f_s, which sees the image x alone, minimises (equation 1)

    1/n sum_i [ (1 - lambda) L(y_i, y^_i) + lambda L(s_i, y^_i) ],   y^_i = sigma(f_s(x_i))   (1)

sigma is the sigmoid (multi-label: L is binary cross entropy) or the softmax (one class of many: L is cross entropy).
As in both papers the student's logits are not divided by T and the soft term is not multiplied by T^2, as Hinton et
al. have it. T < 1 sharpens the teacher, T > 1 softens it.
"""

import math

import torch
import torch.nn.functional as F

from pkd_utils.runs.errors import DataError

ACTIVATIONS = ("sigmoid", "softmax")


def soft_labels(logits, temperature: float = 1.0, activation: str = "sigmoid") -> torch.Tensor:
    """Equation (2): the teacher's logits as soft labels.

    Parameters
    ----------
    logits : tensor or array, any shape; for "softmax" classes lie along the last axis
        Teacher outputs f_t(x*), before any activation. Finite.
    temperature : float
        T > 0. Below 1 sharpens, above 1 softens.
    activation : {"sigmoid", "softmax"}

    Returns
    -------
    tensor, float, same shape as `logits`, values in [0, 1]; no gradient (the teacher is frozen).
    """
    _check_options(activation, temperature=temperature)
    logits = torch.as_tensor(logits).detach()
    finite = torch.isfinite(logits)
    if not finite.all():
        wrong = ~finite.reshape(logits.shape[0] if logits.ndim else 1, -1).all(1)
        raise DataError(
            f"{int(wrong.sum())} of {len(wrong)} rows of teacher logits hold NaN or infinity (first: row "
            f"{int(wrong.int().argmax())}); train the teacher again or leave those rows out."
        )
    scaled = logits / temperature
    return torch.sigmoid(scaled) if activation == "sigmoid" else torch.softmax(scaled, dim=-1)


def distillation_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    soft_targets: torch.Tensor | None,
    weight: float,
    activation: str = "sigmoid",
    soft_on_missing: bool = False,
    validate: bool = True,
) -> torch.Tensor:
    """Equation (1): (1 - weight) L(targets, student) + weight L(soft_targets, student).

    Parameters
    ----------
    student_logits : float tensor, (N, K)
        f_s(x), before the activation. K labels ("sigmoid") or K classes ("softmax"). Any shape for "sigmoid".
    targets : tensor
        "sigmoid": same shape as `student_logits`, 1, 0 or anything between; NaN = not known.
        "softmax": int64 class numbers (N,), or float class probabilities (N, K). NaN is refused.
    soft_targets : float tensor of the shape of `student_logits`, or None
        `soft_labels(...)`. None is allowed when `weight` is 0 (the baseline).
    weight : float
        lambda in [0, 1]. With 0 the soft term, and with 1 the hard term, is not computed at all, so weight 0 is
        bit for bit the plain loss.
    activation : {"sigmoid", "softmax"}
    soft_on_missing : bool
        What an unknown (NaN) target does to its soft label; not stated in the paper. False: such an entry carries no
        loss at all, so baseline and student learn from the same entries. True: the teacher's soft label still
        counts there, and the soft term is the mean over all entries.
    validate : bool
        Look at the values too (NaN, range). Training loops check their whole tables once with `check_targets`
        and pass False, which on a GPU saves one synchronisation a step.

    Returns
    -------
    tensor, scalar
        Each term is the mean over its entries ("sigmoid": over the observed label entries of the batch; 0 where there
        is none; "softmax": over rows).
    """
    _check_options(activation, weight=weight)
    _check_shapes(student_logits, targets, soft_targets, weight, activation)
    if validate:
        check_targets(targets, soft_targets if weight > 0 else None, activation, student_logits.shape[-1])

    loss = masked_bce if activation == "sigmoid" else F.cross_entropy
    if weight == 0:
        return loss(student_logits, targets)
    if activation == "sigmoid" and not soft_on_missing:
        if weight < 1:
            # Binary cross entropy is linear in its target: both terms are one, with the mixed target (NaN stays NaN).
            return loss(student_logits, (1 - weight) * targets + weight * soft_targets)
        soft_targets = soft_targets.where(~torch.isnan(targets), torch.nan)
    soft = loss(student_logits, soft_targets)
    if weight == 1:
        return soft
    return (1 - weight) * loss(student_logits, targets) + weight * soft


def masked_bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy, mean over the known targets; NaN targets carry no loss, and 0 is the mean of none.

    Logits and targets are of any one shape. No shape depends on the data, so a GPU need not wait.
    """
    known = ~torch.isnan(targets)
    filled = torch.where(known, targets, 0).to(logits.dtype)  # NaN times a zero weight would still be NaN
    total = F.binary_cross_entropy_with_logits(logits, filled, weight=known.to(logits.dtype), reduction="sum")
    return total / known.sum().clamp(min=1)


def check_targets(targets, soft_targets, activation: str, n_classes: int) -> None:
    """Refuse target values that the loss cannot mean: outside [0, 1], not a class number, NaN where not allowed.

    Arguments are those of `distillation_loss`; `n_classes` is for "softmax" with class numbers.
    """
    if activation == "sigmoid":
        _check_range(torch.nan_to_num(targets, nan=0.0, posinf=2.0, neginf=-1.0), "targets", activation)
    elif targets.is_floating_point():
        _check_range(targets, "targets (a row whose class is not known must be left out)", activation)
    elif targets.numel() and (targets.min() < 0 or targets.max() >= n_classes):
        raise DataError(
            f"Class numbers must lie in 0 ... {n_classes - 1}, found {int(targets.min())} ... "
            f"{int(targets.max())}; a row whose class is not known must be left out."
        )
    if soft_targets is not None:
        _check_range(soft_targets, "soft targets", activation)


def _check_options(activation: str, weight: float = 0.0, temperature: float = 1.0) -> None:
    if activation not in ACTIVATIONS:
        raise DataError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}.")
    if not 0.0 <= weight <= 1.0:  # also refuses NaN
        raise DataError(f"weight (lambda) must lie in [0, 1], not {weight}.")
    if not 0.0 < temperature < math.inf:
        raise DataError(f"temperature must be a finite number above 0, not {temperature}.")


def _check_shapes(logits, targets, soft_targets, weight, activation) -> None:
    if weight > 0 and soft_targets is None:
        raise DataError(
            f"weight (lambda) is {weight}, but there are no soft targets: give them or set the weight to 0."
        )
    classes = activation == "softmax" and not targets.is_floating_point()
    needed = {"targets": (targets, logits.shape[:1] if classes else logits.shape)}
    needed |= {} if soft_targets is None else {"soft targets": (soft_targets, logits.shape)}
    for name, (values, shape) in needed.items():
        if values.shape != shape:
            raise DataError(f"{name} have the shape {tuple(values.shape)}, but the logits need {tuple(shape)}.")


def _check_range(values: torch.Tensor, name: str, activation: str) -> None:
    bad = ~((values >= 0) & (values <= 1))  # also true for NaN
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise DataError(
            f"{int(bad.sum())} {name} are not in [0, 1] (first: {float(values[first])} at {first}); "
            "give probabilities, not logits."
        )
    if activation == "softmax" and ((values.sum(-1) - 1).abs() > 1e-3).any():
        row = int(((values.sum(-1) - 1).abs() > 1e-3).nonzero()[0, 0])
        raise DataError(f"Class probabilities must sum to 1: row {row} of the {name} sums to {values[row].sum():.4f}.")
