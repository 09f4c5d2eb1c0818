"""The networks themselves, built by timm and torchvision, and where their tokens are read.

A network holds exactly the parameters of its encoder under the names that `layouts.load_state` fills: a ViT is timm's
VisionTransformer, C2L torchvision's ResNet-18, EfficientNet-Lite0 timm's; the other three are the small modules below.
A projection into a joint space is a part of the network only where the feature asks for it.
"""

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pkd_utils.encoders.facts import ImageFacts

GLORIA_SIDE = 299  # pixels that GLoRIA's own encoder enlarges its input to
STRIDES = {"layer3": 16, "layer4": 32, "local": 16, "projected": 16}  # pixels a token, of a ResNet's stages


class BiomedClip(nn.Module):
    """BiomedCLIP's image tower: a ViT and the projection into the joint space."""

    def __init__(self, trunk: VisionTransformer, projected: bool):
        super().__init__()
        self.trunk = trunk
        self.proj = nn.Linear(trunk.embed_dim, 512, bias=False) if projected else None


class Gloria(nn.Module):
    """GLoRIA's image tower: a ResNet-50 and the projection of its local features."""

    def __init__(self, projected: bool):
        super().__init__()
        self.model = _resnet("resnet50")
        self.local_embedder = nn.Conv2d(1024, 768, 1, bias=False) if projected else None


class Projector(nn.Module):
    """BioViL-T's projection of patch embeddings into the joint space: 512 -> 128 -> 128."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(512, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(inplace=True), nn.Conv2d(128, 128, 1)
        )


class BiovilT(nn.Module):
    """BioViL-T without a prior image: a ResNet-50, 256 channels of it, and the learnt stand-in for the prior."""

    def __init__(self, projected: bool):
        super().__init__()
        self.encoder = _resnet("resnet50")
        self.backbone_to_vit = nn.Conv2d(2048, 256, 1, bias=False)
        self.missing_previous_emb = nn.Parameter(torch.zeros(1, 256, 1, 1))
        nn.init.trunc_normal_(self.missing_previous_emb, std=0.02)
        self.projector = Projector() if projected else None


def build_backbone(facts: ImageFacts, feature: str, seed: int | None = 0) -> nn.Module:
    """The network of `facts` with random weights, in evaluation mode and without gradients.

    Parameters
    ----------
    facts : ImageFacts
    feature : str, a key of `facts.features`; decides whether a projection is part of the network
    seed : int or None
        Of the random weights. torch's global generator is left as it was. None: nothing is drawn, the weights are
        whatever the memory held, for `layouts.load_state`, which fills every one of them or fails.
    """
    if seed is None:
        with torch.device("meta"):
            network = _build(facts, feature)
        network = network.to_empty(device="cpu")
        for name, counter in network.named_buffers():
            if name.endswith("num_batches_tracked"):  # the one thing that files may leave out, and nothing reads
                counter.zero_()
        return network.eval().requires_grad_(False)
    state = torch.random.default_generator.get_state()
    torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
    try:
        network = _build(facts, feature)
    finally:
        torch.random.default_generator.set_state(state)
    return network.eval().requires_grad_(False)


def _build(facts: ImageFacts, feature: str) -> nn.Module:
    library, architecture = facts.backbone.split(":")
    projected = feature == "projected"
    if facts.name == "biovil_t":
        return BiovilT(projected)
    if facts.name == "gloria":
        return Gloria(projected)
    if library == "torchvision":
        return _resnet(architecture)
    # DINOv2's layer scale is 1 before training in the published configuration; timm's 1e-5 would all but switch the
    # blocks of a random network off.
    options = {"init_values": 1.0} if "dinov2" in architecture else {}
    network = timm.create_model(architecture, num_classes=0, **options, **facts.options)
    return BiomedClip(network, projected) if facts.name == "biomedclip" else network


def _resnet(architecture: str) -> nn.Module:
    network = torchvision.models.get_model(architecture, weights=None)
    network.fc = nn.Identity()
    return network


def fit_position_embeddings(network: nn.Module, grid: tuple[int, int]) -> None:
    """Resize a ViT's position embeddings in place to the grid of its input, as DINOv2 does: bicubic, no antialiasing.

    Does nothing where they fit, and to networks that have none.
    """
    vit = vision_transformer(network)
    if vit is None or tuple(vit.patch_embed.grid_size) == tuple(grid):
        return
    prefix, patches = vit.pos_embed[:, : vit.num_prefix_tokens], vit.pos_embed[:, vit.num_prefix_tokens :]
    patches = patches.unflatten(1, vit.patch_embed.grid_size).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False, antialias=False)
    vit.pos_embed = nn.Parameter(torch.cat([prefix, patches.flatten(2).transpose(1, 2)], 1), requires_grad=False)
    size = tuple(side * patch for side, patch in zip(grid, vit.patch_embed.patch_size, strict=True))
    vit.patch_embed.grid_size, vit.patch_embed.img_size = tuple(grid), size
    vit.patch_embed.num_patches = grid[0] * grid[1]


def vision_transformer(network: nn.Module) -> VisionTransformer | None:
    """The ViT in a network of `build_backbone`, or None."""
    network = getattr(network, "trunk", network)
    return network if isinstance(network, VisionTransformer) else None


def use_fused_attention(network: nn.Module, fused: bool) -> None:
    """Switch between torch's fused attention and two matrix products; the same numbers up to rounding."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.fused_attn = fused


