"""What frozen encoders produced, kept once: tokens of image views and of reports, in half precision, memory-mapped.

A store is a folder. `encode_images` writes `tokens.npy` (views + 1, M, N, D), `cls.npy` (views + 1, M, D) where the
encoder has a class token, `index.parquet` (image_id, sha256) and `store.json`. View 0 is the clean image; views 1 ... K
are random resized crops (Bergström et al., appendix A). Where K views of all images do not fit, `LiveTokens` has the
same interface and encodes on the fly: fresh crops every epoch, and one pass feeds every head that asks for the batch.
`open_tokens` opens whichever of the two a folder holds; `token_encoding` writes them.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pkd_utils import runs
from pkd_utils._token_views import CROPS, STORAGE, Crops, encode_crops, in_order, list_images, read_views
from pkd_utils.errors import DataError
from pkd_utils.paths import resolve


class _ImageTokens:
    """What stored and live tokens share: whose tokens they are, and which view an epoch sees."""

    image_ids: list[str]
    views: int | None

    @property
    def rows(self) -> int:
        """Number of images, M."""
        return len(self.image_ids)

    def row_of(self, image_ids: Sequence[str]) -> torch.Tensor:
        """(B,) int64 rows of these images; DataError names one that is not here."""
        return _rows_of(image_ids, self._row_by_id, "images")

    @functools.cached_property
    def _row_by_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.image_ids)}

    def epoch_views(self, epoch: int, seed: int = 0) -> torch.Tensor:
        """(M,) int64: the view of every image in one training epoch, drawn from (seed, epoch) alone.

        Stored: one of the K augmented views each, at random (0, the clean view, if K is 0). Live: the fresh crop number
        `epoch + 1` for all images and whatever seed, so that heads with different seeds share the encoder's pass.
        """
        if self.views is None:
            return torch.full((self.rows,), epoch + 1, dtype=torch.int64)
        if self.views == 0:
            return torch.zeros(self.rows, dtype=torch.int64)
        drawn = np.random.default_rng([seed, epoch]).integers(1, self.views + 1, self.rows)
        return torch.from_numpy(drawn)

    def _check(self, rows: torch.Tensor, views: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = _checked_rows(rows, self.rows)
        views = torch.as_tensor(views, dtype=torch.int64).cpu().expand(rows.shape)
        last = self.views if self.views is not None else torch.iinfo(torch.int64).max
        if len(rows) and (int(views.min()) < 0 or int(views.max()) > last):
            raise DataError(f"Views must be 0 to {last}, not {int(views.min())} to {int(views.max())}.")
        return rows, views


class TokenStore(_ImageTokens):
    """Tokens on disk, gathered by row and view.

    Attributes
    ----------
    image_ids : list of str, length M
    views : int
        K, the augmented views; view 0 is the clean one.
    tokens_per_image, width : int
        N and D; N counts the class token with `include_cls`.
    grid : (rows, columns) of the patches
    has_cls : bool
    dtype : torch.dtype, as kept
    facts : dict, store.json
    """

    def __init__(self, folder: str | Path, include_cls: bool = False):
        folder = Path(folder)
        if not (folder / "store.json").exists():
            raise FileNotFoundError(f"{folder} holds no tokens (store.json is missing): run reports/02-encode first.")
        self.folder = folder
        self.facts = runs.read_json(folder / "store.json")
        self.image_ids = pd.read_parquet(folder / "index.parquet")["image_id"].tolist()
        self.views, self.grid, self.has_cls = self.facts["views"], tuple(self.facts["grid"]), self.facts["has_cls"]
        self.identity, self.dtype = self.facts["identity"], STORAGE[self.facts["storage"]]
        self.include_cls = _checked_cls(include_cls, self.has_cls, self.facts["encoder"])
        self._patches = _mapped(folder / "tokens.npy", self.dtype)
        self._cls = _mapped(folder / "cls.npy", self.dtype) if self.has_cls else None
        self.tokens_per_image, self.width = self._patches.shape[2] + self.include_cls, self._patches.shape[3]

    @classmethod
    def open(cls, folder: str | Path, include_cls: bool = False) -> "TokenStore":
        """Open what `encode_images` wrote; `include_cls` puts the class token before the patches."""
        return cls(folder, include_cls)

    def batch(self, rows, views=0, dtype: torch.dtype | None = None, device="cpu") -> torch.Tensor:
        """Gather tokens.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat
        views : (B,) int64 or int, 0 to K
        dtype : torch.dtype, as kept if None
        device : where to

        Returns
        -------
        (B, N, D) tensor; the class token comes first if the store was opened with `include_cls`
        """
        rows, views = self._check(rows, views)
        found = _gather(self._patches, rows, views)
        if self.include_cls:
            found = torch.cat([_gather(self._cls, rows, views)[:, None], found], 1)
        return found.to(device=device, dtype=dtype or self.dtype)

    def cls(self, rows, views=0, dtype: torch.dtype | None = None, device="cpu") -> torch.Tensor:
        """(B, D) class tokens; DataError if the encoder has none."""
        _checked_cls(True, self.has_cls, self.facts["encoder"])
        found = _gather(self._cls, *self._check(rows, views))
        return found.to(device=device, dtype=dtype or self.dtype)


class LiveTokens(_ImageTokens):
    """The interface of `TokenStore` without a store: every batch is decoded, cropped and encoded when asked for.

    `views` is None: any view number is a crop of its own. Nothing is kept, so heads that train together must ask once
    for the union of their rows (`for rows, tokens in live.epoch(...)`); a (row, view) that repeats within a batch is
    encoded once. Values are rounded to `storage`, so that they are those a store would hold.

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
        What values are rounded to.
    include_cls : bool
        Put the class token before the patches.
    clean : TokenStore, optional
        Where view 0 of the same images is kept: evaluation after every epoch then costs no encoding.
    """

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
        self._files = list_images(image_ids, paths)
        self.image_ids, self.views = [file.image_id for file in self._files], None
        self.encoder, self.crops, self.batch_size, self.workers = encoder, crops, batch_size, workers
        self.storage, self.dtype, self.clean = storage, STORAGE[storage], clean
        self.has_cls, self.grid, self.width = encoder.facts.class_token, encoder.grid, encoder.width
        self.include_cls = _checked_cls(include_cls, self.has_cls, encoder.facts.name)
        self.tokens_per_image = self.grid[0] * self.grid[1] + self.include_cls
        if clean is not None and (clean.image_ids != self.image_ids or clean.include_cls != include_cls):
            raise DataError(f"The clean views in {clean.folder} are of other images or another choice of class token.")

    def batch(self, rows, views=0, dtype: torch.dtype | None = None, device="cpu") -> torch.Tensor:
        """(B, N, D) tokens; see `TokenStore.batch`. View 0 is the clean image, v >= 1 the crop drawn from v."""
        rows, views = self._check(rows, views)
        if self.clean is not None and not views.any():
            return self.clean.batch(rows, 0, dtype, device)
        patches, cls, inverse = self._encode_unique(rows, views)
        return self._joined(patches, cls)[inverse].to(device=device, dtype=dtype or self.dtype)

    def cls(self, rows, views=0, dtype: torch.dtype | None = None, device="cpu") -> torch.Tensor:
        """(B, D) class tokens; see `TokenStore.cls`."""
        _checked_cls(True, self.has_cls, self.encoder.facts.name)
        rows, views = self._check(rows, views)
        if self.clean is not None and not views.any():
            return self.clean.cls(rows, 0, dtype, device)
        _, cls, inverse = self._encode_unique(rows, views)
        return cls[inverse].to(device=device, dtype=dtype or self.dtype)

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
        names = [self.image_ids[row] for row in rows.tolist()]
        return encode_crops(self.encoder, inputs, self.batch_size, self.storage, names)

    def _joined(self, patches: torch.Tensor, cls: torch.Tensor | None) -> torch.Tensor:
        return torch.cat([cls[:, None], patches], 1) if self.include_cls else patches

    def epoch(
        self,
        rows: torch.Tensor,
        epoch: int,
        batch_size: int = 64,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        device="cpu",
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Fresh crops of these rows in an order drawn from (seed, epoch): one encoder pass an image and epoch.

        Yields
        ------
        rows : (B,) int64
        tokens : (B, N, D); every head whose training subset holds some of `rows` learns from those
        """
        rows = torch.unique(self._check(rows, epoch + 1)[0])
        order = rows[torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(len(rows)))]
        # Decoded a minibatch ahead: while heads learn from one, the next is read.
        read = in_order(lambda row: self._read(row, [epoch + 1]), order.tolist(), self.workers, batch_size)
        for some in order.split(batch_size):
            patches, cls = self._encode(torch.cat(list(itertools.islice(read, len(some)))), some)
            yield some, self._joined(patches, cls).to(device=device, dtype=dtype or self.dtype)


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
        If the encoder's file is not the one that 02-encode saw.
    """
    folder = Path(folder)
    if not (folder / "live.json").exists():
        return TokenStore.open(folder, include_cls)
    from pkd_utils.encoders import load_image_encoder

    facts, images = runs.read_json(folder / "live.json"), pd.read_parquet(folder / "live.parquet")
    options = facts["encoder"]
    weights = options["weights"] if options["weights"] == "random" else resolve(options["weights"])
    encoder = load_image_encoder(**{**options, "weights": weights}, device=device)
    if encoder.identity != facts["identity"]:
        raise DataError(f"The weights in {weights} are not those that {folder} was made with: run 02-encode again.")
    root, crops = resolve(facts["image_root"]), Crops(**facts["crops"])
    clean = TokenStore.open(folder / "clean", include_cls) if (folder / "clean").exists() else None
    return LiveTokens(
        encoder, images["image_id"].tolist(), [root / path for path in images["path"]], crops, batch_size, workers,
        facts["storage"], include_cls, clean,
    )  # fmt: skip


class TextStore:
    """Tokens of reports on disk, packed one report after the other.

    Attributes
    ----------
    ids : list of str, length M
    width : int, D
    offsets : (M + 1,) int64; report i is rows `offsets[i]:offsets[i + 1]` of the packed tokens
    dtype : torch.dtype, as kept
    facts : dict, store.json
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / "store.json").exists():
            raise FileNotFoundError(f"{folder} holds no tokens (store.json is missing): run reports/02-encode first.")
        self.folder, self.facts = folder, runs.read_json(folder / "store.json")
        self.ids = pd.read_parquet(folder / "index.parquet")["id"].tolist()
        self.identity, self.dtype = self.facts["identity"], STORAGE[self.facts["storage"]]
        self.offsets = torch.from_numpy(np.load(folder / "offsets.npy"))
        self._tokens = _mapped(folder / "tokens.npy", self.dtype)
        self.width = self._tokens.shape[1]
        self._row_by_id = {name: row for row, name in enumerate(self.ids)}

    @classmethod
    def open(cls, folder: str | Path) -> "TextStore":
        """Open what `token_encoding.encode_texts` wrote."""
        return cls(folder)

    @property
    def rows(self) -> int:
        """Number of reports, M."""
        return len(self.ids)

    @property
    def lengths(self) -> torch.Tensor:
        """(M,) int64 tokens a report."""
        return self.offsets.diff()

    def row_of(self, ids: Sequence[str]) -> torch.Tensor:
        """(B,) int64 rows of these reports; DataError names one that is not here."""
        return _rows_of(ids, self._row_by_id, "reports")

    def batch(self, rows, dtype: torch.dtype | None = None, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Gather reports, padded with zeros to the longest of them.

        Parameters
        ----------
        rows : (B,) int64, rows may repeat

        Returns
        -------
        tokens : (B, L, D), dtype as kept if None
        mask : (B, L) bool, True for tokens
        """
        rows = _checked_rows(rows, self.rows)
        first, lengths = self.offsets[rows], self.lengths[rows]
        place = torch.arange(int(lengths.max()) if len(rows) else 0)
        mask = place < lengths[:, None]
        # Padding reads the report's first token, then becomes zero: one gather, no loop.
        found = self._tokens[torch.where(mask, first[:, None] + place, first[:, None])]
        found = found.masked_fill(~mask[:, :, None], 0)
        return found.to(device=device, dtype=dtype or self.dtype), mask.to(device)


def _rows_of(names: Sequence[str], known: dict[str, int], what: str) -> torch.Tensor:
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(f"{len(missing)} {what} have no tokens here, first {missing[0]!r}: encode them too.")
    return torch.tensor([known[name] for name in names], dtype=torch.int64)


def _checked_rows(rows, count: int) -> torch.Tensor:
    rows = torch.as_tensor(rows, dtype=torch.int64).cpu()
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= count):
        raise DataError(f"Rows must be 0 to {count - 1}, not {int(rows.min())} to {int(rows.max())}.")
    return rows


def _checked_cls(wanted: bool, has_cls: bool, name: str) -> bool:
    if wanted and not has_cls:
        raise DataError(f"The encoder {name} has no class token: leave include_cls off, or choose a transformer.")
    return wanted


def _mapped(path: Path, dtype: torch.dtype) -> torch.Tensor:
    """A memory-mapped tensor; "c", because torch wants memory that may be written, which never reaches the file."""
    return torch.from_numpy(np.load(path, mmap_mode="c")).view(dtype)


def _gather(tokens: torch.Tensor, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """tokens[views, rows] by one parallel copy of whole images."""
    return tokens.flatten(0, 1).index_select(0, views * tokens.shape[1] + rows)
