"""The three pretraining objectives: they learn what they are for, continue to the same bits, and refuse bad input."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pkd_utils.runs.errors import DataError
from pkd_utils.studies import stand_ins
from pkd_utils.studies.stand_ins import PretrainingConfig, pretrain, words_of

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
    return PretrainingConfig(objective=objective, **{**SMALL, "epochs": 3, **changes})


@pytest.fixture(autouse=True)
def upright(monkeypatch):
    """Corners stay where they are."""
    still = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
    monkeypatch.setattr(stand_ins, "AUGMENTATION", stand_ins.AUGMENTATION | still)


@pytest.mark.parametrize("objective", ["image_ssl", "alignment", "masked"])
def test_the_loss_falls_and_an_interrupted_training_continues_to_the_same_bits(objective, tmp_path, monkeypatch):
    pixels, words, _ = paired_data()
    words = None if objective == "image_ssl" else words
    config = settings(objective, epochs=6, learning_rate=3e-3)
    whole = pretrain(pixels, words, config, tmp_path / "whole", 0)
    assert whole.history["loss"].iloc[-1] < whole.history["loss"].iloc[0]

    augment, calls = stand_ins.apply_augmentation, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) > 10:  # in the third epoch of four steps
            raise KeyboardInterrupt
        return augment(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stand_ins, "apply_augmentation", stops)
        with pytest.raises(KeyboardInterrupt):
            pretrain(pixels, words, config, tmp_path / "parts", 0)
    parts = pretrain(pixels, words, config, tmp_path / "parts", 0)
    assert parts.history["loss"].tolist() == whole.history["loss"].tolist()
    for name, tensor in whole.backbone.state_dict().items():
        assert torch.equal(tensor, parts.backbone.state_dict()[name]), name


def test_alignment_brings_an_image_to_its_own_report(tmp_path):
    pixels, words, kind = paired_data()
    config = settings("alignment", epochs=40, learning_rate=3e-3)
    pretrain(pixels, words, config, tmp_path, 0)
    state = load_file(tmp_path / stand_ins.CHECKPOINT)
    learner = stand_ins.Learner(config, words)
    learner.load_state_dict({n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")})
    images = (torch.from_numpy(pixels).float()[:, None].expand(-1, 3, -1, -1) / 255 - 0.5) / 0.25
    image = learner.image_projection(learner.backbone.forward_features(images)[:, 0])
    text = learner.text_projection(torch.eye(4))
    nearest = (torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(text, dim=1).T).argmax(1)
    assert (nearest.numpy() == kind).mean() > 0.9


def test_hidden_words_are_predicted_from_the_image(tmp_path, monkeypatch):
    """With every word hidden only the image can tell which corner is named: below the entropy of guessing."""
    pixels, words, _ = paired_data()
    monkeypatch.setattr(stand_ins, "MASK_RATIO", 0.25)
    monkeypatch.setattr(stand_ins, "WORD_WEIGHT", 3.0)
    config = settings("masked", epochs=70, learning_rate=5e-3, width=48, heads=4, word_mask_ratio=1.0)
    history = pretrain(pixels, words, config, tmp_path, 0).history
    guessing = 2 * np.log(2) / 6  # two of the six words are one of two, equally often
    assert history["words"].iloc[-1] / 3.0 < 0.5 * guessing


def test_hidden_patches_do_not_reach_the_encoder():
    _, words, _ = paired_data(4)
    torch.manual_seed(0)
    learner = stand_ins.Learner(settings("image_ssl"), words).eval()
    images = torch.rand(4, 3, 16, 16)
    kept = torch.tensor([[0, 5]] * 4)
    before = learner.visible_tokens(images, kept)
    images[:, :, 12:, 12:] = 9.0  # patch 15 is hidden
    assert torch.equal(before, learner.visible_tokens(images, kept))
    images[:, :, :4, :4] = 9.0  # patch 0 is visible
    assert not torch.equal(before, learner.visible_tokens(images, kept))


def test_words_are_numbered_and_padded():
    words = words_of(["Heart normal.", "No EFFUSION, heart normal"], np.zeros((2, 3)))
    assert words.ids.shape == (2, 4) and words.size == 6
    assert (words.ids[0] == 0).sum() == 2
    assert words.ids[0, 0] == words.ids[1, 2]  # the same word, the same number


@pytest.mark.parametrize("change", [{"objective": "guess"}, {"precision": "fp8"}])
def test_bad_settings_are_refused(change):
    (name,) = change
    with pytest.raises(DataError, match=f"^PretrainingConfig: {name} = "):
        settings(**{"objective": "masked", **change})


def test_reports_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="Report 1 has no words"):
        words_of(["fine", " ... "], np.zeros((2, 1)))
    with pytest.raises(DataError, match="Report 0 has 3 words"):
        words_of(["one two three"], np.zeros((1, 1)), longest=2)


def test_another_trainings_folder_is_refused(tmp_path):
    pixels, words, _ = paired_data(16)
    pretrain(pixels, words, settings("alignment", epochs=1), tmp_path, 0)
    with pytest.raises(DataError, match="another folder"):
        pretrain(pixels, words, settings("alignment", epochs=1), tmp_path, seed=1)
    with pytest.raises(DataError, match="another folder"):
        pretrain(pixels[::-1].copy(), words, settings("alignment", epochs=1), tmp_path, 0)
