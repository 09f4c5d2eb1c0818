"""The page of benchmarks: bars of ratios, the machine named, tables and settings folded."""

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from pkd_utils.runs.files import read_json
from pkd_utils.studies import figures
from workflow.publish.pages.markdown import cell, drawing, folded, folded_facts, heading, markdown_table

RATIOS = ("ratio", "faster_than_usual")
NAMING = ("encoder", "student", "what", "ours", "precision", "batch", "reference", "usual_way")
"""Columns that name a row, in the order of a bar's label."""
PEAK = "the largest product of two matrices, operations per second"
LIMITS = (
    ("images decoded, resized, hashed, packed", "packing", "packing against libjpeg, reduced, 1 process", "",
     "ratio", "libjpeg's decoding, at the size that is asked for"),
    ("networks of image encoders", "encoders", "", "fp32", "share_of_peak", PEAK),
    ("networks of image encoders", "encoders", "", "bf16", "share_of_peak", PEAK),
    ("images encoded to stored tokens", "tokens", "encoding against bare encoder", "", "ratio",
     "the network alone, its input ready: the rest is decoding"),
    ("stored tokens read", "tokens", "reading tokens against plain copy", "", "ratio",
     "a copy of as many bytes that lie one after the other"),
    ("heads", "heads", "", "fp32", "fraction_of_gemm_peak", PEAK),
    ("heads", "heads", "", "bf16", "fraction_of_gemm_peak", PEAK),
    ("students", "training", "student training against limit, fp32", "fp32", "ratio",
     "steps of the same network on inputs that lie in memory"),
    ("students", "training", "student training against limit, bf16", "bf16", "ratio", "likewise"),
    ("CT to radiograph", "drr", "ours", "", "cpu_ratio", "plastimatch alone, in processor seconds"),
)  # fmt: skip
"""Step, benchmark, how its rows' `what` begins, their precision, the column of the share, and what the limit is."""


def labelled(rows: list[dict[str, Any]]) -> pd.Series:
    """Ratios of a benchmark's rows by their label; rows without a ratio are left out."""
    column = next((name for name in RATIOS if any(row.get(name) for row in rows)), None)
    found = {}
    for row in rows if column else []:
        if row.get(column):
            words = [f"{'batch ' if name == 'batch' else ''}{row[name]}" for name in NAMING if row.get(name)]
            found[", ".join(words)] = float(row[column])
    return pd.Series(found, dtype=float)


def bars(ratios: pd.Series) -> plt.Figure:
    """A bar a ratio from 1, on a logarithmic axis, with its number."""
    labels = [fill(label, 60) for label in ratios.index]
    lines = 1 + max(label.count("\n") for label in labels)
    height = 0.12 * (1 + lines) * len(labels) + 0.7
    figure, ax = plt.subplots(figsize=(8.6, height), layout="constrained")
    y = range(len(ratios))
    colours = [figures.OKABE_ITO["blue" if ratio >= 1 else "orange"] for ratio in ratios]
    ax.barh(y, ratios - 1, left=1, color=colours, height=0.7)
    for place, ratio in zip(y, ratios, strict=True):
        side = "left" if ratio >= 1 else "right"
        ax.annotate(f"{ratio:.2f}", (ratio, place), (3 if ratio >= 1 else -3, 0), textcoords="offset points",
                    ha=side, va="center", fontsize=8.5)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(min(0.5, ratios.min() / 1.6), max(2.0, ratios.max() * 1.6))
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_yticks(y, labels, fontsize=8.5)
    ax.set_ylim(len(ratios) - 0.4, -0.6)
    ax.axvline(1, color="0.3", linewidth=1)
    ax.set_xlabel("times as fast as the reference")
    return figure


def seconds(rows: list[dict[str, Any]]) -> plt.Figure:
    """A bar a notebook: processor minutes of all its runs, and how many these are."""
    took = pd.DataFrame(rows).groupby("notebook")["cpu_seconds"].agg(["sum", "size"])
    took = took.sort_values("sum", ascending=False)
    figure, ax = plt.subplots(figsize=(8.6, 0.24 * len(took) + 0.7), layout="constrained")
    bars = ax.barh(range(len(took)), took["sum"] / 60, color=figures.OKABE_ITO["blue"], height=0.7)
    told = [f"{total / 60:.1f}" + (f" in {n:.0f} runs" if n > 1 else "") for total, n in took.to_numpy().tolist()]
    ax.bar_label(bars, told, padding=3, fontsize=8.5)
    ax.set_yticks(range(len(took)), took.index, fontsize=8.5)
    ax.set_ylim(len(took) - 0.4, -0.6)
    ax.margins(x=0.25)
    ax.set_xlabel("minutes of one core")
    return figure


