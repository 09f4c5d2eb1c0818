"""BERT-type encoders out of local Hugging Face folders: architecture, weights and tokenizer, with nothing executed.

One way for every text encoder here, frozen or trained: the architecture from config.json into transformers' own
classes, the weights by the strict key account of `keys.load_state`, the tokenizer from the local vocabulary. A
folder that wants code of its own (CXR-BERT's asks for trust_remote_code) is read as the plain BERT that it holds.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
from transformers.initialization import no_init_weights

from pkd_utils.encoders.facts import Facts, TextFacts
from pkd_utils.encoders.keys import KeyReport, load_file
from pkd_utils.encoders.weights import Weights
from pkd_utils.encoders.zoo.berts import LAYOUTS
from pkd_utils.runs.errors import DataError

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Architectures whose blocks need nothing but states and a mask."""

READ_AS = {"cxr-bert": "bert"}  # CXRBertModel is a BertForMaskedLM with a projection that tokens do not pass
WORDPIECE = ("bert", "electra")  # model types whose tokenizer is built here; the others' by transformers

_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_NEEDED += ("max_position_embeddings",)
# Whatever else a config.json says (code to import, versions, output options) does not shape the encoder.
_USED = (*_NEEDED, "hidden_act", "layer_norm_eps", "type_vocab_size", "pad_token_id", "embedding_size")
_USED += ("hidden_dropout_prob", "attention_probs_dropout_prob")
_HEADS = ("lm_head.", "classifier.", "qa_outputs.", "generator_", "discriminator_predictions.")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_config(folder: str | Path) -> PretrainedConfig:
    """Architecture numbers of the encoder in a folder, which is of one of `MODEL_TYPES`."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"No text encoder in {folder}: a folder in Hugging Face layout (config.json, tokenizer files, weights) "
            "is needed; `python -m pkd_utils fetch minilm` gets the small one."
        )
    raw = _read_json(file)
    model_type = READ_AS.get(raw.get("model_type"), raw.get("model_type"))
    if model_type is None and "bert" in str(raw.get("architectures", "bert")).lower():
        model_type = "bert"  # folders of 2019 do not say it
    if model_type not in MODEL_TYPES:
        raise DataError(
            f"{file} says model_type {model_type!r}; a text encoder must be one of {', '.join(MODEL_TYPES)}."
        )
    faults = [f"does not say {name} (a whole number)" for name in _NEEDED if not isinstance(raw.get(name), int)]
    if (positions := raw.get("position_embedding_type", "absolute")) != "absolute":
        faults.append(f"asks for {positions!r} position embeddings, and only absolute ones can be read")
    if faults:
        raise DataError(f"{file} {faults[0]}: download it again, or give another encoder's folder.")
    return AutoConfig.for_model(model_type, **{name: raw[name] for name in _USED if name in raw})


def longest_text(config: PretrainedConfig) -> int:
    """Tokens that an encoder can read: its positions, less those that RoBERTa's kind keeps for padding."""
    reserved = 0 if config.model_type in WORDPIECE else config.pad_token_id + 1
    return config.max_position_embeddings - reserved


def build_encoder(config: PretrainedConfig, seed: int | None = None) -> nn.Module:
    """The network without pooler, float32, in evaluation mode; blocks at `.encoder.layer`.

    With a seed its weights are random, without one they are left open, to be loaded. The global generator stays as it
    was.
    """
    with torch.random.fork_rng(devices=[]), no_init_weights() if seed is None else contextlib.nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        # Measured: sdpa is as fast as eager or faster (fp32 and bf16, 64 and 256 tokens), and equal to 1e-6.
        module = AutoModel.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    if getattr(module, "pooler", None) is not None:
        module.pooler = None
    return module.eval()


