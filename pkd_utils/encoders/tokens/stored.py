"""What frozen encoders produced, kept once: tokens of image views and of reports, in half precision, memory-mapped.

A store is a folder. `tokens.npy` (K + 1, M, N, D) holds M images: view 0 is the clean image, views 1 ... K are random
resized crops (Bergström et al., appendix A); `cls.npy` (K + 1, M, D) where the encoder has a class token. Where K views
of all images do not fit, `LiveTokens` has the same interface and encodes on the fly, with fresh crops in every epoch.
`open_tokens` opens whichever of the two a folder holds; `token_encoding` writes them.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pkd_utils.encoders.packed_texts import EncodedTexts, read_cache
from pkd_utils.encoders.tokens.views import (
    CROPS,
    STORAGE,
    Crops,
    content_hashes,
    encode_crops,
    in_order,
    list_images,
    read_views,
)
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, read_json
from pkd_utils.runs.paths import resolve

LIVE_VIEWS = 100_000
"""Augmented views of an image that is encoded live: one for every epoch, and more than anybody trains."""


class _ImageTokens:
    """What stored and live tokens share: whose tokens they are.

    Attributes
    ----------
    image_ids : list of str, length M
    rows : int, M
    views : int
        K, the augmented views; view 0 is the clean one.
    tokens_per_image, width : int
        N and D; N counts the class token with `include_cls`.
    grid : (rows, columns) of the patches
    has_cls, include_cls : bool
        Whether there are class tokens; whether `batch` puts them before the patches.
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

    def _check(self, rows, views) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows as they are stored, and a view for each."""
        rows = _checked(rows, self.rows - 1, "Rows")
        return self._pick[rows], _checked(views, self.views, "Views").expand(rows.shape)


class TokenStore(_ImageTokens):
    """Tokens on disk, gathered by row and view; attributes beside those above: `folder`, `facts` (store.json)."""

    def __init__(self, folder: str | Path, include_cls: bool = False):
        folder = Path(folder)
        self.folder, self.facts = folder, store_facts(folder)
        super().__init__(pd.read_parquet(folder / "index.parquet")["image_id"].tolist(), self.facts["identity"])
        self.views, self.grid, self.has_cls = self.facts["views"], tuple(self.facts["grid"]), self.facts["has_cls"]
        self.dtype = STORAGE[self.facts["storage"]]
        self.include_cls = _checked_cls(include_cls, self.has_cls, self.facts["encoder"])
        self._patches = np.load(folder / "tokens.npy", mmap_mode="r")
        self._cls = np.load(folder / "cls.npy", mmap_mode="r") if self.has_cls else None
        self.tokens_per_image, self.width = self._patches.shape[2] + self.include_cls, self._patches.shape[3]

    @classmethod
    def open(cls, folder: str | Path, include_cls: bool = False) -> "TokenStore":
        """Open what `tokens.encode.encode_images` wrote."""
        return cls(folder, include_cls)

    def batch(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """Gather tokens.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat
        views : (B,) int64 or int, 0 to K
        device, dtype : of the result; the dtype as kept if None

        Returns
        -------
        (B, N, D) tensor; with `include_cls` the class token comes first
        """
        rows, views = self._check(rows, views)
        found = _gather(self._patches, rows, views, self.dtype)
        if self.include_cls:
            found = torch.cat([_gather(self._cls, rows, views, self.dtype)[:, None], found], 1)
        return found.to(device=device, dtype=dtype or self.dtype)

    def class_tokens(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, D) class tokens; DataError if the encoder has none."""
        _checked_cls(True, self.has_cls, self.facts["encoder"])
        return _gather(self._cls, *self._check(rows, views), self.dtype).to(device=device, dtype=dtype or self.dtype)


