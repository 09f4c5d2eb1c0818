"""What there is to know of a frozen encoder, and how it is written down; the encoders themselves are in zoo/.

The loaders, the tests and the book page read them alike. Sources are the encoders' own papers and repositories.
"paper" preprocessing is what Bergström et al. state in their appendix A; "native" is what the encoder's authors
evaluate with. What Bergström et al. do not state (token layer, class token, channels, upsampling) is an argument of
`load_image_encoder` whose default stands in the table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pkd_utils.runs.errors import DataError

if TYPE_CHECKING:  # the table is read without torch
    from torch import Tensor, nn

Sources = dict[str, tuple[str, ...]]
"""Name in the network -> names in the file; several are joined along the first dimension (query, key, value)."""
Layout = Callable[[list[str], str], Sources]
"""(names in the network, prefix in the file) -> Sources."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNIT_RANGE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixel values stay in 0 ... 1

CLASSIFIERS = ("head.", "head_dist.", "fc_norm.", "pre_logits.", "classifier.", "qa_outputs.")
"""Heads as timm, MAE and transformers name them."""


def grey(mean: float, std: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One mean and standard deviation for all three channels."""
    return (mean,) * 3, (std,) * 3


def same_names(names: list[str], prefix: str) -> Sources:
    """The network's own names behind a prefix: timm, torchvision and BERT as most projects save them."""
    return {name: (prefix + name,) for name in names}


def replace_start(name: str, table: dict[str, str]) -> str:
    """`name` with the first entry of `table` that it starts with replaced."""
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def known(table: dict, name: str, what: str, words: dict | None = None):
    """The entry of this name; DataError lists the names that there are, with their `words`."""
    if name not in table:
        listed = "; ".join(f"{key} ({words[key]})" for key in words) if words else ", ".join(table)
        raise DataError(f"{name!r} is no {what}; there are: {listed}.")
    return table[name]


@dataclass(frozen=True)
class Preprocessing:
    """From a stored image to the network's input: resize, centre crop, 0 ... 1, normalise."""

    resize: int  # pixels; which side it fixes says `rule`
    crop: int  # side of the centre crop in pixels: the network's input
    statistics: tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, three values each
    # "bilinear" or "bicubic": PIL's, with antialiasing; "area": OpenCV's INTER_AREA, the mean over the stored area of
    # each pixel (enlarging, its own kind of bilinear)
    interpolation: str = "bilinear"
    # "shorter": the shorter side becomes `resize`, the aspect ratio stays; "pad_longest": the longer side, the rest is
    # black, centred
    rule: str = "shorter"
    grey: str = ""  # colour becomes luma before the resize ("first") or after the crop ("last")
    # Pixel values are mapped from the image's own minimum and maximum to 0 ... 255 first, cut to whole numbers; of more
    # than 8 bits in this one step, whatever `depth` says.
    stretch: bool = False
    # Where the centre crop starts if an odd number of pixels is cut off: "round" to even as in torchvision, or "floor"
    # as in transformers.
    centre: str = "round"

    def __str__(self) -> str:
        """In words, for the table."""
        side = {"shorter": "shorter side", "pad_longest": "longer side, padded,"}[self.rule]
        each = [values if len(set(values)) > 1 else values[:1] for values in self.statistics]
        numbers = " / ".join(", ".join(f"{value:.4g}" for value in values) for values in each)
        first = "stretched to its own range, " if self.stretch else ""
        numbers = "0 to 1" if self.statistics == UNIT_RANGE else numbers
        return f"{first}{side} {self.resize} ({self.interpolation}), crop {self.crop}, {numbers}"


@dataclass(frozen=True)
class Feature:
    """One place where tokens can be read: its grid (rows, columns), its width and what it is.

    `stride`, in pixels of the network's input, is stated where an encoder enlarges its input and may be kept from it.
    """

    grid: tuple[int, int]
    width: int
    what: str
    stride: int = 0


@dataclass(frozen=True)
class Pretraining:
    """What an encoder saw before: Tables 1 and 8 of Bergström et al."""

    objective: str
    image_ssl: bool = False
    text: bool = False
    aligned: bool = False
    mimic: bool = False
    chexpert: bool = False
    nih: bool = False
    other: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What image and text encoders have in common."""

    name: str  # in code
    title: str  # in text
    files: tuple[str, ...]  # names as downloaded; "folder" stands for a Hugging Face folder
    source: str  # where to get it
    licence: str
    cite: str  # key in book/references.bib
    parameters: int  # of the network as loaded, without poolers and heads
    prefixes: tuple[str, ...] = ("",)  # of the encoder in the files; the one that finds most names is taken
    dropped: tuple[str, ...] = ()  # beginnings of keys (prefix stripped or not) of heads, decoders, text towers
    # Beginnings of keys (prefix stripped) that the original file never has, and a fine-tuned one or another network
    # does: such a file is refused. What is in `dropped` it has.
    never: tuple[str, ...] = CLASSIFIERS
    # Name of a dropped head's weight (prefix stripped) to its outputs in the original; with others it is refused.
    outputs: dict[str, int] = field(default_factory=dict)
    # Of the tensors by our names, where those of the file do not say whose it is (`whose.told`): why they are another
    # network's; "" if they may be this one's.
    foreign: "Callable[[dict[str, Tensor]], str] | None" = None
    hub: str = ""  # its hub name, "" if it is on no hub
    notes: str = ""
    layouts: tuple[Layout, ...] = (same_names,)  # names under which its files occur; the one that finds most is taken
    revision: str = ""  # of the hub's files, where one is published; "" is the newest
    md5: dict[str, str] = field(default_factory=dict)  # file name to the MD5 published by the authors


@dataclass(frozen=True, kw_only=True)
class ImageFacts(Facts):
    """An image encoder."""

    architecture: str  # in words
    backbone: str  # name of the model in timm or torchvision that the weights are loaded into
    # (facts, feature) -> module of exactly the encoder's parameters; a projection only where the feature asks
    network: Callable[["ImageFacts", str], "nn.Module"]
    # (network, feature, x, enlarge) -> (B, N, D) tokens of x (B, 3, S, S), row-major, nothing behind the feature
    # computed; with a class token (B, 1 + N, D), that one first
    tokens: Callable[["nn.Module", str, "Tensor", bool], "Tensor"]
    preprocessing: dict[str, Preprocessing]  # "paper" (as Bergström et al. state), "native"; the first is the default
    features: dict[str, Feature]  # where tokens can be read; the first is the default
    pretraining: Pretraining
    class_token: bool = False  # whether the network has one
    options: dict[str, float] = field(default_factory=dict)  # of the backbone's constructor, such as another width
    enlarges: int = 0  # side in pixels that it enlarges its input to, unless it is kept from it; 0: it never does
    native: str = "the same"  # what its authors evaluate with, in words, where `preprocessing` has no "native"


@dataclass(frozen=True, kw_only=True)
class TextFacts(Facts):
    """A text encoder: a BERT in a Hugging Face folder."""

    lowercase: bool  # whether the vocabulary is uncased
    vocabulary: int  # tokens known
    layers: int  # transformer blocks
    width: int  # numbers a token
    longest: int  # tokens a text at most
    seen: str  # texts it was trained on before
    files: tuple[str, ...] = ("folder",)
    prefixes: tuple[str, ...] = ("bert.", "")
    dropped: tuple[str, ...] = (
        "cls.",
        "cls_projection_head.",
        "pooler.",
        "bert.pooler.",
        "embeddings.position_ids",  # 0, 1, 2 ...: older versions of transformers saved them
        "bert.embeddings.position_ids",
    )
    heads: int = 12  # a block
