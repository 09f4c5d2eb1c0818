"""The networks themselves, built with random weights or for a file's, and fitted to an input and a precision.

What an encoder's network is, and where its tokens are read, stands in its entry in zoo/. A network holds exactly the
parameters of its encoder under the names that `keys.load_state` fills.
"""

import contextlib
from collections.abc import Iterator

import torch
from timm.layers import Attention, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pkd_utils.encoders.facts import Facts, ImageFacts
from pkd_utils.encoders.keys import KeyReport
from pkd_utils.encoders.weights import Weights
from pkd_utils.runs.machine import autocast, multiplied_by_onednn


def build_backbone(facts: ImageFacts, feature: str, seed: int | None = 0) -> nn.Module:
    """The network of `facts` with random weights of a seed, in evaluation mode and without gradients.

    `feature`, a key of `facts.features`, decides whether a projection is part of the network. torch's global generator
    is left as it was. Without a seed nothing is drawn, the weights are whatever the memory held, for `keys.load_state`,
    which fills every one of them or fails.
    """
    if seed is None:
        with torch.device("meta"):
            network = facts.network(facts, feature)
        network = network.to_empty(device="cpu")
        for name, counter in network.named_buffers():
            if name.endswith("num_batches_tracked"):  # the one thing that files may leave out, and nothing reads
                counter.zero_()
        return network.eval().requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        network = facts.network(facts, feature)
    return network.eval().requires_grad_(False)


def fit_position_embeddings(network: nn.Module, grid: tuple[int, int]) -> None:
    """Resize a ViT's position embeddings in place to the grid of its input, as DINOv2 does: bicubic, no antialiasing.

    Does nothing where they fit, and to networks that have none.
    """
    vit = vision_transformer(network)
    if vit is None or tuple(vit.patch_embed.grid_size) == tuple(grid):
        return
    prefix, old = vit.num_prefix_tokens, list(vit.patch_embed.grid_size)
    fitted = resample_abs_pos_embed(vit.pos_embed, list(grid), old, prefix, antialias=False)
    vit.pos_embed = nn.Parameter(fitted, requires_grad=False)
    vit.patch_embed.set_input_size(
        tuple(side * patch for side, patch in zip(grid, vit.patch_embed.patch_size, strict=True))
    )


def vision_transformer(network: nn.Module) -> VisionTransformer | None:
    """The ViT in a network of `build_backbone`, or None."""
    network = getattr(network, "trunk", network)
    return network if isinstance(network, VisionTransformer) else None


def use_fused_attention(network: nn.Module, fused: bool) -> None:
    """Switch between torch's fused attention and two matrix products; the same numbers up to rounding."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.fused_attn = fused


class FrozenEncoder(nn.Module):
    """A network of known weights, in evaluation mode and without gradients, also inside a module that is trained.

    Its tokens are ordinary tensors: they may feed a head that is trained.

    Attributes
    ----------
    facts : ImageFacts or TextFacts
    precision : "fp32" or "bf16"
    weights : weights.Weights without its tensors, or None for random weights
    keys : keys.KeyReport, or None for random weights
    origin : str
        SHA-256 of the weights, or the seed of random ones.
    """

    def __init__(
        self,
        network: nn.Module,
        facts: Facts,
        precision: str,
        seed: int,
        loaded: tuple[Weights, KeyReport] | None,
    ):
        super().__init__()
        self.network, self.facts, self.precision = network, facts, precision
        self.weights, self.keys = loaded or (None, None)
        self.origin = self.weights.sha256 if self.weights else f"random, seed {seed}"
        if precision == "bf16":
            to_bf16(network)
        for module in network.modules():
            if type(module) is nn.Linear:
                module.__class__ = _Linear
        self.train().requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Frozen: stays in evaluation mode."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Frozen, in the encoder's precision; no_grad, as an inference tensor could not feed a head that is trained."""
        with torch.no_grad(), autocast(self.device, self.precision):
            yield


class _Linear(nn.Linear):
    """A frozen linear layer, by the faster library of this processor."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if multiplied_by_onednn(values) and not torch.is_autocast_enabled("cpu"):
            return torch.ops.mkldnn._linear_pointwise(values, self.weight, self.bias, "none", [], "")
        return super().forward(values)


def to_bf16(network: nn.Module) -> None:
    """Store what autocast would cast at every call as bfloat16, once: weights of matrix products and convolutions.

    Norms, layer scale, position embeddings and the residual stream stay float32.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
