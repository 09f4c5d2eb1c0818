"""Train one student by equation (1) of the paper, so that a kill costs at most an epoch and changes nothing.

Every random number is a function of (seed, epoch): the order of the images and their augmentation (`loop.py` does the
rest). So students that differ in `weight` alone start from the same weights and see the same images in the same order:
weight 0 is the baseline with everything else equal.
"""

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from scipy.special import log_softmax

from pkd_utils.cohorts.table import SPLITS
from pkd_utils.distillation.loop import CHECKPOINT, Loop, private_randomness
from pkd_utils.distillation.loss import check_targets, distillation_loss
from pkd_utils.distillation.rows import check_splits
from pkd_utils.distillation.students import (
    build_student,
    class_token_logits,
    input_statistics,
    predict_logits,
    save_student,
)
from pkd_utils.images.augment import AugmentationDraw, Range, apply_augmentation, draw_augmentation
from pkd_utils.runs.checked import config as checked_config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import file_sha256, hash_params, read_json, unseal, write, write_json
from pkd_utils.runs.machine import Device, resolve_precision
from pkd_utils.runs.seeds import stream
from pkd_utils.statistics.metrics import macro_auroc

BUILD = ("name", "image_size", "patch_size", "width", "depth", "heads", "channels", "weights")


@checked_config
class StudentConfig:
    """Everything that decides a student except data and seed. What no comment explains is not stated in the paper."""

    # model, see students.build_student; the paper's student is vit_tiny_patch16_224 with ImageNet weights
    name: str = "vit"
    image_size: int = Field(64, ge=1)
    patch_size: int = Field(8, ge=1)
    width: int = Field(96, ge=1)
    depth: int = Field(4, ge=1)
    heads: int = Field(3, ge=1)
    channels: Literal[1, 3] = 1
    weights: str | None = None  # local file to start from
    # loss, see distillation.distillation_loss; the temperature of equation (2) is already in the soft targets
    weight: float = Field(0.5, ge=0, le=1)  # lambda of equation (1); 0 is the baseline
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    soft_on_missing: bool = False
    # optimisation: AdamW, linear warm-up, cosine to zero, both per step
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)  # of matrices only, not of biases, norms, class token and positions
    warmup_epochs: float = Field(1.0, ge=0)
    patience: int | None = Field(None, ge=1)  # stop after so many epochs without a better validation AUROC
    # augmentation, see augment.draw_augmentation
    degrees: float = Field(10.0, ge=0)
    translate: float = Field(0.05, ge=0)
    scale: Range = (0.9, 1.1)
    brightness: float = Field(0.1, ge=0)
    contrast: float = Field(0.1, ge=0, lt=1)
    # machine
    device: Device = "cpu"
    precision: Literal["fp32", "bf16", "auto"] = "auto"  # bf16: autocast; auto: bf16 where the device has it natively


