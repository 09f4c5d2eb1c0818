"""Measured rates of encoders, heads and decoding, as `report_budget` scales them."""

import math
from pathlib import Path
from typing import Any

from pkd_utils.encoders.text_facts import TEXT_ENCODERS
from pkd_utils.runs import files, paths
from pkd_utils.runs.errors import DataError

RATES = "book/results"
_KINDS = {"float32": "fp32", "float64": "fp32", "bfloat16": "bf16"}


class Rates:
    """Measured rates, read from a folder that holds the three benchmark files.

    Every rate is a pair of seconds, of the GPU and of one CPU core, one of them 0.
    """

    def __init__(self, folder: str | Path = RATES):
        self.folder = paths.resolve(str(folder))
        self.encoders, self.heads, self.tokens = (self._read(name) for name in ("encoders", "heads", "tokens"))

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / f"benchmark-{name}.json"
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: measure the rates with `make bench` (or --rates FOLDER).")
        return files.read_json(file)

    @property
    def gpu(self) -> str:
        """Name of the GPU that was measured, "" for none."""
        return self.encoders["machine"].get("gpu", "")

    def view(self, encoder: str, precision: str, device: str) -> tuple[float, float] | None:
        """One pass of an image encoder for one view; "auto" is the faster of the measured precisions; None: no rate."""
        on_gpu = [row for row in self.encoders.get("gpu", []) if row and row["encoder"] == encoder]
        if device.startswith("cuda") and on_gpu:
            return 1 / on_gpu[0]["images_per_s"], 0.0
        rows = [r for r in self.encoders["rows"] if r["encoder"] == encoder and precision in ("auto", r["precision"])]
        if not rows:
            return None
        return 0.0, self.encoders["machine"]["threads"] / max(row["images_per_s"] for row in rows)

    def preparation(self, encoder: str) -> tuple[float, float]:
        """Crop, resize and normalise one view, on the CPU."""
        found = [row["ms_per_image"] for row in self.encoders["preprocessing"] if row["encoder"] == encoder]
        if not found:
            raise DataError(
                f"{self.folder}/benchmark-encoders.json has no preprocessing of {encoder}: measure it anew."
            )
        return 0.0, found[0] / 1e3

    def decoding(self) -> tuple[float, float]:
        """Decode one radiograph: what benchmark-tokens.json needs beyond the bare encoder (C2L) and preprocessing."""
        for row in self.tokens["rows"]:
            if row["what"].endswith("bare encoder, inputs ready") and row["ours"] == "one thread for all":
                reading = 1 / row["ours_images_per_s"] - 1 / row["reference_images_per_s"]
                return 0.0, max(0.0, reading - (self.tokens["settings"]["views"] + 1) * self.preparation("c2l")[1])
        raise DataError(f"{self.folder}/benchmark-tokens.json has no rate of encoding: measure it anew.")

    def report(self, encoder: str, precision: str, tokens: float) -> tuple[float, float] | None:
        """One report through a text encoder, or through a measured one of the same depth and width; None: no rate."""
        facts = TEXT_ENCODERS[encoder]
        alike = [n for n, f in TEXT_ENCODERS.items() if (f.layers, f.width) == (facts.layers, facts.width)]
        rows = [r for r in self.encoders["text_rows"] if r["encoder"] in alike]
        rows = [r for r in rows if precision in ("auto", r["precision"])]
        if not rows:
            return None
        return 0.0, tokens * self.encoders["machine"]["threads"] / max(row["tokens_per_s"] for row in rows)

    def operation(self, together: int, shape: tuple[int, int], precision: str, device: str) -> tuple[float, float]:
        """One operation of the least work, of `together` heads on `shape` (N, D) tokens."""
        settings, kind = self.heads["settings"], _KINDS[precision]
        on_gpu = settings["device"].startswith("cuda")
        if on_gpu and not device.startswith("cuda"):
            raise DataError(
                f"{self.folder}/benchmark-heads.json was measured on a GPU, and heads train on the CPU here."
            )
        shapes = {tuple(map(int, name.split("x"))): times for name, times in self.heads["seconds"].items()}
        nearest = min(shapes, key=lambda known: abs(math.log(operations(*known) / operations(*shape))))
        counts = sorted(settings["heads"])
        count = max([n for n in counts if n <= together] or counts[:1])
        best = min(shapes[nearest][f"{count} heads, {kind}"])
        seconds = best / (count * settings["batch"] * operations(*nearest))
        return (seconds, 0.0) if on_gpu else (0.0, seconds * settings["threads"])


def operations(n_tokens: float, width: int) -> float:
    """Least operations of one attention head for one training image, forward and back: 4 N D^2 + 4 N^2 D."""
    return 4 * n_tokens * width**2 + 4 * n_tokens**2 * width
