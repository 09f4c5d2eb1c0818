"""pkd_utils: the thin library under the executable book on privileged knowledge distillation in medical imaging."""

__version__ = "0.1.0"

import warnings

# timm and transformers import tqdm.auto, which in a kernel asks for widgets; our progress bars are plain text.
warnings.filterwarnings("ignore", message="IProgress not found")

from pkd_utils.runs import torchvision_cpu  # noqa: E402

torchvision_cpu.declare_when_needed()  # before anything imports torchvision
