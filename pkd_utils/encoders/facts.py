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
    """From a stored image to the network's input: resize, centre crop, 0 ... 1, normalise.

    Attributes
    ----------
    resize : int
        Pixels; which side it fixes says `rule`.
    crop : int
        Side of the centre crop in pixels: the network's input.
    statistics : (mean, std), three values each
    interpolation : {"bilinear", "bicubic", "area"}
        PIL's, with antialiasing; "area" is OpenCV's INTER_AREA, the mean over the stored area of each pixel (enlarging,
        its own kind of bilinear).
    rule : {"shorter", "pad_longest"}
        "shorter": the shorter side becomes `resize`, the aspect ratio stays. "pad_longest": the longer side becomes
        `resize`, the rest is black, centred.
    grey : {"", "first", "last"}
        Colour becomes luma before the resize, or after the crop (a grey image is the same either way).
    stretch : bool
        Pixel values are mapped from the image's own minimum and maximum to 0 ... 255 first, cut to whole numbers;
        of more than 8 bits in this one step, whatever `depth` says.
    centre : {"round", "floor"}
        Where the centre crop starts if an odd number of pixels is cut off: round to even as torchvision does, or
        down as transformers does.
    """

    resize: int
    crop: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    interpolation: str = "bilinear"
    rule: str = "shorter"
    grey: str = ""
    stretch: bool = False
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
    """What an encoder saw before: Tables 1 and 8 of Bergström et al.; None where those tables have no row."""

    objective: str
    image_ssl: bool | None
    text: bool | None
    aligned: bool | None
    mimic: bool | None
    chexpert: bool | None
    nih: bool | None
    other: bool | None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What image and text encoders have in common.

    Attributes
    ----------
    name, title : str
        As in code and as in text.
    files : tuple of str
        File names as downloaded; "folder" stands for a Hugging Face folder.
    source, hub, licence, cite : str
        Where to get it, its hub name ("" if it is on no hub), its licence, its key in book/references.bib.
    parameters : int
        Of the network as loaded, without poolers and heads.
    prefixes : tuple of str
        Prefixes of the encoder in the files, "" is none; the one that finds most names is taken.
    dropped : tuple of str
        Beginnings of keys (prefix stripped or not) that belong to no encoder: heads, decoders, text towers.
    never : tuple of str
        Beginnings of keys (prefix stripped) that the original file never has, and a fine-tuned one or another network
        does: such a file is refused. What is in `dropped` it has.
    outputs : dict
        Name of a dropped head's weight (prefix stripped) to its outputs in the original; with others it is refused.
    foreign : function, optional
        Of the tensors by our names, where those of the file do not say whose it is (`whose.told`): why they are another
        network's; "" if they may be this one's.
    layouts : tuple of functions
        Names under which its files occur, see `Layout`; the one that finds most of them is taken.
    revision : str
        Of the hub's files, where one is published; "" is the newest.
    md5 : dict
        File name to the MD5 published by the authors.
    """

    name: str
    title: str
    files: tuple[str, ...]
    source: str
    licence: str
    cite: str
    parameters: int
    prefixes: tuple[str, ...] = ("",)
    dropped: tuple[str, ...] = ()
    never: tuple[str, ...] = CLASSIFIERS
    outputs: dict[str, int] = field(default_factory=dict)
    foreign: "Callable[[dict[str, Tensor]], str] | None" = None
    hub: str = ""
    notes: str = ""
    layouts: tuple[Layout, ...] = (same_names,)
    revision: str = ""
    md5: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImageFacts(Facts):
    """An image encoder.

    Attributes
    ----------
    architecture : str
        In words.
    backbone : str
        Name of the model in timm or torchvision that the weights are loaded into.
    network : function
        (facts, feature) -> torch module of exactly the encoder's parameters; a projection only where the feature asks.
    tokens : function
        (network, feature, x, enlarge) -> (B, N, D) tokens of x (B, 3, S, S), row-major, nothing behind the feature
        computed; with a class token (B, 1 + N, D), that one first.
    preprocessing : dict of Preprocessing
        "paper" (as Bergström et al. state) and "native"; the first one is the default.
    native : str
        What its authors evaluate with, in words, where `preprocessing` has no "native".
    features : dict of Feature
        Where tokens can be read; the first one is the default.
    class_token : bool
        Whether the network has one.
    options : dict
        Arguments of the backbone's constructor beyond its name, such as another width.
    enlarges : int
        Side in pixels that the encoder enlarges its input to, unless it is kept from it; 0: it never does.
    """

    architecture: str
    backbone: str
    network: Callable[["ImageFacts", str], "nn.Module"]
    tokens: Callable[["nn.Module", str, "Tensor", bool], "Tensor"]
    preprocessing: dict[str, Preprocessing]
    features: dict[str, Feature]
    pretraining: Pretraining
    class_token: bool = False
    options: dict[str, float] = field(default_factory=dict)
    enlarges: int = 0
    native: str = "the same"


@dataclass(frozen=True, kw_only=True)
class TextFacts(Facts):
    """A text encoder: a BERT in a Hugging Face folder.

    Attributes
    ----------
    lowercase : bool
        Whether the vocabulary is uncased.
    vocabulary, layers, width, longest, heads : int
        Tokens known, transformer blocks, numbers a token, tokens a text at most, attention heads a block.
    seen : str
        Texts it was trained on before.
    """

    lowercase: bool
    vocabulary: int
    layers: int
    width: int
    longest: int
    seen: str
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
    heads: int = 12
