"""The text teacher: a BERT-type encoder fine-tuned on reports to predict the image's labels (f_t of equation (1)).

Baur et al. fine-tune PubMedBERT on MIMIC-CXR reports "excluding label names" (AUROC 0.99). Here the encoder is any
local folder in Hugging Face layout, and `trainable_layers` says how much moves: all of it as in the paper (-1), or the
last k blocks, in which case the frozen blocks below run once per report and every seed reuses what they produced.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from pkd_utils.cohorts.label_terms import Mode, surviving_terms
from pkd_utils.distillation.loop import CHECKPOINT, Loop, private_randomness
from pkd_utils.distillation.loss import masked_bce
from pkd_utils.distillation.rows import check_rows
from pkd_utils.distillation.students import one_query
from pkd_utils.encoders.bert import load_bert, split_encoder
from pkd_utils.encoders.texts import EncodedTexts, check_texts, lower_states
from pkd_utils.runs import files
from pkd_utils.runs.checked import config as checked_config
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.machine import Device, autocast
from pkd_utils.statistics.metrics import macro_auroc

DROPOUT = 0.1  # on the pooled vector, before the head
WEIGHT_DECAY = 0.01
WARMUP = 0.1  # part of all steps in which the rates rise linearly; they then fall linearly to zero


@checked_config
class TextTeacherConfig:
    """How a text teacher is trained; of all this the paper states only that the encoder is fine-tuned."""

    encoder: str  # local Hugging Face folder (the paper: PubMedBERT); its bytes, not its path, identify a teacher
    trainable_layers: int = Field(-1, ge=-1)  # -1: all, embeddings too, as in the paper; k: the last k blocks; 0: none
    pooling: Literal["cls", "mean"] = "mean"  # the first token, or the mean over a report's tokens
    max_tokens: int = Field(256, ge=3)  # longer reports are cut here; the result says how many were
    epochs: int = Field(5, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-5, gt=0)  # peak rate of AdamW for the encoder
    head_learning_rate: float = Field(1e-3, gt=0)  # and for the linear head
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: under autocast
    device: Annotated[Device, Field(validate_default=True)] = "auto"  # no part of a teacher's identity


@dataclass
class TextTeacherResult:
    """A trained teacher: its frozen logits for every report, and how it got there."""

    logits: pd.DataFrame  # a row a report (index of `texts`), a float32 column a label, of the best epoch
    history: pd.DataFrame  # epoch, train_loss, validate_auroc (macro)
    counts: dict[str, int]  # reports, truncated (cut at max_tokens), empty (no words left), unlabelled (in training)
    best_epoch: int  # the first with the highest validation AUROC


def check_label_names_removed(texts: pd.Series, labels: list[str], mode: Mode = "names_and_synonyms") -> None:
    """Refuse reports that still name a label: the paper's teacher reads reports "excluding label names".

    `labels` are keys of `cohorts.label_terms.LABEL_TERMS`, `mode` says which of their terms had to go. The message
    gives positions, never words.
    """
    named = [position for position, text in enumerate(texts) if surviving_terms(text, labels, mode)]
    if named:
        raise DataError(
            f"{len(named)} of {len(texts)} reports still name {', '.join(labels)}, first at position {named[0]}: "
            "apply cohorts.label_terms.remove_label_terms, or say label_names='kept'."
        )


def fit_text_teacher(
    texts: pd.Series,
    targets: pd.DataFrame,
    split: pd.Series,
    config: TextTeacherConfig,
    folder: str | Path,
    seed: int,
    encoded: EncodedTexts | None = None,
    label_names: Mode | Literal["kept"] = "names_and_synonyms",
) -> TextTeacherResult:
    """Train one text teacher, or finish or read back the one that `folder` holds.

    Parameters
    ----------
    texts : reports after `cohorts.label_terms.remove_label_terms`; the index identifies the report
    targets : same index, one column a label: 1, 0 or NaN (unknown, carries no loss)
    split : same index; train, validate, test, or NaN (gets logits, is used for nothing else)
    folder : of this teacher alone; a killed training goes on from the checkpoint there and ends in the same numbers
    seed : of the initial head, the order of batches and dropout
    encoded : what `encode_teacher_texts(texts, config)` gave, to share it among seeds
    label_names : what was taken out, and must be gone of every label, see `check_label_names_removed`; or "kept"

    Raises
    ------
    DataError
        A report that names a label, a label without listed terms, rows that do not fit together (see `check_rows`),
        a split without both classes of any label, or another teacher's folder.
    """
    folder = Path(folder)
    _check_inputs(texts, targets, split)
    if label_names != "kept":
        check_label_names_removed(texts, list(targets.columns), label_names)
    if encoded is None:
        encoded = encode_teacher_texts(texts, config)
    identity = _identity(encoded, targets, split, config, seed)
    done = _read_result(folder, identity, texts.index)
    if done is not None:
        return done
    with private_randomness(torch.device(config.device)):
        training = TextTraining(encoded, targets, split, config, folder, seed, identity)
        loop = training.loop
        loop.run(training.batches, training.losses, training.validate, f"text teacher of seed {seed}")
    loop.restore_best()
    counts = {"reports": len(texts), "truncated": encoded.truncated, "empty": encoded.empty,
              "unlabelled": int((split == "train").sum()) - len(training.rows)}  # fmt: skip
    logits = pd.DataFrame(training.predict(np.arange(len(texts))), columns=targets.columns, index=texts.index)
    history = pd.DataFrame(loop.history)[["epoch", "train_loss", "validate_auroc"]]
    result = TextTeacherResult(logits, history, counts, loop.best_epoch)
    with files.atomic_path(folder / "teacher.safetensors") as temporary:
        save_file({n: v.cpu().contiguous() for n, v in loop.best.items()}, temporary, metadata={"identity": identity})
    files.write(folder / "logits.parquet", result.logits)
    files.write(folder / "history.csv", result.history)
    settings = {**asdict(config), "encoder": Path(config.encoder).name}
    facts = {"identity": identity, "seed": seed, "config": settings, "counts": counts, "best_epoch": loop.best_epoch}
    files.write_json(folder / "teacher.json", facts)  # last: it marks the teacher finished
    files.unseal(loop.path)
    return result


def encode_teacher_texts(texts: pd.Series, config: TextTeacherConfig, cache: str | Path | None = None) -> EncodedTexts:
    """`texts.lower_states` with a teacher's settings; every seed may share the answer."""
    layers, device = config.trainable_layers, torch.device(config.device)
    return lower_states(list(texts), config.encoder, layers, config.max_tokens, config.precision, device, cache=cache)


