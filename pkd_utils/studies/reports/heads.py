"""The radiology-reports study put together: which heads a finished encoding gives rise to, and how they score.

One encoder at a time. `load_study` reads what 01-prepare-tasks and 02-encode left; `head_specs` lists the heads of one
task (methods x sizes x seeds x temperatures); `train` fits them together and scores them, a row a head. Which epoch is
reported is a choice, so every row holds three readings of the same training, see `score_heads`. `read_scores` brings
the rows of several runs together.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from pkd_utils.cohorts.tasks.splits import subset
from pkd_utils.distillation.heads.modules import DISTILLED, METHODS, READS_TEXT, TEACHER_OF
from pkd_utils.distillation.heads.training import HeadConfig, HeadResults, HeadSpec, fit_heads
from pkd_utils.encoders.tokens.live import open_tokens
from pkd_utils.encoders.tokens.stored import TextStore
from pkd_utils.encoders.zoo import TEXT_ENCODERS
from pkd_utils.runs import files, run
from pkd_utils.runs.checked import checked
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.metrics import micro_auroc, micro_average_precision
from pkd_utils.studies.reports.contrasts import Scores


@dataclass(frozen=True)
class Study:
    """One encoder's tokens and the tasks they are for."""

    encoder: str
    tokens: Any  # TokenStore or LiveTokens
    text: TextStore | None
    tasks: dict[str, dict[str, Any]]  # title, kind and classes of each task
    splits: pd.DataFrame  # of `tasks.splits.split_seeds`; training images beyond the largest size left out
    sizes: pd.DataFrame  # of `choose_sizes`
    study_of: pd.Series  # report (index of `text`) of each image

    def rows_of(self, task: str) -> list[str]:
        """Images that take part in a task with any seed, sorted: the rows of its tokens and targets."""
        return sorted(self.splits.loc[self.splits["task"] == task, "image_id"].unique())


def load_study(encode_run: str, device: str = "cpu", text_run: str = "") -> Study:
    """What a run of reports/02-encode and the run of reports/01-prepare-tasks that it read left behind.

    With `text_run`, another run of 02-encode of the same tasks, its report tokens take the place of the first one's.
    """
    folder = run.find_run(encode_run)
    texts = run.find_run(text_run) if text_run else folder
    facts = files.read_json(folder / "run.json")
    tasks_run = facts["parameters"]["tasks_run"]
    read = files.read_json(texts / "run.json")["upstream"]
    if read.get(tasks_run) != facts["upstream"][tasks_run]:
        raise DataError(f"{text_run} and {encode_run} are of different tasks: encode the reports of {tasks_run}.")
    prepared = run.find_run(tasks_run)
    images = pd.read_parquet(prepared / "images.parquet").set_index("image_id")
    privileged = pd.read_parquet(prepared / "privileged.parquet")
    splits, sizes = pd.read_parquet(prepared / "splits.parquet"), pd.read_csv(prepared / "sizes.csv")
    largest = splits["task"].map(sizes.groupby("task")["samples"].max())
    used = (splits["part"] == "evaluate") | (splits["rank"] < largest)  # the others were not encoded
    key = images.index.to_series() if privileged.index.name == "image_id" else images[privileged.index.name]
    tokens = open_tokens(folder / "tokens", device=device) if (folder / "tokens").exists() else None
    text = TextStore(texts / "text") if (texts / "text").exists() else None
    tasks = files.read_json(prepared / "tasks.json")
    return Study(facts["parameters"]["image_encoder"], tokens, text, tasks, splits[used], sizes, key)


def head_name(method: str, size: int, seed: int, weight: float | None = None, temperature: float | None = None) -> str:
    """Name of a head within its task."""
    name = f"{method}.n{size}.seed{seed}"
    return name if method not in DISTILLED else f"{name}.lambda{weight:g}.tau{temperature:g}"


