"""From the names in a checkpoint to the names of our networks, with a strict account of every key.

Every layout is one function from the names of a network's tensors to the names the original project's code gives them.
Several source names for one tensor are concatenated along the first dimension (query, key and value of a fused qkv).
"""

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkd_utils.encoders.facts import ImageFacts, TextFacts
from pkd_utils.encoders.weights import Weights
from pkd_utils.runs.errors import DataError

Sources = dict[str, tuple[str, ...]]  # name in the network -> names in the file
Layout = Callable[[list[str], str], Sources]  # (names in the network, prefix in the file) -> Sources


@dataclass(frozen=True)
class KeyReport:
    """Account of a checkpoint's names, as in the file.

    Attributes
    ----------
    found : tuple of str
        Loaded into the network.
    dropped : tuple of str
        Known to belong to a head, decoder, text tower or a part that the chosen feature does not need.
    unexpected : tuple of str
        The rest.
    """

    found: tuple[str, ...]
    dropped: tuple[str, ...]
    unexpected: tuple[str, ...]


# --- layouts ---------------------------------------------------------------------------------------------------------


def same_names(names: list[str], prefix: str) -> Sources:
    """Medical MAE, MRM, C2L, GLoRIA, original DINOv2, BERT: the network's own names behind a prefix."""
    return {name: (prefix + name,) for name in names}


def _dinov2(names: list[str], prefix: str, query_key_value: tuple[str, ...], output: str) -> Sources:
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
        "norm.": "layernorm.",
    }
    inside = {"attn.proj.": output, "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    sources = {}
    for name in names:
        block = re.match(r"blocks\.(\d+)\.(.+)", name)
        if block is None:
            sources[name] = (prefix + _replace_start(name, outside),)
        elif block[2].startswith("attn.qkv."):
            kind = block[2].removeprefix("attn.qkv.")
            sources[name] = tuple(f"{prefix}encoder.layer.{block[1]}.{part}.{kind}" for part in query_key_value)
        else:
            sources[name] = (f"{prefix}encoder.layer.{block[1]}.{_replace_start(block[2], inside)}",)
    return sources


def huggingface_dinov2(names: list[str], prefix: str) -> Sources:
    """RAD-DINO and other Dinov2Model files, as every version of transformers writes them."""
    attention = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
    return _dinov2(names, prefix, attention, "attention.output.dense.")


def huggingface_dinov2_in_memory(names: list[str], prefix: str) -> Sources:
    """Dinov2Model().state_dict() of transformers 5, which `save_pretrained` turns back into the names above."""
    attention = tuple(f"attention.{part}_proj" for part in "qkv")
    return _dinov2(names, prefix, attention, "attention.o_proj.")


def biovil(names: list[str], prefix: str) -> Sources:
    """BioViL and BioViL-T: hi-ml's ImageModel, whose `encoder` holds a ResNet that is called `encoder` as well."""
    return {
        name: (prefix + (name if name.startswith("projector.") else f"encoder.{name}"),)
        for name in names
    }  # fmt: skip


def biomedclip(names: list[str], prefix: str) -> Sources:
    """open_clip's file: `visual.trunk.` before timm's names, and the projection beside it."""
    return {
        name: ("visual.head.proj.weight" if name == "proj.weight" else prefix + name.removeprefix("trunk."),)
        for name in names
    }


def efficientnet_lite(names: list[str], prefix: str) -> Sources:
    """Names of lukemelas's EfficientNet, which numbers all blocks in one row, against timm's stages of blocks."""
    outside = {"conv_stem.": "_conv_stem.", "bn1.": "_bn0.", "conv_head.": "_conv_head.", "bn2.": "_bn1."}
    expanding = {"conv_pw.": "_expand_conv.", "bn1.": "_bn0.", "conv_dw.": "_depthwise_conv."}
    expanding |= {"bn2.": "_bn1.", "conv_pwl.": "_project_conv.", "bn3.": "_bn2."}
    plain = {"conv_dw.": "_depthwise_conv.", "bn1.": "_bn1.", "conv_pw.": "_project_conv.", "bn2.": "_bn2."}
    blocks = [re.match(r"(blocks\.\d+\.\d+\.)(.+)", name) for name in names]
    rows = list(dict.fromkeys(block[1] for block in blocks if block))
    sources = {}
    for name, block in zip(names, blocks, strict=True):
        if block is None:
            sources[name] = (prefix + _replace_start(name, outside),)
        else:
            expands = f"{block[1]}conv_pwl.weight" in names
            inner = _replace_start(block[2], expanding if expands else plain)
            sources[name] = (f"{prefix}_blocks.{rows.index(block[1])}.{inner}",)
    return sources


def old_bert(names: list[str], prefix: str) -> Sources:
    """BERT as converted from TensorFlow by the first releases: gamma and beta in layer norms."""
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {name: (prefix + re.sub(r"LayerNorm\.\w+$", lambda m: renamed[m[0]], name),) for name in names}


def _replace_start(name: str, table: dict[str, str]) -> str:
    """`name` with the first entry of `table` that it starts with replaced."""
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "rad_dino": (huggingface_dinov2, huggingface_dinov2_in_memory, same_names),
    "dinov2_s14": (huggingface_dinov2, huggingface_dinov2_in_memory, same_names),
    "medical_mae": (same_names,),
    "mrm": (same_names,),
    "c2l": (same_names,),
    "biovil_t": (biovil,),
    "gloria": (same_names,),
    "biomedclip": (biomedclip,),
    "efficientnet_lite0": (efficientnet_lite, same_names),
}
"""Layouts in which an image encoder's files occur; the one that finds most names is taken. Others: names as ours."""

