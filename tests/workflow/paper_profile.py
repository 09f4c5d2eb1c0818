"""The paper profile small enough for a test: its own files and names, over embedded cohorts that say they are real.

A copy of the project, so that neither the book nor the runs of this one are touched. Its cohorts are the embedded ones
without the file that calls them simulated, where the profile looks for MIMIC-CXR, CBIS-DDSM and INSPECT: to loaders,
notebooks and gate they are credentialed, as everything is that says nothing else.
"""

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pkd_utils import demo
from pkd_utils.runs import paths

COPIED = ("book", "notebooks", "params", "pkd_utils", "workflow", "benchmarks", "Makefile", "_config.yml")
COPIED += ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE")
COPIED += ("pyproject.toml", "constraints.txt")
STAND_IN = "pkd_utils/encoders/stand_ins/simulated_masked.safetensors"
LEFT_OUT = ["calc*", "*grid", "*permuted", "*self", "*bert-*", "*-bio-clinicalbert", "*-cxr-bert-general", "*weights"]
LEFT_OUT += ["*heads", "*-probe", "inspect-*-ablations", "inspect-*-temperatures"]
NOT_RUN = ("08-score-all-maps", "09-compare-all-maps")
SIZES = {"mimic_5x1200": [12, 18], "*": [0.5, 1.0]}
FEW = {"train_per_class": 6, "evaluate_per_class": 3, "findings": ["Atelectasis", "Cardiomegaly", "Consolidation"]}
# Values that differ from the paper profile's, by notebook and by names of its runs.
SMALLER: dict[str, dict[str, dict[str, Any]]] = {
    "mmpkd/01-prepare-data": {"*": {"image_size": 64}},
    "mmpkd/02-train-teacher": {
        "*": {"text_encoder": "data/assets/minilm", "trainable_layers": 1, "epochs": 1, "max_tokens": 128, "seeds": [0],
              "trees": 25},
    },
    "mmpkd/03-distil-student": {
        "*": {"architecture": "vit", "student_weights": "", "channels": 1, "patch_size": 8, "width": 64, "depth": 2,
              "heads": 4, "epochs": 1, "batch_size": 32, "warmup_epochs": 0.5, "patience": 0, "seeds": [0, 1]},
        "*mmpkd": {"weights": [0.5], "grid_run": ""},
    },
    "mmpkd/04-evaluate-attention": {"*": {"random_seeds": [0], "thresholds": [0.3, 0.6]}},
    "mmpkd/05-compare": {"*": {"students": ["baseline", "mmpkd"], "grid_run": "", "resamples": 200}},
    "reports/00-reconstruct-radiographs": {
        "*": {"projector": "parallel", "detector_pixels": [128, 128], "cross_check": []},
    },
    "reports/01-prepare-tasks": {
        "*": {"seeds": [0, 1], "sizes": SIZES, "epochs": 2, "epochs_of": {}, "resamples": 100, "variants": False},
        "mimic": {"task_options": {"mimic_5x1200": FEW, "age": {"evaluate": 0.3, "stratify": True},
                                   "discharge_3_day": {"evaluate": 0.3}}},
    },
    "reports/02-encode": {
        "*": {"text_encoder": "minilm", "text_weights": "data/assets/minilm", "limit_gib": 4.0},
        "*-mrm": {"run": "mrm", "image_encoder": "simulated_masked", "image_weights": STAND_IN},
        "*-bert": {"run": "biovil_t_bert"},
    },
    "reports/03-train-teachers": {
        "*": {"learning_rate": 1e-3},
        "*-mrm": {"methods": ["image_only", "image_restart", "teacher", "text_only"]},
    },
    "reports/04-distil-students": {"*temperatures": {"temperatures_of": {"{small}": [0.1, 0.25, 2.5]}}},
    "reports/07-ablations": {
        "mimic": {"student_runs": ["reports/{cohort}/04-distil-students/mrm",
                                   "reports/{cohort}/04-distil-students/mrm_temperatures"]},
        "inspect": None,
    },
}  # fmt: skip
ENCODERS = {"mrm", "biovil-t-bert"}  # the paper's names of what runs


