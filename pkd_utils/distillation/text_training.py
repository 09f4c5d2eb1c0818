"""Training of the text teacher: its settings, its model, and a loop that a kill cannot change.

What an epoch does depends on (seed, epoch) and on the checkpoint of the epoch before, on nothing else, so training that
was interrupted ends in the same numbers as training that was not.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from pkd_utils.distillation.loss import masked_bce
from pkd_utils.distillation.students import one_query
from pkd_utils.encoders.bert import load_bert, split_encoder
from pkd_utils.encoders.texts import EncodedTexts
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError

_BATCHES, _TORCH = 1, 2  # streams of random numbers: order of batches; initial head and dropout


@dataclass(frozen=True)
class TextTeacherConfig:
    """How a text teacher is trained; of all this the paper states only that the encoder is fine-tuned.

    Attributes
    ----------
    encoder : str
        Local Hugging Face folder; the paper's is PubMedBERT. Its bytes, not its path, are part of a teacher's identity.
    trainable_layers : int
        -1: everything, embeddings included (as in the paper); k > 0: the last k blocks; 0: only the head.
    pooling : str
        "cls": the first token; "mean": the mean over a report's tokens.
    max_tokens : int
        Longer reports are cut here; the result says how many were.
    learning_rate, head_learning_rate : float
        Peak rates of AdamW for the encoder and for the linear head.
    warmup_fraction : float
        Part of all steps in which the rates rise linearly; they then fall linearly to zero.
    dropout : float
        On the pooled vector, before the head.
    precision : str
        "float32", or "bfloat16" for autocast.
    device : str
        "auto", "cpu" or "cuda"; not part of a teacher's identity.
    """

    encoder: str
    trainable_layers: int = -1
    pooling: str = "mean"
    max_tokens: int = 256
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    dropout: float = 0.1
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self):
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling must be 'cls' or 'mean', not {self.pooling!r}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', not {self.precision!r}.")
        if self.trainable_layers < -1:
            raise ValueError(f"trainable_layers must be -1, 0 or more, not {self.trainable_layers}.")
        if min(self.epochs, self.batch_size) < 1 or self.max_tokens < 3:
            raise ValueError("epochs and batch_size must be at least 1 and max_tokens at least 3.")

    @property
    def torch_device(self) -> torch.device:
        """The device that "auto" stands for."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


class TextTeacher(nn.Module):
    """Encoder (frozen below, trainable above), pooling, dropout and a linear multi-label head.

    Parameters
    ----------
    config : TextTeacherConfig
    n_labels : int
        Outputs, one logit a label.
    """

    def __init__(self, config: TextTeacherConfig, n_labels: int):
        super().__init__()
        self.pooling = config.pooling
        self.lower, self.blocks = split_encoder(load_bert(config.encoder)[0], config.trainable_layers)
        self.lower_trains = config.trainable_layers == -1
        self.lower.requires_grad_(self.lower_trains)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.lower.config.hidden_size, n_labels)

    def train(self, mode: bool = True) -> "TextTeacher":
        """As `nn.Module.train`, but a frozen lower part stays in evaluation mode."""
        super().train(mode)
        self.lower.train(mode and self.lower_trains)
        return self

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L) int64 tokens or (B, L, D) states below the blocks, and a (B, L) bool mask -> (B, labels) logits."""
        states = inputs
        if not inputs.is_floating_point():
            states = self.lower(input_ids=inputs, attention_mask=mask.long()).last_hidden_state
        blocks = list(self.blocks)
        if self.pooling == "cls" and blocks:
            last = blocks.pop()
        for block in blocks:
            states = block(states, mask[:, None, None, :])
        if self.pooling == "cls":
            pooled = (first_token_block(last, states, mask) if self.blocks else states[:, 0]).float()
        else:
            weights = mask[:, :, None].float()
            pooled = (states.float() * weights).sum(1) / weights.sum(1)
        return self.head(self.dropout(pooled)).float()

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that training moves, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def load_trained(self, state: dict[str, torch.Tensor]) -> None:
        """Put the trained parameters back; DataError if the names differ from this model's."""
        mine = self.trained()
        if set(mine) != set(state):
            raise DataError(f"The saved teacher does not fit this one: {sorted(set(mine) ^ set(state))[0]!r} differs.")
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(state[name])


