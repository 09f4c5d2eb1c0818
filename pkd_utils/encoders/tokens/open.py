"""Open what reports/02-encode left: a store of tokens, or the record of how to encode live."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.encoders.tokens.live import LiveTokens
from pkd_utils.encoders.tokens.stored import TokenStore
from pkd_utils.encoders.tokens.views import Crops
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import read_json, write_json, write_parquet
from pkd_utils.runs.paths import resolve


def record_live(
    target: str | Path, live: LiveTokens, options: dict[str, Any], image_root: str, paths: Sequence[str]
) -> None:
    """Write how to encode live, for `open_tokens`, into a folder that may hold the clean views as `clean`.

    Parameters
    ----------
    target : folder
    live : LiveTokens
    options : dict
        Arguments of `load_image_encoder` that gave `live.encoder`, without device; `weights` as `paths.resolve` reads
        it.
    image_root, paths : folder as `paths.resolve` reads it, and M paths relative to it
    """
    target = Path(target)
    table = pd.DataFrame({"image_id": live.image_ids, "path": [str(path) for path in paths]})
    write_parquet(target / "live.parquet", table)
    facts = {"encoder": options, "identity": live.identity, "crops": asdict(live.crops), "storage": live.storage}
    write_json(target / "live.json", {**facts, "image_root": str(image_root)})


def open_tokens(folder: str | Path, device="cpu") -> TokenStore | LiveTokens:
    """Open what reports/02-encode left: a store, or the record of how to encode live (`live.json`).

    Parameters
    ----------
    folder : the run's folder `tokens`
    device : live only: where the encoder runs

    Raises
    ------
    DataError
        If the encoder's file or an image is not the one that 02-encode saw.
    """
    folder = Path(folder)
    if not (folder / "live.json").exists():
        return TokenStore(folder)
    from pkd_utils.encoders import load_image_encoder

    facts, images = read_json(folder / "live.json"), pd.read_parquet(folder / "live.parquet")
    options, root = facts["encoder"], resolve(facts["image_root"])
    weights = options["weights"] if options["weights"] == "random" else resolve(options["weights"])
    clean = TokenStore(folder / "clean") if (folder / "clean").exists() else None
    live = LiveTokens(
        load_image_encoder(**{**options, "weights": weights}, device=device),
        images["image_id"].tolist(),
        [root / path for path in images["path"]],
        Crops(**facts["crops"]),
        storage=facts["storage"],
        clean=clean,
    )
    if live.identity != facts["identity"]:
        raise DataError(
            f"The weights in {weights} or the images in {root} are not those that {folder} was made with: run "
            "reports/02-encode again."
        )
    return live
