"""Students: timm vision transformers, from scratch or from a local weight file, and a forward pass without waste."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm import create_model, list_models
from timm.layers import resample_abs_pos_embed
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

from pkd_utils.encoders.weights import read_weights
from pkd_utils.images.augment import normalise
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import atomic_path
from pkd_utils.runs.machine import autocast

SCRATCH = "vit"  # the name of a vision transformer of any size with random weights
SCRATCH_STATISTICS = ((0.5,), (0.25,))
NOT_ENCODER = ("head.", "head_dist.", "dist_token", "fc_norm.", "mask_token", "decoder", "pre_logits.")


def input_statistics(name: str, channels: int = 1) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, a value a channel, of pixel values in 0 ... 1 that the input is normalised with.

    Of "vit" (from scratch) 0.5 and 0.25; of a timm name what timm's configuration of its pretrained weights says: 0.5
    and 0.5 for `vit_tiny_patch16_224` (augreg_in21k_ft_in1k), ImageNet's for `deit_tiny_patch16_224`. The paper says
    only "ViT-Tiny pretrained on ImageNet". With one channel it is the average over channels; `load_weights` folds what
    that changes into the first layer.
    """
    mean, std = SCRATCH_STATISTICS
    if name != SCRATCH:
        if name not in list_models(module="vision_transformer") + list_models(module="deit"):
            raise DataError(f"{name!r} is no vision transformer of timm: use 'vit' or one like vit_tiny_patch16_224.")
        cfg = get_pretrained_cfg(name)
        mean, std = tuple(cfg.mean), tuple(cfg.std)
    if channels == 1:
        return (sum(mean) / len(mean),), (sum(std) / len(std),)
    return mean * (3 // len(mean)), std * (3 // len(std))


@checked
def build_student(
    name: str = SCRATCH,
    image_size: int = 64,
    patch_size: int = 8,
    n_labels: int = 5,
    width: int | None = 96,
    depth: int | None = 4,
    heads: int | None = 3,
    channels: Literal[1, 3] = 1,
    weights: str | Path | None = None,
) -> VisionTransformer:
    """Build a timm vision transformer; random parts come from torch's global generator, so seed it before.

    Parameters
    ----------
    name : str
        "vit": from scratch with `width`, `depth`, `heads`. Else the timm name of a VisionTransformer, for example
        `vit_tiny_patch16_224` (the paper's student: 192 wide, 12 blocks, 3 heads), which fixes those three.
    image_size, patch_size : int, pixels; the image side is a multiple of the patch side
    n_labels : int, outputs of the head
    weights : path, optional
        Local file to start from, see `load_weights`, whose report becomes `model.weights_report`. None: random.
    """
    if image_size % patch_size:
        raise DataError(f"image_size {image_size} is not a multiple of patch_size {patch_size}: choose one that is.")
    sizes = {"img_size": image_size, "patch_size": patch_size, "num_classes": n_labels, "in_chans": channels}
    if name == SCRATCH:
        if not (width and depth and heads) or width % heads:
            raise DataError(f"width {width} must be a multiple of heads {heads}, and depth {depth} at least 1.")
        model = VisionTransformer(embed_dim=width, depth=depth, num_heads=heads, **sizes)
    else:
        input_statistics(name)  # refuses names that timm does not have
        model = create_model(name, pretrained=False, **sizes)
    model.weights_report = None if weights is None else load_weights(model, weights, name)
    return model


def load_weights(model: VisionTransformer, path: str | Path, name: str) -> dict[str, Any]:
    """Load a local weight file into `model`; every encoder key must be found there.

    From 3 channels to 1: the student sees (v - m)/s with the averaged m, s instead of (v - m_c)/s_c on three equal
    channels. Weights sum_c W_c s/s_c and a bias shift of sum_c W_c (m - m_c)/s_c give exactly the same output for a
    grey image; where all channels share m and s this is the plain sum over channels.
    The position embedding is resampled (bicubic, timm's) if the number of patches differs.

    Parameters
    ----------
    model : VisionTransformer, changed in place
    path : path of a weight file as `encoders.weights.read_weights` reads it
        A student that `save_student` wrote is one such file, and then its head is taken too if it fits.
    name : of the model, for the pixel statistics of a conversion from 3 channels to 1

    Returns
    -------
    dict: file, loaded (number of tensors), head ("loaded" or "new"), left_out (keys of the file that are not used),
    converted (list of sentences).

    Raises
    ------
    DataError
        A key of the encoder is missing, a shape differs, blocks are left over, or the file cannot be read safely.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: download it where the network allows, for example model.safetensors of "
            "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k, and name the local file."
        )
    state, own = read_weights(path).state, model.state_dict()
    saved_by_us = path.suffix == ".safetensors" and _facts(path) is not None
    report = {"file": path.name, "converted": _convert(state, own, model, name)}
    # A head is taken only from our own student: another task's head has no meaning here, even where it fits.
    heads = [k for k in own if k.startswith(("head.", "head_dist."))]
    take_head = saved_by_us and all(k in state and state[k].shape == own[k].shape for k in heads)
    wanted = [k for k in own if take_head or k not in heads]
    left = sorted(set(state) - set(wanted))
    faults = {
        f"lacks some of the {len(wanted)} encoder tensors of the student": [k for k in wanted if k not in state],
        "holds encoder tensors of another shape": [
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
            for k in wanted if k in state and state[k].shape != own[k].shape
        ],
        "holds encoder tensors that the student has no place for": [k for k in left if not k.startswith(NOT_ENCODER)],
    }  # fmt: skip
    for fault, names in faults.items():
        if names:
            listed = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
            raise DataError(f"{path} {fault} ({len(names)}): {listed}; give a file of the student's architecture.")
    model.load_state_dict({k: state[k] for k in wanted}, strict=False)
    return {**report, "loaded": len(wanted), "head": "loaded" if take_head else "new", "left_out": left}


def save_student(path: str | Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """Write the weights as safetensors, whole, with `facts` (plain JSON values) in the file's own header.

    `facts["build"]` holds the arguments of `build_student`, so that `load_student` can build the model again.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"pkd_student": json.dumps(facts)})