def first_token_block(block: nn.Module, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Output of a BERT block at the first token alone, exactly, at a fraction of the block's cost: `one_query`.

    Parameters
    ----------
    block : torch.nn.Module
        A block of BERT, RoBERTa or ELECTRA as transformers builds it.
    states : torch.Tensor
        (B, L, D) float, what enters the block.
    mask : torch.Tensor
        (B, L) bool, True for tokens of the report.

    Returns
    -------
    torch.Tensor
        (B, D).
    """
    attention = block.attention.self
    split = (attention.num_attention_heads, attention.attention_head_size)
    first = states[:, :1]
    query = attention.query(first)[:, 0].unflatten(-1, split)
    key, value = (part.weight.unflatten(0, split) for part in (attention.key, attention.value))
    bias = attention.value.bias.unflatten(0, split)
    mixed = one_query(query, states, key, value, bias, mask, attention.dropout, divisor=split[1] ** 0.5)
    context = block.attention.output(mixed.flatten(1)[:, None].to(first.dtype), first)
    return block.feed_forward_chunk(context)[:, 0]


def length_bucketed_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random batches of reports of similar length: shuffle, sort by length within 50 batches' worth, shuffle batches.

    Returns
    -------
    list of np.ndarray
        Positions into `lengths`; together every position once.
    """
    order = rng.permutation(len(lengths))
    pool = 50 * batch_size
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    return [batches[position] for position in rng.permutation(len(batches))]


def warmup_then_decay(step: int, steps: int, warmup_fraction: float) -> float:
    """Factor on the peak learning rate at `step` (0-based) of `steps`: linear up, then linear down to zero."""
    warmup = max(1, round(warmup_fraction * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


def _torch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, _TORCH, epoch]).generate_state(1)[0])


