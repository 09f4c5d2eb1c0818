"""Maps of where a vision transformer looked, by four methods and one interface.

With A_l the attention weights of block l (n_heads, tokens, tokens), e the row vector that is 1 at the class token, and
y the sum of an image's logits weighted by `targets`, the map is the part of a row over the tokens that belongs to the
patches:

attention
    Row of one layer, heads combined by their mean or maximum: e mean_h(A_l), see `attention`. What the paper calls
    "attention maps"; layer and combination of heads are not stated in the paper.
rollout
    Attention rollout (Abnar and Zuidema 2020, equation 1): e B_L ... B_2 B_1 with B_l = 0.5 mean_h(A_l) + 0.5 I.
chefer
    Gradient-weighted attention (Chefer, Gur and Wolf, ICCV 2021, "generic" rule for self-attention, equations 5
    and 6): R = I, then R <- R + mean_h((dy/dA_l * A_l)^+) R from the first layer to the last; the map is e R. Plain
    attention weights, no layer-wise relevance propagation (that is the authors' CVPR 2021 method).
grad_cam
    Grad-CAM (Selvaraju et al. 2017) by captum's LayerGradCam on the patch tokens x_p that enter the attention of one
    block, behind its first normalisation: (sum_d x_pd mean_q(dy/dx_qd))^+. Not the block's output: behind the last
    block the patches no longer reach the class token, and their gradient is 0.

Everything is computed in the precision of the model's parameters, whatever autocast surrounds the call, and attention
weights in float32. The paper uses no map but attention. Every map is one row vector over the tokens, so rollout and
Chefer's rule are computed from the left as a vector times a matrix, and no product of two matrices is made::

    e (M_L (... (M_2 M_1)))  =  ((e M_L) M_(L-1)) ... M_1
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, get_args

import numpy as np
import torch
from captum.attr import LayerGradCam
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import nn

from pkd_utils.localization.attention import attention_module, class_token_attention
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError

Method = Literal["attention", "rollout", "chefer", "grad_cam"]
METHODS = get_args(Method)


@config
class MapSpec:
    """One map: `layer` is a block, negative from the end; `heads` is of attention alone."""

    method: Method
    layer: int = -1
    heads: Literal["mean", "max"] = "mean"


def saliency_maps(
    model: nn.Module, images, methods, *, targets: np.ndarray | torch.Tensor | None = None, batch_size: int = 64
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps of one or several methods on the patch grid, and the logits, from the same pass over the images.

    All maps of a batch share one forward pass. With chefer or grad_cam among them it keeps its graph, and one backward
    pass through it gives chefer's gradients; only a second and further grad_cam (another layer) costs a pass of its
    own.

    Parameters
    ----------
    model : timm VisionTransformer, pooled by its class token (`global_pool="token"`)
        Put into evaluation mode, on the device of its parameters; gradients and settings are afterwards as before.
    images : Tensor (N, C, H, W), normalised as the model expects, or iterable of such Tensors, read as it comes
    methods : dict of dict
        Name of the map: its "method" (default: the name itself), "layer" and, for attention, "heads", for example
        `{"attention_max": {"method": "attention", "heads": "max"}, "rollout": {}, "chefer": {}}`. The layer is a
        transformer block, negative from the end: that looked at (attention, grad_cam), or the last of those multiplied.
    targets : float array (N, n_outputs), optional
        Weights of the logits whose sum is differentiated (chefer, grad_cam), for example one-hot; at least one of an
        image is not 0. Default: what `predicted_positives` says of each image.
    batch_size : images a forward pass, where `images` is one Tensor

    Returns
    -------
    maps : {name: float32 (N, grid_h, grid_w)}
        Rows of the image first. attention, rollout: at least 0, and the sum over the patches is 1 minus what goes to
        the prefix tokens (per head before a maximum). chefer, grad_cam: at least 0, in the unit of a logit and without
        a common scale between images; a grad_cam map may be 0 everywhere.
    logits : float32 (N, n_outputs)

    Raises
    ------
    DataError
        If the model has no class token, is not pooled by it or uses another attention than timm's plain one; if method,
        layer or option make no sense; or if values are not finite.
    """
    specs = {name: _spec(model, name, options) for name, options in methods.items()}
    if isinstance(images, torch.Tensor):
        images = images.split(batch_size) if len(images) else ()
    gradients = any(spec.method in ("chefer", "grad_cam") for spec in specs.values())
    weights = None if targets is None else torch.as_tensor(targets).float()
    chefer = [spec.layer for spec in specs.values() if spec.method == "chefer"]
    unfused = [block.attn for block in model.blocks[: max(chefer, default=-1) + 1]]
    device = next(model.parameters()).device

    maps: dict[str, list[np.ndarray]] = {name: [] for name in specs}
    logits: list[np.ndarray] = []
    done = 0
    with borrowed(model, gradients, unfused):
        for batch in images:
            chosen = None if weights is None else weights[done : done + len(batch)].to(device)
            found, output = batch_maps(model, batch.detach().to(device), specs, chosen)
            for name, values in found.items():
                finite = values.flatten(1).isfinite().all(1)
                if not finite.all():
                    raise DataError(
                        f"The map {name} of image {done + int(finite.int().argmin())} is not finite: the model's "
                        "weights or that image hold values that are not finite."
                    )
                maps[name].append(values.cpu().numpy())
            logits.append(output.cpu().numpy())
            done += len(batch)
    return {name: np.concatenate(parts) for name, parts in maps.items()}, np.concatenate(logits)


