"""One vector a picture and one a report: the mean of a frozen encoder's tokens, computed once and kept.

What is kept lies in `<data>/derived/features/<hash>.npy`; the hash is over the encoder with its weights and over what
it was shown, so no notebook can read another's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from pkd_utils.cohorts.table import Cohort
from pkd_utils.distillation.linear import principal_axes
from pkd_utils.encoders.tokens.stored import TextStore, TokenStore
from pkd_utils.encoders.tokens.views import CROPS, Pipeline, list_images
from pkd_utils.runs import files, paths
from pkd_utils.runs.run import find_run


@dataclass
class Data:
    """Studies: what is seen at prediction, what is privileged, what is asked. Rows are studies, N of them."""

    patients: np.ndarray  # (N,) patient of each study
    images: dict[str, np.ndarray]  # encoder -> (N, d) float32
    texts: dict[str, np.ndarray]  # variant of the text -> (N, d*) float32
    outcomes: pd.DataFrame  # (N, outcomes) of 1, 0 and NaN (unknown)
    states: dict[str, np.ndarray] = field(default_factory=dict)  # outcome -> (N,) known log-odds; labels are drawn


def picture_features(encoder, image_ids: Sequence[str], files_of: Sequence[Path], batch_size: int) -> np.ndarray:
    """Mean patch token of each picture, (M, D) float32."""
    line = Pipeline(encoder, list_images(image_ids, files_of), CROPS, batch_size, workers=1, storage="float32")
    key = [encoder.identity, list(line.hashes())]

    def make() -> Iterable[np.ndarray]:
        groups = [
            [(row, [0]) for row in range(start, min(start + batch_size, len(line.files)))]
            for start in range(0, len(line.files), batch_size)
        ]
        for tokens in tqdm(line.run(groups), total=len(groups), desc=encoder.facts.title, mininterval=5):
            yield tokens[0].mean(1).numpy()

    return _kept(key, make)


def text_features(encoder, texts: Sequence[str], longest: int) -> np.ndarray:
    """Mean token of each text, (M, D) float32; texts of more than `longest` tokens are cut."""
    packed = encoder.tokenize(texts, longest, "cut")

    def make() -> Iterable[np.ndarray]:
        hidden = encoder.encode_all(packed, batch_size=64).hidden.float()
        yield torch.segment_reduce(hidden, "mean", lengths=torch.from_numpy(packed.lengths)).numpy()

    return _kept([packed.identity, "mean"], make)


def of_studies(cohort: Cohort, pictures: dict[str, np.ndarray], texts: dict[str, np.ndarray]) -> Data:
    """A cohort's studies with the mean over their pictures.

    Parameters
    ----------
    cohort : Cohort, whose privileged table is indexed by study
    pictures : encoder -> (M, d), rows as `cohort.images`
    texts : variant -> (N, d*), rows as `cohort.privileged`
    """
    studies = cohort.privileged.index
    place = studies.get_indexer(cohort.images["study_id"])
    count = np.bincount(place, minlength=len(studies))[:, None]
    means = {}
    for name, values in pictures.items():
        total = np.zeros((len(studies), values.shape[1]))
        np.add.at(total, place, values)
        means[name] = (total / count).astype(np.float32)
    first = cohort.images.drop_duplicates("study_id").set_index("study_id").loc[studies]
    return Data(first["patient_id"].to_numpy(), means, texts, first[cohort.labels].reset_index(drop=True))


def read_encoding(encode_run: str) -> Data:
    """Features of a run of reports/02-encode, and as outcomes the labels and binary tasks of its studies."""
    folder = find_run(encode_run)
    record = files.read_json(folder / "run.json")["parameters"]
    written = find_run(record["text_run"]) if record["text_run"] else folder
    prepared = find_run(record["tasks_run"])
    tokens, text = TokenStore(folder / "tokens"), TextStore(written / "text")
    images = pd.read_parquet(prepared / "images.parquet").set_index("image_id").loc[tokens.image_ids]
    index = pd.read_parquet(prepared / "privileged.parquet").index
    tasks = pd.read_parquet(prepared / "tasks.parquet")
    binary = tasks.groupby("task")["target"].transform("nunique") == 2
    outcomes = tasks[binary].pivot(index="image_id", columns="task", values="target").reindex(tokens.image_ids)
    seen = [tokens.batch([row])[0].float().mean(0).numpy() for row in range(tokens.rows)]
    reports = images.index if index.name == "image_id" else images[index.name]
    states, mask = text.subset(list(reports)).batch(range(len(reports)))
    read = (states.sum(1) / mask.sum(1, keepdim=True)).numpy()
    seen = {record["image_encoder"]: np.stack(seen)}
    return Data(images["patient_id"].to_numpy(), seen, {"whole": read}, outcomes)


def simulate(studies: int, seed: int, width: int = 40) -> Data:
    """Studies of which everything is known: four latent variables, seen dimly in the picture and clearly in the text.

    The finding is the sign of the first variable; the future's log-odds are the sum of all four, of which the text
    tells more than the picture. The vague text is the whole one under more noise. One study a patient. All of it is
    simulated.
    """
    rng = np.random.default_rng([seed, studies])
    state = rng.standard_normal((studies, 4))
    views = {}
    for name, noise in (("picture", 4.0), ("text", 1.0)):
        mixed = state @ rng.standard_normal((4, width)) + noise * rng.standard_normal((studies, width))
        views[name] = mixed.astype(np.float32)
    outcomes = pd.DataFrame({"finding": (state[:, 0] > 0).astype(float)})
    texts = {"whole": views["text"]}
    texts["vague"] = texts["whole"] + 3 * rng.standard_normal((studies, width)).astype(np.float32)
    return Data(np.arange(studies), {"simulated": views["picture"]}, texts, outcomes, {"future": state.sum(1)})


def with_semi_synthetic(data: Data, slope: float) -> Data:
    """The data with one more outcome, "semi-synthetic": its log-odds are `slope` times a state that the text knows.

    The state is the first principal component of the standardised whole text, at variance 1. The text tells all of it,
    the picture what it shares with the text; the outcome is drawn, so that its probability is known.
    """
    text = standardised(data.texts["whole"].astype(np.float64))
    state = text @ principal_axes(text)[:, 0]
    return replace(data, states={**data.states, "semi-synthetic": slope * state / state.std()})


def standardised(features: np.ndarray) -> np.ndarray:
    """Columns (N, d) of mean 0 and standard deviation 1, a constant one of 0."""
    spread = features.std(0)
    return (features - features.mean(0)) / np.where(spread == 0, 1, spread)


def _kept(key, make: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    file = paths.data_dir() / "derived" / "features" / f"{files.hash_params(key)[:20]}.npy"
    if not file.exists():
        files.write(file, np.concatenate(list(make())).astype(np.float32))
    return np.load(file, allow_pickle=False)
