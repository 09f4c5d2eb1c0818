"""The text teacher: a BERT-type encoder fine-tuned on reports to predict the image's labels (f_t of equation (1)).

Baur et al. fine-tune PubMedBERT on MIMIC-CXR reports "excluding label names" (AUROC 0.99). Here the encoder is any
local folder in Hugging Face layout, and `trainable_layers` says how much moves: all of it as in the paper (-1), or the
last k blocks, in which case the frozen blocks below run once per report and every seed reuses what they produced.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from pkd_utils.cohorts.label_terms import surviving_terms
from pkd_utils.distillation.text_training import TextTeacherConfig, TextTraining
from pkd_utils.encoders.texts import EncodedTexts, lower_states
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import auroc

SPLITS = ("train", "validate", "test")


@dataclass
class TextTeacherResult:
    """A trained teacher: its frozen logits for every report, and how it got there.

    Attributes
    ----------
    logits : pd.DataFrame
        One row a report (index of `texts`), one float32 column a label, from the epoch with the best validation AUROC.
    history : pd.DataFrame
        epoch, train_loss, validate_auroc (macro).
    metrics : pd.DataFrame
        split, label, rows, positives, auroc, auprc; the label "macro" is the mean over labels with both classes.
    counts : dict
        reports; truncated (cut at max_tokens); empty (no words left); unlabelled (training rows without any label).
    seconds : float
        Of this call; a finished teacher read back from `folder` keeps the time of its training.
    """

    logits: pd.DataFrame
    history: pd.DataFrame
    metrics: pd.DataFrame
    counts: dict[str, int]
    best_epoch: int
    seconds: float
    folder: Path


def check_label_names_removed(texts: pd.Series, labels: list[str], synonyms: bool = True) -> None:
    """Refuse reports that still name a label: the paper's teacher reads reports "excluding label names".

    Parameters
    ----------
    texts : pd.Series of str
    labels : list of str
        Keys of `cohorts.label_terms.LABEL_TERMS`.
    synonyms : bool
        Look for synonyms too, or for the names only.

    Raises
    ------
    DataError
        If a term of any label is left; the message gives positions, never words.
    """
    named = [position for position, text in enumerate(texts) if surviving_terms(text, labels, synonyms)]
    if named:
        raise DataError(
            f"{len(named)} of {len(texts)} reports still name {', '.join(labels)}, first at position {named[0]}: "
            "apply cohorts.label_terms.remove_label_terms, or say label_names='kept'."
        )


def label_metrics(logits: pd.DataFrame, targets: pd.DataFrame, split: pd.Series) -> pd.DataFrame:
    """AUROC and average precision per split and label over known targets; NaN where a class is missing.

    Returns
    -------
    pd.DataFrame
        split, label, rows, positives, auroc, auprc, with a row "macro" a split: the mean over defined labels.
    """
    rows = []
    for name in SPLITS:
        part = []
        for label in targets.columns:
            chosen = (split == name) & targets[label].notna()
            truth, score = targets.loc[chosen, label], logits.loc[chosen, label]
            auprc = average_precision_score(truth, score) if truth.nunique() == 2 else np.nan
            part.append((name, label, int(chosen.sum()), int(truth.sum()), auroc(truth, score), auprc))
        table = pd.DataFrame(part, columns=["split", "label", "rows", "positives", "auroc", "auprc"])
        macro = table[["auroc", "auprc"]].mean()
        rows += [table, pd.DataFrame([{"split": name, "label": "macro", "rows": int((split == name).sum()), **macro}])]
    return pd.concat(rows, ignore_index=True)


def fit_text_teacher(
    texts: pd.Series,
    targets: pd.DataFrame,
    split: pd.Series,
    config: TextTeacherConfig,
    folder: str | Path,
    seed: int,
    encoded: EncodedTexts | None = None,
    label_names: str = "removed",
) -> TextTeacherResult:
    """Train one text teacher, or finish or read back the one that `folder` holds.

    Parameters
    ----------
    texts : pd.Series of str
        Reports after `cohorts.label_terms.remove_label_terms`; the index identifies the report.
    targets : pd.DataFrame
        Same index, one column a label: 1, 0 or NaN (unknown, carries no loss).
    split : pd.Series
        Same index: train, validate, test, or NaN (gets logits, is used for nothing else).
    folder : str or Path
        Of this teacher alone. A checkpoint is left after every epoch, so a killed training goes on from there and ends
        in the same numbers.
    seed : int
        Initial head, order of batches and dropout.
    encoded : EncodedTexts, optional
        What `encode_teacher_texts(texts, config)` gave, to share it among seeds.
    label_names : str
        "removed" (as in the paper): names and synonyms of every label must be gone, see `check_label_names_removed`;
        "names_removed": the names only; "kept": no check.

    Raises
    ------
    DataError
        A report that names a label, a label without listed terms, misaligned or duplicated index, targets other than
        1/0/NaN, unknown split name, no label with both classes in the training or validation split, or a folder that
        holds another teacher.
    """
    started = time.time()
    folder = Path(folder)
    _check_inputs(texts, targets, split)
    if label_names not in ("removed", "names_removed", "kept"):
        raise DataError(f"label_names must be 'removed', 'names_removed' or 'kept', not {label_names!r}.")
    if label_names != "kept":
        check_label_names_removed(texts, list(targets.columns), synonyms=label_names == "removed")
    if encoded is None:
        encoded = encode_teacher_texts(texts, config)
    if len(encoded.lengths) != len(texts):
        raise DataError(f"`encoded` holds {len(encoded.lengths)} reports, `texts` {len(texts)}: encode these texts.")
    identity = _identity(encoded, targets, split, config, seed)
    done = _read_result(folder, identity, texts.index)
    if done is not None:
        return done

    labelled = targets.notna().any(axis=1)
    train_rows = np.flatnonzero((split == "train") & labelled)
    counts = {
        "reports": len(texts),
        "truncated": encoded.truncated,
        "empty": encoded.empty,
        "unlabelled": int(((split == "train") & ~labelled).sum()),
    }
    training = TextTraining(encoded, targets, train_rows, config, folder, seed, identity)
    validate = np.flatnonzero(split == "validate")
    for epoch in training.epochs_left():
        loss = training.run_epoch(epoch)
        logits = training.predict(validate)
        scores = label_metrics(
            pd.DataFrame(logits, columns=targets.columns, index=texts.index[validate]),
            targets.iloc[validate],
            split.iloc[validate],
        )
        macro = scores.query("split == 'validate' and label == 'macro'")["auroc"].item()
        training.end_epoch(epoch, loss, macro)
    training.restore_best()
    logits = pd.DataFrame(training.predict(np.arange(len(texts))), columns=targets.columns, index=texts.index)
    result = TextTeacherResult(
        logits,
        pd.DataFrame(training.history),
        label_metrics(logits, targets, split),
        counts,
        training.best_epoch,
        round(time.time() - started, 2),
        folder,
    )
    _write_result(result, identity, config, seed)
    training.checkpoint.unlink(missing_ok=True)
    return result


def encode_teacher_texts(texts: pd.Series, config: TextTeacherConfig, cache: str | Path | None = None) -> EncodedTexts:
    """`texts.lower_states` with a teacher's settings; every seed may share the answer."""
    return lower_states(
        list(texts),
        config.encoder,
        config.trainable_layers,
        config.max_tokens,
        config.precision,
        config.torch_device,
        cache=cache,
    )