class StudentResult(NamedTuple):
    """What `fit_student` returns and, in `folder`, leaves behind."""

    history: pd.DataFrame  # epoch, train_loss, validate_loss, validate_auroc, learning_rate, seconds
    best_epoch: int  # counted from 1
    predictions: pd.DataFrame  # image_id, split, one column of logits a label, or of log p a class
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
    image_ids: Sequence[str],
    labels: Sequence[str],
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
    image_ids : N strings
    labels : K strings, the columns of the predictions
    progress : bool, show a tqdm bar

    Raises
    ------
    DataError
        Values that the loss has no meaning for, a validation split without both classes, a loss that is not finite (the
        last good epoch stays in the checkpoint), or another student's folder.
    """
    folder = Path(folder)
    data = check_student_data(pixels, targets, soft_targets, splits, config, image_ids, labels)
    settings = dataclasses.asdict(config)
    if config.weights is not None:
        settings["weights"] = file_sha256(config.weights)
    key = hash_params({"data": data.content_hash(), "config": settings, "seed": seed})
    if not (folder / "metrics.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        device = torch.device(config.device)
        with private_randomness(device):
            training = StudentTraining(data, config, folder, seed, key, device)
            training.loop.run(training.batches, training.losses, training.validate, f"student of seed {seed}", progress)
            training.loop.restore_best()
            _write(training, folder, key)
    return _finished(folder, key)


class StudentTraining:
    """The training of one student: its loop, and what the loop asks for.

    Random parts of the model come from torch's global generator, which is seeded here: see `loop.private_randomness`.
    """

    def __init__(
        self, data: "StudentData", config: StudentConfig, folder: Path, seed: int, key: str, device: torch.device
    ):
        self.data, self.config, self.seed, self.device = data, config, seed, device
        self.build = {name: getattr(config, name) for name in BUILD} | {"n_labels": len(data.labels)}
        self.mean, self.std = input_statistics(config.name, config.channels)
        torch.manual_seed(stream(seed, 0, 0))
        self.model = build_student(**self.build).to(device)
        for block in self.model.blocks:
            # torch's fused attention is made for GPUs: on a CPU plain products are up to 3 times faster in bf16.
            block.attn.fused_attn = device.type != "cpu"
        matrices = [p for p in self.model.parameters() if p.ndim >= 2 and p.shape[0] != 1]
        others = [p for p in self.model.parameters() if not (p.ndim >= 2 and p.shape[0] != 1)]
        groups = [{"params": part, "lr": config.learning_rate, "weight_decay": decay}
                  for part, decay in ((matrices, config.weight_decay), (others, 0.0))]  # fmt: skip
        steps = math.ceil(len(data.rows["train"]) / config.batch_size)
        self.loop = Loop(
            self.model, groups, folder / CHECKPOINT, key, config.epochs, steps, clipped=matrices + others,
            precision=resolve_precision(config.precision, device), warmup=round(config.warmup_epochs * steps),
            criterion="validate_auroc", patience=config.patience,
        )  # fmt: skip
        self.targets, self.soft = data.targets.to(device), None if data.soft is None else data.soft.to(device)
        # Pixels once to the GPU if they leave room for training; else batches travel.
        room = 0 if device.type == "cpu" else 0.6 * torch.get_device_module(device).mem_get_info(device)[0]
        self.pixels = data.pixels.to(device) if data.pixels.nbytes < room else data.pixels

    def batches(self, epoch: int):
        """Augmented images and row numbers, in batches of nearly equal size: no image is left out."""
        generator = torch.Generator().manual_seed(stream(self.seed, epoch, 1))
        rows, config = self.data.rows["train"], self.config
        rows = rows[torch.randperm(len(rows), generator=generator)]
        # One draw for the whole epoch: on a GPU one transfer, on a CPU no small-tensor overhead in each step.
        draw = draw_augmentation(len(rows), generator, config.degrees, config.translate, config.scale,
                                 config.brightness, config.contrast)  # fmt: skip
        pieces = (part.to(self.device).tensor_split(self.loop.steps) for part in draw)
        for some, *drawn in zip(rows.tensor_split(self.loop.steps), *pieces, strict=True):
            pixels = self.pixels.index_select(0, some.to(self.pixels.device)).to(self.device, non_blocking=True)
            images = apply_augmentation(pixels, AugmentationDraw(*drawn), self.mean, self.std)
            yield len(some), (images, some.to(self.device, non_blocking=True))

    def losses(self, batch) -> dict[str, torch.Tensor]:
        """Equation (1) of one batch."""
        images, rows = batch
        logits = class_token_logits(self.model, images).float()
        soft = None if self.soft is None else self.soft[rows]
        loss = distillation_loss(
            logits, self.targets[rows], soft, self.config.weight, self.config.activation,
            soft_on_missing=self.config.soft_on_missing, validate=False,
        )  # fmt: skip
        return {"train_loss": loss}

    def predict(self, rows: torch.Tensor) -> np.ndarray:
        """(n, K) float32 logits of images as they are; of classes log p, so that each column orders images by it."""
        pixels = self.pixels[rows.to(self.pixels.device)]
        logits = predict_logits(self.model, pixels, self.mean, self.std, self.device, self.loop.precision)
        return log_softmax(logits, axis=1) if self.config.activation == "softmax" else logits

    def validate(self) -> dict[str, float]:
        """Plain loss against the labels (comparable between students of any weight) and macro AUROC."""
        rows = self.data.rows["validate"]
        truth, logits = self.data.targets[rows], self.predict(rows)
        loss = distillation_loss(torch.from_numpy(logits), truth, None, 0.0, self.config.activation, validate=False)
        return {"validate_loss": loss.item(), "validate_auroc": _auroc(truth, logits, self.config.activation)}


def _write(training: StudentTraining, folder: Path, key: str) -> None:
    """The student's files; metrics.json says finished, so it comes last."""
    data, config, loop, seed = training.data, training.config, training.loop, training.seed
    used = torch.cat(list(data.rows.values())).sort().values
    logits = training.predict(used)
    predictions = pd.DataFrame({"image_id": [data.image_ids[i] for i in used], "split": data.splits[used.numpy()]})
    predictions = pd.concat([predictions, pd.DataFrame(logits, columns=data.labels)], axis=1)
    history = pd.DataFrame(loop.history)
    auroc = {split: _auroc(data.targets[rows], logits[torch.searchsorted(used, rows).numpy()], config.activation)
             for split, rows in data.rows.items()}  # fmt: skip
    seconds = float(history["seconds"].sum())
    metrics = {
        "key": key, "seed": seed, "config": dataclasses.asdict(config), "precision": loop.precision,
        "labels": data.labels, "parameters": sum(p.numel() for p in loop.model.parameters()), "epochs": loop.epoch,
        "best_epoch": loop.best_epoch, "macro_auroc": auroc, "seconds": seconds, "sessions": loop.sessions,
        "rows": {s: len(r) for s, r in data.rows.items()}, "rows_unused": len(data.pixels) - len(used),
        "images_per_second": len(data.rows["train"]) * loop.epoch / seconds, "threads": torch.get_num_threads(),
        "weights": loop.model.weights_report,
    }  # fmt: skip
    facts = {
        "build": {**training.build, "weights": None}, "mean": training.mean, "std": training.std, "labels": data.labels,
        "seed": seed, "activation": config.activation, "weight": config.weight, "best_epoch": loop.best_epoch,
    }  # fmt: skip
    save_student(folder / "model.safetensors", loop.model, facts)
    write(folder / "history.csv", history)
    write(folder / "predictions.parquet", predictions)
    write_json(folder / "metrics.json", metrics)
    unseal(loop.path)


