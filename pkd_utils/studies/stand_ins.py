"""Pretrain the same small vision transformer by each of the three objectives of Figure 2 of Bergström et al.

- "image_ssl": a masked autoencoder (He et al., 2022; as Medical MAE): three quarters of the patches are hidden and
  their pixels predicted from the rest.
- "alignment": image and report are drawn together and apart from all others in the batch (CLIP; as BiomedCLIP).
- "masked": hidden patches and hidden words of the report are predicted from what is left of both (as MRM).

Backbone, images, number of steps and optimizer are the same, so that the objective is all that differs. The results
are stand-ins for the seven published encoders where those cannot be had; on simulated images they are simulated too.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from tqdm import tqdm

from pkd_utils.distillation.loop import Loop, private_randomness
from pkd_utils.images.augment import AugmentationDraw, apply_augmentation, draw_augmentation
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params
from pkd_utils.runs.machine import Device, resolve_precision
from pkd_utils.runs.seeds import stream

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))  # mean and standard deviation of the stand-ins' input
CHECKPOINT = "pretraining.safetensors"
MASK_RATIO = 0.75  # share of patches hidden, as in MAE and MRM
WORD_WEIGHT = 1.0  # of the loss on words beside the loss on pixels
JOINT_WIDTH = 128  # numbers of the joint space, as in BioViL-T
WEIGHT_DECAY = 0.05
AUGMENTATION = {"degrees": 5.0, "translate": 0.05, "scale": (0.9, 1.2), "brightness": 0.1, "contrast": 0.1}


@config
class PretrainingConfig:
    """Everything that decides a pretraining; none of it is stated in the paper, which takes finished encoders."""

    objective: Literal["image_ssl", "alignment", "masked"]
    # the backbone, a timm VisionTransformer with class token and three equal input channels
    image_size: int = 64
    patch_size: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 3
    epochs: int = 30  # of AdamW with one epoch of linear warm-up, then a cosine to zero
    batch_size: int = 128
    learning_rate: float = 1e-3
    word_mask_ratio: float = 0.5  # share of a report's words that "masked" hides, as in MRM
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    device: Device = "cpu"


class Words(NamedTuple):
    """Reports as numbers of a closed vocabulary, and as one vector each."""

    ids: torch.Tensor  # (N, L) int64, 0 = padding, 1 = hidden word, others from 2
    size: int  # words in all
    pooled: torch.Tensor  # (N, T) float32, what a frozen text encoder makes of each report


class PretrainingResult(NamedTuple):
    """The backbone in evaluation mode, and the loss by epoch."""

    backbone: VisionTransformer
    history: pd.DataFrame


def share_of(patients: pd.Series, share: float, seed: int) -> np.ndarray:
    """Which images (N,) belong to a share of the patients, drawn by `seed`: those to pretrain on, of 1.0 all.

    A patient, of whom there is more than one image, is in or out as a whole.
    """
    names = np.sort(patients.unique())
    drawn = np.random.default_rng(seed).permutation(names)[: round(share * len(names))]
    if not len(drawn):
        raise DataError(f"A share of {share:g} of {len(names)} patients is none: give one above 0.")
    return patients.isin(drawn).to_numpy()


def words_of(texts: Sequence[str], pooled: np.ndarray, longest: int = 128) -> Words:
    """Reports as word numbers: lower case, split at anything but letters and digits, each distinct word a number.

    `pooled` (N, T) holds one vector a report. A report of more than `longest` words is refused: nothing is dropped.
    """
    split = [re.findall(r"[a-z0-9]+", text.lower()) for text in texts]
    lengths = np.array([len(words) for words in split])
    if lengths.min() == 0:
        raise DataError(f"Report {int(lengths.argmin())} has no words; leave the study out.")
    if lengths.max() > longest:
        raise DataError(f"Report {int(lengths.argmax())} has {lengths.max()} words, more than longest = {longest}.")
    vocabulary = {word: number for number, word in enumerate(sorted({w for words in split for w in words}), start=2)}
    ids = torch.zeros(len(split), int(lengths.max()), dtype=torch.int64)
    for row, words in enumerate(split):
        ids[row, : len(words)] = torch.tensor([vocabulary[word] for word in words])
    return Words(ids, len(vocabulary) + 2, torch.as_tensor(np.asarray(pooled), dtype=torch.float32))


def report_vectors(encoder, texts: Sequence[str]) -> np.ndarray:
    """One vector a report: the mean of its tokens, from a frozen `encoders.TextEncoder`; (N, T) float32."""
    order = np.argsort([len(text) for text in texts], kind="stable")  # batches of similar length waste little padding
    out = np.empty((len(texts), encoder.width), dtype=np.float32)
    for start in tqdm(range(0, len(order), 64), desc="reports", unit="batch"):
        rows = order[start : start + 64]
        tokens, mask = encoder.tokens([texts[row] for row in rows])
        out[rows] = ((tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
    return out


def pretrain(
    pixels: np.ndarray,
    words: Words | None,
    config: PretrainingConfig,
    folder: str | Path,
    seed: int,
) -> PretrainingResult:
    """Train a backbone by one objective; continues to the same result where it was interrupted.

    Parameters
    ----------
    pixels : (N, S, S) uint8, S the configuration's `image_size`
    words : Words of the same N images' reports, or None for "image_ssl"
    folder : holds `pretraining.safetensors`, written whole after every epoch
    """
    read = [] if words is None else [words.ids.numpy(), words.pooled.numpy()]
    arrays = [hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for array in (pixels, *read)]
    content = {"config": dataclasses.asdict(config), "seed": seed, "arrays": arrays}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(config.device)
    steps = math.ceil(len(pixels) / config.batch_size)  # of nearly equal size
    with private_randomness(device):
        torch.manual_seed(stream(seed, 0, 0))
        learner = Learner(config, words).to(device)
        groups = [{"params": [p for p in learner.parameters() if (p.ndim >= 2) == matrix], "lr": config.learning_rate,
                   "weight_decay": WEIGHT_DECAY * matrix} for matrix in (True, False)]  # fmt: skip
        loop = Loop(learner, groups, folder / CHECKPOINT, hash_params(content), config.epochs, steps, warmup=steps,
                    precision=resolve_precision(config.precision, device), betas=(0.9, 0.95))  # fmt: skip
        data = torch.as_tensor(np.ascontiguousarray(pixels))

        def batches(epoch):
            generator = torch.Generator().manual_seed(stream(seed, epoch, 1))
            rows = torch.randperm(len(data), generator=generator)
            draw = draw_augmentation(len(rows), generator, **AUGMENTATION)
            for batch, *parts in zip(rows.tensor_split(steps), *(p.tensor_split(steps) for p in draw), strict=True):
                drawn = AugmentationDraw(*(p.to(device) for p in parts))
                yield len(batch), (apply_augmentation(data[batch].to(device), drawn, *STATISTICS), batch, generator)

        def losses(batch):
            images, rows, generator = batch
            found = learner(images, words, rows, generator)
            return {"loss": sum(found.values()), **found}

        loop.run(batches, losses, title=config.objective)
    history = pd.DataFrame(loop.history).drop(columns="learning_rate")
    return PretrainingResult(learner.backbone.eval().requires_grad_(False), history)


class Learner(nn.Module):
    """The backbone with the heads of its objective; the heads are thrown away afterwards.

    Called with images (B, 3, S, S), all reports, the images' rows among them and a generator of masks, it gives the
    losses of its objective by name: "contrast", or "pixels" and with "masked" also "words".
    """

    def __init__(self, config: PretrainingConfig, words: Words | None):
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(
            img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.width, depth=config.depth,
            num_heads=config.heads, num_classes=0,
        )  # fmt: skip
        for block in self.backbone.blocks:
            block.attn.fused_attn = config.device != "cpu"  # plain products are faster on a CPU in bf16
        width, patches = config.width, self.backbone.patch_embed.num_patches
        if config.objective == "alignment":
            self.image_projection = nn.Linear(width, JOINT_WIDTH, bias=False)
            self.text_projection = nn.Linear(words.pooled.shape[1], JOINT_WIDTH, bias=False)
            self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
            return
        self.to_decoder = nn.Linear(width, width)
        self.hidden_patch = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_position = nn.Parameter(torch.randn(1, patches, width) * 0.02)
        self.decoder = nn.Sequential(*(_plain_block(width, config.heads) for _ in range(2)), nn.LayerNorm(width))
        self.to_pixels = nn.Linear(width, config.patch_size**2)
        if config.objective == "masked":
            self.word = nn.Embedding(words.size, width, padding_idx=0)
            self.word_position = nn.Parameter(torch.randn(1, words.ids.shape[1], width) * 0.02)
            self.reader = nn.ModuleList(_plain_block(width, config.heads) for _ in range(2))
            self.to_words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, words.size))

    def forward(self, images, words, rows, generator) -> dict[str, torch.Tensor]:
        if self.config.objective == "alignment":
            return {"contrast": self._contrast(images, words.pooled[rows].to(images.device))}
        order = torch.rand(len(images), self.backbone.patch_embed.num_patches, generator=generator).argsort(1)
        order = order.to(images.device)
        kept = order[:, : round(order.shape[1] * (1 - MASK_RATIO))]
        visible = self.visible_tokens(images, kept)
        losses = {"pixels": self._hidden_pixels(images, visible, kept, order)}
        if self.config.objective == "masked":
            ids = words.ids[rows]
            ids = ids[:, : int((ids > 0).sum(1).max())]  # no longer than the batch's longest report
            hide = (torch.rand(ids.shape, generator=generator) < self.config.word_mask_ratio) & (ids > 0)
            losses["words"] = WORD_WEIGHT * self._hidden_words(visible, ids.to(images.device), hide.to(images.device))
        return losses

    def _contrast(self, images, pooled) -> torch.Tensor:
        """Symmetric InfoNCE between the class tokens and the reports of a batch (Radford et al., 2021)."""
        image = F.normalize(self.image_projection(self.backbone.forward_features(images)[:, 0]).float(), dim=1)
        text = F.normalize(self.text_projection(pooled).float(), dim=1)
        logits = self.log_scale.exp().clamp(max=100) * image @ text.T
        own = torch.arange(len(images), device=images.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def visible_tokens(self, images, kept) -> torch.Tensor:
        """(B, 1 + visible, D): the blocks see the class token and the patches that are not hidden."""
        net = self.backbone
        tokens = net.patch_embed(images) + net.pos_embed[:, 1:]
        tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        first = (net.cls_token + net.pos_embed[:, :1]).expand(len(tokens), -1, -1).to(tokens.dtype)
        return net.norm(net.blocks(torch.cat([first, tokens], 1)))

    def _hidden_pixels(self, images, visible, kept, order) -> torch.Tensor:
        """Mean squared error of the hidden patches, each scaled to mean 0 and variance 1 (He et al., 2022)."""
        tokens = self.to_decoder(visible[:, 1:])
        full = self.hidden_patch.expand(len(tokens), order.shape[1], -1).to(tokens.dtype)
        full = full.scatter(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]), tokens) + self.decoder_position
        predicted = self.to_pixels(self.decoder(full)).float()
        side = self.config.patch_size
        target = F.unfold(images[:, :1], side, stride=side).transpose(1, 2)
        mean, variance = target.mean(2, keepdim=True), target.var(2, keepdim=True)
        error = ((predicted - (target - mean) / (variance + 1e-6).sqrt()) ** 2).mean(2)
        return error.gather(1, order[:, kept.shape[1] :]).mean()

    def _hidden_words(self, visible, ids, hide) -> torch.Tensor:
        """Cross-entropy of the hidden words, read with the mean of the visible patches added (MRM's equation 3)."""
        tokens = (
            self.word(ids.masked_fill(hide, 1))
            + self.word_position[:, : ids.shape[1]]
            + visible[:, 1:].mean(1, keepdim=True)
        )
        present = (ids > 0)[:, None, None, :]
        for block in self.reader:
            tokens = block(tokens, attn_mask=present)
        return F.cross_entropy(self.to_words(tokens[hide]).float(), ids[hide])


def _plain_block(width: int, heads: int) -> Block:
    block = Block(width, heads, mlp_ratio=2.0, qkv_bias=True)
    block.attn.fused_attn = False
    return block