def _check_inputs(texts: pd.Series, targets: pd.DataFrame, split: pd.Series) -> None:
    """Refuse what cannot be trained on; messages name positions and columns, never words or identifiers."""
    if not (texts.index.equals(targets.index) and texts.index.equals(split.index)):
        raise DataError("texts, targets and split must have the same index in the same order; align them first.")
    wrong = [position for position, text in enumerate(texts) if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{len(wrong)} reports have no text, first at position {wrong[0]}; leave these studies out.")
    if not texts.index.is_unique:
        position = int(np.flatnonzero(texts.index.duplicated())[0])
        raise DataError(f"The index of texts repeats at position {position}: one row a report is needed.")
    if targets.shape[1] == 0 or not targets.columns.is_unique:
        raise DataError("targets needs at least one label column, each with a name of its own.")
    for label in targets.columns:
        strange = targets[label].dropna()[~targets[label].dropna().isin([0, 1])]
        if len(strange):
            raise DataError(f"Column {label!r} of targets holds {strange.iloc[0]}; only 1, 0 and NaN are allowed.")
    unknown = sorted(set(split.dropna()) - set(SPLITS))
    if unknown:
        raise DataError(f"Column split holds {unknown[0]!r}; only {', '.join(SPLITS)} or NaN are allowed.")
    for name in ("train", "validate"):
        part = targets[split == name]
        if not len(part):
            raise DataError(f"No report has split == {name!r}; a text teacher needs training and validation reports.")
        if not any(part[label].nunique() == 2 for label in targets.columns):
            raise DataError(f"No label has both classes among the {len(part)} {name} reports; choose another split.")


def _identity(
    encoded: EncodedTexts, targets: pd.DataFrame, split: pd.Series, config: TextTeacherConfig, seed: int
) -> str:
    """Hash of everything the result depends on, except the device."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("encoder", "device")}
    return files.hash_params(
        {
            "encoded": encoded.identity,
            "labels": [str(label) for label in targets.columns],
            "targets": pd.util.hash_pandas_object(targets.astype(float)).to_numpy().tolist(),
            "split": split.fillna("").astype(str).tolist(),
            "config": settings,
            "seed": seed,
        }
    )


def _write_result(result: TextTeacherResult, identity: str, config: TextTeacherConfig, seed: int) -> None:
    """Write the teacher's files; teacher.json comes last and marks it finished."""
    files.write_parquet(result.folder / "logits.parquet", result.logits)
    files.write_csv(result.folder / "history.csv", result.history)
    files.write_csv(result.folder / "metrics.csv", result.metrics)
    facts = {
        "identity": identity,
        "seed": seed,
        "config": {**asdict(config), "encoder": Path(config.encoder).name},
        "counts": result.counts,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
    }
    files.write_json(result.folder / "teacher.json", facts)


def _read_result(folder: Path, identity: str, index: pd.Index) -> TextTeacherResult | None:
    """The finished teacher in `folder`, or None; DataError if it is another one."""
    if not (folder / "teacher.json").exists():
        return None
    facts = files.read_json(folder / "teacher.json")
    if facts["identity"] != identity:
        raise DataError(f"{folder} holds a teacher of other texts, settings or seed: give this one its own folder.")
    logits = pd.read_parquet(folder / "logits.parquet")
    logits.index = index
    return TextTeacherResult(
        logits,
        pd.read_csv(folder / "history.csv", float_precision="round_trip"),
        pd.read_csv(folder / "metrics.csv", float_precision="round_trip"),
        facts["counts"],
        facts["best_epoch"],
        facts["seconds"],
        folder,
    )
