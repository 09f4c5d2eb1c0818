"""Tokens of frozen encoders without a store: computed while heads train, with fresh crops in every epoch.

reports/02-encode leaves a store, or the record of how to encode live; `open_tokens` opens whichever of the two.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pkd_utils.encoders.tokens.stored import ImageTokens, TokenStore, checked
from pkd_utils.encoders.tokens.views import CROPS, Crops, Pipeline, list_images
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, read_json, write, write_json
from pkd_utils.runs.paths import resolve

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
    encoder, crops, batch_size, workers, storage : see `views.Pipeline`
    image_ids, paths : sequences of length M
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
        files = list_images(image_ids, paths)
        self.pipeline, self.clean = Pipeline(encoder, files, crops, batch_size, workers, storage), clean
        names, hashes = [file.image_id for file in files], list(self.pipeline.hashes())
        live = {"encoder": encoder.identity, "images": [names, hashes], "crops": asdict(crops), "storage": storage}
        facts = {"encoder": encoder.facts.name, "grid": encoder.grid, "width": encoder.width, "views": LIVE_VIEWS}
        facts |= {"has_cls": encoder.facts.class_token, "storage": storage, "identity": hash_params(live)}
        super().__init__(names, facts)
        if clean is not None and clean.image_ids != self.image_ids:
            raise DataError(f"The clean views in {clean.folder} are of other images.")

    def gather(self, kind: int, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Patches (kind 0) or class tokens (1); view 0 is the clean image, v >= 1 the crop drawn from v."""
        if self.clean is not None and not views.any():
            return self.clean.gather(kind, rows, views)
        pairs, inverse = torch.unique(torch.stack([rows, views], 1), dim=0, return_inverse=True)
        wanted: dict[int, list[int]] = {}  # one decode an image, however many of its views are wanted
        for row, view in pairs.tolist():
            wanted.setdefault(row, []).append(view)
        return next(self.pipeline.run([list(wanted.items())]))[kind][inverse]

    def passes(self, rows, view: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """One view of these rows, in their order, a pass of the encoder at a time; the next is decoded meanwhile.

        Yields
        ------
        rows : (B,) int64
        tokens : (B, N, D), as `batch` gives them
        class_tokens : (B, D), or None if the encoder has none
        """
        rows = checked(rows, self.rows - 1, "Rows")
        some = self.stored(rows, view)[0].split(self.pipeline.batch_size)
        made = self.pipeline.run([[(row, [view]) for row in part.tolist()] for part in some])
        for part, tokens in zip(rows.split(self.pipeline.batch_size), made, strict=True):
            yield part, tokens[0], tokens[1] if self.has_cls else None


def record_live(
    target: str | Path, live: LiveTokens, options: dict[str, Any], image_root: str, paths: Sequence[str]
) -> None:
    """Write how to encode live, for `open_tokens`, into a folder that may hold the clean views as `clean`.

    Parameters
    ----------
    options : arguments of `load_image_encoder` that gave the encoder, without device
    image_root, paths : folder, and M paths relative to it; it and `options["weights"]` as `paths.resolve` reads them
    """
    target, line = Path(target), live.pipeline
    table = pd.DataFrame({"image_id": live.image_ids, "path": [str(path) for path in paths]})
    write(target / "live.parquet", table)
    facts = {"encoder": options, "identity": live.identity, "crops": asdict(line.crops), "storage": line.storage}
    facts |= {"batch_size": line.batch_size, "workers": line.workers}  # of the machine, and no part of the identity
    write_json(target / "live.json", {**facts, "image_root": str(image_root)})


def open_tokens(folder: str | Path, device="cpu") -> TokenStore | LiveTokens:
    """Open what reports/02-encode left in its folder `tokens`: a store, or the record of how to encode live.

    `device` is where the encoder runs, if live. An encoder's file or an image that is not the one that 02-encode saw is
    refused.
    """
    folder = Path(folder)
    if not (folder / "live.json").exists():
        return TokenStore(folder)
    from pkd_utils.encoders import load_image_encoder

    facts, images = read_json(folder / "live.json"), pd.read_parquet(folder / "live.parquet")
    options, root = facts["encoder"], resolve(facts["image_root"])
    weights = options["weights"] if options["weights"] == "random" else resolve(options["weights"])
    live = LiveTokens(
        load_image_encoder(**{**options, "weights": weights}, device=device),
        images["image_id"].tolist(),
        [root / path for path in images["path"]],
        Crops(**facts["crops"]),
        facts["batch_size"],
        facts["workers"],
        facts["storage"],
        clean=TokenStore(folder / "clean") if (folder / "clean").exists() else None,
    )
    if live.identity != facts["identity"]:
        raise DataError(
            f"The weights in {weights} or the images in {root} are not those that {folder} was made with: run "
            "reports/02-encode again."
        )
    return live