class TextTraining:
    """One training: model, optimizer, history, checkpoint after every epoch.

    Parameters
    ----------
    encoded : EncodedTexts
        Of all N reports.
    targets : pd.DataFrame
        (N, labels) of 1, 0, NaN.
    train_rows : np.ndarray
        Positions of the training reports.
    folder : Path
        Receives checkpoint.safetensors and teacher.safetensors (the trained parameters of the best epoch).
    identity : str
        What a checkpoint must have been written for, to be taken up.
    """

    def __init__(
        self,
        encoded: EncodedTexts,
        targets: pd.DataFrame,
        train_rows: np.ndarray,
        config: TextTeacherConfig,
        folder: Path,
        seed: int,
        identity: str,
    ):
        self.encoded, self.train_rows, self.config, self.seed = encoded, train_rows, config, seed
        self.identity, self.device = identity, config.torch_device
        self.targets = torch.tensor(targets.to_numpy(np.float32), device=self.device)
        self.checkpoint, self.best = folder / "checkpoint.safetensors", folder / "teacher.safetensors"
        self.history: list[dict[str, float]] = []
        with torch.random.fork_rng():
            torch.manual_seed(_torch_seed(seed, 0))
            self.model = TextTeacher(config, targets.shape[1]).to(self.device)
        self.parameters = self.model.trained()
        head = [value for name, value in self.parameters.items() if name.startswith("head.")]
        body = [value for name, value in self.parameters.items() if not name.startswith("head.")]
        groups = [{"params": head, "peak": config.head_learning_rate}]
        groups += [{"params": body, "peak": config.learning_rate}] if body else []
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay, fused=True)
        self._resume()

    @property
    def best_epoch(self) -> int:
        """Epoch with the best validation AUROC, the earliest of equals; 0 before the first."""
        if not self.history:
            return 0
        return int(max(self.history, key=lambda row: (row["validate_auroc"], -row["epoch"]))["epoch"])

    def epochs_left(self) -> range:
        """Numbers (from 1) of the epochs still to be trained."""
        return range(len(self.history) + 1, self.config.epochs + 1)

    def run_epoch(self, epoch: int) -> float:
        """One pass over the training reports; returns the mean loss."""
        rng = np.random.default_rng([self.seed, _BATCHES, epoch])
        batches = length_bucketed_batches(self.encoded.lengths[self.train_rows], self.config.batch_size, rng)
        steps = self.config.epochs * len(batches)
        name = f"text teacher, seed {self.seed}, epoch {epoch}/{self.config.epochs}"
        self.model.train()
        total = torch.zeros((), device=self.device)
        with torch.random.fork_rng():
            torch.manual_seed(_torch_seed(self.seed, epoch))
            for step, batch in enumerate(
                tqdm(batches, desc=name, unit="step", leave=False), start=(epoch - 1) * len(batches)
            ):
                rows = self.train_rows[batch]
                for group in self.optimizer.param_groups:
                    group["lr"] = group["peak"] * warmup_then_decay(step, steps, self.config.warmup_fraction)
                inputs, mask = self.encoded.batch(rows, self.device)
                with self._autocast():
                    loss = masked_bce(self.model(inputs, mask), self.targets[rows])
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
                self.optimizer.step()
                total += loss.detach() * len(rows)
        mean = total.item() / len(self.train_rows)
        if not np.isfinite(mean):
            raise FloatingPointError(f"The text teacher's loss is {mean} in epoch {epoch}: lower the learning rate.")
        return mean

    @torch.inference_mode()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), labels) float32 logits in evaluation mode, in the order of `rows`."""
        self.model.eval()
        logits = np.empty((len(rows), self.targets.shape[1]), dtype=np.float32)
        order = np.argsort(self.encoded.lengths[rows], kind="stable")
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            with self._autocast():
                logits[chosen] = self.model(*self.encoded.batch(rows[chosen], self.device)).cpu().numpy()
        return logits

    def end_epoch(self, epoch: int, train_loss: float, validate_auroc: float) -> None:
        """Record an epoch, keep its parameters if it is the best so far, and write the checkpoint."""
        self.history.append({"epoch": epoch, "train_loss": train_loss, "validate_auroc": validate_auroc})
        state = {name: value.detach().cpu().contiguous() for name, value in self.parameters.items()}
        # Before the checkpoint: killed in between, the epoch is repeated and gives the same parameters again.
        if self.best_epoch == epoch:
            self._write(self.best, state)
        state = {f"model/{name}": value for name, value in state.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer/{number}/{key}": value.cpu().contiguous() for key, value in moments.items()}
        self._write(self.checkpoint, state)

    def restore_best(self) -> None:
        """Put the parameters of the best epoch into the model."""
        self.model.load_trained(load_file(self.best))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _write(self, path: Path, state: dict[str, torch.Tensor]) -> None:
        facts = {"identity": self.identity, "history": self.history}
        with files.atomic_path(path) as temporary:
            save_file(state, temporary, metadata={"facts": json.dumps(facts)})

    def _resume(self) -> None:
        """Take up the checkpoint, if there is one of this very training."""
        if not self.checkpoint.exists():
            return
        with safe_open(self.checkpoint, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            if facts["identity"] != self.identity:
                raise DataError(
                    f"{self.checkpoint} belongs to a teacher of other texts, settings or seed: "
                    "give this one its own folder."
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.history = facts["history"]
        self.model.load_trained({name[6:]: value for name, value in state.items() if name.startswith("model/")})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer/"):
                _, number, key = name.split("/")
                moments.setdefault(int(number), {})[key] = value.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
