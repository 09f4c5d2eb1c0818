"""Distillation from privileged information, equation (1) of both papers."""

from pkd_utils.distillation.loss import distillation_loss, soft_labels

__all__ = ["distillation_loss", "soft_labels"]
