"""Reports as tokens and, where an encoder's lower blocks are frozen, as the states those blocks produce, kept once.

The frozen blocks see every report one single time, in evaluation mode; all epochs and all seeds of a text teacher read
the kept states. Tokens are packed without padding, and batches of similar length waste little of it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
from transformers.utils import logging as transformers_logging

from pkd_utils import runs
from pkd_utils.errors import DataError

transformers_logging.disable_progress_bar()  # loading takes less than a second and is no news

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Architectures whose blocks need nothing but states and a mask."""


@dataclass
class EncodedTexts:
    """Reports as tokens, packed one after the other, with what the frozen blocks made of them.

    Attributes
    ----------
    tokens : torch.Tensor
        (total,) int32 token numbers.
    offsets : np.ndarray
        (N + 1,) int64; report i is `tokens[offsets[i]:offsets[i + 1]]`.
    hidden : torch.Tensor or None
        (total, D) float16 or float32 states below the trainable blocks; None if the embeddings are trained too.
    truncated, empty : int
        Reports cut at `max_tokens`; reports of no words (only the encoder's special tokens are left).
    identity : str
        SHA-256 over the encoder's files, the texts and the settings that shape `hidden`.
    """

    tokens: torch.Tensor
    offsets: np.ndarray
    hidden: torch.Tensor | None
    truncated: int
    empty: int
    identity: str

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens a report."""
        return np.diff(self.offsets)

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad some reports to the longest: (B, L) int64 tokens or (B, L, D) float32 states, and a (B, L) bool mask."""
        source = self.tokens if self.hidden is None else self.hidden
        pieces = [source[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        lengths = torch.tensor([len(piece) for piece in pieces])
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        padded = nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(device)
        return padded.long() if self.hidden is None else padded.float(), mask.to(device)


def load_encoder(folder: str | Path) -> nn.Module:
    """Load a BERT-type encoder from a local Hugging Face folder, without network and without running its code.

    Parameters
    ----------
    folder : str or Path
        Holds config.json, tokenizer files and weights (safetensors, or .bin, which transformers reads `weights_only`).

    Returns
    -------
    torch.nn.Module
        float32, in evaluation mode, with the list of blocks at `.encoder.layer`; without the next-sentence pooler.

    Raises
    ------
    FileNotFoundError
        If the folder has no config.json.
    DataError
        If the architecture is none of `MODEL_TYPES`, or the file lacks any of the encoder's weights.
    """
    _read_config(folder)
    model, info = AutoModel.from_pretrained(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise DataError(f"The weights in {folder} lack {len(missing)} of the encoder's keys, first {missing[0]!r}.")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.eval()


def split_encoder(encoder: nn.Module, trainable_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    """Cut an encoder (in place) into what stays below and the last `trainable_layers` blocks (-1: every block).

    Returns
    -------
    lower : torch.nn.Module
        Embeddings and the blocks below the cut; its `last_hidden_state` is what enters `blocks`.
    blocks : torch.nn.ModuleList

    Raises
    ------
    DataError
        If the encoder has fewer blocks.
    """
    layers = encoder.encoder.layer
    count = len(layers) if trainable_layers == -1 else trainable_layers
    if count > len(layers):
        raise DataError(f"trainable_layers is {count}, but this encoder has {len(layers)} transformer blocks.")
    cut = len(layers) - count
    blocks = nn.ModuleList(layers[cut:])
    encoder.encoder.layer = nn.ModuleList(layers[:cut])
    return encoder, blocks


def encode_texts(
    texts: Sequence[str],
    encoder: str | Path,
    trainable_layers: int = -1,
    max_tokens: int = 256,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    cache: str | Path | None = None,
) -> EncodedTexts:
    """Tokenize reports and, unless everything is to be trained, run the frozen blocks over them once.

    Parameters
    ----------
    texts : sequence of str, length N
    encoder : str or Path
        Local Hugging Face folder.
    trainable_layers : int
        -1 keeps tokens only. k >= 0 also keeps the states below the last k blocks: D numbers a token, 2 bytes each with
        "bfloat16" and 4 with "float32" (4,000 reports of 50 tokens at D = 384: 150 or 300 MB).
    max_tokens : int
        Longer reports are cut; `truncated` counts them.
    precision : str
        "float32", or "bfloat16": autocast, and states kept as float16.
    cache : str or Path, optional
        A .safetensors file to write to and, if it holds the same reports and settings, to read from.

    Raises
    ------
    DataError
        If a text is not a string, named by its position (never by its words), or max_tokens is too large.
    """
    texts = list(texts)
    wrong = [position for position, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{len(wrong)} reports have no text, first at position {wrong[0]}; leave these studies out.")
    if not texts:
        raise DataError("There are no reports to encode.")
    config = _read_config(encoder)
    reserved = 0 if config.model_type in ("bert", "electra") else config.pad_token_id + 1
    longest = config.max_position_embeddings - reserved
    if max_tokens > longest:
        raise DataError(f"max_tokens is {max_tokens}, but the encoder in {encoder} reads at most {longest} tokens.")
    identity = _identity(texts, encoder, trainable_layers, max_tokens, precision)
    if cache is not None and (kept := _read_cache(Path(cache), identity)) is not None:
        return kept

    tokens, truncated, empty = _tokenize(texts, encoder, max_tokens)
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in tokens])]).astype(np.int64)
    packed = torch.tensor(np.concatenate(tokens), dtype=torch.int32)
    encoded = EncodedTexts(packed, offsets, None, truncated, empty, identity)
    if trainable_layers >= 0:
        encoded.hidden = _lower_states(encoded, encoder, trainable_layers, precision, device, batch_size)
    if cache is not None:
        _write_cache(Path(cache), encoded)
    return encoded


def _tokenize(texts: list[str], encoder: str | Path, max_tokens: int) -> tuple[list[np.ndarray], int, int]:
    """Token numbers of every text, how many were cut, and how many hold nothing but special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(str(encoder), local_files_only=True, trust_remote_code=False)
    # Tokenized in full and cut here, because a tokenizer that truncates does not say how often it did.
    full = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    special = tokenizer.num_special_tokens_to_add()
    tail = special - 1  # BERT-type: one special token in front, the others at the end
    tokens = [
        np.asarray(ids if len(ids) <= max_tokens else ids[: max_tokens - tail] + ids[len(ids) - tail :], dtype=np.int32)
        for ids in full
    ]
    return tokens, sum(len(ids) > max_tokens for ids in full), sum(len(ids) <= special for ids in full)


def _lower_states(
    encoded: EncodedTexts,
    encoder: str | Path,
    trainable_layers: int,
    precision: str,
    device: torch.device | str,
    batch_size: int,
) -> torch.Tensor:
    """(total, D) states below the last `trainable_layers` blocks, longest reports first."""
    lower, _ = split_encoder(load_encoder(encoder), trainable_layers)
    device = torch.device(device)
    lower.to(device)
    half = precision == "bfloat16"
    total, width = len(encoded.tokens), lower.config.hidden_size
    hidden = torch.empty(total, width, dtype=torch.float16 if half else torch.float32)
    order = np.argsort(-encoded.lengths, kind="stable")
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for start in tqdm(range(0, len(order), batch_size), desc="frozen blocks", unit="batch"):
            rows = order[start : start + batch_size]
            inputs, mask = encoded.batch(rows, device)
            states = lower(input_ids=inputs, attention_mask=mask.long()).last_hidden_state
            for row, state in zip(rows, states.to(hidden.dtype).cpu(), strict=True):
                first, last = encoded.offsets[row], encoded.offsets[row + 1]
                hidden[first:last] = state[: last - first]
    return hidden


def _read_config(folder: str | Path) -> PretrainedConfig:
    """The encoder's configuration, after checking that the folder and the architecture will do."""
    file = Path(folder) / "config.json"
    if not file.exists():
        raise FileNotFoundError(
            f"No text encoder in {folder}: a folder in Hugging Face layout (config.json, tokenizer files, weights) "
            "is needed; `python -m pkd_utils.assets fetch minilm` gets the small one."
        )
    model_type = json.loads(file.read_text()).get("model_type")
    if model_type not in MODEL_TYPES:
        raise DataError(
            f"{file} says model_type {model_type!r}; a text encoder must be one of {', '.join(MODEL_TYPES)}."
        )
    return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _identity(texts: list[str], encoder: str | Path, trainable_layers: int, max_tokens: int, precision: str) -> str:
    """Hash of what shapes the encoding; the encoder counts by its files' bytes, so a moved folder stays the same."""
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt")
    files = [Path(encoder) / name for name in names]
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:".encode() + text.encode())
    return runs.hash_params(
        {
            "encoder": {file.name: runs.file_sha256(file) for file in files if file.exists()},
            "texts": digest.hexdigest(),
            "settings": [trainable_layers, max_tokens, precision],
        }
    )


def _write_cache(path: Path, encoded: EncodedTexts) -> None:
    tensors = {"tokens": encoded.tokens, "offsets": torch.from_numpy(encoded.offsets)}
    if encoded.hidden is not None:
        tensors["hidden"] = encoded.hidden
    facts = {"identity": encoded.identity, "truncated": encoded.truncated, "empty": encoded.empty}
    with runs.atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})


def _read_cache(path: Path, identity: str) -> EncodedTexts | None:
    """What the file holds, memory-mapped, or None if it is not there or of other reports or settings."""
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        if facts.get("identity") != identity:
            return None
        hidden = file.get_tensor("hidden") if "hidden" in file.keys() else None  # noqa: SIM118 (no mapping)
        return EncodedTexts(file.get_tensor("tokens"), file.get_tensor("offsets").numpy(), hidden, **facts)