def load_student(path: str | Path) -> tuple[VisionTransformer, dict[str, Any]]:
    """The student that `save_student` (or `fit_student`) wrote, in evaluation mode on the CPU, and its facts.

    `path` is the .safetensors file, or the folder that holds `model.safetensors`.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train the student first.")
    facts = _facts(path)
    model = random_student(facts["build"], 0)
    model.load_state_dict(load_file(path))
    return model, facts


def random_student(build: dict[str, Any], seed: int) -> VisionTransformer:
    """A student with fresh random weights of a seed, in evaluation mode; torch's own generator stays as it is.

    `build` holds arguments of `build_student`, as `load_student` gives them; weights among them are left out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_student(**{**build, "weights": None}).eval()


def class_token_logits(model: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    """`model(x)`, exact up to rounding, without the work in the last block that cannot reach the class token.

    The head reads the class token only. So in the last block one query is enough (`one_query`), and the projection and
    the MLP act on one token. One block of the model's `depth` becomes nearly free. Models of another make run as they
    are. `x` is (B, C, S, S), the logits (B, n_labels).
    """
    if not has_plain_last_block(model):
        return _head(model, model.forward_features(x))
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    for block in model.blocks[:-1]:
        x = block(x)
    block = model.blocks[-1]
    cls = x[:, :1]
    cls = cls + block.drop_path1(block.ls1(_class_attention(block.attn, block.norm1(x))))
    cls = cls + block.drop_path2(block.ls2(block.mlp(block.norm2(cls))))
    return _head(model, model.norm(cls))


def _head(model: VisionTransformer, tokens: torch.Tensor) -> torch.Tensor:
    """The head without autocast: logits rounded to bf16 would tie, and ties move an AUROC."""
    with torch.autocast(tokens.device.type, enabled=False):
        return model.forward_head(tokens.to(model.head.weight.dtype))


def has_plain_last_block(model: nn.Module) -> bool:
    """True if the identities of `class_token_logits` hold: class token pooled, plain attention without query norm."""
    # Of a subclass the head may read more: DeiT's distilled one reads two tokens.
    if type(model) is not VisionTransformer or model.global_pool != "token" or model.attn_pool is not None:
        return False
    block = model.blocks[-1]
    attn = getattr(block, "attn", None)
    return (
        type(block) is Block
        and type(attn) is Attention
        and model.cls_token is not None
        and attn.gate is None
        and all(type(part) is nn.Identity for part in (attn.q_norm, attn.k_norm))
    )


def predict_logits(
    model: nn.Module,
    pixels: np.ndarray | torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> np.ndarray:
    """Logits (N, K), float32, of packed images (N, S, S), uint8, without augmentation.

    `mean` and `std` are as `input_statistics` or the facts of `load_student` give them; the model is put into
    evaluation mode on `device`. `precision` is "fp32" or "bf16".
    """
    device, pixels = torch.device(device), torch.as_tensor(pixels)
    model = model.to(device).eval()
    with torch.inference_mode(), autocast(device, precision):
        batches = (normalise(batch.to(device), mean, std) for batch in pixels.split(256))
        return torch.cat([class_token_logits(model, batch).float().cpu() for batch in batches]).numpy()


def one_query(
    query: torch.Tensor,
    tokens: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    value_bias: torch.Tensor | None,
    mask: torch.Tensor | None = None,
    dropout: nn.Module | None = None,
    divisor: float = 1.0,
) -> torch.Tensor:
    """Attention of one query a sequence, exactly, without the projections of all its tokens.

    q . (Wk y_j + bk) = (Wk' q) . y_j + a constant that cancels in the softmax, and averaging before the value
    projection gives sum_j a_j (Wv y_j + bv) = Wv (sum_j a_j y_j) + bv sum_j a_j (1 unless dropout acts on a).

    Parameters
    ----------
    query : (B, H, d); tokens : (B, N, D); the result : (B, H, d)
    key, value : (H, d, D), the projections of each head; value_bias : (H, d) or None
    mask : (B, N) bool, optional; False for padding
    dropout : module, optional, on the attention weights
    divisor : of the scores: sqrt(d), or 1 where the query is divided already
    """
    scores = torch.einsum("bhd,hdc->bhc", query, key) @ tokens.transpose(1, 2) / divisor  # (B, H, N)
    if mask is not None:
        scores = scores.float().masked_fill(~mask[:, None, :], -torch.inf)
    weights = scores.softmax(-1)
    weights = weights if dropout is None else dropout(weights)
    out = torch.einsum("bhc,hdc->bhd", weights @ tokens, value)
    return out if value_bias is None else out + value_bias * weights.sum(-1, keepdim=True)


def _class_attention(attn: Attention, y: torch.Tensor) -> torch.Tensor:
    """Attention of token 0 to all tokens: (B, N, D) -> (B, 1, D)."""
    batch, _, dim = y.shape
    heads, size = attn.num_heads, attn.head_dim
    w_query, w_key, w_value = attn.qkv.weight.view(3, heads, size, dim).unbind(0)
    b_query, _, b_value = (None, None, None) if attn.qkv.bias is None else attn.qkv.bias.view(3, heads, size).unbind(0)
    query = F.linear(y[:, 0], w_query.reshape(-1, dim), None if b_query is None else b_query.flatten())
    query = query.view(batch, heads, size) * attn.scale
    out = one_query(query, y, w_key, w_value, b_value, dropout=attn.attn_drop)
    return attn.proj_drop(attn.proj(attn.norm(out.reshape(batch, 1, -1))))


def _facts(path: Path) -> dict[str, Any] | None:
    """What `save_student` said of a safetensors file; None where it did not write it."""
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("pkd_student", "null"))


def _convert(state: dict, own: dict, model: VisionTransformer, name: str) -> list[str]:
    """Make `state` fit in place: first layer from 3 channels to 1, position embedding to the grid; what was done."""
    sentences = []
    key, bias = "patch_embed.proj.weight", "patch_embed.proj.bias"
    if key in state and state[key].ndim == 4 and (state[key].shape[1], own[key].shape[1]) == (3, 1):
        means, stds = (torch.tensor(s) for s in input_statistics(name, 3))
        (mean,), (std,) = input_statistics(name, 1)
        kernels = state[key]
        state[key] = (kernels * (std / stds)[:, None, None]).sum(1, keepdim=True)
        if bias in state:
            state[bias] = state[bias] + (kernels.sum((2, 3)) * ((mean - means) / stds)).sum(1)
        sentences.append("first layer from 3 channels to 1, the same output for grey images")
    if "pos_embed" in state and state["pos_embed"].shape[1:] != own["pos_embed"].shape[1:]:
        old, prefix = state["pos_embed"], model.num_prefix_tokens
        side = round((old.shape[1] - prefix) ** 0.5)
        if side * side + prefix == old.shape[1]:  # another width is refused with the other shapes
            grid = model.patch_embed.grid_size
            state["pos_embed"] = resample_abs_pos_embed(old, list(grid), [side, side], num_prefix_tokens=prefix)
            sentences.append(f"position embedding from {side} x {side} to {grid[0]} x {grid[1]} patches")
    return sentences
