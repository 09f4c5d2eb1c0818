"""Tables of the book page "The encoders", from the tables of facts, recorded fingerprints and the benchmark.

Each becomes a fragment `book/_generated/encoders-<name>.md` that `book/reports/the-encoders.md` includes.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_utils.encoders.facts import ImageFacts, TextFacts
from pkd_utils.encoders.zoo import IMAGE_ENCODERS, TEXT_ENCODERS
from pkd_utils.runs import paths
from pkd_utils.runs.files import read_json
from workflow.publish.pages.markdown import bullets, markdown_table

FINGERPRINTS = paths.PROJECT_ROOT / "pkd_utils" / "encoders" / "fingerprints.json"


def in_paper(facts: ImageFacts) -> bool:
    """Whether Bergström et al. use the encoder: they state its preprocessing."""
    return "paper" in facts.preprocessing


def link(title: str, source: str) -> str:
    """A title that links to `host/path (command)`, or the title alone if the source is no address."""
    place = source.partition(" (")[0]
    return f"[{title}](https://{place})" if "." in place.split("/")[0] and " " not in place else title


def files(facts: ImageFacts | TextFacts) -> str:
    """File names as code; what stands for a folder in words."""
    return ", ".join("Hugging Face folder" if file == "folder" else f"`{file}`" for file in facts.files)


def millions(count: int) -> str:
    """Parameters as people write them; 0 stands for a count that nobody has made."""
    return f"{count / 1e6:.1f}\u00a0M" if count else "not counted"


def yes(value: bool | None) -> str:
    """A tick of the paper's tables as a word."""
    return {True: "yes", False: "no", None: "not stated"}[value]


def times(*counts: int) -> str:
    """Sizes as `14 × 14`, in one piece."""
    return "\u00a0×\u00a0".join(str(count) for count in counts)


def facts_table() -> pd.DataFrame:
    """One row an image encoder: what it is and what it gives by default."""
    rows = []
    for facts in IMAGE_ENCODERS.values():
        feature = next(iter(facts.features.values()))
        rows.append({
            "encoder": f"{facts.title}{'' if in_paper(facts) else ', not in the paper'} {{cite}}`{facts.cite}`",
            "in code": f"`{facts.name}`",
            "architecture": facts.architecture,
            "input, px": next(iter(facts.preprocessing.values())).crop,
            "tokens": times(feature.grid[0] * feature.grid[1], feature.width),
            "class token": yes(facts.class_token),
            "size": millions(facts.parameters),
        })  # fmt: skip
    return pd.DataFrame(rows)


def text_table() -> pd.DataFrame:
    """One row a text encoder."""
    return pd.DataFrame([{
        "encoder": f"{facts.title} {{cite}}`{facts.cite}`",
        "in code": f"`{facts.name}`",
        "layers": facts.layers,
        "width": facts.width,
        "longest text": facts.longest,
        "vocabulary": f"{facts.vocabulary:,}, {'uncased' if facts.lowercase else 'cased'}",
        "size": millions(facts.parameters),
    } for facts in TEXT_ENCODERS.values()])  # fmt: skip


def texts_read() -> str:
    """What each text encoder has read, as a list."""
    return bullets(f"**{facts.title}** has read: {facts.seen}." for facts in TEXT_ENCODERS.values())


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
        "native": str(facts.preprocessing["native"]) if "native" in facts.preprocessing else facts.native,
    } for facts in IMAGE_ENCODERS.values()])  # fmt: skip


def features_table() -> pd.DataFrame:
    """Where tokens can be read; the first of each encoder is the default."""
    return pd.DataFrame([{
        "encoder": facts.title,
        "feature": f"`{name}`" + (" (default)" if position == 0 else ""),
        "grid": times(*feature.grid),
        "width": feature.width,
        "what it is": feature.what,
    } for facts in IMAGE_ENCODERS.values()
      for position, (name, feature) in enumerate(facts.features.items())])  # fmt: skip


def files_table() -> pd.DataFrame:
    """File names, where they come from, licences."""
    return pd.DataFrame([{
        "encoder": link(facts.title, facts.source),
        "file": files(facts),
        "licence": facts.licence,
    } for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values())])  # fmt: skip


