"""What heads read: image tokens, report tokens, classes, as minibatches that follow from (seed, epoch, step)."""

import copy
import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from pkd_utils.distillation.heads.fused import TEXT_STEP, Inputs, Keeps, normalised
from pkd_utils.distillation.heads.modules import dropout_keep
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.seeds import stream


class MemoryTokens:
    """Tokens in memory, (1 + views, rows, N, D), the clean view first: what heads ask of stored or live tokens."""

    identity = "memory"

    def __init__(self, tokens: torch.Tensor, class_tokens: torch.Tensor | None = None):
        self.tokens, self.class_token = tokens, class_tokens
        self.views, (self.rows, self.tokens_per_image, self.width) = len(tokens) - 1, tokens.shape[1:]

    def batch(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        return self.tokens[views, rows]

    def class_tokens(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        if self.class_token is None:
            raise DataError("These tokens have no class tokens: leave the class-token probe out.")
        return self.class_token[views, rows]


class Step(NamedTuple):
    """One minibatch of an epoch."""

    number: int  # from 0
    positions: torch.Tensor  # in the training rows
    rows: torch.Tensor  # of the tokens
    views: torch.Tensor
    sorting: torch.Tensor  # places in the minibatch before it was sorted by the reports' lengths


class HeadData:
    """Tokens, reports and classes of one call of `fit_heads`."""

    def __init__(
        self,
        tokens,
        text,
        targets: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        cache_bytes: int = 0,
    ):
        self.tokens, self.text = tokens, text
        self.targets = torch.from_numpy(targets.astype(np.int64))
        self.text_width = None if text is None else text.hidden.shape[1]
        self.device, self.dtype = device, dtype
        self.live = getattr(tokens, "live", False)
        if text is not None and not np.asarray(text.lengths).all():
            raise DataError(f"The report of row {int(np.asarray(text.lengths).argmin())} has no tokens: leave it out.")
        # Tokens are frozen, so their normalisation is too: kept where it fits, else made anew for every minibatch.
        self._kept = None
        shape = ((tokens.views + 1) * tokens.rows, tokens.tokens_per_image, tokens.width)
        if math.prod(shape) * dtype.itemsize <= cache_bytes and not self.live:
            self._kept = torch.empty(shape, dtype=dtype)  # memory is taken as rows are asked for
            self._is_kept = torch.zeros(shape[0], dtype=torch.bool)
        self._text_is_normal = (
            text is not None and dtype == torch.float32 and text.hidden.numel() * dtype.itemsize <= cache_bytes
        )
        if self._text_is_normal:
            self.text = copy.copy(text)
            self.text.hidden = normalised(text.hidden)

    def identity(self, reads_text: bool) -> list:
        """What identifies the data of heads that read images alone, or reports too."""
        classes = hashlib.sha256(self.targets.numpy().tobytes()).hexdigest()
        facts = [self.tokens.identity, self.text.identity if reads_text else None, classes]
        return [*facts, "one crop an epoch"] if self.live else facts

    def steps(self, train_rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[Step]:
        """The epoch's minibatches: a new order, and of every image one of its augmented views (the clean one if none).

        Live tokens are all of the view that has the epoch's number: one crop of an image for all heads of all seeds.
        The last minibatch is smaller if the rows do not divide. Within a minibatch rows are in the order of their
        reports' lengths, which spares padding and changes no mean over the minibatch; dropout goes with the images.
        """
        generator = torch.Generator().manual_seed(stream(seed, epoch, 1))
        order = torch.randperm(len(train_rows), generator=generator)
        views = torch.zeros(len(order), dtype=torch.int64)
        if self.live:
            views += epoch
        elif self.tokens.views:
            views = torch.randint(1, self.tokens.views + 1, (len(order),), generator=generator)
        steps, rows = [], torch.from_numpy(train_rows)
        for number, (positions, seen) in enumerate(zip(order.split(batch_size), views.split(batch_size), strict=True)):
            sorting = self.by_length(rows[positions])
            steps.append(Step(number, positions[sorting], rows[positions[sorting]], seen[sorting], sorting))
        return steps

    def by_length(self, rows: torch.Tensor) -> torch.Tensor:
        """Order of the rows by the length of their reports; as they are where there are none."""
        if self.text is None:
            return torch.arange(len(rows))
        return torch.argsort(torch.as_tensor(self.text.lengths)[rows], stable=True)

    def inputs(self, methods: Sequence[str], rows: torch.Tensor, views: torch.Tensor) -> Inputs:
        """What heads of these methods read of these rows and views."""
        methods, found = set(methods), {}
        if methods - {"text_only", "cls_probe"}:
            found["image"] = self._normalised_tokens(rows, views)
            if "mean_probe" in methods:
                found["image_mean"] = found["image"].mean(1)
        if "cls_probe" in methods:
            found["class_token"] = normalised(self.tokens.class_tokens(rows, views).to(self.device, self.dtype))
        if methods & {"text_only", "teacher"}:
            states, mask = self.text.batch(rows.numpy(), self.device)
            padding = -states.shape[1] % TEXT_STEP
            if not self._text_is_normal:
                states = normalised(states.to(self.dtype))  # padding stays zero
            found["text"] = F.pad(states, (0, 0, 0, padding))
            found["text_mask"] = F.pad(mask, (0, padding))
        return Inputs(**found)

    def _normalised_tokens(self, rows: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        if self._kept is None:
            return normalised(self.tokens.batch(rows, views).to(self.device, self.dtype))
        places = views * self.tokens.rows + rows
        new = ~self._is_kept[places]
        if new.any():
            raw = self.tokens.batch(rows[new], views[new]).to(self.device, self.dtype)
            self._kept[places[new]] = normalised(raw).cpu()
            self._is_kept[places[new]] = True
        return self._kept[places].to(self.device)

    def keeps(self, inputs: Inputs, dropout: float, step: Step, *key: int) -> Keeps:
        """Dropout masks (B, N, N) of both attentions, functions of `key` (seed, epoch) and the step alone.

        An image keeps its mask whatever order the reports bring, so that image-only heads depend on no report.
        """
        masks = [
            None if x is None or dropout == 0
            else dropout_keep((len(x), *[x.shape[1]] * 2), dropout, *key, step.number, number)[step.sorting]
            for number, x in enumerate((inputs.image, inputs.text))
        ]  # fmt: skip
        return Keeps(*(None if mask is None else mask.to(self.device) for mask in masks))
