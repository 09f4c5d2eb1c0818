"""Texts as tokens, packed one after the other without padding, and what an encoder makes of them, kept once.

Batches hold texts of similar length, longest first, so little is padded; results come back in the order of the texts.
Where an encoder's lower blocks are frozen, `lower_states` runs them over every report one single time, in evaluation
mode; all epochs and all seeds of a text teacher read what was kept.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError

PART_SECONDS = 20.0
"""So much work at most is lost by an interruption."""


@dataclass
class EncodedTexts:
    """Texts as tokens, packed one after the other, with what an encoder (or its frozen blocks) made of them."""

    tokens: torch.Tensor  # (total,) int32 token numbers
    offsets: np.ndarray  # (N + 1,) int64; text i is `tokens[offsets[i]:offsets[i + 1]]`
    hidden: torch.Tensor | None  # (total, D) float16 or float32 states; None if there are only tokens
    truncated: int  # texts that were cut
    empty: int  # texts of no words: only the encoder's special tokens are left
    identity: str  # SHA-256 over the encoder's files, the texts and the settings that shape `hidden`

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens a text."""
        return np.diff(self.offsets)

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Pad some texts to the longest: (B, L) int64 tokens or (B, L, D) float32 states, and a (B, L) bool mask."""
        first, lengths = torch.from_numpy(self.offsets[:-1][rows]), torch.from_numpy(self.lengths[rows])
        found, mask = pad(self.tokens if self.hidden is None else self.hidden, first, lengths)
        return found.to(device).to(torch.int64 if self.hidden is None else torch.float32), mask.to(device)


def pad(packed: torch.Tensor, first: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) stretches of packed tokens (total, ...), padded with zeros to the longest, and their (B, L) bool mask."""
    mask = torch.arange(int(lengths.max()) if len(lengths) else 0) < lengths[:, None]
    if not len(lengths):
        return packed.new_zeros((*mask.shape, *packed.shape[1:])), mask
    stretches = [packed[a : a + n] for a, n in zip(first.tolist(), lengths.tolist(), strict=True)]
    return pad_sequence(stretches, batch_first=True), mask


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; DataError if there are none or one is no string, by position, never by its words."""
    texts = [] if isinstance(texts, str) else list(texts)
    if not texts:
        raise DataError("There are no reports to encode: give a list of texts.")
    wrong = [position for position, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{len(wrong)} reports have no text, first at position {wrong[0]}; leave these studies out.")
    return texts


def texts_sha256(texts: list[str]) -> str:
    """SHA-256 over texts, their order and their borders."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(text)}:".encode() + data)
    return digest.hexdigest()


def pack_tokens(tokenizer: Tokenizer, texts: list[str], longest: int, on_long: str, identity: str) -> EncodedTexts:
    """Tokenize texts, as `check_texts` gave them, by a tokenizer without truncation and padding.

    Texts longer than `longest` tokens, special ones included, are refused by position and length, never by their words;
    with `on_long` "cut" they are cut before the closing special token, and counted.
    """
    special = tokenizer.num_special_tokens_to_add(False)
    if longest <= special:
        raise DataError(f"longest is {longest}: a text has {special} special tokens and needs room for its words.")
    # A lone surrogate (a broken character, as JSON may carry) is no text to the tokenizer: it becomes a question mark.
    full = [each.ids for each in tokenizer.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])]
    long = [(position, len(ids)) for position, ids in enumerate(full) if len(ids) > longest]
    if on_long not in ("error", "cut"):
        raise DataError(f"on_long = {on_long!r}: say what becomes of longer texts, 'error' or 'cut'.")
    if long and on_long == "error":
        first = ", ".join(f"{position} ({length} tokens)" for position, length in long[:8])
        raise DataError(
            f"{len(long)} of {len(full)} texts have more than {longest} tokens, at positions {first}"
            f"{' and others' if len(long) > 8 else ''}: shorten them, or say on_long='cut'."
        )
    # Cut here, because a tokenizer that truncates does not say how often it did.
    tail = special - 1  # BERT-type: one special token in front, the others at the end
    kept = [ids if len(ids) <= longest else ids[: longest - tail] + ids[len(ids) - tail :] for ids in full]
    offsets = np.cumsum([0, *map(len, kept)], dtype=np.int64)
    packed = torch.from_numpy(np.concatenate(kept).astype(np.int32))
    return EncodedTexts(packed, offsets, None, len(long), sum(len(ids) <= special for ids in full), identity)


