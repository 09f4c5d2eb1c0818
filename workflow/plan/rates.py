"""Rates that the benchmarks measured, and how they are carried over to other shapes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pkd_utils.encoders.zoo import TEXT_ENCODERS
from pkd_utils.runs import files, paths
from pkd_utils.runs.errors import DataError

RATES = "book/results"
FILES = ("encoders", "heads", "tokens", "training", "saliency", "localization-suite", "packing", "text-teacher", "drr",
         "mimic-size", "notebooks", "demonstration")  # fmt: skip
MEASURED_DETECTOR = 512 * 512  # pixels of the detector in benchmarks/drr.py
ENCODED, PACKED = 2_000 * 2_500, 2_544 * 3_056  # pixels of the radiographs of benchmarks/tokens.py, packing.py

Seconds = tuple[float, float]  # of the GPU, and of one CPU core
Student = tuple[int, int, int]  # tokens N, width D, blocks L
MEASURED_STUDENTS: dict[str, Student] = {  # of benchmarks/saliency.py
    "demo student, 64 px": (65, 64, 4),
    "ViT-Tiny/16, 224 px": (197, 192, 12),
}


def operations(n_tokens: float, width: int) -> float:
    """Least operations of one attention head for one training image, forward and back: 4 N D^2 + 4 N^2 D."""
    return 4 * n_tokens * width**2 + 4 * n_tokens**2 * width


def student_operations(shape: Student) -> float:
    """Products of one pass of a vision transformer for one image: L (12 N D^2 + 2 N^2 D)."""
    n_tokens, width, depth = shape
    return depth * (12 * n_tokens * width**2 + 2 * n_tokens**2 * width)


class Rates:
    """Measured rates, read from a folder that holds the benchmark files."""

    def __init__(self, folder: str | Path = RATES):
        self.folder = paths.resolve(str(folder))
        self.encoders, self.heads, self.tokens, self.training, self.saliency, self.suite, self.packing, self.texts, \
            self.drr, self.size, self.notebooks, self.demonstration = (self._read(name) for name in FILES)  # fmt: skip
        self.gpu = self.encoders["machine"].get("gpu", "")  # its name, "" where none was measured

    @property
    def devices(self) -> list[str]:
        """Names of the processors, and of the GPU if there is one, that the files were measured on."""
        every = (self.encoders, self.heads, self.tokens, self.training, self.saliency, self.suite, self.packing,
                 self.texts, self.drr, self.size, self.notebooks, self.demonstration)  # fmt: skip
        found = [file["machine"].get(kind, "").split(",")[0] for kind in ("cpu", "gpu") for file in every]
        return list(dict.fromkeys(name for name in found if name))

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / f"benchmark-{name}.json"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: measure the rates with `make bench` (or --rates FOLDER).")
        return files.read_json(file)

    def _fastest(self, kind: str, encoders: Sequence[str], precision: str, rate: str) -> Seconds | None:
        """Seconds of one unit; "auto" is the faster of the measured precisions; None: no rate."""
        rows = [row for row in self.encoders[kind] if row["encoder"] in encoders]
        rows = [row for row in rows if precision in ("auto", row["precision"])]
        return (0.0, self.encoders["machine"]["threads"] / max(row[rate] for row in rows)) if rows else None

    def view(self, encoder: str, precision: str, device: str) -> Seconds | None:
        """One pass of an image encoder for one view."""
        on_gpu = [row for row in self.encoders.get("gpu", []) if row and row["encoder"] == encoder]
        if device != "cpu" and on_gpu:
            return 1 / on_gpu[0]["images_per_s"], 0.0
        return self._fastest("rows", [encoder], precision, "images_per_s")

    def report_token(self, encoder: str, precision: str) -> Seconds | None:
        """One token of a report through a text encoder, or through a measured one of the same depth and width."""
        size = TEXT_ENCODERS[encoder].layers, TEXT_ENCODERS[encoder].width
        alike = [name for name, facts in TEXT_ENCODERS.items() if (facts.layers, facts.width) == size]
        return self._fastest("text_rows", alike, precision, "tokens_per_s")

    def beginning(self) -> float:
        """Seconds of a CPU core that any run takes: a quarter of the notebooks take less with their tests' parameters.

        The others' work has a size even there.
        """
        return float(np.quantile([row["cpu_seconds"] for row in self.notebooks["rows"]], 0.25))

    def preparation(self, encoder: str, pixels: float = ENCODED) -> float:
        """Seconds of a CPU core to crop, resize and normalise one view of an image of so many pixels."""
        measured = {row["encoder"]: row["ms_per_image"] for row in self.encoders["preprocessing"]}[encoder]
        return measured / 1e3 * pixels / ENCODED

    def decoding(self, pixels: float = ENCODED) -> float:
        """Seconds of a CPU core to decode a radiograph: what encoding takes beyond encoder (C2L) and preprocessing."""
        rows = [row for row in self.tokens["rows"] if row["what"].endswith("bare encoder, inputs ready")]
        row = next(row for row in rows if row["ours"] == "one thread for all")
        reading = 1 / row["ours_images_per_s"] - 1 / row["reference_images_per_s"]
        whole = reading - (self.tokens["settings"]["views"] + 1) * self.preparation("c2l")
        return max(0.0, whole) * pixels / ENCODED

    def operation(self, together: int, shape: tuple[int, int], precision: str, device: str) -> Seconds:
        """One operation of the least work, of `together` heads on `shape` (N, D) tokens; "auto" as `_fastest`."""
        settings = self.heads["settings"]
        on_gpu = settings["device"].startswith("cuda")
        if on_gpu and device == "cpu":
            raise DataError(f"{self.folder}/benchmark-heads.json was measured on a GPU, and heads train on a CPU here.")
        shapes = {tuple(map(int, name.split("x"))): times for name, times in self.heads["seconds"].items()}
        nearest = min(shapes, key=lambda known: abs(math.log(operations(*known) / operations(*shape))))
        kinds = ("fp32", "bf16") if precision == "auto" else (precision,)
        known = {
            n: min(min(shapes[nearest][f"{n} heads, {kind}"]) for kind in kinds) for n in sorted(settings["heads"])
        }
        most = max(known)  # more heads than were measured take as long in proportion
        best = np.interp(min(together, most), list(known), list(known.values())) * max(1.0, together / most)
        seconds = best / (together * settings["batch"] * operations(*nearest))
        return (seconds, 0.0) if on_gpu else (0.0, seconds * settings["threads"])

    def picture(self, pixels: float = PACKED) -> float:
        """Seconds of a CPU core to decode a radiograph of so many pixels and pack it small."""
        row = next(row for row in self.packing["rows"] if row["ours"] == "ours, 1 process")
        return pixels / PACKED / row["ours_images_per_s_a_core"]

    def indexed(self) -> float:
        """Seconds for an image of MIMIC-CXR's tables, its report among them, to be joined, checked and read."""
        rows = {row["what"].split()[0]: row["ours_seconds"] for row in self.size["rows"]}
        return (rows["tables"] + rows["every"]) / self.size["settings"]["images"]

    def indexed_gib(self) -> float:
        """GiB of memory that an image of these tables takes, its report among them."""
        return max(row["peak_gib"] for row in self.size["rows"]) / self.size["settings"]["images"]

    def projection(self, pixels: int) -> float:
        """Seconds of a CPU core from a CT volume to a radiograph of so many pixels, as the detector counts them."""
        seconds = min(row["cpu_seconds_a_volume"] for row in self.drr["rows"] if row["what"].startswith("ours"))
        return seconds * pixels / MEASURED_DETECTOR

    def text(self, layers: int, width: int, trainable: int, pooling: str) -> tuple[float, float]:
        """Seconds of a CPU core for a report in one epoch of the text teacher, and once before: by L D^2 of MiniLM."""
        rows = {row["what"]: row["ms_per_report"] for row in self.texts["rows"]}
        kept = {"mean": "last block, kept states, mean of tokens", "cls": "last block, kept states, first token"}
        learned = "all blocks, bucketed by length" if trainable < 0 else kept[pooling]
        before = "tokenizing" if trainable < 0 else "tokenizing and keeping states, all but the last block"
        known = TEXT_ENCODERS["minilm"]
        scale = layers * width**2 / (known.layers * known.width**2) * self.texts["machine"]["threads"] / 1e3
        return rows[f"a pass: {learned}"] * scale, rows[f"once: {before}"] * scale

    def student(self, shape: Student, what: str = "forward") -> float:
        """Seconds of a CPU core for one image through a student of this (N, D, L), or for its maps (`saliency`'s rows).

        Between the measured students a power of the operations; beyond them in proportion to these.
        """
        took = {row["student"]: 1 / row["images_per_s"] for row in self.saliency["rows"] if row["what"] == what}
        known = sorted((student_operations(size), took[name]) for name, size in MEASURED_STUDENTS.items())
        operations, seconds = np.log(known).T
        wanted = np.log(student_operations(shape))
        within = np.clip(wanted, operations[0], operations[-1])
        return float(np.exp(np.interp(within, operations, seconds) + wanted - within))

    def student_step(self, shape: Student, precision: str) -> float:
        """Seconds of a CPU core for one training image of a student: its forward pass, times what training adds.

        That factor is measured on the student of `training`, whose forward pass `saliency` has.
        """
        best = self.training["machine"]["best_precision"] if precision == "auto" else precision
        rows = {row["ours"]: row["ours_images_per_s"] for row in self.training["rows"]}
        settings = self.training["settings"]
        known = (settings["size"] // settings["patch"]) ** 2 + 1, settings["width"], settings["depth"]
        factor = settings["threads"] / rows[f"ours, {best}"] / self.student(known)
        return self.student(shape) * factor

    def scoring(self, side: int) -> float:
        """Seconds of a CPU core to score one map of side x side pixels with the whole suite."""
        return self.suite["rows"][0]["ours_s_per_1000_images"] / 1000 * (side / self.suite["settings"]["size"]) ** 2