@checked
def head_specs(
    study: Study,
    task: str,
    methods: Sequence[Literal[METHODS]],
    seeds: Sequence[int] = (),
    sizes: Sequence[int] = (),
    weights: Sequence[float] = (0.75,),
    temperatures: Sequence[float] = (0.25,),
    selection: Literal["paper", "nested"] = "paper",
    learning_rate: float | None = None,
    epochs: int = 0,
) -> list[HeadSpec]:
    """The heads of one task; teachers that the methods need are added.

    Parameters
    ----------
    seeds, sizes : empty for all that were prepared
    weights, temperatures : lambda and tau of equation (2), of the distilled methods
    selection
        "paper": epochs (the teacher's too) are chosen on the images that are reported, as we read the paper. "nested":
        chosen on one half of the evaluation patients, reported on the other.
    learning_rate : None for the paper's (1e-4, probes 1e-3)
    epochs : 0 for those of each size (Tables 3 to 7)
    """
    if task not in study.tasks:
        raise DataError(f"There is no task {task!r}; there are {', '.join(study.tasks)}.")
    splits = study.splits[study.splits["task"] == task]
    table = study.sizes[study.sizes["task"] == task]
    missing = [s for s in seeds if s not in set(splits["seed"])] + [n for n in sizes if n not in set(table["samples"])]
    if missing:
        raise DataError(f"Task {task} was not prepared with seed or size {missing[0]}: see its splits and sizes.")
    splits = splits[splits["seed"].isin(seeds)] if len(seeds) else splits
    table = table[table["samples"].isin(sizes)] if len(sizes) else table
    place = pd.Index(study.rows_of(task)).get_indexer
    needed = [*methods, *(TEACHER_OF[m] for m in methods if m in TEACHER_OF)]
    specs = []
    for seed, split in splits.groupby("seed"):
        evaluation = split[split["part"] == "evaluate"]
        held = {"validation_rows": place(evaluation["image_id"])}
        if selection == "nested":
            first, second = (place(evaluation.loc[evaluation["half"] == half, "image_id"]) for half in (0, 1))
            held = {"validation_rows": first, "test_rows": second}
        for row in table.itertuples():
            shared = {"seed": int(seed), "epochs": epochs or int(row.epochs), "learning_rate": learning_rate, **held,
                      "train_rows": place(subset(split, row.samples)["image_id"])}  # fmt: skip
            for method in dict.fromkeys(needed):
                if method not in DISTILLED:
                    specs.append(HeadSpec(head_name(method, row.samples, seed), method, **shared))
                    continue
                teacher = head_name(TEACHER_OF[method], row.samples, seed)
                for weight, temperature in itertools.product(weights, temperatures):
                    name = head_name(method, row.samples, seed, weight, temperature)
                    taught = {"teacher": teacher, "weight": weight, "temperature": temperature}
                    specs.append(HeadSpec(name, method, **shared, **taught))
    return specs


class Trained(NamedTuple):
    """Heads of one task: the results, and of those named a row of scores, their predictions, seconds of training."""

    results: HeadResults
    scores: pd.DataFrame
    predictions: pd.DataFrame
    seconds: float


def train(
    study: Study,
    task: str,
    specs: Sequence[HeadSpec],
    folder: str | Path | None,
    names: Sequence[str] = (),
    finished: Iterable[Path] = (),
    **config,
) -> Trained:
    """Train heads of one task together, or continue, or read them, and score those named, all without names.

    `config` goes to `heads.training.HeadConfig`; without a folder nothing is kept. Heads that other calls have trained
    are found in their folders, `finished`, and cost no seconds here.
    """
    tokens, text = _tokens_of(study, task)
    settings = HeadConfig(n_classes=len(study.tasks[task]["classes"]), **config)
    results = fit_heads(specs, tokens, text, task_targets(study, task), settings, folder, finished=finished)
    names = names or [spec.name for spec in specs]
    history = results.history[results.history["name"].isin(set(names) - results.elsewhere)]
    seconds = history.drop_duplicates(["epoch", "seconds"])["seconds"].sum()
    return Trained(results, score_heads(study, task, results, names), predictions(study, task, results, names), seconds)


def head_inputs(study: Study, task: str, rows: np.ndarray) -> list[torch.Tensor]:
    """What heads read of some rows: clean image tokens (B, N, D), and report tokens (B, L, D_t) with their mask (B, L)
    where there are reports; float32 on the CPU."""
    tokens, text = _tokens_of(study, task)
    places = torch.as_tensor(rows)
    inputs = [tokens.batch(places, torch.zeros_like(places)).float().cpu()]
    if text is not None:
        states, mask = text.batch(np.asarray(rows), torch.device("cpu"))
        inputs += [states.float(), mask]
    return inputs


def _tokens_of(study: Study, task: str) -> tuple[Any, TextStore | None]:
    names = study.rows_of(task)
    text = None if study.text is None else study.text.subset(study.study_of.loc[names].tolist())
    return study.tokens.subset(names), text