def _finished(folder: Path, key: str) -> StudentResult:
    metrics = read_json(folder / "metrics.json")
    if metrics["key"] != key:
        raise DataError(
            f"{folder} holds a student of other data, configuration or seed: give another folder, or delete this one."
        )
    history = pd.read_csv(folder / "history.csv")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    return StudentResult(history, metrics["best_epoch"], predictions, metrics, folder)


def _auroc(targets: torch.Tensor, logits: np.ndarray, activation: str) -> float:
    """Macro AUROC; for softmax one class against the rest."""
    if activation == "softmax":
        targets = torch.nn.functional.one_hot(targets, logits.shape[1])
    return macro_auroc(targets, logits)


class StudentData(NamedTuple):
    """Checked input of `fit_student`, so that no step of the training has to look at it again."""

    pixels: torch.Tensor  # (N, S, S) uint8
    targets: torch.Tensor  # (N, K) float32, or (N,) int64 class numbers
    soft: torch.Tensor | None  # (N, K) float32; None for the baseline
    rows: dict[str, torch.Tensor]  # split -> row numbers
    splits: np.ndarray  # (N,) str, "" where a row is not used
    image_ids: list[str]
    labels: list[str]

    def content_hash(self) -> str:
        """SHA-256 of everything; of more than 256 MB of pixels, 4,096 images spread evenly."""
        digest = hashlib.sha256()
        many = self.pixels.nbytes > 2**28
        rows = torch.linspace(0, len(self.pixels) - 1, 4096).long() if many else slice(None)
        for part in (self.pixels[rows], self.targets, self.soft):
            if part is not None:
                digest.update(str((tuple(part.shape), part.dtype)).encode())
                digest.update(np.ascontiguousarray(part.numpy()).data)
        digest.update(json.dumps([self.splits.tolist(), self.image_ids, self.labels]).encode())
        return digest.hexdigest()


def check_student_data(
    pixels: np.ndarray,
    targets: np.ndarray,
    soft_targets: np.ndarray | None,
    splits: Sequence[str],
    config: StudentConfig,
    image_ids: Sequence[str],
    labels: Sequence[str],
) -> StudentData:
    """Check the values that `fit_student` is given and make tensors of them."""
    classes = config.activation == "softmax"
    targets = torch.from_numpy(np.array(targets, dtype=np.int64 if classes else np.float32))
    # The baseline is the same whatever the teacher says.
    soft = None
    if config.weight and soft_targets is not None:
        soft = torch.from_numpy(np.array(soft_targets, dtype=np.float32))
    names = np.array(["" if pd.isna(s) else str(s) for s in splits])
    check_splits(set(names.tolist()) - {""}, ["train", "validate"])
    rows = {s: torch.from_numpy(np.flatnonzero(names == s)) for s in SPLITS if (names == s).any()}
    if soft is not None and (without := soft[rows["train"]].isnan().any(1)).any():
        first = image_ids[int(rows["train"][without.nonzero()[0, 0]])]
        raise DataError(
            f"{int(without.sum())} of {len(without)} training images have no soft label (first: {first}): let the "
            "teacher predict them, or take them out of the training split."
        )
    used = torch.cat(list(rows.values()))
    check_targets(targets[used], None if soft is None else soft[rows["train"]], config.activation, len(labels))
    if not classes and targets[rows["train"]].isnan().all():
        raise DataError("No training image has a known label: there is nothing to learn from.")
    held = targets[rows["validate"]]
    table = torch.nn.functional.one_hot(held).double() if classes else held.double()
    if not ((table == 1).any(0) & (table == 0).any(0)).any():
        raise DataError(
            f"None of the labels has both 1 and 0 among the {len(held)} validation images, so no epoch can be chosen "
            "by AUROC: make the validation split larger."
        )
    with warnings.catch_warnings():  # a read-only memory map: nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        tensor = torch.from_numpy(np.asarray(pixels))
    return StudentData(tensor, targets, soft, rows, names, list(image_ids), list(labels))
