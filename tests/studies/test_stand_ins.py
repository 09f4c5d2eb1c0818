"""The three pretraining objectives: they learn what they are for, continue to the same bits, and refuse bad input."""

import dataclasses

import numpy as np
import pytest
import torch

from pkd_utils.runs.errors import DataError
from pkd_utils.studies import stand_ins
from pkd_utils.studies.stand_ins import PretrainingConfig, Words, pretrain, words_of

SMALL = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 1, "heads": 2, "batch_size": 16, "precision": "fp32"}


def paired_data(n=64, kinds=4):
    """Images whose bright corner is named by the report."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 90, (n, 16, 16), dtype=np.uint8)
    kind = np.arange(n) % kinds
    for row, k in enumerate(kind):
        pixels[row, 8 * (k // 2) : 8 * (k // 2) + 8, 8 * (k % 2) : 8 * (k % 2) + 8] += 120
    names = ["upper left", "upper right", "lower left", "lower right"]
    texts = [f"The bright part is {names[k]}." for k in kind]
    return pixels, words_of(texts, np.eye(kinds)[kind]), kind


def settings(objective, **changes):
    return PretrainingConfig(objective, **{**SMALL, "epochs": 3, "degrees": 0.0, "translate": 0.0,
                                           "scale": (1.0, 1.0), **changes})  # fmt: skip


@pytest.mark.parametrize("objective", stand_ins.OBJECTIVES)
def test_the_loss_falls_and_an_interrupted_training_continues_to_the_same_bits(objective, tmp_path, monkeypatch):
    pixels, words, _ = paired_data()
    words = None if objective == "image_ssl" else words
    config = settings(objective, epochs=6, learning_rate=3e-3)
    whole = pretrain(pixels, words, config, tmp_path / "whole", progress=False)
    assert whole.history["loss"].iloc[-1] < whole.history["loss"].iloc[0]

    one_epoch, calls = stand_ins._epoch, []

    def stops(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return one_epoch(*arguments)

    monkeypatch.setattr(stand_ins, "_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pixels, words, config, tmp_path / "parts", progress=False)
    monkeypatch.setattr(stand_ins, "_epoch", one_epoch)
    parts = pretrain(pixels, words, config, tmp_path / "parts", progress=False)
    assert parts.history["loss"].tolist() == whole.history["loss"].tolist()
    for name, tensor in whole.backbone.state_dict().items():
        assert torch.equal(tensor, parts.backbone.state_dict()[name]), name


def test_alignment_brings_an_image_to_its_own_report(tmp_path):
    pixels, words, kind = paired_data()
    config = settings("alignment", epochs=40, learning_rate=3e-3)
    learner = stand_ins._Learner(config, words)
    pretrain(pixels, words, config, tmp_path, progress=False)
    stand_ins._restore(tmp_path / stand_ins.CHECKPOINT, learner, torch.optim.AdamW(
        [{"params": [p for p in learner.parameters() if (p.ndim >= 2) == m]} for m in (True, False)]
    ), _content(tmp_path))  # fmt: skip
    images = stand_ins.apply_augmentation(
        torch.from_numpy(pixels), stand_ins.draw_augmentation(64, torch.Generator()), *stand_ins.STATISTICS
    ).images
    image = learner.image_projection(learner.backbone.forward_features(images)[:, 0])
    text = learner.text_projection(torch.eye(4))
    nearest = (torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(text, dim=1).T).argmax(1)
    assert (nearest.numpy() == kind).mean() > 0.9


def _content(folder):
    with stand_ins.safe_open(folder / stand_ins.CHECKPOINT, "pt") as file:
        return file.metadata()["content"]


def test_hidden_words_are_predicted_from_the_image(tmp_path):
    """With every word hidden only the image can tell which corner is named: below the entropy of guessing."""
    pixels, words, _ = paired_data()
    hidden = {"word_mask_ratio": 1.0, "mask_ratio": 0.25, "word_weight": 3.0}
    config = settings("masked", epochs=70, learning_rate=5e-3, width=48, heads=4, **hidden)
    history = pretrain(pixels, words, config, tmp_path, progress=False).history
    guessing = 2 * np.log(2) / 6  # two of the six words are one of two, equally often
    assert history["words"].iloc[-1] / config.word_weight < 0.5 * guessing


def test_hidden_patches_do_not_reach_the_encoder():
    _, words, _ = paired_data(4)
    torch.manual_seed(0)
    learner = stand_ins._Learner(settings("image_ssl"), words).eval()
    images = torch.rand(4, 3, 16, 16)
    kept = torch.tensor([[0, 5]] * 4)
    before = learner._visible_tokens(images, kept)
    images[:, :, 12:, 12:] = 9.0  # patch 15 is hidden
    assert torch.equal(before, learner._visible_tokens(images, kept))
    images[:, :, :4, :4] = 9.0  # patch 0 is visible
    assert not torch.equal(before, learner._visible_tokens(images, kept))


def test_words_are_numbered_and_padded():
    words = words_of(["Heart normal.", "No EFFUSION, heart normal"], np.zeros((2, 3)))
    assert words.ids.shape == (2, 4) and words.size == 6
    assert (words.ids[0] == 0).sum() == 2
    assert words.ids[0, 0] == words.ids[1, 2]  # the same word, the same number


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objective": "guess"}, "objective must be one of"),
        ({"image_size": 32}, "pixels must be uint8"),
        ({"mask_ratio": 1.0}, "hides all patches or none"),
    ],
)
def test_bad_settings_are_refused(change, sentence, tmp_path):
    pixels, words, _ = paired_data(8)
    with pytest.raises(DataError, match=sentence):
        pretrain(pixels, words, dataclasses.replace(settings("masked"), **change), tmp_path, progress=False)


def test_reports_that_do_not_fit_are_refused(tmp_path):
    pixels, words, _ = paired_data(8)
    with pytest.raises(DataError, match="needs the reports"):
        pretrain(pixels, None, settings("masked"), tmp_path, progress=False)
    with pytest.raises(DataError, match="8 images, but 4 reports"):
        pretrain(pixels, Words(words.ids[:4], words.size, words.pooled[:4]), settings("masked"), tmp_path)
    with pytest.raises(DataError, match="Report 1 has no words"):
        words_of(["fine", " ... "], np.zeros((2, 1)))
    with pytest.raises(DataError, match="Report 0 has 3 words"):
        words_of(["one two three"], np.zeros((1, 1)), longest=2)


def test_another_trainings_folder_is_refused(tmp_path):
    pixels, words, _ = paired_data(16)
    pretrain(pixels, words, settings("alignment", epochs=1), tmp_path, progress=False)
    with pytest.raises(DataError, match="another folder"):
        pretrain(pixels, words, settings("alignment", epochs=1), tmp_path, seed=1, progress=False)
    with pytest.raises(DataError, match="another folder"):
        pretrain(pixels[::-1].copy(), words, settings("alignment", epochs=1), tmp_path, progress=False)
