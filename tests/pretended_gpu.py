"""A GPU that is none: tensors that say they lie on one, whose numbers a CPU computes, so that its branches run.

What a GPU refuses is refused here, too: one operation on tensors of both places (but for numbers, and for indices,
which may come from the CPU), and numbers that NumPy takes from its memory. Its speed and its rounding nobody sees here.
"""

import functools
from typing import ClassVar

import pytest
import torch
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pkd_utils.runs import machine

NAME = "pretended"
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
LOWERED = ("linear", "matmul", "bmm", "conv2d", "scaled_dot_product_attention")  # by autocast
RESHAPING = {"aten::squeeze_", "aten::unsqueeze_", "aten::t_", "aten::transpose_"}  # in place
COPIES = {"aten::copy_", "aten::_to_copy"}


class Module:
    """What torch asks of a kind of device, as `torch.cuda` answers it."""

    memory: ClassVar[int] = 140 << 30  # bytes

    def __getattr__(self, name):
        answers = {
            "is_initialized": True, "is_available": True, "current_device": 0, "device_count": 1, "synchronize": None,
            "get_device_name": "a pretended GPU", "is_bf16_supported": True, "get_rng_state": torch.zeros(16),
            "set_rng_state": None, "manual_seed_all": None, "_is_in_bad_fork": False,
            "get_amp_supported_dtype": [torch.bfloat16, torch.float16], "mem_get_info": (self.memory, self.memory),
        }  # fmt: skip
        if name not in answers:
            raise AttributeError(name)
        return lambda *given, **named: answers[name]


class OnGPU(torch.Tensor):
    """A tensor that says it lies on the GPU; `held` has its numbers."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        facts = {"dtype": held.dtype, "layout": held.layout, "device": f"{NAME}:0"}
        place = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, held.size(), **place, **facts)

    def __init__(self, held: torch.Tensor):
        self.held = held

    def __repr__(self):
        return f"OnGPU({self.held})"

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


def computed(function, args, kwargs):
    """What an operation gives: on the GPU if a tensor of its arguments, or the `device` that it names, is there."""
    name, asked = function._schema.name, kwargs.get("device")
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    held = [isinstance(one, OnGPU) for one in tensors]
    if any(held) and name not in COPIES:
        one_place = tensors[:1] if name in INDEXED else [one for one in tensors if one.ndim]
        if not all(isinstance(one, OnGPU) for one in one_place):
            raise RuntimeError(f"{name}: all tensors must be on one device, and some are on the CPU")
    target = torch.device(asked).type if asked is not None else NAME if any(held) else "cpu"
    plain = tree_map(lambda one: one.held if isinstance(one, OnGPU) else one, (args, kwargs))
    named = {**plain[1], **({"device": "cpu"} if asked is not None else {})}
    found = function(*plain[0], **named)
    returns = function._schema.returns
    if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:  # into an argument
        if name in RESHAPING and isinstance(args[0], OnGPU):
            with no_dispatch():
                function(*args, **kwargs)
        return kwargs.get("out", args[0])
    return tree_map(lambda one: OnGPU(one) if target == NAME and isinstance(one, torch.Tensor) else one, found)


class Pretending(TorchDispatchMode):
    """Sends to `computed` also what has no tensor of the GPU yet."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return computed(function, args, kwargs or {})


def lowered(operation):
    """An operation as autocast computes it: on bfloat16."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def lower(one):
        return one.to(torch.bfloat16) if isinstance(one, torch.Tensor) and one.dtype == torch.float32 else one

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operation(*tree_map(lower, args), **tree_map(lower, kwargs))

    return kernel


@functools.cache
def registered() -> list[torch.library.Library]:
    """Make torch know the name, and what autocast does there, once a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    others, own = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in LOWERED:
        own.impl(name, lowered(getattr(torch.ops.aten, name)), "AutocastPrivateUse1")
    return [others, own]


@pytest.fixture
def gpu(monkeypatch):
    """The name of a GPU that is taken where "auto" looks for one."""
    registered()
    monkeypatch.setattr(machine, "ACCELERATOR", NAME)
    # Wrapped tensors know no inference mode.
    monkeypatch.setattr(
        torch, "inference_mode", lambda on=True: torch.set_grad_enabled(not on and torch.is_grad_enabled())
    )
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) makes it here first, then sends it
    try:
        with Pretending():
            yield NAME
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
