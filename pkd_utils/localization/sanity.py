"""Do maps depend on what the model learned, and do they survive another seed?

Randomisation (Adebayo et al., 2018): replace the weights of the layers from the head downwards by fresh random ones,
stage by stage ("cascading"), or of one layer at a time ("independent"), and compare each image's map with the trained
model's by Spearman's rank correlation. A map that stays the same does not show what the model learned. Stability: the
same correlation between the maps of two seeds of one method. Neither is in the paper.

Maps are compared on the patch grid, before they are enlarged: neighbouring pixels of an enlarged map repeat each other.
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pkd_utils.runs.checked import checked


def rank_correlations(a, b) -> np.ndarray:
    """Spearman's rank correlation of every finite map (N, H, W) with its partner, float64 (N,); ties by midranks.

    NaN where a map is constant: it has no order.
    """
    ranks = []
    for maps in (np.asarray(a), np.asarray(b)):
        rank = rankdata(maps.reshape(len(maps), -1), axis=1)
        ranks.append(rank - rank.mean(1, keepdims=True))
    one, other = ranks
    with np.errstate(invalid="ignore"):
        return (one * other).sum(1) / np.sqrt((one**2).sum(1) * (other**2).sum(1))


def stages(model: VisionTransformer) -> dict[str, list[str]]:
    """Names in `model.state_dict()` by stage, from the head down: head, blocks from last to first, patch embedding.

    Every tensor is in one stage. The head includes the final norm; the embedding includes class token, registers and
    position embedding.
    """
    blocks = {f"blocks.{k}.": f"block {k}" for k in reversed(range(len(model.blocks)))}
    start = {**dict.fromkeys(("head", "norm.", "fc_norm.", "attn_pool."), "head"), **blocks, "": "patch embedding"}
    found: dict[str, list[str]] = {stage: [] for stage in start.values()}
    for name in model.state_dict():
        found[next(stage for prefix, stage in start.items() if name.startswith(prefix))].append(name)
    return found


def with_fresh_stages(model: VisionTransformer, fresh: VisionTransformer, chosen: list[str]) -> VisionTransformer:
    """A copy of `model` whose stages named in `chosen` hold the tensors of `fresh`; both stay as they are."""
    own, other, by_stage = model.state_dict(), fresh.state_dict(), stages(model)
    mixed = copy.deepcopy(model)
    mixed.load_state_dict({**own, **{key: other[key] for name in chosen for key in by_stage[name]}})
    return mixed


@checked
def randomisation(
    model: VisionTransformer,
    fresh: VisionTransformer,
    maps_of: Callable[[nn.Module], Mapping[str, np.ndarray]],
    mode: Literal["cascading", "independent"] = "cascading",
) -> pd.DataFrame:
    """Rank correlation of the trained model's maps with those of partly random models.

    Parameters
    ----------
    model, fresh : timm VisionTransformer
        Trained and untrained, of one architecture; see `students.random_student`.
    maps_of : maps of the same images under a model, {name: (N, h, w)}
    mode : randomise a stage and all before it (the head is the first, "patch embedding" the last), or that stage alone

    Returns
    -------
    DataFrame
        map, stage, rank_correlation (mean over images where it is defined), images, undefined (images with a constant
        map). A map of the last layer's attention cannot depend on the head: it stays at 1 there.
    """
    trained = maps_of(model)
    names = list(stages(model))
    rows = []
    for k, stage in enumerate(names):
        changed = maps_of(with_fresh_stages(model, fresh, names[: k + 1] if mode == "cascading" else [stage]))
        rows += [{"map": name, "stage": stage, **_summary(maps, changed[name])} for name, maps in trained.items()]
    return pd.DataFrame(rows)


def seed_stability(maps: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """Mean rank correlation of the maps of every pair of seeds, image by image; no rows with a single seed.

    Parameters
    ----------
    maps : {seed: (N, h, w)}, the same images in the same order

    Returns
    -------
    DataFrame: seed_a, seed_b, rank_correlation, images, undefined, as of `randomisation`
    """
    rows = [
        {"seed_a": a, "seed_b": b, **_summary(maps[a], maps[b])} for a, b in itertools.combinations(sorted(maps), 2)
    ]
    return pd.DataFrame(rows, columns=["seed_a", "seed_b", "rank_correlation", "images", "undefined"])


def _summary(one, other) -> dict:
    values = rank_correlations(one, other)
    defined = values[~np.isnan(values)]
    mean = float(defined.mean()) if len(defined) else np.nan
    return {"rank_correlation": mean, "images": len(values), "undefined": len(values) - len(defined)}
