"""Matched encoders asked about patients that they have not seen: what did the objective of their pretraining leave?

`stand_ins` makes the encoders; here are their tokens, and the contrasts of kinds of pretraining, whose intervals cross
pretraining seeds with patients: partition r of `transfer.experiment` takes seed r of every kind.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from scipy import stats
from timm.models.vision_transformer import VisionTransformer

from pkd_utils.distillation.loop import private_randomness
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.seeds import stream
from pkd_utils.statistics.comparisons import holm
from pkd_utils.studies.figures import OKABE_ITO, panels
from pkd_utils.studies.stand_ins import STATISTICS, Learner, PretrainingConfig
from pkd_utils.studies.transfer import arms
from pkd_utils.studies.transfer.protocol import Protocol
from pkd_utils.studies.transfer.statistic import Resamples

UNTRAINED = "untrained"
NAMES = {
    "untrained": "untrained",
    "image_ssl": "image self-supervision",
    "alignment": "alignment with reports",
    "masked": "masked image and report",
}
"""What readers call the kinds of pretraining."""
STYLES = {
    "untrained": ("black", "X"),
    "image_ssl": ("orange", "o"),
    "alignment": ("blue", "s"),
    "masked": ("bluish green", "D"),
}
"""Colour and marker of the kinds of pretraining that figures show."""


def read_encoder(folder: Path) -> VisionTransformer:
    """The backbone that a finished run of reports/00-pretrain-stand-ins made, in evaluation mode on the CPU."""
    model = untrained_encoder(files.read_json(folder / "run.json")["settings"], 0)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def untrained_encoder(settings: dict[str, int], seed: int) -> VisionTransformer:
    """The same network with the weights that pretraining by image self-supervision starts from with a seed.

    `settings` holds `image_size`, `patch_size`, `width`, `depth` and `heads` of `PretrainingConfig`.
    """
    with private_randomness(torch.device("cpu")):
        torch.manual_seed(stream(seed, 0, 0))
        return Learner(PretrainingConfig(objective="image_ssl", **settings), None).backbone.eval().requires_grad_(False)


def token_features(model: VisionTransformer, pixels: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Class token beside the mean patch token of the last layer, (N, 2 width) float32, of pictures (N, S, S) uint8.

    Alignment trains the one, masked pixels the other.
    """
    mean, std = (values[0] for values in STATISTICS)
    found = []
    for start in range(0, len(pixels), batch_size):
        few = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch_size]))
        tokens = model.forward_features(((few / 255 - mean) / std)[:, None].expand(-1, 3, -1, -1))
        found.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).numpy())
    return np.concatenate(found)


def seeds_by_kind(runs: Sequence[tuple[str, dict]]) -> dict[str, dict[int, str]]:
    """Objective -> pretraining seed -> run, of (run, its parameters); all must have made comparable encoders.

    Raises
    ------
    DataError
        If two runs differ in more than objective, seed and text, two are of one objective and seed, or the objectives
        have other seeds.
    """
    free = ("objective", "seed", "run", "text_encoder", "text_weights", "word_mask_ratio", "publish", "device")
    found, first = {}, None
    for name, parameters in runs:
        fixed = {key: value for key, value in parameters.items() if key not in free}
        first = first or (name, fixed)
        other = [key for key in fixed if fixed[key] != first[1].get(key)]
        if other:
            raise DataError(
                f"{name} and {first[0]} differ in {', '.join(other)}, not in their objective alone: leave one out."
            )
        seeds = found.setdefault(parameters["objective"], {})
        if parameters["seed"] in seeds:
            raise DataError(f"{name} and {seeds[parameters['seed']]} are of one objective and seed: name one of them.")
        seeds[parameters["seed"]] = name
    for objective, seeds in found.items():
        one = next(iter(found))
        if set(seeds) != set(found[one]):
            raise DataError(
                f"{objective} has seeds {sorted(seeds)}, {one} {sorted(found[one])}: pretrain the same ones."
            )
    return found


def score(found: Resamples, report: str | None = None) -> Resamples:
    """AUROC of image-only heads of a cell, or what a teacher (an arm) adds to it."""
    alone = found.arm(arms.IMAGE_ONLY)
    return found.arm(report) - alone if report else alone


