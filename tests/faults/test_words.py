"""Wrong parameters, runs, weights and folders: one sentence that names what is wrong, and no foreign exception."""

import os
import pickle

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pkd_utils.distillation.loss import soft_labels
from pkd_utils.distillation.student_training import StudentConfig
from pkd_utils.encoders import load_image_encoder, load_text_encoder
from pkd_utils.encoders.texts import pack_tokens
from pkd_utils.encoders.tokens.views import Crops, storage_dtype
from pkd_utils.runs.errors import DataError
from pkd_utils.runs.machine import resolve_device
from pkd_utils.runs.parameters import resolve
from pkd_utils.runs.run import Run

NAN = float("nan")
MADE_UP = Tokenizer(WordLevel({"[UNK]": 0}, "[UNK]"))


def refused(message, call, *arguments, **options):
    with pytest.raises((DataError, FileNotFoundError), match=message) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("notebook", "values", "message"),
    [
        ("mmpkd/03-distil-student", {"seeds": []}, "seeds .*: the list is empty"),
        ("mmpkd/03-distil-student", {"weights": []}, "weights .*: the list is empty"),
        ("mmpkd/03-distil-student", {"seeds": [0, -1]}, "seeds .*: -1 is less than 0"),
        ("mmpkd/03-distil-student", {"degrees": NAN}, "degrees .*: nan is not a finite number"),
        ("mmpkd/03-distil-student", {"temperatures": [1.0, float("inf")]}, "temperatures .*: inf is not a finite"),
        ("mmpkd/03-distil-student", {"batch_size": 0}, "batch_size .*: 0 is less than 1"),
        ("mmpkd/04-evaluate-attention", {"workers": -1}, "Unknown parameter workers"),
        ("mmpkd/01-prepare-data", {"workers": -1}, "workers .*: -1 is less than 0"),
        ("reports/03-train-teachers", {"memory_gib": -1.0}, "memory_gib .*: -1.0 is less than 0"),
        ("reports/02-encode", {"views": -1}, "views .*: -1 is less than 0"),
        ("mmpkd/03-distil-student", {"prepared_run": "a/b/02-c/d"}, "prepared_run .*' is to name a run of 01-prepare"),
        ("mmpkd/09-compare-all-maps", {"map_runs": ["a/b/04-c/d"]}, "map_runs .* a run of 08-score-all-maps"),
        ("reports/02-encode", {"text_run": "a/b/03-c/d"}, "text_run .* is to name a run of 02-encode"),
        ("reports/02-encode", {"tasks_run": "../../x"}, "tasks_run .* is to name a run: study/cohort/step/label"),
    ],
)
def test_parameters(notebook, values, message):
    refused(f"^(Parameter |){message}", resolve, notebook, values)


def test_parameters_that_say_so_may_be_negative_none_or_of_another_step():
    assert resolve("mmpkd/02-train-teacher", {"trainable_layers": -1})["trainable_layers"] == -1
    assert resolve("reports/01-prepare-tasks", {"evaluation_seed": -1})["evaluation_seed"] == -1
    resolve("mmpkd/02-train-teacher", {"paper_auroc": NAN})
    resolve("mmpkd/03-distil-student", {"teacher_run": "mmpkd/a/03-distil-student/b", "grid_run": ""})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StudentConfig(weight=1.5), "weight = 1.5: input should be less than or equal to 1"),
        (lambda: StudentConfig(degrees=NAN), "degrees = nan: input should be a finite number"),
        (lambda: StudentConfig(scale=(1.1, 0.9)), r"StudentConfig: scale = \(1.1, 0.9\): give \(low, high\)"),
        (lambda: StudentConfig(scale=(0.0, 2.0)), "scale.0 = 0.0: input should be greater than 0"),
        (lambda: StudentConfig(device="tpu"), "device = 'tpu': 'tpu' cannot be used here as device"),
        (lambda: soft_labels(torch.zeros(2, 2), 0.0), "temperature"),
        (lambda: Crops(scale=(0.9, 0.4)), r"Crops: scale = \(0.9, 0.4\): give \(low, high\) with low <= high"),
        (lambda: Crops(seed=-1), "seed = -1: input should be greater than or equal to 0"),
        (lambda: storage_dtype("float8"), "'float8' is no storage of tokens; there are: float16"),
        (lambda: pack_tokens(MADE_UP, ["short"], 8, "maybe", ""), "on_long = 'maybe': say what becomes of longer"),
        (lambda: resolve_device("tpu"), "'tpu' cannot be used here as device: give auto, cpu"),
    ],
)
def test_options(call, message):
    refused(message, call)


@pytest.mark.parametrize("weights", [[1], ["a", "b"], 3, NAN, {"a": 1}])
@pytest.mark.parametrize("load", [load_image_encoder, load_text_encoder])
def test_weights_that_are_no_path(load, weights):
    name = "simulated_masked" if load is load_image_encoder else "minilm"
    refused(r"^weights = .*: give the path of a file or folder, or 'random'\.$", load, name, weights)


def test_weights_that_are_no_weights(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    (tmp_path / "folder").mkdir()
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "circle.pth").symlink_to("circle.pth")
    for name, message in {
        "list.pth": "holds no named tensors",
        "folder": "holds no weight file",
        "pickle.pkl": "is no weight file: its name should end in",
        "circle.pth": "does not exist",
    }.items():
        refused(message, load_image_encoder, "simulated_masked", tmp_path / name)


@pytest.mark.parametrize("kind", ["a file", "below a file", "read-only"])
def test_runs_that_cannot_be_written(tmp_path, monkeypatch, kind):
    (tmp_path / "file").write_text("")
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "runs", "read-only": "/sys/runs"}[kind]
    if kind == "read-only" and not os.path.isdir("/sys"):
        pytest.skip("there is no /sys, which nobody can write to, on this machine")
    monkeypatch.setenv("PKD_RUNS", str(folder))
    notebook, message = "background/01-generalized-distillation", r"\(.*\): set PKD_RUNS to a folder\."
    refused(f"^Runs cannot be written to {folder} {message}$", Run, notebook, resolve(notebook, {}))