def notes() -> str:
    """What else is to know of single encoders, as a list; a sentence that several share stands once."""
    titles: dict[str, list[str]] = {}
    for facts in (*IMAGE_ENCODERS.values(), *TEXT_ENCODERS.values()):
        if facts.notes:
            titles.setdefault(facts.notes, []).append(facts.title)
    return bullets(f"**{', '.join(names)}**: {note}" for note, names in titles.items())


def fingerprint_table(recorded: dict[str, Any]) -> pd.DataFrame:
    """Recorded fingerprints; `recorded` as in `pkd_utils/encoders/fingerprints.json`."""
    rows = []
    for key, entry in recorded.items():
        name, *options = key.split(" ")
        tokens = times(*map(int, entry["fingerprint"]["tokens"].split(" x ")))
        numbers = {what: f"{value:.4g}" for what, value in entry["fingerprint"].items() if what != "tokens"}
        row = {"encoder": f"`{name}`", "read at": ", ".join(option.split("=")[1] for option in options)}
        rows.append(row | {"SHA-256 begins": f"`{entry['sha256'][:8]}`", "tokens": tokens} | numbers)
    return pd.DataFrame(rows)


SPEED = {
    "rows": ("Image encoders on the processor", ["encoder", "precision", "batch", "tokens_per_s", "images_per_s",
                                                 "reference", "ratio", "share_of_peak"]),
    "text_rows": ("Text encoders on the processor", ["encoder", "precision", "batch", "tokens_per_s", "texts_per_s",
                                                     "ratio"]),
    "preprocessing": ("Preprocessing on one core", ["encoder", "ms_per_image"]),
    "gpu": ("On the GPU, bf16", ["encoder", "input", "batch", "images_per_s", "share_of_peak"]),
}  # fmt: skip
"""Lists of the benchmark's JSON that the page shows: caption and columns."""


def _figure(column: str, value: Any) -> Any:
    """Shares as per cent, ratios to three decimals, speeds to three digits."""
    if not isinstance(value, float):
        return value
    if column.startswith("share"):
        return f"{value:.0%}"
    return f"{value:.3f}" if column == "ratio" else f"{float(f'{value:.3g}'):,.10g}"


def speed_fragment(file: Path) -> str:
    """The benchmark's tables as Markdown, or one sentence that none is stored."""
    if not file.exists():
        return "*No measurement is stored in this copy of the repository. `make bench` makes one.*"
    report = read_json(file)
    machine = report["machine"]
    threads = f"{machine['threads']} thread{'s'[: machine['threads'] != 1]}"
    parts = [f"Measured on: {machine.get('gpu') or machine['cpu']}, {threads}, torch {machine['torch']}."]
    for name, (caption, columns) in SPEED.items():
        if report.get(name):
            rows = [{column: _figure(column, row[column]) for column in columns} for row in report[name]]
            parts += [f"**{caption}**", markdown_table(pd.DataFrame(rows))]
    peaks = [f"{_figure('', row['gflop_per_s'])} GFLOP/s in {row['precision']}" for row in machine["peak"]]
    parts.append(f"Matrix peak, measured with one large product on the same threads: {', '.join(peaks)}.")
    return "\n\n".join(parts)


def fragments(results: Path) -> dict[str, str]:
    """Every fragment of the page, by file name without suffix; `results` is the folder `book/results`."""
    tables = {
        "facts": facts_table(),
        "text": text_table(),
        "pretraining": pretraining_table(),
        "preprocessing": preprocessing_table(),
        "features": features_table(),
        "files": files_table(),
        "fingerprints": fingerprint_table(read_json(FINGERPRINTS)),
    }
    pages = {f"encoders-{name}": markdown_table(table) for name, table in tables.items()}
    pages["encoders-text"] += f"\n\n{texts_read()}"
    pages["encoders-files"] += f"\n\n{notes()}"
    pages["encoders-speed"] = speed_fragment(results / "benchmark-encoders.json")
    return pages
