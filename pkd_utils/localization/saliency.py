"""Maps of where a vision transformer looked, by four methods and one interface.

With A_l the attention weights of block l (n_heads, tokens, tokens), e the row vector that is 1 at the class token, and
y the sum of an image's logits weighted by `targets`, the map is the part of a row over the tokens that belongs to the
patches:

attention
    Row of one layer, heads combined: e mean_h(A_l), as in `attention`. What the paper calls "attention maps";
    layer and combination of heads are not stated in the paper.
rollout
    Attention rollout (Abnar and Zuidema 2020, equation 1): e B_L ... B_2 B_1 with B_l the combined heads of A_l plus
    the identity, rows divided by their sums; with the mean over heads this is 0.5 A + 0.5 I. Maximum, minimum and
    `discard` (the given share of a layer's smallest combined weights, class token's included, is set to 0 before the
    identity is added) come from later practice, not from that paper.
chefer
    Gradient-weighted attention (Chefer, Gur and Wolf, ICCV 2021, "generic" rule for self-attention, equations 5
    and 6): R = I, then R <- R + mean_h((dy/dA_l * A_l)^+) R from the first layer to the last; the map is e R. Plain
    attention weights, no layer-wise relevance propagation (that is the authors' CVPR 2021 method).
grad_cam
    Grad-CAM (Selvaraju et al. 2017) by captum's LayerGradCam on the patch tokens x_p that enter the attention of one
    block, behind its first normalisation: (sum_d x_pd mean_q(dy/dx_qd))^+. Not the block's output: behind the last
    block the patches no longer reach the class token, and their gradient is 0.

Everything is computed in the precision of the model's parameters, whatever autocast surrounds the call, and attention
weights in float32. The paper uses no map but attention.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import nn

from pkd_utils.localization.attention import HEADS, _attention_module
from pkd_utils.localization.attention_gradients import MapSpec, batch_maps, borrowed
from pkd_utils.runs.errors import DataError

METHODS = ("attention", "rollout", "chefer", "grad_cam")

# Options of every method and their defaults.
OPTIONS = {
    "attention": {"layer": -1, "heads": "mean"},
    "rollout": {"layer": -1, "heads": "mean", "discard": 0.0},
    "chefer": {"layer": -1},
    "grad_cam": {"layer": -1, "relu": True},
}
METHOD_HEADS = {"attention": HEADS, "rollout": ("mean", "max", "min")}


def saliency_maps(
    model: nn.Module,
    images: torch.Tensor | Iterable[torch.Tensor],
    method: str,
    *,
    layer: int = -1,
    heads: str = "mean",
    targets: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 64,
    discard: float = 0.0,
    relu: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of one method on the patch grid, and the logits of the same forward pass.

    Parameters
    ----------
    model : timm VisionTransformer
        Pooled by its class token (`global_pool="token"`). It is run in evaluation mode on the device of its
        parameters; modes, gradients and settings are afterwards as they were.
    images : Tensor (N, C, H, W) or iterable of such Tensors
        Normalised as the model expects. An iterable (a DataLoader without targets) is read batch by batch as it comes;
        wrap it in tqdm to see progress.
    method : {"attention", "rollout", "chefer", "grad_cam"}
        Equations above.
    layer : int
        Transformer block, negative from the end. attention, grad_cam: the block looked at; rollout, chefer: the last
        of the blocks that are multiplied, from the first on. Not stated in the paper.
    heads : str
        attention: "mean", "max" or "each". rollout: "mean", "max" or "min". chefer, grad_cam: "mean" only (the rule has
        no other). Not stated in the paper.
    targets : float array (N, n_outputs), optional
        Weights of the logits whose sum is differentiated (chefer, grad_cam; the other methods do not look at them), for
        example one-hot. Default: what `predicted_positives` says of each image.
    batch_size : int
        Images a forward pass, where `images` is one Tensor. rollout keeps tokens**2 numbers an image and layer, chefer
        about n_heads times as many and everything that a backward pass needs.
    discard : float in [0, 1)
        Only rollout: share of the weights set to 0.
    relu : bool
        Only grad_cam: negative values set to 0, as in the publication; such a map may be 0 everywhere.

    Returns
    -------
    maps : float32 array (N, grid_h, grid_w), or (N, n_heads, grid_h, grid_w) with `heads="each"`
        Rows of the image first. attention, rollout: at least 0, and the sum over the patches is 1 minus what goes to
        the prefix tokens (per head before a maximum or minimum). chefer: at least 0. chefer and grad_cam have the unit
        of a logit and no common scale between images.
    logits : float32 array (N, n_outputs)

    Raises
    ------
    DataError
        If the model has no class token, is not pooled by it or uses another attention than timm's plain one; method,
        layer, option or targets make no sense; there are no images; or values are not finite.
    """
    given = {"layer": layer, "heads": heads, "discard": discard, "relu": relu}
    usual = {"layer": -1, "heads": "mean", "discard": 0.0, "relu": True}
    options = {key: value for key, value in given.items() if key in OPTIONS.get(method, ()) or value != usual[key]}
    maps, logits = several_maps(
        model, images, {method: {"method": method, **options}}, targets=targets, batch_size=batch_size
    )
    return maps[method], logits