def task_targets(study: Study, task: str) -> np.ndarray:
    """(rows,) int64 classes in the order of `rows_of`."""
    rows = study.splits[study.splits["task"] == task].drop_duplicates("image_id").set_index("image_id")["target"]
    return rows.loc[study.rows_of(task)].to_numpy(np.int64)


SETTINGS = ("weight", "temperature", "reader")
_SAME = ("learning_rate", "epochs", "selection", "batch_size", "dropout")


def read_scores(runs: Sequence[str], several: bool = False) -> Scores:
    """Rows of `score_heads` of runs of 03 and 04, of one 01-prepare-tasks or of several with different tasks.

    With `several`, heads of one kind may differ in `SETTINGS`, trained alike in all else, and of one that two runs hold
    the first counts; the reader is the text encoder of the reports that a head or its teacher reads, "" without any.
    """
    crops_of(runs)
    read = []
    for name in runs:
        rows = pd.read_parquet(run.find_run(name) / "scores.parquet").assign(prepared=_before(name, "tasks_run"))
        if several:
            rows["reader"] = np.where(
                rows["method"].isin((*READS_TEXT, "permuted_distilled", "report_distilled")), _reader(name), ""
            )
        read.append(rows)
    rows = pd.concat(read, ignore_index=True)
    kind = ["encoder", "task", "method", "seed", "size", "prepared"]
    if several:
        for setting in _SAME:
            if len(found := {_teachers(name)[setting] for name in runs}) > 1:
                raise DataError(f"The runs of 03 differ in {setting} ({', '.join(map(str, found))}): give alike ones.")
        rows = rows.drop_duplicates([*kind, *SETTINGS])
    elif (most := rows.groupby(kind).size().max()) > 1:
        raise DataError(f"There are {most} heads of one kind a seed: give runs with one temperature and one weight.")
    titles, shares, cohorts = {}, {}, {}
    for reference, known in rows.groupby("prepared", sort=False)["task"].unique().items():
        folder = run.find_run(reference)
        tasks = {name: task for name, task in files.read_json(folder / "tasks.json").items() if name in known}
        if twice := [name for name in tasks if name in titles]:
            raise DataError(f"{cohorts[twice[0]]} and {reference} both have {twice[0]}: give runs of different tasks.")
        splits = pd.read_parquet(folder / "splits.parquet")
        evaluated = (splits["part"] == "evaluate").groupby(splits["task"]).mean()
        titles |= {name: task["title"] for name, task in tasks.items()}
        shares |= evaluated[list(tasks)].to_dict()
        cohorts |= dict.fromkeys(tasks, reference)
    return Scores(rows.drop(columns="prepared"), titles, shares, cohorts)


def crops_of(runs: Sequence[str]) -> str:
    """The crops that all heads of these runs of 03 and 04 were trained on, in words; DataError if they differ."""
    found = []
    for encode_run in dict.fromkeys(_before(reference, "encode_run") for reference in runs):
        folder = run.find_run(encode_run)
        p, fresh = _parameters(encode_run), files.read_json(folder / "encoding.json")["mode"] == "live"
        low, high = p["crop_scale"]
        kept = "fresh in every epoch" if fresh else f"{p['views']} kept of each image"
        found.append((p["image_encoder"], f"{kept}, {low:.0%} to {high:.0%} of its area"))
    if len({crops for _, crops in found}) > 1:
        said = "; ".join(f"{encoder}: {crops}" for encoder, crops in dict.fromkeys(found))
        raise DataError(f"The encoders were trained on different crops ({said}): give 02-encode the same for all.")
    return found[0][1]


def _teachers(reference: str) -> dict[str, Any]:
    """Parameters of a run of 03, or of that behind a run of 04."""
    parameters = _parameters(reference)
    return _parameters(parameters["teachers_run"]) if "teachers_run" in parameters else parameters


def _reader(reference: str) -> str:
    """Title of the text encoder that read the reports of a run of 03 or 04, with what is unusual of it."""
    teachers = _teachers(reference)
    read = _parameters(teachers["text_run"] or teachers["encode_run"])
    read = _parameters(read["text_run"]) if read["text_run"] else read
    if not read["text_encoder"]:
        return ""
    usual = {"text_layer": "last", "variant": "whole"}
    other = ["random weights"] if read["text_weights"] == "random" else []
    other += [str(read[name]).replace("_", " ") for name in usual if read[name] != usual[name]]
    return ", ".join([TEXT_ENCODERS[read["text_encoder"]].title, *other])