def predicted_positives(logits: torch.Tensor) -> torch.Tensor:
    """Default weights of the logits, float32 (B, n_outputs): 1 for every label predicted positive, else 0.

    Of a multi-label (sigmoid) head: positive means a logit above 0, a probability above one half. Where an image has no
    positive label, its largest logit alone has weight 1. Not stated in the paper, which differentiates nothing. For a
    softmax head give one-hot `targets` instead.
    """
    positive = logits > 0
    largest = torch.zeros_like(positive).scatter_(1, logits.argmax(1, keepdim=True), True)
    return torch.where(positive.any(1, keepdim=True), positive, largest).float()


@contextmanager
def borrowed(model: nn.Module, gradients: bool, unfused: list[Attention]) -> Iterator[None]:
    """The model in evaluation mode without autocast; what else is changed is as before afterwards, also after an error.

    With `gradients` the parameters are frozen, so that a graph begins at the first tensor asked for and no parameter
    gets a gradient, and the attention modules `unfused` compute their weights openly. Without, inference mode.
    """
    free = [p for p in model.parameters() if gradients and p.requires_grad]
    fused = {attn: attn.fused_attn for attn in unfused}
    device = next(model.parameters()).device
    model.eval()
    try:
        for parameter in free:
            parameter.requires_grad_(False)
        for attn in unfused:
            attn.fused_attn = False
        # inference_mode(False) leaves a surrounding inference mode or no_grad, and turns gradients on.
        with torch.autocast(device.type, enabled=False), torch.inference_mode(not gradients):
            yield
    finally:
        for attn, value in fused.items():
            attn.fused_attn = value
        for parameter in free:
            parameter.requires_grad_(True)


