"""Maps against regions: attention and saliency, and how well they find a lesion."""

from pkd_utils.localization.metrics import best_iou, boxes_from_map, false_positive_rate, pixel_auroc

__all__ = ["best_iou", "boxes_from_map", "false_positive_rate", "pixel_auroc"]
