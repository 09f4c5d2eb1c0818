"""What all tests of heads share."""

import pytest

from pkd_utils.distillation.heads import training
from pkd_utils.distillation.heads.modules import METHODS


@pytest.fixture(autouse=True)
def weights_of_all_heads(monkeypatch):
    """Kept, to compare them."""
    monkeypatch.setattr(training, "KEEPS_WEIGHTS", METHODS)
