"""torchvision, timm and transformers import beside a CPU-only torch."""

import subprocess
import sys

import pytest
import torch

from pkd_utils.runs import torchvision_cpu
from workflow import setup_env


def test_timm_imports_before_pkd_utils_in_the_made_environment(tmp_path):
    """As Python starts there: it reads the .pth file of site-packages, which imports nothing but a tiny module."""
    setup_env.write_import_hook(tmp_path)
    code = f"import sys, site; site.addsitedir({str(tmp_path)!r}); before = set(sys.modules);"
    code += "print('torch' in before, 'pkd_utils' in before, 'pkd_torchvision_cpu' in before);"
    code += "import timm, torchvision; import pkd_utils, pkd_utils.runs.torchvision_cpu;"
    code += "print(sum(type(finder).__name__ == 'BeforeTorchvision' for finder in sys.meta_path))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert answer.stdout.split() == ["False", "False", "True", "1"], answer.stderr[-500:]


def test_torch_is_imported_only_by_what_needs_it():
    code = "import sys, pkd_utils.runs.notebooks, workflow.publish.gate as _; "
    code += "print('torch' in sys.modules, 'torchvision' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "False False", answer.stderr[-500:]


@pytest.mark.parametrize(("cuda", "loads"), [("13.0", False), (None, True)])
def test_nothing_is_declared_where_torch_has_cuda_or_the_library_loads(monkeypatch, cuda, loads):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torchvision_cpu, "compiled_operators_load", lambda: loads)
    assert torchvision_cpu.declare_missing_operators() is None