def split_encoder(encoder: nn.Module, trainable_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    """Cut an encoder (in place) into what stays below and the last `trainable_layers` blocks (-1: every block).

    The `last_hidden_state` of what stays (embeddings and the blocks below the cut) is what enters the blocks.
    """
    layers = encoder.encoder.layer
    count = len(layers) if trainable_layers == -1 else trainable_layers
    if count > len(layers):
        raise DataError(f"trainable_layers is {count}, but this encoder has {len(layers)} transformer blocks.")
    cut = len(layers) - count
    blocks = nn.ModuleList(layers[cut:])
    encoder.encoder.layer = nn.ModuleList(layers[:cut])
    return encoder, blocks


def load_bert(folder: str | Path, facts: TextFacts | None = None) -> tuple[nn.Module, tuple[Weights, KeyReport]]:
    """The encoder of a folder as `build_encoder` makes it, and what `keys.load_file` says; every tensor is the file's.

    The folder holds config.json and model.safetensors or pytorch_model.bin (or their parts with an index). Without
    `facts` any encoder of the folder's own architecture is expected.
    """
    config = read_config(folder)
    module = build_encoder(config)
    return module, load_file(facts or _any_encoder(folder, config, module), folder, module)


def _any_encoder(folder: str | Path, config: PretrainedConfig, module: nn.Module) -> Facts:
    """What the key account needs to know of an encoder that is on no list."""
    heads = tuple(start for start in TextFacts.dropped if not start.startswith("bert."))
    heads += ("embeddings.token_type_ids", *_HEADS)  # heads of any fine-tuning: the encoder below is what is wanted
    prefix = f"{module.base_model_prefix}."
    return Facts(
        name=config.model_type,
        title=f"the {config.model_type} encoder in {Path(folder).name}",
        files=("folder",),
        source="where the folder came from",
        licence="",
        cite="",
        parameters=0,
        prefixes=(prefix, ""),
        layouts=LAYOUTS,
        dropped=heads,
        never=(),
    )


def load_tokenizer(folder: str | Path, facts: TextFacts | None = None, lower_case: bool | None = None) -> Tokenizer:
    """The tokenizer of a folder, without network, code, truncation or padding.

    For BERT and ELECTRA it is built here from vocab.txt, else from the vocabulary in tokenizer.json; for RoBERTa's kind
    it is as transformers reads the folder.

    `facts` fix case and vocabulary size. Without facts the folder must say whether case matters (`do_lower_case` in
    tokenizer_config.json, or the normalizer in tokenizer.json); if it does not, a vocabulary with capital letters is
    cased. `lower_case` decides in place of folder and facts.
    """
    folder = Path(folder)
    if facts is None and read_config(folder).model_type not in WORDPIECE:
        fast = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        tokenizer = fast.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    vocabulary, lowercase = _read_vocabulary(folder, facts, lower_case)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=None)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens([token for token in _SPECIAL if token in vocabulary])
    return tokenizer


def _read_vocabulary(folder: Path, facts: TextFacts | None, lower_case: bool | None) -> tuple[dict[str, int], bool]:
    """Tokens with their numbers, and whether texts become lower case: what files and facts say must agree."""
    said: dict[str, bool] = {}
    found: dict[str, dict[str, int]] = {}
    faults: list[str] = []
    settings, plain, fast = (folder / name for name in ("tokenizer_config.json", "vocab.txt", "tokenizer.json"))
    if settings.is_file() and isinstance(answer := _read_json(settings).get("do_lower_case"), bool):
        said[settings.name] = answer
    if plain.is_file():
        # Lines end in \n alone: a vocabulary holds other characters that Python calls line ends.
        tokens = plain.read_bytes().decode("utf-8").removesuffix("\n").replace("\r\n", "\n").split("\n")
        found[plain.name] = {token: number for number, token in enumerate(tokens)}
        if len(found[plain.name]) != len(tokens):
            faults.append("vocab.txt lists a token twice")
    if fast.is_file():
        content = _read_json(fast)
        model, normalizer = content.get("model") or {}, content.get("normalizer") or {}
        # transformers writes no "type" for a vocabulary that it made itself
        if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
            faults.append("tokenizer.json is no WordPiece tokenizer, which BERT-type encoders have")
            model = {"vocab": {}}
        found[fast.name] = model["vocab"]
        if isinstance(normalizer.get("lowercase"), bool):
            said[fast.name] = normalizer["lowercase"]
    if not found:
        raise FileNotFoundError(f"{folder} has no vocabulary: put vocab.txt or tokenizer.json of the encoder there.")
    vocabulary = next(iter(found.values()))
    if any(other != vocabulary for other in found.values()):
        faults.append("vocab.txt and tokenizer.json hold different vocabularies")
    faults += [f"the vocabulary has no {token}" for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
    if facts is not None:
        said["pkd_utils.encoders.facts"] = facts.lowercase
        if len(vocabulary) != facts.vocabulary:
            faults.append(f"the vocabulary has {len(vocabulary)} tokens, that of {facts.title} has {facts.vocabulary}")
    if any(token != token.lower() for token in vocabulary if not token.startswith("[")):
        said["the vocabulary with its capital letters"] = False
    if lower_case is not None:
        said = {"lower_case": lower_case}
    if len(set(said.values())) > 1:
        words = {True: "lower-cased", False: "cased"}
        faults.append(" and ".join(f"{who} says {words[answer]}" for who, answer in said.items()))
    if faults:
        raise DataError(
            f"The tokenizer files in {folder} cannot be used, {faults[0]}: correct them, or give the encoder's folder "
            "as it was downloaded."
        )
    return vocabulary, next(iter(said.values()), True)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{file} is no JSON object: download it again.")
    return content