def _before(reference: str, name: str) -> str:
    """What a run of a later step, or one that it stands on, names as its "encode_run" or "tasks_run"."""
    parameters = _parameters(reference)
    if name in parameters:
        return parameters[name]
    return _before(next(parameters[step] for step in ("teachers_run", "encode_run") if step in parameters), name)


def _parameters(reference: str) -> dict[str, Any]:
    return files.read_json(run.find_run(reference) / "run.json")["parameters"]


def score_heads(study: Study, task: str, results: HeadResults, names: Iterable[str]) -> pd.DataFrame:
    """One row a head: what it is, and AUC and AUPRC (one-versus-rest, micro-averaged) under three choices of the epoch.

    Columns
    -------
    encoder, task, kind, method, seed, size, weight, temperature, epochs
    auc, auprc, best_epoch
        Epoch of the highest AUC on the reported images, as we read the paper, which flatters. With selection "nested":
        chosen on one half of the evaluation patients and reported on the other.
    auc_other_half, auprc_other_half
        Each half of the evaluation patients is reported at the epoch that is best on the other half, and the two are
        averaged: the head's own epoch is not chosen on what is reported (its teacher's was). NaN with "nested", which
        needs it not, and where a half holds one class only.
    auc_last, auprc_last
        The last epoch: nothing is chosen.
    """
    targets, rows = task_targets(study, task), []
    halves = study.splits[study.splits["task"] == task].pivot(index="image_id", columns="seed", values="half")
    for name in names:
        spec = results.specs[name]
        part, reported = _reported(spec)
        truth = targets[reported]
        best, last = (_probabilities(results.logits(name, part, epoch)) for epoch in ("best", "last"))
        row = {
            "encoder": study.encoder, "task": task, "kind": study.tasks[task]["kind"], "method": spec.method,
            "seed": spec.seed, "size": len(spec.train_rows),
            "weight": spec.weight if spec.method in DISTILLED else np.nan,
            "temperature": spec.temperature if spec.method in DISTILLED else np.nan,
            "epochs": spec.epochs, "best_epoch": results.best_epoch(name), "head": name,
            "auc": micro_auroc(truth, best), "auprc": micro_average_precision(truth, best),
            "auc_last": micro_auroc(truth, last), "auprc_last": micro_average_precision(truth, last),
            "auc_other_half": np.nan, "auprc_other_half": np.nan,
        }  # fmt: skip
        if spec.test_rows is None:
            half = halves[spec.seed].to_numpy()[reported]  # its rows are those of `rows_of`, sorted by name
            row["auc_other_half"], row["auprc_other_half"] = _other_half(results, name, truth, half)
        rows.append(row)
    return pd.DataFrame(rows)


def predictions(study: Study, task: str, results: HeadResults, names: Iterable[str]) -> pd.DataFrame:
    """Logits of the reported images at each head's best epoch: `head, image_id, target`, one column a class."""
    images, targets = np.array(study.rows_of(task)), task_targets(study, task)
    tables = []
    for name in names:
        spec = results.specs[name]
        part, reported = _reported(spec)
        logits = results.logits(name, part, "best").numpy()
        columns = {f"class_{c}": logits[:, c] for c in range(logits.shape[1])}
        tables.append(pd.DataFrame({"head": name, "image_id": images[reported], "target": targets[reported]} | columns))
    return pd.concat(tables, ignore_index=True)


def _reported(spec: HeadSpec) -> tuple[str, np.ndarray]:
    """Which rows of a head are reported."""
    return ("validation", spec.validation_rows) if spec.test_rows is None else ("test", spec.test_rows)


def _other_half(results: HeadResults, name: str, truth: np.ndarray, half: np.ndarray) -> tuple[float, float]:
    """AUC and AUPRC with each half's epoch chosen on the other half, averaged."""
    if any(len(np.unique(truth[half == side])) < 2 for side in (0, 1)):
        return np.nan, np.nan
    epochs = range(1, results.specs[name].epochs + 1)
    every = [_probabilities(results.logits(name, "validation", epoch)) for epoch in epochs]
    scores = []
    for side in (0, 1):
        chosen = max(every, key=lambda values: micro_auroc(truth[half != side], values[half != side]))
        reported = truth[half == side], chosen[half == side]
        scores.append((micro_auroc(*reported), micro_average_precision(*reported)))
    return tuple(np.mean(scores, axis=0))


def _probabilities(logits: torch.Tensor) -> np.ndarray:
    return torch.softmax(logits.double(), 1).numpy()