TEXT_LAYOUTS: tuple[Layout, ...] = (same_names, old_bert)

# Buffers that are no weights: a counter of training steps, and the numbers 0 ... 511 that old BERT files carry.
COUNTERS = ("num_batches_tracked", "position_ids")

# --- whose file is it ------------------------------------------------------------------------------------------------

SIGNATURES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("BioViL-T", ("encoder.backbone_to_vit.", "encoder.encoder."), ("biovil_t",)),
    ("BioViL without time (biovil_image_resnet50)", ("encoder.encoder.conv1.",), ()),
    ("GLoRIA", ("gloria.",), ("gloria",)),
    ("BiomedCLIP", ("visual.trunk.", "text."), ("biomedclip",)),
    ("MRM", ("bert_encoder.",), ("mrm",)),
    ("MRM as BenchX trained it", ("vision_encoder.visual.",), ("mrm",)),
    ("Medical MAE", ("decoder_blocks.7.", "patch_embed."), ("medical_mae",)),
    ("DINOv2 with register tokens", ("register_tokens",), ()),
    ("DINOv2 with register tokens", ("embeddings.register_tokens",), ()),
    ("DINOv2 in a Hugging Face folder", ("embeddings.patch_embeddings.",), ("rad_dino", "dinov2_s14")),
    ("DINOv2", ("blocks.0.ls1.gamma", "patch_embed."), ("rad_dino", "dinov2_s14")),
    ("C2L", ("encoder.module.conv1.",), ("c2l",)),
    ("CXR-BERT or BioViL-T's BERT", ("cls_projection_head.",), ("biovil_t_bert", "cxr_bert_general")),
    ("a BERT text encoder", ("bert.",), ("bio_clinicalbert", "pubmedbert", "cxr_bert_general", "biovil_t_bert")),
    ("a sentence encoder or a bare BERT", ("embeddings.word_embeddings.",), ("minilm",)),
    ("EfficientNet by its first PyTorch port", ("_conv_stem.",), ("efficientnet_lite0",)),
    (
        "a Vision Transformer with timm's names",
        ("patch_embed.proj.", "blocks.0."),
        ("medical_mae", "mrm", "biomedclip"),
    ),
    ("a ResNet with torchvision's names", ("conv1.", "layer1.0."), ("c2l", "gloria")),
)
"""(whose file, beginnings that must all occur, encoders it is right for), the more particular first."""


