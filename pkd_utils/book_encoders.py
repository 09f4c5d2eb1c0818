"""Tables of the book page "The encoders", from `pkd_utils.encoders.facts`, recorded fingerprints and the benchmark.

Each becomes a fragment `book/_generated/encoders-<name>.md` that `book/reports/the-encoders.md` includes.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils import runs
from pkd_utils.encoders.facts import IMAGE_ENCODERS, TEXT_ENCODERS, ImageFacts, TextFacts

FINGERPRINTS = Path(__file__).parent / "encoders" / "fingerprints.json"


def in_paper(facts: ImageFacts) -> bool:
    """Whether Bergström et al. use the encoder: they state its preprocessing."""
    return "paper" in facts.preprocessing


def link(source: str) -> str:
    """`host/path (command)` as a Markdown link and the command as code."""
    place, _, command = source.partition(" (")
    return f"[{place}](https://{place})" + (f": `{command.removesuffix(')')}`" if command else "")


def files(facts: ImageFacts | TextFacts) -> str:
    """File names as code; what stands for a folder in words."""
    return ", ".join("Hugging Face folder" if file == "folder" else f"`{file}`" for file in facts.files)


def millions(count: int) -> str:
    """Parameters as people write them; 0 stands for a count that nobody has made."""
    return f"{count / 1e6:.1f} M" if count else "not counted"


def yes(value: bool | None) -> str:
    """A tick of the paper's tables as a word."""
    return {True: "yes", False: "no", None: "not stated"}[value]


def facts_table() -> pd.DataFrame:
    """One row an image encoder: what it is and what it gives by default."""
    rows = []
    for facts in IMAGE_ENCODERS.values():
        feature = next(iter(facts.features.values()))
        height, width = feature.grid
        rows.append({
            "encoder": f"{facts.title} {{cite}}`{facts.cite}`",
            "in code": f"`{facts.name}`",
            "architecture": facts.architecture,
            "input, px": next(iter(facts.preprocessing.values())).crop,
            "grid": f"{height} x {width}",
            "tokens": f"{height * width} x {feature.width}",
            "class token": yes(facts.class_token),
            "parameters": millions(facts.parameters),
            "in the paper": yes(in_paper(facts)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def text_table() -> pd.DataFrame:
    """One row a text encoder."""
    return pd.DataFrame([{
        "encoder": f"{facts.title} {{cite}}`{facts.cite}`",
        "in code": f"`{facts.name}`",
        "layers": facts.layers,
        "width": facts.width,
        "longest text, tokens": facts.longest,
        "vocabulary": f"{facts.vocabulary:,}, {'uncased' if facts.lowercase else 'cased'}",
        "parameters": millions(facts.parameters),
        "has read": facts.seen,
    } for facts in TEXT_ENCODERS.values()])  # fmt: skip


def pretraining_table() -> pd.DataFrame:
    """Tables 1 and 8 of Bergström et al. in one, ticks as words."""
    return pd.DataFrame([{
        "encoder": facts.title,
        "objective": facts.pretraining.objective,
        "image self-supervision": yes(facts.pretraining.image_ssl),
        "reports or captions": "yes, aligned" if facts.pretraining.aligned else yes(facts.pretraining.text),
        "MIMIC-CXR": yes(facts.pretraining.mimic),
        "CheXpert": yes(facts.pretraining.chexpert),
        "NIH": yes(facts.pretraining.nih),
        "other": yes(facts.pretraining.other),
    } for facts in IMAGE_ENCODERS.values() if in_paper(facts)])  # fmt: skip


def preprocessing_table() -> pd.DataFrame:
    """Preprocessing of every image encoder, the paper's and its authors'."""
    return pd.DataFrame([{
        "encoder": facts.title,
        "the paper's": str(facts.preprocessing.get("paper", "not in the paper")),
        "native": str(facts.preprocessing["native"]) if "native" in facts.preprocessing else "the same",
    } for facts in IMAGE_ENCODERS.values()])  # fmt: skip


def features_table() -> pd.DataFrame:
    """Where tokens can be read; the first of each encoder is the default."""
    return pd.DataFrame([{
        "encoder": facts.title,
        "feature": f"`{name}`" + (" (default)" if position == 0 else ""),
        "grid": f"{feature.grid[0]} x {feature.grid[1]}",
        "width": feature.width,
        "what it is": feature.what,
    } for facts in IMAGE_ENCODERS.values()
      for position, (name, feature) in enumerate(facts.features.items())])  # fmt: skip


def files_table() -> pd.DataFrame:
    """File names, where they come from, licences and what else is to know."""
    return pd.DataFrame([{
        "encoder": facts.title,
        "file": files(facts),
        "from": link(facts.source),
        "licence": facts.licence,
        "note": facts.notes or "–",
    } for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values())])  # fmt: skip


def fingerprint_table(recorded: dict[str, Any]) -> pd.DataFrame:
    """Recorded fingerprints; `recorded` as in `pkd_utils/encoders/fingerprints.json`."""
    rows = []
    for key, entry in recorded.items():
        name, *options = key.split(" ")
        numbers = {what: value if what == "tokens" else f"{value:.4g}" for what, value in entry["fingerprint"].items()}
        row = {"encoder": f"`{name}`", "options": ", ".join(option.replace("=", " ") for option in options)}
        rows.append(row | {"SHA-256 begins": f"`{entry['sha256'][:12]}`"} | numbers)
    return pd.DataFrame(rows)


def speed_fragment(file: Path) -> str:
    """The benchmark's tables as Markdown, or one sentence that none is stored."""
    from pkd_utils.book_pages import cell, markdown_table

    if not file.exists():
        return "*No measurement is stored in this copy of the repository. `make bench` makes one.*"
    report = runs.read_json(file)
    machine = report["machine"]
    parts = [f"Measured on: {machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}."]
    captions = {
        "rows": "Image encoders on the processor",
        "text_rows": "Text encoders on the processor",
        "preprocessing": "Preprocessing, one image on one core",
        "gpu": "On the GPU, bf16",
    }
    for name, caption in captions.items():
        if report.get(name):
            parts += [f"**{caption}**", markdown_table(pd.DataFrame(report[name]))]
    if machine.get("peak"):
        peaks = ", ".join(f"{cell(row['gflop_per_s'])} GFLOP/s in {row['precision']}" for row in machine["peak"])
        parts.append(f"Matrix peak, measured with a large product on the same threads: {peaks}.")
    return "\n\n".join(parts)


def fragments(results: Path) -> dict[str, str]:
    """Every fragment of the page, by file name without suffix.

    Parameters
    ----------
    results : Path
        The folder `book/results/`.
    """
    from pkd_utils.book_pages import markdown_table

    recorded = runs.read_json(FINGERPRINTS) if FINGERPRINTS.exists() else {}
    tables = {
        "facts": facts_table(),
        "text": text_table(),
        "pretraining": pretraining_table(),
        "preprocessing": preprocessing_table(),
        "features": features_table(),
        "files": files_table(),
    }
    pages = {f"encoders-{name}": markdown_table(table) for name, table in tables.items()}
    pages["encoders-fingerprints"] = (
        markdown_table(fingerprint_table(recorded)) if recorded else "*No fingerprint is recorded.*"
    )
    pages["encoders-speed"] = speed_fragment(results / "benchmark-encoders.json")
    return pages
