"""Train the heads of Bergström et al. on tokens of frozen encoders: teachers, then their students, many at once.

Heads of the same seed and rows see the same minibatches and are trained together (`heads/fused.py`), with the numbers
that each would have alone up to rounding. Order, augmented view and dropout are functions of (seed, epoch, step), and
the state at the end of an epoch is one file that is replaced whole, every few seconds: a run that was killed loses at
most these, or one epoch, and ends in the same numbers. The loss is equation (2), `loss.distillation_loss` with softmax.

Not stated in the paper, and so chosen here: the teacher sees the augmented view that its student sees
(`HeadConfig.teacher_view`); a "permuted_distilled" student is taught what the teacher says of another training image of
the class, the same one in all epochs; the last, smaller minibatch of an epoch counts; heads of one seed start from the
same attention and share order, views and dropout masks, so that methods differ in nothing but what they learn from.
"""

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F
from tqdm import tqdm

from pkd_utils.distillation.heads.data import HeadData, Step
from pkd_utils.distillation.heads.fused import HeadGroup, Inputs, Keeps
from pkd_utils.distillation.heads.live import EpochTokens, train_in_lockstep
from pkd_utils.distillation.heads.modules import PROBES, READS_TEXT, TEACHES
from pkd_utils.distillation.heads.results import HeadResults, Logits, best_epoch, find_heads, load_group, save_group
from pkd_utils.distillation.heads.specs import HeadSpec, check_specs, group_specs, plan_waves
from pkd_utils.distillation.loss import distillation_loss, soft_labels
from pkd_utils.distillation.rows import permute_within
from pkd_utils.runs.checked import config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.files import hash_params, last_whole, unseal, write
from pkd_utils.runs.machine import Device
from pkd_utils.runs.seeds import stream
from pkd_utils.statistics.metrics import micro_auroc

CACHE_BYTES = 1 << 30
"""Normalised tokens of image and text are kept where each fits in this. Of live images, tokens of an epoch and of clean
views are; what does not fit goes to a temporary file in the folder."""
CHECKPOINT_SECONDS = 5.0
"""Between two checkpoints of a group: what a kill can cost where epochs are shorter."""


@config
class HeadConfig:
    """What is the same for all heads of one call. What no comment explains is not stated in the paper."""

    n_classes: int = Field(ge=2)  # of the task; logits have as many columns, two for yes or no
    batch_size: int = Field(64, ge=1)  # as in the paper
    dropout: float = Field(0.2, ge=0, lt=1)  # on attention weights, as in the paper
    teacher_view: Literal["same", "clean"] = "same"  # soft labels of the student's view, or of the clean image
    keep_logits: Literal["all", "chosen"] = "all"  # of every epoch, or of the best epochs and the last one
    # machine
    device: Device = "cpu"
    # "bf16": the large products in bfloat16, all else in float32; "fp64" to compare with
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    # for heads with their moments and for intermediate results; tokens come on top, see `CACHE_BYTES`
    memory_bytes: int = Field(2 << 30, ge=1)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "fp64" else torch.float32


