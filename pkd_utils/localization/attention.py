"""Attention maps of a vision transformer: how strongly the class token looks at each patch.

The map of layer l and head h is the class token's row of the softmax, without the columns of the prefix tokens::

    A[h, p] = softmax_p(q_h(class token) . k_h(p) / sqrt(d))                                        (attention map)

with q, k the queries and keys of that layer after its q/k normalisation, p over all tokens and d the width of a head.
Only that one row is needed, so a hook reads the layer's own qkv projection and computes the row beside the ordinary
forward pass: fused attention stays on, the logits come from the same pass, and nothing of size tokens x tokens is made.

The paper evaluates "attention maps" of ViT-Tiny; the layer (here the last), how heads are combined (here their mean)
and how the map is brought to the image's size (here bilinear) are not stated in the paper.
"""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers import Attention
from torch import nn

from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError


@checked
def attention_maps(
    model: nn.Module,
    images,
    layer: int = -1,
    heads: Literal["mean", "max", "each"] = "mean",
    batch_size: Annotated[int, Field(ge=1)] = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Class-token-to-patch attention of one layer, and the logits, in one forward pass.

    Parameters
    ----------
    model : timm VisionTransformer
        Pooled by its class token (`global_pool="token"`). It is run in evaluation mode, without gradients, on the
        device of its parameters, and left in the mode in which it came.
    images : Tensor (N, C, H, W) or iterable of such Tensors
        Normalised as the model expects. An iterable (a DataLoader without targets) is read batch by batch as it comes.
    layer : int
        Index of the transformer block, negative from the end; -1 is the last. Not stated in the paper.
    heads : {"mean", "max", "each"}
        Mean or maximum over heads, or every head by itself. Not stated in the paper.
    batch_size : int
        Images a forward pass, where `images` is one Tensor.

    Returns
    -------
    maps : float32 array (N, grid_h, grid_w), or (N, n_heads, grid_h, grid_w) with `heads="each"`
        Attention weights in [0, 1], rows of the image first. Each head's map sums to 1 minus what goes to the prefix
        tokens (class token, registers, distillation token).
    logits : float32 array (N, n_outputs)

    Raises
    ------
    DataError
        If the model has no class token or is not pooled by it, the block does not use timm's plain attention, `layer`
        does not exist, there are no images, or the weights are not finite.
    """
    attn = attention_module(model, layer)
    if isinstance(images, torch.Tensor):
        images = images.split(batch_size) if len(images) else ()
    device = next(model.parameters()).device

    rows: list[torch.Tensor] = []

    def keep_class_row(_module, _inputs, qkv):
        rows.append(class_token_attention(attn, qkv))

    maps: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    was_training = model.training
    handle = attn.qkv.register_forward_hook(keep_class_row)
    model.eval()
    try:
        with torch.inference_mode():
            for batch in images:
                rows.clear()
                output = model(batch.to(device))
                (row,) = rows
                _check_rows(row)
                patches = row[:, :, model.num_prefix_tokens :]
                if heads == "mean":
                    patches = patches.mean(1)
                elif heads == "max":
                    patches = patches.amax(1)
                grid = model.patch_embed.dynamic_feat_size(tuple(batch.shape[-2:]))
                maps.append(patches.unflatten(-1, tuple(grid)).cpu().numpy())
                logits.append(output.float().cpu().numpy())
    finally:
        handle.remove()
        model.train(was_training)
    if not maps:
        raise DataError("There are no images to compute attention maps for: give at least one.")
    return np.concatenate(maps), np.concatenate(logits)


def class_token_attention(attn: Attention, qkv: torch.Tensor) -> torch.Tensor:
    """Softmax row of the first token, from the output of `attn.qkv`.

    Parameters
    ----------
    attn : timm.layers.Attention
    qkv : Tensor (B, tokens, 3 * n_heads * head_dim)

    Returns
    -------
    Tensor (B, n_heads, tokens), float32; each row sums to 1.
    """
    batch, tokens, _ = qkv.shape
    qkv = qkv.view(batch, tokens, 3, attn.num_heads, attn.head_dim)
    query = attn.q_norm(qkv[:, 0, 0])  # (B, heads, d): one token only
    keys = attn.k_norm(qkv[:, :, 1].transpose(1, 2))  # (B, heads, tokens, d)
    # float32 whatever the precision of the forward pass: in half precision rows do not sum to 1 and values tie.
    with torch.autocast(qkv.device.type, enabled=False):
        scores = (keys.float() @ (query.float() * attn.scale).unsqueeze(-1)).squeeze(-1)
        return scores.softmax(-1)


def upsample_maps(maps: np.ndarray | torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bring maps from the patch grid to the size of the image, bilinearly. How is not stated in the paper.

    Parameters
    ----------
    maps : (N, grid_h, grid_w)
        Anything numeric; computed in float32.
    size : (H, W)
        Pixels of the image that the model saw.

    Returns
    -------
    float32 array (N, H, W)
        A patch's value stands at the centre of the patch's pixels (`align_corners=False`), and pixels outside the
        outermost centres keep the border value, so that the map does not shift against the image.
    """
    tensor = torch.as_tensor(maps).detach().float()
    return F.interpolate(tensor[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0].cpu().numpy()


def attention_module(model: nn.Module, layer: int) -> Attention:
    """The plain attention module of block `layer`, or one sentence on why there is none."""
    name = type(model).__name__
    if not (hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")):
        raise DataError(f"{name} has no transformer blocks to read attention from: use a timm VisionTransformer.")
    if not getattr(model, "has_class_token", True) or model.num_prefix_tokens == 0:
        raise DataError(f"{name} has no class token, so no class-token attention: build it with class_token=True.")
    if model.global_pool != "token":
        raise DataError(
            f"{name} is pooled by {model.global_pool!r}, so its class token need not matter to the prediction: "
            "build it with global_pool='token'."
        )
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise DataError(f"layer={layer} does not exist: {name} has {depth} blocks, use {-depth} to {depth - 1}.")
    attn = getattr(model.blocks[layer], "attn", None)
    if type(attn) is not Attention:
        raise DataError(
            f"Block {layer} of {name} uses {type(attn).__name__}, not timm's plain Attention, and its weights "
            "cannot be recomputed from queries and keys alone: use a plain VisionTransformer."
        )
    return attn


def _check_rows(row: torch.Tensor) -> None:
    """Attention weights of every image and head must sum to 1."""
    error = (row.sum(-1) - 1).abs().max()
    if not error <= 1e-4:  # written so that NaN fails too
        raise DataError(
            f"Attention rows do not sum to 1 (largest deviation {float(error):.3g}): the model's weights or the images "
            "hold values that are not finite."
        )
