"""Studies from a cohort, from an encoding, and simulated ones."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from pkd_utils.runs.files import write_json
from pkd_utils.studies.transfer import features


def test_pictures_of_a_study_are_averaged_and_rows_follow_the_reports():
    images = pd.DataFrame({"study_id": ["b", "a", "b"], "patient_id": ["q", "p", "q"], "sick": [1.0, 0.0, 1.0]})
    privileged = pd.DataFrame({"text": ["first", "second"]}, index=pd.Index(["a", "b"], name="study_id"))
    cohort = SimpleNamespace(images=images, privileged=privileged, labels=["sick"])
    data = features.of_studies(cohort, {"net": np.array([[2.0], [5.0], [4.0]])}, {"whole": np.eye(2)})
    assert data.images["net"].ravel().tolist() == [5.0, 3.0]
    assert data.patients.tolist() == ["p", "q"] and data.outcomes["sick"].tolist() == [0.0, 1.0]


def test_the_semi_synthetic_outcome_is_known_to_the_text():
    data = features.with_semi_synthetic(features.simulate(400, 0), slope=2.0)
    state = data.states["semi-synthetic"]
    assert state.std() == pytest.approx(2.0)
    text = np.c_[np.ones(400), data.texts["whole"]]
    residual = state - text @ np.linalg.lstsq(text, state, rcond=None)[0]
    assert np.abs(residual).max() < 1e-3
    assert (features.simulate(400, 0).texts["whole"] == data.texts["whole"]).all()
    assert (features.simulate(400, 1).texts["whole"] != data.texts["whole"]).any()


def test_an_encoding_gives_mean_tokens_and_the_binary_tasks(tmp_path, monkeypatch):
    folders = {name: tmp_path / name for name in ("encode", "text", "tasks")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setattr(features, "find_run", lambda name: folders[name])
    images = pd.DataFrame({"image_id": ["i", "j"], "patient_id": ["p", "q"], "study_id": ["s", "t"]})
    images.to_parquet(folders["tasks"] / "images.parquet")
    pd.DataFrame({"text": ["x", "y"]}, index=pd.Index(["t", "s"], name="study_id")).to_parquet(
        folders["tasks"] / "privileged.parquet"
    )
    rows = [("i", "two", 1), ("j", "two", 0), ("i", "three", 0), ("j", "three", 1), ("j", "three", 2)]
    pd.DataFrame(rows, columns=["image_id", "task", "target"]).to_parquet(folders["tasks"] / "tasks.parquet")
    values = {"image_encoder": "net", "tasks_run": "tasks", "text_run": "text"}
    write_json(folders["encode"] / "run.json", {"parameters": values})
    tokens = torch.arange(12.0).reshape(2, 2, 3)
    states = {"t": torch.tensor([[1.0, 3.0], [3.0, 5.0]]), "s": torch.tensor([[7.0, 8.0]])}
    store = SimpleNamespace(image_ids=["i", "j"], rows=2, batch=lambda rows: tokens[list(rows)])

    class Texts:
        def __init__(self, folder):
            self.ids = None

        def subset(self, ids):
            self.ids = ids
            return self

        def batch(self, rows):
            padded = [torch.cat([states[i], torch.zeros(2 - len(states[i]), 2)]) for i in self.ids]
            return torch.stack(padded), torch.tensor([[True, len(states[i]) > 1] for i in self.ids])

    monkeypatch.setattr(features, "TokenStore", lambda folder: store)
    monkeypatch.setattr(features, "TextStore", Texts)
    data = features.read_encoding("encode")
    assert list(data.outcomes) == ["two"] and data.outcomes["two"].tolist() == [1, 0]
    assert data.images["net"].tolist() == [[1.5, 2.5, 3.5], [7.5, 8.5, 9.5]]
    assert data.texts["whole"].tolist() == [[7.0, 8.0], [2.0, 4.0]]


def test_what_is_computed_once_is_kept_by_what_it_was_made_of(tmp_path, monkeypatch):
    monkeypatch.setenv("PKD_DATA", str(tmp_path))
    asked = []

    class Encoder:
        def tokenize(self, texts, longest, on_long):
            lengths = np.array([len(text.split()) for text in texts])
            return SimpleNamespace(identity=" ".join(texts), lengths=lengths, total=int(lengths.sum()))

        def encode_all(self, packed, batch_size):
            asked.append(packed.identity)
            return SimpleNamespace(hidden=torch.arange(2.0 * packed.total).reshape(-1, 2).half())

    first = features.text_features(Encoder(), ["a b", "c"], 10)
    assert first.tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert (features.text_features(Encoder(), ["a b", "c"], 10) == first).all()
    features.text_features(Encoder(), ["a b", "d"], 10)
    assert asked == ["a b c", "a b d"]
