"""Is this file the encoder it should be? Keys, hash, parameters, preprocessing, and a fingerprint of its tokens.

The fingerprint is a handful of statistics of the tokens of one fixed input: an image made from a formula, or two fixed
sentences. The same weights give the same numbers on another processor to about four digits; other weights, another
layer or another preprocessing give others. `fingerprints.json` keeps those of encoders that were computed here from
real weights.
"""

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

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
    if mine["tokens"] != recorded["tokens"]:
        return False
    numbers = [name for name in recorded if name != "tokens"]
    return all(abs(mine[n] - recorded[n]) <= TOLERANCE * max(abs(recorded[n]), recorded["sd"]) for n in numbers)


def _md5(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _image_tokens(name: str, path: str, feature: str | None, preprocessing: str | None, upsample: bool):
    """Encoder, its tokens (N, D) for the fixed image, and the options that shaped them."""
    from pkd_utils.encoders.image import load_image_encoder

    encoder = load_image_encoder(name, path, feature=feature, preprocessing=preprocessing, upsample=upsample)
    tokens = encoder.tokens(encoder.preprocess(fixed_image())[None])[0]
    facts = encoder.facts
    options = {
        "feature": feature or next(iter(facts.features)),
        "preprocessing": preprocessing or next(iter(facts.preprocessing)),
    }
    return encoder, tokens, options if upsample else options | {"upsample": "no"}


def _text_tokens(name: str, path: str, layer: str | int):
    """Encoder, its tokens (N, D) for the two sentences one after the other, and the options that shaped them."""
    from pkd_utils.encoders.text import load_text_encoder

    encoder = load_text_encoder(name, path, layer=layer)
    if encoder.tokenizer is None:  # random weights have no vocabulary
        ids = torch.arange(1000, 1024)[None]
        return encoder, encoder.encode(ids, torch.ones_like(ids, dtype=torch.bool))[0], {"layer": str(layer)}
    tokens, mask = encoder.tokens(list(SENTENCES))
    return encoder, tokens[mask], {"layer": str(layer)}


def verify(
    name: str,
    path: str,
    feature: str | None = None,
    preprocessing: str | None = None,
    upsample: bool = True,
    layer: str | int = "last",
) -> dict[str, Any]:
    """Load an encoder from a file and report what was found in it and what it computes.

    Parameters
    ----------
    name : str
        A name of `IMAGE_ENCODERS` or `TEXT_ENCODERS`.
    path : str
        File or folder as downloaded; "random" runs without weights.
    feature, preprocessing, upsample : as in `load_image_encoder`
    layer : as in `load_text_encoder`

    Returns
    -------
    dict
        As `report_text` shows it; `problems` (list of str) is empty if everything is as it should be.
    """
    started = time.perf_counter()
    facts = known(IMAGE_ENCODERS | TEXT_ENCODERS, name, "encoder")
    if isinstance(facts, ImageFacts):
        encoder, tokens, options = _image_tokens(name, path, feature, preprocessing, upsample)
    elif feature or preprocessing or not upsample:
        raise DataError(f"{name} reads text: it has a layer, but no feature, preprocessing or upsampling.")
    else:
        encoder, tokens, options = _text_tokens(name, path, layer)
    report: dict[str, Any] = {
        "name": name,
        "title": facts.title,
        "options": options,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "parameters_in_table": facts.parameters,
        "fingerprint": fingerprint(tokens),
        "problems": [],
    }
    if isinstance(facts, ImageFacts):
        report |= {
            "feature": encoder.feature.what,
            "grid": list(encoder.grid),
            "preprocessing": str(encoder.preprocessing),
        }
    else:
        words = "uncased" if facts.lowercase else "cased"
        report |= {
            "preprocessing": f"{words} word pieces, {facts.vocabulary:,} of them, at most {facts.longest} a text"
        }
    if encoder.weights is None:
        report["fingerprint_says"] = "random weights: fingerprint means nothing"
    else:
        report |= _file_report(facts, encoder)
        report["fingerprint_says"] = _recorded_says(report)
    report["seconds"] = round(time.perf_counter() - started, 1)
    return report


def _file_report(facts, encoder) -> dict[str, Any]:
    """What was in the file: hashes, wrapper, keys."""
    weights, keys = encoder.weights, encoder.keys
    report = {
        "file": weights.file.name,
        "megabytes": round(weights.file.stat().st_size / 1e6, 1),
        "sha256": weights.sha256,
        "wrapper": weights.wrapper,
        "skipped": list(weights.skipped),
        "inert": list(weights.inert),
        "keys": {kind: list(getattr(keys, kind)) for kind in ("found", "dropped", "unexpected")},
        "problems": [],
    }
    published = getattr(facts, "md5", {}).get(weights.file.name)
    if published:
        report["md5"] = _md5(weights.file)
        report["md5_says"] = "as published" if report["md5"] == published else "differs from the published file"
        if report["md5"] != published:
            report["problems"].append(f"The file differs from the published {weights.file.name} (MD5 {published}).")
    return report


def _key(report: dict[str, Any]) -> str:
    return " ".join([report["name"], *(f"{name}={value}" for name, value in sorted(report["options"].items()))])


def recorded_fingerprints() -> dict[str, Any]:
    """What `fingerprints.json` holds: `name option=value ...` to file, sha256 and fingerprint."""
    return files.read_json(RECORDED) if RECORDED.exists() else {}


def _recorded_says(report: dict[str, Any]) -> str:
    """Compare with the recorded fingerprint; a disagreement becomes one of the report's problems."""
    recorded = recorded_fingerprints().get(_key(report))
    if recorded is None:
        return "none is recorded for these options: compare with a colleague's"
    if same_fingerprint(report["fingerprint"], recorded["fingerprint"]):
        return "as recorded" + ("" if report["sha256"] == recorded["sha256"] else ", from another file")
    if report["sha256"] == recorded["sha256"]:
        report["problems"].append(
            f"The file is the recorded one, but its tokens are not: expected {recorded['fingerprint']}."
        )
    else:
        report["problems"].append(f"The tokens are not those of the recorded file {recorded['file']}.")
    return "differs from the recorded one"


def record(report: dict[str, Any]) -> None:
    """Add a report's fingerprint to `fingerprints.json`; those of random weights are refused."""
    if "sha256" not in report:
        raise DataError("Random weights are not recorded.")
    entry = {name: report[name] for name in ("file", "sha256", "fingerprint")}
    files.write_json(RECORDED, dict(sorted((recorded_fingerprints() | {_key(report): entry}).items())))
    report["fingerprint_says"] = f"recorded in {RECORDED.name}"
    report["problems"] = [text for text in report["problems"] if "tokens" not in text]


def report_text(report: dict[str, Any]) -> str:
    """A report as lines for a terminal."""
    options = ", ".join(f"{name} {value}" for name, value in report["options"].items())
    lines = [("encoder", f"{report['title']} ({options})")]
    if "sha256" in report:
        keys = report["keys"]
        lines += [("file", f"{report['file']}, {report['megabytes']} MB"), ("SHA-256", report["sha256"])]
        if "md5" in report:
            lines.append(("MD5", f"{report['md5']}: {report['md5_says']}"))
        lines.append(("wrapper", f'"{report["wrapper"]}"' if report["wrapper"] else "none"))
        if report["skipped"]:
            lines.append(("skipped", f"{some(report['skipped'])} (beside the weights)"))
        if report["inert"]:
            lines.append(("inert", f"{some(report['inert'])} (named in the file, not imported or run)"))
        lines.append(("keys found", f"{len(keys['found'])}; none of the encoder's is missing"))
        lines += [(f"keys {kind}", f"{len(keys[kind])}: {some(keys[kind])}") for kind in ("dropped", "unexpected")
                  if keys[kind]]  # fmt: skip
    table = report["parameters_in_table"]
    same = "as in the table" if report["parameters"] == table else f"the table counts {table:,} for the whole backbone"
    lines.append(("parameters", f"{report['parameters']:,} ({same})"))
    if "feature" in report:
        rows, columns = report["grid"]
        lines.append(("tokens", f"{report['feature']}; {rows} rows of {columns}"))
    lines.append(("input", report["preprocessing"]))
    numbers = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else str(value)
        for name, value in report["fingerprint"].items()
    )
    lines += [("fingerprint", numbers), ("", report["fingerprint_says"]), ("seconds", str(report["seconds"]))]
    lines += [("NOT RIGHT", problem) for problem in report["problems"]]
    return "\n".join(f"{name:<16}{value}" for name, value in lines)