class TextTeacher(nn.Module):
    """Encoder (frozen below, trainable above), pooling, dropout and a linear head of one logit a label."""

    def __init__(self, config: TextTeacherConfig, n_labels: int):
        super().__init__()
        self.pooling = config.pooling
        self.lower, self.blocks = split_encoder(load_bert(config.encoder)[0], config.trainable_layers)
        self.lower_trains = config.trainable_layers == -1
        self.lower.requires_grad_(self.lower_trains)
        self.dropout = nn.Dropout(DROPOUT)
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
        with torch.autocast(pooled.device.type, enabled=False):  # logits rounded to bfloat16 tie, and move an AUROC
            return self.head(self.dropout(pooled))


def first_token_block(block: nn.Module, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Output (B, D) of a block of BERT, RoBERTa or ELECTRA at the first token alone, exactly: see `one_query`.

    `states` (B, L, D) enter the block; `mask` (B, L) is True for tokens of the report.
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


class TextTraining:
    """The training of one teacher: its loop, and what the loop asks for; `rows` are the training reports."""

    def __init__(
        self,
        encoded: EncodedTexts,
        targets: pd.DataFrame,
        split: pd.Series,
        config: TextTeacherConfig,
        folder: Path,
        seed: int,
        identity: str,
    ):
        self.encoded, self.config, self.seed, self.device = encoded, config, seed, torch.device(config.device)
        self.held = np.flatnonzero(split == "validate")
        self.truth = targets.to_numpy(np.float64)[self.held]
        self.rows = np.flatnonzero((split == "train") & targets.notna().any(axis=1))
        self.targets = torch.tensor(targets.to_numpy(np.float32), device=self.device)
        torch.manual_seed(_torch_seed(seed, 0))
        self.model = TextTeacher(config, targets.shape[1]).to(self.device)
        trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        groups = []
        for of_head, rate in ((True, config.head_learning_rate), (False, config.learning_rate)):
            part = [value for name, value in trained.items() if name.startswith("head.") == of_head]
            groups += [{"params": part, "lr": rate, "weight_decay": WEIGHT_DECAY}] if part else []
        steps = math.ceil(len(self.rows) / config.batch_size)
        self.loop = Loop(
            self.model, groups, folder / CHECKPOINT, identity, config.epochs, steps,
            precision=config.precision, warmup=max(1, round(WARMUP * config.epochs * steps)),
            decay="linear", criterion="validate_auroc",
        )  # fmt: skip

    def batches(self, epoch: int):
        """Tokens or states, masks and targets of one pass over the training reports."""
        rng = np.random.default_rng([self.seed, 1, epoch])
        torch.manual_seed(_torch_seed(self.seed, epoch))  # dropout
        for batch in length_bucketed_batches(self.encoded.lengths[self.rows], self.config.batch_size, rng):
            rows = self.rows[batch]
            yield len(rows), (*self.encoded.batch(rows, self.device), self.targets[rows])

    def losses(self, batch) -> dict[str, torch.Tensor]:
        """Binary cross entropy over the known targets of one batch."""
        inputs, mask, targets = batch
        return {"train_loss": masked_bce(self.model(inputs, mask), targets)}

    @torch.inference_mode()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), labels) float32 logits in evaluation mode, in the order of `rows`."""
        self.model.eval()
        logits = np.empty((len(rows), self.targets.shape[1]), dtype=np.float32)
        order = np.argsort(self.encoded.lengths[rows], kind="stable")
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            with autocast(self.device, self.loop.precision):
                logits[chosen] = self.model(*self.encoded.batch(rows[chosen], self.device)).cpu().numpy()
        return logits

    def validate(self) -> dict[str, float]:
        """Macro AUROC of the validation reports."""
        return {"validate_auroc": macro_auroc(self.truth, self.predict(self.held))}


def _torch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, 2, epoch]).generate_state(1)[0])


def length_bucketed_batches(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random batches of reports of similar length: shuffle, sort by length within 50 batches' worth, shuffle batches.

    Batches are positions into `lengths`; together they hold every position once.
    """
    order = rng.permutation(len(lengths))
    pool = 50 * batch_size
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    return [batches[position] for position in rng.permutation(len(batches))]


