"""Batched augmentation on the device: one affine resampling a batch, drawn so that a resumed training sees the same."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field

from pkd_utils.runs.checked import checked, ordered

NotNegative, Positive = Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]
Range = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]
"""(low, high) of positive numbers."""


class AugmentationDraw(NamedTuple):
    """One random draw an image: `matrix` (N, 2, 3) takes output to input coordinates in -1 ... 1 (what grid_sample
    needs), `gain` and `bias` (N,) change contrast and brightness."""

    matrix: torch.Tensor
    gain: torch.Tensor
    bias: torch.Tensor


@checked
def draw_augmentation(
    n: int,
    generator: torch.Generator,
    degrees: NotNegative = 0.0,
    translate: NotNegative = 0.0,
    scale: Range = (1.0, 1.0),
    brightness: NotNegative = 0.0,
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> AugmentationDraw:
    """Draw `n` augmentations; always the same number of random numbers, so that settings do not shift the stream.

    Parameters
    ----------
    generator : CPU torch.Generator
        On every device, so that CPU and GPU see the same augmentation.
    degrees, translate : float
        Rotation, uniform in +-degrees; shift along each axis, uniform in +-translate of the image side.
    scale : (low, high)
        Zoom factor, uniform; above 1 enlarges. Nothing is mirrored: a chest is not symmetric.
    brightness, contrast : float
        Added to pixel values in 0 ... 1, uniform in +-brightness; factor around the mean grey value, uniform in
        1 +- contrast.
    """
    u = torch.rand(7, n, generator=generator)  # the fifth is free; it stays, so that streams are what they were
    sign = 2 * u - 1
    angle = torch.deg2rad(degrees * sign[0])
    zoom = scale[0] + (scale[1] - scale[0]) * u[1]
    shift = 2 * translate * sign[2:4]  # the image spans 2 units
    # Forward: p' = zoom R(angle) p + shift. Inverse: p = R(-angle) (p' - shift) / zoom.
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    linear = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    matrix = torch.cat([linear, -linear @ shift.T[:, :, None]], 2)
    return AugmentationDraw(matrix, 1 + contrast * sign[5], brightness * sign[6])


def apply_augmentation(
    images: torch.Tensor,
    draw: AugmentationDraw,
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.25,),
) -> torch.Tensor:
    """Apply a draw to a batch and normalise it.

    Parameters
    ----------
    images : (B, S, S) uint8 tensor
    draw : AugmentationDraw of B, on the device of the images
    mean, std : one value, or one a channel
        The result is `(value / 255 - mean) / std`; with several values the grey image is repeated along channels.
        Contrast turns around the first mean. What moves in from outside is black.

    Returns
    -------
    (B, C, S, S) float32 tensor
    """
    grid = _sampling_grid(draw.matrix, images.shape[-1])
    values = F.grid_sample(images[:, None].float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return _scale_shift(values, draw.gain[:, None], draw.bias[:, None], mean, std)


def normalise(images: torch.Tensor, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.25,)) -> torch.Tensor:
    """(B, S, S) uint8 to (B, C, S, S) float32, `(value / 255 - mean) / std`: an augmentation that changes nothing."""
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