def limits(reports: dict[str, dict[str, Any]]) -> str:
    """How near each step comes to what the machine allows, of stored benchmarks by name."""
    found = []
    for step, name, begins, precision, column, limit in LIMITS:
        rows = [row for row in reports.get(name, {}).get("rows", []) if str(row.get("what", "")).startswith(begins)]
        own = {"encoders": "precision", "heads": "ours"}.get(name)  # others say it in `what`
        shares = [row[column] for row in rows if column in row and row.get(own, precision) == precision]
        if shares:
            low, high = min(shares), max(shares)
            told = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
            found.append((step, precision, told, limit))
    if not found:
        return ""
    table = pd.DataFrame(found, columns=["step", "precision", "share of the limit", "the limit"])
    text = (
        "What a machine allows, measured there in the same run, and how near we come to it: 1 is at the limit, which a "
        "convolution may pass by a little where it is a product of matrices. Where several networks, shapes or numbers "
        "of workers were measured, the lowest and the highest."
    )
    return f"## How near the limit\n\n{text}\n\n{markdown_table(table)}"


def machine(report: dict[str, Any]) -> str:
    """The machine in words, without nested values."""
    told = {name: value for name, value in report.get("machine", {}).items() if not isinstance(value, dict | list)}
    lead = str(told.pop("gpu", None) or told.get("cpu", "a machine that is not named"))
    rest = [f"{heading(name)} {cell(value)}" for name, value in told.items() if name not in ("cpu", "peak_note")]
    return f"Measured on {lead}; {', '.join(rest)}." if rest else f"Measured on {lead}."


def section(file: Path, generated: Path) -> str:
    """One benchmark: its machine, its bars, and its rows and settings folded."""
    report = read_json(file)
    title = report.get("title") or str(report["name"]).replace("_", " ").replace("-", " ").capitalize()
    parts = [f"## {title}", str(report.get("text") or ""), machine(report)]
    lists = {n: rows for n, rows in report.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)}
    for name, rows in lists.items():
        if len(ratios := labelled(rows)):
            alt = f"{title}: bars of the speed over that of the reference, a bar a row of the table below."
            parts.append(drawing(bars(ratios), generated / f"{file.stem}-{name}-bars.png", alt))
        if {"notebook", "cpu_seconds"} <= rows[0].keys():
            alt = f"{title}: bars of processor minutes, a bar a notebook, the longest first."
            parts.append(drawing(seconds(rows), generated / f"{file.stem}-{name}-minutes-bars.png", alt))
    for name, rows in lists.items():
        table = pd.DataFrame(rows)
        table = table[[column for column in table if not table[column].map(lambda v: isinstance(v, dict | list)).any()]]
        parts.append(folded(f"{heading(name).capitalize()} ({len(table)})", markdown_table(table)))
    plain = {heading(k): v for k, v in report.get("settings", {}).items() if not isinstance(v, dict)}
    told = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in plain.items()}
    parts.append(folded_facts("Settings", told) if told else "")
    return "\n\n".join(part for part in parts if part)


def on_gpus(files: list[Path]) -> str:
    """On which GPUs this was measured, of the `gpu` of a benchmark's machine; without one, that it was not."""
    names = dict.fromkeys(read_json(file).get("machine", {}).get("gpu") for file in files)
    told = ", ".join(name for name in names if name)
    if told:
        return f"On a GPU ({told}) the benchmarks that name one were measured."
    return (
        "**Not yet run on a GPU.** Code and tests choose the device by one parameter, and every line that a GPU would "
        "take has run on a CPU or without data; how fast, and whether to the last digit, nobody has seen."
    )


def page(files: list[Path], generated: Path) -> str:
    """The page, or a sentence that nothing was measured."""
    figures.use_style()
    lead = (
        "What is fast here, against what, measured by `make bench`. A bar to the right of 1 is faster than the "
        "reference. Ratios are of one run on one machine, no promise for another."
    )
    none = "*No measurement is stored in this copy of the repository. `make bench` makes one.*"
    near = limits({(report := read_json(file))["name"]: report for file in files})
    sections = [section(file, generated) for file in files] or [none]
    return "\n\n".join(part for part in ["# Benchmarks", lead, on_gpus(files), near, *sections] if part)
