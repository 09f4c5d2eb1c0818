"""Frozen text encoders: token states of reports, from a local folder that was loaded exactly or not at all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig

from pkd_utils.encoders.backbones import FrozenEncoder
from pkd_utils.encoders.bert import build_encoder, load_bert, load_tokenizer, longest_text, read_config
from pkd_utils.encoders.downloads import find_weights
from pkd_utils.encoders.facts import TextFacts, known
from pkd_utils.encoders.texts import EncodedTexts, check_texts, encode_packed, pack_tokens, read_cache, texts_sha256
from pkd_utils.encoders.zoo import TEXT_ENCODERS
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.machine import resolve_precision

SUM_LAST_4 = "sum_last_4"


class TextTokens(NamedTuple):
    """States (B, L, D) float32, zero where `mask` (B, L) bool is False: there the text has ended."""

    tokens: torch.Tensor
    mask: torch.Tensor


class TextEncoder(FrozenEncoder):
    """A frozen text encoder, made by `load_text_encoder`; beside what `FrozenEncoder` holds:

    Attributes
    ----------
    width, longest : int
        D, and the most tokens a text may have, [CLS] and [SEP] included.
    layer : str or int
        Where states are read.
    identity : str
        Hash of weights, vocabulary and every option that changes tokens; not of paths.
    """

    def __init__(
        self,
        network: nn.Module,
        facts: TextFacts,
        tokenizer: Tokenizer | None,
        layer: str | int,
        **frozen: Any,
    ):
        super().__init__(network, facts, **frozen)
        self.tokenizer, self.layer, self.width, self.longest = tokenizer, layer, facts.width, facts.longest
        self.identity: str = files.hash_params(
            {
                "encoder": facts.name,
                "weights": self.origin,
                "vocabulary": files.hash_params(tokenizer.get_vocab()) if tokenizer else None,
                "lowercase": facts.lowercase,
                "layer": str(layer),
                "precision": self.precision,
            }
        )

    def tokenize(self, texts: Sequence[str], longest: int | None = None, on_long: str = "error") -> EncodedTexts:
        """Word pieces of texts between [CLS] and [SEP], packed without padding.

        Parameters
        ----------
        texts : sequence of str
            "" is allowed: it becomes [CLS] [SEP], and is counted in `empty`.
        longest : int, optional
            Tokens a text may have, at most (and by default) the encoder's 512.
        on_long : {"error", "cut"}
            "cut" keeps the beginning and [SEP], and counts in `truncated`; "error" names positions, never words.
        """
        longest = self.longest if longest is None else longest
        if longest > self.longest:
            raise DataError(f"longest is {longest}, but {self.facts.title} reads at most {self.longest} tokens.")
        texts = check_texts(texts)
        if self.tokenizer is None:
            raise DataError(
                f"This {self.facts.title} has random weights and no vocabulary to read texts with: give "
                "load_text_encoder(..., vocabulary=) a folder with its vocab.txt."
            )
        identity = files.hash_params([self.identity, texts_sha256(texts), longest])
        return pack_tokens(self.tokenizer, texts, longest, on_long, identity)

    def encode(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States (B, L, D) float32 of padded token numbers (B, L) int64 and their mask (B, L) bool; padding is zero."""
        ids, mask = ids.to(self.device), mask.to(self.device)
        every = self.layer == SUM_LAST_4
        with self.computing():
            out = self.network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=every)
            states = sum(state.float() for state in out.hidden_states[-4:]) if every else out.last_hidden_state.float()
            return states.masked_fill_(~mask[:, :, None], 0.0)

    forward = encode

    def tokens(self, texts: Sequence[str] | EncodedTexts) -> TextTokens:
        """States of texts (or of what `tokenize` gave), one batch, in their order, padded to the longest.

        They lie on the encoder's device; [CLS] and [SEP] count as tokens. Texts that are too long are an error here; to
        cut them, `tokenize(..., on_long="cut")` first.
        """
        packed = texts if isinstance(texts, EncodedTexts) else self.tokenize(texts)
        ids, mask = replace(packed, hidden=None).batch(range(len(packed.lengths)), self.device)
        return TextTokens(self.encode(ids, mask), mask)

    def encode_all(self, packed: EncodedTexts, batch_size: int = 32, cache: str | Path | None = None) -> EncodedTexts:
        """States of what `tokenize` gave, each text encoded once, as `hidden` (total, D) float16.

        `cache` is a .safetensors file to write to and, if it holds these very texts and settings, to read from
        (memory-mapped). An interrupted encoding continues from the parts beside it, to the same bits. All is in memory
        while encoding (6,000 reports of 100 tokens at D = 768: 0.9 GB).
        """
        how = torch.float16, self.device, batch_size, cache, self.facts.title
        return read_cache(cache, packed.identity) or encode_packed(packed, self.encode, self.width, *how)


