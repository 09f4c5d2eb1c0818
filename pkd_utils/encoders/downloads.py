"""Where an encoder's weights are: a local path, or fetched from the Hugging Face hub with explicit consent only."""

import os
from pathlib import Path

from pkd_utils.encoders.facts import Facts
from pkd_utils.runs.errors import DataError

RANDOM = "random"
"""Given instead of a path: seeded random weights."""

FOLDER_FILES = ["config.json", "vocab.txt", "tokenizer*.json", "*.safetensors", "pytorch_model*"]
"""What is fetched of a text encoder's folder."""


def find_weights(facts: Facts, weights: str | Path | None, allow_download: bool) -> Path | None:
    """The file or folder that holds an encoder's weights, or None for `RANDOM`; fetched from the hub only with consent.

    Where there is none, one sentence says what to get, where, and under which licence.
    """
    if not isinstance(weights, str | Path | None):
        raise DataError(f"weights = {weights!r}: give the path of a file or folder, or {RANDOM!r}.")
    if str(weights) == RANDOM:
        return None
    named = [file for file in facts.files if file != "folder"]
    wanted = named[0] if named else "the folder"
    if weights is not None and Path(weights).exists() and str(weights) != facts.hub:
        return Path(weights)
    if allow_download and (weights is None or str(weights) == facts.hub):
        if not facts.hub:
            raise DataError(f"{facts.title} is on no hub: get {wanted} from {facts.source} and give its path.")
        return _download(facts, named)
    consent = f', or give weights="{facts.hub}" and allow_download=True' if facts.hub else ""
    what = "No weights were given" if weights is None else f"{weights} does not exist"
    raise FileNotFoundError(
        f"{what}: get {wanted} of {facts.title} from {facts.source} (licence: {facts.licence}) and give its "
        f'path{consent}; weights="random" needs no file.'
    )


def _download(facts: Facts, named: list[str]) -> Path:
    import huggingface_hub

    try:
        if named:
            return Path(huggingface_hub.hf_hub_download(facts.hub, named[0], revision=facts.revision or None))
        return Path(huggingface_hub.snapshot_download(facts.hub, allow_patterns=FOLDER_FILES))
    except Exception as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise DataError(
            f"{facts.title} could not be fetched from {facts.hub}{offline}, {type(error).__name__}: get it from "
            f"{facts.source} and give its path."
        ) from error
