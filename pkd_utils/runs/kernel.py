"""The kernel that notebooks run in: this environment's own interpreter."""

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec


class OwnKernel(AsyncKernelManager):
    """As ipykernel describes it, whatever kernel a user has installed under the name python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """How it starts."""
        return KernelSpec(**get_kernel_dict())