def contrasts(
    found: dict[tuple[str, str], Resamples],
    pairs: Sequence[Sequence[str]],
    protocol: Protocol,
    outcome: str,
    report: str | None = None,
) -> pd.DataFrame:
    """Every pair of kinds of pretraining against each other at every size, on one outcome.

    Parameters
    ----------
    found : of `statistic.resampled` or `with_means`
    pairs : (kind, other kind), names of `Setting.image`
    report : None for image-only heads; an arm for what it gains over them

    Returns
    -------
    DataFrame: kind, against, size, difference, low, high (percentile interval), p (two-sided), p_holm (over the rows),
    detectable (with the protocol's power where the rows share the level), reading

    """
    names = {(setting.image, setting.size): name for name, setting in protocol.settings.items()}
    rows, level = [], protocol.level
    for size in dict.fromkeys(size for _, size in names):
        for kind, other in pairs:
            one, two = (score(found[names[who, size], outcome], report) for who in (kind, other))
            difference, drawn = (one - two).sampled()
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
            p = min(1.0, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn)))
            rows.append((kind, other, size, difference, low, high, p, drawn.std(ddof=1)))
    columns = ["kind", "against", "size", "difference", "low", "high", "p", "error"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = holm(table["p"])
    bar = stats.norm.isf((1 - level) / 2 / len(table)) + stats.norm.ppf(protocol.power)
    table["detectable"] = bar * table.pop("error")
    table["reading"] = [_reading(row, protocol) for row in table.itertuples()]
    return table


def _reading(row, protocol: Protocol) -> str:
    if row.p_holm <= 1 - protocol.level:
        return "better" if row.difference > 0 else "worse"
    return "no difference" if -protocol.margin < row.low and row.high < protocol.margin else "cannot tell"


def sentences(table: pd.DataFrame, what: str) -> list[str]:
    """One sentence a row of `contrasts`; `what` is compared."""
    said = []
    for row in table.itertuples():
        end = f" (would have told {row.detectable:.3f})" if row.reading == "cannot tell" else ""
        pair = f"{NAMES[row.kind]} less {NAMES[row.against]}"
        said.append(f"{what}, {row.size} training studies, {pair}: {row.difference:+.3f} "
                    f"({row.low:+.3f} to {row.high:+.3f}): {row.reading}{end}.")  # fmt: skip
    return said


def aurocs(found: dict[tuple[str, str], Resamples], protocol: Protocol) -> pd.DataFrame:
    """AUROC of the image-only heads of every cell with its interval: kind, size, outcome, auroc, low, high."""
    rows, level = [], protocol.level
    for (name, outcome), cell in found.items():
        auroc, drawn = score(cell).sampled()
        ends = np.clip(np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]), 0, 1)
        setting = protocol.settings[name]
        rows.append((setting.image, setting.size, outcome, auroc, *ends))
    return pd.DataFrame(rows, columns=["kind", "size", "outcome", "auroc", "low", "high"])


def kinds_figure(table: pd.DataFrame, outcomes: Sequence[str]) -> Figure:
    """AUROC of image-only heads by outcome, with intervals: a panel a training size, a mark a kind of pretraining."""
    sizes, kinds = list(table["size"].unique()), list(table["kind"].unique())
    height = 0.62 * len(outcomes) + 1.2
    figure, axes = panels(len(sizes), len(sizes), 3.1, height, beside=1.4, sharey=True, sharex=True)
    offsets = np.linspace(-0.3, 0.3, len(kinds)) if len(kinds) > 1 else [0.0]
    for ax, size in zip(axes, sizes, strict=True):
        for kind, offset in zip(kinds, offsets, strict=True):
            colour, marker = STYLES[kind]
            rows = table[(table["size"] == size) & (table["kind"] == kind)].set_index("outcome").loc[list(outcomes)]
            y = np.arange(len(outcomes)) + offset
            ax.hlines(y, rows["low"], rows["high"], color=OKABE_ITO[colour], linewidth=2)
            ax.plot(rows["auroc"], y, marker, color=OKABE_ITO[colour], markersize=6, label=NAMES[kind])
        ax.axvline(0.5, color="0.5", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        ax.set_yticks(range(len(outcomes)), list(outcomes))
        ax.set(ylim=(len(outcomes) - 0.5, -0.5), xlabel="AUROC", title=f"{size} training studies")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
