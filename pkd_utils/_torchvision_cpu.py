"""Let torchvision import beside a CPU-only torch.

The package index's torchvision wheel is linked against CUDA libraries. Beside a torch without them its compiled
operators do not load, and `import torchvision` (so timm and transformers too) stops at "operator torchvision::nms
does not exist". Declaring the two operators that the import looks up is enough for transforms and models; calling
`torchvision.ops.nms` or `torchvision.io.decode_image` still fails, and nothing here uses them. Inactive wherever
torch has CUDA or torchvision's own library loads.
"""

import importlib.util
from pathlib import Path

import torch


def _compiled_operators_load() -> bool:
    """True if torchvision's own compiled library can be loaded into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to mend: the import of torchvision will say what is missing
    libraries = list(Path(spec.origin).parent.glob("_C*.so"))
    if not libraries:
        return False
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError:
        return False
    return True


def declare_missing_operators() -> "torch.library.Library | None":
    """Declare `torchvision::nms` and `qnms` where they cannot be loaded; returns the library to keep alive."""
    if torch.version.cuda is not None or _compiled_operators_load():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_LIBRARY = declare_missing_operators()