def several_maps(
    model: nn.Module,
    images: torch.Tensor | Iterable[torch.Tensor],
    methods: Mapping[str, Mapping[str, Any]],
    *,
    targets: np.ndarray | torch.Tensor | None = None,
    batch_size: int = 64,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps of several methods from the same pass over the images.

    All maps of a batch share one forward pass. With chefer or grad_cam among them it keeps its graph, and one backward
    pass through it gives chefer's gradients; only a second and further grad_cam (another layer) costs a pass of its
    own.

    Parameters
    ----------
    model, images, targets, batch_size
        As in `saliency_maps`.
    methods : dict of dict
        Name of the map: its "method" (default: the name itself) and that method's options, for example
        `{"attention_max": {"method": "attention", "heads": "max"}, "rollout": {}, "chefer": {}}`.

    Returns
    -------
    maps : dict of float32 array, by name, shaped as in `saliency_maps`
    logits : float32 array (N, n_outputs)

    Raises
    ------
    DataError
        As `saliency_maps`.
    """
    specs = {name: _spec(model, name, options) for name, options in methods.items()}
    if not specs:
        raise DataError("There is no map to compute: name at least one method.")
    if isinstance(images, torch.Tensor):
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: use at least 1.")
        images = images.split(batch_size) if len(images) else ()
    gradients = any(spec.needs_gradients for spec in specs.values())
    weights = _target_weights(targets) if gradients else None
    if gradients and not getattr(model, "num_classes", 1):
        raise DataError(f"{type(model).__name__} has no head, so no logit to differentiate: build it with num_classes.")
    chefer = [spec.layer for spec in specs.values() if spec.method == "chefer"]
    unfused = [block.attn for block in model.blocks[: max(chefer, default=-1) + 1]]
    device = next(model.parameters()).device

    maps: dict[str, list[np.ndarray]] = {name: [] for name in specs}
    logits: list[np.ndarray] = []
    done = 0
    with borrowed(model, gradients, unfused):
        for batch in images:
            if not isinstance(batch, torch.Tensor):
                raise DataError(f"Batches of images must be Tensors (B, C, H, W), not {type(batch).__name__}.")
            if weights is not None and len(weights) < done + len(batch):
                raise DataError(f"targets has {len(weights)} rows, but there are more images: give one row an image.")
            chosen = None if weights is None else weights[done : done + len(batch)].to(device)

            def weights_of(output: torch.Tensor, chosen=chosen) -> torch.Tensor:
                if chosen is None:
                    return predicted_positives(output)
                if chosen.shape != output.shape:
                    raise DataError(
                        f"targets has {chosen.shape[1]} columns, but the model has {output.shape[1]} logits: give one "
                        "weight for every logit."
                    )
                return chosen

            found, output = batch_maps(model, batch.detach().to(device), specs, weights_of)
            for name, values in found.items():
                _check_finite(values, name, done)
                maps[name].append(values.cpu().numpy())
            logits.append(output.cpu().numpy())
            done += len(batch)
    if not done:
        raise DataError("There are no images to compute maps for: give at least one.")
    if weights is not None and len(weights) != done:
        raise DataError(f"targets has {len(weights)} rows for {done} images: give one row an image.")
    return {name: np.concatenate(parts) for name, parts in maps.items()}, np.concatenate(logits)


def predicted_positives(logits: torch.Tensor) -> torch.Tensor:
    """Default weights of the logits: 1 for every label predicted positive, else 0.

    Parameters
    ----------
    logits : Tensor (B, n_outputs)
        Of a multi-label (sigmoid) head: positive means a logit above 0, a probability above one half.

    Returns
    -------
    Tensor (B, n_outputs), float32. Where an image has no positive label, its largest logit alone has weight 1. Not
    stated in the paper, which differentiates nothing. For a softmax head give one-hot `targets` instead.
    """
    positive = logits > 0
    largest = torch.zeros_like(positive).scatter_(1, logits.argmax(1, keepdim=True), True)
    return torch.where(positive.any(1, keepdim=True), positive, largest).float()


def _spec(model: nn.Module, name: str, options: Mapping[str, Any]) -> MapSpec:
    """The checked map `name`."""
    method = options.get("method", name)
    if method not in METHODS:
        raise DataError(f"{name}: {method!r} is not a method: use one of {', '.join(METHODS)}.")
    unknown = sorted(set(options) - {"method", *OPTIONS[method]})
    if unknown:
        raise DataError(
            f"{name}: {method} has no option {', '.join(f'{key}={options[key]!r}' for key in unknown)}; "
            f"it has {', '.join(OPTIONS[method])}."
        )
    values = {**OPTIONS[method], **{key: value for key, value in options.items() if key != "method"}}
    if "heads" in values and values["heads"] not in METHOD_HEADS[method]:
        raise DataError(
            f"{name}: heads={values['heads']!r} is not a way to combine heads: use one of "
            f"{', '.join(METHOD_HEADS[method])}."
        )
    if not 0 <= values.get("discard", 0) < 1:
        raise DataError(f"{name}: discard={values['discard']} is no share of the weights: use 0 or more, below 1.")
    _attention_module(model, values["layer"])
    values["layer"] %= len(model.blocks)
    used = range(values["layer"] + 1) if method in ("rollout", "chefer") else [values["layer"]]
    for index in used:
        _attention_module(model, index)
    if method == "grad_cam" and type(model.blocks[values["layer"]]) is not Block:
        raise DataError(
            f"{name}: block {values['layer']} is a {type(model.blocks[values['layer']]).__name__}, whose attention "
            "does not read normalised tokens: Grad-CAM needs timm's plain Block."
        )
    return MapSpec(method, **values)


def _target_weights(targets: np.ndarray | torch.Tensor | None) -> torch.Tensor | None:
    """Checked float32 weights (N, n_outputs)."""
    if targets is None:
        return None
    weights = torch.as_tensor(targets).detach().float()
    if weights.ndim != 2:
        raise DataError(f"targets has shape {tuple(weights.shape)}: give weights of shape (images, logits).")
    bad = (~weights.isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(f"targets of image {bad[0]} hold a value that is not finite: give one weight for every logit.")
    empty = (weights == 0).all(1).nonzero().flatten().tolist()
    if empty:
        raise DataError(
            f"targets of image {empty[0]} are all 0, so there is nothing to differentiate: weight at least one logit."
        )
    return weights


def _check_finite(values: torch.Tensor, name: str, first: int) -> None:
    bad = (~values.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"The map {name} of image {first + bad[0]} is not finite: the model's weights or that image hold values "
            "that are not finite."
        )
