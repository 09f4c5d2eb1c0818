"""The machine and the environment that a run happened on: what else a number may depend on."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import threadpoolctl
from pydantic import AfterValidator

from pkd_utils.runs import paths
from pkd_utils.runs.errors import DataError

if TYPE_CHECKING:  # torch takes seconds to import, and what only runs notebooks needs none of it
    import torch

ACCELERATOR = "cuda"  # torch's name of the kind of device that "auto" takes where there is one
PACKAGES = ("torch", "timm", "transformers", "scikit-learn", "numpy", "pandas", "pillow", "scipy")


def _git(*arguments: str) -> str | None:
    try:
        how = {"capture_output": True, "text": True, "timeout": 20, "check": True}
        answer = subprocess.run(["git", *arguments], cwd=paths.PROJECT_ROOT, **how)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def cores() -> int:
    """Processor cores that this process may use: what the job owns, not what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> None:
    """Compute with one thread from now on, whatever was given: sums and products follow the number in their last bits.

    Notebooks use several cores side by side; decoding, drawing and hashing, which are exact, share them by themselves.
    """
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def device_name() -> str:
    """The GPU's name if there is one, else the processor's with the number of cores."""
    import torch

    gpus = torch.get_device_module(ACCELERATOR)
    if gpus.is_available():
        return gpus.get_device_name(0)
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {cores()} cores"


def peak_gib() -> float:
    """Largest resident set of this process so far, GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def usage() -> dict[str, Any]:
    """What this process has used so far: peak memory, GiB, and seconds of processor time, its own workers' too.

    `gpu_peak_memory_gib` is the most that torch held of a GPU, None where it used none.
    """
    torch = sys.modules.get("torch")
    held = 0
    if torch is not None and torch.cuda.is_initialized():
        held = max(torch.cuda.max_memory_reserved(number) for number in range(torch.cuda.device_count()))
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in spent), 1),
        "peak_memory_gib": round(peak_gib(), 3),
        "gpu_peak_memory_gib": round(held / 2**30, 3) if held else None,
    }


def environment() -> dict[str, Any]:
    """Commit, versions and machine: what else a number may depend on."""
    installed = sorted(f"{dist.name}=={dist.version}" for dist in importlib.metadata.distributions())
    return {
        "commit": _git("rev-parse", "HEAD"),
        # Results that runs themselves store are no change of the code that made them.
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!book/results")),
        "environment_hash": hashlib.sha256("\n".join(installed).encode()).hexdigest(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": sys.version.split()[0],
        "device": device_name(),
        "fp32_products": fp32_products() if "torch" in sys.modules else None,
        "threads": max((pool["num_threads"] for pool in threadpoolctl.threadpool_info()), default=1),
    }


def multiplied_by_onednn(values: "torch.Tensor") -> bool:
    """Whether fp32 matrix products of it go to oneDNN: MKL, which torch takes, is slow on processors not Intel's."""
    import torch

    on_cpu = values.device.type == "cpu" and values.dtype == torch.float32
    return on_cpu and fp32_products() == "oneDNN"


@functools.cache
def fp32_products() -> str:
    """The library of fp32 matrix products on this processor, by its maker: a timing could differ after a resume."""
    import torch

    intel = "intel" in torch.cpu.get_capabilities().get("cpu_name", "").lower()
    return "oneDNN" if not intel and torch.backends.mkldnn.is_available() else "MKL"


def resolve_device(device: str) -> str:
    """ "auto" is "cuda" where there is a GPU, else "cpu"; DataError for what cannot be used here."""
    import torch

    gpu = torch.get_device_module(ACCELERATOR).is_available()
    if device == "auto":
        return ACCELERATOR if gpu else "cpu"
    if device != "cpu" and not (gpu and re.fullmatch(rf"{ACCELERATOR}(:\d)?", device)):
        raise DataError(f"{device!r} cannot be used here as device: give auto, cpu, or cuda on a machine with a GPU.")
    return device


Device = Annotated[str, AfterValidator(resolve_device)]
"""The type of an option that names the device to compute on."""


def resolve_precision(precision: str, device: "str | torch.device") -> str:
    """ "fp32" or "bf16"; "auto" is bf16 where the device multiplies it natively (AVX512-BF16, AMX, Ampere or later)."""
    import torch

    if precision not in ("fp32", "bf16", "auto"):
        raise DataError(f"precision must be fp32, bf16 or auto, not {precision!r}.")
    if precision != "auto":
        return precision
    if torch.device(device).type != "cpu":
        return "bf16" if torch.get_device_module(device).is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"


def autocast(device: "torch.device", precision: str):
    """The context in which a network computes: bf16 autocast, or nothing for fp32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
