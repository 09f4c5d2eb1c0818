"""What frozen encoders produced, kept once: tokens of image views and of reports, in half precision, memory-mapped.

A store is a folder. `tokens.npy` (K + 1, M, N, D) holds M images: view 0 is the clean image, views 1 ... K are random
resized crops (Bergström et al., appendix A); `cls.npy` (K + 1, M, D) where the encoder has a class token. For crops
that are fresh in every epoch `live.LiveTokens` has the same interface and encodes on the fly. `encode` writes stores,
`live.open_tokens` opens whichever of the two a folder holds.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pkd_utils.encoders.texts import pad, read_cache
from pkd_utils.encoders.tokens.views import storage_dtype
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, read_json


class ImageTokens:
    """What stored and live tokens share: whose tokens they are, and how they are asked for.

    Attributes
    ----------
    image_ids : list of str, length M
    rows : int, M
    views : int
        K, the augmented views; view 0 is the clean one.
    tokens_per_image, width : int
        N and D.
    grid : (rows, columns) of the patches
    has_cls : bool
        Whether there are class tokens.
    dtype : torch.dtype, as kept
    identity : str
        Hash of the encoder with its weights, the images by content, and the crops.
    facts : dict
        All of it, as `store.json` has it.
    """

    def __init__(self, image_ids: list[str], facts: dict[str, Any]):
        self.image_ids, self.facts, self.identity = image_ids, facts, facts["identity"]
        self.views, self.width, self.has_cls = facts["views"], facts["width"], facts["has_cls"]
        self.grid, self.dtype = tuple(facts["grid"]), storage_dtype(facts["storage"])
        self.tokens_per_image = self.grid[0] * self.grid[1]
        self._pick = torch.arange(len(image_ids))

    @property
    def rows(self) -> int:
        return len(self.image_ids)

    def subset(self, image_ids: Sequence[str]):
        """The same tokens with row i for image `image_ids[i]`; nothing is copied."""
        part = copy.copy(self)
        part._pick, part.image_ids = self._pick[_rows_of(image_ids, self.image_ids, "images")], list(image_ids)
        part.identity = hash_params([self.identity, part.image_ids])
        return part

    def stored(self, rows, views) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows as they are stored, and a view for each, both (B,) int64."""
        rows = checked(rows, self.rows - 1, "Rows")
        return self._pick[rows], checked(views, self.views, "Views").expand(rows.shape)

    def batch(self, rows, views=0, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Gather tokens (B, N, D), on the CPU.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat
        views : (B,) int64 or int, 0 to K
        dtype : as kept if None
        """
        return self.gather(0, *self.stored(rows, views)).to(dtype or self.dtype)

    def class_tokens(self, rows, views=0) -> torch.Tensor:
        """(B, D) class tokens, asked for as in `batch`; DataError if the encoder has none."""
        if not self.has_cls:
            encoder = self.facts["encoder"]
            raise DataError(f"The encoder {encoder} has no class token: choose a transformer, or another head.")
        return self.gather(1, *self.stored(rows, views))


class TokenStore(ImageTokens):
    """Tokens on disk, in `folder`, gathered by row and view."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        facts = store_facts(self.folder)
        super().__init__(pd.read_parquet(self.folder / "index.parquet")["image_id"].tolist(), facts)
        files = ("tokens.npy", "cls.npy") if self.has_cls else ("tokens.npy",)
        self._arrays = [np.load(self.folder / file, mmap_mode="r") for file in files]

    def gather(self, kind: int, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Patches (kind 0) or class tokens (1) of stored rows; NumPy copies whole images faster than torch does."""
        return torch.from_numpy(self._arrays[kind][views.numpy(), rows.numpy()]).view(self.dtype)


class TextStore:
    """Tokens of reports on disk, packed one report after the other.

    Attributes
    ----------
    ids : list of str, length M
    width : int, D
    lengths : (M,) int64 tokens a report
    hidden : (total, D) tensor, the packed tokens as kept
    identity : str
        Hash of the encoder with its weights, the texts and their order.
    folder, facts : Path, dict (store.json)
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.folder, self.facts = folder, store_facts(folder)
        self.ids, self.identity = pd.read_parquet(folder / "index.parquet")["id"].tolist(), self.facts["identity"]
        packed = read_cache(folder / "tokens.safetensors", self.facts["texts"])
        if packed is None:
            raise DataError(f"{folder / 'tokens.safetensors'} is not the file that store.json describes: encode again.")
        self.hidden, offsets = packed.hidden, torch.from_numpy(packed.offsets)
        self._first, self.lengths, self.width = offsets[:-1], offsets.diff(), packed.hidden.shape[1]

    @property
    def rows(self) -> int:
        """Number of reports, M."""
        return len(self.ids)

    def subset(self, ids: Sequence[str]) -> "TextStore":
        """The same tokens with row i for report `ids[i]`, which may repeat: several images may share a report."""
        part, rows = copy.copy(self), _rows_of(ids, self.ids, "reports")
        part.ids, part._first, part.lengths = list(ids), self._first[rows], self.lengths[rows]
        part.identity = hash_params([self.identity, part.ids])
        return part

    def batch(self, rows, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Gather reports, padded with zeros to the longest of them.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat

        Returns
        -------
        tokens : (B, L, D) float32
        mask : (B, L) bool, True for tokens
        """
        rows = checked(rows, self.rows - 1, "Rows")
        found, mask = pad(self.hidden, self._first[rows], self.lengths[rows])
        return found.to(device, torch.float32), mask.to(device)


def store_facts(folder: Path) -> dict:
    """What `store.json` says of a store; FileNotFoundError if there is none."""
    if not (folder / "store.json").exists():
        raise FileNotFoundError(f"{folder} holds no tokens (store.json is missing): run reports/02-encode first.")
    return read_json(folder / "store.json")


def _rows_of(names: Sequence[str], known: list[str], what: str) -> torch.Tensor:
    """(B,) int64 rows of these names; DataError names one that is not there."""
    rows = {name: row for row, name in enumerate(known)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(f"{len(missing)} {what} have no tokens here, first {missing[0]!r}: encode them too.")
    return torch.tensor([rows[name] for name in names], dtype=torch.int64)


def checked(numbers, last: int, what: str) -> torch.Tensor:
    """Numbers as an int64 tensor; DataError if one is not in 0 to `last`."""
    numbers = torch.as_tensor(numbers, dtype=torch.int64).cpu()
    if numbers.numel() and (int(numbers.min()) < 0 or int(numbers.max()) > last):
        raise DataError(f"{what} must be 0 to {last}, not {int(numbers.min())} to {int(numbers.max())}.")
    return numbers
