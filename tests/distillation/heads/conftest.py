"""What all tests of heads share."""

import pytest

from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.modules import METHODS


@pytest.fixture(autouse=True, scope="module")
def weights_of_all_heads():
    """Kept, to compare them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "TEACHES", METHODS)
        yield
