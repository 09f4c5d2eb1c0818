"""The kernel that notebooks run in: this environment's own interpreter, spoken to in cipher."""

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from traitlets import default


class OwnKernel(AsyncKernelManager):
    """As ipykernel describes it, whatever kernel a user has installed under the name python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How it starts."""
        return KernelSpec(**get_kernel_dict())

    @default("transport_encryption")
    def _in_cipher(self) -> str:
        # Outputs of credentialed data pass a socket that other users of a shared machine could listen to.
        return "auto"
