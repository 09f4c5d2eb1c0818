"""Batched augmentation on the device: one affine resampling a batch that takes masks and boxes along."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from pkd_utils.runs.errors import DataError


class Augmented(NamedTuple):
    """What `augment` returns; `masks` and `boxes` are None where none were given."""

    images: torch.Tensor
    masks: torch.Tensor | None
    boxes: list[torch.Tensor] | None


class AugmentationDraw(NamedTuple):
    """One random draw an image: `matrix` (N, 2, 3) takes output to input coordinates in -1 ... 1 (what grid_sample
    needs), `gain` and `bias` (N,) change contrast and brightness."""

    matrix: torch.Tensor
    gain: torch.Tensor
    bias: torch.Tensor


def draw_augmentation(
    n: int,
    generator: torch.Generator,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
) -> AugmentationDraw:
    """Draw `n` augmentations; always the same number of random numbers, so that settings do not shift the stream.

    Parameters
    ----------
    n : int
    generator : CPU torch.Generator
        The same on every device, so that CPU and GPU see the same augmentation.
    degrees : float
        Rotation, uniform in +-degrees.
    translate : float
        Shift along each axis, uniform in +-translate of the image side.
    scale : (low, high)
        Zoom factor, uniform; above 1 enlarges.
    flip : bool
        Mirror left and right with probability 0.5. False by default: a chest is not symmetric (heart, side markers).
    brightness : float
        Added to pixel values in 0 ... 1, uniform in +-brightness.
    contrast : float
        Factor around the mean grey value, uniform in 1 +- contrast.

    Returns
    -------
    AugmentationDraw, float32 on the CPU
    """
    if degrees < 0 or translate < 0 or brightness < 0 or not 0 <= contrast < 1:
        raise DataError("degrees, translate, brightness must not be negative and contrast must lie in [0, 1).")
    if not 0 < scale[0] <= scale[1]:
        raise DataError(f"scale must be (low, high) with 0 < low <= high, not {tuple(scale)}.")
    u = torch.rand(7, n, generator=generator)
    sign = 2 * u - 1
    angle = torch.deg2rad(degrees * sign[0])
    zoom = scale[0] + (scale[1] - scale[0]) * u[1]
    shift = 2 * translate * sign[2:4]  # the image spans 2 units
    mirror = torch.where(u[4] < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    # Forward: p' = zoom R(angle) M p + shift. Inverse: p = M R(-angle) (p' - shift) / zoom.
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    row_x, row_y = torch.stack([mirror * cos, mirror * sin], 1), torch.stack([-sin, cos], 1)
    linear = torch.stack([row_x, row_y], 1)
    matrix = torch.cat([linear, -linear @ shift.T[:, :, None]], 2)
    return AugmentationDraw(matrix, 1 + contrast * sign[5], brightness * sign[6])


def apply_augmentation(
    images: torch.Tensor,
    draw: AugmentationDraw,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
    masks: torch.Tensor | None = None,
    boxes: Sequence[torch.Tensor] | None = None,
) -> Augmented:
    """Apply a draw to a batch and normalise it.

    Parameters
    ----------
    images : (B, S, S) uint8 tensor
    draw : AugmentationDraw of B, on the device of the images
    mean, std : one value, or one a channel
        The result is `(value / 255 - mean) / std`; with several values the grey image is repeated along channels.
        Contrast turns around the first mean. What moves in from outside is black.
    masks : (B, S, S) bool tensor, optional
        Moved with the image (bilinear, at least half covered).
    boxes : sequence of B tensors (K_i, 4), optional
        x0, y0, x1, y1 in packed pixels, x1 and y1 exclusive. Each becomes the upright hull of its moved corners,
        clipped to the image; a box that left it has no area.

    Returns
    -------
    Augmented: images (B, C, S, S) float32; masks (B, S, S) bool; boxes list of (K_i, 4) float32
    """
    _check_batch(images, masks, boxes)
    grid = _sampling_grid(draw.matrix, images.shape[-1])
    values = F.grid_sample(images[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    values = _scale_shift(values, draw.gain[:, None], draw.bias[:, None], mean, std)
    if masks is not None:
        moved = F.grid_sample(masks[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        masks = moved[:, 0] >= 0.5
    if boxes is not None:
        boxes = [_move_boxes(b, m, images.shape[-1]) for b, m in zip(boxes, draw.matrix, strict=True)]
    return Augmented(values, masks, boxes)


def augment(
    images: torch.Tensor,
    generator: torch.Generator,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
    masks: torch.Tensor | None = None,
    boxes: Sequence[torch.Tensor] | None = None,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> Augmented:
    """Draw and apply in one call; see `draw_augmentation` and `apply_augmentation` for every argument."""
    draw = draw_augmentation(len(images), generator, degrees, translate, scale, flip, brightness, contrast)
    draw = AugmentationDraw(*(part.to(images.device) for part in draw))
    return apply_augmentation(images, draw, mean, std, masks, boxes)


def normalise(images: torch.Tensor, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.25,)) -> torch.Tensor:
    """(B, S, S) uint8 to (B, C, S, S) float32, `(value / 255 - mean) / std`: what `augment` gives without changes."""
    one, zero = torch.ones(1, 1, device=images.device), torch.zeros(1, 1, device=images.device)
    return _scale_shift(images[:, None].float(), one, zero, mean, std)


def _sampling_grid(matrix: torch.Tensor, size: int) -> torch.Tensor:
    """F.affine_grid for square images, several times faster on a CPU: two outer sums instead of many tiny products."""
    centres = (2 * torch.arange(size, device=matrix.device, dtype=matrix.dtype) + 1) / size - 1
    along_x = matrix[:, :, :1] * centres  # (B, 2, S)
    along_y = matrix[:, :, 1:2] * centres + matrix[:, :, 2:]
    grid = torch.empty(len(matrix), size, size, 2, device=matrix.device, dtype=matrix.dtype)
    for axis in (0, 1):
        torch.add(along_x[:, axis, None, :], along_y[:, axis, :, None], out=grid[..., axis])
    return grid


def _scale_shift(values, gain, bias, mean, std):
    """((v/255 - m0) gain + m0 + bias - mean_c) / std_c as one multiplication and one addition."""
    mean = torch.as_tensor(mean, dtype=torch.float32, device=values.device)
    std = torch.as_tensor(std, dtype=torch.float32, device=values.device)
    factor = gain / (255 * std)
    shift = (mean[:1] * (1 - gain) + bias - mean) / std
    return torch.addcmul(shift[:, :, None, None], values, factor[:, :, None, None])


def _move_boxes(boxes: torch.Tensor, matrix: torch.Tensor, size: int) -> torch.Tensor:
    linear, offset = matrix[:, :2], matrix[:, 2]
    x0, y0, x1, y1 = boxes.to(matrix).unbind(1)
    corners = torch.stack([x0, y0, x1, y0, x1, y1, x0, y1], 1).view(-1, 4, 2) * (2 / size) - 1
    moved = (torch.linalg.solve(linear, (corners - offset).transpose(1, 2)).transpose(1, 2) + 1) * (size / 2)
    return torch.cat([moved.amin(1), moved.amax(1)], 1).clamp(0, size)


def _check_batch(images, masks, boxes):
    if images.ndim != 3 or images.shape[1] != images.shape[2] or images.dtype != torch.uint8:
        raise DataError(f"images must be uint8 (B, S, S), not {images.dtype} {tuple(images.shape)}.")
    if masks is not None and masks.shape != images.shape:
        raise DataError(f"masks have the shape {tuple(masks.shape)}, the images {tuple(images.shape)}.")
    if boxes is not None and len(boxes) != len(images):
        raise DataError(f"There are boxes for {len(boxes)} images in a batch of {len(images)}.")