def batch_maps(
    model: nn.Module, batch: torch.Tensor, specs: dict[str, MapSpec], targets: torch.Tensor | None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """All maps (B, grid_h, grid_w) of one batch, by name, and its logits, inside `borrowed`."""
    grid = tuple(model.patch_embed.dynamic_feat_size(tuple(batch.shape[-2:])))
    rows: dict[str, torch.Tensor] = {}  # (B, tokens)
    maps: dict[str, torch.Tensor] = {}
    steps: dict[str, list[torch.Tensor]] = {name: [] for name, spec in specs.items() if spec.method == "rollout"}
    opened: list[torch.Tensor] = []  # attention weights of the layers, in the graph
    passes: list[tuple[torch.Tensor, torch.Tensor]] = []  # logits (B, n_outputs), weighted sums (B,)
    chefer = [name for name, spec in specs.items() if spec.method == "chefer"]
    cams = [name for name, spec in specs.items() if spec.method == "grad_cam"]

    def objective(images: torch.Tensor) -> torch.Tensor:
        logits = model(images).float()
        weights = predicted_positives(logits.detach()) if targets is None else targets
        passes.append((logits, (logits * weights).sum(1)))
        return passes[-1][1]

    def reader(index: int, attn: Attention):
        """What maps need of the attention weights (not their gradients) of one block; None where they need nothing."""
        looking = [name for name, spec in specs.items() if spec.method == "attention" and spec.layer == index]
        rolling = [name for name in steps if specs[name].layer >= index]
        whole = any(specs[name].layer > index for name in rolling)  # else the class token's row is enough

        def hook(_module, _inputs, qkv):
            qkv = qkv.detach()
            weights = attention_matrix(attn, qkv) if whole else class_token_attention(attn, qkv).unsqueeze(2)
            for name in looking:
                row = weights[:, :, 0]
                rows[name] = row.amax(1) if specs[name].heads == "max" else row.mean(1)
            for name in rolling:
                steps[name].append(rollout_step(weights))

        return hook if looking or rolling else None

    def open_up(_module, _inputs, weights):
        opened.append(weights if weights.requires_grad else weights.requires_grad_())
        return weights

    with ExitStack() as hooks:
        for index, block in enumerate(model.blocks):
            if hook := reader(index, block.attn):
                hooks.enter_context(block.attn.qkv.register_forward_hook(hook))
            if any(specs[name].layer >= index for name in chefer):
                hooks.enter_context(block.attn.attn_drop.register_forward_hook(open_up))
        if cams:
            maps[cams[0]] = grad_cam(model, batch, specs[cams[0]].layer, grid, objective, keep_graph=bool(chefer))
        else:
            objective(batch)
    logits, sums = passes[0]
    for name in cams[1:]:
        maps[name] = grad_cam(model, batch, specs[name].layer, grid, objective)
    for name, layers in steps.items():
        row = layers[-1][:, :1]  # the class token's, of the product of all layers' matrices, the last on the left
        for matrix in reversed(layers[:-1]):
            row = row @ matrix
        rows[name] = row[:, 0]
    if chefer:
        gradients = torch.autograd.grad(sums.sum(), opened)
        relevance = [(g.float() * a.detach().float()).clamp_(min=0) for g, a in zip(gradients, opened, strict=True)]
        for name in chefer:
            rows[name] = relevance_row(relevance[: specs[name].layer + 1])
    for name, row in rows.items():
        maps[name] = row[..., model.num_prefix_tokens :].unflatten(-1, grid)
    return maps, logits.detach()


def attention_matrix(attn: Attention, qkv: torch.Tensor) -> torch.Tensor:
    """Softmax of all tokens: `attn.qkv`'s output (B, tokens, 3 * n_heads * head_dim) -> float32 (B, n_heads, T, T)."""
    batch, tokens, _ = qkv.shape
    query, key, _ = qkv.view(batch, tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attn.q_norm(query).float(), attn.k_norm(key).float()
    return ((query * attn.scale) @ key.transpose(-2, -1)).softmax(-1)


def rollout_step(weights: torch.Tensor) -> torch.Tensor:
    """One layer of the rollout: (B, n_heads, rows, T) -> (B, rows, T), identity added and rows summing to 1."""
    fused = weights.mean(1)
    fused.diagonal(dim1=1, dim2=2).add_(1)  # the class token's row alone begins with its own column too
    return fused.div_(fused.sum(-1, keepdim=True))


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
    layer: int,
    grid: tuple[int, int],
    objective: Callable[[torch.Tensor], torch.Tensor],
    keep_graph: bool = False,
) -> torch.Tensor:
    """Captum's Grad-CAM on the tokens that enter the attention of a block: (B, grid_h, grid_w).

    LayerGradCam takes dimension 1 for channels and averages gradients over all others, which (B, tokens, D) is not
    made for: it would average over D, prefix tokens included. So a hook sends the patches, as (B, D, grid_h, grid_w),
    through an identity module, and that module is the layer captum sees.
    """
    seen = nn.Identity()
    n_prefix = model.num_prefix_tokens

    def through_grid(_module, _inputs, tokens):
        patches = seen(tokens[:, n_prefix:].transpose(1, 2).unflatten(-1, grid))
        return torch.cat([tokens[:, :n_prefix], patches.flatten(2).transpose(1, 2)], 1)

    with model.blocks[layer].norm1.register_forward_hook(through_grid):
        cam = LayerGradCam(objective, seen).attribute(
            batch, relu_attributions=True, grad_kwargs={"retain_graph": keep_graph}
        )
    return cam.detach().float()[:, 0]


def _spec(model: nn.Module, name: str, options) -> MapSpec:
    """The map `name`, its layer counted from 0, checked against the model."""
    spec = MapSpec(**{"method": name, **options})
    attention_module(model, spec.layer)
    layer = spec.layer % len(model.blocks)
    for index in range(layer) if spec.method in ("rollout", "chefer") else ():
        attention_module(model, index)
    if spec.method == "grad_cam" and type(model.blocks[layer]) is not Block:
        raise DataError(
            f"{name}: block {layer} is a {type(model.blocks[layer]).__name__}, whose attention does not read "
            "normalised tokens: Grad-CAM needs timm's plain Block."
        )
    return MapSpec(spec.method, layer, spec.heads)
