"""One pass of a vision transformer from which several maps are read: the machinery behind `saliency`.

Every map is one row vector over the tokens, the class token's. So rollout and the gradient-weighted map, products of
one matrix a layer, are computed from the left as a vector times a matrix, and no product of two matrices is made::

    e (M_L (... (M_2 M_1)))  =  ((e M_L) M_(L-1)) ... M_1           (e: 1 at the class token)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from captum.attr import LayerGradCam
from timm.layers import Attention
from torch import nn

from pkd_utils.localization.attention import class_token_attention


@dataclass(frozen=True)
class MapSpec:
    """One map: `layer` is the block's index from 0; options that the method does not have keep their defaults."""

    method: str
    layer: int
    heads: str = "mean"
    discard: float = 0.0
    relu: bool = True

    @property
    def needs_gradients(self) -> bool:
        return self.method in ("chefer", "grad_cam")


@contextmanager
def borrowed(model: nn.Module, gradients: bool, unfused: list[Attention]) -> Iterator[None]:
    """The model in evaluation mode without autocast, and everything as it was afterwards, also after an error.

    With `gradients` the parameters are frozen, so that a graph begins at the first tensor asked for and no parameter
    gets a gradient, and the attention modules `unfused` compute their weights openly. Without, inference mode.
    """
    training = {module: module.training for module in model.modules()}
    free = [p for p in model.parameters() if gradients and p.requires_grad]
    fused = {attn: attn.fused_attn for attn in unfused}
    checkpointing = getattr(model, "grad_checkpointing", False)
    device = next(model.parameters()).device
    try:
        model.eval()
        for parameter in free:
            parameter.requires_grad_(False)
        for attn in unfused:
            attn.fused_attn = False
        if checkpointing:  # it would run the blocks without a graph, and the hooks twice
            model.grad_checkpointing = False
        # inference_mode(False) leaves a surrounding inference mode or no_grad, and turns gradients on.
        with torch.autocast(device.type, enabled=False), torch.inference_mode(not gradients):
            yield
    finally:
        if checkpointing:
            model.grad_checkpointing = True
        for attn, value in fused.items():
            attn.fused_attn = value
        for parameter in free:
            parameter.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode


