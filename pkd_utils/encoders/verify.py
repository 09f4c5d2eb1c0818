"""Is this file the encoder it should be? Keys, hash, parameters, preprocessing, and a fingerprint of its tokens.

The fingerprint is a handful of statistics of the tokens of one fixed input: an image made from a formula, or two fixed
sentences. The same weights give the same numbers on another processor to about four digits; other weights, another
layer or another preprocessing give others. `fingerprints.json` keeps those of encoders that were computed here from
real weights.
"""

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pkd_utils.encoders.backbones import FrozenEncoder
from pkd_utils.encoders.facts import ImageFacts, known
from pkd_utils.encoders.weights import some
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs import files
from pkd_utils.runs.errors import DataError

RECORDED = Path(__file__).with_name("fingerprints.json")
SENTENCES = ("The heart is of normal size and the lungs are clear.", "There is no fluid on either side.")
"""What a text encoder's fingerprint is made of: written for this purpose, about nobody."""
TOLERANCE = 2e-3
"""How far a fingerprint's numbers may lie from recorded ones, as a fraction of the number or of the tokens' spread."""


def fixed_image() -> Image.Image:
    """The image that fingerprints are made of: rings on a gradient, grey, 12 bits in 16, 500 x 400 pixels.

    Whole numbers only, so that every machine makes the same pixels; not square, so that resizing and cropping matter.
    """
    y, x = np.mgrid[:400, :500].astype(np.int64)
    phase = (x * x + 3 * y * y + x * y) // 48 % 4096
    rings = 2 * np.abs(phase - 2048)
    gradient = (x * 4095 // 499 + y * 4095 // 399) // 2
    pixels = np.minimum((2 * rings + gradient) // 3, 4095)
    return Image.fromarray(pixels.astype(np.uint16))


def fingerprint(tokens: torch.Tensor | np.ndarray) -> dict[str, Any]:
    """Statistics of one encoder's tokens (N, D) for the fixed input; DataError if one is not finite.

    Returns
    -------
    dict
        `tokens` ("N x D"), and numbers to four digits: `mean`, `sd`, `first` and `last` (Euclidean norms of those
        tokens), `probe` (a weighted sum that changes if tokens or channels change places).
    """
    values = np.asarray(tokens, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("The encoder gives tokens that are not finite for the fixed input: its weights are damaged.")
    n, d = values.shape
    weights = np.cos(0.7 * np.arange(1, n + 1))[:, None] * np.cos(1.3 * np.arange(1, d + 1))
    numbers = {
        "mean": values.mean(),
        "sd": values.std(),
        "first": np.linalg.norm(values[0]),
        "last": np.linalg.norm(values[-1]),
        "probe": (values * weights).sum() / np.sqrt(n * d),
    }
    nothing = 1e-5 * numbers["sd"]  # less is rounding, and would print digits that differ between processors
    return {"tokens": f"{n} x {d}"} | {
        name: float(f"{value:.4g}") if abs(value) > nothing else 0.0 for name, value in numbers.items()
    }


def same_fingerprint(mine: dict[str, Any], recorded: dict[str, Any]) -> bool:
    """Whether two fingerprints agree: the shape exactly, the numbers within `TOLERANCE`."""
    numbers = {name: value for name, value in recorded.items() if name != "tokens"}
    near = [abs(mine[n] - value) <= TOLERANCE * max(abs(value), recorded["sd"]) for n, value in numbers.items()]
    return mine["tokens"] == recorded["tokens"] and all(near)


@dataclass
class Report:
    """What was found in an encoder's file and what it computes; as text, lines for a terminal."""

    encoder: FrozenEncoder
    options: dict[str, str]  # that shaped its tokens: feature and preprocessing, or layer
    fingerprint: dict[str, Any]
    says: str = "random weights: fingerprint means nothing"  # how the fingerprint compares with the recorded one
    md5: str = ""  # of the file, and whether it is the published one, where one is published
    problems: list[str] = field(default_factory=list)  # empty if everything is as it should be
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Its name in `fingerprints.json`."""
        return " ".join([self.encoder.facts.name, *(f"{name}={value}" for name, value in sorted(self.options.items()))])

    def __str__(self) -> str:
        facts, weights, keys = self.encoder.facts, self.encoder.weights, self.encoder.keys
        options = ", ".join(f"{name} {value}" for name, value in self.options.items())
        lines = [("encoder", f"{facts.title} ({options})")]
        if weights:
            megabytes = weights.file.stat().st_size / 1e6
            lines += [("file", f"{weights.file.name}, {megabytes:.1f} MB"), ("SHA-256", weights.sha256)]
            lines += [("MD5", self.md5), ("wrapper", f'"{weights.wrapper}"' if weights.wrapper else "none")]
            lines += [("skipped", weights.skipped and f"{some(weights.skipped)} (beside the weights)")]
            lines += [("inert", weights.inert and f"{some(weights.inert)} (named in the file, not imported or run)")]
            lines += [("keys found", f"{len(keys.found)}; none of the encoder's is missing")]
            for kind in ("dropped", "unexpected"):
                names = getattr(keys, kind)
                lines.append((f"keys {kind}", names and f"{len(names)}: {some(names)}"))
            if not (keys.told or "as published" in self.md5 or self.says.startswith("as recorded")):
                kind = getattr(facts, "architecture", "BERT")
                what = f"the file cannot tell: any {kind} with these names loads; make sure it is of {facts.source}"
                lines.append(("whose", what))
        count, table = sum(p.numel() for p in self.encoder.parameters()), facts.parameters
        same = "as in the table" if count == table else f"the table counts {table:,} for the whole backbone"
        lines.append(("parameters", f"{count:,} ({same})"))
        if isinstance(facts, ImageFacts):
            rows, columns = self.encoder.grid
            lines.append(("tokens", f"{self.encoder.feature.what}; {rows} rows of {columns}"))
            lines.append(("input", str(self.encoder.preprocessing)))
        else:
            pieces = f"{'uncased' if facts.lowercase else 'cased'} word pieces, {facts.vocabulary:,} of them"
            lines.append(("input", f"{pieces}, at most {facts.longest} a text"))
        numbers = (f"{name} {value:.4g}" for name, value in self.fingerprint.items() if name != "tokens")
        lines.append(("fingerprint", ", ".join([self.fingerprint["tokens"], *numbers])))
        lines += [("", self.says), ("seconds", f"{self.seconds:.1f}")]
        lines += [("NOT RIGHT", problem) for problem in self.problems]
        return "\n".join(f"{name:<16}{value}" for name, value in lines if value)


def verify(
    name: str,
    path: str,
    feature: str | None = None,
    preprocessing: str | None = None,
    upsample: bool = True,
    layer: str | int = "last",
) -> Report:
    """Load an encoder from a file, a folder or "random" and report what was found in it and what it computes.

    Options are those of `load_image_encoder` and, `layer`, of `load_text_encoder`.
    """
    started = time.perf_counter()
    facts = known(IMAGE_ENCODERS | TEXT_ENCODERS, name, "encoder")
    if isinstance(facts, ImageFacts):
        from pkd_utils.encoders.image import load_image_encoder

        encoder = load_image_encoder(name, path, feature=feature, preprocessing=preprocessing, upsample=upsample)
        tokens = encoder.tokens(encoder.preprocess(fixed_image())[None])[0]
        options = {"feature": encoder.feature_name, "preprocessing": preprocessing or next(iter(facts.preprocessing))}
        options |= {} if upsample else {"upsample": "no"}
    elif feature or preprocessing or not upsample:
        raise DataError(f"{name} reads text: it has a layer, but no feature, preprocessing or upsampling.")
    else:
        from pkd_utils.encoders.text import load_text_encoder

        encoder, options = load_text_encoder(name, path, layer=layer), {"layer": str(layer)}
        if encoder.tokenizer is None:  # random weights have no vocabulary
            ids = torch.arange(1000, 1024)[None]
            tokens = encoder.encode(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        else:  # the sentences' tokens one after the other
            states, mask = encoder.tokens(list(SENTENCES))
            tokens = states[mask]
    report = Report(encoder, options, fingerprint(tokens))
    if encoder.weights is not None:
        _compare_md5(report)
        _compare_fingerprint(report)
    report.seconds = time.perf_counter() - started
    return report


def _compare_md5(report: Report) -> None:
    """Compare the file with the MD5 that its authors published, if they did."""
    file = report.encoder.weights.file
    published = report.encoder.facts.md5.get(file.name)
    if published:
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        report.md5 = f"{found}: {'as published' if found == published else 'differs from the published file'}"
        if found != published:
            report.problems.append(f"The file differs from the published {file.name} (MD5 {published}).")


def recorded_fingerprints() -> dict[str, Any]:
    """What `fingerprints.json` holds: `name option=value ...` to file, sha256 and fingerprint."""
    return files.read_json(RECORDED) if RECORDED.exists() else {}


def _compare_fingerprint(report: Report) -> None:
    """Compare with the recorded fingerprint; a disagreement is one of the report's problems."""
    recorded = recorded_fingerprints().get(report.key)
    same_file = recorded is not None and report.encoder.weights.sha256 == recorded["sha256"]
    if recorded is None:
        report.says = "none is recorded for these options: compare with a colleague's"
    elif same_fingerprint(report.fingerprint, recorded["fingerprint"]):
        report.says = "as recorded" if same_file else "as recorded, from another file"
    else:
        report.says = "differs from the recorded one"
        report.problems.append(
            f"The file is the recorded one, but its tokens are not: expected {recorded['fingerprint']}."
            if same_file
            else f"The tokens are not those of the recorded file {recorded['file']}."
        )


def record(report: Report) -> None:
    """Add a report's fingerprint to `fingerprints.json`; those of random weights are refused."""
    weights = report.encoder.weights
    if weights is None:
        raise DataError("Random weights are not recorded.")
    entry = {"file": weights.file.name, "sha256": weights.sha256, "fingerprint": report.fingerprint}
    files.write_json(RECORDED, dict(sorted((recorded_fingerprints() | {report.key: entry}).items())))
    report.says = f"recorded in {RECORDED.name}"
    report.problems = [text for text in report.problems if "tokens" not in text]
