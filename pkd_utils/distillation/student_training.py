"""Train one student by equation (1) of the paper, so that a kill costs at most an epoch and changes nothing.

Every random number is a function of (seed, epoch): the order of the images, their augmentation, dropout. The state at
the end of an epoch (weights, optimizer moments, best weights, history) lies in one safetensors file that is replaced
whole. So an interrupted run ends in the same bits as an uninterrupted one (same machine, same number of threads; on a
GPU as far as its kernels are deterministic), and students that differ in `weight` alone start from the same weights and
see the same images in the same order: weight 0 is the baseline with everything else equal.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from pkd_utils.distillation.loss import distillation_loss
from pkd_utils.distillation.student_data import SPLITS, StudentData, check_student_data
from pkd_utils.distillation.students import (
    build_student,
    class_token_logits,
    input_statistics,
    predict_logits,
    save_student,
)
from pkd_utils.images.augment import AugmentationDraw, apply_augmentation, draw_augmentation
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import atomic_path, file_sha256, hash_params, read_json, write_csv, write_json, write_parquet
from pkd_utils.runs.machine import autocast, resolve_precision
from pkd_utils.runs.seeds import stream
from pkd_utils.statistics.metrics import macro_auroc

CHECKPOINT = "checkpoint.safetensors"


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """Everything that decides a student except data and seed. What no comment explains is not stated in the paper."""

    # model, see students.build_student; the paper's student is vit_tiny_patch16_224 with ImageNet weights
    name: str = "vit"
    image_size: int = 64
    patch_size: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 3
    channels: int = 1
    weights: str | None = None  # local file to start from
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    # loss, see distillation.distillation_loss; the temperature of equation (2) is already in the soft targets
    weight: float = 0.5  # lambda of equation (1); 0 is the baseline
    activation: str = "sigmoid"
    student_temperature: float = 1.0
    temperature_squared: bool = False
    soft_on_missing: bool = False
    # optimisation: AdamW, linear warm-up, cosine to zero, both per step
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05  # of matrices only, not of biases, norms, class token and positions
    warmup_epochs: float = 1.0
    gradient_clip: float | None = 1.0  # largest norm of the gradient
    patience: int | None = None  # stop after so many epochs without a better validation AUROC
    # augmentation, see augment.draw_augmentation
    degrees: float = 10.0
    translate: float = 0.05
    scale: tuple[float, float] = (0.9, 1.1)
    brightness: float = 0.1
    contrast: float = 0.1
    # machine
    device: str = "cpu"
    precision: str = "auto"  # fp32, bf16 (autocast) or auto: bf16 where the device multiplies it natively
    compile: bool = False  # torch.compile; pays off on a GPU or in long runs


class StudentResult(NamedTuple):
    """What `fit_student` returns and, in `folder`, leaves behind."""

    history: pd.DataFrame  # epoch, train_loss, validate_loss, validate_auroc, learning_rate, seconds
    best_epoch: int  # counted from 1
    predictions: pd.DataFrame  # image_id, split, one column of logits a label
    metrics: dict[str, Any]
    folder: Path


def fit_student(
    pixels: np.ndarray,
    targets: np.ndarray,
    soft_targets: np.ndarray | None,
    splits: Sequence[str],
    config: StudentConfig,
    folder: str | Path,
    seed: int,
    image_ids: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    progress: bool = True,
) -> StudentResult:
    """Train a student and predict every image with its best epoch; continues or returns what is already there.

    Parameters
    ----------
    pixels : (N, S, S) uint8 array or memory map, as `pack.pack_images` makes it
    targets : (N, K) float array of 1, 0, NaN (unknown); for softmax (N,) int64 class numbers
    soft_targets : (N, K) float array in [0, 1], or None with weight 0
        Equation (2). Only training rows are read; the others may be NaN.
    splits : N of "train", "validate", "test", or None/NaN for a row that is not used (counted in metrics.json)
    config : StudentConfig
    folder : path
        Holds checkpoint.safetensors while training; afterwards model.safetensors (the best epoch), history.csv,
        predictions.parquet and metrics.json (written last). A folder of another student is refused.
    seed : int
    image_ids : N strings; default row numbers
    labels : K strings, the columns of the predictions; default label_0 ...
    progress : bool, show a tqdm bar

    Returns
    -------
    StudentResult

    Raises
    ------
    DataError
        Arrays that do not fit together, values that the loss has no meaning for, a validation split without both
        classes, a loss that is not finite (the last good epoch stays in the checkpoint), or another student's folder.
    """
    folder = Path(folder)
    _check_config(config)
    data = check_student_data(
        pixels, targets, soft_targets, splits, config.image_size, config.activation, config.weight, image_ids, labels
    )
    settings = dataclasses.asdict(config)
    if config.weights is not None:
        settings["weights"] = file_sha256(config.weights)
    key = hash_params({"data": data.content_hash(), "config": settings, "seed": seed})
    if (folder / "metrics.json").exists():
        return _finished(folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(config.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return _Fit(data, config, folder, seed, key, device).run(progress)


def learning_rate_at(step: int, total: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps to `peak`, then a half cosine to 0 at step `total`; steps count from 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


class _Fit:
    """One training: model, optimizer, and where they stand."""

    def __init__(
        self, data: StudentData, config: StudentConfig, folder: Path, seed: int, key: str, device: torch.device
    ):
        self.data, self.config, self.folder, self.seed, self.key, self.device = data, config, folder, seed, key, device
        self.mean, self.std = input_statistics(config.name, config.channels)
        build = {n: getattr(config, n) for n in ("name", "image_size", "patch_size", "width", "depth", "heads",
                                                 "channels", "weights", "drop_rate", "drop_path_rate")}  # fmt: skip
        self.build = {**build, "n_labels": len(data.labels)}
        torch.manual_seed(stream(seed, 0, 0))
        self.model = build_student(**self.build).to(device)
        for block in self.model.blocks:
            # torch's fused attention is made for GPUs: on a CPU plain products are up to 3 times faster in bf16.
            block.attn.fused_attn = device.type != "cpu"
        self.forward = torch.compile(class_token_logits) if config.compile else class_token_logits
        matrices = [p for p in self.model.parameters() if p.ndim >= 2 and p.shape[0] != 1]
        others = [p for p in self.model.parameters() if not (p.ndim >= 2 and p.shape[0] != 1)]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self.parameters = matrices + others
        self.best = {n: t.detach().clone() for n, t in self.model.state_dict().items()}
        self.state = {"epoch": 0, "step": 0, "best_epoch": 0, "best_auroc": -math.inf, "history": [], "sessions": 1,
                      "precision": resolve_precision(config.precision, device)}  # fmt: skip
        self._load_checkpoint()
        self._place_data()

    def run(self, progress: bool) -> StudentResult:
        config, state = self.config, self.state
        with tqdm(
            total=config.epochs, initial=state["epoch"], desc="student", unit="epoch", disable=not progress
        ) as bar:
            while state["epoch"] < config.epochs and not self._out_of_patience():
                self._epoch(state["epoch"] + 1)
                self._save_checkpoint()
                bar.set_postfix_str(f"validation AUROC {state['history'][-1]['validate_auroc']:.3f}")
                bar.update()
        return self._finish()

    def _epoch(self, epoch: int) -> None:
        config, device, state = self.config, self.device, self.state
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(stream(self.seed, epoch, 1))
        rows = self.data.rows["train"]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        # One draw for the whole epoch: on a GPU one transfer, on a CPU no small-tensor overhead in each step.
        draw = draw_augmentation(len(rows), generator, config.degrees, config.translate, config.scale,
                                 config.brightness, config.contrast)  # fmt: skip
        torch.manual_seed(stream(self.seed, epoch, 2))  # dropout and stochastic depth
        steps = math.ceil(len(rows) / config.batch_size)  # of nearly equal size: no image is left out
        total, warmup = config.epochs * steps, round(config.warmup_epochs * steps)
        self.model.train()
        summed = torch.zeros((), device=device)
        pieces = zip(rows.tensor_split(steps), *(part.to(device).tensor_split(steps) for part in draw), strict=True)
        for batch_rows, *batch_draw in pieces:
            rate = learning_rate_at(state["step"], total, warmup, config.learning_rate)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            summed += self._step(batch_rows, AugmentationDraw(*batch_draw)) * len(batch_rows)
            state["step"] += 1
        train_loss = summed.item() / len(rows)
        if not math.isfinite(train_loss):
            raise DataError(
                f"The training loss became {train_loss} in epoch {epoch} (seed {self.seed}): lower the learning rate "
                f"({config.learning_rate}) or use precision fp32; epoch {epoch - 1} is kept in {self.folder}."
            )
        validate_loss, auroc = self._validate()
        state["history"].append({"epoch": epoch, "train_loss": train_loss, "validate_loss": validate_loss,
                                 "validate_auroc": auroc, "learning_rate": rate,
                                 "seconds": time.perf_counter() - started})  # fmt: skip
        state["epoch"] = epoch
        if auroc > state["best_auroc"]:
            state["best_auroc"], state["best_epoch"] = auroc, epoch
            self.best = {n: t.detach().clone() for n, t in self.model.state_dict().items()}

    def _step(self, rows: torch.Tensor, draw: AugmentationDraw) -> torch.Tensor:
        """One step of the optimizer; returns the batch's loss without waiting for the device."""
        config = self.config
        pixels = self.pixels.index_select(0, rows.to(self.pixels.device)).to(self.device, non_blocking=True)
        images = apply_augmentation(pixels, draw, self.mean, self.std)
        rows = rows.to(self.device, non_blocking=True)
        with autocast(self.device, self.state["precision"]):
            logits = self.forward(self.model, images)
        loss = distillation_loss(
            logits.float(), self.targets[rows], None if self.soft is None else self.soft[rows], config.weight,
            config.activation, config.student_temperature, config.temperature_squared, config.soft_on_missing,
            validate=False,
        )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        self.optimizer.step()
        return loss.detach()

    def _predict(self, rows: torch.Tensor) -> np.ndarray:
        return predict_logits(self.model, self.pixels[rows.to(self.pixels.device)], self.mean, self.std, self.device,
                              self.state["precision"])  # fmt: skip

    def _validate(self) -> tuple[float, float]:
        """Plain loss against the labels (comparable between students of any weight) and macro AUROC."""
        rows = self.data.rows["validate"]
        logits, targets = self._predict(rows), self.data.targets[rows]
        loss = distillation_loss(torch.from_numpy(logits), targets, None, 0.0, self.config.activation, validate=False)
        return loss.item(), _auroc(targets, logits, self.config.activation)

    def _out_of_patience(self) -> bool:
        patience, state = self.config.patience, self.state
        return patience is not None and state["epoch"] - state["best_epoch"] >= patience and state["epoch"] > 0

    def _place_data(self) -> None:
        data, device = self.data, self.device
        self.targets = data.targets.to(device)
        self.soft = None if data.soft is None else data.soft.to(device)
        self.pixels = data.pixels
        # Once to the GPU if it leaves room for training; else batches travel.
        if device.type == "cuda" and data.pixels.nbytes < 0.6 * torch.cuda.mem_get_info(device)[0]:
            self.pixels = data.pixels.to(device)

    def _save_checkpoint(self) -> None:
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in self.best.items()}
        for i, p in enumerate(self.parameters):
            moments = self.optimizer.state[p]
            tensors |= {f"optimizer.{i}.{m}": moments[m] for m in ("exp_avg", "exp_avg_sq")}
        tensors = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        facts = {"key": self.key, "state": json.dumps(self.state)}
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            save_file(tensors, temporary, metadata=facts)

    def _load_checkpoint(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            facts = file.metadata()
        _same_student(facts["key"], self.key, self.folder)
        tensors = load_file(path)
        self.model.load_state_dict({n: tensors[f"model.{n}"] for n in self.best})
        self.best = {n: tensors[f"best.{n}"].to(self.device).clone() for n in self.best}
        self.state = json.loads(facts["state"])
        self.state["sessions"] += 1
        saved = self.optimizer.state_dict()
        saved["state"] = {
            i: {"step": torch.tensor(float(self.state["step"]))}
            | {m: tensors[f"optimizer.{i}.{m}"].clone() for m in ("exp_avg", "exp_avg_sq")}
            for i in range(len(self.parameters))
        }
        self.optimizer.load_state_dict(saved)

    def _finish(self) -> StudentResult:
        folder, data, state, config = self.folder, self.data, self.state, self.config
        self.model.load_state_dict(self.best)
        used = torch.cat([data.rows[s] for s in SPLITS if s in data.rows]).sort().values
        logits = self._predict(used)
        predictions = pd.DataFrame({"image_id": [data.image_ids[i] for i in used], "split": data.splits[used.numpy()]})
        predictions = pd.concat([predictions, pd.DataFrame(logits, columns=data.labels)], axis=1)
        history = pd.DataFrame(state["history"])
        auroc = {s: _auroc(data.targets[used][mask], logits[mask.numpy()], config.activation)
                 for s in data.rows for mask in [torch.from_numpy(predictions["split"].to_numpy() == s)]}  # fmt: skip
        seconds = float(history["seconds"].sum())
        metrics = {
            "key": self.key, "seed": self.seed, "config": dataclasses.asdict(config), "precision": state["precision"],
            "labels": data.labels, "parameters": sum(p.numel() for p in self.parameters), "epochs": state["epoch"],
            "best_epoch": state["best_epoch"], "macro_auroc": auroc, "seconds": seconds, "sessions": state["sessions"],
            "rows": {s: len(r) for s, r in data.rows.items()}, "rows_unused": len(data.pixels) - len(used),
            "images_per_second": len(data.rows["train"]) * state["epoch"] / seconds, "threads": torch.get_num_threads(),
            "weights": self.model.weights_report,
        }  # fmt: skip
        facts = {
            "build": {**self.build, "weights": None}, "mean": self.mean, "std": self.std, "labels": data.labels,
            "seed": self.seed, "activation": config.activation, "weight": config.weight,
            "best_epoch": state["best_epoch"],
        }  # fmt: skip
        save_student(folder / "model.safetensors", self.model, facts)
        write_csv(folder / "history.csv", history)
        write_parquet(folder / "predictions.parquet", predictions)
        write_json(folder / "metrics.json", metrics)  # says finished, so it comes last
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return _finished(folder, self.key)


def _finished(folder: Path, key: str) -> StudentResult:
    metrics = read_json(folder / "metrics.json")
    _same_student(metrics["key"], key, folder)
    history = pd.read_csv(folder / "history.csv")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    return StudentResult(history, metrics["best_epoch"], predictions, metrics, folder)


def _same_student(found: str, wanted: str, folder: Path) -> None:
    if found != wanted:
        raise DataError(
            f"{folder} holds a student of other data, configuration or seed: give another folder, or delete this one."
        )


def _auroc(targets: torch.Tensor, logits: np.ndarray, activation: str) -> float:
    """Macro AUROC; for softmax one class against the rest."""
    if activation == "softmax":
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        targets = torch.nn.functional.one_hot(classes, logits.shape[1])
        logits = torch.from_numpy(logits).softmax(1).numpy()
    return macro_auroc(targets.double().numpy(), logits)


def _check_config(config: StudentConfig) -> None:
    checks = {
        "weight (lambda) must lie in [0, 1]": 0 <= config.weight <= 1,
        "epochs and batch_size must be at least 1": config.epochs >= 1 and config.batch_size >= 1,
        "learning_rate must be above 0": config.learning_rate > 0,
        "weight_decay and warmup_epochs must not be negative": min(config.weight_decay, config.warmup_epochs) >= 0,
        "gradient_clip must be above 0, or None": config.gradient_clip is None or config.gradient_clip > 0,
        "patience must be at least 1, or None": config.patience is None or config.patience >= 1,
        "device must be available (cpu, or cuda on a machine with a GPU)": config.device == "cpu"
        or (config.device.startswith("cuda") and torch.cuda.is_available()),
    }
    for sentence, holds in checks.items():
        if not holds:
            raise DataError(f"StudentConfig: {sentence}; given: {config}.")
