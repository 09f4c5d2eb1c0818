"""From the names in a checkpoint to the names of our networks, with a strict account of every key."""

import dataclasses
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pkd_utils.encoders.facts import Facts
from pkd_utils.encoders.weights import Weights, read_weights, some
from pkd_utils.encoders.zoo.whose import RECOGNISED, looks_like, told
from pkd_utils.runs.errors import DataError

# Buffers that are no weights: a counter of training steps, and the numbers 0 ... 511 that old BERT files carry.
COUNTERS = ("num_batches_tracked", "position_ids")


@dataclass(frozen=True)
class KeyReport:
    """Account of a checkpoint's names, as in the file."""

    found: tuple[str, ...]  # loaded into the network
    dropped: tuple[str, ...]  # of a head, decoder, text tower or a part that the chosen feature does not need
    unexpected: tuple[str, ...]  # the rest
    told: bool  # whether they are this encoder's own, and not those of every network of its kind


def load_file(facts: Facts, path: str | Path, module: nn.Module) -> tuple[Weights, KeyReport]:
    """Read a file or folder and load it into a network; what was read comes back without its tensors."""
    weights = read_weights(path, prefer=facts.files)
    keys = load_state(facts, weights, module)
    return dataclasses.replace(weights, state={}), keys


def load_state(facts: Facts, weights: Weights, module: nn.Module) -> KeyReport:
    """Load a checkpoint into a network in place; every parameter and buffer must come from the file.

    Weights may be of any floating dtype, and take the network's. `module` is the encoder without heads, named as timm,
    torchvision or transformers' BertModel name it. Unexpected names are warned about as well.

    Raises
    ------
    DataError
        If a tensor is missing, of another shape or not finite, or the file is of a deeper network, of another encoder
        or fine-tuned. The module is then unchanged.
    """
    target, state = module.state_dict(), weights.state
    never = tuple(prefix + start for prefix in facts.prefixes for start in facts.never if start not in facts.dropped)
    foreign = [name for name in state if name.startswith(never)]
    for name, outputs in facts.outputs.items():
        heads = [prefix + name for prefix in facts.prefixes if prefix + name in state]
        foreign += [f"{head} of {len(state[head])} outputs" for head in heads if len(state[head]) != outputs]
    if foreign:
        raise DataError(
            f"{weights.file} is a fine-tuned file of {facts.title} or another network: the original never has "
            f"{some(foreign)}; give the pre-trained file, {facts.files[0]}."
        )
    # The layout and prefix under which most of the network's names are in the file; of equals the first.
    choices = [(layout(list(target), prefix), prefix) for prefix in facts.prefixes for layout in facts.layouts]
    sources, prefix = max(
        choices, key=lambda choice: sum(name in state for group in choice[0].values() for name in group)
    )
    sources = {ours: names for ours, names in sources.items() if not ours.endswith(COUNTERS) or names[0] in state}
    used = {name for names in sources.values() for name in names}
    missing = [name for names in sources.values() for name in names if name not in state]
    if missing:
        raise DataError(
            f"{weights.file} lacks {len(missing)} of the {len(used)} tensors of {facts.title}: "
            f"{some(missing)}{_whose(facts, state)}"
        )
    rest = [name for name in state if name not in used]
    beside = (*facts.dropped, *(prefix + start for start in facts.dropped))
    dropped = [name for name in rest if name.startswith(beside) or name.endswith(COUNTERS)]
    unexpected = [name for name in rest if name not in dropped]
    _refuse_other_networks(facts, weights, used, unexpected)

    loaded: dict[str, Tensor] = {}
    wrong: list[str] = []
    for ours, names in sources.items():
        parts = [state[name].to(target[ours].dtype) for name in names]
        shape = tuple(target[ours].shape)
        shape = shape if len(names) == 1 else (shape[0] // len(names), *shape[1:])
        if any(part.shape != shape for part in parts):
            wrong.append(_wrong_shape(ours, names, parts, shape))
            continue
        loaded[ours] = parts[0] if len(names) == 1 else torch.cat(parts)
        if not torch.isfinite(loaded[ours]).all():
            wrong.append(f"{names[0]} holds values that are not finite")
    if wrong:
        raise DataError(f"{weights.file} does not fit {facts.title}: {some(wrong, '; ')}{_whose(facts, state)}")
    own = told(state)
    if facts.foreign and not own and (why := facts.foreign(loaded)):
        raise DataError(f"{weights.file} is no file of {facts.title}: {why}; give the pre-trained {facts.files[0]}.")
    module.load_state_dict(target | loaded)
    if unexpected:
        warnings.warn(
            f"{weights.file} holds {len(unexpected)} tensors that {facts.title} has no place for, and which were not "
            f"loaded: {some(unexpected)}.",
            stacklevel=2,
        )
    return KeyReport(tuple(sorted(used)), tuple(sorted(dropped)), tuple(sorted(unexpected)), own)


def _refuse_other_networks(facts: Facts, weights: Weights, used: set[str], unexpected: list[str]) -> None:
    """Refuse files whose names contain all of this encoder's, and yet are another network's."""
    patterns = {re.sub(r"\d+", "#", name) for name in used}
    deeper = [name for name in unexpected if re.sub(r"\d+", "#", name) in patterns]
    if deeper:
        raise DataError(
            f"{weights.file} is of a deeper network than {facts.title}: it also has {some(deeper)}; give the file of "
            f"the {getattr(facts, 'architecture', 'text encoder')}."
        )
    title, encoders = looks_like(weights.state)
    if title and facts.name in RECOGNISED and facts.name not in encoders:
        raise DataError(f"{weights.file} is no file of {facts.title}{_whose(facts, weights.state)}")


def _whose(facts: Facts, state: dict[str, Tensor]) -> str:
    """End of a sentence: whose file this seems to be, and what to do."""
    title, encoders = looks_like(state)
    if title and facts.name not in encoders:
        return f"; its names look like {title}: give the file of {facts.title} ({', '.join(facts.files)})."
    return f"; the file may be cut, changed or of another version: get it from {facts.source}."


def _wrong_shape(ours: str, names: tuple[str, ...], parts: list[Tensor], expected: tuple[int, ...]) -> str:
    if ours.endswith("pos_embed") and parts[0].ndim == 3 and parts[0].shape[-1] == expected[-1]:
        return (
            f"{names[0]} has {parts[0].shape[1]} positions where the network has {expected[1]} (trained at another "
            "input size; position embeddings are not resampled silently)"
        )
    shapes = " and ".join(str(tuple(part.shape)) for part in parts)
    return f"{', '.join(names)} has shape {shapes} where {expected} is expected"
