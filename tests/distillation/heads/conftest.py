"""What all tests of heads share."""

import pytest

from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.modules import METHODS


@pytest.fixture(autouse=True, scope="module")
def weights_of_all_heads_and_every_epoch():
    """Kept, to compare them and to stop anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "TEACHES", METHODS)
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        yield


def textbook_logits(head, method, image, class_token, text, mask, keep=None, text_keep=None):
    """What a textbook head answers, reading what its method says: (B, N, D), (B, 1, D), (B, L, D_t) and its mask."""
    if method == "teacher":
        return head(image, text, mask, keep, text_keep)
    if method == "text_only":
        return head(text, mask, text_keep)
    if method == "mean_probe":
        return head(image)
    return head(class_token) if method == "cls_probe" else head(image, keep=keep)