def fit_heads(
    specs: Sequence[HeadSpec],
    tokens,
    text,
    targets: np.ndarray,
    config: HeadConfig,
    folder: str | Path | None = None,
    finished: Iterable[Path] = (),
) -> HeadResults:
    """Train heads, or continue, or return what is already there.

    Live tokens are encoded once an epoch for all groups of heads together, first for teachers and then, when these have
    chosen their epochs, for students. Should the heads of all groups not fit half of `memory_bytes`, they are trained
    in as many waves as it takes, and every wave has encoder passes of its own. A run that was stopped must continue
    with the same `memory_bytes` to find its groups again, in live mode and in stored mode.

    Parameters
    ----------
    specs : in any order; students may name teachers among them
    tokens : `encoders.tokens.stored.TokenStore`, `encoders.tokens.live.LiveTokens` or `heads.data.MemoryTokens`
    text : `texts.EncodedTexts` with `hidden`, or None
        One report a row of `tokens`: `batch(rows, device)` gives states (B, L, D_t) and a mask (B, L), `identity`.
    targets : (rows,) int array
        Class numbers; -1 where not known (such a row must be in no spec).
    folder : path, optional
        One file a group of heads, `group-<hash>.safetensors` (while training `.checkpoint`), and history.parquet.
        None: a temporary folder that lives as long as the results.
    finished : folders of finished calls; heads that are there, by what identifies them, are linked, not trained again

    Raises
    ------
    DataError
        Specs that do not fit the data or each other, or a loss that is not finite.
    """
    targets = np.asarray(targets)
    check_specs(specs, targets, text is not None)
    temporary = tempfile.TemporaryDirectory() if folder is None else None
    folder = Path(temporary.name if temporary else folder)
    folder.mkdir(parents=True, exist_ok=True)
    live = getattr(tokens, "live", False)
    tokens = EpochTokens(tokens, folder, CACHE_BYTES) if live else tokens
    data = HeadData(tokens, text, targets, torch.device(config.device), config.dtype, CACHE_BYTES)
    build = {"n_classes": config.n_classes, "image_width": tokens.width, "text_width": data.text_width,
             "dropout": config.dropout}  # fmt: skip
    results = HeadResults(specs, build, temporary)
    results.keys = {spec.name: _head_key(spec, data, results, config) for spec in specs}
    for path, names in find_heads(finished, results.keys).items():
        if not (folder / path.name).exists():
            os.link(path, folder / path.name)
        results.add(folder / path.name, names)
        results.elsewhere |= set(names)
    specs = [spec for spec in specs if spec.name not in results.elsewhere]
    costs = {spec.name: _head_bytes(spec.method, data, config.dtype) for spec in specs}
    groups = group_specs(specs, costs, config.memory_bytes // 2)
    keys = {group[0].name: hash_params({"heads": [results.keys[spec.name] for spec in group]}) for group in groups}
    paths = {name: folder / f"group-{key[:16]}.safetensors" for name, key in keys.items()}
    whole = {path for path in paths.values() if last_whole(path) == path}
    waves = plan_waves(groups, costs, config.memory_bytes // 2) if live else [[group] for group in groups]
    with tqdm(total=sum(group[0].epochs for group in groups), desc="heads", unit="epoch") as bar:
        if live and len(whole) < len(paths):
            tokens.keep_clean(groups, config.teacher_view)
        for wave in waves:
            fits = []  # those of the wave before leave the memory
            for group in wave:
                path = paths[group[0].name]
                if path in whole:
                    bar.update(group[0].epochs)
                else:
                    fits.append(GroupTraining(group, data, config, results, path))
            train_in_lockstep(fits, tokens if live else None, bar)
            for group in wave:
                results.add(paths[group[0].name], [spec.name for spec in group])
    write(folder / "history.parquet", results.history)
    return results


class GroupTraining:
    """The training of one group: heads, optimizer, and where they stand."""

    def __init__(self, specs: list[HeadSpec], data: HeadData, config: HeadConfig, results: HeadResults, path: Path):
        self.specs, self.data, self.config, self.results, self.path = specs, data, config, results, path
        self.checkpoint = path.with_suffix(".checkpoint")
        self.keys = {spec.name: results.keys[spec.name] for spec in specs}
        self.group = self._group([results.new_head(spec.name) for spec in specs], [spec.method for spec in specs])
        rates: dict[float, list] = {}
        for spec, parameters in zip(specs, self.group.parameters_by_head(), strict=True):
            rates.setdefault(spec.rate, []).extend(parameters)
        self.optimizer = torch.optim.Adam([{"params": p, "lr": rate} for rate, p in rates.items()], fused=True)
        self.history: list[dict] = []  # one row a head and epoch
        self.logits: Logits = {spec.name: {} for spec in specs}
        self.best: dict[str, torch.Tensor] = {}  # "<head>/weights/<parameter>" of its best epoch
        self.epoch = 0
        self.saved = time.monotonic()
        self._load_checkpoint()
        self.teachers = sorted({spec.teacher for spec in specs} - {None})
        self.teacher_group, self.table = self._group([], []), torch.empty(0)
        # Of whom the teacher speaks to a student of permuted soft labels: another image of the class.
        classes = data.targets[torch.from_numpy(specs[0].train_rows)].numpy()
        rng = np.random.default_rng(stream(specs[0].draw, 3))
        self.others = torch.from_numpy(permute_within(np.arange(len(classes)), classes, rng))
        if self.teachers:
            self._hear_teachers()

    def _group(self, heads: list, methods: list[str]) -> HeadGroup:
        low = torch.bfloat16 if self.config.precision == "bf16" else None
        return HeadGroup([head.to(self.data.device, self.data.dtype) for head in heads], methods, low)

    def advance(self, bar: tqdm) -> None:
        """Train the next epoch."""
        started = time.perf_counter()
        self.epoch += 1
        losses = self.train()
        self.evaluate(losses)
        seconds = time.perf_counter() - started
        for row in self.history[-len(self.specs) :]:
            row["seconds"] = seconds
        if time.monotonic() - self.saved >= CHECKPOINT_SECONDS:
            self._save_checkpoint()
        bar.update()

    def finish(self) -> None:
        """Write the group's file."""
        save_group(self.path, self.history, self.logits, self.best, self.keys)
        unseal(self.checkpoint)

    def train(self) -> list[float]:
        """One epoch; the mean training loss of each head."""
        spec, config, data = self.specs[0], self.config, self.data
        totals = torch.zeros(len(self.specs), device=data.device)
        methods = self.group.methods if self.table is not None else self.group.methods + self.teacher_group.methods
        for step in data.steps(spec.train_rows, config.batch_size, spec.draw, self.epoch):
            inputs = data.inputs(methods, step.rows, step.views)
            keeps = data.keeps(inputs, config.dropout, step, spec.draw, self.epoch)
            totals += len(step.rows) * self.step(
                inputs, keeps, data.targets[step.rows], self._soft_targets(step, inputs)
            )
        losses = (totals / len(spec.train_rows)).tolist()
        wrong = [spec.name for spec, loss in zip(self.specs, losses, strict=True) if not math.isfinite(loss)]
        if wrong:
            raise DataError(
                f"The training loss of head {wrong[0]!r} is not finite in epoch {self.epoch}: lower its learning rate, "
                "or look for infinite tokens; the epoch before is kept."
            )
        return losses

    def step(self, inputs: Inputs, keeps: Keeps, targets: torch.Tensor, soft: list) -> torch.Tensor:
        """One minibatch of all heads, in parts that fit the memory; the loss of each head."""
        folded = self.group.fold()
        leaves = [None if item is None else item.detach().requires_grad_() for item in folded]
        targets = targets.to(self.data.device)
        losses = torch.zeros(len(self.specs), device=self.data.device)
        for part in parts_of(len(targets), self.group.bytes_per_row(inputs), self.config.memory_bytes // 2):
            logits = self.group.logits(leaves, inputs.part(part), keeps.part(part))
            share = len(logits) / len(targets)  # the loss is the mean over the whole minibatch
            loss = torch.stack([
                share * distillation_loss(logits[:, i], targets[part], None if soft[i] is None else soft[i][part],
                                          0.0 if soft[i] is None else spec.weight, "softmax", validate=False)
                for i, spec in enumerate(self.specs)
            ])  # fmt: skip
            loss.sum().backward()
            losses += loss.detach()
        pairs = [(item, leaf.grad) for item, leaf in zip(folded, leaves, strict=True) if item is not None]
        if pairs:
            torch.autograd.backward(*map(list, zip(*pairs, strict=True)))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _soft_targets(self, step: Step, inputs: Inputs) -> list[torch.Tensor | None]:
        """Equation (2)'s softened teacher of every student for one minibatch; None for heads without a teacher."""
        if not self.teachers:
            return [None] * len(self.specs)
        said = {False: self._teachers_say(step.positions, step.views, inputs)}
        if any(spec.method == "permuted_distilled" for spec in self.specs):
            said[True] = self._teachers_say(self.others[step.positions], step.views)
        return [soft_labels(said[spec.method == "permuted_distilled"][:, self.teachers.index(spec.teacher)],
                            spec.temperature, "softmax") for spec in self.specs]  # fmt: skip

    @torch.no_grad()
    def _teachers_say(self, positions: torch.Tensor, views: torch.Tensor, inputs: Inputs | None = None) -> torch.Tensor:
        """Logits (B, T, C) of the teachers for some of the training rows, whose `inputs` may be there already."""
        if self.table is not None:
            logits = self.table[torch.zeros_like(views) if len(self.table) == 1 else views - 1, positions]
        else:  # from the tokens that the students see
            rows = torch.from_numpy(self.specs[0].train_rows)[positions]
            inputs = self.data.inputs(self.teacher_group.methods, rows, views) if inputs is None else inputs
            logits = self.teacher_group.logits(self.teacher_group.fold(), inputs)
        return logits.to(self.data.device, self.data.dtype)

    def _hear_teachers(self) -> None:
        """Teachers' logits for all training rows, once for every view; or later, where that costs fewer passes."""
        teachers = [self.results.head(name) for name in self.teachers]
        self.teacher_group = self._group(teachers, [self.results.specs[name].method for name in self.teachers])
        same = self.config.teacher_view == "same"
        views = list(range(1, self.data.tokens.views + 1) if same else [0]) or [0]
        rows = torch.from_numpy(self.specs[0].train_rows)
        self.table = None
        if len(views) <= self.specs[0].epochs and not (same and self.data.live):
            self.table = torch.stack([self._predict(self.teacher_group, rows, torch.full_like(rows, v)) for v in views])

    @torch.no_grad()
    def _predict(self, group: HeadGroup, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Logits (n, H, C) without dropout, on the CPU."""
        folded, answers, sorting = group.fold(), [], self.data.by_length(rows)
        for part in sorting.split(self.config.batch_size):
            answers.append(group.logits(folded, self.data.inputs(group.methods, rows[part], views[part])).cpu())
        return torch.cat(answers)[torch.argsort(sorting)]

    def evaluate(self, losses: list[float]) -> None:
        """Logits of the clean evaluation rows and their AUC; the best weights of heads that teach are kept."""
        spec, split = self.specs[0], len(self.specs[0].validation_rows)
        rows = torch.from_numpy(spec.evaluation_rows)
        logits = self._predict(self.group, rows, torch.zeros_like(rows)).float()
        probabilities, targets = torch.softmax(logits.double(), -1).numpy(), self.data.targets[rows]
        parts = {"validation": slice(0, split)} | ({"test": slice(split, None)} if spec.test_rows is not None else {})
        for i, spec in enumerate(self.specs):
            row = {"name": spec.name, "epoch": self.epoch, "train_loss": losses[i]}
            row |= {f"{part}_{what}": math.nan for part in ("validation", "test") for what in ("auc", "loss")}
            for part, where in parts.items():
                row[f"{part}_auc"] = micro_auroc(targets[where].numpy(), probabilities[where, i])
                row[f"{part}_loss"] = F.cross_entropy(logits[where, i], targets[where]).item()
            self.history.append(row)
            mine = [row for row in self.history if row["name"] == spec.name]
            kept = self.logits[spec.name]
            kept[self.epoch] = logits[:, i].clone()
            if self.config.keep_logits == "chosen":
                for epoch in set(kept) - {best_epoch(mine, part) for part in parts} - {self.epoch}:
                    del kept[epoch]
            if spec.method in TEACHES and best_epoch(mine) == self.epoch:
                state = self.group.heads[i].state_dict()
                self.best |= {f"{spec.name}/weights/{name}": value.clone() for name, value in state.items()}

    def _save_checkpoint(self) -> None:
        tensors = dict(self.best)
        for i, parameter in enumerate(self.group.parameters()):
            moments = self.optimizer.state[parameter]
            tensors |= {f"{i}/value": parameter} | {f"{i}/{m}": moments[m] for m in ("step", "exp_avg", "exp_avg_sq")}
        save_group(self.checkpoint, self.history, self.logits, tensors, self.keys)
        self.saved = time.monotonic()

    def _load_checkpoint(self) -> None:
        path = last_whole(self.checkpoint)
        if path is None:
            return
        self.history, self.logits, tensors = load_group(path)
        self.epoch = self.history[-1]["epoch"]
        for i, parameter in enumerate(self.group.parameters()):
            parameter.data.copy_(tensors.pop(f"{i}/value"))
            moments = {m: tensors.pop(f"{i}/{m}") for m in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {m: t.to(parameter.device) for m, t in moments.items()}
        self.best = {name: tensor.to(self.data.device) for name, tensor in tensors.items()}


def parts_of(rows: int, bytes_per_row: int, budget: int) -> list[slice]:
    """Slices of a minibatch whose intermediate results fit the budget."""
    size = max(1, min(rows, budget // max(1, bytes_per_row)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _head_bytes(method: str, data: HeadData, dtype: torch.dtype) -> int:
    """Memory of one head in training: weights, gradient, two moments, best weights, and M with its gradient."""
    widths = [data.text_width] if method == "text_only" else [data.tokens.width]
    widths += [data.text_width] if method == "teacher" else []
    numbers = sum(width if method in PROBES else (3 * 5 + 2) * width * width for width in widths)
    return numbers * dtype.itemsize


def _head_key(spec: HeadSpec, data: HeadData, results: HeadResults, config: HeadConfig) -> str:
    """Identity of a head: it, its teacher, the data that they read, and what of the configuration shapes numbers."""
    both = [item for item in (spec, results.specs.get(spec.teacher)) if item]
    settings, reads_text = dataclasses.asdict(config), any(item.method in READS_TEXT for item in both)
    for name in ("device", "memory_bytes", *(() if spec.teacher else ("teacher_view",))):
        del settings[name]
    return hash_params({"head": [item.facts() for item in both], "data": data.identity(reads_text), "config": settings})
