"""How much of a label can be read from the report, the image, and the simulated state: Figure 3 of the paper, measured.

For each source simple models predict the label of patients they have not seen. Two numbers say how well: the AUC, and
the information in bits, mean log2 p(y | x) / p(y) over held-out images. The latter never exceeds the mutual information
I(Y; X) in expectation (a lower bound by Barber and Agakov, 2003); a better model would find more, and it is negative
where the model found nothing and erred. The state is known for the simulated cohort only, and sets the limit there.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pkd_utils.cohorts.table import Cohort
from pkd_utils.cohorts.tasks.base import Task
from pkd_utils.cohorts.texts import Variant, text_variant
from pkd_utils.images.decode import upright
from pkd_utils.runs.errors import DataError
from pkd_utils.statistics.intervals import bootstrap_interval
from pkd_utils.statistics.metrics import micro_auroc

STATE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
STATE += ("heart_failure", "infection", "immobility", "heart_disease", "age")
MODELS = {
    "report": LogisticRegression(C=1.0, max_iter=500),
    "image": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)),
    "state": make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=500)),
}
COLUMNS = ["task", "title", "kind", "source", "images", "patients", "auc", "auc_low", "auc_high", "chance"]
COLUMNS += ["bits", "bits_low", "bits_high", "entropy"]
SIDE, COMPONENTS = 32, 100  # of the thumbnails, pixels, and numbers kept of each
_LEAST = 1e-4  # no probability below this: one overconfident error would outweigh everything


def report_features(texts: Iterable[str]):
    """Words and pairs of words of each text as a sparse TF-IDF matrix (N, V); fitted without labels."""
    least = 3 if len(texts := list(texts)) >= 200 else 1
    return TfidfVectorizer(ngram_range=(1, 2), min_df=least, max_features=3000, sublinear_tf=True).fit_transform(texts)


def image_features(files: Iterable[Path]) -> np.ndarray:
    """Principal components of small grey copies of the images, float32 (N, `COMPONENTS`); fitted without labels.

    A floor for what an image tells: no network, no pretraining.
    """
    small = []
    for file in files:
        with Image.open(file) as image:
            # draft lets JPEG files be decoded at a fraction of their size.
            image.draft("L", (2 * SIDE, 2 * SIDE))
            grey = upright(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            small.append(np.asarray(grey, dtype=np.float32))
    pixels = np.stack(small).reshape(len(small), -1) / 255
    components = min(COMPONENTS, len(small) - 1)
    return PCA(components, svd_solver="randomized", random_state=0).fit_transform(pixels).astype(np.float32)


def read_state(root: Path) -> pd.DataFrame:
    """Simulated latent state by `study_id`: severities of the findings, and their causes (columns `STATE`)."""
    file = Path(root) / "truth.csv.gz"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; only the simulated cohort has it: python -m pkd_utils demo chest.")
    return pd.read_csv(file, dtype={"study_id": str}).set_index("study_id")[list(STATE)]


def features_of(cohort: Cohort, sources: Sequence[str]) -> dict[str, Any]:
    """Feature matrices of a cohort's images, one a source; the state only where it was simulated.

    Sources are those of `MODELS`, and the report made poorer by the name of a variant (`cohorts.texts.Variant`).
    """
    variants = get_args(Variant)
    unknown = sorted(set(sources) - {*MODELS, *variants})
    if unknown:
        known = ", ".join([*MODELS, *variants])
        raise DataError(f"There is no model for the source {unknown[0]!r}; use some of {known}.")
    features, images = {}, cohort.images
    if "report" in sources:
        features["report"] = report_features(cohort.privileged["text"].loc[images[cohort.privileged.index.name]])
    for variant in [source for source in sources if source in variants]:
        key = cohort.privileged.index.name
        patients = images.drop_duplicates(key).set_index(key)["patient_id"]
        texts = text_variant(cohort.privileged, variant, cohort.labels, patients)
        features[variant] = report_features(texts.loc[images[key]])
    if "image" in sources:
        features["image"] = image_features(cohort.root / path for path in images["path"])
    if "state" in sources and cohort.info.simulated:
        features["state"] = read_state(cohort.root).loc[images["study_id"]].to_numpy()
    return features


def held_out_probabilities(features, target, patients, model, folds: int = 5) -> np.ndarray:
    """Probabilities (N, C) of each image from a model that saw none of its patient's images.

    Folds hold the classes in like shares, as far as patients allow: in small sets, a fold with many positives leaves
    few to train on, and pooled predictions would rank below chance.
    """
    target, patients = np.asarray(target), np.asarray(patients)
    classes = np.arange(target.max() + 1)
    if len(np.unique(patients)) < folds:
        raise DataError(f"{len(np.unique(patients))} patients cannot fill {folds} folds; use fewer folds.")
    out = np.zeros((len(target), len(classes)))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for train, test in splitter.split(target, target, patients):
        known = np.unique(target[train])
        if len(known) < 2:
            raise DataError("The training part of a fold holds one class only; use fewer folds or more patients.")
        # A class that a fold never saw keeps probability 0.
        out[np.ix_(test, known)] = clone(model).fit(features[train], target[train]).predict_proba(features[test])
    return out


def information(target, probabilities) -> np.ndarray:
    """log2 p(y | x) / p(y) of each image in bits (N,), with p(y) the shares of the classes in these images."""
    target = np.asarray(target)
    share = np.bincount(target, minlength=probabilities.shape[1]) / len(target)
    return np.log2(np.maximum(probabilities[np.arange(len(target)), target], _LEAST) / share[target])


def entropy(target) -> float:
    """Entropy of the classes in bits: what there is to know about the label."""
    return float(stats.entropy(np.bincount(target), base=2))


def relate(
    task: Task,
    table: pd.DataFrame,
    image_ids: Iterable[str],
    features: Mapping,
    folds: int = 5,
    resamples: int = 1000,
) -> pd.DataFrame:
    """Relations of a task's label to each source.

    Parameters
    ----------
    table : DataFrame, that of the task or the balanced part of it
    image_ids : images in the order of the rows of every feature matrix
    features : (N, D) matrices, dense or sparse, by source
    folds : int, over patients
    resamples : int, draws of patients; percentile intervals at 95 %, the fitted models stay as they are

    Returns
    -------
    DataFrame
        One row a source: `COLUMNS`. `chance` is the AUC of predicting the classes' shares for every image: 0.5 for two
        classes, more for several of unequal size, since micro-averaging credits knowing which class is frequent.
    """
    position = pd.Series(np.arange(len(image_ids := list(image_ids))), index=image_ids)
    rows = position[table["image_id"]].to_numpy()
    target, patients = table["target"].to_numpy(), table["patient_id"].to_numpy()
    options = {"resamples": resamples, "method": "percentile"}
    share = np.bincount(target, minlength=len(task.classes)) / len(target)
    chance = micro_auroc(target, np.tile(share, (len(target), 1)))
    found = []
    for source, matrix in features.items():
        predicted = held_out_probabilities(matrix[rows], target, patients, MODELS.get(source, MODELS["report"]), folds)
        auc = bootstrap_interval(partial(micro_auroc, target, predicted), clusters=patients, **options)
        bits = bootstrap_interval(information(target, predicted), clusters=patients, **options)
        counts = (len(table), table["patient_id"].nunique())
        numbers = (auc.estimate, auc.low, auc.high, chance, bits.estimate, bits.low, bits.high, entropy(target))
        found.append((task.name, task.title, task.kind, source, *counts, *numbers))
    return pd.DataFrame(found, columns=COLUMNS)


def state_information(table: pd.DataFrame, state: pd.DataFrame) -> pd.Series:
    """Mutual information in bits of the label with each variable of the state, alone (k-nearest-neighbour estimate).

    One image a patient of the task's `table` is used: what is constant within a patient, like heart disease, would
    otherwise name the patient, and by that the label. `state` is that of `read_state`.
    """
    one = table.drop_duplicates("patient_id")
    values = state.loc[one["study_id"]]
    nats = mutual_info_classif(values, one["target"], discrete_features=False, random_state=0)
    return pd.Series(nats / np.log(2), index=state.columns, name="bits")
