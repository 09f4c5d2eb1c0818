"""Frozen image encoders: patch tokens of radiographs, from weights that were loaded exactly or not at all."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from pkd_utils.encoders import transforms
from pkd_utils.encoders.backbones import (
    FrozenEncoder,
    build_backbone,
    fit_position_embeddings,
    use_fused_attention,
    vision_transformer,
)
from pkd_utils.encoders.downloads import find_weights
from pkd_utils.encoders.facts import Feature, ImageFacts, Preprocessing, known
from pkd_utils.encoders.keys import load_file
from pkd_utils.encoders.zoo import IMAGE_ENCODERS
from pkd_utils.images.depth import check_depth
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.machine import resolve_precision


class ImageTokens(NamedTuple):
    """Patch tokens (B, N, D) float32, row-major, and the class token (B, D) float32, or None without one."""

    patches: torch.Tensor
    cls: torch.Tensor | None


class ImageEncoder(FrozenEncoder):
    """A frozen image encoder, made by `load_image_encoder`; beside what `FrozenEncoder` holds:

    Attributes
    ----------
    feature : Feature
        Where tokens are read; `feature_name` is its key in `facts.features`.
    grid : (rows, columns) of tokens
    width : int, numbers a token
    input_size : int, pixels: S
    preprocessing : Preprocessing
    include_cls : bool
        Whether `tokens` puts the class token first.
    depth : how images of more than 8 bits become 8, see `transforms.eight_bit`
    upsample : bool, GLoRIA only
    """

    def __init__(
        self,
        network: nn.Module,
        facts: ImageFacts,
        feature_name: str,
        feature: Feature,
        preprocessing: Preprocessing,
        include_cls: bool,
        depth: str | int,
        upsample: bool,
        **frozen: Any,
    ):
        super().__init__(network, facts, **frozen)
        self.feature_name, self.feature, self.preprocessing = feature_name, feature, preprocessing
        self.grid, self.width, self.input_size = feature.grid, feature.width, preprocessing.crop
        self.include_cls, self.depth, self.upsample = include_cls, depth, upsample
        # Channels last suits convolutions; a ViT has only one.
        self._format = torch.channels_last if vision_transformer(network) is None else torch.contiguous_format
        network.to(memory_format=self._format)

    @property
    def identity(self) -> str:
        """Hash of the weights and of every option that changes tokens, for caches."""
        facts = {
            "encoder": self.facts.name,
            "weights": self.origin,
            "feature": self.feature_name,
            "include_cls": self.include_cls,
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "upsample": self.upsample,
            "precision": self.precision,
            "depth": self.depth,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def preprocess(self, image: Image.Image, crop: tuple[int, int, int, int] | None = None) -> torch.Tensor:
        """The network's input (3, S, S) float32 from a stored image, see `transforms.preprocess`."""
        return transforms.preprocess(image, self.preprocessing, crop, self.depth)

    def encode(self, batch: torch.Tensor) -> ImageTokens:
        """Patch tokens and class token of a preprocessed batch (B, 3, S, S), on the encoder's device."""
        side = self.input_size
        if batch.ndim != 4 or tuple(batch.shape[1:]) != (3, side, side) or not batch.is_floating_point():
            raise DataError(
                f"{self.facts.title} takes a floating point batch of shape (B, 3, {side}, {side}), not "
                f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}: prepare images with `preprocess`."
            )
        x = batch.to(self.device, torch.float32, memory_format=self._format)
        with self.computing():
            tokens = self.facts.tokens(self.network, self.feature_name, x, self.upsample).float()
        return ImageTokens(tokens[:, 1:], tokens[:, 0]) if self.facts.class_token else ImageTokens(tokens, None)

    def tokens(self, batch: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) float32 of a preprocessed batch; with `include_cls` (B, 1 + N, D), the class token first."""
        patches, cls = self.encode(batch)
        return torch.cat([cls[:, None], patches], 1) if self.include_cls else patches

    forward = tokens


def load_image_encoder(
    name: str,
    weights: str | Path | None,
    feature: str | None = None,
    include_cls: bool = False,
    preprocessing: str | None = None,
    upsample: bool = True,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    allow_download: bool = False,
    seed: int = 0,
    depth: str | int = "minmax",
    input_size: int | None = None,
) -> ImageEncoder:
    """A frozen image encoder with every one of its weights taken from a file, or an error that says which are missing.

    Parameters
    ----------
    name : str, a key of `IMAGE_ENCODERS`
    weights : path, "random", or hub name
        A file or folder as downloaded; "random" for seeded random weights; with `allow_download` the encoder's hub
        name (or None).
    feature : str, optional
        Where tokens are read, a key of `facts.features`; not stated in the paper, the default is the first one there.
    include_cls : bool
        `tokens` puts the class token first; not stated in the paper. Only for networks that have one.
    preprocessing : str, optional
        "paper" or "native"; the default is the first one in `facts.preprocessing`.
    upsample : bool
        GLoRIA only: its own encoder enlarges the input to 299 x 299 pixels; not stated in the paper. False gives a
        14 x 14 (or 7 x 7) grid.
    device : where to compute; tokens stay there
    precision : {"fp32", "bf16", "auto"}
        "bf16" computes matrix products and convolutions in bfloat16; tokens are float32 in any case.
    allow_download : bool
        Consent to fetch the file from the Hugging Face hub. HF_HUB_OFFLINE is respected.
    seed : int, of random weights
    depth : {"minmax", "full"} or int
        How images of more than 8 bits become 8, see `transforms.eight_bit`.
    input_size : int, optional
        Another side of the network's input, in pixels, than the preprocessing's: resize, crop and grid shrink or grow
        with it, a ViT's position embeddings are interpolated. Half the side is a quarter of the work, and another
        encoder than the paper's.

    Raises
    ------
    DataError
        For unknown names and for weights that are not exactly this encoder's, see `keys.load_state`.
    FileNotFoundError
        Where `weights` does not exist: says what to get where.
    """
    facts = known(IMAGE_ENCODERS, name, "image encoder")
    feature = feature or next(iter(facts.features))
    words = {name: each.what for name, each in facts.features.items()}
    read_as = known(facts.features, feature, f"feature of {facts.title}", words)
    preprocessing = preprocessing or next(iter(facts.preprocessing))
    steps = known(facts.preprocessing, preprocessing, f"preprocessing of {facts.title}", facts.preprocessing)
    fault = ""
    if include_cls and not facts.class_token:
        fault = f"{facts.title} ({facts.architecture}) has no class token: leave include_cls out."
    elif not upsample and not facts.enlarges:
        fault = f"upsample=False is not for {facts.title}, which never enlarges its input."
    elif input_size is not None and facts.enlarges and upsample:
        fault = f"{facts.title} enlarges every input to {facts.enlarges} pixels: give upsample=False with input_size."
    if fault:
        raise DataError(fault)
    if not upsample:
        side = steps.crop // read_as.stride
        read_as = dataclasses.replace(read_as, grid=(side, side))
    if input_size is not None:
        read_as, steps = _resized(facts, read_as, steps, input_size)
    check_depth(depth)
    device, precision = torch.device(device), resolve_precision(precision, device)

    path = find_weights(facts, weights, allow_download)
    network = build_backbone(facts, feature, seed if path is None else None)
    loaded = None if path is None else load_file(facts, path, network)
    fit_position_embeddings(network, read_as.grid)
    use_fused_attention(network, device.type != "cpu" or precision == "fp32")
    options = {"include_cls": include_cls, "depth": depth, "upsample": upsample, "precision": precision, "seed": seed}
    return ImageEncoder(network, facts, feature, read_as, steps, **options, loaded=loaded).to(device)


def _resized(facts: ImageFacts, read_as: Feature, steps: Preprocessing, side: int) -> tuple[Feature, Preprocessing]:
    """Feature and preprocessing for an input of another side; every token covers as many pixels as before."""
    rows, columns = read_as.grid
    if side < 1 or rows * side % steps.crop or columns * side % steps.crop:
        raise DataError(
            f"input_size of {facts.title} must be a multiple of {steps.crop // math.gcd(steps.crop, rows, columns)} "
            f"pixels, which is what a token covers, not {side}."
        )
    grid = (rows * side // steps.crop, columns * side // steps.crop)
    resize = round(steps.resize * side / steps.crop)
    return dataclasses.replace(read_as, grid=grid), dataclasses.replace(steps, crop=side, resize=resize)