def to_bf16(network: nn.Module) -> None:
    """Store what autocast would cast at every call as bfloat16, once: weights of matrix products and convolutions.

    Norms, layer scale, position embeddings and the residual stream stay float32.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)


def forward_tokens(
    facts: ImageFacts, feature: str, network: nn.Module, x: torch.Tensor, upsample: bool = True
) -> torch.Tensor:
    """Tokens of one feature; nothing behind it is computed.

    Parameters
    ----------
    x : (B, 3, S, S) tensor
    upsample : bool
        GLoRIA only: enlarge the input to 299 x 299 pixels first.

    Returns
    -------
    (B, N, D) tensor, row-major; networks with a class token: (B, 1 + N, D), the class token first.
    """
    if facts.class_token:
        vit = vision_transformer(network)
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
        tokens = vit.blocks(tokens)
        if feature != "pre_norm":
            tokens = vit.norm(tokens)
        return network.proj(tokens) if feature == "projected" else tokens
    return _map(facts, feature, network, x, upsample).flatten(2).transpose(1, 2)


def _map(facts: ImageFacts, feature: str, network: nn.Module, x: torch.Tensor, upsample: bool) -> torch.Tensor:
    """(B, D, rows, columns) of a convolutional encoder."""
    if facts.name == "gloria":
        if upsample:
            x = F.interpolate(x, size=(GLORIA_SIDE, GLORIA_SIDE), mode="bilinear", align_corners=True)
        x = _stages(network.model, x, 4 if feature == "layer4" else 3)
        return network.local_embedder(x) if feature == "projected" else x
    if facts.name == "biovil_t":
        x = _stages(network.encoder, x, 4)
        if feature == "resnet":
            return x
        x = network.backbone_to_vit(x)
        if feature == "current":
            return x
        prior = network.missing_previous_emb.to(x.dtype).expand(x.shape[0], -1, *x.shape[2:])
        x = torch.cat([x, prior], dim=1)
        return network.projector.model(x) if feature == "projected" else x
    if facts.backbone.startswith("torchvision:"):
        return _stages(network, x, int(feature.removeprefix("layer")))
    if feature == "blocks":  # timm's EfficientNet
        return network.blocks(network.bn1(network.conv_stem(x)))
    return network.forward_features(x)


def _stages(resnet: nn.Module, x: torch.Tensor, last: int) -> torch.Tensor:
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4)[:last]:
        x = stage(x)
    return x
