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
