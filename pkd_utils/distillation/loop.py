"""The one training loop: epochs of AdamW steps with a schedule; a kill costs at most an epoch.

The state at the end of an epoch (weights, optimizer moments, best weights, history) lies in one safetensors file that
is replaced whole; it carries a checksum, and the epoch before stays beside it in case it is damaged. Whoever gives the
batches draws them from (seed, epoch) alone, and seeds torch for dropout there. So an interrupted training ends in the
same bits as an uninterrupted one (same machine, same number of threads; on a GPU as far as its kernels are
deterministic). Students, text teachers and the stand-ins' pretraining run here; heads, which are trained hundreds at
once, have a loop of their own (`heads/training.py`).
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import last_whole, sealed
from pkd_utils.runs.machine import autocast

CHECKPOINT = "checkpoint.safetensors"
GRADIENT_CLIP = 1.0  # largest norm of the gradient
MOMENTS = ("exp_avg", "exp_avg_sq")


def learning_rate_at(
    step: int, total: int, warmup: int, peak: float, decay: Literal["cosine", "linear"] = "cosine"
) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then down to 0 at step `total`; steps count from 0."""
    if decay == "linear":
        return peak * ((step + 1) / warmup if step < warmup else (total - step) / max(1, total - warmup))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def private_randomness(device: torch.device):
    """A context in which torch's random state may be set: the caller's is as before afterwards."""
    kind = {} if device.type == "cpu" else {"devices": [device.index or 0], "device_type": device.type}
    return torch.random.fork_rng(**{"devices": [], **kind})


