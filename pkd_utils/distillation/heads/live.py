"""Crops that are fresh in every epoch, and one pass of the encoder that feeds every head in training.

Where tokens are not stored (`LiveTokens`), the groups of heads of a call are trained in lockstep: every epoch
begins with one pass over all their training images, whatever their seeds and sizes, and each group then takes its
epoch from what was encoded. The crop of an image is a function of the epoch, shared by all heads of all seeds (not
stated in the paper; with stored views every seed draws its own).
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from pkd_utils.distillation.heads.modules import DISTILLED
from pkd_utils.distillation.heads.specs import HeadSpec
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import reserve


class _Kept(NamedTuple):
    """Tokens of one view."""

    places: torch.Tensor  # (rows,) int64 into the tokens; beyond the last where a row was not encoded
    tokens: torch.Tensor  # (n, N, D)
    class_tokens: torch.Tensor | None  # (n, D)


class EpochTokens:
    """Tokens of what was encoded last: the crops of one epoch, and clean views.

    Kept as the source rounds them (half precision), in memory up to `cache_bytes`, beyond that mapped on a temporary
    file in `folder`. The file has no name there, so that nothing is left behind, even by a kill.
    """

    live = True

    def __init__(self, source, folder: Path, cache_bytes: int):
        self.source, self.folder, self.cache_bytes = source, folder, cache_bytes
        self.rows, self.tokens_per_image, self.width = source.rows, source.tokens_per_image, source.width
        self.views, self.identity = source.views, source.identity
        self._kept: dict[int, _Kept] = {}
        self.in_memory: dict[int, int] = {}  # bytes of each view

    def keep(self, rows: np.ndarray, view: int) -> None:
        """Encode each of these rows once; crops (view 1 and on) take the place of those of the epoch before."""
        for old in [old for old in self._kept if old > 0 or old == view]:
            del self._kept[old], self.in_memory[old]
        rows = torch.from_numpy(np.unique(rows))
        if not len(rows):
            return
        places = torch.full((self.rows,), len(rows))
        places[rows] = torch.arange(len(rows))
        tokens, class_tokens, filled = None, [], 0
        title = f"encoding for epoch {view}" if view else "encoding clean images"
        with tqdm(total=len(rows), desc=title, unit="image", leave=False) as bar:
            for some, patches, cls in self.source.passes(rows, view):
                if tokens is None:
                    tokens = self._room(view, len(rows), patches.dtype)
                tokens[filled : filled + len(some)] = patches
                class_tokens += [] if cls is None else [cls]
                filled += len(some)
                bar.update(len(some))
        self._kept[view] = _Kept(places, tokens, torch.cat(class_tokens) if class_tokens else None)

    def keep_clean(self, groups: Sequence[Sequence[HeadSpec]], teacher_view: str) -> None:
        """Clean views that a call needs, for all of its epochs: evaluation rows, and what clean teachers speak of."""
        if self.source.clean is not None:
            return
        specs = [group[0] for group in groups if _reads_images(group)]
        rows = [spec.evaluation_rows for spec in specs]
        if teacher_view == "clean":
            rows += [spec.train_rows for spec in specs if spec.method in DISTILLED]
        if rows:
            self.keep(np.concatenate(rows), 0)

    def batch(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """(B, N, D) tokens of rows that were encoded, all of one view."""
        if self.source.clean is not None and not views.any():
            return self.source.batch(rows, views)
        kept = self._of(views)
        return kept.tokens.index_select(0, kept.places[rows])

    def class_tokens(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """(B, D) class tokens likewise; DataError if the encoder has none."""
        kept = None if self.source.clean is not None and not views.any() else self._of(views)
        if kept is None or kept.class_tokens is None:
            return self.source.class_tokens(rows, views)  # which says what is wrong
        return kept.class_tokens.index_select(0, kept.places[rows])

    def _of(self, views: torch.Tensor) -> _Kept:
        (view,) = views.unique().tolist()
        return self._kept[view]

    def _room(self, view: int, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """(rows, N, D) to be filled."""
        shape = (rows, self.tokens_per_image, self.width)
        size = int(np.prod(shape)) * dtype.itemsize
        if size + sum(self.in_memory.values()) <= self.cache_bytes:
            self.in_memory[view] = size
            return torch.empty(shape, dtype=dtype)
        self.in_memory[view] = 0
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise DataError(
                f"Tokens of {rows:,} images need {size:,} bytes and the disk of {self.folder} has {free:,} free: make "
                "room, or train fewer seeds and sizes at a time."
            )
        with tempfile.TemporaryFile(dir=self.folder) as file:  # lives as long as it is mapped
            reserve(file, size, self.folder)
            mapped = np.memmap(file, np.uint8, "w+", shape=(*shape[:2], shape[2] * dtype.itemsize))
        return torch.from_numpy(mapped).view(dtype)


def train_in_lockstep(fits: Sequence, tokens: EpochTokens | None, bar: tqdm) -> None:
    """Train groups (`heads.training.GroupTraining`) to their last epochs, and write their files.

    `tokens`, None where they are stored, encode an epoch's images for all groups. Groups that a stopped run left an
    epoch ahead wait for the others. Their images are encoded again with the others', and no group's file is written
    before all have done its last epoch: the encoder so sees the batches that it would have seen without the stop, and
    rounds alike.
    """
    for fit in fits:
        bar.update(fit.epoch)
    for epoch in range(1, max((fit.specs[0].epochs for fit in fits), default=0) + 1):
        here = [fit for fit in fits if fit.specs[0].epochs >= epoch]
        due = [fit for fit in here if fit.epoch < epoch]
        reading = [fit.specs[0].train_rows for fit in here if _reads_images(fit.specs)]
        if tokens is not None and due and reading:
            tokens.keep(np.concatenate(reading), epoch)
        for fit in due:
            fit.advance(bar)
        for fit in here:
            if fit.specs[0].epochs == epoch:
                fit.finish()


def _reads_images(specs: Sequence[HeadSpec]) -> bool:
    return any(spec.method != "text_only" for spec in specs)