def smaller(file: Path) -> dict[str, Any]:
    """A parameter file of the paper profile with one encoder, fewer students and the values above."""
    notebook = f"{file.parent.name}/{file.stem}"
    content = yaml.safe_load(file.read_text())
    if "base" not in content:
        content = {"base": content}
    base, each = content["base"], content.get("each", {})
    if "encoders" in base:
        base["encoders"] = ["mrm"]
    if isinstance(each.get("encoder"), list):
        each["encoder"] = ["mrm"]
    elif "encoder" in each:
        each["encoder"] = {name: values for name, values in each["encoder"].items() if name in ENCODERS}
    for values in content.get("variants", {}).values():
        if "encoders" in values:
            values["encoders"] = ["mrm_ablations"]
    axes = [list(axis) if isinstance(axis, dict) else [str(one).replace("_", "-") for one in axis]
            for axis in [*each.values(), {"": {}, **content.get("variants", {})}]]  # fmt: skip
    labels = [""]
    for axis in axes:
        labels = ["-".join(filter(None, (label, one))) for label in labels for one in axis]
    excepted = {**content.get("exceptions", {}), **SMALLER.get(notebook, {}), **dict.fromkeys(LEFT_OUT)}
    met = [name for name in excepted if any(fnmatchcase(label, name) for label in labels)]
    content["exceptions"] = {name: excepted[name] for name in met}
    for values in content["exceptions"].values():
        for name in ("teacher_runs", "student_runs"):
            if values and name in values:
                values[name] = [one for one in values[name] if "biomedclip" not in one]
    return content


def write_profile(root: Path) -> None:
    """The small paper profile instead of the copied one."""
    for file in sorted((root / "params" / "paper").glob("*/*.yml")):
        original = paths.PROJECT_ROOT / "params" / "paper" / file.parent.name / file.name
        if file.stem in NOT_RUN:
            file.unlink()
        else:
            file.write_text(yaml.safe_dump(smaller(original), sort_keys=False))


def make(root: Path) -> Path:
    """A copy of the project with the small paper profile and its data; returns its root."""
    for name in COPIED:
        source = paths.PROJECT_ROOT / name
        if source.is_dir():
            left = ("_generated", "__pycache__", "benchmark-*", "*.json" if name == "book" else "")
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns(*left))
        else:
            shutil.copy(source, root / name)
    (root / ".venv").symlink_to(Path(sys.prefix))
    write_profile(root)
    data = root / "data"
    cohorts = {"mimic-cxr-jpg": ("mimic_cxr", "data/embedded-smoke", 60, {}),
               "cbis-ddsm": ("cbis_mass", root / "breast", 60, {"calc_cases": 10}),
               "inspect": ("inspect", root / "ct", 40, {})}  # fmt: skip
    for name, (source, simulated, size, options) in cohorts.items():
        folder = demo.ensure_source(source, simulated, size, 0, workers=1, **options)
        shutil.copytree(folder, data / name, ignore=shutil.ignore_patterns("SIMULATED.txt"))
    for name in ("mimic-cxr", "mimic-iv"):
        (data / name).symlink_to(data / "mimic-cxr-jpg")
    (data / "ms-cxr").symlink_to(data / "mimic-cxr-jpg" / "ms-cxr")
    (data / "assets").symlink_to(paths.resolve("data/assets").resolve())
    return root


def command(root: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command in the copy, with the copy's own library."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PKD_")}
    environment |= {"PYTHONPATH": str(root), "PKD_LOCAL": os.devnull, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(arguments, cwd=root, env=environment, capture_output=True, text=True)
    assert not check or answer.returncode == 0, (answer.stdout + answer.stderr)[-4000:]
    return answer


RUN_ALL = "from pkd_utils.runs import notebooks as n\nfor j in n.plan('paper'): n.execute(j.file, j.label, j.identity)"


def page_commands(root: Path) -> list[str]:
    """What `make pages PROFILE=paper` does in the copy, but for its environment, which is this one."""
    answer = command(root, "make", "-n", "build-pages", "PROFILE=paper")
    lines = [line for line in answer.stdout.splitlines() if "setup_env" not in line and not line.startswith("make")]
    assert any("-W" in line for line in lines) and any("--html" in line for line in lines)
    return lines


def secrets(tables: list[Path]) -> tuple[str, str]:
    """Eight words of a report that a run has read, and an identifier of its patient's study."""
    table = pd.concat(pd.read_parquet(file, columns=["text"]) for file in tables)
    text = next(text for text in table["text"] if len(text.split()) > 12)
    return " ".join(text.split()[2:10]), str(next(one for one in table.index if len(str(one)) > 7))
