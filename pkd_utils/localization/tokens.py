"""Does the model need the tokens that a map points at? Insertion and deletion, by dropping tokens.

Petsiuk et al. (2018, RISE) show a model more and more pixels of an image in the order of a map (insertion), or fewer
and fewer (deletion), and take the area under the curve of the probability. What stands in for a hidden pixel, grey or a
blur, is itself an input that the model never saw. A vision transformer needs no stand-in: the token of a hidden patch
is left out, the others keep their positions. That is our adaptation. With o the tokens by falling map, N their number
and p(K) the probability with the tokens K alone::

    insertion = area under s -> p(o_1 ... o_(sN)),    deletion = area under s -> p(o_(sN + 1) ... o_N),    s in 0 ... 1

High insertion and low deletion say that the map ranks by what the model uses; a random order is the control. Neither
looks at a region: a map may be right about a model that looks at the wrong place.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

SHARES = tuple(k / 10 for k in range(11))  # of the tokens


def insertion_deletion(predict: Callable[[np.ndarray], np.ndarray], maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas under both curves for every image, by trapezoids over `SHARES`.

    Parameters
    ----------
    predict : function
        Given the kept tokens of every image, int (N, k), numbers of the patches row by row, k from 0: probability (N,).
    maps : (N, grid_h, grid_w)
        Ties in the order of the patches.

    Returns
    -------
    insertion, deletion : float64 (N,)
    """
    flat = np.asarray(maps).reshape(len(maps), -1)
    order = np.argsort(-flat, axis=1, kind="stable")
    counts = [round(share * flat.shape[1]) for share in SHARES]
    inserted = np.array([predict(order[:, :count]) for count in counts])
    deleted = np.array([predict(order[:, count:]) for count in counts])
    return tuple(np.trapezoid(curve, SHARES, axis=0) for curve in (inserted, deleted))


def token_predictor(model: nn.Module, images: torch.Tensor, targets: np.ndarray, activation: str):
    """`predict` of `insertion_deletion` for a timm VisionTransformer: the mean probability of each image's targets.

    Parameters
    ----------
    model : pooled by its class token, in evaluation mode
    images : (N, C, H, W), normalised, on the model's device
    targets : (N, n_outputs), 0 or 1, at least one a row: the outputs whose probability is followed, the same for all
        tokens kept
    activation : "sigmoid" or "softmax", of the outputs
    """
    targets = np.asarray(targets, dtype=np.float64)
    prefix = model.num_prefix_tokens
    with torch.inference_mode():
        tokens = model._pos_embed(model.patch_embed(images))

    def predict(kept: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            index = torch.as_tensor(kept, device=tokens.device)[..., None].expand(-1, -1, tokens.shape[2]) + prefix
            x = torch.cat([tokens[:, :prefix], tokens.gather(1, index)], dim=1)
            x = model.norm(model.blocks(model.norm_pre(x)))
            logits = model.forward_head(x).double()
            p = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
        return (p.cpu().numpy() * targets).sum(1) / targets.sum(1)

    return predict