class LiveTokens(_ImageTokens):
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
    include_cls : bool
        Put the class token before the patches.
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
        include_cls: bool = False,
        clean: TokenStore | None = None,
    ):
        self._files, self.views = list_images(image_ids, paths), LIVE_VIEWS
        hashes = content_hashes(self._files, workers, progress=False)
        names = [file.image_id for file in self._files]
        live = {"encoder": encoder.identity, "images": [names, hashes], "crops": asdict(crops), "storage": storage}
        super().__init__(names, hash_params(live))
        self.encoder, self.crops, self.batch_size, self.workers = encoder, crops, batch_size, workers
        self.storage, self.dtype, self.clean = storage, STORAGE[storage], clean
        self.has_cls, self.grid, self.width = encoder.facts.class_token, encoder.grid, encoder.width
        self.include_cls = _checked_cls(include_cls, self.has_cls, encoder.facts.name)
        self.tokens_per_image = self.grid[0] * self.grid[1] + self.include_cls
        if clean is not None and (clean.image_ids != self.image_ids or clean.include_cls != include_cls):
            raise DataError(f"The clean views in {clean.folder} are of other images or another choice of class token.")

    def batch(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, N, D) tokens; see `TokenStore.batch`. View 0 is the clean image, v >= 1 the crop drawn from v."""
        rows, views = self._check(rows, views)
        if self.clean is not None and not views.any():
            return self.clean.batch(rows, 0, device, dtype)
        patches, cls, inverse = self._encode_unique(rows, views)
        return self._joined(patches, cls)[inverse].to(device=device, dtype=dtype or self.dtype)

    def class_tokens(self, rows, views=0, device="cpu", dtype: torch.dtype | None = None) -> torch.Tensor:
        """(B, D) class tokens; see `TokenStore.class_tokens`."""
        _checked_cls(True, self.has_cls, self.encoder.facts.name)
        rows, views = self._check(rows, views)
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
        rows = _checked(rows, self.rows - 1, "Rows")
        files, _ = self._check(rows, view)
        # The next pass is decoded while the encoder works.
        read = in_order(lambda row: self._read(row, [view]), files.tolist(), self.workers, self.batch_size)
        for some, numbers in zip(rows.split(self.batch_size), files.split(self.batch_size), strict=True):
            patches, cls = self._encode(torch.cat(list(itertools.islice(read, len(some)))), numbers)
            yield some, self._joined(patches, cls), cls

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

    def _joined(self, patches: torch.Tensor, cls: torch.Tensor | None) -> torch.Tensor:
        return torch.cat([cls[:, None], patches], 1) if self.include_cls else patches


def open_tokens(
    folder: str | Path, include_cls: bool = False, device="cpu", batch_size: int = 32, workers: int = 1
) -> TokenStore | LiveTokens:
    """Open what reports/02-encode left: a store, or the record of how to encode live (`live.json`).

    Parameters
    ----------
    folder : the run's folder `tokens`
    include_cls : put the class token before the patches
    device, batch_size, workers : live only: where the encoder runs, and see `LiveTokens`

    Raises
    ------
    DataError
        If the encoder's file or an image is not the one that 02-encode saw.
    """
    folder = Path(folder)
    if not (folder / "live.json").exists():
        return TokenStore.open(folder, include_cls)
    from pkd_utils.encoders import load_image_encoder

    facts, images = read_json(folder / "live.json"), pd.read_parquet(folder / "live.parquet")
    options, root = facts["encoder"], resolve(facts["image_root"])
    weights = options["weights"] if options["weights"] == "random" else resolve(options["weights"])
    clean = TokenStore.open(folder / "clean", include_cls) if (folder / "clean").exists() else None
    live = LiveTokens(
        load_image_encoder(**{**options, "weights": weights}, device=device),
        images["image_id"].tolist(),
        [root / path for path in images["path"]],
        Crops(**facts["crops"]),
        batch_size,
        workers,
        facts["storage"],
        include_cls,
        clean,
    )
    if live.identity != facts["identity"]:
        raise DataError(
            f"The weights in {weights} or the images in {root} are not those that {folder} was made with: run "
            "reports/02-encode again."
        )
    return live


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
        packed: EncodedTexts | None = read_cache(folder / "tokens.safetensors", self.facts["texts"])
        if packed is None:
            raise DataError(f"{folder / 'tokens.safetensors'} is not the file that store.json describes: encode again.")
        self.hidden, offsets = packed.hidden, torch.from_numpy(packed.offsets)
        self._first, self.lengths, self.width = offsets[:-1], offsets.diff(), packed.hidden.shape[1]

    @classmethod
    def open(cls, folder: str | Path) -> "TextStore":
        """Open what `tokens.encode.encode_texts` wrote."""
        return cls(folder)

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
        rows = _checked(rows, self.rows - 1, "Rows")
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


def _checked(numbers, last: int, what: str) -> torch.Tensor:
    numbers = torch.as_tensor(numbers, dtype=torch.int64).cpu()
    if numbers.numel() and (int(numbers.min()) < 0 or int(numbers.max()) > last):
        raise DataError(f"{what} must be 0 to {last}, not {int(numbers.min())} to {int(numbers.max())}.")
    return numbers


def _checked_cls(wanted: bool, has_cls: bool, name: str) -> bool:
    if wanted and not has_cls:
        raise DataError(f"The encoder {name} has no class token: leave include_cls off, or choose a transformer.")
    return wanted


def _gather(tokens: np.ndarray, rows: torch.Tensor, views: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """tokens[views, rows] as a tensor; NumPy copies whole images faster than torch's indexing does."""
    return torch.from_numpy(tokens[views.numpy(), rows.numpy()]).view(dtype)