def load_text_encoder(
    name: str,
    weights: str | Path | None,
    layer: str | int = "last",
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    allow_download: bool = False,
    seed: int = 0,
    vocabulary: str | Path | None = None,
    lower_case: bool | None = None,
) -> TextEncoder:
    """A frozen text encoder with every one of its weights taken from a folder, or an error that says which are missing.

    Parameters
    ----------
    name : str, a key of `TEXT_ENCODERS`
    weights : path, "random", or hub name
        The Hugging Face folder as downloaded (config.json, vocab.txt or tokenizer.json, model.safetensors or
        pytorch_model.bin); "random" for seeded random weights; with `allow_download` the encoder's hub name (or None).
    layer : "last", "sum_last_4" or int
        Not stated in the paper. "last" is the last block's output; "sum_last_4" the sum over the last four, as GLoRIA
        uses Bio_ClinicalBERT; an int counts as `hidden_states` does: 0 embeddings, -1 last.
    device, precision, allow_download, seed : as in `load_image_encoder`
    vocabulary : path, optional
        Random weights only: a folder with the encoder's vocab.txt or tokenizer.json; without it there is no `tokenize`.
    lower_case : bool, optional
        Whether texts become lower case first; by default if the encoder was trained so. True for a cased one reads as
        transformers does from a folder that does not say so, as Bio_ClinicalBERT's on the hub.

    Raises
    ------
    DataError
        For an unknown name or layer, and for a folder that is not exactly this encoder's.
    FileNotFoundError
        Where `weights` or a file in it does not exist: says what to get where.
    """
    facts = known(TEXT_ENCODERS, name, "text encoder")
    if lower_case is False and facts.lowercase:
        raise DataError(f"{facts.title} knows no capital letters: leave lower_case out.")
    depth = _depth(facts, layer)
    device, precision = torch.device(device), resolve_precision(precision, device)
    folder = find_weights(facts, weights, allow_download)
    if folder is None:
        network, loaded = build_encoder(config_of(facts), seed), None
        tokenizer = None if vocabulary is None else load_tokenizer(vocabulary, facts, lower_case)
    elif not folder.is_dir():
        raise DataError(
            f"{folder} is a file: give the folder that it is in, with config.json, the vocabulary and the weights."
        )
    else:
        _check_config(facts, folder)
        tokenizer = load_tokenizer(folder, facts, lower_case)
        network, loaded = load_bert(folder, facts)
    facts = facts if lower_case is None else replace(facts, lowercase=lower_case)
    network.encoder.layer = network.encoder.layer[:depth]  # what lies behind the layer is not computed
    return TextEncoder(network, facts, tokenizer, layer, precision=precision, seed=seed, loaded=loaded).to(device)


def _depth(facts: TextFacts, layer: str | int) -> int:
    """Blocks that are needed to read a layer."""
    if layer == "last" or (layer == SUM_LAST_4 and facts.layers >= 4):
        return facts.layers
    if isinstance(layer, bool) or not isinstance(layer, int) or not -facts.layers - 1 <= layer <= facts.layers:
        raise DataError(
            f"layer must be 'last', 'sum_last_4' or a whole number from {-facts.layers - 1} to {facts.layers} "
            f"for {facts.title}, not {layer!r}."
        )
    return layer if layer >= 0 else facts.layers + 1 + layer


def config_of(facts: TextFacts):
    return AutoConfig.for_model(
        "bert",
        vocab_size=facts.vocabulary,
        hidden_size=facts.width,
        num_hidden_layers=facts.layers,
        num_attention_heads=facts.heads,
        intermediate_size=4 * facts.width,
        max_position_embeddings=facts.longest,
    )


def _check_config(facts: TextFacts, folder: Path) -> None:
    """Refuse a folder whose architecture is not this encoder's; names both."""
    config, expected = read_config(folder), config_of(facts)
    names = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    wrong = [
        f"{name} is {getattr(config, name)}, {facts.title} has {getattr(expected, name)}"
        for name in (*names, "vocab_size", "hidden_act")
        if getattr(config, name) != getattr(expected, name)
    ]
    if longest_text(config) != facts.longest:
        wrong.append(f"it reads {longest_text(config)} tokens, {facts.title} {facts.longest}")
    if wrong:
        raise DataError(f"{folder / 'config.json'} is another encoder's: {'; '.join(wrong)}.")
