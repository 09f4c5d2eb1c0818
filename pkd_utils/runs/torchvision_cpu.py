"""Let torchvision import beside a CPU-only torch.

The package index's torchvision wheel is linked against CUDA libraries. Beside a torch without them its compiled
operators do not load, and `import torchvision` (so timm and transformers too) stops at "operator torchvision::nms
does not exist". Declaring the two operators that the import looks up is enough for transforms and models; calling
`torchvision.ops.nms` or `torchvision.io.decode_image` still fails, and nothing here uses them. Inactive wherever
torch has CUDA or torchvision's own library loads.

The declaration waits until torchvision is looked for: what needs no torch (running notebooks, writing pages) does not
pay for importing it.
"""

import importlib.abc
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def _compiled_operators_load() -> bool:
    """True if torchvision's own compiled library can be loaded into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to mend: the import of torchvision will say what is missing
    libraries = list(Path(spec.origin).parent.glob("_C*.so"))
    if not libraries:
        return False
    import torch

    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError:
        return False
    return True


def declare_missing_operators() -> "torch.library.Library | None":
    """Declare `torchvision::nms` and `qnms` where they cannot be loaded; returns the library to keep alive."""
    import torch

    if torch.version.cuda is not None or _compiled_operators_load():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; the first search for torchvision declares the operators and keeps the library alive."""

    library = None
    asked = False

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and not self.asked:
            self.asked = True  # before the declaration, which searches for torchvision itself
            self.library = declare_missing_operators()
        return None


def declare_when_needed() -> None:
    """Have the operators declared as soon as torchvision is looked for."""
    if not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