def encode_packed(
    encoded: EncodedTexts,
    forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    batch_size: int,
    cache: str | Path | None,
    what: str,
) -> EncodedTexts:
    """Run an encoder over packed texts and keep its states as `hidden` (total, D), without padding.

    `forward` makes (B, L, D) states of (B, L) int64 tokens and a (B, L) bool mask; D is `width`. A `cache` is written
    at the end. Until then parts lie beside it, one about every `PART_SECONDS`, so that an interrupted encoding goes on
    to the same bits. States that are not finite in `dtype` are refused, by the text's position.
    """
    order = np.argsort(-encoded.lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    hidden = torch.empty(len(encoded.tokens), width, dtype=dtype)
    # Another batch size pads otherwise, which may change the last bit: such parts are not mixed.
    parts = None if cache is None else _parts(cache, [encoded.identity, batch_size])
    done = 0
    for name in parts.names() if parts else ():
        last = int(Path(name).stem)
        places, states = _places(encoded, batches[done:last]), load_file(parts.path(name))["hidden"]
        if len(places) != len(states):  # the part before it was damaged
            break
        hidden[places], done = states, last
    written, last_write = done, time.monotonic()
    for number in tqdm(range(done, len(batches)), initial=done, total=len(batches), desc=what, unit="batch"):
        rows = batches[number]
        tokens, mask = encoded.batch(rows, device)
        states = forward(tokens, mask)[mask].to(dtype).cpu()
        finite = torch.isfinite(states).all(1)
        if not finite.all():
            wrong = np.repeat(rows, encoded.lengths[rows])[~finite.numpy()]
            raise DataError(f"The text at position {wrong[0]} has states that are not finite in {dtype}.")
        hidden[_places(encoded, [rows])] = states
        if parts and time.monotonic() - last_write > PART_SECONDS:
            with parts.write(f"{number + 1:08d}.safetensors") as temporary:
                save_file({"hidden": hidden[_places(encoded, batches[written : number + 1])]}, temporary)
            written, last_write = number + 1, time.monotonic()
    encoded = replace(encoded, hidden=hidden)
    write_cache(cache, encoded)
    return encoded


def _parts(cache: str | Path, identity: list | None = None) -> files.Parts:
    """Parts of an encoding beside the file that it will become; each is named by the batches that are then done."""
    return files.Parts(Path(cache).with_name(f"{Path(cache).name}.parts"), identity)


def _places(encoded: EncodedTexts, batches: list[np.ndarray]) -> torch.Tensor:
    """Positions in the packed arrays of the tokens of some batches, in the order of encoding."""
    spans = [np.arange(encoded.offsets[row], encoded.offsets[row + 1]) for row in np.concatenate(batches)]
    return torch.from_numpy(np.concatenate(spans))


def write_cache(path: str | Path | None, encoded: EncodedTexts) -> None:
    """Write what was encoded, whole, and remove the parts it was made of; nothing without a path."""
    if path is None:
        return
    tensors = {"tokens": encoded.tokens, "offsets": torch.from_numpy(encoded.offsets)}
    if encoded.hidden is not None:
        tensors["hidden"] = encoded.hidden
    facts = {"identity": encoded.identity, "truncated": encoded.truncated, "empty": encoded.empty}
    with files.atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
    _parts(path).remove()


def read_cache(path: str | Path | None, identity: str) -> EncodedTexts | None:
    """What the file holds, memory-mapped, or None if it is not there or of other texts or settings."""
    if path is None or not Path(path).exists():
        return None
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        if facts.get("identity") != identity:
            return None
        hidden = file.get_tensor("hidden") if "hidden" in file.keys() else None  # noqa: SIM118 (no mapping)
        return EncodedTexts(file.get_tensor("tokens"), file.get_tensor("offsets").numpy(), hidden, **facts)


def lower_states(
    texts: Sequence[str],
    encoder: str | Path,
    trainable_layers: int = -1,
    max_tokens: int = 256,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    cache: str | Path | None = None,
) -> EncodedTexts:
    """Tokenize reports and, unless everything is to be trained, run the frozen blocks over them once.

    Parameters
    ----------
    texts : sequence of str, length N
    encoder : local Hugging Face folder
    trainable_layers : int
        -1 keeps tokens only. k >= 0 also keeps the states below the last k blocks: D numbers a token, 2 bytes each with
        "bf16" and 4 with "fp32" (4,000 reports of 50 tokens at D = 384: 150 or 300 MB).
    max_tokens : int
        Longer reports are cut; `truncated` counts them.
    precision : "fp32", or "bf16": autocast, and states kept as float16
    cache : a .safetensors file to write to and, if it holds the same reports and settings, to read from
    """
    texts = check_texts(texts)
    from pkd_utils.encoders import bert  # needs transformers, which reading a store does not

    longest = bert.longest_text(bert.read_config(encoder))
    if max_tokens > longest:
        raise DataError(f"max_tokens is {max_tokens}, but the encoder in {encoder} reads at most {longest} tokens.")
    identity = _identity(texts, encoder, [trainable_layers, max_tokens, precision])
    if kept := read_cache(cache, identity):
        return kept
    encoded = pack_tokens(bert.load_tokenizer(encoder), texts, max_tokens, "cut", identity)
    if trainable_layers < 0:
        write_cache(cache, encoded)
        return encoded
    lower, _ = bert.split_encoder(bert.load_bert(encoder)[0], trainable_layers)
    lower, half = lower.to(device), precision == "bf16"

    def states(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
            return lower(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    width, dtype = lower.config.hidden_size, torch.float16 if half else torch.float32
    return encode_packed(encoded, states, width, dtype, torch.device(device), batch_size, cache, "frozen blocks")


def _identity(texts: list[str], encoder: str | Path, settings: list) -> str:
    """Hash of what shapes the encoding; the encoder counts by its files' bytes, so a moved folder stays the same."""
    patterns = ("config.json", "model*.safetensors*", "pytorch_model*.bin*")
    patterns += ("tokenizer.json", "tokenizer_config.json", "vocab.*", "merges.txt", "*.model")
    found = sorted(file for pattern in patterns for file in Path(encoder).glob(pattern))
    hashes = {file.name: files.file_sha256(file) for file in found}
    return files.hash_params({"encoder": hashes, "texts": texts_sha256(texts), "settings": settings})
