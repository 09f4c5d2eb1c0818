"""Tokens of frozen encoders without a store: computed while heads train, with fresh crops in every epoch."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from pkd_utils.encoders.tokens.stored import ImageTokens, TokenStore, checked
from pkd_utils.encoders.tokens.views import (
    CROPS,
    Crops,
    content_hashes,
    encode_crops,
    in_order,
    list_images,
    read_views,
    storage_dtype,
)
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params

LIVE_VIEWS = 100_000
"""Augmented views of an image that is encoded live: one for every epoch, and more than anybody trains."""


class LiveTokens(ImageTokens):
    """The interface of `TokenStore` without a store: every batch is decoded, cropped and encoded when asked for.

    Any of `LIVE_VIEWS` view numbers is a crop of its own, drawn from (seed, image, view), so a new view an epoch is the
    paper's fresh crop. Nothing is kept here: `fit_heads` sees that this is `live`, and asks once an epoch
    for the rows of all heads in training (`passes`). A (row, view) that repeats within a batch is encoded once. Values
    are rounded to `storage`: they are those that a store would hold.

    Parameters
    ----------
    encoder : encoders.image.ImageEncoder
    image_ids, paths : sequences of length M
    crops : Crops
    batch_size : int
        Views in one pass of the encoder.
    workers : int
        Threads that decode ahead; 0: none.
    storage : {"float16", "bfloat16", "float32"}
    clean : TokenStore, optional
        Where view 0 of the same images is kept: evaluation then costs no encoding.
    """

    live = True

    def __init__(
        self,
        encoder,
        image_ids: Sequence[str],
        paths: Sequence[str | Path],
        crops: Crops = CROPS,
        batch_size: int = 32,
        workers: int = 1,
        storage: str = "float16",
        clean: TokenStore | None = None,
    ):
        self._files, self.views = list_images(image_ids, paths), LIVE_VIEWS
        hashes = content_hashes(self._files, workers, progress=False)
        names = [file.image_id for file in self._files]
        live = {"encoder": encoder.identity, "images": [names, hashes], "crops": asdict(crops), "storage": storage}
        super().__init__(names, hash_params(live))
        self.encoder, self.crops, self.batch_size, self.workers = encoder, crops, batch_size, workers
        self.storage, self.dtype, self.clean = storage, storage_dtype(storage), clean
        self.has_cls, self.grid, self.width = encoder.facts.class_token, encoder.grid, encoder.width
        self.tokens_per_image = self.grid[0] * self.grid[1]
        if clean is not None and clean.image_ids != self.image_ids:
            raise DataError(f"The clean views in {clean.folder} are of other images.")

    def batch(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, N, D) tokens; see `TokenStore.batch`. View 0 is the clean image, v >= 1 the crop drawn from v."""
        rows, views = self.stored(rows, views)
        if self.clean is not None and not views.any():
            return self.clean.batch(rows, 0, device, dtype)
        patches, _, inverse = self._encode_unique(rows, views)
        return patches[inverse].to(device=device, dtype=dtype or self.dtype)

    def class_tokens(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, D) class tokens; see `TokenStore.class_tokens`."""
        self.check_cls(self.encoder.facts.name)
        rows, views = self.stored(rows, views)
        if self.clean is not None and not views.any():
            return self.clean.class_tokens(rows, 0, device, dtype)
        _, cls, inverse = self._encode_unique(rows, views)
        return cls[inverse].to(device=device, dtype=dtype or self.dtype)

    def passes(self, rows, view: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """One view of these rows, in their order, a pass of the encoder at a time.

        Yields
        ------
        rows : (B,) int64
        tokens : (B, N, D), as `batch` gives them
        class_tokens : (B, D), or None if the encoder has none
        """
        rows = checked(rows, self.rows - 1, "Rows")
        files, _ = self.stored(rows, view)
        # The next pass is decoded while the encoder works.
        read = in_order(lambda row: self._read(row, [view]), files.tolist(), self.workers, self.batch_size)
        for some, numbers in zip(rows.split(self.batch_size), files.split(self.batch_size), strict=True):
            patches, cls = self._encode(torch.cat(list(itertools.islice(read, len(some)))), numbers)
            yield some, patches, cls

    def _encode_unique(self, rows, views) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        pairs, inverse = torch.unique(torch.stack([rows, views], 1), dim=0, return_inverse=True)
        wanted: dict[int, list[int]] = {}  # one decode an image, however many of its views are wanted
        for row, view in pairs.tolist():
            wanted.setdefault(row, []).append(view)
        read = in_order(lambda row: self._read(row, wanted[row]), wanted, self.workers)
        return *self._encode(torch.cat(list(read)), pairs[:, 0]), inverse

    def _read(self, row: int, views: list[int]) -> torch.Tensor:
        return read_views(self._files[row], views, self.encoder, self.crops)

    def _encode(self, inputs: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        names = [self._files[row].image_id for row in rows.tolist()]
        return encode_crops(self.encoder, inputs, self.batch_size, self.storage, names)
