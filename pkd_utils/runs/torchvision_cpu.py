"""Let torchvision import beside a CPU-only torch.

The package index's torchvision wheel is linked against CUDA libraries. Beside a torch without them its compiled
operators do not load, and `import torchvision` (so timm and transformers too) stops at "operator torchvision::nms
does not exist". Declaring the two operators that the import looks up is enough for transforms and models; calling
`torchvision.ops.nms` or `torchvision.io.decode_image` still fails, and nothing here uses them. Inactive wherever
torch has CUDA or torchvision's own library loads.

The declaration waits until torchvision is looked for: what needs no torch (running notebooks, writing pages) does not
pay for importing it. In the environment that `make env` makes, Python itself asks for it when it starts (a `.pth` file
and a copy of this module, written by workflow/setup_env.py), so `import timm` works before anything of ours; this
module therefore imports nothing at its top but sys. Importing `pkd_utils` asks for it too, for other environments.
"""

import sys


def compiled_operators_load() -> bool:
    """True if torchvision's own compiled library can be loaded into this torch."""
    import importlib.util
    from pathlib import Path

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


def declare_missing_operators():
    """Declare `torchvision::nms` and `qnms` where they cannot be loaded; returns the torch library to keep alive."""
    import torch

    if torch.version.cuda is not None or compiled_operators_load():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


class BeforeTorchvision:
    """An import finder that finds nothing; the first search for torchvision declares the operators and keeps them."""

    library = None
    asked = False

    def find_spec(self, name, path=None, target=None):
        """None: another finder finds the module."""
        if name == "torchvision" and not self.asked:
            self.asked = True  # before the declaration, which searches for torchvision itself
            self.library = declare_missing_operators()
        return None


def declare_when_needed() -> None:
    """Have the operators declared as soon as torchvision is looked for."""
    if not any(type(finder).__name__ == BeforeTorchvision.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, BeforeTorchvision())
