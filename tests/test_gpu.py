"""What a GPU would run, run on a pretended one: the same numbers as on the CPU, and no tensor on the wrong side."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pkd_utils.distillation.heads.training import fit_heads
from pkd_utils.distillation.students import predict_logits
from pkd_utils.distillation.text_teacher import TextTeacherConfig, fit_text_teacher
from pkd_utils.encoders import load_image_encoder, load_text_encoder
from pkd_utils.encoders.tokens.live import LiveTokens
from pkd_utils.encoders.tokens.views import Crops
from pkd_utils.localization.saliency import saliency_maps
from pkd_utils.runs import machine, paths
from pkd_utils.runs.errors import DataError
from pkd_utils.studies.stand_ins import PretrainingConfig, pretrain
from tests import pretended_gpu
from tests.distillation import test_student_training as of_students
from tests.distillation.heads import test_training as of_heads
from tests.distillation.test_text_teacher import encoder, reports  # noqa: F401  (fixtures)
from tests.localization.models import build
from tests.pretended_gpu import NAME, OnGPU, gpu  # noqa: F401
from tests.studies import test_stand_ins as of_stand_ins

GPU = f"{NAME}:0"
STAND_IN = paths.PROJECT_ROOT / "pkd_utils" / "encoders" / "stand_ins" / "simulated_masked.safetensors"


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(gpu):  # noqa: F811
    there, here = torch.ones(3).to(GPU), torch.ones(3)
    assert isinstance(there, OnGPU) and (there + 1).device == torch.device(GPU)
    for wrong in (lambda: there + here, lambda: here[torch.zeros(1, dtype=torch.int64).to(GPU)], lambda: there.numpy()):
        with pytest.raises(RuntimeError):
            wrong()
    assert there[torch.tensor([0])].sum().item() == 1 and (there + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]


def test_a_gpu_is_taken_where_there_is_one(gpu):  # noqa: F811
    assert machine.resolve_device("auto") == NAME and machine.resolve_device(GPU) == GPU
    assert machine.resolve_precision("auto", GPU) == "bf16" and machine.device_name() == "a pretended GPU"
    with pytest.raises(DataError, match="cannot be used here as device"):
        machine.resolve_device("mps")


@pytest.mark.parametrize("memory", [pretended_gpu.Module.memory, 0], ids=["pixels there", "batches travel"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_students(memory, precision, gpu, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(pretended_gpu.Module, "memory", memory)
    config = dataclasses.replace(of_students.TINY, epochs=2, precision=precision)
    there = of_students.fit(tmp_path / "gpu", dataclasses.replace(config, device=GPU))
    here = of_students.fit(tmp_path / "cpu", config)
    rounding = {"fp32": 1e-4, "bf16": 0.05}[precision]
    names = of_students.LABELS
    np.testing.assert_allclose(there.predictions[names], here.predictions[names], atol=rounding)
    again = of_students.fit(tmp_path / "gpu", dataclasses.replace(config, device=GPU))
    assert again.best_epoch == there.best_epoch


def test_a_killed_training_goes_on_there(gpu, tmp_path, monkeypatch):  # noqa: F811
    config = dataclasses.replace(of_students.TINY, epochs=2, device=GPU)
    whole = of_students.fit(tmp_path / "whole", config)
    training = of_students.student_training.StudentTraining
    first = training.validate

    def killed(self):
        if self.loop.epoch:
            raise KeyboardInterrupt
        return first(self)

    monkeypatch.setattr(training, "validate", killed)
    with pytest.raises(KeyboardInterrupt):
        of_students.fit(tmp_path / "killed", config)
    monkeypatch.setattr(training, "validate", first)
    taken_up = of_students.fit(tmp_path / "killed", config)
    pd.testing.assert_frame_equal(taken_up.predictions, whole.predictions)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_heads(precision, gpu, tmp_path):  # noqa: F811
    data, specs = of_heads.make_data(), of_heads.make_specs(epochs=2)
    config = dataclasses.replace(of_heads.CONFIG, precision=precision)
    there = fit_heads(specs, *data, dataclasses.replace(config, device=GPU), tmp_path / "gpu")
    here = fit_heads(specs, *data, config, tmp_path / "cpu")
    rounding = {"fp32": 1e-4, "bf16": 0.1}[precision]
    for spec in specs:
        torch.testing.assert_close(there.logits(spec.name), here.logits(spec.name), atol=rounding, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_text_teachers(precision, gpu, encoder, reports, tmp_path):  # noqa: F811
    config = TextTeacherConfig(encoder, trainable_layers=1, epochs=1, max_tokens=32, precision=precision, device="cpu")
    there = fit_text_teacher(*reports, dataclasses.replace(config, device=GPU), tmp_path / "gpu", 0).logits
    here = fit_text_teacher(*reports, config, tmp_path / "cpu", 0).logits
    names = list(reports[1])
    np.testing.assert_allclose(there[names], here[names], atol={"fp32": 1e-4, "bf16": 0.1}[precision])


@pytest.mark.parametrize("objective", ["image_ssl", "alignment", "masked"])
def test_stand_ins(objective, gpu, tmp_path):  # noqa: F811
    pixels, words, _ = of_stand_ins.paired_data()
    words = None if objective == "image_ssl" else words
    config = PretrainingConfig(objective=objective, **{**of_stand_ins.SMALL, "epochs": 1})
    there = pretrain(pixels, words, dataclasses.replace(config, device=GPU), tmp_path / "gpu", 0).history["loss"]
    assert there[0] == pytest.approx(pretrain(pixels, words, config, tmp_path / "cpu", 0).history["loss"][0], abs=1e-4)


def test_maps_and_predictions(gpu):  # noqa: F811
    images, methods = torch.randn(3, 3, 32, 32), {"attention": {}, "rollout": {}, "chefer": {}, "grad_cam": {}}
    here = saliency_maps(build(), images, methods)
    there = saliency_maps(build().to(GPU), images, methods)
    for name in methods:
        np.testing.assert_allclose(there[0][name], here[0][name], atol=1e-5)
    pixels, model = of_students.data(20)[0], build(img_size=32, in_chans=1)
    logits = [predict_logits(model, pixels, (0.5,), (0.2,), device) for device in ("cpu", GPU)]
    np.testing.assert_allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frozen_encoders(precision, gpu):  # noqa: F811
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 64), dtype=np.uint8))
    tokens = {}
    for device in (GPU, "cpu"):
        frozen = load_image_encoder("simulated_masked", STAND_IN, device=device, precision=precision)
        found = frozen.tokens(frozen.preprocess(picture)[None])
        assert found.device == torch.device(device)
        tokens[device] = found.cpu()
    torch.testing.assert_close(tokens[GPU], tokens["cpu"], atol={"fp32": 1e-4, "bf16": 0.1}[precision], rtol=0)


def test_tokens_that_are_made_in_training_reach_heads_there(gpu, tmp_path):  # noqa: F811
    pictures = [tmp_path / f"{number}.png" for number in range(6)]
    for number, file in enumerate(pictures):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (80, 64), dtype=np.uint8)).save(file)
    names, found = [file.stem for file in pictures], {}
    for device in (GPU, "cpu"):
        frozen = load_image_encoder("simulated_masked", STAND_IN, device=device)
        live = LiveTokens(frozen, names, pictures, Crops(seed=0), batch_size=4)
        found[device] = live.batch(np.arange(6), np.full(6, 3))
    assert found[GPU].device.type == found["cpu"].device.type == "cpu"
    torch.testing.assert_close(found[GPU], found["cpu"], atol=2e-3, rtol=0)


def test_reports_are_read_there(gpu):  # noqa: F811
    texts, states = ["The lungs are clear.", "A large effusion on the left."], {}
    for device in (GPU, "cpu"):
        reader = load_text_encoder("minilm", "data/assets/minilm", device=device)
        states[device] = reader.encode_all(reader.tokenize(texts)).hidden
    torch.testing.assert_close(states[GPU], states["cpu"], atol=2e-3, rtol=0)
