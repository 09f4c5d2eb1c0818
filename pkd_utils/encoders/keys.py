"""From the names in a checkpoint to the names of our networks, with a strict account of every key."""

import re
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pkd_utils.encoders.facts import ImageFacts, Sources, TextFacts
from pkd_utils.encoders.weights import Weights, some
from pkd_utils.encoders.zoo.whose import looks_like
from pkd_utils.runs.errors import DataError

# Buffers that are no weights: a counter of training steps, and the numbers 0 ... 511 that old BERT files carry.
COUNTERS = ("num_batches_tracked", "position_ids")


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
            f"{some(missing)}{_whose(facts, state)}"
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
        raise DataError(f"{weights.file} does not fit {facts.title}: {some(wrong, '; ')}{_whose(facts, state)}")
    module.load_state_dict(loaded, strict=True)
    if unexpected:
        warnings.warn(
            f"{weights.file} holds {len(unexpected)} tensors that {facts.title} has no place for, and which were not "
            f"loaded: {some(unexpected)}.",
            stacklevel=2,
        )
    return KeyReport(tuple(sorted(used)), tuple(sorted(dropped)), tuple(sorted(unexpected)))


def _choose_layout(facts: ImageFacts | TextFacts, state: dict[str, Tensor], names: list[str]) -> tuple[Sources, str]:
    """The layout and prefix under which most of the network's names are in the file; of equals the first."""
    choices = [(layout(names, prefix), prefix) for prefix in facts.prefixes for layout in facts.layouts]
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
            f"{weights.file} is of a deeper network than {facts.title}: it also has {some(deeper)}; give the file of "
            f"the {getattr(facts, 'architecture', 'text encoder')}."
        )
    title, encoders = looks_like(weights.state)
    if unexpected and title and facts.name not in encoders:
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
