"""What frozen encoders produced, kept once: tokens of image views and of reports, in half precision, memory-mapped.

A store is a folder. `tokens.npy` (K + 1, M, N, D) holds M images: view 0 is the clean image, views 1 ... K are random
resized crops (Bergström et al., appendix A); `cls.npy` (K + 1, M, D) where the encoder has a class token. Where K views
of all images do not fit, `live.LiveTokens` has the same interface and encodes on the fly, with fresh crops in every
epoch. `encode` writes stores, `open.open_tokens` opens whichever of the two a folder holds.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pkd_utils.encoders.texts import read_cache
from pkd_utils.encoders.tokens.views import STORAGE
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, read_json


class ImageTokens:
    """What stored and live tokens share: whose tokens they are.

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
    """

    def __init__(self, image_ids: list[str], identity: str):
        self.image_ids, self.identity = image_ids, identity
        self._pick = torch.arange(len(image_ids))

    @property
    def rows(self) -> int:
        return len(self.image_ids)

    def row_of(self, image_ids: Sequence[str]) -> torch.Tensor:
        """(B,) int64 rows of these images; DataError names one that is not here."""
        return _rows_of(image_ids, self.image_ids, "images")

    def subset(self, image_ids: Sequence[str]):
        """The same tokens with row i for image `image_ids[i]`; nothing is copied."""
        part = copy.copy(self)
        part._pick, part.image_ids = self._pick[self.row_of(image_ids)], list(image_ids)
        part.identity = hash_params([self.identity, part.image_ids])
        return part

    def stored(self, rows, views) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows as they are stored, and a view for each, both (B,) int64."""
        rows = checked(rows, self.rows - 1, "Rows")
        return self._pick[rows], checked(views, self.views, "Views").expand(rows.shape)

    def check_cls(self, encoder: str) -> None:
        """Refuse to give class tokens of an encoder that has none."""
        if not self.has_cls:
            raise DataError(f"The encoder {encoder} has no class token: choose a transformer, or another head.")


class TokenStore(ImageTokens):
    """Tokens on disk, gathered by row and view; attributes beside those above: `folder`, `facts` (store.json)."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.folder, self.facts = folder, store_facts(folder)
        super().__init__(pd.read_parquet(folder / "index.parquet")["image_id"].tolist(), self.facts["identity"])
        self.views, self.grid, self.has_cls = self.facts["views"], tuple(self.facts["grid"]), self.facts["has_cls"]
        self.dtype = STORAGE[self.facts["storage"]]
        self._patches = np.load(folder / "tokens.npy", mmap_mode="r")
        self._cls = np.load(folder / "cls.npy", mmap_mode="r") if self.has_cls else None
        self.tokens_per_image, self.width = self._patches.shape[2:]

    def batch(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """Gather tokens.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat
        views : (B,) int64 or int, 0 to K
        device, dtype : of the result; the dtype as kept if None

        Returns
        -------
        (B, N, D) tensor
        """
        found = _gather(self._patches, *self.stored(rows, views), self.dtype)
        return found.to(device=device, dtype=dtype or self.dtype)

    def class_tokens(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, D) class tokens; DataError if the encoder has none."""
        self.check_cls(self.facts["encoder"])
        return _gather(self._cls, *self.stored(rows, views), self.dtype).to(device=device, dtype=dtype or self.dtype)


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

    def batch(self, rows, device="cpu", dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather reports, padded with zeros to the longest of them.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat

        Returns
        -------
        tokens : (B, L, D)
        mask : (B, L) bool, True for tokens
        """
        rows = checked(rows, self.rows - 1, "Rows")
        first, lengths = self._first[rows][:, None], self.lengths[rows][:, None]
        place = torch.arange(int(lengths.max()) if len(rows) else 0)
        mask = place < lengths
        # Padding reads the report's first token, then becomes zero: one gather, no loop.
        found = self.hidden[torch.where(mask, first + place, first)].masked_fill(~mask[:, :, None], 0)
        return found.to(device=device, dtype=dtype), mask.to(device)


def store_facts(folder: Path) -> dict:
    """What `store.json` says of a store; FileNotFoundError if there is none."""
    if not (folder / "store.json").exists():
        raise FileNotFoundError(f"{folder} holds no tokens (store.json is missing): run reports/02-encode first.")
    return read_json(folder / "store.json")


def _rows_of(names: Sequence[str], known: list[str], what: str) -> torch.Tensor:
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


def _gather(tokens: np.ndarray, rows: torch.Tensor, views: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """tokens[views, rows] as a tensor; NumPy copies whole images faster than torch's indexing does."""
    return torch.from_numpy(tokens[views.numpy(), rows.numpy()]).view(dtype)
