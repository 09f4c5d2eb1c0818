"""What trained heads leave behind: one safetensors file a group of heads, read through `HeadResults`."""

import json
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pkd_utils.distillation.heads.modules import TEACHES, build_head
from pkd_utils.distillation.heads.specs import HeadSpec
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import sealed

Logits = dict[str, dict[int, torch.Tensor]]
"""Head -> epoch -> (rows, C) logits of its evaluation rows: validation rows, then test rows."""


class HeadResults:
    """All heads of one call of `fit_heads`; logits and weights are read from the files when asked for.

    `history` has one row a head and epoch: name, epoch (from 1), train_loss, validation_auc, validation_loss, test_auc,
    test_loss (NaN without test rows), seconds (of the epoch of the head's whole group, without the encoder's pass over
    live tokens, which groups share).
    """

    def __init__(
        self, specs: Sequence[HeadSpec], build: dict[str, Any], temporary: tempfile.TemporaryDirectory | None = None
    ):
        self.specs, self._build = {spec.name: spec for spec in specs}, build
        self._temporary = temporary  # a temporary folder lives as long as these results
        self.keys: dict[str, str] = {}  # what identifies each head
        self.elsewhere: set[str] = set()  # heads that another run has trained
        self._files: dict[str, Path] = {}
        self._histories: list[dict] = []

    def new_head(self, name: str) -> nn.Module:
        """The head as it starts."""
        spec = self.specs[name]
        return build_head(spec.method, seed=spec.draw, **self._build)

    def head(self, name: str) -> nn.Module:
        """The head at its best validation epoch, in evaluation mode; DataError if nobody learns from its method."""
        head = self.new_head(name).eval()
        prefix = f"{name}/weights/"
        with safe_open(self._files[name], "pt") as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (no mapping)
            weights = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
        if not weights:
            raise DataError(f"The weights of head {name!r} were not kept: only those of {', '.join(TEACHES)} are.")
        head.to(next(iter(weights.values())).dtype).load_state_dict(weights)
        return head

    @property
    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self._histories)

    def best_epoch(self, name: str, part: str = "validation") -> int:
        """First epoch with the highest AUC on the "validation" rows, or on the "test" rows."""
        return best_epoch([row for row in self._histories if row["name"] == name], part)

    def logits(self, name: str, part: str = "validation", epoch: int | str = "best") -> torch.Tensor:
        """Logits (rows, C) float32 on the "validation" or "test" rows, in their order in the spec.

        `epoch` is a number from 1 on, "best" (on the validation rows) or "last".

        Raises
        ------
        DataError
            If this epoch's logits were not kept (`HeadConfig.keep_logits`).
        """
        spec = self.specs[name]
        number = {"best": self.best_epoch(name), "last": spec.epochs}.get(epoch, epoch)
        with safe_open(self._files[name], "pt") as file:
            kept = file.get_tensor(f"{name}/epochs").tolist()
            if number not in kept:
                raise DataError(f"The logits of head {name!r} after epoch {number} were not kept: see keep_logits.")
            values = file.get_slice(f"{name}/logits")[kept.index(number)]
        split = len(spec.validation_rows)
        return values[:split] if part == "validation" else values[split:]

    def add(self, path: Path, names: Collection[str]) -> None:
        """Take in these heads of the file of a finished group."""
        with safe_open(path, "pt") as file:
            history = json.loads(file.metadata()["history"])
        self._histories += [row for row in history if row["name"] in names]
        self._files |= dict.fromkeys(names, path)


def best_epoch(history: Sequence[dict], part: str = "validation") -> int:
    """First epoch with the highest AUC among the rows of one head."""
    return max(history, key=lambda row: (row[f"{part}_auc"], -row["epoch"]))["epoch"]


def save_group(
    path: Path, history: list[dict], logits: Logits, weights: dict[str, torch.Tensor], keys: dict[str, str]
) -> None:
    """Write a group, whole: `weights` by "<head>/weights/<parameter>" or any other name, `keys` by head."""
    tensors = dict(weights)
    for name, epochs in logits.items():
        tensors[f"{name}/epochs"] = torch.tensor(list(epochs))
        tensors[f"{name}/logits"] = torch.stack(list(epochs.values()))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with sealed(path) as temporary:
        save_file(tensors, temporary, metadata={"history": json.dumps(history), "keys": json.dumps(keys)})


def find_heads(folders: Iterable[Path], keys: dict[str, str]) -> dict[Path, list[str]]:
    """Files of finished groups in these folders, each with those of its heads that have one of the `keys`, by head.

    A key is what identifies a head, so one that another run has trained is the same head.
    """
    found, wanted = {}, dict(keys)
    for path in sorted(path for folder in folders for path in Path(folder).glob("group-*.safetensors")):
        with safe_open(path, "pt") as file:
            there = json.loads(file.metadata().get("keys", "{}"))
        names = [name for name, key in there.items() if wanted.get(name) == key]
        found |= {path: names} if names else {}
        wanted = {name: key for name, key in wanted.items() if name not in names}
    return found


def load_group(path: Path) -> tuple[list[dict], Logits, dict[str, torch.Tensor]]:
    """What `save_group` wrote."""
    with safe_open(path, "pt") as file:
        history = json.loads(file.metadata()["history"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    logits: Logits = {}
    for name in [name for name in tensors if name.endswith("/epochs")]:
        head = name.removesuffix("/epochs")
        logits[head] = dict(zip(tensors.pop(name).tolist(), tensors.pop(f"{head}/logits"), strict=True))
    return history, logits, tensors