def batch_maps(
    model: nn.Module,
    batch: torch.Tensor,
    specs: dict[str, MapSpec],
    weights_of: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All maps of one batch, inside `borrowed`: one forward pass, and one more for each Grad-CAM after the first.

    Parameters
    ----------
    batch : Tensor (B, C, H, W), on the model's device
    specs : name: MapSpec
    weights_of : logits (B, n_outputs), detached -> weights of the logits (B, n_outputs) whose sum is differentiated

    Returns
    -------
    maps : name: Tensor (B, grid_h, grid_w) or (B, n_heads, grid_h, grid_w), float32
    logits : Tensor (B, n_outputs), float32
    """
    grid = tuple(model.patch_embed.dynamic_feat_size(tuple(batch.shape[-2:])))
    rows: dict[str, torch.Tensor] = {}  # (B, tokens) or (B, heads, tokens)
    maps: dict[str, torch.Tensor] = {}
    steps: dict[str, list[torch.Tensor]] = {name: [] for name, spec in specs.items() if spec.method == "rollout"}
    opened: list[torch.Tensor] = []  # attention weights of the layers, in the graph
    passes: list[tuple[torch.Tensor, torch.Tensor]] = []  # logits (B, n_outputs), weighted sums (B,)
    chefer = [name for name, spec in specs.items() if spec.method == "chefer"]
    cams = [name for name, spec in specs.items() if spec.method == "grad_cam"]

    def objective(images: torch.Tensor) -> torch.Tensor:
        logits = model(images).float()
        passes.append((logits, (logits * weights_of(logits.detach())).sum(1)))
        return passes[-1][1]

    def read(index: int, attn: Attention):
        def hook(_module, _inputs, qkv):
            qkv = qkv.detach()
            whole = any(needs_matrix(spec, index) for spec in specs.values())
            weights = attention_matrix(attn, qkv) if whole else class_token_attention(attn, qkv).unsqueeze(2)
            for name, spec in specs.items():
                if spec.method == "attention" and spec.layer == index:
                    rows[name] = combine(weights[:, :, 0], spec.heads)
                if spec.method == "rollout" and spec.layer >= index:
                    steps[name].append(rollout_step(weights, spec))

        return hook

    def open_up(_module, _inputs, weights):
        opened.append(weights if weights.requires_grad else weights.requires_grad_())
        return weights

    with ExitStack() as hooks:
        for index, block in enumerate(model.blocks):
            if any(reads(spec, index) for spec in specs.values()):
                hooks.enter_context(block.attn.qkv.register_forward_hook(read(index, block.attn)))
            if any(specs[name].layer >= index for name in chefer):
                hooks.enter_context(block.attn.attn_drop.register_forward_hook(open_up))
        if cams:
            maps[cams[0]] = grad_cam(model, batch, specs[cams[0]], grid, objective, keep_graph=bool(chefer))
        else:
            objective(batch)
    logits, sums = passes[0]
    for name in cams[1:]:
        maps[name] = grad_cam(model, batch, specs[name], grid, objective)
    for name, layers in steps.items():
        rows[name] = roll(layers)
    if chefer:
        gradients = torch.autograd.grad(sums.sum(), opened)
        relevance = [(g.float() * a.detach().float()).clamp_(min=0) for g, a in zip(gradients, opened, strict=True)]
        for name in chefer:
            rows[name] = relevance_row(relevance[: specs[name].layer + 1])
    for name, row in rows.items():
        maps[name] = row[..., model.num_prefix_tokens :].unflatten(-1, grid)
    return maps, logits.detach()


def reads(spec: MapSpec, index: int) -> bool:
    """Whether the map needs the attention weights (not their gradients) of block `index`."""
    return spec.layer == index if spec.method == "attention" else spec.method == "rollout" and spec.layer >= index


def needs_matrix(spec: MapSpec, index: int) -> bool:
    """Whether the map needs every row of block `index`, not the class token's alone."""
    return spec.method == "rollout" and (index < spec.layer or (index == spec.layer and spec.discard > 0))


def attention_matrix(attn: Attention, qkv: torch.Tensor) -> torch.Tensor:
    """Softmax of all tokens: `attn.qkv`'s output (B, tokens, 3 * n_heads * head_dim) -> float32 (B, n_heads, T, T)."""
    batch, tokens, _ = qkv.shape
    query, key, _ = qkv.view(batch, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attn.q_norm(query).float(), attn.k_norm(key).float()
    return ((query * attn.scale) @ key.transpose(-2, -1)).softmax(-1)


def combine(weights: torch.Tensor, heads: str) -> torch.Tensor:
    """Heads (dimension 1) brought together: mean, maximum, minimum, or each as it is."""
    if heads == "each":
        return weights
    return {"mean": torch.mean, "max": torch.amax, "min": torch.amin}[heads](weights, 1)


def rollout_step(weights: torch.Tensor, spec: MapSpec) -> torch.Tensor:
    """One layer of the rollout: (B, n_heads, rows, T) -> (B, rows, T), identity added and rows summing to 1."""
    fused = combine(weights, spec.heads)
    batch, n_rows, tokens = fused.shape
    n_discarded = int(spec.discard * n_rows * tokens)
    if n_discarded:
        flat = fused.view(batch, -1)
        flat.scatter_(1, flat.topk(n_discarded, dim=1, largest=False).indices, 0)
    fused.diagonal(dim1=1, dim2=2).add_(1)  # the class token's row alone begins with its own column too
    return fused.div_(fused.sum(-1, keepdim=True))


def roll(layers: list[torch.Tensor]) -> torch.Tensor:
    """Class token's row of the product of the layers' matrices, last layer on the left: (B, T)."""
    row = layers[-1][:, :1]
    for matrix in reversed(layers[:-1]):
        row = row @ matrix
    return row[:, 0]


def relevance_row(relevance: list[torch.Tensor]) -> torch.Tensor:
    """Class token's row of R, R <- R + mean_h(relevance) R from the first layer to the last, R = I before: (B, T)."""
    batch, _, tokens, _ = relevance[0].shape
    row = relevance[0].new_zeros(batch, 1, tokens)
    row[:, 0, 0] = 1
    for matrix in reversed(relevance):
        row = row + (row.unsqueeze(1) @ matrix).mean(1)
    return row[:, 0]


def grad_cam(
    model: nn.Module,
    batch: torch.Tensor,
    spec: MapSpec,
    grid: tuple[int, int],
    objective: Callable[[torch.Tensor], torch.Tensor],
    keep_graph: bool = False,
) -> torch.Tensor:
    """Captum's Grad-CAM on the tokens that enter the attention of block `spec.layer`: (B, grid_h, grid_w).

    LayerGradCam takes dimension 1 for channels and averages gradients over all others, which (B, tokens, D) is not
    made for: it would average over D, prefix tokens included. So a hook sends the patches, as (B, D, grid_h, grid_w),
    through an identity module, and that module is the layer captum sees.
    """
    layer = nn.Identity()
    n_prefix = model.num_prefix_tokens

    def through_grid(_module, _inputs, tokens):
        patches = layer(tokens[:, n_prefix:].transpose(1, 2).unflatten(-1, grid))
        return torch.cat([tokens[:, :n_prefix], patches.flatten(2).transpose(1, 2)], 1)

    with model.blocks[spec.layer].norm1.register_forward_hook(through_grid):
        cam = LayerGradCam(objective, layer).attribute(
            batch, relu_attributions=spec.relu, grad_kwargs={"retain_graph": keep_graph}
        )
    return cam.detach().float()[:, 0]