def _check_inputs(texts: pd.Series, targets: pd.DataFrame, split: pd.Series) -> None:
    """Refuse what cannot be trained on; messages name positions and columns, never words or identifiers."""
    check_rows(split, ["train", "validate"], texts=texts, targets=targets)
    check_texts(texts)
    for name in ("train", "validate"):
        part = targets[split == name]
        if not any(part[label].nunique() == 2 for label in targets.columns):
            raise DataError(f"No label has both classes among the {len(part)} {name} reports; choose another split.")


def _identity(
    encoded: EncodedTexts, targets: pd.DataFrame, split: pd.Series, config: TextTeacherConfig, seed: int
) -> str:
    """Hash of everything the result depends on, except the device."""
    facts = {"encoded": encoded.identity, "labels": [str(label) for label in targets.columns], "seed": seed}
    facts["targets"] = pd.util.hash_pandas_object(targets.astype(float)).to_numpy().tolist()
    facts["split"] = split.fillna("").astype(str).tolist()
    facts["config"] = {name: value for name, value in asdict(config).items() if name not in ("encoder", "device")}
    return files.hash_params(facts)


def _read_result(folder: Path, identity: str, index: pd.Index) -> TextTeacherResult | None:
    """The finished teacher in `folder`, or None; DataError if it is another one."""
    if not (folder / "teacher.json").exists():
        return None
    facts = files.read_json(folder / "teacher.json")
    if facts["identity"] != identity:
        raise DataError(f"{folder} holds a teacher of other texts, settings or seed: give this one its own folder.")
    logits = pd.read_parquet(folder / "logits.parquet")
    logits.index = index
    history = pd.read_csv(folder / "history.csv", float_precision="round_trip")
    return TextTeacherResult(logits, history, facts["counts"], facts["best_epoch"])
