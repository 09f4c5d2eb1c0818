"""pkd_utils: the thin library under the executable book on privileged knowledge distillation in medical imaging."""

__version__ = "0.1.0"

from pkd_utils import _torchvision_cpu  # noqa: F401  (must come before anything imports torchvision)