class Loop:
    """One training: a model, its optimizer, and where they stand; takes up the checkpoint that it finds.

    Parameters
    ----------
    model : module, on the device where it is to be trained
    groups : as AdamW takes them, "params", "lr" (the peak of its schedule) and "weight_decay" of each
    path : of the checkpoint
    identity : hash of everything that the training depends on; a checkpoint of another identity is refused
    epochs, steps : passes over the data, and batches in each
    precision : "fp32", or "bf16": losses are computed under autocast; a checkpoint's precision is kept
    warmup : steps of it; decay : see `learning_rate_at`
    criterion : column of the history whose first maximum is the best epoch; without it no best weights are kept
    patience : stop after so many epochs without a better criterion
    clipped : parameters whose gradient's norm is clipped, default all
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[dict[str, Any]],
        path: Path,
        identity: str,
        epochs: int,
        steps: int,
        *,
        precision: str = "fp32",
        warmup: int = 0,
        decay: Literal["cosine", "linear"] = "cosine",
        criterion: str | None = None,
        patience: int | None = None,
        clipped: Iterable[nn.Parameter] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        self.model, self.path, self.identity, self.epochs, self.steps = model, path, identity, epochs, steps
        self.precision, self.warmup, self.decay = precision, warmup, decay
        self.criterion, self.patience = criterion, patience
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.clipped = list(self.trained.values() if clipped is None else clipped)
        self.device = self.clipped[0].device
        self.optimizer = torch.optim.AdamW([{**g, "peak": g["lr"]} for g in groups], betas=betas, fused=True)
        self.history: list[dict[str, float]] = []  # a row an epoch
        self.best: dict[str, torch.Tensor] = {}  # trained parameters of the best epoch so far
        self.sessions = 1  # times that this training was started or taken up
        self._load()

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """First epoch with the highest criterion, counted from 1; 0 before the first epoch."""
        return max(self.history, key=lambda row: (row[self.criterion], -row["epoch"]), default={"epoch": 0})["epoch"]

    def run(
        self,
        batches: Callable[[int], Iterable[tuple[int, Any]]],
        losses: Callable[[Any], dict[str, torch.Tensor]],
        validate: Callable[[], dict[str, float]] = dict,
        title: str = "training",
        progress: bool = True,
    ) -> None:
        """Train to the last epoch; a loss that is not finite is refused, the last good epoch stays in the checkpoint.

        Parameters
        ----------
        batches : epoch (from 1) -> iterable of (number of cases, batch); anything random is a function of the epoch
        losses : batch -> losses by name, scalars; the first one is minimised, the others go to the history too
        validate : () -> further columns of the history
        title : of the progress bar and of messages
        """
        with tqdm(total=self.epochs, initial=self.epoch, desc=title, unit="epoch", disable=not progress) as bar:
            while self.epoch < self.epochs and not self._out_of_patience():
                started = time.perf_counter()
                means = self.train_epoch(batches(self.epoch + 1), losses, title)
                row = {"epoch": self.epoch + 1, **means, **validate()}
                row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
                row["seconds"] = time.perf_counter() - started
                self.history.append(row)
                if self.criterion and self.best_epoch == self.epoch:
                    self.best = {name: value.detach().clone() for name, value in self.trained.items()}
                self._save()
                bar.set_postfix({name: f"{row[name]:.3f}" for name in (list(row)[1], self.criterion) if name})
                bar.update()

    def restore_best(self) -> None:
        """Put the parameters of the best epoch into the model."""
        self._put(self.best)

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.epoch > 0 and self.epoch - self.best_epoch >= self.patience

    def train_epoch(
        self,
        batches: Iterable[tuple[int, Any]],
        losses: Callable[[Any], dict[str, torch.Tensor]],
        title: str = "training",
    ) -> dict[str, float]:
        """The steps of the next epoch, see `run`; the mean of each loss over the cases."""
        self.model.train()
        cases = 0
        sums: dict[str, torch.Tensor] = {}
        for step, (count, batch) in enumerate(batches, start=self.epoch * self.steps):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(step, self.epochs * self.steps, self.warmup, group["peak"], self.decay)
            with autocast(self.device, self.precision):
                found = losses(batch)
            self.optimizer.zero_grad(set_to_none=True)
            next(iter(found.values())).backward()
            nn.utils.clip_grad_norm_(self.clipped, GRADIENT_CLIP)
            self.optimizer.step()
            cases += count
            for name, value in found.items():  # summed where they are, without waiting for the device
                sums[name] = sums.get(name, 0.0) + value.detach() * count
        means = {name: value.item() / cases for name, value in sums.items()}
        for name, value in means.items():
            if not math.isfinite(value):
                raise DataError(
                    f"The {title}'s {name} became {value} in epoch {self.epoch + 1}: lower the learning rate or use "
                    f"full precision; the epoch before is kept in {self.path.parent}."
                )
        return means

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.trained.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, parameter in enumerate(self._in_order()):
            moments = self.optimizer.state.get(parameter, {})  # empty where no gradient ever came
            tensors |= {f"optimizer.{i}.{name}": moments[name] for name in MOMENTS if name in moments}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        state = {"history": self.history, "sessions": self.sessions, "precision": self.precision}
        with sealed(self.path) as temporary:
            save_file(tensors, temporary, metadata={"identity": self.identity, "state": json.dumps(state)})

    def _load(self) -> None:
        path = last_whole(self.path)
        if path is None:
            return
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        if facts["identity"] != self.identity:
            raise DataError(
                f"{self.path} belongs to a training of other data, configuration or seed: give this one another "
                "folder of its own, or delete it."
            )
        state = json.loads(facts["state"])
        self.history, self.sessions, self.precision = state["history"], state["sessions"] + 1, state["precision"]
        tensors = load_file(path)
        self._put({name: tensors[f"model.{name}"] for name in self.trained})
        if self.criterion:
            self.best = {name: tensors[f"best.{name}"].to(self.device) for name in self.trained}
        done = torch.tensor(float(self.epoch * self.steps))
        for i, parameter in enumerate(self._in_order()):
            if f"optimizer.{i}.{MOMENTS[0]}" in tensors:
                moments = {name: tensors[f"optimizer.{i}.{name}"].to(self.device).clone() for name in MOMENTS}
                self.optimizer.state[parameter] = {"step": done.to(self.device).clone(), **moments}

    def _in_order(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def _put(self, state: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(state[name])
