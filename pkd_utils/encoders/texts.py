"""Reports as tokens and, where an encoder's lower blocks are frozen, as the states those blocks produce, kept once.

The frozen blocks see every report one single time, in evaluation mode; all epochs and all seeds of a text teacher read
the kept states. Tokens are packed without padding, and batches of similar length waste little of it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from pkd_utils.encoders.bert import load_bert, load_tokenizer, longest_text, read_config
from pkd_utils.encoders.packed_texts import (
    EncodedTexts,
    check_texts,
    encode_packed,
    pack_tokens,
    read_cache,
    texts_sha256,
    write_cache,
)
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256, hash_params

__all__ = ["EncodedTexts", "encode_texts", "load_encoder", "split_encoder"]


def load_encoder(folder: str | Path) -> nn.Module:
    """Load a BERT-type encoder from a local Hugging Face folder, see `encoders.bert.load_bert`.

    Returns
    -------
    torch.nn.Module
        float32, in evaluation mode, with the list of blocks at `.encoder.layer`; without the next-sentence pooler.
    """
    return load_bert(folder)[0]


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
    texts = check_texts(texts)
    longest = longest_text(read_config(encoder))
    if max_tokens > longest:
        raise DataError(f"max_tokens is {max_tokens}, but the encoder in {encoder} reads at most {longest} tokens.")
    identity = _identity(texts, encoder, trainable_layers, max_tokens, precision)
    if cache is not None and (kept := read_cache(Path(cache), identity)) is not None:
        return kept

    encoded = pack_tokens(load_tokenizer(encoder), texts, max_tokens, "cut", identity)
    if trainable_layers >= 0:
        path = None if cache is None else Path(cache)
        encoded.hidden = _lower_states(encoded, encoder, trainable_layers, precision, device, batch_size, path)
    if cache is not None:
        write_cache(Path(cache), encoded)
    return encoded


def _lower_states(
    encoded: EncodedTexts,
    encoder: str | Path,
    trainable_layers: int,
    precision: str,
    device: torch.device | str,
    batch_size: int,
    cache: Path | None,
) -> torch.Tensor:
    """(total, D) states below the last `trainable_layers` blocks."""
    lower, _ = split_encoder(load_encoder(encoder), trainable_layers)
    device, half = torch.device(device), precision == "bfloat16"
    lower.to(device)

    def states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            return lower(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    dtype = torch.float16 if half else torch.float32
    return encode_packed(encoded, states, lower.config.hidden_size, dtype, device, batch_size, cache, "frozen blocks")


def _identity(texts: list[str], encoder: str | Path, trainable_layers: int, max_tokens: int, precision: str) -> str:
    """Hash of what shapes the encoding; the encoder counts by its files' bytes, so a moved folder stays the same."""
    patterns = ("config.json", "model*.safetensors*", "pytorch_model*.bin*")
    patterns += ("tokenizer.json", "tokenizer_config.json", "vocab.*", "merges.txt", "*.model")
    files = sorted(file for pattern in patterns for file in Path(encoder).glob(pattern))
    return hash_params(
        {
            "encoder": {file.name: file_sha256(file) for file in files},
            "texts": texts_sha256(texts),
            "settings": [trainable_layers, max_tokens, precision],
        }
    )
