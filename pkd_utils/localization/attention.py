"""Attention of a vision transformer's class token: how strongly it looks at each patch.

The map of layer l and head h is the class token's row of the softmax, without the columns of the prefix tokens::

    A[h, p] = softmax_p(q_h(class token) . k_h(p) / sqrt(d))  (attention map)

with q, k the queries and keys of that layer after its q/k normalisation, p over all tokens and d the width of a head.
`saliency.saliency_maps` reads that one row from the layer's own qkv projection, by a hook beside the ordinary forward
pass: fused attention stays on, the logits come from the same pass, and nothing of size tokens x tokens is made.

The paper evaluates "attention maps" of ViT-Tiny; the layer (here the last), how heads are combined (here their mean)
and how the map is brought to the image's size (here bilinear) are not stated in the paper.
"""

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import nn

from pkd_utils.runs.errors import DataError


def class_token_attention(attn: Attention, qkv: torch.Tensor) -> torch.Tensor:
    """Softmax row of the first token, float32 (B, n_heads, tokens), from `attn.qkv`'s output (B, tokens, 3 * width)."""
    batch, tokens, _ = qkv.shape
    qkv = qkv.view(batch, tokens, 3, attn.num_heads, attn.head_dim)
    query = attn.q_norm(qkv[:, 0, 0])  # (B, heads, d): one token only
    keys = attn.k_norm(qkv[:, :, 1].transpose(1, 2))  # (B, heads, tokens, d)
    # float32 whatever the precision of the forward pass: in half precision rows do not sum to 1 and values tie.
    scores = (keys.float() @ (query.float() * attn.scale).unsqueeze(-1)).squeeze(-1)
    return scores.softmax(-1)


def upsample_maps(maps: np.ndarray | torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bring maps (N, grid_h, grid_w) to the image's size (H, W), bilinearly, float32. Not stated in the paper.

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