def looks_like(names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Whose file has such names: in words ("" if unknown), and the encoders of ours that read it."""
    names = list(names)
    for title, beginnings, encoders in SIGNATURES:
        if all(any(name.startswith(start) for name in names) for start in beginnings):
            return title, encoders
    return "", ()


# --- loading ---------------------------------------------------------------------------------------------------------


def load_state(facts: ImageFacts | TextFacts, weights: Weights, module: nn.Module) -> KeyReport:
    """Load a checkpoint into a network in place; every parameter and buffer must come from the file.

    Parameters
    ----------
    facts : ImageFacts or TextFacts
    weights : Weights
        Of any floating dtype; becomes the network's.
    module : torch.nn.Module
        The encoder without heads, named as timm, torchvision or transformers' BertModel name it.

    Returns
    -------
    KeyReport
        Unexpected names are warned about as well.

    Raises
    ------
    DataError
        If a tensor is missing, of another shape or not finite, or the file is of a deeper network, of another encoder
        or fine-tuned. The module is then unchanged.
    """
    target = module.state_dict()
    state = weights.state
    _refuse_fine_tuned(facts, weights)
    sources, prefix = _choose_layout(facts, state, list(target))

    missing = [
        name for ours, names in sources.items() if not _may_be_absent(ours) for name in names if name not in state
    ]
    if missing:
        raise DataError(
            f"{weights.file} lacks {len(missing)} of the {sum(map(len, sources.values()))} tensors of {facts.title}: "
            f"{_some(missing)}{_whose(facts, state)}"
        )
    used = {name for names in sources.values() for name in names if name in state}
    dropped, unexpected = _sort_rest(facts, [name for name in state if name not in used], prefix)
    _refuse_other_networks(facts, weights, used, unexpected)

    loaded: dict[str, Tensor] = {}
    wrong: list[str] = []
    for ours, names in sources.items():
        if any(name not in state for name in names):
            loaded[ours] = target[ours]  # a counter, as checked above
            continue
        wanted = target[ours]
        parts = [state[name].to(wanted.dtype) for name in names]
        shapes = {tuple(part.shape) for part in parts}
        whole = torch.cat(parts) if len(parts) > 1 and len(shapes) == 1 and min(map(len, shapes)) else parts[0]
        if len(shapes) > 1 or whole.shape != wanted.shape:
            wrong.append(_wrong_shape(ours, names, parts, wanted))
        elif not torch.isfinite(whole).all():
            wrong.append(f"{names[0]} holds values that are not finite")
        loaded[ours] = whole
    if wrong:
        raise DataError(f"{weights.file} does not fit {facts.title}: {_some(wrong, '; ')}{_whose(facts, state)}")
    module.load_state_dict(loaded, strict=True)
    if unexpected:
        warnings.warn(
            f"{weights.file} holds {len(unexpected)} tensors that {facts.title} has no place for, and which were not "
            f"loaded: {_some(unexpected)}.",
            stacklevel=2,
        )
    return KeyReport(tuple(sorted(used)), tuple(sorted(dropped)), tuple(sorted(unexpected)))


def _choose_layout(facts: ImageFacts | TextFacts, state: dict[str, Tensor], names: list[str]) -> tuple[Sources, str]:
    """The layout and prefix under which most of the network's names are in the file; of equals the first."""
    layouts = LAYOUTS.get(facts.name, (same_names,)) if isinstance(facts, ImageFacts) else TEXT_LAYOUTS
    choices = [(layout(names, prefix), prefix) for prefix in facts.prefixes for layout in layouts]
    return max(choices, key=lambda choice: sum(name in state for group in choice[0].values() for name in group))


def _may_be_absent(name: str) -> bool:
    return name.endswith(COUNTERS)


def _sort_rest(facts: ImageFacts | TextFacts, names: list[str], prefix: str) -> tuple[list[str], list[str]]:
    """Names that are not loaded, as (dropped, unexpected)."""
    known = facts.dropped  # names in the file, or behind the prefix
    dropped = [
        name
        for name in names
        if name.startswith(known) or name.removeprefix(prefix).startswith(known) or name.endswith(COUNTERS)
    ]
    return dropped, [name for name in names if name not in dropped]


def _refuse_fine_tuned(facts: ImageFacts | TextFacts, weights: Weights) -> None:
    """A masked autoencoder fine-tuned on pooled patches has lost the final norm that frozen tokens need."""
    if facts.name not in ("medical_mae", "mrm"):
        return
    for prefix in facts.prefixes:
        if f"{prefix}fc_norm.weight" in weights.state and f"{prefix}norm.weight" not in weights.state:
            raise DataError(
                f"{weights.file} is a fine-tuned file of {facts.title} (it has fc_norm and no norm, so its encoder is "
                f"no longer the pre-trained one): give the pre-trained file, {facts.files[0]}."
            )


def _refuse_other_networks(
    facts: ImageFacts | TextFacts, weights: Weights, used: set[str], unexpected: list[str]
) -> None:
    """Refuse files whose names contain all of this encoder's, and yet are another network's."""
    patterns = {re.sub(r"\d+", "#", name) for name in used}
    deeper = [name for name in unexpected if re.sub(r"\d+", "#", name) in patterns]
    if deeper:
        raise DataError(
            f"{weights.file} is of a deeper network than {facts.title}: it also has {_some(deeper)}; give the file of "
            f"the {getattr(facts, 'architecture', 'text encoder')}."
        )
    title, encoders = looks_like(weights.state)
    strangers = unexpected or title == "Medical MAE"  # whose decoder's names are on MRM's drop list too
    if strangers and title and facts.name not in encoders:
        raise DataError(f"{weights.file} is no file of {facts.title}{_whose(facts, weights.state)}")


def _whose(facts: ImageFacts | TextFacts, state: dict[str, Tensor]) -> str:
    """End of a sentence: whose file this seems to be, and what to do."""
    title, encoders = looks_like(state)
    if title and facts.name not in encoders:
        return f"; its names look like {title}: give the file of {facts.title} ({', '.join(facts.files)})."
    return f"; the file may be cut, changed or of another version: get it from {facts.source}."


def _wrong_shape(ours: str, names: tuple[str, ...], parts: list[Tensor], wanted: Tensor) -> str:
    """What is wrong with a shape, in words."""
    shapes = " and ".join(str(tuple(part.shape)) for part in parts)
    expected = tuple(wanted.shape)
    if len(names) > 1:
        expected = (expected[0] // len(names), *expected[1:])
    if ours.endswith("pos_embed") and parts[0].ndim == 3 and parts[0].shape[-1] == expected[-1]:
        return (
            f"{names[0]} has {parts[0].shape[1]} positions where the network has {expected[1]} (trained at another "
            "input size; position embeddings are not resampled silently)"
        )
    return f"{', '.join(names)} has shape {shapes} where {expected} is expected"


def _some(names: list[str], separator: str = ", ", most: int = 8) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more
