"""The kernel that notebooks run in: this environment's own interpreter, spoken to in cipher."""

import os
import sys

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from traitlets import default

from pkd_utils.runs import warm


class OwnKernel(AsyncKernelManager):
    """As ipykernel describes it, whatever kernel a user has installed under the name python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How it starts: forked from a warm process, where there is one."""
        spec = KernelSpec(**get_kernel_dict())
        if place := os.environ.get(warm.SOCKET):
            spec.argv = [sys.executable, "-S", "-E", warm.__file__, "ask", place, "-f", "{connection_file}"]
        return spec

    @default("transport_encryption")
    def _in_cipher(self) -> str:
        # Outputs of credentialed data pass a socket that other users of a shared machine could listen to.
        return "auto"
